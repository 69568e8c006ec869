//! The leader's inbox: what the other servers' streams bring, in order and each request once (rule S1).

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use quorate_model::id::{Incarnation, Origin, ServerId};
use thiserror::Error;
use tokio::sync::{Notify, watch};

use super::{Numbered, request_bytes};

/// How many requests of other servers wait to be evaluated before no more are read from their streams.
const MAX_QUEUED: usize = 8192;

/// How many bytes of them; one larger request is taken alone.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// Requests of other servers that this one, as the leader, is to evaluate.
#[derive(Debug)]
pub struct Inbox {
    open: Mutex<Open>,
    /// The epoch in which requests are taken; none while this server does not lead.
    epoch: watch::Sender<Option<u32>>,
    /// There is something to be taken.
    arrived: Notify,
    /// Something was taken.
    room: Notify,
}

#[derive(Debug, Default)]
struct Open {
    epoch: Option<u32>,
    /// Of each server's stream, the number that comes next.
    next: HashMap<(ServerId, Incarnation), u64>,
    queue: VecDeque<Numbered>,
    bytes: usize,
}

/// A request was not taken; its stream is to begin again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum NotTaken {
    /// This server does not lead in that epoch.
    #[error("this server does not lead in epoch {0}")]
    Epoch(u32),
    /// Requests before it are missing.
    #[error("request {found} came where {expected} was expected")]
    Gap {
        /// The next one.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// No stream of this server has begun in the epoch.
    #[error("a request came before its stream had begun")]
    NotBegun,
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox {
            open: Mutex::default(),
            epoch: watch::Sender::new(None),
            arrived: Notify::new(),
            room: Notify::new(),
        }
    }
}

impl Inbox {
    /// This server leads in `epoch`: every stream begins anew.
    pub(crate) fn open(&self, epoch: u32) {
        *self.open.lock() = Open {
            epoch: Some(epoch),
            ..Open::default()
        };
        self.epoch.send_replace(Some(epoch));
    }

    /// The epoch is over.
    pub(crate) fn close(&self) {
        *self.open.lock() = Open::default();
        self.epoch.send_replace(None);
        self.room.notify_waiters();
    }

    /// The epoch in which this server leads, and every change of it.
    pub(crate) fn epoch(&self) -> watch::Receiver<Option<u32>> {
        self.epoch.subscribe()
    }

    /// A server's stream begins, or begins again over another connection. `first` is the number of the
    /// first request that it has to send; gives the one that is expected.
    pub(crate) fn begin(
        &self,
        epoch: u32,
        server: ServerId,
        incarnation: Incarnation,
        first: u64,
    ) -> Result<u64, NotTaken> {
        let mut open = self.open.lock();
        if open.epoch != Some(epoch) {
            return Err(NotTaken::Epoch(epoch));
        }
        Ok(*open.next.entry((server, incarnation)).or_insert(first))
    }

    /// Takes a request that was sent in `epoch`; waits while there is no room. One that was taken before is left aside.
    pub(crate) async fn push(&self, epoch: u32, numbered: Numbered) -> Result<(), NotTaken> {
        let bytes = request_bytes(&numbered.request);
        loop {
            let room = self.room.notified();
            {
                let mut open = self.open.lock();
                if open.epoch != Some(epoch) {
                    return Err(NotTaken::Epoch(epoch));
                }
                let fits = open.queue.is_empty() || open.bytes + bytes <= MAX_QUEUED_BYTES;
                if fits && open.queue.len() < MAX_QUEUED {
                    if open.expects(numbered.origin)? {
                        open.bytes += bytes;
                        open.queue.push_back(numbered);
                        drop(open);
                        self.arrived.notify_one();
                    }
                    return Ok(());
                }
            }
            room.await;
        }
    }

    /// At most `limit` requests, for the evaluating task.
    pub(crate) fn take(&self, limit: usize) -> Vec<Numbered> {
        let mut open = self.open.lock();
        let count = open.queue.len().min(limit);
        if count == 0 {
            return Vec::new();
        }
        let taken: Vec<Numbered> = open.queue.drain(..count).collect();
        let bytes: usize = taken
            .iter()
            .map(|numbered| request_bytes(&numbered.request))
            .sum();
        open.bytes -= bytes;
        drop(open);
        self.room.notify_waiters();
        taken
    }

    /// Waits until there may be something to take.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

impl Open {
    /// Whether it is the next one. A lower number was taken already; a gap is refused.
    fn expects(&mut self, origin: Origin) -> Result<bool, NotTaken> {
        let next = self.next.get_mut(&(origin.server, origin.incarnation));
        let next = next.ok_or(NotTaken::NotBegun)?;
        if origin.number > *next {
            return Err(NotTaken::Gap {
                expected: *next,
                found: origin.number,
            });
        }
        let expected = origin.number == *next;
        *next += u64::from(expected);
        Ok(expected)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_model::call::Acknowledgement;
    use quorate_model::id::SessionId;
    use quorate_model::request::{Operation, Request};

    use super::*;

    fn numbered(number: u64) -> Numbered {
        let request = Request {
            session: SessionId(1),
            owner: None,
            identities: Arc::default(),
            operation: Operation::Acknowledge(Acknowledgement::up_to(1)),
        };
        Numbered {
            origin: Origin {
                server: ServerId(2),
                incarnation: Incarnation(7),
                number,
            },
            request: Arc::new(request),
            lost_epochs: 0,
        }
    }

    fn begin(inbox: &Inbox, epoch: u32, first: u64) -> Result<u64, NotTaken> {
        inbox.begin(epoch, ServerId(2), Incarnation(7), first)
    }

    #[tokio::test]
    async fn s1_within_an_epoch_only_the_next_number_is_taken() {
        let inbox = Inbox::default();
        assert_eq!(
            begin(&inbox, 3, 7),
            Err(NotTaken::Epoch(3)),
            "it does not lead"
        );
        inbox.open(3);
        assert_eq!(inbox.push(3, numbered(7)).await, Err(NotTaken::NotBegun));
        assert_eq!(
            begin(&inbox, 3, 7),
            Ok(7),
            "the first states where the stream starts"
        );
        assert_eq!(inbox.push(3, numbered(7)).await, Ok(()));
        assert_eq!(inbox.push(3, numbered(8)).await, Ok(()));
        assert_eq!(
            inbox.push(3, numbered(7)).await,
            Ok(()),
            "taken already, and left aside"
        );
        let gap = NotTaken::Gap {
            expected: 9,
            found: 10,
        };
        assert_eq!(inbox.push(3, numbered(10)).await, Err(gap));
        assert_eq!(
            begin(&inbox, 3, 7),
            Ok(9),
            "another connection goes on where the first ended"
        );
        let taken = inbox.take(10);
        assert_eq!(
            taken.iter().map(|n| n.origin.number).collect::<Vec<_>>(),
            [7, 8]
        );
        inbox.open(4);
        assert_eq!(inbox.push(3, numbered(9)).await, Err(NotTaken::Epoch(3)));
        assert_eq!(begin(&inbox, 4, 20), Ok(20), "a later epoch begins anew");
    }

    #[tokio::test]
    async fn a_full_inbox_holds_its_streams_up() {
        let inbox = Inbox::default();
        inbox.open(1);
        begin(&inbox, 1, 0).unwrap();
        for number in 0..MAX_QUEUED as u64 {
            inbox.push(1, numbered(number)).await.unwrap();
        }
        let mut more = std::pin::pin!(inbox.push(1, numbered(MAX_QUEUED as u64)));
        tokio::select! {
            biased;
            _ = &mut more => panic!("there is no room"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(inbox.take(1).len(), 1);
        more.await.unwrap();
    }
}
