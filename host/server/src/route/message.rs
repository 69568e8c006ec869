//! What servers say to the leader over their streams, and what it says back.

use bytes::Bytes;
use quorate_consensus::ReconfigureError;
use quorate_model::id::{Incarnation, SessionId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Numbered;
use crate::members::{Change, Changed};

/// From a server to the leader. Requests and touches go over connections of their own, so that a touch
/// never waits behind requests (rule W5).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ToLeader {
    /// A stream of requests begins, in this epoch.
    Begin {
        /// The sender's last one.
        epoch: u32,
        /// The sender's.
        incarnation: Incarnation,
        /// The number of the first request that it has to send.
        first: u64,
    },
    /// The next requests of the stream.
    Requests {
        /// In which they are to be evaluated.
        epoch: u32,
        /// At least one.
        requests: Vec<Numbered>,
    },
    /// The members are to be changed. Over a connection of its own.
    Change(Change),
    /// Sessions whose clients the sender has heard of since its last report.
    Touched {
        /// Numbers the reports of a connection.
        report: u64,
        /// May be none: the report then only asks whether a quorum is there (rule W4).
        sessions: Vec<SessionId>,
    },
}

/// From the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum FromLeader {
    /// The stream has begun in `epoch`, and goes on with request `next`.
    Expect {
        /// The leader's.
        epoch: u32,
        /// The first request that was not taken in it.
        next: u64,
    },
    /// What became of a change.
    Changed(Result<Changed, ReconfigureError>),
    /// A report was noted, and a quorum has confirmed the leader meanwhile.
    Heard {
        /// Which.
        report: u64,
    },
}

/// A message as a frame.
pub(super) fn encode(message: &impl Serialize) -> Result<Bytes, postcard::Error> {
    postcard::to_stdvec(message).map(Bytes::from)
}

/// A frame as a message.
pub(super) fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes(frame)
}
