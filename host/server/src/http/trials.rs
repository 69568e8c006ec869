//! Trials: what a call would do, and the recordings of runs that have failed.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use quorate_model::call::{Acknowledgement, CallRequest};
use quorate_model::id::{CallId, SessionId};
use quorate_model::outcome::Outcome;
use quorate_model::path::ZnodePath;
use quorate_model::request::Operation;
use quorate_model::run::{RunEnding, RunWatch};
use quorate_model::trial::{TOLD_TOO_MUCH, Trial, TrialOf, TrialRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::activity::PATIENCE;
use super::calls::{no_arguments, parse_key, parsed};
use super::extract::Path;
use super::parked::parse_session;
use super::problem::Problem;
use super::{Answer, Answered, Http, Peer, body, parse_zxid};
use crate::activity::{Compared, Look, Seen, level_name};

const SHAPE: &str = r#"{"mount": "/locks", "operation": "acquire", "arguments": ["inventory"], and if need be "session": "…", "record": true}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Try {
    mount: String,
    operation: String,
    #[serde(default = "no_arguments")]
    arguments: Value,
    /// The token of the session that is to be its caller's.
    #[serde(default)]
    session: Option<String>,
    /// Whether the answer is to have all that the run was told.
    #[serde(default)]
    record: bool,
}

/// `POST /v1/trials`: a call of which nothing is kept.
pub(super) async fn call(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Answered {
    let wanted: Try = body::json(body, SHAPE).await?;
    let session = match &wanted.session {
        Some(token) => http.session(token).await?.0,
        None => SessionId::NONE,
    };
    let mount = ZnodePath::parse(&wanted.mount);
    let mount = mount.map_err(|error| Problem::bad_request(format!("mount: {error}")))?;
    let call = CallRequest {
        key: 0,
        mount,
        operation: wanted.operation,
        arguments: wanted.arguments.to_string(),
        timeout_ms: None,
        acknowledged: Acknowledgement::default(),
    };
    http.try_out(session, peer, TrialOf::Call(call), wanted.record)
        .await
}

/// What a trial of a parked call is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    record: bool,
}

/// `POST /v1/calls/<session>/<key>/trial`: a parked call's next run, as if it were woken now.
pub(super) async fn parked(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path((session, key)): Path<(String, String)>,
    body: Body,
) -> Answered {
    let wanted: Wanted = body::json(body, r#"{"record": true}"#).await?;
    let id = CallId {
        session: parse_session(&session)?,
        key: parse_key(&key)?,
    };
    http.try_out(SessionId::NONE, peer, TrialOf::Parked(id), wanted.record)
        .await
}

/// `GET /v1/recordings`: the last runs that failed, the last first.
pub(super) async fn failures(State(http): State<Arc<Http>>) -> Answered {
    let failures = match http.look(Look::Failures, PATIENCE).await? {
        Seen::Failures(failures) => failures,
        other => return Err(Problem::unexpected(other)),
    };
    let body = json!({"failures": failures});
    Ok(Answer::new(http.edge.watches.last_zxid(), body))
}

/// `GET /v1/recordings/<zxid>`: one of them.
pub(super) async fn recording(State(http): State<Arc<Http>>, Path(zxid): Path<String>) -> Answered {
    let zxid = parse_zxid(&zxid)
        .ok_or_else(|| Problem::bad_request("a recording is known by its zxid, a number"))?;
    let found = match http.look(Look::Recording(zxid), PATIENCE).await? {
        Seen::Recording(found) => found,
        other => return Err(Problem::unexpected(other)),
    };
    let found = found.ok_or_else(|| {
        Problem::not_found(
            "there is no recording of that transaction: the server that leads keeps the last ones",
        )
    })?;
    let found = found.map_err(|reason| {
        Problem::not_found(format!("that failed run was not recorded: {reason}"))
    })?;
    Ok(Answer::new(http.edge.watches.last_zxid(), json!(found)))
}

impl Http {
    async fn try_out(&self, session: SessionId, peer: Peer, of: TrialOf, record: bool) -> Answered {
        let wanted = TrialRequest { of, record };
        match self.ask(session, peer, Operation::Try(wanted)).await? {
            (zxid, Outcome::Tried(trial)) => Ok(Answer::new(zxid, shown(&trial, record))),
            (_, other) => Err(Problem::unexpected(other)),
        }
    }
}

fn shown(trial: &Trial, record: bool) -> Value {
    let mut body = ending_shown(&trial.ran.ending);
    body["fuel"] = trial.ran.fuel.into();
    let lines = trial.ran.log.iter();
    body["log"] = lines
        .map(|line| json!({"level": level_name(line.level), "message": line.message}))
        .collect();
    // What a run wrote counts only if it ends well.
    let commits = matches!(
        trial.ran.ending,
        RunEnding::Returned(_) | RunEnding::Parked { .. }
    );
    body["commits"] = commits.into();
    body["changes"] = json!(trial.changes);
    if record {
        body["recording"] = json!(trial.recording);
        if trial.recording.is_none() {
            body["not_recorded"] = TOLD_TOO_MUCH.into();
        }
    }
    body
}

/// How a run ended, as an answer to its call says it.
fn ending_shown(ending: &RunEnding) -> Value {
    let text = |status, error: &str| json!({"status": status, "error": error});
    match ending {
        RunEnding::Returned(result) => json!({"status": "returned", "result": parsed(result)}),
        RunEnding::Failed(error) => json!({"status": "failed", "error": parsed(error)}),
        RunEnding::Refused(reason) => text("refused", reason),
        RunEnding::Trapped(message) => text("trapped", message),
        RunEnding::Exceeded { bound, message } => {
            json!({"status": "exceeded", "bound": bound, "error": message})
        }
        RunEnding::Parked { watches, .. } => json!({
            "status": "parked",
            "waits_for": watches.iter().map(watch_shown).collect::<Vec<_>>(),
        }),
        other @ (RunEnding::BadCall(_) | RunEnding::NotReady) => {
            text("did-not-run", &other.to_string())
        }
    }
}

/// Relative to the mount.
fn watch_shown(watch: &RunWatch) -> Value {
    match watch {
        RunWatch::Node(path) => json!({"node": path.as_str()}),
        RunWatch::Children(path) => json!({"children": path.as_str()}),
        RunWatch::Subtree(path) => json!({"subtree": path.as_str()}),
        RunWatch::Time(moment) => json!({"time": moment.0}),
    }
}

/// How a mount's shadow compares.
pub(super) fn compared_shown(compared: &Compared) -> Value {
    let differences = compared.last.iter().rev().filter_map(|run| {
        let difference = run.difference.as_ref()?;
        Some(json!({
            "zxid": run.zxid.0,
            "at": run.at.0,
            "operation": run.operation,
            "mounted": difference.mounted,
            "shadow": difference.shadow,
        }))
    });
    json!({
        "digest": compared.digest.to_string(),
        "runs": compared.runs,
        "differing": compared.differing,
        "stopped": compared.stopped,
        "last": differences.collect::<Vec<_>>(),
    })
}
