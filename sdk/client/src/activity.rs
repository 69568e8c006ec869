//! What recipes do, over HTTP: counts, lines, and the calls that wait.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::admin::Admin;
use crate::error::ClientError;

/// How long the leader may take to answer, beside what it is told to wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What one operation did since the server that leads began to lead for the first time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationActivity {
    /// Its name.
    pub operation: String,
    /// Calls that came.
    pub calls: u64,
    /// Runs: a parked call runs again when it is woken.
    pub runs: u64,
    /// Runs that ended in each way: `returned`, `parked`, `failed`, `refused`, `trapped`, `exceeded`.
    pub endings: BTreeMap<String, u64>,
    /// What the runs used of their fuel.
    pub fuel: u64,
    /// How long they took together, in microseconds.
    pub micros: u64,
    /// How long the longest took.
    pub longest_micros: u64,
    /// Bytes of paths and data that they wrote.
    pub written_bytes: u64,
}

/// What one mount did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MountActivity {
    /// Where it is.
    pub mount: String,
    /// The recipe's name when it was mounted.
    pub recipe: String,
    /// Calls that are parked now.
    pub parked: u64,
    /// For how long the oldest of them, in milliseconds.
    pub oldest_parked_ms: Option<u64>,
    /// How its shadow compares with what is mounted, once it has run.
    #[serde(default)]
    pub shadow: Option<ShadowActivity>,
    /// Those that were called.
    pub operations: Vec<OperationActivity>,
}

/// How a mount's shadow compares with what is mounted, on the calls that both ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShadowActivity {
    /// The shadow's component: its SHA-256, in hexadecimal.
    pub digest: String,
    /// Runs that both made.
    pub runs: u64,
    /// Those that ended otherwise, or would have changed something else.
    pub differing: u64,
    /// Why it runs no more, if so.
    #[serde(default)]
    pub stopped: Option<String>,
    /// The last of those, the last first: `zxid`, `at`, `operation`, and what `mounted` and `shadow` did.
    pub last: Vec<Value>,
}

/// A line that a recipe wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecipeLine {
    /// The transaction of the run that wrote it.
    pub zxid: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// The mount.
    pub mount: String,
    /// The operation.
    pub operation: String,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The line.
    pub message: String,
}

/// A stretch of lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecipeLines {
    /// The oldest first.
    pub lines: Vec<RecipeLine>,
    /// What to ask for next.
    pub next: String,
}

/// A call that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parked {
    /// Whose it is.
    pub session: u64,
    /// Its key.
    pub key: u64,
    /// Where.
    pub mount: String,
    /// What it runs.
    pub operation: String,
    /// With what.
    pub arguments: Value,
    /// Since its first run, in milliseconds.
    pub age_ms: u64,
    /// When it ends without a result, in milliseconds since the Unix epoch.
    pub deadline: Option<u64>,
    /// What wakes it: each an object of one member, `node`, `children` or `subtree` with a path, or `time`.
    pub waits_for: Vec<Value>,
    /// Whether its run is due.
    pub marked: bool,
}

/// Some of the calls that wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParkedCalls {
    /// The oldest first.
    pub calls: Vec<Parked>,
    /// How many there are in all.
    pub number: u64,
}

#[derive(Deserialize)]
struct Mounts {
    mounts: Vec<MountActivity>,
}

impl Admin {
    /// What each mount did.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `no-leader`: only who leads knows.
    pub async fn activity(&self) -> Result<Vec<MountActivity>, ClientError> {
        let request = self.request(Method::GET, &["activity"]);
        let answer: Mounts = self.send_within(PATIENCE, request).await?;
        Ok(answer.mounts)
    }

    /// Lines behind `after`, of one mount or of all; if there are none, those that come within `wait`.
    ///
    /// # Errors
    /// As [`Admin::activity`].
    pub async fn recipe_lines(
        &self,
        after: Option<&str>,
        mount: Option<&str>,
        wait: Duration,
    ) -> Result<RecipeLines, ClientError> {
        let parameters = [
            ("after", after.map(str::to_owned)),
            ("mount", mount.map(str::to_owned)),
            ("wait_ms", Some(wait.as_millis().to_string())),
        ];
        let request = self.question(&["activity", "lines"], &parameters);
        self.send_within(PATIENCE + wait, request).await
    }

    /// The calls that wait, of one mount or of all, the oldest first.
    ///
    /// # Errors
    /// [`ClientError::NoHttp`].
    pub async fn parked_calls(
        &self,
        mount: Option<&str>,
        limit: Option<u64>,
    ) -> Result<ParkedCalls, ClientError> {
        let parameters = [
            ("mount", mount.map(str::to_owned)),
            ("limit", limit.map(|limit| limit.to_string())),
        ];
        let request = self.question(&["calls"], &parameters);
        self.send_within(PATIENCE, request).await
    }

    /// Ends a call that waits; its caller is told that it was cancelled. Gives how it ended: with its result, if that came first.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `no-call`.
    pub async fn cancel_call(&self, session: u64, key: u64) -> Result<Value, ClientError> {
        let (session, key) = (session.to_string(), key.to_string());
        let request = self.request(Method::DELETE, &["calls", &session, &key]);
        self.send_within(PATIENCE, request).await
    }
}
