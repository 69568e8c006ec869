//! One session of ZooKeeper's protocol, as cheap as it can be: frames are built in place and read in place.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) const CREATE: i32 = 1;
pub(crate) const DELETE: i32 = 2;
pub(crate) const EXISTS: i32 = 3;
pub(crate) const GET_DATA: i32 = 4;
pub(crate) const SET_DATA: i32 = 5;
pub(crate) const GET_CHILDREN: i32 = 8;
pub(crate) const CALL: i32 = 700;
const CLOSE: i32 = -11;

pub(crate) const EPHEMERAL_SEQUENTIAL: i32 = 3;
pub(crate) const NO_NODE: i32 = -101;
pub(crate) const XID_EVENT: i32 = -1;

/// Longer than any run, so that nobody has to ping.
const TIMEOUT_MS: i32 = 40_000;

/// A server that says nothing for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of responses that are not looked at yet: some children of a lock, some windows of small answers.
const MAX_INPUT_BYTES: usize = 1 << 20;

/// A connection and its session.
pub(crate) struct Session {
    stream: TcpStream,
    pub(crate) id: i64,
    xid: i32,
    output: Vec<u8>,
    input: Vec<u8>,
    /// What of `input` has been taken already.
    taken: usize,
}

/// A response, or an event: then `xid` is -1.
pub(crate) struct Frame<'a> {
    pub(crate) xid: i32,
    pub(crate) error: i32,
    pub(crate) body: &'a [u8],
}

impl Session {
    pub(crate) async fn open(address: SocketAddr) -> Result<Session> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut session = Session {
            stream,
            id: 0,
            xid: 0,
            output: Vec::new(),
            input: Vec::new(),
            taken: 0,
        };
        let start = session.begin();
        session.int(0);
        session.long(0);
        session.int(TIMEOUT_MS);
        session.long(0);
        session.buffer(&[0; 16]);
        session.output.push(0);
        session.end(start);
        session.flush().await?;
        let frame = session.take_frame().await?;
        let Some(id) = session.input[frame]
            .get(8..16)
            .and_then(|id| id.try_into().ok())
        else {
            bail!("the handshake's answer is too short");
        };
        session.id = i64::from_be_bytes(id);
        Ok(session)
    }

    pub(crate) async fn close(mut self) -> Result<()> {
        self.request(CLOSE, |_| ());
        self.flush().await?;
        // Events of watches that are still set may stand before it.
        loop {
            let frame = self.next().await?;
            if frame.xid != XID_EVENT {
                return Ok(());
            }
        }
    }

    fn begin(&mut self) -> usize {
        let start = self.output.len();
        self.output.extend([0; 4]);
        start
    }

    fn end(&mut self, start: usize) {
        let length = (self.output.len() - start - 4) as i32;
        self.output[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    pub(crate) fn int(&mut self, value: i32) {
        self.output.extend(value.to_be_bytes());
    }

    pub(crate) fn long(&mut self, value: i64) {
        self.output.extend(value.to_be_bytes());
    }

    pub(crate) fn buffer(&mut self, data: &[u8]) {
        self.int(data.len() as i32);
        self.output.extend(data);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.output.push(value.into());
    }

    /// Queues a request and gives its xid.
    pub(crate) fn request(&mut self, operation: i32, body: impl FnOnce(&mut Session)) -> i32 {
        self.xid += 1;
        let start = self.begin();
        self.int(self.xid);
        self.int(operation);
        body(self);
        self.end(start);
        self.xid
    }

    /// Sends what is queued.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        Ok(())
    }

    /// The next response or event.
    pub(crate) async fn next(&mut self) -> Result<Frame<'_>> {
        let range = self.take_frame().await?;
        self.frame(range)
    }

    fn frame(&self, range: Range<usize>) -> Result<Frame<'_>> {
        let frame = &self.input[range];
        let (Some(xid), Some(error), Some(body)) =
            (int_at(frame, 0), int_at(frame, 12), frame.get(16..))
        else {
            bail!("a response without a header");
        };
        Ok(Frame { xid, error, body })
    }

    /// Whether a whole response is here already.
    pub(crate) fn has_next(&self) -> bool {
        let rest = &self.input[self.taken..];
        int_at(rest, 0).is_some_and(|length| rest.len() >= 4 + length as usize)
    }

    /// Waits for a whole frame and gives where it is in `input`.
    async fn take_frame(&mut self) -> Result<Range<usize>> {
        while !self.has_next() {
            if self.taken == self.input.len() {
                self.input.clear();
                self.taken = 0;
            }
            if self.input.len() > MAX_INPUT_BYTES {
                bail!("more than {MAX_INPUT_BYTES} bytes of responses at once");
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input));
            if read.await.context("no answer in time")?? == 0 {
                bail!("the server closed the connection");
            }
        }
        let start = self.taken + 4;
        let length = int_at(&self.input, self.taken).unwrap_or(0) as usize;
        self.taken = start + length;
        Ok(start..start + length)
    }

    /// Sends one request and waits for its response, passing over events.
    pub(crate) async fn ask(
        &mut self,
        operation: i32,
        body: impl FnOnce(&mut Session),
    ) -> Result<Frame<'_>> {
        let xid = self.request(operation, body);
        self.flush().await?;
        loop {
            let range = self.take_frame().await?;
            match int_at(&self.input[range.clone()], 0) {
                Some(found) if found == xid => return self.frame(range),
                Some(XID_EVENT) => {}
                other => bail!("expected the response {xid}, got {other:?}"),
            }
        }
    }

    pub(crate) async fn create(&mut self, path: &str, data: &[u8], flags: i32) -> Result<String> {
        let frame = self
            .ask(CREATE, |s| s.create_body(path, data, flags))
            .await?;
        if frame.error != 0 {
            bail!("create {path} was answered with {}", frame.error);
        }
        Ok(String::from_utf8_lossy(frame.body.get(4..).unwrap_or_default()).into_owned())
    }

    pub(crate) fn create_body(&mut self, path: &str, data: &[u8], flags: i32) {
        self.buffer(path.as_bytes());
        self.buffer(data);
        self.int(1);
        self.int(31);
        self.buffer(b"world");
        self.buffer(b"anyone");
        self.int(flags);
    }
}

/// The big-endian integer at `offset`.
pub(crate) fn int_at(data: &[u8], offset: usize) -> Option<i32> {
    let bytes = data.get(offset..offset + 4)?;
    Some(i32::from_be_bytes(bytes.try_into().ok()?))
}
