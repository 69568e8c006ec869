//! Bodies of requests: bounded in size and time, JSON whatever the client calls it.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::problem::Problem;

/// The longest JSON body: a call's arguments at their longest, and room for the rest.
const MAX_JSON_BYTES: usize = 0xf_ffff + 64 * 1024;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// Reads a body of at most `limit` bytes; `what` names it for people.
pub(super) async fn read(body: Body, what: &str, limit: usize) -> Result<Bytes, Problem> {
    match timeout(BODY_DEADLINE, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::too_large(what, limit)),
        Ok(Err(error)) => Err(Problem::bad_request(format!("{what} broke off: {error}"))),
        Err(_) => Err(Problem::bad_request(format!(
            "{what} did not arrive within {} s",
            BODY_DEADLINE.as_secs()
        ))),
    }
}

/// Reads a JSON object. What it must look like is `shape`, for people. An empty body is `{}`.
pub(super) async fn json<T: DeserializeOwned>(body: Body, shape: &str) -> Result<T, Problem> {
    let bytes = read(body, "a JSON body", MAX_JSON_BYTES).await?;
    let text = if bytes.is_empty() { b"{}" } else { &bytes[..] };
    serde_json::from_slice(text).map_err(|error| {
        Problem::bad_request(format!("the body does not fit ({error}): expected {shape}"))
    })
}
