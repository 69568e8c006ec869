//! A schedule's steps, and what plays them as the commands of a scenario.

use anyhow::{Result, bail};
use quorate_model::id::SessionId;
use quorate_model::outcome::Refusal;
use quorate_model::path::ZnodePath;

use super::calls::CallPattern;
use crate::properties::{Properties, Tally, Violation};
use crate::scenario::Scene;

/// What may happen next. Clients are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A client calls: which of the calls, with which of its choices. It opens a session if it has none.
    Call {
        client: usize,
        call: usize,
        choices: Vec<u32>,
    },
    /// A client gives up the oldest of its calls that wait.
    Cancel { client: usize },
    /// A client's session ends.
    Expire { client: usize },
    /// A client is gone; its session ends later.
    Crash { client: usize },
    /// Time passes.
    Pass { milliseconds: u64 },
    /// What the next step wakes waits until the one after it.
    Busy,
    /// Another leader.
    NewLeader,
    /// All servers begin again.
    Restart,
}

impl Step {
    /// Whose it is.
    pub(super) fn client(&mut self) -> Option<&mut usize> {
        match self {
            Step::Call { client, .. }
            | Step::Cancel { client }
            | Step::Expire { client }
            | Step::Crash { client } => Some(client),
            Step::Pass { .. } | Step::Busy | Step::NewLeader | Step::Restart => None,
        }
    }
}

/// What came of a schedule.
pub(super) struct Played {
    /// The steps that could be done.
    pub(super) steps: Vec<Step>,
    /// As commands, with their output.
    pub(super) commands: Vec<(String, String)>,
    pub(super) violation: Option<Violation>,
    pub(super) tallies: Vec<(String, Tally)>,
    pub(super) checked: String,
}

/// Plays one schedule.
pub(super) struct Player<'a> {
    pub(super) scene: Scene<'a>,
    mount: &'a ZnodePath,
    calls: &'a [CallPattern],
    properties: &'a Properties,
    clients: Vec<Client>,
    fresh: u64,
    steps: Vec<Step>,
    commands: Vec<(String, String)>,
}

/// A client, through its sessions.
#[derive(Default)]
struct Client {
    /// Of the session that it has.
    session: Option<String>,
    /// How many it has had.
    sessions: usize,
}

impl<'a> Player<'a> {
    pub(super) fn new(
        scene: Scene<'a>,
        mount: &'a ZnodePath,
        calls: &'a [CallPattern],
        properties: &'a Properties,
    ) -> Player<'a> {
        let clients = (0..properties.clients).map(|_| Client::default());
        Player {
            scene,
            mount,
            calls,
            properties,
            clients: clients.collect(),
            fresh: 0,
            steps: Vec::new(),
            commands: Vec::new(),
        }
    }

    pub(super) fn checked(&self) -> String {
        let checker = self.scene.checker();
        checker.map_or_else(String::new, |checker| checker.names())
    }

    /// Whether something does not hold any more.
    pub(super) fn is_over(&self) -> bool {
        !self.scene.violations().is_empty()
    }

    /// How many steps were done.
    pub(super) fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Does a step, if it can be done: a client that waits for an answer does not call, say.
    pub(super) fn play(&mut self, step: &Step) -> Result<bool> {
        let command = match step {
            Step::Call {
                client,
                call,
                choices,
            } => {
                if self.waiting(*client).len() >= self.properties.waiting {
                    return Ok(false);
                }
                let given = self.live(*client).map(|(_, session)| session);
                let given = given.map_or(&[][..], |session| self.scene.results(session));
                let Some(words) = self.calls[*call].with(choices, self.fresh + 1, given) else {
                    return Ok(false);
                };
                let name = self.session_of(*client)?;
                if self.is_over() {
                    return Ok(true);
                }
                self.fresh += 1;
                self.call(&name, &words)
            }
            Step::Cancel { client } => {
                let Some(key) = self.waiting(*client).first().copied() else {
                    return Ok(false);
                };
                match self.live(*client) {
                    Some((name, _)) => format!("{name}: cancel {key}"),
                    None => return Ok(false),
                }
            }
            Step::Expire { client } | Step::Crash { client } => {
                let Some((name, _)) = self.live(*client) else {
                    return Ok(false);
                };
                let word = match step {
                    Step::Expire { .. } => "expire",
                    _ => "crash",
                };
                let command = format!("{word} {name}");
                self.clients[*client].session = None;
                command
            }
            Step::Pass { milliseconds } => format!("pass {milliseconds}"),
            Step::Busy => "busy".into(),
            Step::NewLeader => "new-leader".into(),
            Step::Restart => "restart".into(),
        };
        self.steps.push(step.clone());
        self.command(command)?;
        Ok(true)
    }

    /// Ends all sessions if the author says what is to be left then; tells what came of it all.
    pub(super) fn end(mut self) -> Result<Played> {
        if self.properties.leaves_nothing && !self.is_over() {
            for name in self.scene.live_sessions() {
                self.command(format!("expire {name}"))?;
            }
        }
        let tallies = self.scene.checker().map(|checker| {
            let is_called =
                |operation: &str| self.calls.iter().any(|call| call.operation() == operation);
            let tallies = checker.tallies();
            tallies
                .filter(|(operation, tally)| tally.called > 0 || is_called(operation))
                .map(|(operation, tally)| (operation.to_owned(), tally))
                .collect()
        });
        Ok(Played {
            checked: self.checked(),
            violation: self.scene.violations().first().cloned(),
            tallies: tallies.unwrap_or_default(),
            steps: self.steps,
            commands: self.commands,
        })
    }

    /// What is called before anything else, by a client of its own.
    pub(super) fn begin(&mut self) -> Result<()> {
        const NAME: &str = "begin";
        if !self.properties.begin.is_empty() {
            self.command(format!("session {NAME}"))?;
        }
        for words in &self.properties.begin {
            self.command(self.call(NAME, words))?;
        }
        Ok(())
    }

    fn call(&self, name: &str, words: &str) -> String {
        let (operation, rest) = words.split_once(' ').unwrap_or((words, ""));
        let command = format!("{name}: call {} {operation} {rest}", self.mount);
        command.trim_end().to_owned()
    }

    fn command(&mut self, command: String) -> Result<()> {
        let said = self.scene.command(&command)?;
        if let Some(Refusal::BadCall(message)) = &self.scene.refused {
            bail!("calls: `{command}`: {message}");
        }
        self.commands.push((command, said));
        Ok(())
    }

    /// The client's session, if it has one that lives.
    pub(super) fn live(&self, client: usize) -> Option<(&str, SessionId)> {
        let name = self.clients[client].session.as_deref()?;
        let session = self.scene.session(name).ok()?;
        let lives = self.scene.state.read().session(session).is_some();
        lives.then_some((name, session))
    }

    /// The keys of the client's calls that wait.
    pub(super) fn waiting(&self, client: usize) -> Vec<u64> {
        let Some((_, session)) = self.live(client) else {
            return Vec::new();
        };
        let state = self.scene.state.read();
        let calls = state.parked_calls().map(|call| call.id);
        let mut keys: Vec<u64> = calls
            .filter(|id| id.session == session)
            .map(|id| id.key)
            .collect();
        keys.sort_unstable();
        keys
    }

    /// The client's session; it opens one if it has none. They are called `a`, then `a2`, and so on.
    fn session_of(&mut self, client: usize) -> Result<String> {
        if let Some((name, _)) = self.live(client) {
            return Ok(name.to_owned());
        }
        let of_client = &mut self.clients[client];
        of_client.sessions += 1;
        let letter = char::from(b'a' + u8::try_from(client)?);
        let name = match of_client.sessions {
            1 => letter.to_string(),
            number => format!("{letter}{number}"),
        };
        of_client.session = Some(name.clone());
        self.command(format!("session {name}"))?;
        Ok(name)
    }
}
