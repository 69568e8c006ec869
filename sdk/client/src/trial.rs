//! Trials over HTTP: what a call would do, and the recordings of runs that have failed.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::activity::PATIENCE;
use crate::admin::Admin;
use crate::error::ClientError;

/// How long the session of a trial lives, in milliseconds, if nobody ends it.
const SESSION_TIMEOUT_MS: u64 = 30_000;

/// How long a component may take to come.
const DOWNLOAD_PATIENCE: Duration = Duration::from_secs(60);

/// A run that has failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The transaction that it failed in, by which its recording is asked for.
    pub zxid: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// The mount.
    pub mount: String,
    /// The operation.
    pub operation: String,
    /// Why.
    pub error: String,
    /// Why there is no recording of it; none if there is one.
    #[serde(default)]
    pub not_recorded: Option<String>,
}

#[derive(Deserialize)]
struct Failures {
    failures: Vec<Failure>,
}

#[derive(Deserialize)]
struct Session {
    session: String,
}

impl Admin {
    /// Runs an operation for a new session, and keeps nothing of it. Gives how it ended, and its `changes`, `log` and
    /// `fuel`; with `record` its `recording` too, or `null` and in `not_recorded` why.
    ///
    /// # Errors
    /// As a call's: [`ClientError::Refused`] with the codes `not-mounted`, `bad-call` or `not-ready`.
    pub async fn try_call(
        &self,
        mount: &str,
        operation: &str,
        arguments: &Value,
        record: bool,
    ) -> Result<Value, ClientError> {
        let request = self.request(Method::POST, &["sessions"]);
        let request = request.json(&json!({"timeout_ms": SESSION_TIMEOUT_MS}));
        let Session { session } = self.send_within(PATIENCE, request).await?;
        let body = json!({
            "mount": mount,
            "operation": operation,
            "arguments": arguments,
            "session": session,
            "record": record,
        });
        let request = self.request(Method::POST, &["trials"]).json(&body);
        let tried = self.send_within(PATIENCE, request).await;
        let close = self.request(Method::DELETE, &["sessions", &session]);
        // Otherwise its timeout ends it.
        let _: Result<Value, ClientError> = self.send_within(PATIENCE, close).await;
        tried
    }

    /// The same of a parked call's next run, as if it were woken now.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `no-call`.
    pub async fn try_parked(
        &self,
        session: u64,
        key: u64,
        record: bool,
    ) -> Result<Value, ClientError> {
        let (session, key) = (session.to_string(), key.to_string());
        let request = self.request(Method::POST, &["calls", &session, &key, "trial"]);
        let request = request.json(&json!({"record": record}));
        self.send_within(PATIENCE, request).await
    }

    /// The last runs that failed, the last first.
    ///
    /// # Errors
    /// As [`Admin::activity`].
    pub async fn failures(&self) -> Result<Vec<Failure>, ClientError> {
        let request = self.request(Method::GET, &["recordings"]);
        let answer: Failures = self.send_within(PATIENCE, request).await?;
        Ok(answer.failures)
    }

    /// All that a failed run was told, to run it again elsewhere.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `not-found`.
    pub async fn recording(&self, zxid: u64) -> Result<Value, ClientError> {
        let request = self.request(Method::GET, &["recordings", &zxid.to_string()]);
        self.send_within(PATIENCE, request).await
    }

    /// A component that is kept.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `not-found`.
    pub async fn component(&self, digest: &str) -> Result<Bytes, ClientError> {
        let request = self.request(Method::GET, &["components", digest]);
        self.fetch(DOWNLOAD_PATIENCE, request).await
    }
}
