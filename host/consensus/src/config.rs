//! What is configured when a server's consensus is opened.

use std::path::PathBuf;

use quorate_model::id::ServerId;

/// How this server's consensus runs. [`Config::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the log and the snapshots are kept. Made when it does not exist.
    pub data_dir: PathBuf,
    /// Who this server is. A directory belongs to one server for good.
    pub server: ServerId,
    /// Where peers reach this server, `host:port`; empty for none.
    pub address: String,
    /// A log file is closed, and the next one begun, beyond this size in bytes.
    pub segment_bytes: u64,
    /// Entries of the log that are kept in memory, in encoded bytes. Older ones are read from disk.
    pub cache_bytes: usize,
    /// A snapshot is taken when the entries applied since the last one take more bytes than this and
    /// than that snapshot itself, so that snapshots never write more than the log does.
    pub snapshot_after_bytes: u64,
    /// A snapshot is taken when more entries than this were applied since the last one.
    pub snapshot_after_entries: u64,
    /// Bytes of log that are kept behind a snapshot for members that lag (rule S3).
    pub keep_log_bytes: u64,
    /// Between two of a leader's heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// A follower that hears nothing for this long stands for election, in milliseconds: at least, at most.
    pub election_ms: (u64, u64),
}

impl Config {
    /// The defaults, which fit a local network and disks of tens of megabytes a second or more.
    pub fn new(data_dir: impl Into<PathBuf>, server: ServerId) -> Config {
        Config {
            data_dir: data_dir.into(),
            server,
            address: String::new(),
            segment_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            snapshot_after_bytes: 128 << 20,
            snapshot_after_entries: 1_000_000,
            keep_log_bytes: 64 << 20,
            heartbeat_ms: 100,
            election_ms: (500, 1000),
        }
    }
}
