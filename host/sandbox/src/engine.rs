//! The wasmtime engine as every run has it, and the ticker of its clock.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::limits::{RunLimits, UploadLimits};

/// The grain of a run's wall-clock deadline.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Bytes of a memory or table that stay in the pool between runs: what a small recipe touches, so that a run
/// of it takes no page fault.
const KEEP_RESIDENT_BYTES: usize = 64 << 10;

/// What the engine is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineLimits {
    pub(crate) run: RunLimits,
    pub(crate) upload: UploadLimits,
    pub(crate) concurrent_runs: usize,
}

/// An engine with a pool for `concurrent_runs` runs.
pub(crate) fn engine(limits: &EngineLimits) -> wasmtime::Result<Engine> {
    // `PAGEMAP_SCAN` came with Linux 6.7. Where it is missing, a run takes about twice as long.
    Engine::new(&config(limits, Enabled::Auto))
}

fn config(limits: &EngineLimits, pagemap_scan: Enabled) -> Config {
    let runs = u32::try_from(limits.concurrent_runs).unwrap_or(u32::MAX);
    let of = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(runs)
        .total_core_instances(runs.saturating_mul(of(limits.upload.modules)))
        .total_memories(runs.saturating_mul(of(limits.upload.memories)))
        .total_tables(runs.saturating_mul(of(limits.upload.tables)))
        .max_core_instances_per_component(of(limits.upload.modules))
        .max_memories_per_component(of(limits.upload.memories))
        .max_tables_per_component(of(limits.upload.tables))
        .max_tables_per_module(of(limits.upload.tables))
        .max_memories_per_module(of(limits.upload.memories))
        .max_memory_size(limits.run.memory_bytes)
        .table_elements(limits.run.table_elements)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .pagemap_scan(pagemap_scan);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .concurrency_support(false)
        .max_wasm_stack(limits.run.stack_bytes)
        // Enough to name the function that trapped; every park and refuse pays for it too.
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_FRAMES))
        .native_unwind_info(false);
    config
}

/// Frames to look at for the name of a function: the innermost ones are a language's panic machinery.
const BACKTRACE_FRAMES: usize = 8;

/// Moves the engine's clock until it is dropped.
pub(crate) struct Ticker {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Ticker> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let thread = std::thread::Builder::new()
            .name("recipe-ticker".into())
            .spawn({
                let stop = Arc::clone(&stop);
                let engine = engine.clone();
                move || {
                    let (stopped, changed) = &*stop;
                    let mut guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
                    while !*guard {
                        let waited = changed.wait_timeout(guard, TICK);
                        guard = waited.unwrap_or_else(PoisonError::into_inner).0;
                        engine.increment_epoch();
                    }
                }
            })?;
        Ok(Ticker {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        let (stopped, changed) = &*self.stop;
        *stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // The thread only waits and counts: it cannot have panicked.
            let _ = thread.join();
        }
    }
}

/// Permits for so many runs at once: a full pool would be an error.
pub(crate) struct Permits {
    free: Mutex<usize>,
    freed: Condvar,
}

/// Given back on drop.
pub(crate) struct Permit<'a>(&'a Permits);

impl Permits {
    pub(crate) fn new(count: usize) -> Permits {
        Permits {
            free: Mutex::new(count),
            freed: Condvar::new(),
        }
    }

    /// Waits for a run to end if so many go on already. Each ends by its wall-clock deadline.
    pub(crate) fn take(&self) -> Permit<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_while(free, |free| *free == 0);
        *waited.unwrap_or_else(PoisonError::into_inner) -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}
