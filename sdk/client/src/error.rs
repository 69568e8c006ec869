//! What can go wrong, said so that one knows what to do next.

use std::io;
use std::time::Duration;

use quorate_model::path::PathError;
use quorate_wire::ErrorCode;
use thiserror::Error;

use crate::call::CallError;

/// Why something was not done, or is not known to have been done.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no server at {servers}: is it running? start one with `quorate serve`")]
    NoServer {
        /// As they were given.
        servers: String,
    },
    /// Somebody listens there, but there is no session.
    #[error("cannot open a session at {server}: {reason}")]
    NoSession {
        /// Which of the servers.
        server: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The server does not take what was to prove who the client is.
    #[error(
        "the server does not take the proof of scheme {scheme:?}: digest is one, with user:password"
    )]
    ProofRefused {
        /// The proof's scheme.
        scheme: String,
    },
    /// The list of servers makes no sense.
    #[error("{servers:?} is no list of servers: {reason}, such as 127.0.0.1:2181")]
    BadServers {
        /// As they were given.
        servers: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The answer did not come before the connection went. The client reconnects by itself.
    #[error(
        "the connection was lost before the answer came: nobody knows whether it was done, so look before repeating it"
    )]
    ConnectionLost,
    /// The answer did not come in time.
    #[error(
        "no answer within {} s: nobody knows whether it was done, so look before repeating it",
        .0.as_secs_f64()
    )]
    NoAnswer(Duration),
    /// The session has ended, and with it its ephemeral znodes and locks.
    #[error(
        "the session has expired: its ephemeral znodes, locks and parked calls are gone; connect again for a new one"
    )]
    SessionExpired,
    /// The session goes on over another connection.
    #[error("the session goes on over another connection: somebody else uses its credentials")]
    SessionMoved,
    /// The client was closed.
    #[error("this client was closed")]
    Closed,
    /// The path is none.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The server refused a znode operation.
    #[error("{}", refused(path, *code))]
    Znode {
        /// Which znode.
        path: String,
        /// Why.
        code: ErrorCode,
    },
    /// The server refused an operation on znodes, or a multi, and says why: a recipe's guard does.
    #[error("{reason}")]
    Denied {
        /// For programs: [`ErrorCode::NoAuth`] if it was a guard.
        code: ErrorCode,
        /// For people: whose guard, and in its own words.
        reason: String,
    },
    /// A znode cannot be created: its parent is missing.
    #[error("{path} cannot be created: its parent is missing")]
    NoParent {
        /// Which znode.
        path: String,
    },
    /// One part of a multi failed, so none was done.
    #[error("part {index} of the multi failed, so nothing of it was done: {}", refused(path, *code))]
    Multi {
        /// Which part, from 0.
        index: usize,
        /// Its znode.
        path: String,
        /// Why.
        code: ErrorCode,
    },
    /// The request does not fit a frame.
    #[error("the request has {bytes} bytes, and a server takes {limit}: send less at a time")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// A call ended without a result.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The server does not know calls.
    #[error("the server knows no calls: it is ZooKeeper, and recipes need Quorate")]
    NoCalls,
    /// What came makes no sense.
    #[error("the server does not keep to the protocol: {0}")]
    Protocol(String),
    /// The HTTP port gives no answer that makes sense.
    #[error("no HTTP answer from {server}: {reason}")]
    NoHttp {
        /// Where.
        server: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Administration was refused.
    #[error("{message}")]
    Refused {
        /// For programs, such as `no-recipe`.
        code: String,
        /// For people.
        message: String,
    },
}

impl ClientError {
    /// Whether a znode was not there, or the parent of one to create.
    pub fn is_no_node(&self) -> bool {
        match self {
            ClientError::NoParent { .. } => true,
            ClientError::Znode { code, .. } => *code == ErrorCode::NoNode,
            _ => false,
        }
    }

    /// Whether a znode was there already.
    pub fn is_node_exists(&self) -> bool {
        matches!(self, ClientError::Znode { code, .. } if *code == ErrorCode::NodeExists)
    }

    /// What a failure of the socket before there is a session means.
    pub(crate) fn of_socket(servers: &str, server: &str, error: &io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ClientError::NoServer {
                servers: servers.to_owned(),
            },
            _ => ClientError::NoSession {
                server: server.to_owned(),
                reason: error.to_string(),
            },
        }
    }
}

/// A refusal for people.
fn refused(path: &str, code: ErrorCode) -> String {
    match code {
        ErrorCode::NoNode => format!("there is no znode {path}"),
        ErrorCode::NodeExists => format!("{path} exists already"),
        ErrorCode::BadVersion => {
            format!("{path} was changed meanwhile: its version is another; read it again")
        }
        ErrorCode::NotEmpty => format!("{path} has children: delete them first"),
        ErrorCode::NoChildrenForEphemerals => {
            format!("{path} cannot be created: an ephemeral znode has no children")
        }
        ErrorCode::NoAuth => format!(
            "{path}: the server does not allow it: by an access control list, or because only the recipe writes below its sealed mount"
        ),
        ErrorCode::InvalidAcl => {
            format!("{path}: the access control list is empty or has an unknown scheme")
        }
        ErrorCode::BadArguments => {
            format!("{path}: the server says that the path or the flags are wrong")
        }
        code => format!("{path}: the server says {code}"),
    }
}
