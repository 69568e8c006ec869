//! What goes wrong, as `{"error":{"code":…,"message":…}}` with a fitting status.

use std::fmt::Display;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use quorate_model::id::Zxid;
use quorate_model::outcome::Refusal;
use serde_json::json;

use super::ZXID_HEADER;
use crate::notify::MAX_WAITERS_PER_CALL;
use crate::route::Unavailable;

/// An answer that says what went wrong and, where there is something, what to do.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    zxid: Option<Zxid>,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
    ) -> Problem {
        Problem {
            status,
            code,
            message: message.into(),
            zxid: None,
        }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    pub(super) fn too_large(what: &str, limit: usize) -> Problem {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("{what} may have {limit} bytes at most"),
        )
    }

    pub(super) fn too_slow(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", message)
    }

    pub(super) fn is_too_slow(&self) -> bool {
        self.status == StatusCode::REQUEST_TIMEOUT
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.status == StatusCode::PAYLOAD_TOO_LARGE
    }

    /// One message for an ended session, a wrong password and a session of ZooKeeper's protocol, so that none can be told apart.
    pub(super) fn session_expired() -> Problem {
        Problem::new(
            StatusCode::GONE,
            "session-expired",
            "there is no such session, or it has ended: open one with POST /v1/sessions, and keep \
             it alive with any request to it",
        )
    }

    pub(super) fn unavailable(reason: Unavailable) -> Problem {
        let (code, message) = match reason {
            Unavailable::Overloaded(reason) => (
                "overloaded",
                format!("{reason}: it was not done, so try again"),
            ),
            Unavailable::Abandoned(reason) => (
                "unavailable",
                format!(
                    "{reason}: nobody knows whether it was done; a call is safe to repeat with its key"
                ),
            ),
        };
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    pub(super) fn too_many_waiters() -> Problem {
        Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-waiters",
            format!(
                "{MAX_WAITERS_PER_CALL} requests wait for this very call already: nothing was done, \
                 their answer is this one's too"
            ),
        )
    }

    pub(super) fn too_many_answers(bytes: usize) -> Problem {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            format!(
                "there is an answer, but with its {bytes} bytes too much would wait to be sent to \
                 clients: try again, a call with its key"
            ),
        )
    }

    /// There is no quorum, and the server is told not to wait for one.
    pub(super) fn read_only() -> Problem {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "read-only",
            "this server has no quorum and only answers reads: nothing was done, so try another",
        )
    }

    /// The server was started, and has not begun to serve.
    pub(super) fn waiting(reason: &str) -> Problem {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            format!("this server does not serve yet: {reason}; nothing was done, so try another"),
        )
    }

    /// The server's old state is gone, and its new one is not there yet.
    pub(super) fn installing() -> Problem {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "this server installs a snapshot: nothing was read, so try another, or this one in a moment",
        )
    }

    /// The server has heard of no quorum for too long (rule W4).
    pub(super) fn no_quorum() -> Problem {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no-quorum",
            "this server is cut off from the quorum, and what it knows may be old: ask another. What was to be \
             changed may or may not be done; a call is safe to repeat with its key",
        )
    }

    /// Nobody says what is the newest.
    pub(super) fn no_leader() -> Problem {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no-leader",
            "no leader says what is the newest, which this server's reads are to see: try again, or \
             another server",
        )
    }

    pub(super) fn behind(wanted: Zxid, here: Zxid) -> Problem {
        Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "behind",
            format!(
                "this server is at {here} and has not seen {wanted}: try again, or another server"
            ),
        )
    }

    /// A defect of ours: the outcome is of another kind than the request.
    pub(super) fn unexpected(outcome: impl std::fmt::Debug) -> Problem {
        tracing::error!(?outcome, "an outcome of another kind than its request");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "defect",
            "the server answered something else than was asked: please report this",
        )
    }

    pub(super) fn refused(refusal: &Refusal) -> Problem {
        let (status, code) = kind(refusal);
        Problem::new(status, code, refusal.to_string())
    }

    pub(super) fn internal(error: impl Display) -> Problem {
        tracing::error!(%error, "a request of HTTP failed");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            error.to_string(),
        )
    }

    pub(super) fn at(self, zxid: Zxid) -> Problem {
        Problem {
            zxid: Some(zxid),
            ..self
        }
    }
}

fn kind(refusal: &Refusal) -> (StatusCode, &'static str) {
    use StatusCode as S;
    match refusal {
        Refusal::NoNode(_) => (S::NOT_FOUND, "no-node"),
        Refusal::NodeExists(_) => (S::CONFLICT, "node-exists"),
        Refusal::BadVersion { .. } => (S::CONFLICT, "bad-version"),
        Refusal::NotEmpty(_) => (S::CONFLICT, "not-empty"),
        Refusal::NoChildrenForEphemerals(_) => (S::CONFLICT, "no-children-for-ephemerals"),
        Refusal::BadArguments(_) => (S::BAD_REQUEST, "bad-arguments"),
        Refusal::InvalidAcl => (S::BAD_REQUEST, "invalid-acl"),
        Refusal::NoAuth(_) => (S::FORBIDDEN, "no-auth"),
        Refusal::SessionExpired => (S::GONE, "session-expired"),
        Refusal::SessionMoved => (S::CONFLICT, "session-moved"),
        Refusal::Multi { refusal, .. } => kind(refusal),
        Refusal::NotMounted(_) => (S::NOT_FOUND, "not-mounted"),
        Refusal::BadCall(_) => (S::BAD_REQUEST, "bad-call"),
        Refusal::Acknowledged { .. } => (S::GONE, "acknowledged"),
        Refusal::KeyReused { .. } => (S::CONFLICT, "key-reused"),
        Refusal::NoCall { .. } => (S::NOT_FOUND, "no-call"),
        Refusal::BoundReached { .. } => (S::TOO_MANY_REQUESTS, "bound-reached"),
        Refusal::NotReady(_) => (S::SERVICE_UNAVAILABLE, "not-ready"),
        Refusal::Suspended { .. } => (S::SERVICE_UNAVAILABLE, "suspended"),
        Refusal::Unmounting(_) => (S::CONFLICT, "unmounting"),
        Refusal::Overtaken(_) => (S::CONFLICT, "overtaken"),
        Refusal::GuardRefused { .. } => (S::FORBIDDEN, "guard-refused"),
        Refusal::GuardFailed { .. } => (S::SERVICE_UNAVAILABLE, "guard-failed"),
        Refusal::NoRecipe(_) => (S::NOT_FOUND, "no-recipe"),
        Refusal::RecipeInUse { .. } => (S::CONFLICT, "recipe-in-use"),
        Refusal::MountsNest { .. } => (S::CONFLICT, "mounts-nest"),
        Refusal::Defect(_) => (S::INTERNAL_SERVER_ERROR, "defect"),
        // Of requests that do not come over HTTP.
        Refusal::LocalSession => (S::CONFLICT, "local-session"),
        Refusal::NeedsKey(_) => (S::BAD_REQUEST, "needs-key"),
        Refusal::NoComponent(_) => (S::NOT_FOUND, "no-component"),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({"error": {"code": self.code, "message": self.message}});
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(zxid) = self.zxid {
            headers.insert(ZXID_HEADER, HeaderValue::from(zxid.0));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Overloaded;

    #[test]
    fn what_was_not_done_is_told_apart_from_what_nobody_knows() {
        let overloaded = Problem::unavailable(Unavailable::Overloaded(Overloaded));
        assert!(overloaded.message.contains("it was not done"));
        let abandoned = Problem::unavailable(Unavailable::Abandoned("no disk".into()));
        assert!(abandoned.message.contains("nobody knows"));
        assert_eq!(abandoned.status, overloaded.status);
    }
}
