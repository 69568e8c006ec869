//! Random schedules of a recipe's calls, against what it promises: sessions call, give up and end, time passes,
//! leaders change. In the process, over evaluator and sandbox, without I/O; the seed says all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
pub use fastrand::Rng;
use parking_lot::RwLock;
use quorate_model::call::{Acknowledgement, CallRequest, Ending};
pub use quorate_model::id::{CallId, SessionId};
use quorate_model::id::{Incarnation, Origin, ServerId, Timestamp};
use quorate_model::outcome::Outcome;
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{MountSettings, RecipeDigest};
use quorate_model::request::{Operation, Password, Request};
use quorate_model::run::{RunInput, RunReport, Runner};
use quorate_model::write_set::{Change, Entry, EpochStart, Transaction};
pub use quorate_sandbox::{Definition, Operation as Interfaced, Type};
use quorate_sandbox::{Interface, Sandbox, SandboxConfig};
use quorate_tree::{Bounds, Evaluator, RunTree, SharedState, State, Verdict};
pub use serde_json::{Value, json};

/// Where the recipe is mounted.
const MOUNT: &str = "/mount";

/// The schedule's beginning: 2026-01-01, midnight.
const BEGIN_MS: u64 = 1_767_225_600_000;

/// Seeds of each test, and steps of each seed.
const SEEDS: u64 = 10;
const STEPS: usize = 300;

/// Sessions at a time.
const SESSIONS: usize = 5;

/// Of the history, what a failure shows.
const SHOWN: usize = 60;

/// A call as its client made it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which.
    pub id: CallId,
    /// The operation.
    pub operation: String,
    /// Its arguments, in order.
    pub arguments: Vec<Value>,
}

impl Asked {
    /// An argument that is a text.
    ///
    /// # Panics
    /// If it is none.
    pub fn text(&self, index: usize) -> &str {
        self.arguments[index].as_str().expect("a text")
    }

    /// An argument that is a number.
    ///
    /// # Panics
    /// If it is none.
    pub fn number(&self, index: usize) -> u64 {
        self.arguments[index].as_u64().expect("a number")
    }
}

/// What happened, in the order of transactions.
#[derive(Clone, Debug)]
pub enum Event {
    /// A call was made: it comes after all earlier ones.
    Asked(Asked),
    /// It returned.
    Returned(Asked, Value),
    /// It ended without a result: why.
    Ended(Asked, String),
    /// A session ended, with its calls.
    SessionEnded(SessionId),
}

/// An event, and when it happened, in milliseconds since the Unix epoch.
pub type Moment = (u64, Event);

/// What a recipe promises, as a model that is told all that happens.
pub trait Property {
    /// What to do before anything else: the calls are made by a session of their own, which never ends.
    fn prepare(&mut self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    /// What a session calls next, by its operation and its arguments in order.
    fn ask(&mut self, random: &mut Rng, session: SessionId) -> (&'static str, Value);

    /// Told of each event.
    ///
    /// # Errors
    /// What promise it breaks.
    fn see(&mut self, at: u64, event: &Event) -> Result<(), String>;

    /// Told whenever nothing is left to do until the next call, or until time has passed.
    ///
    /// # Errors
    /// What promise is broken, such as that a call waits that should not.
    fn rest(&mut self, now: u64) -> Result<(), String> {
        let _ = now;
        Ok(())
    }

    /// How far time may go on in a step, in milliseconds.
    fn longest_pause(&self) -> u64 {
        2000
    }

    /// Whether other requests may come between a change and the calls that it wakes, as they may beyond
    /// the budget for wakes (rule C4).
    fn delays_wakes(&self) -> bool {
        true
    }
}

/// Runs schedules of a standard recipe against a property.
///
/// `QUORATE_SEED` says which one seed to run, `QUORATE_SEEDS` how many.
///
/// # Panics
/// With seed and history, if the property does not hold.
pub fn hold<P: Property>(recipe: &str, property: impl Fn() -> P) {
    let compiled = Compiled::standard(recipe);
    let number = |name| {
        env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect(name))
    };
    let seeds = match (number("QUORATE_SEED"), number("QUORATE_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => 1..seeds.unwrap_or(SEEDS) + 1,
    };
    for seed in seeds {
        let mut schedule = Schedule::new(&compiled, seed, property());
        if let Err(why) = schedule.run() {
            let history = &schedule.history;
            let shown = &history[history.len().saturating_sub(SHOWN)..];
            panic!("{recipe}, QUORATE_SEED={seed}: {why}\n{}", shown.join("\n"));
        }
    }
}

/// A standard recipe, compiled once for all seeds.
pub struct Compiled {
    sandbox: Arc<Sandbox<RunTree>>,
    component: Bytes,
    interface: Arc<Interface>,
}

impl Compiled {
    /// The one of that name.
    ///
    /// # Panics
    /// If there is none, or it does not compile.
    pub fn standard(name: &str) -> Compiled {
        let standard = quorate_recipes::find(name).expect("a standard recipe");
        let sandbox = Sandbox::new(SandboxConfig::default()).expect("the sandbox starts");
        let prepared = sandbox.prepare(standard.wasm).expect("it is a recipe");
        sandbox
            .make_ready(prepared.digest, &prepared.component)
            .expect("it compiles");
        Compiled {
            sandbox: Arc::new(sandbox),
            component: prepared.component,
            interface: prepared.interface,
        }
    }

    /// Its operations, with the types of what they take.
    pub fn operations(&self) -> &[Interfaced] {
        &self.interface.operations
    }
}

#[derive(Clone)]
struct Shared {
    sandbox: Arc<Sandbox<RunTree>>,
    /// The most fuel that a run has used.
    fuel: Arc<AtomicU64>,
}

impl Runner<RunTree> for Shared {
    fn ready(&self, digest: &RecipeDigest) -> bool {
        self.sandbox.ready(digest)
    }

    fn fits(&self, digest: &RecipeDigest, operation: &str, arguments: &str) -> Result<(), String> {
        self.sandbox.fits(digest, operation, arguments)
    }

    fn run(&self, input: RunInput, tree: RunTree) -> RunReport<RunTree> {
        let report = self.sandbox.run(input, tree);
        self.fuel.fetch_max(report.fuel, Ordering::Relaxed);
        report
    }
}

/// One server's state with a recipe mounted, and the calls made so far.
pub struct World {
    state: SharedState,
    runner: Shared,
    evaluator: Evaluator<Shared>,
    bounds: Bounds,
    now: Timestamp,
    /// The last session that was opened.
    opened: SessionId,
    calls: BTreeMap<CallId, Asked>,
    /// The call that is being made.
    asking: Option<Asked>,
    /// Those that wait.
    parked: BTreeSet<CallId>,
    keys: u64,
    requests: u64,
    transactions: u64,
    events: VecDeque<Moment>,
}

impl World {
    /// A world in which so many wakes are run behind a request.
    ///
    /// # Panics
    /// If the recipe cannot be mounted.
    pub fn new(recipe: &Compiled, wakes_at_once: u32) -> World {
        let state = Arc::new(RwLock::new(State::new()));
        let bounds = Bounds {
            wakes_at_once,
            ..Bounds::default()
        };
        let now = Timestamp(BEGIN_MS);
        let runner = Shared {
            sandbox: recipe.sandbox.clone(),
            fuel: Arc::default(),
        };
        let evaluator = open_epoch(&state, &runner, bounds.clone(), now);
        let mut world = World {
            state,
            runner,
            evaluator,
            bounds,
            now,
            opened: SessionId::NONE,
            calls: BTreeMap::new(),
            asking: None,
            parked: BTreeSet::new(),
            keys: 0,
            requests: 0,
            transactions: 0,
            events: VecDeque::new(),
        };
        let interface = &recipe.interface;
        let (version, exports) = (interface.version.clone(), interface.exports());
        for operation in Operation::upload("recipe", &recipe.component, version, exports) {
            world.evaluate(SessionId::NONE, operation);
        }
        let mount = Operation::Mount {
            path: mount_path(),
            recipe: "recipe".into(),
            digest: None,
            settings: MountSettings::default(),
            upgrade: false,
        };
        world.evaluate(SessionId::NONE, mount);
        world
    }

    /// Opens a session.
    pub fn open(&mut self) -> SessionId {
        let open = Operation::OpenSession {
            timeout_ms: 10_000,
            password: Password([0; 16]),
        };
        self.evaluate(SessionId::NONE, open);
        self.opened
    }

    /// Ends a session.
    pub fn expire(&mut self, session: SessionId) {
        self.evaluate(session, Operation::ExpireSession);
    }

    /// Calls an operation.
    pub fn call(
        &mut self,
        session: SessionId,
        operation: &str,
        arguments: Value,
        timeout_ms: Option<u64>,
    ) -> CallId {
        self.keys += 1;
        let id = CallId {
            session,
            key: self.keys,
        };
        let text = arguments.to_string();
        let Value::Array(arguments) = arguments else {
            panic!("arguments stand in a list: {text}");
        };
        let asked = Asked {
            id,
            operation: operation.to_owned(),
            arguments,
        };
        self.calls.insert(id, asked.clone());
        let request = CallRequest {
            key: id.key,
            mount: mount_path(),
            operation: operation.to_owned(),
            arguments: text,
            timeout_ms,
            acknowledged: Acknowledgement::default(),
        };
        self.asking = Some(asked);
        self.evaluate(session, Operation::Call(request));
        id
    }

    /// Gives up a call.
    pub fn cancel(&mut self, call: CallId) {
        self.evaluate(call.session, Operation::Cancel { key: call.key });
    }

    /// Time goes on.
    pub fn pass(&mut self, milliseconds: u64) {
        self.now = self.now.plus(milliseconds);
        self.tick();
    }

    /// Another leader begins, from exactly the state that there is.
    pub fn change_leader(&mut self) {
        self.evaluator = open_epoch(&self.state, &self.runner, self.bounds.clone(), self.now);
        self.tick();
    }

    /// Does what is due, within the budget.
    pub fn tick(&mut self) {
        self.evaluator.tick(self.now);
        self.apply();
    }

    /// Does what is due, until nothing is.
    pub fn settle(&mut self) {
        self.tick();
        while self.evaluator.has_wakes() || self.evaluator.next_due() <= self.now {
            // A call's runs are paced by the clock.
            self.now = self.now.plus(1);
            self.tick();
        }
    }

    /// The time, in milliseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        self.now.0
    }

    /// The calls that wait.
    pub fn parked(&self) -> Vec<CallId> {
        self.parked.iter().copied().collect()
    }

    /// How many requests were made, and how many transactions were evaluated for them.
    pub fn counts(&self) -> (u64, u64) {
        (self.requests, self.transactions)
    }

    /// The most fuel that a run has used since the last call.
    pub fn most_fuel(&self) -> u64 {
        self.runner.fuel.swap(0, Ordering::Relaxed)
    }

    /// What has happened since the last call.
    pub fn events(&mut self) -> Vec<Moment> {
        self.events.drain(..).collect()
    }

    /// How many znodes there are below the mount.
    pub fn znodes(&self) -> usize {
        let state = self.state.read();
        let mut left = vec![mount_path()];
        let mut count = 0;
        while let Some(path) = left.pop() {
            for name in state.children(&path).unwrap_or_default() {
                count += 1;
                left.extend(path.child(&name));
            }
        }
        count
    }

    /// All znodes of the tree, by their paths, with their data and when they were created and set.
    pub fn tree(&self) -> BTreeMap<String, (Bytes, u64, u64)> {
        let state = self.state.read();
        let mut left = vec![ZnodePath::parse("/").expect("a valid path")];
        let mut tree = BTreeMap::new();
        while let Some(path) = left.pop() {
            if let Some(node) = state.node(&path) {
                let (created, modified) = (node.stat.created.0, node.stat.modified.0);
                tree.insert(path.to_string(), (node.data, created, modified));
            }
            for name in state.children(&path).unwrap_or_default() {
                left.extend(path.child(&name));
            }
        }
        tree
    }

    fn evaluate(&mut self, session: SessionId, operation: Operation) {
        self.requests += 1;
        let origin = Origin {
            server: ServerId(1),
            incarnation: Incarnation(1),
            number: self.requests,
        };
        let request = Request {
            session,
            owner: None,
            identities: Arc::new(Vec::new()),
            operation,
        };
        self.evaluator.evaluate(&request, Some(origin), self.now);
        self.apply();
    }

    fn apply(&mut self) {
        let Some(batch) = self.evaluator.take_batch(usize::MAX) else {
            return;
        };
        self.transactions += batch.transactions.len() as u64;
        for transaction in &batch.transactions {
            self.tell(transaction);
        }
        let entry = Entry::Transactions(batch);
        let verdict = self.state.write().apply(&entry, |_, _, _| {});
        let is_applied = matches!(verdict, Ok(Verdict::Applied));
        assert!(is_applied, "the batch was not the next one: {verdict:?}");
        let last = self.state.read().last_zxid();
        self.evaluator.applied(last);
        self.evaluator.take_log();
    }

    fn tell(&mut self, transaction: &Transaction) {
        let at = transaction.time.0;
        match &transaction.outcome {
            Some(Outcome::Refused(refusal)) => panic!("a request was refused: {refusal}"),
            Some(Outcome::Session { session, .. }) => self.opened = *session,
            _ => {}
        }
        // What comes before it, timers and wakes, has no origin.
        if transaction.origin.is_some()
            && let Some(asked) = self.asking.take()
        {
            self.events.push_back((at, Event::Asked(asked)));
        }
        for change in &transaction.changes {
            let event = match change {
                Change::Park(call) => {
                    self.parked.insert(call.id);
                    continue;
                }
                Change::Unpark(id) => {
                    self.parked.remove(id);
                    continue;
                }
                Change::PutAnswer { call, answer } => {
                    let asked = self.calls[call].clone();
                    match &answer.ending {
                        Ending::Returned(result) => {
                            let value = serde_json::from_str(result).expect("a result is JSON");
                            Event::Returned(asked, value)
                        }
                        Ending::Trapped(_) | Ending::Exceeded { .. } => {
                            panic!("the recipe is at fault: {}: {asked:?}", answer.ending)
                        }
                        other => Event::Ended(asked, other.to_string()),
                    }
                }
                Change::CloseSession { session } => Event::SessionEnded(*session),
                _ => continue,
            };
            self.events.push_back((at, event));
        }
    }
}

fn mount_path() -> ZnodePath {
    ZnodePath::parse(MOUNT).expect("a valid path")
}

/// A leader begins from exactly the state that there is.
fn open_epoch(
    state: &SharedState,
    runner: &Shared,
    bounds: Bounds,
    now: Timestamp,
) -> Evaluator<Shared> {
    let start = EpochStart {
        epoch: state.read().epoch() + 1,
        leader: ServerId(1),
        incarnation: Incarnation(1),
        nonce: 1,
        time: now,
        suspect: None,
    };
    let entry = Entry::EpochStart(start);
    let verdict = state.write().apply(&entry, |_, _, _| {});
    assert!(verdict.is_ok(), "{verdict:?}");
    Evaluator::new(state.clone(), runner.clone(), bounds)
}

struct Schedule<P> {
    random: Rng,
    world: World,
    sessions: Vec<SessionId>,
    property: P,
    history: Vec<String>,
}

impl<P: Property> Schedule<P> {
    fn new(recipe: &Compiled, seed: u64, property: P) -> Schedule<P> {
        let mut random = Rng::with_seed(seed);
        let wakes_at_once = match random.u32(0..3) {
            _ if !property.delays_wakes() => 1000,
            0 => 1000,
            budget => budget,
        };
        let mut world = World::new(recipe, wakes_at_once);
        let sessions = (0..SESSIONS).map(|_| world.open()).collect();
        Schedule {
            random,
            world,
            sessions,
            property,
            history: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let operator = self.world.open();
        for (operation, arguments) in self.property.prepare() {
            self.world.call(operator, operation, arguments, None);
        }
        self.look()?;
        for _ in 0..STEPS {
            self.step();
            self.look()?;
            if self.random.u8(0..3) == 0 {
                self.world.settle();
                self.look()?;
                self.property.rest(self.world.now())?;
            }
        }
        Ok(())
    }

    fn step(&mut self) {
        let index = self.random.usize(0..self.sessions.len());
        let session = self.sessions[index];
        match self.random.u8(0..100) {
            0..70 => {
                let (operation, arguments) = self.property.ask(&mut self.random, session);
                let timeout_ms = match self.random.u8(0..10) {
                    0 => Some(self.random.u64(1..5000)),
                    _ => None,
                };
                self.world.call(session, operation, arguments, timeout_ms);
            }
            70..78 => {
                if let Some(call) = self.random.choice(self.world.parked()) {
                    self.note(|| format!("    {call:?} is given up"));
                    self.world.cancel(call);
                }
            }
            78..84 => {
                self.world.expire(session);
                self.sessions[index] = self.world.open();
            }
            84..98 => {
                let milliseconds = self.random.u64(1..self.property.longest_pause());
                self.world.pass(milliseconds);
            }
            _ => {
                self.note(|| "    another leader".into());
                self.world.change_leader();
            }
        }
    }

    /// Tells the property what has happened.
    fn look(&mut self) -> Result<(), String> {
        for (at, event) in self.world.events() {
            self.note(|| format!("    {} {}", at - BEGIN_MS, shown(&event)));
            self.property.see(at, &event)?;
        }
        Ok(())
    }

    fn note(&mut self, line: impl Fn() -> String) {
        self.history.push(line());
    }
}

fn shown(event: &Event) -> String {
    let call = |asked: &Asked| {
        let arguments = Value::Array(asked.arguments.clone());
        let CallId { session, key } = asked.id;
        format!("{session}@{key} {}{arguments}", asked.operation)
    };
    match event {
        Event::Asked(asked) => format!("{} …", call(asked)),
        Event::Returned(asked, value) => format!("{} = {value}", call(asked)),
        Event::Ended(asked, why) => format!("{} ended: {why}", call(asked)),
        Event::SessionEnded(session) => format!("{session} ended"),
    }
}
