//! `quorate cluster init`: the configuration files of a new ensemble, one for each server.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::super::Usage;
use super::super::output::Output;
use super::super::serve::address;

/// Write the configuration files of a new ensemble, one for each server
///
/// They are numbered as they are named, from 1 on. Take each file to its machine, and start the server with it.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(in crate::command) struct Init {
    /// Where the servers that vote reach each other
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        required = true
    )]
    servers: Vec<String>,
    /// Servers that serve and do not vote
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    observers: Vec<String>,
    /// Where to write them; created if need be
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Where each server serves ZooKeeper's protocol, on all addresses of its machine
    #[arg(long, value_name = "PORT", default_value_t = 2181)]
    client_port: u16,
    /// Where each server serves HTTP, to its own machine only
    #[arg(long, value_name = "PORT", default_value_t = 2180)]
    http_port: u16,
    /// Where each server keeps everything
    #[arg(long, value_name = "DIR", default_value = "/var/lib/quorate")]
    data_dir: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  quorate cluster init --servers a:2888,b:2888,c:2888
  quorate cluster init --servers a:2888,b:2888,c:2888 --observers d:2888 --out conf";

/// What stands in one server's file.
pub(super) struct ServerFile<'a> {
    pub(super) id: usize,
    /// As `--peer` takes them.
    pub(super) peers: &'a [String],
    pub(super) listen: String,
    pub(super) http: String,
    pub(super) data_dir: &'a Path,
}

impl ServerFile<'_> {
    fn text(&self) -> anyhow::Result<String> {
        let data_dir = self
            .data_dir
            .to_str()
            .context("the data directory is no text")?;
        // A text, and a list of them, is written in TOML as in JSON.
        let (peers, data_dir) = (json!(self.peers), json!(data_dir));
        let (id, listen, http) = (self.id, json!(self.listen), json!(self.http));
        Ok(format!(
            "# Server {id} of an ensemble: quorate serve --config server-{id}.toml\n\
             id = {id}\n\
             # The servers at the first start, the same on all. Later, `quorate cluster` changes them.\n\
             peers = {peers}\n\
             # Where ZooKeeper's protocol is served, and HTTP for recipes and administration.\n\
             listen = {listen}\n\
             http = {http}\n\
             data_dir = {data_dir}\n"
        ))
    }

    /// Writes it into `dir`; one that is there is left as it is.
    pub(super) fn write(&self, dir: &Path) -> anyhow::Result<PathBuf> {
        let path = dir.join(format!("server-{}.toml", self.id));
        let shown = path.display();
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut file = file.with_context(|| format!("cannot write {shown}"))?;
        file.write_all(self.text()?.as_bytes())
            .with_context(|| format!("cannot write {shown}"))?;
        Ok(path)
    }
}

impl Init {
    pub(super) fn run(self, output: &Output) -> anyhow::Result<()> {
        let peers = self.peers()?;
        let dir = &self.out;
        std::fs::create_dir_all(dir)
            .with_context(|| format!("cannot create the directory {}", dir.display()))?;
        let mut lines = Vec::new();
        let mut files = Vec::new();
        let all = self.servers.iter().chain(&self.observers);
        for (id, address) in (1..).zip(all) {
            let file = ServerFile {
                id,
                peers: &peers,
                listen: format!("0.0.0.0:{}", self.client_port),
                http: format!("127.0.0.1:{}", self.http_port),
                data_dir: &self.data_dir,
            };
            let path = file.write(dir)?.display().to_string();
            let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
            lines.push(format!("  {host:<16} quorate serve --config {path}"));
            files.push(json!({"server": id, "host": host, "file": path}));
        }
        let voters = self.servers.len();
        let survives = (voters - 1) / 2;
        let hint = match voters % 2 {
            0 => format!("; {} would survive as many", voters - 1),
            _ => String::new(),
        };
        let text = format!(
            "{voters} servers vote, so the ensemble survives the death of {survives}{hint}. On each machine:\n{}\n\
             then, on any of them: quorate cluster status",
            lines.join("\n")
        );
        output.print(text, json!({ "files": files }))?;
        Ok(())
    }

    /// All servers as `--peer` takes them.
    fn peers(&self) -> Result<Vec<String>, Usage> {
        let mut known = BTreeSet::new();
        let servers = self.servers.iter().map(|at| ("servers", at, ""));
        let observers = self
            .observers
            .iter()
            .map(|at| ("observers", at, ":observer"));
        (1..)
            .zip(servers.chain(observers))
            .map(|(id, (option, at, role))| {
                let at = address(option, at.trim().to_owned())?;
                if at.ends_with(":0") {
                    return Err(Usage(format!(
                        "--{option}: {at} is no port that others could know"
                    )));
                }
                match known.insert(at.clone()) {
                    true => Ok(format!("{id}={at}{role}")),
                    false => Err(Usage(format!("{at} is named twice"))),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(servers: &[&str], observers: &[&str]) -> Init {
        let owned = |all: &[&str]| all.iter().map(|at| (*at).to_owned()).collect();
        Init {
            servers: owned(servers),
            observers: owned(observers),
            out: PathBuf::new(),
            client_port: 2181,
            http_port: 2180,
            data_dir: "/var/lib/quorate".into(),
        }
    }

    #[test]
    fn servers_are_numbered_as_they_are_named() {
        let peers = init(&["a:1", "b:1"], &["c:1"]).peers().unwrap();
        assert_eq!(peers, ["1=a:1", "2=b:1", "3=c:1:observer"]);
        for (servers, observers, said) in [
            (&["a"][..], &[][..], "--servers takes HOST:PORT"),
            (&["a:0"], &[], "no port"),
            (&["a:1", "a:1"], &[], "named twice"),
            (&["a:1"], &["a:1"], "named twice"),
        ] {
            let refused = init(servers, observers).peers().unwrap_err().0;
            assert!(refused.contains(said), "{refused}");
        }
    }
}
