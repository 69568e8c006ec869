//! Recipes on this server: checked on upload, compiled ahead of their runs, run by the leader.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use quorate_model::recipe::{Component, RecipeDigest};
use quorate_model::run::{Invocation, RunInput, RunReport, Runner};
use quorate_sandbox::{
    Compiler, Interface, ReadyError, Sandbox, SandboxConfig, UploadLimits, interface_of,
};
use quorate_tree::RunTree;
use serde_json::Value;
use tokio::sync::Notify;

use crate::activity::{Activity, Ran};
use crate::clock::Clock;
use crate::http::{CheckedRecipe, Description, ParkedKind, RecipeCheck};
use crate::metrics::Metrics;

/// Between two looks whether a component is compiled that somebody waits for, and how many there are: 10 s.
const READY_LOOK_EVERY: Duration = Duration::from_millis(20);
const READY_LOOKS: u32 = 500;

/// The sandbox, and the worker that compiles for it. Cloning is cheap.
#[derive(Clone)]
pub struct Recipes(Arc<Inner>);

struct Inner {
    sandbox: Arc<Sandbox<RunTree>>,
    metrics: Arc<Metrics>,
    activity: Arc<Activity>,
    clock: Arc<Clock>,
    /// What is kept and not known to be ready. No more than the state keeps.
    wanted: Mutex<BTreeMap<RecipeDigest, Component>>,
    more: Condvar,
    /// Another one is ready.
    compiled: Arc<Notify>,
}

/// A sandbox that keeps what it compiles in `cache_directory`, and has it compiled by `compiler`, if there is one.
///
/// # Errors
/// If the engine does not start, or the directory cannot be made.
pub fn sandbox(
    cache_directory: PathBuf,
    compiler: Option<Compiler>,
) -> anyhow::Result<Sandbox<RunTree>> {
    let config = SandboxConfig {
        cache_directory: Some(cache_directory),
        compiler,
        ..SandboxConfig::default()
    };
    Sandbox::new(config).context("the sandbox does not start")
}

impl Recipes {
    /// What runs in `sandbox`.
    pub fn new(
        sandbox: Arc<Sandbox<RunTree>>,
        metrics: Arc<Metrics>,
        clock: Arc<Clock>,
    ) -> Recipes {
        let (wanted, more, compiled) = (Mutex::default(), Condvar::new(), Arc::default());
        Recipes(Arc::new(Inner {
            sandbox,
            metrics,
            activity: Arc::default(),
            clock,
            wanted,
            more,
            compiled,
        }))
    }

    /// What they do here.
    pub fn activity(&self) -> Arc<Activity> {
        self.0.activity.clone()
    }

    /// Has a component compiled soon, on the worker (rule C6).
    pub fn prepare(&self, digest: RecipeDigest, component: Component) {
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

    /// Waits a while for a component to be compiled, and says whether it is. `component` finds it: nobody may have
    /// had it compiled here yet, as of what was never mounted.
    pub(crate) async fn is_ready_soon(
        &self,
        digest: &RecipeDigest,
        component: impl Fn() -> Option<Component>,
    ) -> bool {
        let mut asked = false;
        for _ in 0..READY_LOOKS {
            if Runner::ready(self, digest) {
                return true;
            }
            if !asked && let Some(component) = component() {
                self.prepare(*digest, component);
                asked = true;
            }
            tokio::time::sleep(READY_LOOK_EVERY).await;
        }
        false
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
            if let Err(error) = self.make_ready(digest, &component.joined()) {
                tracing::error!(%digest, "a recipe cannot be made ready: {error}");
            }
            self.0.compiled.notify_one();
        }
    }

    /// Of a component that was checked before, whether it is compiled here or not.
    fn interface_of(
        &self,
        digest: &RecipeDigest,
        component: &Component,
    ) -> Result<Arc<Interface>, String> {
        match self.0.sandbox.interface(digest) {
            Some(interface) => Ok(interface),
            None => interface_of(&component.joined(), &UploadLimits::default())
                .map(Arc::new)
                .map_err(|error| error.to_string()),
        }
    }

    /// Loads or compiles a component; waits while another one is.
    fn make_ready(&self, digest: RecipeDigest, component: &[u8]) -> Result<(), ReadyError> {
        let metrics = &self.0.metrics;
        metrics.compiling.inc();
        let made = self.0.sandbox.make_ready(digest, component);
        metrics.compiling.dec();
        match &made {
            Ok(_) => metrics.compiled.inc(),
            Err(error) => {
                if let Some(bound) = error.bound() {
                    metrics.reached(bound);
                }
                metrics.compile_failures.inc()
            }
        };
        made.map(|_| ())
    }

    /// Makes a component of an upload, and does not compile it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn component_of(&self, upload: &[u8]) -> Result<CheckedRecipe, String> {
        let prepared = self.0.sandbox.prepare(upload).map_err(|error| {
            if let Some(bound) = error.bound() {
                self.0.metrics.reached(bound);
            }
            error.to_string()
        })?;
        Ok(CheckedRecipe {
            digest: prepared.digest,
            component: Component::cut(&prepared.component),
            version: prepared.interface.version.clone(),
            exports: prepared.interface.exports(),
            description: description(&prepared.interface)?,
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
    fn make_ready(&self, digest: &RecipeDigest, component: &Component) -> Result<(), String> {
        if self.0.sandbox.interface(digest).is_some() {
            return Ok(());
        }
        Recipes::make_ready(self, *digest, &component.joined()).map_err(|error| error.to_string())
    }

    fn prepare(&self, upload: Bytes) -> Result<CheckedRecipe, String> {
        let recipe = self.component_of(&upload)?;
        let component = recipe.component.joined();
        let made = Recipes::make_ready(self, recipe.digest, &component);
        made.map_err(|error| error.to_string())?;
        Ok(recipe)
    }

    fn describe(
        &self,
        digest: &RecipeDigest,
        component: &Component,
    ) -> Result<Description, String> {
        let interface = self.interface_of(digest, component)?;
        description(&interface)
    }

    fn misfits(
        &self,
        digest: &RecipeDigest,
        component: &Component,
        calls: &[ParkedKind],
    ) -> Result<u64, String> {
        let interface = self.interface_of(digest, component)?;
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

    fn fits(&self, digest: &RecipeDigest, operation: &str, arguments: &str) -> Result<(), String> {
        self.0.sandbox.fits(digest, operation, arguments)
    }

    fn run(&self, input: RunInput, tree: RunTree) -> RunReport<RunTree> {
        let woken = input.memo.is_some();
        let (operation, zxid, at) = (
            input.invocation.name().to_owned(),
            input.transaction,
            input.now,
        );
        if tree.is_trial() {
            let report = self.0.sandbox.run(input, tree);
            self.0.metrics.trials.inc();
            self.0.metrics.trial_fuel.inc_by(report.fuel);
            return report;
        }
        if let Invocation::Guard(_) = input.invocation {
            self.0.metrics.guards.inc();
        }
        let begun = self.0.clock.monotonic();
        let report = self.0.sandbox.run(input, tree);
        self.0.activity.ran(&Ran {
            mount: report.tree.mount(),
            operation: &operation,
            zxid,
            at,
            woken,
            ending: &report.ending,
            fuel: report.fuel,
            took: self.0.clock.monotonic().saturating_sub(begun),
            written_bytes: report.tree.written_bytes(),
            log: &report.log,
        });
        let metrics = &self.0.metrics;
        metrics.runs.inc();
        metrics.fuel.inc_by(report.fuel);
        if woken {
            metrics.wakes.inc();
        }
        if report.ending.is_failure() {
            metrics.runs_failed.inc();
        }
        metrics.count_ending(&report.ending);
        report
    }
}
