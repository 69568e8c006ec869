//! What the stages count, as Prometheus reads it.
//!
//! A stage bumps its own numbers; a number that the tables know anyway (znodes, sessions, watches) is
//! taken from them when somebody asks, so that it cannot drift.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use quorate_consensus::Status;

use crate::mode::Mode;

use crate::bounds;

/// The media type of [`Metrics::text`]: OpenMetrics, which Prometheus asks for first.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every number of this server. Cheap to bump from any thread.
pub struct Metrics {
    /// Connections of ZooKeeper's protocol that are open.
    pub connections: Gauge,
    /// Connections closed at once because there were too many.
    pub connections_refused: Counter,
    /// Connections closed because they sent what is no request.
    pub connections_malformed: Counter,
    /// Connections closed because their client did not read.
    pub connections_stuck: Counter,
    /// Handshakes that did not finish in time.
    pub handshakes_late: Counter,
    /// Sessions opened or taken up again over a connection here.
    pub handshakes: Counter,
    /// Handshakes answered with "expired".
    pub handshakes_expired: Counter,
    /// Frames received, handshakes and pings included.
    pub received: Counter,
    /// Frames sent, watch events included.
    pub sent: Counter,
    /// Bytes received over ZooKeeper's protocol.
    pub received_bytes: Counter,
    /// Bytes sent over ZooKeeper's protocol.
    pub sent_bytes: Counter,
    /// Watch events sent.
    pub events: Counter,
    /// Late answers of parked calls sent.
    pub late_answers: Counter,
    /// Requests that wait for their answer.
    pub outstanding: Gauge,
    /// Their bytes.
    pub outstanding_bytes: Gauge,
    /// Large requests that were not read before there was room for them.
    pub room_waits: Counter,
    /// Bytes of answers and events that wait to be sent.
    pub unsent_bytes: Gauge,
    /// Four-letter words answered.
    pub four_letter_words: Counter,
    /// HTTP requests answered.
    pub http_requests: Counter,
    /// HTTP requests answered with a status of 400 or more.
    pub http_errors: Counter,

    /// Requests evaluated.
    pub evaluated: Counter,
    /// Requests refused by evaluation.
    pub refused: Counter,
    /// Runs of recipes.
    pub runs: Counter,
    /// Runs that trapped or exceeded a bound.
    pub runs_failed: Counter,
    /// Runs of guards among them.
    pub guards: Counter,
    /// Runs of which nothing is kept: dry runs, shadows, and failed runs once more. Not among the others.
    pub trials: Counter,
    /// What they used of their fuel.
    pub trial_fuel: Counter,
    /// Bounds that were reached, by their names.
    pub bounds_reached: Family<BoundName, Counter>,
    /// Mounts that were suspended.
    pub suspensions: Counter,
    /// Fuel that runs used.
    pub fuel: Counter,
    /// Parked calls that were run again because a watch fired.
    pub wakes: Counter,
    /// Recipes that are being compiled, or loaded, or wait for that.
    pub compiling: Gauge,
    /// Recipes made ready.
    pub compiled: Counter,
    /// Recipes that could not be made ready.
    pub compile_failures: Counter,
    /// Leads given to another server because recipes were not compiled here.
    pub handed_over: Counter,
    /// Raft entries proposed.
    pub entries: Counter,
    /// Bytes of the raft entries proposed.
    pub entry_bytes: Counter,
    /// How many transactions an entry carries.
    pub entry_transactions: Histogram,
    /// Transactions applied.
    pub applied: Counter,
    /// Sessions that expired.
    pub expired: Counter,
    /// Digests of other servers' states that this leader has compared with its own.
    pub digests_compared: Counter,
    /// Those of them that differed.
    pub digests_differing: Counter,
    /// Seconds from a write's arrival to its answer.
    pub write_seconds: Histogram,

    /// Of all requests, as the four-letter words tell it.
    pub latency: Latency,

    scraped: Scraped,
    registry: Mutex<Registry>,
    /// Of what the state knows: left out while there is none.
    of_state: Mutex<Registry>,
}

/// The label of [`Metrics::bounds_reached`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BoundName {
    bound: String,
}

/// The label of the gauge that tells what this server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModeName {
    mode: &'static str,
}

/// The label of what a leader knows of another server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabel {
    server: u64,
}

/// What the tables know, set when somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Watches of the clients connected here.
    pub watches: u64,
    /// How long ago a quorum was last heard of, in milliseconds.
    pub quorum_age_ms: u64,
    /// What this server is in its ensemble.
    pub mode: Mode,
    /// Whether `/health` is well.
    pub takes_writes: bool,
    /// What consensus knows; none in a test without one.
    pub ensemble: Option<Status>,
    /// None while a snapshot is installed.
    pub state: Option<OfState>,
}

/// What the state knows, set when somebody asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct OfState {
    /// Znodes.
    pub znodes: u64,
    /// Bytes of their data.
    pub data_bytes: u64,
    /// Sessions of the ensemble.
    pub sessions: u64,
    /// Ephemeral znodes.
    pub ephemerals: u64,
    /// Parked calls.
    pub parked_calls: u64,
    /// Answers that are kept.
    pub answers: u64,
    /// Mounts.
    pub mounts: u64,
    /// Those that are suspended.
    pub mounts_suspended: u64,
    /// Recipes.
    pub recipes: u64,
    /// Their components.
    pub components: u64,
    /// The components' bytes.
    pub component_bytes: u64,
    /// Components that are being uploaded.
    pub uploads: u64,
    /// The bytes of them that have come.
    pub upload_bytes: u64,
    /// The last transaction applied here.
    pub last_zxid: u64,
    /// The digest of the state that it left.
    pub state_digest: u64,
    /// What every member is known to read (rule S7).
    pub ensemble_version: u64,
}

struct Scraped {
    watches: Gauge,
    quorum_age_ms: Gauge,
    mode: Family<ModeName, Gauge>,
    takes_writes: Gauge,
    voters: Gauge,
    log_bytes: Gauge,
    snapshot_bytes: Gauge,
    follower_behind_entries: Family<ServerLabel, Gauge>,
    follower_heard_ms: Family<ServerLabel, Gauge>,
    znodes: Gauge,
    data_bytes: Gauge,
    sessions: Gauge,
    ephemerals: Gauge,
    parked_calls: Gauge,
    answers: Gauge,
    mounts: Gauge,
    mounts_suspended: Gauge,
    recipes: Gauge,
    components: Gauge,
    component_bytes: Gauge,
    uploads: Gauge,
    upload_bytes: Gauge,
    last_zxid: Gauge,
    state_digest: Gauge,
    ensemble_version: Gauge,
}

impl Metrics {
    /// Somebody has reached a bound of [`bounds::all`].
    pub fn reached(&self, bound: &str) {
        let bound = bound.to_owned();
        self.bounds_reached
            .get_or_create(&BoundName { bound })
            .inc();
    }

    /// All at zero.
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("quorate");
        let mut of_state = Registry::with_prefix("quorate");
        let (r, s) = (&mut registry, &mut of_state);
        // From 50 µs to 26 s: an fsync on a good disk up to an election.
        let seconds = || Histogram::new(exponential_buckets(0.000_05, 2.0, 20));
        let sizes = || Histogram::new(exponential_buckets(1.0, 2.0, 14));
        Metrics {
            connections: gauge(r, "connections", "Open connections of ZooKeeper's protocol"),
            connections_refused: counter(
                r,
                "connections_refused",
                "Connections closed at once because there were too many",
            ),
            connections_malformed: counter(
                r,
                "connections_malformed",
                "Connections closed because they sent what is no request",
            ),
            connections_stuck: counter(
                r,
                "connections_stuck",
                "Connections closed because their client did not read",
            ),
            handshakes_late: counter(
                r,
                "handshakes_late",
                "Connections closed because no handshake finished in time",
            ),
            handshakes: counter(r, "handshakes", "Sessions opened or taken up again here"),
            handshakes_expired: counter(
                r,
                "handshakes_expired",
                "Handshakes answered with expired",
            ),
            received: counter(r, "received", "Frames received"),
            sent: counter(r, "sent", "Frames sent"),
            received_bytes: counter(r, "received_bytes", "Bytes received"),
            sent_bytes: counter(r, "sent_bytes", "Bytes sent"),
            events: counter(r, "events", "Watch events sent"),
            late_answers: counter(r, "late_answers", "Answers of parked calls sent as events"),
            outstanding: gauge(r, "outstanding", "Requests that wait for their answer"),
            outstanding_bytes: gauge(r, "outstanding_bytes", "Bytes of the requests that wait"),
            room_waits: counter(
                r,
                "room_waits",
                "Large requests that were not read before there was room for them",
            ),
            unsent_bytes: gauge(
                r,
                "unsent_bytes",
                "Bytes of answers and events that wait to be sent",
            ),
            four_letter_words: counter(r, "four_letter_words", "Four-letter words answered"),
            http_requests: counter(r, "http_requests", "HTTP requests answered"),
            http_errors: counter(
                r,
                "http_errors",
                "HTTP requests answered with a status of 400 or more",
            ),
            evaluated: counter(r, "evaluated", "Requests evaluated"),
            refused: counter(r, "refused", "Requests refused by evaluation"),
            runs: counter(r, "runs", "Runs of recipes"),
            runs_failed: counter(r, "runs_failed", "Runs that trapped or exceeded a bound"),
            guards: counter(r, "guards", "Runs of guards"),
            trials: counter(
                r,
                "trials",
                "Runs of which nothing is kept: dry runs, shadows, failed runs once more",
            ),
            trial_fuel: counter(r, "trial_fuel", "Fuel that those used"),
            bounds_reached: {
                // All are there from the start, so that what has not happened yet can be told from what is not counted.
                let family = Family::default();
                for bound in bounds::all() {
                    let bound = bound.name.to_owned();
                    drop(family.get_or_create(&BoundName { bound }));
                }
                let help = "Bounds that were reached: what went beyond them was ended or refused";
                r.register("bounds_reached", help, family.clone());
                family
            },
            suspensions: counter(r, "suspensions", "Mounts that were suspended"),
            fuel: counter(r, "fuel", "Fuel that runs used"),
            wakes: counter(r, "wakes", "Parked calls run again because a watch fired"),
            compiling: gauge(
                r,
                "compiling",
                "Recipes being compiled, or waiting for that",
            ),
            compiled: counter(r, "compiled", "Recipes compiled, or loaded compiled"),
            compile_failures: counter(r, "compile_failures", "Recipes that could not be compiled"),
            handed_over: counter(
                r,
                "handed_over",
                "Leads given to another server because mounted recipes were not compiled here",
            ),
            entries: counter(r, "entries", "Raft entries proposed"),
            entry_bytes: counter(r, "entry_bytes", "Bytes of the raft entries proposed"),
            entry_transactions: registered(
                r,
                "entry_transactions",
                "Transactions in a raft entry",
                sizes(),
            ),
            applied: counter(r, "applied", "Transactions applied"),
            expired: counter(r, "expired", "Sessions that expired"),
            digests_compared: counter(
                r,
                "digests_compared",
                "Other servers' states compared with this leader's",
            ),
            digests_differing: counter(
                r,
                "digests_differing",
                "Other servers' states that differed from this leader's",
            ),
            write_seconds: registered(
                r,
                "write_seconds",
                "From a write's arrival to its answer",
                seconds(),
            ),
            latency: Latency::default(),
            scraped: Scraped {
                watches: gauge(r, "watches", "Watches of the clients connected here"),
                quorum_age_ms: gauge(
                    r,
                    "quorum_age_ms",
                    "How long ago a quorum was last heard of, in milliseconds",
                ),
                mode: registered(
                    r,
                    "mode",
                    "1 for what this server is in its ensemble, 0 for what it is not",
                    Family::default(),
                ),
                takes_writes: gauge(r, "takes_writes", "1 if /health is 200, else 0"),
                voters: gauge(r, "voters", "Servers that vote"),
                log_bytes: gauge(r, "log_bytes", "Bytes of the log on disk"),
                snapshot_bytes: gauge(r, "snapshot_bytes", "Bytes of the newest snapshot"),
                follower_behind_entries: registered(
                    r,
                    "follower_behind_entries",
                    "Raft entries that another server lacks; at the leader only",
                    Family::default(),
                ),
                follower_heard_ms: registered(
                    r,
                    "follower_heard_ms",
                    "How long ago another server was heard of, in milliseconds; at the leader only",
                    Family::default(),
                ),
                znodes: gauge(s, "znodes", "Znodes"),
                data_bytes: gauge(s, "data_bytes", "Bytes of the znodes' data"),
                sessions: gauge(s, "sessions", "Live sessions"),
                ephemerals: gauge(s, "ephemerals", "Ephemeral znodes"),
                parked_calls: gauge(s, "parked_calls", "Parked calls"),
                answers: gauge(s, "answers", "Answers of calls that are kept"),
                mounts: gauge(s, "mounts", "Mounts"),
                mounts_suspended: gauge(s, "mounts_suspended", "Mounts that are suspended"),
                recipes: gauge(s, "recipes", "Recipes"),
                components: gauge(s, "components", "Components of recipes that are kept"),
                component_bytes: gauge(s, "component_bytes", "Bytes of the components"),
                uploads: gauge(s, "uploads", "Components being uploaded"),
                upload_bytes: gauge(s, "upload_bytes", "Bytes of uploads that have come"),
                last_zxid: gauge(s, "last_zxid", "The last transaction applied here"),
                state_digest: gauge(
                    s,
                    "state_digest",
                    "The upper 53 bits of the digest of the state behind it, the same on every server",
                ),
                ensemble_version: gauge(
                    s,
                    "ensemble_version",
                    "What every member is known to read",
                ),
            },
            registry: Mutex::new(registry),
            of_state: Mutex::new(of_state),
        }
    }

    /// Has more told, by mount and the like.
    pub(crate) fn collect(&self, collector: Box<dyn Collector>) {
        self.registry.lock().register_collector(collector);
    }

    /// Everything as text, of the media type [`CONTENT_TYPE`]. Of a state that is not there it tells no numbers.
    pub fn text(&self, now: Snapshot) -> String {
        let s = &self.scraped;
        s.watches.set(now.watches.cast_signed());
        s.quorum_age_ms.set(now.quorum_age_ms.cast_signed());
        s.takes_writes.set(i64::from(now.takes_writes));
        for mode in Mode::ALL {
            let name = ModeName { mode: mode.name() };
            let is = i64::from(mode == now.mode);
            s.mode.get_or_create(&name).set(is);
        }
        if let Some(status) = &now.ensemble {
            self.scrape_ensemble(status);
        }
        let mut text = String::new();
        let mut encoded = encode_registry(&mut text, &self.registry.lock());
        if let Some(state) = now.state {
            self.scrape(state);
            encoded = encoded.and_then(|()| encode_registry(&mut text, &self.of_state.lock()));
        }
        encoded
            .and_then(|()| encode_eof(&mut text))
            .expect("a String takes whatever is written to it");
        text
    }

    fn scrape_ensemble(&self, now: &Status) {
        let s = &self.scraped;
        s.voters.set(now.voters.len() as i64);
        s.log_bytes.set(now.log_bytes.cast_signed());
        s.snapshot_bytes.set(now.snapshot_bytes.cast_signed());
        // Whoever has left, and all of them once another leads, are told no more.
        s.follower_behind_entries.clear();
        s.follower_heard_ms.clear();
        let end = now.last_index.map_or(0, |last| last + 1);
        for (server, follower) in &now.followers {
            let label = ServerLabel { server: server.0 };
            let behind = end.saturating_sub(follower.matched_index.map_or(0, |index| index + 1));
            let gauge = s.follower_behind_entries.get_or_create(&label);
            gauge.set(behind.cast_signed());
            // Of one that was never heard of there is no time to tell.
            if let Some(heard_ms) = follower.heard_ms {
                let gauge = s.follower_heard_ms.get_or_create(&label);
                gauge.set(heard_ms.cast_signed());
            }
        }
    }

    fn scrape(&self, now: OfState) {
        let s = &self.scraped;
        for (gauge, value) in [
            (&s.znodes, now.znodes),
            (&s.data_bytes, now.data_bytes),
            (&s.sessions, now.sessions),
            (&s.ephemerals, now.ephemerals),
            (&s.parked_calls, now.parked_calls),
            (&s.answers, now.answers),
            (&s.mounts, now.mounts),
            (&s.mounts_suspended, now.mounts_suspended),
            (&s.recipes, now.recipes),
            (&s.components, now.components),
            (&s.component_bytes, now.component_bytes),
            (&s.uploads, now.uploads),
            (&s.upload_bytes, now.upload_bytes),
            (&s.last_zxid, now.last_zxid),
            // So many bits are left by whoever reads numbers as doubles.
            (&s.state_digest, now.state_digest >> 11),
            (&s.ensemble_version, now.ensemble_version),
        ] {
            gauge.set(value.cast_signed());
        }
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    registered(registry, name, help, Counter::default())
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    registered(registry, name, help, Gauge::default())
}

fn registered<M>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M
where
    M: prometheus_client::registry::Metric + Clone,
{
    registry.register(name, help, metric.clone());
    metric
}

/// The least, mean and largest time from a request's arrival to its answer.
#[derive(Debug)]
pub struct Latency {
    count: AtomicU64,
    sum_us: AtomicU64,
    min_us: AtomicU64,
    max_us: AtomicU64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency {
            count: AtomicU64::new(0),
            sum_us: AtomicU64::new(0),
            min_us: AtomicU64::new(u64::MAX),
            max_us: AtomicU64::new(0),
        }
    }
}

impl Latency {
    /// Takes in `count` requests that took `each`.
    pub fn record(&self, count: u64, each: Duration) {
        if count == 0 {
            return;
        }
        let us = u64::try_from(each.as_micros()).unwrap_or(u64::MAX);
        self.count.fetch_add(count, Ordering::Relaxed);
        self.sum_us
            .fetch_add(us.saturating_mul(count), Ordering::Relaxed);
        // Both are nearly always settled already, and a load does not take the line from other cores.
        if us < self.min_us.load(Ordering::Relaxed) {
            self.min_us.fetch_min(us, Ordering::Relaxed);
        }
        if us > self.max_us.load(Ordering::Relaxed) {
            self.max_us.fetch_max(us, Ordering::Relaxed);
        }
    }

    /// In milliseconds: the least, the mean, the largest. All zero before the first request.
    pub fn min_mean_max_ms(&self) -> (u64, f64, u64) {
        let count = self.count.load(Ordering::Relaxed);
        if count == 0 {
            return (0, 0.0, 0);
        }
        let mean_ms = self.sum_us.load(Ordering::Relaxed) as f64 / count as f64 / 1000.0;
        (
            self.min_us.load(Ordering::Relaxed) / 1000,
            mean_ms,
            self.max_us.load(Ordering::Relaxed) / 1000,
        )
    }
}

#[cfg(test)]
mod tests {
    use quorate_consensus::Follower;
    use quorate_model::id::ServerId;

    use super::*;

    fn snapshot(state: Option<OfState>) -> Snapshot {
        Snapshot {
            mode: Mode::Follower,
            takes_writes: true,
            state,
            ..Snapshot::default()
        }
    }

    #[test]
    fn what_a_server_is_and_how_the_others_follow_comes_out_as_text() {
        let metrics = Metrics::new();
        let follower = |matched_index, heard_ms| Follower {
            matched_index,
            heard_ms,
        };
        let leading = Status {
            voters: [1, 2, 3].map(ServerId).into(),
            last_index: Some(41),
            followers: [
                (ServerId(2), follower(Some(40), Some(7))),
                (ServerId(3), follower(None, None)),
            ]
            .into(),
            ..Status::default()
        };
        let mut now = snapshot(None);
        (now.mode, now.ensemble) = (Mode::Leader, Some(leading));
        let text = metrics.text(now.clone());
        for line in [
            "quorate_mode{mode=\"leader\"} 1",
            "quorate_mode{mode=\"follower\"} 0",
            "quorate_takes_writes 1",
            "quorate_voters 3",
            "quorate_follower_behind_entries{server=\"2\"} 1",
            "quorate_follower_behind_entries{server=\"3\"} 42",
            "quorate_follower_heard_ms{server=\"2\"} 7",
        ] {
            assert!(text.contains(line), "no {line:?} in:\n{text}");
        }
        assert!(!text.contains("quorate_follower_heard_ms{server=\"3\"}"));
        (now.mode, now.takes_writes) = (Mode::NotServing, false);
        now.ensemble = Some(Status::default());
        let text = metrics.text(now);
        for line in [
            "quorate_mode{mode=\"leader\"} 0",
            "quorate_mode{mode=\"not-serving\"} 1",
            "quorate_takes_writes 0",
        ] {
            assert!(text.contains(line), "no {line:?} in:\n{text}");
        }
        assert!(!text.contains("{server="), "it leads no more: {text}");
    }

    #[test]
    fn counts_come_out_as_text() {
        let metrics = Metrics::new();
        metrics.received.inc_by(3);
        metrics.write_seconds.observe(0.01);
        let text = metrics.text(snapshot(Some(OfState {
            znodes: 5,
            ..OfState::default()
        })));
        for line in [
            "quorate_received_total 3",
            "quorate_znodes 5",
            "quorate_write_seconds_count 1",
            "# EOF",
        ] {
            assert!(text.contains(line), "no {line:?} in:\n{text}");
        }
        assert_eq!(text.matches("# EOF").count(), 1, "{text}");
    }

    #[test]
    fn of_a_state_that_is_not_there_no_number_is_told() {
        let metrics = Metrics::new();
        metrics.text(snapshot(Some(OfState {
            znodes: 5,
            ..OfState::default()
        })));
        let text = metrics.text(snapshot(None));
        assert!(!text.contains("quorate_znodes"), "{text}");
        assert!(!text.contains("quorate_last_zxid"), "{text}");
        assert!(text.contains("quorate_watches 0"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn latency_is_told_in_milliseconds() {
        let latency = Latency::default();
        assert_eq!(latency.min_mean_max_ms(), (0, 0.0, 0));
        latency.record(3, Duration::from_millis(1));
        latency.record(1, Duration::from_millis(5));
        assert_eq!(latency.min_mean_max_ms(), (1, 2.0, 5));
    }
}
