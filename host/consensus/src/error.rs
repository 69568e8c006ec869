//! What can go wrong, by boundary: opening, leading, proposing.

use std::io;
use std::path::{Path, PathBuf};

use quorate_model::id::ServerId;
use serde::{Deserialize, Serialize};

use crate::state_machine::InstallError;

/// A data directory cannot be opened. Nothing in it was changed, except where a message says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{} is in use by another server; one data directory serves one server", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// It holds something that is not ours.
    #[error("{} is not of a Quorate data directory: {found}; give an empty directory, or the one this server used before", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found there.
        found: String,
    },
    /// Another release wrote it.
    #[error("{} has format version {found}, and this build reads version {reads}; start the release that wrote it, or a newer one", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in it.
        found: u32,
        /// The version that this build reads.
        reads: u32,
    },
    /// It belongs to another server.
    #[error("{} is of server {}, and this is server {}; two servers must not use one directory", path.display(), found.0, expected.0)]
    OtherServer {
        /// The file that says so.
        path: PathBuf,
        /// Whose it is.
        found: ServerId,
        /// Who this server is.
        expected: ServerId,
    },
    /// Acknowledged entries of the log cannot be read back.
    #[error("the log is damaged: {} at byte {offset}: {found}; entries that were acknowledged are lost here. Restore this directory from a copy; or, in an ensemble whose other members are whole, remove it and let this server join anew", path.display())]
    LogDamaged {
        /// The log file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was found.
        found: String,
    },
    /// The newest snapshot cannot be read back.
    #[error("the snapshot {} is damaged: {found}. Restore this directory from a copy; or, in an ensemble whose other members are whole, remove it and let this server join anew", path.display())]
    SnapshotDamaged {
        /// The snapshot file.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// The snapshot is whole, but the state does not take it.
    #[error("the snapshot {} cannot be installed: {source}", path.display())]
    Install {
        /// The snapshot file.
        path: PathBuf,
        /// Why not.
        source: InstallError,
    },
    /// The configuration is contradictory.
    #[error("the configuration does not hold: {0}")]
    Config(String),
    /// openraft refused to start.
    #[error("consensus did not start: {0}")]
    Raft(String),
}

impl OpenError {
    /// Turns the operating system's error on `path` into ours.
    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> OpenError + use<'a> {
        move |source| OpenError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// This server does not lead, or not in the term that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this server does not lead in term {term}: {reason}")]
pub struct NotLeading {
    /// The term that was asked for.
    pub term: u64,
    /// Why not.
    pub reason: String,
}

/// Consensus has stopped; [`Consensus::health`](crate::Consensus::health) says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("consensus has stopped")]
pub struct Stopped;

/// A proposal was not queued: its entry is certainly not in the log, and never will be.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Begin a new epoch when leading again.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// Await some first.
    #[error("{0} proposals are in flight, and no more are taken")]
    TooManyInFlight(usize),
    /// The entry is too large, or does not encode.
    #[error("{0}")]
    Entry(String),
    /// Consensus has stopped; [`Consensus::health`](crate::Consensus::health) says why.
    #[error("consensus has stopped")]
    Stopped,
}

/// A change of the membership, or of the lead, did not come about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ReconfigureError {
    /// Ask the server that leads.
    #[error("this server does not lead; {}", leader.map_or("nobody is known to".into(), |leader| format!("server {} does", leader.0)))]
    NotLeading {
        /// Who leads, as far as is known here.
        leader: Option<ServerId>,
    },
    /// It makes no sense: nothing was changed. The text says why, and what to do instead.
    #[error("{0}")]
    Refused(String),
    /// The voters would be too few, or too few of them are there and have caught up: nothing was changed.
    #[error("{0}")]
    NoQuorum(String),
    /// Another change is being made: nothing was changed.
    #[error("the members are being changed already; try again when that is done")]
    InProgress,
    /// The members are not those that the change was meant for: nothing was changed.
    #[error("the members are at version {actual:x}, not {expected:x}")]
    Version {
        /// What it was meant for.
        expected: u64,
        /// What they are at.
        actual: u64,
    },
    /// It was begun, and is not known to be done: [`Consensus::members`](crate::Consensus::members) shows what becomes of it.
    #[error("{0}")]
    Unknown(String),
}
