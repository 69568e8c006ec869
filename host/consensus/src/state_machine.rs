//! What the server implements: the replicated state that entries are applied to.

use std::io;

use quorate_model::recipe::{Component, RecipeDigest};
use quorate_model::write_set::Entry;
use serde::{Deserialize, Serialize};

/// What applying an entry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It was the next one, and the state has changed.
    Applied,
    /// It was not the next one (another epoch, a gap before it), and nothing has changed, on any server.
    NoOp,
}

/// The chunks of a snapshot, in order. A chunk that was damaged, or an end that is missing, is an error.
pub type Chunks<'a> = dyn Iterator<Item = io::Result<Vec<u8>>> + 'a;

/// A snapshot's components with their digests, which have been checked. One that was damaged, or is missing, is an error.
pub type Components<'a> = dyn Iterator<Item = io::Result<(RecipeDigest, Component)>> + 'a;

/// The replicated state.
///
/// `apply`, `begin_snapshot` and `install` are called one after the other, never two at a time.
/// `snapshot_chunk` is called by another thread, between and during them: the state takes its own lock.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies a committed entry. Deterministic: no I/O, no clock. A panic stops this server's
    /// consensus, with [`Health::Failed`](crate::Health::Failed), as the state can no longer be trusted.
    fn apply(&self, entry: &Entry) -> Verdict;

    /// Marks this instant: the chunks that follow are the state as it is now (rule N1). At most one
    /// snapshot is being taken at a time; a new `begin_snapshot` ends the one before. Gives the components that the
    /// snapshot needs. They are no part of its chunks: each is written beside the snapshots, once.
    fn begin_snapshot(&self) -> Vec<(RecipeDigest, Component)>;

    /// The next piece of the snapshot that was begun, `None` at its end, and from then on. Entries go on being applied
    /// between pieces (rule N2). A piece holds 1 to [`MAX_CHUNK_BYTES`](crate::MAX_CHUNK_BYTES) bytes.
    fn snapshot_chunk(&self) -> Option<Vec<u8>>;

    /// The snapshot that was begun is not wanted any more. Also called when none was begun.
    fn abandon_snapshot(&self);

    /// Replaces the whole state by a snapshot's. The components are those that `begin_snapshot` gave, the chunks those
    /// that `snapshot_chunk` gave, here or on another server. After an error the state is not used any more.
    fn install(
        &self,
        components: &mut Components<'_>,
        chunks: &mut Chunks<'_>,
    ) -> Result<(), InstallError>;
}

/// A snapshot could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A chunk could not be read, or its checksum is wrong.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The chunks are whole, but the state does not understand them.
    #[error("the snapshot cannot be understood: {0}")]
    Content(String),
}
