//! An election: stand, lead for a while, step down. Start it several times at once, and kill the leader.
//!
//! Needs `quorate mount /elections election`.

use std::time::Duration;

use anyhow::Result;
use quorate_examples::{connect, explain};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<()> {
    let client = connect().await?;
    let myself = format!("process {}", std::process::id());
    let shown = client
        .call("/elections", "leader", json!(["shard-1"]))
        .await
        .map_err(|error| explain(error, "/elections", "election"))?;
    match shown["candidate"].as_str() {
        Some(leader) => println!("{myself}: {leader} leads; waiting to succeed it"),
        None => println!("{myself}: nobody leads"),
    }

    // Comes back when this process leads: it has won, or all before it have stepped down or died.
    let term = client
        .call("/elections", "campaign", json!(["shard-1", myself]))
        .await?;
    println!("{myself}: leading with token {}", term["token"]);
    tokio::time::sleep(Duration::from_secs(5)).await;

    client
        .call("/elections", "resign", json!(["shard-1"]))
        .await?;
    println!("{myself}: stepped down");
    client.close().await?;
    Ok(())
}
