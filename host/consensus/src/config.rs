//! What is configured when a server's consensus is opened.

use std::collections::BTreeSet;
use std::path::PathBuf;

use quorate_model::id::ServerId;

/// A member of a new ensemble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstMember {
    /// Who it is.
    pub server: ServerId,
    /// Where its peers reach it, `host:port`.
    pub address: String,
    /// Whether it votes. One that does not, a learner, follows all the same.
    pub votes: bool,
}

/// How this server's consensus runs. [`Config::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the log and the snapshots are kept. Made when it does not exist.
    pub data_dir: PathBuf,
    /// Who this server is. A directory belongs to one server for good.
    pub server: ServerId,
    /// Where peers reach a server that is the only member, `host:port`; empty for none, and then no other can
    /// be added. The address of one of several members is what [`Config::members`] or whoever added it said.
    pub address: String,
    /// The members of a new ensemble, this one included: the same on each. Looked at when this server has
    /// never been a member of one; later the ensemble's own log says who its members are. Empty for an
    /// ensemble of one. The voters found it, each by itself and all alike; whoever leads first adds the learners.
    pub members: Vec<FirstMember>,
    /// A server that has never been a member waits to be added to an ensemble, instead of founding one.
    /// Also for a server whose data was lost: it comes under a new number, as its old one is known by the old data.
    pub join: bool,
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
            members: Vec::new(),
            join: false,
            segment_bytes: 64 << 20,
            cache_bytes: 16 << 20,
            snapshot_after_bytes: 128 << 20,
            snapshot_after_entries: 1_000_000,
            keep_log_bytes: 64 << 20,
            heartbeat_ms: 60,
            election_ms: (300, 600),
        }
    }
    /// The members that found the ensemble, this server among them; an error when they contradict each other.
    pub(crate) fn founders(&self) -> Result<Vec<FirstMember>, String> {
        if self.members.is_empty() {
            return Ok(vec![FirstMember {
                server: self.server,
                address: self.address.clone(),
                votes: true,
            }]);
        }
        let (mut servers, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for member in &self.members {
            let id = member.server.0;
            if member.address.is_empty() {
                return Err(format!("member {id} has no address"));
            }
            if !servers.insert(id) {
                return Err(format!("server {id} stands twice among the members"));
            }
            if !addresses.insert(&member.address) {
                return Err(format!("two members have the address {}", member.address));
            }
        }
        if !servers.contains(&self.server.0) {
            let id = self.server.0;
            return Err(format!(
                "server {id} is not among the members; to be added to them, it joins"
            ));
        }
        if !self.members.iter().any(|member| member.votes) {
            return Err("none of the members votes".into());
        }
        Ok(self.members.clone())
    }
}
