//! What waits for the leader in a connection's name: its handshake and its writes.

use std::sync::Arc;

use bytes::BytesMut;
use quorate_model::id::{SessionId, Zxid};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::request::Password;
use quorate_tree::State;
use quorate_wire::{ConnectRequest, ConnectResponse};

use super::{Connection, Phase};
use crate::receive::Size;
use crate::route::Waiter;

/// The handshake's request, on its way to the leader.
pub(super) struct Handshake {
    pub(super) connection: Arc<Connection>,
    pub(super) request: ConnectRequest,
    /// When its server sent it on, in that server's monotonic milliseconds.
    pub(super) asked_ms: u64,
}

impl Waiter for Handshake {
    fn alive(&self) -> bool {
        !self.connection.inner.lock().is_closed()
    }

    fn settle(self: Box<Self>, _state: &State, zxid: Zxid, outcome: &Outcome) {
        let connection = &self.connection;
        let mut inner = connection.inner.lock();
        if inner.is_closed() {
            return;
        }
        match outcome {
            Outcome::Session {
                session,
                password,
                timeout_ms,
            } => {
                inner.session = Some(*session);
                let since = (self.asked_ms, zxid.epoch());
                let lease =
                    (connection.silence).lease(*session, connection.number(), *timeout_ms, since);
                connection.lease.get_or_init(|| lease);
                inner.phase = Phase::Open;
                let out = &mut inner.output;
                welcome(&self.request, *session, password, *timeout_ms, false, out);
                connection
                    .watches
                    .own_session(*session, connection.number());
                connection.metrics.handshakes.inc();
                inner.frames += 1;
                connection.wake.notify_one();
            }
            Outcome::Refused(Refusal::SessionExpired | Refusal::NoAuth(_)) => {
                connection.refuse_expired_locked(&self.request, &mut inner);
            }
            _ => connection.close_locked(&mut inner, "its handshake was refused"),
        }
    }

    fn abandon(self: Box<Self>, reason: &str) {
        tracing::debug!(reason, "a handshake was abandoned");
        self.connection.close("its handshake was abandoned");
    }
}

/// Appends the answer to a handshake that has opened a session.
pub(super) fn welcome(
    request: &ConnectRequest,
    session: SessionId,
    password: &Password,
    timeout_ms: u32,
    read_only: bool,
    out: &mut BytesMut,
) {
    let answer = ConnectResponse {
        protocol_version: 0,
        timeout_ms: timeout_ms.cast_signed(),
        session: session.0.cast_signed(),
        password: password.0.to_vec().into(),
        // To a client that knows of read-only servers.
        read_only: request.read_only.map(|_| read_only),
    };
    answer.encode_frame(out);
}

/// The request that makes a connection's local session a global one, on its way to the leader.
pub(super) struct Upgrade(pub(super) Arc<Connection>);

impl Waiter for Upgrade {
    /// The session is local no more, so it has to become a global one, or it would be neither.
    fn alive(&self) -> bool {
        true
    }

    fn settle(self: Box<Self>, _state: &State, _zxid: Zxid, outcome: &Outcome) {
        if !matches!(outcome, Outcome::Session { .. }) {
            self.0.close("its session could not be made global");
        }
    }

    fn abandon(self: Box<Self>, reason: &str) {
        tracing::debug!(reason, "the upgrade of a session was abandoned");
        self.0.close("the upgrade of its session was abandoned");
    }
}

/// A write, on its way to the leader.
pub(super) struct Write {
    pub(super) connection: Arc<Connection>,
    pub(super) number: u64,
    /// Held as long as the request is.
    pub(super) _size: Size,
}

impl Waiter for Write {
    fn alive(&self) -> bool {
        !self.connection.inner.lock().is_closed()
    }

    fn precede(&self, state: &State) {
        self.connection.precede(state);
    }

    fn settle(self: Box<Self>, state: &State, zxid: Zxid, outcome: &Outcome) {
        self.connection.settle(self.number, state, zxid, outcome);
    }

    /// Nobody knows what became of it, and so the client is told: by ConnectionLoss.
    fn abandon(self: Box<Self>, reason: &str) {
        tracing::debug!(
            reason,
            connection = self.connection.number(),
            "a request was abandoned"
        );
        self.connection.close("a request of it was abandoned");
    }
}
