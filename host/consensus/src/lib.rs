//! The only crate that names openraft: log and snapshots on disk, peers, members, leadership.
//!
//! [`Consensus`] is opened on a data directory with the state that entries are applied to. Whoever leads
//! follows these steps, which hold also where a leader was cut off and came back in the same term:
//!
//! 1. On becoming leader, await [`Consensus::ready_to_lead`]: the state is now what was committed.
//! 2. Propose an `EpochStart`; when it resolves to [`Resolution::Applied`], evaluate from exactly that state.
//! 3. Propose entries, each for the state behind the one before it. The state machine applies only the
//!    next one, and gives [`Verdict::NoOp`] for any other.
//! 4. On any other resolution, or when the lead is lost: stop, drop what was evaluated, begin at 1.
//!
//! An ensemble is founded by the voters of [`Config::members`], each by itself and all alike; later members
//! are added by its leader ([`Consensus::add`], [`Consensus::promote`], [`Consensus::remove`]). Peers are reached
//! through a [`Transport`]; the same port carries what the servers say to each other, as [`PeerStream`]s. A
//! leader whose process is gone is replaced at once: its port refuses, and nobody waits for a timeout.
//!
//! Reads and writes that do not lead: a follower's state is whole up to some entry; nothing is said
//! about how far that is. At a start it is the newest snapshot's, until a leader is known.
//!
//! ```
//! use std::sync::Arc;
//!
//! use parking_lot::Mutex;
//! use quorate_consensus::{
//!     Chunks, Components, Config, Consensus, InstallError, Resolution, StateMachine, Verdict,
//! };
//! use quorate_model::id::{Incarnation, ServerId, Timestamp};
//! use quorate_model::recipe::{Component, RecipeDigest};
//! use quorate_model::write_set::{Entry, EpochStart};
//!
//! /// A state that is nothing but its epoch.
//! #[derive(Default)]
//! struct Epoch {
//!     now: Mutex<u32>,
//!     snapshot: Mutex<Option<u32>>,
//! }
//!
//! impl StateMachine for Epoch {
//!     fn apply(&self, entry: &Entry) -> Verdict {
//!         let mut now = self.now.lock();
//!         match entry {
//!             Entry::EpochStart(start) if start.epoch == *now + 1 => {
//!                 *now = start.epoch;
//!                 Verdict::Applied
//!             }
//!             _ => Verdict::NoOp,
//!         }
//!     }
//!     fn begin_snapshot(&self) -> Vec<(RecipeDigest, Component)> {
//!         *self.snapshot.lock() = Some(*self.now.lock());
//!         Vec::new()
//!     }
//!     fn snapshot_chunk(&self) -> Option<Vec<u8>> {
//!         self.snapshot.lock().take().map(|epoch| epoch.to_le_bytes().to_vec())
//!     }
//!     fn abandon_snapshot(&self) {
//!         self.snapshot.lock().take();
//!     }
//!     fn install(&self, _: &mut Components<'_>, chunks: &mut Chunks<'_>) -> Result<(), InstallError> {
//!         for chunk in chunks {
//!             let chunk = chunk?;
//!             let epoch = chunk.try_into().map_err(|_| InstallError::Content("length".into()))?;
//!             *self.now.lock() = u32::from_le_bytes(epoch);
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temporary = tempfile::tempdir()?;
//! # let directory = temporary.path().join("data");
//! let state = Arc::new(Epoch::default());
//! let server = ServerId(1);
//! let consensus = Consensus::open(Config::new(directory, server), state.clone()).await?;
//!
//! let mut leadership = consensus.leadership();
//! let term = leadership.wait_for(|now| now.leading).await?.term;
//! consensus.ready_to_lead(term).await?;
//!
//! let start = EpochStart {
//!     epoch: *state.now.lock() + 1,
//!     leader: server,
//!     incarnation: Incarnation(1),
//!     nonce: 7,
//!     time: Timestamp(0),
//!     suspect: None,
//! };
//! // Queued in the order of the calls; awaited whenever it suits.
//! let proposal = consensus.propose(term, Entry::EpochStart(start)).await?;
//! assert_eq!(proposal.await, Resolution::Applied);
//! assert_eq!(*state.now.lock(), 1);
//!
//! consensus.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod config;
mod consensus;
mod error;
mod health;
mod leadership;
mod members;
mod proposal;
mod reconfigure;
mod state_machine;

mod command;
mod components;
mod directory;
mod disk;
mod failover;
mod log;
mod machine;
mod peer;
mod raft;
mod snapshot;

#[cfg(test)]
mod tests;

pub use command::MAX_ENTRY_BYTES;
pub use config::{Config, FirstMember};
pub use consensus::{Consensus, Follower, Status};
pub use disk::{Disk, RealDisk};
pub use error::{NotLeading, OpenError, ProposeError, ReconfigureError, Stopped};
pub use health::Health;
pub use leadership::Leadership;
pub use members::Members;
pub use peer::dial::ConnectError;
pub use peer::stream::{MAX_FRAME_BYTES, PeerReceiver, PeerSender, PeerStream};
pub use peer::transport::{Opening, Socket, Tcp, Transport};
pub use proposal::{MAX_IN_FLIGHT, Proposal, Resolution};
pub use reconfigure::{CAUGHT_UP_ENTRIES, MembersChange, NewMember};
pub use snapshot::MAX_CHUNK_BYTES;
pub use state_machine::{Chunks, Components, InstallError, StateMachine, Verdict};
