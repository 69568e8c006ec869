//! ZooKeeper's own configuration file, `zoo.cfg`, read as it is.
//!
//! The keys are those of ZooKeeper's Administrator's Guide. What has no meaning here is left aside by name.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use quorate_model::id::ServerId;

use crate::four_letter::Words;
use crate::members::ServerLine;

/// What a `zoo.cfg` says that means something here.
#[derive(Debug, PartialEq)]
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
    pub(super) max_connections_per_address: usize,
    /// `maxCnxns`: of all addresses; none for no limit.
    pub(super) max_connections: Option<usize>,
    /// `globalOutstandingLimit`.
    pub(super) max_outstanding_requests: Option<usize>,
    /// `reconfigEnabled`.
    pub(super) reconfig_enabled: bool,
    /// `DigestAuthenticationProvider.superDigest`, as it stands there.
    pub(super) super_digest: Option<String>,
    /// `skipACL`.
    pub(super) skip_acl: bool,
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
    /// `4lw.commands.whitelist`; none for all that there are.
    pub(super) four_letter_words: Option<Words>,
    /// `peerType`: whether this server votes. Its own line counts.
    votes: Option<bool>,
    /// What is said of keys that are left aside, in order.
    left_aside: Vec<String>,
}

impl Default for ZooCfg {
    /// What an empty file says.
    fn default() -> ZooCfg {
        ZooCfg {
            max_connections_per_address: DEFAULT_MAX_CLIENT_CONNECTIONS,
            data_dir: None,
            listen: None,
            min_session_timeout_ms: None,
            max_session_timeout_ms: None,
            max_connections: None,
            max_outstanding_requests: None,
            reconfig_enabled: false,
            super_digest: None,
            skip_acl: false,
            servers: Vec::new(),
            dynamic_file: None,
            read_only_mode: false,
            local_sessions: false,
            local_sessions_upgrading: false,
            four_letter_words: None,
            votes: None,
            left_aside: Vec::new(),
        }
    }
}

/// Keys about which nothing is said, as what they are for needs no setting here: elections and the replication have
/// times of their own, a single server can always be joined by others, and old snapshots and logs go by themselves.
const NEEDLESS: [&str; 5] = [
    "initLimit",
    "syncLimit",
    "standaloneEnabled",
    "autopurge.snapRetainCount",
    "autopurge.purgeInterval",
];

/// How many connections one address may have where ZooKeeper's file does not say.
const DEFAULT_MAX_CLIENT_CONNECTIONS: usize = 60;

/// Keys of which a file has at least one, if it is ZooKeeper's. None of them is one of ours.
const TELLING: [&str; 5] = [
    "dataDir",
    "clientPort",
    "secureClientPort",
    "tickTime",
    "dynamicConfigFile",
];

/// Whether a text is a configuration of ZooKeeper's, by its keys.
pub(super) fn is_one(text: &str) -> bool {
    text.lines().filter_map(key_and_value).any(|(key, _)| {
        let numbered = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit());
        TELLING.contains(&key) || key.strip_prefix("server.").is_some_and(numbered)
    })
}

fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let (key, value) = line.split_once(['=', ':'])?;
    (!line.starts_with(['#', '!'])).then(|| (key.trim(), value.trim()))
}

/// What an operator has to know of a key that is left aside.
fn left_aside(key: &str) -> String {
    match key {
        "dataLogDir" => "dataLogDir has no effect: the log goes into dataDir".into(),
        _ if key.starts_with("admin.") => format!(
            "{key} has no effect: ZooKeeper's AdminServer is not there, and Quorate's own HTTP is served all the \
             same, where --http says"
        ),
        _ => format!("{key} has no meaning here"),
    }
}

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
        let (key, value) =
            key_and_value(line).ok_or_else(|| wrong("neither a comment nor KEY=VALUE"))?;
        let whole = || value.parse::<u32>().map_err(|_| wrong("not a number"));
        // -1 stands for the default.
        let timeout = || match value {
            "-1" => Ok(None),
            _ => whole().map(Some),
        };
        match key {
            "tickTime" => tick_ms = whole()?,
            "dataDir" => read.data_dir = Some(value.into()),
            "clientPort" => {
                port = Some(value.parse::<u16>().map_err(|_| wrong("not a port"))?);
            }
            "clientPortAddress" => {
                let address = host_of(value);
                host = Some(address.ok_or_else(|| wrong("not an address without a port"))?);
            }
            "minSessionTimeout" => read.min_session_timeout_ms = timeout()?,
            "maxSessionTimeout" => read.max_session_timeout_ms = timeout()?,
            "maxClientCnxns" => read.max_connections_per_address = whole()? as usize,
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
            // ZooKeeper makes a system property of either.
            "DigestAuthenticationProvider.superDigest"
            | "zookeeper.DigestAuthenticationProvider.superDigest" => {
                read.super_digest = Some(value.to_owned());
            }
            // As there: whatever else stands there has them asked.
            "skipACL" | "zookeeper.skipACL" => read.skip_acl = value == "yes",
            "dynamicConfigFile" => read.dynamic_file = Some(value.into()),
            // As Java reads what is true: whatever else stands there is not.
            "readonlymode.enabled" => read.read_only_mode = value.eq_ignore_ascii_case("true"),
            "localSessionsEnabled" => read.local_sessions = value.eq_ignore_ascii_case("true"),
            "localSessionsUpgradingEnabled" => {
                read.local_sessions_upgrading = value.eq_ignore_ascii_case("true");
            }
            "4lw.commands.whitelist" => {
                read.four_letter_words = Some(Words::listed(value.split(',')));
            }
            "peerType" => {
                read.votes = Some(match value.to_ascii_lowercase().as_str() {
                    "participant" => true,
                    "observer" => false,
                    _ => return Err(wrong("neither participant nor observer")),
                });
            }
            _ if of_groups(key) => return Err(wrong(NO_GROUPS)),
            _ => match key.strip_prefix("server.") {
                Some(id) => read.add_server(id, value).map_err(|why| wrong(&why))?,
                None if NEEDLESS.contains(&key) => {}
                None => read.left_aside.push(left_aside(key)),
            },
        }
    }
    let ticks = |count: u32| Some(tick_ms.saturating_mul(count));
    read.min_session_timeout_ms = read.min_session_timeout_ms.or(ticks(2));
    read.max_session_timeout_ms = read.max_session_timeout_ms.or(ticks(20));
    if read.read_only_mode {
        // Clients look for a server that writes by it.
        read.four_letter_words = read
            .four_letter_words
            .map(|words| words.and(Words::of("isro")));
    }
    read.listen = port.map(|port| format!("{}:{port}", host.as_deref().unwrap_or("0.0.0.0")));
    Ok(read)
}

/// A host as it stands before a port: an IPv6 address in brackets.
fn host_of(text: &str) -> Option<String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let inner = bare.unwrap_or(text);
    // What stands behind a percent sign is the network that the address is of.
    let address = inner.split_once('%').map_or(inner, |(address, _)| address);
    match address.parse::<Ipv6Addr>() {
        Ok(_) => Some(format!("[{inner}]")),
        Err(_) => {
            let is_name = !text.is_empty()
                && !text.contains(|letter: char| letter.is_whitespace() || "[]:/".contains(letter));
            is_name.then(|| text.to_owned())
        }
    }
}

/// Keys of ZooKeeper's hierarchical quorums.
fn of_groups(key: &str) -> bool {
    key.starts_with("group.") || key.starts_with("weight.")
}

const NO_GROUPS: &str = "hierarchical quorums are not supported: here each voter counts one, and most of all voters \
                         are a quorum. Without the lines group.N and weight.N this file is read so";

impl ZooCfg {
    /// Takes `server.<id>=<value>`.
    ///
    /// # Errors
    /// What is wrong with it.
    fn add_server(&mut self, id: &str, value: &str) -> Result<(), String> {
        let id = id
            .parse::<u64>()
            .map_err(|_| "the server's id is no number".to_owned())?;
        if id == 0 {
            return Err(
                "no server has the id 0 here; ZooKeeper's documentation has them from 1 to 255 too. \
                 Give it another, in its myid as well"
                    .into(),
            );
        }
        if self.servers.iter().any(|line| line.server.0 == id) {
            return Err(format!("a second line of server {id}"));
        }
        if value.contains('|') {
            return Err("a server has one address here, and not several".into());
        }
        let line = ServerLine::parse_value(ServerId(id), value)
            .ok_or("not HOST:PORT:PORT[:observer][;CLIENTPORT]")?;
        let hosts = [Some(&line.address), line.client.as_ref()];
        let is_clear = |address: &String| {
            let host = address.rsplit_once(':').map(|(host, _)| host);
            host.is_some_and(|host| host_of(host).as_deref() == Some(host))
        };
        if !hosts.into_iter().flatten().all(is_clear) {
            return Err("no host; an IPv6 address before a port stands in brackets".into());
        }
        self.servers.push(line);
        Ok(())
    }

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
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with(['#', '!']) {
                continue;
            }
            let wrong = |what: &str| format!("in {shown}, line {}: {what}: {line}", number + 1);
            match key_and_value(line) {
                // ZooKeeper's own count of its changes says nothing here.
                Some(("version", _)) => {}
                Some((key, _)) if of_groups(key) => return Err(wrong(NO_GROUPS)),
                Some((key, value)) if key.starts_with("server.") => {
                    let id = key.trim_start_matches("server.");
                    self.add_server(id, value).map_err(|why| wrong(&why))?;
                }
                _ => return Err(wrong("not server.ID=HOST:PORT:PORT[:ROLE][;[HOST:]PORT]")),
            }
        }
        Ok(self)
    }

    /// What has no effect in this file, in sentences for its operator. `own` is this server's line.
    pub(super) fn notes(&self, own: Option<&ServerLine>) -> Vec<String> {
        let mut notes = self.left_aside.clone();
        if let (Some(votes), Some(own)) = (self.votes, own)
            && votes != own.votes
        {
            let role = |votes| if votes { "participant" } else { "observer" };
            notes.push(format!(
                "peerType={} has no effect: as in ZooKeeper, the line server.{} counts, where this server is {}",
                role(votes),
                own.server,
                role(own.votes),
            ));
        }
        notes
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
maxClientCnxns=50
reconfigEnabled=true
skipACL=yes
DigestAuthenticationProvider.superDigest=super:D/InIHSb7yEEbrWz8b9l71RjZJU=
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
        assert_eq!(read.max_connections_per_address, 50);
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
        assert!(read.reconfig_enabled && read.skip_acl);
        assert_eq!(
            read.super_digest.as_deref(),
            Some("super:D/InIHSb7yEEbrWz8b9l71RjZJU=")
        );
        assert_eq!(read.max_outstanding_requests, Some(2000));
        assert_eq!(read.notes(None), ["snapCount has no meaning here"]);
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
            (wrong, "line 1: not HOST:PORT:PORT"),
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
    fn what_has_no_effect_is_named_and_what_is_needless_is_not() {
        let text = "dataLogDir=/fast\nadmin.enableServer=false\nadmin.serverPort=8081\nauthProvider.1=x\n\
                    initLimit=5\nsyncLimit=2\nstandaloneEnabled=false\nautopurge.purgeInterval=1\n";
        let notes = parse(text).unwrap().notes(None);
        assert_eq!(notes.len(), 4, "{notes:?}");
        for (note, said) in notes.iter().zip([
            "dataLogDir has no effect: the log goes into dataDir",
            "where --http says",
            "admin.serverPort has no effect",
            "authProvider.1 has no meaning here",
        ]) {
            assert!(note.contains(said), "{note}");
        }
    }

    #[test]
    fn what_is_not_said_is_as_zookeeper_has_it() {
        let read = parse("clientPort=2181").unwrap();
        assert_eq!(read.max_connections_per_address, 60);
        assert_eq!(read.four_letter_words, None);
        assert_eq!(read.listen.as_deref(), Some("0.0.0.0:2181"));
        let unlimited = parse("maxClientCnxns=0").unwrap();
        assert_eq!(unlimited.max_connections_per_address, 0);
    }

    #[test]
    fn the_whitelist_is_kept_and_has_what_zookeeper_adds_to_it() {
        let words = |text| parse(text).unwrap().four_letter_words;
        let listed = "4lw.commands.whitelist=ruok, stat";
        let named = Words::listed(["ruok", "stat", "srvr"]);
        assert_eq!(words(listed), Some(named));
        let read_only = format!("{listed}\nreadonlymode.enabled=true");
        assert_eq!(words(&read_only), Some(named.and(Words::of("isro"))));
        assert_eq!(words("4lw.commands.whitelist=*"), Some(Words::ALL));
    }

    #[test]
    fn an_address_may_be_one_of_ipv6() {
        let listen = |address: &str| {
            let read = parse(&format!("clientPort=2181\nclientPortAddress={address}"));
            read.map(|read| read.listen.unwrap_or_default())
        };
        assert_eq!(listen("::1").unwrap(), "[::1]:2181");
        assert_eq!(listen("[::1]").unwrap(), "[::1]:2181");
        assert_eq!(listen("fe80::1%eth0").unwrap(), "[fe80::1%eth0]:2181");
        assert_eq!(listen("zoo1").unwrap(), "zoo1:2181");
        for wrong in ["", "::1:x", "127.0.0.1:2181", "a b"] {
            let refused = listen(wrong).unwrap_err();
            assert!(refused.starts_with("line 2: not an address"), "{refused}");
            assert!(
                refused.ends_with(&format!("clientPortAddress={wrong}")),
                "{refused}"
            );
        }
        let own = parse("server.1=[::1]:2888:3888;[::]:2181").unwrap().servers;
        assert_eq!(own[0].client.as_deref(), Some("[::]:2181"));
    }

    #[test]
    fn its_own_line_says_whether_a_server_votes() {
        let read = parse("peerType=observer\nserver.1=a:1:2\nserver.2=b:1:2:observer").unwrap();
        let [note] = &read.notes(Some(&read.servers[0]))[..] else {
            panic!("one is said");
        };
        assert!(
            note.contains("peerType=observer has no effect") && note.contains("server.1"),
            "{note}"
        );
        assert!(read.notes(Some(&read.servers[1])).is_empty());
    }

    #[test]
    fn a_file_is_known_by_its_keys() {
        for text in ["# x\ndataDir=/d", "tickTime = 2000", "server.1=a:1:2"] {
            assert!(is_one(text), "{text}");
        }
        for text in [
            "",
            "# dataDir=/d",
            "data_dir = \"/d\"\nid = 1\npeers = [\"1=a:1\"]",
            "server.x = 1",
        ] {
            assert!(!is_one(text), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, said) in [
            ("tickTime=fast", "line 1: not a number"),
            ("reconfigEnabled=yes", "neither true nor false"),
            ("\nserver.1=zoo1:2888", "line 2: not HOST:PORT:PORT"),
            ("server.one=a:1:2", "the server's id"),
            ("nonsense", "KEY=VALUE"),
            ("\nserver.0=a:1:2", "line 2: no server has the id 0 here"),
            (
                "server.1=a:1:2\nserver.1=b:1:2",
                "line 2: a second line of server 1",
            ),
            ("server.1=a:1:2|b:1:2", "line 1: a server has one address"),
            (
                "server.1=a:1:2;::1:2181",
                "line 1: no host; an IPv6 address",
            ),
            ("clientPort=99999", "line 1: not a port: clientPort=99999"),
            (
                "group.1=1:2:3",
                "line 1: hierarchical quorums are not supported",
            ),
            (
                "weight.1=3",
                "line 1: hierarchical quorums are not supported",
            ),
            ("peerType=voter", "line 1: neither participant nor observer"),
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
