//! `/zookeeper/config`: who the servers are, as ZooKeeper's clients read it (rule W6).
//!
//! The form is that of ZooKeeper's `QuorumVerifier.toString`: a line for each server, then the version.

use quorate_model::acl::{Identity, permission};
use quorate_model::outcome::{Outcome, Refusal, ZnodeOutcome};
use quorate_model::path::ZnodePath;

use crate::operations::znode::{Proved, set_data};
use crate::view::View;

/// Says who the members are, unless that is known already. Whoever led before may be late with an older version.
pub(crate) fn set(view: &mut View, members: &str, version: u64) -> Result<Outcome, Refusal> {
    let path = ZnodePath::configuration();
    let node = view
        .node(&path)
        .ok_or_else(|| Refusal::NoNode(path.clone()))?;
    let text = format!("{members}\nversion={version:x}");
    if node.data == text.as_bytes() {
        return Ok(Outcome::Znode(ZnodeOutcome::Set(node.stat)));
    }
    if let Some(known) = configuration_version(&node.data).filter(|known| *known > version) {
        return Err(Refusal::BadArguments(format!(
            "{path} is at version {known:x} already, and not to be set to {version:x}"
        )));
    }
    set_data(view, &path, &node.stat, text.into());
    let stat = view.node(&path).map(|node| node.stat);
    let stat = stat.ok_or(Refusal::NoNode(path))?;
    Ok(Outcome::Znode(ZnodeOutcome::Set(stat)))
}

/// Whoever changes the servers needs WRITE on the znode, as in ZooKeeper: nobody has it but the super user, unless that
/// one gives it to others.
pub(crate) fn expect_may_change(view: &View, identities: &[Identity]) -> Result<(), Refusal> {
    let path = ZnodePath::configuration();
    view.stat_for(&path, permission::WRITE, &Proved::new(identities))
        .map(drop)
}

/// The version in the data of `/zookeeper/config`; none before they were first set.
pub fn configuration_version(data: &[u8]) -> Option<u64> {
    let last = std::str::from_utf8(data).ok()?.lines().last()?;
    u64::from_str_radix(last.strip_prefix("version=")?, 16).ok()
}
