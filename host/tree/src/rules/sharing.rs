//! How mounts, requests and left-over wakes share an entry (rule C5).

use quorate_model::write_set::Batch;

use super::*;

/// More than one entry's wakes may cost, at 5 million units each.
const DEAR_CALLS: u64 = 2000;

fn call_at(mount: &str, key: u64, operation: &str) -> Operation {
    Operation::Call(CallRequest {
        key,
        mount: ZnodePath::parse(mount).unwrap(),
        operation: operation.into(),
        arguments: "x".into(),
        timeout_ms: None,
        acknowledged: Acknowledgement::default(),
    })
}

/// Two mounts. At `/m` thousands of dear calls wait for `/m/x`, at `/n` some cheap ones for `/n/x`: the first are
/// older.
fn crowded() -> (World, SessionId) {
    let (mut world, session) = mounted(false);
    let elsewhere = Operation::Mount {
        path: ZnodePath::parse("/n").unwrap(),
        recipe: "steps".into(),
        digest: None,
        settings: MountSettings {
            sealed: Some(false),
            ..MountSettings::default()
        },
        upgrade: false,
    };
    let outcome = world.ask(session, elsewhere);
    assert!(matches!(outcome, Outcome::Mounted { .. }), "{outcome:?}");
    world.with_bounds(roomy());
    let dear = (1..=DEAR_CALLS).map(|key| call_at("/m", key, "heavy"));
    let cheap = (10_001..=10_003).map(|key| call_at("/n", key, "wait"));
    for operation in dear.chain(cheap) {
        let call = request(session, operation);
        world.evaluator.evaluate(&call, None, world.now);
    }
    world.entry();
    // With all of it applied.
    world.with_bounds(roomy());
    (world, session)
}

fn roomy() -> Bounds {
    Bounds {
        calls_per_session: 100_000,
        ..Bounds::default()
    }
}

/// The calls that a batch answers, in order.
fn answered(batch: &Batch) -> Vec<u64> {
    let changes = batch.transactions.iter().flat_map(|one| &one.changes);
    let keys = changes.filter_map(|change| match change {
        Change::PutAnswer { call, .. } => Some(call.key),
        _ => None,
    });
    keys.collect()
}

impl World {
    fn entry(&mut self) -> Batch {
        let batch = self.evaluator.take_batch(usize::MAX).unwrap();
        self.propose_batch(batch.clone());
        batch
    }
}

#[test]
fn c5_a_cheap_mounts_wakes_run_in_the_first_entry_behind_thousands_of_older_dear_ones() {
    let (mut world, session) = crowded();
    for path in ["/m/x", "/n/x"] {
        let create = request(session, create(path));
        world.evaluator.evaluate_alone(&create, None, world.now);
    }
    world.evaluator.tick(world.now);
    let first = answered(&world.entry());
    let cheap: Vec<u64> = first.iter().copied().filter(|key| *key > 10_000).collect();
    assert_eq!(cheap, [10_001, 10_002, 10_003], "{first:?}");
    let dear = first.len() - cheap.len();
    assert!(
        (2..=5).contains(&dear),
        "{dear} dear ones have their share too"
    );
    assert!(world.evaluator.has_left_over());
    // C4, and no run twice, also under a next leader: every call is answered once, in the order of its age.
    let mut dear: Vec<u64> = first.into_iter().filter(|key| *key <= 10_000).collect();
    world.open_epoch();
    world.with_bounds(Bounds {
        wake_fuel: 1_000_000_000,
        ..roomy()
    });
    loop {
        world.evaluator.tick(world.now);
        let Some(batch) = world.evaluator.take_batch(usize::MAX) else {
            break;
        };
        dear.extend(answered(&batch));
        world.propose_batch(batch);
    }
    assert!(
        dear.iter().copied().eq(1..=DEAR_CALLS),
        "in the order of age, each once"
    );
}

#[test]
fn c5_requests_are_not_each_held_up_by_left_over_wakes() {
    let (mut world, session) = crowded();
    let wake = request(session, create("/m/x"));
    world.evaluator.evaluate_alone(&wake, None, world.now);
    world.entry();
    world.evaluator.tick(world.now);
    for number in 0..100 {
        let create = request(session, create(&format!("/n/plain-{number}")));
        world.evaluator.evaluate(&create, None, world.now);
    }
    let batch = world.entry();
    let outcomes = batch.transactions.iter();
    let requests = outcomes.filter(|one| one.outcome.is_some()).count();
    assert_eq!(requests, 100);
    let wakes = answered(&batch).len();
    assert!(
        (1..=5).contains(&wakes),
        "{wakes} wakes: the budget is the entry's"
    );
    // A wake behind a request has its turn in the next entry at the latest, before older ones of the other mount.
    let create = request(session, create("/n/x"));
    world.evaluator.evaluate(&create, None, world.now);
    let first = answered(&world.entry());
    assert!(first.contains(&10_003), "{first:?}");
}

#[test]
fn e3_timers_are_due_before_a_request_though_the_budget_of_wakes_is_used_up() {
    let (mut world, session) = crowded();
    let lease = world.ask(session, call_at("/n", 20_000, "lease"));
    assert!(matches!(lease, Outcome::Answered(_)), "{lease:?}");
    let wake = request(session, create("/m/x"));
    world.evaluator.evaluate(&wake, None, world.now);
    world.entry();
    assert!(world.evaluator.has_left_over());
    world.now = world.now.plus(1000);
    world.evaluator.tick_timers(world.now);
    assert!(
        world.evaluator.next_due() > world.now,
        "the lease has ended"
    );
    let batch = world.entry();
    assert_eq!(batch.transactions.len(), 1, "and no call has run");
    assert!(world.evaluator.has_left_over(), "those are still to come");
}
