//! Bounds of a run that an honest recipe may reach too: each ends the run, by its name and without effect, and what is
//! exactly at the bound goes through.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod double;

use double::{MemoryTree, Mounted, returned};
use quorate_model::run::RunEnding;
use quorate_sandbox::{RunLimits, Sandbox, SandboxConfig, bound};

fn sandbox(change: impl FnOnce(&mut RunLimits)) -> Sandbox<MemoryTree> {
    let mut config = SandboxConfig {
        concurrent_runs: 1,
        ..SandboxConfig::default()
    };
    change(&mut config.run);
    Sandbox::new(config).unwrap()
}

fn mounted<'a>(sandbox: &'a Sandbox<MemoryTree>, recipe: &str) -> Mounted<'a> {
    Mounted::new(sandbox, quorate_recipes::find(recipe).unwrap().wasm)
}

#[track_caller]
fn assert_exceeds(mounted: &mut Mounted<'_>, operation: &str, arguments: &str, name: &str) {
    let before = mounted.tree.nodes.clone();
    match mounted.call(1, operation, arguments) {
        RunEnding::Exceeded { bound, .. } => assert_eq!(bound, name),
        other => panic!("{name}: {other:?}"),
    }
    assert_eq!(mounted.tree.nodes, before);
}

#[test]
fn a_path_has_so_many_names() {
    // A member's znode stands at <name>/members/<session>, the gate at <name>/gate.
    for (depth, fits) in [(2, false), (3, true)] {
        let sandbox = sandbox(|limits| limits.depth = depth);
        let mut mounted = mounted(&sandbox, "double-barrier");
        match fits {
            true => assert_eq!(mounted.call(1, "enter", r#"["a", 1]"#), returned("null")),
            false => assert_exceeds(&mut mounted, "enter", r#"["a", 1]"#, bound::DEPTH),
        }
    }
}

#[test]
fn one_question_gives_so_many_children() {
    let sandbox = sandbox(|limits| limits.children = 2);
    // Their names alone, and with what they have.
    for (recipe, put, all, with) in [
        ("registry", "register", "services", ""),
        ("membership", "join", "members", r#""web""#),
    ] {
        let mut mounted = mounted(&sandbox, recipe);
        for number in 0..3 {
            let arguments = match recipe {
                "registry" => format!(r#"["web-{number}", "one", "here", []]"#),
                _ => format!(r#"["web", "web-{number}", "here"]"#),
            };
            if number == 2 {
                let two = mounted.call(1, all, &format!("[{with}]"));
                assert!(matches!(two, RunEnding::Returned(_)), "{two:?}");
            }
            assert_eq!(mounted.call(1, put, &arguments), returned("null"));
        }
        assert_exceeds(&mut mounted, all, &format!("[{with}]"), bound::CHILDREN);
    }
}

#[test]
fn a_run_writes_so_many_bytes() {
    let sandbox = sandbox(|limits| limits.write_set_bytes = 10_000);
    let mut mounted = mounted(&sandbox, "shared-value");
    // A value that is not there yet is written twice: it is set, which fails, and then created.
    let set = |length: usize| format!(r#"["colour", "{}"]"#, "x".repeat(length));
    let ending = mounted.call(1, "set", &set(4_000));
    assert!(matches!(ending, RunEnding::Returned(_)), "{ending:?}");
    assert_exceeds(&mut mounted, "set", &set(10_000), bound::WRITE_SET);
    assert_eq!(mounted.tree.text("colour").len(), 4_000);
}

#[test]
fn arguments_have_so_many_bytes() {
    let text = r#"["colour", "red"]"#;
    let sandbox = sandbox(|limits| limits.argument_bytes = text.len());
    let mut mounted = mounted(&sandbox, "shared-value");
    let ending = mounted.call(1, "set", text);
    assert!(matches!(ending, RunEnding::Returned(_)), "{ending:?}");
    let longer = r#"["colour", "reds"]"#;
    assert_exceeds(&mut mounted, "set", longer, bound::ARGUMENTS);
    assert_eq!(mounted.fuel, 0, "it did not run");
}
