//! What an author of recipes works with, without a server: tree and sandbox, with made-up sessions, time
//! and failures.
//!
//! A *scenario* is a script in the words of the command line, with the output that it is expected to have.
//! *Properties* say what must hold whatever happens; to *explore* is to try schedules at random against
//! them, and to shorten one that breaks them.

mod scenario;
mod words;

mod difference;

mod properties;

mod explore;

mod replay;

mod project;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use parking_lot::Mutex;
use quorate_model::recipe::RecipeDigest;
use quorate_sandbox::{PreparedRecipe, Sandbox, SandboxConfig};
use quorate_tree::RunTree;

pub use difference::{Difference, differences};
pub use explore::{Exploration, Explored, Found, explore};
pub use project::{NewProject, relative};
pub use properties::{Tally, Violation};
pub use replay::{Replayed, replay};

/// What a scenario names, found for it.
pub trait Shelf {
    /// The upload (a component, or a core module with its interface) that is mounted by a name or a path.
    ///
    /// # Errors
    /// If there is none: where it was looked for, and what to do.
    fn recipe(&self, name: &str) -> Result<Vec<u8>>;

    /// A file of properties.
    ///
    /// # Errors
    /// If it cannot be read.
    fn text(&self, path: &str) -> Result<String>;
}

/// Where scenarios are run. Each begins anew, but a recipe is checked and compiled once.
pub struct Workbench {
    sandbox: Arc<Sandbox<RunTree>>,
    /// By the digest of the upload.
    prepared: Mutex<HashMap<RecipeDigest, PreparedRecipe>>,
}

impl Workbench {
    /// An empty one.
    ///
    /// # Errors
    /// If the sandbox cannot be set up.
    pub fn new() -> Result<Workbench> {
        Workbench::with(SandboxConfig::default())
    }

    /// An empty one, with a sandbox set up like this.
    ///
    /// # Errors
    /// If it cannot be set up.
    pub fn with(sandbox: SandboxConfig) -> Result<Workbench> {
        Ok(Workbench {
            sandbox: Arc::new(Sandbox::new(sandbox)?),
            prepared: Mutex::default(),
        })
    }

    /// Checks an upload as a server does, and compiles it.
    ///
    /// # Errors
    /// What the server would say.
    pub fn prepare(&self, upload: &[u8]) -> Result<PreparedRecipe> {
        let digest = RecipeDigest::of(upload);
        if let Some(prepared) = self.prepared.lock().get(&digest) {
            return Ok(prepared.clone());
        }
        let prepared = self.sandbox.prepare(upload)?;
        self.sandbox
            .make_ready(prepared.digest, &prepared.component)?;
        self.prepared.lock().insert(digest, prepared.clone());
        Ok(prepared)
    }

    /// Does what `script` says; gives the script again, with the output that it has.
    ///
    /// # Errors
    /// If the script cannot be understood: which line, and why.
    pub fn run(&self, script: &str, shelf: &dyn Shelf) -> Result<String> {
        scenario::run(self, shelf, script)
    }
}
