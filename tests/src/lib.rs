//! Tests of the whole that need no server: scenarios, and random schedules of calls, in [`random`].

pub mod random;

use anyhow::{Result, bail};
use quorate_workbench::Shelf;

/// The standard recipes, by name.
pub struct Standard;

impl Shelf for Standard {
    fn recipe(&self, name: &str) -> Result<Vec<u8>> {
        match quorate_recipes::find(name) {
            Some(recipe) => Ok(recipe.wasm.to_vec()),
            None => bail!("there is no standard recipe {name}"),
        }
    }

    fn text(&self, path: &str) -> Result<String> {
        bail!("no file can be read here, {path} neither")
    }
}
