//! Mounts: bind a recipe to a znode, change how, swap its component, suspend it, unbind it.

use std::sync::Arc;

use bytes::Bytes;
use quorate_model::acl::{Acl, Identity};
use quorate_model::bound::{Bound, MountBounds};
use quorate_model::id::{CallId, SessionId, Zxid};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Mount, MountSettings, RecipeDigest, RecipeVersion};
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

/// Mounts a recipe, or goes on with one that is mounted. The outcome's counts are for who has marked the calls.
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
    });
    mount.recipe = request.recipe.to_owned();
    mount.digest = version.digest;
    mount.exports = version.exports;
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
    Ok(Outcome::Mounted {
        digest: version.digest,
        woken_calls: 0,
        ending_calls: 0,
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
        mount => Ok(mount.cloned()),
    }
}

/// Changes how a recipe is mounted.
pub(crate) fn set(
    view: &mut View,
    path: &ZnodePath,
    settings: &MountSettings,
) -> Result<Outcome, Refusal> {
    let mut mount = find(view, path)?;
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
    let mount = find(view, path)?;
    if mount.suspended.is_some() {
        view.change(Change::Suspend {
            mount: path.clone(),
            reason: None,
        });
    }
    Ok(Outcome::Resumed)
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

/// Unbinds a recipe whose parked calls have ended.
pub(crate) fn unmount(view: &mut View, path: &ZnodePath) -> Result<Outcome, Refusal> {
    let mount = find(view, path)?;
    view.change(Change::RemoveMount { path: path.clone() });
    for digest in mount.components() {
        forget_unused(view, digest);
    }
    Ok(Outcome::Unmounted { ended_calls: 0 })
}

fn find(view: &View, path: &ZnodePath) -> Result<Mount, Refusal> {
    Records::mount(view, path).ok_or_else(|| Refusal::NotMounted(path.clone()))
}

/// The next parked calls of a mount, by age, from `from` on.
pub(crate) fn parked_calls(
    view: &View,
    path: &ZnodePath,
    from: (Zxid, CallId),
    limit: usize,
) -> Vec<(Zxid, CallId)> {
    let from = IndexKey::CallOf(path.clone(), from.0, from.1);
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

/// The first of all call ids, for the beginning of a range.
pub(crate) const LEAST_CALL: CallId = CallId {
    session: SessionId::NONE,
    key: 0,
};
