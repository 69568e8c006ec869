//! `quorate cluster local`: an ensemble on this machine, to try things out.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::output::Output;
use super::super::session::interrupted;
use super::init::ServerFile;

/// Run an ensemble on this machine, to try things out, until Ctrl-C
///
/// Server 1 has the usual ports, so that other commands find it: HTTP at 2180, ZooKeeper's protocol at 2181, and the
/// other servers at 2188. Each further one has ports higher by ten. What they keep is there again the next time.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(in crate::command) struct Local {
    /// Where they keep everything: configuration, data, logs
    #[arg(default_value = "./quorate-local")]
    dir: PathBuf,
    /// How many; a directory that was used before has as many as it had
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    servers: u16,
    /// Server 1's port for HTTP
    #[arg(long, value_name = "PORT", default_value_t = 2180, value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    port: u16,
}

const EXAMPLES: &str = "\
Try, in another terminal:
  quorate cluster status
  quorate mount /locks fair-lock
  quorate --server 127.0.0.1:2191 call /locks acquire inventory --hold
  kill -9 the server that leads, and see that nobody notices";

/// How long servers that were told to stop may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// One of the servers.
struct Running {
    id: usize,
    child: Child,
}

impl Local {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<()> {
        let dir = std::path::absolute(&self.dir)?;
        let shown = dir.display();
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {shown}"))?;
        if !config(&dir, 1).exists() {
            self.write(&dir)?;
        }
        let count = (1..).take_while(|id| config(&dir, *id).exists()).count();
        let started: Result<Vec<Running>, _> = (1..=count).map(|id| start(&dir, id)).collect();
        let mut servers = started?;
        let mut all_ready = JoinSet::new();
        for server in &mut servers {
            let out = server.child.stdout.take().context("it was asked for")?;
            let id = server.id;
            all_ready.spawn(async move { (id, BufReader::new(out).lines().next_line().await) });
        }
        let ready = async {
            while let Some(ended) = all_ready.join_next().await {
                let (id, line) = ended?;
                let Ok(Some(line)) = line else {
                    let why = last_words(&log(&dir, id));
                    bail!("server {id} has not started: {why}{}", advice(&why, &dir));
                };
                let pid = servers[id - 1].child.id().unwrap_or_default();
                let text = format!("server {id}, process {pid}, {line}");
                output.print(text, json!({"server": id, "process": pid, "ready": line}))?;
            }
            Ok(())
        };
        // Whatever happens, the servers go with this process: that loses nothing.
        tokio::select! {
            ready = ready => ready?,
            () = interrupted() => return Ok(()),
        }
        if output.is_for_people() {
            let text = format!(
                "They log into {shown}. `quorate serve --config {}` starts one anew that was killed; Ctrl-C stops all.",
                config(&dir, 1).display()
            );
            output.print(text, json!({}))?;
        }
        let mut ends = JoinSet::new();
        for mut server in servers {
            ends.spawn(async move { (server.id, server.child.wait().await) });
        }
        let mut stop = std::pin::pin!(interrupted());
        loop {
            tokio::select! {
                () = &mut stop => break,
                ended = ends.join_next() => {
                    let Some(ended) = ended else {
                        bail!("all servers have ended; their logs are in {shown}");
                    };
                    let (id, status) = ended?;
                    let status = status?.to_string();
                    let text = format!("server {id} has ended: {status}");
                    output.note(text, json!({"server": id, "ended": status}));
                }
            }
        }
        // A terminal's Ctrl-C was theirs too.
        let farewell = async { while ends.join_next().await.is_some() {} };
        let _ = timeout(FAREWELL, farewell).await;
        Ok(())
    }

    fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let at = |id: u16, offset: u16| format!("127.0.0.1:{}", self.port + 10 * (id - 1) + offset);
        let peers: Vec<String> = (1..=self.servers)
            .map(|id| format!("{id}={}", at(id, 8)))
            .collect();
        for id in 1..=self.servers {
            let data_dir = dir.join(format!("data-{id}"));
            let file = ServerFile {
                id: id.into(),
                peers: &peers,
                listen: at(id, 1),
                http: at(id, 0),
                data_dir: &data_dir,
            };
            file.write(dir)?;
        }
        Ok(())
    }
}

fn config(dir: &Path, id: usize) -> PathBuf {
    dir.join(format!("server-{id}.toml"))
}

fn log(dir: &Path, id: usize) -> PathBuf {
    dir.join(format!("server-{id}.log"))
}

fn start(dir: &Path, id: usize) -> anyhow::Result<Running> {
    let path = log(dir, id);
    let log = std::fs::File::create(&path);
    let log = log.with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["serve", "--config"])
        .arg(config(dir, id))
        // What the environment says is of one server, and would be of all.
        .env_remove("QUORATE_DATA_DIR")
        .env_remove("QUORATE_LISTEN")
        .env_remove("QUORATE_HTTP")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true);
    let child = command.spawn().context("cannot start a server")?;
    Ok(Running { id, child })
}

/// What to do about ports that others have: the flags that a server names are not this command's.
fn advice(why: &str, dir: &Path) -> String {
    if !why.contains("cannot listen on") {
        return String::new();
    }
    format!(
        "; here --port chooses other ports, in a directory that is new: {} keeps those that it has",
        dir.display()
    )
}

/// The last line of a log, which says why its server has ended.
fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    last.map(|line| line.strip_prefix("quorate: ").unwrap_or(line))
        .map_or_else(|| format!("see {}", log.display()), str::to_owned)
}
