//! Upgrades and roll-backs (rule C10), and what is kept of recipes.

use super::*;
use crate::properties::component;
use proptest::prelude::*;
use quorate_model::recipe::{RecipeDigest, Upgrade};

fn digest(byte: u8) -> RecipeDigest {
    RecipeDigest::of(&component(byte))
}

fn upgrade_to(byte: u8) -> Operation {
    Operation::Mount {
        path: ZnodePath::parse("/m").unwrap(),
        recipe: "steps".into(),
        digest: Some(digest(byte)),
        settings: MountSettings::default(),
        upgrade: true,
    }
}

fn mounted_digest(world: &World) -> RecipeDigest {
    let mount = world.replica.mount(&ZnodePath::parse("/m").unwrap());
    mount.unwrap().digest
}

fn followed(followed_calls: u64, ended_calls: u64) -> Outcome {
    Outcome::Followed {
        followed_calls,
        ended_calls,
        done: true,
    }
}

fn remove(byte: Option<u8>) -> Operation {
    Operation::RemoveRecipe {
        name: "steps".into(),
        digest: byte.map(digest),
    }
}

#[test]
fn c10_an_upgrade_runs_the_parked_calls_on_the_new_code_and_ends_those_that_do_not_fit() {
    let (mut world, session) = mounted(true);
    world.set(Bound::LogLines, 7);
    assert_eq!(world.call(session, 1, "wait"), Outcome::Parked);
    assert_eq!(world.call(session, 2, "watch-all"), Outcome::Parked);
    world.push(9);
    assert_eq!(mounted_digest(&world), digest(0), "a push moves no mount");
    let outcome = world.ask_through(session, upgrade_to(9));
    assert_eq!(outcome, followed(2, 1));
    assert_eq!(mounted_digest(&world), digest(9));
    assert!(matches!(
        world.ending(session, 1),
        Some(Ending::Outdated(_))
    ));
    assert_eq!(
        world.ending(session, 2),
        Some(Ending::Returned("null".into()))
    );
    let mount = world
        .replica
        .mount(&ZnodePath::parse("/m").unwrap())
        .unwrap();
    assert!(
        mount.sealed && mount.bounds.of(Bound::LogLines) == 7,
        "the rest stays"
    );

    // The roll-back is the same.
    assert_eq!(world.call(session, 3, "watch-all"), Outcome::Parked);
    let outcome = world.ask_through(session, upgrade_to(0));
    assert_eq!(outcome, followed(1, 0));
    assert_eq!(mounted_digest(&world), digest(0));
    assert!(world.ending(session, 3).is_some());
}

/// A world in which so many calls are parked at `/m`, keys from 1 on, and a component is pushed to upgrade to.
fn with_parked(calls: u64, operation: &str, byte: u8) -> (World, SessionId) {
    let (mut world, session) = mounted(false);
    for key in 1..=calls {
        assert_eq!(world.call(session, key, operation), Outcome::Parked);
    }
    world.push(byte);
    world.with_bounds(Bounds {
        mount_step: 10,
        ..Bounds::default()
    });
    (world, session)
}

/// The first step of an upgrade that calls are to follow.
fn begin(world: &mut World, byte: u8) -> Operation {
    let operation = upgrade_to(byte);
    let outcome = world.ask(SessionId::NONE, operation.clone());
    operation.next_step(&outcome).unwrap()
}

fn upgrade_of(world: &World) -> Upgrade {
    let mount = world.replica.mount(&ZnodePath::parse("/m").unwrap());
    mount.unwrap().upgrade.unwrap()
}

#[test]
fn s6_an_upgrade_swaps_the_component_first_and_the_parked_calls_follow_in_steps() {
    let (mut world, session) = with_parked(35, "watch-all", 4);
    let step = begin(&mut world, 4);
    assert_eq!(mounted_digest(&world), digest(4));
    let marked = |world: &World| {
        let calls = world.replica.parked_calls();
        calls.filter(|call| call.marked).count()
    };
    assert_eq!(marked(&world), 0);
    assert_eq!(world.call(session, 99, "watch-all"), Outcome::Parked);
    for expected in [10, 20, 30] {
        world
            .evaluator
            .evaluate_alone(&request(SessionId::NONE, step.clone()), None, world.now);
        let batch = world.evaluator.take_batch(usize::MAX).unwrap();
        let changes = &batch.transactions[0].changes;
        assert_eq!(changes.len(), 11, "ten marks, and how far it has come");
        world.propose_batch(batch);
        assert_eq!(upgrade_of(&world).followed_calls, expected);
        assert_eq!(marked(&world), 10);
        // What they run is due right behind; and others' requests go between the steps.
        world.evaluator.tick(world.now);
        world.propose();
        let others = world.ask(session, create(&format!("/between-{expected}")));
        assert!(matches!(others, Outcome::Znode(_)), "{others:?}");
    }
    assert_eq!(world.ask(session, step.clone()), followed(35, 0));
    let keys = |keys: std::ops::RangeInclusive<u64>, world: &World| {
        let mut keys = keys;
        keys.all(|key| world.ending(session, key) == Some(Ending::Returned("null".into())))
    };
    assert!(keys(1..=35, &world));
    assert_eq!(world.ending(session, 99), None, "it has only known the new");
    // Whoever asks again is told the same.
    assert_eq!(world.ask(session, step), followed(35, 0));
    let again = world.ask(session, upgrade_to(4));
    assert!(matches!(
        again,
        Outcome::Mounted {
            following: None,
            ..
        }
    ));
}

#[test]
fn s6_a_step_of_an_upgrade_is_bounded_in_bytes_too() {
    let (mut world, session) = with_parked(0, "", 1);
    world.with_bounds(Bounds {
        mount_step: 10,
        mount_step_bytes: 2_000,
        ..Bounds::default()
    });
    for key in 1..=8 {
        let long = CallRequest {
            key,
            mount: ZnodePath::parse("/m").unwrap(),
            operation: "watch-all".into(),
            arguments: "x".repeat(1_500),
            timeout_ms: None,
            acknowledged: Acknowledgement::default(),
        };
        let outcome = world.ask(session, Operation::Call(long));
        assert_eq!(outcome, Outcome::Parked);
    }
    let step = begin(&mut world, 1);
    let mut steps = 0;
    while upgrade_of(&world).behind.is_some() {
        world.ask(session, step.clone());
        steps += 1;
    }
    assert_eq!(steps, 4);
    assert_eq!(upgrade_of(&world).followed_calls, 8);
}

#[test]
fn s6_a_new_leader_goes_on_with_an_upgrade_where_the_last_one_was() {
    let (mut world, session) = with_parked(25, "watch-all", 1);
    let step = begin(&mut world, 1);
    world.ask(session, step.clone());
    // This one is evaluated, and lost with its leader.
    world.apply_all();
    world
        .evaluator
        .evaluate_alone(&request(SessionId::NONE, step), None, world.now);
    world.open_epoch();
    assert_eq!(mounted_digest(&world), digest(1));
    assert_eq!(upgrade_of(&world).followed_calls, 10);
    // Nobody knows who drove it: to ask again goes on.
    assert_eq!(world.ask_through(session, upgrade_to(1)), followed(25, 0));
    world.step(&Step::Pass(100));
    assert!((1..=25).all(|key| world.ending(session, key).is_some()));
}

#[test]
fn c10_a_call_that_is_woken_before_it_follows_runs_on_the_new_code_or_ends_and_counts() {
    let (mut world, session) = with_parked(0, "", 9);
    let operations = ["wait", "watch-all", "watch-again", "wait", "watch-all"];
    for (key, operation) in (1..).zip(operations) {
        assert_eq!(world.call(session, key, operation), Outcome::Parked);
    }
    let step = begin(&mut world, 9);
    // Before any step.
    world.ask(session, create("/m/x"));
    for key in [1, 4] {
        let ending = world.ending(session, key);
        assert!(matches!(ending, Some(Ending::Outdated(_))), "{ending:?}");
    }
    for key in [2, 5] {
        let ending = world.ending(session, key);
        assert_eq!(ending, Some(Ending::Returned("null".into())));
    }
    let upgrade = upgrade_of(&world);
    assert_eq!((upgrade.followed_calls, upgrade.ended_calls), (4, 2));
    // The one that waits again has run, and is counted when it follows.
    assert_eq!(world.ask(session, step), followed(5, 2));
}

#[test]
fn c10_a_marked_call_of_a_suspended_mount_that_does_not_fit_ends_when_it_follows() {
    let (mut world, session) = with_parked(3, "wait", 9);
    world.set(Bound::WakesPerSecond, 1);
    world.ask(session, create("/m/x"));
    let path = ZnodePath::parse("/m").unwrap();
    assert!(world.replica.mount(&path).unwrap().suspended.is_some());
    let outcome = world.ask_through(session, upgrade_to(9));
    assert_eq!(outcome, followed(2, 2), "one has run before it");
    assert_eq!(world.replica.parked_calls().count(), 0);
}

#[test]
fn c10_a_second_upgrade_begins_anew_and_the_first_is_overtaken() {
    let (mut world, session) = with_parked(25, "watch-again", 1);
    world.push(4);
    world.push(9);
    let first = begin(&mut world, 1);
    world.ask(session, first.clone());
    assert_eq!(world.call(session, 26, "wait"), Outcome::Parked);
    let second = begin(&mut world, 9);
    assert_eq!(upgrade_of(&world).followed_calls, 0);
    assert_eq!(
        world.ask(session, first),
        Outcome::Refused(Refusal::Overtaken(ZnodePath::parse("/m").unwrap()))
    );
    assert_eq!(world.ask_through(session, second), followed(26, 1));
    // Back again, with as many as are left.
    assert_eq!(world.ask_through(session, upgrade_to(4)), followed(25, 0));
    // Where nobody waits, nobody follows.
    for key in 1..=25 {
        world.ask(session, Operation::Cancel { key });
    }
    let outcome = world.ask(session, upgrade_to(0));
    assert!(matches!(
        outcome,
        Outcome::Mounted {
            following: None,
            ..
        }
    ));
    let mount = world.replica.mount(&ZnodePath::parse("/m").unwrap());
    assert_eq!(mount.unwrap().upgrade, None);
}

/// What may come between the steps.
#[derive(Clone, Debug)]
enum Between {
    Step,
    Leader,
    Fire,
    Cancel(u64),
    Call(u64),
}

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        4 => Just(Between::Step),
        1 => Just(Between::Leader),
        2 => Just(Between::Fire),
        2 => (1..20_u64).prop_map(Between::Cancel),
        1 => (21..30_u64).prop_map(Between::Call),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn c10_every_call_that_waited_follows_once_or_has_ended_before(
        operations in proptest::collection::vec(0..4_usize, 1..20),
        between in proptest::collection::vec(between(), 0..30),
    ) {
        let (mut world, session) = with_parked(0, "", 9);
        world.with_bounds(Bounds { mount_step: 3, ..Bounds::default() });
        for (key, operation) in (1..).zip(&operations) {
            let operation = ["wait", "watch-all", "watch-again", "ticket"][*operation];
            world.call(session, key, operation);
        }
        let parked = world.replica.parked_calls().count() as u64;
        let step = begin(&mut world, 9);
        let (mut cancelled, mut fired) = (0, 0);
        for one in between {
            match one {
                Between::Step => {
                    world.ask(session, step.clone());
                }
                Between::Leader => {
                    if let Some(suspect) = world.open_epoch() {
                        world.evaluator.run_suspect(suspect, world.now);
                    }
                    world.propose();
                }
                Between::Fire => {
                    fired += 1;
                    world.ask(session, create(&format!("/m/x/{fired}")));
                }
                Between::Cancel(key) => {
                    let call = world.replica.parked(CallId { session, key });
                    let awaited = call.is_some_and(|call| upgrade_of(&world).awaits(call.age, call.id));
                    cancelled += u64::from(awaited);
                    world.ask(session, Operation::Cancel { key });
                }
                Between::Call(key) => {
                    world.call(session, key, "watch-all");
                }
            }
        }
        while upgrade_of(&world).behind.is_some() {
            world.ask(session, step.clone());
        }
        world.step(&Step::Pass(100));
        let outdated = (1..30).filter(|key| matches!(world.ending(session, *key), Some(Ending::Outdated(_))));
        let upgrade = upgrade_of(&world);
        prop_assert_eq!(upgrade.ended_calls, outdated.count() as u64);
        prop_assert_eq!(upgrade.followed_calls + cancelled, parked);
        prop_assert!(world.replica.parked_calls().all(|call| call.operation != "wait"));
        world.finish();
    }
}

#[test]
fn c10_an_upgrade_restarts_the_standing_call() {
    let (mut world, session) = mounted(false);
    let runs = |world: &World| {
        let runs = ZnodePath::parse("/m/runs").unwrap();
        world.replica.node(&runs).map_or(0, |node| node.data.len())
    };
    for byte in [2, 3] {
        world.push(byte);
        world.ask(session, upgrade_to(byte));
    }
    assert_eq!(runs(&world), 2);
    world.ask(session, upgrade_to(0));
    assert_eq!(world.replica.parked_calls().count(), 0, "this one has none");
}

#[test]
fn c10_components_are_kept_side_by_side_and_none_in_use_is_removed() {
    let (mut world, session) = mounted(true);
    world.push(1);
    for kept in [0, 1] {
        assert!(world.replica.component(&digest(kept)).is_some());
    }
    for in_use in [Some(0), None] {
        let outcome = world.ask(session, remove(in_use));
        assert!(
            matches!(outcome, Outcome::Refused(Refusal::RecipeInUse { .. })),
            "{outcome:?}"
        );
    }
    assert_eq!(world.ask(session, remove(Some(1))), Outcome::Removed);
    assert!(world.replica.component(&digest(1)).is_none());
    assert_eq!(
        world.replica.recipe("steps").unwrap().current.digest,
        digest(0)
    );
    // Many pushes later what is mounted is there, and the oldest of the others has gone.
    for byte in 10..25 {
        let (digest, component) = (digest(byte), component(byte));
        let piece = Operation::UploadPiece {
            digest,
            bytes: component.len() as u64,
            offset: 0,
            piece: component,
        };
        world.ask(session, piece);
        let push = Operation::PushRecipe {
            name: "steps".into(),
            digest,
            version: Some("1.0.0".into()),
            exports: Default::default(),
        };
        assert_eq!(world.ask(session, push), Outcome::Pushed(digest));
    }
    assert!(world.replica.component(&digest(0)).is_some());
    assert!(world.replica.component(&digest(24)).is_some());
    assert!(world.replica.component(&digest(10)).is_none());
    assert!(world.replica.components().count() <= 11);
    world.unmount(session);
    assert_eq!(world.ask(session, remove(None)), Outcome::Removed);
    assert_eq!(world.replica.components().count(), 0);
}
