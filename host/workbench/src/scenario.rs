//! Reads a scenario, does what it says, and writes down what came of it.
//!
//! A line that begins with `>` is a command; what follows, up to an empty line, is its output. Commands
//! are `session a` and the like for the scene, and `a: …` for what the client of session `a` asks for, in
//! the words of the command line. `docs/testing-recipes.md` has them all.

mod help;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use parking_lot::RwLock;
use quorate_model::acl::{Acl, Identity};
use quorate_model::bound::Bound;
use quorate_model::call::{Acknowledgement, CallRequest, Ending};
use quorate_model::id::{CallId, Incarnation, Origin, ServerId, SessionId, Timestamp};
use quorate_model::outcome::{Outcome, Refusal, ZnodeOutcome};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{MountSettings, RecipeDigest};
use quorate_model::request::{
    CreateLifetime, CreatePath, Operation, Password, Request, ZnodeOperation,
};
use quorate_model::run::{RunInput, RunReport, Runner};
use quorate_model::write_set::{Change, Entry, EpochStart, Transaction};
use quorate_model::znode::Lifetime;
use quorate_sandbox::{Interface, Sandbox};
use quorate_tree::{Bounds, Evaluator, RunTree, SharedState, SnapshotError, State};
use serde_json::Value;

use crate::properties::{Checker, Violation};
use crate::words::words;
use crate::{Shelf, Workbench};

/// The scene's beginning: 2026-01-01, midnight.
pub(crate) const BEGIN: Timestamp = Timestamp(1_767_225_600_000);

/// How long a session lives without its client, in milliseconds.
const SESSION_TIMEOUT_MS: u32 = 10_000;

/// How often what was left over for later is gone on with at once. A server goes on for ever; a scenario in
/// which calls wake each other without end has to end.
const MAX_ROUNDS: usize = 20;

/// Does what `script` says; gives the script again, with the output that it has.
pub(crate) fn run(workbench: &Workbench, shelf: &dyn Shelf, script: &str) -> Result<String> {
    let mut scene = Scene::new(workbench, shelf)?;
    let mut output = String::new();
    let mut skipping = false;
    for (number, line) in script.lines().enumerate() {
        if let Some(command) = line.strip_prefix('>') {
            skipping = true;
            let said = scene
                .command(command.trim())
                .with_context(|| format!("line {}: {line}", number + 1))?;
            writeln!(output, "{line}")?;
            output.push_str(&said);
        } else if line.is_empty() || line.starts_with('#') {
            skipping = false;
            writeln!(output, "{line}")?;
        } else if !skipping {
            bail!(
                "line {}: neither a command (>), nor a comment (#), nor output",
                number + 1
            );
        }
    }
    Ok(output)
}

#[derive(Clone)]
pub(crate) struct Shared(Arc<Sandbox<RunTree>>);

impl Runner<RunTree> for Shared {
    fn ready(&self, digest: &RecipeDigest) -> bool {
        self.0.ready(digest)
    }

    fn fits(&self, digest: &RecipeDigest, operation: &str, arguments: &str) -> Result<(), String> {
        self.0.fits(digest, operation, arguments)
    }

    fn run(&self, input: RunInput, tree: RunTree) -> RunReport<RunTree> {
        self.0.run(input, tree)
    }
}

/// A state and its leader, with made-up sessions and time.
pub(crate) struct Scene<'a> {
    workbench: &'a Workbench,
    shelf: &'a dyn Shelf,
    pub(crate) state: SharedState,
    pub(crate) evaluator: Evaluator<Shared>,
    pub(crate) now: Timestamp,
    sessions: BTreeMap<String, SessionId>,
    /// Sessions without a client, and when each ends.
    crashed: BTreeMap<String, Timestamp>,
    /// The last key that each session has used.
    keys: BTreeMap<String, u64>,
    requests: u64,
    /// Whether what the next request wakes waits until the one after it.
    busy: bool,
    /// The session that the last request opened.
    opened: Option<SessionId>,
    /// What the last request was refused for, before anything ran.
    pub(crate) refused: Option<Refusal>,
    /// What the last request came to.
    answered: Option<Outcome>,
    history: History,
    checker: Option<Checker>,
}

/// What has happened to calls, for whoever checks it.
#[derive(Default)]
struct History {
    /// The call that is being evaluated, if it is one.
    asked: Option<CallRequest>,
    parked: BTreeSet<CallId>,
    events: Vec<Event>,
    /// Calls that were woken wait for their runs.
    is_unsettled: bool,
}

/// Something that happened to a call or a session, in the order of the transactions.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A call has run for the first time.
    Called {
        id: CallId,
        mount: ZnodePath,
        operation: String,
        arguments: String,
    },
    /// It waits, or waits again.
    Parked(CallId),
    /// It has its answer.
    Ended { id: CallId, ending: Ending },
    /// A session has ended, and its calls with it.
    SessionEnded(SessionId),
}

impl Scene<'_> {
    pub(crate) fn new<'a>(workbench: &'a Workbench, shelf: &'a dyn Shelf) -> Result<Scene<'a>> {
        let state = Arc::new(RwLock::new(State::new()));
        let evaluator = open_epoch(&state, &workbench.sandbox, BEGIN)?;
        Ok(Scene {
            workbench,
            shelf,
            state,
            evaluator,
            now: BEGIN,
            sessions: BTreeMap::new(),
            crashed: BTreeMap::new(),
            keys: BTreeMap::new(),
            requests: 0,
            busy: false,
            opened: None,
            refused: None,
            answered: None,
            history: History::default(),
            checker: None,
        })
    }

    /// Does it, and says what came of it; and, if something is checked, what of that does not hold any more.
    pub(crate) fn command(&mut self, command: &str) -> Result<String> {
        self.refused = None;
        let mut said = self.execute(command)?;
        let events = std::mem::take(&mut self.history.events);
        if let Some(mut checker) = self.checker.take() {
            let is_settled = !self.history.is_unsettled;
            for violation in checker.check(self, &events, is_settled)? {
                writeln!(said, "{violation}")?;
            }
            self.checker = Some(checker);
        }
        Ok(said)
    }

    /// What was found so far not to hold.
    pub(crate) fn violations(&self) -> &[Violation] {
        self.checker.as_ref().map_or(&[], Checker::violations)
    }

    /// What a session was given, if somebody checks.
    pub(crate) fn results(&self, session: SessionId) -> &[Value] {
        self.checker
            .as_ref()
            .map_or(&[], |checker| checker.results(session))
    }

    /// Who checks, if somebody does.
    pub(crate) fn checker(&self) -> Option<&Checker> {
        self.checker.as_ref()
    }

    /// From here on, `checker` does.
    pub(crate) fn set_checker(&mut self, checker: Checker) {
        self.checker = Some(checker);
    }

    fn execute(&mut self, command: &str) -> Result<String> {
        if let Some((session, asked)) = command.split_once(": ")
            && !session.contains(char::is_whitespace)
        {
            return self.ask(command, session, asked);
        }
        let words = words(command);
        match words[..] {
            ["session", name] => {
                let operation = Operation::OpenSession {
                    timeout_ms: SESSION_TIMEOUT_MS,
                    password: Password([0; 16]),
                };
                self.opened = None;
                let said = self.evaluate(SessionId::NONE, operation)?;
                let opened = self.opened.context("no session was opened")?;
                self.sessions.insert(name.to_owned(), opened);
                self.crashed.remove(name);
                Ok(said)
            }
            ["mount", path, recipe] => self.mount(path, recipe, false),
            ["upgrade", path, recipe] => self.mount(path, recipe, true),
            ["set", path, ref settings @ ..] => {
                let operation = Operation::SetMount {
                    path: ZnodePath::parse(path)?,
                    settings: mount_settings(settings)?,
                };
                self.evaluate(SessionId::NONE, operation)
            }
            ["resume", path] => self.evaluate(
                SessionId::NONE,
                Operation::Resume {
                    path: ZnodePath::parse(path)?,
                },
            ),
            ["unmount", path] => self.in_steps(Operation::BeginUnmount {
                path: ZnodePath::parse(path)?,
            }),
            ["expire", name] => {
                let session = self.session(name)?;
                self.crashed.remove(name);
                self.evaluate(session, Operation::ExpireSession)
            }
            ["crash", name] => {
                let session = self.session(name)?;
                if self.state.read().session(session).is_none() {
                    bail!("{name} cannot crash: its session has ended");
                }
                let end = self.now.plus(SESSION_TIMEOUT_MS.into());
                self.crashed.insert(name.to_owned(), end);
                Ok(format!(
                    "crashed: its session ends in {SESSION_TIMEOUT_MS} ms\n"
                ))
            }
            ["pass", milliseconds] => {
                let milliseconds = milliseconds.parse().ok();
                let milliseconds = milliseconds.context("it is written `pass MILLISECONDS`")?;
                self.pass(milliseconds)
            }
            ["busy"] => {
                self.busy = true;
                Ok(String::new())
            }
            ["new-leader"] => self.new_leader(),
            ["restart"] => {
                let mut state = self.state.write();
                let components = state.begin_snapshot();
                let chunks: Vec<Vec<u8>> = std::iter::from_fn(|| state.snapshot_chunk()).collect();
                drop(state);
                let chunks = chunks.into_iter().map(Ok::<_, SnapshotError>);
                let loaded = State::load(components.into_iter().map(Ok), chunks)?;
                self.state = Arc::new(RwLock::new(loaded));
                self.new_leader()
            }
            ["tree", path] => self.tree(&ZnodePath::parse(path)?),
            ["check", path, file] => {
                let text = self.shelf.text(file)?;
                let properties = crate::properties::parse(&text)
                    .with_context(|| format!("{file} cannot be used"))?;
                let checker = Checker::new(&properties, self, &ZnodePath::parse(path)?)
                    .with_context(|| format!("{file} cannot be used"))?;
                let said = format!("checked: {}\n", checker.names());
                self.checker = Some(checker);
                Ok(said)
            }
            _ => bail!(help::not_understood(command)),
        }
    }

    /// Time passes; sessions without a client end when theirs has come.
    fn pass(&mut self, milliseconds: u64) -> Result<String> {
        let until = self.now.plus(milliseconds);
        let mut said = String::new();
        loop {
            let next = self.crashed.iter().min_by_key(|(_, end)| **end);
            let Some((name, end)) = next.filter(|(_, end)| **end <= until) else {
                break;
            };
            let (name, end) = (name.clone(), *end);
            self.now = self.now.max(end);
            let ended = self.execute(&format!("expire {name}"))?;
            let rest = ended.replacen("session ended\n", "", 1);
            write!(said, "  {name}: its session ended\n{rest}")?;
        }
        self.now = until;
        self.evaluator.tick(self.now);
        self.history.is_unsettled = false;
        said += &self.apply()?;
        Ok(said)
    }

    fn new_leader(&mut self) -> Result<String> {
        self.evaluator = open_epoch(&self.state, &self.workbench.sandbox, self.now)?;
        self.evaluator.tick(self.now);
        self.history.is_unsettled = false;
        self.apply()
    }

    /// The interface of what is mounted there.
    pub(crate) fn interface(&self, mount: &ZnodePath) -> Result<Arc<Interface>> {
        let state = self.state.read();
        let digest = state.mount(mount).map(|mount| mount.digest);
        let digest = digest.with_context(|| format!("nothing is mounted at {mount}"))?;
        let interface = self.workbench.sandbox.interface(&digest);
        interface.context("what is mounted is not ready")
    }

    /// How long it takes, in milliseconds, until a moment comes that something waits for.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let ends = self.crashed.values().copied();
        let due = ends.fold(self.evaluator.next_due(), Timestamp::min);
        let wait = due.0.checked_sub(self.now.0)?;
        (due.0 != u64::MAX && wait > 0).then_some(wait)
    }

    /// The names of the sessions that have not ended.
    pub(crate) fn live_sessions(&self) -> Vec<String> {
        let state = self.state.read();
        let live = self.sessions.iter();
        live.filter(|(_, session)| state.session(**session).is_some())
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn mount(&mut self, path: &str, recipe: &str, upgrade: bool) -> Result<String> {
        let prepared = self.workbench.prepare(&self.shelf.recipe(recipe)?)?;
        // Of a file, its name.
        let name = Path::new(recipe).file_stem().and_then(|stem| stem.to_str());
        let name = name.unwrap_or(recipe).to_owned();
        let interface = &prepared.interface;
        let (version, exports) = (interface.version.clone(), interface.exports());
        for operation in Operation::upload(&name, &prepared.component, version, exports) {
            self.evaluate(SessionId::NONE, operation)?;
        }
        let mount = Operation::Mount {
            path: ZnodePath::parse(path)?,
            recipe: name,
            digest: None,
            settings: MountSettings::default(),
            upgrade,
        };
        self.in_steps(mount)
    }

    /// What goes in steps, one right behind the other.
    fn in_steps(&mut self, first: Operation) -> Result<String> {
        let mut said = String::new();
        let mut next = Some(first);
        while let Some(operation) = next {
            self.answered = None;
            said += &self.evaluate(SessionId::NONE, operation.clone())?;
            let answered = self.answered.as_ref();
            next = answered.and_then(|outcome| operation.next_step(outcome));
        }
        Ok(said)
    }

    pub(crate) fn session(&self, name: &str) -> Result<SessionId> {
        self.sessions
            .get(name)
            .copied()
            .ok_or_else(|| anyhow!("there is no session {name}: write `> session {name}` first"))
    }

    fn ask(&mut self, command: &str, name: &str, asked: &str) -> Result<String> {
        let session = self.session(name)?;
        if self.crashed.contains_key(name) {
            bail!("{name} has crashed: open another session for it, with another name");
        }
        let words = words(asked);
        let path = |text: &str| ZnodePath::parse(text);
        let data = |words: &[&str]| Bytes::from(words.join(" "));
        let operation = match words[..] {
            ["close"] => Operation::CloseSession,
            ["create", "-e", at, ref rest @ ..] => {
                create(at, data(rest), CreateLifetime::Ephemeral, false)?
            }
            ["create", "-s", at, ref rest @ ..] => {
                create(at, data(rest), CreateLifetime::Persistent, true)?
            }
            ["create", "-c", at, ref rest @ ..] => {
                create(at, data(rest), CreateLifetime::Container, false)?
            }
            ["create", at, ref rest @ ..] => {
                create(at, data(rest), CreateLifetime::Persistent, false)?
            }
            ["set", at, ref rest @ ..] => Operation::Znode(ZnodeOperation::Set {
                path: path(at)?,
                data: data(rest),
                version: -1,
            }),
            ["delete", at] => Operation::Znode(ZnodeOperation::Delete {
                path: path(at)?,
                version: -1,
            }),
            ["cancel", key] => Operation::Cancel { key: key.parse()? },
            ["acknowledge", mark, ref awaited @ ..] => {
                let awaited = awaited.iter().map(|key| key.parse());
                let awaited = awaited.collect::<Result<Vec<u64>, _>>()?;
                Operation::Acknowledge(Acknowledgement::new(mark.parse()?, awaited)?)
            }
            ["call", mount, operation, ref rest @ ..] => {
                let mut timeout_ms = None;
                let mut arguments = Vec::new();
                let mut key = None;
                for word in rest {
                    if let Some(seconds) = word.strip_prefix("--timeout=") {
                        timeout_ms = Some(seconds.parse::<u64>()? * 1000);
                    } else if let Some(given) = word.strip_prefix("--key=") {
                        key = Some(given.parse()?);
                    } else {
                        let bare = || Value::String((*word).to_owned());
                        arguments.push(serde_json::from_str(word).unwrap_or_else(|_| bare()));
                    }
                }
                let last = self.keys.entry(name.to_owned()).or_default();
                let key = key.unwrap_or(*last + 1);
                *last = key.max(*last);
                Operation::Call(CallRequest {
                    key,
                    mount: path(mount)?,
                    operation: operation.to_owned(),
                    arguments: Value::Array(arguments).to_string(),
                    timeout_ms,
                    acknowledged: Acknowledgement::default(),
                })
            }
            _ => bail!(help::not_understood(command)),
        };
        self.evaluate(session, operation)
    }

    fn evaluate(&mut self, session: SessionId, operation: Operation) -> Result<String> {
        self.requests += 1;
        let (server, incarnation) = (ServerId(1), Incarnation(1));
        let origin = Origin {
            server,
            incarnation,
            number: self.requests,
        };
        let identities = vec![Identity {
            scheme: "ip".into(),
            id: "127.0.0.1".into(),
        }];
        let request = Request {
            session,
            owner: None,
            identities: Arc::new(identities),
            operation,
        };
        self.history.asked = match &request.operation {
            Operation::Call(call) => Some(call.clone()),
            _ => None,
        };
        if std::mem::take(&mut self.busy) {
            self.evaluator
                .evaluate_alone(&request, Some(origin), self.now);
            self.history.is_unsettled = true;
        } else {
            self.evaluator.evaluate(&request, Some(origin), self.now);
            self.history.is_unsettled = false;
        }
        self.apply()
    }

    /// Applies what was evaluated, and what was left over for later, and tells it.
    fn apply(&mut self) -> Result<String> {
        let mut said = self.apply_batch()?;
        for _ in 0..MAX_ROUNDS {
            if !self.evaluator.has_left_over() {
                break;
            }
            self.evaluator.tick(self.now);
            said += &self.apply_batch()?;
        }
        Ok(said)
    }

    fn apply_batch(&mut self) -> Result<String> {
        let Some(batch) = self.evaluator.take_batch(usize::MAX) else {
            return Ok(String::new());
        };
        let mut said = String::new();
        for transaction in &batch.transactions {
            self.tell(transaction, &mut said);
            self.record(transaction);
        }
        let verdict = self
            .state
            .write()
            .apply(&Entry::Transactions(batch), |_, _, _| {})?;
        if verdict != quorate_tree::Verdict::Applied {
            bail!("the batch was not the next one");
        }
        let last = self.state.read().last_zxid();
        self.evaluator.applied(last);
        for line in self.evaluator.take_log() {
            writeln!(said, "  log {:?}: {}", line.line.level, line.line.message)?;
        }
        Ok(said)
    }

    /// Notes what happened to calls and sessions.
    fn record(&mut self, transaction: &Transaction) {
        match &transaction.outcome {
            Some(Outcome::Session { session, .. }) => self.opened = Some(*session),
            Some(Outcome::Refused(refusal)) => self.refused = Some(refusal.clone()),
            _ => {}
        }
        if transaction.outcome.is_some() {
            self.answered.clone_from(&transaction.outcome);
        }
        let History {
            asked,
            parked,
            events,
            ..
        } = &mut self.history;
        for change in &transaction.changes {
            match change {
                Change::Park(call) => {
                    if parked.insert(call.id) {
                        events.push(Event::Called {
                            id: call.id,
                            mount: call.mount.clone(),
                            operation: call.operation.clone(),
                            arguments: call.arguments.clone(),
                        });
                    }
                    events.push(Event::Parked(call.id));
                }
                Change::PutAnswer { call: id, answer } => {
                    // Not parked before: it was asked for just now, and ran once.
                    if !parked.remove(id)
                        && let Some(call) = asked.take()
                    {
                        events.push(Event::Called {
                            id: *id,
                            mount: call.mount,
                            operation: call.operation,
                            arguments: call.arguments,
                        });
                    }
                    let ending = answer.ending.clone();
                    events.push(Event::Ended { id: *id, ending });
                }
                Change::CloseSession { session } => {
                    parked.retain(|id| id.session != *session);
                    events.push(Event::SessionEnded(*session));
                }
                _ => {}
            }
        }
    }

    fn tell(&self, transaction: &Transaction, said: &mut String) {
        // Of others' calls: a step of an unmount or an upgrade ends them, or nobody has asked for it at all.
        let of_others = match &transaction.outcome {
            None => true,
            Some(
                Outcome::Unmounting { .. } | Outcome::Unmounted { .. } | Outcome::Followed { .. },
            ) => true,
            Some(outcome) => {
                let _ = writeln!(said, "{}", self.outcome(outcome));
                false
            }
        };
        for change in &transaction.changes {
            let _ = match change {
                Change::PutAnswer { call, answer } if of_others => {
                    writeln!(said, "  {} {}", self.call(*call), ending(&answer.ending))
                }
                Change::Park(parked) if of_others => {
                    writeln!(said, "  {} waits again", self.call(parked.id))
                }
                Change::DeleteNode { path } if of_others => {
                    writeln!(said, "  {path} is gone")
                }
                _ => Ok(()),
            };
        }
        let _ = match &transaction.outcome {
            Some(Outcome::Unmounted { ended_calls }) => {
                writeln!(said, "unmounted, parked calls ended: {ended_calls}")
            }
            Some(Outcome::Followed {
                followed_calls,
                ended_calls,
                done: true,
            }) => {
                writeln!(
                    said,
                    "parked calls that follow: {}, that end: {ended_calls}",
                    followed_calls - ended_calls
                )
            }
            _ => Ok(()),
        };
    }

    pub(crate) fn name(&self, session: SessionId) -> &str {
        let known = self.sessions.iter().find(|(_, other)| **other == session);
        known.map_or("?", |(name, _)| name)
    }

    pub(crate) fn call(&self, call: CallId) -> String {
        format!("{}@{}", self.name(call.session), call.key)
    }

    fn outcome(&self, outcome: &Outcome) -> String {
        match outcome {
            Outcome::Session { .. } => "session opened".into(),
            Outcome::SessionClosed => "session ended".into(),
            Outcome::Znode(ZnodeOutcome::Created { path, .. }) => format!("created {path}"),
            Outcome::Znode(ZnodeOutcome::Deleted) => "deleted".into(),
            Outcome::Znode(ZnodeOutcome::Set(stat)) => format!("set, version {}", stat.version),
            Outcome::Answered(answer) => ending(&answer.ending),
            Outcome::Parked => "parked".into(),
            Outcome::Mounted { .. } => "mounted".into(),
            Outcome::MountSet => "set".into(),
            Outcome::Refused(refusal) => format!("error: {refusal}"),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    /// The tree from `path` down: name, lifetime, data.
    fn tree(&self, path: &ZnodePath) -> Result<String> {
        let state = self.state.read();
        let mut said = String::new();
        let mut left = vec![(path.clone(), 0)];
        while let Some((path, depth)) = left.pop() {
            let Some(node) = state.node(&path) else {
                writeln!(said, "nothing at {path}")?;
                continue;
            };
            let name = if depth == 0 {
                path.as_str()
            } else {
                path.name()
            };
            let lifetime = match node.stat.lifetime {
                Lifetime::Persistent => String::new(),
                Lifetime::Container => " (container)".into(),
                Lifetime::Session(session) => format!(" (of {})", self.name(session)),
                Lifetime::Until(moment) => format!(" (until {})", moment.0 - BEGIN.0),
            };
            let data = String::from_utf8_lossy(&node.data);
            let line = format!("{:indent$}{name}{lifetime} {data}", "", indent = 2 * depth);
            writeln!(said, "{}", line.trim_end())?;
            for child in state.children(&path).unwrap_or_default().iter().rev() {
                left.push((path.child(child)?, depth + 1));
            }
        }
        Ok(said)
    }
}

/// A leader begins from exactly the state that there is.
fn open_epoch(
    state: &SharedState,
    sandbox: &Arc<Sandbox<RunTree>>,
    now: Timestamp,
) -> Result<Evaluator<Shared>> {
    let epoch = state.read().epoch() + 1;
    let start = EpochStart {
        epoch,
        leader: ServerId(1),
        incarnation: Incarnation(1),
        nonce: 1,
        time: now,
        suspect: None,
    };
    state
        .write()
        .apply(&Entry::EpochStart(start), |_, _, _| {})?;
    Ok(Evaluator::new(
        state.clone(),
        Shared(sandbox.clone()),
        Bounds::default(),
    ))
}

/// `open`, `sealed`, and bounds such as `failures=3`.
fn mount_settings(words: &[&str]) -> Result<MountSettings> {
    let mut settings = MountSettings::default();
    for word in words {
        match (*word, word.split_once('=')) {
            ("open", _) => settings.sealed = Some(false),
            ("sealed", _) => settings.sealed = Some(true),
            (_, Some((name, value))) => {
                let bound = Bound::find(name).with_context(|| format!("no bound {name}"))?;
                settings.bounds.push((bound, Some(value.parse()?)));
            }
            _ => bail!("{word} is nothing to set of a mount"),
        }
    }
    Ok(settings)
}

fn create(at: &str, data: Bytes, lifetime: CreateLifetime, sequential: bool) -> Result<Operation> {
    Ok(Operation::Znode(ZnodeOperation::Create {
        path: CreatePath::parse(at, sequential)?,
        data,
        acl: Acl::open(),
        lifetime,
        with_stat: false,
    }))
}

fn ending(ending: &Ending) -> String {
    match ending {
        Ending::Returned(result) => format!("= {result}"),
        other => format!("error: {other}"),
    }
}
