//! Calls: exactly once (rule C1), how they end (C3), in which order they wake (C4), recipes that are not ready (C6).

use super::*;

fn call(key: u64, operation: &str, arguments: &str) -> CallRequest {
    CallRequest {
        key,
        mount: ZnodePath::parse("/m").unwrap(),
        operation: operation.into(),
        arguments: arguments.into(),
        timeout_ms: None,
        acknowledged: Acknowledgement::default(),
    }
}

fn children(world: &World, path: &str) -> usize {
    let children = world.replica.children(&ZnodePath::parse(path).unwrap());
    children.map_or(0, |children| children.len())
}

#[test]
fn c1_a_key_is_one_call_also_under_the_next_leader() {
    let (mut world, session) = mounted(false);
    assert_eq!(world.call(session, 1, "wait"), Outcome::Parked);
    let first = world.call(session, 2, "create");
    let other = world.ask(session, Operation::Call(call(2, "create", "y")));
    assert_eq!(other, Outcome::Refused(Refusal::KeyReused { key: 2 }));
    let before = world.replica.counts();
    world.open_epoch();
    assert_eq!(world.call(session, 2, "create"), first, "the one answer");
    // `x` is there now, which has woken the first: it has its answer, until that is acknowledged.
    let answered = world.call(session, 1, "wait");
    assert!(matches!(answered, Outcome::Answered(_)), "{answered:?}");
    world.open_epoch();
    assert_eq!(world.call(session, 1, "wait"), answered);
    assert_eq!(world.replica.counts().znodes, before.znodes);
    world.ask(session, Operation::Acknowledge(Acknowledgement::up_to(2)));
    for key in [1, 2] {
        let late = world.call(session, key, "create");
        assert_eq!(late, Outcome::Refused(Refusal::Acknowledged { key }));
    }
}

#[test]
fn c3_every_end_without_a_result_deletes_the_calls_tickets_and_no_others() {
    let until = |world: &mut World, moment: u64| world.step(&Step::Pass(moment));
    type End = Box<dyn Fn(&mut World, SessionId)>;
    let ends: [(&str, End); 6] = [
        (
            "cancelled",
            Box::new(|world, session| {
                world.ask(session, Operation::Cancel { key: 1 });
            }),
        ),
        (
            "cancelled by the operator",
            Box::new(|world, session| {
                let call = CallId { session, key: 1 };
                world.ask(SessionId::NONE, Operation::CancelCall(call));
            }),
        ),
        ("deadline", Box::new(move |world, _| until(world, 50))),
        (
            "trap",
            Box::new(|world, session| {
                world.ask(session, create("/m/line/wake"));
            }),
        ),
        (
            "unmount",
            Box::new(|world, _| {
                world.unmount(SessionId::NONE);
            }),
        ),
        (
            "session end",
            Box::new(|world, session| {
                world.ask(session, Operation::CloseSession);
            }),
        ),
    ];
    for (name, end) in ends {
        let (mut world, session) = mounted(false);
        world.step(&Step::Ask(0, Ask::Open));
        let other = world.sessions[1];
        world.ask(other, create("/m/line"));
        world.ask(other, create_as("/m/line/own", CreateLifetime::Ephemeral));
        let mut request = call(1, "ticket-trap", "line");
        request.timeout_ms = Some(50);
        assert_eq!(
            world.ask(session, Operation::Call(request)),
            Outcome::Parked
        );
        assert_eq!(children(&world, "/m/line"), 2, "{name}");
        end(&mut world, session);
        assert!(
            world.replica.parked(CallId { session, key: 1 }).is_none(),
            "{name}"
        );
        let left = children(&world, "/m/line") - usize::from(name == "trap");
        assert_eq!(left, 1, "{name}: its ticket goes, the other's stays");
    }
}

#[test]
fn c4_calls_wake_in_the_order_of_their_age_each_as_a_transaction_of_its_own() {
    let (mut world, session) = mounted(false);
    for key in [5, 3, 4] {
        assert_eq!(world.call(session, key, "wait"), Outcome::Parked);
    }
    world.with_bounds(Bounds {
        wakes_at_once: 2,
        ..Bounds::default()
    });
    world
        .evaluator
        .evaluate(&request(session, create("/m/x")), None, world.now);
    let batch = world.evaluator.take_batch(usize::MAX).unwrap();
    let answered = |batch: &quorate_model::write_set::Batch| -> Vec<Vec<u64>> {
        let transactions = batch.transactions.iter();
        let keys = transactions.map(|transaction| {
            let changes = transaction.changes.iter();
            let keys = changes.filter_map(|change| match change {
                Change::PutAnswer { call, .. } => Some(call.key),
                _ => None,
            });
            keys.collect()
        });
        keys.collect()
    };
    assert_eq!(answered(&batch), [vec![], vec![5], vec![3]]);
    assert!(world.evaluator.has_left_over());
    world.propose_batch(batch);
    // What is left over keeps its mark, and goes first under the next leader.
    world.open_epoch();
    world
        .evaluator
        .evaluate(&request(session, create("/m/l")), None, world.now);
    world.evaluator.tick(world.now);
    let batch = world.evaluator.take_batch(usize::MAX).unwrap();
    assert_eq!(answered(&batch).concat(), [4]);
}

#[test]
fn c6_a_woken_call_whose_recipe_is_not_ready_keeps_its_mark_and_holds_up_nobody() {
    let (mut world, session) = mounted(false);
    assert_eq!(world.call(session, 1, "not-ready"), Outcome::Parked);
    assert_eq!(world.call(session, 2, "wait"), Outcome::Parked);
    world.ask(session, create("/m/x"));
    assert!(
        world
            .replica
            .parked(CallId { session, key: 1 })
            .unwrap()
            .marked
    );
    assert!(world.ending(session, 2).is_some());
    assert!(world.evaluator.has_wakes(), "it is tried again");
}

#[test]
fn c3_a_znode_for_another_session_is_not_the_calls_own_and_stays() {
    let (mut world, session) = mounted(false);
    world.step(&Step::Ask(0, Ask::Open));
    let other = world.sessions[1];
    for (name, operation) in [("given", "give"), ("handed on", "hand-on")] {
        let before = world.replica.ephemerals(other).len();
        let key = 1 + before as u64;
        let request = call(key, operation, &format!("line/{}", other.0));
        assert_eq!(
            world.ask(session, Operation::Call(request)),
            Outcome::Parked,
            "{name}"
        );
        let theirs = world.replica.ephemerals(other).len();
        assert_eq!(theirs, before + 1, "{name}");
        world.ask(session, Operation::Cancel { key });
        assert_eq!(world.ending(session, key), Some(Ending::Cancelled));
        assert_eq!(world.replica.ephemerals(other).len(), theirs, "{name}");
    }
    assert_eq!(world.replica.ephemerals(session), []);
}

#[test]
fn the_parked_calls_of_a_mount_and_of_all_are_listed_by_their_age() {
    let (mut world, session) = mounted(false);
    let elsewhere = Operation::Mount {
        path: ZnodePath::parse("/n").unwrap(),
        recipe: "steps".into(),
        digest: None,
        settings: MountSettings::default(),
        upgrade: false,
    };
    world.ask(session, elsewhere);
    let mut parked = |key, mount: &str, operation: &str| {
        let mut request = call(key, operation, "x");
        request.mount = ZnodePath::parse(mount).unwrap();
        assert_eq!(
            world.ask(session, Operation::Call(request)),
            Outcome::Parked
        );
    };
    for (key, mount) in [(9, "/m"), (5, "/n"), (7, "/m"), (3, "/n"), (8, "/m")] {
        parked(key, mount, "watch-again");
    }
    // One runs again and parks anew: its age is what it was.
    world.ask(session, create("/m/x"));
    let state = &world.replica;
    let keys = |calls: &mut dyn Iterator<Item = &quorate_model::call::ParkedCall>| -> Vec<u64> {
        calls
            .filter(|call| !call.id.is_standing())
            .map(|call| call.id.key)
            .collect()
    };
    let mount = ZnodePath::parse("/m").unwrap();
    assert_eq!(keys(&mut state.parked_at(&mount)), [9, 7, 8]);
    assert_eq!(keys(&mut state.parked_by_age()), [9, 5, 7, 3, 8]);
    assert_eq!(
        state.parked_number(Some(&mount)),
        state.parked_at(&mount).count() as u64
    );
    assert_eq!(
        state.parked_number(None),
        state.parked_by_age().count() as u64
    );
    let first = state.parked_at(&mount).next().unwrap();
    let behind = state.parked_behind(&mount, Some((first.age, first.id)), 1);
    let second = state.parked_at(&mount).nth(1).unwrap();
    assert_eq!(behind, [second]);
}
