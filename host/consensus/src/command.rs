//! What raft's log carries: an entry as a value and as bytes, so that it is encoded once for disk and peers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_model::write_set::{Entry, FORMAT_VERSION};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The largest entry that is proposed, in encoded bytes. A log record holds it whole, so this also
/// bounds what a reader of the log allocates on a damaged length. It leaves room for the end of a
/// session with 100,000 ephemerals, which is the one transaction that cannot be split (rule S6).
pub const MAX_ENTRY_BYTES: usize = 64 << 20;

/// An entry with its encoding. Cheap to clone: both halves are shared.
///
/// Encoding: the format version as a varint, then the entry, both in postcard's form.
#[derive(Clone)]
pub(crate) struct Command {
    bytes: Bytes,
    /// The value, until it is applied: the log's cache keeps commands for longer, and should not keep it twice.
    entry: Arc<Mutex<Option<Entry>>>,
}

/// An entry could not become a command, or a command an entry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("the entry takes {found} bytes, more than the {MAX_ENTRY_BYTES} that one may take")]
    TooLarge { found: usize },
    #[error("the entry has format version {found}, and this build reads version {FORMAT_VERSION}")]
    Version { found: u32 },
    #[error("the entry cannot be encoded or decoded: {0}")]
    Codec(#[from] postcard::Error),
}

impl Command {
    /// Encodes an entry.
    pub(crate) fn new(entry: Entry) -> Result<Command, CommandError> {
        let bytes = postcard::to_stdvec(&(FORMAT_VERSION, &entry))?;
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(CommandError::TooLarge { found: bytes.len() });
        }
        Ok(Command {
            bytes: bytes.into(),
            entry: Arc::new(Mutex::new(Some(entry))),
        })
    }

    /// Takes bytes that another start or another server encoded; they are decoded by [`Command::take_entry`].
    pub(crate) fn from_bytes(bytes: Bytes) -> Command {
        Command {
            bytes,
            entry: Arc::default(),
        }
    }

    /// The encoding.
    pub(crate) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// How many bytes its encoding has.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The value, for its one use: another call decodes it again.
    pub(crate) fn take_entry(&self) -> Result<Entry, CommandError> {
        if let Some(entry) = self.entry.lock().take() {
            return Ok(entry);
        }
        let (version, rest) = postcard::take_from_bytes::<u32>(&self.bytes)?;
        if version != FORMAT_VERSION {
            return Err(CommandError::Version { found: version });
        }
        Ok(postcard::from_bytes(rest)?)
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.bytes.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl PartialEq for Command {
    fn eq(&self, other: &Command) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Command {}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Command, D::Error> {
        Bytes::deserialize(deserializer).map(Command::from_bytes)
    }
}
