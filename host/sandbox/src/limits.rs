//! Every bound of the sandbox, with its name, its default and the reason for it.

use std::time::Duration;

use quorate_model::bound::{Bound, MountBounds};
use quorate_model::recipe::MAX_COMPONENT_BYTES;

/// What an upload may have. Checked before anything is compiled, since compiling is what costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadLimits {
    /// Bytes of the upload, and of the component made of it. Compiling takes some 30 times as much memory.
    pub bytes: usize,
    /// Bytes of all functions' code: compiling takes about a second for each MiB.
    pub code_bytes: usize,
    /// Bytes of one function's code: what compiling it takes grows faster than its length.
    pub function_bytes: usize,
    /// How deep modules and components stand in one another.
    pub nesting: usize,
    /// Core modules, nested components and instances, each. A component that wit-component makes of one
    /// module has three modules; interpreted languages link a dozen.
    pub modules: usize,
    /// Functions in all modules.
    pub functions: usize,
    /// Data and element segments in all modules: the engine walks them at every instantiation.
    pub segments: usize,
    /// Linear memories in all modules. Each takes a slot of the pool for the length of a run.
    pub memories: usize,
    /// Tables in all modules.
    pub tables: usize,
    /// Globals in all modules. Each is made at every instantiation.
    pub globals: usize,
    /// Types of functions, and the like, in all modules.
    pub types: usize,
    /// Imports of all modules: each is linked at every instantiation.
    pub imports: usize,
    /// Exports of all modules and components.
    pub exports: usize,
    /// Bytes of the sections that declare the component's types: they are read by recursion.
    pub type_bytes: usize,
    /// How deep declarations of types stand in one another.
    pub type_nesting: usize,
    /// Operations.
    pub operations: usize,
    /// Bytes of the name of an interface, an operation or a parameter.
    pub name_bytes: usize,
    /// How deep an operation's parameter or result may nest.
    pub type_depth: usize,
    /// Nodes of all operations' types written out, shared parts counted each time.
    pub type_nodes: usize,
    /// Bytes of the WIT text in the custom section `quorate:wit`: it is read by recursion.
    pub wit_bytes: usize,
}

impl Default for UploadLimits {
    fn default() -> UploadLimits {
        UploadLimits {
            bytes: MAX_COMPONENT_BYTES,
            code_bytes: 24 << 20,
            function_bytes: 1 << 20,
            nesting: 8,
            modules: 64,
            functions: 100_000,
            segments: 10_000,
            memories: 4,
            tables: 16,
            globals: 50_000,
            types: 50_000,
            imports: 50_000,
            exports: 50_000,
            type_bytes: 128 << 10,
            type_nesting: 16,
            operations: 1_000,
            name_bytes: 256,
            type_depth: 32,
            type_nodes: 100_000,
            wit_bytes: 64 << 10,
        }
    }
}

impl UploadLimits {
    /// All of them by the names that [`UploadError`](crate::UploadError) calls them.
    pub fn bounds(&mut self) -> [(&'static str, &mut usize); 20] {
        [
            ("bytes", &mut self.bytes),
            ("code-bytes", &mut self.code_bytes),
            ("function-bytes", &mut self.function_bytes),
            ("functions", &mut self.functions),
            ("segments", &mut self.segments),
            ("memories", &mut self.memories),
            ("tables", &mut self.tables),
            ("globals", &mut self.globals),
            ("types", &mut self.types),
            ("imports", &mut self.imports),
            ("exports", &mut self.exports),
            ("modules", &mut self.modules),
            ("nesting", &mut self.nesting),
            ("type-bytes", &mut self.type_bytes),
            ("type-nesting", &mut self.type_nesting),
            ("type-depth", &mut self.type_depth),
            ("type-nodes", &mut self.type_nodes),
            ("operations", &mut self.operations),
            ("name-bytes", &mut self.name_bytes),
            ("wit-bytes", &mut self.wit_bytes),
        ]
    }
}

/// What compiling a component may take, where it is compiled in a process of its own ([`crate::Compiler`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Seconds of a processor. What componentize-py makes of Python takes 17.
    pub cpu_seconds: u64,
    /// By the wall, since others want the processors too.
    pub wall_clock: Duration,
    /// Bytes of memory. Python takes 500 MB.
    pub memory_bytes: u64,
    /// Bytes of the machine code. Python's has 42 MB.
    pub code_bytes: usize,
}

/// How long a compilation may take by the wall, for each second of a processor: on a busy machine it gets a tenth of one.
const WALL_PER_CPU_SECOND: u64 = 10;

/// How long it may take at least, in seconds.
const LEAST_WALL_SECONDS: u64 = 60;

impl CompileLimits {
    /// The same with another bound on time: by a processor, and in proportion by the wall.
    pub fn with_cpu_seconds(self, cpu_seconds: u64) -> CompileLimits {
        let wall = cpu_seconds.saturating_mul(WALL_PER_CPU_SECOND);
        let wall = wall.max(LEAST_WALL_SECONDS);
        CompileLimits {
            cpu_seconds,
            wall_clock: Duration::from_secs(wall),
            ..self
        }
    }
}

impl Default for CompileLimits {
    fn default() -> CompileLimits {
        CompileLimits {
            cpu_seconds: 0,
            wall_clock: Duration::ZERO,
            memory_bytes: 2 << 30,
            code_bytes: 256 << 20,
        }
        .with_cpu_seconds(60)
    }
}

/// What one run may use. Exceeding one ends the run with [`Exceeded`](quorate_model::run::RunEnding::Exceeded),
/// which names it as the constants of [`bound`] do, and without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLimits {
    /// About one for each WebAssembly instruction, and more for each host call ([`crate::run::host_fuel`]).
    /// A heavy runtime burns a million before the call starts.
    pub fuel: u64,
    /// By the wall, since fuel is not time (rule C5). Far above what a run takes, so that a busy machine
    /// does not end good runs.
    pub wall_clock: Duration,
    /// Bytes of all linear memories.
    pub memory_bytes: usize,
    /// Elements of each table.
    pub table_elements: usize,
    /// Bytes of WebAssembly stack. Runs are on the caller's thread, which must have this and 512 KiB more.
    pub stack_bytes: usize,
    /// Calls of the interface `tree`.
    pub tree_operations: u64,
    /// Names in the path of a znode that is created: every look at it, and every change below it, goes up this way.
    pub depth: usize,
    /// Children that one call of `tree.children` or `tree.entries` gives.
    pub children: usize,
    /// Bytes that one host call takes from or gives to the recipe, and that its result takes in the host's
    /// memory, where each element of a list takes some 40.
    pub crossing_bytes: usize,
    /// Bytes of paths and data written.
    pub write_set_bytes: usize,
    /// Bytes of the arguments as JSON.
    pub argument_bytes: usize,
    /// Bytes of the result as JSON.
    pub result_bytes: usize,
    /// Lines to the log.
    pub log_lines: usize,
    /// Bytes of all lines to the log.
    pub log_bytes: usize,
    /// Bytes of what is handed to `park`.
    pub memo_bytes: usize,
    /// Watches.
    pub watches: usize,
}

impl Default for RunLimits {
    fn default() -> RunLimits {
        RunLimits {
            fuel: Bound::Fuel.default_value(),
            wall_clock: Duration::from_millis(Bound::WallClock.default_value()),
            memory_bytes: size(Bound::Memory.default_value()),
            table_elements: 100_000,
            stack_bytes: 512 << 10,
            tree_operations: Bound::TreeOperations.default_value(),
            depth: 64,
            children: 10_000,
            crossing_bytes: 64 << 20,
            write_set_bytes: size(Bound::WriteSet.default_value()),
            argument_bytes: 256 << 10,
            result_bytes: size(Bound::Result.default_value()),
            log_lines: size(Bound::LogLines.default_value()),
            log_bytes: 64 << 10,
            memo_bytes: 64 << 10,
            watches: 1_000,
        }
    }
}

impl RunLimits {
    /// The same, with the values that a mount has of its own.
    pub(crate) fn with(mut self, bounds: &MountBounds) -> RunLimits {
        for (bound, value) in bounds.iter() {
            match bound {
                Bound::Fuel => self.fuel = value,
                Bound::WallClock => self.wall_clock = Duration::from_millis(value),
                Bound::Memory => self.memory_bytes = size(value),
                Bound::TreeOperations => self.tree_operations = value,
                Bound::WriteSet => self.write_set_bytes = size(value),
                Bound::Result => self.result_bytes = size(value),
                Bound::LogLines => self.log_lines = size(value),
                // Those are not of one run.
                Bound::ParkedCalls
                | Bound::ParkedBytes
                | Bound::WakesPerSecond
                | Bound::ChainDepth
                | Bound::Failures => {}
            }
        }
        self
    }
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// The bounds' names, as [`Exceeded`](quorate_model::run::RunEnding::Exceeded) and the metrics have them.
pub mod bound {
    /// [`CompileLimits::cpu_seconds`](super::CompileLimits::cpu_seconds).
    pub const COMPILE_CPU: &str = "compile-cpu-seconds";
    /// [`CompileLimits::wall_clock`](super::CompileLimits::wall_clock).
    pub const COMPILE_WALL_CLOCK: &str = "compile-wall-clock";
    /// [`CompileLimits::memory_bytes`](super::CompileLimits::memory_bytes).
    pub const COMPILE_MEMORY: &str = "compile-memory-bytes";
    /// [`CompileLimits::code_bytes`](super::CompileLimits::code_bytes).
    pub const CODE: &str = "machine-code-bytes";
    /// [`RunLimits::fuel`](super::RunLimits::fuel).
    pub const FUEL: &str = "fuel";
    /// [`RunLimits::wall_clock`](super::RunLimits::wall_clock).
    pub const WALL_CLOCK: &str = "wall-clock";
    /// [`RunLimits::memory_bytes`](super::RunLimits::memory_bytes).
    pub const MEMORY: &str = "memory-bytes";
    /// [`RunLimits::table_elements`](super::RunLimits::table_elements).
    pub const TABLE: &str = "table-elements";
    /// [`RunLimits::stack_bytes`](super::RunLimits::stack_bytes).
    pub const STACK: &str = "stack-bytes";
    /// [`RunLimits::tree_operations`](super::RunLimits::tree_operations).
    pub const TREE_OPERATIONS: &str = "tree-operations";
    /// [`RunLimits::depth`](super::RunLimits::depth).
    pub const DEPTH: &str = "depth";
    /// [`RunLimits::children`](super::RunLimits::children).
    pub const CHILDREN: &str = "children";
    /// [`RunLimits::crossing_bytes`](super::RunLimits::crossing_bytes).
    pub const CROSSING: &str = "crossing-bytes";
    /// [`RunLimits::write_set_bytes`](super::RunLimits::write_set_bytes).
    pub const WRITE_SET: &str = "write-set-bytes";
    /// [`RunLimits::argument_bytes`](super::RunLimits::argument_bytes).
    pub const ARGUMENTS: &str = "argument-bytes";
    /// [`RunLimits::result_bytes`](super::RunLimits::result_bytes).
    pub const RESULT: &str = "result-bytes";
    /// [`RunLimits::log_lines`](super::RunLimits::log_lines).
    pub const LOG_LINES: &str = "log-lines";
    /// [`RunLimits::log_bytes`](super::RunLimits::log_bytes).
    pub const LOG_BYTES: &str = "log-bytes";
    /// [`RunLimits::memo_bytes`](super::RunLimits::memo_bytes).
    pub const MEMO: &str = "memo-bytes";
    /// [`RunLimits::watches`](super::RunLimits::watches).
    pub const WATCHES: &str = "watches";
}
