//! Trials: runs of which nothing is kept.

use serde::{Deserialize, Serialize};

use crate::call::CallRequest;
use crate::id::CallId;
use crate::recording::{Ran, Recording};
use crate::write_set::Change;

/// What is to be tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialRequest {
    /// Which run.
    pub of: TrialOf,
    /// Whether the answer is to have a recording too.
    pub record: bool,
}

/// Which run is tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrialOf {
    /// The first of a call. Its key, its acknowledgement and its timeout say nothing.
    Call(CallRequest),
    /// The next of a parked call, as if it were woken now.
    Parked(CallId),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// What the run came to.
    pub ran: Ran,
    /// What it would have changed, in order.
    pub changes: Vec<Change>,
    /// If it was asked for, and is not too long.
    pub recording: Option<Recording>,
}

/// The largest recording, in bytes: it goes through the log.
pub const MAX_RECORDING_BYTES: usize = 1 << 20;

/// Why a run whose recording would be larger is not recorded, for people.
pub const TOLD_TOO_MUCH: &str = "the run was told more than 1 MiB, the most that is recorded";
