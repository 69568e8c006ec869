//! Compiling in a process of its own, which is this server's binary: each of its bounds ends it, is named, and is counted.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate::clock::{Clock, SystemHands};
use quorate::http::RecipeCheck;
use quorate::metrics::{Metrics, Snapshot};
use quorate::recipes::{self, Recipes};
use quorate_sandbox::{CompileLimits, Compiler};
use tempfile::TempDir;

struct Compiling {
    recipes: Recipes,
    metrics: Arc<Metrics>,
    cache: TempDir,
}

impl Compiling {
    fn with(limits: CompileLimits) -> Compiling {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_quorate"));
        let (cache, metrics) = (tempfile::tempdir().unwrap(), Arc::new(Metrics::new()));
        let compiler = Compiler::of(program, limits);
        let sandbox = recipes::sandbox(cache.path().to_owned(), Some(compiler)).unwrap();
        let clock = Arc::new(Clock::start(SystemHands::start()));
        Compiling {
            recipes: Recipes::new(Arc::new(sandbox), metrics.clone(), clock),
            metrics,
            cache,
        }
    }

    /// The upload is refused for the bound; nothing is kept of it, and it is counted.
    #[track_caller]
    fn refuses(&self, upload: Bytes, bound: &str) {
        let refused = RecipeCheck::prepare(&self.recipes, upload).unwrap_err();
        assert!(
            refused.contains(&format!("the bound {bound} ")),
            "{refused}"
        );
        assert_eq!(
            self.count(&format!("bounds_reached_total{{bound=\"{bound}\"}}")),
            1
        );
        assert_eq!(self.count("compile_failures_total"), 1);
        assert_eq!(self.count("compiled_total"), 0);
        assert_eq!(self.count("compiling"), 0);
        let mut kept = self.cache.path().read_dir().unwrap();
        assert!(kept.next().is_none(), "something is kept");
    }

    fn count(&self, name: &str) -> u64 {
        let text = self.metrics.text(Snapshot::default());
        let line = format!("quorate_{name} ");
        let mut found = text.lines().filter_map(|it| it.strip_prefix(&line));
        found.next().expect(name).parse().unwrap()
    }
}

fn counter() -> Bytes {
    Bytes::from_static(quorate_recipes::find("counter").unwrap().wasm)
}

/// Takes a compiler half a minute: 8000 steps, of which each may be left out at run time and changes one of 500
/// variables, which are all alive at the end.
fn slow() -> Bytes {
    const VARIABLES: usize = 500;
    let mut random = fastrand::Rng::with_seed(7);
    let mut steps = String::new();
    for _ in 0..8000 {
        let [one, other, changed] = [(); 3].map(|()| random.usize(0..VARIABLES));
        let _ = write!(
            steps,
            "(block (br_if 0 (local.get {one}))
                (local.set {changed} (i32.mul (local.get {other}) (local.get {one}))))"
        );
    }
    let sum: String = (0..VARIABLES)
        .map(|place| format!("(i32.add (local.get {place}))"))
        .collect();
    let variables = "i32 ".repeat(VARIABLES);
    let text = format!(
        r#"(component
            (core module $m (func (export "f") (result i32) (local {variables}) {steps} (i32.const 7) {sum}))
            (core instance $i (instantiate $m))
            (func (export "get") (result u32) (canon lift (core func $i "f"))))"#
    );
    wat::parse_str(text).unwrap().into()
}

#[test]
fn a_compilation_within_its_bounds() {
    let compiling = Compiling::with(CompileLimits::default());
    RecipeCheck::prepare(&compiling.recipes, counter()).unwrap();
    assert_eq!(compiling.count("compiled_total"), 1);
    assert_eq!(compiling.cache.path().read_dir().unwrap().count(), 1);
}

#[test]
fn a_compilation_has_so_much_of_a_processor() {
    let limits = CompileLimits::default().with_cpu_seconds(1);
    Compiling::with(limits).refuses(slow(), "compile-cpu-seconds");
}

/// Also if it does not use a processor, such as on a machine that is too busy.
#[test]
fn a_compilation_has_so_long() {
    let limits = CompileLimits {
        wall_clock: Duration::from_millis(300),
        ..CompileLimits::default()
    };
    Compiling::with(limits).refuses(slow(), "compile-wall-clock");
}

#[test]
fn a_compilation_has_so_much_memory() {
    let limits = CompileLimits {
        memory_bytes: 24 << 20,
        ..CompileLimits::default()
    };
    Compiling::with(limits).refuses(counter(), "compile-memory-bytes");
}

#[test]
fn a_compilation_makes_so_much_code() {
    let limits = CompileLimits {
        code_bytes: 10_000,
        ..CompileLimits::default()
    };
    Compiling::with(limits).refuses(counter(), "machine-code-bytes");
}
