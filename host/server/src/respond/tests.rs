//! Order of answers and events, at a connection without a socket (rules W1 to W3, C9).

mod access;

use proptest::prelude::*;
use quorate_model::call::{Acknowledgement, CallRequest};
use quorate_model::id::Zxid;
use quorate_model::request::{Operation, ZnodeOperation};
use quorate_wire::{
    CallStatus, ConnectResponse, ErrorCode, Notification, Reader, Record as _, ReplyHeader,
    Response, ResponseBody, opcode,
};
use std::sync::Arc;

use super::*;
use crate::receive::Limits;
use crate::testing::{TestServer, create, path, sent, set};

/// What a client was sent, in words.
fn told(connection: &Connection) -> Vec<String> {
    sent(connection)
        .iter()
        .map(|frame| {
            let header = ReplyHeader::decode(&mut Reader::new(frame)).unwrap();
            let counter = header.zxid.counter();
            match (header.xid, header.error) {
                (opcode::NOTIFICATION_XID, _) => match Notification::decode(frame).unwrap() {
                    Notification::Watch(event) => {
                        format!("{:?} {} as of {counter}", event.event, event.path)
                    }
                    Notification::Answer { key, response, .. } => {
                        let (status, result) = (response.status, response.result);
                        format!("call {key} {status:?} {result} as of {counter}")
                    }
                },
                (xid, 0) => format!("{xid} as of {counter}"),
                (xid, error) => {
                    let code = ErrorCode::from_number(error).unwrap();
                    format!("{xid} {} as of {counter}", code.name())
                }
            }
        })
        .collect()
}

/// The data that the answer with this xid carries.
fn data_of(frames: &[bytes::Bytes], xid: i32) -> String {
    frames
        .iter()
        .filter_map(|frame| Response::decode(opcode::GET_DATA, frame).ok())
        .find_map(|response| match response.body {
            ResponseBody::Data { data, .. } if response.header.xid == xid => {
                Some(String::from_utf8(data.to_vec()).unwrap())
            }
            _ => None,
        })
        .unwrap_or_else(|| panic!("no answer {xid} with data"))
}

fn read(server: &TestServer, connection: &Connection, xid: i32, read: Read) {
    connection.read(&server.edge.state.read(), xid, read, Barrier::NONE, 20);
}

fn get(at: &str, watch: bool) -> Read {
    Read::Data {
        path: path(at),
        watch,
    }
}

fn children(at: &str, watch: bool) -> Read {
    Read::Children {
        path: path(at),
        watch,
        with_stat: false,
    }
}

fn znode(operation: ZnodeOperation) -> Operation {
    Operation::Znode(operation)
}

#[test]
fn w1_a_read_stands_between_its_sessions_writes_within_one_entry() {
    let server = TestServer::new();
    server.create("/a", "zero");
    let connection = server.open_session();
    server.write(&connection, 1, znode(set("/a", "one")), Form::Plain);
    read(&server, &connection, 2, get("/a", false));
    server.write(&connection, 3, znode(set("/a", "two")), Form::Plain);
    server.write(&connection, 4, znode(set("/a", "three")), Form::Plain);
    read(&server, &connection, 5, get("/a", false));
    read(&server, &connection, 6, get("/none", false));
    assert!(
        sent(&connection).is_empty(),
        "reads wait for the write before them"
    );

    assert_eq!(server.step(), 3, "one entry");
    let frames = sent(&connection);
    let xids: Vec<i32> = frames
        .iter()
        .map(|frame| ReplyHeader::decode(&mut Reader::new(frame)).unwrap().xid)
        .collect();
    assert_eq!(xids, [1, 2, 3, 4, 5, 6]);
    assert_eq!(data_of(&frames, 2), "one");
    assert_eq!(data_of(&frames, 5), "three");
}

#[test]
fn a_reads_zxid_is_the_last_applied_and_a_writes_its_own() {
    let server = TestServer::new();
    let connection = server.open_session();
    let Zxid(before) = server.create("/a", "");
    read(&server, &connection, 1, get("/a", false));
    server.write(&connection, 2, znode(set("/a", "")), Form::Plain);
    server.write(&connection, 3, znode(set("/none", "")), Form::Plain);
    read(&server, &connection, 4, get("/a", false));
    server.step();
    let at = before as u32;
    assert_eq!(
        told(&connection),
        [
            format!("1 as of {at}"),
            format!("2 as of {}", at + 1),
            format!("3 NoNode as of {}", at + 2),
            format!("4 as of {}", at + 2),
        ],
        "a refusal has a zxid too"
    );
}

#[test]
fn what_cannot_be_asked_is_answered_in_its_turn() {
    let server = TestServer::new();
    let connection = server.open_session();
    connection.reply(1, Err(ErrorCode::Unimplemented), 8);
    assert_eq!(told(&connection), ["1 Unimplemented as of 2"]);
    server.write(&connection, 2, znode(create("/a", "")), Form::Plain);
    connection.reply(3, Err(ErrorCode::BadArguments), 8);
    connection.reply_at_once(opcode::PING_XID, Ok(ResponseBody::Empty));
    assert_eq!(
        told(&connection),
        ["-2 as of 2"],
        "W5: a ping waits for nothing"
    );
    server.step();
    assert_eq!(told(&connection), ["2 as of 3", "3 BadArguments as of 3"]);
}

#[test]
fn w2_events_come_before_any_answer_that_could_show_the_change() {
    let server = TestServer::new();
    server.create("/a", "");
    let (watcher, writer) = (server.open_session(), server.open_session());
    read(&server, &watcher, 1, get("/a", true));
    read(&server, &watcher, 2, children("/a", true));
    assert_eq!(told(&watcher), ["1 as of 4", "2 as of 4"]);

    server.write(&watcher, 3, znode(create("/x", "")), Form::Plain);
    server.write(&writer, 1, znode(create("/a/b", "")), Form::Plain);
    server.write(&writer, 2, znode(set("/a", "")), Form::Plain);
    server.write(&watcher, 4, znode(create("/y", "")), Form::Plain);
    read(&server, &watcher, 5, get("/a", false));
    server.step();
    assert_eq!(
        told(&watcher),
        [
            "3 as of 5",
            "NodeChildrenChanged /a as of 6",
            "NodeDataChanged /a as of 7",
            "4 as of 8",
            "5 as of 8",
        ]
    );
}

#[test]
fn s4_no_outcome_leaves_before_what_it_was_evaluated_after_is_applied() {
    let server = TestServer::new();
    server.mount("/m");
    let (writer, other) = (server.open_session(), server.open_session());
    let before = server.edge.state.read().last_zxid();
    server.write(&writer, 1, znode(create("/a", "")), Form::Plain);
    // What changes nothing: a refusal that has seen the create, and a run that only returns.
    server.write(&other, 1, znode(create("/a", "")), Form::Plain);
    let (echo, form) = call(1, "echo");
    server.write(&other, 2, echo, form);
    let entry = server.evaluate().unwrap();
    assert!(told(&writer).is_empty() && told(&other).is_empty());
    server.apply(&entry);
    let at = |behind| before.counter() + behind;
    assert_eq!(told(&writer), [format!("1 as of {}", at(1))]);
    let told = told(&other);
    let refused = format!("1 NodeExists as of {}", at(2));
    let returned = format!("2 as of {}", at(3));
    assert_eq!(told, [refused, returned], "each takes a zxid");
}

#[test]
fn a_write_tells_its_own_watcher_before_it_is_answered() {
    let server = TestServer::new();
    let connection = server.open_session();
    let watch = Read::Exists {
        path: path("/a"),
        watch: true,
    };
    read(&server, &connection, 1, watch);
    server.write(&connection, 2, znode(create("/a", "")), Form::Plain);
    server.step();
    assert_eq!(
        told(&connection),
        ["1 NoNode as of 2", "NodeCreated /a as of 3", "2 as of 3"]
    );
}

#[test]
fn a_watch_of_a_read_behind_a_write_is_set_as_of_that_write() {
    let server = TestServer::new();
    server.create("/a", "");
    let connection = server.open_session();
    server.write(&connection, 1, znode(set("/a", "one")), Form::Plain);
    read(&server, &connection, 2, get("/a", true));
    server.write(&connection, 3, znode(set("/a", "two")), Form::Plain);
    server.step();
    assert_eq!(
        told(&connection),
        [
            "1 as of 4",
            "2 as of 4",
            "NodeDataChanged /a as of 5",
            "3 as of 5"
        ]
    );
}

#[test]
fn reads_of_what_is_not_there_set_the_watches_that_zookeeper_sets() {
    let server = TestServer::new();
    let connection = server.open_session();
    read(&server, &connection, 1, get("/a", true));
    read(&server, &connection, 2, children("/a", true));
    assert_eq!(server.edge.watches.count(), 0);
    let exists = |watch| Read::Exists {
        path: path("/a"),
        watch,
    };
    read(&server, &connection, 3, exists(false));
    assert_eq!(server.edge.watches.count(), 0);
    read(&server, &connection, 4, exists(true));
    assert_eq!(server.edge.watches.count(), 1);
    connection.finish();
    assert_eq!(
        server.edge.watches.count(),
        0,
        "watches die with their connection"
    );
}

#[test]
fn set_watches_tells_what_has_happened_since_and_watches_the_rest() {
    let server = TestServer::new();
    for at in ["/same", "/set", "/deleted", "/parent", "/made", "/quiet"] {
        server.create(at, "");
    }
    let since = server.create("/last", "");
    server.set("/set", "");
    server.delete("/deleted");
    server.create("/parent/child", "");

    let connection = server.open_session();
    let at = since.counter() + 4;
    let watches = SetWatches {
        since,
        data: ["/same", "/set", "/deleted"].map(path).into(),
        exist: ["/made", "/unmade"].map(path).into(),
        child: ["/quiet", "/parent", "/deleted"].map(path).into(),
    };
    read(
        &server,
        &connection,
        opcode::SET_WATCHES_XID,
        Read::SetWatches(Box::new(watches)),
    );
    assert_eq!(
        told(&connection),
        [
            format!("NodeDataChanged /set as of {at}"),
            format!("NodeDeleted /deleted as of {at}"),
            format!("NodeCreated /made as of {at}"),
            format!("NodeChildrenChanged /parent as of {at}"),
            format!("NodeDeleted /deleted as of {at}"),
            format!("-8 as of {at}"),
        ]
    );
    assert_eq!(server.edge.watches.count(), 3);
    server.set("/same", "");
    server.create("/unmade", "");
    server.create("/quiet/child", "");
    assert_eq!(
        told(&connection),
        [
            format!("NodeDataChanged /same as of {}", at + 1),
            format!("NodeCreated /unmade as of {}", at + 2),
            format!("NodeChildrenChanged /quiet as of {}", at + 3),
        ]
    );
    assert_eq!(server.edge.watches.count(), 0);
}

#[test]
fn close_session_is_answered_and_then_the_connection_ends() {
    let server = TestServer::new();
    let connection = server.open_session();
    server.write(&connection, 1, znode(create("/a", "")), Form::Plain);
    server.write(&connection, 2, Operation::CloseSession, Form::Close);
    server.step();
    assert_eq!(connection.progress(), Progress::Ending);
    assert_eq!(told(&connection), ["1 as of 3", "2 as of 4"]);
}

#[test]
fn a_session_that_ends_elsewhere_closes_its_connection() {
    let server = TestServer::new();
    let connection = server.open_session();
    let request = quorate_model::request::Request {
        session: connection.session().unwrap(),
        owner: None,
        identities: Arc::default(),
        operation: Operation::ExpireSession,
    };
    let waiter = server.connection().write(1, Form::Plain, 100);
    server.edge.router.submit(request, waiter).unwrap();
    server.step();
    assert_eq!(connection.closed(), Some("its session has ended"));
}

#[test]
fn w3_a_session_that_moves_closes_the_former_connection() {
    let server = TestServer::new();
    let (former, connection) = (server.open_session(), server.connection());
    let password = server
        .edge
        .state
        .read()
        .session(former.session().unwrap())
        .unwrap()
        .password;
    server.write(&former, 1, znode(create("/late", "")), Form::Plain);
    let request = quorate_model::request::Request {
        session: former.session().unwrap(),
        owner: Some(connection.owner()),
        identities: Arc::default(),
        operation: Operation::AttachSession {
            password,
            timeout_ms: 10_000,
        },
    };
    let waiter = connection.handshake(crate::testing::connect_request());
    server.edge.router.submit(request, waiter).unwrap();
    server.write(&former, 2, znode(create("/later", "")), Form::Plain);
    server.step();
    assert_eq!(
        former.closed(),
        Some("its session goes on over another one")
    );
    assert_eq!(connection.progress(), Progress::Open);
    assert_eq!(connection.session(), former.session());
    let state = server.edge.state.read();
    assert!(state.stat(&path("/late")).is_some());
    assert!(state.stat(&path("/later")).is_none(), "SessionMoved");
}

#[test]
fn a_wrong_password_is_answered_as_an_expired_session() {
    let server = TestServer::new();
    let (former, connection) = (server.open_session(), server.connection());
    let request = quorate_model::request::Request {
        session: former.session().unwrap(),
        owner: Some(connection.owner()),
        identities: Arc::default(),
        operation: Operation::AttachSession {
            password: quorate_model::request::Password([9; 16]),
            timeout_ms: 10_000,
        },
    };
    let waiter = connection.handshake(crate::testing::connect_request());
    server.edge.router.submit(request, waiter).unwrap();
    server.step();
    let frames = sent(&connection);
    let answer = ConnectResponse::decode(&mut Reader::new(&frames[0])).unwrap();
    let request = crate::testing::connect_request();
    assert_eq!(answer, ConnectResponse::expired(&request));
    assert_eq!(connection.progress(), Progress::Ending);
    assert_eq!(former.closed(), None, "the session is where it was");
}

fn call(key: u64, operation: &str) -> (Operation, Form) {
    let mount = path("/m");
    let request = CallRequest {
        key,
        mount: mount.clone(),
        operation: operation.into(),
        arguments: "[1]".into(),
        timeout_ms: None,
        acknowledged: Acknowledgement::default(),
    };
    (Operation::Call(request), Form::Call { key, mount })
}

#[test]
fn c9_a_late_answer_comes_as_an_event_on_the_connection_that_made_the_call() {
    let server = TestServer::new();
    server.mount("/m");
    let connection = server.open_session();
    for (xid, (operation, form)) in [(1, call(7, "wait")), (2, call(8, "echo"))] {
        server.write(&connection, xid, operation, form);
    }
    server.step();
    let frames = sent(&connection);
    let status = |frame| match Response::decode(opcode::CALL, frame).unwrap().body {
        ResponseBody::Call(response) => (response.status, response.result),
        other => panic!("{other:?}"),
    };
    assert_eq!(status(&frames[0]), (CallStatus::Parked, String::new()));
    assert_eq!(status(&frames[1]), (CallStatus::Returned, "[1]".into()));

    let gate = server.create("/m/gate", "").counter();
    let expected = format!("call 7 Returned \"go\" as of {}", gate + 1);
    assert_eq!(told(&connection), [expected]);

    // Repeated once it has ended: answered already, and no event follows.
    let (operation, form) = call(7, "wait");
    server.write(&connection, 3, operation, form);
    server.step();
    let frames = sent(&connection);
    assert_eq!(status(&frames[0]), (CallStatus::Returned, "\"go\"".into()));
    assert_eq!(frames.len(), 1);
}

#[test]
fn c9_who_repeats_the_call_gets_the_answer() {
    let server = TestServer::new();
    server.mount("/m");
    let connection = server.open_session();
    for xid in [1, 2] {
        let (operation, form) = call(7, "wait");
        server.write(&connection, xid, operation, form);
        server.step();
    }
    assert_eq!(told(&connection).len(), 2, "parked, and parked still");
    server.create("/m/gate", "");
    assert_eq!(told(&connection).len(), 1, "one event");
}

#[test]
fn refusals_of_calls_are_statuses() {
    let server = TestServer::new();
    server.mount("/m");
    let connection = server.open_session();
    let (operation, form) = call(7, "no-such");
    server.write(&connection, 1, operation, form);
    server.write(&connection, 2, Operation::Cancel { key: 9 }, Form::Cancel);
    server.step();
    for frame in sent(&connection) {
        match Response::decode(opcode::CALL, &frame).unwrap().body {
            ResponseBody::Call(response) => assert_eq!(response.status, CallStatus::BadCall),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_failed_multi_tells_each_part_and_its_header_no_error() {
    let server = TestServer::new();
    let connection = server.open_session();
    let parts = vec![create("/a", ""), set("/none", ""), create("/b", "")];
    let count = parts.len();
    server.write(
        &connection,
        1,
        Operation::Multi(parts),
        Form::Multi {
            parts: count,
            malformed: None,
        },
    );
    server.write(
        &connection,
        2,
        Operation::Multi(vec![]),
        Form::Multi {
            parts: 0,
            malformed: None,
        },
    );
    server.step();
    let frames = sent(&connection);
    let response = Response::decode(opcode::MULTI, &frames[0]).unwrap();
    assert_eq!(response.header.error, 0);
    let ResponseBody::Multi(results) = response.body else {
        panic!("a multi's results");
    };
    assert_eq!(results, [0, -101, -2].map(quorate_wire::MultiResult::Error));
    let empty = Response::decode(opcode::MULTI, &frames[1]).unwrap();
    assert_eq!(
        (empty.header.error, empty.body),
        (0, ResponseBody::Multi(vec![]))
    );
}

#[test]
fn a_client_that_does_not_read_is_closed_at_the_bound() {
    let server = TestServer::new();
    let connection = server.open_session();
    let event = vec![0; 1 << 20];
    for _ in 0..MAX_UNSENT_BYTES / event.len() {
        connection.tell(&event);
    }
    assert_eq!(connection.closed(), None);
    assert_eq!(connection.progress(), Progress::Pressed);
    connection.tell(&event);
    assert_eq!(
        connection.closed(),
        Some("the client does not read its answers")
    );
    assert!(
        connection.inner.lock().output.is_empty(),
        "its memory is given back"
    );
}

/// A znode whose data are half a megabyte, and a session.
fn large() -> (std::sync::Arc<TestServer>, std::sync::Arc<Connection>) {
    let server = TestServer::new();
    server.create("/large", &"x".repeat(1 << 19));
    let connection = server.open_session();
    (server, connection)
}

#[test]
fn reads_behind_the_last_write_wait_for_the_client_to_read() {
    let (server, connection) = large();
    server.create("/own", "");
    server.write(&connection, 1, znode(set("/own", "one")), Form::Plain);
    for xid in 2..40 {
        read(&server, &connection, xid, get("/large", false));
    }
    read(&server, &connection, 40, get("/own", true));
    server.step();
    assert_eq!(connection.progress(), Progress::Pressed);
    let unsent = || connection.inner.lock().unsent();
    assert!(unsent() < PAUSE_UNSENT_BYTES + (1 << 20), "{}", unsent());

    let mut xids = Vec::new();
    let mut last = Vec::new();
    while xids.len() < 40 {
        last = sent(&connection);
        let xid = |frame| ReplyHeader::decode(&mut Reader::new(frame)).unwrap().xid;
        xids.extend(last.iter().map(|frame| xid(frame)));
        assert!(last.len() < 5, "a few at a time");
        if xids.len() < 40 {
            assert_eq!(connection.progress(), Progress::Due);
            connection.answer_due(&server.edge.state);
        }
    }
    assert_eq!(xids, (1..=40).collect::<Vec<_>>());
    assert_eq!(data_of(&last, 40), "one");
    assert_eq!(connection.progress(), Progress::Open);
    assert_eq!(server.edge.metrics.outstanding.get(), 0);
    assert_eq!(server.edge.metrics.outstanding_bytes.get(), 0);
}

/// W1 for the reads that waited for room: a write that is taken while they wait does not pass them.
#[test]
fn w1_reads_that_wait_for_room_are_answered_before_the_next_write() {
    let (server, connection) = large();
    server.create("/own", "");
    server.write(&connection, 1, znode(set("/own", "one")), Form::Plain);
    for xid in 2..8 {
        read(&server, &connection, xid, get("/large", false));
    }
    read(&server, &connection, 8, get("/own", false));
    server.step();
    assert!(!connection.inner.lock().waits(Barrier::NONE));
    // The receiving task had taken the write when the one before settled.
    let waiter = connection.write(9, Form::Plain, 100);
    connection.answer_due(&server.edge.state);
    let request = quorate_model::request::Request {
        session: connection.session().unwrap(),
        owner: Some(connection.owner()),
        identities: Arc::default(),
        operation: znode(set("/own", "two")),
    };
    server.edge.router.submit(request, waiter).unwrap();
    server.step();
    let frames = sent(&connection);
    assert_eq!(frames.len(), 9);
    assert_eq!(data_of(&frames, 8), "one");
}

#[test]
fn reads_behind_a_write_are_bounded_by_their_number_and_by_what_their_answers_take() {
    let (server, connection) = large();
    server.write(&connection, 1, znode(set("/large", "")), Form::Plain);
    for xid in 0..2 {
        assert_eq!(connection.progress(), Progress::Open);
        read(&server, &connection, xid, get("/large", false));
    }
    assert_eq!(connection.progress(), Progress::Pressed, "a megabyte");

    let small = server.open_session();
    server.write(&small, 1, znode(set("/large", "")), Form::Plain);
    for xid in 0..MAX_PENDING_READS {
        assert_eq!(small.progress(), Progress::Open);
        read(&server, &small, xid as i32, get("/none", false));
    }
    assert_eq!(small.progress(), Progress::Pressed);
    server.step();
    assert_eq!(small.progress(), Progress::Open);
}

#[test]
fn what_waits_behind_a_write_counts_its_bytes() {
    let server = TestServer::new();
    let connection = server.open_session();
    server.write(&connection, 1, znode(set("/none", "")), Form::Plain);
    let watches = Box::new(SetWatches::default());
    let state = server.edge.state.read();
    let set = Read::SetWatches(watches);
    connection.read(&state, 2, set, Barrier::NONE, MAX_PENDING_BYTES / 2);
    assert_eq!(connection.progress(), Progress::Open);
    connection.reply(3, Err(ErrorCode::MarshallingError), MAX_PENDING_BYTES / 2);
    assert_eq!(connection.progress(), Progress::Pressed);
    drop(state);
    server.step();
    assert_eq!(connection.progress(), Progress::Open);
    assert_eq!(server.edge.metrics.outstanding_bytes.get(), 0);
}

/// As many reads as may wait between two writes, of data that were small when they came.
#[test]
fn answers_that_have_grown_meanwhile_are_bounded_by_the_number_of_reads() {
    let server = TestServer::new();
    server.create("/grows", "");
    let (connection, other) = (server.open_session(), server.open_session());
    let data = "x".repeat(quorate_model::znode::MAX_DATA_BYTES);
    server.write(&other, 1, znode(set("/grows", &data)), Form::Plain);
    server.write(&connection, 1, znode(set("/none", "")), Form::Plain);
    for xid in 0..MAX_PENDING_READS as i32 {
        read(&server, &connection, xid, get("/grows", false));
    }
    server.write(&connection, 2, znode(set("/none", "")), Form::Plain);
    server.step();
    assert_eq!(connection.closed(), None);
    assert_eq!(sent(&connection).len(), MAX_PENDING_READS + 2);

    // More than the receiving task would take.
    server.write(&connection, 1, znode(set("/none", "")), Form::Plain);
    for xid in 0..2 * MAX_PENDING_READS as i32 {
        read(&server, &connection, xid, get("/grows", false));
    }
    server.write(&connection, 2, znode(set("/none", "")), Form::Plain);
    server.step();
    assert!(connection.closed().is_some(), "before they are all made");
}

#[test]
fn an_opcode_that_does_not_exist_ends_the_connection_after_what_is_owed() {
    let server = TestServer::new();
    let connection = server.open_session();
    server.write(&connection, 1, znode(create("/a", "")), Form::Plain);
    read(&server, &connection, 2, get("/a", false));
    connection.last(3, Err(ErrorCode::Unimplemented));
    assert_eq!(connection.progress(), Progress::Pressed, "no more is taken");
    server.step();
    assert_eq!(connection.progress(), Progress::Ending);
    let frames = sent(&connection);
    let headers: Vec<ReplyHeader> = frames
        .iter()
        .map(|frame| ReplyHeader::decode(&mut Reader::new(frame)).unwrap())
        .collect();
    let told: Vec<_> = headers.iter().map(|one| (one.xid, one.error)).collect();
    assert_eq!(told, [(1, 0), (2, 0), (3, -6)]);
    assert_eq!(headers[2].zxid.0.cast_signed(), -1);
    let idle = server.open_session();
    idle.last(1, Err(ErrorCode::Unimplemented));
    assert_eq!(idle.progress(), Progress::Ending);
    assert_eq!(sent(&idle).len(), 1);
    assert_eq!(server.edge.metrics.outstanding.get(), 0);
}

#[test]
fn a_malformed_part_is_told_only_if_those_before_it_succeed() {
    let server = TestServer::new();
    server.create("/t", "");
    let connection = server.open_session();
    let bad = || ZnodeOperation::Delete {
        path: quorate_model::path::ZnodePath::root(),
        version: -1,
    };
    let check = ZnodeOperation::Check {
        path: path("/t"),
        version: 9,
    };
    let form = |parts, at| Form::Multi {
        parts,
        malformed: Some((at, ErrorCode::InvalidAcl)),
    };
    let multi = |operations| Operation::Multi(operations);
    server.write(&connection, 1, multi(vec![check, bad()]), form(2, 1));
    let twice = vec![create("/t/m", ""), create("/t/m", ""), bad()];
    server.write(&connection, 2, multi(twice), form(3, 2));
    let good = vec![create("/t/m", ""), bad()];
    server.write(&connection, 3, multi(good), form(3, 1));
    server.step();
    let results: Vec<_> = sent(&connection)
        .iter()
        .map(|frame| Response::decode(opcode::MULTI, frame).unwrap().body)
        .collect();
    let expected = |codes: &[i32]| {
        let errors = codes
            .iter()
            .map(|code| quorate_wire::MultiResult::Error(*code));
        ResponseBody::Multi(errors.collect())
    };
    assert_eq!(results[0], expected(&[-103, -2]));
    assert_eq!(results[1], expected(&[0, -110, -2]));
    assert_eq!(results[2], expected(&[0, -114, -2]));
    assert!(server.edge.state.read().stat(&path("/t/m")).is_none());
}

#[test]
fn too_many_pending_requests_stop_the_reading() {
    let server = TestServer::new();
    let connection = server.open_session();
    for xid in 0..MAX_PENDING {
        assert_eq!(connection.progress(), Progress::Open);
        server.write(
            &connection,
            xid as i32,
            znode(set("/none", "")),
            Form::Plain,
        );
    }
    assert_eq!(connection.progress(), Progress::Pressed);
    assert_eq!(server.edge.metrics.outstanding.get(), MAX_PENDING as i64);
    server.step();
    assert_eq!(connection.progress(), Progress::Open);
    assert_eq!(server.edge.metrics.outstanding.get(), 0);
}

#[test]
fn while_much_is_unsent_in_all_who_has_any_unsent_is_not_read_from() {
    let server = TestServer::new();
    let unsent = &server.edge.metrics.unsent_bytes;
    let (behind, idle) = (server.open_session(), server.open_session());
    behind.tell(b"an event");
    assert_eq!(unsent.get(), 8);
    assert_eq!(behind.progress(), Progress::Open);
    unsent.inc_by(PAUSE_UNSENT_BYTES_OF_ALL);
    assert_eq!(behind.progress(), Progress::Pressed);
    assert_eq!(idle.progress(), Progress::Open);
    let mut sending = BytesMut::new();
    behind.take_output(&mut sending);
    assert_eq!(behind.progress(), Progress::Pressed, "it is not sent yet");
    sending.clear();
    behind.take_output(&mut sending);
    assert_eq!(behind.progress(), Progress::Open);
    unsent.inc_by(MAX_UNSENT_BYTES_OF_ALL - PAUSE_UNSENT_BYTES_OF_ALL);
    assert_eq!(idle.progress(), Progress::Pressed, "nobody is answered");
    unsent.dec_by(MAX_UNSENT_BYTES_OF_ALL);
    behind.tell(b"an event");
    behind.close("the test is over");
    assert_eq!(unsent.get(), 0);
}

#[test]
fn a_connection_with_much_pending_is_not_read_from_while_all_wait() {
    let limit = 10;
    let server = TestServer::with_limits(Limits {
        max_outstanding_requests: limit,
        ..Limits::default()
    });
    let (idle, busy) = (server.open_session(), server.open_session());
    server.write(&busy, 1, znode(set("/none", "")), Form::Plain);
    server.edge.metrics.outstanding.inc_by(limit as i64 - 1);
    assert_eq!(busy.progress(), Progress::Pressed);
    assert_eq!(idle.progress(), Progress::Open, "nothing would wake it");
    server.edge.metrics.outstanding.dec_by(limit as i64 - 1);
    let large = server.open_session();
    let waiter = large.write(1, Form::Plain, MAX_PENDING_BYTES);
    assert_eq!(large.progress(), Progress::Pressed);
    waiter.abandon("the test is over");
    server.step();
    assert_eq!(server.edge.metrics.outstanding.get(), 0);
    assert_eq!(server.edge.metrics.outstanding_bytes.get(), 0);
}

/// What happens at a connection, for the random test.
#[derive(Clone, Debug)]
enum Happening {
    Set,
    Get,
    Ping,
    Unknown,
    /// Another session writes.
    Other,
    /// Everything submitted so far becomes one entry.
    Entry,
}

proptest! {
    /// W1 and W2 for any interleaving: answers come in the order of the requests, each read sees
    /// exactly its session's writes before it, and a watch's event comes before any answer as of a later zxid.
    #[test]
    fn w1_w2_hold_for_any_interleaving(happenings in prop::collection::vec(
        prop_oneof![
            Just(Happening::Set),
            Just(Happening::Get),
            Just(Happening::Get),
            Just(Happening::Ping),
            Just(Happening::Unknown),
            Just(Happening::Other),
            Just(Happening::Entry),
        ],
        0..60,
    )) {
        let server = TestServer::new();
        server.create("/mine", "0");
        server.create("/others", "");
        let (connection, other) = (server.open_session(), server.open_session());
        let (mut xid, mut writes) = (0, 0);
        let mut expected = Vec::new();
        for happening in happenings {
            match happening {
                Happening::Set => {
                    xid += 1;
                    writes += 1;
                    let operation = znode(set("/mine", &writes.to_string()));
                    server.write(&connection, xid, operation, Form::Plain);
                    expected.push((xid, None));
                }
                Happening::Get => {
                    xid += 1;
                    read(&server, &connection, xid, get("/mine", false));
                    expected.push((xid, Some(writes.to_string())));
                    xid += 1;
                    read(&server, &connection, xid, get("/others", true));
                    expected.push((xid, Some(String::new())));
                }
                Happening::Ping => {
                    connection.reply_at_once(opcode::PING_XID, Ok(ResponseBody::Empty));
                }
                Happening::Unknown => {
                    xid += 1;
                    connection.reply(xid, Err(ErrorCode::Unimplemented), 8);
                    expected.push((xid, None));
                }
                Happening::Other => {
                    server.write(&other, 1, znode(set("/others", "")), Form::Plain);
                }
                Happening::Entry => {
                    server.step();
                }
            }
        }
        server.step();
        let mut answered = Vec::new();
        let mut seen = Zxid::ZERO;
        for frame in sent(&connection) {
            let header = ReplyHeader::decode(&mut Reader::new(&frame)).unwrap();
            match header.xid {
                opcode::PING_XID => {}
                opcode::NOTIFICATION_XID => {
                    prop_assert!(header.zxid > seen, "an event of {} after {seen}", header.zxid);
                    continue;
                }
                xid => {
                    let response = Response::decode(opcode::GET_DATA, &frame);
                    let data = match response.map(|response| response.body) {
                        Ok(ResponseBody::Data { data, .. }) => {
                            Some(String::from_utf8(data.to_vec()).unwrap())
                        }
                        _ => None,
                    };
                    answered.push((xid, data));
                }
            }
            prop_assert!(header.zxid >= seen);
            seen = header.zxid;
        }
        prop_assert_eq!(answered, expected);
    }
}

/// A read that is to see all that was acknowledged anywhere before it.
fn read_newest(server: &TestServer, connection: &Arc<Connection>, xid: i32, read: Read) {
    let barrier = server.edge.router.barriers().raise(connection);
    connection.read(&server.edge.state.read(), xid, read, barrier, 20);
}

fn sync(path: &str) -> Read {
    Read::Sync { path: path.into() }
}

/// What the receiving task does when it is woken.
fn answer_due(server: &TestServer, connection: &Connection) {
    if connection.progress() == Progress::Due {
        connection.answer_due(&server.edge.state);
    }
}

#[test]
fn w7_a_sync_is_answered_in_its_turn_once_its_barrier_is_passed() {
    let server = TestServer::new();
    server.create("/a", "zero");
    let connection = server.open_session();
    server.write(&connection, 1, znode(set("/a", "one")), Form::Plain);
    read_newest(&server, &connection, 2, sync("/a"));
    read(&server, &connection, 3, get("/a", false));
    connection.reply_at_once(opcode::PING_XID, Ok(ResponseBody::Empty));
    assert_eq!(
        told(&connection),
        ["-2 as of 3"],
        "W5: a ping waits for nothing"
    );
    server.step();
    assert_eq!(told(&connection), ["1 as of 4"]);
    answer_due(&server, &connection);
    assert!(told(&connection).is_empty(), "reads behind it wait too");
    server.set("/a", "of another session");
    server.pass_barrier();
    answer_due(&server, &connection);
    let frames = sent(&connection);
    let answer = Response::decode(opcode::SYNC, &frames[0]).unwrap();
    assert_eq!(answer.header.zxid, server.edge.state.read().last_zxid());
    assert_eq!(answer.body, ResponseBody::Path("/a".into()));
    assert_eq!(data_of(&frames, 3), "of another session");
    assert!(!server.edge.router.barriers().hold_any());
}

/// A write need not wait for the barriers before it: when it is applied, all that was acknowledged before is.
#[test]
fn w7_a_write_behind_a_barrier_does_not_pass_it() {
    let server = TestServer::new();
    server.create("/a", "zero");
    let connection = server.open_session();
    for first in [1, 11] {
        read_newest(&server, &connection, first, get("/a", false));
        server.write(&connection, first + 1, znode(set("/a", "one")), Form::Plain);
        read_newest(&server, &connection, first + 2, sync("/"));
        read(&server, &connection, first + 3, get("/a", false));
        server.write(&connection, first + 4, znode(set("/a", "two")), Form::Plain);
        read_newest(&server, &connection, first + 5, get("/a", false));
    }
    assert!(told(&connection).is_empty());
    assert_eq!(server.step(), 4, "one entry, and no barrier is passed");
    let frames = sent(&connection);
    let xids: Vec<i32> = frames
        .iter()
        .map(|frame| ReplyHeader::decode(&mut Reader::new(frame)).unwrap().xid)
        .collect();
    assert_eq!(xids, [1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15]);
    let seen = [1, 4, 6, 11, 14].map(|xid| data_of(&frames, xid));
    assert_eq!(seen, ["zero", "one", "two", "two", "one"]);
    server.pass_barrier();
    answer_due(&server, &connection);
    assert_eq!(data_of(&sent(&connection), 16), "two");
    assert_eq!(connection.closed(), None);
}

#[test]
fn w7_a_barrier_is_not_passed_by_a_question_that_was_asked_before_it_was_raised() {
    let server = TestServer::new();
    server.create("/a", "");
    let (first, second) = (server.open_session(), server.open_session());
    let barriers = server.edge.router.barriers();
    read_newest(&server, &first, 1, sync("/"));
    let under_way = barriers.ask();
    read_newest(&server, &first, 2, sync("/"));
    read_newest(&server, &second, 1, get("/a", false));
    barriers.pass(under_way);
    for connection in [&first, &second] {
        answer_due(&server, connection);
    }
    assert_eq!(told(&first), ["1 as of 4"]);
    assert!(told(&second).is_empty());
    server.pass_barrier();
    for connection in [&first, &second] {
        answer_due(&server, connection);
    }
    assert_eq!(told(&first), ["2 as of 4"], "one question for both");
    assert_eq!(told(&second), ["1 as of 4"]);
}

#[test]
fn a_connection_that_ends_gives_its_barriers_up() {
    let server = TestServer::new();
    let connection = server.open_session();
    for xid in 1..4 {
        read_newest(&server, &connection, xid, sync("/"));
    }
    assert!(server.edge.router.barriers().hold_any());
    connection.close("test");
    assert!(!server.edge.router.barriers().hold_any());
    server.pass_barrier();
    assert_eq!(server.edge.metrics.outstanding.get(), 0);
}
