//! ZooKeeper's four-letter words, in the form that its tools read.
//!
//! `ruok`, `srvr`, `stat` and `mntr` are what monitoring asks for; `isro` and `envi` are what client
//! libraries ask for to find a server that writes, and its version.

use std::fmt::Write as _;

use quorate_model::id::Zxid;
use quorate_tree::{Counts, Digest};

use crate::mode::Mode;
use crate::receive::Edge;

/// The version of ZooKeeper whose protocol is spoken, and ours: tools read the first three numbers.
const VERSION: &str = concat!(
    "3.9.3-quorate-",
    env!("CARGO_PKG_VERSION"),
    ", built on unknown"
);

/// What tools look for.
const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests\n";

/// The words that are served here.
const WORDS: [&str; 6] = ["ruok", "isro", "envi", "srvr", "stat", "mntr"];

/// Which of them are open to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words(u8);

impl Words {
    /// Every one.
    pub const ALL: Words = Words(u8::MAX);

    /// Those of a list, as ZooKeeper's `4lw.commands.whitelist` has it: `*` stands for all, `srvr` is always among
    /// them, and those that are not served here do not count.
    pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> Words {
        let listed = names.into_iter().map(|name| match name.trim() {
            "*" => Words::ALL,
            name => Words::of(name),
        });
        listed.fold(Words::of("srvr"), Words::and)
    }

    /// These, and those.
    pub fn and(self, others: Words) -> Words {
        Words(self.0 | others.0)
    }

    /// Only this one; none if it is not served here.
    pub fn of(name: &str) -> Words {
        let place = WORDS.iter().position(|word| *word == name);
        Words(place.map_or(0, |place| 1 << place))
    }

    fn open(self, word: &str) -> bool {
        self.0 & Words::of(word).0 != 0
    }
}

/// What a word is answered with, before the connection is closed. Those of ZooKeeper's that are not
/// served here are answered as in ZooKeeper one that is not on its whitelist.
pub fn answer(word: &str, edge: &Edge) -> String {
    let report = |text: fn(&Report) -> String| {
        Report::of(edge).map_or_else(|| NOT_SERVING.to_owned(), |report| text(&report))
    };
    match word {
        word if !edge.limits.four_letter_words.open(word) => closed(word),
        "ruok" => "imok".into(),
        "isro" => match (edge.mode)() {
            // As ZooKeeper's `IsroCommand` answers while its server does not run.
            Mode::NotServing => "null".into(),
            Mode::ReadOnly => "ro".into(),
            _ => "rw".into(),
        },
        "envi" => envi(),
        "srvr" => report(Report::srvr),
        "stat" => report(Report::stat),
        "mntr" => report(Report::mntr),
        _ => closed(word),
    }
}

fn closed(word: &str) -> String {
    format!("{word} is not executed because it is not in the whitelist.\n")
}

/// What the words tell.
struct Report {
    mode: Mode,
    clients: Vec<Client>,
    state: OfState,
    latency_ms: (u64, f64, u64),
    received: u64,
    sent: u64,
    connections: i64,
    outstanding: i64,
    watches: usize,
    local_sessions: usize,
}

struct OfState {
    counts: Counts,
    zxid: Zxid,
    digest: Digest,
    version: u32,
}

/// A connection, as `stat` lists it.
struct Client {
    address: String,
    queued: usize,
    received: u64,
    sent: u64,
}

impl Report {
    /// None while the server does not serve, or has no state: it would be told in zeros.
    fn of(edge: &Edge) -> Option<Report> {
        let mode = (edge.mode)();
        let state = {
            let state = edge.state.read();
            if mode == Mode::NotServing || state.is_vacant() {
                return None;
            }
            OfState {
                counts: state.counts(),
                zxid: state.last_zxid(),
                digest: state.digest(),
                version: state.version(),
            }
        };
        let clients = edge.watches.connections();
        Some(Report {
            mode,
            clients: clients
                .iter()
                .map(|connection| {
                    let (queued, received, sent) = connection.traffic();
                    Client {
                        address: connection.address().to_string(),
                        queued,
                        received,
                        sent,
                    }
                })
                .collect(),
            state,
            latency_ms: edge.metrics.latency.min_mean_max_ms(),
            received: edge.metrics.received.get(),
            sent: edge.metrics.sent.get(),
            connections: edge.metrics.connections.get(),
            outstanding: edge.metrics.outstanding.get(),
            watches: edge.watches.count(),
            local_sessions: edge.local.count(),
        })
    }

    fn srvr(&self) -> String {
        format!("Zookeeper version: {VERSION}\n{}", self.summary())
    }

    fn stat(&self) -> String {
        let mut text = format!("Zookeeper version: {VERSION}\nClients:\n");
        for client in &self.clients {
            let Client {
                address,
                queued,
                received,
                sent,
            } = client;
            // The 0 in brackets are the operations that the socket's selector waits for, in ZooKeeper.
            line(
                &mut text,
                format_args!(" /{address}[0](queued={queued},recved={received},sent={sent})"),
            );
        }
        text.push('\n');
        text + &self.summary()
    }

    fn summary(&self) -> String {
        let (min, mean, max) = self.latency_ms;
        let mut text = String::new();
        for fact in [
            format_args!("Latency min/avg/max: {min}/{}/{max}", decimals(mean)),
            format_args!("Received: {}", self.received),
            format_args!("Sent: {}", self.sent),
            format_args!("Connections: {}", self.connections),
            format_args!("Outstanding: {}", self.outstanding),
            format_args!("Zxid: {}", self.state.zxid),
            format_args!("Mode: {}", self.mode.name()),
            format_args!("Node count: {}", self.state.counts.znodes),
        ] {
            line(&mut text, fact);
        }
        text
    }

    fn mntr(&self) -> String {
        let (min, mean, max) = self.latency_ms;
        let (state, counts) = (&self.state, &self.state.counts);
        let facts = [
            ("version", VERSION.to_owned()),
            ("server_state", self.mode.name().to_owned()),
            ("avg_latency", decimals(mean)),
            ("max_latency", max.to_string()),
            ("min_latency", min.to_string()),
            ("packets_received", self.received.to_string()),
            ("packets_sent", self.sent.to_string()),
            ("num_alive_connections", self.connections.to_string()),
            ("outstanding_requests", self.outstanding.to_string()),
            ("watch_count", self.watches.to_string()),
            ("local_sessions", self.local_sessions.to_string()),
            ("znode_count", counts.znodes.to_string()),
            ("ephemerals_count", counts.ephemerals.to_string()),
            ("approximate_data_size", counts.data_bytes.to_string()),
            ("global_sessions", counts.sessions.to_string()),
            ("parked_calls", counts.parked_calls.to_string()),
            ("mounts", counts.mounts.to_string()),
            ("last_zxid", state.zxid.to_string()),
            ("state_digest", state.digest.to_string()),
            ("ensemble_version", state.version.to_string()),
        ];
        let mut text = String::new();
        for (key, value) in facts {
            line(&mut text, format_args!("zk_{key}\t{value}"));
        }
        text
    }
}

fn envi() -> String {
    format!("Environment:\nzookeeper.version={VERSION}\n")
}

/// At most four decimals and at least one, as ZooKeeper writes a mean.
fn decimals(mean: f64) -> String {
    let rounded = (mean * 10_000.0).round() / 10_000.0;
    format!("{rounded:?}")
}

fn line(text: &mut String, fact: std::fmt::Arguments<'_>) {
    writeln!(text, "{fact}").expect("a String takes whatever is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestServer;

    fn report() -> Report {
        Report {
            mode: Mode::Standalone,
            clients: vec![Client {
                address: "127.0.0.1:50000".into(),
                queued: 1,
                received: 2,
                sent: 3,
            }],
            state: OfState {
                counts: Counts {
                    znodes: 5,
                    sessions: 2,
                    ..Counts::default()
                },
                zxid: Zxid::new(1, 10),
                digest: Digest(0xabc),
                version: 1,
            },
            latency_ms: (0, 0.123_456, 12),
            received: 20,
            sent: 30,
            connections: 1,
            outstanding: 4,
            watches: 6,
            local_sessions: 0,
        }
    }

    #[test]
    fn a_server_that_installs_a_snapshot_says_so_and_counts_nothing() {
        let server = TestServer::new();
        assert!(answer("srvr", &server.edge).contains("\nMode: standalone\n"));
        let whole = server.vacate();
        for word in ["srvr", "stat", "mntr"] {
            assert_eq!(answer(word, &server.edge), NOT_SERVING, "{word}");
        }
        assert_eq!(answer("ruok", &server.edge), "imok");
        *server.edge.state.write() = whole;
        assert!(answer("mntr", &server.edge).contains("\nzk_znode_count\t"));
    }

    #[test]
    fn only_the_words_that_are_listed_are_open_and_srvr() {
        let limits = crate::receive::Limits {
            four_letter_words: Words::listed(["ruok", " conf ", ""]),
            ..crate::receive::Limits::default()
        };
        let server = TestServer::with_limits(limits);
        assert_eq!(answer("ruok", &server.edge), "imok");
        assert!(answer("srvr", &server.edge).contains("\nMode: "));
        for word in ["stat", "mntr", "envi", "isro", "conf"] {
            let closed = answer(word, &server.edge);
            assert!(closed.ends_with("is not in the whitelist.\n"), "{closed}");
        }
        assert_eq!(Words::listed(["*"]), Words::ALL);
        let all = TestServer::new();
        for word in WORDS {
            assert!(!answer(word, &all.edge).contains("whitelist"), "{word}");
        }
    }

    #[test]
    fn srvr_has_the_lines_that_tools_read() {
        let text = report().srvr();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("Zookeeper version: 3.9."), "{text}");
        assert_eq!(
            lines[1..],
            [
                "Latency min/avg/max: 0/0.1235/12",
                "Received: 20",
                "Sent: 30",
                "Connections: 1",
                "Outstanding: 4",
                "Zxid: 0x10000000a",
                "Mode: standalone",
                "Node count: 5",
            ]
        );
    }

    #[test]
    fn stat_lists_the_clients_before_the_rest() {
        let text = report().stat();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1..5],
            [
                "Clients:",
                " /127.0.0.1:50000[0](queued=1,recved=2,sent=3)",
                "",
                "Latency min/avg/max: 0/0.1235/12",
            ]
        );
    }

    #[test]
    fn mntr_is_keys_and_values_with_a_tab_between() {
        let text = report().mntr();
        for line in text.lines() {
            let (key, value) = line.split_once('\t').unwrap();
            assert!(key.starts_with("zk_") && !value.is_empty(), "{line}");
        }
        for line in [
            "zk_server_state\tstandalone",
            "zk_znode_count\t5",
            "zk_watch_count\t6",
            "zk_avg_latency\t0.1235",
            "zk_last_zxid\t0x10000000a",
            "zk_state_digest\t0000000000000abc",
            "zk_ensemble_version\t1",
        ] {
            assert!(
                text.lines().any(|one| one == line),
                "no {line:?} in:\n{text}"
            );
        }
    }

    #[test]
    fn a_mean_has_a_decimal_point() {
        assert_eq!(decimals(0.0), "0.0");
        assert_eq!(decimals(1.5), "1.5");
        assert_eq!(decimals(0.000_01), "0.0");
    }
}
