//! What an author of recipes works with, without a server: tree and sandbox, with made-up sessions, time
//! and failures.
//!
//! A scenario is a script in the words of the command line, with the output that it is expected to have.

mod scenario;

use std::sync::Arc;

use anyhow::Result;
use quorate_sandbox::{Sandbox, SandboxConfig};
use quorate_tree::RunTree;

/// Finds the upload (a component, or a core module with its interface) that a scenario mounts by a name.
type FindRecipe = dyn Fn(&str) -> Result<Vec<u8>> + Send + Sync;

/// Where scenarios are run. Each begins anew, but a recipe is compiled once.
pub struct Workbench {
    sandbox: Arc<Sandbox<RunTree>>,
    recipes: Box<FindRecipe>,
}

impl Workbench {
    /// One whose scenarios mount what `recipes` finds.
    ///
    /// # Errors
    /// If the sandbox cannot be set up.
    pub fn new(
        recipes: impl Fn(&str) -> Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Result<Workbench> {
        Ok(Workbench {
            sandbox: Arc::new(Sandbox::new(SandboxConfig::default())?),
            recipes: Box::new(recipes),
        })
    }

    /// Does what `script` says; gives the script again, with the output that it has.
    ///
    /// # Errors
    /// If the script cannot be understood: which line, and why.
    pub fn run(&self, script: &str) -> Result<String> {
        scenario::run(self, script)
    }
}
