//! Tests of single rules, over the same world as the property tests. Each names its rule.

mod access;
mod acknowledgements;
mod calls;
mod guards;
mod sharing;
mod standing;
mod suspension;
mod trials;
mod unmounting;
mod upgrades;

use quorate_model::acl::Acl;
use quorate_model::bound::Bound;
use quorate_model::call::{Acknowledgement, CallRequest, Ending};
use quorate_model::id::{CallId, Incarnation, ServerId, SessionId, Timestamp, Zxid};
use quorate_model::outcome::{Outcome, Refusal, ZnodeOutcome};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{MountSettings, RecipeDigest};
use quorate_model::request::{CreateLifetime, CreatePath, Operation, Request, ZnodeOperation};
use quorate_model::run::{RunEnding, RunInput, RunReport, Runner};
use quorate_model::write_set::{Change, Entry, EpochStart};
use std::sync::Arc;

use crate::properties::{Ask, PUSH, Step, World, push_of};
use crate::{Bounds, Evaluator, RunTree, SharedState, Verdict, configuration_version};

mod uploads;

/// A world with one session, in which the recipe of steps is mounted at `/m`.
fn mounted(sealed: bool) -> (World, SessionId) {
    let mut world = World::new();
    let asks = [Ask::Open].into_iter().chain(PUSH);
    for ask in asks.chain([Ask::Mount { sealed }]) {
        world.step(&Step::Ask(0, ask));
    }
    let session = world.sessions[0];
    (world, session)
}

fn request(session: SessionId, operation: Operation) -> Request {
    Request {
        session,
        owner: None,
        identities: Arc::default(),
        operation,
    }
}

fn create_as(path: &str, lifetime: CreateLifetime) -> Operation {
    Operation::Znode(ZnodeOperation::Create {
        path: CreatePath::parse(path, false).unwrap(),
        data: bytes::Bytes::new(),
        acl: Acl::open(),
        lifetime,
        with_stat: false,
    })
}

fn create(path: &str) -> Operation {
    create_as(path, CreateLifetime::Persistent)
}

impl World {
    /// Evaluates and proposes one request; gives its outcome.
    fn ask(&mut self, session: SessionId, operation: Operation) -> Outcome {
        self.evaluator
            .evaluate(&request(session, operation), None, self.now);
        let mut outcome = None;
        while let Some(batch) = self.evaluator.take_batch(usize::MAX) {
            outcome = outcome.or_else(|| batch.transactions.iter().find_map(|t| t.outcome.clone()));
            self.propose_batch(batch);
        }
        outcome.unwrap()
    }

    /// The same, with all further steps of it; gives the last outcome.
    fn ask_through(&mut self, session: SessionId, operation: Operation) -> Outcome {
        let outcome = self.ask(session, operation.clone());
        match operation.next_step(&outcome) {
            Some(next) => self.ask_through(session, next),
            None => outcome,
        }
    }

    /// What is proposed is in the base too.
    fn apply_all(&mut self) {
        while self.base.read().last_zxid() < self.replica.last_zxid() {
            self.apply();
        }
    }

    fn unmount(&mut self, session: SessionId) -> Outcome {
        self.ask_through(session, unmount())
    }

    fn call(&mut self, session: SessionId, key: u64, operation: &str) -> Outcome {
        self.ask(session, Operation::Call(call_of(key, operation)))
    }

    /// Keeps a component of the recipe of steps, which has its name then.
    fn push(&mut self, byte: u8) {
        for ask in push_of(byte) {
            self.step(&Step::Ask(0, ask));
        }
    }

    /// Sets a bound of the mount.
    fn set(&mut self, bound: Bound, value: u64) {
        let settings = MountSettings {
            bounds: vec![(bound, Some(value))],
            ..MountSettings::default()
        };
        let path = ZnodePath::parse("/m").unwrap();
        let outcome = self.ask(SessionId::NONE, Operation::SetMount { path, settings });
        assert_eq!(outcome, Outcome::MountSet);
    }

    fn ending(&self, session: SessionId, key: u64) -> Option<Ending> {
        let answer = self.replica.answer(CallId { session, key });
        answer.map(|answer| answer.ending.clone())
    }
}

fn call_of(key: u64, operation: &str) -> CallRequest {
    CallRequest {
        key,
        mount: ZnodePath::parse("/m").unwrap(),
        operation: operation.into(),
        arguments: "x".into(),
        timeout_ms: None,
        acknowledged: Acknowledgement::default(),
    }
}

fn unmount() -> Operation {
    Operation::BeginUnmount {
        path: ZnodePath::parse("/m").unwrap(),
    }
}

fn bound_of(outcome: Outcome) -> String {
    match outcome {
        Outcome::Refused(Refusal::BoundReached { bound, .. }) => bound,
        other => panic!("{other:?}"),
    }
}

#[test]
fn e1_an_epoch_begins_right_behind_the_one_before_or_not_at_all() {
    let (mut world, session) = mounted(true);
    let start = |epoch, nonce| {
        Entry::EpochStart(EpochStart {
            epoch,
            leader: ServerId(2),
            incarnation: Incarnation(1),
            nonce,
            time: Timestamp(1_000_000),
            suspect: None,
        })
    };
    let seen = |world: &World| {
        let state = &world.replica;
        (state.last_zxid(), state.last_time(), state.digest())
    };
    let (epoch, before) = (world.replica.epoch(), seen(&world));
    for wrong in [0, epoch, epoch + 2, u32::MAX] {
        let verdict = world.replica.apply(&start(wrong, 7), |_, _, _| {});
        assert_eq!((verdict, seen(&world)), (Ok(Verdict::NoOp), before));
    }
    // What the leader before has proposed and not seen applied never will be.
    world
        .evaluator
        .evaluate(&request(session, create("/late")), None, world.now);
    let late = Entry::Transactions(world.evaluator.take_batch(usize::MAX).unwrap());
    let next = start(epoch + 1, 7);
    let verdict = world.replica.apply(&next, |_, _, _| {});
    assert_eq!(verdict, Ok(Verdict::Applied));
    assert_eq!(world.replica.last_zxid(), Zxid::new(epoch + 1, 0));
    let before = seen(&world);
    // Nor does a second leader that proposed the same epoch begin it again.
    for entry in [start(epoch + 1, 8), late] {
        let verdict = world.replica.apply(&entry, |_, _, _| {});
        assert_eq!((verdict, seen(&world)), (Ok(Verdict::NoOp), before));
    }
}

/// Looks in each run whether anybody holds the state's lock.
struct Looks(SharedState);

impl Runner<RunTree> for Looks {
    fn ready(&self, _: &RecipeDigest) -> bool {
        true
    }

    fn fits(&self, _: &RecipeDigest, _: &str, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn run(&self, _: RunInput, tree: RunTree) -> RunReport<RunTree> {
        let free = self.0.try_write().is_some();
        RunReport {
            tree,
            ending: RunEnding::Returned(free.to_string()),
            fuel: 1,
            log: Vec::new(),
        }
    }
}

#[test]
fn e2_no_lock_is_held_across_a_run() {
    let (mut world, session) = mounted(true);
    world.apply_all();
    let base = world.base.clone();
    let mut evaluator = Evaluator::new(base.clone(), Looks(base), Bounds::default());
    let call = CallRequest {
        key: 1,
        mount: ZnodePath::parse("/m").unwrap(),
        operation: "look".into(),
        arguments: "x".into(),
        timeout_ms: None,
        acknowledged: Acknowledgement::default(),
    };
    evaluator.evaluate(&request(session, Operation::Call(call)), None, world.now);
    let batch = evaluator.take_batch(usize::MAX).unwrap();
    let Some(Outcome::Answered(answer)) = &batch.transactions[0].outcome else {
        panic!("{batch:?}");
    };
    assert_eq!(answer.ending, Ending::Returned("true".into()));
}

#[test]
fn e2_a_record_leaves_the_overlay_only_when_its_change_is_in_the_base() {
    let (mut world, session) = mounted(true);
    world.apply_all();
    world.ask(session, create("/first"));
    world.ask(session, create("/second"));
    let exists = |world: &mut World, path| match world.ask(session, create(path)) {
        Outcome::Refused(Refusal::NodeExists(_)) => true,
        Outcome::Znode(_) => false,
        other => panic!("{other:?}"),
    };
    // Neither is in the base, then the first, then both: it is all the same to who evaluates.
    for applied in 0..3 {
        for path in ["/first", "/second"] {
            assert!(exists(&mut world, path), "{path} behind {applied} entries");
        }
        world.apply();
    }
    let both = ["/first", "/second"].map(|path| ZnodePath::parse(path).unwrap());
    assert!(
        both.iter()
            .all(|path| world.base.read().node(path).is_some())
    );
}

#[test]
fn c2_what_calls_hold_is_bounded_in_the_session_at_the_mount_and_in_all() {
    let few = Bounds::default();
    let bounds = [
        (
            "calls-per-session",
            Bounds {
                calls_per_session: 2,
                ..few.clone()
            },
        ),
        (
            "call-bytes-per-session",
            Bounds {
                call_bytes_per_session: 500,
                ..few.clone()
            },
        ),
        (
            "calls",
            Bounds {
                calls: 2,
                ..few.clone()
            },
        ),
        (
            "call-bytes",
            Bounds {
                call_bytes: 500,
                ..few.clone()
            },
        ),
        ("parked-calls", few.clone()),
        ("parked-bytes", few),
    ];
    for (name, bounds) in bounds {
        let (mut world, session) = mounted(true);
        world.with_bounds(bounds.clone());
        if let Some(bound) = Bound::find(name) {
            let most = if bound == Bound::ParkedCalls { 2 } else { 500 };
            world.set(bound, most);
        }
        assert_eq!(world.call(session, 1, "wait"), Outcome::Parked, "{name}");
        assert_eq!(world.call(session, 2, "wait"), Outcome::Parked, "{name}");
        world.with_bounds(bounds);
        assert_eq!(bound_of(world.call(session, 3, "wait")), name);
        assert_eq!(
            world.call(session, 2, "wait"),
            Outcome::Parked,
            "a known call is let in"
        );
    }
}

#[test]
fn c4_a_calls_own_writes_do_not_wake_it() {
    let (mut world, session) = mounted(true);
    assert_eq!(world.call(session, 1, "own"), Outcome::Parked);
    let parked = world.replica.parked(CallId { session, key: 1 }).unwrap();
    assert!(!parked.marked);
    assert_eq!(parked.age, world.replica.last_zxid(), "it has run once");
}

#[test]
fn c4_a_call_that_wakes_itself_neither_ends_nor_holds_up_others() {
    let (mut world, session) = mounted(false);
    assert_eq!(world.call(session, 1, "restless"), Outcome::Parked);
    let before = world.replica.last_zxid();
    world.evaluator.tick(world.now);
    world.propose();
    let runs = world.replica.last_zxid().counter() - before.counter();
    assert!(
        runs <= 2 * Bounds::default().runs_at_once,
        "{runs} transactions in one moment"
    );
    assert!(!world.evaluator.has_left_over(), "its mark waits for later");
    assert!(matches!(
        world.ask(session, create("/m/l")),
        Outcome::Znode(_)
    ));
    assert!(world.replica.parked(CallId { session, key: 1 }).is_some());
}

#[test]
fn s6_wakes_are_evaluated_in_steps_and_go_into_entries_of_bounded_size() {
    let (mut world, session) = mounted(false);
    world.with_bounds(Bounds {
        wake_bytes: 20_000,
        ..Bounds::default()
    });
    for key in 1..=50 {
        assert_eq!(world.call(session, key, "blob"), Outcome::Parked);
    }
    world
        .evaluator
        .evaluate(&request(session, create("/m/x")), None, world.now);
    let mut rounds = 0;
    loop {
        while let Some(batch) = world.evaluator.take_batch(20_000) {
            let bytes = postcard::to_allocvec(&batch).unwrap().len();
            assert!(bytes < 25_000, "{bytes} bytes in one entry");
            world.propose_batch(batch);
        }
        if !world.evaluator.has_left_over() {
            break;
        }
        rounds += 1;
        world.evaluator.tick(world.now);
    }
    assert!(rounds >= 10, "{rounds} rounds");
    assert!((1..=50).all(|key| world.ending(session, key).is_some()));
}

/// What a session owns is counted the same whichever way a znode comes to be its own, or ceases to.
#[test]
fn s6_a_lifetime_that_is_set_counts_like_a_znode_that_is_created() {
    let (mut world, session) = mounted(false);
    world.step(&Step::Ask(0, Ask::Open));
    let owned = |world: &World| world.replica.session(session).unwrap().ephemeral_bytes;
    let own = |world: &mut World, key, operation: &str, arguments: &str| {
        let call = CallRequest {
            arguments: arguments.into(),
            ..call_of(key, operation)
        };
        let outcome = world.ask(session, Operation::Call(call));
        assert!(matches!(outcome, Outcome::Answered(_)), "{outcome:?}");
    };
    own(&mut world, 1, "claim", "line/hand-on");
    let one = owned(&world);
    assert!(one > 0);
    own(&mut world, 2, "leave", "line/hand-on");
    assert_eq!(owned(&world), 0);
    own(&mut world, 3, "take", "line/hand-on");
    assert_eq!(owned(&world), one);
    own(&mut world, 4, "take", "line/hand-on");
    assert_eq!(owned(&world), one, "it was its own already");
    own(&mut world, 5, "delete", "line/hand-on");
    assert_eq!(owned(&world), 0);
    // To another session, and back.
    let other = world.sessions[1];
    own(&mut world, 6, "claim", "x");
    let small = owned(&world);
    let call = CallRequest {
        arguments: "x".into(),
        ..call_of(1, "take")
    };
    world.ask(other, Operation::Call(call));
    let theirs = world.replica.session(other).unwrap().ephemeral_bytes;
    assert_eq!((owned(&world), theirs), (0, small));
    world.ask(other, Operation::CloseSession);
    assert!(
        world
            .replica
            .stat(&ZnodePath::parse("/m/x").unwrap())
            .is_none()
    );
}

/// A session that owns as much as it may, in a world whose evaluator alone is asked from then on: the world compares
/// everything after each step.
fn full() -> (World, SessionId, SessionId) {
    let (mut world, session) = mounted(false);
    world.step(&Step::Ask(0, Ask::Open));
    let other = world.sessions[1];
    world.ask(other, create("/m/free"));
    let long = "x".repeat(4000);
    for number in 0.. {
        let operation = create_as(&format!("/{long}-{number}"), CreateLifetime::Ephemeral);
        match alone(&mut world, session, operation) {
            Outcome::Znode(_) => {}
            refused => {
                assert_eq!(bound_of(refused), "ephemeral-bytes-per-session");
                break;
            }
        }
    }
    (world, session, other)
}

/// The outcome, and those of what the request wakes, are not applied.
fn alone(world: &mut World, session: SessionId, operation: Operation) -> Outcome {
    let request = request(session, operation);
    world.evaluator.evaluate(&request, None, world.now);
    let batch = world.evaluator.take_batch(usize::MAX).unwrap();
    batch.transactions[0].outcome.clone().unwrap()
}

#[test]
fn s6_who_owns_as_much_as_it_may_is_given_no_more_by_a_recipe_either() {
    let (mut world, session, other) = full();
    let mut key = 0;
    let mut run = |session, operation: &str, arguments: &str| {
        key += 1;
        let call = CallRequest {
            arguments: arguments.into(),
            ..call_of(key, operation)
        };
        match alone(&mut world, session, Operation::Call(call)) {
            Outcome::Answered(answer) => answer.ending,
            other => panic!("{other:?}"),
        }
    };
    let returned = Ending::Returned("null".into());
    let is_full = |ending: Ending| matches!(ending, Ending::Exceeded { bound, .. } if bound == "ephemeral-bytes-per-session");
    assert!(is_full(run(session, "claim", "new")));
    assert!(is_full(run(session, "take", "free")));
    // Others are not concerned; nor is what makes it less, or leaves it as it is.
    assert_eq!(run(other, "take", "free"), returned);
    assert!(is_full(run(session, "take", "free")), "also from another's");
    assert_eq!(run(other, "leave", "free"), returned);
}

#[test]
fn c4_who_fills_a_session_of_its_own_suspends_no_mount() {
    let (mut world, session, other) = full();
    let bounds = vec![(Bound::Failures, Some(2))];
    let settings = MountSettings {
        bounds,
        ..MountSettings::default()
    };
    let path = ZnodePath::parse("/m").unwrap();
    alone(
        &mut world,
        SessionId::NONE,
        Operation::SetMount { path, settings },
    );
    let call = |key, operation: &str, arguments: &str| {
        Operation::Call(CallRequest {
            arguments: arguments.into(),
            ..call_of(key, operation)
        })
    };
    for key in 1..=3 {
        alone(&mut world, session, call(key, "claim", "new"));
        alone(&mut world, session, call(10 + key, "take", "free"));
        let parked = alone(&mut world, session, call(20 + key, "take-later", "free"));
        assert_eq!(parked, Outcome::Parked);
    }
    alone(&mut world, other, call(1, "set", "free"));
    for key in 21..=23 {
        let ended = alone(&mut world, session, call(key, "take-later", "free"));
        let Outcome::Answered(answer) = ended else {
            panic!("{ended:?}");
        };
        assert!(
            matches!(answer.ending, Ending::Exceeded { .. }),
            "{answer:?}"
        );
    }
    let outcome = alone(&mut world, other, call(2, "set", "free"));
    assert!(matches!(outcome, Outcome::Answered(_)), "{outcome:?}");
    // A run that fails by itself counts as ever.
    for key in 3..=4 {
        alone(&mut world, other, call(key, "trap", "free"));
    }
    let outcome = alone(&mut world, other, call(5, "set", "free"));
    assert!(
        matches!(outcome, Outcome::Refused(Refusal::Suspended { .. })),
        "{outcome:?}"
    );
}

#[test]
fn s6_the_end_of_a_session_fits_into_one_entry() {
    let (mut world, session) = mounted(false);
    let long = "x".repeat(3000);
    let mut created = 0;
    // Straight to the evaluator: the world compares everything after each step.
    let mut ask = |operation| {
        world
            .evaluator
            .evaluate(&request(session, operation), None, world.now);
        world.evaluator.take_batch(usize::MAX).unwrap()
    };
    let bound = loop {
        let path = format!("/{long}-{created}");
        let batch = ask(create_as(&path, CreateLifetime::Ephemeral));
        match batch.transactions[0].outcome.clone().unwrap() {
            Outcome::Znode(_) => created += 1,
            refused => break bound_of(refused),
        }
    };
    assert_eq!(bound, "ephemeral-bytes-per-session");
    assert!(created > 5000, "{created}");
    let batch = ask(Operation::CloseSession);
    assert!(postcard::to_allocvec(&batch).unwrap().len() < 60 << 20);
    let deleted = batch.transactions[0].changes.iter();
    let deleted = deleted
        .filter(|change| matches!(change, Change::DeleteNode { .. }))
        .count();
    assert_eq!(deleted, created);
}

#[test]
fn a_mount_never_gives_a_number_twice_also_after_an_unmount() {
    let (mut world, session) = mounted(true);
    for key in 1..=3 {
        world.call(session, key, "ticket");
    }
    let path = ZnodePath::parse("/m/x").unwrap();
    let before = world.replica.children(&path).unwrap();
    world.unmount(session);
    world.step(&Step::Ask(0, Ask::Mount { sealed: true }));
    world.call(session, 4, "ticket");
    let after = world.replica.children(&path).unwrap();
    let new = after.iter().find(|name| !before.contains(name)).unwrap();
    assert!(
        before.iter().all(|name| name < new),
        "{new} after {before:?}"
    );
}

#[test]
fn what_is_the_servers_own_cannot_be_deleted() {
    let (mut world, session) = mounted(true);
    for path in ["/zookeeper/config", "/zookeeper/quota", "/zookeeper"] {
        let delete = ZnodeOperation::Delete {
            path: ZnodePath::parse(path).unwrap(),
            version: -1,
        };
        let outcome = world.ask(session, Operation::Znode(delete));
        assert!(
            matches!(outcome, Outcome::Refused(Refusal::BadArguments(_))),
            "{outcome:?}"
        );
    }
}

#[test]
fn w6_the_configuration_is_set_by_the_servers_alone_and_its_version_only_grows() {
    let (mut world, session) = mounted(true);
    let path = ZnodePath::configuration();
    let configure = |members: &str, version| Operation::Configure {
        members: members.into(),
        version,
    };
    let outcome = world.ask(SessionId::NONE, configure("server.1=a", 0x1a));
    let Outcome::Znode(ZnodeOutcome::Set(stat)) = outcome else {
        panic!("{outcome:?}");
    };
    let data = |world: &World| world.replica.node(&path).unwrap().data;
    assert_eq!(data(&world), "server.1=a\nversion=1a");
    assert_eq!(configuration_version(&data(&world)), Some(0x1a));
    let again = world.ask(SessionId::NONE, configure("server.1=a", 0x1a));
    assert_eq!(
        again,
        Outcome::Znode(ZnodeOutcome::Set(stat)),
        "it is not set twice"
    );
    let late = world.ask(SessionId::NONE, configure("server.2=b", 0x19));
    assert!(matches!(late, Outcome::Refused(_)), "{late:?}");
    assert_eq!(data(&world), "server.1=a\nversion=1a");
    for refused in [
        create("/zookeeper/config/below"),
        Operation::Znode(ZnodeOperation::Set {
            path: path.clone(),
            data: bytes::Bytes::new(),
            version: -1,
        }),
        Operation::Znode(ZnodeOperation::SetAcl {
            path: path.clone(),
            acl: Acl::open(),
            version: -1,
        }),
    ] {
        let outcome = world.ask(session, refused);
        assert!(
            matches!(outcome, Outcome::Refused(Refusal::NoAuth(_))),
            "{outcome:?}"
        );
    }
}

#[test]
fn s5_a_parked_call_over_whose_run_epochs_end_is_ended_and_no_other() {
    let (mut world, session) = mounted(false);
    for (key, operation) in [(1, "wait"), (2, "die"), (3, "wait")] {
        world.call(session, key, operation);
    }
    // The request that wakes them is not to blame: alone, it is answered before they run.
    let create = request(session, create("/m/x"));
    world.evaluator.evaluate_alone(&create, None, world.now);
    world.propose();
    let mut epochs = 0;
    let ended = |world: &World, key| world.replica.answer(CallId { session, key }).cloned();
    while ended(&world, 3).is_none() {
        epochs += 1;
        assert!(epochs < 10, "the calls never end");
        let suspect = world.open_epoch();
        let (evaluator, now) = (&mut world.evaluator, world.now);
        let run = std::panic::AssertUnwindSafe(|| {
            suspect
                .into_iter()
                .for_each(|call| evaluator.run_suspect(call, now));
        });
        if std::panic::catch_unwind(run).is_err() {
            continue;
        }
        world.propose();
        let evaluator = &mut world.evaluator;
        let tick = std::panic::AssertUnwindSafe(|| evaluator.tick(now));
        if std::panic::catch_unwind(tick).is_ok() {
            world.propose();
        }
    }
    assert_eq!(
        epochs, 5,
        "the first runs the innocent, three are lost, the last ends it"
    );
    let ending = |key| ended(&world, key).unwrap().ending;
    assert_eq!(ending(1), Ending::Returned("null".into()));
    assert!(matches!(ending(2), Ending::Trapped(message) if message.contains("3 epochs")));
    assert_eq!(ending(3), Ending::Returned("null".into()));
}
