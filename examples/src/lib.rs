//! One runnable program per idea: `cargo run -p quorate-examples --bin lock`, with a server running.
//!
//! Each takes the server's address as its first argument; without one from `QUORATE_SERVER`, as `quorate` does; else it
//! is `127.0.0.1:2181`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use quorate_client::{Client, ClientError, Options};

/// A session at the server that the command line names, with a timeout that suits somebody who watches.
///
/// # Errors
/// If there is no server.
pub async fn connect() -> Result<Client> {
    let server = std::env::args()
        .nth(1)
        .or_else(|| std::env::var("QUORATE_SERVER").ok())
        .filter(|server| !server.is_empty())
        .unwrap_or_else(|| "127.0.0.1:2181".into());
    let options = Options {
        session_timeout: Duration::from_secs(4),
        ..Options::default()
    };
    Client::connect(&server, options)
        .await
        .with_context(|| format!("no session at {server}: is `quorate serve` running?"))
}

/// What to do about a call of a recipe that nobody has mounted.
pub fn explain(error: ClientError, mount: &str, recipe: &str) -> anyhow::Error {
    anyhow::Error::new(error).context(format!(
        "if nothing is mounted there: `quorate mount {mount} {recipe}`"
    ))
}
