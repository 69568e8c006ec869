//! Properties of the whole crate under random requests, wakes, timers, delays of apply, and snapshots:
//! the overlay's view equals the state after apply, and a snapshot taken in steps equals one at rest.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use proptest::prelude::*;
use quorate_model::acl::{Acl, permission};
use quorate_model::bound::{Bound, EPHEMERAL_BYTES};
use quorate_model::call::{Acknowledgement, CallRequest};
use quorate_model::id::{CallId, Incarnation, ServerId, SessionId, Timestamp, Zxid};
use quorate_model::path::{RelativePath, ZnodePath};
use quorate_model::recipe::{Component, Exports, MountSettings, RecipeDigest, Shadow};
use quorate_model::request::{
    CreateLifetime, CreatePath, Operation, Password, Request, ZnodeOperation,
};
use quorate_model::run::{
    GuardedChange, Invocation, Range, RunEnding, RunInput, RunReport, RunWatch, Runner, TreeAccess,
    TreeError,
};
use quorate_model::trial::MAX_RECORDING_BYTES;
use quorate_model::trial::{TrialOf, TrialRequest};
use quorate_model::write_set::{Batch, Entry, EpochStart};
use quorate_model::znode::Lifetime;

use crate::apply::Records;
use crate::snapshot::SnapshotError;
use crate::state::{IndexKey, State};
use crate::{Bounds, Digest, Evaluator, RunTree, Verdict};

const PATHS: [&str; 9] = [
    "/a",
    "/a/b",
    "/a/b/c",
    "/m",
    "/m/x",
    "/m/l",
    "/m/l/y",
    "/m/in",
    "/m/in/trap",
];

/// Stands in for the sandbox: an operation is one step, its arguments say where.
#[derive(Clone, Copy)]
pub(super) struct Steps;

impl Runner<RunTree> for Steps {
    fn ready(&self, _: &RecipeDigest) -> bool {
        true
    }

    /// Components that begin with 9 have no operation `wait`.
    fn fits(&self, digest: &RecipeDigest, operation: &str, _: &str) -> Result<(), String> {
        match operation == "wait" && *digest == RecipeDigest::of(&component(9)) {
            true => Err("there is no operation \"wait\"".into()),
            false => Ok(()),
        }
    }

    fn run(&self, input: RunInput, mut tree: RunTree) -> RunReport<RunTree> {
        let (name, arguments) = match &input.invocation {
            Invocation::Operation { name, arguments } => (name.as_str(), arguments.as_str()),
            Invocation::Standing => return stand(&input, tree),
            Invocation::Guard(changes) => return guard(changes, tree),
        };
        if let Err(why) = self.fits(&input.digest, name, arguments) {
            return report(tree, RunEnding::BadCall(why));
        }
        let path = RelativePath::parse(arguments).unwrap();
        let mine = Lifetime::Session(input.session);
        let woken = input.memo.is_some();
        let memo = Bytes::from_static(b"memo");
        let park = |watch| RunEnding::Parked {
            memo: memo.clone(),
            watches: vec![watch],
        };
        let done = || RunEnding::Returned("null".into());
        let ending = match name {
            "create" => {
                let _ = tree.create(&path, Bytes::from_static(b"run"), Lifetime::Container);
                done()
            }
            "lease" => {
                let until = Lifetime::Until(input.now.plus(30));
                let _ = tree.create(&path, Bytes::new(), until);
                let _ = tree.set_lifetime(&path, Lifetime::Until(input.now.plus(60)));
                done()
            }
            "ticket" if !woken => {
                let _ = tree.create_sequential(&path, "t-", Bytes::new(), mine);
                park(RunWatch::Children(path))
            }
            "ticket-trap" if woken => RunEnding::Trapped("as asked".into()),
            "ticket-trap" => {
                let _ = tree.create_sequential(&path, "t-", Bytes::new(), mine);
                park(RunWatch::Children(path))
            }
            // A ticket of its own, and others' do not wake it.
            "hold" if !woken => {
                let _ = tree.create_sequential(&path, "h-", Bytes::new(), mine);
                park(RunWatch::Node(path))
            }
            "set" => {
                let _ = tree.set(&path, Bytes::from_static(b"set by a run"));
                done()
            }
            "delete" => {
                let _ = tree.delete(&path);
                done()
            }
            // As the sandbox ends a run over what the tree says.
            "claim" => ended(tree.create(&path, Bytes::new(), mine)),
            "take" => ended(tree.set_lifetime(&path, mine)),
            "take-later" if woken => ended(tree.set_lifetime(&path, mine)),
            "take-later" => park(RunWatch::Node(path)),
            "leave" => ended(tree.set_lifetime(&path, Lifetime::Persistent)),
            "wait" if !woken => park(RunWatch::Node(path)),
            "watch-again" => park(RunWatch::Node(path)),
            // A znode for the session whose number the path ends in.
            "give" | "hand-on" => {
                let (_, number) = arguments.rsplit_once('/').unwrap();
                let theirs = Lifetime::Session(SessionId(number.parse().unwrap()));
                let path = at(&format!("line/{name}"));
                if name == "give" {
                    tree.create(&path, Bytes::new(), theirs).unwrap();
                } else {
                    tree.create(&path, Bytes::new(), mine).unwrap();
                    tree.set_lifetime(&path, theirs).unwrap();
                }
                park(RunWatch::Node(path))
            }
            // As `wait`, but its second run is dear.
            "heavy" if !woken => park(RunWatch::Node(path)),
            "heavy" => {
                return RunReport {
                    fuel: 5_000_000,
                    ..report(tree, done())
                };
            }
            "watch-all" if !woken => park(RunWatch::Subtree(path)),
            "sleep" if !woken => park(RunWatch::Time(input.now.plus(25))),
            "restless" => park(RunWatch::Time(input.now)),
            "fail" => {
                let _ = tree.create(&path, Bytes::new(), mine);
                RunEnding::Refused("no".into())
            }
            "blob" if woken => {
                let data = Bytes::from(vec![7; 5000]);
                let _ = tree.create_sequential(&path, "b-", data, Lifetime::Persistent);
                done()
            }
            "blob" => park(RunWatch::Node(path)),
            "own" => {
                let _ = tree.create(&path, Bytes::new(), Lifetime::Persistent);
                park(RunWatch::Node(path))
            }
            "trap" => RunEnding::Trapped("as asked".into()),
            // It is told more than is recorded.
            "trap-told" => {
                let half = Bytes::from(vec![7; MAX_RECORDING_BYTES / 2 + 1]);
                tree.create(&path, half, Lifetime::Persistent).unwrap();
                for _ in 0..2 {
                    assert!(tree.get(&path).unwrap().is_some());
                }
                RunEnding::Trapped("as asked".into())
            }
            "trap-later" if woken => RunEnding::Trapped("as asked".into()),
            "trap-later" => park(RunWatch::Node(path)),
            // Two of them wake each other for ever.
            "ping" | "pong" => {
                let (mine, other) = match name {
                    "ping" => ("ping", "pong"),
                    _ => ("pong", "ping"),
                };
                let data = Bytes::from(input.transaction.0.to_string());
                if tree.set(&at(mine), data).is_err() {
                    let _ = tree.create(&at(mine), Bytes::new(), Lifetime::Persistent);
                }
                park(RunWatch::Node(at(other)))
            }
            "die" if woken => panic!("a defect of the server"),
            "die" => park(RunWatch::Node(path)),
            "not-ready" if woken => RunEnding::NotReady,
            "not-ready" => park(RunWatch::Subtree(path)),
            _ => done(),
        };
        report(tree, ending)
    }
}

fn report(tree: RunTree, ending: RunEnding) -> RunReport<RunTree> {
    RunReport {
        tree,
        ending,
        fuel: 100,
        log: Vec::new(),
    }
}

fn ended(done: Result<(), TreeError>) -> RunEnding {
    match done {
        Ok(()) => RunEnding::Returned("null".into()),
        Err(TreeError::SessionFull(message)) => RunEnding::exceeded(EPHEMERAL_BYTES, message),
        Err(error) => RunEnding::Refused(error.to_string()),
    }
}

fn at(path: &str) -> RelativePath {
    RelativePath::parse(path).unwrap()
}

/// Counts what it is asked in `index`. Refuses what ends in `y`; traps, parks, is not ready and finds the writer's session full
/// as the data say.
fn guard(changes: &[GuardedChange], mut tree: RunTree) -> RunReport<RunTree> {
    let index = at("index");
    let known = tree.get(&index).unwrap();
    let count = known.as_ref().map_or(0, |node| node.data.len()) + changes.len();
    let data = Bytes::from(vec![b'i'; count]);
    let written = match known {
        Some(_) => tree.set(&index, data),
        None => tree.create(&index, data, Lifetime::Persistent),
    };
    written.unwrap();
    let says = |word: &[u8]| {
        changes.iter().any(|change| {
            let after = change.after.as_ref();
            after.is_some_and(|after| after.data == word)
        })
    };
    let ending = if changes
        .iter()
        .any(|change| change.path.as_str().ends_with('y'))
    {
        RunEnding::Refused("nothing may end in y".into())
    } else if says(b"trap") {
        RunEnding::Trapped("as asked".into())
    } else if says(b"park") {
        RunEnding::Parked {
            memo: Bytes::new(),
            watches: vec![RunWatch::Node(index)],
        }
    } else if says(b"not-ready") {
        RunEnding::NotReady
    } else if says(b"full") {
        RunEnding::exceeded(EPHEMERAL_BYTES, "as asked".into())
    } else {
        RunEnding::Returned("null".into())
    };
    report(tree, ending)
}

/// Counts its runs in `runs`, and waits for the next change of `in`. While there is `in/trap` it traps, with
/// `in/mine` it wants a session's znode, with `in/end` it returns.
fn stand(input: &RunInput, mut tree: RunTree) -> RunReport<RunTree> {
    assert_eq!(input.session, SessionId::NONE);
    let runs = at("runs");
    let known = tree.get(&runs).unwrap();
    let count = known.as_ref().map_or(0, |node| node.data.len()) + 1;
    let data = Bytes::from(vec![b'r'; count]);
    let written = match known {
        Some(_) => tree.set(&runs, data),
        None => tree.create(&runs, data, Lifetime::Persistent),
    };
    written.unwrap();
    let there = |tree: &mut RunTree, path: &str| tree.exists(&at(path)).unwrap().is_some();
    let ending = if there(&mut tree, "in/trap") {
        RunEnding::Trapped("in/trap is there".into())
    } else if there(&mut tree, "in/mine") {
        let lifetime = Lifetime::Session(SessionId(1));
        match tree.create(&at("mine"), Bytes::new(), lifetime) {
            Err(TreeError::Breach(breach)) => RunEnding::Trapped(breach.0),
            other => panic!("{other:?}"),
        }
    } else if there(&mut tree, "in/end") {
        RunEnding::Returned("null".into())
    } else {
        let memo = input.memo.as_ref().map_or(0, Bytes::len) + 1;
        RunEnding::Parked {
            memo: Bytes::from(vec![b'm'; memo]),
            watches: vec![RunWatch::Children(at("in"))],
        }
    };
    report(tree, ending)
}

/// How many components the recipe of steps has.
const COMPONENTS: u8 = 10;

/// Of the recipe of steps: an odd one has a guard, one with 2 in it stands.
pub(super) fn component(byte: u8) -> Bytes {
    Bytes::from(vec![byte; 8])
}

fn push(byte: u8) -> Operation {
    Operation::PushRecipe {
        name: "steps".into(),
        digest: RecipeDigest::of(&component(byte)),
        version: None,
        exports: Exports {
            guard: byte & 1 > 0,
            standing: byte & 2 > 0,
        },
    }
}

pub(super) fn mount(settings: MountSettings, upgrade: bool) -> Operation {
    Operation::Mount {
        path: ZnodePath::parse("/m").unwrap(),
        recipe: "steps".into(),
        digest: None,
        settings,
        upgrade,
    }
}

const OPERATIONS: [&str; 16] = [
    "create",
    "lease",
    "ticket",
    "ticket",
    "set",
    "delete",
    "wait",
    "watch-all",
    "sleep",
    "restless",
    "fail",
    "not-ready",
    "trap",
    "trap-later",
    "ping",
    "pong",
];

#[derive(Clone, Debug)]
pub(super) enum Step {
    Ask(usize, Ask),
    Pass(u64),
    /// Propose what was evaluated.
    Propose,
    /// Apply the oldest proposal.
    Apply,
    /// Another leader begins.
    NewEpoch,
    BeginSnapshot,
    SnapshotChunk,
}

#[derive(Clone, Debug)]
pub(super) enum Ask {
    Open,
    Close,
    Create {
        path: usize,
        lifetime: CreateLifetime,
        sequential: bool,
    },
    Delete(usize),
    Set(usize, u8),
    SetAcl(usize),
    Multi(Vec<(usize, bool)>),
    Call {
        key: u64,
        operation: usize,
        path: usize,
        timeout: Option<u64>,
        acknowledged: Said,
    },
    Try {
        operation: usize,
        path: usize,
    },
    Cancel(u64),
    Acknowledge(Said),
    /// A piece of a component: which of two, in either.
    Upload(u8, u8),
    Push(u8),
    Mount {
        sealed: bool,
    },
    Upgrade,
    Resume,
    Unmount,
    /// The next step of the upgrade or unmount that was asked for last.
    Continue,
}

/// A mark, and a bit for each key that is awaited.
type Said = (u64, u8);

fn said() -> impl Strategy<Value = Said> {
    (0..8_u64, any::<u8>())
}

fn acknowledgement((mark, bits): Said) -> Acknowledgement {
    let awaited = (1..=mark).filter(|key| bits & (1 << key) != 0);
    Acknowledgement::new(mark, awaited.collect()).unwrap()
}

fn ask() -> impl Strategy<Value = Ask> {
    let path = || 0..PATHS.len();
    let lifetime = prop_oneof![
        Just(CreateLifetime::Persistent),
        Just(CreateLifetime::Ephemeral),
        Just(CreateLifetime::Container)
    ];
    prop_oneof![
        2 => Just(Ask::Open),
        1 => Just(Ask::Close),
        6 => (path(), lifetime, any::<bool>())
            .prop_map(|(path, lifetime, sequential)| Ask::Create { path, lifetime, sequential }),
        4 => path().prop_map(Ask::Delete),
        3 => (path(), any::<u8>()).prop_map(|(path, byte)| Ask::Set(path, byte)),
        1 => path().prop_map(Ask::SetAcl),
        2 => proptest::collection::vec((path(), any::<bool>()), 0..4).prop_map(Ask::Multi),
        12 => (1..8_u64, 0..OPERATIONS.len(), path(), proptest::option::of(1..50_u64), said())
            .prop_map(|(key, operation, path, timeout, acknowledged)| {
                Ask::Call { key, operation, path, timeout, acknowledged }
            }),
        1 => (0..OPERATIONS.len(), path()).prop_map(|(operation, path)| Ask::Try { operation, path }),
        1 => (1..8_u64).prop_map(Ask::Cancel),
        1 => said().prop_map(Ask::Acknowledge),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(byte, piece)| Ask::Upload(byte, piece)),
        2 => any::<u8>().prop_map(Ask::Push),
        2 => any::<bool>().prop_map(|sealed| Ask::Mount { sealed }),
        2 => Just(Ask::Upgrade),
        1 => Just(Ask::Resume),
        1 => Just(Ask::Unmount),
        4 => Just(Ask::Continue),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..3_usize, ask()).prop_map(|(session, ask)| Step::Ask(session, ask)),
        2 => (1..40_u64).prop_map(Step::Pass),
        3 => Just(Step::Propose),
        3 => Just(Step::Apply),
        1 => Just(Step::NewEpoch),
        1 => Just(Step::BeginSnapshot),
        2 => Just(Step::SnapshotChunk),
    ]
}

fn path(index: usize) -> ZnodePath {
    ZnodePath::parse(PATHS[index]).unwrap()
}

/// Below the mount, or the mount itself.
fn relative(index: usize) -> String {
    PATHS[index].strip_prefix("/m/").unwrap_or("").to_owned()
}

/// What keeps the plainest component.
pub(super) const PUSH: [Ask; 3] = push_of(0);

/// What keeps this one.
pub(super) const fn push_of(byte: u8) -> [Ask; 3] {
    [Ask::Upload(byte, 0), Ask::Upload(byte, 1), Ask::Push(byte)]
}

pub(super) fn operation(ask: &Ask) -> Operation {
    match ask {
        Ask::Open => Operation::OpenSession {
            timeout_ms: 1000,
            password: Password([1; 16]),
        },
        Ask::Close => Operation::CloseSession,
        Ask::Create {
            path: index,
            lifetime,
            sequential,
        } => {
            let text = if *sequential {
                format!("{}-", PATHS[*index])
            } else {
                PATHS[*index].into()
            };
            Operation::Znode(ZnodeOperation::Create {
                path: CreatePath::parse(&text, *sequential).unwrap(),
                data: Bytes::from_static(b"data"),
                acl: Acl::open(),
                lifetime: *lifetime,
                with_stat: true,
            })
        }
        Ask::Delete(index) => Operation::Znode(ZnodeOperation::Delete {
            path: path(*index),
            version: -1,
        }),
        Ask::Set(index, byte) => {
            let data = Bytes::from(vec![*byte; usize::from(*byte)]);
            Operation::Znode(ZnodeOperation::Set {
                path: path(*index),
                data,
                version: -1,
            })
        }
        Ask::SetAcl(index) => {
            let mut entry = Acl::open().0[0].clone();
            entry.permissions &= !permission::WRITE;
            let acl = Acl::from(vec![entry]);
            Operation::Znode(ZnodeOperation::SetAcl {
                path: path(*index),
                acl,
                version: -1,
            })
        }
        Ask::Multi(parts) => {
            let part = |&(index, create): &(usize, bool)| {
                if create {
                    ZnodeOperation::Create {
                        path: CreatePath::Exactly(path(index)),
                        data: Bytes::new(),
                        acl: Acl::open(),
                        lifetime: CreateLifetime::Persistent,
                        with_stat: false,
                    }
                } else {
                    ZnodeOperation::Delete {
                        path: path(index),
                        version: -1,
                    }
                }
            };
            Operation::Multi(parts.iter().map(part).collect())
        }
        Ask::Call {
            key,
            operation,
            path,
            timeout,
            acknowledged,
        } => Operation::Call(CallRequest {
            key: *key,
            mount: ZnodePath::parse("/m").unwrap(),
            operation: OPERATIONS[*operation].into(),
            arguments: relative(*path),
            timeout_ms: *timeout,
            acknowledged: acknowledgement(*acknowledged),
        }),
        Ask::Try { operation, path } => Operation::Try(TrialRequest {
            of: TrialOf::Call(CallRequest {
                key: 0,
                mount: ZnodePath::parse("/m").unwrap(),
                operation: OPERATIONS[*operation].into(),
                arguments: relative(*path),
                timeout_ms: None,
                acknowledged: Acknowledgement::default(),
            }),
            record: path % 2 == 0,
        }),
        Ask::Cancel(key) => Operation::Cancel { key: *key },
        Ask::Acknowledge(said) => Operation::Acknowledge(acknowledgement(*said)),
        Ask::Upload(byte, piece) => {
            let component = component(*byte % COMPONENTS);
            let (from, to) = if piece % 2 == 0 { (0, 3) } else { (3, 8) };
            Operation::UploadPiece {
                digest: RecipeDigest::of(&component),
                bytes: 8,
                offset: from as u64,
                piece: component.slice(from..to),
            }
        }
        Ask::Push(byte) => push(*byte % COMPONENTS),
        Ask::Mount { sealed } => {
            let settings = MountSettings {
                parameters: Some(Bytes::from_static(b"{}")),
                sealed: Some(*sealed),
                bounds: vec![(Bound::Failures, Some(2)), (Bound::ChainDepth, Some(20))],
                callers: None,
                shadow: sealed.then(|| {
                    Some(Shadow {
                        recipe: "steps".into(),
                        digest: None,
                    })
                }),
            };
            mount(settings, false)
        }
        Ask::Upgrade => mount(MountSettings::default(), true),
        Ask::Resume => Operation::Resume {
            path: ZnodePath::parse("/m").unwrap(),
        },
        Ask::Unmount => Operation::BeginUnmount {
            path: ZnodePath::parse("/m").unwrap(),
        },
        Ask::Continue => unreachable!("the world knows what is next"),
    }
}

/// One leader, with a replica to which everything is applied at once.
pub(super) struct World {
    pub(super) base: crate::SharedState,
    pub(super) replica: State,
    pub(super) evaluator: Evaluator<Steps>,
    bounds: Bounds,
    proposed: VecDeque<(Zxid, Entry)>,
    /// What was asked last.
    asked: Option<Operation>,
    /// The next step of the last that goes in steps.
    next: Option<Operation>,
    pub(super) sessions: Vec<SessionId>,
    pub(super) now: Timestamp,
    snapshot: Option<Taking>,
}

struct Taking {
    image: Vec<String>,
    digest: Digest,
    components: Vec<(RecipeDigest, Component)>,
    chunks: Vec<Vec<u8>>,
    /// What was applied since it was begun.
    since: Vec<Entry>,
}

impl World {
    pub(super) fn new() -> World {
        let start = Entry::EpochStart(EpochStart {
            epoch: 1,
            leader: ServerId(1),
            incarnation: Incarnation(1),
            nonce: 1,
            time: Timestamp(1000),
            suspect: None,
        });
        let (mut base, mut replica) = (State::new(), State::new());
        for state in [&mut base, &mut replica] {
            assert_eq!(state.apply(&start, |_, _, _| {}), Ok(Verdict::Applied));
        }
        let base = Arc::new(RwLock::new(base));
        let bounds = Bounds {
            upload_patience_ms: 100,
            mount_step: 3,
            ..Bounds::default()
        };
        let evaluator = Evaluator::new(base.clone(), Steps, bounds.clone());
        World {
            base,
            replica,
            evaluator,
            bounds,
            proposed: VecDeque::new(),
            asked: None,
            next: None,
            sessions: Vec::new(),
            now: Timestamp(1000),
            snapshot: None,
        }
    }

    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::Ask(session, ask) => {
                let session = match ask {
                    Ask::Open => SessionId::NONE,
                    _ => self
                        .sessions
                        .get(*session)
                        .copied()
                        .unwrap_or(SessionId(99)),
                };
                let operation = match ask {
                    Ask::Continue => match self.next.clone() {
                        Some(next) => next,
                        None => return,
                    },
                    ask => operation(ask),
                };
                self.asked = Some(operation.clone());
                let request = Request {
                    session,
                    owner: None,
                    identities: Arc::default(),
                    operation,
                };
                self.evaluator.evaluate(&request, None, self.now);
                self.propose();
            }
            Step::Pass(milliseconds) => {
                self.now = self.now.plus(*milliseconds);
                self.evaluator.tick(self.now);
                self.propose();
            }
            Step::Propose => self.propose(),
            Step::Apply => self.apply(),
            Step::NewEpoch => {
                let suspect = self.open_epoch();
                if let Some(suspect) = suspect {
                    self.evaluator.run_suspect(suspect, self.now);
                }
                self.propose();
            }
            Step::BeginSnapshot if self.snapshot.is_none() => {
                let mut base = self.base.write();
                let components = base.begin_snapshot();
                self.snapshot = Some(Taking {
                    components,
                    image: base.image(),
                    digest: base.digest(),
                    chunks: Vec::new(),
                    since: Vec::new(),
                });
            }
            Step::BeginSnapshot => {}
            Step::SnapshotChunk => self.snapshot_chunk(),
        }
    }

    /// Goes on with other bounds.
    pub(super) fn with_bounds(&mut self, bounds: Bounds) {
        while !self.proposed.is_empty() {
            self.apply();
        }
        self.evaluator = Evaluator::new(self.base.clone(), Steps, bounds.clone());
        self.bounds = bounds;
    }

    /// What is proposed is applied, the rest is lost; gives the epoch's suspect.
    pub(super) fn open_epoch(&mut self) -> Option<CallId> {
        while !self.proposed.is_empty() {
            self.apply();
        }
        let suspect = self.base.read().first_marked(|_| true);
        let start = Entry::EpochStart(EpochStart {
            epoch: self.replica.epoch() + 1,
            leader: ServerId(1),
            incarnation: Incarnation(1),
            nonce: 1,
            time: self.now,
            suspect,
        });
        for state in [&mut self.replica, &mut *self.base.write()] {
            assert_eq!(state.apply(&start, |_, _, _| {}), Ok(Verdict::Applied));
        }
        if let Some(taking) = &mut self.snapshot {
            taking.since.push(start);
        }
        self.evaluator = Evaluator::new(self.base.clone(), Steps, self.bounds.clone());
        suspect
    }

    pub(super) fn propose(&mut self) {
        while let Some(batch) = self.evaluator.take_batch(usize::MAX) {
            self.propose_batch(batch);
        }
    }

    pub(super) fn propose_batch(&mut self, batch: Batch) {
        let last = batch.first_counter + batch.transactions.len() as u32 - 1;
        let zxid = Zxid::new(batch.epoch, last);
        let entry = Entry::Transactions(batch);
        let (sessions, asked, next) = (&mut self.sessions, &self.asked, &mut self.next);
        let verdict = self.replica.apply(&entry, |_, zxid, transaction| {
            if let Some(quorate_model::outcome::Outcome::Session { session, .. }) =
                &transaction.outcome
            {
                assert_eq!(session.0, zxid.0);
                sessions.push(*session);
                if sessions.len() > 3 {
                    sessions.remove(0);
                }
            }
            if let (Some(asked), Some(outcome)) = (asked, &transaction.outcome) {
                *next = asked.next_step(outcome).or(next.take());
            }
        });
        assert_eq!(verdict, Ok(Verdict::Applied));
        let bytes = postcard::to_allocvec(&entry).unwrap();
        assert_eq!(
            postcard::from_bytes::<Entry>(&bytes).as_ref(),
            Ok(&entry),
            "entries are stored"
        );
        self.proposed.push_back((zxid, entry));
        if self.evaluator.batch_bytes() == 0 {
            self.compare();
        }
    }

    pub(super) fn apply(&mut self) {
        let Some((zxid, entry)) = self.proposed.pop_front() else {
            return;
        };
        assert_eq!(
            self.base.write().apply(&entry, |_, _, _| {}),
            Ok(Verdict::Applied)
        );
        if let Some(taking) = &mut self.snapshot {
            taking.since.push(entry);
        }
        self.compare();
        self.evaluator.applied(zxid);
        self.compare();
    }

    fn snapshot_chunk(&mut self) {
        let Some(taking) = &mut self.snapshot else {
            return;
        };
        let chunk = self.base.write().snapshot_chunk();
        match chunk {
            Some(chunk) => taking.chunks.push(chunk),
            None => {
                let Some(taking) = self.snapshot.take() else {
                    return;
                };
                let chunks = taking.chunks.into_iter().map(Ok::<_, SnapshotError>);
                let components = taking.components.into_iter().map(Ok);
                let mut loaded = State::load(components, chunks).unwrap();
                assert_eq!(loaded.image(), taking.image);
                assert_eq!(loaded.digest(), taking.digest);
                for entry in &taking.since {
                    assert_eq!(loaded.apply(entry, |_, _, _| {}), Ok(Verdict::Applied));
                }
                let digest = self.base.read().digest();
                assert_eq!(loaded.digest(), digest, "it goes on like the others");
            }
        }
    }

    /// The view over base and overlay says what the replica says.
    fn compare(&self) {
        let (view, replica) = (&self.evaluator.view, &self.replica);
        for state in [replica, &*self.base.read()] {
            assert_eq!(state.digest(), state.counted_digest());
        }
        let all = Range {
            limit: u32::MAX,
            ..Range::default()
        };
        let mut paths: Vec<ZnodePath> = (0..PATHS.len()).map(path).collect();
        paths.push(ZnodePath::root());
        let mut at = 0;
        while at < paths.len() {
            let path = paths[at].clone();
            at += 1;
            assert_eq!(Records::stat(view, &path), replica.stat(&path), "{path}");
            assert_eq!(view.node(&path), replica.node(&path), "{path}");
            assert_eq!(
                view.children(&path, &all),
                replica.children(&path),
                "{path}"
            );
            for (after, before, descending, limit) in [
                (None, Some("t"), true, 1),
                (Some("b"), None, false, 2),
                (None, None, true, 2),
            ] {
                let range = Range {
                    after: after.map(str::to_owned),
                    before: before.map(str::to_owned),
                    descending,
                    limit,
                };
                assert_eq!(
                    view.children(&path, &range),
                    replica.children_in(&path, &range)
                );
            }
            let children = replica.children(&path).unwrap_or_default();
            paths.extend(children.iter().map(|name| path.child(name).unwrap()));
        }
        for session in &self.sessions {
            assert_eq!(
                Records::session(view, *session),
                replica.session(*session).copied()
            );
            assert_eq!(
                view.parked_of(*session),
                replica.calls_of(*session).collect::<Vec<_>>()
            );
            let answers: Vec<_> = replica.answers_of(*session, u64::MAX).collect();
            assert_eq!(view.answers_up_to(*session, u64::MAX), answers);
            for call in answers {
                assert_eq!(view.answer(call).as_ref(), replica.answer(call));
            }
            for call in replica.calls_of(*session) {
                assert_eq!(view.parked(call).as_ref(), replica.parked(call));
            }
        }
        assert_eq!(view.mounts(), replica.mounts().cloned().collect::<Vec<_>>());
        assert_eq!(
            view.recipes(),
            replica.recipes().cloned().collect::<Vec<_>>()
        );
        let first = IndexKey::Ephemeral(SessionId::NONE, ZnodePath::root());
        let index: Vec<_> = replica.index.iter().cloned().collect();
        assert_eq!(view.indexed(first, |_| true, usize::MAX), index);
    }

    pub(super) fn finish(mut self) {
        while !self.proposed.is_empty() {
            self.apply();
        }
        while self.snapshot.is_some() {
            self.snapshot_chunk();
        }
        assert_eq!(self.base.read().image(), self.replica.image());
        assert_eq!(self.base.read().digest(), self.replica.digest());
        let mut base = self.base.write();
        let components = base.begin_snapshot().into_iter().map(Ok);
        let chunks = std::iter::from_fn(|| base.snapshot_chunk()).map(Ok::<_, SnapshotError>);
        let at_rest = State::load(components, chunks).unwrap();
        assert_eq!(at_rest.image(), self.replica.image(), "a snapshot at rest");
    }
}

proptest! {
    #[test]
    fn the_view_equals_the_state_after_apply(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        let push = PUSH.map(|ask| Step::Ask(0, ask));
        let mount = Step::Ask(0, Ask::Mount { sealed: true });
        let open = Step::Ask(0, Ask::Open);
        for step in [open].iter().chain(&push).chain([&mount]).chain(&steps) {
            world.step(step);
        }
        world.finish();
    }

    #[test]
    fn damaged_snapshots_are_refused_and_never_panic(cut in any::<prop::sample::Index>(), byte: u8) {
        let mut state = State::new();
        state.begin_snapshot();
        let mut bytes: Vec<u8> = std::iter::from_fn(|| state.snapshot_chunk()).flatten().collect();
        let load = |bytes: Vec<u8>| State::load([], [Ok::<_, SnapshotError>(bytes)]);
        let at = cut.index(bytes.len());
        prop_assert!(load(bytes[..at].to_vec()).is_err(), "cut at {}", at);
        bytes[at] ^= byte;
        if let Ok(loaded) = load(bytes) {
            prop_assert_eq!(loaded.image(), state.image(), "another slot, and nothing else");
        }
    }
}

#[test]
fn a_snapshot_of_an_unknown_version_is_refused() {
    let head = crate::snapshot::Record::Head {
        version: 99,
        epoch: 1,
        counter: 1,
        time: Timestamp(1),
        sequence_floor: 0,
        ensemble_version: 0,
    };
    let bytes = postcard::to_allocvec(&head).unwrap();
    let loaded = State::load([], [Ok::<_, SnapshotError>(bytes)]);
    assert_eq!(
        loaded.err(),
        Some(SnapshotError::UnknownVersion { found: 99 })
    );
}

#[test]
fn chunks_that_cannot_be_read_are_passed_on() {
    let chunks = std::iter::empty::<Result<Vec<u8>, SnapshotError>>();
    assert_eq!(
        State::load([], chunks).err(),
        Some(SnapshotError::Damaged("it ends too early"))
    );
}
