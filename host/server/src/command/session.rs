//! Sessions of the command line: opened for one command, or held until interrupted.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use quorate_client::{Client, ClientError, Options, SessionState};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::output::Output;
use super::{Global, Usage};

/// How long the confirmation that a session has ended is waited for. Whoever presses Ctrl-C wants to be gone.
const CLOSE_PATIENCE: Duration = Duration::from_millis(900);

/// How long a session that this command holds outlives it.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct SessionTimeout {
    /// How long the session outlives this command if it is killed, and so its locks and ephemeral znodes
    #[arg(long, value_name = "SECONDS", default_value_t = SessionTimeout::default().seconds())]
    session_timeout: f64,
}

impl Default for SessionTimeout {
    fn default() -> SessionTimeout {
        SessionTimeout::of(10.0)
    }
}

impl SessionTimeout {
    pub(super) fn of(seconds: f64) -> SessionTimeout {
        SessionTimeout {
            session_timeout: seconds,
        }
    }

    pub(super) fn seconds(self) -> f64 {
        self.session_timeout
    }

    pub(super) fn duration(self) -> Result<Duration, Usage> {
        seconds("--session-timeout", self.session_timeout)
    }
}

/// Seconds of an option.
pub(super) fn seconds(option: &str, seconds: f64) -> Result<Duration, Usage> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(Usage(format!(
            "{option} takes a positive number of seconds, not {seconds}"
        ))),
    }
}

/// A session for one command.
pub(super) async fn open(global: &Global) -> anyhow::Result<Client> {
    let options = Options {
        proofs: global.auth.clone(),
        ..Options::default()
    };
    Ok(Client::connect(&global.servers()?, options).await?)
}

/// A session to be held.
pub(super) async fn open_for(global: &Global, session_timeout: Duration) -> anyhow::Result<Client> {
    let options = Options {
        session_timeout,
        proofs: global.auth.clone(),
        ..Options::default()
    };
    Ok(Client::connect(&global.servers()?, options).await?)
}

/// Ends the session; says whether the server has confirmed it. If it has not, the session's timeout ends it,
/// which changes nothing for a command whose result is there.
pub(super) async fn close(client: Client) -> bool {
    matches!(timeout(CLOSE_PATIENCE, client.close()).await, Ok(Ok(())))
}

/// The session of a command has ended while the command needed it.
#[derive(Debug, thiserror::Error)]
#[error("the session has ended ({why}): {lost}")]
pub(super) struct SessionEnded {
    why: String,
    /// What went with it.
    lost: String,
}

impl SessionEnded {
    /// The server has said so.
    pub(super) fn expired(client: &Client, lost: &str) -> SessionEnded {
        SessionEnded {
            why: format!(
                "the server had not heard of it for its timeout of {}",
                timeout_text(client)
            ),
            lost: lost.to_owned(),
        }
    }
}

/// Ctrl-C came before all was known.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: {0}")]
pub(super) struct Interrupted(pub(super) String);

/// Holds the session until `interrupted`, and says when the connection goes and comes. `lost` says, for people,
/// what goes with the session.
///
/// # Errors
/// [`SessionEnded`]; [`Interrupted`] if the server does not confirm that the session has ended.
pub(super) async fn hold(
    client: Client,
    output: &Output,
    what: &str,
    lost: &str,
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    output.note(
        format!("holding {what}: Ctrl-C lets go"),
        json!({"event": "holding"}),
    );
    tokio::select! {
        biased;
        () = interrupted => {
            let within = timeout_text(&client);
            if close(client).await {
                return Ok(());
            }
            Err(Interrupted(format!(
                "the server does not answer, so it is not known whether the session has ended already; \
                 without this command it does after its timeout of {within}"
            ))
            .into())
        }
        error = ended(&client, output) => Err(match error {
            ClientError::SessionExpired => SessionEnded::expired(&client, lost).into(),
            error => anyhow!(error),
        }),
        () = out_of_reach(&client) => Err(SessionEnded {
            why: format!("no server was reached for its timeout of {}", timeout_text(&client)),
            lost: lost.to_owned(),
        }
        .into()),
    }
}

/// The session's timeout for people.
pub(super) fn timeout_text(client: &Client) -> String {
    format!("{} s", client.session_timeout().as_secs_f64())
}

/// Done when there has been no connection for as long as the session lives without one. Whoever holds something
/// must not believe that it still does.
async fn out_of_reach(client: &Client) {
    let mut state = client.state();
    let is_disconnected = |state: &SessionState| matches!(state, SessionState::Disconnected { .. });
    loop {
        if state.wait_for(is_disconnected).await.is_err() {
            // The session is over, which `ended` tells.
            return std::future::pending().await;
        }
        let back = state.wait_for(|state| !is_disconnected(state));
        if timeout(client.session_timeout(), back).await.is_err() {
            return;
        }
    }
}

/// A request that changes something; Ctrl-C ends the wait for its answer at once.
///
/// # Errors
/// The request's, or [`Interrupted`].
pub(super) async fn unless_interrupted<T, E: Into<anyhow::Error>>(
    request: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<T> {
    tokio::select! {
        biased;
        result = request => result.map_err(Into::into),
        () = interrupted() => Err(Interrupted(
            "the answer had not come, so nobody knows whether it was done: look before repeating it".into(),
        )
        .into()),
    }
}

/// Tells of lost and regained connections until the session ends.
pub(super) async fn ended(client: &Client, output: &Output) -> ClientError {
    let timeout = client.session_timeout().as_secs_f64();
    let mut state: watch::Receiver<SessionState> = client.state();
    loop {
        let now = state.borrow_and_update().clone();
        match now {
            SessionState::Expired => return ClientError::SessionExpired,
            SessionState::Closed => return ClientError::Closed,
            SessionState::Disconnected { reason } => output.note(
                format!(
                    "connection lost ({reason}); reconnecting: after {timeout} s without one the session ends"
                ),
                json!({"event": "disconnected", "reason": reason}),
            ),
            SessionState::Connected => {}
        }
        let was_connected = *state.borrow() == SessionState::Connected;
        if state.changed().await.is_err() {
            return ClientError::Closed;
        }
        if !was_connected && *state.borrow() == SessionState::Connected {
            output.note("connected again", json!({"event": "connected"}));
        }
    }
}

/// Ctrl-C, or a polite kill.
pub(super) fn interrupted() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Listened to from now on, not from the first poll: what is printed before that may be what Ctrl-C answers.
    let listen = |kind| signal(kind).ok();
    let interrupt = listen(SignalKind::interrupt());
    let terminate = listen(SignalKind::terminate());
    // One that cannot be listened to ends the process, as it does without us.
    let came = async |signal: Option<tokio::signal::unix::Signal>| match signal {
        Some(mut signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    };
    async move {
        tokio::select! {
            () = came(interrupt) => {}
            () = came(terminate) => {}
        }
    }
}
