//! One connection's task: its first bytes, its handshake, its requests, and the sending of its answers.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use quorate_model::acl::Identity;
use quorate_model::id::{SessionId, Zxid};
use quorate_model::request::{Operation, Password, Request};
use quorate_wire::frame::{self, FrameError};
use quorate_wire::{ConnectRequest, DecodeError, MAX_FRAME_BYTES, Reader, Record, RequestError};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

use super::Edge;
use super::frames::{self, Taken};
use super::room::{LARGE_FRAME_BYTES, LOOK_EVERY, Share, Waiting};
use crate::four_letter;
use crate::local_sessions::{Resumed, Setting};
use crate::read_only::Admission;
use crate::respond::{Connection, Kind, MAX_PENDING, MAX_PENDING_BYTES, Progress};

/// How long a client has to send its handshake, or a four-letter word.
pub(crate) const GREETING_DEADLINE: Duration = Duration::from_secs(10);

/// How long a client waits that has seen more than this server.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(1);

/// How long the leader has to answer a handshake: longer than an election takes.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(30);

/// How long the last bytes of a connection that ends may take to be sent.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(5);

/// How long a client may take none of the bytes that wait to be sent to it: as long as its session can
/// be silent. It may go on pinging all the while, so that its session alone would not end.
pub(crate) const SEND_DEADLINE: Duration = Duration::from_secs(40);

/// The longest handshake. ZooKeeper's own clients send 45 bytes.
const MAX_HANDSHAKE_BYTES: usize = 1024;

/// How long a large request may take to come, once there is room for it: it keeps others waiting. The sessions of
/// most clients end before.
pub(super) const BODY_DEADLINE: Duration = Duration::from_secs(40);

/// The least and the most that is read from a socket at once, but for a large request that there is room for; in
/// between, twice what came last.
const READ_CHUNK_BYTES: std::ops::RangeInclusive<usize> = 1024..=16_384;

/// Why a connection ended.
#[derive(Debug, Error)]
pub(super) enum End {
    /// A four-letter word was answered.
    #[error("a four-letter word was answered")]
    Word,
    /// It was closed from our side, everything having been sent.
    #[error("everything was sent")]
    Farewell,
    /// It was closed from our side.
    #[error("{0}")]
    Closed(&'static str),
    /// The client closed it.
    #[error("the client closed it")]
    Hangup,
    /// Something took too long.
    #[error("{0} took too long")]
    Late(&'static str),
    /// Neither a handshake nor a four-letter word.
    #[error("its handshake cannot be read: {0}")]
    Handshake(DecodeError),
    /// The client has seen what is not here yet.
    #[error("the client has seen transaction {0:#x}, which this server has not")]
    Behind(i64),
    /// No frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// No request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The server answers reads only, and that will not do for the client.
    #[error("the server is read-only now")]
    ReadOnly,
    /// It would open a local session, or go on with one, at a server that may show an old state.
    #[error("the server is cut off from the quorum")]
    CutOff,
    /// The server was started, and has not found a quorum yet.
    #[error("the server does not serve yet")]
    Waiting,
    /// No proof of who the client is.
    #[error("the client did not prove an identity")]
    AuthFailed,
    /// It takes nothing of what is sent to it.
    #[error("the client does not read its answers")]
    Stuck,
    /// The socket failed.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// There is no randomness for a password.
    #[error("no random bytes: {0}")]
    Randomness(getrandom::Error),
}

impl End {
    /// Whether the client sent what is no protocol of ours.
    fn is_malformed(&self) -> bool {
        matches!(self, End::Handshake(_) | End::Frame(_) | End::Request(_))
    }
}

/// Serves one connection to its end.
pub(super) async fn serve<R, W>(
    reader: R,
    writer: W,
    connection: Arc<Connection>,
    edge: &Edge,
) -> End
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let identities = connection.identities();
    let mut client = Client {
        socket: Socket {
            reader,
            writer,
            received: BytesMut::new(),
            sending: BytesMut::new(),
            chunk: *READ_CHUNK_BYTES.start(),
            stuck: Instant::now() + SEND_DEADLINE,
            silent: None,
        },
        connection,
        edge,
        large: Large::None,
        held: VecDeque::new(),
        identities,
    };
    let end = match client.converse().await {
        Err(end) => end,
        Ok(never) => match never {},
    };
    if let (Some(session), Kind::Local { .. }, Some((_, silent))) = (
        client.connection.session(),
        client.connection.kind(),
        client.socket.silent,
    ) {
        edge.local
            .leave(session, client.connection.number(), silent);
    }
    if end.is_malformed() {
        edge.metrics.connections_malformed.inc();
    }
    if let End::AuthFailed | End::Farewell | End::Word = end {
        client.farewell().await;
    }
    end
}

enum Never {}

/// How far a large request is that is the next to come, and has not come whole.
enum Large {
    /// There is none.
    None,
    /// It is not read before it has its share of the room.
    Waiting(Waiting),
    /// It is read to its end, whatever else waits, until a time.
    Coming { share: Share, until: Instant },
}

struct Client<'a, R, W> {
    socket: Socket<R, W>,
    connection: Arc<Connection>,
    edge: &'a Edge,
    large: Large,
    /// Requests behind a change of the servers that is under way, which takes long; pings overtake them. Bounded
    /// as what is pending is.
    held: VecDeque<(Bytes, Option<Share>)>,
    /// Who it has proved to be, as the connection has it too: without a lock, since it goes along with each write.
    identities: Arc<Vec<Identity>>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Client<'_, R, W> {
    async fn converse(&mut self) -> Result<Never, End> {
        match timeout(GREETING_DEADLINE, self.greet()).await {
            Ok(greeted) => greeted?,
            Err(_) => {
                self.edge.metrics.handshakes_late.inc();
                return Err(End::Late("its first request"));
            }
        }
        match timeout(HANDSHAKE_DEADLINE, self.settle_handshake()).await {
            Ok(settled) => settled?,
            Err(_) => {
                self.edge.metrics.handshakes_late.inc();
                return Err(End::Late("its handshake"));
            }
        }
        self.touch();
        loop {
            let pressed = self.take_requests()?;
            self.exchange(!pressed).await?;
        }
    }

    /// The first bytes: a four-letter word, which is answered, or a handshake, which is submitted.
    async fn greet(&mut self) -> Result<(), End> {
        while self.socket.received.len() < 4 {
            self.socket.receive().await?;
        }
        if let Some(word) = frame::four_letter_word(&self.socket.received) {
            self.edge.metrics.four_letter_words.inc();
            let answer = four_letter::answer(word, self.edge);
            self.socket.sending.extend_from_slice(answer.as_bytes());
            return Err(End::Word);
        }
        let request = loop {
            match frame::decode(&mut self.socket.received, MAX_HANDSHAKE_BYTES)? {
                Some(frame) => break ConnectRequest::decode(&mut Reader::new(&frame)),
                None => self.socket.receive().await?,
            }
        }
        .map_err(End::Handshake)?;
        self.connection.received(1);
        if self.edge.waits().is_some() {
            return Err(End::Waiting);
        }
        self.catch_up(request.last_zxid_seen).await?;
        self.submit_handshake(request)
    }

    /// A client that has seen what is not applied here yet would read the past. It comes from a server that is
    /// a moment ahead, most likely, so it waits; then it is closed, as in ZooKeeper, and tries another.
    async fn catch_up(&self, seen: i64) -> Result<(), End> {
        let zxid = Zxid(seen.max(0).cast_unsigned());
        let reached = timeout(CATCH_UP_DEADLINE, self.edge.watches.reached(zxid)).await;
        reached.map_err(|_| End::Behind(seen))
    }

    fn submit_handshake(&mut self, request: ConnectRequest) -> Result<(), End> {
        let timeout_ms = self.edge.limits.negotiate(request.timeout_ms.into());
        if self.edge.read_only.is() {
            return self.open_read_only(&request, timeout_ms);
        }
        let session = SessionId(request.session.cast_unsigned());
        let opens_local =
            session == SessionId::NONE && self.edge.limits.local_sessions != Setting::Off;
        if (opens_local || session.is_local()) && self.open_local(&request, session, timeout_ms)? {
            return Ok(());
        }
        let operation = if session == SessionId::NONE {
            Operation::OpenSession {
                timeout_ms,
                password: new_password().map_err(End::Randomness)?,
            }
        } else {
            Operation::AttachSession {
                password: given_password(&request),
                timeout_ms,
            }
        };
        let request_to_leader = Request {
            session,
            owner: Some(self.connection.owner()),
            identities: self.identities.clone(),
            operation,
        };
        let waiter = self.connection.handshake(request);
        self.edge.router.submit_held(request_to_leader, waiter);
        Ok(())
    }

    /// Here and now. Says no if the session may be a global one, of which the leader knows.
    fn open_local(
        &mut self,
        request: &ConnectRequest,
        session: SessionId,
        timeout_ms: u32,
    ) -> Result<bool, End> {
        let (connection, edge) = (&self.connection, self.edge);
        if edge.local.is_cut_off(timeout_ms) {
            return Err(End::CutOff);
        }
        let (session, password) = match session {
            SessionId::NONE => edge
                .local
                .open(connection.number())
                .map_err(End::Randomness)?,
            session => {
                let password = given_password(request);
                match edge.local.resume(session, password, connection.number()) {
                    Resumed::Unknown => return Ok(false),
                    Resumed::Refused => {
                        connection.refuse_expired(request);
                        return Ok(true);
                    }
                    Resumed::Here(None) => {}
                    Resumed::Here(Some(before)) => edge.watches.close(before, frames::MOVED),
                }
                (session, password)
            }
        };
        let kind = Kind::Local { timeout_ms };
        connection.open_here(request, session, &password, timeout_ms, kind);
        edge.watches.own_session(session, connection.number());
        self.socket.hear(Duration::from_millis(timeout_ms.into()));
        Ok(true)
    }

    /// Without a quorum, here and now.
    fn open_read_only(&mut self, request: &ConnectRequest, timeout_ms: u32) -> Result<(), End> {
        let admission = self.edge.read_only.admit(request);
        match admission.map_err(End::Randomness)? {
            Admission::Session(session, password) => {
                let kind = Kind::ReadOnly;
                self.connection
                    .open_here(request, session, &password, timeout_ms, kind);
                self.socket.hear(Duration::from_millis(timeout_ms.into()));
            }
            Admission::Expired => self.connection.refuse_expired(request),
            Admission::Refused => return Err(End::ReadOnly),
        }
        // The quorum may have come back since it was asked for.
        match self.edge.read_only.is() {
            true => Ok(()),
            false => Err(End::ReadOnly),
        }
    }

    async fn settle_handshake(&mut self) -> Result<(), End> {
        // What the client says next waits for its session. It is read all the same, within a bound, to
        // notice if the client goes: then no session is opened for it (rule S2).
        while self.connection.progress() == Progress::Opening {
            let listening = self.socket.received.len() < MAX_HANDSHAKE_BYTES;
            tokio::select! {
                () = self.connection.woken() => {}
                received = self.socket.receive(), if listening => received?,
            }
        }
        Ok(())
    }

    /// Takes the requests that are there, until too many of them wait. Says whether that is so.
    fn take_requests(&mut self) -> Result<bool, End> {
        let mut frames = 0;
        let mut pressed = true;
        if self.connection.progress() == Progress::Due {
            self.connection.answer_due(&self.edge.state);
        }
        let mut reads = frames::Reads::new(&self.edge.state);
        while self.connection.progress() == Progress::Open {
            let holding = self.connection.is_reconfiguring();
            if holding && self.holds_much() {
                break;
            }
            let held = (!holding).then(|| self.held.pop_front()).flatten();
            let (frame, share) = match held {
                Some(frame) => frame,
                None => {
                    let Some(frame) = self.next_frame()? else {
                        pressed = false;
                        break;
                    };
                    frames += 1;
                    frame
                }
            };
            if holding && !frames::is_ping(&frame) {
                self.held.push_back((frame, share));
                continue;
            }
            let context = frames::Context {
                connection: &self.connection,
                edge: self.edge,
                identities: &mut self.identities,
            };
            match frames::take(&frame, share, context, &mut reads)? {
                Taken::Done => {}
                Taken::AuthFailed => return Err(End::AuthFailed),
            }
        }
        drop(reads);
        if frames > 0 {
            self.connection.received(frames);
            self.touch();
            if self.connection.kind() == Kind::Global {
                // It may just have become one: then the leader counts its silence.
                self.socket.silent = None;
            }
        }
        Ok(pressed)
    }

    /// A sign of life of its session's client.
    fn touch(&self) {
        if let Some(session) = self.connection.session()
            && self.edge.router.touch(session)
        {
            self.connection.touch_counted_here();
        }
    }

    fn holds_much(&self) -> bool {
        let bytes: usize = self.held.iter().map(|(frame, _)| frame.len()).sum();
        self.held.len() >= MAX_PENDING || bytes >= MAX_PENDING_BYTES
    }

    /// The next frame that has come whole; with its share if it is large.
    fn next_frame(&mut self) -> Result<Option<(Bytes, Option<Share>)>, End> {
        let length = self.socket.announced();
        if length > LARGE_FRAME_BYTES
            && let Large::None = self.large
        {
            match self.edge.room.take(length) {
                Ok(share) => self.large = Large::coming(share),
                Err(waiting) => {
                    self.edge.metrics.room_waits.inc();
                    self.large = Large::Waiting(waiting);
                }
            }
        }
        if let Large::Waiting(_) = self.large {
            return Ok(None);
        }
        let frame = frame::decode(&mut self.socket.received, MAX_FRAME_BYTES)?;
        Ok(frame.map(|frame| {
            let share = match std::mem::replace(&mut self.large, Large::None) {
                Large::Coming { share, .. } => Some(share),
                Large::None | Large::Waiting(_) => None,
            };
            (frame, share)
        }))
    }

    /// Sends what there is, and waits until something comes, from the socket or from the later stages.
    async fn exchange(&mut self, reading: bool) -> Result<(), End> {
        let missing = match self.large {
            Large::None => None,
            Large::Waiting(_) => Some(0),
            Large::Coming { .. } => Some(self.socket.missing()),
        };
        let reading = missing.map_or(reading, |missing| missing > 0);
        let socket = &mut self.socket;
        let look = Instant::now() + LOOK_EVERY;
        loop {
            if socket.sending.is_empty() {
                self.connection.take_output(&mut socket.sending);
                socket.stuck = Instant::now() + SEND_DEADLINE;
            }
            match self.connection.progress() {
                Progress::Closed => {
                    let reason = self.connection.closed().unwrap_or("it was closed");
                    return Err(End::Closed(reason));
                }
                // What was taken before is sent by the farewell.
                Progress::Ending => return Err(End::Farewell),
                Progress::Due => return Ok(()),
                Progress::Opening | Progress::Open | Progress::Pressed => {}
            }
            self.edge.relieve();
            socket.prepare(missing.unwrap_or(0));
            let (waiting, until) = match &mut self.large {
                Large::None => (None, None),
                Large::Waiting(waiting) => (Some(waiting), None),
                Large::Coming { until, .. } => (None, Some(*until)),
            };
            tokio::select! {
                biased;
                sent = send(&mut socket.writer, &mut socket.sending, &self.connection),
                    if !socket.sending.is_empty() =>
                {
                    let sent = sent?;
                    if sent == 0 {
                        return Err(End::Hangup);
                    }
                    self.connection.drained(sent as u64);
                    self.edge.metrics.sent_bytes.inc_by(sent as u64);
                    socket.stuck = Instant::now() + SEND_DEADLINE;
                    if socket.sending.is_empty() {
                        self.connection.take_output(&mut socket.sending);
                        if !reading && socket.sending.is_empty() {
                            return Ok(());
                        }
                    }
                }
                received = socket.reader.read_buf(&mut socket.received), if reading => {
                    let received = received?;
                    if received == 0 {
                        return Err(End::Hangup);
                    }
                    self.edge.metrics.received_bytes.inc_by(received as u64);
                    socket.adapt(received);
                    if let Some((timeout, _)) = socket.silent {
                        socket.hear(timeout);
                    }
                    return Ok(());
                }
                () = self.connection.woken() => {
                    if !reading || !self.held.is_empty() {
                        return Ok(());
                    }
                }
                share = given(waiting) => {
                    self.large = Large::coming(share);
                    return Ok(());
                }
                () = sleep_until(look), if !reading => {
                    self.keep_waiting();
                    return Ok(());
                }
                () = sleep_until(until.unwrap_or(look)), if reading && until.is_some() => {
                    return Err(End::Late("a large request"));
                }
                () = sleep_until(socket.silent.map_or(socket.stuck, |(_, then)| then)),
                    if socket.silent.is_some() =>
                {
                    return Err(End::Late("a sign of life"));
                }
                () = sleep_until(socket.stuck), if !socket.sending.is_empty() => {
                    self.edge.metrics.connections_stuck.inc();
                    return Err(End::Stuck);
                }
            }
        }
    }

    /// It is not read from for now. Unless its client does not read either, that is none of the client's fault, and
    /// the bytes that wait in the socket are a sign of life (rule W5): there may be pings among them.
    fn keep_waiting(&mut self) {
        if let Large::Waiting(_) = self.large {
            self.edge.router.make_room();
        } else if self.connection.unsent() > 0 {
            return;
        }
        if let Some(session) = self.connection.session() {
            self.edge.router.touch(session);
        }
        if let Some((timeout, _)) = self.socket.silent {
            self.socket.hear(timeout);
        }
    }

    /// Sends what is left, within a time.
    async fn farewell(&mut self) {
        let last = async {
            loop {
                if self.socket.sending.is_empty() {
                    self.connection.take_output(&mut self.socket.sending);
                }
                let socket = &mut self.socket;
                if socket.sending.is_empty() {
                    return Ok(socket.writer.shutdown().await?);
                }
                if send(&mut socket.writer, &mut socket.sending, &self.connection).await? == 0 {
                    return Err(End::Hangup);
                }
            }
        };
        if let Ok(Err(error)) = timeout(FAREWELL_DEADLINE, last).await {
            tracing::debug!(%error, "the last bytes of a connection were not sent");
        }
    }
}

/// Sends some of it, unless the client is not to be told anything any more: the clock is looked at right before the
/// bytes go, since this process may have stood still after they were made (rule W4).
async fn send<W: AsyncWrite + Unpin>(
    writer: &mut W,
    sending: &mut BytesMut,
    connection: &Connection,
) -> Result<usize, End> {
    poll_fn(|context| {
        if !connection.may_speak() {
            return Poll::Ready(Err(End::CutOff));
        }
        let sent = ready!(Pin::new(&mut *writer).poll_write(context, sending))?;
        sending.advance(sent);
        Poll::Ready(Ok(sent))
    })
    .await
}

impl Large {
    fn coming(share: Share) -> Large {
        Large::Coming {
            share,
            until: Instant::now() + BODY_DEADLINE,
        }
    }
}

/// The share that is waited for, if one is.
async fn given(waiting: Option<&mut Waiting>) -> Share {
    match waiting {
        Some(waiting) => waiting.await,
        None => std::future::pending().await,
    }
}

struct Socket<R, W> {
    reader: R,
    writer: W,
    received: BytesMut,
    sending: BytesMut,
    /// How much to read at once.
    chunk: usize,
    /// When the client counts as stuck, if it takes nothing of what is being sent until then.
    stuck: Instant,
    /// The timeout of a session that only this server counts, and when it ends unless something is received.
    silent: Option<(Duration, Instant)>,
}

impl<R, W> Socket<R, W> {
    /// A sign of life of such a session's client.
    fn hear(&mut self, timeout: Duration) {
        self.silent = Some((timeout, Instant::now() + timeout));
    }

    /// The length of the next frame; 0 if that has not come, or is none.
    fn announced(&self) -> usize {
        let stated = self.received.first_chunk().copied();
        let length = usize::try_from(stated.map_or(0, i32::from_be_bytes)).unwrap_or(0);
        match length <= MAX_FRAME_BYTES {
            true => length,
            false => 0,
        }
    }

    /// How much of the next frame has not come.
    fn missing(&self) -> usize {
        (4 + self.announced()).saturating_sub(self.received.len())
    }
}

impl<R: AsyncRead + Unpin, W> Socket<R, W> {
    /// Waits for the client's next bytes.
    async fn receive(&mut self) -> Result<(), End> {
        self.prepare(0);
        match self.reader.read_buf(&mut self.received).await? {
            0 => Err(End::Hangup),
            _ => Ok(()),
        }
    }

    /// Makes room for the next chunk, or for all that misses of a large request; gives back what a larger one has
    /// left behind.
    fn prepare(&mut self, missing: usize) {
        if self.received.is_empty() && self.received.capacity() > 2 * self.chunk {
            self.received = BytesMut::new();
        }
        if self.received.capacity() - self.received.len() < self.chunk / 2 {
            self.received.reserve(self.chunk);
        }
        // At once, so that it takes no more than its share: a buffer that grows step by step is up to twice as large.
        if self.received.capacity() - self.received.len() < missing {
            self.received.reserve(missing);
        }
    }

    fn adapt(&mut self, received: usize) {
        let (least, most) = READ_CHUNK_BYTES.into_inner();
        self.chunk = (2 * received).next_power_of_two().clamp(least, most);
    }
}

/// What the client gives as its session's password. One of another length is none that was given, and is refused
/// as a wrong one.
fn given_password(request: &ConnectRequest) -> Password {
    Password(<[u8; 16]>::try_from(&*request.password).unwrap_or_default())
}

/// A password for a new session.
pub(crate) fn new_password() -> Result<Password, getrandom::Error> {
    let mut password = [0; 16];
    getrandom::fill(&mut password)?;
    Ok(Password(password))
}
