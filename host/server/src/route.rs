//! Route: requests go to the leader over one numbered stream per server (rules S1 and S2).
//!
//! The stream lives as long as the server's process. Every committed transaction names the request
//! that it answers, so what is in flight is known; when a later epoch opens, exactly what is still in
//! flight is sent again, in order.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quorate_model::call::Acknowledgement;
use quorate_model::id::{Incarnation, Origin, Owner, ServerId, SessionId, Zxid};
use quorate_model::outcome::Outcome;
use quorate_model::request::{Operation, Request, ZnodeOperation};
use quorate_tree::State;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::evaluate::ALONE_AFTER;
use crate::expiry::Touches;

mod accept;
mod barrier;
mod forward;
mod inbox;
mod message;

pub use accept::Acceptor;
pub use barrier::{Asker, Barrier, Barriers};
pub use forward::Forwarder;
pub(crate) use forward::{ask_for_change, ask_for_look, ask_for_recipe};
pub use inbox::Inbox;

/// While so many requests are in flight, none is taken that comes by itself: over HTTP, or of the server's own. It
/// is far above what one entry takes, so that it is met only by a server that has no leader or no disk.
/// Connections are not read from instead ([`Router::submit_held`]).
pub const MAX_IN_FLIGHT: usize = 100_000;

/// The same for their bytes.
pub const MAX_IN_FLIGHT_BYTES: usize = 256 << 20;

/// So many requests in flight are looked through for such as nobody waits for any more, and then when they are
/// twice as many as were left.
const LOOK_THROUGH_FROM: usize = MAX_IN_FLIGHT / 10;

/// How often they are looked through at the most, for somebody who waits for room.
const LOOK_THROUGH_EVERY: Duration = Duration::from_millis(100);

/// Who is told what a request came to.
pub trait Waiter: Send {
    /// Whether anybody still waits: a request whose connection has closed is not sent again (rule S2).
    fn alive(&self) -> bool;

    /// Called by apply, under the state's write lock, right before the transaction: what stands before the
    /// request in its connection is to be answered now. Not called unless a read waits behind a barrier.
    fn precede(&self, _state: &State) {}

    /// Called by apply, under the state's write lock, right after the transaction's watch events were
    /// queued. Must not block.
    fn settle(self: Box<Self>, state: &State, zxid: Zxid, outcome: &Outcome);

    /// The request will not be answered; `reason` is for people. It may or may not have been executed.
    fn abandon(self: Box<Self>, reason: &str);
}

/// The server's stream to the leader. Cloning is cheap.
#[derive(Clone)]
pub struct Router(Arc<Inner>);

struct Inner {
    server: ServerId,
    /// A start of this server, or of its serving: see [`Router::restart`].
    incarnation: AtomicU64,
    connections: AtomicU64,
    touches: Arc<Touches>,
    barriers: Arc<Barriers>,
    stream: Mutex<Stream>,
    /// There are requests to be taken.
    arrived: Notify,
}

#[derive(Default)]
struct Stream {
    next_number: u64,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// What has not been taken to the leader yet; a suffix of what is in flight.
    outbox: VecDeque<Numbered>,
    /// The last epoch that opened here.
    epoch: u32,
    stopped: Option<String>,
    /// At how many in flight they are looked through next.
    look_through_at: usize,
    /// When they were last.
    looked_through: Option<Instant>,
}

struct InFlight {
    numbered: Numbered,
    bytes: usize,
    /// Whether the leader of this epoch has taken it.
    taken: bool,
    waiter: Box<dyn Waiter>,
}

/// A request in its place in the stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Numbered {
    /// Which.
    pub origin: Origin,
    /// What.
    pub request: Arc<Request>,
    /// In how many epochs it was taken that ended before it was applied (rule S5).
    pub lost_epochs: u32,
}

/// Too much is in flight: the request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("too many requests wait for the leader")]
pub struct Overloaded;

/// The request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unavailable {
    /// It was not taken.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// It may or may not have been executed.
    #[error("{0}")]
    Abandoned(String),
}

impl Router {
    /// A stream with nothing in flight.
    pub fn new(server: ServerId, incarnation: Incarnation, touches: Arc<Touches>) -> Router {
        Router(Arc::new(Inner {
            server,
            incarnation: AtomicU64::new(incarnation.0),
            connections: AtomicU64::new(0),
            touches,
            barriers: Arc::default(),
            stream: Mutex::new(Stream {
                next_number: 1,
                look_through_at: LOOK_THROUGH_FROM,
                ..Stream::default()
            }),
            arrived: Notify::new(),
        }))
    }

    /// This server.
    pub fn server(&self) -> ServerId {
        self.0.server
    }

    /// This start of it.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.0.incarnation.load(Ordering::Relaxed))
    }

    /// The number of a new connection.
    pub fn next_connection(&self) -> u64 {
        self.0.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What a connection is as the owner of a session (rule W3).
    pub fn owner(&self, connection: u64) -> Owner {
        Owner {
            server: self.0.server,
            incarnation: self.incarnation(),
            connection,
        }
    }

    /// A sign of life of a session's client (rule W5). Says whether it counts already, as this server leads.
    pub fn touch(&self, session: SessionId) -> bool {
        self.0.touches.touch(session)
    }

    /// Signs of life of sessions' clients.
    pub(crate) fn touches(&self) -> &Touches {
        &self.0.touches
    }

    /// What reads that must see the newest wait at.
    pub fn barriers(&self) -> &Arc<Barriers> {
        &self.0.barriers
    }

    /// Sends a request of no connection's. The order of calls is the order of evaluation.
    ///
    /// # Errors
    /// [`Overloaded`]; the waiter is dropped untold.
    pub fn submit(&self, request: Request, waiter: Box<dyn Waiter>) -> Result<(), Overloaded> {
        let bytes = request_bytes(&request);
        let stream = self.0.stream.lock();
        if stream.in_flight.len() >= MAX_IN_FLIGHT
            || stream.in_flight_bytes + bytes > MAX_IN_FLIGHT_BYTES
        {
            return Err(Overloaded);
        }
        self.push(stream, request, bytes, waiter);
        Ok(())
    }

    /// Sends a request of a connection, in order with the others. It is always taken: what all connections have
    /// in flight is bounded where they are read from, one request for each connection aside that is small.
    pub fn submit_held(&self, request: Request, waiter: Box<dyn Waiter>) {
        let bytes = request_bytes(&request);
        let stream = self.0.stream.lock();
        let many = stream.in_flight.len() >= stream.look_through_at;
        self.push(stream, request, bytes, waiter);
        if many {
            self.forget_dead();
        }
    }

    fn push(
        &self,
        mut stream: MutexGuard<'_, Stream>,
        request: Request,
        bytes: usize,
        waiter: Box<dyn Waiter>,
    ) {
        if let Some(reason) = &stream.stopped {
            let reason = reason.clone();
            drop(stream);
            return waiter.abandon(&reason);
        }
        let numbered = Numbered {
            origin: self.origin(stream.next_number),
            request: Arc::new(request),
            lost_epochs: 0,
        };
        stream.next_number += 1;
        stream.in_flight_bytes += bytes;
        stream.outbox.push_back(numbered.clone());
        stream.in_flight.push_back(InFlight {
            numbered,
            bytes,
            taken: false,
            waiter,
        });
        drop(stream);
        self.0.arrived.notify_one();
    }

    /// Somebody waits for room: what requests hold that nobody waits for any more is given back, from time to time.
    pub(crate) fn make_room(&self) {
        let now = Instant::now();
        {
            let mut stream = self.0.stream.lock();
            let last = stream.looked_through;
            if last.is_some_and(|then| now - then < LOOK_THROUGH_EVERY) {
                return;
            }
            stream.looked_through = Some(now);
        }
        self.forget_dead();
    }

    /// Drops requests of clients that have gone, and which no leader has been sent in this epoch: nobody has seen
    /// their numbers, so those behind take them. The end of a session stays, as it is sent by clients that go.
    fn forget_dead(&self) {
        let mut stream = self.0.stream.lock();
        let taken = stream
            .in_flight
            .partition_point(|in_flight| in_flight.taken);
        let untaken = stream.in_flight.split_off(taken);
        let sent_again = stream.outbox.len().saturating_sub(untaken.len());
        stream.outbox.truncate(sent_again);
        if let Some(first) = untaken.front() {
            stream.next_number = first.numbered.origin.number;
        }
        let mut dead = Vec::new();
        for mut in_flight in untaken {
            let ends = matches!(
                in_flight.numbered.request.operation,
                Operation::CloseSession
            );
            if !ends && !in_flight.waiter.alive() {
                stream.in_flight_bytes -= in_flight.bytes;
                dead.push(in_flight);
                continue;
            }
            in_flight.numbered.origin = self.origin(stream.next_number);
            stream.next_number += 1;
            stream.outbox.push_back(in_flight.numbered.clone());
            stream.in_flight.push_back(in_flight);
        }
        stream.look_through_at = LOOK_THROUGH_FROM.max(2 * stream.in_flight.len());
        drop(stream);
        // They give back what they hold, and wake who waits for it.
        drop(dead);
    }

    /// Sends a request and waits for what it comes to.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn ask(&self, request: Request) -> Result<(Zxid, Outcome), Unavailable> {
        let (sender, receiver) = oneshot::channel();
        self.submit(request, Box::new(Asked(sender)))?;
        match receiver.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(reason)) => Err(Unavailable::Abandoned(reason)),
            Err(_) => Err(Unavailable::Abandoned("the server is stopping".into())),
        }
    }

    /// The next transaction that is applied, if any, answers this one. A read that waits behind a barrier and
    /// before that request is answered now: the request was sent after the read had arrived, so what was
    /// acknowledged by then stands before it in the log, and is applied. Thus writes need not wait for barriers.
    pub(crate) fn precede(&self, next: Option<Origin>, state: &State) {
        let ours = |origin: &Origin| {
            origin.server == self.0.server && origin.incarnation == self.incarnation()
        };
        let Some(origin) = next.filter(ours) else {
            return;
        };
        if !self.0.barriers.hold_any() {
            return;
        }
        let stream = self.0.stream.lock();
        if let Some(first) = stream.in_flight.front()
            && first.numbered.origin == origin
        {
            first.waiter.precede(state);
        }
    }

    /// The transaction that answers `origin` is applied.
    pub(crate) fn settle(&self, origin: Origin, state: &State, zxid: Zxid, outcome: &Outcome) {
        if origin.server != self.0.server || origin.incarnation != self.incarnation() {
            return;
        }
        let mut stream = self.0.stream.lock();
        let first = stream
            .in_flight
            .front()
            .map(|in_flight| in_flight.numbered.origin);
        if first != Some(origin) {
            return;
        }
        let Some(in_flight) = stream.in_flight.pop_front() else {
            return;
        };
        stream.in_flight_bytes -= in_flight.bytes;
        drop(stream);
        in_flight.waiter.settle(state, zxid, outcome);
    }

    /// A later epoch has opened: nothing that was sent before and is not applied will ever be, so it
    /// is sent again, in order, under new numbers (rule S2).
    pub(crate) fn epoch_opened(&self, epoch: u32) {
        let mut stream = self.0.stream.lock();
        stream.epoch = epoch;
        stream.outbox.clear();
        let before = std::mem::take(&mut stream.in_flight);
        stream.in_flight_bytes = 0;
        let alive = before
            .into_iter()
            .filter(|in_flight| in_flight.waiter.alive());
        for (place, mut in_flight) in alive.enumerate() {
            // Suspects are evaluated alone and in order, so only the first of them can have been at fault.
            let suspect = in_flight.numbered.lost_epochs < ALONE_AFTER || place == 0;
            in_flight.numbered.lost_epochs += u32::from(in_flight.taken && suspect);
            in_flight.taken = false;
            in_flight.numbered.origin = self.origin(stream.next_number);
            stream.next_number += 1;
            stream.in_flight_bytes += in_flight.bytes;
            stream.outbox.push_back(in_flight.numbered.clone());
            stream.in_flight.push_back(in_flight);
        }
        drop(stream);
        self.0.arrived.notify_one();
    }

    /// Takes what has arrived, at most `limit` requests, to the leader of the epoch that it gives: here
    /// if this server leads, else over the stream to it.
    pub(crate) fn take(&self, limit: usize) -> (u32, Vec<Numbered>) {
        let mut stream = self.0.stream.lock();
        let count = stream.outbox.len().min(limit);
        let taken: Vec<Numbered> = stream.outbox.drain(..count).collect();
        let behind = stream.in_flight.len() - stream.outbox.len();
        for in_flight in stream.in_flight.range_mut(..behind).rev() {
            if std::mem::replace(&mut in_flight.taken, true) {
                break;
            }
        }
        (stream.epoch, taken)
    }

    /// The same, and at most about so many bytes, but for one larger request.
    pub(crate) fn take_bytes(&self, limit: usize, bytes: usize) -> (u32, Vec<Numbered>) {
        let fitting = {
            let stream = self.0.stream.lock();
            let sizes = stream.outbox.iter().take(limit);
            let mut sum = 0;
            let fits = |numbered: &&Numbered| {
                let first = sum == 0;
                sum += request_bytes(&numbered.request);
                first || sum <= bytes
            };
            sizes.take_while(fits).count()
        };
        self.take(fitting)
    }

    /// Waits until there may be something to take.
    pub(crate) async fn arrived(&self) {
        self.0.arrived.notified().await;
    }

    /// The epoch whose leader is sent to, and the number of the first request that it is to get.
    pub(crate) fn first(&self) -> (u32, u64) {
        let stream = self.0.stream.lock();
        let first = stream.in_flight.front();
        let first = first.map_or(stream.next_number, |first| first.numbered.origin.number);
        (stream.epoch, first)
    }

    /// A connection to the leader of `epoch` is new, and it expects request `next`: everything from there on is to be taken.
    pub(crate) fn resume(&self, epoch: u32, next: u64) {
        let mut stream = self.0.stream.lock();
        if stream.epoch != epoch {
            return;
        }
        let from = stream
            .in_flight
            .partition_point(|in_flight| in_flight.numbered.origin.number < next);
        let again = stream.in_flight.range(from..);
        stream.outbox = again.map(|in_flight| in_flight.numbered.clone()).collect();
        drop(stream);
        self.0.arrived.notify_one();
    }

    /// This server has missed what became of its requests (rule S3): they are abandoned, and it goes on as another incarnation.
    /// `epoch` is the one that it has come to.
    pub(crate) fn restart(&self, incarnation: Incarnation, epoch: u32, reason: &str) {
        let in_flight = {
            let mut stream = self.0.stream.lock();
            self.0.incarnation.store(incarnation.0, Ordering::Relaxed);
            stream.epoch = epoch;
            stream.next_number = 1;
            stream.outbox.clear();
            stream.in_flight_bytes = 0;
            std::mem::take(&mut stream.in_flight)
        };
        for in_flight in in_flight {
            in_flight.waiter.abandon(reason);
        }
    }

    /// No request is taken any more, and none in flight is answered.
    pub fn stop(&self, reason: &str) {
        let in_flight = {
            let mut stream = self.0.stream.lock();
            stream.stopped.get_or_insert_with(|| reason.to_owned());
            stream.outbox.clear();
            stream.in_flight_bytes = 0;
            std::mem::take(&mut stream.in_flight)
        };
        for in_flight in in_flight {
            in_flight.waiter.abandon(reason);
        }
    }

    /// Whose requests are in flight, and still waited for.
    pub(crate) fn sessions_in_flight(&self) -> HashSet<SessionId> {
        let stream = self.0.stream.lock();
        let waited_for = stream.in_flight.iter();
        waited_for
            .filter(|in_flight| in_flight.waiter.alive())
            .map(|in_flight| in_flight.numbered.request.session)
            .collect()
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> usize {
        self.0.stream.lock().in_flight.len()
    }

    fn origin(&self, number: u64) -> Origin {
        Origin {
            server: self.0.server,
            incarnation: self.incarnation(),
            number,
        }
    }
}

/// Somebody awaits the answer.
struct Asked(oneshot::Sender<Result<(Zxid, Outcome), String>>);

impl Waiter for Asked {
    fn alive(&self) -> bool {
        !self.0.is_closed()
    }

    fn settle(self: Box<Self>, _: &State, zxid: Zxid, outcome: &Outcome) {
        // Whoever asked may have gone away meanwhile.
        let _ = self.0.send(Ok((zxid, outcome.clone())));
    }

    fn abandon(self: Box<Self>, reason: &str) {
        let _ = self.0.send(Err(reason.to_owned()));
    }
}

/// About how many bytes a request holds on to.
fn request_bytes(request: &Request) -> usize {
    let znode = |operation: &ZnodeOperation| match operation {
        ZnodeOperation::Create { data, .. } | ZnodeOperation::Set { data, .. } => data.len(),
        _ => 0,
    };
    let list = |operation: &ZnodeOperation| match operation {
        ZnodeOperation::Create { acl, .. } | ZnodeOperation::SetAcl { acl, .. } => acl.bytes(),
        _ => 0,
    };
    let awaited = |said: &Acknowledgement| size_of_val(said.awaited());
    let identities = request.identities.iter();
    let identities: usize = identities
        .map(|one| 64 + one.scheme.len() + one.id.len())
        .sum();
    let payload = match &request.operation {
        Operation::Znode(operation) => znode(operation) + list(operation),
        Operation::Multi(operations) => operations
            .iter()
            .map(|operation| 100 + znode(operation) + list(operation))
            .sum(),
        Operation::Call(call) => call.arguments.len() + awaited(&call.acknowledged),
        Operation::Acknowledge(said) => awaited(said),
        Operation::UploadPiece { piece, .. } => piece.len(),
        _ => 0,
    };
    200 + identities + payload
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Told {
        alive: bool,
        sender: std::sync::mpsc::SyncSender<u64>,
        name: u64,
    }

    impl Waiter for Told {
        fn alive(&self) -> bool {
            self.alive
        }
        fn settle(self: Box<Self>, _: &State, _: Zxid, _: &Outcome) {
            self.sender.send(self.name).unwrap();
        }
        fn abandon(self: Box<Self>, _: &str) {
            self.sender.send(1000 + self.name).unwrap();
        }
    }

    fn request() -> Request {
        let operation = Operation::Acknowledge(Acknowledgement::up_to(1));
        Request {
            session: SessionId(1),
            owner: None,
            identities: Arc::default(),
            operation,
        }
    }

    fn router() -> Router {
        Router::new(ServerId(1), Incarnation(7), Arc::new(Touches::default()))
    }

    #[test]
    fn s1_requests_are_numbered_consecutively_and_settle_in_order() {
        let (router, state) = (router(), State::new());
        let (sender, told) = std::sync::mpsc::sync_channel(10);
        for name in 0..3 {
            let waiter = Told {
                alive: true,
                sender: sender.clone(),
                name,
            };
            router.submit(request(), Box::new(waiter)).unwrap();
        }
        let taken = router.take(2).1;
        assert_eq!(
            taken.iter().map(|n| n.origin.number).collect::<Vec<_>>(),
            [1, 2]
        );
        let outcome = Outcome::Acknowledged;
        let other = Origin {
            incarnation: Incarnation(6),
            ..taken[0].origin
        };
        router.settle(other, &state, Zxid(1), &outcome);
        router.settle(taken[0].origin, &state, Zxid(1), &outcome);
        router.settle(taken[1].origin, &state, Zxid(2), &outcome);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(router.in_flight(), 1);
        router.stop("test");
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1002]);
    }

    #[test]
    fn s2_a_later_epoch_sends_again_what_is_in_flight_and_still_wanted() {
        let (router, state) = (router(), State::new());
        let (sender, told) = std::sync::mpsc::sync_channel(10);
        for name in 0..4 {
            let waiter = Told {
                alive: name != 2,
                sender: sender.clone(),
                name,
            };
            router.submit(request(), Box::new(waiter)).unwrap();
        }
        let taken = router.take(3).1;
        let outcome = Outcome::Acknowledged;
        router.settle(taken[0].origin, &state, Zxid(1), &outcome);
        router.epoch_opened(2);
        let again = router.take(10).1;
        let shape: Vec<_> = again
            .iter()
            .map(|n| (n.origin.number, n.lost_epochs))
            .collect();
        assert_eq!(
            shape,
            [(5, 1), (6, 0)],
            "request 1 was taken, 3 was not, 2 is not wanted"
        );
        for numbered in again {
            router.settle(numbered.origin, &state, Zxid(2), &outcome);
        }
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [0, 1, 3]);
    }

    #[test]
    fn s1_requests_of_those_who_have_gone_are_forgotten_and_leave_no_gap() {
        let router = router();
        let (sender, told) = std::sync::mpsc::sync_channel(10);
        let submit = |name, alive, operation| {
            let request = Request {
                operation,
                ..request()
            };
            let sender = sender.clone();
            router.submit_held(
                request,
                Box::new(Told {
                    alive,
                    sender,
                    name,
                }),
            );
        };
        let acknowledge = || Operation::Acknowledge(Acknowledgement::up_to(1));
        submit(0, false, acknowledge());
        submit(1, true, acknowledge());
        let taken = router.take(10).1;
        submit(2, false, acknowledge());
        submit(3, true, acknowledge());
        submit(4, false, Operation::CloseSession);
        submit(5, false, acknowledge());
        router.make_room();
        assert_eq!(router.in_flight(), 4, "whose number the leader knows stays");
        submit(6, true, acknowledge());
        let more = router.take(10).1;
        let numbers = more.iter().map(|n| n.origin.number);
        assert_eq!(numbers.collect::<Vec<_>>(), [3, 4, 5]);
        for numbered in taken.iter().chain(&more) {
            router.settle(
                numbered.origin,
                &State::new(),
                Zxid(1),
                &Outcome::Acknowledged,
            );
        }
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [0, 1, 3, 4, 6]);
        assert_eq!(router.0.stream.lock().in_flight_bytes, 0);
    }

    #[test]
    fn many_requests_of_those_who_have_gone_do_not_pile_up() {
        let router = router();
        let (sender, _told) = std::sync::mpsc::sync_channel(1);
        for name in 0..3 * LOOK_THROUGH_FROM as u64 {
            let (alive, sender) = (name == 7, sender.clone());
            router.submit_held(
                request(),
                Box::new(Told {
                    alive,
                    sender,
                    name,
                }),
            );
        }
        assert!(router.in_flight() <= LOOK_THROUGH_FROM);
        router.0.stream.lock().looked_through = None;
        router.make_room();
        assert_eq!(router.in_flight(), 1);
    }

    #[test]
    fn s5_bystanders_of_a_suspect_are_not_counted_out_with_it() {
        let router = router();
        let (sender, _told) = std::sync::mpsc::sync_channel(10);
        for name in 0..3 {
            let waiter = Told {
                alive: true,
                sender: sender.clone(),
                name,
            };
            router.submit(request(), Box::new(waiter)).unwrap();
        }
        let mut lost = Vec::new();
        for epoch in 1..=4 {
            let (_, taken) = router.take(10);
            lost.push(taken.iter().map(|n| n.lost_epochs).collect::<Vec<_>>());
            router.epoch_opened(epoch);
        }
        assert_eq!(
            lost,
            [[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 2, 2]],
            "from the second on they are evaluated alone, so only the first can be at fault"
        );
    }

    #[test]
    fn s3_a_restart_abandons_what_is_in_flight_and_begins_another_stream() {
        let router = router();
        let (sender, told) = std::sync::mpsc::sync_channel(10);
        let waiter = Told {
            alive: true,
            sender,
            name: 5,
        };
        router.submit(request(), Box::new(waiter)).unwrap();
        router.restart(Incarnation(8), 3, "test");
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1005]);
        assert_eq!(router.incarnation(), Incarnation(8));
        assert_eq!(router.take(10).1.len(), 0);
        assert_eq!(router.first(), (3, 1));
    }

    #[test]
    fn s1_another_connection_goes_on_with_what_the_leader_expects() {
        let router = router();
        let (sender, _told) = std::sync::mpsc::sync_channel(10);
        for name in 0..4 {
            let waiter = Told {
                alive: true,
                sender: sender.clone(),
                name,
            };
            router.submit(request(), Box::new(waiter)).unwrap();
        }
        router.epoch_opened(1);
        assert_eq!(router.first(), (1, 5));
        assert_eq!(router.take(10).1.len(), 4);
        router.resume(1, 7);
        let numbers: Vec<u64> = router.take(10).1.iter().map(|n| n.origin.number).collect();
        assert_eq!(numbers, [7, 8]);
        router.resume(0, 5);
        assert_eq!(router.take(10).1.len(), 0, "of another epoch");
    }
}
