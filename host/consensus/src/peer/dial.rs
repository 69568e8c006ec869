//! Dialing a peer: a socket, a hello, within a time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use quorate_model::id::ServerId;
use tokio::time::timeout;

use super::acquaintances::{Acquaintances, DirectoryId};
use super::frame::Link;
use super::hello::{GreetError, HANDSHAKE, Hello, Purpose, greet};
use super::transport::Transport;

/// A peer that does not take a connection within this time is not waited for. Short, as a fresh attempt
/// after a partition has healed is quicker than what the kernel repeats.
const DIAL: Duration = Duration::from_secs(1);

/// A server cannot be connected to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No member has this number.
    #[error("server {} is no member of the ensemble", .0.0)]
    UnknownServer(ServerId),
    /// Its address takes no connection.
    #[error("server {} at {address} cannot be connected to: {source}", server.0)]
    Dial {
        /// Which server.
        server: ServerId,
        /// Its address, `host:port`.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The connection was made and ended before the server said anything.
    #[error("server {} at {address} ended the connection at once: {reason}", server.0)]
    Lost {
        /// Which server.
        server: ServerId,
        /// Its address, `host:port`.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// The server is there, and is not the one that is known under its id.
    #[error("server {} at {address} is not taken for it: {reason}", server.0)]
    Stranger {
        /// Which server.
        server: ServerId,
        /// Its address, `host:port`.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The server is there and says no: another version, another server's address, not serving yet.
    #[error("server {} at {address} refuses the connection: {reason}", server.0)]
    Refused {
        /// Which server.
        server: ServerId,
        /// Its address, `host:port`.
        address: String,
        /// What it said.
        reason: String,
    },
}

impl ConnectError {
    /// Whether the host answered that no process listens there.
    pub(crate) fn nobody_listens(&self) -> bool {
        matches!(self, ConnectError::Dial { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// Whom to dial, how, and about what.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) address: String,
    pub(crate) hello: Hello,
    pub(crate) acquaintances: Arc<Acquaintances>,
}

impl Dialer {
    pub(crate) async fn dial(&self) -> Result<Link, ConnectError> {
        Ok(self.greet().await?.0)
    }

    /// Only asks who is there; gives by which data it is known.
    pub(crate) async fn meet(&self) -> Result<DirectoryId, ConnectError> {
        Ok(self.greet().await?.1)
    }

    async fn greet(&self) -> Result<(Link, DirectoryId), ConnectError> {
        let (server, address) = (ServerId(self.hello.to), self.address.clone());
        let dialed = timeout(DIAL, self.transport.dial(&self.address)).await;
        let dialed = dialed.unwrap_or_else(|_| {
            let error = format!("it did not answer within {DIAL:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, error))
        });
        let socket = match dialed {
            Ok(socket) => socket,
            Err(source) => {
                return Err(ConnectError::Dial {
                    server,
                    address,
                    source,
                });
            }
        };
        let (link, directory) = match greet(socket, self.hello).await {
            Ok(greeted) => greeted,
            Err(GreetError::Refused(reason)) => {
                return Err(ConnectError::Refused {
                    server,
                    address,
                    reason,
                });
            }
            Err(GreetError::Lost(reason)) => {
                return Err(ConnectError::Lost {
                    server,
                    address,
                    reason,
                });
            }
            Err(GreetError::Silent) => {
                let reason = format!("it said nothing within {HANDSHAKE:?}");
                return Err(ConnectError::Dial {
                    server,
                    address,
                    source: io::Error::new(io::ErrorKind::TimedOut, reason),
                });
            }
        };
        if let Err(reason) = self.acquaintances.meet(self.hello.to, directory) {
            return Err(ConnectError::Stranger {
                server,
                address,
                reason,
            });
        }
        self.acquaintances.reached(self.hello.to);
        Ok((link, directory))
    }

    /// The same peer, about something else.
    pub(crate) fn about(&self, purpose: Purpose) -> Dialer {
        let hello = Hello {
            purpose,
            ..self.hello
        };
        Dialer {
            hello,
            ..self.clone()
        }
    }
}
