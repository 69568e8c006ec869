//! Who waits for the answers of parked calls: the connection that made the call, and long polls of HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use quorate_model::call::Answer;
use quorate_model::id::{CallId, SessionId};
use quorate_model::path::ZnodePath;
use tokio::sync::oneshot;

use super::Watches;

/// How many long polls wait for one call. A client has one, and some more that it gave up without
/// closing them, which end with their time. Who comes beyond that is refused: to end another's wait
/// in its stead would make both ask again at once.
pub const MAX_WAITERS_PER_CALL: usize = 8;

/// Who waits for which call.
#[derive(Default)]
pub(super) struct CallTable {
    waiters: BTreeMap<CallId, Waiters>,
    of_connection: HashMap<u64, HashSet<CallId>>,
    next_number: u64,
}

/// How a connection is told of a call's answer. One that has asked in both forms is told in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerForm {
    /// By an event that has the answer (rule C9).
    Event {
        /// The call's mount.
        mount: ZnodePath,
    },
    /// By a watch event of the path that the call was made by reading (rule C8).
    Watch {
        /// All of it.
        path: ZnodePath,
    },
}

/// Who waits for one call.
#[derive(Default)]
pub(super) struct Waiters {
    /// The last connection that asked: the session's others are closed, or about to be.
    pub(super) connection: Option<Listener>,
    polls: Vec<(u64, oneshot::Sender<Told>)>,
}

/// A connection that waits for a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listener {
    /// Its number.
    pub(super) connection: u64,
    /// The call's mount, if an event is to have the answer.
    pub(super) mount: Option<ZnodePath>,
    /// The path that the call was made by reading, if a watch event of it is to tell.
    pub(super) path: Option<ZnodePath>,
}

/// What a long poll is told: the answer, or why this server does not know it.
type Told = Result<Answer, &'static str>;

/// Why a long poll has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The session has ended.
    SessionEnded,
    /// This server stops, or has missed what would have answered it (rule S3), for this reason.
    Abandoned(&'static str),
}

/// A long poll and what it is told.
pub(super) struct Waiting {
    told: Told,
    sender: oneshot::Sender<Told>,
}

impl Waiting {
    pub(super) fn tell(self) {
        // It may have given up at this very moment; then its client asks again.
        let _ = self.sender.send(self.told);
    }
}

impl Waiters {
    pub(super) fn into_waiting(self, answer: &Answer) -> impl Iterator<Item = Waiting> {
        self.polls.into_iter().map(move |(_, sender)| Waiting {
            told: Ok(answer.clone()),
            sender,
        })
    }

    fn is_empty(&self) -> bool {
        self.connection.is_none() && self.polls.is_empty()
    }
}

impl CallTable {
    pub(super) fn wait_on_connection(&mut self, call: CallId, form: AnswerForm, connection: u64) {
        let waiters = self.waiters.entry(call).or_default();
        let is_other = |former: &mut Listener| former.connection != connection;
        let former = waiters.connection.take_if(is_other);
        let listener = waiters.connection.get_or_insert(Listener {
            connection,
            mount: None,
            path: None,
        });
        match form {
            AnswerForm::Event { mount } => listener.mount = Some(mount),
            AnswerForm::Watch { path } => listener.path = Some(path),
        }
        if let Some(former) = former {
            self.detach(call, former.connection);
        }
        self.of_connection
            .entry(connection)
            .or_default()
            .insert(call);
    }

    /// None if [`MAX_WAITERS_PER_CALL`] wait already.
    pub(super) fn wait(&mut self, call: CallId) -> Option<(u64, oneshot::Receiver<Told>)> {
        let polls = &mut self.waiters.entry(call).or_default().polls;
        if polls.len() >= MAX_WAITERS_PER_CALL {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.next_number += 1;
        polls.push((self.next_number, sender));
        Some((self.next_number, receiver))
    }

    pub(super) fn stop_waiting(&mut self, call: CallId, number: u64) {
        if let Some(waiters) = self.waiters.get_mut(&call) {
            waiters.polls.retain(|(poll, _)| *poll != number);
            if waiters.is_empty() {
                self.waiters.remove(&call);
            }
        }
    }

    /// No long poll waits any more; they are to be told why.
    pub(super) fn abandon_polls(&mut self, reason: &'static str) -> Vec<Waiting> {
        let mut abandoned = Vec::new();
        self.waiters.retain(|_, waiters| {
            let polls = waiters.polls.drain(..);
            abandoned.extend(polls.map(|(_, sender)| Waiting {
                told: Err(reason),
                sender,
            }));
            !waiters.is_empty()
        });
        abandoned
    }

    pub(super) fn take(&mut self, call: CallId) -> Option<Waiters> {
        let waiters = self.waiters.remove(&call)?;
        if let Some(listener) = &waiters.connection {
            self.detach(call, listener.connection);
        }
        Some(waiters)
    }

    /// The session's calls end without an answer. Long polls see their sender dropped.
    pub(super) fn end_session(&mut self, session: SessionId) {
        let first = CallId { session, key: 0 };
        let last = CallId {
            session,
            key: u64::MAX,
        };
        let calls: Vec<CallId> = self
            .waiters
            .range(first..=last)
            .map(|(&id, _)| id)
            .collect();
        for call in calls {
            self.take(call);
        }
    }

    pub(super) fn forget(&mut self, connection: u64) {
        for call in self.of_connection.remove(&connection).unwrap_or_default() {
            if let Some(waiters) = self.waiters.get_mut(&call) {
                waiters.connection = None;
                if waiters.is_empty() {
                    self.waiters.remove(&call);
                }
            }
        }
    }

    fn detach(&mut self, call: CallId, connection: u64) {
        if let Some(calls) = self.of_connection.get_mut(&connection) {
            calls.remove(&call);
            if calls.is_empty() {
                self.of_connection.remove(&connection);
            }
        }
    }
}

/// A place in line for a call's answer; given up when dropped.
pub struct LateAnswer {
    watches: Arc<Watches>,
    call: CallId,
    number: u64,
    receiver: oneshot::Receiver<Told>,
}

impl LateAnswer {
    pub(super) fn new(
        watches: Arc<Watches>,
        call: CallId,
        number: u64,
        receiver: oneshot::Receiver<Told>,
    ) -> LateAnswer {
        LateAnswer {
            watches,
            call,
            number,
            receiver,
        }
    }

    /// The answer, once it is there.
    ///
    /// # Errors
    /// If it will not be told here.
    pub async fn answer(&mut self) -> Result<Answer, Unanswered> {
        match (&mut self.receiver).await {
            Ok(told) => told.map_err(Unanswered::Abandoned),
            Err(_) => Err(Unanswered::SessionEnded),
        }
    }
}

impl Drop for LateAnswer {
    fn drop(&mut self) {
        self.watches.stop_waiting(self.call, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(session: u64, key: u64) -> CallId {
        CallId {
            session: SessionId(session),
            key,
        }
    }

    fn mount() -> AnswerForm {
        AnswerForm::Event {
            mount: ZnodePath::parse("/locks").unwrap(),
        }
    }

    #[test]
    fn the_last_connection_that_asked_is_told() {
        let mut table = CallTable::default();
        table.wait_on_connection(call(1, 1), mount(), 10);
        table.wait_on_connection(call(1, 1), mount(), 11);
        table.forget(10);
        let listener = table.take(call(1, 1)).unwrap().connection.unwrap();
        assert_eq!((listener.connection, listener.path), (11, None));
        assert!(table.take(call(1, 1)).is_none(), "it is told once");
        assert!(table.of_connection.is_empty());
    }

    #[test]
    fn c8_c9_who_asks_in_both_forms_is_told_in_both() {
        let path = || ZnodePath::parse("/locks/acquire(\"x\")@1").unwrap();
        let by_path = || AnswerForm::Watch { path: path() };
        let mut table = CallTable::default();
        for (key, forms) in [(1, [mount(), by_path()]), (2, [by_path(), mount()])] {
            for form in forms {
                table.wait_on_connection(call(1, key), form, 10);
            }
            let listener = table.take(call(1, key)).unwrap().connection.unwrap();
            assert!(listener.mount.is_some());
            assert_eq!(listener.path, Some(path()));
        }
        // What the former connection was to be told is not the next one's.
        table.wait_on_connection(call(1, 3), by_path(), 10);
        table.wait_on_connection(call(1, 3), mount(), 11);
        let listener = table.take(call(1, 3)).unwrap().connection.unwrap();
        assert_eq!((listener.connection, listener.path), (11, None));
        assert!(table.of_connection.is_empty());
    }

    #[test]
    fn a_session_that_ends_takes_its_calls_along() {
        let mut table = CallTable::default();
        table.wait_on_connection(call(1, 7), mount(), 10);
        let (_, mut ended) = table.wait(call(1, u64::MAX)).unwrap();
        let (_, mut other) = table.wait(call(2, 7)).unwrap();
        table.end_session(SessionId(1));
        assert_eq!(ended.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(other.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        assert_eq!(table.waiters.len(), 1);
        assert!(table.of_connection.is_empty());
    }

    #[test]
    fn who_comes_to_a_full_line_is_refused_and_the_others_wait_on() {
        let mut table = CallTable::default();
        let mut polls: Vec<_> = (0..MAX_WAITERS_PER_CALL)
            .map(|_| table.wait(call(1, 1)).unwrap())
            .collect();
        assert!(table.wait(call(1, 1)).is_none());
        assert!(table.wait(call(1, 2)).is_some(), "another call");
        for (_, receiver) in &mut polls {
            assert_eq!(
                receiver.try_recv(),
                Err(oneshot::error::TryRecvError::Empty)
            );
        }
        for (number, _) in polls {
            table.stop_waiting(call(1, 1), number);
        }
        assert!(table.wait(call(1, 1)).is_some());
    }
}
