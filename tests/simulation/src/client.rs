//! A client: one session over ZooKeeper's protocol, which it takes from server to server.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_model::id::Zxid;
use quorate_wire::request::SetWatches;
use quorate_wire::{
    CallResponse, ConnectRequest, ConnectResponse, MAX_FRAME_BYTES, Notification, Reader,
    Record as _, ReplyHeader, Request, RequestBody, Response, ResponseBody, frame, opcode,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};
use turmoil::net::TcpStream;

use crate::server::{CLIENT_PORT, name};

pub mod calls;
pub mod watches;

use watches::{Asked, Watches};

/// The session's timeout, in milliseconds.
const TIMEOUT_MS: i32 = 3_000;

/// A connection over which nothing comes for so long has gone.
const SILENCE: Duration = Duration::from_millis(2_000);

/// Between two signs of life.
const PING_EVERY: Duration = Duration::from_millis(700);

/// Before another server is tried.
const RETRY: Duration = Duration::from_millis(50);

const SESSION_EXPIRED: i32 = -112;

/// The session has ended, and whatever it asked for last may or may not have been done.
#[derive(Debug)]
pub struct Expired;

/// The connection was lost, and whatever it asked for may or may not have been done.
#[derive(Debug)]
pub enum Lost {
    /// The session may go on.
    Connection,
    /// It has ended.
    Session,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As of when.
    pub zxid: Zxid,
    /// 0, or ZooKeeper's number of an error.
    pub error: i32,
    /// The rest.
    pub body: ResponseBody,
}

/// A client.
pub struct Client {
    /// To which it connects.
    servers: Vec<u64>,
    session: i64,
    password: Bytes,
    /// The last transaction that it has seen.
    seen: i64,
    /// The last one of which it was told everything.
    told: Zxid,
    xid: i32,
    key: u64,
    link: Option<Link>,
    random: fastrand::Rng,
    late: BTreeMap<u64, (Zxid, CallResponse)>,
    watches: Watches,
}

struct Link {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Client {
    /// A client of these servers, that has not connected yet.
    pub fn new(servers: Vec<u64>, seed: u64) -> Client {
        Client {
            servers,
            session: 0,
            password: Bytes::from_static(&[0; 16]),
            seen: 0,
            told: Zxid::ZERO,
            xid: 0,
            key: 0,
            link: None,
            random: fastrand::Rng::with_seed(seed),
            late: BTreeMap::new(),
            watches: Watches::default(),
        }
    }

    /// Its session.
    pub fn session(&self) -> u64 {
        self.session.cast_unsigned()
    }

    /// Random numbers, for what it does.
    pub fn random(&mut self) -> &mut fastrand::Rng {
        &mut self.random
    }

    /// What it watches.
    pub fn watches(&mut self) -> &mut Watches {
        &mut self.watches
    }

    /// Closes the connection without a word.
    pub fn hang_up(&mut self) {
        self.link = None;
        self.watches.interrupted();
    }

    /// Begins a new session with the next connection.
    pub fn forget_session(&mut self) {
        self.hang_up();
        self.watches.forget();
        self.session = 0;
        self.password = Bytes::from_static(&[0; 16]);
        self.key = 0;
        self.late.clear();
    }

    /// Connects to some server, if there is no connection.
    pub async fn connected(&mut self) -> Result<(), Expired> {
        while self.link.is_none() {
            let server = self.servers[self.random.usize(..self.servers.len())];
            match timeout(SILENCE, self.connect(server)).await {
                Ok(Ok(())) => {}
                Ok(Err(Some(expired))) => {
                    self.forget_session();
                    return Err(expired);
                }
                Ok(Err(None)) | Err(_) => {
                    self.hang_up();
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        Ok(())
    }

    async fn connect(&mut self, server: u64) -> Result<(), Option<Expired>> {
        let stream = TcpStream::connect((name(server), CLIENT_PORT)).await;
        let mut link = Link {
            stream: stream.map_err(|_| None)?,
            buffer: BytesMut::new(),
        };
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: self.seen,
            timeout_ms: TIMEOUT_MS,
            session: self.session,
            password: self.password.clone(),
            read_only: Some(false),
        };
        let mut out = BytesMut::new();
        request.encode_frame(&mut out);
        link.stream.write_all(&out).await.map_err(|_| None)?;
        let answer = link.next().await.map_err(|_| None)?;
        let answer = ConnectResponse::decode(&mut Reader::new(&answer)).map_err(|_| None)?;
        if answer.timeout_ms == 0 {
            return Err(Some(Expired));
        }
        self.session = answer.session;
        self.password = answer.password;
        if let Some(watches) = self.watches.unset(self.told) {
            self.set_watches(&mut link, watches)
                .await
                .map_err(|_| None)?;
        }
        self.link = Some(link);
        Ok(())
    }

    /// Has watches set in a new connection, before anything else.
    async fn set_watches(&mut self, link: &mut Link, watches: SetWatches) -> io::Result<()> {
        let request = Request {
            xid: opcode::SET_WATCHES_XID,
            body: RequestBody::SetWatches(watches),
        };
        let mut out = BytesMut::new();
        request.encode_frame(&mut out);
        link.stream.write_all(&out).await?;
        loop {
            let frame = link.next().await?;
            let header = self.header(&frame);
            let header = header.map_err(|_| io::Error::other("an answer is wanted"))?;
            if header.xid == opcode::SET_WATCHES_XID {
                if header.error != 0 {
                    return Err(io::Error::other("the watches were not set"));
                }
                self.watches.were_set(header.zxid);
                return Ok(());
            }
        }
    }

    /// Asks for several things at once, in order; the answers, as many as came before the connection was lost.
    pub async fn ask_all(&mut self, bodies: Vec<RequestBody>) -> (Vec<Answer>, Result<(), Lost>) {
        let mut answers = Vec::new();
        let ended = self.ask_into(bodies, &mut answers).await;
        if ended.is_err() {
            self.hang_up();
        }
        (answers, ended)
    }

    async fn ask_into(
        &mut self,
        bodies: Vec<RequestBody>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), Lost> {
        self.connected().await.map_err(|Expired| Lost::Session)?;
        let mut out = BytesMut::new();
        let first = self.xid + 1;
        let asked = bodies.iter().map(|body| (body.opcode(), Asked::of(body)));
        let asked: Vec<(i32, Option<Asked>)> = asked.collect();
        for body in bodies {
            self.xid += 1;
            let request = Request {
                xid: self.xid,
                body,
            };
            request.encode_frame(&mut out);
        }
        let link = self.link.as_mut().ok_or(Lost::Connection)?;
        let sent = link.stream.write_all(&out).await;
        sent.map_err(|_| Lost::Connection)?;
        for (xid, (opcode, watch)) in (first..).zip(asked) {
            let frame = self.reply().await?;
            let response = Response::decode(opcode, &frame).map_err(|_| Lost::Connection)?;
            let header = response.header;
            assert_eq!(header.xid, xid, "answers come in order");
            if header.error == SESSION_EXPIRED {
                self.forget_session();
                return Err(Lost::Session);
            }
            if let Some(watch) = watch {
                self.watches
                    .answered(&watch, header.zxid, header.error == 0);
            }
            answers.push(Answer {
                zxid: header.zxid,
                error: header.error,
                body: response.body,
            });
        }
        Ok(())
    }

    /// Asks for one thing.
    pub async fn ask(&mut self, body: RequestBody) -> Result<Answer, Lost> {
        let (mut answers, ended) = self.ask_all(vec![body]).await;
        ended?;
        answers.pop().ok_or(Lost::Connection)
    }

    /// The next frame that is neither a ping's nor a notification; pings meanwhile.
    async fn reply(&mut self) -> Result<Bytes, Lost> {
        let deadline = Instant::now() + 5 * SILENCE;
        loop {
            let frame = self.frame(deadline).await?;
            let header = self.header(&frame)?;
            if header.xid >= 0 {
                return Ok(frame);
            }
        }
    }

    /// Notes what a frame says of the world.
    fn header(&mut self, frame: &[u8]) -> Result<ReplyHeader, Lost> {
        let header = ReplyHeader::decode(&mut Reader::new(frame)).map_err(|_| Lost::Connection)?;
        if header.zxid.0 as i64 > self.seen {
            self.seen = header.zxid.0.cast_signed();
        }
        if header.xid != opcode::NOTIFICATION_XID {
            self.told = self.told.max(header.zxid);
            self.watches.quiet(header.zxid);
            return Ok(header);
        }
        match Notification::decode(frame).map_err(|_| Lost::Connection)? {
            Notification::Answer { key, response, .. } => {
                self.late.insert(key, (header.zxid, response));
            }
            Notification::Watch(event) => self.watches.fired(header.zxid, event),
        }
        Ok(header)
    }

    /// The next frame, with pings while it does not come.
    async fn frame(&mut self, deadline: Instant) -> Result<Bytes, Lost> {
        let link = self.link.as_mut().ok_or(Lost::Connection)?;
        let silent = (Instant::now() + SILENCE).min(deadline);
        loop {
            let next = (Instant::now() + PING_EVERY).min(silent);
            match timeout_at(next, link.next()).await {
                Ok(frame) => return frame.map_err(|_| Lost::Connection),
                Err(_) if next == silent => return Err(Lost::Connection),
                Err(_) => link.ping().await?,
            }
        }
    }

    /// Keeps the session alive for a while, doing nothing.
    pub async fn idle(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            let step = (until - Instant::now()).min(PING_EVERY);
            tokio::time::sleep(step).await;
            if self.link.is_some() && self.ping().await.is_err() {
                self.hang_up();
            }
        }
    }

    async fn ping(&mut self) -> Result<(), Lost> {
        let link = self.link.as_mut().ok_or(Lost::Connection)?;
        link.ping().await?;
        loop {
            let frame = self.frame(Instant::now() + SILENCE).await?;
            if self.header(&frame)?.xid == opcode::PING_XID {
                return Ok(());
            }
        }
    }
}

impl Link {
    /// Sends a sign of life.
    async fn ping(&mut self) -> Result<(), Lost> {
        let ping = Request {
            xid: opcode::PING_XID,
            body: RequestBody::Ping,
        };
        let mut out = BytesMut::new();
        ping.encode_frame(&mut out);
        let sent = self.stream.write_all(&out).await;
        sent.map_err(|_| Lost::Connection)
    }

    async fn next(&mut self) -> io::Result<Bytes> {
        loop {
            let whole = frame::decode(&mut self.buffer, MAX_FRAME_BYTES);
            if let Some(frame) = whole.map_err(io::Error::other)? {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
