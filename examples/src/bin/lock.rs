//! A lock: take it, work with its fencing token, give it back. Start it several times at once.
//!
//! Needs `quorate mount /locks fair-lock`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use quorate_client::SessionState;
use quorate_examples::{connect, explain};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<()> {
    let client = connect().await?;
    println!("session {}: waiting for the lock", client.session());
    let grant = client
        .call("/locks", "acquire", json!(["inventory"]))
        .timeout(Duration::from_secs(60))
        .await
        .map_err(|error| explain(error, "/locks", "fair-lock"))?;
    let token = grant["token"].as_u64().context("a grant has a token")?;
    println!("session {}: granted with token {token}", client.session());

    // While the connection is away nobody knows whether the session lives: stop working until it is back.
    // Whatever is written meanwhile carries the token, and the writer's other end refuses smaller ones.
    let mut state = client.state();
    tokio::select! {
        () = work(token) => println!("session {}: done", client.session()),
        _ = state.wait_for(|state| *state != SessionState::Connected) => {
            println!("session {}: connection lost, stopping", client.session());
        }
    }

    client
        .call("/locks", "release", json!(["inventory"]))
        .await
        .map_err(|error| explain(error, "/locks", "fair-lock"))?;
    client.close().await?;
    Ok(())
}

async fn work(token: u64) {
    println!("working with token {token} for two seconds");
    tokio::time::sleep(Duration::from_secs(2)).await;
}
