//! The first frame of each side: a session is opened, or goes on over this connection.

use bytes::{Bytes, BytesMut};

use crate::frame;
use crate::jute::{DecodeError, Reader, Record, Writer};

/// What a client says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Always 0.
    pub protocol_version: i32,
    /// The highest zxid that the client has seen: a server that is behind it does not take it.
    pub last_zxid_seen: i64,
    /// The timeout that it wishes, in milliseconds; the server brings it within its bounds.
    pub timeout_ms: i32,
    /// The session to go on with; 0 to open one.
    pub session: i64,
    /// That session's password: 16 bytes; anything to open one.
    pub password: Bytes,
    /// Whether a server cut off from the others will do. None for a client older than ZooKeeper 3.4,
    /// which sends no such byte and wants none in the answer.
    pub read_only: Option<bool>,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectResponse {
    /// Always 0.
    pub protocol_version: i32,
    /// The timeout that holds, in milliseconds; 0 says that the session has expired.
    pub timeout_ms: i32,
    /// The session; 0 with an expired one.
    pub session: i64,
    /// Its password: 16 bytes, zero with an expired one.
    pub password: Bytes,
    /// Whether this server is cut off. None exactly when the request had none.
    pub read_only: Option<bool>,
}

impl ConnectResponse {
    /// The session that `request` asked for has expired, or its password is wrong: the server closes after this.
    pub fn expired(request: &ConnectRequest) -> ConnectResponse {
        ConnectResponse {
            protocol_version: 0,
            timeout_ms: 0,
            session: 0,
            password: Bytes::from_static(&[0; 16]),
            read_only: request.read_only.map(|_| false),
        }
    }

    /// Appends it as a frame.
    pub fn encode_frame(&self, out: &mut BytesMut) {
        frame::encode(out, |out| self.encode(out));
    }
}

impl ConnectRequest {
    /// Appends it as a frame.
    pub fn encode_frame(&self, out: &mut BytesMut) {
        frame::encode(out, |out| self.encode(out));
    }
}

impl Record for ConnectRequest {
    fn encode(&self, out: &mut Writer<'_>) {
        out.int(self.protocol_version);
        out.long(self.last_zxid_seen);
        out.int(self.timeout_ms);
        out.long(self.session);
        out.buffer(&self.password);
        encode_read_only(self.read_only, out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<ConnectRequest, DecodeError> {
        Ok(ConnectRequest {
            protocol_version: input.int()?,
            last_zxid_seen: input.long()?,
            timeout_ms: input.int()?,
            session: input.long()?,
            password: input.buffer()?,
            read_only: decode_read_only(input)?,
        })
    }
}

impl Record for ConnectResponse {
    fn encode(&self, out: &mut Writer<'_>) {
        out.int(self.protocol_version);
        out.int(self.timeout_ms);
        out.long(self.session);
        out.buffer(&self.password);
        encode_read_only(self.read_only, out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<ConnectResponse, DecodeError> {
        Ok(ConnectResponse {
            protocol_version: input.int()?,
            timeout_ms: input.int()?,
            session: input.long()?,
            password: input.buffer()?,
            read_only: decode_read_only(input)?,
        })
    }
}

fn encode_read_only(read_only: Option<bool>, out: &mut Writer<'_>) {
    if let Some(read_only) = read_only {
        out.bool(read_only);
    }
}

fn decode_read_only(input: &mut Reader<'_>) -> Result<Option<bool>, DecodeError> {
    match input.left() {
        0 => Ok(None),
        _ => input.bool().map(Some),
    }
}
