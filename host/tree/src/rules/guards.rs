//! Guards (rule C7).

use super::*;

/// A world with one session, in which the recipe of steps is mounted at `/m`, open, with a guard.
fn guarded() -> (World, SessionId) {
    let mut world = World::new();
    let asks = [Ask::Open].into_iter().chain(push_of(1));
    for ask in asks.chain([Ask::Mount { sealed: false }]) {
        world.step(&Step::Ask(0, ask));
    }
    let session = world.sessions[0];
    (world, session)
}

fn set(path: &str, data: &'static str) -> ZnodeOperation {
    ZnodeOperation::Set {
        path: ZnodePath::parse(path).unwrap(),
        data: bytes::Bytes::from(data),
        version: -1,
    }
}

fn delete(path: &str) -> ZnodeOperation {
    ZnodeOperation::Delete {
        path: ZnodePath::parse(path).unwrap(),
        version: -1,
    }
}

fn part(operation: Operation) -> ZnodeOperation {
    match operation {
        Operation::Znode(operation) => operation,
        other => panic!("{other:?}"),
    }
}

fn asked(world: &World) -> usize {
    let index = ZnodePath::parse("/m/index").unwrap();
    world.replica.node(&index).map_or(0, |node| node.data.len())
}

/// Everything below the mount.
fn tree(world: &World) -> Vec<String> {
    let children = world.replica.children(&ZnodePath::parse("/m").unwrap());
    children.unwrap()
}

#[test]
fn c7_a_guard_is_asked_once_for_each_request_and_keeps_an_index_in_the_same_transaction() {
    let (mut world, session) = guarded();
    let before = world.replica.last_zxid();
    world.ask(session, create("/m/x"));
    assert_eq!(asked(&world), 1);
    let multi = vec![
        set("/m/x", "1"),
        part(create("/m/z")),
        set("/m/x", "2"),
        part(create("/outside")),
    ];
    let outcome = world.ask(session, Operation::Multi(multi));
    assert!(matches!(outcome, Outcome::Multi(_)), "{outcome:?}");
    assert_eq!(asked(&world), 3, "two znodes, once");
    let transactions = world.replica.last_zxid().counter() - before.counter();
    assert_eq!(transactions, 2, "what it writes is part of the request");
    world.ask(session, create("/elsewhere"));
    assert_eq!(asked(&world), 3);
}

#[test]
fn c7_a_guard_refuses_creates_sets_deletes_and_multis_and_nothing_is_changed() {
    let (mut world, session) = guarded();
    // Before the guard: the operator takes it away and puts it back.
    world.push(0);
    world.step(&Step::Ask(0, Ask::Upgrade));
    world.ask(session, create("/m/y"));
    world.push(1);
    world.step(&Step::Ask(0, Ask::Upgrade));
    let before = tree(&world);
    let refused = [
        create("/m/l-y"),
        Operation::Znode(set("/m/y", "x")),
        Operation::Znode(delete("/m/y")),
    ];
    for operation in refused {
        let outcome = world.ask(session, operation.clone());
        let Outcome::Refused(Refusal::GuardRefused { reason, .. }) = outcome else {
            panic!("{operation:?}: {outcome:?}");
        };
        assert_eq!(reason, "nothing may end in y");
    }
    let multi = vec![
        part(create("/outside")),
        part(create("/m/a")),
        delete("/m/y"),
    ];
    let outcome = world.ask(session, Operation::Multi(multi));
    let Outcome::Refused(Refusal::Multi { index: 1, refusal }) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(matches!(*refusal, Refusal::GuardRefused { .. }));
    assert_eq!(tree(&world), before);
    assert_eq!(
        world.replica.stat(&ZnodePath::parse("/outside").unwrap()),
        None
    );
}

#[test]
fn c7_a_guard_that_fails_or_is_suspended_refuses_and_is_named() {
    let (mut world, session) = guarded();
    world.ask(session, create("/m/x"));
    world.set(Bound::Failures, 2);
    let failed = |outcome: Outcome| match outcome {
        Outcome::Refused(Refusal::GuardFailed {
            mount,
            recipe,
            reason,
        }) => {
            assert_eq!((mount.as_str(), recipe.as_str()), ("/m", "steps"));
            reason
        }
        other => panic!("{other:?}"),
    };
    let outcome = world.ask(session, Operation::Znode(set("/m/x", "not-ready")));
    assert!(
        matches!(outcome, Outcome::Refused(Refusal::NotReady(_))),
        "{outcome:?}"
    );
    let reason = failed(world.ask(session, Operation::Znode(set("/m/x", "trap"))));
    assert!(reason.contains("as asked"), "{reason}");
    let reason = failed(world.ask(session, Operation::Znode(set("/m/x", "park"))));
    assert!(reason.contains("has to return"), "{reason}");
    let reason = failed(world.ask(session, Operation::Znode(set("/m/x", "good"))));
    assert!(reason.contains("suspended"), "{reason}");
    assert_eq!(asked(&world), 1);
    world.step(&Step::Ask(0, Ask::Resume));
    world.ask(session, Operation::Znode(set("/m/x", "good")));
    assert_eq!(asked(&world), 2);
}

#[test]
fn c7_a_guard_is_not_asked_about_the_end_of_sessions_expiry_and_the_recipes_own_writes() {
    let (mut world, session) = guarded();
    world.ask(session, create_as("/m/x", CreateLifetime::Ephemeral));
    assert_eq!(asked(&world), 1);
    // The recipe's own: a lease of a run, which then expires, and a ticket that cleanup deletes.
    let call = |key, operation: &str, arguments: &str| {
        Operation::Call(CallRequest {
            key,
            mount: ZnodePath::parse("/m").unwrap(),
            operation: operation.into(),
            arguments: arguments.into(),
            timeout_ms: None,
            acknowledged: Acknowledgement::default(),
        })
    };
    world.ask(session, call(1, "lease", "lease-y"));
    world.step(&Step::Pass(1000));
    world.ask(session, call(2, "ticket", "line-y"));
    world.ask(session, Operation::Cancel { key: 2 });
    assert_eq!(asked(&world), 1);
    world.ask(session, Operation::CloseSession);
    assert_eq!(world.replica.stat(&ZnodePath::parse("/m/x").unwrap()), None);
    assert_eq!(tree(&world), ["index"]);
    assert_eq!(asked(&world), 1);
}

#[test]
fn c7_all_guards_of_a_request_share_one_budget() {
    let (mut world, session) = guarded();
    let mount = |path: &str| Operation::Mount {
        path: ZnodePath::parse(path).unwrap(),
        recipe: "steps".into(),
        digest: None,
        settings: MountSettings {
            sealed: Some(false),
            ..MountSettings::default()
        },
        upgrade: false,
    };
    for path in ["/n", "/o"] {
        let outcome = world.ask(session, mount(path));
        assert!(matches!(outcome, Outcome::Mounted { .. }), "{outcome:?}");
    }
    world.with_bounds(Bounds {
        // Enough for two: each costs something beside the fuel that it uses.
        guard_fuel: 25_000,
        ..Bounds::default()
    });
    let creates =
        |paths: &[&str]| Operation::Multi(paths.iter().map(|path| part(create(path))).collect());
    let outcome = world.ask(session, creates(&["/m/1", "/n/1", "/o/1"]));
    let Outcome::Refused(refusal) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(refusal.to_string().contains("together"), "{refusal}");
    let outcome = world.ask(session, creates(&["/m/1", "/n/1"]));
    assert!(matches!(outcome, Outcome::Multi(_)), "{outcome:?}");
}

#[test]
fn c7_a_guard_that_finds_the_writers_session_full_has_not_failed() {
    let (mut world, session) = guarded();
    world.ask(session, create("/m/x"));
    for _ in 0..3 {
        let outcome = world.ask(session, Operation::Znode(set("/m/x", "full")));
        assert_eq!(bound_of(outcome), "ephemeral-bytes-per-session");
    }
    let outcome = world.ask(session, Operation::Znode(set("/m/x", "1")));
    assert!(matches!(outcome, Outcome::Znode(_)), "{outcome:?}");
}
