//! The sandbox: components made ready ahead, and runs of their operations.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use quorate_model::recipe::RecipeDigest;
use quorate_model::run::{
    Invocation, LogLevel, RunEnding, RunInput, RunReport, Runner, TreeAccess,
};
use quorate_model::znode::Node;
use thiserror::Error;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker, Val};
use wasmtime::{AsContextMut as _, Engine, Store, Trap, WasmBacktrace};

use crate::abi::Change;
use crate::cache::{self, Cache};
use crate::check::{self, PreparedRecipe, UploadError};
use crate::compile::{self, Compiler};
use crate::engine::{self, EngineLimits};
use crate::host::{self, Run, charge_answer};
use crate::interface::{Interface, abi_version};
use crate::json::{self, Side};
use crate::limits::{RunLimits, UploadLimits, bound};
use crate::link;
use crate::runs::{Runs, TICK};

pub use crate::host::host_fuel;

/// What a sandbox is made for.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// What a run may use.
    pub run: RunLimits,
    /// What an upload may have.
    pub upload: UploadLimits,
    /// Runs at the same time, on as many threads; one more waits. Each reserves address space (not memory):
    /// 4 GiB for each memory that an upload may have.
    pub concurrent_runs: usize,
    /// Components that are ready to run. Beyond it the one whose last run is longest ago has to be made ready again.
    pub ready_recipes: usize,
    /// Compiles in a process of its own, for the default limits of runs and uploads; none to compile in this one,
    /// which nothing bounds.
    pub compiler: Option<Compiler>,
    /// Where compiled components are kept; none to keep them in memory only. As trusted as the server's
    /// binary, so it must belong to the server alone.
    pub cache_directory: Option<PathBuf>,
}

impl Default for SandboxConfig {
    fn default() -> SandboxConfig {
        SandboxConfig {
            run: RunLimits::default(),
            upload: UploadLimits::default(),
            concurrent_runs: 8,
            ready_recipes: 1_024,
            compiler: None,
            cache_directory: None,
        }
    }
}

/// The sandbox could not be set up.
#[derive(Debug, Error)]
#[error("the recipe sandbox cannot start: {0}")]
pub struct SandboxError(String);

/// A component could not be made ready.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadyError {
    /// It would not pass the check of an upload.
    #[error(transparent)]
    Refused(#[from] UploadError),
    /// The engine refuses it.
    #[error("the recipe cannot be compiled: {0}")]
    Compile(String),
    /// It takes more to compile than it may.
    #[error("the recipe exceeds the bound {bound} when it is compiled: {message}")]
    TooMuch {
        /// The bound's name.
        bound: &'static str,
        /// For people.
        message: String,
    },
    /// The bytes have another digest.
    #[error("the component's digest is {0}, which is not the one it is kept under")]
    WrongDigest(RecipeDigest),
}

impl ReadyError {
    /// The bound that it exceeds, by its name.
    pub fn bound(&self) -> Option<&'static str> {
        match self {
            ReadyError::Refused(refused) => refused.bound(),
            ReadyError::TooMuch { bound, .. } => Some(bound),
            ReadyError::Compile(_) | ReadyError::WrongDigest(_) => None,
        }
    }
}

/// Runs recipes' operations on trees of type `T`. Shared by reference; every method may be called from any
/// thread.
pub struct Sandbox<T: TreeAccess> {
    config: SandboxConfig,
    engine: Engine,
    linker: Linker<Run<T>>,
    cache: Option<Cache>,
    ready: RwLock<HashMap<RecipeDigest, Arc<Ready<T>>>>,
    /// Counts runs: what was used last has the highest number.
    uses: AtomicU64,
    /// Held while compiling: one at a time, which bounds what compiling takes.
    compiling: Mutex<()>,
    runs: Runs,
}

/// A component that can be run at once.
struct Ready<T: TreeAccess> {
    instance: InstancePre<Run<T>>,
    interface: Arc<Interface>,
    /// Of each operation, in the interface's order.
    exports: Vec<ComponentExportIndex>,
    guard: Option<ComponentExportIndex>,
    standing: Option<ComponentExportIndex>,
    last_use: AtomicU64,
}

impl<T: TreeAccess> Sandbox<T> {
    /// Sets up the engine, its pool and its clock.
    pub fn new(config: SandboxConfig) -> Result<Sandbox<T>, SandboxError> {
        let limits = EngineLimits {
            run: config.run,
            upload: config.upload,
            concurrent_runs: config.concurrent_runs,
        };
        let engine = engine::engine(&limits).map_err(|error| SandboxError(format!("{error:#}")))?;
        let mut linker = Linker::new(&engine);
        link::link(&mut linker, abi_version())
            .map_err(|error| SandboxError(format!("{error:#}")))?;
        let cache = match &config.cache_directory {
            Some(directory) => Some(
                Cache::open(directory, &engine)
                    .map_err(|error| SandboxError(format!("{}: {error}", directory.display())))?,
            ),
            None => None,
        };
        let runs = Runs::new(&engine, config.concurrent_runs)
            .map_err(|error| SandboxError(error.to_string()))?;
        Ok(Sandbox {
            runs,
            config,
            engine,
            linker,
            cache,
            ready: RwLock::default(),
            uses: AtomicU64::new(0),
            compiling: Mutex::new(()),
        })
    }

    /// Checks an upload, and makes the component if it is a core module. Compiles nothing: that is
    /// [`Sandbox::make_ready`], which an upload should pass too before it is kept.
    pub fn prepare(&self, upload: &[u8]) -> Result<PreparedRecipe, UploadError> {
        check::prepare(upload, &self.config.upload)
    }

    /// Makes a kept component ready to run: loads it from the cache, or compiles it. Takes from a millisecond
    /// to seconds, and waits while another is compiled, so it is not for the evaluating thread (rule C6).
    /// Does nothing if it is ready.
    pub fn make_ready(
        &self,
        digest: RecipeDigest,
        component: &[u8],
    ) -> Result<Arc<Interface>, ReadyError> {
        if let Some(interface) = self.interface(&digest) {
            return Ok(interface);
        }
        let _one_at_a_time = self
            .compiling
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(interface) = self.interface(&digest) {
            return Ok(interface);
        }
        let found = RecipeDigest::of(component);
        if found != digest {
            return Err(ReadyError::WrongDigest(found));
        }
        let interface = Arc::new(check::interface_of(component, &self.config.upload)?);
        let compiled = self.compiled(&digest, component)?;
        let ready = self
            .linked(&compiled, Arc::clone(&interface))
            .map_err(|error| ReadyError::Compile(format!("{error:#}")))?;
        let mut all = self.ready.write().unwrap_or_else(PoisonError::into_inner);
        while all.len() >= self.config.ready_recipes.max(1) {
            let oldest = all
                .iter()
                .min_by_key(|(_, ready)| ready.last_use.load(Ordering::Relaxed))
                .map(|(digest, _)| *digest);
            let Some(oldest) = oldest else { break };
            all.remove(&oldest);
        }
        all.insert(digest, Arc::new(ready));
        Ok(interface)
    }

    fn compiled(&self, digest: &RecipeDigest, component: &[u8]) -> Result<Component, ReadyError> {
        if let Some(cache) = &self.cache
            && let Some(compiled) = cache.load(&self.engine, digest)
        {
            return Ok(compiled);
        }
        let code = match &self.config.compiler {
            Some(compiler) => compiler.compile(component)?,
            None => compile::in_this_process(&self.engine, component)?,
        };
        let compiled = cache::deserialize(&self.engine, &code)
            .map_err(|error| ReadyError::Compile(format!("{error:#}")))?;
        if let Some(cache) = &self.cache {
            // A full disk costs the next start its compilation, no more.
            let _ = cache.store(digest, &code);
        }
        Ok(compiled)
    }

    fn linked(
        &self,
        component: &Component,
        interface: Arc<Interface>,
    ) -> wasmtime::Result<Ready<T>> {
        let mut exports = Vec::with_capacity(interface.operations.len());
        for operation in &interface.operations {
            let parent = operation
                .interface
                .as_ref()
                .and_then(|name| component.get_export_index(None, name));
            let export = component.get_export_index(parent.as_ref(), &operation.name);
            exports.push(export.ok_or_else(|| {
                wasmtime::Error::msg(format!("{} is not exported", operation.full_name()))
            })?);
        }
        let function_of = |interface: &Option<String>, function: &str| {
            let Some(name) = interface else {
                return Ok(None);
            };
            let parent = component.get_export_index(None, name);
            let export = parent.and_then(|it| component.get_export_index(Some(&it), function));
            let missing = || wasmtime::Error::msg(format!("{name}.{function} is not exported"));
            export.map(Some).ok_or_else(missing)
        };
        Ok(Ready {
            guard: function_of(&interface.guard, "admit")?,
            standing: function_of(&interface.standing, "run")?,
            instance: self.linker.instantiate_pre(component)?,
            interface,
            exports,
            last_use: AtomicU64::new(self.uses.fetch_add(1, Ordering::Relaxed)),
        })
    }

    /// The interface of a component that is ready; none if it is not.
    pub fn interface(&self, digest: &RecipeDigest) -> Option<Arc<Interface>> {
        let ready = self.find(digest)?;
        Some(Arc::clone(&ready.interface))
    }

    /// Drops a component that is not needed any more, also from the cache on disk.
    pub fn forget(&self, digest: &RecipeDigest) {
        self.ready
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(digest);
        if let Some(cache) = &self.cache {
            cache.remove(digest);
        }
    }

    fn find(&self, digest: &RecipeDigest) -> Option<Arc<Ready<T>>> {
        let all = self.ready.read().unwrap_or_else(PoisonError::into_inner);
        all.get(digest).cloned()
    }

    /// Instance and call. The instance is dropped with the store, whatever happened in it.
    fn call(
        &self,
        store: &mut Store<Run<T>>,
        ready: &Ready<T>,
        entry: &Entry,
    ) -> wasmtime::Result<RunEnding> {
        let instance = ready.instance.instantiate(&mut *store)?;
        let (place, arguments) = match entry {
            Entry::Operation(place, arguments) => (*place, arguments),
            Entry::Standing(export) => {
                let run = instance.get_typed_func::<(), ()>(&mut *store, *export)?;
                run.call(&mut *store, ())?;
                return Ok(RunEnding::Returned("null".into()));
            }
            Entry::Guard(export) => {
                let admit = instance.get_typed_func::<(Vec<Change>,), ()>(&mut *store, *export)?;
                let changes = guarded(store)?;
                admit.call(&mut *store, (changes,))?;
                return Ok(RunEnding::Returned("null".into()));
            }
        };
        let function = instance
            .get_func(&mut *store, ready.exports[place])
            .ok_or_else(|| wasmtime::Error::msg("the operation is not exported"))?;
        let operation = &ready.interface.operations[place];
        let mut results = [Val::Bool(false)];
        let results = &mut results[..usize::from(operation.result.is_some())];
        function.call(&mut *store, arguments, results)?;
        let most = store.data().limits.result_bytes;
        Ok(
            match json::result(operation.result.as_ref(), results.first(), most) {
                Ok(Side::Returned(result)) => RunEnding::Returned(result),
                Ok(Side::Failed(error)) => RunEnding::Failed(error),
                Err(json::TooLong) => RunEnding::Exceeded {
                    bound: bound::RESULT.into(),
                    message: format!("the result has more than {most} bytes as JSON"),
                },
            },
        )
    }
}

/// Where a run begins.
enum Entry {
    Operation(usize, Vec<Val>),
    Standing(ComponentExportIndex),
    Guard(ComponentExportIndex),
}

impl<T: TreeAccess> Ready<T> {
    /// Where this invocation begins; for people if it does not fit the component.
    fn entry(&self, invocation: &Invocation) -> Result<Entry, String> {
        let lacks = |what: &str| format!("the recipe does not export {what}");
        match invocation {
            Invocation::Operation { name, arguments } => {
                let place = self.interface.find(name)?;
                let operation = &self.interface.operations[place];
                let arguments = json::arguments(operation, arguments)?;
                Ok(Entry::Operation(place, arguments))
            }
            Invocation::Standing => self
                .standing
                .map(Entry::Standing)
                .ok_or_else(|| lacks("standing")),
            Invocation::Guard(_) => self.guard.map(Entry::Guard).ok_or_else(|| lacks("guard")),
        }
    }
}

/// What a guard is asked about, charged like the answer of a host call.
fn guarded<T: TreeAccess>(store: &mut Store<Run<T>>) -> wasmtime::Result<Vec<Change>> {
    let Invocation::Guard(changes) = &store.data().input.invocation else {
        return Ok(Vec::new());
    };
    let data = |node: &Option<Node>| node.as_ref().map_or(0, |node| node.data.len());
    let bytes = changes
        .iter()
        .map(|change| change.path.as_str().len() + data(&change.before) + data(&change.after));
    let (items, bytes) = (changes.len(), bytes.sum());
    charge_answer(&mut store.as_context_mut(), items, bytes)?;
    match &store.data().input.invocation {
        Invocation::Guard(changes) => Ok(changes.iter().map(Change::from).collect()),
        _ => Ok(Vec::new()),
    }
}

impl<T: TreeAccess> Runner<T> for Sandbox<T> {
    fn ready(&self, digest: &RecipeDigest) -> bool {
        self.find(digest).is_some()
    }

    fn fits(&self, digest: &RecipeDigest, operation: &str, arguments: &str) -> Result<(), String> {
        let ready = self.find(digest);
        let ready = ready.ok_or_else(|| RunEnding::NotReady.to_string())?;
        ready.interface.accepts(operation, arguments)
    }

    fn run(&self, input: RunInput, tree: T) -> RunReport<T> {
        let limits = self.config.run.with(&input.bounds);
        let did_not_run = |tree, ending| RunReport {
            tree,
            ending,
            fuel: 0,
            log: Vec::new(),
        };
        let Some(ready) = self.find(&input.digest) else {
            return did_not_run(tree, RunEnding::NotReady);
        };
        let now = self.uses.fetch_add(1, Ordering::Relaxed);
        ready.last_use.store(now, Ordering::Relaxed);
        let argument_bytes = match &input.invocation {
            Invocation::Operation { arguments, .. } => arguments.len(),
            Invocation::Standing | Invocation::Guard(_) => 0,
        };
        if argument_bytes > limits.argument_bytes {
            let ending = RunEnding::Exceeded {
                bound: bound::ARGUMENTS.into(),
                message: format!(
                    "the arguments have {argument_bytes} bytes, and {} is the most",
                    limits.argument_bytes
                ),
            };
            return did_not_run(tree, ending);
        }
        let entry = match ready.entry(&input.invocation) {
            Ok(entry) => entry,
            Err(message) => return did_not_run(tree, RunEnding::BadCall(message)),
        };

        let permit = self.runs.begin();
        let mut store = Store::new(&self.engine, Run::new(input, tree, limits));
        store.limiter(|run| &mut run.growth);
        store.set_hostcall_fuel(limits.crossing_bytes);
        let ticks = limits.wall_clock.as_millis() / TICK.as_millis();
        // One more: the current tick may be about to end.
        store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX / 2) + 1);
        let called = match store.set_fuel(limits.fuel) {
            Ok(()) => self.call(&mut store, &ready, &entry),
            Err(error) => Err(error),
        };
        let fuel = limits.fuel - store.get_fuel().unwrap_or(0).min(limits.fuel);
        let mut run = store.into_data();
        drop(permit);
        let ended = run.ending.take().or(run.growth.exceeded.take());
        let ending = match (ended, called) {
            (Some(ending), _) => ending,
            (None, Ok(ending)) => ending,
            (None, Err(error)) => failure(&error, &run),
        };
        RunReport {
            tree: run.tree,
            ending,
            fuel,
            log: run.log,
        }
    }
}

/// What an error of the engine means to the caller.
fn failure<T>(error: &wasmtime::Error, run: &Run<T>) -> RunEnding {
    let limits = &run.limits;
    let exceeded = RunEnding::exceeded;
    let reason = match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => {
            return exceeded(bound::FUEL, host::out_of_fuel(limits.fuel));
        }
        Some(Trap::Interrupt) => {
            let message = format!("the run took longer than {:?}", limits.wall_clock);
            return exceeded(bound::WALL_CLOCK, message);
        }
        Some(Trap::StackOverflow) => {
            let message = format!("it needs more than {} bytes of stack", limits.stack_bytes);
            return exceeded(bound::STACK, message);
        }
        Some(trap) => trap.to_string(),
        None => {
            let reason = error.root_cause().to_string();
            if reason.contains(HOSTCALL_FUEL) {
                let most = limits.crossing_bytes;
                let message = format!("more than {most} bytes were to cross at once");
                return exceeded(bound::CROSSING, message);
            }
            reason
        }
    };
    let reason = reason.strip_prefix("wasm trap: ").unwrap_or(&reason);
    let mut message = cut(reason);
    if let Some(function) = innermost(error) {
        message = format!("{message} in {}", cut(function));
    }
    // A language's panic writes its message to the log, and then traps without one.
    let last_error = run.log.iter().rev().find(|it| it.level == LogLevel::Error);
    if let Some(line) = last_error {
        message = format!("{} ({message})", cut(&line.message));
    }
    RunEnding::Trapped(message)
}

/// In the engine's message when a value is larger than `set_hostcall_fuel` allows; it has no type of its own.
const HOSTCALL_FUEL: &str = "fuel allocated for hostcalls";

/// The most characters of each part of a trap's message.
const MESSAGE_CHARACTERS: usize = 500;

fn cut(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The name of the innermost function that has one.
fn innermost(error: &wasmtime::Error) -> Option<&str> {
    let backtrace = error.downcast_ref::<WasmBacktrace>()?;
    backtrace
        .frames()
        .iter()
        .find_map(|frame| frame.func_name())
}
