//! The standard recipes, run by the sandbox on a tree in memory.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod double;

use double::{MemoryTree, Mounted, parked, returned};
use quorate_model::run::RunEnding;
use quorate_sandbox::{Sandbox, SandboxConfig};

fn sandbox() -> Sandbox<MemoryTree> {
    Sandbox::new(SandboxConfig::default()).unwrap()
}

fn standard(name: &str) -> &'static [u8] {
    quorate_recipes::find(name).unwrap().wasm
}

#[track_caller]
fn assert_refused(ending: &RunEnding, part: &str) {
    match ending {
        RunEnding::Refused(reason) => assert!(reason.contains(part), "{reason:?}"),
        other => panic!("{part}: {other:?}"),
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
fn fair_lock_hands_over_in_order() {
    let sandbox = sandbox();
    let mut locks = Mounted::new(&sandbox, standard("fair-lock"));
    assert_eq!(
        locks.call(1, "acquire", r#"["inventory"]"#),
        returned(r#"{"token":101,"holds":1}"#)
    );
    let (memo, watches) = parked(locks.call(2, "acquire", r#"{"name":"inventory"}"#));
    assert_eq!(memo, "ticket-0000000000000001");
    assert_eq!(watches, ["node inventory/ticket-0000000000000000"]);
    let (third, watches) = parked(locks.call(3, "acquire", r#"["inventory"]"#));
    assert_eq!(watches, ["node inventory/ticket-0000000000000001"]);

    assert_eq!(locks.call(1, "release", r#"["inventory"]"#), returned("0"));
    assert_eq!(
        locks.run(2, "acquire", r#"["inventory"]"#, Some(memo)),
        returned(r#"{"token":102,"holds":1}"#)
    );
    assert_eq!(
        locks.call(9, "holder", r#"["inventory"]"#),
        returned(r#"{"session":2,"token":102,"holds":1}"#)
    );
    // Session 2 ends: its ticket goes, and the next in line has the lock.
    locks.tree.remove("inventory/ticket-0000000000000001");
    assert_eq!(
        locks.run(3, "acquire", r#"["inventory"]"#, Some(third)),
        returned(r#"{"token":103,"holds":1}"#)
    );
    assert_eq!(locks.call(3, "release", r#"["inventory"]"#), returned("0"));
    assert_eq!(locks.tree.paths(), [""], "an idle lock leaves nothing");
}

#[test]
fn a_session_that_may_own_no_more_ends_the_run_at_that_bound_and_is_no_failure_of_the_recipe() {
    let sandbox = sandbox();
    let mut locks = Mounted::new(&sandbox, standard("fair-lock"));
    locks.tree.full = true;
    let ending = locks.call(1, "acquire", r#"["inventory"]"#);
    let expected = RunEnding::exceeded("ephemeral-bytes-per-session", "it owns enough".into());
    assert_eq!(ending, expected);
    assert!(!ending.is_failure());
}

#[test]
fn fair_lock_is_reentrant_and_refuses_who_does_not_hold_it() {
    let sandbox = sandbox();
    let mut locks = Mounted::new(&sandbox, standard("fair-lock"));
    let holder = r#"["a"]"#;
    assert_eq!(locks.call(1, "holder", holder), returned("null"));
    assert_refused(&locks.call(1, "release", holder), "does not hold");
    let first = returned(r#"{"token":103,"holds":1}"#);
    assert_eq!(locks.call(1, "try-acquire", holder), first);
    let second = returned(r#"{"token":103,"holds":2}"#);
    assert_eq!(locks.call(1, "acquire", holder), second);
    assert_eq!(locks.call(2, "try-acquire", holder), returned("null"));
    assert_refused(&locks.call(2, "release", holder), "does not hold");
    let (memo, _) = parked(locks.call(2, "acquire", holder));
    assert_eq!(locks.call(1, "release", holder), returned("1"));
    assert_eq!(locks.call(1, "release", holder), returned("0"));
    // The ticket is taken out of the line, by an operator say, before the call wakes.
    locks.tree.remove("a/ticket-0000000000000001");
    assert_refused(&locks.run(2, "acquire", holder, Some(memo)), "taken out");
    assert_refused(&locks.call(1, "acquire", r#"["a/b"]"#), "is no name");
    assert_refused(&locks.call(1, "acquire", r#"[""]"#), "is no name");
    // What ZooKeeper's paths do not allow is no name either, and says why.
    assert_refused(&locks.call(1, "acquire", r#"[".."]"#), "relative names");
    assert_refused(&locks.call(1, "acquire", "[\"\u{1f600}\"]"), "an emoji");
    let long = format!("[\"{}\"]", "x".repeat(2000));
    assert_refused(&locks.call(1, "acquire", &long), "longer than 1024 bytes");
    assert_eq!(locks.tree.paths(), [""]);
}

#[test]
fn counter_counts() {
    let sandbox = sandbox();
    let mut counters = Mounted::new(&sandbox, standard("counter"));
    assert_eq!(counters.call(1, "get", r#"["a"]"#), returned("0"));
    assert_eq!(counters.call(1, "add", r#"["a",5]"#), returned("5"));
    assert_eq!(counters.call(2, "add", r#"["a",-7]"#), returned("-2"));
    assert_eq!(counters.call(2, "get", r#"["a"]"#), returned("-2"));
    assert_eq!(
        counters.call(1, "compare-and-set", r#"["a",-2,9223372036854775807]"#),
        returned("true")
    );
    assert_eq!(
        counters.call(1, "compare-and-set", r#"["a",-2,1]"#),
        returned("false")
    );
    assert_refused(&counters.call(1, "add", r#"["a",1]"#), "does not fit");
    assert_eq!(counters.tree.text("a"), "9223372036854775807");
    assert_eq!(
        counters.call(1, "add", r#"["a"]"#),
        RunEnding::BadCall("add takes 2 arguments (name and amount), not 1".into())
    );
}

#[test]
fn a_panic_says_what_and_where() {
    let sandbox = sandbox();
    let mut counters = Mounted::new(&sandbox, standard("counter"));
    assert_eq!(counters.call(1, "add", r#"["a",5]"#), returned("5"));
    counters.tree.nodes.get_mut("a").unwrap().0 = "five".into();
    let ending = counters.call(1, "get", r#"["a"]"#);
    assert_traps(&ending, "the data \"five\" do not fit");
    assert_traps(&ending, "counter/src/lib.rs");
    assert_eq!(counters.log.len(), 1);
}

#[test]
fn election_elects_in_order_and_lets_candidates_withdraw() {
    let sandbox = sandbox();
    let mut elections = Mounted::new(&sandbox, standard("election"));
    let of = r#"["orders"]"#;
    assert_eq!(elections.call(1, "leader", of), returned("null"));
    assert_eq!(
        elections.call(1, "campaign", r#"["orders","one:80"]"#),
        returned(r#"{"token":102}"#)
    );
    let (second, watches) = parked(elections.call(2, "campaign", r#"["orders","two:80"]"#));
    assert_eq!(second, "0000000000-0000000000000000");
    assert_eq!(
        watches,
        [
            "node orders/leader",
            "node orders/candidates/0000000000-0000000000000000"
        ]
    );
    let (third, watches) = parked(elections.call(3, "campaign", r#"["orders","three:80"]"#));
    assert_eq!(
        watches,
        [
            "node orders/candidates/0000000000-0000000000000000",
            "node orders/candidates/0000000000-0000000000000001"
        ]
    );
    assert_eq!(
        elections.call(9, "leader", of),
        returned(r#"{"candidate":"one:80","session":1,"token":102}"#)
    );
    assert_eq!(
        elections.call(1, "campaign", r#"["orders","one:80"]"#),
        returned(r#"{"token":102}"#)
    );
    // A candidate that waits withdraws: its own call is refused, and nobody else's place changes.
    assert_eq!(elections.call(2, "resign", of), returned("false"));
    let arguments = r#"["orders","two:80"]"#;
    assert_refused(
        &elections.run(2, "campaign", arguments, Some(second)),
        "has withdrawn",
    );
    assert_eq!(elections.call(1, "resign", of), returned("true"));
    assert_eq!(
        elections.run(3, "campaign", r#"["orders","three:80"]"#, Some(third)),
        returned(r#"{"token":110}"#)
    );
    assert_eq!(elections.call(3, "resign", of), returned("true"));
    assert_eq!(elections.tree.paths(), [""]);
}

#[test]
fn every_operation_is_documented() {
    let sandbox = sandbox();
    for recipe in quorate_recipes::all() {
        let description = sandbox.prepare(recipe.wasm).unwrap().interface.describe();
        assert!(description.documentation.is_some(), "{}", recipe.name);
        for operation in description.operations {
            assert!(operation.documentation.is_some(), "{}", operation.name);
        }
        for ty in description.types {
            assert!(ty.documentation.is_some(), "{}", ty.name);
        }
    }
}
