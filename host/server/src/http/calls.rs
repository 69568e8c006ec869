//! Calls over HTTP: a request that may wait, to be repeated with its key until the answer comes.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use quorate_model::call::{Acknowledgement, Answer as CallAnswer, CallRequest, Ending};
use quorate_model::id::CallId;
use quorate_model::outcome::Outcome;
use quorate_model::path::ZnodePath;
use quorate_model::request::Operation;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::extract::Path;
use super::problem::Problem;
use super::{Answer, Answered, Http, Peer, body};
use crate::notify::Unanswered;
use crate::route::Unavailable;

/// How long a parked call is waited for if the client does not say.
const DEFAULT_WAIT_MS: u64 = 10_000;

/// The longest wait for a parked call: proxies cut off connections that are silent for longer.
const MAX_WAIT_MS: u64 = 60_000;

const SHAPE: &str = r#"{"mount": "/locks", "operation": "acquire", "arguments": ["inventory"], and if need be "wait_ms": 10000, "timeout_ms": 60000, "acknowledge": {"mark": 7, "awaited": [3]}}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    mount: String,
    operation: String,
    #[serde(default = "no_arguments")]
    arguments: Value,
    #[serde(default = "default_wait_ms")]
    wait_ms: u64,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    acknowledge: Acknowledgement,
}

pub(super) fn no_arguments() -> Value {
    Value::Array(Vec::new())
}

fn default_wait_ms() -> u64 {
    DEFAULT_WAIT_MS
}

/// `PUT /v1/sessions/<token>/calls/<key>`
pub(super) async fn call(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path((token, key)): Path<(String, String)>,
    body: Body,
) -> Answered {
    let call: Call = body::json(body, SHAPE).await?;
    // Looked up after the body has come, so that the wait begins with a touch.
    let (session, live) = http.session(&token).await?;
    let id = CallId {
        session,
        key: parse_key(&key)?,
    };
    let wait = wait(call.wait_ms, live.timeout_ms);
    let request = call.into_request(id.key)?;
    // In line before asking, so that an answer right behind the parking is not missed.
    let late = http.edge.watches.late_answer(id);
    let mut late = late.ok_or_else(Problem::too_many_waiters)?;
    let (parked, outcome) = http.ask(session, peer, Operation::Call(request)).await?;
    let answer = match outcome {
        Outcome::Answered(answer) => Some(answer),
        Outcome::Parked => match timeout(wait, late.answer()).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(Unanswered::Abandoned(reason))) => {
                let abandoned = Unavailable::Abandoned(reason.to_owned());
                return Err(Problem::unavailable(abandoned));
            }
            Ok(Err(Unanswered::SessionEnded)) if http.state()?.session(session).is_none() => {
                return Err(Problem::session_expired());
            }
            Ok(Err(Unanswered::SessionEnded)) | Err(_) => None,
        },
        other => return Err(Problem::unexpected(other)),
    };
    Ok(match answer {
        Some(answer) => ended(&answer),
        None => Answer::new(parked, json!({"status": "parked"})).with_status(StatusCode::ACCEPTED),
    })
}

/// Not so long that the session could expire meanwhile: only the beginning of a wait is a touch
/// (rule W3), since a client that is gone must not be kept alive by its last request.
fn wait(wished_ms: u64, session_timeout_ms: u32) -> Duration {
    let alive_ms = u64::from(session_timeout_ms) * 2 / 3;
    Duration::from_millis(wished_ms.min(MAX_WAIT_MS).min(alive_ms))
}

impl Call {
    fn into_request(self, key: u64) -> Result<CallRequest, Problem> {
        if !self.arguments.is_array() && !self.arguments.is_object() {
            return Err(Problem::bad_request(
                "arguments are an array of them in order, or an object of them by name",
            ));
        }
        Ok(CallRequest {
            key,
            mount: ZnodePath::parse(&self.mount)
                .map_err(|error| Problem::bad_request(format!("mount: {error}")))?,
            operation: self.operation,
            // Written anew, so that a repeated request is the same call however its JSON is spaced.
            arguments: self.arguments.to_string(),
            timeout_ms: self.timeout_ms,
            acknowledged: self.acknowledge,
        })
    }
}

/// `DELETE /v1/sessions/<token>/calls/<key>`
pub(super) async fn cancel(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path((token, key)): Path<(String, String)>,
) -> Answered {
    let (session, _) = http.session(&token).await?;
    let key = parse_key(&key)?;
    match http.ask(session, peer, Operation::Cancel { key }).await? {
        (_, Outcome::Answered(answer)) => Ok(ended(&answer)),
        (_, other) => Err(Problem::unexpected(other)),
    }
}

/// `POST /v1/sessions/<token>/acknowledge`
pub(super) async fn acknowledge(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path(token): Path<String>,
    body: Body,
) -> Answered {
    let said: Acknowledgement = body::json(body, r#"{"mark": 7, "awaited": [3]}"#).await?;
    let (session, _) = http.session(&token).await?;
    let operation = Operation::Acknowledge(said);
    match http.ask(session, peer, operation).await? {
        (zxid, Outcome::Acknowledged) => Ok(Answer::new(zxid, json!({}))),
        (_, other) => Err(Problem::unexpected(other)),
    }
}

pub(super) fn parse_key(text: &str) -> Result<u64, Problem> {
    text.parse()
        .ok()
        .filter(|&key| (1..=i64::MAX.cast_unsigned()).contains(&key))
        .ok_or_else(|| {
            Problem::bad_request(
                "a call's key is a number from 1, chosen by the client: one for each call, and the \
                 same again to repeat it",
            )
        })
}

/// The same, however often it is asked for: an answer is kept until it is acknowledged.
pub(super) fn ended(answer: &CallAnswer) -> Answer {
    let text = |status, error: &str| json!({"status": status, "error": error});
    let body = match &answer.ending {
        Ending::Returned(result) => json!({"status": "returned", "result": parsed(result)}),
        Ending::Failed(error) => json!({"status": "failed", "error": parsed(error)}),
        Ending::Refused(reason) => text("refused", reason),
        Ending::Trapped(message) => text("trapped", message),
        Ending::Exceeded { bound, message } => {
            json!({"status": "exceeded", "bound": bound, "error": message})
        }
        ending @ Ending::Cancelled => text("cancelled", &ending.to_string()),
        ending @ Ending::TimedOut => text("timed-out", &ending.to_string()),
        ending @ (Ending::Unmounted | Ending::Outdated(_)) => {
            text("unmounted", &ending.to_string())
        }
    };
    Answer::new(answer.zxid, body)
}

/// Results are JSON, made by the sandbox.
pub(super) fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| Value::String(json.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_before_the_session_could() {
        assert_eq!(wait(1_000, 30_000), Duration::from_millis(1_000));
        assert_eq!(wait(60_000, 30_000), Duration::from_millis(20_000));
        assert_eq!(wait(u64::MAX, u32::MAX), Duration::from_millis(MAX_WAIT_MS));
    }

    #[test]
    fn a_repeated_request_is_the_same_call() {
        let request = |text: &str| {
            let call: Call = serde_json::from_str(text).unwrap();
            call.into_request(1).unwrap().fingerprint()
        };
        assert_eq!(
            request(r#"{"mount":"/m","operation":"o","arguments":{"a":1,"b":[2]}}"#),
            request(
                r#"{"operation":"o", "mount":"/m", "arguments":{ "b": [2], "a": 1 }, "wait_ms":5}"#
            ),
        );
    }

    #[test]
    fn keys_are_what_the_protocol_carries() {
        for bad in ["0", "-1", "x", "9223372036854775808", ""] {
            assert!(parse_key(bad).is_err(), "{bad}");
        }
        assert!(parse_key("9223372036854775807").is_ok());
    }
}
