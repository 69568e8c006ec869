//! ZooKeeper's own configuration file, `zoo.cfg`, read as it is.
//!
//! The keys are those of ZooKeeper's Administrator's Guide. What has no meaning here is left aside by name.

use std::path::{Path, PathBuf};

use quorate_model::id::ServerId;

use crate::members::ServerLine;

/// What a `zoo.cfg` says that means something here.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ZooCfg {
    /// `dataDir`, which also holds `myid`.
    pub(super) data_dir: Option<PathBuf>,
    /// `clientPortAddress` and `clientPort`, or those of this server's own line; `host:port`.
    pub(super) listen: Option<String>,
    /// `minSessionTimeout`, or two ticks.
    pub(super) min_session_timeout_ms: Option<u32>,
    /// `maxSessionTimeout`, or twenty ticks.
    pub(super) max_session_timeout_ms: Option<u32>,
    /// `maxClientCnxns`: of one address; 0 for no limit.
    pub(super) max_connections_per_address: Option<usize>,
    /// `maxCnxns`: of all addresses; none for no limit.
    pub(super) max_connections: Option<usize>,
    /// `globalOutstandingLimit`.
    pub(super) max_outstanding_requests: Option<usize>,
    /// `reconfigEnabled`.
    pub(super) reconfig_enabled: bool,
    /// The `server.N` lines.
    pub(super) servers: Vec<ServerLine>,
    /// `dynamicConfigFile`, which holds the `server.N` lines instead.
    pub(super) dynamic_file: Option<PathBuf>,
    /// `readonlymode.enabled`.
    pub(super) read_only_mode: bool,
    /// `localSessionsEnabled`.
    pub(super) local_sessions: bool,
    /// `localSessionsUpgradingEnabled`.
    pub(super) local_sessions_upgrading: bool,
    /// Keys that are left aside, in order.
    pub(super) unknown: Vec<String>,
}

/// Keys whose purpose is served otherwise here, or not needed: said nothing about.
const NEEDLESS: [&str; 9] = [
    "initLimit",
    "syncLimit",
    "dataLogDir",
    "autopurge.snapRetainCount",
    "autopurge.purgeInterval",
    "admin.enableServer",
    "admin.serverPort",
    "4lw.commands.whitelist",
    "standaloneEnabled",
];

/// Reads the text of a `zoo.cfg`.
///
/// # Errors
/// Names the line and what is wrong with it.
pub(super) fn parse(text: &str) -> Result<ZooCfg, String> {
    let mut read = ZooCfg::default();
    let (mut tick_ms, mut port, mut host) = (3000_u32, None, None);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let wrong = |what: &str| format!("line {}: {what}: {line}", number + 1);
        let (key, value) = line
            .split_once(['=', ':'])
            .map(|(key, value)| (key.trim(), value.trim()))
            .ok_or_else(|| wrong("neither a comment nor KEY=VALUE"))?;
        let whole = || value.parse::<u32>().map_err(|_| wrong("not a number"));
        // -1 stands for the default.
        let timeout = || match value {
            "-1" => Ok(None),
            _ => whole().map(Some),
        };
        match key {
            "tickTime" => tick_ms = whole()?,
            "dataDir" => read.data_dir = Some(value.into()),
            "clientPort" => port = Some(whole()?),
            "clientPortAddress" => host = Some(value.to_owned()),
            "minSessionTimeout" => read.min_session_timeout_ms = timeout()?,
            "maxSessionTimeout" => read.max_session_timeout_ms = timeout()?,
            "maxClientCnxns" => read.max_connections_per_address = Some(whole()? as usize),
            "maxCnxns" => {
                read.max_connections = Some(whole()? as usize).filter(|limit| *limit > 0);
            }
            "globalOutstandingLimit" => {
                read.max_outstanding_requests = Some(whole()? as usize);
            }
            "reconfigEnabled" => {
                let value = value.parse();
                read.reconfig_enabled = value.map_err(|_| wrong("neither true nor false"))?;
            }
            "dynamicConfigFile" => read.dynamic_file = Some(value.into()),
            // As Java reads what is true: whatever else stands there is not.
            "readonlymode.enabled" => read.read_only_mode = value.eq_ignore_ascii_case("true"),
            "localSessionsEnabled" => read.local_sessions = value.eq_ignore_ascii_case("true"),
            "localSessionsUpgradingEnabled" => {
                read.local_sessions_upgrading = value.eq_ignore_ascii_case("true");
            }
            _ => match key.strip_prefix("server.") {
                Some(id) => {
                    let id = id
                        .parse()
                        .map_err(|_| wrong("the server's id is no number"))?;
                    let line = ServerLine::parse_value(ServerId(id), value)
                        .ok_or_else(|| wrong("not HOST:PORT:PORT[:observer][;CLIENTPORT]"))?;
                    read.servers.push(line);
                }
                None if NEEDLESS.contains(&key) => {}
                None => read.unknown.push(key.to_owned()),
            },
        }
    }
    let ticks = |count: u32| Some(tick_ms.saturating_mul(count));
    read.min_session_timeout_ms = read.min_session_timeout_ms.or(ticks(2));
    read.max_session_timeout_ms = read.max_session_timeout_ms.or(ticks(20));
    read.listen = port.map(|port| format!("{}:{port}", host.as_deref().unwrap_or("0.0.0.0")));
    Ok(read)
}

impl ZooCfg {
    /// With the servers that stand in a file of their own, as ZooKeeper 3.5 and later write it.
    ///
    /// # Errors
    /// If that cannot be read, or holds something else.
    pub(super) fn with_dynamic_file(mut self) -> Result<ZooCfg, String> {
        let Some(path) = self.dynamic_file.take() else {
            return Ok(self);
        };
        let shown = path.display();
        if !self.servers.is_empty() {
            return Err(format!(
                "servers stand in it and in {shown}: one of the two is enough"
            ));
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read dynamicConfigFile {shown}: {error}"))?;
        for line in text.lines().map(str::trim) {
            let is_server = !(line.is_empty() || line.starts_with(['#', '!']));
            // ZooKeeper's own count of its changes says nothing here.
            if is_server && !line.starts_with("version=") {
                let server = ServerLine::parse(line).map_err(|why| format!("in {shown}: {why}"))?;
                self.servers.push(server);
            }
        }
        Ok(self)
    }

    /// Which server this is: what stands in `dataDir/myid`. None if the file names no servers.
    ///
    /// # Errors
    /// If it names some, and `myid` is not there or names another.
    pub(super) fn id(&self) -> Result<Option<u64>, String> {
        if self.servers.is_empty() {
            return Ok(None);
        }
        let path = self
            .data_dir
            .as_deref()
            .unwrap_or(Path::new("."))
            .join("myid");
        let shown = path.display();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            format!("cannot read {shown}, which says which server this is: {error}")
        })?;
        let id: u64 = text
            .trim()
            .parse()
            .map_err(|_| format!("{shown} holds {:?}, which is no server's id", text.trim()))?;
        match self.servers.iter().any(|line| line.server.0 == id) {
            true => Ok(Some(id)),
            false => Err(format!(
                "{shown} says {id}, and there is no line server.{id}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "\
# A comment
tickTime=2000
initLimit=10
dataDir=/var/lib/zookeeper
maxClientCnxns=60
reconfigEnabled=true
globalOutstandingLimit=2000
snapCount=100000
readonlymode.enabled=true
localSessionsEnabled=true
localSessionsUpgradingEnabled=True
server.1=zoo1:2888:3888;2181
server.2=zoo2:2888:3888:participant;10.0.0.2:2182
server.3=zoo3:2888:3888:observer
";

    #[test]
    fn an_ensembles_file_is_read_as_it_is() {
        let read = parse(THREE).unwrap();
        assert_eq!(
            read.data_dir.as_deref(),
            Some(Path::new("/var/lib/zookeeper"))
        );
        assert_eq!(read.min_session_timeout_ms, Some(4000));
        assert_eq!(read.max_session_timeout_ms, Some(40_000));
        assert_eq!(read.max_connections_per_address, Some(60));
        let line = |id, address: &str, votes, client: Option<&str>| ServerLine {
            server: ServerId(id),
            address: address.into(),
            votes,
            client: client.map(str::to_owned),
        };
        let servers = [
            line(1, "zoo1:2888", true, Some("0.0.0.0:2181")),
            line(2, "zoo2:2888", true, Some("10.0.0.2:2182")),
            line(3, "zoo3:2888", false, None),
        ];
        assert_eq!(read.servers, servers);
        assert!(read.reconfig_enabled);
        assert_eq!(read.max_outstanding_requests, Some(2000));
        assert_eq!(read.unknown, ["snapCount"]);
        assert!(read.read_only_mode);
        assert!(read.local_sessions && read.local_sessions_upgrading);
        assert_eq!(read.listen, None);
    }

    #[test]
    fn servers_may_stand_in_a_file_of_their_own() {
        let dir = std::env::temp_dir().join(format!("quorate-dynamic-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("zoo.cfg.dynamic");
        let text = "server.1=a:1:2:participant;0.0.0.0:2181\nserver.2=b:1:2:observer\nversion=1a\n";
        std::fs::write(&path, text).unwrap();
        let named = format!("dynamicConfigFile={}\n", path.display());
        let read = parse(&named).and_then(ZooCfg::with_dynamic_file).unwrap();
        let twice = format!("{named}server.3=c:1:2\n");
        let twice = parse(&twice).and_then(ZooCfg::with_dynamic_file);
        std::fs::write(&path, "server.1=a\n").unwrap();
        let wrong = parse(&named).and_then(ZooCfg::with_dynamic_file);
        std::fs::remove_dir_all(&dir).unwrap();
        let gone = parse(&named).and_then(ZooCfg::with_dynamic_file);
        let votes: Vec<bool> = read.servers.iter().map(|line| line.votes).collect();
        assert_eq!(votes, [true, false]);
        for (refused, said) in [
            (twice, "one of the two"),
            (wrong, "server.ID="),
            (gone, "cannot read"),
        ] {
            assert!(refused.unwrap_err().contains(said));
        }
    }

    #[test]
    fn a_single_servers_file_names_its_port() {
        let read = parse("clientPort=2181\nclientPortAddress=127.0.0.1\nmaxSessionTimeout=60000\n");
        let read = read.unwrap();
        assert_eq!(read.listen.as_deref(), Some("127.0.0.1:2181"));
        assert_eq!(read.max_session_timeout_ms, Some(60_000));
        assert_eq!(read.id(), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, said) in [
            ("tickTime=fast", "line 1: not a number"),
            ("reconfigEnabled=yes", "neither true nor false"),
            ("\nserver.1=zoo1:2888", "line 2: not HOST:PORT:PORT"),
            ("server.one=a:1:2", "the server's id"),
            ("nonsense", "KEY=VALUE"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
        let missing = parse("server.1=a:1:2\ndataDir=/nowhere-at-all\n")
            .unwrap()
            .id();
        assert!(missing.unwrap_err().contains("/nowhere-at-all/myid"));
    }
}
