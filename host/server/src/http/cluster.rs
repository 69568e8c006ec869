//! The ensemble: who its members are, and changes of them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use quorate_consensus::{Consensus, ReconfigureError};
use quorate_model::id::ServerId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::Path;
use super::problem::Problem;
use super::{Answer, Answered, Http, body};

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
    let consensus = consensus(&http)?;
    done(&http, consensus.add(ServerId(server), address).await)
}

/// `POST /v1/cluster/members/<id>/promote`: it votes from now on.
pub(super) async fn promote(State(http): State<Arc<Http>>, Path(server): Path<u64>) -> Answered {
    let consensus = consensus(&http)?;
    done(&http, consensus.promote(ServerId(server)).await)
}

/// `DELETE /v1/cluster/members/<id>`
pub(super) async fn remove(State(http): State<Arc<Http>>, Path(server): Path<u64>) -> Answered {
    let consensus = consensus(&http)?;
    done(&http, consensus.remove(ServerId(server)).await)
}

/// `POST /v1/cluster/leader`: another voter leads from now on.
pub(super) async fn lead(State(http): State<Arc<Http>>, body: Body) -> Answered {
    let Lead { server } = body::json(body, r#"{"server": 2}"#).await?;
    let consensus = consensus(&http)?;
    done(&http, consensus.transfer_leader(ServerId(server)).await)
}

fn consensus(http: &Http) -> Result<&Consensus, Problem> {
    let consensus = http.consensus.as_ref();
    consensus.ok_or_else(|| Problem::internal("this server knows of no ensemble"))
}

fn done(http: &Http, changed: Result<(), ReconfigureError>) -> Answered {
    match changed {
        Ok(()) => shown(http),
        Err(error) => {
            let (status, code) = match &error {
                ReconfigureError::NotLeading { .. } => {
                    (StatusCode::MISDIRECTED_REQUEST, "not-leading")
                }
                ReconfigureError::Refused(_) => (StatusCode::CONFLICT, "refused"),
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
            "votes": votes,
            "matched_index": follower.and_then(|follower| follower.matched_index),
            "heard_ms": follower.and_then(|follower| follower.heard_ms),
        })
    };
    let voters = members.voters.iter().map(|server| (server, true));
    let learners = members.learners.iter().map(|server| (server, false));
    let (zxid, digest, version) = {
        let state = http.edge.state.read();
        (state.last_zxid(), state.digest(), state.version())
    };
    let body = json!({
        "server": http.edge.router.server().0,
        "mode": (http.edge.mode)().name(),
        "leader": status.leadership.leader.map(|leader| leader.0),
        "term": status.leadership.term,
        "changing": members.changing,
        "applied_index": status.applied_index,
        "last_index": status.last_index,
        "state_zxid": zxid.to_string(),
        "state_digest": digest.to_string(),
        "ensemble_version": version,
        "members": voters.chain(learners).map(member).collect::<Vec<_>>(),
    });
    Ok(Answer::new(http.edge.watches.last_zxid(), body))
}
