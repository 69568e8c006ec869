//! Sessions of the command line: opened for one command, or held until interrupted.

use std::time::Duration;

use clap::Args;
use quorate_client::{Client, ClientError, Options, SessionState};
use serde_json::json;
use tokio::sync::watch;

use super::output::Output;
use super::{Global, Usage};

/// How long a session that this command holds outlives it.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct SessionTimeout {
    /// How long the session outlives this command if it is killed, and so its locks and ephemeral znodes
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    session_timeout: f64,
}

impl SessionTimeout {
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
pub(super) async fn open(global: &Global) -> Result<Client, ClientError> {
    Client::connect(&global.server, Options::default()).await
}

/// A session to be held.
pub(super) async fn open_for(
    global: &Global,
    session_timeout: Duration,
) -> Result<Client, ClientError> {
    let options = Options {
        session_timeout,
        ..Options::default()
    };
    Client::connect(&global.server, options).await
}

/// Ends the session of a command whose result is there: that it could not be ended in an orderly way changes
/// nothing of it.
pub(super) async fn close(client: Client) {
    let _ = client.close().await;
}

/// Holds the session until `interrupted`, and says when the connection goes and comes.
///
/// # Errors
/// [`ClientError::SessionExpired`]: what was held is lost.
pub(super) async fn hold(
    client: Client,
    output: &Output,
    what: &str,
    interrupted: impl Future<Output = ()>,
) -> Result<(), ClientError> {
    output.note(
        format!("holding {what}: Ctrl-C lets go"),
        json!({"event": "holding"}),
    );
    tokio::select! {
        () = interrupted => client.close().await,
        error = ended(&client, output) => Err(error),
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
pub(super) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        // Without signals there is still Ctrl-C.
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
