//! How the server is: for load balancers and for Prometheus.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{Answer, Http};
use crate::metrics::{CONTENT_TYPE, Snapshot};

/// `GET /health`: 200 if this server takes writes, else 503 and why not.
pub(super) async fn health(State(http): State<Arc<Http>>) -> Response {
    let zxid = http.edge.watches.last_zxid();
    match (http.health)() {
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

/// `GET /metrics`
pub(super) async fn metrics(State(http): State<Arc<Http>>) -> Response {
    let (counts, last_zxid, digest, version) = {
        let state = http.edge.state.read();
        (
            state.counts(),
            state.last_zxid(),
            state.digest(),
            state.version(),
        )
    };
    let text = http.edge.metrics.text(Snapshot {
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
        watches: http.edge.watches.count() as u64,
        last_zxid: last_zxid.0,
        state_digest: digest.0,
        ensemble_version: u64::from(version),
    });
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}
