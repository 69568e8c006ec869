//! Sessions of HTTP: no connection owns them (rule W3).

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use quorate_model::id::SessionId;
use quorate_model::outcome::Outcome;
use quorate_model::request::Operation;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::extract::Path;
use super::problem::Problem;
use super::{Answer, Answered, Http, Peer, body, token};
use crate::receive::new_password;
use crate::silence::limit_ms;

/// How long a keep-alive waits for a leader to count it, and two thirds of its session's timeout at most: longer than
/// the ensemble needs to elect another leader.
const KEEP_ALIVE_DEADLINE: Duration = Duration::from_secs(3);

/// The timeout of a client that does not wish for one.
const DEFAULT_TIMEOUT_MS: u64 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Open {
    #[serde(default = "default_timeout_ms")]
    timeout_ms: u64,
}

fn default_timeout_ms() -> u64 {
    DEFAULT_TIMEOUT_MS
}

/// `POST /v1/sessions`
pub(super) async fn open(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Answered {
    let open: Open = body::json(body, r#"{"timeout_ms": 10000}"#).await?;
    let wished_ms = i64::try_from(open.timeout_ms).unwrap_or(i64::MAX);
    let operation = Operation::OpenSession {
        timeout_ms: http.edge.limits.negotiate(wished_ms),
        password: new_password().map_err(Problem::internal)?,
    };
    match http.ask(SessionId::NONE, peer, operation).await? {
        (
            zxid,
            Outcome::Session {
                session,
                password,
                timeout_ms,
            },
        ) => {
            let token = token::encode(session, &password);
            let body = json!({"session": token, "timeout_ms": timeout_ms});
            Ok(Answer::new(zxid, body).with_status(StatusCode::CREATED))
        }
        (_, other) => Err(Problem::unexpected(other)),
    }
}

/// `POST /v1/sessions/<token>/keep-alive`
pub(super) async fn keep_alive(
    State(http): State<Arc<Http>>,
    Path(token): Path<String>,
) -> Answered {
    let (session, live) = http.session(&token).await?;
    let deadline = KEEP_ALIVE_DEADLINE.min(Duration::from_millis(limit_ms(live.timeout_ms)));
    let touches = http.edge.router.touches();
    let counted = timeout(deadline, http.edge.silence.keep_alive(touches, session)).await;
    if http.state()?.session(session).is_none() {
        return Err(Problem::session_expired());
    }
    // It may be counted yet, and its client has to ask again all the same.
    counted.map_err(|_| Problem::no_quorum())?;
    Ok(Answer::new(http.edge.watches.last_zxid(), json!({})))
}

/// `DELETE /v1/sessions/<token>`
pub(super) async fn close(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    Path(token): Path<String>,
) -> Answered {
    let (session, _) = http.session(&token).await?;
    match http.ask(session, peer, Operation::CloseSession).await? {
        (zxid, Outcome::SessionClosed) => Ok(Answer::new(zxid, json!({}))),
        (_, other) => Err(Problem::unexpected(other)),
    }
}
