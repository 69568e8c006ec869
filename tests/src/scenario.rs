//! Reads a scenario, does what it says, and writes down what came of it.
//!
//! A line that begins with `>` is a command; what follows, up to an empty line, is its output. Commands
//! are `session a` and the like for the scene, and `a: …` for what the client of session `a` asks for, in
//! the words of the command line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use parking_lot::RwLock;
use quorate_model::acl::{Acl, Identity};
use quorate_model::call::{CallRequest, Ending};
use quorate_model::id::{CallId, Incarnation, Origin, ServerId, SessionId, Timestamp};
use quorate_model::outcome::{Outcome, ZnodeOutcome};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{MountSettings, RecipeDigest};
use quorate_model::request::{
    CreateLifetime, CreatePath, Operation, Password, Request, ZnodeOperation,
};
use quorate_model::run::{RunInput, RunReport, Runner};
use quorate_model::write_set::{Change, Entry, EpochStart, Transaction};
use quorate_model::znode::Lifetime;
use quorate_sandbox::{Sandbox, SandboxConfig};
use quorate_tree::{Bounds, Evaluator, RunTree, SharedState, State};
use serde_json::Value;

/// The scene's beginning: 2026-01-01, midnight.
const BEGIN: Timestamp = Timestamp(1_767_225_600_000);

/// Does what `script` says; gives the script again, with the output that it has.
///
/// # Errors
/// If the script cannot be understood: which line, and why.
pub fn run(script: &str) -> Result<String> {
    let mut scene = Scene::new()?;
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
struct Shared(Arc<Sandbox<RunTree>>);

impl Runner<RunTree> for Shared {
    fn ready(&self, digest: &RecipeDigest) -> bool {
        self.0.ready(digest)
    }

    fn fits(&self, digest: &RecipeDigest, operation: &str, arguments: &str) -> bool {
        self.0.fits(digest, operation, arguments)
    }

    fn run(&self, input: RunInput, tree: RunTree) -> RunReport<RunTree> {
        self.0.run(input, tree)
    }
}

struct Scene {
    state: SharedState,
    sandbox: Arc<Sandbox<RunTree>>,
    evaluator: Evaluator<Shared>,
    now: Timestamp,
    sessions: BTreeMap<String, SessionId>,
    /// The last key that each session has used.
    keys: BTreeMap<String, u64>,
    requests: u64,
}

impl Scene {
    fn new() -> Result<Scene> {
        let sandbox = Arc::new(Sandbox::new(SandboxConfig::default())?);
        let state = Arc::new(RwLock::new(State::new()));
        let evaluator = open_epoch(&state, &sandbox, BEGIN)?;
        let (sessions, keys) = (BTreeMap::new(), BTreeMap::new());
        Ok(Scene {
            state,
            sandbox,
            evaluator,
            now: BEGIN,
            sessions,
            keys,
            requests: 0,
        })
    }

    fn command(&mut self, command: &str) -> Result<String> {
        if let Some((session, asked)) = command.split_once(": ") {
            return self.ask(session, asked);
        }
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["session", name] => {
                let operation = Operation::OpenSession {
                    timeout_ms: 10_000,
                    password: Password([0; 16]),
                };
                let said = self.evaluate(SessionId::NONE, operation)?;
                let opened = SessionId(self.state.read().last_zxid().0);
                self.sessions.insert(name.to_owned(), opened);
                Ok(said)
            }
            ["mount", path, recipe] => {
                let standard = quorate_recipes::all()
                    .iter()
                    .find(|other| other.name == recipe);
                let standard = standard.ok_or_else(|| anyhow!("no recipe {recipe}"))?;
                let prepared = self.sandbox.prepare(standard.wasm)?;
                self.sandbox
                    .make_ready(prepared.digest, &prepared.component)?;
                let push = Operation::PushRecipe {
                    name: recipe.to_owned(),
                    component: prepared.component,
                    version: prepared.interface.version.clone(),
                    exports: prepared.interface.exports(),
                };
                self.evaluate(SessionId::NONE, push)?;
                let mount = Operation::Mount {
                    path: ZnodePath::parse(path)?,
                    recipe: recipe.to_owned(),
                    digest: None,
                    settings: MountSettings::default(),
                    upgrade: false,
                };
                self.evaluate(SessionId::NONE, mount)
            }
            ["unmount", path] => self.evaluate(
                SessionId::NONE,
                Operation::Unmount {
                    path: ZnodePath::parse(path)?,
                },
            ),
            ["expire", name] => self.evaluate(self.session(name)?, Operation::ExpireSession),
            ["pass", milliseconds] => {
                self.now = self.now.plus(milliseconds.parse()?);
                self.evaluator.tick(self.now);
                self.apply()
            }
            ["new-leader"] => {
                self.evaluator = open_epoch(&self.state, &self.sandbox, self.now)?;
                self.evaluator.tick(self.now);
                self.apply()
            }
            ["tree", path] => self.tree(&ZnodePath::parse(path)?),
            _ => bail!("no such command"),
        }
    }

    fn session(&self, name: &str) -> Result<SessionId> {
        self.sessions
            .get(name)
            .copied()
            .ok_or_else(|| anyhow!("no session {name}"))
    }

    fn ask(&mut self, name: &str, asked: &str) -> Result<String> {
        let session = self.session(name)?;
        let words: Vec<&str> = asked.split_whitespace().collect();
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
            ["acknowledge", key] => Operation::Acknowledge { key: key.parse()? },
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
                    acknowledged: 0,
                })
            }
            _ => bail!("no such command"),
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
        self.evaluator.evaluate(&request, Some(origin), self.now);
        self.apply()
    }

    /// Applies what was evaluated, and tells it.
    fn apply(&mut self) -> Result<String> {
        let Some(batch) = self.evaluator.take_batch(usize::MAX) else {
            return Ok(String::new());
        };
        let mut said = String::new();
        for transaction in &batch.transactions {
            self.tell(transaction, &mut said);
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

    fn tell(&self, transaction: &Transaction, said: &mut String) {
        let _ = match &transaction.outcome {
            Some(outcome) => writeln!(said, "{}", self.outcome(outcome)),
            None => Ok(()),
        };
        for change in &transaction.changes {
            let _ = match change {
                Change::PutAnswer { call, answer } if transaction.origin.is_none() => {
                    writeln!(said, "  {} {}", self.call(*call), ending(&answer.ending))
                }
                Change::Park(parked) if transaction.origin.is_none() => {
                    writeln!(said, "  {} waits again", self.call(parked.id))
                }
                Change::DeleteNode { path } if transaction.origin.is_none() => {
                    writeln!(said, "  {path} is gone")
                }
                _ => Ok(()),
            };
        }
    }

    fn name(&self, session: SessionId) -> &str {
        let known = self.sessions.iter().find(|(_, other)| **other == session);
        known.map_or("?", |(name, _)| name)
    }

    fn call(&self, call: CallId) -> String {
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
            Outcome::Unmounted { ended_calls } => {
                format!("unmounted, parked calls ended: {ended_calls}")
            }
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
