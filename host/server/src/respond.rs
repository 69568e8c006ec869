//! Respond: answers in the order of the requests, events in between, through one bounded buffer.
//!
//! Rule W1: a read stands between its session's writes. A read with nothing pending before it is
//! answered at once; one behind a write waits in the queue and is answered when that write settles,
//! from the state as it stands then, before the next transaction is applied. Reads that no write of
//! their session follows may be answered later, so they wait until the client has read what is there.
//!
//! A sync is a read behind a barrier (`route/barrier.rs`), as every read is where reads are to be
//! linearizable: it is answered in its turn, once the barrier is passed.

mod encode;
mod read;
mod waiters;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use quorate_model::acl::{Admitted, Identity};
use quorate_model::id::{CallId, Owner, SessionId, Zxid};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::request::Password;
use quorate_tree::{SharedState, State};
use quorate_wire::{ConnectRequest, ConnectResponse, ErrorCode, ResponseBody};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use read::{Read, SetWatches};

use crate::metrics::Metrics;
use crate::notify::{AnswerForm, Watches};
use crate::receive::{Edge, Size};
use crate::route::{Barrier, Barriers, MAX_IN_FLIGHT_BYTES, Waiter};
use crate::silence::{Lease, Silence};
use waiters::{Handshake, Upgrade, Write};

/// How many requests of one connection may wait for their answers before no more are read from its
/// socket: enough to fill an entry, and the number at which ZooKeeper begins to throttle.
pub const MAX_PENDING: usize = 1000;

/// How many bytes of such requests: far more than a client needs to keep the log busy.
pub const MAX_PENDING_BYTES: usize = 4 << 20;

/// How many reads of one connection may wait behind its writes before no more requests are taken: a
/// write that follows them must not be applied before they are answered, so they are answered together
/// however large the answers have become meanwhile. As many of a znode's largest data stay below
/// [`MAX_UNSENT_BYTES`].
pub const MAX_PENDING_READS: usize = 48;

/// How many bytes the answers to such reads may take, as the state is when they arrive.
pub const MAX_PENDING_ANSWER_BYTES: usize = 1 << 20;

/// How many bytes of requests of all connections may wait before a connection that has one waiting is not read
/// from: half of what the stream to the leader takes. [`Limits::max_outstanding_requests`](crate::receive::Limits)
/// bounds their number likewise.
const MAX_PENDING_BYTES_OF_ALL: i64 = (MAX_IN_FLIGHT_BYTES / 2).cast_signed() as i64;

/// How many bytes of answers may wait to be sent before no more requests are read from a socket.
pub const PAUSE_UNSENT_BYTES: usize = 1 << 20;

/// How many bytes may wait to be sent before the client counts as one that does not read, and is
/// closed. Far above the bound at which reading pauses, since events come without being asked for,
/// and since the reads between two writes are answered together ([`MAX_PENDING_READS`]).
pub const MAX_UNSENT_BYTES: usize = 64 << 20;

/// How many bytes of all connections may wait to be sent before no more requests are read from a socket that has
/// any unsent: whoever reads has none soon.
pub const PAUSE_UNSENT_BYTES_OF_ALL: i64 = 64 << 20;

/// How many bytes of all connections may wait to be sent before the connections that drain slowest are closed
/// ([`Room::relieve`](crate::receive::Room)); nobody is answered before. Twice as many, since each may have one
/// large answer unsent, and since events come without being asked for.
pub const MAX_UNSENT_BYTES_OF_ALL: i64 = 128 << 20;

/// The most memory that an idle connection keeps for its output.
const IDLE_OUTPUT_BYTES: usize = 4096;

/// A connection of ZooKeeper's protocol: what its answers wait in.
pub struct Connection {
    owner: Owner,
    address: SocketAddr,
    watches: Arc<Watches>,
    metrics: Arc<Metrics>,
    /// Of all connections, see [`Limits`](crate::receive::Limits).
    max_outstanding: i64,
    barriers: Arc<Barriers>,
    silence: Arc<Silence>,
    /// Until when its session is served (rule W4); none before there is one, and for a read-only one.
    lease: OnceLock<Arc<Lease>>,
    wake: Notify,
    received: AtomicU64,
    sent: AtomicU64,
    /// How many bytes its socket has taken.
    drained: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    session: Option<SessionId>,
    /// Who its client has proved to be: what it reads and is told of depends on it.
    identities: Arc<Vec<Identity>>,
    kind: Kind,
    /// What holds from the handshake on.
    phase: Phase,
    /// In the order of the requests. If it does not begin with a write, then what it begins with waits
    /// for its barrier, or for room in the output.
    pending: VecDeque<Pending>,
    /// How many bytes of requests that is.
    pending_bytes: usize,
    /// How many of them are writes.
    pending_writes: usize,
    /// How many of them are reads.
    pending_reads: usize,
    /// How many bytes the answers to those may take.
    pending_answer_bytes: usize,
    /// How many of them wait at a barrier.
    pending_barriers: usize,
    /// The last barrier that the connection has raised.
    raised: Barrier,
    /// No request is taken any more: the connection ends with the last that was.
    last_taken: bool,
    /// How many writes there have been.
    writes: u64,
    /// What the receiving task has not taken yet to send it.
    output: BytesMut,
    /// How many frames that is.
    frames: u64,
    /// What it has taken and not sent yet, in bytes.
    sending: usize,
    /// How many bytes of it all the metric counts as unsent.
    counted: usize,
    /// Since when there is something unsent, and what the socket had taken by then; as of when that was last counted.
    behind: (Instant, u64),
}

/// How fast a connection is sent what waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    /// For how long something waits.
    pub(crate) age: Duration,
    /// What its client has taken meanwhile.
    pub(crate) bytes_a_second: u64,
}

/// Who knows of a connection's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The ensemble.
    Global,
    /// This server only, and nothing is written in it.
    ReadOnly,
    /// This server only.
    Local {
        /// Its timeout.
        timeout_ms: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No answer to the handshake yet.
    Opening,
    /// Requests are answered.
    Open,
    /// To be closed once everything is sent.
    Ending,
    /// Nothing is sent any more.
    Closed(&'static str),
}

/// What waits for its turn to be answered.
enum Pending {
    Write {
        number: u64,
        xid: i32,
        form: Form,
        bytes: usize,
        since: Instant,
    },
    Read {
        xid: i32,
        read: Read,
        barrier: Barrier,
        size: Size,
        answer_bytes: usize,
        since: Instant,
    },
    /// The answer is known already, but not its turn.
    Reply {
        xid: i32,
        reply: Reply,
        bytes: usize,
    },
    /// The connection ends with the answer: to an opcode that does not exist, or to the close of a session that
    /// only this server knows.
    Last { xid: i32, reply: Reply },
}

/// The zxid of the answer to an opcode that does not exist: ZooKeeper's `UnimplementedRequestProcessor`
/// gives that of a request which no transaction was made for, -1.
const NO_ZXID: Zxid = Zxid(u64::MAX);

/// An answer that needs no state: a body, or an error for the header.
pub type Reply = Result<ResponseBody, ErrorCode>;

/// What the answer to a write looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// As its outcome says.
    Plain,
    /// A multi: a refusal tells each part its share.
    Multi {
        /// How many parts.
        parts: usize,
        /// The part that makes no sense, and what it is told. The request ends with a part in its
        /// place that is sure to fail, so an earlier one that fails is told first, as in ZooKeeper.
        malformed: Option<(usize, ErrorCode)>,
    },
    /// A call: its refusals are statuses, and a late answer may follow.
    Call {
        /// The call's key.
        key: u64,
        /// Where its recipe is mounted.
        mount: ZnodePath,
    },
    /// A call that is made by reading a path (rule C8): its result is the znode's data.
    Path {
        /// All of the path.
        path: ZnodePath,
        /// The call's key, if it has one.
        key: Option<u64>,
        /// Whether to tell of the answer, once it is there.
        watch: bool,
    },
    /// The cancellation of a call: its refusals are statuses.
    Cancel,
    /// A change of the servers, which is under way; the write behind it asks for what it has come to.
    Reconfig {
        /// What the client is told instead of the servers, if it was not made.
        failed: Option<ErrorCode>,
    },
    /// The connection is closed after the answer.
    Close,
}

impl Connection {
    /// An open connection, registered with the watches. Whoever reads from its socket calls [`Connection::finish`].
    pub fn open(owner: Owner, address: SocketAddr, edge: &Edge) -> Arc<Connection> {
        let connection = Arc::new(Connection {
            owner,
            address,
            watches: edge.watches.clone(),
            metrics: edge.metrics.clone(),
            max_outstanding: edge.limits.max_outstanding_requests.cast_signed() as i64,
            barriers: edge.router.barriers().clone(),
            silence: edge.silence.clone(),
            lease: OnceLock::new(),
            wake: Notify::new(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            drained: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                session: None,
                identities: Arc::new(edge.limits.access.identities(address.ip())),
                kind: Kind::Global,
                phase: Phase::Opening,
                pending: VecDeque::new(),
                pending_bytes: 0,
                pending_writes: 0,
                pending_reads: 0,
                pending_answer_bytes: 0,
                pending_barriers: 0,
                raised: Barrier::NONE,
                last_taken: false,
                writes: 0,
                output: BytesMut::new(),
                frames: 0,
                sending: 0,
                counted: 0,
                behind: (Instant::now(), 0),
            }),
        });
        connection.watches.register(&connection);
        connection
    }

    /// Its number at this server.
    pub fn number(&self) -> u64 {
        self.owner.connection
    }

    /// What it is as the owner of a session (rule W3).
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The client's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The session, once there is one.
    pub fn session(&self) -> Option<SessionId> {
        self.inner.lock().session
    }

    /// Who the client has proved to be.
    pub fn identities(&self) -> Arc<Vec<Identity>> {
        self.inner.lock().identities.clone()
    }

    /// The client has proved to be these. It counts for watches that it has set before, and for reads that wait.
    pub fn prove(&self, identities: Arc<Vec<Identity>>) {
        self.inner.lock().identities = identities;
    }

    /// Who knows of the session.
    pub fn kind(&self) -> Kind {
        self.inner.lock().kind
    }

    /// From now on the ensemble does.
    pub(crate) fn upgraded(&self) {
        if let Some(lease) = self.lease.get() {
            self.silence.upgrade(lease);
        }
        self.inner.lock().kind = Kind::Global;
    }

    /// Whether its client may be told anything at this moment (rule W4).
    pub(crate) fn may_speak(&self) -> bool {
        let lease = self.lease.get();
        lease.is_none_or(|lease| self.silence.serves(lease))
    }

    /// This server leads, and has counted a touch of its session.
    pub(crate) fn touch_counted_here(&self) {
        if let Some(lease) = self.lease.get() {
            self.silence.touch_counted_here(lease);
        }
    }

    /// Whether a handshake was received and is not answered.
    pub(crate) fn awaits_handshake(&self) -> bool {
        let received = self.received.load(Ordering::Relaxed) > 0;
        received && self.inner.lock().phase == Phase::Opening
    }

    /// How many requests wait, how many frames were received, how many were sent.
    pub fn traffic(&self) -> (usize, u64, u64) {
        let queued = self.inner.lock().pending.len();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (queued, load(&self.received), load(&self.sent))
    }

    /// How many bytes of answers and events wait to be sent.
    pub fn unsent(&self) -> usize {
        self.inner.lock().unsent()
    }

    /// Whoever settles the handshake's request answers the client.
    pub fn handshake(self: &Arc<Self>, request: ConnectRequest) -> Box<dyn Waiter> {
        Box::new(Handshake {
            connection: self.clone(),
            request,
            asked_ms: self.silence.now_ms(),
        })
    }

    /// Answers a handshake with a session that only this server knows.
    pub fn open_here(
        &self,
        request: &ConnectRequest,
        session: SessionId,
        password: &Password,
        timeout_ms: u32,
        kind: Kind,
    ) {
        let mut inner = self.inner.lock();
        // Even if it is closed: it is looked at to let go of the session.
        inner.session = Some(session);
        inner.kind = kind;
        if inner.is_closed() {
            return;
        }
        if let Kind::Local { timeout_ms } = kind {
            let lease = (self.silence).local_lease(session, self.number(), timeout_ms);
            self.lease.get_or_init(|| lease);
        }
        inner.phase = Phase::Open;
        waiters::welcome(
            request,
            session,
            password,
            timeout_ms,
            kind == Kind::ReadOnly,
            &mut inner.output,
        );
        inner.frames += 1;
        self.metrics.handshakes.inc();
    }

    /// Answers a handshake whose session is no more.
    pub fn refuse_expired(&self, request: &ConnectRequest) {
        let mut inner = self.inner.lock();
        if !inner.is_closed() {
            self.refuse_expired_locked(request, &mut inner);
        }
    }

    fn refuse_expired_locked(&self, request: &ConnectRequest, inner: &mut Inner) {
        ConnectResponse::expired(request).encode_frame(&mut inner.output);
        self.metrics.handshakes_expired.inc();
        inner.frames += 1;
        self.end_locked(inner);
    }

    /// Answers a read of that size, or lets it wait for the write before it and for its barrier. `state`
    /// is locked for reading.
    pub fn read(
        &self,
        state: &State,
        xid: i32,
        read: Read,
        barrier: Barrier,
        size: impl Into<Size>,
    ) {
        let mut inner = self.inner.lock();
        if inner.is_closed() || self.close_if_vacant(&mut inner, state) {
            return;
        }
        if inner.pending.is_empty() && barrier <= self.barriers.passed() {
            self.answer(&read, xid, state, &mut inner);
        } else {
            let answer_bytes = read::answer_bytes(&read, state);
            let since = Instant::now();
            let pending = Pending::Read {
                xid,
                read,
                barrier,
                size: size.into(),
                answer_bytes,
                since,
            };
            self.push(&mut inner, pending);
        }
    }

    /// Answers a request of so many bytes that needs no state, in its turn.
    pub fn reply(&self, xid: i32, reply: Reply, bytes: usize) {
        let mut inner = self.inner.lock();
        if inner.is_closed() {
            return;
        }
        if inner.pending.is_empty() {
            encode::reply(xid, self.watches.last_zxid(), reply, &mut inner.output);
            inner.frames += 1;
        } else {
            self.push(&mut inner, Pending::Reply { xid, reply, bytes });
        }
    }

    /// Answers the connection's last request, in its turn, and closes it: one whose opcode does not exist, as in
    /// ZooKeeper, or the close of its session. What is owed is answered before; no further request is taken.
    pub fn last(&self, xid: i32, reply: Reply) {
        let mut inner = self.inner.lock();
        if inner.is_closed() {
            return;
        }
        inner.last_taken = true;
        if inner.pending.is_empty() {
            self.end_with(&mut inner, xid, reply);
        } else {
            self.push(&mut inner, Pending::Last { xid, reply });
        }
    }

    /// Answers the reads that do not wait for a write or at a barrier, as long as there is room in the output.
    pub fn answer_due(&self, state: &SharedState) {
        let passed = self.barriers.passed();
        if self.inner.lock().waits(passed) {
            return;
        }
        let state = state.read();
        let mut inner = self.inner.lock();
        if !self.close_if_vacant(&mut inner, &state) {
            self.answer_waiting(&mut inner, &state, state.last_zxid(), passed);
        }
    }

    /// Whether there is no state to answer from: the connection came while a snapshot is installed (rule S3).
    fn close_if_vacant(&self, inner: &mut Inner, state: &State) -> bool {
        if state.is_vacant() {
            self.close_locked(inner, "the server installs a snapshot");
        }
        state.is_vacant()
    }

    /// Answers out of turn: pings, which wait for nothing (rule W5), and auth, as in ZooKeeper.
    pub fn reply_at_once(&self, xid: i32, reply: Reply) {
        let mut inner = self.inner.lock();
        if !inner.is_closed() {
            encode::reply(xid, self.watches.last_zxid(), reply, &mut inner.output);
            inner.frames += 1;
        }
    }

    /// A write of that size is about to be submitted: [`Connection::answer_due`] comes first, since
    /// no read before it may see it. Whoever settles it answers the client.
    pub fn write(self: &Arc<Self>, xid: i32, form: Form, size: impl Into<Size>) -> Box<dyn Waiter> {
        let size = size.into();
        let bytes = size.bytes;
        let mut inner = self.inner.lock();
        inner.writes += 1;
        let number = inner.writes;
        if !inner.is_closed() {
            let since = Instant::now();
            let pending = Pending::Write {
                number,
                xid,
                form,
                bytes,
                since,
            };
            self.push(&mut inner, pending);
        }
        Box::new(Write {
            connection: self.clone(),
            number,
            _size: size,
        })
    }

    /// Whether the request before is a change of the servers that is under way: no other is submitted meanwhile.
    pub fn is_reconfiguring(&self) -> bool {
        let inner = self.inner.lock();
        let last = inner.pending.back();
        matches!(last, Some(Pending::Write { form, .. }) if matches!(form, Form::Reconfig { .. }))
    }

    /// The change that is under way was not made.
    pub fn fail_reconfig(&self, code: ErrorCode) {
        let mut inner = self.inner.lock();
        if let Some(Pending::Write { form, .. }) = inner.pending.back_mut()
            && let Form::Reconfig { failed } = form
        {
            *failed = Some(code);
        }
    }

    /// Whoever settles the request that makes its session a global one.
    pub(crate) fn upgrade(self: &Arc<Self>) -> Box<dyn Waiter> {
        Box::new(Upgrade(self.clone()))
    }

    /// Queues a frame: an event or a late answer.
    pub fn tell(&self, frame: &[u8]) {
        self.tell_locked(&mut self.inner.lock(), frame);
    }

    /// Queues an event of a znode that these may read, if the client is one of them. Says whether it is.
    pub fn tell_reader(&self, frame: &[u8], readers: &Admitted) -> bool {
        let mut inner = self.inner.lock();
        let may_read = readers.admits(&inner.identities);
        if may_read {
            self.tell_locked(&mut inner, frame);
        }
        may_read
    }

    fn tell_locked(&self, inner: &mut Inner, frame: &[u8]) {
        if inner.phase == Phase::Open {
            inner.output.extend_from_slice(frame);
            inner.frames += 1;
            self.check_unsent(inner);
            self.wake.notify_one();
        }
    }

    /// The session has ended. Its own closeSession is answered first; else the connection is closed.
    pub fn session_ended(&self) {
        let mut inner = self.inner.lock();
        let asked_for = inner
            .pending
            .iter()
            .any(|pending| matches!(pending, Pending::Write { form, .. } if *form == Form::Close));
        if !asked_for {
            self.close_locked(&mut inner, "its session has ended");
        }
    }

    /// Closes without sending what is left.
    pub fn close(&self, reason: &'static str) {
        self.close_locked(&mut self.inner.lock(), reason);
    }

    /// Closes once everything is sent.
    pub fn end(&self) {
        self.end_locked(&mut self.inner.lock());
    }

    /// Why it was closed; none while it is open or still sends.
    pub fn closed(&self) -> Option<&'static str> {
        match self.inner.lock().phase {
            Phase::Closed(reason) => Some(reason),
            _ => None,
        }
    }

    /// The task that reads from the socket has ended: the watches die.
    pub fn finish(&self) {
        self.close("the client has gone");
        if let Some(session) = self.session() {
            self.silence.forget(session, self.number());
        }
        self.watches.forget(self);
    }

    fn end_locked(&self, inner: &mut Inner) {
        if !inner.is_closed() {
            self.forget_pending(inner);
            inner.phase = Phase::Ending;
            self.wake.notify_one();
        }
    }

    fn close_locked(&self, inner: &mut Inner, reason: &'static str) {
        if matches!(inner.phase, Phase::Closed(_)) {
            return;
        }
        self.forget_pending(inner);
        inner.phase = Phase::Closed(reason);
        // What is being sent goes with the task, at once.
        inner.output = BytesMut::new();
        inner.sending = 0;
        self.count_unsent(inner);
        self.wake.notify_one();
    }

    fn forget_pending(&self, inner: &mut Inner) {
        self.metrics
            .outstanding
            .dec_by(inner.pending.len().cast_signed() as i64);
        self.metrics
            .outstanding_bytes
            .dec_by(inner.pending_bytes.cast_signed() as i64);
        self.barriers.release(inner.pending_barriers);
        inner.pending = VecDeque::new();
        inner.pending_barriers = 0;
        inner.pending_bytes = 0;
        inner.pending_writes = 0;
        inner.pending_reads = 0;
        inner.pending_answer_bytes = 0;
    }

    fn push(&self, inner: &mut Inner, pending: Pending) {
        let bytes = pending.bytes().cast_signed() as i64;
        inner.count(&pending, usize::wrapping_add);
        self.barriers.hold(pending.barriers());
        inner.pending.push_back(pending);
        self.metrics.outstanding.inc();
        self.metrics.outstanding_bytes.inc_by(bytes);
    }

    fn pop(&self, inner: &mut Inner) -> Option<Pending> {
        let pending = inner.pending.pop_front()?;
        inner.count(&pending, usize::wrapping_sub);
        self.barriers.release(pending.barriers());
        self.metrics.outstanding.dec();
        self.metrics
            .outstanding_bytes
            .dec_by(pending.bytes().cast_signed() as i64);
        Some(pending)
    }

    /// However much all have pending, a connection with nothing pending is read from: nothing would wake it later.
    fn is_pressed(&self, inner: &Inner) -> bool {
        let crowded = || {
            self.metrics.outstanding.get() >= self.max_outstanding
                || self.metrics.outstanding_bytes.get() >= MAX_PENDING_BYTES_OF_ALL
        };
        inner.last_taken
            || self.is_behind(inner)
            || inner.pending.len() >= MAX_PENDING
            || inner.pending_reads >= MAX_PENDING_READS
            || inner.pending_answer_bytes >= MAX_PENDING_ANSWER_BYTES
            || inner.pending_bytes >= MAX_PENDING_BYTES
            || (!inner.pending.is_empty() && crowded())
    }

    fn is_due(&self, inner: &Inner, passed: Barrier) -> bool {
        !inner.waits(passed) && !self.is_behind(inner)
    }

    /// Whether nothing more is to be answered before something is sent: here, or if all have much, anywhere.
    fn is_behind(&self, inner: &Inner) -> bool {
        let of_all = self.metrics.unsent_bytes.get();
        inner.unsent() >= PAUSE_UNSENT_BYTES
            || (of_all >= PAUSE_UNSENT_BYTES_OF_ALL && inner.unsent() > 0)
            || of_all >= MAX_UNSENT_BYTES_OF_ALL
    }

    /// Has the metric count what is unsent here.
    fn count_unsent(&self, inner: &mut Inner) {
        let unsent = inner.unsent();
        let counted = std::mem::replace(&mut inner.counted, unsent);
        if counted == unsent {
            return;
        }
        if counted == 0 {
            inner.behind = (Instant::now(), self.drained.load(Ordering::Relaxed));
        }
        let more = unsent.cast_signed() - counted.cast_signed();
        self.metrics.unsent_bytes.inc_by(more as i64);
    }

    fn check_unsent(&self, inner: &mut Inner) {
        self.count_unsent(inner);
        if inner.unsent() > MAX_UNSENT_BYTES {
            self.metrics.connections_stuck.inc();
            self.close_locked(inner, "the client does not read its answers");
        }
    }
}

/// For the task that reads from the socket and writes to it.
impl Connection {
    /// Frames were received.
    pub fn received(&self, frames: u64) {
        self.received.fetch_add(frames, Ordering::Relaxed);
        self.metrics.received.inc_by(frames);
    }

    /// Returns when there may be something to send or to close, or a reason to read on.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Has that task look what there is.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Whether it has not raised this barrier before.
    pub(crate) fn raises(&self, barrier: Barrier) -> bool {
        let mut inner = self.inner.lock();
        std::mem::replace(&mut inner.raised, barrier) != barrier
    }

    /// The socket has taken so many bytes.
    pub(crate) fn drained(&self, bytes: u64) {
        self.drained.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How fast what waits is sent; none if nothing waits.
    pub(crate) fn drain(&self) -> Option<Drain> {
        let drained = self.drained.load(Ordering::Relaxed);
        let inner = self.inner.lock();
        if inner.counted == 0 {
            return None;
        }
        let (since, before) = inner.behind;
        let age = since.elapsed();
        let per_second = drained.saturating_sub(before) as f64 / age.as_secs_f64().max(0.001);
        Some(Drain {
            age,
            bytes_a_second: per_second as u64,
        })
    }

    /// Swaps what is to be sent into `sending`, which is empty. What was taken before counts as sent.
    pub fn take_output(&self, sending: &mut BytesMut) {
        debug_assert!(
            sending.is_empty(),
            "what was taken is sent before more is taken"
        );
        sending.clear();
        let mut inner = self.inner.lock();
        if inner.output.is_empty() {
            if sending.capacity() > IDLE_OUTPUT_BYTES {
                *sending = BytesMut::new();
            }
        } else {
            std::mem::swap(sending, &mut inner.output);
            let frames = std::mem::take(&mut inner.frames);
            self.sent.fetch_add(frames, Ordering::Relaxed);
            self.metrics.sent.inc_by(frames);
        }
        inner.sending = sending.len();
        self.count_unsent(&mut inner);
    }

    /// What the task has to do besides sending.
    pub fn progress(&self) -> Progress {
        let inner = self.inner.lock();
        match inner.phase {
            Phase::Opening => Progress::Opening,
            Phase::Open if self.is_due(&inner, self.barriers.passed()) => Progress::Due,
            Phase::Open if self.is_pressed(&inner) => Progress::Pressed,
            Phase::Open => Progress::Open,
            Phase::Ending => Progress::Ending,
            Phase::Closed(_) => Progress::Closed,
        }
    }
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The handshake is not answered yet: no request is read.
    Opening,
    /// Requests are read.
    Open,
    /// No more requests are read for now: too many wait, or too much is unsent.
    Pressed,
    /// Reads wait for nothing any more: [`Connection::answer_due`].
    Due,
    /// Only what is left is sent.
    Ending,
    /// Nothing is done any more.
    Closed,
}

impl Inner {
    fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Ending | Phase::Closed(_))
    }

    fn unsent(&self) -> usize {
        self.output.len() + self.sending
    }

    /// Whether nothing can be answered now, were there room for it.
    fn waits(&self, passed: Barrier) -> bool {
        match self.pending.front() {
            None | Some(Pending::Write { .. }) => true,
            Some(Pending::Read { barrier, .. }) => *barrier > passed,
            Some(Pending::Reply { .. } | Pending::Last { .. }) => false,
        }
    }

    fn count(&mut self, pending: &Pending, plus: impl Fn(usize, usize) -> usize) {
        self.pending_bytes = plus(self.pending_bytes, pending.bytes());
        self.pending_barriers = plus(self.pending_barriers, pending.barriers());
        match pending {
            Pending::Write { .. } => self.pending_writes = plus(self.pending_writes, 1),
            Pending::Read { answer_bytes, .. } => {
                self.pending_reads = plus(self.pending_reads, 1);
                self.pending_answer_bytes = plus(self.pending_answer_bytes, *answer_bytes);
            }
            Pending::Reply { .. } | Pending::Last { .. } => {}
        }
    }
}

impl Pending {
    /// How many barriers it waits at.
    fn barriers(&self) -> usize {
        match self {
            Pending::Read { barrier, .. } => usize::from(*barrier != Barrier::NONE),
            Pending::Write { .. } | Pending::Reply { .. } | Pending::Last { .. } => 0,
        }
    }

    /// How many bytes its request has.
    fn bytes(&self) -> usize {
        match self {
            Pending::Write { bytes, .. } | Pending::Reply { bytes, .. } => *bytes,
            Pending::Read { size, .. } => size.bytes,
            Pending::Last { .. } => 0,
        }
    }
}

impl Connection {
    /// Its next write is about to be applied: what stands before that is answered now (rule W1), barrier or
    /// not ([`Waiter::precede`]).
    fn precede(&self, state: &State) {
        let mut inner = self.inner.lock();
        if !inner.waits(Barrier::LAST) {
            self.answer_waiting(&mut inner, state, state.last_zxid(), Barrier::LAST);
        }
    }

    /// Answers the write, and what waited behind it up to the next.
    fn settle(&self, number: u64, state: &State, zxid: Zxid, outcome: &Outcome) {
        let mut inner = self.inner.lock();
        if inner.is_closed() {
            return;
        }
        let is_next = matches!(
            inner.pending.front(),
            Some(Pending::Write { number: next, .. }) if *next == number
        );
        let Some(Pending::Write {
            xid, form, since, ..
        }) = self.pop(&mut inner).filter(|_| is_next)
        else {
            // A defect of the stages before: rather no answer than one that the client takes for another's.
            tracing::error!(
                connection = self.number(),
                number,
                "a write settled out of order"
            );
            return self.close_locked(&mut inner, "its answers came out of order");
        };
        let took = since.elapsed();
        self.metrics.write_seconds.observe(took.as_secs_f64());
        self.metrics.latency.record(1, took);

        if matches!(outcome, Outcome::Refused(Refusal::SessionMoved)) {
            // As ZooKeeper does (its issue 710): an answer would make the client give the session up.
            return self.close_locked(&mut inner, "its session goes on over another one");
        }
        match (&form, outcome) {
            (Form::Reconfig { failed: None }, Outcome::Configuration) => {
                let (path, watch) = (ZnodePath::configuration(), false);
                self.answer(&Read::Data { path, watch }, xid, state, &mut inner);
            }
            _ => {
                encode::outcome(&form, xid, zxid, outcome, &mut inner.output);
                inner.frames += 1;
            }
        }
        if let (Form::Call { key, mount }, Outcome::Parked, Some(session)) =
            (&form, outcome, inner.session)
        {
            let call = CallId { session, key: *key };
            let form = AnswerForm::Event {
                mount: mount.clone(),
            };
            self.watches.await_call(call, form, self.number());
        }
        if let (
            Form::Path {
                path,
                key,
                watch: true,
            },
            Outcome::Parked,
            Some(session),
        ) = (&form, outcome, inner.session)
            && let Some(key) = *key
        {
            let call = CallId { session, key };
            let form = AnswerForm::Watch { path: path.clone() };
            self.watches.await_call(call, form, self.number());
        }
        let expired = matches!(outcome, Outcome::Refused(Refusal::SessionExpired));
        if form == Form::Close || expired {
            return self.end_locked(&mut inner);
        }
        self.answer_waiting(&mut inner, state, zxid, self.barriers.passed());
    }

    /// Answers what the queue begins with up to its next write or to a barrier that is not passed. If there
    /// is a write, that may be applied as soon as the state is unlocked, so all before it is answered now
    /// (rule W1), and what waits at a barrier right before it ([`Connection::precede`]). If there is none, what
    /// has no room in the output stays; no write is submitted before it is answered.
    fn answer_waiting(&self, inner: &mut Inner, state: &State, zxid: Zxid, passed: Barrier) {
        while !inner.is_closed()
            && !inner.waits(passed)
            && (inner.pending_writes > 0 || self.is_due(inner, passed))
        {
            match self.pop(inner) {
                Some(Pending::Read {
                    xid, read, since, ..
                }) => {
                    self.answer(&read, xid, state, inner);
                    self.metrics.latency.record(1, since.elapsed());
                }
                Some(Pending::Reply { xid, reply, .. }) => {
                    encode::reply(xid, zxid, reply, &mut inner.output);
                    inner.frames += 1;
                }
                Some(Pending::Last { xid, reply }) => self.end_with(inner, xid, reply),
                Some(Pending::Write { .. }) | None => {
                    unreachable!("it does not begin with a write")
                }
            }
            self.check_unsent(inner);
        }
        self.check_unsent(inner);
        self.wake.notify_one();
    }

    fn answer(&self, read: &Read, xid: i32, state: &State, inner: &mut Inner) {
        let place = read::Place {
            state,
            connection: self.number(),
            session: inner.session,
            identities: &inner.identities,
            watches: &self.watches,
        };
        place.answer(read, xid, &mut inner.output);
        inner.frames += 1;
    }

    fn end_with(&self, inner: &mut Inner, xid: i32, reply: Reply) {
        let zxid = match reply {
            Ok(_) => self.watches.last_zxid(),
            Err(_) => NO_ZXID,
        };
        encode::reply(xid, zxid, reply, &mut inner.output);
        inner.frames += 1;
        self.end_locked(inner);
    }
}

#[cfg(test)]
mod tests;
