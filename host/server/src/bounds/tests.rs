//! Each bound is reached once, is counted by its name, and stands in the documentation.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use quorate_model::acl::Acl;
use quorate_model::bound::Bound as OfMount;
use quorate_model::call::{Acknowledgement, CallRequest, Ending};
use quorate_model::id::{CallId, Incarnation, ServerId, SessionId, Timestamp};
use quorate_model::outcome::Outcome;
use quorate_model::path::{RelativePath, ZnodePath};
use quorate_model::recipe::{Component, Exports, MountSettings, RecipeDigest};
use quorate_model::request::{
    CreateLifetime, CreatePath, Operation, Password, Request, ZnodeOperation,
};
use quorate_model::run::{
    Invocation, RunEnding, RunInput, RunReport, RunWatch, Runner, TreeAccess,
};
use quorate_model::trial::{TrialOf, TrialRequest};
use quorate_model::write_set::{Entry, EpochStart};
use quorate_model::znode::Lifetime;
use quorate_sandbox::{Sandbox, SandboxConfig};
use quorate_tree::{
    Bounds, CREATED_BYTES_PER_CALL, CREATED_PER_CALL, Evaluator, RunTree, SharedState, State,
};

use super::{Bound, Kind, UPLOAD_BYTES, UPLOAD_RATE, UPLOADS_AT_ONCE, all};
use crate::clock::{Clock, SystemHands};
use crate::http::RecipeCheck;
use crate::metrics::{Metrics, Snapshot};
use crate::recipes::Recipes;

const NOW: Timestamp = Timestamp(1_000);

fn of_kind(kind: Kind) -> impl Iterator<Item = Bound> {
    all().into_iter().filter(move |bound| bound.kind == kind)
}

fn count(metrics: &Metrics, bound: &str) -> u64 {
    let text = metrics.text(Snapshot::default());
    let line = format!("quorate_bounds_reached_total{{bound=\"{bound}\"}} ");
    let mut found = text.lines().filter_map(|it| it.strip_prefix(&line));
    found.next().expect(bound).parse().unwrap()
}

#[test]
fn each_bound_has_a_name_of_its_own_a_metric_and_a_test_that_is_there() {
    let names: BTreeSet<&str> = all().iter().map(|bound| bound.name).collect();
    assert_eq!(names.len(), all().len(), "two have the same name");
    let metrics = Metrics::new();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for Bound { name, test, .. } in all() {
        assert_eq!(count(&metrics, name), 0, "it is told from the start");
        let (file, test) = test;
        let text = fs::read_to_string(repository.join(file)).expect(file);
        assert!(text.contains(&format!("fn {test}()")), "{name}: {test}");
    }
}

/// A row of docs/bounds.md is `| name | what | default |`.
#[test]
fn the_documentation_has_each_bound_with_its_default() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/bounds.md");
    let page = fs::read_to_string(page).unwrap();
    let mut listed = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, _, default, ..] = cells[..] else {
            panic!("{row}");
        };
        let name = name.trim_matches('`');
        let bound = all().into_iter().find(|bound| bound.name == name);
        let bound = bound.unwrap_or_else(|| panic!("there is no bound {name:?}"));
        assert_eq!(default, shown(&bound), "{name}");
        assert!(listed.insert(bound.name), "{name} is listed twice");
    }
    let all: BTreeSet<&str> = all().iter().map(|bound| bound.name).collect();
    assert_eq!(listed, all);
}

/// What can be set of a mount stands in docs/recipes.md: `| name | what | default | at most |`.
#[test]
fn the_documentation_has_what_can_be_set_of_a_mount() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipes.md");
    let page = fs::read_to_string(page).unwrap();
    let of_row = |row: &str| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
        let [default, most, _] = cells[3..] else {
            return None;
        };
        Some((name.to_owned(), default.to_owned(), most.to_owned()))
    };
    let rows: BTreeSet<_> = page.lines().filter_map(of_row).collect();
    let number = |bound: OfMount, value| match bound {
        bound if bound.name().ends_with("bytes") => in_bytes(value),
        _ => in_groups(value),
    };
    let expected = OfMount::ALL.map(|bound| {
        let (default, most) = (bound.default_value(), bound.maximum());
        let name = bound.name().to_owned();
        (name, number(bound, default), number(bound, most))
    });
    assert_eq!(rows, BTreeSet::from(expected));
}

fn shown(bound: &Bound) -> String {
    match bound.name {
        "wall-clock" => format!("{} ms", in_groups(bound.default)),
        "compile-cpu-seconds" | "compile-wall-clock" => format!("{} s", bound.default),
        name if name.contains("bytes") => in_bytes(bound.default),
        _ => in_groups(bound.default),
    }
}

fn in_bytes(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = |(shift, _): &(u32, &str)| bytes >= 1 << shift && bytes.trailing_zeros() >= *shift;
    match units.into_iter().find(whole) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => in_groups(bytes),
    }
}

/// 20000000 as 20,000,000.
fn in_groups(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[test]
fn what_a_run_exceeds_is_counted() {
    let metrics = Metrics::new();
    for Bound { name, .. } in of_kind(Kind::Run) {
        metrics.count_ending(&RunEnding::exceeded(name, "too much".into()));
        assert_eq!(count(&metrics, name), 1, "{name}");
    }
}

#[test]
fn what_an_upload_exceeds_is_counted() {
    let upload = Bytes::from_static(quorate_recipes::find("counter").unwrap().wasm);
    let metrics = Arc::new(Metrics::new());
    let clock = Arc::new(Clock::start(SystemHands::start()));
    let mut reached = BTreeSet::from([UPLOADS_AT_ONCE, UPLOAD_RATE]);
    for place in 0..SandboxConfig::default().upload.bounds().len() {
        let mut config = SandboxConfig {
            concurrent_runs: 1,
            ..SandboxConfig::default()
        };
        let (name, limit) = &mut config.upload.bounds()[place];
        let name = *name;
        **limit = 0;
        let sandbox = Arc::new(Sandbox::new(config).unwrap());
        let recipes = Recipes::new(sandbox, metrics.clone(), clock.clone());
        let refused = RecipeCheck::prepare(&recipes, upload.clone()).unwrap_err();
        assert!(refused.contains(&format!("the bound {name}:")), "{refused}");
        assert_eq!(count(&metrics, name), 1, "{name}");
        reached.insert(name);
    }
    assert!(reached.contains(UPLOAD_BYTES));
    let all: BTreeSet<&str> = of_kind(Kind::Upload).map(|bound| bound.name).collect();
    assert_eq!(reached, all);
}

/// `echo` returns, `wait` waits for ever, `restless` is woken at once, `fail` traps, `collect` creates a znode for its
/// session in each run and is woken at once.
struct Scripted;

impl Runner<RunTree> for Scripted {
    fn ready(&self, _: &RecipeDigest) -> bool {
        true
    }

    fn fits(&self, _: &RecipeDigest, _: &str, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn run(&self, input: RunInput, mut tree: RunTree) -> RunReport<RunTree> {
        let parked = |watch| RunEnding::Parked {
            memo: Bytes::new(),
            watches: vec![watch],
        };
        let ending = match &input.invocation {
            Invocation::Operation { name, .. } if name == "wait" => {
                parked(RunWatch::Node(RelativePath::parse("gate").unwrap()))
            }
            Invocation::Operation { name, .. } if name == "restless" => {
                parked(RunWatch::Time(input.now))
            }
            Invocation::Operation { name, .. } if name == "collect" => {
                let parent = RelativePath::parse("collected").unwrap();
                let lifetime = Lifetime::Session(input.session);
                let created = tree.create_sequential(&parent, "ticket-", Bytes::new(), lifetime);
                created.expect("it creates");
                parked(RunWatch::Time(input.now))
            }
            Invocation::Operation { name, .. } if name == "fail" => {
                RunEnding::Trapped("as asked".into())
            }
            _ => RunEnding::Returned("null".into()),
        };
        let (fuel, log) = (1, Vec::new());
        RunReport {
            tree,
            ending,
            fuel,
            log,
        }
    }
}

/// A leader's state, one session, and what is counted of its transactions.
struct World {
    state: SharedState,
    evaluator: Evaluator<Scripted>,
    metrics: Metrics,
    session: SessionId,
    keys: u64,
}

impl World {
    fn new(change: impl FnOnce(&mut Bounds)) -> World {
        let mut state = State::new();
        let start = EpochStart {
            epoch: 1,
            leader: ServerId(1),
            incarnation: Incarnation(1),
            nonce: 1,
            time: NOW,
            suspect: None,
        };
        let start = Entry::EpochStart(start);
        state.apply(&start, |_, _, _| {}).unwrap();
        let state = Arc::new(RwLock::new(state));
        let mut bounds = Bounds::default();
        change(&mut bounds);
        let mut world = World {
            evaluator: Evaluator::new(state.clone(), Scripted, bounds),
            state,
            metrics: Metrics::new(),
            session: SessionId::NONE,
            keys: 0,
        };
        let opened = world.ask(Operation::OpenSession {
            timeout_ms: 10_000,
            password: Password([0; 16]),
        });
        let Outcome::Session { session, .. } = opened else {
            panic!("{opened:?}");
        };
        world.session = session;
        world
    }

    fn ask(&mut self, operation: Operation) -> Outcome {
        let request = Request {
            session: self.session,
            owner: None,
            identities: Arc::default(),
            operation,
        };
        self.evaluator.evaluate(&request, None, NOW);
        let mut outcome = None;
        while let Some(batch) = self.evaluator.take_batch(usize::MAX) {
            for transaction in &batch.transactions {
                self.metrics.count_transaction(transaction);
                outcome = outcome.or_else(|| transaction.outcome.clone());
            }
            let entry = Entry::Transactions(batch);
            let mut state = self.state.write();
            state.apply(&entry, |_, _, _| {}).unwrap();
            let last = state.last_zxid();
            drop(state);
            self.evaluator.applied(last);
        }
        outcome.expect("a request has an outcome")
    }

    /// Another component of the recipe `test`, mounted by its number.
    fn mount(&mut self, number: usize, bounds: Vec<(OfMount, Option<u64>)>) {
        let component = Bytes::from(format!("component {number}"));
        for operation in Operation::upload("test", &component, None, Exports::default()) {
            self.ask(operation);
        }
        self.ask(Operation::Mount {
            path: path(&format!("/mount-{number}")),
            recipe: "test".into(),
            digest: None,
            settings: MountSettings {
                bounds,
                ..MountSettings::default()
            },
            upgrade: false,
        });
    }

    fn call(&mut self, operation: &str) -> Outcome {
        let call = self.next_call(operation);
        self.ask(Operation::Call(call))
    }

    fn next_call(&mut self, operation: &str) -> CallRequest {
        self.keys += 1;
        CallRequest {
            key: self.keys,
            mount: path("/mount-0"),
            operation: operation.into(),
            arguments: "[]".into(),
            timeout_ms: None,
            acknowledged: Acknowledgement::default(),
        }
    }

    fn upload(&mut self) -> Outcome {
        let cut = Component::cut(&Bytes::from_static(b"some other component"));
        self.ask(Operation::UploadPiece {
            digest: cut.digest(),
            bytes: cut.bytes(),
            offset: 0,
            piece: cut.pieces()[0].clone(),
        })
    }
}

fn path(text: &str) -> ZnodePath {
    ZnodePath::parse(text).unwrap()
}

/// Reaches a bound once, in a world in which it is low.
fn reach(bound: &str) -> World {
    let calls_twice = |change: fn(&mut Bounds), operation| {
        let mut world = World::new(change);
        world.mount(0, Vec::new());
        world.call(operation);
        world.call(operation);
        world
    };
    let uploads = |change: fn(&mut Bounds)| {
        let mut world = World::new(change);
        world.upload();
        world
    };
    let at_mount = |bound: OfMount, operation| {
        let mut world = World::new(|_| {});
        world.mount(0, vec![(bound, Some(1))]);
        world.call(operation);
        world.call(operation);
        world
    };
    match bound {
        "calls-per-session" => calls_twice(|it| it.calls_per_session = 1, "echo"),
        "call-bytes-per-session" => calls_twice(|it| it.call_bytes_per_session = 1, "echo"),
        "calls" => calls_twice(|it| it.calls = 1, "wait"),
        "call-bytes" => calls_twice(|it| it.call_bytes = 1, "wait"),
        "uploads" => uploads(|it| it.uploads = 0),
        "upload-bytes" => uploads(|it| it.upload_bytes = 1),
        "components" => uploads(|it| it.components = 0),
        "component-bytes" => uploads(|it| it.component_bytes = 1),
        "recipes" => {
            let mut world = World::new(|it| it.recipes = 0);
            world.mount(0, Vec::new());
            world
        }
        "dry-runs" => {
            let mut world = World::new(|it| it.dry_run_fuel = 0);
            world.mount(0, Vec::new());
            let call = world.next_call("echo");
            world.ask(Operation::Try(TrialRequest {
                of: TrialOf::Call(call),
                record: false,
            }));
            world
        }
        "versions" => {
            let mut world = World::new(|_| {});
            (0..12).for_each(|number| world.mount(number, Vec::new()));
            world
        }
        "ephemeral-bytes-per-session" => {
            let mut world = World::new(|_| {});
            for number in 0..4_200 {
                let name = format!("/{number:0>4095}");
                world.ask(Operation::Znode(ZnodeOperation::Create {
                    path: CreatePath::parse(&name, false).unwrap(),
                    data: Bytes::new(),
                    acl: Acl::open(),
                    lifetime: CreateLifetime::Ephemeral,
                    with_stat: false,
                }));
            }
            world
        }
        "parked-calls" => at_mount(OfMount::ParkedCalls, "wait"),
        "parked-bytes" => at_mount(OfMount::ParkedBytes, "wait"),
        "wakes-per-second" => at_mount(OfMount::WakesPerSecond, "restless"),
        "chain-depth" => at_mount(OfMount::ChainDepth, "restless"),
        "failures" => at_mount(OfMount::Failures, "fail"),
        other => panic!("nothing here reaches {other}"),
    }
}

#[test]
fn what_is_kept_and_what_suspends_is_counted() {
    for Bound { name, .. } in of_kind(Kind::Kept).chain(of_kind(Kind::Mount)) {
        let world = reach(name);
        for other in all() {
            let times = count(&world.metrics, other.name);
            let is_it = other.name == name;
            assert_eq!(times > 0, is_it, "{name}: {} {times} times", other.name);
        }
    }
}

/// Each run of the call creates one znode more: it ends when that is one too many, and what it created goes with it.
#[test]
fn what_a_call_leaves_to_its_end_is_counted() {
    let few = |bounds: &mut Bounds| bounds.created_per_call = 3;
    let short = |bounds: &mut Bounds| bounds.created_bytes_per_call = 100;
    let worlds = [
        (CREATED_PER_CALL, World::new(few)),
        (CREATED_BYTES_PER_CALL, World::new(short)),
    ];
    for (bound, mut world) in worlds {
        world.mount(0, Vec::new());
        assert_eq!(world.call("collect"), Outcome::Parked);
        assert_eq!(count(&world.metrics, bound), 1, "{bound}");
        let state = world.state.read();
        let id = CallId {
            session: world.session,
            key: 1,
        };
        let answer = state.answer(id).expect("it has ended");
        let Ending::Exceeded { bound: of, .. } = &answer.ending else {
            panic!("{answer:?}");
        };
        assert_eq!(of, bound);
        assert!(state.node(&path("/mount-0/collected")).is_none());
    }
}

/// Refused by the leader already, before it runs.
#[test]
fn arguments_that_no_run_takes_are_counted() {
    let mut world = World::new(|it| it.arguments_bytes = 1);
    world.mount(0, Vec::new());
    let refused = world.call("echo");
    assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
    assert_eq!(count(&world.metrics, "argument-bytes"), 1);
}
