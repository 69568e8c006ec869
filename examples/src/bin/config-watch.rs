//! A configuration in a plain znode: read it, and hear of every change. Works against ZooKeeper as well.
//!
//! Change it from elsewhere: `quorate set /my_app/config '{"colour":"blue"}'`.

use anyhow::Result;
use quorate_client::{Client, ClientError, CreateMode};
use quorate_examples::connect;

const CONFIG: &str = "/my_app/config";

#[tokio::main]
async fn main() -> Result<()> {
    let client = connect().await?;
    ensure_it_exists(&client).await?;
    loop {
        // Reading and watching are one request, so no change falls between them.
        let (data, stat, watch) = match client.get_and_watch(CONFIG).await {
            Ok(read) => read,
            Err(error) if error.is_no_node() => {
                println!("{CONFIG} was deleted");
                break;
            }
            Err(error) => return Err(error.into()),
        };
        println!(
            "version {}: {}",
            stat.version,
            String::from_utf8_lossy(&data)
        );
        // Several changes in a row may be one event: what counts is what the next read shows.
        watch.fired().await?;
    }
    client.close().await?;
    Ok(())
}

async fn ensure_it_exists(client: &Client) -> Result<(), ClientError> {
    client.create_parents(CONFIG).await?;
    match client
        .create(CONFIG, r#"{"colour":"red"}"#, CreateMode::Persistent)
        .await
    {
        // Somebody else was first, which is as good.
        Err(error) if !error.is_node_exists() => Err(error),
        _ => Ok(()),
    }
}
