//! A state to test with: the zxids that were applied, in order.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_model::id::{Incarnation, ServerId, SessionId, Timestamp, Zxid};
use quorate_model::recipe::{Component, RecipeDigest};
use quorate_model::write_set::{Batch, Entry, EpochStart, Transaction};

use crate::{
    Chunks, Components, Config, Consensus, InstallError, Leadership, Proposal, Resolution,
    StateMachine, Verdict,
};

/// Zxids in a chunk of a snapshot.
const CHUNK: usize = 4;

#[derive(Default)]
pub(super) struct Tally {
    pub(super) state: Mutex<State>,
    /// While this is locked, a snapshot's next chunk waits.
    pub(super) hold_chunks: Mutex<()>,
    /// What snapshots need beside their chunks; what was installed last needed.
    pub(super) components: Mutex<Vec<(RecipeDigest, Component)>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) applied: Vec<Zxid>,
    epoch: u32,
    counter: u32,
    /// What the snapshot that was begun still has to give.
    snapshot: Vec<Zxid>,
}

impl StateMachine for Tally {
    fn apply(&self, entry: &Entry) -> Verdict {
        let mut state = self.state.lock();
        match entry {
            Entry::EpochStart(start) if start.epoch == state.epoch + 1 => {
                state.epoch = start.epoch;
                state.counter = 0;
            }
            Entry::Transactions(batch)
                if (batch.epoch, batch.first_counter) == (state.epoch, state.counter + 1) =>
            {
                assert_ne!(batch.transactions[0].time, BOMB, "told to");
                state.counter += batch.transactions.len() as u32;
            }
            _ => return Verdict::NoOp,
        }
        let zxid = Zxid::new(state.epoch, state.counter);
        state.applied.push(zxid);
        Verdict::Applied
    }

    fn begin_snapshot(&self) -> Vec<(RecipeDigest, Component)> {
        let mut state = self.state.lock();
        state.snapshot = state.applied.clone();
        self.components.lock().clone()
    }

    fn snapshot_chunk(&self) -> Option<Vec<u8>> {
        let _held = self.hold_chunks.lock();
        let mut state = self.state.lock();
        let length = state.snapshot.len().min(CHUNK);
        let chunk: Vec<Zxid> = state.snapshot.drain(..length).collect();
        (length > 0).then(|| chunk.iter().flat_map(|zxid| zxid.0.to_le_bytes()).collect())
    }

    fn abandon_snapshot(&self) {
        self.state.lock().snapshot.clear();
    }

    fn install(
        &self,
        components: &mut Components<'_>,
        chunks: &mut Chunks<'_>,
    ) -> Result<(), InstallError> {
        *self.components.lock() = components.collect::<std::io::Result<_>>()?;
        let mut applied = Vec::new();
        for chunk in chunks {
            for zxid in chunk?.chunks(8) {
                let zxid = zxid
                    .try_into()
                    .map_err(|_| InstallError::Content("odd".into()))?;
                applied.push(Zxid(u64::from_le_bytes(zxid)));
            }
        }
        let last = applied.last().copied().unwrap_or(Zxid::ZERO);
        *self.state.lock() = State {
            applied,
            epoch: last.epoch(),
            counter: last.counter(),
            snapshot: Vec::new(),
        };
        Ok(())
    }
}

impl Tally {
    pub(super) fn applied(&self) -> Vec<Zxid> {
        self.state.lock().applied.clone()
    }
}

/// A component of so many bytes, in several pieces.
pub(super) fn component(byte: u8, bytes: usize) -> (RecipeDigest, Component) {
    let component = Component::cut(&vec![byte; bytes].into());
    (component.digest(), component)
}

/// Applying a transaction of this moment panics.
pub(super) const BOMB: Timestamp = Timestamp(u64::MAX);

/// An entry of one transaction.
pub(super) fn entry(epoch: u32, counter: u32) -> Entry {
    timed_entry(epoch, counter, Timestamp(u64::from(counter)))
}

pub(super) fn timed_entry(epoch: u32, counter: u32, time: Timestamp) -> Entry {
    Entry::Transactions(Batch {
        epoch,
        first_counter: counter,
        transactions: vec![Transaction {
            time,
            origin: None,
            session: SessionId::NONE,
            changes: Vec::new(),
            outcome: None,
        }],
    })
}

/// One server with its tally, leading an epoch.
pub(super) struct Server {
    pub(super) consensus: Consensus,
    pub(super) tally: Arc<Tally>,
    pub(super) term: u64,
    pub(super) epoch: u32,
    next: u32,
}

pub(super) const SERVER: ServerId = ServerId(1);

impl Server {
    pub(super) async fn start(dir: &Path) -> Server {
        Server::start_with(Config::new(dir, SERVER)).await
    }

    pub(super) async fn start_with(config: Config) -> Server {
        let tally = Arc::new(Tally::default());
        let consensus = Consensus::open(config, tally.clone())
            .await
            .expect("it opens");
        Server::lead(consensus, tally).await
    }

    /// Waits for the lead, and opens an epoch.
    pub(super) async fn lead(consensus: Consensus, tally: Arc<Tally>) -> Server {
        let term = leading(&consensus).await.term;
        consensus
            .ready_to_lead(term)
            .await
            .expect("nobody else is there to lead");
        let epoch = tally.state.lock().epoch + 1;
        let start = Entry::EpochStart(EpochStart {
            epoch,
            leader: SERVER,
            incarnation: Incarnation(u64::from(epoch)),
            nonce: 0,
            time: Timestamp(0),
            suspect: None,
        });
        let proposal = consensus.propose(term, start).await.expect("it leads");
        assert_eq!(proposal.await, Resolution::Applied);
        Server {
            consensus,
            tally,
            term,
            epoch,
            next: 1,
        }
    }

    /// Proposes the next entry.
    pub(super) async fn propose(&mut self) -> Proposal {
        let entry = entry(self.epoch, self.next);
        self.next += 1;
        self.consensus
            .propose(self.term, entry)
            .await
            .expect("it leads")
    }

    /// Proposes so many entries, and waits until they are applied.
    pub(super) async fn write(&mut self, count: usize) {
        let mut proposals = Vec::new();
        for _ in 0..count {
            proposals.push(self.propose().await);
        }
        for proposal in proposals {
            assert_eq!(proposal.await, Resolution::Applied);
        }
    }
}

pub(super) async fn leading(consensus: &Consensus) -> Leadership {
    let mut leadership = consensus.leadership();
    let leading = leadership
        .wait_for(|now| now.leading)
        .await
        .expect("it is being watched");
    leading.clone()
}
