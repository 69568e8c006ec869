//! The interface as its clients see it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use quorate_consensus::StateMachine as _;
use quorate_model::acl::{Acl, AclEntry, Identity, permission};
use quorate_model::id::{SessionId, Zxid};
use quorate_model::recipe::{
    Component, Exports, MAX_COMPONENT_BYTES, MAX_PIECE_BYTES, RecipeDigest,
};
use quorate_model::request::{Operation, Password};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::{
    CheckedRecipe, Description, Http, NO_SESSION_MS, NO_SESSION_WRITE_MS, ParkedKind, Peer,
    RecipeCheck, ZXID_HEADER, parse_zxid, serve,
};
use crate::clock::Clock;
use crate::receive::Limits;
use crate::silence::Silence;
use crate::silence::tests::Told;
use crate::testing::{TestServer, WAITLESS};

const PATIENCE: Duration = Duration::from_secs(20);

/// Takes whatever begins with `good`.
struct TestCheck;

impl RecipeCheck for TestCheck {
    fn make_ready(&self, _: &RecipeDigest, _: &Component) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&self, upload: Bytes) -> Result<CheckedRecipe, String> {
        if !upload.starts_with(b"good") {
            return Err("it is not good".into());
        }
        let (digest, component) = (RecipeDigest::of(&upload), Component::cut(&upload));
        let description = self.describe(&digest, &component)?;
        Ok(CheckedRecipe {
            digest,
            component,
            version: None,
            exports: Exports::default(),
            description,
        })
    }

    fn misfits(
        &self,
        _: &RecipeDigest,
        _: &Component,
        calls: &[ParkedKind],
    ) -> Result<u64, String> {
        let misfits = calls.iter().filter(|call| call.operation == "wait");
        Ok(misfits.map(|call| call.count).sum())
    }

    fn describe(&self, _: &RecipeDigest, component: &Component) -> Result<Description, String> {
        let length = Value::from(component.bytes());
        Ok([("operations".to_owned(), length)].into_iter().collect())
    }
}

struct Api {
    server: Arc<TestServer>,
    http: Arc<Http>,
}

impl Api {
    fn new() -> Api {
        let server = TestServer::new();
        server.run();
        Api {
            http: Http::new(server.edge.clone(), Arc::new(TestCheck), None, || Ok(())),
            server,
        }
    }

    async fn bytes(
        &self,
        method: Method,
        uri: &str,
        body: impl Into<Body>,
    ) -> (StatusCode, Option<u64>, Bytes) {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .extension(Peer(IpAddr::V4(Ipv4Addr::LOCALHOST)))
            .body(body.into())
            .unwrap();
        let response = self.http.routes().oneshot(request);
        let response = timeout(PATIENCE, response)
            .await
            .expect("an answer")
            .unwrap();
        let zxid = response
            .headers()
            .get(ZXID_HEADER)
            .map(|zxid| zxid.to_str().unwrap().parse().unwrap());
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, zxid, body)
    }

    /// Every answer has the zxid in its header, and those that tell of the state in their body, too.
    async fn ask(&self, method: Method, uri: &str, body: impl Into<Body>) -> (u16, Value) {
        let (status, zxid, body) = self.bytes(method, uri, body).await;
        let body: Value = serde_json::from_slice(&body)
            .unwrap_or_else(|error| panic!("{uri}: {error}: {body:?}"));
        assert!(zxid.is_some(), "{uri}");
        if status.is_success() {
            assert_eq!(body["zxid"].as_u64(), zxid, "{uri}");
        }
        (status.as_u16(), body)
    }

    async fn get(&self, uri: &str) -> (u16, Value) {
        self.ask(Method::GET, uri, Body::empty()).await
    }

    async fn put(&self, uri: &str, body: Value) -> (u16, Value) {
        self.ask(Method::PUT, uri, body.to_string()).await
    }

    async fn open(&self) -> String {
        let (status, body) = self.ask(Method::POST, "/v1/sessions", Body::empty()).await;
        assert_eq!((status, &body["timeout_ms"]), (201, &json!(10_000)));
        body["session"].as_str().unwrap().to_owned()
    }

    async fn mounted(&self) {
        let (status, pushed) = self.ask(Method::PUT, "/v1/recipes/test", "good one").await;
        assert_eq!(status, 201, "{pushed}");
        let (status, mounted) = self
            .put("/v1/mounts/m", json!({"recipe": "test", "sealed": false}))
            .await;
        assert_eq!(status, 201, "{mounted}");
        assert_eq!(mounted["digest"], pushed["digest"]);
    }
}

#[tokio::test]
async fn a_component_is_uploaded_in_pieces_once_and_named_by_its_digest() {
    let api = Api::new();
    let mut upload = b"good".to_vec();
    upload.resize(2 * MAX_PIECE_BYTES + 5, b'x');
    let digest = RecipeDigest::of(&upload);
    let state = || api.server.edge.state.read();
    let named = json!({"digest": digest.to_string()});
    let (status, body) = api
        .ask(Method::POST, "/v1/recipes/one", named.to_string())
        .await;
    assert_eq!((status, error(&body).0), (404, "no-component"), "{body}");

    let before = state().last_zxid().0;
    let (status, body) = api
        .ask(Method::PUT, "/v1/recipes/one", upload.clone())
        .await;
    assert_eq!((status, &body["digest"]), (201, &json!(digest.to_string())));
    // The question whether it is known, three pieces, the name.
    assert_eq!(body["zxid"], before + 5);
    assert_eq!(state().component(&digest).unwrap().joined(), upload);
    assert_eq!(state().uploads().count(), 0);

    // What is known costs its name, whether it is sent again or not.
    let (_, again) = api.ask(Method::PUT, "/v1/recipes/two", upload).await;
    assert_eq!(again["zxid"], before + 6);
    let (status, body) = api
        .ask(Method::POST, "/v1/recipes/three", named.to_string())
        .await;
    assert_eq!((status, &body["zxid"]), (201, &json!(before + 7)), "{body}");
    assert_eq!(state().recipe("three").unwrap().current.digest, digest);
    assert_eq!(state().components().count(), 1);
}

fn error(body: &Value) -> (&str, &str) {
    let error = &body["error"];
    (
        error["code"].as_str().unwrap(),
        error["message"].as_str().unwrap(),
    )
}

fn call(operation: &str, wait_ms: u64) -> Value {
    json!({"mount": "/m", "operation": operation, "arguments": [1], "wait_ms": wait_ms})
}

#[tokio::test]
async fn a_session_and_a_call_from_beginning_to_end() {
    let api = Api::new();
    api.mounted().await;
    let session = format!("/v1/sessions/{}", api.open().await);
    let (status, body) = api
        .put(&format!("{session}/calls/1"), call("echo", 0))
        .await;
    assert_eq!(
        (status, &body["status"], &body["result"]),
        (200, &json!("returned"), &json!([1]))
    );
    let (status, again) = api
        .put(&format!("{session}/calls/1"), call("echo", 0))
        .await;
    assert_eq!(
        (status, again),
        (200, body),
        "the same answer, however often"
    );

    let keep_alive = format!("{session}/keep-alive");
    assert_eq!(
        api.ask(Method::POST, &keep_alive, Body::empty()).await.0,
        200
    );
    let acknowledge = format!("{session}/acknowledge");
    for bad in [
        "{}",
        r#"{"key": 1}"#,
        r#"{"mark": 1, "awaited": [2]}"#,
        r#"{"mark": 3, "awaited": [2, 1]}"#,
    ] {
        let (status, refused) = api.ask(Method::POST, &acknowledge, bad).await;
        assert_eq!((status, error(&refused).0), (400, "bad-request"), "{bad}");
    }
    for (said, kept) in [
        (r#"{"mark": 2, "awaited": [1]}"#, 200),
        (r#"{"mark": 1}"#, 410),
    ] {
        assert_eq!(api.ask(Method::POST, &acknowledge, said).await.0, 200);
        let path = format!("{session}/calls/1");
        let (status, _) = api.put(&path, call("echo", 0)).await;
        assert_eq!(status, kept, "{said}");
    }
    let (status, gone) = api
        .put(&format!("{session}/calls/1"), call("echo", 0))
        .await;
    assert_eq!((status, error(&gone).0), (410, "acknowledged"));

    assert_eq!(
        api.ask(Method::DELETE, &session, Body::empty()).await.0,
        200
    );
    let (status, gone) = api.ask(Method::POST, &keep_alive, Body::empty()).await;
    assert_eq!((status, error(&gone).0), (410, "session-expired"));
}

#[tokio::test]
async fn a_parked_call_is_waited_for_and_asked_for_again() {
    let api = Api::new();
    api.mounted().await;
    let uri = format!("/v1/sessions/{}/calls/1", api.open().await);
    let (status, parked) = api.put(&uri, call("wait", 0)).await;
    assert_eq!((status, &parked["status"]), (202, &json!("parked")));

    let waiting = api.put(&uri, call("wait", 60_000));
    let waking = async {
        // Only once the long poll has been told that its call is parked.
        let parked = parked["zxid"].as_u64().unwrap();
        api.server.edge.watches.reached(Zxid(parked + 1)).await;
        api.server.create("/m/gate", "");
    };
    let ((status, answered), ()) = tokio::join!(waiting, waking);
    assert_eq!((status, &answered["result"]), (200, &json!("go")));
    let (_, again) = api.put(&uri, call("wait", 0)).await;
    assert_eq!(again, answered);
}

#[tokio::test]
async fn a_long_poll_is_told_that_its_session_has_ended() {
    let api = Api::new();
    api.mounted().await;
    let session = format!("/v1/sessions/{}", api.open().await);
    let uri = format!("{session}/calls/1");
    let (_, parked) = api.put(&uri, call("wait", 0)).await;
    let waiting = api.put(&uri, call("wait", 60_000));
    let ending = async {
        let parked = parked["zxid"].as_u64().unwrap();
        api.server.edge.watches.reached(Zxid(parked + 1)).await;
        api.ask(Method::DELETE, &session, Body::empty()).await
    };
    let ((status, ended), _) = tokio::join!(waiting, ending);
    assert_eq!((status, error(&ended).0), (410, "session-expired"));
}

#[tokio::test]
async fn a_cancelled_call_says_so_for_ever() {
    let api = Api::new();
    api.mounted().await;
    let uri = format!("/v1/sessions/{}/calls/1", api.open().await);
    api.put(&uri, call("wait", 0)).await;
    let (status, cancelled) = api.ask(Method::DELETE, &uri, Body::empty()).await;
    assert_eq!((status, &cancelled["status"]), (200, &json!("cancelled")));
    assert_eq!(api.put(&uri, call("wait", 0)).await.1, cancelled);
    let unknown = uri.replace("calls/1", "calls/2");
    let (status, body) = api.ask(Method::DELETE, &unknown, Body::empty()).await;
    assert_eq!((status, error(&body).0), (404, "no-call"));
}

#[tokio::test]
async fn mistakes_are_told_with_what_to_do() {
    let api = Api::new();
    api.mounted().await;
    let session = format!("/v1/sessions/{}", api.open().await);
    let calls = format!("{session}/calls/1");
    let with = |name: &str, value: Value| {
        let mut body = call("echo", 0);
        body[name] = value;
        body
    };
    for (uri, body, status, code, hint) in [
        (
            calls.as_str(),
            with("wiat_ms", json!(1)),
            400,
            "bad-request",
            "`wiat_ms`",
        ),
        (
            &calls,
            with("arguments", json!("x")),
            400,
            "bad-request",
            "array",
        ),
        (
            &calls,
            with("mount", json!("m")),
            400,
            "bad-request",
            "must start with /",
        ),
        (
            &calls,
            with("mount", json!("/other")),
            404,
            "not-mounted",
            "/other",
        ),
        (
            &calls,
            with("operation", json!("sing")),
            400,
            "bad-call",
            "sing",
        ),
        (&calls, json!([]), 400, "bad-request", "expected {\"mount\""),
        (
            &format!("{session}/calls/0"),
            call("echo", 0),
            400,
            "bad-request",
            "from 1",
        ),
        (
            "/v1/sessions/AAAA/calls/1",
            call("echo", 0),
            410,
            "session-expired",
            "POST /v1/sessions",
        ),
        (
            "/v1/mounts/x",
            json!({"recipe": "none"}),
            404,
            "no-recipe",
            "none",
        ),
        (
            "/v1/mounts/m/x",
            json!({"recipe": "test"}),
            409,
            "mounts-nest",
            "/m",
        ),
        ("/v1/mounts/x", json!({}), 400, "bad-request", "`recipe`"),
        (
            "/v1/recipes/No",
            json!(1),
            400,
            "bad-request",
            "small letter",
        ),
        (
            "/v1/recipes/bad",
            json!(1),
            422,
            "bad-recipe",
            "it is not good",
        ),
        ("/v1/nowhere", json!(1), 404, "not-found", "/v1"),
        ("/health", json!(1), 405, "method-not-allowed", "PUT"),
    ] {
        let (got, body) = api.put(uri, body).await;
        let (got_code, message) = error(&body);
        assert_eq!((got, got_code), (status, code), "{uri}: {message}");
        assert!(message.contains(hint), "{uri}: no {hint:?} in {message:?}");
    }
}

#[tokio::test]
async fn mistakes_in_a_path_or_a_query_are_problems_too() {
    let api = Api::new();
    for uri in [
        "/v1/tree/%ff",
        "/v1/tree?bogus=1",
        "/v1/tree/?limit=many",
        "/v1/mounts/%ff",
        "/v1/recipes/%ff",
    ] {
        let (status, body) = api.get(uri).await;
        let (code, message) = error(&body);
        assert_eq!((status, code), (400, "bad-request"), "{uri}: {message}");
        assert!(!message.is_empty());
    }
}

#[tokio::test]
async fn who_comes_to_a_full_line_of_waiters_is_told_at_once_and_the_others_wait() {
    let api = Api::new();
    api.mounted().await;
    let token = api.open().await;
    let uri = format!("/v1/sessions/{token}/calls/1");
    let (_, parked) = api.put(&uri, call("wait", 0)).await;
    let (session, _) = api.http.session(&token).await.unwrap();
    let id = quorate_model::id::CallId { session, key: 1 };
    let watches = &api.server.edge.watches;
    let others: Vec<_> = (1..crate::notify::MAX_WAITERS_PER_CALL)
        .map(|_| watches.late_answer(id).unwrap())
        .collect();
    let waiting = api.put(&uri, call("wait", 60_000));
    let coming = async {
        let parked = parked["zxid"].as_u64().unwrap();
        watches.reached(Zxid(parked + 1)).await;
        let (status, body) = api.put(&uri, call("wait", 60_000)).await;
        assert_eq!((status, error(&body).0), (429, "too-many-waiters"));
        drop(others);
        api.server.create("/m/gate", "");
    };
    let ((status, answered), ()) = tokio::join!(waiting, coming);
    assert_eq!((status, &answered["result"]), (200, &json!("go")));
}

#[tokio::test]
async fn parameters_keep_their_digits_or_are_refused() {
    let api = Api::new();
    api.mounted().await;
    let body = |parameters: &str| {
        Body::from(format!(
            r#"{{"recipe": "test", "parameters": {parameters}}}"#
        ))
    };
    let exact = r#"{"most":18446744073709551615,"ratio":0.1}"#;
    let put = api.ask(Method::PUT, "/v1/mounts/x", body(exact)).await;
    assert_eq!(put.0, 201);
    let (_, node) = api.get("/v1/tree/x").await;
    assert_eq!(node["data"], exact);
    let long = body("[12345678901234567890123]");
    let (status, refused) = api.ask(Method::PUT, "/v1/mounts/x", long).await;
    assert_eq!((status, error(&refused).0), (400, "bad-request"));
    assert!(error(&refused).1.contains("as a string"));
}

#[tokio::test]
async fn sessions_of_the_other_protocol_cannot_be_used() {
    let api = Api::new();
    let connection = api.server.connection();
    let (session, password) = {
        let server = TestServer::new();
        let opened = server.open_session().session().unwrap();
        let password = server.edge.state.read().session(opened).unwrap().password;
        // The same session, in the state that is asked.
        let request = quorate_model::request::Request {
            session: SessionId::NONE,
            owner: Some(connection.owner()),
            identities: Arc::default(),
            operation: Operation::OpenSession {
                timeout_ms: 10_000,
                password,
            },
        };
        let (zxid, _) = api.server.edge.router.ask(request).await.unwrap();
        (SessionId(zxid.0), password)
    };
    let token = super::token::encode(session, &password);
    let uri = format!("/v1/sessions/{token}/keep-alive");
    assert_eq!(api.ask(Method::POST, &uri, Body::empty()).await.0, 410);
}

#[tokio::test]
async fn recipes_and_mounts_are_listed_shown_and_removed() {
    let api = Api::new();
    api.mounted().await;
    let (_, list) = api.get("/v1/recipes").await;
    assert_eq!(list["recipes"][0]["name"], "test");
    assert_eq!(list["recipes"][0]["mounts"], json!(["/m"]));
    let (_, shown) = api.get("/v1/recipes/test").await;
    assert_eq!(
        (&shown["operations"], &shown["bytes"]),
        (&json!(8), &json!(8))
    );

    let parameters = json!({"recipe": "test", "parameters": {"size": 3}});
    assert_eq!(api.put("/v1/mounts/n", parameters).await.0, 201);
    let (_, list) = api.get("/v1/mounts").await;
    let paths: Vec<&Value> = list["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["path"])
        .collect();
    assert_eq!(paths, ["/m", "/n"]);
    let (_, shown) = api.get("/v1/mounts/n").await;
    assert_eq!(
        (&shown["parameters"], &shown["sealed"]),
        (&json!({"size": 3}), &json!(true))
    );

    let (status, in_use) = api
        .ask(Method::DELETE, "/v1/recipes/test", Body::empty())
        .await;
    assert_eq!((status, error(&in_use).0), (409, "recipe-in-use"));
    for mount in ["/v1/mounts/m", "/v1/mounts/n"] {
        let (status, unmounted) = api.ask(Method::DELETE, mount, Body::empty()).await;
        assert_eq!((status, &unmounted["ended_calls"]), (200, &json!(0)));
        assert_eq!(api.get(mount).await.0, 404);
    }
    assert_eq!(
        api.ask(Method::DELETE, "/v1/recipes/test", Body::empty())
            .await
            .0,
        200
    );
    assert_eq!(api.get("/v1/recipes/test").await.0, 404);
}

/// A recipe at `/m` where three calls of a session wait; and the session's path.
async fn with_three_parked() -> (Api, String) {
    let api = Api::new();
    api.mounted().await;
    let session = format!("/v1/sessions/{}", api.open().await);
    for key in 1..=3 {
        let uri = format!("{session}/calls/{key}");
        assert_eq!(api.put(&uri, call("wait", 0)).await.0, 202);
    }
    (api, session)
}

#[tokio::test]
async fn c10_an_upgrade_says_beforehand_and_afterwards_how_many_calls_end() {
    let (api, session) = with_three_parked().await;
    let (status, pushed) = api.ask(Method::PUT, "/v1/recipes/waitless", WAITLESS).await;
    assert_eq!(status, 201, "{pushed}");
    let upgrade = json!({"recipe": "waitless", "upgrade": true});
    let mut check = upgrade.clone();
    check["check"] = true.into();
    let (status, said) = api.put("/v1/mounts/m", check).await;
    assert_eq!(
        (status, &said["parked_calls"], &said["ending_calls"]),
        (200, &json!(3), &json!(3))
    );
    assert_eq!(api.get("/v1/mounts/m").await.1["parked_calls"], 3);
    let (status, done) = api.put("/v1/mounts/m", upgrade.clone()).await;
    assert_eq!(
        (status, &done["followed_calls"], &done["ended_calls"]),
        (201, &json!(3), &json!(3)),
        "{done}"
    );
    assert_eq!(
        (&done["digest"], &done["ready"]),
        (&pushed["digest"], &json!(true))
    );
    let following = json!({"following": false, "followed_calls": 3, "ended_calls": 3});
    assert_eq!(done["upgrade"], following);
    let (_, ended) = api
        .put(&format!("{session}/calls/1"), call("wait", 0))
        .await;
    assert_eq!(ended["status"], "unmounted");
    // Nobody waits any more, so nobody follows.
    let (_, again) = api.put("/v1/mounts/m", upgrade).await;
    assert_eq!(
        (&again["followed_calls"], &again["ended_calls"]),
        (&json!(0), &json!(0))
    );
}

#[tokio::test]
async fn s6_an_unmount_that_was_begun_is_shown_refuses_calls_and_goes_on_when_asked_again() {
    let (api, session) = with_three_parked().await;
    // As another server has left it that died right behind its first request.
    let path = crate::testing::path("/m");
    let begin = quorate_model::request::Request {
        session: SessionId::NONE,
        owner: None,
        identities: Arc::default(),
        operation: Operation::BeginUnmount { path },
    };
    api.server.edge.router.ask(begin).await.unwrap();
    let (_, shown) = api.get("/v1/mounts/m").await;
    assert_eq!(shown["unmounting"], json!({"ended_calls": 0}));
    let (status, refused) = api
        .put(&format!("{session}/calls/4"), call("echo", 0))
        .await;
    assert_eq!((status, error(&refused).0), (409, "unmounting"));
    assert!(
        error(&refused).1.contains("`quorate unmount /m`"),
        "{refused}"
    );
    let (status, refused) = api.put("/v1/mounts/m", json!({"recipe": "test"})).await;
    assert_eq!((status, error(&refused).0), (409, "unmounting"));
    let (status, done) = api.ask(Method::DELETE, "/v1/mounts/m", Body::empty()).await;
    assert_eq!((status, &done["ended_calls"]), (200, &json!(3)));
    let (_, ended) = api
        .put(&format!("{session}/calls/2"), call("wait", 0))
        .await;
    assert_eq!(ended["status"], "unmounted");
}

#[tokio::test]
async fn the_tree_can_be_looked_at() {
    let api = Api::new();
    api.server
        .edge
        .router
        .ask(administration("/a b", b"text"))
        .await
        .unwrap();
    for (at, data) in [("/a b/x", &b"\xff"[..]), ("/a b/y", b""), ("/a b/z", b"")] {
        api.server
            .edge
            .router
            .ask(administration(at, data))
            .await
            .unwrap();
    }
    let (status, node) = api.get("/v1/tree/a%20b").await;
    assert_eq!(
        (status, &node["path"], &node["data"]),
        (200, &json!("/a b"), &json!("text"))
    );
    assert_eq!(node["children"], json!(["x", "y", "z"]));
    assert_eq!(node["stat"]["lifetime"], "persistent");
    assert_eq!(node["stat"]["children"], 3);
    let (_, page) = api.get("/v1/tree/a%20b?after=x&limit=1").await;
    assert_eq!(page["children"], json!(["y"]));
    let (_, bytes) = api.get("/v1/tree/a%20b/x").await;
    assert_eq!(
        (&bytes["data_base64"], bytes.get("data")),
        (&json!("/w=="), None)
    );
    for root in ["/v1/tree", "/v1/tree/"] {
        assert_eq!(
            api.get(root).await.1["children"],
            json!(["a b", "zookeeper"])
        );
    }
    let (status, none) = api.get("/v1/tree/none").await;
    assert_eq!((status, error(&none).0), (404, "no-node"));
    assert_eq!(api.get("/v1/tree/a//b").await.0, 400);
}

#[tokio::test]
async fn a_znode_is_shown_to_whom_its_list_lets_read_it_by_address() {
    let api = Api::new();
    api.server.create("/a", "data");
    for (who, status) in [
        ("ip:127.0.0.0/8", 200),
        ("ip:10.0.0.1", 403),
        ("digest:anna:hash", 403),
    ] {
        api.server.ask(Operation::Znode(
            quorate_model::request::ZnodeOperation::SetAcl {
                path: crate::testing::path("/a"),
                acl: Acl::from(vec![
                    AclEntry {
                        permissions: permission::READ,
                        identity: Identity::parse(who).unwrap(),
                    },
                    AclEntry {
                        permissions: permission::ADMIN,
                        identity: Identity::anyone(),
                    },
                ]),
                version: -1,
            },
        ));
        let (answered, body) = api.get("/v1/tree/a").await;
        assert_eq!(answered, status, "{who}");
        if status == 403 {
            let (code, message) = error(&body);
            assert_eq!(code, "no-auth");
            assert!(
                message.contains("READ on /a") && !message.contains("hash"),
                "{message}"
            );
        }
    }
}

/// A znode made by a session of its own.
fn administration(at: &str, data: &'static [u8]) -> quorate_model::request::Request {
    let quorate_model::request::ZnodeOperation::Create {
        path,
        acl,
        lifetime,
        with_stat,
        ..
    } = crate::testing::create(at, "")
    else {
        panic!("it creates");
    };
    quorate_model::request::Request {
        // The session that the test's server has opened first.
        session: SessionId(Zxid::new(1, 1).0),
        owner: None,
        identities: Arc::default(),
        operation: Operation::Znode(quorate_model::request::ZnodeOperation::Create {
            path,
            data: Bytes::from_static(data),
            acl,
            lifetime,
            with_stat,
        }),
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_may_demand_to_see_a_transaction() {
    let server = TestServer::new();
    let http = Http::new(server.edge.clone(), Arc::new(TestCheck), None, || Ok(()));
    let api = Api { server, http };
    let here = api.server.edge.watches.last_zxid().0;
    assert_eq!(api.get(&format!("/v1/tree?at_least={here}")).await.0, 200);
    let next = format!("/v1/tree?limit=1&at_least={:#x}", here + 1);
    let (status, behind) = api.get(&next).await;
    assert_eq!((status, error(&behind).0), (504, "behind"));
    let waiting = api.get(&next);
    let ((status, _), _) = tokio::join!(waiting, async { api.server.create("/x", "") });
    assert_eq!(status, 200);
    assert_eq!(api.get("/v1/tree?at_least=soon").await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_waits_too_long_for_its_turn_is_counted() {
    let server = TestServer::new();
    let http = Http::new(server.edge.clone(), Arc::new(TestCheck), None, || Ok(()));
    let most = u32::try_from(crate::http::MAX_UPLOADS).unwrap();
    let turns = http.uploads.clone().acquire_many_owned(most).await.unwrap();
    let request = Request::put("/v1/recipes/one").extension(Peer(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let request = request.body(Body::from("good")).unwrap();
    let response = http.routes().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(turns);
    let api = Api { server, http };
    let (_, _, text) = api.bytes(Method::GET, "/metrics", Body::empty()).await;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = r#"quorate_bounds_reached_total{bound="uploads-at-once"} 1"#;
    assert!(text.contains(line), "{text}");
}

/// A body of which a piece comes now and then, until all have.
struct Dripping {
    pieces: usize,
    piece: Bytes,
    pause: Duration,
    next: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl Dripping {
    fn body(pieces: usize, bytes: usize, pause: Duration) -> Body {
        Body::new(Dripping {
            pieces,
            piece: vec![b'x'; bytes].into(),
            pause,
            next: Box::pin(tokio::time::sleep(pause)),
        })
    }
}

impl hyper::body::Body for Dripping {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        if self.pieces == 0 {
            return std::task::Poll::Ready(None);
        }
        std::task::ready!(self.next.as_mut().poll(context));
        self.pieces -= 1;
        let again = tokio::time::Instant::now() + self.pause;
        self.next.as_mut().reset(again);
        let frame = hyper::body::Frame::data(self.piece.clone());
        std::task::Poll::Ready(Some(Ok(frame)))
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_comes_too_slowly_gives_its_place_back() {
    let server = TestServer::new();
    let http = Http::new(server.edge.clone(), Arc::new(TestCheck), None, || Ok(()));
    let api = Api { server, http };
    let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
    // One that has stopped, and one that sends half of what it has to.
    for (body, after) in [
        (Dripping::body(1, 1, minute), 5..=5),
        (Dripping::body(1000, 128 << 10, second), 9..=10),
    ] {
        let begun = tokio::time::Instant::now();
        let (status, slow) = api.ask(Method::PUT, "/v1/recipes/slow", body).await;
        assert_eq!((status, error(&slow).0), (408, "too-slow"), "{slow}");
        assert!(error(&slow).1.contains("256 KiB a second"), "{slow}");
        assert!(after.contains(&begun.elapsed().as_secs()), "{after:?}");
        let places = api.http.uploads.available_permits();
        assert_eq!(places, crate::http::MAX_UPLOADS, "its place is free");
    }
    let (_, _, text) = api.bytes(Method::GET, "/metrics", Body::empty()).await;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = r#"quorate_bounds_reached_total{bound="upload-bytes-per-second"} 2"#;
    assert!(text.contains(line), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_upload_may_come_in_its_time() {
    let piece = 300 << 10;
    let body = Dripping::body(90, piece, Duration::from_secs(1));
    let upload = super::body::upload(body, MAX_COMPONENT_BYTES)
        .await
        .unwrap();
    assert_eq!(upload.len(), 90 * piece);
    let body = Dripping::body(2, piece, Duration::ZERO);
    let refused = super::body::upload(body, piece).await.unwrap_err();
    assert!(refused.is_too_large());
}

#[tokio::test(start_paused = true)]
async fn w7_reads_that_are_to_be_linearizable_wait_at_barriers() {
    let server = TestServer::with_limits(crate::receive::Limits {
        linearizable_reads: true,
        ..Default::default()
    });
    let http = Http::new(server.edge.clone(), Arc::new(TestCheck), None, || Ok(()));
    let api = Api { server, http };
    assert_eq!(api.get("/health").await.0, 200, "it reads no state");
    let (status, unknown) = api.get("/v1/tree").await;
    assert_eq!((status, error(&unknown).0), (503, "no-leader"));
    let ((status, root), _) = tokio::join!(api.get("/v1/tree"), async {
        api.server.edge.router.barriers().raised().await;
        api.server.create("/new", "");
        api.server.pass_barrier();
    });
    assert_eq!(
        (status, &root["children"]),
        (200, &json!(["new", "zookeeper"]))
    );
}

/// Of a server that hears of others as it is told to.
fn follower() -> (Api, Arc<Told>) {
    let time = Arc::new(Told::default());
    let silence = Silence::new(Arc::new(Clock::start(time.clone())));
    let server = TestServer::with_silence(Limits::default(), silence);
    server.run();
    let http = Http::new(server.edge.clone(), Arc::new(TestCheck), None, || Ok(()));
    (Api { server, http }, time)
}

#[tokio::test]
async fn w4_a_server_that_is_cut_off_shows_its_state_no_more_and_tells_of_itself() {
    let (api, time) = follower();
    let reads = ["/v1/tree", "/v1/mounts", "/v1/recipes", "/v1/calls"];
    time.0.store(NO_SESSION_MS - 1, Ordering::Relaxed);
    for uri in reads {
        assert_eq!(api.get(uri).await.0, 200, "{uri}");
    }
    time.0.store(NO_SESSION_MS, Ordering::Relaxed);
    for uri in reads {
        let (status, silent) = api.get(uri).await;
        assert_eq!((status, error(&silent).0), (503, "no-quorum"), "{uri}");
    }
    assert_eq!(api.get("/health").await.0, 200);
    let metrics = api.bytes(Method::GET, "/metrics", Body::empty()).await;
    assert_eq!(metrics.0, StatusCode::OK);
    api.server.edge.silence.heard(NO_SESSION_MS);
    assert_eq!(api.get("/v1/tree").await.0, 200, "the quorum is back");
    time.0.store(5 * NO_SESSION_MS, Ordering::Relaxed);
    api.server
        .edge
        .read_only
        .set(true, &api.server.edge.watches);
    assert_eq!(api.get("/v1/tree").await.0, 200, "its operator wishes that");
}

#[tokio::test]
async fn w4_whoever_writes_without_a_session_does_not_wait_for_a_quorum_for_ever() {
    let (api, time) = follower();
    let open = || api.ask(Method::POST, "/v1/sessions", Body::empty());
    time.0.store(NO_SESSION_WRITE_MS - 1, Ordering::Relaxed);
    assert_eq!(open().await.0, 201, "a leader may come");
    time.0.store(NO_SESSION_WRITE_MS, Ordering::Relaxed);
    let mount = json!({"recipe": "test"});
    for (status, silent) in [open().await, api.put("/v1/mounts/m", mount).await] {
        assert_eq!((status, error(&silent).0), (503, "no-quorum"));
    }
    let members = api.ask(Method::POST, "/v1/cluster/members/2/promote", Body::empty());
    assert_ne!(error(&members.await.1).0, "no-quorum");
}

#[tokio::test]
async fn w4_a_long_poll_at_a_server_that_is_cut_off_ends_before_its_session_can() {
    let (api, time) = follower();
    api.mounted().await;
    // Its timeout is 10 s, of which two thirds are 6,667 ms.
    let session = format!("/v1/sessions/{}", api.open().await);
    let waits = format!("{session}/calls/1");
    time.0.store(6666, Ordering::Relaxed);
    let cut_off = async {
        while api.server.edge.state.read().counts().parked_calls == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        time.0.store(6667, Ordering::Relaxed);
    };
    let ((status, silent), ()) = tokio::join!(api.put(&waits, call("wait", 60_000)), cut_off);
    assert_eq!((status, error(&silent).0), (503, "no-quorum"));
    for uri in [&waits, "/v1/sessions/unknown/calls/1"] {
        let (status, silent) = api.put(uri, call("wait", 60_000)).await;
        assert_eq!((status, error(&silent).0), (503, "no-quorum"), "{uri}");
    }
    let keep_alive = format!("{session}/keep-alive");
    let (status, silent) = api.ask(Method::POST, &keep_alive, Body::empty()).await;
    assert_eq!((status, error(&silent).0), (503, "no-quorum"));
    api.server.edge.silence.heard(6667);
    api.server.create("/m/gate", "");
    let (status, answer) = api.put(&waits, call("wait", 60_000)).await;
    assert_eq!((status, &answer["result"]), (200, &json!("go")));
}

#[tokio::test(start_paused = true)]
async fn w4_a_keep_alive_that_no_leader_has_counted_is_not_answered_as_one() {
    let silence = Silence::new(Arc::new(Clock::start(Arc::new(Told::default()))));
    let server = TestServer::with_silence(Limits::default(), silence);
    let http = Http::new(server.edge.clone(), Arc::new(TestCheck), None, || Ok(()));
    let (session, password) = (server.session, Password([0; 16]));
    server.edge.router.touches().open(session, 10_000);
    let uri = format!(
        "/v1/sessions/{}/keep-alive",
        super::token::encode(session, &password)
    );
    let api = Api { server, http };
    let (status, silent) = api.ask(Method::POST, &uri, Body::empty()).await;
    assert_eq!((status, error(&silent).0), (503, "no-quorum"));
    let counts = async {
        tokio::task::yield_now().await;
        let touches = api.server.edge.router.touches();
        let report = touches.report([]);
        let number = report.number();
        let counted = report.counted(&[]);
        assert_eq!(counted, [session], "it is reported");
        api.server.edge.silence.touches_counted(&counted, number, 0);
    };
    let ((status, _), ()) = tokio::join!(api.ask(Method::POST, &uri, Body::empty()), counts);
    assert_eq!(status, 200);
}

#[tokio::test]
async fn health_and_metrics() {
    let api = Api::new();
    assert_eq!(api.get("/health").await.0, 200);
    let (_, _, text) = api.bytes(Method::GET, "/metrics", Body::empty()).await;
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains("quorate_sessions 1\n"), "{text}");
    let sick = Http::new(api.server.edge.clone(), Arc::new(TestCheck), None, || {
        Err("no disk".into())
    });
    let sick = Api {
        server: api.server.clone(),
        http: sick,
    };
    let (status, body) = sick.get("/health").await;
    assert_eq!((status, &body["reason"]), (503, &json!("no disk")));
    for (api, takes_writes) in [(&api, 1), (&sick, 0)] {
        let (_, _, text) = api.bytes(Method::GET, "/metrics", Body::empty()).await;
        let text = String::from_utf8(text.to_vec()).unwrap();
        let line = format!("quorate_takes_writes {takes_writes}\n");
        assert!(text.contains(&line), "{text}");
    }
    let (status, body) = sick.get("/v1/tree").await;
    assert_eq!(
        (status, &body["error"]["message"]),
        (503, &json!("no disk")),
        "nor what it holds"
    );
}

#[tokio::test]
async fn a_server_that_waits_says_why_and_does_nothing() {
    let api = Api::new();
    let waiting = &api.server.edge.waiting;
    waiting.begin("nobody is there");
    let (status, body) = api.get("/health").await;
    assert_eq!((status, &body["reason"]), (503, &json!("nobody is there")));
    let (_, _, text) = api.bytes(Method::GET, "/metrics", Body::empty()).await;
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains("quorate_takes_writes 0\n"), "{text}");
    assert!(!text.contains("quorate_sessions "), "what it holds is old");
    for (method, uri) in [
        (Method::GET, "/v1/tree"),
        (Method::GET, "/v1/activity"),
        (Method::POST, "/v1/sessions"),
        (Method::POST, "/v1/cluster/members"),
        (Method::GET, "/nowhere"),
    ] {
        let (status, body) = api.ask(method, uri, Body::empty()).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (503, &json!("unavailable")),
            "{uri}"
        );
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("nobody is there"), "{message}");
    }
    waiting.end();
    assert_eq!(api.get("/health").await.0, 200);
    api.open().await;
}

#[tokio::test]
async fn no_server_has_the_id_0() {
    let api = Api::new();
    let zero = json!({"server": 0, "address": "a:1"}).to_string();
    let (status, body) = api.ask(Method::POST, "/v1/cluster/members", zero).await;
    assert_eq!(status, 400, "{body}");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("1 or more"), "{message}");
}

#[tokio::test]
async fn it_is_served_over_a_socket_and_stops() {
    let api = Api::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(serve(listener, api.http.clone(), stopped));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = vec![0; 12];
    timeout(PATIENCE, stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer, b"HTTP/1.1 201");
    stop.send_replace(true);
    timeout(PATIENCE, serving).await.unwrap().unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn bodies_have_a_bound() {
    let api = Api::new();
    let body = vec![b'x'; MAX_COMPONENT_BYTES + 1];
    let (status, body) = api.ask(Method::PUT, "/v1/recipes/large", body).await;
    assert_eq!((status, error(&body).0), (413, "too-large"));
    let (_, _, text) = api.bytes(Method::GET, "/metrics", Body::empty()).await;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = r#"quorate_bounds_reached_total{bound="bytes"} 1"#;
    assert!(text.contains(line), "{text}");
    let body = vec![b' '; 2 << 20];
    let (status, body) = api.ask(Method::POST, "/v1/sessions", body).await;
    assert_eq!((status, error(&body).0), (413, "too-large"));
}

#[test]
fn zxids_are_read_in_both_forms() {
    assert_eq!(parse_zxid("17"), Some(Zxid(17)));
    assert_eq!(parse_zxid("0x100000001"), Some(Zxid::new(1, 1)));
    assert_eq!(parse_zxid("-1"), None);
    assert_eq!(parse_zxid(""), None);
}

#[tokio::test]
async fn nothing_is_read_while_a_snapshot_is_installed() {
    let api = Api::new();
    api.mounted().await;
    let session = api.open().await;
    let keep_alive = format!("/v1/sessions/{session}/keep-alive");
    let whole = api.server.vacate();
    let reads = [
        "/v1/tree/",
        "/v1/mounts",
        "/v1/mounts/m",
        "/v1/recipes",
        "/v1/recipes/test",
    ];
    for (method, uri) in reads
        .map(|uri| (Method::GET, uri))
        .into_iter()
        .chain([(Method::POST, keep_alive.as_str())])
    {
        let (status, body) = api.ask(method, uri, Body::empty()).await;
        assert_eq!((status, error(&body).0), (503, "unavailable"), "{uri}");
    }
    *api.server.edge.state.write() = whole;
    for uri in reads {
        assert_eq!(api.get(uri).await.0, 200, "{uri}");
    }
    let (status, _) = api.ask(Method::POST, &keep_alive, Body::empty()).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn s3_who_waits_for_a_parked_call_is_told_when_a_snapshot_is_installed() {
    let api = Api::new();
    api.mounted().await;
    let uri = format!("/v1/sessions/{}/calls/1", api.open().await);
    api.put(&uri, call("wait", 0)).await;
    let (components, pieces) = api.server.snapshot();
    let waiting = api.put(&uri, call("wait", 60_000));
    let waited = api.server.edge.watches.last_zxid();
    let installing = async {
        // It has been answered as parked, and waits on.
        api.server.edge.watches.reached(Zxid(waited.0 + 1)).await;
        let (mut components, mut pieces) =
            (components.into_iter().map(Ok), pieces.into_iter().map(Ok));
        let applier = api.server.applier();
        applier.install(&mut components, &mut pieces).unwrap();
    };
    let ((status, told), ()) = tokio::join!(waiting, installing);
    assert_eq!((status, error(&told).0), (503, "unavailable"), "{told}");
    assert!(error(&told).1.contains("repeat with its key"), "{told}");
}

#[tokio::test]
async fn a_server_that_installs_a_snapshot_says_so_and_counts_nothing() {
    let api = Api::new();
    assert_eq!(api.get("/health").await.0, 200);
    let whole = api.server.vacate();
    let (status, health) = api.get("/health").await;
    assert_eq!(
        (status, &health["reason"]),
        (503, &json!("it installs a snapshot"))
    );
    let (status, _, text) = api.bytes(Method::GET, "/metrics", Body::empty()).await;
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert_eq!(status, 200);
    assert!(text.contains("quorate_watches 0"), "{text}");
    assert!(!text.contains("quorate_znodes"), "{text}");
    *api.server.edge.state.write() = whole;
    let (_, _, text) = api.bytes(Method::GET, "/metrics", Body::empty()).await;
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains("quorate_znodes"), "{text}");
}
