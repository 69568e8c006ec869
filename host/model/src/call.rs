//! Calls: what was asked of a recipe, what is kept while it is parked, and how it ended.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

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
    /// Which answers the client has seen.
    pub acknowledged: Acknowledgement,
}

/// The most awaited keys of an [`Acknowledgement`]: no session has more calls that are parked or answered.
pub const MAX_AWAITED: usize = 1000;

/// What a client says of its calls' answers: it is done with every key up to a mark, but for those that it awaits.
///
/// Awaited is a call that the server has said it knows, because it waits or has its answer. Any other key up to the mark
/// is refused from then on, one that was never used too (rule C1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Said")]
pub struct Acknowledgement {
    mark: u64,
    awaited: Vec<u64>,
}

/// An acknowledgement that nobody has looked at yet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    mark: u64,
    #[serde(default)]
    awaited: Vec<u64>,
}

/// Why something is no acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadAcknowledgement {
    /// The list is too long.
    #[error("an acknowledgement awaits {0} keys, and {MAX_AWAITED} are the most")]
    TooLong(usize),
    /// The list is not in order, or has a key twice.
    #[error(
        "the awaited keys of an acknowledgement stand in ascending order, each once: {0} does not"
    )]
    OutOfOrder(u64),
    /// A key is 0, or above the mark.
    #[error("the awaited keys of an acknowledgement are from 1 to its mark, {mark}: {key} is not")]
    OutOfRange {
        /// Which.
        key: u64,
        /// The acknowledgement's.
        mark: u64,
    },
}

impl Acknowledgement {
    /// Every key up to `mark`, but those in `awaited`.
    ///
    /// # Errors
    /// If `awaited` has more than [`MAX_AWAITED`] keys, is not ascending, or has one that is 0 or above `mark`.
    pub fn new(mark: u64, awaited: Vec<u64>) -> Result<Acknowledgement, BadAcknowledgement> {
        if awaited.len() > MAX_AWAITED {
            return Err(BadAcknowledgement::TooLong(awaited.len()));
        }
        if let Some(pair) = awaited.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(BadAcknowledgement::OutOfOrder(pair[1]));
        }
        if let Some(&key) = awaited.iter().find(|key| !(1..=mark).contains(*key)) {
            return Err(BadAcknowledgement::OutOfRange { key, mark });
        }
        Ok(Acknowledgement { mark, awaited })
    }

    /// Every key up to `mark`; 0 for none.
    pub fn up_to(mark: u64) -> Acknowledgement {
        Acknowledgement {
            mark,
            awaited: Vec::new(),
        }
    }

    /// The highest key that it speaks of; 0 for none.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// The keys up to the mark whose answers are still wanted, ascending.
    pub fn awaited(&self) -> &[u64] {
        &self.awaited
    }

    /// Whether the client is done with this key.
    pub fn covers(&self, key: u64) -> bool {
        key <= self.mark && self.awaited.binary_search(&key).is_err()
    }
}

impl TryFrom<Said> for Acknowledgement {
    type Error = BadAcknowledgement;

    fn try_from(said: Said) -> Result<Acknowledgement, BadAcknowledgement> {
        Acknowledgement::new(said.mark, said.awaited)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_covers_what_is_up_to_its_mark_and_not_awaited() {
        let said = Acknowledgement::new(7, vec![3, 7]).unwrap();
        let covered: Vec<u64> = (1..10).filter(|key| said.covers(*key)).collect();
        assert_eq!(covered, [1, 2, 4, 5, 6]);
        assert!((1..10).all(|key| !Acknowledgement::default().covers(key)));
        assert!((1..=7).all(|key| Acknowledgement::up_to(7).covers(key)));
    }

    #[test]
    fn a_bad_acknowledgement_is_refused_wherever_it_comes_from() {
        use BadAcknowledgement::{OutOfOrder, OutOfRange, TooLong};
        let most = (1..=MAX_AWAITED as u64).collect::<Vec<_>>();
        assert!(Acknowledgement::new(MAX_AWAITED as u64, most.clone()).is_ok());
        let many = (1..=MAX_AWAITED as u64 + 1).collect::<Vec<_>>();
        let bad = [
            (many, TooLong(MAX_AWAITED + 1)),
            (vec![2, 2], OutOfOrder(2)),
            (vec![3, 2], OutOfOrder(2)),
            (vec![0, 2], OutOfRange { key: 0, mark: 5000 }),
            (
                vec![2, 5001],
                OutOfRange {
                    key: 5001,
                    mark: 5000,
                },
            ),
        ];
        for (awaited, why) in bad {
            assert_eq!(Acknowledgement::new(5000, awaited.clone()), Err(why));
            // As another server would send it.
            let bytes = postcard::to_allocvec(&(5000_u64, awaited)).unwrap();
            assert!(
                postcard::from_bytes::<Acknowledgement>(&bytes).is_err(),
                "{why}"
            );
        }
        let good = Acknowledgement::new(5000, most).unwrap();
        let bytes = postcard::to_allocvec(&good).unwrap();
        assert_eq!(postcard::from_bytes(&bytes), Ok(good));
    }
}
