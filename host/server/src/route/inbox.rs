//! The leader's inbox: what the other servers' streams bring, in order and each request once (rule S1).
//!
//! Servers take turns, one request each, so that one with a flood of them holds up nobody else's: when requests are
//! taken, and when streams wait for room.

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
    /// Held by the stream that puts its next request in, and waits for room if need be. Those behind have it in the order
    /// in which they came, so each stream waits for one request of every other at most.
    line: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Open {
    epoch: Option<u32>,
    /// Of each server's stream, the number that comes next.
    next: HashMap<(ServerId, Incarnation), u64>,
    /// What waits of each server that has something waiting. Of all its incarnations, as they came.
    queues: HashMap<ServerId, VecDeque<Numbered>>,
    /// Those servers, in the order of their turns.
    turns: VecDeque<ServerId>,
    /// How many requests wait in all.
    count: usize,
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
            line: tokio::sync::Mutex::new(()),
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
        let _line = self.line.lock().await;
        loop {
            let room = self.room.notified();
            {
                let mut open = self.open.lock();
                if open.epoch != Some(epoch) {
                    return Err(NotTaken::Epoch(epoch));
                }
                let fits = open.count == 0 || open.bytes + bytes <= MAX_QUEUED_BYTES;
                if fits && open.count < MAX_QUEUED {
                    if open.expects(numbered.origin)? {
                        open.put(numbered, bytes);
                        drop(open);
                        self.arrived.notify_one();
                    }
                    return Ok(());
                }
            }
            room.await;
        }
    }

    /// At most `limit` requests, for the evaluating task: one of each server in turn.
    pub(crate) fn take(&self, limit: usize) -> Vec<Numbered> {
        let mut open = self.open.lock();
        let taken: Vec<Numbered> = std::iter::from_fn(|| open.next()).take(limit).collect();
        drop(open);
        if !taken.is_empty() {
            self.room.notify_waiters();
        }
        taken
    }

    /// Waits until there may be something to take.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

impl Open {
    fn put(&mut self, numbered: Numbered, bytes: usize) {
        let server = numbered.origin.server;
        let queue = self.queues.entry(server).or_insert_with(|| {
            self.turns.push_back(server);
            VecDeque::new()
        });
        queue.push_back(numbered);
        self.count += 1;
        self.bytes += bytes;
    }

    /// The oldest request of the server whose turn it is. It has another one when all others have had theirs.
    fn next(&mut self) -> Option<Numbered> {
        let server = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&server)?;
        let numbered = queue.pop_front()?;
        match queue.is_empty() {
            true => drop(self.queues.remove(&server)),
            false => self.turns.push_back(server),
        }
        self.count -= 1;
        self.bytes -= request_bytes(&numbered.request);
        Some(numbered)
    }

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
        of(2, number)
    }

    fn of(server: u64, number: u64) -> Numbered {
        let request = Request {
            session: SessionId(1),
            owner: None,
            identities: Arc::default(),
            operation: Operation::Acknowledge(Acknowledgement::up_to(1)),
        };
        Numbered {
            origin: Origin {
                server: ServerId(server),
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

    fn taken(inbox: &Inbox, limit: usize) -> Vec<(u64, u64)> {
        let taken = inbox
            .take(limit)
            .into_iter()
            .map(|numbered| numbered.origin);
        taken
            .map(|origin| (origin.server.0, origin.number))
            .collect()
    }

    #[tokio::test]
    async fn s1_servers_take_turns_and_each_stream_keeps_its_order() {
        let inbox = Inbox::default();
        inbox.open(1);
        for server in [2, 3, 4] {
            inbox.begin(1, ServerId(server), Incarnation(7), 0).unwrap();
        }
        for number in 0..1000 {
            inbox.push(1, of(2, number)).await.unwrap();
        }
        for (server, number) in [(3, 0), (4, 0), (3, 1)] {
            inbox.push(1, of(server, number)).await.unwrap();
        }
        assert_eq!(
            taken(&inbox, 4),
            [(2, 0), (3, 0), (4, 0), (2, 1)],
            "a flood holds up nobody"
        );
        inbox.push(1, of(4, 1)).await.unwrap();
        assert_eq!(
            taken(&inbox, 4),
            [(3, 1), (2, 2), (4, 1), (2, 3)],
            "a turn does not begin anew with what is taken"
        );
        let rest = taken(&inbox, usize::MAX);
        let expected: Vec<_> = (4..1000).map(|number| (2, number)).collect();
        assert_eq!(rest, expected);
        let open = inbox.open.lock();
        assert_eq!((open.count, open.bytes, open.queues.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn while_there_is_no_room_streams_wait_in_line() {
        let inbox = Arc::new(Inbox::default());
        inbox.open(1);
        for server in [2, 3] {
            inbox.begin(1, ServerId(server), Incarnation(7), 0).unwrap();
        }
        let flood = MAX_QUEUED as u64 + 1000;
        let floods = tokio::spawn({
            let inbox = inbox.clone();
            async move {
                for number in 0..flood {
                    inbox.push(1, of(2, number)).await.unwrap();
                }
            }
        });
        while inbox.open.lock().count < MAX_QUEUED {
            tokio::task::yield_now().await;
        }
        let other = tokio::spawn({
            let inbox = inbox.clone();
            async move { inbox.push(1, of(3, 0)).await.unwrap() }
        });
        // It is in line by then.
        tokio::task::yield_now().await;
        assert_eq!(inbox.take(2).len(), 2);
        other.await.unwrap();
        assert!(!floods.is_finished());
        assert_eq!(taken(&inbox, 2), [(2, 2), (3, 0)]);
        floods.abort();
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
