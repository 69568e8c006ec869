//! How the server is: for load balancers and for Prometheus.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use quorate_consensus::Consensus;
use serde_json::json;

use super::{Answer, Http};
use crate::metrics::{CONTENT_TYPE, OfState, Snapshot};
use crate::read_only::NO_QUORUM_AFTER_MS;

/// `GET /health`: 200 if this server takes writes, else 503 and why not.
pub(super) async fn health(State(http): State<Arc<Http>>) -> Response {
    let zxid = http.edge.watches.last_zxid();
    match takes_writes(&http) {
        Ok(()) => Answer::new(
            zxid,
            json!({"status": "ok", "server": http.edge.router.server().0}),
        )
        .into_response(),
        Err(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({"status": "unavailable", "reason": reason, "zxid": zxid.0})),
        )
            .into_response(),
    }
}

/// Why this server takes no writes now, if so.
fn takes_writes(http: &Http) -> Result<(), String> {
    (http.health)()?;
    if let Some(reason) = http.edge.waiting.reason() {
        return Err(reason);
    }
    if http.edge.state.read().is_vacant() {
        return Err("it installs a snapshot".into());
    }
    match (http.edge.quorum_age_ms)() {
        age_ms if age_ms >= NO_QUORUM_AFTER_MS => {
            Err(format!("no quorum for {} s: writes wait", age_ms / 1000))
        }
        _ => Ok(()),
    }
}

/// `GET /metrics`
pub(super) async fn metrics(State(http): State<Arc<Http>>) -> Response {
    let state = {
        let state = http.edge.state.read();
        // Before it serves, it holds what its newest snapshot does.
        (!state.is_vacant() && http.edge.waits().is_none()).then(|| {
            let counts = state.counts();
            OfState {
                znodes: counts.znodes,
                data_bytes: counts.data_bytes,
                sessions: counts.sessions,
                ephemerals: counts.ephemerals,
                parked_calls: counts.parked_calls,
                answers: counts.answers,
                mounts: counts.mounts,
                mounts_suspended: counts.suspended,
                recipes: counts.recipes,
                components: counts.components,
                component_bytes: counts.component_bytes,
                uploads: counts.uploads,
                upload_bytes: counts.upload_bytes,
                last_zxid: state.last_zxid().0,
                state_digest: state.digest().0,
                ensemble_version: u64::from(state.version()),
            }
        })
    };
    let text = http.edge.metrics.text(Snapshot {
        watches: http.edge.watches.count() as u64,
        quorum_age_ms: (http.edge.quorum_age_ms)(),
        mode: (http.edge.mode)(),
        takes_writes: takes_writes(&http).is_ok(),
        ensemble: http.consensus.as_ref().map(Consensus::status),
        state,
    });
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}
