//! Suspension (rule C4), and how a mount can be set.

use super::*;
use quorate_model::acl::Identity;

fn path() -> ZnodePath {
    ZnodePath::parse("/m").unwrap()
}

fn suspended(world: &World) -> Option<String> {
    world.replica.mount(&path()).unwrap().suspended.clone()
}

#[test]
fn c4_a_mount_is_suspended_after_so_many_failed_runs_in_a_row_and_can_be_resumed() {
    let (mut world, session) = mounted(false);
    assert_eq!(world.call(session, 1, "wait"), Outcome::Parked);
    world.set(Bound::Failures, 3);
    // What goes well in between begins the count anew, and a refusal is no failure.
    for (key, operation) in [
        (2, "trap"),
        (3, "trap"),
        (4, "set"),
        (5, "trap"),
        (6, "fail"),
        (7, "trap"),
        (8, "trap"),
    ] {
        world.call(session, key, operation);
    }
    assert_eq!(suspended(&world), None);
    // The count is part of the state.
    world.open_epoch();
    world.call(session, 9, "trap");
    let reason = suspended(&world).unwrap();
    assert!(
        reason.contains("3 runs") && reason.contains("as asked"),
        "{reason}"
    );

    let outcome = world.call(session, 10, "set");
    let Outcome::Refused(refusal @ Refusal::Suspended { .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(
        refusal.to_string().contains("quorate resume /m"),
        "{refusal}"
    );
    assert!(
        matches!(world.call(session, 9, "trap"), Outcome::Answered(_)),
        "what is known is answered"
    );
    // A call that wakes keeps its mark, also under the next leader, and holds up nobody.
    world.ask(session, create("/m/x"));
    world.open_epoch();
    world.step(&Step::Pass(100));
    assert!(
        world
            .replica
            .parked(CallId { session, key: 1 })
            .unwrap()
            .marked
    );
    assert!(!world.evaluator.has_wakes() && !world.evaluator.has_left_over());
    assert_eq!(
        world.ask(session, Operation::Resume { path: path() }),
        Outcome::Resumed {
            was_suspended: true
        }
    );
    assert_eq!(
        world.ask(session, Operation::Resume { path: path() }),
        Outcome::Resumed {
            was_suspended: false
        }
    );
    assert_eq!(
        world.ending(session, 1),
        Some(Ending::Returned("null".into()))
    );
    assert!(matches!(
        world.call(session, 11, "set"),
        Outcome::Answered(_)
    ));
}

#[test]
fn c4_woken_calls_that_fail_count_too() {
    let (mut world, session) = mounted(false);
    world.set(Bound::Failures, 2);
    for key in 1..=3 {
        assert_eq!(world.call(session, key, "trap-later"), Outcome::Parked);
    }
    world.ask(session, create("/m/x"));
    assert!(suspended(&world).is_some());
    assert!(world.ending(session, 2).is_some());
    assert_eq!(world.ending(session, 3), None, "it waits for its mount");
}

#[test]
fn c4_calls_that_wake_one_another_for_ever_suspend_their_mount_and_no_other() {
    let (mut world, session) = mounted(false);
    world.set(Bound::ChainDepth, 50);
    world.call(session, 1, "ping");
    world.call(session, 2, "pong");
    for _ in 0..5 {
        world.step(&Step::Pass(20));
    }
    let reason = suspended(&world).unwrap();
    assert!(reason.contains("chain-depth"), "{reason}");
    assert!(!world.evaluator.has_wakes(), "nothing runs any more");
    let runs = world.replica.last_zxid().counter();
    assert!(runs < 100, "{runs}");
}

#[test]
fn c4_a_call_that_wakes_itself_for_ever_suspends_its_mount() {
    let (mut world, session) = mounted(false);
    world.set(Bound::ChainDepth, 100);
    world.call(session, 1, "restless");
    for _ in 0..5 {
        world.step(&Step::Pass(20));
    }
    assert!(suspended(&world).unwrap().contains("chain-depth"));
}

#[test]
fn c4_a_mount_that_wakes_too_often_in_a_second_is_suspended() {
    let (mut world, session) = mounted(false);
    world.set(Bound::WakesPerSecond, 5);
    for round in 0..2 {
        for key in 1..=4 {
            world.call(session, 10 * round + key, "wait");
        }
        let change = if round == 0 { create("/m/x") } else { set_x() };
        world.ask(session, change);
        assert_eq!(suspended(&world), None, "four in a second are allowed");
        world.step(&Step::Pass(1000));
    }
    for key in 1..=6 {
        world.call(session, 100 + key, "wait");
    }
    world.ask(session, set_x());
    assert!(suspended(&world).unwrap().contains("wakes-per-second"));
    assert_eq!(world.ending(session, 106), None);
}

fn set_x() -> Operation {
    Operation::Znode(ZnodeOperation::Set {
        path: ZnodePath::parse("/m/x").unwrap(),
        data: bytes::Bytes::new(),
        version: -1,
    })
}

#[test]
fn a_mount_says_who_may_call() {
    let (mut world, session) = mounted(true);
    let settings = |callers: &[&str]| MountSettings {
        callers: Some(
            callers
                .iter()
                .map(|one| Identity::parse(one).unwrap())
                .collect(),
        ),
        ..MountSettings::default()
    };
    let set = |settings| Operation::SetMount {
        path: path(),
        settings,
    };
    assert_eq!(world.call(session, 1, "wait"), Outcome::Parked);
    world.ask(session, set(settings(&["ip:10.0.0.0/8", "digest:anna:x"])));
    let outcome = world.call(session, 2, "set");
    assert!(
        matches!(outcome, Outcome::Refused(Refusal::NoAuth(_))),
        "{outcome:?}"
    );
    assert_eq!(world.call(session, 1, "wait"), Outcome::Parked, "known");
    world.ask(session, set(settings(&["world:anyone"])));
    assert!(matches!(
        world.call(session, 2, "set"),
        Outcome::Answered(_)
    ));
    for wrong in [
        settings(&[]),
        MountSettings {
            bounds: vec![(Bound::Fuel, Some(Bound::Fuel.maximum() + 1))],
            ..MountSettings::default()
        },
    ] {
        let outcome = world.ask(session, set(wrong));
        assert!(
            matches!(outcome, Outcome::Refused(Refusal::BadArguments(_))),
            "{outcome:?}"
        );
    }
}
