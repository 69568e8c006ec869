//! Identifiers. Each is a type of its own, so that none is taken for another.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A transaction's number: the epoch in the upper 32 bits, a counter within the epoch in the lower.
///
/// It grows strictly and never comes again, which makes it a fencing token. ZooKeeper's clients read
/// it as a signed 64-bit number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Zxid(pub u64);

impl Zxid {
    /// Before the first transaction.
    pub const ZERO: Zxid = Zxid(0);

    /// The `counter`-th transaction of `epoch`.
    pub const fn new(epoch: u32, counter: u32) -> Zxid {
        Zxid((epoch as u64) << 32 | counter as u64)
    }

    /// The upper half.
    pub const fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The lower half.
    pub const fn counter(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A session: the zxid of the transaction that opened it, so no id is ever given twice; or a random number that
/// no zxid can be, if it began as a local one ([`SessionId::is_local`]). Zero stands for "no session" (a server's own requests, standing runs).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SessionId(pub u64);

impl SessionId {
    /// Whoever has none.
    pub const NONE: SessionId = SessionId(0);

    /// The upper three bits of a session that began as a local one, known to one server only. The others are
    /// zxids, and no epoch comes so far; ids of read-only sessions have the bit above it.
    const LOCAL: u64 = 0b001;

    /// The id of a local session, from 61 random bits.
    pub const fn local(random: u64) -> SessionId {
        SessionId(Self::LOCAL << 61 | random >> 3)
    }

    /// Whether it began as a local one; it may have become a global one since.
    pub const fn is_local(self) -> bool {
        self.0 >> 61 == Self::LOCAL
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Milliseconds since the Unix epoch by the leader's clock, never going back from one transaction to the next.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment and `milliseconds`, capped at the end of time.
    pub const fn plus(self, milliseconds: u64) -> Timestamp {
        Timestamp(self.0.saturating_add(milliseconds))
    }
}

/// A member of the ensemble, as configured (ZooKeeper's `myid`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ServerId(pub u64);

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One start of a server's process; a later start has a larger number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// Which request a transaction answers: rule S1. Numbers are consecutive per (server, incarnation), from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The server that received the request.
    pub server: ServerId,
    /// Its start.
    pub incarnation: Incarnation,
    /// The request's number in that server's stream.
    pub number: u64,
}

/// Which connection owns a session: rule W3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The server that holds the connection.
    pub server: ServerId,
    /// Its start.
    pub incarnation: Incarnation,
    /// The connection's number at that server, from 1.
    pub connection: u64,
}

/// A call: the session that made it and the key that its client chose, unique in the session (rule C1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallId {
    /// The caller.
    pub session: SessionId,
    /// Chosen by the client; at least 1.
    pub key: u64,
}

impl CallId {
    /// The standing call of the mount that this transaction made: no session's, and no number is given twice (rule C10).
    pub const fn standing(mounted: Zxid) -> CallId {
        CallId {
            session: SessionId::NONE,
            key: mounted.0,
        }
    }

    /// Whether it is a mount's, which no client made.
    pub fn is_standing(self) -> bool {
        self.session == SessionId::NONE && self.key > 0
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.session, self.key)
    }
}
