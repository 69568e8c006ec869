//! What calls cost: requests of clients, and transactions of the ensemble.

use quorate_tests::random::{Compiled, Event, Value, World, json};

/// Runs `script` in a world of the recipe; gives the requests and transactions that it took.
fn cost(recipe: &str, prepare: impl Fn(&mut World), script: impl Fn(&mut World)) -> (u64, u64) {
    let mut world = World::new(&Compiled::standard(recipe), 1000);
    prepare(&mut world);
    let before = world.counts();
    script(&mut world);
    let after = world.counts();
    (after.0 - before.0, after.1 - before.1)
}

const CLIENTS: u64 = 10;

/// How many calls have returned a result other than none.
fn returned(world: &mut World) -> usize {
    let events = world.events();
    let has_result = |event: &&(u64, Event)| matches!(&event.1, Event::Returned(_, value) if *value != Value::Null);
    events.iter().filter(has_result).count()
}

#[test]
fn a_lock_handed_on_costs_one_request_each() {
    // Each of them asks and releases: two requests, and a transaction more for each that had to wait.
    let spent = cost(
        "fair-lock",
        |_| {},
        |world| {
            let sessions: Vec<_> = (0..CLIENTS).map(|_| world.open()).collect();
            for session in &sessions {
                world.call(*session, "acquire", json!(["a"]), None);
            }
            for session in &sessions {
                world.call(*session, "release", json!(["a"]), None);
            }
            assert_eq!(
                returned(world),
                2 * CLIENTS as usize,
                "all had it, and gave it back"
            );
        },
    );
    // The sessions' own, then two requests each; one wake for each but the first.
    assert_eq!(
        spent,
        (CLIENTS + 2 * CLIENTS, CLIENTS + 2 * CLIENTS + CLIENTS - 1)
    );
}

#[test]
fn a_counter_costs_one_request_and_one_transaction_each() {
    let spent = cost(
        "counter",
        |_| {},
        |world| {
            let session = world.open();
            for _ in 0..CLIENTS {
                world.call(session, "add", json!(["a", 1]), None);
            }
            assert_eq!(returned(world), CLIENTS as usize);
        },
    );
    assert_eq!(spent, (1 + CLIENTS, 1 + CLIENTS));
}

#[test]
fn a_queue_costs_one_request_for_each_that_offers_and_each_that_takes() {
    // With the items there: one transaction each.
    let ready = cost(
        "queue",
        |world| {
            let session = world.open();
            for number in 0..CLIENTS {
                world.call(session, "offer", json!(["a", number.to_string()]), None);
            }
            returned(world);
        },
        |world| {
            let session = world.open();
            for _ in 0..CLIENTS {
                world.call(session, "take", json!(["a"]), None);
            }
            assert_eq!(returned(world), CLIENTS as usize);
        },
    );
    assert_eq!(ready, (1 + CLIENTS, 1 + CLIENTS));
    // With those that take there before: still one request each. An item wakes the first of them, whose
    // leaving wakes the next, which parks at the head.
    let waited_for = cost(
        "queue",
        |_| {},
        |world| {
            let consumers: Vec<_> = (0..CLIENTS).map(|_| world.open()).collect();
            for consumer in &consumers {
                world.call(*consumer, "take", json!(["a"]), None);
            }
            let producer = world.open();
            for number in 0..CLIENTS {
                world.call(producer, "offer", json!(["a", number.to_string()]), None);
            }
            assert_eq!(returned(world), 2 * CLIENTS as usize);
        },
    );
    let requests = CLIENTS + 1 + 2 * CLIENTS;
    assert_eq!(waited_for, (requests, requests + CLIENTS + CLIENTS - 1));
}

#[test]
fn a_double_barrier_wakes_nobody_for_nothing() {
    let spent = cost(
        "double-barrier",
        |_| {},
        |world| {
            let sessions: Vec<_> = (0..CLIENTS).map(|_| world.open()).collect();
            for operation in ["enter", "leave"] {
                for session in &sessions {
                    let arguments = match operation {
                        "enter" => json!(["a", CLIENTS]),
                        _ => json!(["a"]),
                    };
                    world.call(*session, operation, arguments, None);
                }
            }
            assert_eq!(world.parked(), []);
            assert_eq!(world.znodes(), 0);
        },
    );
    // All but the last of each phase wait, and are woken once.
    assert_eq!(spent, (3 * CLIENTS, 3 * CLIENTS + 2 * (CLIENTS - 1)));
}
