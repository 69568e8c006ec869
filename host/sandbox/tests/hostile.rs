//! Components that mean ill. Each run ends with the right message, the host and the tree are as before, and
//! the next run is as good as the first.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod double;

use std::time::Duration;

use double::{MemoryTree, Mounted, parked, returned};
use quorate_model::run::RunEnding;
use quorate_sandbox::{RunLimits, Sandbox, SandboxConfig, bound};

/// A component of one core module, with one operation for each `(name, type, core code)`.
struct Hostile {
    imports: &'static str,
    module: String,
    operations: String,
}

/// What gives a core module the recipe ABI's functions that the tests call.
const IMPORTS: &str = r#"
    (import "quorate:recipe/watch@0.1.0" (instance $watch
        (export "node" (func (param "path" string)))
        (export "time" (func (param "at" u64)))))
    (import "quorate:recipe/call@0.1.0" (instance $call
        (export "park" (func (param "memo" (list u8))))
        (export "refuse" (func (param "reason" string)))
        (export "now" (func (result u64)))))
    (core module $libc
        (memory (export "memory") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
    (core instance $libc (instantiate $libc))
    (core func $node (canon lower (func $watch "node") (memory (core memory $libc "memory"))))
    (core func $time (canon lower (func $watch "time")))
    (core func $park (canon lower (func $call "park") (memory (core memory $libc "memory"))))
    (core func $refuse (canon lower (func $call "refuse") (memory (core memory $libc "memory"))))
    (core func $now (canon lower (func $call "now")))
    (core instance $host
        (export "memory" (memory $libc "memory"))
        (export "node" (func $node)) (export "time" (func $time))
        (export "park" (func $park)) (export "refuse" (func $refuse)) (export "now" (func $now)))
"#;
const CORE_IMPORTS: &str = r#"
    (import "host" "memory" (memory 1))
    (import "host" "node" (func $node (param i32 i32)))
    (import "host" "time" (func $time (param i64)))
    (import "host" "park" (func $park (param i32 i32)))
    (import "host" "refuse" (func $refuse (param i32 i32)))
    (import "host" "now" (func $now (result i64)))
"#;

impl Hostile {
    fn new() -> Hostile {
        Hostile {
            imports: "",
            module: String::new(),
            operations: String::new(),
        }
    }

    /// With the recipe ABI: `$node`, `$park` and the like.
    fn with_host() -> Hostile {
        Hostile {
            imports: IMPORTS,
            module: CORE_IMPORTS.into(),
            operations: String::new(),
        }
    }

    fn core(mut self, code: &str) -> Hostile {
        self.module.push_str(code);
        self
    }

    /// An operation without parameters and result.
    fn operation(self, name: &str, code: &str) -> Hostile {
        let function = format!(r#"(func (export "{name}") {code})"#);
        let lifted = format!(r#"(func (export "{name}") (canon lift (core func $m "{name}")))"#);
        let mut hostile = self.core(&function);
        hostile.operations.push_str(&lifted);
        hostile
    }

    /// An operation with a result that lies in the module's memory `m`, where the code says.
    fn giving(self, name: &str, result: &str, code: &str) -> Hostile {
        let function = format!(r#"(func (export "{name}") (result i32) {code})"#);
        let lifted = format!(
            r#"(func (export "{name}") (result {result})
                (canon lift (core func $m "{name}") (memory (core memory $m "m"))))"#
        );
        let mut hostile = self.core(&function);
        hostile.operations.push_str(&lifted);
        hostile
    }

    fn build(&self) -> Vec<u8> {
        let with = match self.imports {
            "" => "",
            _ => r#"(with "host" (instance $host))"#,
        };
        let text = format!(
            r#"(component
                {}
                (core module $module {})
                (core instance $m (instantiate $module {with}))
                {})"#,
            self.imports, self.module, self.operations
        );
        wat::parse_str(text).unwrap()
    }
}

fn sandbox(change: impl FnOnce(&mut RunLimits)) -> Sandbox<MemoryTree> {
    let mut config = SandboxConfig {
        concurrent_runs: 2,
        ..SandboxConfig::default()
    };
    change(&mut config.run);
    Sandbox::new(config).unwrap()
}

#[track_caller]
fn assert_exceeds(ending: &RunEnding, name: &str) {
    match ending {
        RunEnding::Exceeded { bound, .. } => assert_eq!(*bound, name, "{ending:?}"),
        other => panic!("{name}: {other:?}"),
    }
}

#[track_caller]
fn assert_traps(ending: &RunEnding, part: &str) {
    match ending {
        RunEnding::Trapped(message) => assert!(message.contains(part), "{message:?}"),
        other => panic!("{part}: {other:?}"),
    }
}

#[test]
fn loops_and_bombs() {
    let sandbox = sandbox(|_| {});
    let hostile = Hostile::new()
        .core("(memory 1) (table $t 1 funcref) (func $deep (call $deep))")
        .operation("spin", "(loop (br 0))")
        .operation("trap", "unreachable")
        .operation("divide", "(drop (i32.div_s (i32.const 1) (i32.const 0)))")
        .operation("grow", "(loop (drop (memory.grow (i32.const 16))) (br 0))")
        .operation(
            "seats",
            "(loop (drop (table.grow $t (ref.null func) (i32.const 10000))) (br 0))",
        )
        .operation("deepen", "(call $deep)")
        .operation("good", "");
    let mut mounted = Mounted::new(&sandbox, &hostile.build());
    let before = mounted.tree.clone();
    for _ in 0..20 {
        assert_exceeds(&mounted.call(1, "spin", ""), bound::FUEL);
        assert_eq!(mounted.fuel, RunLimits::default().fuel);
        assert_traps(&mounted.call(1, "trap", ""), "unreachable");
        assert_traps(&mounted.call(1, "divide", ""), "divide by zero");
        assert_exceeds(&mounted.call(1, "grow", ""), bound::MEMORY);
        assert_exceeds(&mounted.call(1, "seats", ""), bound::TABLE);
        assert_exceeds(&mounted.call(1, "deepen", ""), bound::STACK);
        assert_eq!(mounted.call(1, "good", ""), returned("null"));
    }
    assert_eq!(mounted.tree.nodes, before.nodes);
}

#[test]
fn fuel_is_not_time() {
    let sandbox = sandbox(|limits| {
        limits.fuel = u64::MAX;
        limits.wall_clock = Duration::from_millis(30);
    });
    let hostile = Hostile::new().operation("spin", "(loop (br 0))");
    let mut mounted = Mounted::new(&sandbox, &hostile.build());
    assert_exceeds(&mounted.call(1, "spin", ""), bound::WALL_CLOCK);
}

#[test]
fn what_happens_at_instantiation_counts_too() {
    let sandbox = sandbox(|_| {});
    let spin = Hostile::new()
        .core("(func $spin (loop (br 0))) (start $spin)")
        .operation("good", "");
    let mut mounted = Mounted::new(&sandbox, &spin.build());
    assert_exceeds(&mounted.call(1, "good", ""), bound::FUEL);
}

#[test]
fn a_memory_larger_than_the_bound_is_refused_before_it_runs() {
    let sandbox = sandbox(|_| {});
    let large = Hostile::new().core("(memory 5000)").operation("good", "");
    let prepared = sandbox.prepare(&large.build()).unwrap();
    let error = sandbox
        .make_ready(prepared.digest, &prepared.component)
        .unwrap_err();
    assert!(error.to_string().contains("memory"), "{error}");
}

#[test]
fn results_that_lie() {
    let sandbox = sandbox(|limits| limits.result_bytes = 1_000);
    // At 0: a list or string that reaches beyond the memory. At 8: two bytes that are no UTF-8. At 16: 60,000
    // bytes. At 24: a thousand lists, all of the same 60,000 bytes. At 32: a case that there is not.
    let hostile = Hostile::new()
        .core(
            r#"(memory (export "m") 1)
            (data (i32.const 0) "\00\00\00\00\ff\ff\ff\7f")
            (data (i32.const 8) "\28\00\00\00\02\00\00\00")
            (data (i32.const 16) "\00\00\00\00\60\ea\00\00")
            (data (i32.const 24) "\00\10\00\00\e8\03\00\00")
            (data (i32.const 32) "\09\00\00\00\00\00\00\00")
            (data (i32.const 40) "\c3\28")
            (func $fill (local $at i32)
                (local.set $at (i32.const 4096))
                (loop
                    (i32.store (local.get $at) (i32.const 0))
                    (i32.store offset=4 (local.get $at) (i32.const 60000))
                    (local.set $at (i32.add (local.get $at) (i32.const 8)))
                    (br_if 0 (i32.lt_u (local.get $at) (i32.const 12096)))))"#,
        )
        .giving("beyond", "string", "(i32.const 0)")
        .giving("garbled", "string", "(i32.const 8)")
        .giving("long", "(list u8)", "(i32.const 16)")
        .giving(
            "amplified",
            "(list (list u8))",
            "(call $fill) (i32.const 24)",
        )
        .giving("caseless", "(option u32)", "(i32.const 32)")
        .giving("unaligned", "(option u32)", "(i32.const 33)");
    let mut mounted = Mounted::new(&sandbox, &hostile.build());
    assert_traps(&mounted.call(1, "beyond", ""), "out of bounds");
    assert_traps(&mounted.call(1, "garbled", ""), "utf-8");
    assert_exceeds(&mounted.call(1, "long", ""), bound::RESULT);
    assert_exceeds(&mounted.call(1, "amplified", ""), bound::CROSSING);
    assert_traps(&mounted.call(1, "caseless", ""), "");
    assert_traps(&mounted.call(1, "unaligned", ""), "");
}

#[test]
fn parking_and_refusing() {
    let sandbox = sandbox(|limits| {
        limits.watches = 3;
        limits.memo_bytes = 4;
    });
    let text = r#"(data (i32.const 0) "a/b../c/memo\c3\28")"#;
    let hostile = Hostile::with_host()
        .core(text)
        .operation("alone", "(call $park (i32.const 0) (i32.const 0))")
        .operation(
            "well",
            "(call $node (i32.const 0) (i32.const 3)) (call $time (i64.const 7))
             (call $park (i32.const 8) (i32.const 4))",
        )
        .operation(
            "long",
            "(call $time (i64.const 7)) (call $park (i32.const 0) (i32.const 5))",
        )
        .operation("many", "(loop (call $time (i64.const 7)) (br 0))")
        .operation("outside", "(call $node (i32.const 3) (i32.const 4))")
        .operation("garbled", "(call $node (i32.const 12) (i32.const 2))")
        .operation("beyond", "(call $node (i32.const 65535) (i32.const 9))")
        .operation("refuse", "(call $refuse (i32.const 8) (i32.const 4))");
    let mut mounted = Mounted::new(&sandbox, &hostile.build());
    assert_traps(&mounted.call(1, "alone", ""), "without a watch");
    let (memo, watches) = parked(mounted.call(1, "well", ""));
    assert_eq!(memo, "memo");
    assert_eq!(watches, ["node a/b", "time 7"]);
    assert_exceeds(&mounted.call(1, "long", ""), bound::MEMO);
    assert_exceeds(&mounted.call(1, "many", ""), bound::WATCHES);
    assert_traps(&mounted.call(1, "outside", ""), "../c");
    assert_traps(&mounted.call(1, "garbled", ""), "utf-8");
    assert_traps(&mounted.call(1, "beyond", ""), "out of bounds");
    let refused = RunEnding::Refused("memo".into());
    assert_eq!(mounted.call(1, "refuse", ""), refused);
}

/// What gives a core module the interfaces `tree` and `log`.
const TREE_IMPORTS: &str = r#"
    (import "quorate:recipe/types@0.1.0" (instance $types
        (type $e (enum "no-node" "node-exists" "not-empty" "no-session"))
        (export "error" (type (eq $e)))
        (type $l (variant (case "persistent") (case "container") (case "session" u64) (case "until" u64)))
        (export "lifetime" (type (eq $l)))))
    (alias export $types "error" (type $error))
    (alias export $types "lifetime" (type $lifetime))
    (import "quorate:recipe/tree@0.1.0" (instance $tree
        (alias outer 1 $error (type $e0))
        (export "error" (type $e (eq $e0)))
        (alias outer 1 $lifetime (type $l0))
        (export "lifetime" (type $l (eq $l0)))
        (export "create" (func (param "path" string) (param "data" (list u8)) (param "lifetime" $l)
            (result (result (error $e)))))
        (export "delete" (func (param "path" string) (result (result (error $e)))))))
    (import "quorate:recipe/log@0.1.0" (instance $log
        (type $v (enum "debug" "info" "warn" "error"))
        (export "level" (type $level (eq $v)))
        (export "write" (func (param "level" $level) (param "message" string)))))
    (core module $libc (memory (export "memory") 1))
    (core instance $libc (instantiate $libc))
    (core func $create (canon lower (func $tree "create") (memory (core memory $libc "memory"))))
    (core func $delete (canon lower (func $tree "delete") (memory (core memory $libc "memory"))))
    (core func $write (canon lower (func $log "write") (memory (core memory $libc "memory"))))
    (core instance $host
        (export "memory" (memory $libc "memory")) (export "create" (func $create))
        (export "delete" (func $delete)) (export "write" (func $write)))
"#;
/// `$put` creates at a path a persistent znode with so many bytes of data from 0.
const TREE_CORE: &str = r#"
    (import "host" "memory" (memory 1))
    (import "host" "create" (func $create (param i32 i32 i32 i32 i32 i64 i32)))
    (import "host" "delete" (func $delete (param i32 i32 i32)))
    (import "host" "write" (func $write (param i32 i32 i32)))
    (func $put (param $path i32) (param $length i32) (param $data i32)
        (call $create (local.get $path) (local.get $length) (i32.const 0) (local.get $data)
            (i32.const 0) (i64.const 0) (i32.const 1024)))
"#;

#[test]
fn changes_that_lie_touch_nothing() {
    let sandbox = sandbox(|limits| limits.tree_operations = 100);
    let hostile = Hostile {
        imports: TREE_IMPORTS,
        module: TREE_CORE.into(),
        operations: String::new(),
    };
    // At 0 a good name, and what is none: two dots, an absolute path, no UTF-8, a zero.
    let hostile = hostile
        .core(r#"(data (i32.const 0) "good../x/abs\c3\28a\00b")"#)
        .operation(
            "good",
            "(call $put (i32.const 0) (i32.const 4) (i32.const 1))",
        )
        .operation(
            "up",
            "(call $put (i32.const 4) (i32.const 4) (i32.const 1))",
        )
        .operation(
            "absolute",
            "(call $put (i32.const 8) (i32.const 4) (i32.const 1))",
        )
        .operation(
            "garbled",
            "(call $put (i32.const 12) (i32.const 2) (i32.const 1))",
        )
        .operation(
            "zero",
            "(call $put (i32.const 14) (i32.const 3) (i32.const 1))",
        )
        .operation(
            "beyond",
            "(call $put (i32.const 0) (i32.const 65537) (i32.const 1))",
        )
        .operation(
            "negative",
            "(call $put (i32.const 0) (i32.const -1) (i32.const 1))",
        )
        .operation(
            "data",
            "(call $put (i32.const 0) (i32.const 4) (i32.const 2147483647))",
        )
        .operation(
            "case",
            "(call $create (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 1) (i32.const 9)
                (i64.const 0) (i32.const 1024))",
        )
        .operation(
            "answer",
            "(call $create (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 1) (i32.const 0)
                (i64.const 0) (i32.const 65535))",
        )
        .operation(
            "mount",
            "(call $delete (i32.const 0) (i32.const 0) (i32.const 1024))",
        )
        .operation(
            "level",
            "(call $write (i32.const 9) (i32.const 0) (i32.const 4))",
        )
        .operation(
            "line",
            "(call $write (i32.const 1) (i32.const 12) (i32.const 2))",
        )
        .operation(
            "talk",
            "(loop (call $write (i32.const 1) (i32.const 0) (i32.const 4)) (br 0))",
        )
        .operation(
            "shout",
            "(loop (call $write (i32.const 1) (i32.const 2048) (i32.const 60000)) (br 0))",
        )
        .operation(
            "ask",
            "(loop (call $delete (i32.const 0) (i32.const 4) (i32.const 1024)) (br 0))",
        )
        .operation(
            "half",
            "(call $put (i32.const 0) (i32.const 4) (i32.const 1)) unreachable",
        );
    let mut mounted = Mounted::new(&sandbox, &hostile.build());
    let before = mounted.tree.clone();
    for (operation, part) in [
        ("up", ".."),
        ("absolute", "/abs"),
        ("garbled", "utf-8"),
        ("zero", ""),
        ("beyond", "out of bounds"),
        ("negative", "out of bounds"),
        ("data", "out of bounds"),
        ("case", ""),
        ("answer", ""),
        ("level", ""),
        ("line", "utf-8"),
        ("half", "unreachable"),
    ] {
        assert_traps(&mounted.call(1, operation, ""), part);
        assert_eq!(mounted.tree.nodes, before.nodes, "{operation}");
    }
    assert_exceeds(&mounted.call(1, "talk", ""), bound::LOG_LINES);
    assert_eq!(mounted.log.len(), 100);
    assert_exceeds(&mounted.call(1, "shout", ""), bound::LOG_BYTES);
    assert_exceeds(&mounted.call(1, "ask", ""), bound::TREE_OPERATIONS);
    assert_eq!(mounted.tree.nodes, before.nodes);
    assert_eq!(mounted.call(1, "good", ""), returned("null"));
    assert_eq!(mounted.tree.paths(), ["", "good"]);
}

/// The host asks the recipe for memory to put an argument into.
#[test]
fn memory_for_arguments_that_is_none() {
    let sandbox = sandbox(|_| {});
    for (code, part) in [
        ("i32.const -1", ""),
        ("i32.const 65530", ""),
        ("unreachable", "unreachable"),
        ("i32.const 0", "null"),
    ] {
        let text = format!(
            r#"(component
                (core module $module (memory (export "m") 1)
                    (func (export "realloc") (param i32 i32 i32 i32) (result i32) {code})
                    (func (export "take") (param i32 i32)))
                (core instance $m (instantiate $module))
                (func (export "take") (param "text" string)
                    (canon lift (core func $m "take") (memory (core memory $m "m")) (realloc (core func $m "realloc")))))"#
        );
        let mut mounted = Mounted::new(&sandbox, &wat::parse_str(text).unwrap());
        let ending = mounted.call(1, "take", r#"["some text"]"#);
        if part == "null" {
            // Its own memory, and its own business.
            assert_eq!(ending, returned("null"));
        } else {
            assert_traps(&ending, part);
        }
    }
    let text = r#"(component
        (core module $module (memory (export "m") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (loop (br 0)) i32.const 0)
            (func (export "take") (param i32 i32)))
        (core instance $m (instantiate $module))
        (func (export "take") (param "text" string)
            (canon lift (core func $m "take") (memory (core memory $m "m")) (realloc (core func $m "realloc")))))"#;
    let mut mounted = Mounted::new(&sandbox, &wat::parse_str(text).unwrap());
    assert_exceeds(&mounted.call(1, "take", r#"["x"]"#), bound::FUEL);
}

#[test]
fn bombs_of_instances_memories_and_tables_are_refused_as_uploads() {
    let sandbox = sandbox(|_| {});
    let refused = |inside: &str| {
        let text = format!(
            r#"(component {inside}
                (core module $module (func (export "good")))
                (core instance $m (instantiate $module))
                (func (export "good") (canon lift (core func $m "good"))))"#
        );
        let upload = wat::parse_str(text).unwrap();
        let error = sandbox.prepare(&upload).map(drop).unwrap_err();
        error.to_string()
    };
    let empty = "(core module $e)";
    let instances = "(core instance (instantiate $e))".repeat(200);
    let memories = "(core module (memory 1))".repeat(5);
    let tables = format!("(core module {})", "(table 1 funcref)".repeat(17));
    for (inside, bound) in [
        (format!("{empty}{instances}"), "modules"),
        (memories, "memories"),
        (tables, "tables"),
    ] {
        let message = refused(&inside);
        assert!(
            message.contains(&format!("the bound {bound}:")),
            "{message}"
        );
    }
    // A table as large as there may be none is found before a run, or ends it.
    let large = Hostile::new()
        .core("(table 200000 funcref)")
        .operation("good", "");
    let prepared = sandbox.prepare(&large.build()).unwrap();
    let ready = sandbox.make_ready(prepared.digest, &prepared.component);
    assert!(ready.is_err(), "{ready:?}");
}

#[test]
fn host_calls_cost_fuel() {
    let sandbox = sandbox(|limits| limits.fuel = 1_000_000);
    let hostile = Hostile::with_host().operation("ask", "(loop (drop (call $now)) (br 0))");
    let mut mounted = Mounted::new(&sandbox, &hostile.build());
    let ending = mounted.call(1, "ask", "");
    assert_exceeds(&ending, bound::FUEL);
    assert_eq!(mounted.fuel, 1_000_000);
}

#[test]
fn runs_beyond_the_pool_wait() {
    let sandbox = sandbox(|_| {});
    let hostile = Hostile::new()
        .core(
            "(memory 1) (func $wait (param i32) (loop
            (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
            (br_if 0 (local.get 0))))",
        )
        .operation("work", "(call $wait (i32.const 100000))");
    let upload = hostile.build();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut mounted = Mounted::new(&sandbox, &upload);
                for _ in 0..50 {
                    assert_eq!(mounted.call(1, "work", ""), returned("null"));
                }
            });
        }
    });
}
