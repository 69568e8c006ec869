//! Propose: batches go into the log in order, a few at a time; what becomes of them ends or keeps the epoch.

use std::collections::VecDeque;

use quorate_consensus::{Consensus, Proposal, Resolution};
use quorate_model::id::Zxid;
use quorate_model::write_set::Entry;

/// How many entries are in flight at once: one is being written while the next is evaluated. More would
/// only make them smaller.
const MAX_ENTRIES_IN_FLIGHT: usize = 2;

/// The epoch is over; why, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EpochLost(pub(crate) String);

/// One epoch's proposals.
pub(crate) struct Proposer {
    consensus: Consensus,
    term: u64,
    in_flight: VecDeque<(Zxid, Proposal)>,
}

impl Proposer {
    pub(crate) fn new(consensus: Consensus, term: u64) -> Proposer {
        Proposer {
            consensus,
            term,
            in_flight: VecDeque::new(),
        }
    }

    /// Whether another entry may be proposed.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight.len() < MAX_ENTRIES_IN_FLIGHT
    }

    /// Proposes an entry whose last transaction is `last`.
    pub(crate) async fn propose(&mut self, entry: Entry, last: Zxid) -> Result<(), EpochLost> {
        let proposal = self.consensus.propose(self.term, entry).await;
        let proposal = proposal.map_err(|error| EpochLost(error.to_string()))?;
        self.in_flight.push_back((last, proposal));
        Ok(())
    }

    /// Waits until the first entry in flight is applied, and gives its last transaction. Waits for
    /// ever if there is none. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Zxid, EpochLost> {
        let Some((last, proposal)) = self.in_flight.front_mut() else {
            return std::future::pending().await;
        };
        let (last, resolution) = (*last, proposal.await);
        self.in_flight.pop_front();
        match resolution {
            Resolution::Applied => Ok(last),
            Resolution::NoOp => Err(EpochLost("an entry was evaluated for another state".into())),
            Resolution::Rejected => Err(EpochLost("an entry was rejected".into())),
            Resolution::Unknown => Err(EpochLost("what became of an entry is not known".into())),
        }
    }
}
