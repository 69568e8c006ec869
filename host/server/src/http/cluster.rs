//! The ensemble: who its members are, and changes of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use quorate_consensus::{Consensus, MembersChange, NewMember, ReconfigureError};
use quorate_model::id::ServerId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::Path;
use super::problem::Problem;
use super::{Answer, Answered, Http, body};
use crate::members::Change;
use crate::read_only::NO_QUORUM_AFTER_MS;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    server: u64,
    address: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lead {
    server: u64,
}

/// `GET /v1/cluster`
pub(super) async fn show(State(http): State<Arc<Http>>) -> Answered {
    shown(&http)
}

/// `POST /v1/cluster/members`: a server is added, and does not vote yet.
pub(super) async fn add(State(http): State<Arc<Http>>, body: Body) -> Answered {
    let shape = r#"{"server": 4, "address": "10.0.0.4:2888"}"#;
    let Add { server, address } = body::json(body, shape).await?;
    let server = new_id(server)?;
    changed(&http, Change::Add { server, address }).await
}

/// `POST /v1/cluster/members/<id>/promote`: it votes from now on.
pub(super) async fn promote(State(http): State<Arc<Http>>, Path(server): Path<u64>) -> Answered {
    changed(&http, Change::Promote(ServerId(server))).await
}

/// `POST /v1/cluster/members/<id>/replace`: another server takes its place.
pub(super) async fn replace(
    State(http): State<Arc<Http>>,
    Path(old): Path<u64>,
    body: Body,
) -> Answered {
    let shape = r#"{"server": 4, "address": "10.0.0.4:2888"}"#;
    let Add { server, address } = body::json(body, shape).await?;
    let (old, server) = (ServerId(old), new_id(server)?);
    let members = consensus(&http)?.members().borrow().clone();
    if !members.addresses.contains_key(&old) && !members.addresses.contains_key(&server) {
        let text = format!("server {} is no member", old.0);
        return Err(Problem::new(StatusCode::CONFLICT, "refused", text));
    }
    let new = NewMember {
        server,
        address,
        client: String::new(),
        votes: !members.learners.contains(&old),
    };
    let several = MembersChange {
        joining: vec![new],
        leaving: BTreeSet::from([old]),
        ..MembersChange::default()
    };
    changed(&http, Change::Several(several)).await
}

/// `DELETE /v1/cluster/members/<id>`
pub(super) async fn remove(State(http): State<Arc<Http>>, Path(server): Path<u64>) -> Answered {
    changed(&http, Change::Remove(ServerId(server))).await
}

/// `POST /v1/cluster/leader`: another voter leads from now on.
pub(super) async fn lead(State(http): State<Arc<Http>>, body: Body) -> Answered {
    let Lead { server } = body::json(body, r#"{"server": 2}"#).await?;
    changed(&http, Change::Lead(ServerId(server))).await
}

/// A server's id, which no server could be started with if it were 0.
fn new_id(server: u64) -> Result<ServerId, Problem> {
    match server {
        0 => Err(Problem::bad_request(
            "a server's id is 1 or more: none can be started as server 0",
        )),
        server => Ok(ServerId(server)),
    }
}

fn consensus(http: &Http) -> Result<&Consensus, Problem> {
    let consensus = http.consensus.as_ref();
    consensus.ok_or_else(|| Problem::internal("this server knows of no ensemble"))
}

/// Has the leader make a change; shows what this server sees afterwards.
async fn changed(http: &Http, change: Change) -> Answered {
    let members = http.edge.members.as_ref();
    let members = members.ok_or_else(|| Problem::internal("this server knows of no ensemble"))?;
    match members.change(change).await {
        Ok(changed) => {
            members.known_here(&changed).await;
            shown(http)
        }
        Err(error) => {
            let (status, code) = match &error {
                ReconfigureError::NotLeading { .. } => {
                    (StatusCode::SERVICE_UNAVAILABLE, "not-leading")
                }
                ReconfigureError::Refused(_) | ReconfigureError::NoQuorum(_) => {
                    (StatusCode::CONFLICT, "refused")
                }
                ReconfigureError::InProgress => (StatusCode::CONFLICT, "in-progress"),
                ReconfigureError::Version { .. } => (StatusCode::CONFLICT, "version"),
                ReconfigureError::Unknown(_) => (StatusCode::SERVICE_UNAVAILABLE, "unknown"),
            };
            Err(Problem::new(status, code, error.to_string()))
        }
    }
}

fn shown(http: &Http) -> Answered {
    let consensus = consensus(http)?;
    let (members, status) = (consensus.members().borrow().clone(), consensus.status());
    let member = |(server, votes): (&ServerId, bool)| -> Value {
        let follower = status.followers.get(server);
        json!({
            "server": server.0,
            "address": members.addresses.get(server).cloned().unwrap_or_default(),
            "client_address": members.clients.get(server).cloned().unwrap_or_default(),
            "votes": votes,
            "matched_index": follower.and_then(|follower| follower.matched_index),
            "heard_ms": follower.and_then(|follower| follower.heard_ms),
        })
    };
    let voters = members.voters.iter().map(|server| (server, true));
    let learners = members.learners.iter().map(|server| (server, false));
    let state = {
        let state = http.edge.state.read();
        let is_shown = !state.is_vacant() && http.edge.waits().is_none();
        is_shown.then(|| (state.last_zxid(), state.digest(), state.version()))
    };
    let quorum_age_ms = (http.edge.quorum_age_ms)();
    // One that has lost its quorum does not know yet that another may lead, and goes on calling itself the leader.
    let leader = status.leadership.leader;
    let leader = leader.filter(|_| quorum_age_ms < NO_QUORUM_AFTER_MS);
    let body = json!({
        "server": http.edge.router.server().0,
        "mode": (http.edge.mode)().name(),
        "leader": leader.map(|leader| leader.0),
        "waiting": http.edge.waiting.reason(),
        "quorum_age_ms": quorum_age_ms,
        "term": status.leadership.term,
        "changing": members.changing,
        "applied_index": status.applied_index,
        "last_index": status.last_index,
        "state_zxid": state.map(|(zxid, ..)| zxid.to_string()),
        "state_digest": state.map(|(_, digest, _)| digest.to_string()),
        "ensemble_version": state.map(|(.., version)| version),
        "members": voters.chain(learners).map(member).collect::<Vec<_>>(),
    });
    Ok(Answer::new(http.edge.watches.last_zxid(), body))
}
