//! Reaching a server, and the handshake.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_wire::{
    ConnectRequest, ConnectResponse, MAX_FRAME_BYTES, Reader, Record, ReplyHeader, Request,
    RequestBody, frame, opcode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::Proof;
use crate::error::ClientError;

/// ZooKeeper's port, where a list of servers does not say another.
const DEFAULT_PORT: u16 = 2181;

/// How much a connection reads at a time, at first.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// The servers to try, as `host:port`.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    text: String,
    list: Vec<String>,
    /// Which one is tried first, so that a reconnect begins behind the one that was lost.
    next: usize,
}

/// What the client asks for in the handshake.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) last_zxid_seen: i64,
    pub(crate) timeout_ms: i32,
    /// 0 for a new session.
    pub(crate) session: i64,
    pub(crate) password: Bytes,
    /// What each connection proves first.
    pub(crate) proofs: Vec<Proof>,
}

/// An open connection, the handshake done.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    /// What has arrived behind the handshake.
    pub(crate) input: BytesMut,
    pub(crate) session: i64,
    pub(crate) password: Bytes,
    pub(crate) timeout: Duration,
}

impl Servers {
    /// Reads `host:port,host:port`.
    pub(crate) fn parse(text: &str) -> Result<Servers, ClientError> {
        let wrong = |reason| ClientError::BadServers {
            servers: text.to_owned(),
            reason,
        };
        if text.contains('/') {
            return Err(wrong("it has a path, which is not supported"));
        }
        let list = text.split(',').map(str::trim).map(|server| {
            // An IPv6 address has colons of its own, and a port only behind its bracket.
            let host_has_colons = server.starts_with('[');
            let after_host = server.rsplit(']').next().unwrap_or(server);
            match after_host.rsplit_once(':') {
                _ if server.is_empty() => Err(wrong("it names no host")),
                Some(("", _)) if !host_has_colons => Err(wrong("it names no host")),
                Some((_, port)) if port.parse::<u16>().is_err() => {
                    Err(wrong("a port is a number up to 65535"))
                }
                Some(_) => Ok(server.to_owned()),
                None => Ok(format!("{server}:{DEFAULT_PORT}")),
            }
        });
        Ok(Servers {
            text: text.to_owned(),
            list: list.collect::<Result<_, _>>()?,
            next: 0,
        })
    }

    /// Tries each server once, the first with a session wins. `patience` is for each.
    ///
    /// # Errors
    /// [`ClientError::SessionExpired`] as soon as a server says so; else the most telling of the failures.
    pub(crate) async fn connect(
        &mut self,
        wish: &Wish,
        patience: Duration,
    ) -> Result<Connection, ClientError> {
        let mut failure = ClientError::NoServer {
            servers: self.text.clone(),
        };
        for _ in 0..self.list.len() {
            let server = &self.list[self.next % self.list.len()];
            self.next += 1;
            match timeout(patience, dial(&self.text, server, wish)).await {
                Ok(Ok(connection)) => return Ok(connection),
                // Another server would say the same.
                Ok(Err(
                    error @ (ClientError::SessionExpired | ClientError::ProofRefused { .. }),
                )) => return Err(error),
                Ok(Err(ClientError::NoServer { .. })) => {}
                Ok(Err(error)) => failure = error,
                Err(_) => {
                    failure = ClientError::NoSession {
                        server: server.clone(),
                        reason: format!(
                            "no answer within {} s; does it speak ZooKeeper's protocol there?",
                            patience.as_secs_f64()
                        ),
                    }
                }
            }
        }
        Err(failure)
    }
}

/// One server. The caller sets the deadline.
async fn dial(servers: &str, server: &str, wish: &Wish) -> Result<Connection, ClientError> {
    let of_socket = |error| ClientError::of_socket(servers, server, &error);
    let refuse = |reason: String| ClientError::NoSession {
        server: server.to_owned(),
        reason,
    };
    let mut stream = TcpStream::connect(server).await.map_err(of_socket)?;
    // Requests are small and each is waited for.
    stream.set_nodelay(true).map_err(of_socket)?;

    let mut output = BytesMut::new();
    ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: wish.last_zxid_seen,
        timeout_ms: wish.timeout_ms,
        session: wish.session,
        password: wish.password.clone(),
        read_only: Some(false),
    }
    .encode_frame(&mut output);
    stream.write_all(&output).await.map_err(of_socket)?;

    let mut input = BytesMut::with_capacity(READ_BUFFER_BYTES);
    let foreign = |error| refuse(format!("it does not speak ZooKeeper's protocol ({error})"));
    let first = match read_frame(&mut stream, &mut input).await {
        Ok(frame) => frame,
        Err(NoFrame::Closed) => {
            return Err(refuse(
                "it closed the connection; is it starting, or without a quorum? try again".into(),
            ));
        }
        Err(NoFrame::Socket(error)) => return Err(of_socket(error)),
        Err(NoFrame::Foreign(error)) => return Err(foreign(error)),
    };
    let response = ConnectResponse::decode(&mut Reader::new(&first))
        .map_err(|error| foreign(error.to_string()))?;
    let timeout = match u64::try_from(response.timeout_ms) {
        Ok(timeout_ms) if timeout_ms > 0 => Duration::from_millis(timeout_ms),
        _ => return Err(ClientError::SessionExpired),
    };
    for proof in &wish.proofs {
        let body = RequestBody::Auth {
            kind: 0,
            scheme: proof.scheme.clone(),
            auth: proof.secret.clone(),
        };
        let xid = opcode::AUTH_XID;
        output.clear();
        Request { xid, body }.encode_frame(&mut output);
        stream.write_all(&output).await.map_err(of_socket)?;
        // Nothing else has been asked on this connection. A server that refuses says so, or only closes.
        let answer = read_frame(&mut stream, &mut input).await;
        let header = answer.ok().and_then(|frame| {
            let header = ReplyHeader::decode(&mut Reader::new(&frame)).ok()?;
            (header.xid == opcode::AUTH_XID && header.error == 0).then_some(header)
        });
        if header.is_none() {
            return Err(ClientError::ProofRefused {
                scheme: proof.scheme.clone(),
            });
        }
    }
    Ok(Connection {
        stream,
        input,
        session: response.session,
        password: response.password,
        timeout,
    })
}

/// Why there is no frame.
enum NoFrame {
    Closed,
    Socket(std::io::Error),
    /// What came is none, and why.
    Foreign(String),
}

async fn read_frame(stream: &mut TcpStream, input: &mut BytesMut) -> Result<Bytes, NoFrame> {
    loop {
        match frame::decode(input, MAX_FRAME_BYTES) {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => {}
            Err(error) => return Err(NoFrame::Foreign(error.to_string())),
        }
        match stream.read_buf(input).await {
            Ok(0) => return Err(NoFrame::Closed),
            Ok(_) => {}
            Err(error) => return Err(NoFrame::Socket(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_hosts_with_ports() {
        let parsed = |text| Servers::parse(text).unwrap().list;
        assert_eq!(parsed("localhost"), ["localhost:2181"]);
        assert_eq!(parsed("a:1, b:2,c"), ["a:1", "b:2", "c:2181"]);
        assert_eq!(parsed("[::1]:5,[::1]"), ["[::1]:5", "[::1]:2181"]);
        for bad in ["", ":2181", "a:", "a:b", "a:70000", "a,,b", "a:1/path"] {
            assert!(Servers::parse(bad).is_err(), "{bad}");
        }
    }
}
