//! `quorate ls`, `get`, `set`, `create`, `delete` and `stat`: plain znodes.

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use quorate_client::{Client, ClientError, CreateMode, ErrorCode};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use super::output::{Hint, Output, stat_document, stat_lines, with_data};
use super::session::{self, SessionTimeout, interrupted, unless_interrupted};
use super::{Global, Usage};

/// List a znode's children, in the order of their names
#[derive(Args, Debug)]
pub(super) struct Ls {
    /// The znode
    #[arg(default_value = "/")]
    path: String,
}

/// Print a znode's data
///
/// Into a pipe or a file the data go as they are.
#[derive(Args, Debug)]
pub(super) struct Get {
    /// The znode
    path: String,
}

/// Replace a znode's data
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  quorate set /config updated\n  quorate set /config - < config.toml"
)]
pub(super) struct Set {
    /// The znode
    path: String,
    /// The new data; - reads them from standard input
    #[arg(allow_negative_numbers = true)]
    data: String,
    /// Only if it is at this version; `quorate stat PATH` shows it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    version: Option<i32>,
}

/// Create a znode; prints its path
#[derive(Args, Debug)]
#[command(after_help = CREATE_EXAMPLES)]
pub(super) struct Create {
    /// The znode; with -s, what its path begins with
    path: String,
    /// Its data; - reads them from standard input
    #[arg(default_value = "", allow_negative_numbers = true)]
    data: String,
    /// Until the session ends: the command holds it until Ctrl-C
    #[arg(short, long)]
    ephemeral: bool,
    /// With a number at the end of its name
    #[arg(short, long)]
    sequential: bool,
    /// Until its last child is deleted
    #[arg(short, long, conflicts_with_all = ["ephemeral", "sequential"])]
    container: bool,
    /// Create its parents too where they are missing
    #[arg(short, long)]
    parents: bool,
    #[command(flatten)]
    session_timeout: SessionTimeout,
}

const CREATE_EXAMPLES: &str = "\
Examples:
  quorate create /my_app/config initial --parents
  quorate create -e -s /members/m- host-1     a member until Ctrl-C";

/// Delete a znode without children
#[derive(Args, Debug)]
pub(super) struct Delete {
    /// The znode
    path: String,
    /// Only if it is at this version
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), conflicts_with = "recursive")]
    version: Option<i32>,
    /// Delete what is below it too, one by one
    #[arg(short, long)]
    recursive: bool,
}

/// Print a znode's stat
#[derive(Args, Debug)]
pub(super) struct Stat {
    /// The znode
    path: String,
}

impl Ls {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let client = session::open(global).await?;
        let (mut children, _) = client.children(&self.path).await?;
        children.sort();
        // Nothing, rather than an empty line.
        if !(output.is_for_people() && children.is_empty()) {
            let document = json!({"path": self.path, "children": children});
            output.print(children.join("\n"), document)?;
        }
        session::close(client).await;
        Ok(())
    }
}

impl Get {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let client = session::open(global).await?;
        let (data, stat) = client.get(&self.path).await?;
        let document = json!({"path": self.path, "stat": stat_document(&stat)});
        output.print_data(&data, with_data(document, &data))?;
        session::close(client).await;
        Ok(())
    }
}

impl Set {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let data = data(self.data).await?;
        let client = session::open(global).await?;
        let stat = unless_interrupted(client.set(&self.path, data, self.version)).await?;
        let text = format!("set {} (version {})", self.path, stat.version);
        let document = json!({"path": self.path, "stat": stat_document(&stat)});
        output.print(text, document)?;
        session::close(client).await;
        Ok(())
    }
}

impl Create {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let mode = match (self.ephemeral, self.sequential) {
            _ if self.container => CreateMode::Container,
            (false, false) => CreateMode::Persistent,
            (false, true) => CreateMode::PersistentSequential,
            (true, false) => CreateMode::Ephemeral,
            (true, true) => CreateMode::EphemeralSequential,
        };
        let data = data(self.data).await?;
        let client = session::open_for(global, self.session_timeout.duration()?).await?;
        let create = async {
            if self.parents {
                // A sequential path may end in a slash, and then is no path yet.
                let number = if self.sequential { "0" } else { "" };
                let path = format!("{}{number}", self.path);
                client.create_parents(&path).await?;
            }
            let created = client.create(&self.path, data, mode).await;
            created.map_err(explain)
        };
        let created = unless_interrupted(create).await?;
        output.print(&created, json!({"path": created}))?;
        if self.ephemeral {
            let lost = format!("{created} is gone");
            session::hold(client, output, &created, &lost, interrupted()).await?;
        } else {
            session::close(client).await;
        }
        Ok(())
    }
}

impl Delete {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        if self.path == "/" {
            return Err(Usage(
                "/ is always there and cannot be deleted: name what is below it".into(),
            )
            .into());
        }
        let client = session::open(global).await?;
        let delete = async {
            if self.recursive {
                let mut deleted = 0;
                let all = delete_all(&client, &self.path, &mut deleted).await;
                return all.map(|()| deleted).map_err(|error| match deleted {
                    0 => explain(error),
                    1 => explain(error).context("1 znode was deleted before that"),
                    deleted => {
                        explain(error).context(format!("{deleted} znodes were deleted before that"))
                    }
                });
            }
            let deleted = client.delete(&self.path, self.version).await;
            deleted.map_err(explain).map(|()| 1)
        };
        let deleted = unless_interrupted(delete).await?;
        let text = match deleted {
            1 => format!("deleted {}", self.path),
            count => format!("deleted {} and {} below it", self.path, count - 1),
        };
        output.print(text, json!({"deleted": self.path, "znodes": deleted}))?;
        session::close(client).await;
        Ok(())
    }
}

impl Stat {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let client = session::open(global).await?;
        let Some(stat) = client.exists(&self.path).await? else {
            let path = self.path;
            let code = ErrorCode::NoNode;
            return Err(ClientError::Znode { path, code }.into());
        };
        let mut document = stat_document(&stat);
        document["path"] = self.path.into();
        output.print(stat_lines(&stat), document)?;
        session::close(client).await;
        Ok(())
    }
}

/// Deletes a znode and all below it, children first, and counts. Not atomic: others may see half of it.
async fn delete_all(client: &Client, path: &str, deleted: &mut u64) -> Result<(), ClientError> {
    let mut waiting = vec![(path.to_owned(), false)];
    while let Some((path, children_gone)) = waiting.pop() {
        if children_gone {
            client.delete(&path, None).await?;
            *deleted += 1;
            continue;
        }
        let (children, _) = client.children(&path).await?;
        let parent = if path == "/" { "" } else { &path };
        let below: Vec<String> = children
            .iter()
            .map(|child| format!("{parent}/{child}"))
            .collect();
        waiting.push((path, true));
        waiting.extend(below.into_iter().map(|child| (child, false)));
    }
    Ok(())
}

/// Adds what to do next.
fn explain(error: ClientError) -> anyhow::Error {
    let hint = match &error {
        ClientError::NoParent { .. } => "--parents creates it",
        ClientError::Znode {
            code: ErrorCode::NotEmpty,
            ..
        } => "or --recursive deletes all",
        ClientError::Znode {
            code: ErrorCode::NoAuth,
            ..
        } => "--auth says who you are",
        _ => return error.into(),
    };
    anyhow::Error::from(error).context(Hint(hint.into()))
}

/// Data from an argument or from standard input.
async fn data(argument: String) -> anyhow::Result<Bytes> {
    if argument != "-" {
        return Ok(argument.into());
    }
    let mut data = Vec::new();
    // One more than fits, so that the server's own message tells of the rest.
    let mut input = tokio::io::stdin().take(quorate_wire::MAX_FRAME_BYTES as u64 + 1);
    input
        .read_to_end(&mut data)
        .await
        .context("cannot read the data from standard input")?;
    Ok(data.into())
}
