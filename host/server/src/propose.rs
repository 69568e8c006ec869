//! Propose: batches go into the log in order, a few at a time; what becomes of them ends or keeps the epoch.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use quorate_consensus::{Consensus, Proposal, Resolution};
use quorate_model::id::Zxid;
use quorate_model::write_set::Entry;
use tokio::runtime::Handle;

use crate::route::Router;

/// How many entries are in flight at once: one is being written while the next is evaluated. More would
/// only make them smaller.
const MAX_ENTRIES_IN_FLIGHT: usize = 2;

/// The epoch is over; why, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EpochLost(pub(crate) String);

/// One epoch's proposals.
pub(crate) struct Proposer {
    consensus: Consensus,
    router: Router,
    runtime: Handle,
    term: u64,
    in_flight: VecDeque<(Zxid, Proposal)>,
    /// Wakes the leader's thread when a proposal is done.
    waker: Waker,
}

struct Nudge(Router);

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.0.nudge();
    }
}

impl Proposer {
    pub(crate) fn new(
        consensus: Consensus,
        router: Router,
        runtime: Handle,
        term: u64,
    ) -> Proposer {
        let waker = Waker::from(Arc::new(Nudge(router.clone())));
        Proposer {
            consensus,
            router,
            runtime,
            term,
            in_flight: VecDeque::new(),
            waker,
        }
    }

    /// Whether another entry may be proposed.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight.len() < MAX_ENTRIES_IN_FLIGHT
    }

    /// Proposes an entry whose last transaction is `last`.
    pub(crate) fn propose(&mut self, entry: Entry, last: Zxid) -> Result<(), EpochLost> {
        let proposal = self
            .runtime
            .block_on(self.consensus.propose(self.term, entry))
            .map_err(|error| EpochLost(error.to_string()))?;
        self.in_flight.push_back((last, proposal));
        Ok(())
    }

    /// The last transaction that is applied by now, if any is since the last call.
    pub(crate) fn poll(&mut self) -> Result<Option<Zxid>, EpochLost> {
        let mut applied = None;
        let mut context = Context::from_waker(&self.waker);
        while let Some((last, proposal)) = self.in_flight.front_mut() {
            let Poll::Ready(resolution) = Pin::new(proposal).poll(&mut context) else {
                break;
            };
            expect_applied(resolution)?;
            applied = Some(*last);
            self.in_flight.pop_front();
        }
        Ok(applied)
    }

    /// Waits for the first entry in flight; gives its last transaction.
    pub(crate) fn wait(&mut self) -> Result<Option<Zxid>, EpochLost> {
        let Some((last, proposal)) = self.in_flight.pop_front() else {
            return Ok(None);
        };
        expect_applied(self.runtime.block_on(proposal))?;
        Ok(Some(last))
    }
}

impl Drop for Proposer {
    fn drop(&mut self) {
        // The leader's thread may be asked for something else now.
        self.router.nudge();
    }
}

fn expect_applied(resolution: Resolution) -> Result<(), EpochLost> {
    match resolution {
        Resolution::Applied => Ok(()),
        Resolution::NoOp => Err(EpochLost("an entry was evaluated for another state".into())),
        Resolution::Rejected => Err(EpochLost("an entry was rejected".into())),
        Resolution::Unknown => Err(EpochLost("what became of an entry is not known".into())),
    }
}
