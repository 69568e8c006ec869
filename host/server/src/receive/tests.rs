//! Connections as their clients see them, over a pipe; and what hostile ones get.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use quorate_model::acl::{Acl, AclEntry, Identity};
use quorate_model::call::Acknowledgement;
use quorate_model::request::Operation;
use quorate_wire::request::SetWatches;
use quorate_wire::{
    ConnectRequest, ConnectResponse, Create, ErrorCode, EventType, MAX_FRAME_BYTES, Notification,
    Reader, Record as _, ReplyHeader, Request, RequestBody, Response, ResponseBody, frame, opcode,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::connection::{self, BODY_DEADLINE, End, GREETING_DEADLINE, SEND_DEADLINE};
use super::room::{MAX_LARGE_BYTES, Size};
use super::{Limits, serve};
use crate::respond::{Connection, Form, Progress};
use crate::testing::{TestServer, connect_request};

mod local;

/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

struct Client {
    stream: DuplexStream,
    received: BytesMut,
    end: JoinHandle<End>,
    connection: Arc<Connection>,
}

impl Client {
    fn connect(server: &Arc<TestServer>) -> Client {
        let (stream, other) = tokio::io::duplex(64 * 1024);
        let (reader, writer) = tokio::io::split(other);
        let (edge, connection) = (server.edge.clone(), server.connection());
        let end = tokio::spawn({
            let connection = connection.clone();
            async move {
                let end = connection::serve(reader, writer, connection.clone(), &edge).await;
                connection.finish();
                end
            }
        });
        Client {
            stream,
            received: BytesMut::new(),
            end,
            connection,
        }
    }

    async fn open(server: &Arc<TestServer>) -> Client {
        let mut client = Client::connect(server);
        client.handshake(&connect_request()).await;
        client
    }

    async fn handshake(&mut self, request: &ConnectRequest) -> ConnectResponse {
        let mut bytes = BytesMut::new();
        request.encode_frame(&mut bytes);
        self.send(&bytes).await;
        let frame = self.frame().await;
        ConnectResponse::decode(&mut Reader::new(&frame)).unwrap()
    }

    async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .unwrap()
            .unwrap();
    }

    async fn frame(&mut self) -> Bytes {
        loop {
            if let Some(frame) = frame::decode(&mut self.received, usize::MAX).unwrap() {
                return frame;
            }
            let read = self.stream.read_buf(&mut self.received);
            let read = timeout(PATIENCE, read)
                .await
                .expect("an answer comes")
                .unwrap();
            assert!(read > 0, "the connection is open");
        }
    }

    async fn request(&mut self, xid: i32, body: RequestBody) -> Response {
        let opcode = body.opcode();
        self.send(&encoded(xid, body)).await;
        let frame = self.frame().await;
        let response = Response::decode(opcode, &frame).unwrap();
        assert_eq!(response.header.xid, xid);
        response
    }

    /// What is left until the server closes, and why it did.
    async fn rest(mut self) -> (Vec<u8>, End) {
        let mut rest = self.received.to_vec();
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await;
        read.expect("the server closes").unwrap();
        (rest, self.end.await.expect("no panic"))
    }
}

fn encoded(xid: i32, body: RequestBody) -> BytesMut {
    let mut bytes = BytesMut::new();
    Request { xid, body }.encode_frame(&mut bytes);
    bytes
}

fn create(path: &str, data: impl Into<Bytes>, acl: Acl) -> RequestBody {
    RequestBody::Create(Create {
        path: path.into(),
        data: data.into(),
        acl,
        flags: 0,
    })
}

fn get(path: &str, watch: bool) -> RequestBody {
    RequestBody::GetData {
        path: path.into(),
        watch,
    }
}

fn running() -> Arc<TestServer> {
    let server = TestServer::new();
    server.run();
    server
}

#[tokio::test]
async fn a_session_from_its_first_frame_to_its_last() {
    let server = running();
    let mut client = Client::connect(&server);
    let answer = client.handshake(&connect_request()).await;
    assert_eq!((answer.timeout_ms, answer.read_only), (10_000, Some(false)));
    assert_ne!((answer.session, &*answer.password), (0, &[0; 16][..]));

    let created = client.request(1, create("/a", "one", Acl::open())).await;
    assert_eq!(created.body, ResponseBody::Path("/a".into()));
    let response = client.request(2, get("/a", true)).await;
    assert!(matches!(response.body, ResponseBody::Data { data, .. } if data == "one"));

    client
        .send(&encoded(opcode::PING_XID, RequestBody::Ping))
        .await;
    let pong = ReplyHeader::decode(&mut Reader::new(&client.frame().await)).unwrap();
    assert_eq!((pong.xid, pong.error), (opcode::PING_XID, 0));

    let set = RequestBody::SetData {
        path: "/a".into(),
        data: "two".into(),
        version: 0,
    };
    client.send(&encoded(3, set)).await;
    let event = Notification::decode(&client.frame().await).unwrap();
    let Notification::Watch(event) = event else {
        panic!("{event:?}");
    };
    assert_eq!(
        (event.event, &*event.path),
        (EventType::NodeDataChanged, "/a")
    );
    let set = Response::decode(opcode::SET_DATA, &client.frame().await).unwrap();
    assert!(matches!(set.body, ResponseBody::Stat(stat) if stat.version == 1));

    let closed = client.request(4, RequestBody::CloseSession).await;
    assert_eq!(closed.header.error, 0);
    let (rest, end) = client.rest().await;
    assert!(rest.is_empty() && matches!(end, End::Farewell), "{end}");
    assert_eq!(server.edge.watches.connections().len(), 0);
}

#[tokio::test]
async fn an_old_client_is_answered_without_the_byte_that_it_does_not_know() {
    let server = running();
    let mut client = Client::connect(&server);
    let request = ConnectRequest {
        read_only: None,
        timeout_ms: 1,
        ..connect_request()
    };
    let answer = client.handshake(&request).await;
    assert_eq!(answer.read_only, None);
    assert_eq!(answer.timeout_ms, 4_000, "brought within the bounds");
}

#[tokio::test]
async fn a_session_goes_on_over_another_connection() {
    let server = running();
    let mut former = Client::connect(&server);
    let opened = former.handshake(&connect_request()).await;
    let mut client = Client::connect(&server);
    let request = ConnectRequest {
        session: opened.session,
        password: opened.password.clone(),
        ..connect_request()
    };
    assert_eq!(client.handshake(&request).await, opened);
    let (_, end) = former.rest().await;
    assert!(matches!(end, End::Closed(_)), "{end}");
    assert_eq!(
        client.request(1, get("/none", false)).await.header.error,
        -101
    );
}

#[tokio::test]
async fn an_unknown_session_is_told_that_it_expired() {
    let server = running();
    for session in [1, -1, i64::MAX] {
        let mut client = Client::connect(&server);
        let request = ConnectRequest {
            session,
            ..connect_request()
        };
        let answer = client.handshake(&request).await;
        assert_eq!(answer, ConnectResponse::expired(&request));
        let (rest, end) = client.rest().await;
        assert!(rest.is_empty() && matches!(end, End::Farewell), "{end}");
    }
}

#[tokio::test]
async fn a_client_that_has_seen_more_is_sent_away_without_an_answer() {
    let server = running();
    let mut client = Client::connect(&server);
    let request = ConnectRequest {
        last_zxid_seen: i64::MAX,
        ..connect_request()
    };
    let mut bytes = BytesMut::new();
    request.encode_frame(&mut bytes);
    client.send(&bytes).await;
    let (rest, end) = client.rest().await;
    assert!(rest.is_empty() && matches!(end, End::Behind(_)), "{end}");
}

#[tokio::test]
async fn words_are_answered_and_the_connection_closed() {
    let server = running();
    for (word, beginning) in [
        ("ruok", "imok"),
        ("srvr", "Zookeeper version: "),
        ("stat", "Zookeeper version: "),
        ("mntr", "zk_version\t"),
        (
            "wchs",
            "wchs is not executed because it is not in the whitelist.",
        ),
    ] {
        let mut client = Client::connect(&server);
        client.send(word.as_bytes()).await;
        let (answer, end) = client.rest().await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(beginning), "{word}: {answer}");
        assert!(matches!(end, End::Word), "{end}");
    }
}

#[tokio::test]
async fn auth_proves_an_identity_or_ends_the_connection() {
    let server = running();
    let mut client = Client::open(&server).await;
    let auth = |scheme: &str| RequestBody::Auth {
        kind: 0,
        scheme: scheme.into(),
        auth: "user:password".into(),
    };
    let mine = Acl::from(vec![AclEntry {
        permissions: 31,
        identity: Identity {
            scheme: "auth".into(),
            id: String::new(),
        },
    }]);
    let refused = client.request(1, create("/mine", "", mine.clone())).await;
    assert_eq!(refused.header.error, ErrorCode::InvalidAcl.number());
    assert_eq!(
        client
            .request(opcode::AUTH_XID, auth("digest"))
            .await
            .header
            .error,
        0
    );
    assert_eq!(
        client
            .request(2, create("/mine", "", mine))
            .await
            .header
            .error,
        0
    );
    let acl = client
        .request(
            3,
            RequestBody::GetAcl {
                path: "/mine".into(),
            },
        )
        .await;
    let ResponseBody::Acl { acl, .. } = acl.body else {
        panic!("{acl:?}");
    };
    assert_eq!(acl.0[0].identity.scheme, "digest");
    assert!(acl.0[0].identity.id.starts_with("user:"), "{acl:?}");

    let refused = client.request(opcode::AUTH_XID, auth("kerberos")).await;
    assert_eq!(refused.header.error, ErrorCode::AuthFailed.number());
    let (rest, end) = client.rest().await;
    assert!(rest.is_empty() && matches!(end, End::AuthFailed), "{end}");
}

#[tokio::test]
async fn what_is_no_request_is_answered_in_its_turn_and_the_connection_goes_on() {
    let server = running();
    let mut client = Client::open(&server).await;
    let mut bytes = encoded(1, create("/a", "", Acl::open()));
    // addWatch, which ZooKeeper knows.
    bytes.extend_from_slice(&encoded(2, RequestBody::Unknown { opcode: 106 }));
    bytes.extend_from_slice(&encoded(3, get("no path", false)));
    // The record of a getData that ends within its path's length.
    frame::encode(&mut bytes, |out| {
        out.int(4);
        out.int(opcode::GET_DATA);
        out.int(100);
    });
    let persistent = RequestBody::SetWatches2 {
        watches: SetWatches::default(),
        persistent: vec!["/a".into()],
        recursive: vec![],
    };
    bytes.extend_from_slice(&encoded(opcode::SET_WATCHES_XID, persistent));
    bytes.extend_from_slice(&encoded(5, get("/a", false)));
    client.send(&bytes).await;
    let mut answers = Vec::new();
    for _ in 0..6 {
        let header = ReplyHeader::decode(&mut Reader::new(&client.frame().await)).unwrap();
        answers.push((header.xid, header.error));
    }
    assert_eq!(
        answers,
        [(1, 0), (2, -6), (3, -101), (4, -5), (-8, -6), (5, 0)]
    );
}

#[tokio::test]
async fn an_unknown_opcode_ends_the_connection_after_its_answer() {
    let server = running();
    let mut client = Client::open(&server).await;
    let mut bytes = encoded(1, create("/a", "", Acl::open()));
    bytes.extend_from_slice(&encoded(2, get("/a", false)));
    bytes.extend_from_slice(&encoded(3, RequestBody::Unknown { opcode: 4711 }));
    bytes.extend_from_slice(&encoded(4, create("/b", "", Acl::open())));
    client.send(&bytes).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        let header = ReplyHeader::decode(&mut Reader::new(&client.frame().await)).unwrap();
        answers.push((header.xid, header.error));
    }
    assert_eq!(answers, [(1, 0), (2, 0), (3, -6)]);
    let (rest, end) = client.rest().await;
    assert!(rest.is_empty() && matches!(end, End::Farewell), "{end}");
    let state = server.edge.state.read();
    assert!(state.stat(&crate::testing::path("/b")).is_none());
}

#[tokio::test]
async fn an_auth_that_cannot_be_read_ends_the_connection_without_an_answer() {
    let server = running();
    let mut client = Client::open(&server).await;
    let mut bytes = BytesMut::new();
    frame::encode(&mut bytes, |out| {
        out.int(opcode::AUTH_XID);
        out.int(opcode::AUTH);
        out.int(0);
    });
    client.send(&bytes).await;
    let (rest, end) = client.rest().await;
    assert!(rest.is_empty() && matches!(end, End::Request(_)), "{end}");
}

#[tokio::test]
async fn an_identity_that_is_too_large_ends_the_connection() {
    let server = running();
    let mut client = Client::open(&server).await;
    let auth = RequestBody::Auth {
        kind: 0,
        scheme: "digest".into(),
        auth: format!("{}:password", "u".repeat(1_000_000)).into(),
    };
    let refused = client.request(opcode::AUTH_XID, auth).await;
    assert_eq!(refused.header.error, ErrorCode::AuthFailed.number());
    let (rest, end) = client.rest().await;
    assert!(rest.is_empty() && matches!(end, End::AuthFailed), "{end}");
}

#[tokio::test]
async fn a_ping_is_answered_under_the_xid_of_pings() {
    let server = running();
    let mut client = Client::open(&server).await;
    client.send(&encoded(7, RequestBody::Ping)).await;
    let pong = ReplyHeader::decode(&mut Reader::new(&client.frame().await)).unwrap();
    assert_eq!((pong.xid, pong.error), (opcode::PING_XID, 0));
}

#[tokio::test]
async fn a_client_that_pings_and_does_not_read_is_closed_in_time() {
    let server = running();
    let mut client = Client::open(&server).await;
    let data = vec![7; 500_000];
    client.request(-3, create("/big", data, Acl::open())).await;
    client.send(&encoded(1, get("/big", false))).await;
    let answered = async {
        while client.connection.unsent() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, answered).await.expect("it is answered");
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    while !client.end.is_finished() {
        assert!(begun.elapsed() < 2 * SEND_DEADLINE, "it is closed");
        tokio::time::sleep(Duration::from_secs(5)).await;
        // It may be closed by now.
        let ping = encoded(opcode::PING_XID, RequestBody::Ping);
        let _ = client.stream.write_all(&ping).await;
    }
    assert!(matches!(client.end.await, Ok(End::Stuck)));
}

/// A write and behind it 150 reads of a megabyte each, sent at once.
async fn one_write_and_many_large_reads(server: &Arc<TestServer>) -> (Client, i32) {
    let mut client = Client::open(server).await;
    let data = vec![7; 1_000_000];
    client.request(-3, create("/big", data, Acl::open())).await;
    let count = 150;
    let set = RequestBody::SetData {
        path: "/big".into(),
        data: vec![8; 1_000_000].into(),
        version: 0,
    };
    let mut bytes = encoded(1, set);
    for xid in 2..2 + count {
        bytes.extend_from_slice(&encoded(xid, get("/big", false)));
    }
    client.send(&bytes).await;
    (client, count)
}

#[tokio::test]
async fn a_client_that_reads_gets_all_answers_behind_a_write() {
    let server = running();
    let (mut client, count) = one_write_and_many_large_reads(&server).await;
    let set = client.frame().await;
    assert_eq!(ReplyHeader::decode(&mut Reader::new(&set)).unwrap().xid, 1);
    for xid in 2..2 + count {
        let response = Response::decode(opcode::GET_DATA, &client.frame().await).unwrap();
        assert_eq!((response.header.xid, response.header.error), (xid, 0));
        let ResponseBody::Data { data, .. } = response.body else {
            panic!("it has data");
        };
        assert_eq!((data.len(), data[0]), (1_000_000, 8), "{xid}");
    }
    assert_eq!(client.connection.closed(), None);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_held_a_few_answers_and_closed_in_time() {
    let server = running();
    let (client, _) = one_write_and_many_large_reads(&server).await;
    let pressed = async {
        while client.connection.progress() != Progress::Pressed || client.connection.unsent() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, pressed)
        .await
        .expect("it fills its bound");
    tokio::time::pause();
    let waited = tokio::time::Instant::now();
    let mut most = 0;
    let mut end = client.end;
    let end = loop {
        most = most.max(client.connection.unsent());
        match timeout(Duration::from_secs(1), &mut end).await {
            Ok(end) => break end.unwrap(),
            Err(_) => assert!(waited.elapsed() < 3 * SEND_DEADLINE, "it is closed"),
        }
    };
    assert!(matches!(end, End::Stuck), "{end}");
    assert!(most < 4_000_000, "{most} bytes were held");
    assert_eq!(server.edge.metrics.connections_stuck.get(), 1);
}

#[tokio::test]
async fn what_is_no_frame_ends_the_connection() {
    let server = running();
    let too_long = (MAX_FRAME_BYTES as i32 + 1).to_be_bytes();
    let header_cut_off = [0, 0, 0, 4, 0, 0, 0, 1];
    for bytes in [&too_long[..], &(-1_i32).to_be_bytes(), &header_cut_off] {
        let mut client = Client::open(&server).await;
        client.send(bytes).await;
        let (_, end) = client.rest().await;
        assert!(matches!(end, End::Frame(_) | End::Request(_)), "{end}");
    }
    assert_eq!(server.edge.metrics.connections_malformed.get(), 3);
    for bytes in [&b"abcd"[..], &[0, 0, 4, 1], &[0, 0, 0, 3, 1, 2, 3]] {
        let mut client = Client::connect(&server);
        client.send(bytes).await;
        let (rest, end) = client.rest().await;
        assert!(rest.is_empty(), "{rest:?}");
        assert!(matches!(end, End::Frame(_) | End::Handshake(_)), "{end}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_closed_in_time() {
    let server = TestServer::new();
    let begun = tokio::time::Instant::now();
    let mut silent = Client::connect(&server);
    silent.send(b"\0\0").await;
    let end = silent.end.await.unwrap();
    assert!(matches!(end, End::Late(_)), "{end}");
    assert_eq!(begun.elapsed().as_secs(), GREETING_DEADLINE.as_secs());
    assert_eq!(server.edge.metrics.handshakes_late.get(), 1);
}

#[tokio::test]
async fn a_client_that_goes_during_its_handshake_opens_no_session() {
    let server = TestServer::new();
    let mut client = Client::connect(&server);
    let mut bytes = BytesMut::new();
    connect_request().encode_frame(&mut bytes);
    client.send(&bytes).await;
    let Client { stream, end, .. } = client;
    drop(stream);
    let end = end.await.unwrap();
    assert!(matches!(end, End::Hangup), "{end}");
    server.edge.router.epoch_opened(2);
    assert_eq!(server.step(), 0, "S2: it is not sent again");
}

#[tokio::test]
async fn a_slow_reader_gets_every_answer_in_order() {
    let server = running();
    let mut client = Client::open(&server).await;
    let data = vec![7; 300_000];
    client
        .request(0, create("/big", data.clone(), Acl::open()))
        .await;
    let count = 60;
    let mut bytes = BytesMut::new();
    for xid in 1..=count {
        let body = match xid % 10 {
            0 => RequestBody::Sync { path: "/".into() },
            _ => get("/big", false),
        };
        bytes.extend_from_slice(&encoded(xid, body));
    }
    client.send(&bytes).await;
    for xid in 1..=count {
        let frame = client.frame().await;
        let header = ReplyHeader::decode(&mut Reader::new(&frame)).unwrap();
        assert_eq!((header.xid, header.error), (xid, 0));
        assert_eq!(frame.len() > data.len(), xid % 10 != 0);
    }
    assert_eq!(client.connection.closed(), None);
}

/// A request of half a megabyte.
fn large_set(xid: i32) -> BytesMut {
    let set = RequestBody::SetData {
        path: "/a".into(),
        data: vec![7; 500_000].into(),
        version: -1,
    };
    encoded(xid, set)
}

#[tokio::test]
async fn a_large_request_is_not_read_before_there_is_room_and_others_go_on() {
    let server = running();
    let room = &server.edge.room;
    let mut client = Client::open(&server).await;
    client.request(-3, create("/a", "", Acl::open())).await;
    let all = room.take(MAX_LARGE_BYTES).ok().expect("there is room");
    let Client {
        stream,
        mut received,
        connection,
        ..
    } = client;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        writer.write_all(&large_set(1)).await.unwrap();
        writer
    });
    let waits = async {
        while server.edge.metrics.room_waits.get() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waits).await.expect("it waits");
    let mut other = Client::open(&server).await;
    let small = create("/b", "small", Acl::open());
    assert_eq!(other.request(1, small).await.header.error, 0);
    assert!(!sending.is_finished(), "its bytes stay in the socket");
    assert_eq!(connection.closed(), None);
    drop(all);
    let answered = async {
        loop {
            if let Some(frame) = frame::decode(&mut received, usize::MAX).unwrap() {
                return Response::decode(opcode::SET_DATA, &frame).unwrap();
            }
            assert!(reader.read_buf(&mut received).await.unwrap() > 0);
        }
    };
    let answer = timeout(PATIENCE, answered).await.expect("it is answered");
    assert_eq!((answer.header.xid, answer.header.error), (1, 0));
    let _writer = sending.await.unwrap();
    // The answer is sent a moment before the request is let go.
    let back = async {
        while room.take(MAX_LARGE_BYTES).is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, back).await.expect("its share comes back");
}

#[tokio::test]
async fn the_share_of_a_client_that_has_gone_comes_back() {
    // Nobody takes its request to a leader.
    let server = TestServer::new();
    let room = &server.edge.room;
    let connection = server.open_session();
    let share = room.take(MAX_LARGE_BYTES).ok().expect("there is room");
    let waiter = connection.write(1, Form::Plain, Size::new(1_000_000, Some(share)));
    let request = quorate_model::request::Request {
        session: connection.session().unwrap(),
        owner: None,
        identities: Arc::default(),
        operation: Operation::Acknowledge(Acknowledgement::up_to(1)),
    };
    server.edge.router.submit_held(request, waiter);
    connection.close("its client goes");
    assert!(room.take(1).is_err());
    server.edge.router.make_room();
    assert_eq!(server.edge.router.in_flight(), 0);
    assert!(room.take(MAX_LARGE_BYTES).is_ok());
}

#[tokio::test]
async fn a_large_request_that_does_not_come_gives_its_room_up() {
    let server = running();
    let room = &server.edge.room;
    let mut client = Client::open(&server).await;
    client.send(&large_set(1)[..10_000]).await;
    let begun = async {
        while room.take(MAX_LARGE_BYTES).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, begun).await.expect("it has its share");
    tokio::time::pause();
    let end = timeout(2 * BODY_DEADLINE, client.end).await;
    let end = end.expect("it is closed").unwrap();
    assert!(matches!(end, End::Late(_)), "{end}");
    assert!(room.take(MAX_LARGE_BYTES).is_ok());
}

#[tokio::test]
async fn more_pipelined_writes_than_may_wait_are_all_answered() {
    let server = running();
    let mut client = Client::open(&server).await;
    client.request(-3, create("/a", "", Acl::open())).await;
    let count = 3 * crate::respond::MAX_PENDING as i32;
    let mut bytes = BytesMut::new();
    for xid in 1..=count {
        let body = RequestBody::SetData {
            path: "/a".into(),
            data: Bytes::new(),
            version: -1,
        };
        bytes.extend_from_slice(&encoded(xid, body));
    }
    let Client { stream, .. } = client;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        writer.write_all(&bytes).await.unwrap();
        writer
    });
    let mut received = BytesMut::new();
    let mut next = 1;
    while next <= count {
        while let Some(frame) = frame::decode(&mut received, usize::MAX).unwrap() {
            let response = Response::decode(opcode::SET_DATA, &frame).unwrap();
            assert_eq!(response.header.xid, next);
            assert!(matches!(response.body, ResponseBody::Stat(stat) if stat.version == next));
            next += 1;
        }
        if next <= count {
            let read = timeout(PATIENCE, reader.read_buf(&mut received)).await;
            assert!(read.expect("answers come").unwrap() > 0);
        }
    }
    sending.await.unwrap();
}

#[tokio::test]
async fn there_is_a_bound_on_connections_of_one_address() {
    let server = TestServer::with_limits(Limits {
        max_connections_per_address: 2,
        ..Limits::default()
    });
    server.run();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(serve(listener, server.edge.clone(), stopped));
    let open = async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut bytes = BytesMut::new();
        connect_request().encode_frame(&mut bytes);
        // A connection that is refused may be gone before this is sent.
        let _ = stream.write_all(&bytes).await;
        let mut answer = [0; 1];
        let opened = matches!(stream.read(&mut answer).await, Ok(1));
        (stream, opened)
    };
    let (first, _second) = (open().await, open().await);
    assert!(first.1 && _second.1);
    assert!(!open().await.1, "the third is refused");
    drop(first);
    let again = timeout(PATIENCE, async {
        while !open().await.1 {
            tokio::task::yield_now().await;
        }
    });
    again.await.expect("a place that was given back is taken");
    stop.send_replace(true);
    timeout(PATIENCE, serving).await.unwrap().unwrap();
}

/// Valid frames to be spoiled.
fn some_requests() -> Vec<BytesMut> {
    vec![
        encoded(1, create("/a", "data", Acl::open())),
        encoded(2, get("/a", true)),
        encoded(3, RequestBody::Multi(vec![])),
        encoded(
            4,
            RequestBody::SetWatches(SetWatches {
                since: 0,
                data: vec!["/a".into()],
                exist: vec!["/b".into()],
                child: vec!["/".into()],
            }),
        ),
        encoded(5, call()),
    ]
}

fn call() -> RequestBody {
    RequestBody::Call(quorate_wire::CallRequest {
        key: 1,
        mount: "/m".into(),
        operation: "echo".into(),
        arguments: "[]".into(),
        timeout_ms: 0,
        acknowledged: quorate_wire::Acknowledgement::default(),
    })
}

/// Sends `bytes` behind a handshake, if `open`; then hangs up. Whatever they were, it ends.
fn endure(open: bool, bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = running();
        let mut client = match open {
            true => Client::open(&server).await,
            false => Client::connect(&server),
        };
        // The server may close before it has all.
        let _ = timeout(PATIENCE, client.stream.write_all(bytes))
            .await
            .expect("it is read");
        let _ = client.stream.shutdown().await;
        client.rest().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_bytes_at_the_handshake(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        endure(false, &bytes);
    }

    #[test]
    fn random_frames_behind_the_handshake(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..10),
        opcodes in prop::collection::vec(-12..30_i32, 10),
    ) {
        let mut bytes = BytesMut::new();
        for (frame, opcode) in frames.iter().zip(opcodes) {
            frame::encode(&mut bytes, |out| {
                out.int(1);
                out.int(opcode);
                frame.iter().for_each(|byte| out.bool(*byte != 0));
            });
            frame::encode(&mut bytes, |out| out.buffer(frame));
        }
        endure(true, &bytes);
    }

    #[test]
    fn spoiled_requests(
        which in 0..5_usize,
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = BytesMut::new();
        some_requests().iter().for_each(|request| bytes.extend_from_slice(request));
        let mut last = some_requests().swap_remove(which);
        for (at, byte) in spoilt {
            let at = at.index(last.len());
            last[at] = byte;
        }
        bytes.extend_from_slice(&last);
        endure(true, &bytes);
    }
}

/// One step, when there is something to do.
async fn step_once(server: &TestServer) {
    while server.step() == 0 {
        server.edge.router.arrived().await;
    }
}

#[tokio::test]
async fn w7_a_sync_is_no_request_to_the_leader_and_writes_nothing() {
    let server = TestServer::new();
    let mut client = Client::connect(&server);
    let hello = connect_request();
    tokio::join!(client.handshake(&hello), step_once(&server));
    let before = server.edge.state.read().last_zxid();
    // ZooKeeper looks at no sync's path.
    for (xid, path) in [(1, "/a"), (2, "no path")] {
        let body = RequestBody::Sync { path: path.into() };
        let (response, ()) = tokio::join!(client.request(xid, body), async {
            server.edge.router.barriers().raised().await;
            server.pass_barrier();
        });
        assert_eq!(response.header.zxid, before);
        assert_eq!(response.body, ResponseBody::Path(path.into()));
    }
    assert_eq!(server.step(), 0, "nothing was sent to the leader");
}

#[tokio::test]
async fn w7_reads_that_are_to_be_linearizable_wait_at_barriers() {
    let server = TestServer::with_limits(Limits {
        linearizable_reads: true,
        ..Limits::default()
    });
    server.create("/a", "old");
    let mut client = Client::connect(&server);
    let hello = connect_request();
    tokio::join!(client.handshake(&hello), step_once(&server));
    client.send(&encoded(1, get("/a", false))).await;
    client.send(&encoded(-2, RequestBody::Ping)).await;
    let frame = client.frame().await;
    let header = ReplyHeader::decode(&mut Reader::new(&frame)).unwrap();
    assert_eq!(header.xid, opcode::PING_XID, "W5: a ping does not");
    // What is acknowledged elsewhere meanwhile is applied here before the answer to the question is.
    server.set("/a", "new");
    server.pass_barrier();
    let frame = client.frame().await;
    let response = Response::decode(opcode::GET_DATA, &frame).unwrap();
    let ResponseBody::Data { data, .. } = response.body else {
        panic!("{response:?}");
    };
    assert_eq!(&*data, b"new");
}

fn wishes_read_only() -> ConnectRequest {
    ConnectRequest {
        read_only: Some(true),
        ..connect_request()
    }
}

#[tokio::test]
async fn a_read_only_server_answers_reads_and_refuses_the_rest() {
    let server = TestServer::new();
    server.create("/a", "here");
    let zxid = server.edge.state.read().last_zxid();
    server.edge.read_only.set(true, &server.edge.watches);
    let mut client = Client::connect(&server);
    let opened = client.handshake(&wishes_read_only()).await;
    assert_eq!((opened.read_only, opened.timeout_ms), (Some(true), 10_000));
    let response = client.request(1, get("/a", true)).await;
    assert!(matches!(response.body, ResponseBody::Data { data, .. } if &*data == b"here"));
    let said = quorate_wire::Acknowledgement {
        mark: 1,
        awaited: vec![],
    };
    for (xid, body) in [
        (2, create("//", "", Acl::open())),
        (3, RequestBody::Sync { path: "/".into() }),
        (4, RequestBody::Multi(Vec::new())),
        (5, RequestBody::Acknowledge(said)),
    ] {
        let response = client.request(xid, body).await;
        assert_eq!(response.header.error, ErrorCode::NotReadOnly as i32);
        assert_eq!(response.header.zxid, zxid);
    }
    client.request(-2, RequestBody::Ping).await;
    server.delete("/a");
    let event = Notification::decode(&client.frame().await).unwrap();
    assert!(matches!(event, Notification::Watch(event) if event.event == EventType::NodeDeleted));
    let closed = client.request(6, RequestBody::CloseSession).await;
    assert_eq!(closed.header.error, 0);
    let (rest, end) = client.rest().await;
    assert!(rest.is_empty() && matches!(end, End::Farewell), "{end}");
    assert_eq!(server.step(), 0, "nothing was sent to the leader");
}

#[tokio::test]
async fn a_read_only_server_turns_away_who_would_write_and_disconnects_when_it_is_that_no_more() {
    let server = TestServer::new();
    let mut waiting = Client::connect(&server);
    let mut hello = BytesMut::new();
    connect_request().encode_frame(&mut hello);
    waiting.send(&hello).await;
    while waiting.connection.traffic().1 == 0 {
        tokio::task::yield_now().await;
    }
    let edge = &server.edge;
    edge.read_only.set(true, &edge.watches);
    let (rest, end) = waiting.rest().await;
    assert!(rest.is_empty(), "its handshake would wait for the quorum");
    assert!(matches!(end, End::Closed(_)), "{end}");

    let mut writer = Client::connect(&server);
    writer.send(&hello).await;
    let (rest, end) = writer.rest().await;
    assert!(rest.is_empty() && matches!(end, End::ReadOnly), "{end}");

    let mut reader = Client::connect(&server);
    let opened = reader.handshake(&wishes_read_only()).await;
    edge.read_only.set(false, &edge.watches);
    let (rest, end) = reader.rest().await;
    assert!(rest.is_empty() && matches!(end, End::Closed(_)), "{end}");

    // Its session ended with the connection.
    edge.read_only.set(true, &edge.watches);
    let mut again = Client::connect(&server);
    let request = ConnectRequest {
        session: opened.session,
        password: opened.password,
        ..wishes_read_only()
    };
    assert_eq!(again.handshake(&request).await.timeout_ms, 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_clients_read_only_session_ends_with_its_timeout() {
    let server = TestServer::new();
    server.edge.read_only.set(true, &server.edge.watches);
    let mut client = Client::connect(&server);
    client.handshake(&wishes_read_only()).await;
    let begun = tokio::time::Instant::now();
    tokio::time::advance(Duration::from_secs(8)).await;
    client.request(-2, RequestBody::Ping).await;
    let end = client.end.await.unwrap();
    assert!(matches!(end, End::Late(_)), "{end}");
    assert_eq!(begun.elapsed().as_secs(), 18);
}
