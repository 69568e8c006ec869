//! Mounts: bind a recipe to a znode, unbind it.

use bytes::Bytes;
use quorate_model::acl::Acl;
use quorate_model::id::{CallId, SessionId};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Mount, Recipe, RecipeDigest};
use quorate_model::write_set::Change;
use quorate_model::znode::Lifetime;

use crate::apply::Records;
use crate::operations::recipe::forget_unused;
use crate::operations::znode::{create_node, set_data};
use crate::state::IndexKey;
use crate::view::View;

/// What a mount is asked to be.
pub(crate) struct MountRequest<'a> {
    pub(crate) path: &'a ZnodePath,
    pub(crate) recipe: &'a str,
    pub(crate) digest: Option<RecipeDigest>,
    pub(crate) parameters: Option<&'a Bytes>,
    pub(crate) sealed: bool,
}

/// Mounts a recipe, or sets the parameters of one that is mounted.
pub(crate) fn mount(view: &mut View, request: &MountRequest<'_>) -> Result<Outcome, Refusal> {
    let path = request.path;
    let recipe = find_recipe(view, request.recipe, request.digest)?;
    let before = expect_free(view, path, &recipe)?;
    for path in path.upwards().collect::<Vec<_>>().into_iter().rev() {
        match view.stat(&path) {
            Some(stat) if !stat.lifetime.allows_children() => {
                return Err(Refusal::NoChildrenForEphemerals(path));
            }
            Some(_) => {}
            None => create_node(view, &path, Bytes::new(), Acl::open(), Lifetime::Persistent),
        }
    }
    if let (Some(parameters), Some(stat)) = (request.parameters, view.stat(path)) {
        set_data(view, path, &stat, parameters.clone());
    }
    let (mounted, next_sequence) = match &before {
        Some(before) => (before.mounted, before.next_sequence),
        // Never from the start again: tickets of an earlier mount may still be in the tree.
        None => (view.moment().zxid, view.sequence_floor()),
    };
    view.change(Change::PutMount(Mount {
        path: path.clone(),
        recipe: recipe.name.clone(),
        digest: recipe.digest,
        mounted,
        next_sequence,
        sealed: request.sealed,
    }));
    Ok(Outcome::Mounted(recipe.digest))
}

fn find_recipe(view: &View, name: &str, digest: Option<RecipeDigest>) -> Result<Recipe, Refusal> {
    let recipe = view
        .recipe(name)
        .ok_or_else(|| Refusal::NoRecipe(name.to_owned()))?;
    match digest {
        Some(digest) if digest != recipe.digest => Err(Refusal::BadArguments(format!(
            "recipe {name:?} is {} now, not {}",
            recipe.digest.short(),
            digest.short()
        ))),
        _ => Ok(recipe),
    }
}

/// The mount that is there already, if it is the same recipe; mounts do not nest (rule C7).
fn expect_free(view: &View, path: &ZnodePath, recipe: &Recipe) -> Result<Option<Mount>, Refusal> {
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
        Some(mount) if mount.digest != recipe.digest => Err(Refusal::BadArguments(format!(
            "recipe {} is mounted at {path} already, as {}: unmount it first",
            mount.recipe,
            mount.digest.short()
        ))),
        Some(mount) => Ok(Some(mount.clone())),
        None => Ok(None),
    }
}

/// Unbinds a recipe whose parked calls have ended.
pub(crate) fn unmount(view: &mut View, path: &ZnodePath) -> Result<Outcome, Refusal> {
    let mount = view
        .mount(path)
        .ok_or_else(|| Refusal::NotMounted(path.clone()))?;
    view.change(Change::RemoveMount { path: path.clone() });
    forget_unused(view, mount.digest);
    Ok(Outcome::Unmounted { ended_calls: 0 })
}

/// The next parked calls of a mount.
pub(crate) fn parked_calls(view: &View, path: &ZnodePath, limit: usize) -> Vec<CallId> {
    let least = CallId {
        session: SessionId::NONE,
        key: 0,
    };
    let from = IndexKey::CallOf(path.clone(), least);
    let same = |key: &IndexKey| matches!(key, IndexKey::CallOf(mount, _) if mount == path);
    let call = |key| match key {
        IndexKey::CallOf(_, call) => Some(call),
        _ => None,
    };
    view.indexed(from, same, limit)
        .into_iter()
        .filter_map(call)
        .collect()
}
