//! Every message comes back as it was sent; no bytes panic, and none make much memory be taken.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use quorate_model::acl::{Acl, AclEntry, Identity};
use quorate_model::id::Zxid;
use quorate_wire::request::SetWatches;
use quorate_wire::{
    Acknowledgement, CallRequest, CallResponse, CallStatus, ConnectRequest, ConnectResponse,
    Create, EventType, MAX_FRAME_BYTES, MultiOperation, MultiResult, Notification, Reader,
    Reconfig, Record, ReplyHeader, Request, RequestBody, RequestError, Response, ResponseBody,
    Stat, WatcherEvent, frame, opcode,
};

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["/[a-z0-9/]{0,20}", "\\PC{0,12}"]
}

fn data() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn natural() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1..1000_u64, Just(i64::MAX.cast_unsigned())]
}

fn acl() -> impl Strategy<Value = Acl> {
    let entry = (any::<u32>(), text(), text()).prop_map(|(permissions, scheme, id)| AclEntry {
        permissions,
        identity: Identity { scheme, id },
    });
    vec(entry, 0..4).prop_map(Acl::from)
}

fn create() -> impl Strategy<Value = Create> {
    (text(), data(), acl(), any::<i32>()).prop_map(|(path, data, acl, flags)| Create {
        path,
        data,
        acl,
        flags,
    })
}

fn stat() -> impl Strategy<Value = Stat> {
    (any::<[i64; 6]>(), any::<[i32; 5]>()).prop_map(|(longs, ints)| Stat {
        czxid: longs[0],
        mzxid: longs[1],
        ctime: longs[2],
        mtime: longs[3],
        version: ints[0],
        cversion: ints[1],
        aversion: ints[2],
        ephemeral_owner: longs[4],
        data_length: ints[3],
        num_children: ints[4],
        pzxid: longs[5],
    })
}

fn multi_operation() -> impl Strategy<Value = MultiOperation> {
    prop_oneof![
        create().prop_map(MultiOperation::Create),
        create().prop_map(MultiOperation::Create2),
        create().prop_map(MultiOperation::CreateContainer),
        (text(), any::<i32>()).prop_map(|(path, version)| MultiOperation::Delete { path, version }),
        (text(), any::<i32>()).prop_map(|(path, version)| MultiOperation::Check { path, version }),
        (text(), data(), any::<i32>()).prop_map(|(path, data, version)| {
            MultiOperation::SetData {
                path,
                data,
                version,
            }
        }),
    ]
}

fn multi_result() -> impl Strategy<Value = MultiResult> {
    prop_oneof![
        text().prop_map(|path| MultiResult::Create { path }),
        (text(), stat()).prop_map(|(path, stat)| MultiResult::Create2 { path, stat }),
        Just(MultiResult::Delete),
        stat().prop_map(MultiResult::SetData),
        Just(MultiResult::Check),
        any::<i32>().prop_map(MultiResult::Error),
    ]
}

fn set_watches() -> impl Strategy<Value = SetWatches> {
    let paths = || vec(text(), 0..5);
    (any::<i64>(), paths(), paths(), paths()).prop_map(|(since, data, exist, child)| SetWatches {
        since,
        data,
        exist,
        child,
    })
}

fn acknowledgement() -> impl Strategy<Value = Acknowledgement> {
    (natural(), vec(natural(), 0..4)).prop_map(|(mark, awaited)| Acknowledgement { mark, awaited })
}

fn call() -> impl Strategy<Value = CallRequest> {
    (
        natural(),
        text(),
        text(),
        text(),
        natural(),
        acknowledgement(),
    )
        .prop_map(
            |(key, mount, operation, arguments, timeout_ms, acknowledged)| CallRequest {
                key,
                mount,
                operation,
                arguments,
                timeout_ms,
                acknowledged,
            },
        )
}

fn call_response() -> impl Strategy<Value = CallResponse> {
    (proptest::sample::select(&CallStatus::ALL), text())
        .prop_map(|(status, result)| CallResponse { status, result })
}

fn request_body() -> impl Strategy<Value = RequestBody> {
    let read = || (text(), any::<bool>());
    prop_oneof![
        create().prop_map(RequestBody::Create),
        create().prop_map(RequestBody::Create2),
        create().prop_map(RequestBody::CreateContainer),
        (text(), any::<i32>()).prop_map(|(path, version)| RequestBody::Delete { path, version }),
        read().prop_map(|(path, watch)| RequestBody::Exists { path, watch }),
        read().prop_map(|(path, watch)| RequestBody::GetData { path, watch }),
        read().prop_map(|(path, watch)| RequestBody::GetChildren { path, watch }),
        read().prop_map(|(path, watch)| RequestBody::GetChildren2 { path, watch }),
        (text(), data(), any::<i32>()).prop_map(|(path, data, version)| RequestBody::SetData {
            path,
            data,
            version
        }),
        text().prop_map(|path| RequestBody::GetAcl { path }),
        (text(), acl(), any::<i32>()).prop_map(|(path, acl, version)| RequestBody::SetAcl {
            path,
            acl,
            version
        }),
        text().prop_map(|path| RequestBody::Sync { path }),
        Just(RequestBody::Ping),
        vec(multi_operation(), 0..5).prop_map(RequestBody::Multi),
        set_watches().prop_map(RequestBody::SetWatches),
        (set_watches(), vec(text(), 0..3), vec(text(), 0..3)).prop_map(
            |(watches, persistent, recursive)| RequestBody::SetWatches2 {
                watches,
                persistent,
                recursive
            }
        ),
        (any::<i32>(), text(), data()).prop_map(|(kind, scheme, auth)| RequestBody::Auth {
            kind,
            scheme,
            auth
        }),
        Just(RequestBody::CloseSession),
        (text(), text(), text(), any::<i64>()).prop_map(
            |(joining, leaving, new_members, from_config)| RequestBody::Reconfig(Reconfig {
                joining,
                leaving,
                new_members,
                from_config,
            })
        ),
        call().prop_map(RequestBody::Call),
        natural().prop_map(|key| RequestBody::CancelCall { key }),
        acknowledgement().prop_map(RequestBody::Acknowledge),
        (500..600).prop_map(|opcode| RequestBody::Unknown { opcode }),
    ]
}

/// A body and an opcode that it answers.
fn response_body() -> impl Strategy<Value = (i32, ResponseBody)> {
    let with = |opcodes: &'static [i32]| proptest::sample::select(opcodes);
    let children = || vec(text(), 0..5);
    prop_oneof![
        (
            with(&[
                opcode::DELETE,
                opcode::PING,
                opcode::AUTH,
                opcode::SET_WATCHES,
                opcode::SET_WATCHES2,
                opcode::CLOSE_SESSION,
                opcode::ACKNOWLEDGE
            ]),
            Just(ResponseBody::Empty)
        ),
        (
            with(&[opcode::CREATE, opcode::SYNC]),
            text().prop_map(ResponseBody::Path)
        ),
        (
            with(&[opcode::CREATE2, opcode::CREATE_CONTAINER]),
            (text(), stat()).prop_map(|(path, stat)| ResponseBody::Created { path, stat })
        ),
        (
            with(&[opcode::EXISTS, opcode::SET_DATA, opcode::SET_ACL]),
            stat().prop_map(ResponseBody::Stat)
        ),
        (
            with(&[opcode::GET_DATA]),
            (data(), stat()).prop_map(|(data, stat)| ResponseBody::Data { data, stat })
        ),
        (
            with(&[opcode::GET_ACL]),
            (acl(), stat()).prop_map(|(acl, stat)| ResponseBody::Acl { acl, stat })
        ),
        (
            with(&[opcode::GET_CHILDREN]),
            children().prop_map(ResponseBody::Children)
        ),
        (
            with(&[opcode::GET_CHILDREN2]),
            (children(), stat())
                .prop_map(|(children, stat)| ResponseBody::ChildrenWithStat { children, stat })
        ),
        (
            with(&[opcode::MULTI]),
            vec(multi_result(), 0..5).prop_map(ResponseBody::Multi)
        ),
        (
            with(&[opcode::CALL, opcode::CANCEL_CALL]),
            call_response().prop_map(ResponseBody::Call)
        ),
    ]
}

fn notification() -> impl Strategy<Value = Notification> {
    let event = proptest::sample::select(&EventType::ALL[..5]);
    prop_oneof![
        (event, any::<i32>(), text()).prop_map(|(event, state, path)| Notification::Watch(
            WatcherEvent { event, state, path }
        )),
        (text(), natural(), call_response()).prop_map(|(mount, key, response)| {
            Notification::Answer {
                mount,
                key,
                response,
            }
        }),
    ]
}

fn frame_of(encode: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut bytes = BytesMut::new();
    encode(&mut bytes);
    let decoded = frame::decode(&mut bytes, MAX_FRAME_BYTES);
    let frame = decoded.expect("a short frame").expect("the whole frame");
    assert!(bytes.is_empty(), "one message, one frame");
    frame
}

/// Opcodes worth feeding with nonsense.
fn some_opcode() -> impl Strategy<Value = i32> {
    prop_oneof![-12..25, 99..108, 699..704, any::<i32>()]
}

/// A record that holds `bytes` in all its parts takes no more than so many times their size.
const MOST_MEMORY_PER_BYTE: usize = 16;

proptest! {
    #[test]
    fn requests(xid in any::<i32>(), body in request_body()) {
        let request = Request { xid, body };
        let frame = frame_of(|out| request.encode_frame(out));
        prop_assert_eq!(Request::decode(&frame), Ok(request.clone()));
        // Whatever stands behind is ignored, as in ZooKeeper.
        let mut longer = frame.to_vec();
        longer.push(7);
        prop_assert_eq!(Request::decode(&longer), Ok(request));
    }

    #[test]
    fn a_truncated_request_is_an_error_that_knows_its_xid(xid in any::<i32>(), body in request_body(), cut in any::<prop::sample::Index>()) {
        let request = Request { xid, body };
        let frame = frame_of(|out| request.encode_frame(out));
        let cut = cut.index(frame.len());
        match Request::decode(&frame[..cut]) {
            Err(RequestError::Header(_)) => prop_assert!(cut < 8),
            Err(RequestError::Body { xid: seen, opcode, .. }) => {
                prop_assert!(cut >= 8);
                prop_assert_eq!((seen, opcode), (xid, request.body.opcode()));
            }
            Ok(seen) => prop_assert!(false, "{:?} of {:?}", seen, request),
        }
    }

    #[test]
    fn responses(xid in any::<i32>(), zxid in any::<u64>(), (opcode, body) in response_body()) {
        let response = Response { header: ReplyHeader::ok(xid, Zxid(zxid)), body };
        let frame = frame_of(|out| response.encode_frame(out));
        prop_assert_eq!(Response::decode(opcode, &frame), Ok(response));
        for cut in 0..16.min(frame.len()) {
            prop_assert!(Response::decode(opcode, &frame[..cut]).is_err());
        }
    }

    #[test]
    fn failures_have_no_body(opcode in some_opcode(), error in any::<i32>()) {
        prop_assume!(error != 0);
        let header = ReplyHeader { xid: 1, zxid: Zxid(2), error };
        let response = Response { header, body: ResponseBody::Empty };
        let frame = frame_of(|out| response.encode_frame(out));
        prop_assert_eq!(frame.len(), 16);
        prop_assert_eq!(Response::decode(opcode, &frame), Ok(response));
    }

    #[test]
    fn notifications(zxid in any::<u64>(), notification in notification()) {
        let frame = frame_of(|out| notification.encode_frame(Zxid(zxid), out));
        let header = ReplyHeader::decode(&mut Reader::new(&frame)).unwrap();
        prop_assert_eq!(header, ReplyHeader::ok(opcode::NOTIFICATION_XID, Zxid(zxid)));
        prop_assert_eq!(Notification::decode(&frame), Ok(notification));
    }

    #[test]
    fn handshakes(numbers in any::<(i32, i64, i32, i64)>(), password in data(), read_only in any::<Option<bool>>()) {
        let (protocol_version, last_zxid_seen, timeout_ms, session) = numbers;
        let request = ConnectRequest { protocol_version, last_zxid_seen, timeout_ms, session, password: password.clone(), read_only };
        let frame = frame_of(|out| request.encode_frame(out));
        prop_assert_eq!(ConnectRequest::decode(&mut Reader::new(&frame)), Ok(request.clone()));
        let response = ConnectResponse { protocol_version, timeout_ms, session, password, read_only };
        let frame = frame_of(|out| response.encode_frame(out));
        prop_assert_eq!(ConnectResponse::decode(&mut Reader::new(&frame)), Ok(response));
        prop_assert_eq!(ConnectResponse::expired(&request).read_only.is_some(), read_only.is_some());
    }

    #[test]
    fn no_bytes_panic(opcode in some_opcode(), bytes in vec(any::<u8>(), 0..300)) {
        let mut request = vec![0, 0, 0, 1];
        request.extend(opcode.to_be_bytes());
        request.extend(&bytes);
        let decoded = Request::decode(&request);
        if let Ok(Request { body: RequestBody::Multi(operations), .. }) = &decoded {
            prop_assert!(operations.capacity() * size_of::<MultiOperation>() <= request.len() * MOST_MEMORY_PER_BYTE);
        }
        let _ = Response::decode(opcode, &bytes);
        let _ = Notification::decode(&bytes);
        let _ = ConnectRequest::decode(&mut Reader::new(&bytes));
        let _ = ConnectResponse::decode(&mut Reader::new(&bytes));
        let _ = frame::decode(&mut BytesMut::from(&bytes[..]), MAX_FRAME_BYTES);
    }
}

#[test]
fn a_vector_of_the_smallest_elements_takes_a_small_multiple_of_its_bytes() {
    let count = 100_000;
    let mut body = vec![];
    body.extend(i32::to_be_bytes(count));
    body.resize(4 + 4 * count as usize, 0);
    let children = Reader::new(&body).strings().unwrap();
    assert_eq!(children.len(), count as usize);
    assert!(children.capacity() * size_of::<String>() <= body.len() * MOST_MEMORY_PER_BYTE);
}
