//! ZooKeeper's jute protocol: bytes to values and back, for servers and for clients.
//!
//! A connection begins with a four-letter word or with a handshake; after it, each frame of the
//! client is a [`Request`] and each frame of the server a [`Response`] or a [`Notification`].
//!
//! ```
//! use bytes::BytesMut;
//! use quorate_wire::{MAX_FRAME_BYTES, Request, RequestBody, frame};
//!
//! let mut bytes = BytesMut::new();
//! let request = Request { xid: 1, body: RequestBody::Sync { path: "/a".into() } };
//! request.encode_frame(&mut bytes);
//! let frame = frame::decode(&mut bytes, MAX_FRAME_BYTES).unwrap().unwrap();
//! assert_eq!(Request::decode(&frame).unwrap(), request);
//! ```
//!
//! Nothing here does I/O. No bytes from outside panic, and none make more memory be taken than a
//! small multiple of the frame they came in.

pub mod frame;
pub mod jute;

pub mod handshake;
pub mod opcode;
pub mod request;

pub mod call;
pub mod multi;
pub mod response;
pub mod stat;

pub mod error;

pub use call::{Acknowledgement, CallRequest, CallResponse, CallStatus};
pub use error::ErrorCode;
pub use frame::MAX_FRAME_BYTES;
pub use handshake::{ConnectRequest, ConnectResponse};
pub use jute::{DecodeError, Reader, Record, Writer};
pub use multi::{MultiOperation, MultiResult};
pub use request::{Create, CreateMode, Reconfig, Request, RequestBody, RequestError};
pub use response::{EventType, Notification, ReplyHeader, Response, ResponseBody, WatcherEvent};
pub use stat::Stat;
