//! What a server sends: replies in the order of the requests, and notifications in between.

use bytes::{Bytes, BytesMut};
use quorate_model::acl::Acl;
use quorate_model::id::Zxid;

use crate::call::CallResponse;
use crate::error::ErrorCode;
use crate::frame;
use crate::jute::{DecodeError, Reader, Record, Writer};
use crate::multi::{self, MultiResult};
use crate::opcode;
use crate::stat::Stat;

/// What every frame of the server's begins with, after the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// The request's, or [`opcode::NOTIFICATION_XID`].
    pub xid: i32,
    /// The last transaction that the answer reflects.
    pub zxid: Zxid,
    /// 0, or the number of an [`ErrorCode`]; then no body follows.
    pub error: i32,
}

impl ReplyHeader {
    /// Of an answer.
    pub fn ok(xid: i32, zxid: Zxid) -> ReplyHeader {
        ReplyHeader {
            xid,
            zxid,
            error: 0,
        }
    }

    /// Of a refusal.
    pub fn error(xid: i32, zxid: Zxid, code: ErrorCode) -> ReplyHeader {
        ReplyHeader {
            xid,
            zxid,
            error: code.number(),
        }
    }
}

impl Record for ReplyHeader {
    fn encode(&self, out: &mut Writer<'_>) {
        out.int(self.xid);
        out.long(self.zxid.0.cast_signed());
        out.int(self.error);
    }

    fn decode(input: &mut Reader<'_>) -> Result<ReplyHeader, DecodeError> {
        Ok(ReplyHeader {
            xid: input.int()?,
            zxid: Zxid(input.long()?.cast_unsigned()),
            error: input.int()?,
        })
    }
}

/// The reply to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Whose, as of when, and whether it failed.
    pub header: ReplyHeader,
    /// [`ResponseBody::Empty`] or [`ResponseBody::Reason`] if it failed.
    pub body: ResponseBody,
}

impl Response {
    /// An answer.
    pub fn ok(xid: i32, zxid: Zxid, body: ResponseBody) -> Response {
        Response {
            header: ReplyHeader::ok(xid, zxid),
            body,
        }
    }

    /// A refusal.
    pub fn error(xid: i32, zxid: Zxid, code: ErrorCode) -> Response {
        Response {
            header: ReplyHeader::error(xid, zxid, code),
            body: ResponseBody::Empty,
        }
    }

    /// A refusal that says why.
    pub fn refusal(xid: i32, zxid: Zxid, code: ErrorCode, reason: String) -> Response {
        Response {
            header: ReplyHeader::error(xid, zxid, code),
            body: ResponseBody::Reason(reason),
        }
    }

    /// Appends it as a frame.
    pub fn encode_frame(&self, out: &mut BytesMut) {
        frame::encode(out, |out| {
            self.header.encode(out);
            self.body.encode(out);
        });
    }

    /// Reads the reply to a request with `opcode`: a reply does not say what it answers.
    pub fn decode(opcode: i32, frame: &[u8]) -> Result<Response, DecodeError> {
        let mut input = Reader::new(frame);
        let header = ReplyHeader::decode(&mut input)?;
        let body = match header.error {
            0 => ResponseBody::decode(opcode, &mut input)?,
            _ if input.left() > 0 => ResponseBody::Reason(input.string()?),
            _ => ResponseBody::Empty,
        };
        Ok(Response { header, body })
    }
}

/// What a reply carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// To delete, ping, setWatches, auth, closeSession and acknowledge; and of most failures.
    Empty,
    /// Why it failed, for people. ZooKeeper's clients read nothing behind the header of a failure; ours do.
    Reason(String),
    /// To create: the path with its number, if sequential. To sync: the path asked for.
    Path(String),
    /// To create2 and createContainer.
    Created {
        /// With its number, if sequential.
        path: String,
        /// Its stat.
        stat: Stat,
    },
    /// To exists, setData and setACL.
    Stat(Stat),
    /// To getData.
    Data {
        /// The data.
        data: Bytes,
        /// The stat.
        stat: Stat,
    },
    /// To getACL.
    Acl {
        /// The access control list.
        acl: Acl,
        /// The stat.
        stat: Stat,
    },
    /// To getChildren.
    Children(Vec<String>),
    /// To getChildren2.
    ChildrenWithStat {
        /// Their names.
        children: Vec<String>,
        /// The parent's stat.
        stat: Stat,
    },
    /// To multi.
    Multi(Vec<MultiResult>),
    /// To call and cancelCall.
    Call(CallResponse),
}

impl ResponseBody {
    fn encode(&self, out: &mut Writer<'_>) {
        match self {
            ResponseBody::Empty => {}
            ResponseBody::Reason(reason) => out.string(reason),
            ResponseBody::Path(path) => out.string(path),
            ResponseBody::Created { path, stat } => {
                out.string(path);
                stat.encode(out);
            }
            ResponseBody::Stat(stat) => stat.encode(out),
            ResponseBody::Data { data, stat } => {
                out.buffer(data);
                stat.encode(out);
            }
            ResponseBody::Acl { acl, stat } => {
                out.acl(acl);
                stat.encode(out);
            }
            ResponseBody::Children(children) => out.strings(children),
            ResponseBody::ChildrenWithStat { children, stat } => {
                out.strings(children);
                stat.encode(out);
            }
            ResponseBody::Multi(results) => multi::encode_results(results, out),
            ResponseBody::Call(response) => response.encode(out),
        }
    }

    fn decode(opcode: i32, input: &mut Reader<'_>) -> Result<ResponseBody, DecodeError> {
        Ok(match opcode {
            opcode::CREATE | opcode::SYNC => ResponseBody::Path(input.string()?),
            opcode::CREATE2 | opcode::CREATE_CONTAINER => ResponseBody::Created {
                path: input.string()?,
                stat: Stat::decode(input)?,
            },
            opcode::EXISTS | opcode::SET_DATA | opcode::SET_ACL => {
                ResponseBody::Stat(Stat::decode(input)?)
            }
            opcode::GET_DATA | opcode::RECONFIG => ResponseBody::Data {
                data: input.buffer()?,
                stat: Stat::decode(input)?,
            },
            opcode::GET_ACL => ResponseBody::Acl {
                acl: input.acl()?,
                stat: Stat::decode(input)?,
            },
            opcode::GET_CHILDREN => ResponseBody::Children(input.strings()?),
            opcode::GET_CHILDREN2 => ResponseBody::ChildrenWithStat {
                children: input.strings()?,
                stat: Stat::decode(input)?,
            },
            opcode::MULTI => ResponseBody::Multi(multi::decode_results(input)?),
            opcode::CALL | opcode::CANCEL_CALL => ResponseBody::Call(CallResponse::decode(input)?),
            _ => ResponseBody::Empty,
        })
    }
}

/// What happened to a watched znode, or to the client's connection: ZooKeeper's `EventType`, and ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// The connection's state changed; no znode did.
    None,
    /// The znode was created.
    NodeCreated,
    /// It was deleted.
    NodeDeleted,
    /// Its data were set.
    NodeDataChanged,
    /// A child was created or deleted.
    NodeChildrenChanged,
    /// Ours: a parked call has ended.
    CallAnswered,
}

impl EventType {
    /// All of them.
    pub const ALL: [EventType; 6] = [
        EventType::None,
        EventType::NodeCreated,
        EventType::NodeDeleted,
        EventType::NodeDataChanged,
        EventType::NodeChildrenChanged,
        EventType::CallAnswered,
    ];

    /// Its number on the wire.
    pub fn number(self) -> i32 {
        match self {
            EventType::None => -1,
            EventType::NodeCreated => 1,
            EventType::NodeDeleted => 2,
            EventType::NodeDataChanged => 3,
            EventType::NodeChildrenChanged => 4,
            EventType::CallAnswered => opcode::CALL,
        }
    }

    /// What the number stands for.
    pub fn from_number(number: i32) -> Option<EventType> {
        EventType::ALL
            .into_iter()
            .find(|event| event.number() == number)
    }
}

/// The client is connected: ZooKeeper's `KeeperState.SyncConnected`, the state of every event about a znode.
pub const STATE_CONNECTED: i32 = 3;

/// A watch fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatcherEvent {
    /// What happened.
    pub event: EventType,
    /// ZooKeeper's `KeeperState`, such as [`STATE_CONNECTED`].
    pub state: i32,
    /// The znode.
    pub path: String,
}

impl WatcherEvent {
    /// `event` happened to the znode at `path`.
    pub fn of(event: EventType, path: impl Into<String>) -> WatcherEvent {
        WatcherEvent {
            event,
            state: STATE_CONNECTED,
            path: path.into(),
        }
    }
}

impl Record for WatcherEvent {
    fn encode(&self, out: &mut Writer<'_>) {
        out.int(self.event.number());
        out.int(self.state);
        out.string(&self.path);
    }

    fn decode(input: &mut Reader<'_>) -> Result<WatcherEvent, DecodeError> {
        let number = input.int()?;
        Ok(WatcherEvent {
            event: EventType::from_number(number).ok_or(DecodeError::Unknown {
                what: "event",
                number,
            })?,
            state: input.int()?,
            path: input.string()?,
        })
    }
}

/// What a server says unasked: a frame whose xid is [`opcode::NOTIFICATION_XID`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// A watch fired.
    Watch(WatcherEvent),
    /// A parked call has ended (rule C9).
    Answer {
        /// The path of its mount.
        mount: String,
        /// Its key.
        key: u64,
        /// How it ended; never parked.
        response: CallResponse,
    },
}

impl Notification {
    /// Appends it as a frame, as of `zxid`.
    pub fn encode_frame(&self, zxid: Zxid, out: &mut BytesMut) {
        frame::encode(out, |out| {
            ReplyHeader::ok(opcode::NOTIFICATION_XID, zxid).encode(out);
            match self {
                Notification::Watch(event) => event.encode(out),
                Notification::Answer {
                    mount,
                    key,
                    response,
                } => {
                    out.int(EventType::CallAnswered.number());
                    out.int(STATE_CONNECTED);
                    out.string(mount);
                    out.long(key.cast_signed());
                    response.encode(out);
                }
            }
        });
    }

    /// Reads a frame whose header has been seen to be a notification's.
    pub fn decode(frame: &[u8]) -> Result<Notification, DecodeError> {
        let mut input = Reader::new(frame);
        ReplyHeader::decode(&mut input)?;
        let event = WatcherEvent::decode(&mut input)?;
        if event.event != EventType::CallAnswered {
            return Ok(Notification::Watch(event));
        }
        Ok(Notification::Answer {
            mount: event.path,
            key: input.unsigned_long()?,
            response: CallResponse::decode(&mut input)?,
        })
    }
}
