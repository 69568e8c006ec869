//! Sessions against a server that does what the test says: order, watches, reconnects, ends.

use std::sync::Arc;
use std::time::Duration;

use crate::fake::{SESSION, Server, becomes, good, outcome, soon, stat};
use bytes::Bytes;
use quorate_client::{
    Client, ClientError, CreateMode, ErrorCode, EventType, MultiOperation, MultiResult, Options,
    SessionState, WatchEvent,
};
use quorate_wire::request::SetWatches;
use quorate_wire::{MAX_FRAME_BYTES, Notification, RequestBody, ResponseBody, WatcherEvent};

fn get(path: &str, watch: bool) -> RequestBody {
    let path = path.into();
    RequestBody::GetData { path, watch }
}

fn data(text: &'static str) -> ResponseBody {
    ResponseBody::Data {
        data: Bytes::from_static(text.as_bytes()),
        stat: stat(1),
    }
}

fn changed(path: &str) -> Notification {
    Notification::Watch(WatcherEvent::of(EventType::NodeDataChanged, path))
}

#[tokio::test]
async fn requests_go_out_without_waiting_and_replies_find_their_own() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let (first, second, third) = (client.clone(), client.clone(), client.clone());
    let first = tokio::spawn(async move { first.get("/a").await });
    let one = peer.request().await;
    let second = tokio::spawn(async move { second.get("/b").await });
    let two = peer.request().await;
    let third = tokio::spawn(async move { third.get("/c").await });
    let three = peer.request().await;
    assert_eq!((one.xid, two.xid, three.xid), (1, 2, 3));
    assert_eq!(
        [one.body, two.body, three.body],
        [get("/a", false), get("/b", false), get("/c", false)]
    );
    peer.reply(1, data("one")).await;
    peer.refuse(2, ErrorCode::NoNode).await;
    peer.reply(3, data("three")).await;
    assert_eq!(outcome(first).await, Ok((Bytes::from("one"), stat(1))));
    let error = outcome(second).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no znode /b");
    assert!(error.is_no_node());
    assert_eq!(outcome(third).await, Ok((Bytes::from("three"), stat(1))));
}

#[tokio::test]
async fn a_watch_fires_once_for_what_was_read() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let script = async {
        let request = peer.request().await;
        assert_eq!(request.body, get("/a", true));
        peer.reply(request.xid, data("old")).await;
        let request = peer.request().await;
        assert!(matches!(
            request.body,
            RequestBody::Exists { watch: true, .. }
        ));
        peer.refuse(request.xid, ErrorCode::NoNode).await;
        let request = peer.request().await;
        assert!(matches!(
            request.body,
            RequestBody::GetChildren2 { watch: true, .. }
        ));
        let children = ResponseBody::ChildrenWithStat {
            children: vec!["x".into()],
            stat: stat(0),
        };
        peer.reply(request.xid, children).await;
        peer.notify(changed("/a")).await;
        let created = WatcherEvent::of(EventType::NodeCreated, "/b");
        peer.notify(Notification::Watch(created)).await;
        let children = WatcherEvent::of(EventType::NodeChildrenChanged, "/a");
        peer.notify(Notification::Watch(children)).await;
    };
    let test = async {
        let (_, _, data) = good(client.get_and_watch("/a").await);
        let (absent, exist) = good(client.exists_and_watch("/b").await);
        assert_eq!(absent, None);
        let (children, _, child) = good(client.children_and_watch("/a").await);
        assert_eq!(children, ["x"]);
        for (watch, event, path) in [
            (data, EventType::NodeDataChanged, "/a"),
            (exist, EventType::NodeCreated, "/b"),
            (child, EventType::NodeChildrenChanged, "/a"),
        ] {
            let path = path.into();
            assert_eq!(watch.fired().await, Ok(WatchEvent { event, path }));
        }
    };
    soon(async { tokio::join!(script, test) }).await;
}

#[tokio::test]
async fn a_lost_connection_ends_what_was_on_its_way_and_keeps_session_and_watches() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let (watch, ()) = soon(async {
        tokio::join!(async { good(client.get_and_watch("/a").await).2 }, async {
            let request = peer.request().await;
            peer.reply(request.xid, data("old")).await;
        })
    })
    .await;
    let writer = client.clone();
    let write = tokio::spawn(async move { writer.set("/a", "new", None).await });
    peer.request().await;
    let seen = peer.zxid();
    drop(peer);
    assert_eq!(outcome(write).await, Err(ClientError::ConnectionLost));
    becomes(&client, |state| {
        matches!(state, SessionState::Disconnected { .. })
    })
    .await;

    // What is asked meanwhile is asked once there is a connection again.
    let reader = client.clone();
    let read = tokio::spawn(async move { reader.get("/b").await });
    let (request, mut peer) = server.welcome(Duration::from_secs(10)).await;
    assert_eq!(request.session, SESSION);
    assert_eq!(&request.password[..], b"0123456789abcdef");
    assert_eq!(request.last_zxid_seen, seen);
    let again = peer.request().await;
    assert_eq!(again.xid, -8);
    let set = SetWatches {
        since: seen,
        data: vec!["/a".into()],
        ..SetWatches::default()
    };
    assert_eq!(again.body, RequestBody::SetWatches(set));
    let request = peer.request().await;
    assert_eq!(request.body, get("/b", false));
    peer.notify(changed("/a")).await;
    peer.reply(-8, ResponseBody::Empty).await;
    peer.reply(request.xid, data("there")).await;
    assert_eq!(
        soon(watch.fired()).await.unwrap().event,
        EventType::NodeDataChanged
    );
    assert_eq!(outcome(read).await.unwrap().0, "there");
    becomes(&client, |state| *state == SessionState::Connected).await;
}

#[tokio::test]
async fn an_expired_session_is_told_to_everybody() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let (watch, ()) = soon(async {
        tokio::join!(async { good(client.get_and_watch("/a").await).2 }, async {
            let request = peer.request().await;
            peer.reply(request.xid, data("old")).await;
        })
    })
    .await;
    let caller = client.clone();
    let call = tokio::spawn(async move {
        caller
            .call("/locks", "acquire", serde_json::json!(["a"]))
            .await
    });
    peer.call().await;
    drop(peer);
    let request = server.turn_away().await;
    assert_eq!(request.session, SESSION);
    becomes(&client, |state| *state == SessionState::Expired).await;
    assert_eq!(soon(watch.fired()).await, Err(ClientError::SessionExpired));
    assert_eq!(outcome(call).await, Err(ClientError::SessionExpired));
    assert_eq!(
        soon(client.get("/a")).await,
        Err(ClientError::SessionExpired)
    );
}

#[tokio::test]
async fn an_idle_client_pings_and_leaves_a_silent_server() {
    let server = Server::start().await;
    let options = Options {
        session_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let (client, mut peer) = server.connect(options).await;
    assert_eq!(client.session_timeout(), Duration::from_millis(300));
    // Two pings that are answered, then none.
    assert_eq!(peer.any_request().await.body, RequestBody::Ping);
    assert_eq!(peer.any_request().await.body, RequestBody::Ping);
    becomes(
        &client,
        |state| matches!(state, SessionState::Disconnected { reason } if reason.contains("silent")),
    )
    .await;
    let (request, _peer) = server.welcome(Duration::from_secs(10)).await;
    assert_eq!(request.session, SESSION);
    becomes(&client, |state| *state == SessionState::Connected).await;
}

#[tokio::test]
async fn closing_ends_the_session_and_so_does_dropping() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let other = client.clone();
    let close = tokio::spawn(client.close());
    let request = peer.request().await;
    assert_eq!(request.body, RequestBody::CloseSession);
    peer.reply(request.xid, ResponseBody::Empty).await;
    assert_eq!(outcome(close).await, Ok(()));
    peer.closed().await;
    assert_eq!(soon(other.get("/a")).await, Err(ClientError::Closed));

    let (client, mut peer) = server.connect(Options::default()).await;
    drop(client);
    let request = peer.request().await;
    assert_eq!(request.body, RequestBody::CloseSession);
    peer.reply(request.xid, ResponseBody::Empty).await;
    peer.closed().await;
}

#[tokio::test]
async fn an_abandoned_session_can_be_resumed() {
    let server = Server::start().await;
    let (client, peer) = server.connect(Options::default()).await;
    let credentials = client.credentials();
    assert!(
        !format!("{credentials:?}").contains("0123"),
        "a password is not shown"
    );
    soon(client.abandon()).await;
    peer.closed().await;
    let resume = Options {
        resume: Some(credentials),
        ..Options::default()
    };
    let address = server.address();
    let (client, (request, _peer)) = soon(async {
        tokio::join!(
            Client::connect(&address, resume),
            server.welcome(Duration::from_secs(10))
        )
    })
    .await;
    assert_eq!(request.session, SESSION);
    assert_eq!(&request.password[..], b"0123456789abcdef");
    assert_eq!(good(client).session().0, SESSION.cast_unsigned());
}

#[tokio::test]
async fn a_session_that_is_gone_cannot_be_resumed() {
    let server = Server::start().await;
    let (client, _peer) = server.connect(Options::default()).await;
    let resume = Options {
        resume: Some(client.credentials()),
        ..Options::default()
    };
    let address = server.address();
    let (client, _) =
        soon(async { tokio::join!(Client::connect(&address, resume), server.turn_away()) }).await;
    assert_eq!(client.map(|_| ()), Err(ClientError::SessionExpired));
}

#[tokio::test]
async fn what_fails_before_there_is_a_session_says_what_to_do() {
    let closed = Server::start().await.address();
    let error = soon(Client::connect(&closed, Options::default()))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("no server at {closed}: is it running? start one with `quorate serve`")
    );

    let server = Server::start().await;
    let options = Options {
        connect_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let error = soon(Client::connect(&server.address(), options))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("no answer within 0.05 s"),
        "{error}"
    );

    // The second server of the list has it.
    let servers = format!("{closed},{}", server.address());
    let (client, _) = soon(async {
        tokio::join!(
            Client::connect(&servers, Options::default()),
            // The first connection is the one that was given up above.
            async {
                let _first = server.welcome(Duration::from_secs(10)).await;
                server.welcome(Duration::from_secs(10)).await
            }
        )
    })
    .await;
    assert!(client.is_ok());

    let error = soon(Client::connect("nowhere:port", Options::default()))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::BadServers { .. }), "{error}");
}

#[tokio::test]
async fn what_cannot_be_sent_is_said_without_sending() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let error = client
        .create("a//b", "", CreateMode::Persistent)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Path(_)), "{error}");
    let large = vec![0; MAX_FRAME_BYTES];
    let error = soon(client.set("/a", large, None)).await.unwrap_err();
    assert!(matches!(error, ClientError::TooLarge { .. }), "{error}");
    // A sequential znode may be named by its number alone.
    let creator = client.clone();
    let created = tokio::spawn(async move {
        creator
            .create("/queue/", "", CreateMode::PersistentSequential)
            .await
    });
    let request = peer.request().await;
    assert!(
        matches!(&request.body, RequestBody::Create(create) if create.path == "/queue/" && create.flags == 2)
    );
    peer.reply(request.xid, ResponseBody::Path("/queue/0000000000".into()))
        .await;
    assert_eq!(outcome(created).await, Ok("/queue/0000000000".into()));
}

#[tokio::test]
async fn a_multi_names_the_part_that_failed() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let operations = vec![
        MultiOperation::Check {
            path: "/a".into(),
            version: 1,
        },
        MultiOperation::Delete {
            path: "/b".into(),
            version: -1,
        },
    ];
    let multi = tokio::spawn(async move { client.multi(operations).await });
    let request = peer.request().await;
    let results = MultiResult::failed(2, 1, ErrorCode::NotEmpty);
    peer.reply(request.xid, ResponseBody::Multi(results)).await;
    let error = outcome(multi).await.unwrap_err();
    assert_eq!(
        error,
        ClientError::Multi {
            index: 1,
            path: "/b".into(),
            code: ErrorCode::NotEmpty
        }
    );
}

#[tokio::test]
async fn c7_a_refusal_says_why_where_the_server_does() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let client = Arc::new(client);
    let reason = "the guard of /config refuses it: no port";
    for said in [Some(reason), None] {
        let setting = tokio::spawn({
            let client = client.clone();
            async move { client.set("/config/web", "{}", None).await }
        });
        let request = peer.request().await;
        let code = ErrorCode::NoAuth;
        match said {
            Some(reason) => peer.refuse_because(request.xid, code, reason).await,
            None => peer.refuse(request.xid, code).await,
        }
        let error = outcome(setting).await.unwrap_err();
        let expected = match said {
            Some(reason) => ClientError::Denied {
                code,
                reason: reason.into(),
            },
            None => ClientError::Znode {
                path: "/config/web".into(),
                code,
            },
        };
        assert_eq!(error, expected);
        let told = error.to_string().contains("no port");
        assert_eq!(told, said.is_some(), "{error}");
    }
}

#[tokio::test]
async fn no_answer_in_time_is_told() {
    let server = Server::start().await;
    let request_timeout = Duration::from_millis(50);
    let options = Options {
        request_timeout,
        ..Options::default()
    };
    let (client, mut peer) = server.connect(options).await;
    let read = tokio::spawn({
        let client = client.clone();
        async move { client.get("/a").await }
    });
    let first = peer.request().await;
    assert_eq!(
        outcome(read).await,
        Err(ClientError::NoAnswer(request_timeout))
    );
    // The late answer is not taken for that of the next request.
    let read = tokio::spawn(async move { client.get("/b").await });
    let second = peer.request().await;
    peer.reply(first.xid, data("a")).await;
    peer.reply(second.xid, data("b")).await;
    assert_eq!(outcome(read).await.unwrap().0, "b");
}
