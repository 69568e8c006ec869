//! Read-only: without a quorum, a server goes on answering reads to the clients that wish for that.
//!
//! As ZooKeeper's read-only mode. A client says in its handshake that a read-only server will do. Its session is
//! then this server's own: nobody else knows of it, it ends with its connection, and that ends when the
//! quorum is back, so that the client opens a real one. What it reads may be old.

use std::sync::Arc;
use std::time::Duration;

use quorate_consensus::Health;
use quorate_model::id::SessionId;
use quorate_model::request::Password;
use quorate_wire::ConnectRequest;
use tokio::sync::watch;

use crate::apply::Opened;
use crate::clock::Clock;
use crate::notify::Watches;
use crate::respond::Kind;
use crate::silence::Silence;

/// How long a server must have heard of no quorum before it is read-only, in milliseconds: as long as
/// ZooKeeper's looks for a leader. An election takes much less.
pub(crate) const NO_QUORUM_AFTER_MS: u64 = 2000;

/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Set in the ids of read-only sessions: those of others are zxids, and no epoch comes so far.
const READ_ONLY_BIT: u64 = 1 << 62;

/// Whether this server is read-only now. Never, unless somebody keeps it ([`Keeper`]).
#[derive(Debug, Default)]
pub struct ReadOnly(watch::Sender<bool>);

/// What a read-only server makes of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// A session of this server's own.
    Session(SessionId, Password),
    /// It asks for a read-only session, and those end with their connections.
    Expired,
    /// It is for other servers to answer: it wants to write, or has a session that may live elsewhere, of
    /// which nobody here can say whether it does (rule W4).
    Refused,
}

impl ReadOnly {
    /// Whether it is.
    pub fn is(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is.
    pub async fn entered(&self) {
        // It does not fail: the sender is our own.
        let _ = self.0.subscribe().wait_for(|read_only| *read_only).await;
    }

    /// From now on it is, or is not. Clients that the change concerns are disconnected, and try again.
    pub(crate) fn set(&self, read_only: bool, watches: &Watches) {
        if self.0.send_replace(read_only) == read_only {
            return;
        }
        for connection in watches.connections() {
            if read_only && connection.awaits_handshake() {
                // The leader that its handshake waits for may never answer.
                connection.close("the server is read-only now");
            } else if !read_only && connection.kind() == Kind::ReadOnly {
                connection.close("the server is read-only no more");
            }
        }
    }

    /// What a client gets that connects now.
    ///
    /// # Errors
    /// If there is no randomness for the session.
    pub(crate) fn admit(&self, request: &ConnectRequest) -> Result<Admission, getrandom::Error> {
        let session = request.session.cast_unsigned();
        Ok(match (request.read_only, session) {
            (Some(true), 0) => {
                let (mut id, mut password) = ([0; 8], [0; 16]);
                getrandom::fill(&mut id)?;
                getrandom::fill(&mut password)?;
                let id = (u64::from_le_bytes(id) % READ_ONLY_BIT) | READ_ONLY_BIT;
                Admission::Session(SessionId(id), Password(password))
            }
            (Some(true), session) if session & READ_ONLY_BIT != 0 => Admission::Expired,
            _ => Admission::Refused,
        })
    }
}

/// Keeps a server read-only as long as it has no quorum.
pub struct Keeper {
    /// What it keeps.
    pub read_only: Arc<ReadOnly>,
    /// When a quorum was last heard of.
    pub silence: Arc<Silence>,
    /// Whose clients are disconnected.
    pub watches: Arc<Watches>,
    /// When.
    pub clock: Arc<Clock>,
    /// The last epoch that opened here.
    pub opened: watch::Receiver<Opened>,
    /// This server's, as a leader.
    pub nonce: u64,
    /// Whether a leader has taken this server's requests.
    pub serves: watch::Receiver<bool>,
    /// How consensus is.
    pub health: watch::Receiver<Health>,
}

impl Keeper {
    /// Ends when consensus has failed.
    pub async fn run(self) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        loop {
            every.tick().await;
            // What a server that has failed holds may be wrong.
            if matches!(*self.health.borrow(), Health::Failed(_)) {
                self.read_only.set(false, &self.watches);
                return;
            }
            let silent = self.silence.for_ms(self.clock.monotonic_ms()) >= NO_QUORUM_AFTER_MS;
            // Once it has begun, all that was acknowledged before its start is applied here.
            let begun = *self.serves.borrow() || self.opened.borrow().nonce == self.nonce;
            if silent || (begun && self.read_only.is()) {
                self.read_only.set(silent, &self.watches);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::connect_request;

    #[test]
    fn only_clients_without_a_session_that_wish_for_it_are_admitted() {
        let read_only = ReadOnly::default();
        let admit = |session, wishes| {
            let request = ConnectRequest {
                session,
                read_only: wishes,
                ..connect_request()
            };
            read_only.admit(&request).unwrap()
        };
        let Admission::Session(session, password) = admit(0, Some(true)) else {
            panic!("it is admitted");
        };
        assert_ne!(password, Password([0; 16]));
        let again = admit(session.0.cast_signed(), Some(true));
        assert_eq!(again, Admission::Expired, "it ended with its connection");
        assert_ne!(admit(0, Some(true)), Admission::Session(session, password));
        for (session, wishes) in [(0, Some(false)), (0, None), (0x1_0000_0001, Some(true))] {
            assert_eq!(admit(session, wishes), Admission::Refused);
        }
    }
}
