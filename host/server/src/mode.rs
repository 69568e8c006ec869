//! Mode: what this server is in its ensemble, in ZooKeeper's words.

use quorate_consensus::Consensus;
use quorate_model::id::ServerId;

/// What a server is in its ensemble.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The only server.
    Standalone,
    /// The leader.
    Leader,
    /// A voter that follows, or looks for somebody to follow.
    Follower,
    /// It follows and does not vote.
    Observer,
    /// It has no quorum, and answers reads.
    ReadOnly,
    /// It hears of no quorum, installs a snapshot, or has stopped over a fault: it serves nothing now.
    #[default]
    NotServing,
}

impl Mode {
    /// Every one there is.
    pub const ALL: [Mode; 6] = [
        Mode::Standalone,
        Mode::Leader,
        Mode::Follower,
        Mode::Observer,
        Mode::ReadOnly,
        Mode::NotServing,
    ];

    /// What `server` is now.
    pub fn of(consensus: &Consensus, server: ServerId) -> Mode {
        let leading = consensus.leadership().borrow().leading;
        let members = consensus.members().borrow().clone();
        let alone = members.voters.len() + members.learners.len() <= 1;
        match (alone && members.voters.contains(&server), leading) {
            (true, _) => Mode::Standalone,
            (false, true) => Mode::Leader,
            (false, false) if members.voters.contains(&server) => Mode::Follower,
            (false, false) => Mode::Observer,
        }
    }

    /// As ZooKeeper's administrative words say it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Standalone => "standalone",
            Mode::Leader => "leader",
            Mode::Follower => "follower",
            Mode::Observer => "observer",
            Mode::ReadOnly => "read-only",
            Mode::NotServing => "not-serving",
        }
    }
}
