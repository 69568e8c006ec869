//! Requests: a header of xid and opcode, then the operation's own record.

use bytes::{Bytes, BytesMut};
use quorate_model::acl::Acl;
use thiserror::Error;

use crate::call::{Acknowledgement, CallRequest};
use crate::frame;
use crate::jute::{DecodeError, Reader, Record, Writer};
use crate::multi::{self, MultiOperation};
use crate::opcode;

/// A frame of the client's, after the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Chosen by the client and repeated in the reply; see [`opcode`] for the reserved ones.
    pub xid: i32,
    /// What is asked.
    pub body: RequestBody,
}

/// What is asked. Paths are as they came: to check them is the server's business, which answers BadArguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// Answered with [`ResponseBody::Path`](crate::ResponseBody::Path).
    Create(Create),
    /// Answered with [`ResponseBody::Created`](crate::ResponseBody::Created).
    Create2(Create),
    /// Answered with [`ResponseBody::Created`](crate::ResponseBody::Created). Its flags say container.
    CreateContainer(Create),
    /// Delete a znode.
    Delete {
        /// Which.
        path: String,
        /// Its expected version; -1 for any.
        version: i32,
    },
    /// A znode's stat.
    Exists {
        /// Which.
        path: String,
        /// Whether to tell of its next change, once.
        watch: bool,
    },
    /// A znode's data and stat.
    GetData {
        /// Which.
        path: String,
        /// Whether to tell of its next change, once.
        watch: bool,
    },
    /// Set a znode's data.
    SetData {
        /// Which.
        path: String,
        /// The new data.
        data: Bytes,
        /// Its expected version; -1 for any.
        version: i32,
    },
    /// A znode's access control list and stat.
    GetAcl {
        /// Which.
        path: String,
    },
    /// Set a znode's access control list.
    SetAcl {
        /// Which.
        path: String,
        /// The new one.
        acl: Acl,
        /// Its expected ACL version; -1 for any.
        version: i32,
    },
    /// A znode's children.
    GetChildren {
        /// Which.
        path: String,
        /// Whether to tell of the next child created or deleted, once.
        watch: bool,
    },
    /// A znode's children and stat.
    GetChildren2 {
        /// Which.
        path: String,
        /// Whether to tell of the next child created or deleted, once.
        watch: bool,
    },
    /// Answered once everything before it is applied.
    Sync {
        /// Comes back in the answer.
        path: String,
    },
    /// Keeps the session alive.
    Ping,
    /// All or nothing.
    Multi(Vec<MultiOperation>),
    /// Set watches again after a reconnect.
    SetWatches(SetWatches),
    /// The same with persistent watches.
    SetWatches2 {
        /// The one-shot ones.
        watches: SetWatches,
        /// Persistent watches on these paths.
        persistent: Vec<String>,
        /// Persistent watches on these paths and all below.
        recursive: Vec<String>,
    },
    /// Prove an identity.
    Auth {
        /// Always 0.
        kind: i32,
        /// Such as `digest`.
        scheme: String,
        /// Such as `user:password`.
        auth: Bytes,
    },
    /// End the session.
    CloseSession,
    /// Change the servers of the ensemble. Answered with [`ResponseBody::Data`](crate::ResponseBody::Data).
    Reconfig(Reconfig),
    /// Run an operation of a recipe.
    Call(CallRequest),
    /// End a parked call without a result; with one, give it.
    CancelCall {
        /// The call's.
        key: u64,
    },
    /// Forget the answers that the client has seen.
    Acknowledge(Acknowledgement),
    /// An opcode that is not known here: ZooKeeper answers Unimplemented (-6), with zxid -1, and closes the
    /// connection. Its record is not kept.
    Unknown {
        /// The opcode.
        opcode: i32,
    },
}

/// Create a znode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Where; for a sequential one, what its path begins with.
    pub path: String,
    /// Its data.
    pub data: Bytes,
    /// Its access control list.
    pub acl: Acl,
    /// See [`CreateMode::from_flags`].
    pub flags: i32,
}

/// What kind of znode to create: ZooKeeper's `CreateMode`, without the timed ones, which have an opcode of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CreateMode {
    /// Until it is deleted.
    #[default]
    Persistent,
    /// Until the session ends.
    Ephemeral,
    /// Persistent, with a number at the end of its name.
    PersistentSequential,
    /// Ephemeral, with a number at the end of its name.
    EphemeralSequential,
    /// Until its last child is deleted.
    Container,
}

impl CreateMode {
    /// What the flags of a create request mean; none for those that do not exist, which are BadArguments.
    pub fn from_flags(flags: i32) -> Option<CreateMode> {
        match flags {
            0 => Some(CreateMode::Persistent),
            1 => Some(CreateMode::Ephemeral),
            2 => Some(CreateMode::PersistentSequential),
            3 => Some(CreateMode::EphemeralSequential),
            4 => Some(CreateMode::Container),
            _ => None,
        }
    }

    /// The flags of a create request.
    pub fn flags(self) -> i32 {
        self as i32
    }

    /// Whether the server ends the name with a number.
    pub fn is_sequential(self) -> bool {
        matches!(
            self,
            CreateMode::PersistentSequential | CreateMode::EphemeralSequential
        )
    }
}

/// The one-shot watches that a client has, to be set again. Those whose event happened since `since` fire at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetWatches {
    /// The highest zxid that the client has seen.
    pub since: i64,
    /// Set by reading data.
    pub data: Vec<String>,
    /// Set by asking for a znode that was not there.
    pub exist: Vec<String>,
    /// Set by listing children.
    pub child: Vec<String>,
}

/// A change of the servers: ZooKeeper's `ReconfigRequest`. A text that a client leaves out is empty here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconfig {
    /// Servers that join, or change, separated by commas: `server.4=host:2888:3888:participant;2181`.
    pub joining: String,
    /// The ids of servers that leave, separated by commas.
    pub leaving: String,
    /// All servers from now on, as in `joining`; then the other two are empty.
    pub new_members: String,
    /// The version that the configuration must have; -1 for any.
    pub from_config: i64,
}

/// Why a frame is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Not even its header: ZooKeeper closes the connection.
    #[error("a request's header cannot be read: {0}")]
    Header(DecodeError),
    /// Its record: ZooKeeper answers MarshallingError (-5) in order and goes on.
    #[error("the record of a request with opcode {opcode} cannot be read: {error}")]
    Body {
        /// Of the request.
        xid: i32,
        /// Of the request.
        opcode: i32,
        /// What is wrong.
        error: DecodeError,
    },
}

impl Request {
    /// Reads a frame. What follows the record is ignored, as ZooKeeper does.
    pub fn decode(frame: &[u8]) -> Result<Request, RequestError> {
        let mut input = Reader::new(frame);
        let xid = input.int().map_err(RequestError::Header)?;
        let opcode = input.int().map_err(RequestError::Header)?;
        match RequestBody::decode(opcode, &mut input) {
            Ok(body) => Ok(Request { xid, body }),
            Err(error) => Err(RequestError::Body { xid, opcode, error }),
        }
    }

    /// Appends it as a frame.
    pub fn encode_frame(&self, out: &mut BytesMut) {
        frame::encode(out, |out| {
            out.int(self.xid);
            out.int(self.body.opcode());
            self.body.encode(out);
        });
    }
}

impl RequestBody {
    /// Its opcode.
    pub fn opcode(&self) -> i32 {
        match self {
            RequestBody::Create(_) => opcode::CREATE,
            RequestBody::Create2(_) => opcode::CREATE2,
            RequestBody::CreateContainer(_) => opcode::CREATE_CONTAINER,
            RequestBody::Delete { .. } => opcode::DELETE,
            RequestBody::Exists { .. } => opcode::EXISTS,
            RequestBody::GetData { .. } => opcode::GET_DATA,
            RequestBody::SetData { .. } => opcode::SET_DATA,
            RequestBody::GetAcl { .. } => opcode::GET_ACL,
            RequestBody::SetAcl { .. } => opcode::SET_ACL,
            RequestBody::GetChildren { .. } => opcode::GET_CHILDREN,
            RequestBody::GetChildren2 { .. } => opcode::GET_CHILDREN2,
            RequestBody::Sync { .. } => opcode::SYNC,
            RequestBody::Ping => opcode::PING,
            RequestBody::Multi(_) => opcode::MULTI,
            RequestBody::SetWatches(_) => opcode::SET_WATCHES,
            RequestBody::SetWatches2 { .. } => opcode::SET_WATCHES2,
            RequestBody::Auth { .. } => opcode::AUTH,
            RequestBody::CloseSession => opcode::CLOSE_SESSION,
            RequestBody::Reconfig(_) => opcode::RECONFIG,
            RequestBody::Call(_) => opcode::CALL,
            RequestBody::CancelCall { .. } => opcode::CANCEL_CALL,
            RequestBody::Acknowledge(_) => opcode::ACKNOWLEDGE,
            RequestBody::Unknown { opcode } => *opcode,
        }
    }

    fn encode(&self, out: &mut Writer<'_>) {
        match self {
            RequestBody::Create(create)
            | RequestBody::Create2(create)
            | RequestBody::CreateContainer(create) => create.encode(out),
            RequestBody::Delete { path, version } => {
                out.string(path);
                out.int(*version);
            }
            RequestBody::Exists { path, watch }
            | RequestBody::GetData { path, watch }
            | RequestBody::GetChildren { path, watch }
            | RequestBody::GetChildren2 { path, watch } => {
                out.string(path);
                out.bool(*watch);
            }
            RequestBody::SetData {
                path,
                data,
                version,
            } => {
                out.string(path);
                out.buffer(data);
                out.int(*version);
            }
            RequestBody::GetAcl { path } | RequestBody::Sync { path } => out.string(path),
            RequestBody::SetAcl { path, acl, version } => {
                out.string(path);
                out.acl(acl);
                out.int(*version);
            }
            RequestBody::Multi(operations) => multi::encode_operations(operations, out),
            RequestBody::SetWatches(watches) => watches.encode(out),
            RequestBody::SetWatches2 {
                watches,
                persistent,
                recursive,
            } => {
                watches.encode(out);
                out.strings(persistent);
                out.strings(recursive);
            }
            RequestBody::Auth { kind, scheme, auth } => {
                out.int(*kind);
                out.string(scheme);
                out.buffer(auth);
            }
            RequestBody::Reconfig(reconfig) => reconfig.encode(out),
            RequestBody::Call(call) => call.encode(out),
            RequestBody::CancelCall { key } => out.long(key.cast_signed()),
            RequestBody::Acknowledge(said) => said.encode(out),
            RequestBody::Ping | RequestBody::CloseSession | RequestBody::Unknown { .. } => {}
        }
    }

    fn decode(opcode: i32, input: &mut Reader<'_>) -> Result<RequestBody, DecodeError> {
        Ok(match opcode {
            opcode::CREATE => RequestBody::Create(Create::decode(input)?),
            opcode::CREATE2 => RequestBody::Create2(Create::decode(input)?),
            opcode::CREATE_CONTAINER => RequestBody::CreateContainer(Create::decode(input)?),
            opcode::DELETE => RequestBody::Delete {
                path: input.string()?,
                version: input.int()?,
            },
            opcode::EXISTS => RequestBody::Exists {
                path: input.string()?,
                watch: input.bool()?,
            },
            opcode::GET_DATA => RequestBody::GetData {
                path: input.string()?,
                watch: input.bool()?,
            },
            opcode::SET_DATA => RequestBody::SetData {
                path: input.string()?,
                data: input.buffer()?,
                version: input.int()?,
            },
            opcode::GET_ACL => RequestBody::GetAcl {
                path: input.string()?,
            },
            opcode::SET_ACL => RequestBody::SetAcl {
                path: input.string()?,
                acl: input.acl()?,
                version: input.int()?,
            },
            opcode::GET_CHILDREN => RequestBody::GetChildren {
                path: input.string()?,
                watch: input.bool()?,
            },
            opcode::GET_CHILDREN2 => RequestBody::GetChildren2 {
                path: input.string()?,
                watch: input.bool()?,
            },
            opcode::SYNC => RequestBody::Sync {
                path: input.string()?,
            },
            opcode::PING => RequestBody::Ping,
            opcode::MULTI => RequestBody::Multi(multi::decode_operations(input)?),
            opcode::SET_WATCHES => RequestBody::SetWatches(SetWatches::decode(input)?),
            opcode::SET_WATCHES2 => RequestBody::SetWatches2 {
                watches: SetWatches::decode(input)?,
                persistent: input.strings()?,
                recursive: input.strings()?,
            },
            opcode::AUTH => RequestBody::Auth {
                kind: input.int()?,
                scheme: input.string()?,
                auth: input.buffer()?,
            },
            opcode::CLOSE_SESSION => RequestBody::CloseSession,
            opcode::RECONFIG => RequestBody::Reconfig(Reconfig::decode(input)?),
            opcode::CALL => RequestBody::Call(CallRequest::decode(input)?),
            opcode::CANCEL_CALL => RequestBody::CancelCall {
                key: input.unsigned_long()?,
            },
            opcode::ACKNOWLEDGE => RequestBody::Acknowledge(Acknowledgement::decode(input)?),
            opcode => RequestBody::Unknown { opcode },
        })
    }
}

impl Record for Create {
    fn encode(&self, out: &mut Writer<'_>) {
        out.string(&self.path);
        out.buffer(&self.data);
        out.acl(&self.acl);
        out.int(self.flags);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Create, DecodeError> {
        Ok(Create {
            path: input.string()?,
            data: input.buffer()?,
            acl: input.acl()?,
            flags: input.int()?,
        })
    }
}

impl Record for SetWatches {
    fn encode(&self, out: &mut Writer<'_>) {
        out.long(self.since);
        out.strings(&self.data);
        out.strings(&self.exist);
        out.strings(&self.child);
    }

    fn decode(input: &mut Reader<'_>) -> Result<SetWatches, DecodeError> {
        Ok(SetWatches {
            since: input.long()?,
            data: input.strings()?,
            exist: input.strings()?,
            child: input.strings()?,
        })
    }
}

impl Record for Reconfig {
    fn encode(&self, out: &mut Writer<'_>) {
        out.string(&self.joining);
        out.string(&self.leaving);
        out.string(&self.new_members);
        out.long(self.from_config);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Reconfig, DecodeError> {
        Ok(Reconfig {
            joining: input.string()?,
            leaving: input.string()?,
            new_members: input.string()?,
            from_config: input.long()?,
        })
    }
}
