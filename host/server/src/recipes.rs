//! Recipes on this server: checked on upload, compiled ahead of their runs, run by the leader.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use quorate_model::recipe::RecipeDigest;
use quorate_model::run::{Invocation, RunEnding, RunInput, RunReport, Runner};
use quorate_sandbox::{Interface, Sandbox, SandboxConfig, UploadLimits, interface_of};
use quorate_tree::RunTree;
use serde_json::Value;
use tokio::sync::Notify;

use crate::http::{CheckedRecipe, Description, ParkedKind, RecipeCheck};
use crate::metrics::Metrics;

/// The sandbox, and the worker that compiles for it. Cloning is cheap.
#[derive(Clone)]
pub struct Recipes(Arc<Inner>);

struct Inner {
    sandbox: Arc<Sandbox<RunTree>>,
    metrics: Arc<Metrics>,
    /// What is kept and not known to be ready.
    wanted: Mutex<BTreeMap<RecipeDigest, Bytes>>,
    more: Condvar,
    /// Another one is ready.
    compiled: Arc<Notify>,
}

/// A sandbox that keeps what it compiles in `cache_directory`.
///
/// # Errors
/// If the engine does not start, or the directory cannot be made.
pub fn sandbox(cache_directory: PathBuf) -> anyhow::Result<Sandbox<RunTree>> {
    let config = SandboxConfig {
        cache_directory: Some(cache_directory),
        ..SandboxConfig::default()
    };
    Sandbox::new(config).context("the sandbox does not start")
}

impl Recipes {
    /// What runs in `sandbox`.
    pub fn new(sandbox: Arc<Sandbox<RunTree>>, metrics: Arc<Metrics>) -> Recipes {
        let (wanted, more, compiled) = (Mutex::default(), Condvar::new(), Arc::default());
        Recipes(Arc::new(Inner {
            sandbox,
            metrics,
            wanted,
            more,
            compiled,
        }))
    }

    /// Has a component compiled soon, on the worker (rule C6).
    pub fn prepare(&self, digest: RecipeDigest, component: Bytes) {
        self.0.wanted.lock().insert(digest, component);
        self.0.more.notify_one();
    }

    /// A component that nothing names any more: it is dropped, also from the cache on disk.
    pub fn forget(&self, digest: &RecipeDigest) {
        self.0.wanted.lock().remove(digest);
        self.0.sandbox.forget(digest);
    }

    /// Told of each recipe that is compiled, since parked calls may wait for it.
    pub fn compiled(&self) -> Arc<Notify> {
        self.0.compiled.clone()
    }

    /// The worker: one component at a time, for as long as the process lives.
    pub fn compile_forever(&self) {
        loop {
            let mut wanted = self.0.wanted.lock();
            while wanted.is_empty() {
                self.0.more.wait(&mut wanted);
            }
            drop(wanted);
            self.compile_wanted();
        }
    }

    /// Compiles what is wanted now.
    pub fn compile_wanted(&self) {
        loop {
            let next = self.0.wanted.lock().pop_first();
            let Some((digest, component)) = next else {
                return;
            };
            if let Err(error) = self.0.sandbox.make_ready(digest, &component) {
                tracing::error!(%digest, "a recipe cannot be made ready: {error}");
            }
            self.0.compiled.notify_one();
        }
    }

    /// Of a component that was checked before, whether it is compiled here or not.
    fn interface_of(&self, component: &Bytes) -> Result<Arc<Interface>, String> {
        let known = self.0.sandbox.interface(&RecipeDigest::of(component));
        match known {
            Some(interface) => Ok(interface),
            None => interface_of(component, &UploadLimits::default())
                .map(Arc::new)
                .map_err(|error| error.to_string()),
        }
    }

    /// Makes a component of an upload and compiles it; both take long.
    fn check(&self, upload: &[u8]) -> Result<CheckedRecipe, String> {
        let prepared = self
            .0
            .sandbox
            .prepare(upload)
            .map_err(|error| error.to_string())?;
        self.0
            .sandbox
            .make_ready(prepared.digest, &prepared.component)
            .map_err(|error| error.to_string())?;
        let description = description(&prepared.interface)?;
        Ok(CheckedRecipe {
            component: prepared.component,
            version: prepared.interface.version.clone(),
            exports: prepared.interface.exports(),
            description,
        })
    }
}

fn description(interface: &Interface) -> Result<Description, String> {
    match serde_json::to_value(interface.describe()) {
        Ok(Value::Object(description)) => Ok(description),
        other => Err(format!("its description is no object: {other:?}")),
    }
}

impl RecipeCheck for Recipes {
    fn prepare(&self, upload: Bytes) -> Result<CheckedRecipe, String> {
        self.check(&upload)
    }

    fn describe(&self, component: &Bytes) -> Result<Description, String> {
        let interface = self.interface_of(component)?;
        description(&interface)
    }

    fn misfits(&self, component: &Bytes, calls: &[ParkedKind]) -> Result<u64, String> {
        let interface = self.interface_of(component)?;
        let misfits = calls
            .iter()
            .filter(|call| interface.accepts(&call.operation, &call.arguments).is_err());
        Ok(misfits.map(|call| call.count).sum())
    }
}

impl Runner<RunTree> for Recipes {
    fn ready(&self, digest: &RecipeDigest) -> bool {
        Runner::ready(self.0.sandbox.as_ref(), digest)
    }

    fn fits(&self, digest: &RecipeDigest, operation: &str, arguments: &str) -> bool {
        self.0.sandbox.fits(digest, operation, arguments)
    }

    fn run(&self, input: RunInput, tree: RunTree) -> RunReport<RunTree> {
        let woken = input.memo.is_some();
        if let Invocation::Guard(_) = input.invocation {
            self.0.metrics.guards.inc();
        }
        let report = self.0.sandbox.run(input, tree);
        let metrics = &self.0.metrics;
        metrics.runs.inc();
        metrics.fuel.inc_by(report.fuel);
        if woken {
            metrics.wakes.inc();
        }
        if matches!(
            report.ending,
            RunEnding::Trapped(_) | RunEnding::Exceeded { .. }
        ) {
            metrics.runs_failed.inc();
        }
        if let RunEnding::Exceeded { bound, .. } = &report.ending {
            metrics.reached(bound);
        }
        report
    }
}
