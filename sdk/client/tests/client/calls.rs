//! Calls against a server that does what the test says: keys, acknowledgements, late answers, repetition.

use std::time::Duration;

use crate::fake::{Peer, Server, good, outcome, soon};
use quorate_client::{CallError, Client, ClientError, Options};
use quorate_wire::{
    Acknowledgement, CallRequest, CallResponse, CallStatus, ErrorCode, Notification, RequestBody,
    ResponseBody,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

type Outcome = JoinHandle<Result<Value, ClientError>>;

fn acquire(client: &Client, name: &str) -> Outcome {
    let (client, name) = (client.clone(), name.to_owned());
    tokio::spawn(async move { client.call("/locks", "acquire", json!([name])).await })
}

async fn late(peer: &mut Peer, key: u64, result: &str) {
    let status = CallStatus::Returned;
    let result = result.into();
    peer.notify(Notification::Answer {
        mount: "/locks".into(),
        key,
        response: CallResponse { status, result },
    })
    .await;
}

/// Which answers the client has seen: up to a mark, but for some.
fn seen(request: &CallRequest) -> (u64, Vec<u64>) {
    let Acknowledgement { mark, awaited } = &request.acknowledged;
    (*mark, awaited.clone())
}

/// All that was sent before it is processed after it.
async fn round_trip(client: &Client, peer: &mut Peer) {
    let asked = client.clone();
    let sync = tokio::spawn(async move { asked.sync("/").await });
    let request = peer.request().await;
    peer.reply(request.xid, ResponseBody::Path("/".into()))
        .await;
    good(outcome(sync).await);
}

#[tokio::test]
async fn a_call_is_one_request_and_acknowledges_the_ones_before() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let call = acquire(&client, "a");
    let (xid, request) = peer.call().await;
    assert_eq!(
        (request.key, seen(&request), request.timeout_ms),
        (1, (0, vec![]), 0)
    );
    assert_eq!(
        (&*request.mount, &*request.operation, &*request.arguments),
        ("/locks", "acquire", r#"["a"]"#)
    );
    peer.answer_call(xid, CallStatus::Returned, r#"{"token":7}"#)
        .await;
    assert_eq!(outcome(call).await, Ok(json!({"token": 7})));

    let caller = client.clone();
    let call = tokio::spawn(async move {
        let timeout = Duration::from_micros(1500);
        caller
            .call("/locks", "acquire", json!({"name": "b"}))
            .timeout(timeout)
            .await
    });
    let (xid, request) = peer.call().await;
    assert_eq!(
        (request.key, seen(&request), request.timeout_ms),
        (2, (1, vec![]), 1)
    );
    peer.answer_call(xid, CallStatus::Refused, "no").await;
    assert_eq!(
        outcome(call).await,
        Err(CallError::Refused("no".into()).into())
    );
}

#[tokio::test]
async fn parked_calls_are_answered_late_and_awaited_meanwhile() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let first = acquire(&client, "a");
    let (xid, _) = peer.call().await;
    peer.answer_call(xid, CallStatus::Parked, "").await;
    // It has heard that.
    round_trip(&client, &mut peer).await;
    let second = acquire(&client, "b");
    let (xid, request) = peer.call().await;
    assert_eq!((request.key, seen(&request)), (2, (1, vec![1])));
    peer.answer_call(xid, CallStatus::Returned, "2").await;
    assert_eq!(outcome(second).await, Ok(json!(2)));
    let third = acquire(&client, "c");
    let (xid, request) = peer.call().await;
    assert_eq!(
        (request.key, seen(&request)),
        (3, (2, vec![1])),
        "the first is still wanted"
    );
    peer.answer_call(xid, CallStatus::Parked, "").await;
    late(&mut peer, 1, "1").await;
    assert_eq!(outcome(first).await, Ok(json!(1)));
    late(&mut peer, 3, "3").await;
    assert_eq!(outcome(third).await, Ok(json!(3)));
    let fourth = acquire(&client, "d");
    let (xid, request) = peer.call().await;
    assert_eq!(seen(&request), (3, vec![]));
    peer.answer_call(xid, CallStatus::Returned, "4").await;
    assert_eq!(outcome(fourth).await, Ok(json!(4)));
}

#[tokio::test]
async fn calls_are_repeated_over_a_new_connection_with_their_keys() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let parked = acquire(&client, "a");
    let (xid, one) = peer.call().await;
    peer.answer_call(xid, CallStatus::Parked, "").await;
    round_trip(&client, &mut peer).await;
    let sent = acquire(&client, "b");
    let (_, two) = peer.call().await;
    drop(peer);
    let (_, mut peer) = server.welcome(Duration::from_secs(10)).await;
    let (first, one_again) = peer.call().await;
    let (second, two_again) = peer.call().await;
    assert_eq!(
        (seen(&one_again), seen(&two_again)),
        ((1, vec![1]), (1, vec![1]))
    );
    let without = |request: CallRequest| CallRequest {
        acknowledged: Acknowledgement::default(),
        ..request
    };
    assert_eq!([one_again, two_again].map(without), [one, two].map(without));
    peer.answer_call(first, CallStatus::Parked, "").await;
    peer.answer_call(second, CallStatus::Returned, "2").await;
    late(&mut peer, 1, "1").await;
    assert_eq!(outcome(parked).await, Ok(json!(1)));
    assert_eq!(outcome(sent).await, Ok(json!(2)));
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_and_then_acknowledged() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let call = acquire(&client, "a");
    let (xid, _) = peer.call().await;
    peer.answer_call(xid, CallStatus::Parked, "").await;
    call.abort();
    let request = peer.request().await;
    assert_eq!(request.body, RequestBody::CancelCall { key: 1 });
    // The connection goes before the answer: it is cancelled again, not called again.
    drop(peer);
    let (_, mut peer) = server.welcome(Duration::from_secs(10)).await;
    let request = peer.request().await;
    assert_eq!(request.body, RequestBody::CancelCall { key: 1 });
    peer.answer_call(request.xid, CallStatus::Cancelled, "")
        .await;
    round_trip(&client, &mut peer).await;
    let call = acquire(&client, "b");
    let (xid, request) = peer.call().await;
    assert_eq!((request.key, seen(&request)), (2, (1, vec![])));
    peer.answer_call(xid, CallStatus::Returned, "2").await;
    assert_eq!(outcome(call).await, Ok(json!(2)));
}

#[tokio::test]
async fn cancelling_ends_the_call_that_waits_and_gives_a_result_if_there_is_one() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let parked = acquire(&client, "a");
    let (xid, _) = peer.call().await;
    peer.answer_call(xid, CallStatus::Parked, "").await;
    let canceller = client.clone();
    let cancel = tokio::spawn(async move { canceller.cancel(1).await });
    let request = peer.request().await;
    assert_eq!(request.body, RequestBody::CancelCall { key: 1 });
    peer.answer_call(request.xid, CallStatus::Cancelled, "")
        .await;
    assert_eq!(outcome(cancel).await, Ok(None));
    assert_eq!(outcome(parked).await, Err(CallError::Cancelled.into()));

    let canceller = client.clone();
    let cancel = tokio::spawn(async move { canceller.cancel(9).await });
    let request = peer.request().await;
    peer.answer_call(request.xid, CallStatus::Returned, "5")
        .await;
    assert_eq!(outcome(cancel).await, Ok(Some(json!(5))));
}

#[tokio::test]
async fn a_call_that_is_not_ready_is_repeated_with_another_key() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let call = acquire(&client, "a");
    let (xid, request) = peer.call().await;
    assert_eq!(request.key, 1);
    peer.answer_call(xid, CallStatus::NotReady, "compiling")
        .await;
    let (xid, again) = peer.call().await;
    assert_eq!((again.key, seen(&again)), (2, (1, vec![])));
    assert_eq!(again.arguments, request.arguments);
    peer.answer_call(xid, CallStatus::Returned, "1").await;
    assert_eq!(outcome(call).await, Ok(json!(1)));
    // One's own is used until it is ready, so no other call passes it.
    let caller = client.clone();
    let call =
        tokio::spawn(async move { caller.call("/locks", "acquire", json!([])).key(7).await });
    for status in [CallStatus::NotReady, CallStatus::Returned] {
        let (xid, request) = peer.call().await;
        assert_eq!((request.key, seen(&request)), (7, (6, vec![])));
        peer.answer_call(xid, status, "1").await;
    }
    assert_eq!(outcome(call).await, Ok(json!(1)));
}

#[tokio::test]
async fn a_key_for_which_nothing_ran_holds_no_acknowledgement_back() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let caller = client.clone();
    let call =
        tokio::spawn(async move { caller.call("/locks", "acquire", json!([])).key(5).await });
    let (xid, _) = peer.call().await;
    peer.answer_call(xid, CallStatus::BadCall, "no such mount")
        .await;
    let refused = Err(CallError::BadCall("no such mount".into()).into());
    assert_eq!(outcome(call).await, refused);
    let next = acquire(&client, "a");
    let (xid, request) = peer.call().await;
    assert_eq!((request.key, seen(&request)), (6, (5, vec![])));
    peer.answer_call(xid, CallStatus::BadCall, "no such mount")
        .await;
    assert_eq!(outcome(next).await, refused);
    let _next = acquire(&client, "a");
    let (_, request) = peer.call().await;
    assert_eq!((request.key, seen(&request)), (7, (6, vec![])));
}

#[tokio::test]
async fn a_key_of_ones_own_is_acknowledged_by_its_owner() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let call = |key: u64| {
        let client = client.clone();
        tokio::spawn(async move { client.call("/locks", "acquire", json!([])).key(key).await })
    };
    let first = call(5);
    let (xid, request) = peer.call().await;
    assert_eq!((request.key, seen(&request)), (5, (4, vec![])));
    peer.answer_call(xid, CallStatus::Returned, "5").await;
    assert_eq!(outcome(first).await, Ok(json!(5)));
    let second = acquire(&client, "a");
    let (xid, request) = peer.call().await;
    assert_eq!((request.key, seen(&request)), (6, (5, vec![5])));
    peer.answer_call(xid, CallStatus::Returned, "6").await;
    assert_eq!(outcome(second).await, Ok(json!(6)));
    let owner = client.clone();
    let acknowledge = tokio::spawn(async move { owner.acknowledge(5).await });
    let request = peer.request().await;
    assert_eq!(
        request.body,
        RequestBody::Acknowledge(Acknowledgement {
            mark: 6,
            awaited: vec![],
        })
    );
    peer.reply(request.xid, ResponseBody::Empty).await;
    assert_eq!(outcome(acknowledge).await, Ok(()));
    assert_eq!(client.credentials().next_key, 7);

    let zero = soon(async { client.call("/locks", "acquire", json!([])).key(0).await }).await;
    assert!(matches!(
        zero,
        Err(ClientError::Call(CallError::BadCall(_)))
    ));
    let number = soon(async { client.call("/locks", "acquire", json!(1)).await }).await;
    assert!(matches!(
        number,
        Err(ClientError::Call(CallError::BadCall(_)))
    ));
}

#[tokio::test]
async fn zookeeper_is_told_apart() {
    let server = Server::start().await;
    let (client, mut peer) = server.connect(Options::default()).await;
    let call = acquire(&client, "a");
    let (xid, _) = peer.call().await;
    peer.refuse(xid, ErrorCode::Unimplemented).await;
    assert_eq!(outcome(call).await, Err(ClientError::NoCalls));
    drop(peer);
    // Nothing of it is repeated.
    let (_, mut peer) = server.welcome(Duration::from_secs(10)).await;
    let closing = tokio::spawn(client.close());
    let request = peer.request().await;
    assert_eq!(request.body, RequestBody::CloseSession);
    peer.reply(request.xid, ResponseBody::Empty).await;
    good(outcome(closing).await);
}
