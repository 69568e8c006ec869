//! Proposals in flight: each gets its resolution, whatever becomes of the leader.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::{NotLeading, ProposeError};
use crate::raft::Types;
use crate::state_machine::Verdict;

/// So many proposals may be in flight. Below what openraft's own queue takes, so `propose` never waits.
pub const MAX_IN_FLIGHT: usize = 4096;

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Committed, and applied here.
    Applied,
    /// Committed, but it was not the next one: nothing changed, on any server. The epoch is over.
    NoOp,
    /// It is certainly not in the log, and never will be. The epoch is over, as entries behind it may be.
    Rejected,
    /// The lead was lost, or consensus stopped: it may yet be applied, or never.
    Unknown,
}

/// A proposal that was queued: a future of its [`Resolution`]. It never waits for ever: losing the
/// lead resolves it. Dropping it changes nothing about the entry.
#[derive(Debug)]
#[must_use = "a proposal is in the log only once it says so"]
pub struct Proposal(oneshot::Receiver<Resolution>);

impl Future for Proposal {
    type Output = Resolution;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Resolution> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|resolved| resolved.unwrap_or(Resolution::Unknown))
    }
}

/// The proposals that have no resolution yet.
///
/// openraft never gives up on a proposal of a leader that is cut off, so the watch over the lead does.
#[derive(Default)]
pub(crate) struct InFlight(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// The term in which proposals are taken.
    term: Option<u64>,
    /// The number of the first in `senders`.
    first: u64,
    senders: VecDeque<Option<oneshot::Sender<Resolution>>>,
}

impl InFlight {
    /// From now on proposals of `term` are taken, or none are. What is in flight from another becomes unknown.
    pub(crate) fn lead(&self, term: Option<u64>) {
        let mut waiting = self.0.lock();
        if waiting.term == term {
            return;
        }
        waiting.term = term;
        waiting.first += waiting.senders.len() as u64;
        for sender in waiting.senders.drain(..).flatten() {
            // Whoever dropped its proposal does not ask.
            let _ = sender.send(Resolution::Unknown);
        }
    }

    /// Takes a proposal: where its resolution comes out, and where it goes in.
    pub(crate) fn begin(
        self: &Arc<Self>,
        term: u64,
    ) -> Result<(Proposal, Reply<ClientWriteResult<Types>>), ProposeError> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.0.lock();
        if waiting.term != Some(term) {
            let reason = match waiting.term {
                Some(current) => format!("it leads in term {current}"),
                None => "another server may lead".into(),
            };
            return Err(NotLeading { term, reason }.into());
        }
        if waiting.senders.len() >= MAX_IN_FLIGHT {
            return Err(ProposeError::TooManyInFlight(MAX_IN_FLIGHT));
        }
        let number = waiting.first + waiting.senders.len() as u64;
        waiting.senders.push_back(Some(sender));
        drop(waiting);
        let ticket = Ticket {
            in_flight: self.clone(),
            number,
        };
        let reply = Reply(Box::new(move |result| ticket.resolve(resolution(&result))));
        Ok((Proposal(receiver), reply))
    }

    fn resolve(&self, number: u64, resolution: Resolution) {
        let mut waiting = self.0.lock();
        let Some(place) = number.checked_sub(waiting.first) else {
            return;
        };
        if let Some(sender) = waiting
            .senders
            .get_mut(place as usize)
            .and_then(Option::take)
        {
            let _ = sender.send(resolution);
        }
        while let Some(None) = waiting.senders.front() {
            waiting.senders.pop_front();
            waiting.first += 1;
        }
    }
}

fn resolution(result: &ClientWriteResult<Types>) -> Resolution {
    match result {
        Ok(response) => match response.data {
            Verdict::Applied => Resolution::Applied,
            Verdict::NoOp => Resolution::NoOp,
        },
        // Given before anything is appended: not the leader, not of that term, lease expired, handing over.
        Err(ClientWriteError::ForwardToLeader(_)) => Resolution::Rejected,
        Err(_) => Resolution::Unknown,
    }
}

/// Resolves its proposal; as unknown, if openraft drops it without an answer.
struct Ticket {
    in_flight: Arc<InFlight>,
    number: u64,
}

impl Ticket {
    fn resolve(self, resolution: Resolution) {
        self.in_flight.resolve(self.number, resolution);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.in_flight.resolve(self.number, Resolution::Unknown);
    }
}

/// What openraft answers a write through.
pub(crate) struct Reply<T>(Box<dyn FnOnce(T) + Send>);

impl<T: openraft::OptionalSend + 'static> Responder<Types, T> for Reply<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(mut proposal: Proposal) -> Option<Resolution> {
        proposal.0.try_recv().ok()
    }

    #[test]
    fn losing_the_lead_resolves_what_is_in_flight() {
        let in_flight = Arc::new(InFlight::default());
        assert!(in_flight.begin(1).is_err());
        in_flight.lead(Some(1));
        let (first, first_reply) = in_flight.begin(1).expect("leading");
        let (second, second_reply) = in_flight.begin(1).expect("leading");
        assert!(in_flight.begin(2).is_err());
        drop(first_reply);
        assert_eq!(now(first), Some(Resolution::Unknown));
        in_flight.lead(Some(2));
        assert_eq!(now(second), Some(Resolution::Unknown));
        let (third, third_reply) = in_flight.begin(2).expect("leading again");
        drop(second_reply);
        assert_eq!(
            now(third),
            None,
            "a late answer resolves its own proposal only"
        );
        drop(third_reply);
        assert_eq!(in_flight.0.lock().senders.len(), 0);
    }

    #[test]
    fn proposals_in_flight_are_bounded() {
        let in_flight = Arc::new(InFlight::default());
        in_flight.lead(Some(1));
        let mut all = Vec::new();
        for _ in 0..MAX_IN_FLIGHT {
            all.push(in_flight.begin(1).expect("below the bound"));
        }
        assert!(matches!(
            in_flight.begin(1),
            Err(ProposeError::TooManyInFlight(_))
        ));
        drop(all.swap_remove(0));
        assert!(in_flight.begin(1).is_ok());
    }
}
