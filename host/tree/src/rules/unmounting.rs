//! Unmounting, in steps (rule S6).

use proptest::prelude::*;
use quorate_model::trial::{TrialOf, TrialRequest};

use super::*;
use crate::properties::mount;

fn path() -> ZnodePath {
    ZnodePath::parse("/m").unwrap()
}

/// A world in which calls are parked at `/m`, which is open, keys from 1 on; ten of them end in a step.
fn with_parked(operations: &[&str]) -> (World, SessionId) {
    let (mut world, session) = mounted(false);
    world.with_bounds(Bounds {
        mount_step: 10,
        ..Bounds::default()
    });
    for (key, operation) in (1..).zip(operations) {
        assert_eq!(world.call(session, key, operation), Outcome::Parked);
    }
    (world, session)
}

/// Begins to unmount; gives the next step.
fn begin(world: &mut World) -> Operation {
    let outcome = world.ask(SessionId::NONE, unmount());
    unmount().next_step(&outcome).unwrap()
}

fn count(world: &World, session: SessionId, keys: u64, ending: &Ending) -> usize {
    let endings = (1..=keys).map(|key| world.ending(session, key));
    endings
        .filter(|found| found.as_ref() == Some(ending))
        .count()
}

#[test]
fn s6_an_unmount_ends_the_parked_calls_in_steps_and_others_requests_go_between() {
    let mut operations = ["hold"; 35];
    // Each ticket that goes fires its watch.
    operations[34] = "ticket";
    let (mut world, session) = with_parked(&operations);
    let tickets = ZnodePath::parse("/m/x").unwrap();
    let step = begin(&mut world);
    assert_eq!(world.replica.children(&tickets).unwrap().len(), 35);
    for ended in [10, 20, 30] {
        world
            .evaluator
            .evaluate_alone(&request(SessionId::NONE, step.clone()), None, world.now);
        let batch = world.evaluator.take_batch(usize::MAX).unwrap();
        assert_eq!(batch.transactions.len(), 1);
        let changes = &batch.transactions[0].changes;
        assert!(changes.len() < 60, "{} changes", changes.len());
        let marks = changes.iter();
        let marks = marks.filter(|change| matches!(change, Change::Mark(_)));
        assert_eq!(marks.count(), 0, "those whose watch fires are not woken");
        world.propose_batch(batch);
        assert_eq!(
            world.replica.mount(&path()).unwrap().unmounting,
            Some(ended)
        );
        let left = 35 - ended as usize;
        assert_eq!(count(&world, session, 35, &Ending::Unmounted), 35 - left);
        // Rule C3, step by step.
        assert_eq!(world.replica.children(&tickets).unwrap().len(), left);
        assert!(!world.evaluator.has_wakes());
        let others = world.ask(session, create(&format!("/between-{ended}")));
        assert!(matches!(others, Outcome::Znode(_)), "{others:?}");
    }
    let last = world.ask(session, step.clone());
    assert_eq!(last, Outcome::Unmounted { ended_calls: 35 });
    assert_eq!(world.replica.mount(&path()), None);
    assert_eq!(world.replica.ephemerals(session), []);
    let late = world.ask(session, step);
    assert_eq!(late, Outcome::Refused(Refusal::NotMounted(path())));
}

#[test]
fn s6_a_step_of_an_unmount_is_bounded_in_bytes_too() {
    let (mut world, session) = with_parked(&["hold"; 8]);
    world.with_bounds(Bounds {
        mount_step_bytes: 1,
        ..Bounds::default()
    });
    let step = begin(&mut world);
    for ended_calls in 1..8 {
        let outcome = world.ask(session, step.clone());
        assert!(
            matches!(outcome, Outcome::Unmounting { ended_calls: ended, .. } if ended == ended_calls),
            "{outcome:?}"
        );
    }
    let outcome = world.ask(session, step);
    assert_eq!(outcome, Outcome::Unmounted { ended_calls: 8 });
}

#[test]
fn s6_nothing_runs_at_a_mount_that_is_being_unmounted() {
    let operations = ["watch-all", "sleep", "wait", "wait", "wait"];
    let (mut world, session) = with_parked(&operations);
    let timed = CallRequest {
        key: 6,
        mount: path(),
        operation: "wait".into(),
        arguments: "x".into(),
        timeout_ms: Some(50),
        acknowledged: Acknowledgement::default(),
    };
    let parked = world.ask(session, Operation::Call(timed.clone()));
    assert_eq!(parked, Outcome::Parked);
    world.call(session, 7, "delete");
    world.push(1);
    let step = begin(&mut world);

    let new = CallRequest {
        key: 8,
        timeout_ms: None,
        ..timed
    };
    let trial = TrialRequest {
        of: TrialOf::Parked(CallId { session, key: 1 }),
        record: false,
    };
    let refused = [
        Operation::Call(new.clone()),
        Operation::Query(new),
        Operation::Try(trial),
        mount(MountSettings::default(), false),
        mount(MountSettings::default(), true),
        Operation::SetMount {
            path: path(),
            settings: MountSettings::default(),
        },
        Operation::Resume { path: path() },
    ];
    for operation in refused {
        let outcome = world.ask(session, operation.clone());
        let unmounting = Outcome::Refused(Refusal::Unmounting(path()));
        assert_eq!(outcome, unmounting, "{operation:?}");
    }
    // What is known is told all the same, and what waits can be cancelled.
    assert_eq!(world.call(session, 3, "wait"), Outcome::Parked);
    assert!(matches!(
        world.call(session, 7, "delete"),
        Outcome::Answered(_)
    ));
    world.ask(session, Operation::Cancel { key: 3 });
    assert_eq!(world.ending(session, 3), Some(Ending::Cancelled));
    // Neither a znode's watch nor a moment wakes a call; a deadline ends it.
    world.ask(session, create("/m/x"));
    world.step(&Step::Pass(100));
    assert_eq!(world.ending(session, 6), Some(Ending::TimedOut));
    for key in [1, 2, 4, 5] {
        assert_eq!(world.ending(session, key), None, "{key}");
    }
    assert!(!world.evaluator.has_wakes() && !world.evaluator.has_left_over());
    assert_eq!(world.open_epoch(), None, "nor is one a suspect");
    assert!(!world.evaluator.has_wakes());
    let outcome = world.ask_through(session, step);
    assert_eq!(outcome, Outcome::Unmounted { ended_calls: 4 });
    assert_eq!(count(&world, session, 8, &Ending::Unmounted), 4);
}

#[test]
fn s6_calls_that_are_due_when_the_unmount_begins_do_not_run_any_more() {
    let (mut world, session) = with_parked(&["wait"; 5]);
    let fire = request(session, create("/m/x"));
    world.evaluator.evaluate_alone(&fire, None, world.now);
    world.propose();
    assert!(world.replica.parked_calls().all(|call| call.marked));
    let outcome = world.unmount(session);
    assert_eq!(outcome, Outcome::Unmounted { ended_calls: 5 });
    assert_eq!(count(&world, session, 5, &Ending::Unmounted), 5);
}

#[test]
fn c7_what_a_guard_guards_is_not_written_until_it_has_gone() {
    let (mut world, session) = with_parked(&["wait"]);
    world.push(1);
    world.ask_through(session, mount(MountSettings::default(), true));
    assert!(matches!(
        world.ask(session, create("/m/before")),
        Outcome::Znode(_)
    ));
    let step = begin(&mut world);
    let Outcome::Refused(Refusal::GuardFailed { reason, .. }) =
        world.ask(session, create("/m/meanwhile"))
    else {
        panic!("it passes unguarded");
    };
    assert!(reason.contains("being unmounted"), "{reason}");
    let elsewhere = world.ask(session, create("/elsewhere"));
    assert!(matches!(elsewhere, Outcome::Znode(_)), "{elsewhere:?}");
    world.ask_through(session, step);
    let behind = world.ask(session, create("/m/behind"));
    assert!(matches!(behind, Outcome::Znode(_)), "{behind:?}");
}

#[test]
fn s6_a_new_leader_goes_on_with_an_unmount_where_the_last_one_was() {
    let (mut world, session) = with_parked(&["hold"; 25]);
    let step = begin(&mut world);
    world.ask(session, step.clone());
    // This one is evaluated, and lost with its leader.
    world.apply_all();
    world
        .evaluator
        .evaluate_alone(&request(SessionId::NONE, step.clone()), None, world.now);
    world.open_epoch();
    let refused = world.call(session, 99, "wait");
    assert_eq!(refused, Outcome::Refused(Refusal::Unmounting(path())));
    // Whoever asks is told how far it has come, and two may go on with it.
    let Outcome::Unmounting { ended_calls, .. } = world.ask(session, unmount()) else {
        panic!("it is not being unmounted");
    };
    assert_eq!(ended_calls, 10);
    world.ask(session, step);
    assert_eq!(
        world.unmount(session),
        Outcome::Unmounted { ended_calls: 25 }
    );
    assert_eq!(count(&world, session, 25, &Ending::Unmounted), 25);
    assert_eq!(world.replica.ephemerals(session), []);
}

#[test]
fn s6_a_late_step_does_not_touch_the_next_mount() {
    let (mut world, session) = with_parked(&["wait"; 3]);
    let step = begin(&mut world);
    world.ask(session, step.clone());
    world.step(&Step::Ask(0, Ask::Mount { sealed: false }));
    assert_eq!(world.call(session, 4, "wait"), Outcome::Parked);
    for _ in 0..2 {
        let late = world.ask(session, step.clone());
        assert_eq!(late, Outcome::Refused(Refusal::NotMounted(path())));
        begin(&mut world);
    }
    assert!(world.replica.parked(CallId { session, key: 4 }).is_some());
}

#[test]
fn s6_an_upgrade_whose_mount_is_unmounted_is_over() {
    let (mut world, session) = with_parked(&["watch-all"; 25]);
    world.push(1);
    let upgrade = mount(MountSettings::default(), true);
    let outcome = world.ask(session, upgrade.clone());
    let follow = upgrade.next_step(&outcome).unwrap();
    world
        .evaluator
        .evaluate_alone(&request(SessionId::NONE, follow.clone()), None, world.now);
    world.propose();
    let step = begin(&mut world);
    let outcome = world.ask(session, follow.clone());
    assert_eq!(outcome, Outcome::Refused(Refusal::Unmounting(path())));
    let outcome = world.ask_through(session, step);
    assert_eq!(outcome, Outcome::Unmounted { ended_calls: 25 });
    let outcome = world.ask(session, follow.clone());
    assert_eq!(outcome, Outcome::Refused(Refusal::NotMounted(path())));
    world.step(&Step::Ask(0, Ask::Mount { sealed: false }));
    let outcome = world.ask(session, follow);
    assert_eq!(outcome, Outcome::Refused(Refusal::Overtaken(path())));
}

/// What may come between the steps.
#[derive(Clone, Debug)]
enum Between {
    Step,
    Begin,
    Leader,
    Fire,
    Cancel(u64),
    Pass(u64),
}

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        4 => Just(Between::Step),
        1 => Just(Between::Begin),
        1 => Just(Between::Leader),
        2 => Just(Between::Fire),
        2 => (1..20_u64).prop_map(Between::Cancel),
        1 => (1..40_u64).prop_map(Between::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn c3_every_call_that_waits_ends_once_with_its_cleanup(
        operations in proptest::collection::vec(0..4_usize, 1..20),
        between in proptest::collection::vec(between(), 0..30),
    ) {
        let operations: Vec<&str> = operations
            .iter()
            .map(|at| ["hold", "watch-again", "sleep", "wait"][*at])
            .collect();
        let (mut world, session) = with_parked(&operations);
        world.with_bounds(Bounds { mount_step: 3, ..Bounds::default() });
        let parked: Vec<u64> = world.replica.parked_calls().map(|call| call.id.key).collect();
        let step = begin(&mut world);
        let mut fired = 0;
        for one in between {
            match one {
                Between::Step => {
                    world.ask(session, step.clone());
                }
                Between::Begin => {
                    world.ask(session, unmount());
                }
                Between::Leader => {
                    prop_assert_eq!(world.open_epoch(), None);
                }
                Between::Fire => {
                    fired += 1;
                    world.ask(session, create(&format!("/m/x/{fired}")));
                }
                Between::Cancel(key) => {
                    world.ask(session, Operation::Cancel { key });
                }
                Between::Pass(milliseconds) => world.step(&Step::Pass(milliseconds)),
            }
        }
        let told = world.replica.mount(&path()).is_some().then(|| world.unmount(session));
        let endings: Vec<Ending> = parked
            .iter()
            .filter_map(|key| world.ending(session, *key))
            .collect();
        prop_assert_eq!(endings.len(), parked.len());
        let unmounted = endings.iter().filter(|ending| **ending == Ending::Unmounted).count() as u64;
        prop_assert!(endings.iter().all(|ending| matches!(ending, Ending::Unmounted | Ending::Cancelled)));
        if let Some(told) = told {
            prop_assert_eq!(told, Outcome::Unmounted { ended_calls: unmounted });
        }
        prop_assert_eq!(world.replica.ephemerals(session), []);
        prop_assert_eq!(world.replica.mount(&path()), None);
        world.finish();
    }
}
