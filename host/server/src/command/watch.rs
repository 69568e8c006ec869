//! `quorate watch`: each change of a znode, until interrupted.

use clap::Args;
use quorate_client::{Client, ClientError};
use serde_json::json;

use super::Global;
use super::output::{Output, stat_document, with_data};
use super::session::{self, interrupted};

/// Print a znode's data, and again when they have changed, until Ctrl-C
///
/// It reads anew after each change: changes that come faster than that are seen as one, the last, as with every
/// watch of ZooKeeper's.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  quorate watch /config\n  quorate watch --children /members")]
pub(super) struct Watch {
    /// The znode; it need not exist, unless --children is given
    path: String,
    /// Print its children instead, and again when one comes or goes
    #[arg(long)]
    children: bool,
}

impl Watch {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let client = session::open(global).await?;
        let result = tokio::select! {
            result = self.follow(&client, output) => result,
            error = session::ended(&client, output) => Err(error.into()),
            () = interrupted() => Ok(()),
        };
        session::close(client).await;
        result
    }

    /// Never ends well.
    async fn follow(&self, client: &Client, output: &Output) -> anyhow::Result<()> {
        loop {
            let round = match self.children {
                true => self.children_once(client, output).await,
                false => self.data_once(client, output).await,
            };
            match round {
                // The session goes on, so the next round tells what was missed.
                Err(Failure::Client(ClientError::ConnectionLost | ClientError::NoAnswer(_))) => {}
                Err(Failure::Client(error)) => return Err(error.into()),
                Err(Failure::Output(error)) => return Err(error.into()),
                Ok(()) => {}
            }
        }
    }

    async fn data_once(&self, client: &Client, output: &Output) -> Result<(), Failure> {
        let path = &self.path;
        let watch = match client.get_and_watch(path).await {
            Ok((data, stat, watch)) => {
                let text = String::from_utf8_lossy(&data);
                let document = json!({"path": path, "event": "data", "stat": stat_document(&stat)});
                output.print(
                    format!("{path} (version {}): {text}", stat.version),
                    with_data(document, &data),
                )?;
                watch
            }
            Err(error) if error.is_no_node() => match client.exists_and_watch(path).await? {
                // It was created in between.
                (Some(_), _) => return Ok(()),
                (None, watch) => {
                    let document = json!({"path": path, "event": "absent"});
                    output.print(format!("{path}: there is no such znode"), document)?;
                    watch
                }
            },
            Err(error) => return Err(error.into()),
        };
        watch.fired().await?;
        Ok(())
    }

    async fn children_once(&self, client: &Client, output: &Output) -> Result<(), Failure> {
        let path = &self.path;
        let (mut children, stat, watch) = client.children_and_watch(path).await?;
        children.sort();
        let document = json!({
            "path": path,
            "event": "children",
            "children": children,
            "stat": stat_document(&stat),
        });
        let text = match children.is_empty() {
            true => format!("{path}: no children"),
            false => format!("{path}: {}", children.join(" ")),
        };
        output.print(text, document)?;
        watch.fired().await?;
        Ok(())
    }
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Output(#[from] std::io::Error),
}
