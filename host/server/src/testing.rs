//! A server for tests: the real stages that face clients, the real evaluator, and no log between.
//!
//! It takes a step when it is told to, so that a test decides what is in one entry.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use quorate_model::acl::Acl;
use quorate_model::id::{Incarnation, ServerId, SessionId, Timestamp, Zxid};
use quorate_model::outcome::Outcome;
use quorate_model::path::{RelativePath, ZnodePath};
use quorate_model::recipe::{Component, Exports, MountSettings, RecipeDigest};
use quorate_model::request::{
    CreateLifetime, CreatePath, Operation, Password, Request, ZnodeOperation,
};
use quorate_model::run::{
    Invocation, RunEnding, RunInput, RunReport, RunWatch, Runner, TreeAccess as _,
};
use quorate_model::write_set::{Entry, EpochStart, Transaction};
use quorate_sandbox::{Sandbox, SandboxConfig};
use quorate_tree::{Bounds, Evaluator, RunTree, State};
use quorate_wire::{ConnectRequest, frame};

use crate::apply::Applier;
use crate::clock::{Clock, SystemHands};
use crate::essential::Essential;
use crate::expiry::Touches;
use crate::local_sessions;
use crate::metrics::Metrics;
use crate::mode::Mode;
use crate::notify::Watches;
use crate::receive::{Edge, Limits};
use crate::recipes::Recipes;
use crate::respond::{Connection, Form};
use crate::route::{Router, Waiter};
use crate::silence::Silence;

pub(crate) fn path(text: &str) -> ZnodePath {
    ZnodePath::parse(text).unwrap()
}

/// The server. Its clock stands still.
pub(crate) struct TestServer {
    pub(crate) edge: Arc<Edge>,
    evaluator: Mutex<Evaluator<TestRecipe>>,
    /// Of the test itself.
    pub(crate) session: SessionId,
}

/// The component whose recipe has no operation `wait`.
pub(crate) const WAITLESS: &[u8] = b"good, without wait";

/// `echo` returns its arguments; `wait` parks until the znode `gate` is there.
pub(crate) struct TestRecipe;

impl Runner<RunTree> for TestRecipe {
    fn ready(&self, _: &RecipeDigest) -> bool {
        true
    }

    fn fits(&self, digest: &RecipeDigest, operation: &str, _: &str) -> Result<(), String> {
        let waits = *digest != RecipeDigest::of(WAITLESS);
        match operation {
            "echo" => Ok(()),
            "wait" if waits => Ok(()),
            other => Err(format!("there is no operation {other:?}")),
        }
    }

    fn run(&self, input: RunInput, mut tree: RunTree) -> RunReport<RunTree> {
        let gate = RelativePath::parse("gate").unwrap();
        let Invocation::Operation { name, arguments } = input.invocation else {
            panic!("it exports operations only");
        };
        let ending = match name.as_str() {
            "echo" => RunEnding::Returned(arguments),
            "wait" if tree.exists(&gate).unwrap().is_none() => RunEnding::Parked {
                memo: Bytes::new(),
                watches: vec![RunWatch::Node(gate)],
            },
            "wait" => RunEnding::Returned("\"go\"".into()),
            other => RunEnding::BadCall(format!("there is no operation {other:?}")),
        };
        RunReport {
            tree,
            ending,
            fuel: 1,
            log: Vec::new(),
        }
    }
}

impl TestServer {
    pub(crate) fn new() -> Arc<TestServer> {
        TestServer::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Arc<TestServer> {
        let clock = Arc::new(Clock::start(SystemHands::start()));
        TestServer::with_silence(limits, Silence::alone(clock))
    }

    /// One of several, if it is silent without the others.
    pub(crate) fn with_silence(limits: Limits, silence: Silence) -> Arc<TestServer> {
        let mut state = State::new();
        let start = EpochStart {
            epoch: 1,
            leader: ServerId(1),
            incarnation: Incarnation(1),
            nonce: 1,
            time: Timestamp(1),
            suspect: None,
        };
        state
            .apply(&Entry::EpochStart(start), |_, _, _| {})
            .unwrap();
        let metrics = Arc::new(Metrics::new());
        let watches = Watches::new(&state, metrics.clone());
        let state = Arc::new(RwLock::new(state));
        let router = Router::new(ServerId(1), Incarnation(1), Arc::new(Touches::default()));
        let mut server = TestServer {
            session: SessionId::NONE,
            evaluator: Mutex::new(Evaluator::new(state.clone(), TestRecipe, Bounds::default())),
            edge: Arc::new(Edge {
                router,
                state,
                watches,
                metrics,
                limits,
                members: None,
                activity: Arc::default(),
                read_only: Arc::default(),
                silence: Arc::new(silence),
                waiting: Arc::default(),
                local: local_sessions::Table::new(|| 0),
                room: Default::default(),
                quorum_age_ms: Box::new(|| 0),
                mode: Box::new(|| Mode::Standalone),
            }),
        };
        let (_, outcome) = server.ask(Operation::OpenSession {
            timeout_ms: 10_000,
            password: Password([0; 16]),
        });
        let Outcome::Session { session, .. } = outcome else {
            panic!("{outcome:?}");
        };
        server.session = session;
        Arc::new(server)
    }

    /// Makes one entry of all requests that have arrived, and applies it. Says how many they were.
    pub(crate) fn step(&self) -> usize {
        let mut evaluator = self.evaluator.lock();
        let (count, entry) = self.evaluate_with(&mut evaluator);
        if let Some(entry) = entry {
            evaluator.applied(self.apply(&entry));
        }
        count
    }

    /// The first half of a step: what has arrived is evaluated, and not applied yet.
    pub(crate) fn evaluate(&self) -> Option<Entry> {
        self.evaluate_with(&mut self.evaluator.lock()).1
    }

    fn evaluate_with(&self, evaluator: &mut Evaluator<TestRecipe>) -> (usize, Option<Entry>) {
        let (_, requests) = self.edge.router.take(usize::MAX);
        for numbered in &requests {
            evaluator.evaluate(&numbered.request, Some(numbered.origin), Timestamp(1000));
        }
        let batch = evaluator.take_batch(usize::MAX);
        (requests.len(), batch.map(Entry::Transactions))
    }

    /// The other half. Gives the last transaction.
    pub(crate) fn apply(&self, entry: &Entry) -> Zxid {
        let edge = &self.edge;
        let mut state = edge.state.write();
        let before = |state: &State, zxid, transaction: &Transaction| {
            edge.router.precede(transaction.origin, state);
            edge.watches.address(state, zxid, transaction)
        };
        let applied = |state: &State, zxid, transaction: &Transaction, mail| {
            edge.watches.notify(zxid, mail);
            if let (Some(origin), Some(outcome)) = (transaction.origin, &transaction.outcome) {
                edge.router.settle(origin, state, zxid, outcome);
            }
        };
        state.apply_around(entry, before, applied).unwrap();
        state.last_zxid()
    }

    /// What a log would apply to, on this server's state.
    pub(crate) fn applier(&self) -> Applier {
        let edge = &self.edge;
        let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
        let clock = Arc::new(Clock::start(SystemHands::start()));
        Applier::new(
            edge.state.clone(),
            edge.router.clone(),
            edge.watches.clone(),
            Arc::default(),
            Recipes::new(Arc::new(sandbox), edge.metrics.clone(), clock),
            edge.metrics.clone(),
            Essential::nothing(),
        )
    }

    /// A snapshot of the state: the components beside it, and its pieces.
    pub(crate) fn snapshot(&self) -> (Vec<(RecipeDigest, Component)>, Vec<Vec<u8>>) {
        let mut state = self.edge.state.write();
        let components = state.begin_snapshot();
        let pieces = std::iter::from_fn(|| state.snapshot_chunk()).collect();
        (components, pieces)
    }

    /// As while a snapshot is installed; gives the state, which is to be put back.
    pub(crate) fn vacate(&self) -> State {
        std::mem::replace(&mut *self.edge.state.write(), State::vacant())
    }

    /// A question for a read index is asked and answered: what is committed is applied here.
    pub(crate) fn pass_barrier(&self) {
        let barriers = self.edge.router.barriers();
        barriers.pass(barriers.ask());
    }

    /// Takes steps by itself until the last handle of the server is gone.
    pub(crate) fn run(self: &Arc<Self>) {
        let (server, router) = (Arc::downgrade(self), self.edge.router.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build();
            runtime.unwrap().block_on(async {
                while let Some(server) = server.upgrade() {
                    server.step();
                    server.pass_barrier();
                    drop(server);
                    let look_again = Duration::from_millis(10);
                    let arrived = async {
                        tokio::select! {
                            () = router.arrived() => {}
                            () = router.barriers().raised() => {}
                        }
                    };
                    let _ = tokio::time::timeout(look_again, arrived).await;
                }
            });
        });
    }

    /// Does it at once.
    pub(crate) fn ask(&self, operation: Operation) -> (Zxid, Outcome) {
        let answer = Arc::new(Mutex::new(None));
        let session = match operation {
            Operation::Znode(_) => self.session,
            _ => SessionId::NONE,
        };
        let request = Request {
            session,
            owner: None,
            identities: Arc::default(),
            operation,
        };
        let told = Box::new(Told(answer.clone()));
        self.edge.router.submit(request, told).unwrap();
        self.step();
        let answer = answer.lock().take();
        answer.expect("the step answers it")
    }

    pub(crate) fn create(&self, at: &str, data: &str) -> Zxid {
        let (zxid, outcome) = self.ask(Operation::Znode(create(at, data)));
        assert!(matches!(outcome, Outcome::Znode(_)), "{outcome:?}");
        zxid
    }

    pub(crate) fn delete(&self, at: &str) -> Zxid {
        let (zxid, outcome) = self.ask(Operation::Znode(ZnodeOperation::Delete {
            path: path(at),
            version: -1,
        }));
        assert!(matches!(outcome, Outcome::Znode(_)), "{outcome:?}");
        zxid
    }

    pub(crate) fn set(&self, at: &str, data: &str) -> Zxid {
        let (zxid, outcome) = self.ask(Operation::Znode(set(at, data)));
        assert!(matches!(outcome, Outcome::Znode(_)), "{outcome:?}");
        zxid
    }

    /// Mounts the test's recipe.
    pub(crate) fn mount(&self, at: &str) {
        let component = Bytes::from_static(b"a component");
        for operation in Operation::upload("test", &component, None, Exports::default()) {
            self.ask(operation);
        }
        let (_, outcome) = self.ask(Operation::Mount {
            path: path(at),
            recipe: "test".into(),
            digest: None,
            settings: MountSettings {
                sealed: Some(false),
                ..MountSettings::default()
            },
            upgrade: false,
        });
        assert!(matches!(outcome, Outcome::Mounted { .. }), "{outcome:?}");
    }

    /// A connection without a socket.
    pub(crate) fn connection(&self) -> Arc<Connection> {
        let edge = &self.edge;
        let owner = edge.router.owner(edge.router.next_connection());
        let address = SocketAddr::from(([127, 0, 0, 1], 50_000));
        Connection::open(owner, address, edge)
    }

    /// The same with a session; what it has been sent is taken.
    pub(crate) fn open_session(&self) -> Arc<Connection> {
        let connection = self.connection();
        let request = Request {
            session: SessionId::NONE,
            owner: Some(connection.owner()),
            identities: Arc::default(),
            operation: Operation::OpenSession {
                timeout_ms: 10_000,
                password: Password([1; 16]),
            },
        };
        let waiter = connection.handshake(connect_request());
        self.edge.router.submit(request, waiter).unwrap();
        self.step();
        assert!(connection.session().is_some());
        sent(&connection);
        connection
    }

    /// Submits a write of `connection`; the next step answers it.
    pub(crate) fn write(
        &self,
        connection: &Arc<Connection>,
        xid: i32,
        operation: Operation,
        form: Form,
    ) {
        let request = Request {
            session: connection.session().unwrap(),
            owner: Some(connection.owner()),
            identities: Arc::default(),
            operation,
        };
        let waiter = connection.write(xid, form, 100);
        self.edge.router.submit(request, waiter).unwrap();
    }
}

pub(crate) fn connect_request() -> ConnectRequest {
    ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        timeout_ms: 10_000,
        session: 0,
        password: Bytes::from_static(&[0; 16]),
        read_only: Some(false),
    }
}

pub(crate) fn create(at: &str, data: &str) -> ZnodeOperation {
    ZnodeOperation::Create {
        path: CreatePath::parse(at, false).unwrap(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        acl: Acl::open(),
        lifetime: CreateLifetime::Persistent,
        with_stat: false,
    }
}

pub(crate) fn set(at: &str, data: &str) -> ZnodeOperation {
    ZnodeOperation::Set {
        path: path(at),
        data: Bytes::copy_from_slice(data.as_bytes()),
        version: -1,
    }
}

/// The frames that were queued for the client since the last call.
pub(crate) fn sent(connection: &Connection) -> Vec<Bytes> {
    let mut bytes = BytesMut::new();
    connection.take_output(&mut bytes);
    let mut frames = Vec::new();
    while let Some(frame) = frame::decode(&mut bytes, usize::MAX).unwrap() {
        frames.push(frame);
    }
    assert!(bytes.is_empty(), "only whole frames are queued");
    connection.take_output(&mut BytesMut::new());
    frames
}

struct Told(Arc<Mutex<Option<(Zxid, Outcome)>>>);

impl Waiter for Told {
    fn alive(&self) -> bool {
        true
    }
    fn settle(self: Box<Self>, _: &State, zxid: Zxid, outcome: &Outcome) {
        *self.0.lock() = Some((zxid, outcome.clone()));
    }
    fn abandon(self: Box<Self>, reason: &str) {
        panic!("abandoned: {reason}");
    }
}
