//! Calls: what was asked of a recipe, what is kept while it is parked, and how it ended.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::acl::Identity;
use crate::id::{CallId, Timestamp, Zxid};
use crate::path::ZnodePath;

/// One request to run an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRequest {
    /// Chosen by the client, unique in its session, at least 1 (rule C1).
    pub key: u64,
    /// Where the recipe is mounted.
    pub mount: ZnodePath,
    /// `operation`, or `interface.operation` where two interfaces export the same name.
    pub operation: String,
    /// A JSON array of the arguments in order, or an object of them by name.
    pub arguments: String,
    /// When to give up: counted from the first run, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The client has seen the answers of every key up to this one; 0 for none.
    pub acknowledged: u64,
}

impl CallRequest {
    /// What tells two calls with the same key apart: rule C1 refuses a known key with other arguments.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        for part in [self.mount.as_str(), &self.operation, &self.arguments] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&hash.finalize()[..16]);
        Fingerprint(fingerprint)
    }
}

/// The first half of the SHA-256 of a call's mount, operation and arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 16]);

/// What wakes a parked call. Paths are absolute here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Watch {
    /// The znode is created or deleted, or its data are set.
    Node(ZnodePath),
    /// A child of it is created or deleted.
    Children(ZnodePath),
    /// It, or anything below it, is created, deleted or set.
    Subtree(ZnodePath),
    /// The moment comes.
    Time(Timestamp),
}

/// A call whose last run ended by `park`: all that is needed to run it again, on any server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedCall {
    /// Whose it is.
    pub id: CallId,
    /// Where its recipe is mounted.
    pub mount: ZnodePath,
    /// As in [`CallRequest`].
    pub operation: String,
    /// As in [`CallRequest`].
    pub arguments: String,
    /// Of the request.
    pub fingerprint: Fingerprint,
    /// Who the caller had proved to be.
    pub identities: Vec<Identity>,
    /// The moment of its first run.
    pub started: Timestamp,
    /// When it ends without a result.
    pub deadline: Option<Timestamp>,
    /// The transaction that first parked it: calls wake in this order (rule C4).
    pub age: Zxid,
    /// What the last run handed to `park`; none before the first, which only a standing call is kept without.
    pub memo: Option<Bytes>,
    /// What wakes it, sorted, without repeats.
    pub watches: Vec<Watch>,
    /// The znodes of lifetime `session` that its runs created, with the transaction that did: rule C3
    /// deletes those that are still the same when the call ends without a result.
    pub created: Vec<(ZnodePath, Zxid)>,
    /// A watch has fired and its run is due.
    pub marked: bool,
    /// How many epochs in a row began with its run (rule S5).
    pub suspected: u32,
    /// Of a standing call whose last runs have failed: when it is tried again (rule C10).
    pub retry: Option<Retry>,
}

/// A standing call that failed is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// When, unless a watch fires before.
    pub at: Timestamp,
    /// How many runs in a row have failed.
    pub failures: u32,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// The operation returned; its result as JSON (`null` for an operation without one).
    Returned(String),
    /// The operation returned `err`; that error as JSON. Nothing was committed.
    Failed(String),
    /// The recipe called `refuse`, with this reason. Nothing was committed.
    Refused(String),
    /// It trapped, or broke a rule of the ABI: what and where.
    Trapped(String),
    /// It exceeded a bound.
    Exceeded {
        /// The bound's name, such as `fuel`.
        bound: String,
        /// What happened, for people.
        message: String,
    },
    /// The client cancelled it.
    Cancelled,
    /// Its timeout came first.
    TimedOut,
    /// The recipe was unmounted.
    Unmounted,
    /// The recipe was upgraded, and the call does not fit it any more: why.
    Outdated(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Returned(result) => f.write_str(result),
            Ending::Failed(error) => write!(f, "the operation failed: {error}"),
            Ending::Refused(reason) => write!(f, "refused: {reason}"),
            Ending::Trapped(message) => write!(f, "the recipe trapped: {message}"),
            Ending::Exceeded { bound, message } => write!(f, "bound {bound} exceeded: {message}"),
            Ending::Cancelled => f.write_str("cancelled"),
            Ending::TimedOut => f.write_str("timed out"),
            Ending::Unmounted => f.write_str("the recipe was unmounted"),
            Ending::Outdated(reason) => {
                write!(
                    f,
                    "the recipe was upgraded, and the call does not fit it: {reason}"
                )
            }
        }
    }
}

/// The answer to a call, kept in its session until the client acknowledges it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Of the request that it answers.
    pub fingerprint: Fingerprint,
    /// How the call ended.
    pub ending: Ending,
    /// The transaction that ended it.
    pub zxid: Zxid,
}
