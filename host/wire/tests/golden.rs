//! What kazoo 2.10 really sends, byte for byte, and what ZooKeeper 3.8.0 really answers.

use bytes::{Bytes, BytesMut};
use quorate_model::acl::{Acl, AclEntry, Identity};
use quorate_model::id::Zxid;
use quorate_wire::{
    ConnectRequest, ConnectResponse, Create, CreateMode, ErrorCode, EventType, MAX_FRAME_BYTES,
    MultiOperation, MultiResult, Notification, Reader, Reconfig, Record, Request, RequestBody,
    Response, ResponseBody, Stat, WatcherEvent, frame, opcode,
};

fn bytes_of(hexadecimal: &str) -> Vec<u8> {
    (0..hexadecimal.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

fn create(path: &str, data: &'static [u8], mode: CreateMode) -> Create {
    Create {
        path: path.into(),
        data: Bytes::from_static(data),
        acl: Acl::open(),
        flags: mode.flags(),
    }
}

#[test]
fn the_handshake_of_kazoo() {
    let golden = bytes_of(
        "0000002d000000000000001122334455000027100000000000000000000000100000000000000000000000000000000000",
    );
    let request = ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0x11_2233_4455,
        timeout_ms: 10_000,
        session: 0,
        password: Bytes::from_static(&[0; 16]),
        read_only: Some(false),
    };
    let mut encoded = BytesMut::new();
    request.encode_frame(&mut encoded);
    assert_eq!(encoded, golden);
    assert_eq!(
        ConnectRequest::decode(&mut Reader::new(&golden[4..])),
        Ok(request.clone())
    );
    // A client older than 3.4 sends the same without the last byte.
    let old = ConnectRequest::decode(&mut Reader::new(&golden[4..golden.len() - 1]));
    assert_eq!(old.map(|old| old.read_only), Ok(None));
}

#[test]
fn the_requests_of_kazoo() {
    let golden = [
        (
            "0000004400000001000000010000000e2f6d795f6170702f636f6e66696700000007696e697469616c000000010000001f00000005776f726c6400000006616e796f6e6500000003",
            1,
            RequestBody::Create(create(
                "/my_app/config",
                b"initial",
                CreateMode::EphemeralSequential,
            )),
        ),
        (
            "00000031000000020000000f000000022f6100000000000000010000001f00000005776f726c6400000006616e796f6e6500000000",
            2,
            RequestBody::Create2(create("/a", b"", CreateMode::Persistent)),
        ),
        (
            "000000120000000300000002000000022f61ffffffff",
            3,
            RequestBody::Delete {
                path: "/a".into(),
                version: -1,
            },
        ),
        (
            "0000000f0000000400000003000000022f6101",
            4,
            RequestBody::Exists {
                path: "/a".into(),
                watch: true,
            },
        ),
        (
            "0000000f0000000500000004000000022f6100",
            5,
            RequestBody::GetData {
                path: "/a".into(),
                watch: false,
            },
        ),
        (
            "000000180000000600000005000000022f6100000002787900000007",
            6,
            RequestBody::SetData {
                path: "/a".into(),
                data: Bytes::from_static(b"xy"),
                version: 7,
            },
        ),
        (
            "0000002d0000000700000007000000022f61000000010000001f00000005776f726c6400000006616e796f6e65ffffffff",
            7,
            RequestBody::SetAcl {
                path: "/a".into(),
                acl: Acl::from(vec![AclEntry {
                    permissions: 31,
                    identity: Identity {
                        scheme: "world".into(),
                        id: "anyone".into(),
                    },
                }]),
                version: -1,
            },
        ),
        (
            "0000000e000000080000000c000000012f00",
            8,
            RequestBody::GetChildren2 {
                path: "/".into(),
                watch: false,
            },
        ),
        (
            "0000000d0000000900000009000000012f",
            9,
            RequestBody::Sync { path: "/".into() },
        ),
        (
            "000000810000000a0000000e0000000d00ffffffff000000022f61000000010000000100ffffffff000000022f6200000000000000010000001f00000005776f726c6400000006616e796f6e65000000000000000500ffffffff000000022f61000000017affffffff0000000200ffffffff000000022f6300000000ffffffff01ffffffff",
            10,
            RequestBody::Multi(vec![
                MultiOperation::Check {
                    path: "/a".into(),
                    version: 1,
                },
                MultiOperation::Create(create("/b", b"", CreateMode::Persistent)),
                MultiOperation::SetData {
                    path: "/a".into(),
                    data: Bytes::from_static(b"z"),
                    version: -1,
                },
                MultiOperation::Delete {
                    path: "/c".into(),
                    version: 0,
                },
            ]),
        ),
        (
            "0000001dfffffffc00000064000000000000000664696765737400000003753a70",
            -4,
            RequestBody::Auth {
                kind: 0,
                scheme: "digest".into(),
                auth: Bytes::from_static(b"u:p"),
            },
        ),
        ("00000008fffffffe0000000b", -2, RequestBody::Ping),
        ("000000080000000bfffffff5", 11, RequestBody::CloseSession),
    ];
    for (hexadecimal, xid, body) in golden {
        let golden = bytes_of(hexadecimal);
        let request = Request { xid, body };
        let mut encoded = BytesMut::new();
        request.encode_frame(&mut encoded);
        assert_eq!(encoded, golden, "{request:?}");
        let frame = frame::decode(&mut encoded, MAX_FRAME_BYTES)
            .expect("a short frame")
            .expect("a whole frame");
        assert_eq!(Request::decode(&frame), Ok(request));
    }
}

/// kazoo sends a text that was not given as null, which reads as empty.
#[test]
fn the_reconfig_of_kazoo() {
    let golden = bytes_of(
        "0000000c000000100000002d7365727665722e343d643a323838383a333838383a7061727469636970616e743b302e302e302e303a3231383100000003322c33ffffffffffffffffffffffff",
    );
    let body = RequestBody::Reconfig(Reconfig {
        joining: "server.4=d:2888:3888:participant;0.0.0.0:2181".into(),
        leaving: "2,3".into(),
        new_members: String::new(),
        from_config: -1,
    });
    assert_eq!(Request::decode(&golden), Ok(Request { xid: 12, body }));
}

#[test]
fn the_handshake_of_zookeeper() {
    let golden =
        bytes_of("00000000000027100100001f9547000000000010eb414ef19c64c46841cad3bd45cc718200");
    let response = ConnectResponse::decode(&mut Reader::new(&golden)).expect("a handshake");
    assert_eq!(response.timeout_ms, 10_000);
    assert_eq!(response.session, 0x0100_001f_9547_0000);
    assert_eq!(response.password.len(), 16);
    assert_eq!(response.read_only, Some(false));
    let mut encoded = BytesMut::new();
    response.encode_frame(&mut encoded);
    assert_eq!(encoded[4..], golden);
}

#[test]
fn the_responses_of_zookeeper() {
    let created = Stat {
        czxid: 2,
        mzxid: 2,
        ctime: 0x1a1_fd93_fc7d,
        mtime: 0x1a1_fd93_fc7d,
        version: 0,
        cversion: 1,
        aversion: 0,
        ephemeral_owner: 0,
        data_length: 5,
        num_children: 1,
        pzxid: 3,
    };
    let set = Stat {
        mzxid: 5,
        mtime: 0x1a1_fd93_fc92,
        version: 1,
        data_length: 1,
        ..created
    };
    let ephemeral = Stat {
        czxid: 3,
        mzxid: 3,
        ctime: 0x1a1_fd93_fc84,
        mtime: 0x1a1_fd93_fc84,
        cversion: 0,
        ephemeral_owner: 0x0100_001f_9547_0000,
        data_length: 0,
        num_children: 0,
        ..created
    };
    let path = String::from;
    let golden = [
        (
            "00000001000000000000000200000000000000022f67",
            opcode::CREATE,
            Response::ok(1, Zxid(2), ResponseBody::Path(path("/g"))),
        ),
        (
            "00000002000000000000000300000000000000042f672f6500000000000000030000000000000003000001a1fd93fc84000001a1fd93fc840000000000000000000000000100001f9547000000000000000000000000000000000003",
            opcode::CREATE2,
            Response::ok(
                2,
                Zxid(3),
                ResponseBody::Created {
                    path: path("/g/e"),
                    stat: ephemeral,
                },
            ),
        ),
        (
            "000000030000000000000003000000000000000568656c6c6f00000000000000020000000000000002000001a1fd93fc7d000001a1fd93fc7d000000000000000100000000000000000000000000000005000000010000000000000003",
            opcode::GET_DATA,
            Response::ok(
                3,
                Zxid(3),
                ResponseBody::Data {
                    data: Bytes::from_static(b"hello"),
                    stat: created,
                },
            ),
        ),
        (
            "0000000400000000000000030000000000000001000000016500000000000000020000000000000002000001a1fd93fc7d000001a1fd93fc7d000000000000000100000000000000000000000000000005000000010000000000000003",
            opcode::GET_CHILDREN2,
            Response::ok(
                4,
                Zxid(3),
                ResponseBody::ChildrenWithStat {
                    children: vec![path("e")],
                    stat: created,
                },
            ),
        ),
        (
            "00000005000000000000000300000000000000010000001f00000005776f726c6400000006616e796f6e6500000000000000020000000000000002000001a1fd93fc7d000001a1fd93fc7d000000000000000100000000000000000000000000000005000000010000000000000003",
            opcode::GET_ACL,
            Response::ok(
                5,
                Zxid(3),
                ResponseBody::Acl {
                    acl: Acl::open(),
                    stat: created,
                },
            ),
        ),
        (
            "000000060000000000000003ffffff9b",
            opcode::EXISTS,
            Response::error(6, Zxid(3), ErrorCode::NoNode),
        ),
        (
            "00000007000000000000000400000000ffffffff000000000000000000ffffffff00ffffff99ffffff99ffffffff00fffffffefffffffeffffffff01ffffffff",
            opcode::MULTI,
            Response::ok(
                7,
                Zxid(4),
                ResponseBody::Multi(MultiResult::failed(3, 1, ErrorCode::BadVersion)),
            ),
        ),
        (
            "0000000800000000000000050000000000000005000000000000000000000000020000000000000005000001a1fd93fc7d000001a1fd93fc92000000010000000100000000000000000000000000000001000000010000000000000003000000010000000000000000042f672f630000000d0000000000000000020000000000ffffffff01ffffffff",
            opcode::MULTI,
            Response::ok(
                8,
                Zxid(5),
                ResponseBody::Multi(vec![
                    MultiResult::SetData(set),
                    MultiResult::Create { path: path("/g/c") },
                    MultiResult::Check,
                    MultiResult::Delete,
                ]),
            ),
        ),
        (
            "fffffffe000000000000000500000000",
            opcode::PING,
            Response::ok(opcode::PING_XID, Zxid(5), ResponseBody::Empty),
        ),
        (
            "00000009fffffffffffffffffffffffa",
            500,
            Response::error(9, Zxid(u64::MAX), ErrorCode::Unimplemented),
        ),
    ];
    for (hexadecimal, opcode, response) in golden {
        let golden = bytes_of(hexadecimal);
        assert_eq!(Response::decode(opcode, &golden), Ok(response.clone()));
        let mut encoded = BytesMut::new();
        response.encode_frame(&mut encoded);
        assert_eq!(encoded[4..], golden, "{response:?}");
    }
}

#[test]
fn the_watch_event_of_zookeeper() {
    let golden = bytes_of("ffffffffffffffffffffffff000000000000000300000003000000022f67");
    let event = WatcherEvent::of(EventType::NodeDataChanged, "/g");
    let notification = Notification::Watch(event);
    assert_eq!(Notification::decode(&golden), Ok(notification.clone()));
    let mut encoded = BytesMut::new();
    notification.encode_frame(Zxid(u64::MAX), &mut encoded);
    assert_eq!(encoded[4..], golden);
}
