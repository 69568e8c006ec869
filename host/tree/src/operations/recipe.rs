//! Recipes: keep components under a name, forget them.

use bytes::Bytes;
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::recipe::{Exports, Mount, Recipe, RecipeDigest, RecipeVersion};
use quorate_model::write_set::Change;

use crate::view::View;

/// The longest name of a recipe, in bytes.
const MAX_NAME_BYTES: usize = 100;

/// How many components one name keeps. For one more the oldest that is not mounted goes.
const MAX_VERSIONS: usize = 10;

/// An upload that has passed the check.
pub(crate) struct Upload<'a> {
    pub(crate) component: &'a Bytes,
    pub(crate) version: Option<&'a str>,
    pub(crate) exports: Exports,
}

/// Keeps a component under a name. What has the name already stays beside it, and mounted where it is.
pub(crate) fn push(view: &mut View, name: &str, upload: &Upload<'_>) -> Result<Outcome, Refusal> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(allowed) {
        return Err(Refusal::BadArguments(format!(
            "{name:?} is no name for a recipe: letters, digits, - _ and . only, at most {MAX_NAME_BYTES}"
        )));
    }
    let digest = RecipeDigest::of(upload.component);
    let mut older = view.recipe(name).map_or_else(Vec::new, |before| {
        let others = before.versions().filter(|other| other.digest != digest);
        others.cloned().collect()
    });
    let forgotten = if older.len() < MAX_VERSIONS {
        None
    } else {
        let mounts = view.mounts();
        let unused = |version: &RecipeVersion| mounted(&mounts, name, version.digest).is_none();
        let last = older
            .iter()
            .rposition(unused)
            .ok_or_else(|| Refusal::BoundReached {
                bound: "versions".into(),
                message: format!(
                    "{MAX_VERSIONS} components of {name:?} are mounted: upgrade or unmount one first"
                ),
            })?;
        Some(older.remove(last).digest)
    };
    if !view.has_component(digest) {
        view.change(Change::PutComponent {
            digest,
            component: upload.component.clone(),
        });
    }
    view.change(Change::PutRecipe(Recipe {
        name: name.to_owned(),
        current: RecipeVersion {
            digest,
            version: upload.version.map(str::to_owned),
            exports: upload.exports,
            size: upload.component.len() as u64,
            pushed_at: view.moment().time,
        },
        older,
    }));
    if let Some(forgotten) = forgotten {
        forget_unused(view, forgotten);
    }
    Ok(Outcome::Pushed(digest))
}

/// Forgets a recipe, or one component of it, that is not mounted.
pub(crate) fn remove(
    view: &mut View,
    name: &str,
    digest: Option<RecipeDigest>,
) -> Result<Outcome, Refusal> {
    let recipe = view
        .recipe(name)
        .ok_or_else(|| Refusal::NoRecipe(name.to_owned()))?;
    let mounts = view.mounts();
    let (removed, mut kept): (Vec<RecipeVersion>, Vec<RecipeVersion>) = recipe
        .versions()
        .cloned()
        .partition(|version| digest.is_none_or(|digest| version.digest == digest));
    if let (Some(digest), true) = (digest, removed.is_empty()) {
        return Err(no_version(name, digest));
    }
    let in_use = removed
        .iter()
        .find_map(|version| mounted(&mounts, name, version.digest));
    if let Some(mount) = in_use {
        return Err(Refusal::RecipeInUse {
            name: name.to_owned(),
            mount: mount.path.clone(),
        });
    }
    view.change(match kept.is_empty() {
        true => Change::RemoveRecipe {
            name: name.to_owned(),
        },
        false => Change::PutRecipe(Recipe {
            name: name.to_owned(),
            current: kept.remove(0),
            older: kept,
        }),
    });
    for version in removed {
        forget_unused(view, version.digest);
    }
    Ok(Outcome::Removed)
}

/// The name is there, and has no component with this digest.
pub(crate) fn no_version(name: &str, digest: RecipeDigest) -> Refusal {
    Refusal::BadArguments(format!(
        "recipe {name:?} has no component {}: `quorate recipe show {name}` lists those that it has",
        digest.short()
    ))
}

fn mounted<'a>(mounts: &'a [Mount], name: &str, digest: RecipeDigest) -> Option<&'a Mount> {
    mounts
        .iter()
        .find(|mount| mount.recipe == name && mount.digest == digest)
}

/// A component goes with the last name and mount that has it.
pub(crate) fn forget_unused(view: &mut View, digest: RecipeDigest) {
    let named = |recipe: &Recipe| recipe.version(Some(digest)).is_some();
    let used = view.recipes().iter().any(named)
        || view.mounts().iter().any(|mount| mount.digest == digest);
    if !used && view.has_component(digest) {
        view.change(Change::RemoveComponent { digest });
    }
}
