//! Recipes: keep one under a name, forget it.

use bytes::Bytes;
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::recipe::{Recipe, RecipeDigest};
use quorate_model::write_set::Change;

use crate::view::View;

/// The longest name of a recipe, in bytes.
const MAX_NAME_BYTES: usize = 100;

/// Keeps a component under a name. What has the name already stays mounted where it is.
pub(crate) fn push(view: &mut View, name: &str, component: &Bytes) -> Result<Outcome, Refusal> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(allowed) {
        return Err(Refusal::BadArguments(format!(
            "{name:?} is no name for a recipe: letters, digits, - _ and . only, at most {MAX_NAME_BYTES}"
        )));
    }
    let digest = RecipeDigest::of(component);
    let before = view.recipe(name);
    if !view.has_component(digest) {
        view.change(Change::PutComponent {
            digest,
            component: component.clone(),
        });
    }
    view.change(Change::PutRecipe(Recipe {
        name: name.to_owned(),
        digest,
        size: component.len() as u64,
        pushed_at: view.moment().time,
    }));
    if let Some(before) = before {
        forget_unused(view, before.digest);
    }
    Ok(Outcome::Pushed(digest))
}

/// Forgets a recipe that is not mounted.
pub(crate) fn remove(view: &mut View, name: &str) -> Result<Outcome, Refusal> {
    let recipe = view
        .recipe(name)
        .ok_or_else(|| Refusal::NoRecipe(name.to_owned()))?;
    let mounted = view.mounts().into_iter().find(|mount| mount.recipe == name);
    if let Some(mount) = mounted {
        return Err(Refusal::RecipeInUse {
            name: name.to_owned(),
            mount: mount.path,
        });
    }
    view.change(Change::RemoveRecipe {
        name: name.to_owned(),
    });
    forget_unused(view, recipe.digest);
    Ok(Outcome::Removed)
}

/// A component goes with the last name and mount that has it.
pub(crate) fn forget_unused(view: &mut View, digest: RecipeDigest) {
    let used = view.recipes().iter().any(|recipe| recipe.digest == digest)
        || view.mounts().iter().any(|mount| mount.digest == digest);
    if !used && view.has_component(digest) {
        view.change(Change::RemoveComponent { digest });
    }
}
