//! Calls to recipes: keys, acknowledgements, and how a call ended.

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use quorate_model::call::MAX_AWAITED;
use quorate_wire::{Acknowledgement, CallRequest, CallResponse, CallStatus};
use serde_json::Value;
use thiserror::Error;
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
    /// The recipe was unmounted while the call was parked, or upgraded to what the call does not fit: which, for people.
    #[error("{0} while the call was waiting")]
    Unmounted(String),
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
    ///
    /// A key for which nothing ran ([`CallError::BadCall`], [`CallError::NotReady`]) is given up: other calls may pass it
    /// from then on, and the server refuses it then. Choose another.
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
        let mut request = CallRequest {
            key,
            mount: self.mount,
            operation: self.operation,
            arguments: self.arguments.to_string(),
            // Zero would mean none.
            timeout_ms: self.timeout.map_or(0, |timeout| {
                u64::try_from(timeout.as_millis()).unwrap_or(0).max(1)
            }),
            // Said when it is sent.
            acknowledged: Acknowledgement::default(),
        };
        let automatic = self.key.is_none();
        let mut held = Held {
            client: self.client,
            key,
            automatic,
            asked: false,
        };
        let deadline = Instant::now() + READY_PATIENCE;
        let (mut pause, longest_pause) = READY_PAUSES;
        let response = loop {
            held.asked = true;
            let answer = self.client.send_call(request.clone(), automatic).await;
            held.asked = false;
            let not_ready =
                matches!(&answer, Ok(response) if response.status == CallStatus::NotReady);
            if !not_ready || Instant::now() > deadline {
                break answer;
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest_pause);
            if automatic {
                // The server does not know the old one, so that later calls have passed it.
                held.key = self.client.keys.lock().take();
                request.key = held.key;
            }
        };
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

/// A call that somebody waits for, and what is to be done when nobody does any more.
struct Held<'a> {
    client: &'a Client,
    key: u64,
    automatic: bool,
    /// It was sent, and has no answer yet.
    asked: bool,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let (commands, key) = (&self.client.commands, self.key);
        if !self.asked {
            // Before it was sent, after its last answer, or while it is to be repeated, since nothing ran.
            self.client.keys.lock().refuse(key);
        } else if self.automatic
            && commands
                .try_send(Command::Cancel { key, reply: None })
                .is_err()
        {
            // With a full queue the session's task comes to it when it has emptied that: dropping cannot wait.
            self.client.keys.lock().abandon(key);
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
        CallStatus::Unmounted if result.is_empty() => {
            CallError::Unmounted("the recipe was unmounted".into())
        }
        CallStatus::Unmounted => CallError::Unmounted(result),
        CallStatus::BadCall => CallError::BadCall(result),
        CallStatus::NotReady => CallError::NotReady(result),
        CallStatus::Parked => {
            return Err(ClientError::Protocol("a call that ended as parked".into()));
        }
    };
    Err(error.into())
}

/// The keys of a session's calls, and what is to be said of their answers (rule C1).
///
/// An acknowledgement has a mark and names the keys up to it that are awaited; what else is up to the mark is refused. So the mark
/// stays below the lowest key that is wanted and that the server may not know yet. A call that waits does not hold it back.
#[derive(Debug)]
pub(crate) struct Keys {
    next: u64,
    /// By key, those whose answers somebody still wants.
    wanted: BTreeMap<u64, Wanted>,
    /// Automatic ones that nobody wants any more, and that the session's task is to cancel.
    abandoned: Vec<u64>,
}

/// Somebody wants the answer.
#[derive(Debug)]
struct Wanted {
    /// The caller chose the key, and says itself when it has seen the answer.
    own: bool,
    /// The server has said that it keeps the call: it is parked, or has its answer.
    known: bool,
}

impl Keys {
    /// Keys from `next` on are free.
    pub(crate) fn from(next: u64) -> Keys {
        Keys {
            next,
            wanted: BTreeMap::new(),
            abandoned: Vec::new(),
        }
    }

    /// A new key.
    pub(crate) fn take(&mut self) -> u64 {
        let key = self.next;
        self.next += 1;
        let (own, known) = (false, false);
        self.wanted.insert(key, Wanted { own, known });
        key
    }

    /// A key that the caller chose.
    pub(crate) fn claim(&mut self, key: u64) -> u64 {
        self.next = self.next.max(key.saturating_add(1));
        let (own, known) = (true, false);
        let wanted = self.wanted.entry(key).or_insert(Wanted { own, known });
        wanted.own = true;
        key
    }

    /// The server keeps the call.
    pub(crate) fn know(&mut self, key: u64) {
        if let Some(wanted) = self.wanted.get_mut(&key) {
            wanted.known = true;
        }
    }

    /// The answer to an automatic key has come, or is not wanted any more.
    pub(crate) fn settle(&mut self, key: u64) {
        if self.wanted.get(&key).is_some_and(|wanted| !wanted.own) {
            self.wanted.remove(&key);
        }
    }

    /// Nothing ran. So the server does not know the key, unless it knew it before: as that of another call, say.
    pub(crate) fn refuse(&mut self, key: u64) {
        if self.wanted.get(&key).is_some_and(|wanted| !wanted.known) {
            self.wanted.remove(&key);
        }
    }

    /// The caller wants no answers of its own keys up to `key` any more.
    pub(crate) fn release(&mut self, key: u64) {
        self.wanted
            .retain(|other, wanted| *other > key || !wanted.own);
    }

    /// An automatic key's answer is not wanted any more, and the session's task has to be told.
    pub(crate) fn abandon(&mut self, key: u64) {
        self.abandoned.push(key);
    }

    /// What was abandoned since the last time.
    pub(crate) fn take_abandoned(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.abandoned)
    }

    /// The key that the next call will have.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Of which answers nobody wants anything any more.
    pub(crate) fn acknowledgement(&self) -> Acknowledgement {
        let mut awaited = Vec::new();
        for (key, wanted) in &self.wanted {
            if !wanted.known || awaited.len() == MAX_AWAITED {
                let mark = key - 1;
                return Acknowledgement { mark, awaited };
            }
            awaited.push(*key);
        }
        let mark = self.next - 1;
        Acknowledgement { mark, awaited }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(keys: &Keys) -> (u64, Vec<u64>) {
        let Acknowledgement { mark, awaited } = keys.acknowledgement();
        (mark, awaited)
    }

    #[test]
    fn the_mark_stays_below_what_the_server_may_not_know_and_passes_what_it_keeps() {
        let mut keys = Keys::from(1);
        assert_eq!(said(&keys), (0, vec![]));
        assert_eq!((keys.take(), keys.take(), keys.take()), (1, 2, 3));
        keys.settle(2);
        assert_eq!(said(&keys), (0, vec![]), "1 may be on its way");
        keys.know(1);
        assert_eq!(said(&keys), (2, vec![1]), "1 waits there");
        keys.settle(3);
        assert_eq!(said(&keys), (3, vec![1]));
        keys.settle(1);
        assert_eq!(said(&keys), (3, vec![]));
        keys.settle(1);
        keys.know(1);
        assert_eq!(said(&keys), (3, vec![]), "it was settled");
    }

    #[test]
    fn a_key_of_ones_own_is_awaited_until_its_owner_has_seen_the_answer() {
        let mut keys = Keys::from(1);
        assert_eq!(keys.claim(10), 10);
        assert_eq!(said(&keys), (9, vec![]));
        assert_eq!(keys.take(), 11);
        keys.know(10);
        keys.settle(10);
        assert_eq!(said(&keys), (10, vec![10]));
        assert_eq!(keys.take(), 12);
        keys.know(11);
        keys.release(12);
        assert_eq!(
            said(&keys),
            (11, vec![11]),
            "a call that waits is not released"
        );
    }

    #[test]
    fn a_key_for_which_nothing_ran_is_not_held_for_ever() {
        let mut keys = Keys::from(1);
        let own = keys.claim(5);
        keys.refuse(own);
        assert_eq!(said(&keys), (5, vec![]));
        let automatic = keys.take();
        keys.refuse(automatic);
        assert_eq!(said(&keys), (6, vec![]));
        // Asked for again with other arguments, which is refused: the first call's answer is kept.
        keys.claim(7);
        keys.know(7);
        keys.claim(7);
        keys.refuse(7);
        assert_eq!(said(&keys), (7, vec![7]));
    }

    #[test]
    fn an_acknowledgement_names_no_more_keys_than_a_server_takes() {
        let mut keys = Keys::from(1);
        for _ in 0..MAX_AWAITED + 10 {
            let key = keys.take();
            keys.know(key);
        }
        let Acknowledgement { mark, awaited } = keys.acknowledgement();
        assert_eq!((mark, awaited.len()), (MAX_AWAITED as u64, MAX_AWAITED));
        let said = quorate_model::call::Acknowledgement::new(mark, awaited);
        assert!(said.is_ok(), "{said:?}");
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
