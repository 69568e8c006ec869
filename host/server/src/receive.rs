//! Receive: bytes of ZooKeeper's protocol to requests, in the order of each connection.
//!
//! A connection is one task, which reads, hands requests on, and sends what the later stages have
//! put into the connection's buffer. It never waits for anything but its socket and that buffer.

mod access;
mod acl;
mod call_path;
mod connection;
mod frames;
mod listener;
pub(crate) mod places;
pub(crate) mod room;

use std::sync::Arc;

use quorate_tree::SharedState;

pub use access::{Access, NoDigest, SuperDigest};
pub(crate) use call_path::{CallPath, Standing};
pub(crate) use connection::new_password;
pub use listener::{converse, serve};
pub use room::{Room, Size};

use crate::activity::Activity;
use crate::four_letter::Words;
use crate::local_sessions;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::mode::Mode;
use crate::notify::Watches;
use crate::read_only::ReadOnly;
use crate::respond::MAX_UNSENT_BYTES_OF_ALL;
use crate::route::{MAX_IN_FLIGHT, Router};
use crate::silence::Silence;
use crate::waiting::Waiting;

/// What the stages that face clients share.
pub struct Edge {
    /// To the leader.
    pub router: Router,
    /// What is applied here.
    pub state: SharedState,
    /// Who is told what.
    pub watches: Arc<Watches>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is allowed.
    pub limits: Limits,
    /// What recipes do on this server while it leads.
    pub activity: Arc<Activity>,
    /// Changes the servers of the ensemble; none in a test that has none.
    pub members: Option<Members>,
    /// Whether reads are all that it answers now.
    pub read_only: Arc<ReadOnly>,
    /// Why it does not serve yet, if so.
    pub waiting: Arc<Waiting>,
    /// The sessions that only this server knows.
    pub local: local_sessions::Table,
    /// Until when its clients may be served.
    pub silence: Arc<Silence>,
    /// How long ago a quorum was last heard of, in milliseconds; 0 at a server that is alone.
    pub quorum_age_ms: Box<dyn Fn() -> u64 + Send + Sync>,
    /// For all connections together.
    pub room: Room,
    /// What this server is in its ensemble.
    pub mode: Box<dyn Fn() -> Mode + Send + Sync>,
}

impl Edge {
    /// Why clients are turned away now, if they are: the server has not begun to serve, and does not answer reads either.
    pub(crate) fn waits(&self) -> Option<String> {
        self.waiting.reason().filter(|_| !self.read_only.is())
    }

    /// If too much is unsent: closes who reads slowest.
    fn relieve(&self) {
        if self.metrics.unsent_bytes.get() >= MAX_UNSENT_BYTES_OF_ALL {
            self.room.relieve(&self.watches, &self.metrics);
        }
    }
}

/// The most that [`Limits::max_outstanding_requests`] may be, and its default: half of what the stream to the
/// leader takes, so that clients leave room for requests over HTTP.
pub const MAX_OUTSTANDING_REQUESTS: usize = MAX_IN_FLIGHT / 2;

/// What the operator decides for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many connections of ZooKeeper's protocol there may be.
    pub max_connections: usize,
    /// How many of one address (ZooKeeper's `maxClientCnxns`); 0 for as many as there may be in all.
    pub max_connections_per_address: usize,
    /// The shortest timeout that a session may have.
    pub min_session_timeout_ms: u32,
    /// The longest.
    pub max_session_timeout_ms: u32,
    /// While so many requests of all clients wait for their answers, a connection that has one waiting is not
    /// read from: ZooKeeper's `globalOutstandingLimit`.
    pub max_outstanding_requests: usize,
    /// Whether clients may change the servers of the ensemble: ZooKeeper's `reconfigEnabled`.
    pub reconfig_enabled: bool,
    /// Whether every read sees all that was acknowledged anywhere before it was sent, as behind a sync.
    pub linearizable_reads: bool,
    /// Which new sessions over ZooKeeper's protocol only this server knows.
    pub local_sessions: local_sessions::Setting,
    /// Which four-letter words are answered: ZooKeeper's `4lw.commands.whitelist`.
    pub four_letter_words: Words,
    /// Who passes every access control list.
    pub access: Access,
}

impl Default for Limits {
    /// ZooKeeper's defaults, which follow from its tick of 2 s; more connections per address, because
    /// proxies and containers share one; and more requests outstanding, because one connection alone may keep
    /// as many waiting as ZooKeeper's default has in all, and a waiting request takes a kilobyte here.
    fn default() -> Limits {
        Limits {
            max_connections: 20_000,
            max_connections_per_address: 0,
            min_session_timeout_ms: 4_000,
            max_session_timeout_ms: 40_000,
            max_outstanding_requests: MAX_OUTSTANDING_REQUESTS,
            reconfig_enabled: false,
            linearizable_reads: false,
            local_sessions: local_sessions::Setting::Off,
            four_letter_words: Words::ALL,
            access: Access::default(),
        }
    }
}

impl Limits {
    /// The timeout that a client gets which wishes `wished_ms`.
    pub fn negotiate(&self, wished_ms: i64) -> u32 {
        let (min, max) = (self.min_session_timeout_ms, self.max_session_timeout_ms);
        u32::try_from(wished_ms.max(0))
            .unwrap_or(u32::MAX)
            .clamp(min, max.max(min))
    }
}

#[cfg(test)]
mod tests;
