//! Tests of the whole that need no server.

use anyhow::{Result, anyhow};
use quorate_workbench::Workbench;

/// Where scenarios run that mount the standard recipes.
///
/// # Errors
/// If the sandbox cannot be set up.
pub fn workbench() -> Result<Workbench> {
    Workbench::new(|name| {
        let recipe = quorate_recipes::find(name);
        let recipe = recipe.ok_or_else(|| anyhow!("no recipe {name}"))?;
        Ok(recipe.wasm.to_vec())
    })
}
