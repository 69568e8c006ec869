//! The task that holds a session: sends, matches replies in order, keeps alive, reconnects.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use quorate_wire::{
    CallRequest, CallResponse, CallStatus, ErrorCode, MAX_FRAME_BYTES, Notification, Reader,
    Record, ReplyHeader, Request, RequestBody, Response, ResponseBody, frame, opcode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::call::Keys;
use crate::client::{Proof, SessionState};
use crate::connect::{Connection, Servers, Wish};
use crate::error::ClientError;
use crate::watch::{WatchKind, Watcher, Watches};

/// How many commands wait for the task; whoever sends more waits.
pub(crate) const MAX_QUEUED_COMMANDS: usize = 1024;

/// How many requests are on their way at once; more wait.
const MAX_IN_FLIGHT: usize = 4096;

/// How many bytes may wait for the socket before no more commands are taken.
const MAX_UNSENT_BYTES: usize = 1 << 20;

/// How many commands are kept while there is no connection; more wait.
const MAX_BACKLOG: usize = 1024;

/// The longest frame that is taken from a server: the names of some million children.
const MAX_REPLY_BYTES: usize = 64 << 20;

/// The pauses between attempts to reconnect: the first, and the longest.
const RECONNECT_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long the end of the session is waited for when nobody holds the client any more.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(2);

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, ClientError>>;

/// What the server said: a body, or an error.
pub(crate) type Answer = Result<ResponseBody, Failure>;

/// How the server refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The error's.
    pub(crate) number: i32,
    /// Why; only Quorate says that, and not always.
    pub(crate) reason: Option<String>,
}

/// What a [`Client`](crate::Client) asks of its session's task.
#[derive(Debug)]
pub(crate) enum Command {
    /// A request, ended with ConnectionLost if the connection goes.
    Request {
        body: RequestBody,
        watcher: Option<Watcher>,
        reply: Reply<Answer>,
    },
    /// A call, sent again if the connection goes.
    Call {
        request: CallRequest,
        /// Its key was chosen for it, so that its answer may be acknowledged once it is here.
        automatic: bool,
        reply: Reply<CallResponse>,
    },
    /// Ends a parked call. Without a reply: nobody wants its answer either.
    Cancel {
        key: u64,
        reply: Option<Reply<CallResponse>>,
    },
    /// End the session.
    Close { reply: Reply<()> },
    /// Leave the session to its timeout.
    Abandon,
}

/// A request on its way.
struct Pending {
    xid: i32,
    opcode: i32,
    waiting: Waiting,
}

/// Who waits for a reply.
enum Waiting {
    Request {
        reply: Reply<Answer>,
        watch: Option<Watching>,
    },
    Call {
        key: u64,
    },
    Cancel {
        key: u64,
        reply: Option<Reply<CallResponse>>,
    },
    Close {
        reply: Option<Reply<()>>,
    },
}

/// A read that sets a watch if it succeeds.
struct Watching {
    path: String,
    watcher: Watcher,
    /// Which, if the znode is there.
    there: WatchKind,
    /// Which, if it is not.
    absent: Option<WatchKind>,
}

/// A call without an answer, sent or parked.
struct OpenCall {
    request: CallRequest,
    automatic: bool,
    /// Nobody wants its answer: after a reconnect it is cancelled, not repeated.
    abandoned: bool,
    replies: Vec<Reply<CallResponse>>,
}

/// Why a connection is over.
enum End {
    /// It broke, and why.
    Lost(String),
    /// On purpose.
    Closed,
}

/// A session's task.
pub(crate) struct Session {
    servers: Servers,
    /// For each server in each attempt.
    patience: Duration,
    wished_timeout_ms: i32,
    proofs: Vec<Proof>,
    commands: mpsc::Receiver<Command>,
    state: watch::Sender<SessionState>,
    keys: Arc<Mutex<Keys>>,
    id: i64,
    password: Bytes,
    timeout: Duration,
    last_zxid: i64,
    xid: i32,
    watches: Watches,
    calls: BTreeMap<u64, OpenCall>,
    /// Taken while there was no connection.
    backlog: VecDeque<Command>,
    pending: VecDeque<Pending>,
    output: BytesMut,
}

impl Session {
    pub(crate) fn new(
        servers: Servers,
        patience: Duration,
        wished_timeout_ms: i32,
        proofs: Vec<Proof>,
        commands: mpsc::Receiver<Command>,
        state: watch::Sender<SessionState>,
        keys: Arc<Mutex<Keys>>,
    ) -> Session {
        Session {
            servers,
            patience,
            wished_timeout_ms,
            proofs,
            commands,
            state,
            keys,
            id: 0,
            password: Bytes::new(),
            timeout: Duration::ZERO,
            last_zxid: 0,
            xid: 0,
            watches: Watches::default(),
            calls: BTreeMap::new(),
            backlog: VecDeque::new(),
            pending: VecDeque::new(),
            output: BytesMut::new(),
        }
    }

    /// Holds the session until it ends or nobody wants it any more.
    pub(crate) async fn run(mut self, mut connection: Connection) {
        loop {
            self.id = connection.session;
            self.password = connection.password.clone();
            self.timeout = connection.timeout;
            self.state.send_replace(SessionState::Connected);
            match self.exchange(connection).await {
                End::Closed => return self.finish(SessionState::Closed),
                End::Lost(reason) => {
                    self.state
                        .send_replace(SessionState::Disconnected { reason });
                    self.lose_in_flight();
                }
            }
            match self.reconnect().await {
                Ok(again) => connection = again,
                Err(ended) => return self.finish(ended),
            }
        }
    }

    /// Sends and receives over one connection.
    async fn exchange(&mut self, connection: Connection) -> End {
        let Connection {
            mut stream,
            mut input,
            ..
        } = connection;
        let (mut reader, mut writer) = stream.split();
        self.resume();
        // As ZooKeeper's clients do: a ping after a third of the timeout without a request, and a
        // connection is dead after two thirds without a reply.
        let ping_after = self.timeout / 3;
        let dead_after = self.timeout * 2 / 3;
        let mut tick = interval((self.timeout / 12).max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last_sent, mut last_heard) = (Instant::now(), Instant::now());
        let mut farewell: Option<Instant> = None;
        loop {
            loop {
                match frame::decode(&mut input, MAX_REPLY_BYTES) {
                    Ok(Some(frame)) => match self.receive(&frame) {
                        Ok(None) => {}
                        Ok(Some(end)) => return end,
                        Err(reason) => return End::Lost(reason),
                    },
                    Ok(None) => break,
                    Err(error) => return End::Lost(error.to_string()),
                }
            }
            let room = self.output.len() < MAX_UNSENT_BYTES && self.pending.len() < MAX_IN_FLIGHT;
            tokio::select! {
                read = reader.read_buf(&mut input) => match read {
                    Ok(0) => return End::Lost("the server closed the connection".into()),
                    Ok(_) => last_heard = Instant::now(),
                    Err(error) => return End::Lost(error.to_string()),
                },
                written = writer.write_buf(&mut self.output), if !self.output.is_empty() => {
                    match written {
                        Ok(_) => last_sent = Instant::now(),
                        Err(error) => return End::Lost(error.to_string()),
                    }
                }
                command = self.commands.recv(), if room && farewell.is_none() => match command {
                    Some(Command::Abandon) => return End::Closed,
                    Some(command) => self.send_all(command),
                    None => {
                        farewell = Some(Instant::now() + FAREWELL_PATIENCE);
                        if !self.is_closing() {
                            self.write(RequestBody::CloseSession, Waiting::Close { reply: None });
                        }
                    }
                },
                now = tick.tick() => {
                    if farewell.is_some_and(|deadline| now > deadline) {
                        return End::Closed;
                    }
                    if now - last_heard > dead_after {
                        let waited = (now - last_heard).as_secs_f64();
                        return End::Lost(format!("the server was silent for {waited:.1} s"));
                    }
                    if now - last_sent > ping_after && self.output.is_empty() {
                        let ping = Request { xid: opcode::PING_XID, body: RequestBody::Ping };
                        ping.encode_frame(&mut self.output);
                    }
                }
            }
        }
    }

    /// Whether the end of the session has been asked for.
    fn is_closing(&self) -> bool {
        let close = |pending: &Pending| matches!(pending.waiting, Waiting::Close { .. });
        self.pending.iter().any(close)
    }

    /// A new connection of the session begins: its watches, its calls, and what was asked meanwhile.
    fn resume(&mut self) {
        for body in self.watches.set_again(self.last_zxid) {
            let xid = opcode::SET_WATCHES_XID;
            Request { xid, body }.encode_frame(&mut self.output);
        }
        let calls: Vec<(u64, bool)> = self
            .calls
            .iter()
            .map(|(key, call)| (*key, call.abandoned))
            .collect();
        for (key, abandoned) in calls {
            if abandoned {
                self.write(
                    RequestBody::CancelCall { key },
                    Waiting::Cancel { key, reply: None },
                );
            } else {
                self.write_call(key);
            }
        }
        for command in std::mem::take(&mut self.backlog) {
            self.send(command);
        }
    }

    /// Sends a command and those that wait behind it, so that one write takes them all.
    fn send_all(&mut self, command: Command) {
        let abandoned = self.keys.lock().take_abandoned();
        for key in abandoned {
            self.send(Command::Cancel { key, reply: None });
        }
        self.send(command);
        while self.output.len() < MAX_UNSENT_BYTES && self.pending.len() < MAX_IN_FLIGHT {
            match self.commands.try_recv() {
                // Dealt with where the connection can be ended.
                Ok(Command::Abandon) | Err(_) => break,
                Ok(command) => self.send(command),
            }
        }
    }

    fn send(&mut self, command: Command) {
        match command {
            Command::Request {
                body,
                watcher,
                reply,
            } => {
                // Whoever has given up before anything was sent must not have it done.
                if !reply.is_closed() {
                    let watch = watcher.and_then(|watcher| watching(&body, watcher));
                    self.write(body, Waiting::Request { reply, watch });
                }
            }
            Command::Call {
                request,
                automatic,
                reply,
            } => self.send_call(request, automatic, reply),
            Command::Cancel { key, reply: None } => match self.calls.get_mut(&key) {
                Some(call) => {
                    call.abandoned = true;
                    self.write(
                        RequestBody::CancelCall { key },
                        Waiting::Cancel { key, reply: None },
                    );
                }
                None => self.keys.lock().settle(key),
            },
            Command::Cancel { key, reply } => {
                self.write(
                    RequestBody::CancelCall { key },
                    Waiting::Cancel { key, reply },
                );
            }
            Command::Close { reply } => {
                let reply = Some(reply);
                self.write(RequestBody::CloseSession, Waiting::Close { reply });
            }
            Command::Abandon => {}
        }
    }

    fn send_call(&mut self, request: CallRequest, automatic: bool, reply: Reply<CallResponse>) {
        let key = request.key;
        if reply.is_closed() {
            let mut keys = self.keys.lock();
            if automatic {
                keys.settle(key);
            } else if !self.calls.contains_key(&key) {
                keys.refuse(key);
            }
            return;
        }
        if let Some(call) = self.calls.get_mut(&key) {
            let same = call.request.mount == request.mount
                && call.request.operation == request.operation
                && call.request.arguments == request.arguments;
            if same {
                call.abandoned = false;
                call.replies.push(reply);
            } else {
                let result = format!("key {key} is used by another call: choose a new key");
                let status = CallStatus::BadCall;
                let _ = reply.send(Ok(CallResponse { status, result }));
            }
            return;
        }
        let call = OpenCall {
            request,
            automatic,
            abandoned: false,
            replies: vec![reply],
        };
        self.calls.insert(key, call);
        self.write_call(key);
    }

    fn write_call(&mut self, key: u64) {
        let acknowledged = self.keys.lock().acknowledgement();
        if let Some(call) = self.calls.get_mut(&key) {
            call.request.acknowledged = acknowledged;
            let body = RequestBody::Call(call.request.clone());
            self.write(body, Waiting::Call { key });
        }
    }

    /// Puts a request behind the others.
    fn write(&mut self, body: RequestBody, waiting: Waiting) {
        // ZooKeeper's clients count from 1; the negative numbers are reserved.
        self.xid = if self.xid == i32::MAX {
            1
        } else {
            self.xid + 1
        };
        let (xid, opcode) = (self.xid, body.opcode());
        let start = self.output.len();
        Request { xid, body }.encode_frame(&mut self.output);
        let bytes = self.output.len() - start - 4;
        if bytes > MAX_FRAME_BYTES {
            // A server would close the connection over it.
            self.output.truncate(start);
            let limit = MAX_FRAME_BYTES;
            return self.settle(waiting, Err(ClientError::TooLarge { bytes, limit }));
        }
        self.pending.push_back(Pending {
            xid,
            opcode,
            waiting,
        });
    }

    /// Takes a frame. An error says how the server broke the protocol.
    fn receive(&mut self, frame: &[u8]) -> Result<Option<End>, String> {
        let header =
            ReplyHeader::decode(&mut Reader::new(frame)).map_err(|error| error.to_string())?;
        match header.xid {
            opcode::PING_XID | opcode::SET_WATCHES_XID | opcode::AUTH_XID => return Ok(None),
            opcode::NOTIFICATION_XID => {
                match Notification::decode(frame).map_err(|error| error.to_string())? {
                    Notification::Watch(event) => self.watches.fire(event),
                    Notification::Answer { key, response, .. } => self.end_call(key, Ok(response)),
                }
                return Ok(None);
            }
            _ => {}
        }
        let Some(pending) = self.pending.pop_front() else {
            return Err("it answered what was not asked".into());
        };
        if pending.xid != header.xid {
            let message = format!("it answered request {} before {}", header.xid, pending.xid);
            self.settle(pending.waiting, Err(ClientError::ConnectionLost));
            return Err(message);
        }
        // ZooKeeper puts -1 where it did not look.
        self.last_zxid = self.last_zxid.max(header.zxid.0.cast_signed());
        let closing = matches!(pending.waiting, Waiting::Close { .. });
        let answer = match Response::decode(pending.opcode, frame) {
            Ok(response) if header.error == 0 => Ok(Ok(response.body)),
            Ok(response) => Ok(Err(Failure {
                number: header.error,
                reason: match response.body {
                    ResponseBody::Reason(reason) => Some(reason),
                    _ => None,
                },
            })),
            Err(error) => Err(ClientError::Protocol(error.to_string())),
        };
        self.settle(pending.waiting, answer);
        Ok(closing.then_some(End::Closed))
    }

    /// Tells whoever waits. That nobody does any more is no error.
    fn settle(&mut self, waiting: Waiting, answer: Result<Answer, ClientError>) {
        match waiting {
            Waiting::Request { reply, watch } => {
                if let Some(watch) = watch
                    && let Some(kind) = watch.kind(&answer)
                {
                    self.watches.add(kind, watch.path, watch.watcher);
                }
                let _ = reply.send(answer);
            }
            Waiting::Call { key } => self.end_call(key, call_response(answer)),
            Waiting::Cancel { key, reply: None } => {
                let response = call_response(answer);
                if !matches!(&response, Err(ClientError::ConnectionLost)) {
                    self.end_call(key, response);
                    self.keys.lock().settle(key);
                }
            }
            Waiting::Cancel {
                key,
                reply: Some(reply),
            } => {
                let response = call_response(answer);
                // What the cancellation learnt is what the call itself has come to; unless the server
                // does not know the call.
                if matches!(&response, Ok(response) if response.status != CallStatus::BadCall) {
                    self.end_call(key, response.clone());
                }
                let _ = reply.send(response);
            }
            Waiting::Close { reply } => {
                if let Some(reply) = reply {
                    let _ = reply.send(answer.map(|_| ()));
                }
            }
        }
    }

    /// A call has an answer: its last one, unless it is parked now.
    fn end_call(&mut self, key: u64, response: Result<CallResponse, ClientError>) {
        if matches!(&response, Ok(response) if response.status == CallStatus::Parked) {
            self.keys.lock().know(key);
            return;
        }
        let Some(call) = self.calls.remove(&key) else {
            return;
        };
        // A call that is not ready is repeated, with its key if the caller chose that one.
        let status = response.as_ref().map(|response| response.status);
        {
            let mut keys = self.keys.lock();
            match status {
                _ if call.automatic => keys.settle(key),
                Ok(CallStatus::NotReady) => {}
                Ok(CallStatus::BadCall) => keys.refuse(key),
                Ok(_) => keys.know(key),
                Err(_) => keys.refuse(key),
            }
        }
        let mut heard = false;
        for reply in call.replies {
            heard |= reply.send(response.clone()).is_ok();
        }
        if !heard && status == Ok(CallStatus::NotReady) {
            self.keys.lock().refuse(key);
        }
    }

    /// What was on its way may or may not have been done. Calls and cancellations are safe to repeat.
    fn lose_in_flight(&mut self) {
        self.output.clear();
        for pending in std::mem::take(&mut self.pending) {
            match pending.waiting {
                Waiting::Call { .. } | Waiting::Cancel { reply: None, .. } => {}
                Waiting::Cancel { key, reply } => {
                    self.backlog.push_back(Command::Cancel { key, reply });
                }
                waiting => self.settle(waiting, Err(ClientError::ConnectionLost)),
            }
        }
    }

    /// Tries the servers in turn until one takes the session, or says that it has expired, or nobody
    /// wants it any more.
    async fn reconnect(&mut self) -> Result<Connection, SessionState> {
        let (mut pause, longest_pause) = RECONNECT_PAUSES;
        let mut orphaned = false;
        loop {
            self.backlog.retain(is_wanted);
            let wish = Wish {
                last_zxid_seen: self.last_zxid,
                timeout_ms: self.wished_timeout_ms,
                session: self.id,
                password: self.password.clone(),
                proofs: self.proofs.clone(),
            };
            let (servers, patience) = (&mut self.servers, self.patience.min(self.timeout));
            let rest = pause;
            let attempt = async {
                let result = servers.connect(&wish, patience).await;
                if matches!(&result, Err(error) if *error != ClientError::SessionExpired) {
                    sleep(rest).await;
                }
                result
            };
            tokio::pin!(attempt);
            loop {
                // The last handle may have gone with a request to close, which somebody still waits for.
                if orphaned && !self.backlog.iter().any(is_wanted_close) {
                    return Err(SessionState::Closed);
                }
                let room = self.backlog.len() < MAX_BACKLOG;
                tokio::select! {
                    result = &mut attempt => match result {
                        Ok(connection) => return Ok(connection),
                        Err(ClientError::SessionExpired) => return Err(SessionState::Expired),
                        Err(_) => break,
                    },
                    command = self.commands.recv(), if room && !orphaned => match command {
                        Some(Command::Abandon) => return Err(SessionState::Closed),
                        Some(command) => self.backlog.push_back(command),
                        None => orphaned = true,
                    },
                }
            }
            pause = (pause * 2).min(longest_pause);
        }
    }

    /// The session is over, as `state` says.
    fn finish(mut self, state: SessionState) {
        let error = state.error().unwrap_or(ClientError::Closed);
        self.state.send_replace(state);
        self.commands.close();
        self.watches.fail(&error);
        for call in std::mem::take(&mut self.calls).into_values() {
            for reply in call.replies {
                let _ = reply.send(Err(error.clone()));
            }
        }
        let pending = std::mem::take(&mut self.pending);
        for pending in pending {
            self.settle(pending.waiting, Err(error.clone()));
        }
        let backlog = std::mem::take(&mut self.backlog).into_iter();
        let queued = std::iter::from_fn(|| self.commands.try_recv().ok());
        for command in backlog.chain(queued) {
            match command {
                Command::Request { reply, .. } => drop(reply.send(Err(error.clone()))),
                Command::Call { reply, .. } => drop(reply.send(Err(error.clone()))),
                Command::Cancel { reply, .. } => {
                    drop(reply.map(|reply| reply.send(Err(error.clone()))));
                }
                Command::Close { reply } => drop(reply.send(Err(error.clone()))),
                Command::Abandon => {}
            }
        }
    }
}

/// Whether somebody still waits for it.
fn is_wanted(command: &Command) -> bool {
    match command {
        Command::Request { reply, .. } => !reply.is_closed(),
        Command::Close { reply } => !reply.is_closed(),
        // They settle keys even if nobody waits.
        Command::Call { .. } | Command::Cancel { .. } | Command::Abandon => true,
    }
}

/// Whether it is the end of the session, and somebody waits for it.
fn is_wanted_close(command: &Command) -> bool {
    matches!(command, Command::Close { .. }) && is_wanted(command)
}

/// What `watcher` will watch once the read is answered.
fn watching(body: &RequestBody, watcher: Watcher) -> Option<Watching> {
    let (path, there, absent) = match body {
        RequestBody::Exists { path, .. } => (path, WatchKind::Data, Some(WatchKind::Exist)),
        RequestBody::GetData { path, .. } => (path, WatchKind::Data, None),
        RequestBody::GetChildren2 { path, .. } => (path, WatchKind::Child, None),
        _ => return None,
    };
    Some(Watching {
        path: path.clone(),
        watcher,
        there,
        absent,
    })
}

impl Watching {
    /// Which watch the server has set, going by its answer.
    fn kind(&self, answer: &Result<Answer, ClientError>) -> Option<WatchKind> {
        match answer {
            Ok(Ok(_)) => Some(self.there),
            Ok(Err(failure)) if failure.number == ErrorCode::NoNode.number() => self.absent,
            _ => None,
        }
    }
}

/// A call's answer, or the session's error.
fn call_response(answer: Result<Answer, ClientError>) -> Result<CallResponse, ClientError> {
    match answer? {
        Ok(ResponseBody::Call(response)) => Ok(response),
        Ok(other) => Err(ClientError::Protocol(format!(
            "a call was answered with {other:?}"
        ))),
        Err(failure) => Err(session_error(failure.number)),
    }
}

/// An error that is about the session or the server, not about a znode.
pub(crate) fn session_error(number: i32) -> ClientError {
    match ErrorCode::from_number(number) {
        Some(ErrorCode::SessionExpired) => ClientError::SessionExpired,
        Some(ErrorCode::SessionMoved) => ClientError::SessionMoved,
        Some(ErrorCode::ConnectionLoss) => ClientError::ConnectionLost,
        Some(ErrorCode::Unimplemented) => ClientError::NoCalls,
        Some(code) => ClientError::Protocol(format!("it answered {code}")),
        None => ClientError::Protocol(format!("it answered with the unknown error {number}")),
    }
}
