//! Mounts: bind a recipe to a znode, change how, swap its component, suspend it, unbind it.

use std::sync::Arc;

use bytes::Bytes;
use quorate_model::acl::{Acl, Identity};
use quorate_model::bound::{Bound, MountBounds};
use quorate_model::id::{CallId, SessionId, Zxid};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Mount, MountSettings, RecipeDigest, RecipeVersion, Upgrade};
use quorate_model::write_set::Change;
use quorate_model::znode::Lifetime;

use crate::apply::Records;
use crate::operations::recipe::{forget_unused, no_version};
use crate::operations::standing;
use crate::operations::znode::{create_node, set_data};
use crate::state::IndexKey;
use crate::view::View;

/// How many entries a mount's list of callers may have.
const MAX_CALLERS: usize = 100;

/// How many bytes each of them may have.
const MAX_CALLER_BYTES: usize = 256;

/// How many characters of a reason are kept with a suspended mount.
const MAX_REASON_CHARACTERS: usize = 1_000;

/// What a mount is asked to be.
pub(crate) struct MountRequest<'a> {
    pub(crate) path: &'a ZnodePath,
    pub(crate) recipe: &'a str,
    pub(crate) digest: Option<RecipeDigest>,
    pub(crate) settings: &'a MountSettings,
    pub(crate) upgrade: bool,
}

/// Mounts a recipe, or goes on with one that is mounted. With another component the calls that are parked follow, in
/// steps of their own (rule S6).
pub(crate) fn mount(view: &mut View, request: &MountRequest<'_>) -> Result<Outcome, Refusal> {
    let path = request.path;
    let (before, version) = target(view, request)?;
    for path in path.upwards().collect::<Vec<_>>().into_iter().rev() {
        match view.stat(&path) {
            Some(stat) if !stat.lifetime.allows_children() => {
                return Err(Refusal::NoChildrenForEphemerals(path));
            }
            Some(_) => {}
            None => create_node(view, &path, Bytes::new(), Acl::open(), Lifetime::Persistent),
        }
    }
    let replaced = before.as_ref().map(|before| before.digest);
    let shadow = before.as_ref().and_then(|before| before.shadow);
    let mut mount = before.unwrap_or_else(|| Mount {
        path: path.clone(),
        recipe: String::new(),
        digest: version.digest,
        exports: version.exports,
        shadow: None,
        mounted: view.moment().zxid,
        // Never from the start again: tickets of an earlier mount may still be in the tree.
        next_sequence: view.sequence_floor(),
        sealed: true,
        bounds: MountBounds::default(),
        callers: Arc::new(vec![Identity::anyone()]),
        failures: 0,
        suspended: None,
        upgrade: None,
        unmounting: None,
    });
    mount.recipe = request.recipe.to_owned();
    mount.digest = version.digest;
    mount.exports = version.exports;
    if replaced.is_some_and(|replaced| replaced != version.digest) {
        // Whatever came before of another upgrade, all of them follow this one.
        mount.upgrade = any_parked(view, &mount).then(|| Upgrade {
            swapped: view.moment().zxid,
            behind: Some(LEAST_MARK),
            followed_calls: 0,
            ended_calls: 0,
        });
    }
    // An upgrade to the shadow ends the comparison.
    mount.shadow = mount.shadow.filter(|shadow| *shadow != mount.digest);
    settle(view, &mut mount, request.settings)?;
    view.change(Change::PutMount(mount.clone()));
    if replaced != Some(version.digest) {
        standing::begin(view, &mount);
    }
    for digest in replaced.into_iter().chain(shadow) {
        forget_unused(view, digest);
    }
    let following = mount.upgrade.filter(|upgrade| upgrade.behind.is_some());
    Ok(Outcome::Mounted {
        digest: version.digest,
        following: following.map(|upgrade| upgrade.swapped),
    })
}

/// The mount that is there, and the component that is to be; refused where that cannot be.
pub(crate) fn target(
    view: &View,
    request: &MountRequest<'_>,
) -> Result<(Option<Mount>, RecipeVersion), Refusal> {
    let version = version_of(view, request.recipe, request.digest)?;
    let before = expect_free(view, request.path)?;
    match &before {
        None if request.upgrade => Err(Refusal::NotMounted(request.path.clone())),
        Some(mount) if mount.digest != version.digest && !request.upgrade => {
            Err(Refusal::BadArguments(format!(
                "recipe {} is mounted at {} already, as {}: upgrade it (`quorate mount --upgrade`), or unmount it first",
                mount.recipe,
                mount.path,
                mount.digest.short()
            )))
        }
        _ => Ok((before, version)),
    }
}

/// The mount that is there already; mounts do not nest (rule C7).
fn expect_free(view: &View, path: &ZnodePath) -> Result<Option<Mount>, Refusal> {
    let reserved = ZnodePath::parse("/zookeeper").expect("a valid path");
    if path.is_root() || reserved.contains(path) {
        return Err(Refusal::BadArguments(format!(
            "{path} cannot be a mount: the root and /zookeeper are the server's own"
        )));
    }
    let mounts = view.mounts();
    let near = |mount: &&Mount| mount.path.contains(path) || path.contains(&mount.path);
    match mounts.iter().find(near) {
        Some(mount) if mount.path != *path => Err(Refusal::MountsNest {
            path: path.clone(),
            mount: mount.path.clone(),
        }),
        Some(mount) => expect_stays(mount.clone()).map(Some),
        None => Ok(None),
    }
}

/// Nothing is to be done any more with a mount that is being unmounted.
pub(crate) fn expect_stays(mount: Mount) -> Result<Mount, Refusal> {
    match mount.unmounting {
        Some(_) => Err(Refusal::Unmounting(mount.path)),
        None => Ok(mount),
    }
}

/// Changes how a recipe is mounted.
pub(crate) fn set(
    view: &mut View,
    path: &ZnodePath,
    settings: &MountSettings,
) -> Result<Outcome, Refusal> {
    let mut mount = expect_stays(find(view, path)?)?;
    let shadow = mount.shadow;
    settle(view, &mut mount, settings)?;
    view.change(Change::PutMount(mount));
    if let Some(shadow) = shadow {
        forget_unused(view, shadow);
    }
    Ok(Outcome::MountSet)
}

/// The mount with what is to change of it; its parameters are set at once.
fn settle(view: &mut View, mount: &mut Mount, settings: &MountSettings) -> Result<(), Refusal> {
    for &(bound, value) in &settings.bounds {
        let allowed = bound.minimum()..=bound.maximum();
        if let Some(value) = value.filter(|value| !allowed.contains(value)) {
            return Err(Refusal::BadArguments(format!(
                "the bound {} is from {} to {} on this server, and not {value}",
                bound.name(),
                bound.minimum(),
                bound.maximum()
            )));
        }
        mount.bounds = mount.bounds.with(bound, value);
    }
    if let Some(callers) = &settings.callers {
        let long = |one: &Identity| one.scheme.len() + one.id.len() > MAX_CALLER_BYTES;
        if callers.is_empty() || callers.len() > MAX_CALLERS || callers.iter().any(long) {
            return Err(Refusal::BadArguments(format!(
                "a mount has from 1 to {MAX_CALLERS} callers, each scheme:id of {MAX_CALLER_BYTES} bytes at most, \
                 such as world:anyone"
            )));
        }
        mount.callers = Arc::new(callers.clone());
    }
    if let Some(shadow) = &settings.shadow {
        mount.shadow = match shadow {
            Some(shadow) => Some(version_of(view, &shadow.recipe, shadow.digest)?.digest),
            None => None,
        };
    }
    if let Some(sealed) = settings.sealed {
        mount.sealed = sealed;
    }
    if let (Some(parameters), Some(stat)) = (&settings.parameters, view.stat(&mount.path)) {
        set_data(view, &mount.path, &stat, parameters.clone());
    }
    Ok(())
}

/// A recipe's component with this digest; the one that has the name now for none.
fn version_of(
    view: &View,
    name: &str,
    digest: Option<RecipeDigest>,
) -> Result<RecipeVersion, Refusal> {
    let no_recipe = || Refusal::NoRecipe(name.to_owned());
    let recipe = view.recipe(name).ok_or_else(no_recipe)?;
    let version = recipe.version(digest).cloned();
    version.ok_or_else(|| digest.map_or_else(no_recipe, |digest| no_version(name, digest)))
}

/// Lets a suspended recipe run again.
pub(crate) fn resume(view: &mut View, path: &ZnodePath) -> Result<Outcome, Refusal> {
    let mount = expect_stays(find(view, path)?)?;
    let was_suspended = mount.suspended.is_some();
    if was_suspended {
        view.change(Change::Suspend {
            mount: path.clone(),
            reason: None,
        });
    }
    Ok(Outcome::Resumed { was_suspended })
}

/// Nothing runs there any more until it is resumed (rule C4).
pub(crate) fn suspend(view: &mut View, path: &ZnodePath, reason: &str) {
    view.change(Change::Suspend {
        mount: path.clone(),
        reason: Some(reason.chars().take(MAX_REASON_CHARACTERS).collect()),
    });
}

/// A run has failed, or gone well: so many in a row that fail suspend the mount. `mount` is as it was before the
/// run; what the run wrote has been taken back if it failed.
pub(crate) fn count_run(view: &mut View, mount: &Counted, failure: Option<&str>) {
    let path = &mount.path;
    let failures = match failure {
        None if mount.failures == 0 => return,
        None => 0,
        Some(_) => mount.failures.saturating_add(1),
    };
    match failure {
        Some(failure) if mount.most > 0 && u64::from(failures) >= mount.most => {
            let why = format!("{failures} runs in a row have failed, the last: {failure}");
            suspend(view, path, &Bound::Failures.suspension(&why));
        }
        _ => view.change(Change::CountFailures {
            mount: path.clone(),
            failures,
        }),
    }
}

/// What there is to know of a mount to count a run's failure.
pub(crate) struct Counted {
    path: ZnodePath,
    failures: u32,
    most: u64,
}

impl From<&Mount> for Counted {
    fn from(mount: &Mount) -> Counted {
        Counted {
            path: mount.path.clone(),
            failures: mount.failures,
            most: mount.bounds.of(Bound::Failures),
        }
    }
}

/// From now on nothing runs there, and all that is left to do is to end the parked calls, in steps. Who asks again is
/// told how far that has come.
pub(crate) fn begin_unmount(view: &mut View, path: &ZnodePath) -> Result<Outcome, Refusal> {
    let mount = find(view, path)?;
    if mount.unmounting.is_none() {
        view.change(Change::SetUnmounting {
            mount: path.clone(),
            ended_calls: 0,
        });
        standing::end(view, &mount);
    }
    Ok(Outcome::Unmounting {
        mounted: mount.mounted,
        ended_calls: mount.unmounting.unwrap_or(0),
    })
}

/// The mount of that number, if it is being unmounted, and how many calls that has ended.
pub(crate) fn unmounting(
    view: &View,
    path: &ZnodePath,
    mounted: Zxid,
) -> Result<(Mount, u64), Refusal> {
    let mount = find(view, path)?;
    match mount.unmounting {
        Some(ended_calls) if mount.mounted == mounted => Ok((mount, ended_calls)),
        // That one has gone, and this is another.
        _ => Err(Refusal::NotMounted(path.clone())),
    }
}

/// Unbinds a recipe whose parked calls have ended.
pub(crate) fn remove(view: &mut View, mount: &Mount) {
    let path = mount.path.clone();
    view.change(Change::RemoveMount { path });
    for digest in mount.components() {
        forget_unused(view, digest);
    }
}

/// A parked call has followed its mount's upgrade, or has ended since it does not fit.
pub(crate) fn count_followed(view: &mut View, path: &ZnodePath, has_ended: bool) {
    let mount = Records::mount(view, path);
    if let Some(mut upgrade) = mount.and_then(|mount| mount.upgrade) {
        upgrade.followed_calls += 1;
        upgrade.ended_calls += u64::from(has_ended);
        view.change(Change::SetUpgrade {
            mount: path.clone(),
            upgrade,
        });
    }
}

pub(crate) fn find(view: &View, path: &ZnodePath) -> Result<Mount, Refusal> {
    Records::mount(view, path).ok_or_else(|| Refusal::NotMounted(path.clone()))
}

/// Whether calls wait there that somebody made.
fn any_parked(view: &View, mount: &Mount) -> bool {
    let first = parked_calls(view, &mount.path, LEAST_MARK, 2);
    first.iter().any(|(_, id)| !id.is_standing())
}

/// The next parked calls of a mount, by age, behind the one of that age and id.
pub(crate) fn parked_calls(
    view: &View,
    path: &ZnodePath,
    behind: (Zxid, CallId),
    limit: usize,
) -> Vec<(Zxid, CallId)> {
    let (age, last) = behind;
    let from = IndexKey::CallOf(path.clone(), age, next_id(last));
    let same = |key: &IndexKey| matches!(key, IndexKey::CallOf(mount, ..) if mount == path);
    let call = |key| match key {
        IndexKey::CallOf(_, age, call) => Some((age, call)),
        _ => None,
    };
    view.indexed(from, same, limit)
        .into_iter()
        .filter_map(call)
        .collect()
}

/// The least call id after this one.
fn next_id(id: CallId) -> CallId {
    match id.key.checked_add(1) {
        Some(key) => CallId { key, ..id },
        None => CallId {
            session: SessionId(id.session.0.saturating_add(1)),
            key: 0,
        },
    }
}

/// The first of all call ids, for the beginning of a range. No call has it.
pub(crate) const LEAST_CALL: CallId = CallId {
    session: SessionId::NONE,
    key: 0,
};

/// What stands before the oldest of all parked calls.
pub(crate) const LEAST_MARK: (Zxid, CallId) = (Zxid::ZERO, LEAST_CALL);
