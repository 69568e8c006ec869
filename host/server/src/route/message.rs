//! What servers say to the leader over their streams, and what it says back.

use bytes::Bytes;
use quorate_consensus::ReconfigureError;
use quorate_model::id::{Incarnation, SessionId, Timestamp, Zxid};
use quorate_model::recipe::RecipeDigest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Numbered;
use crate::activity::{Look, Seen};
use crate::digests::Point;
use crate::members::{Change, Changed};

/// From a server to the leader. Requests, touches and questions for a read index go over connections of
/// their own, so that none waits behind requests (rule W5).
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
    /// Asks what recipes do. Over a connection of its own.
    Look(Look),
    /// Asks to be answered once a component is compiled there. Over a connection of its own.
    AwaitRecipe(RecipeDigest),
    /// Asks for the index that a read must see which was asked for before; over a connection of its own.
    ReadIndex,
    /// Sessions whose clients the sender has heard of since its last report.
    Touched {
        /// Numbers the reports of a connection.
        report: u64,
        /// May be none: the report then only asks whether a quorum is there (rule W4).
        sessions: Vec<SessionId>,
        /// The sender's state; none before its first entry.
        state: Option<Point>,
        /// What the sender's machine takes the time to be, in milliseconds since 1970 (rule E3).
        machine_ms: i64,
        /// The newest ensemble version that the sender reads (rule S7).
        reads: u32,
        /// The sender's state's last transaction, if all that is mounted there is compiled (rule C6).
        ready_at: Option<Zxid>,
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
    /// What recipes do.
    Seen(Seen),
    /// Whether the component can be run; not, if that takes too long.
    Recipe {
        /// Whether it can.
        ready: bool,
    },
    /// What was acknowledged anywhere before the question stands in the log up to here.
    ReadIndex {
        /// Of an entry of the log.
        index: u64,
    },
    /// A report was noted.
    Heard {
        /// Which.
        report: u64,
        /// What the leader knows; none while it lacks a quorum for too long to lead.
        lead: Option<Lead>,
    },
}

/// What a leader says to a report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Lead {
    /// How long ago a quorum confirmed it, in milliseconds (rule W4): it may be cut off together with whom it
    /// tells this.
    pub(super) quorum_age_ms: u64,
    /// The reported sessions whose touches it did not count: their ends are asked for, or it does not know them, or
    /// does not count yet. Nobody is to rely on these (rule W4).
    pub(super) not_counted: Vec<SessionId>,
    /// The receiver's state differs from the leader's at this transaction: it is to stop.
    pub(super) wrong_at: Option<Zxid>,
    /// The ensemble's time (rule E3).
    pub(super) now: Timestamp,
}

/// A message as a frame.
pub(super) fn encode(message: &impl Serialize) -> Result<Bytes, postcard::Error> {
    postcard::to_stdvec(message).map(Bytes::from)
}

/// A frame as a message.
pub(super) fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes(frame)
}
