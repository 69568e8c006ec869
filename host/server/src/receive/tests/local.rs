//! Local sessions as their clients see them.

use quorate_model::id::SessionId;
use quorate_model::request::Password;
use quorate_wire::{CallStatus, MultiOperation, MultiResult};

use super::*;
use crate::local_sessions::Setting;

fn serving(local_sessions: Setting) -> Arc<TestServer> {
    let server = TestServer::with_limits(Limits {
        local_sessions,
        ..Limits::default()
    });
    server.run();
    server
}

fn ephemeral(path: &str) -> Create {
    Create {
        path: path.into(),
        data: Bytes::new(),
        acl: Acl::open(),
        flags: 1,
    }
}

fn again(opened: &ConnectResponse) -> ConnectRequest {
    ConnectRequest {
        session: opened.session,
        password: opened.password.clone(),
        ..connect_request()
    }
}

fn session(opened: &ConnectResponse) -> SessionId {
    SessionId(opened.session.cast_unsigned())
}

#[tokio::test]
async fn a_local_session_costs_no_transaction_and_writes_plain_znodes() {
    let server = serving(Setting::On);
    let edge = &server.edge;
    let before = edge.state.read().last_zxid();
    let mut client = Client::connect(&server);
    let opened = client.handshake(&connect_request()).await;
    assert!(session(&opened).is_local() && opened.timeout_ms == 10_000);
    client.request(-2, RequestBody::Ping).await;
    client.request(1, get("/zookeeper", true)).await;
    assert_eq!(edge.local.count(), 1);
    assert_eq!(edge.state.read().last_zxid(), before);

    let mut pipelined = encoded(2, create("/a", "x", Acl::open()));
    pipelined.extend(encoded(3, RequestBody::CloseSession));
    client.send(&pipelined).await;
    for (xid, opcode) in [(2, opcode::CREATE), (3, opcode::CLOSE_SESSION)] {
        let response = Response::decode(opcode, &client.frame().await).unwrap();
        assert_eq!((response.header.xid, response.header.error), (xid, 0));
    }
    let (rest, end) = client.rest().await;
    assert!(rest.is_empty() && matches!(end, End::Farewell), "{end}");
    assert_eq!(edge.local.count(), 0);
    let after = edge.state.read().last_zxid();
    assert_eq!(after.0, before.0 + 1, "nothing but the create");

    let mut late = Client::connect(&server);
    assert_eq!(late.handshake(&again(&opened)).await.timeout_ms, 0);
}

#[tokio::test]
async fn a_local_session_gets_no_ephemeral_and_makes_no_call() {
    let server = serving(Setting::On);
    let mut client = Client::open(&server).await;
    // Before it is looked at whether its parent is there, as in ZooKeeper.
    for path in ["/e", "/no/such"] {
        let refused = client
            .request(1, RequestBody::Create(ephemeral(path)))
            .await;
        assert_eq!(
            refused.header.error,
            ErrorCode::EphemeralOnLocalSession as i32
        );
    }
    let parts = vec![
        MultiOperation::Create(Create {
            flags: 0,
            ..ephemeral("/a")
        }),
        MultiOperation::Create(ephemeral("/a/e")),
    ];
    let multi = client.request(2, RequestBody::Multi(parts)).await;
    let ResponseBody::Multi(results) = multi.body else {
        panic!("{multi:?}");
    };
    let code = ErrorCode::EphemeralOnLocalSession as i32;
    assert!(
        matches!(results[1], MultiResult::Error(told) if told == code),
        "{results:?}"
    );
    let answer = client.request(3, call()).await;
    let ResponseBody::Call(answer) = answer.body else {
        panic!("{answer:?}");
    };
    assert_eq!(answer.status, CallStatus::BadCall);
    assert!(answer.result.contains("local"), "{}", answer.result);
    let response = client.request(4, create("/b", "", Acl::open())).await;
    assert_eq!(response.header.error, 0, "the session goes on");
    assert_eq!(server.edge.state.read().counts().znodes, {
        TestServer::new().edge.state.read().counts().znodes + 1
    });
}

#[tokio::test]
async fn a_session_is_upgraded_for_what_needs_it_and_keeps_its_id_and_its_order() {
    let server = serving(Setting::Upgrading);
    let edge = &server.edge;
    let mut client = Client::connect(&server);
    let opened = client.handshake(&connect_request()).await;
    let id = session(&opened);
    client.request(1, create("/a", "", Acl::open())).await;
    assert!(edge.state.read().session(id).is_none());

    let mut pipelined = encoded(2, create("/a/1", "", Acl::open()));
    pipelined.extend(encoded(3, RequestBody::Create(ephemeral("/a/2"))));
    pipelined.extend(encoded(4, create("/a/3", "", Acl::open())));
    client.send(&pipelined).await;
    for xid in 2..=4 {
        let response = Response::decode(opcode::CREATE, &client.frame().await).unwrap();
        assert_eq!((response.header.xid, response.header.error), (xid, 0));
    }
    let global = edge.state.read().session(id).cloned().unwrap();
    assert_eq!(global.owner, Some(client.connection.owner()));
    assert_eq!(&global.password.0[..], &*opened.password);
    assert_eq!((global.timeout_ms, edge.local.count()), (10_000, 0));

    // It goes on wherever the state is, and ends with its ephemerals.
    let mut moved = Client::connect(&server);
    assert_eq!(
        moved.handshake(&again(&opened)).await.session,
        opened.session
    );
    let (_, end) = client.rest().await;
    assert!(matches!(end, End::Closed(_)), "{end}");
    moved.request(5, RequestBody::CloseSession).await;
    let gone = edge.state.read().session(id).is_none();
    assert!(gone && edge.state.read().counts().ephemerals == 0);
}

#[tokio::test]
async fn w3_a_local_session_goes_on_over_the_connection_that_comes_last() {
    let server = serving(Setting::On);
    let mut first = Client::connect(&server);
    let opened = first.handshake(&connect_request()).await;
    let mut second = Client::connect(&server);
    assert_eq!(
        second.handshake(&again(&opened)).await.session,
        opened.session
    );
    let (rest, end) = first.rest().await;
    assert!(rest.is_empty() && matches!(end, End::Closed(_)), "{end}");
    let written = second.request(1, create("/a", "", Acl::open())).await;
    assert_eq!(written.header.error, 0);

    let Client { stream, end, .. } = second;
    drop(stream);
    end.await.unwrap();
    let mut stranger = Client::connect(&server);
    let guess = ConnectRequest {
        password: Bytes::from_static(&[7; 16]),
        ..again(&opened)
    };
    assert_eq!(stranger.handshake(&guess).await.timeout_ms, 0);
    let mut third = Client::connect(&server);
    assert_eq!(
        third.handshake(&again(&opened)).await.session,
        opened.session
    );
    assert_eq!(server.edge.local.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_clients_local_session_ends_with_its_timeout() {
    let server = TestServer::with_limits(Limits {
        local_sessions: Setting::On,
        ..Limits::default()
    });
    let mut client = Client::connect(&server);
    let opened = client.handshake(&connect_request()).await;
    let begun = tokio::time::Instant::now();
    tokio::time::advance(Duration::from_secs(8)).await;
    client.request(-2, RequestBody::Ping).await;
    let end = client.end.await.unwrap();
    assert!(matches!(end, End::Late(_)), "{end}");
    assert_eq!(begun.elapsed().as_secs(), 18);
    let password = Password(opened.password.as_ref().try_into().unwrap());
    let resumed = server.edge.local.resume(session(&opened), password, 99);
    assert_eq!(resumed, crate::local_sessions::Resumed::Unknown);
}

#[tokio::test]
async fn s3_a_read_finds_its_connection_closed_while_a_snapshot_is_installed() {
    let server = serving(Setting::On);
    let mut client = Client::connect(&server);
    let opened = client.handshake(&connect_request()).await;
    let whole = server.vacate();
    client.send(&encoded(1, get("/zookeeper", false))).await;
    let (rest, end) = client.rest().await;
    assert!(rest.is_empty(), "{rest:?}: {end}");
    *server.edge.state.write() = whole;

    let mut again_here = Client::connect(&server);
    let resumed = again_here.handshake(&again(&opened)).await;
    assert_eq!(resumed.session, opened.session);
    again_here.request(1, get("/zookeeper", false)).await;
}

#[tokio::test]
async fn w5_a_session_lives_while_its_large_request_waits_for_room() {
    let server = serving(Setting::On);
    let room = &server.edge.room;
    let mut client = Client::open(&server).await;
    let all = room.take(MAX_LARGE_BYTES).ok().expect("there is room");
    client.send(&large_set(1)[..10_000]).await;
    let waits = async {
        while server.edge.metrics.room_waits.get() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waits).await.expect("it waits");
    tokio::time::pause();
    let session = Duration::from_millis(connect_request().timeout_ms.cast_unsigned().into());
    let ended = timeout(3 * session, &mut client.end).await;
    assert!(ended.is_err(), "{ended:?}");
    drop(all);
    let end = timeout(2 * session, client.end).await;
    let end = end.expect("now it is the client that is silent").unwrap();
    assert!(matches!(end, End::Late("a sign of life")), "{end}");
}
