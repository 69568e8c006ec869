//! Parked calls: who waits for what, and an operator's end to it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use quorate_model::call::{ParkedCall, Watch};
use quorate_model::id::{CallId, SessionId};
use quorate_model::outcome::Outcome;
use quorate_model::path::ZnodePath;
use quorate_model::request::Operation;
use serde::Deserialize;
use serde_json::{Value, json};

use super::calls::{ended, parse_key};
use super::extract::{Path, Query};
use super::problem::Problem;
use super::{Answer, Answered, Http, Peer};

/// How many calls one answer has, unless the client wishes for fewer.
const MAX_CALLS: usize = 1000;

/// How many bytes of arguments; the first call is shown however many it has.
const MAX_BYTES: usize = 4 << 20;

/// Which calls.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Those at this mount.
    mount: Option<String>,
    /// At most so many, the oldest.
    limit: Option<usize>,
}

/// `GET /v1/calls`: the parked calls, the oldest first.
pub(super) async fn list(State(http): State<Arc<Http>>, Query(page): Query<Page>) -> Answered {
    let mount = page.mount.as_deref().map(ZnodePath::parse).transpose();
    let mount = mount.map_err(|error| Problem::bad_request(format!("mount: {error}")))?;
    let limit = page.limit.unwrap_or(MAX_CALLS).min(MAX_CALLS);
    let (oldest, number, now, zxid) = {
        let state = http.state()?;
        let calls: &mut dyn Iterator<Item = &ParkedCall> = match &mount {
            None => &mut state.parked_by_age(),
            Some(mount) => &mut state.parked_at(mount),
        };
        let oldest = fitting(calls.take(limit));
        let number = state.parked_number(mount.as_ref());
        (oldest, number, state.last_time(), state.last_zxid())
    };
    // Their arguments are read into JSON without the state's lock.
    let calls: Vec<Value> = oldest.iter().map(|call| shown(call, now.0)).collect();
    let body = json!({"calls": calls, "number": number});
    Ok(Answer::new(zxid, body))
}

/// The first of them: no more bytes than one answer is to have.
fn fitting<'a>(calls: impl Iterator<Item = &'a ParkedCall>) -> Vec<ParkedCall> {
    let mut bytes = 0;
    let fits = |call: &&ParkedCall| {
        let first = bytes == 0;
        bytes += call.arguments.len();
        first || bytes <= MAX_BYTES
    };
    calls.take_while(fits).cloned().collect()
}

fn shown(call: &ParkedCall, now_ms: u64) -> Value {
    json!({
        "session": call.id.session.0,
        "key": call.id.key,
        "mount": call.mount.as_str(),
        "operation": match call.id.is_standing() {
            true => "standing",
            false => &call.operation,
        },
        "arguments": serde_json::from_str(&call.arguments).unwrap_or(Value::Null),
        "age_ms": now_ms.saturating_sub(call.started.0),
        "deadline": call.deadline.map(|deadline| deadline.0),
        "waits_for": call.watches.iter().map(watch_shown).collect::<Vec<_>>(),
        "marked": call.marked,
    })
}

fn watch_shown(watch: &Watch) -> Value {
    match watch {
        Watch::Node(path) => json!({"node": path.as_str()}),
        Watch::Children(path) => json!({"children": path.as_str()}),
        Watch::Subtree(path) => json!({"subtree": path.as_str()}),
        Watch::Time(moment) => json!({"time": moment.0}),
    }
}

pub(super) fn parse_session(text: &str) -> Result<SessionId, Problem> {
    let number = text.parse().map(SessionId);
    number.map_err(|_| Problem::bad_request("a session is a number, as in the list of calls"))
}

/// `DELETE /v1/calls/<session>/<key>`: ends it without a result; its caller is told that it was cancelled.
pub(super) async fn cancel(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path((session, key)): Path<(String, String)>,
) -> Answered {
    let call = CallId {
        session: parse_session(&session)?,
        key: parse_key(&key)?,
    };
    let asked = http.ask(SessionId::NONE, peer, Operation::CancelCall(call));
    match asked.await? {
        (_, Outcome::Answered(answer)) => Ok(ended(&answer)),
        (_, other) => Err(Problem::unexpected(other)),
    }
}
