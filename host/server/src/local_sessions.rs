//! Local sessions: known to the one server that their clients connected to, so that they cost no transaction.
//!
//! As ZooKeeper's `localSessionsEnabled`. Such a session reads, watches and writes plain znodes. While it has a
//! connection, that connection counts its silence; without one it is kept here until its timeout has passed,
//! for its client to come back to. What only the replicated state can own (ephemerals, calls) it does not get, or
//! it becomes a global session first, with the same id (`localSessionsUpgradingEnabled`).

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;
use quorate_model::id::SessionId;
use quorate_model::request::{CreateLifetime, Operation, Password, ZnodeOperation};
use tokio::time::Instant;

use crate::receive::new_password;
use crate::silence;

/// How many sessions without a connection are kept. Beyond it, those that would end first end at once.
const MAX_LEFT: usize = 100_000;

/// Which new sessions over ZooKeeper's protocol are local.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Setting {
    /// None.
    #[default]
    Off,
    /// All, for good.
    On,
    /// All, until they need to be global.
    Upgrading,
}

impl Setting {
    /// As two switches say it, of which the second matters only with the first.
    pub fn of(local: bool, upgrading: bool) -> Setting {
        match (local, upgrading) {
            (false, _) => Setting::Off,
            (true, false) => Setting::On,
            (true, true) => Setting::Upgrading,
        }
    }
}

/// Whether only a global session can do that.
pub(crate) fn needs_global(operation: &Operation) -> bool {
    let ephemeral = |operation: &ZnodeOperation| {
        let lifetime = match operation {
            ZnodeOperation::Create { lifetime, .. } => Some(*lifetime),
            _ => None,
        };
        lifetime == Some(CreateLifetime::Ephemeral)
    };
    match operation {
        Operation::Call(_) => true,
        Operation::Znode(operation) => ephemeral(operation),
        Operation::Multi(operations) => operations.iter().any(ephemeral),
        _ => false,
    }
}

/// The local sessions of one server. Its lock is taken before the router's.
pub struct Table {
    silent_ms: Box<dyn Fn() -> u64 + Send + Sync>,
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    by_id: HashMap<SessionId, Session>,
    /// Those without a connection, by their ends.
    left: BTreeSet<(Instant, SessionId)>,
}

struct Session {
    password: Password,
    held: Held,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// By this connection.
    By(u64),
    /// By none; it ends then.
    Until(Instant),
}

/// What becomes of a client that comes with a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resumed {
    /// It goes on, and this connection had it, if any.
    Here(Option<u64>),
    /// It gave a wrong password.
    Refused,
    /// It is no local session here: it may be a global one.
    Unknown,
}

impl Table {
    /// None yet. The function says for how long nothing was heard of a quorum, in milliseconds.
    pub fn new(silent_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Table {
        Table {
            silent_ms: Box::new(silent_ms),
            sessions: Mutex::default(),
        }
    }

    /// Whether sessions with this timeout are not to be served now: who is cut off would show an old state for
    /// good, and is treated as with global sessions (rule W4).
    pub(crate) fn is_cut_off(&self, timeout_ms: u32) -> bool {
        silence::is_too_long((self.silent_ms)(), timeout_ms)
    }

    /// A new session of `connection`.
    ///
    /// # Errors
    /// If there is no randomness for it.
    pub(crate) fn open(&self, connection: u64) -> Result<(SessionId, Password), getrandom::Error> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let id = SessionId::local(u64::from_le_bytes(random));
        let password = new_password()?;
        let held = Held::By(connection);
        let mut sessions = self.sessions.lock();
        sessions.by_id.insert(id, Session { password, held });
        Ok((id, password))
    }

    /// A client comes back over `connection` (rule W3: from now on that is the session's only one).
    pub(crate) fn resume(&self, id: SessionId, password: Password, connection: u64) -> Resumed {
        let mut sessions = self.sessions.lock();
        sessions.end_due(Instant::now());
        let Some(session) = sessions.by_id.get_mut(&id) else {
            return Resumed::Unknown;
        };
        if session.password != password {
            return Resumed::Refused;
        }
        match std::mem::replace(&mut session.held, Held::By(connection)) {
            Held::By(before) => Resumed::Here(Some(before)),
            Held::Until(end) => {
                sessions.left.remove(&(end, id));
                Resumed::Here(None)
            }
        }
    }

    /// Sends a request of the session, if the connection still has it. Says what came of it.
    pub(crate) fn send<T>(
        &self,
        id: SessionId,
        connection: u64,
        send: impl FnOnce() -> T,
    ) -> Option<T> {
        let sessions = self.sessions.lock();
        sessions.is_held(id, connection).then(send)
    }

    /// Sends the request that makes it a global session, if the connection still has it: from then on the leader
    /// says whether it lives.
    pub(crate) fn upgrade<T, E>(
        &self,
        id: SessionId,
        connection: u64,
        send: impl FnOnce(Password) -> Result<T, E>,
    ) -> Option<Result<T, E>> {
        let mut sessions = self.sessions.lock();
        if !sessions.is_held(id, connection) {
            return None;
        }
        let sent = send(sessions.by_id.get(&id)?.password);
        if sent.is_ok() {
            sessions.by_id.remove(&id);
        }
        Some(sent)
    }

    /// Its client has closed it.
    pub(crate) fn close(&self, id: SessionId, connection: u64) {
        let mut sessions = self.sessions.lock();
        if sessions.is_held(id, connection) {
            sessions.by_id.remove(&id);
        }
    }

    /// The connection is no more; the session is kept until `end`.
    pub(crate) fn leave(&self, id: SessionId, connection: u64, end: Instant) {
        let mut sessions = self.sessions.lock();
        if sessions.is_held(id, connection) {
            if let Some(session) = sessions.by_id.get_mut(&id) {
                session.held = Held::Until(end);
            }
            sessions.left.insert((end, id));
        }
        sessions.end_due(Instant::now());
    }

    /// How many there are, those included that may have ended since somebody last came or went.
    pub fn count(&self) -> usize {
        self.sessions.lock().by_id.len()
    }
}

impl Sessions {
    fn is_held(&self, id: SessionId, connection: u64) -> bool {
        let session = self.by_id.get(&id);
        session.is_some_and(|session| session.held == Held::By(connection))
    }

    fn end_due(&mut self, now: Instant) {
        while let Some(&(end, id)) = self.left.first()
            && (end <= now || self.left.len() > MAX_LEFT)
        {
            self.left.pop_first();
            self.by_id.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn table() -> Table {
        Table::new(|| 0)
    }

    #[tokio::test(start_paused = true)]
    async fn w3_a_session_has_the_connection_that_came_last() {
        let table = table();
        let (id, password) = table.open(1).unwrap();
        assert!(id.is_local() && table.open(2).unwrap().0 != id);
        assert_eq!(table.send(id, 1, || "sent"), Some("sent"));
        assert_eq!(table.resume(id, password, 3), Resumed::Here(Some(1)));
        assert_eq!(table.send(id, 1, || "sent"), None);
        assert_eq!(table.upgrade(id, 1, |_| Ok::<_, ()>(())), None);
        table.close(id, 1);
        table.leave(id, 1, Instant::now());
        assert_eq!(table.send(id, 3, || "sent"), Some("sent"));
        assert_eq!(table.upgrade(id, 3, |_| Err::<(), _>(())), Some(Err(())));
        let sent = table.upgrade(id, 3, Ok::<_, ()>);
        assert_eq!(sent, Some(Ok(password)));
        assert_eq!(table.resume(id, password, 4), Resumed::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_without_a_connection_is_kept_for_its_timeout() {
        let table = table();
        let (id, password) = table.open(1).unwrap();
        table.leave(id, 1, Instant::now() + Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(9)).await;
        let wrong = table.resume(id, Password([0; 16]), 2);
        assert_eq!(wrong, Resumed::Refused);
        assert_eq!(table.resume(id, password, 2), Resumed::Here(None));
        table.leave(id, 2, Instant::now() + Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(table.resume(id, password, 3), Resumed::Unknown);
        assert_eq!(table.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_without_a_connection_are_bounded_in_number() {
        let table = table();
        let end = |after| Instant::now() + Duration::from_millis(after);
        let (first, password) = table.open(0).unwrap();
        table.leave(first, 0, end(1));
        for number in 1..=MAX_LEFT as u64 {
            let (id, _) = table.open(number).unwrap();
            table.leave(id, number, end(1 + number));
        }
        assert_eq!(table.count(), MAX_LEFT);
        assert_eq!(table.resume(first, password, 0), Resumed::Unknown);
    }
}
