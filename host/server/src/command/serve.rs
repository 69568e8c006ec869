//! `quorate serve`: flags and configuration file of a server.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use quorate_consensus::FirstMember;
use quorate_model::id::ServerId;
use quorate_sandbox::{CompileLimits, Compiler};
use serde::{Deserialize, Deserializer};
use serde_json::json;

use super::output::Output;
use super::session::interrupted;
use super::zoo_cfg::{self, ZooCfg};
use super::{DEFAULT_HTTP, Global, Usage};
use crate::four_letter::Words;
use crate::local_sessions;
use crate::members::ServerLine;
use crate::receive::{Access, Limits, MAX_OUTSTANDING_REQUESTS, SuperDigest};
use crate::serve::{Ensemble, Settings, serve};

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
    /// A configuration file: TOML, or ZooKeeper's own, whose name ends in .cfg or .properties, or which has
    /// ZooKeeper's keys; flags win over it, and so do the environment's QUORATE_ variables
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
    /// While so many requests wait for their answers, no more are read of clients that have one waiting [default: 50000]
    #[arg(long, value_name = "N")]
    max_outstanding_requests: Option<usize>,
    /// Which four-letter words are answered, beside srvr: such as ruok,mntr. * stands for all [default: *]
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    four_letter_words: Option<Vec<String>>,
    /// How many seconds of a processor compiling a recipe may take; what takes more is refused [default: 60]
    #[arg(long, value_name = "S")]
    compile_seconds: Option<u64>,
    /// How much memory it may take, in MiB [default: 2048]
    #[arg(long, value_name = "MIB")]
    compile_memory_mib: Option<u64>,
    /// Let clients change the servers of the ensemble by ZooKeeper's reconfig, if the access control list of
    /// /zookeeper/config lets them: as it is, only the super user
    #[arg(long, help_heading = "Ensemble")]
    reconfig_enabled: bool,
    /// Who the super user is, whom no access control list stops: SHA-1 of USER:PASSWORD in base64 behind USER:, as
    /// ZooKeeper's DigestAuthenticationProvider makes it. On every server
    #[arg(
        long,
        env = "QUORATE_SUPER_DIGEST",
        hide_env_values = true,
        value_name = "USER:HASH"
    )]
    super_digest: Option<String>,
    /// Have no access control list stop any client of this server: as ZooKeeper's skipACL
    #[arg(long)]
    skip_acl: bool,
    /// Have every read see all that was acknowledged anywhere before it was sent, as behind a sync: each asks
    /// the leader first, many at once
    #[arg(long)]
    linearizable_reads: bool,
    /// Have this server keep new sessions to itself, so that they cost no transaction: as ZooKeeper's
    /// localSessionsEnabled. They have no ephemeral znodes and make no calls, unless upgraded
    #[arg(long)]
    local_sessions: bool,
    /// Make a local session a global one when it wants an ephemeral znode or makes a call
    #[arg(long)]
    local_sessions_upgrading: bool,
    /// Without a quorum, go on answering reads to the clients that accept a read-only server
    #[arg(long, help_heading = "Ensemble")]
    read_only_mode: bool,
    /// Which server of an ensemble this is, one of those that --peer names
    #[arg(long, value_name = "ID", help_heading = "Ensemble")]
    id: Option<u64>,
    /// A server of the ensemble, this one included, and where the others reach it; once for each, the same on
    /// all. It counts at the first start only: later, `quorate cluster` changes the members
    #[arg(
        long = "peer",
        value_name = "ID=HOST:PORT[:observer]",
        help_heading = "Ensemble"
    )]
    peers: Vec<String>,
    /// Where this server listens for the others [default: its own address of --peer]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Ensemble")]
    peer_listen: Option<String>,
    /// Wait at the first start to be added to an ensemble that there is, by `quorate cluster add`
    #[arg(long, help_heading = "Ensemble")]
    join: bool,
}

const EXAMPLES: &str = r#"Examples:
  quorate serve --data-dir /var/lib/quorate
  quorate serve --listen 0.0.0.0:2181 --http 127.0.0.1:2180
  quorate serve --config quorate.toml
  quorate serve --id 1 --peer 1=a:2888 --peer 2=b:2888 --peer 3=c:2888

A configuration file has the names of the flags, with underscores:
  data_dir = "/var/lib/quorate"
  listen = "0.0.0.0:2181"
  http = "127.0.0.1:2180"
  max_session_timeout_ms = 60000
  id = 1
  peers = ["1=a:2888", "2=b:2888", "3=c:2888", "4=d:2888:observer"]"#;

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
    max_outstanding_requests: Option<usize>,
    #[serde(default, deserialize_with = "words")]
    four_letter_words: Option<Words>,
    compile_seconds: Option<u64>,
    compile_memory_mib: Option<u64>,
    super_digest: Option<String>,
    #[serde(default)]
    skip_acl: bool,
    #[serde(default)]
    reconfig_enabled: bool,
    #[serde(default)]
    linearizable_reads: bool,
    #[serde(default)]
    local_sessions: bool,
    #[serde(default)]
    local_sessions_upgrading: bool,
    #[serde(default)]
    read_only_mode: bool,
    id: Option<u64>,
    #[serde(default)]
    peers: Vec<String>,
    peer_listen: Option<String>,
    #[serde(default)]
    join: bool,
}

/// A list of four-letter words.
fn words<'d, D: Deserializer<'d>>(list: D) -> Result<Option<Words>, D::Error> {
    let names = Vec::<String>::deserialize(list)?;
    Ok(Some(Words::listed(names.iter().map(String::as_str))))
}

impl Serve {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        if global.server.is_some() {
            return Err(Usage(
                "--server is for clients: a server listens where --listen and --http say".into(),
            )
            .into());
        }
        let file = match &self.config {
            Some(path) => read(path).await?,
            None => File::default(),
        };
        let settings = self.settings(global.http.clone(), file)?;
        prepare_data_dir(&settings.data_dir)?;
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
        let super_digest = self.super_digest.or(file.super_digest);
        let super_digest = super_digest.map(|text| SuperDigest::parse(&text));
        let access = Access {
            skip_acl: self.skip_acl || file.skip_acl,
            super_digest: super_digest
                .transpose()
                .map_err(|error| Usage(format!("--super-digest: {error}")))?,
        };
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
            max_outstanding_requests: self
                .max_outstanding_requests
                .or(file.max_outstanding_requests)
                .unwrap_or(default.max_outstanding_requests),
            reconfig_enabled: self.reconfig_enabled || file.reconfig_enabled,
            linearizable_reads: self.linearizable_reads || file.linearizable_reads,
            local_sessions: local_sessions::Setting::of(
                self.local_sessions || file.local_sessions,
                self.local_sessions_upgrading || file.local_sessions_upgrading,
            ),
            four_letter_words: self
                .four_letter_words
                .map(|names| Words::listed(names.iter().map(String::as_str)))
                .or(file.four_letter_words)
                .unwrap_or(default.four_letter_words),
            access,
        };
        if !(1..=MAX_OUTSTANDING_REQUESTS).contains(&limits.max_outstanding_requests) {
            return Err(Usage(format!(
                "--max-outstanding-requests takes 1 to {MAX_OUTSTANDING_REQUESTS}, not {}",
                limits.max_outstanding_requests
            )));
        }
        let (min, max) = (limits.min_session_timeout_ms, limits.max_session_timeout_ms);
        if min == 0 || min > max {
            return Err(Usage(format!(
                "no session could have a timeout of {min} to {max} ms: the least is 1, and no more than the most"
            )));
        }
        let peers = if self.peers.is_empty() {
            file.peers
        } else {
            self.peers
        };
        let ensemble = ensemble(
            self.id.or(file.id),
            &peers,
            self.peer_listen.or(file.peer_listen),
            self.join || file.join,
        )?;
        let listen = self.listen.or(file.listen);
        let http = http.or(file.http);
        Ok(Settings {
            data_dir: self
                .data_dir
                .or(file.data_dir)
                .unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            listen: address("listen", listen.unwrap_or_else(|| DEFAULT_LISTEN.into()))?,
            http: address("http", http.unwrap_or_else(|| DEFAULT_HTTP.into()))?,
            limits,
            compiler: compiler(
                self.compile_seconds.or(file.compile_seconds),
                self.compile_memory_mib.or(file.compile_memory_mib),
            )?,
            read_only_mode: self.read_only_mode || file.read_only_mode,
            ensemble,
        })
    }
}

/// This very program, which is a compiler when it is told so: see `main`.
fn compiler(seconds: Option<u64>, memory_mib: Option<u64>) -> Result<Option<Compiler>, Usage> {
    let mut limits = CompileLimits::default();
    if let Some(seconds) = seconds {
        limits = limits.with_cpu_seconds(seconds);
    }
    if let Some(memory_mib) = memory_mib {
        limits.memory_bytes = memory_mib.saturating_mul(1 << 20);
    }
    Compiler::this_program(limits).map(Some).map_err(|error| {
        Usage(format!(
            "where is this program? It compiles recipes: {error}"
        ))
    })
}

/// A server's place in its ensemble; none if nothing is said of one.
fn ensemble(
    id: Option<u64>,
    peers: &[String],
    listen: Option<String>,
    join: bool,
) -> Result<Option<Ensemble>, Usage> {
    let members = peers
        .iter()
        .map(|peer| member(peer))
        .collect::<Result<Vec<FirstMember>, Usage>>()?;
    let Some(id) = id else {
        if members.is_empty() && listen.is_none() && !join {
            return Ok(None);
        }
        return Err(Usage(
            "--id says which server of the ensemble this one is".into(),
        ));
    };
    let server = ServerId(id);
    let twice = members.iter().enumerate().find(|(place, member)| {
        members[..*place]
            .iter()
            .any(|before| before.server == member.server)
    });
    if let Some((_, member)) = twice {
        return Err(Usage(format!(
            "--peer names server {} twice",
            member.server.0
        )));
    }
    let own = members.iter().find(|member| member.server == server);
    let listen = listen.or_else(|| own.map(|own| own.address.clone()));
    let Some(listen) = listen else {
        return Err(Usage(format!(
            "where do the others reach server {id}? Name it with --peer {id}=HOST:PORT"
        )));
    };
    Ok(Some(Ensemble {
        server,
        listen: address("peer-listen", listen)?,
        members,
        join,
    }))
}

/// `ID=HOST:PORT`, with `:observer` behind it for one that does not vote.
fn member(text: &str) -> Result<FirstMember, Usage> {
    let (rest, votes) = match text.strip_suffix(":observer") {
        Some(rest) => (rest, false),
        None => (text, true),
    };
    let parts = rest.split_once('=');
    let parts = parts.and_then(|(id, at)| Some((id.parse::<u64>().ok()?, at)));
    let Some((id, at)) = parts.filter(|(id, _)| *id > 0) else {
        return Err(Usage(format!(
            "--peer takes ID=HOST:PORT or ID=HOST:PORT:observer, such as 1=10.0.0.1:2888, not {text:?}"
        )));
    };
    Ok(FirstMember {
        server: ServerId(id),
        address: address("peer", at.to_owned())?,
        votes,
    })
}

/// A server of `zoo.cfg` as `--peer` takes it.
fn peer(line: &ServerLine) -> String {
    let role = if line.votes { "" } else { ":observer" };
    format!("{}={}{role}", line.server.0, line.address)
}

/// What the system would refuse with less of an explanation.
pub(super) fn address(option: &str, address: String) -> Result<String, Usage> {
    let (host, port) = address.rsplit_once(':').unwrap_or_default();
    let is_host = match host.starts_with('[') {
        true => host.ends_with(']'),
        false => !host.is_empty() && !host.contains(':'),
    };
    if is_host && port.parse::<u16>().is_ok() {
        return Ok(address);
    }
    Err(Usage(format!(
        "--{option} takes HOST:PORT, such as 127.0.0.1:2181 or 0.0.0.0:2181 for all addresses, not {address:?}"
    )))
}

/// What a server keeps in its data directory, and what a file system itself has in its root.
const OUR_ENTRIES: [&str; 2] = ["raft", "compiled"];
const NOBODYS_ENTRIES: [&str; 1] = ["lost+found"];

/// Creates the data directory if need be. Refuses what cannot be one, or is somebody else's, before anything is
/// written into it.
fn prepare_data_dir(dir: &Path) -> anyhow::Result<()> {
    let shown = dir.display();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // What clients trust the server with is nobody else's.
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            let created = builder.create(dir);
            return created.with_context(|| format!("cannot create the data directory {shown}"));
        }
        Err(_) if dir.is_file() => {
            bail!("the data directory {shown} is a file: name a directory with --data-dir")
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the data directory {shown}"));
        }
    };
    let mut foreign = None;
    for entry in entries {
        let name = entry.with_context(|| format!("cannot read the data directory {shown}"))?;
        let name = name.file_name().to_string_lossy().into_owned();
        if OUR_ENTRIES.contains(&&*name) {
            // What lies beside is the operator's own business.
            return Ok(());
        }
        if !NOBODYS_ENTRIES.contains(&&*name) {
            foreign = Some(name);
        }
    }
    match foreign {
        Some(name) => bail!(
            "the data directory {shown} holds what is not Quorate's, such as {name:?}: \
             name an empty or a new one with --data-dir"
        ),
        None => Ok(()),
    }
}

async fn read(path: &Path) -> anyhow::Result<File> {
    let shown = path.display();
    let text = tokio::fs::read_to_string(path)
        .await
        .with_context(|| format!("cannot read the configuration file {shown}"))?;
    if is_zookeepers(path, &text) {
        let read = zoo_cfg::parse(&text)
            .and_then(zoo_cfg::ZooCfg::with_dynamic_file)
            .and_then(|read| zookeeper(&read));
        let (file, notes) =
            read.map_err(|error| Usage(format!("in the configuration file {shown}: {error}")))?;
        for note in notes {
            tracing::warn!("in the configuration file {shown}: {note}");
        }
        return Ok(file);
    }
    parse(&text)
        .map_err(|error| Usage(format!("in the configuration file {shown}: {error}")).into())
}

/// Whether a file is ZooKeeper's: by its name, or by its keys unless its name says that it is ours.
fn is_zookeepers(path: &Path, text: &str) -> bool {
    match path.extension().and_then(OsStr::to_str) {
        Some("cfg" | "properties") => true,
        Some("toml") => false,
        _ => zoo_cfg::is_one(text),
    }
}

/// What ZooKeeper's configuration means here, and what an operator has to know of what has no effect.
fn zookeeper(read: &ZooCfg) -> Result<(File, Vec<String>), String> {
    let id = read.id()?;
    let own = read.servers.iter().find(|line| Some(line.server.0) == id);
    let file = File {
        // ZooKeeper's own data are left alone.
        data_dir: read.data_dir.as_ref().map(|dir| dir.join("quorate")),
        listen: own
            .and_then(|own| own.client.clone())
            .or(read.listen.clone()),
        min_session_timeout_ms: read.min_session_timeout_ms,
        max_session_timeout_ms: read.max_session_timeout_ms,
        max_connections: read.max_connections,
        max_connections_per_address: Some(read.max_connections_per_address),
        max_outstanding_requests: read
            .max_outstanding_requests
            .map(|limit| limit.clamp(1, MAX_OUTSTANDING_REQUESTS)),
        super_digest: read.super_digest.clone(),
        skip_acl: read.skip_acl,
        reconfig_enabled: read.reconfig_enabled,
        local_sessions: read.local_sessions,
        local_sessions_upgrading: read.local_sessions_upgrading,
        read_only_mode: read.read_only_mode,
        four_letter_words: read.four_letter_words,
        id,
        peers: read.servers.iter().map(peer).collect(),
        ..File::default()
    };
    Ok((file, read.notes(own)))
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

        assert!(!plain.read_only_mode);
        let file = "linearizable_reads = true\nread_only_mode = true";
        let read = settings(&[], file).unwrap();
        assert!(read.limits.linearizable_reads && read.read_only_mode);
        let read = settings(&["--linearizable-reads", "--read-only-mode"], "").unwrap();
        assert!(read.limits.linearizable_reads && read.read_only_mode);

        assert_eq!(plain.limits.four_letter_words, Words::ALL);
        let named = Words::listed(["ruok", "mntr"]);
        let file = "four_letter_words = ['ruok', 'mntr']";
        let words = |flags: &[&str], file| settings(flags, file).unwrap().limits.four_letter_words;
        assert_eq!(words(&[], file), named);
        assert_eq!(words(&["--four-letter-words", "ruok,mntr"], ""), named);
        assert_eq!(words(&["--four-letter-words", "*"], file), Words::ALL);

        assert_eq!(plain.limits.local_sessions, local_sessions::Setting::Off);
        let local = |flags: &[&str], file| settings(flags, file).unwrap().limits.local_sessions;
        assert_eq!(
            local(&["--local-sessions"], ""),
            local_sessions::Setting::On
        );
        let upgrading = local(&["--local-sessions-upgrading"], "local_sessions = true");
        assert_eq!(upgrading, local_sessions::Setting::Upgrading);

        let digest = "super:D/InIHSb7yEEbrWz8b9l71RjZJU=";
        let named = Some(SuperDigest::parse(digest).unwrap());
        let access = |flags: &[&str], file| settings(flags, file).unwrap().limits.access;
        assert_eq!(access(&["--super-digest", digest], "").super_digest, named);
        let file = format!("super_digest = '{digest}'\nskip_acl = true");
        let read = access(&[], &file);
        assert!(read.skip_acl && read.super_digest == named);
        assert!(access(&["--skip-acl"], "").skip_acl);
        let refused = settings(&["--super-digest", "super:test"], "")
            .unwrap_err()
            .0;
        assert!(
            refused.starts_with("--super-digest: ") && refused.contains("USER:HASH"),
            "{refused}"
        );

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
    fn zookeepers_own_file_is_taken() {
        let dir = std::env::temp_dir().join(format!("quorate-zoo-cfg-test-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("myid"), "2\n").unwrap();
        let text = format!(
            "dataDir={}\nserver.1=a:2888:3888;2181\nserver.2=b:2888:3888;2182\nfoo=1\n",
            dir.display()
        );
        let (file, notes) = zookeeper(&zoo_cfg::parse(&text).unwrap()).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(notes, ["foo has no meaning here"]);
        assert_eq!(file.listen.as_deref(), Some("0.0.0.0:2182"));
        assert_eq!(file.data_dir, Some(dir.join("quorate")));
        let ensemble = ensemble(file.id, &file.peers, None, false)
            .unwrap()
            .unwrap();
        assert_eq!(
            (ensemble.server, &*ensemble.listen),
            (ServerId(2), "b:2888")
        );
    }

    #[test]
    fn zookeepers_file_is_known_by_its_name_or_its_keys() {
        let is = |name: &str, text| is_zookeepers(Path::new(name), text);
        assert!(is("zoo.cfg", "") && is("zookeeper.properties", ""));
        assert!(is("zk.conf", "dataDir=/d\nclientPort=2181") && is("zk", "tickTime=2000"));
        assert!(!is("quorate.toml", "tickTime=2000") && !is("quorate.conf", "listen = 'a:1'"));
    }

    #[test]
    fn an_ensemble_has_an_id_and_peers() {
        let peers = [
            "--peer",
            "1=a:1",
            "--peer",
            "2=b:2",
            "--peer",
            "3=[::1]:3:observer",
        ];
        let three = settings(&[&["--id", "2"], &peers[..]].concat(), "").unwrap();
        let three = three.ensemble.unwrap();
        assert_eq!((three.server, &*three.listen), (ServerId(2), "b:2"));
        let votes: Vec<bool> = three.members.iter().map(|member| member.votes).collect();
        assert_eq!(votes, [true, true, false]);
        assert_eq!(three.members[2].address, "[::1]:3");
        let file = "id = 1\npeers = ['1=a:1', '2=b:2']";
        assert!(settings(&[], file).unwrap().ensemble.is_some());
        assert!(settings(&[], "").unwrap().ensemble.is_none());
        for (bad, said) in [
            (&["--peer", "1=a:1"][..], "--id"),
            (&["--id", "1", "--peer", "2=a:1"], "--peer 1="),
            (
                &["--id", "1", "--peer", "1=a:1", "--peer", "1=b:1"],
                "twice",
            ),
            (&["--id", "1", "--peer", "one=a:1"], "ID=HOST:PORT"),
            (&["--id", "1", "--peer", "1=a"], "HOST:PORT"),
            (&["--join"], "--id"),
        ] {
            let refused = settings(bad, "").unwrap_err().0;
            assert!(refused.contains(said), "{bad:?}: {refused}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["127.0.0.1:0", "localhost:2181", "[::1]:2181"] {
            assert!(address("listen", good.into()).is_ok(), "{good}");
        }
        for bad in ["foo", "", ":2181", "h:", "h:70000", "::1", "[::1]"] {
            let refused = address("listen", bad.into()).unwrap_err().0;
            assert!(refused.starts_with("--listen takes HOST:PORT"), "{refused}");
        }
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let dir = std::env::temp_dir().join(format!("quorate-serve-test-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let check =
            |name: &str| prepare_data_dir(&dir.join(name)).map_err(|error| error.to_string());
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("new/deep"), Ok(()));
        assert!(dir.join("new/deep").is_dir());
        std::fs::remove_dir_all(dir.join("new")).unwrap();
        std::fs::write(dir.join("notes.txt"), "x").unwrap();
        let refused = check("").unwrap_err();
        assert!(refused.contains("notes.txt"), "{refused}");
        let refused = check("notes.txt").unwrap_err();
        assert!(refused.contains("is a file"), "{refused}");
        std::fs::create_dir(dir.join("raft")).unwrap();
        assert_eq!(check(""), Ok(()));
        std::fs::remove_dir_all(&dir).unwrap();
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
