//! `quorate serve`: flags and configuration file of a server.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::output::Output;
use super::session::interrupted;
use super::{DEFAULT_HTTP, Global, Usage};
use crate::receive::Limits;
use crate::serve::{Settings, serve};

/// Where ZooKeeper's protocol is served, unless told otherwise.
const DEFAULT_LISTEN: &str = "127.0.0.1:2181";

/// Where everything is kept, unless told otherwise.
const DEFAULT_DATA_DIR: &str = "./quorate-data";

/// Run a server
///
/// It says in one line on standard output when it is ready, and where. Ctrl-C stops it; so does `kill -9`,
/// which loses nothing that was answered.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Serve {
    /// Where everything that lasts is kept; created if need be [default: ./quorate-data]
    #[arg(long, env = "QUORATE_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where ZooKeeper's protocol is served; port 0 chooses one [default: 127.0.0.1:2181]
    #[arg(long, env = "QUORATE_LISTEN", value_name = "HOST:PORT")]
    listen: Option<String>,
    /// A configuration file in TOML; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The shortest timeout that a session may have [default: 4000]
    #[arg(long, value_name = "MS")]
    min_session_timeout_ms: Option<u32>,
    /// The longest timeout that a session may have [default: 40000]
    #[arg(long, value_name = "MS")]
    max_session_timeout_ms: Option<u32>,
    /// How many connections there may be [default: 20000]
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// How many connections one address may have; 0 for as many as there may be in all [default: 0]
    #[arg(long, value_name = "N")]
    max_connections_per_address: Option<usize>,
}

const EXAMPLES: &str = r#"Examples:
  quorate serve --data-dir /var/lib/quorate
  quorate serve --listen 0.0.0.0:2181 --http 127.0.0.1:2180
  quorate serve --config quorate.toml

A configuration file has the names of the flags, with underscores:
  data_dir = "/var/lib/quorate"
  listen = "0.0.0.0:2181"
  http = "127.0.0.1:2180"
  max_session_timeout_ms = 60000"#;

/// What a configuration file may say.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    listen: Option<String>,
    http: Option<String>,
    min_session_timeout_ms: Option<u32>,
    max_session_timeout_ms: Option<u32>,
    max_connections: Option<usize>,
    max_connections_per_address: Option<usize>,
}

impl Serve {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let file = match &self.config {
            Some(path) => read(path).await?,
            None => File::default(),
        };
        let settings = self.settings(global.http.clone(), file)?;
        let data_dir = settings.data_dir.display().to_string();
        let ready = |ready: crate::serve::Ready| {
            let text = format!(
                "ready: ZooKeeper's protocol at {}, HTTP at {}, data in {data_dir}",
                ready.zookeeper, ready.http
            );
            let document = json!({
                "event": "ready",
                "zookeeper": ready.zookeeper.to_string(),
                "http": ready.http.to_string(),
                "data_dir": data_dir,
            });
            // A server whose output is closed serves all the same.
            let _ = output.print(text, document);
        };
        serve(settings, ready, interrupted()).await
    }

    /// Flags before the file, the file before the defaults.
    fn settings(self, http: Option<String>, file: File) -> Result<Settings, Usage> {
        let default = Limits::default();
        let limits = Limits {
            max_connections: self
                .max_connections
                .or(file.max_connections)
                .unwrap_or(default.max_connections),
            max_connections_per_address: self
                .max_connections_per_address
                .or(file.max_connections_per_address)
                .unwrap_or(default.max_connections_per_address),
            min_session_timeout_ms: self
                .min_session_timeout_ms
                .or(file.min_session_timeout_ms)
                .unwrap_or(default.min_session_timeout_ms),
            max_session_timeout_ms: self
                .max_session_timeout_ms
                .or(file.max_session_timeout_ms)
                .unwrap_or(default.max_session_timeout_ms),
        };
        let (min, max) = (limits.min_session_timeout_ms, limits.max_session_timeout_ms);
        if min == 0 || min > max {
            return Err(Usage(format!(
                "no session could have a timeout of {min} to {max} ms: the least is 1, and no more than the most"
            )));
        }
        Ok(Settings {
            data_dir: self
                .data_dir
                .or(file.data_dir)
                .unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            listen: self
                .listen
                .or(file.listen)
                .unwrap_or_else(|| DEFAULT_LISTEN.into()),
            http: http.or(file.http).unwrap_or_else(|| DEFAULT_HTTP.into()),
            limits,
        })
    }
}

async fn read(path: &Path) -> anyhow::Result<File> {
    let shown = path.display();
    let text = tokio::fs::read_to_string(path)
        .await
        .with_context(|| format!("cannot read the configuration file {shown}"))?;
    parse(&text)
        .map_err(|error| Usage(format!("in the configuration file {shown}: {error}")).into())
}

fn parse(text: &str) -> Result<File, toml::de::Error> {
    toml::from_str(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    fn settings(flags: &[&str], file: &str) -> Result<Settings, Usage> {
        let words = ["quorate", "serve"].iter().chain(flags);
        let cli = Cli::try_parse_from(words).unwrap();
        let Command::Serve(serve) = cli.command else {
            panic!("it is serve");
        };
        serve.settings(cli.global.http, parse(file).unwrap())
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let plain = settings(&[], "").unwrap();
        assert_eq!(plain.listen, DEFAULT_LISTEN);
        assert_eq!(plain.http, DEFAULT_HTTP);
        assert_eq!(plain.limits, Limits::default());

        let file = "listen = 'a:1'\nhttp = 'b:2'\nmax_session_timeout_ms = 60000";
        let flags = ["--listen", "c:3", "--min-session-timeout-ms", "100"];
        let both = settings(&flags, file).unwrap();
        assert_eq!((&*both.listen, &*both.http), ("c:3", "b:2"));
        assert_eq!(both.limits.min_session_timeout_ms, 100);
        assert_eq!(both.limits.max_session_timeout_ms, 60_000);
        let flags = ["--http", "d:4"];
        assert_eq!(settings(&flags, file).unwrap().http, "d:4");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        assert!(settings(&["--min-session-timeout-ms", "50000"], "").is_err());
        assert!(settings(&["--min-session-timeout-ms", "0"], "").is_err());
        let unknown = parse("data_directory = 'x'").unwrap_err().to_string();
        assert!(
            unknown.contains("data_directory") && unknown.contains("data_dir"),
            "{unknown}"
        );
    }
}
