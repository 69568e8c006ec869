//! Calls to recipes: keys, acknowledgements, and how a call ended.

use std::collections::BTreeSet;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use quorate_wire::{CallRequest, CallResponse, CallStatus};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::error::ClientError;
use crate::session::Command;

/// How long a call is repeated while the server is still compiling the recipe.
const READY_PATIENCE: Duration = Duration::from_secs(30);

/// The pauses between those repetitions: the first, and the longest.
const READY_PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How a call ended without a result.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum CallError {
    /// The operation returned `err`, with this error. Nothing was committed.
    #[error("the operation failed: {0}")]
    Failed(Value),
    /// The recipe refused, for this reason. Nothing was committed.
    #[error("refused: {0}")]
    Refused(String),
    /// The recipe trapped, or broke a rule. Nothing was committed.
    #[error("the recipe trapped: {0}")]
    Trapped(String),
    /// The recipe exceeded a bound. Nothing was committed.
    #[error("the recipe exceeded the bound {bound}: {message}")]
    Exceeded {
        /// The bound's name, such as `fuel`.
        bound: String,
        /// What happened.
        message: String,
    },
    /// The call was cancelled while it was parked.
    #[error("the call was cancelled")]
    Cancelled,
    /// Its timeout came while it was parked.
    #[error("the call timed out while it was waiting")]
    TimedOut,
    /// The recipe was unmounted while the call was parked.
    #[error("the recipe was unmounted while the call was waiting")]
    Unmounted,
    /// Nothing ran: there is no such mount or operation, the arguments do not fit it, or the key was used.
    #[error("{0}")]
    BadCall(String),
    /// Nothing ran: the recipe was not compiled in time. Call again later.
    #[error("{0}")]
    NotReady(String),
}

/// A call that is made when it is awaited.
///
/// Dropping it before its end cancels the call if the key was chosen for it. With a key of one's own it
/// goes on, and calling again with that key gives its answer.
#[must_use = "a call is made when it is awaited"]
#[derive(Debug)]
pub struct Call<'a> {
    client: &'a Client,
    mount: String,
    operation: String,
    arguments: Value,
    key: Option<u64>,
    timeout: Option<Duration>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        client: &'a Client,
        mount: String,
        operation: String,
        arguments: Value,
    ) -> Call<'a> {
        Call {
            client,
            mount,
            operation,
            arguments,
            key: None,
            timeout: None,
        }
    }

    /// Uses this key, at least 1: a call with a known key is not run again but gives its answer, also to
    /// another process that goes on with the session. The answer is kept until [`Client::acknowledge`].
    pub fn key(mut self, key: u64) -> Call<'a> {
        self.key = Some(key);
        self
    }

    /// Ends the call without a result if it is still parked so long after its first run.
    pub fn timeout(mut self, timeout: Duration) -> Call<'a> {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Value, ClientError> {
        if !matches!(self.arguments, Value::Array(_) | Value::Object(_)) {
            return Err(bad_call(
                "arguments are a JSON array in order, or a JSON object by name",
            ));
        }
        let key = {
            let mut keys = self.client.keys.lock();
            match self.key {
                Some(0) => return Err(bad_call("a key is at least 1")),
                Some(key) => keys.claim(key),
                None => keys.take(),
            }
        };
        let request = CallRequest {
            key,
            mount: self.mount,
            operation: self.operation,
            arguments: self.arguments.to_string(),
            // Zero would mean none.
            timeout_ms: self.timeout.map_or(0, |timeout| {
                u64::try_from(timeout.as_millis()).unwrap_or(0).max(1)
            }),
            acknowledged: 0,
        };
        let automatic = self.key.is_none();
        let mut guard = CancelOnDrop {
            commands: automatic.then(|| self.client.commands.clone()),
            key,
        };
        let deadline = Instant::now() + READY_PATIENCE;
        let (mut pause, longest_pause) = READY_PAUSES;
        let response = loop {
            let answer = self.client.send_call(request.clone(), automatic).await;
            let not_ready =
                matches!(&answer, Ok(response) if response.status == CallStatus::NotReady);
            if !not_ready || Instant::now() > deadline {
                break answer;
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest_pause);
        };
        guard.commands = None;
        if automatic {
            self.client.keys.lock().settle(key);
        }
        interpret(response?)
    }
}

impl<'a> IntoFuture for Call<'a> {
    type Output = Result<Value, ClientError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// Cancels the call unless it is taken away: nobody is left who would learn of its result.
struct CancelOnDrop {
    commands: Option<mpsc::Sender<Command>>,
    key: u64,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.take() {
            // With a full queue the call goes on until the session ends: dropping cannot wait.
            let _ = commands.try_send(Command::Cancel {
                key: self.key,
                reply: None,
            });
        }
    }
}

fn bad_call(message: &str) -> ClientError {
    CallError::BadCall(message.into()).into()
}

/// The result of a call, from the wire.
pub(crate) fn interpret(response: CallResponse) -> Result<Value, ClientError> {
    let CallResponse { status, result } = response;
    let json = |text: &str| {
        serde_json::from_str::<Value>(text)
            .map_err(|error| ClientError::Protocol(format!("a result that is no JSON: {error}")))
    };
    let error = match status {
        CallStatus::Returned => return json(&result),
        CallStatus::Failed => CallError::Failed(json(&result)?),
        CallStatus::Refused => CallError::Refused(result),
        CallStatus::Trapped => CallError::Trapped(result),
        CallStatus::Exceeded => {
            let (bound, message) = result.split_once(": ").unwrap_or(("unknown", &result));
            CallError::Exceeded {
                bound: bound.into(),
                message: message.into(),
            }
        }
        CallStatus::Cancelled => CallError::Cancelled,
        CallStatus::TimedOut => CallError::TimedOut,
        CallStatus::Unmounted => CallError::Unmounted,
        CallStatus::BadCall => CallError::BadCall(result),
        CallStatus::NotReady => CallError::NotReady(result),
        CallStatus::Parked => {
            return Err(ClientError::Protocol("a call that ended as parked".into()));
        }
    };
    Err(error.into())
}

/// The keys of a session's calls. An acknowledgement is for every key up to one (rule C1), so it
/// stays below the lowest key whose answer somebody still wants.
#[derive(Debug)]
pub(crate) struct Keys {
    next: u64,
    /// Chosen for calls whose answer has not come.
    automatic: BTreeSet<u64>,
    /// Chosen by the caller and not acknowledged by it.
    own: BTreeSet<u64>,
}

impl Keys {
    /// Keys from `next` on are free.
    pub(crate) fn from(next: u64) -> Keys {
        Keys {
            next,
            automatic: BTreeSet::new(),
            own: BTreeSet::new(),
        }
    }

    /// A new key.
    pub(crate) fn take(&mut self) -> u64 {
        let key = self.next;
        self.next += 1;
        self.automatic.insert(key);
        key
    }

    /// A key that the caller chose.
    pub(crate) fn claim(&mut self, key: u64) -> u64 {
        self.next = self.next.max(key.saturating_add(1));
        self.own.insert(key);
        key
    }

    /// The answer to an automatic key has come, or is not wanted any more.
    pub(crate) fn settle(&mut self, key: u64) {
        self.automatic.remove(&key);
    }

    /// The caller wants no answers of its own keys up to `key` any more.
    pub(crate) fn release(&mut self, key: u64) {
        self.own.retain(|own| *own > key);
    }

    /// The key that the next call will have.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The highest key such that no answer up to it is wanted; 0 for none.
    pub(crate) fn acknowledged(&self) -> u64 {
        let lowest_wanted = self
            .automatic
            .first()
            .into_iter()
            .chain(self.own.first())
            .min();
        lowest_wanted.unwrap_or(&self.next) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_acknowledgement_stays_below_every_answer_that_is_wanted() {
        let mut keys = Keys::from(1);
        assert_eq!(keys.acknowledged(), 0);
        assert_eq!((keys.take(), keys.take(), keys.take()), (1, 2, 3));
        keys.settle(2);
        assert_eq!(keys.acknowledged(), 0);
        keys.settle(1);
        assert_eq!(keys.acknowledged(), 2);
        keys.settle(3);
        assert_eq!(keys.acknowledged(), 3);
        assert_eq!(keys.claim(10), 10);
        assert_eq!(keys.acknowledged(), 9);
        assert_eq!(keys.take(), 11);
        keys.settle(10);
        assert_eq!(
            keys.acknowledged(),
            9,
            "a key of one's own is acknowledged by its owner"
        );
        assert_eq!(keys.take(), 12);
        keys.release(12);
        assert_eq!(keys.acknowledged(), 10, "a call that waits is not");
    }

    #[test]
    fn every_status_has_its_meaning() {
        let of = |status, result: &str| {
            interpret(CallResponse {
                status,
                result: result.into(),
            })
        };
        assert_eq!(of(CallStatus::Returned, "[1]"), Ok(serde_json::json!([1])));
        assert_eq!(
            of(CallStatus::Exceeded, "fuel: 3: spent"),
            Err(ClientError::Call(CallError::Exceeded {
                bound: "fuel".into(),
                message: "3: spent".into()
            }))
        );
        for status in CallStatus::ALL {
            let protocol = matches!(of(status, "0"), Err(ClientError::Protocol(_)));
            assert_eq!(protocol, status == CallStatus::Parked, "{status:?}");
        }
        assert!(matches!(
            of(CallStatus::Returned, "{"),
            Err(ClientError::Protocol(_))
        ));
    }
}
