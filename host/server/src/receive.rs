//! Receive: bytes of ZooKeeper's protocol to requests, in the order of each connection.
//!
//! A connection is one task, which reads, hands requests on, and sends what the later stages have
//! put into the connection's buffer. It never waits for anything but its socket and that buffer.

mod acl;
mod connection;
mod frames;
mod listener;
pub(crate) mod places;

use std::sync::Arc;

use quorate_tree::SharedState;

pub(crate) use connection::new_password;
pub use listener::{converse, serve};

use crate::local_sessions;
use crate::metrics::Metrics;
use crate::mode::Mode;
use crate::notify::Watches;
use crate::read_only::ReadOnly;
use crate::route::Router;

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
    /// Whether reads are all that it answers now.
    pub read_only: Arc<ReadOnly>,
    /// The sessions that only this server knows.
    pub local: local_sessions::Table,
    /// What this server is in its ensemble.
    pub mode: Box<dyn Fn() -> Mode + Send + Sync>,
}

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
    /// Whether every read sees all that was acknowledged anywhere before it was sent, as behind a sync.
    pub linearizable_reads: bool,
    /// Which new sessions over ZooKeeper's protocol only this server knows.
    pub local_sessions: local_sessions::Setting,
}

impl Default for Limits {
    /// ZooKeeper's defaults, which follow from its tick of 2 s; more connections per address, because
    /// proxies and containers share one.
    fn default() -> Limits {
        Limits {
            max_connections: 20_000,
            max_connections_per_address: 0,
            min_session_timeout_ms: 4_000,
            max_session_timeout_ms: 40_000,
            linearizable_reads: false,
            local_sessions: local_sessions::Setting::Off,
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
