//! A server that does what a test says, on the wire's own codec.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_client::{Client, ClientError, Options};
use quorate_model::id::Zxid;
use quorate_wire::{
    CallRequest, CallResponse, CallStatus, ConnectRequest, ConnectResponse, ErrorCode,
    MAX_FRAME_BYTES, Notification, Reader, Record, Request, RequestBody, Response, ResponseBody,
    Stat, frame, opcode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// The session that the server gives.
pub(crate) const SESSION: i64 = 0x1_0000_0007;

/// The end of `future`, which must not hang.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("it hangs")
}

/// What must be there.
pub(crate) fn good<T, E: Debug>(result: Result<T, E>) -> T {
    result.expect("it succeeds")
}

pub(crate) struct Server {
    listener: TcpListener,
}

/// One connection of the client's.
pub(crate) struct Peer {
    stream: TcpStream,
    input: BytesMut,
    zxid: u64,
}

impl Server {
    pub(crate) async fn start() -> Server {
        let listener = good(TcpListener::bind("127.0.0.1:0").await);
        Server { listener }
    }

    pub(crate) fn address(&self) -> String {
        good(self.listener.local_addr()).to_string()
    }

    /// A client, and this server's end of it.
    pub(crate) async fn connect(&self, options: Options) -> (Client, Peer) {
        let granted = options.session_timeout;
        let address = self.address();
        let (client, peer) =
            soon(async { tokio::join!(Client::connect(&address, options), self.welcome(granted)) })
                .await;
        (good(client), peer.1)
    }

    /// Takes a connection and its session.
    pub(crate) async fn welcome(&self, granted: Duration) -> (ConnectRequest, Peer) {
        let (request, mut peer) = self.accept().await;
        let response = ConnectResponse {
            protocol_version: 0,
            timeout_ms: good(i32::try_from(granted.as_millis())),
            session: SESSION,
            password: Bytes::from_static(b"0123456789abcdef"),
            read_only: Some(false),
        };
        peer.send(|out| response.encode_frame(out)).await;
        (request, peer)
    }

    /// Takes a connection and says that its session has expired.
    pub(crate) async fn turn_away(&self) -> ConnectRequest {
        let (request, mut peer) = self.accept().await;
        let response = ConnectResponse::expired(&request);
        peer.send(|out| response.encode_frame(out)).await;
        request
    }

    async fn accept(&self) -> (ConnectRequest, Peer) {
        let (stream, _) = good(soon(self.listener.accept()).await);
        let mut peer = Peer {
            stream,
            input: BytesMut::new(),
            zxid: 0x1_0000_0000,
        };
        let frame = peer.frame().await;
        let request = good(ConnectRequest::decode(&mut Reader::new(&frame)));
        (request, peer)
    }
}

impl Peer {
    /// The next request that is no ping.
    pub(crate) async fn request(&mut self) -> Request {
        loop {
            let request = self.any_request().await;
            if request.body != RequestBody::Ping {
                return request;
            }
        }
    }

    /// The next request; pings are answered.
    pub(crate) async fn any_request(&mut self) -> Request {
        let frame = self.frame().await;
        let request = good(Request::decode(&frame));
        if request.body == RequestBody::Ping {
            self.reply(opcode::PING_XID, ResponseBody::Empty).await;
        }
        request
    }

    /// The next request, which must be a call.
    pub(crate) async fn call(&mut self) -> (i32, CallRequest) {
        let request = self.request().await;
        match request.body {
            RequestBody::Call(call) => (request.xid, call),
            other => panic!("{other:?} is no call"),
        }
    }

    /// Answers, each time with the next zxid.
    pub(crate) async fn reply(&mut self, xid: i32, body: ResponseBody) {
        self.zxid += 1;
        let response = Response::ok(xid, Zxid(self.zxid), body);
        self.send(|out| response.encode_frame(out)).await;
    }

    pub(crate) async fn refuse(&mut self, xid: i32, code: ErrorCode) {
        let response = Response::error(xid, Zxid(self.zxid), code);
        self.send(|out| response.encode_frame(out)).await;
    }

    pub(crate) async fn refuse_because(&mut self, xid: i32, code: ErrorCode, reason: &str) {
        let response = Response::refusal(xid, Zxid(self.zxid), code, reason.into());
        self.send(|out| response.encode_frame(out)).await;
    }

    pub(crate) async fn answer_call(&mut self, xid: i32, status: CallStatus, result: &str) {
        let result = result.into();
        self.reply(xid, ResponseBody::Call(CallResponse { status, result }))
            .await;
    }

    pub(crate) async fn notify(&mut self, notification: Notification) {
        let zxid = Zxid(self.zxid);
        self.send(|out| notification.encode_frame(zxid, out)).await;
    }

    pub(crate) fn zxid(&self) -> i64 {
        self.zxid.cast_signed()
    }

    /// Waits until the client has closed.
    pub(crate) async fn closed(mut self) {
        let end = soon(self.stream.read_buf(&mut self.input)).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}: {:?}", self.input);
    }

    async fn send(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        encode(&mut out);
        good(self.stream.write_all(&out).await);
    }

    async fn frame(&mut self) -> Bytes {
        loop {
            if let Some(frame) = good(frame::decode(&mut self.input, MAX_FRAME_BYTES)) {
                return frame;
            }
            let read = good(soon(self.stream.read_buf(&mut self.input)).await);
            assert!(read > 0, "the client has closed");
        }
    }
}

/// A stat that can be told from others.
pub(crate) fn stat(version: i32) -> Stat {
    Stat {
        version,
        ..Stat::default()
    }
}

/// The state becomes what `wanted` says.
pub(crate) async fn becomes(
    client: &Client,
    wanted: impl FnMut(&quorate_client::SessionState) -> bool,
) {
    let mut state = client.state();
    good(soon(state.wait_for(wanted)).await.map(|_| ()));
}

/// What a request that is under way has come to.
pub(crate) async fn outcome<T>(
    task: tokio::task::JoinHandle<Result<T, ClientError>>,
) -> Result<T, ClientError> {
    good(soon(task).await)
}
