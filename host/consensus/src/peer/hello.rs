//! The first frame of a connection, and its answer: who speaks to whom, about what, in which version.

use std::time::Duration;

use quorate_model::write_set::FORMAT_VERSION;
use tokio::time::timeout;

use super::acquaintances::DirectoryId;
use super::frame::Link;
use super::transport::Socket;
use crate::command::MAX_ENTRY_BYTES;

/// The version of everything that peers say to each other. It goes up whenever a message's form
/// changes, openraft's own included. Peers of two versions of it cannot be mixed, nor can two of the
/// entries' form ([`FORMAT_VERSION`]); two releases that have both in common can (rule S7).
pub(crate) const PROTOCOL_VERSION: u32 = 6;

/// A connection that has not said hello, or was not answered, within this time is closed.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(2);

const MAGIC: [u8; 8] = *b"quorpeer";

/// Bytes of a hello of this version: magic, version, the version of the entries' form, from, to, the sender's data
/// ([`DirectoryId`]), purpose; integers big-endian.
const HELLO_BYTES: usize = 8 + 4 + 4 + 8 + 8 + 8 + 1;

/// The largest hello of any version, and the largest answer to one.
const MAX_HELLO_BYTES: usize = 512;

/// Behind it stands by which data the welcoming server is known.
const WELCOME: u8 = 0;
const REFUSED: u8 = 1;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Log,
    Control,
    Snapshot,
    Server,
}

impl Purpose {
    /// The largest frame of such a connection, in bytes.
    pub(crate) fn max_frame_bytes(self) -> usize {
        match self {
            // One entry of the largest size, or as many as are read from the log at a time.
            Purpose::Log => MAX_ENTRY_BYTES + (4 << 20),
            Purpose::Control => 64 << 10,
            Purpose::Snapshot => super::transfer::PIECE_BYTES + 1,
            Purpose::Server => super::stream::MAX_FRAME_BYTES,
        }
    }

    fn number(self) -> u8 {
        match self {
            Purpose::Log => 1,
            Purpose::Control => 2,
            Purpose::Snapshot => 3,
            Purpose::Server => 4,
        }
    }

    fn parse(number: u8) -> Option<Purpose> {
        let all = [
            Purpose::Log,
            Purpose::Control,
            Purpose::Snapshot,
            Purpose::Server,
        ];
        all.into_iter().find(|purpose| purpose.number() == number)
    }
}

/// Who speaks to whom, about what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The sender's data.
    pub(crate) directory: DirectoryId,
    pub(crate) purpose: Purpose,
}

impl Hello {
    fn encode(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(PROTOCOL_VERSION.to_be_bytes());
        bytes.extend(FORMAT_VERSION.to_be_bytes());
        bytes.extend(self.from.to_be_bytes());
        bytes.extend(self.to.to_be_bytes());
        bytes.extend(self.directory.0.to_be_bytes());
        bytes.push(self.purpose.number());
        bytes
    }

    /// Reads a hello to server `me`; an error is what the peer is told. The version is looked at
    /// before the rest, which another version may have laid out differently.
    fn decode(bytes: &[u8], me: u64) -> Result<Hello, String> {
        let Some(rest) = bytes.strip_prefix(&MAGIC) else {
            return Err("this is the peer port of a Quorate server, and that was no hello".into());
        };
        let Some((version, rest)) = rest.split_first_chunk::<4>() else {
            return Err("the hello is too short".into());
        };
        let version = u32::from_be_bytes(*version);
        if version != PROTOCOL_VERSION {
            return Err(format!(
                "server {me} speaks version {PROTOCOL_VERSION} of the peer protocol, not {version}"
            ));
        }
        let parsed = rest.split_first_chunk::<4>().and_then(|(format, rest)| {
            let (from, rest) = rest.split_first_chunk::<8>()?;
            let (to, rest) = rest.split_first_chunk::<8>()?;
            let (directory, rest) = rest.split_first_chunk::<8>()?;
            let [purpose] = rest else { return None };
            let ids = [from, to, directory].map(|id| u64::from_be_bytes(*id));
            Some((u32::from_be_bytes(*format), ids, *purpose))
        });
        let Some((format, [from, to, directory], purpose)) = parsed else {
            return Err(format!(
                "a hello has {HELLO_BYTES} bytes, not {}",
                bytes.len()
            ));
        };
        if format != FORMAT_VERSION {
            return Err(format!(
                "server {me} reads and writes version {FORMAT_VERSION} of the entries' form, not {format}"
            ));
        }
        if to != me {
            return Err(format!(
                "this is server {me}, not {to}: the address of one of them is wrong"
            ));
        }
        if from == me {
            return Err(format!("server {me} is reached at this address by itself"));
        }
        let purpose = Purpose::parse(purpose)
            .ok_or_else(|| format!("server {me} knows no purpose {purpose}"))?;
        Ok(Hello {
            from,
            to,
            directory: DirectoryId(directory),
            purpose,
        })
    }
}

/// Why a dialed connection did not come to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetError {
    #[error("it was refused: {0}")]
    Refused(String),
    #[error("it ended before it was welcomed: {0}")]
    Lost(String),
    #[error("it was not answered within {HANDSHAKE:?}")]
    Silent,
}

/// Says hello on a dialed socket. Gives by which data the one that answers is known.
pub(crate) async fn greet(socket: Socket, hello: Hello) -> Result<(Link, DirectoryId), GreetError> {
    let mut link = Link::new(socket, MAX_HELLO_BYTES);
    let greeting = async {
        let sent = link.writer.send(&hello.encode()).await;
        sent.map_err(|error| GreetError::Lost(error.to_string()))?;
        match link.reader.next().await {
            None => Err(GreetError::Lost("it was closed".into())),
            Some(Err(error)) => Err(GreetError::Lost(error.to_string())),
            Some(Ok(answer)) => match answer.split_first() {
                Some((&WELCOME, directory)) if directory.len() == 8 => {
                    let mut bytes = [0; 8];
                    bytes.copy_from_slice(directory);
                    Ok(DirectoryId(u64::from_be_bytes(bytes)))
                }
                Some((&REFUSED, reason)) => Err(GreetError::Refused(
                    String::from_utf8_lossy(reason).into_owned(),
                )),
                _ => Err(GreetError::Refused(
                    "the answer is of no Quorate server".into(),
                )),
            },
        }
    };
    let directory = timeout(HANDSHAKE, greeting)
        .await
        .unwrap_or(Err(GreetError::Silent))?;
    link.set_max(hello.purpose.max_frame_bytes());
    Ok((link, directory))
}

/// An accepted connection that has said a good hello, and waits for its answer.
pub(crate) struct Caller {
    pub(crate) hello: Hello,
    link: Link,
}

impl Caller {
    /// Reads the hello on an accepted socket. `None` when there was no good one, which the peer was told.
    pub(crate) async fn hear(socket: Socket, me: u64) -> Option<Caller> {
        let mut link = Link::new(socket, MAX_HELLO_BYTES);
        let heard = async {
            let bytes = link.reader.next().await?.ok()?;
            match Hello::decode(&bytes, me) {
                Ok(hello) => Some(hello),
                Err(reason) => {
                    tracing::warn!("a connection to the peer port is refused: {reason}");
                    // Whoever that was may be gone already.
                    let _ = link.writer.send(&refusal(&reason)).await;
                    None
                }
            }
        };
        let hello = timeout(HANDSHAKE, heard).await.ok()??;
        Some(Caller { hello, link })
    }

    /// Welcomes the peer to a server with these data; `None` when it is gone.
    pub(crate) async fn welcome(mut self, directory: DirectoryId) -> Option<Link> {
        let mut answer = vec![WELCOME];
        answer.extend(directory.0.to_be_bytes());
        let sent = timeout(HANDSHAKE, self.link.writer.send(&answer)).await;
        sent.ok()?.ok()?;
        self.link.set_max(self.hello.purpose.max_frame_bytes());
        Some(self.link)
    }

    /// Turns the peer away.
    pub(crate) async fn refuse(mut self, reason: &str) {
        let _ = timeout(HANDSHAKE, self.link.writer.send(&refusal(reason))).await;
    }
}

fn refusal(reason: &str) -> Vec<u8> {
    let mut bytes = vec![REFUSED];
    bytes.extend(reason.bytes().take(MAX_HELLO_BYTES - 1));
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hello_is_read_back() {
        for number in 0..=u8::MAX {
            let Some(purpose) = Purpose::parse(number) else {
                continue;
            };
            let hello = Hello {
                from: 3,
                to: 9,
                directory: DirectoryId(7),
                purpose,
            };
            assert_eq!(Hello::decode(&hello.encode(), 9), Ok(hello));
            assert_eq!(hello.encode().len(), HELLO_BYTES);
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let hello = Hello {
            from: 3,
            to: 9,
            directory: DirectoryId(7),
            purpose: Purpose::Log,
        };
        let reason = |bytes: &[u8], me| Hello::decode(bytes, me).expect_err("refused");
        assert!(reason(&hello.encode(), 8).contains("this is server 8, not 9"));
        assert!(reason(b"GET / HTTP/1.1", 9).contains("no hello"));
        let mut other = hello.encode();
        other[11] = 7;
        assert!(reason(&other, 9).contains("of the peer protocol, not 7"));
        let mut other = hello.encode();
        other[15] = 77;
        assert!(reason(&other, 9).contains("of the entries' form, not 77"));
        let mut other = hello.encode();
        other[HELLO_BYTES - 1] = 99;
        assert!(reason(&other, 9).contains("no purpose 99"));
        let itself = Hello { from: 9, ..hello };
        assert!(reason(&itself.encode(), 9).contains("by itself"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_hello_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), magic: bool) {
            let bytes = if magic { [&MAGIC[..], &bytes].concat() } else { bytes };
            if let Ok(hello) = Hello::decode(&bytes, 1) {
                prop_assert_eq!(hello.to, 1);
            }
        }
    }
}
