//! The wasmtime engine as every run has it.

use quorate_model::bound::Bound;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::limits::{RunLimits, UploadLimits};

/// Bytes of a memory or table that stay in the pool between runs: what a small recipe touches, so that a run
/// of it takes no page fault.
const KEEP_RESIDENT_BYTES: usize = 64 << 10;

/// The most memory that a mount may be given.
const MAX_MEMORY_BYTES: usize = Bound::Memory.maximum() as usize;

/// What the engine is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineLimits {
    pub(crate) run: RunLimits,
    pub(crate) upload: UploadLimits,
    pub(crate) concurrent_runs: usize,
}

/// An engine with a pool for `concurrent_runs` runs.
pub(crate) fn engine(limits: &EngineLimits) -> wasmtime::Result<Engine> {
    let mut config = config(&limits.run);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(limits)));
    Engine::new(&config)
}

/// An engine whose machine code is that of [`engine`], and which runs nothing: it has no pool.
pub(crate) fn compiler(run: &RunLimits) -> wasmtime::Result<Engine> {
    let mut config = config(run);
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    Engine::new(&config)
}

fn pool(limits: &EngineLimits) -> PoolingAllocationConfig {
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
        // A mount may have more than the others.
        .max_memory_size(limits.run.memory_bytes.max(MAX_MEMORY_BYTES))
        .table_elements(limits.run.table_elements)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        // It came with Linux 6.7. Where it is missing, a run takes about twice as long.
        .pagemap_scan(Enabled::Auto);
    pool
}

fn config(run: &RunLimits) -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .concurrency_support(false)
        .max_wasm_stack(run.stack_bytes)
        // Enough to name the function that trapped; every park and refuse pays for it too.
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_FRAMES))
        .native_unwind_info(false);
    config
}

/// Frames to look at for the name of a function: the innermost ones are a language's panic machinery.
const BACKTRACE_FRAMES: usize = 8;
