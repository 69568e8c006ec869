//! Notify: a transaction's watch events and late answers, before any later response (rules W1, W2, C9).
//!
//! Locks are taken in this order: the state, a connection, the tables here. So no connection is
//! touched while the tables are locked.

mod calls;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use parking_lot::Mutex;
use quorate_model::acl::{Acl, Admitted, permission};
use quorate_model::call::Answer;
use quorate_model::id::{CallId, SessionId, Zxid};
use quorate_model::path::ZnodePath;
use quorate_model::write_set::{Change, Transaction};
use quorate_tree::State;
use quorate_wire::{CallResponse, EventType, Notification, WatcherEvent};

pub use calls::{AnswerForm, LateAnswer, MAX_WAITERS_PER_CALL, Unanswered};
pub use table::{MAX_WATCHES_PER_CONNECTION, TooManyWatches};

use crate::metrics::Metrics;
use crate::respond::Connection;
use calls::{CallTable, Waiting};
use table::{Fired, WatchTable};

/// Who is told what: the watches of the clients connected here, the connections of their sessions,
/// and who waits for the answers of parked calls.
pub struct Watches {
    tables: Mutex<Tables>,
    /// The last transaction whose events are queued.
    last_zxid: AtomicU64,
    advanced: tokio::sync::Notify,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Tables {
    connections: HashMap<u64, Arc<Connection>>,
    sessions: HashMap<SessionId, u64>,
    watches: WatchTable,
    calls: CallTable,
}

/// What a transaction is to tell, and whom.
#[derive(Default)]
pub struct Mail {
    told: Vec<(Arc<Connection>, Told)>,
    late: Vec<Waiting>,
}

/// What a connection is told, once the tables are unlocked.
enum Told {
    Event {
        frame: Bytes,
        /// The access control list of the event's znode, unless everybody may read that.
        closed: Option<Acl>,
    },
    LateAnswer(Bytes),
    SessionEnded,
    SessionMoved,
}

impl Watches {
    /// Nobody watches yet; `state` is what has been applied so far.
    pub fn new(state: &State, metrics: Arc<Metrics>) -> Arc<Watches> {
        Arc::new(Watches {
            tables: Mutex::new(Tables::default()),
            last_zxid: AtomicU64::new(state.last_zxid().0),
            advanced: tokio::sync::Notify::new(),
            metrics,
        })
    }

    /// What the clients connected here are told of `transaction`, which is about to be applied to `state`: of what it
    /// deletes, only that knows who may read it. Nothing is told yet.
    pub fn address(&self, state: &State, zxid: Zxid, transaction: &Transaction) -> Mail {
        let mut fired = Vec::new();
        let mut mail = Mail::default();
        let mut tables = self.tables.lock();
        for change in &transaction.changes {
            tables.watches.fire(change, state, &mut fired);
        }
        for event in fired {
            tables.address(zxid, event, &mut mail);
        }
        // A late answer carries this zxid too, so all its events go before it.
        for change in &transaction.changes {
            tables.tell(zxid, change, &mut mail);
        }
        mail
    }

    /// Queues what was addressed, and closes the connections of sessions that ended or moved. To be called under the
    /// same write lock of the state, right behind the transaction and before its origin's answer.
    pub fn notify(&self, zxid: Zxid, mail: Mail) {
        // A list may be long, and thousands may watch: it is made ready for that once. `mail` holds on to it.
        let mut admitted = HashMap::new();
        for (connection, told) in &mail.told {
            match told {
                Told::Event { frame, closed } => {
                    let may_know = match closed {
                        None => {
                            connection.tell(frame);
                            true
                        }
                        Some(acl) => {
                            let readers = admitted.entry(acl.0.as_ptr());
                            let readers =
                                readers.or_insert_with(|| Admitted::of(acl, permission::READ));
                            connection.tell_reader(frame, readers)
                        }
                    };
                    if may_know {
                        self.metrics.events.inc();
                    }
                }
                Told::LateAnswer(frame) => {
                    self.metrics.late_answers.inc();
                    connection.tell(frame);
                }
                Told::SessionEnded => connection.session_ended(),
                Told::SessionMoved => connection.close("its session goes on over another one"),
            }
        }
        for waiting in mail.late {
            waiting.tell();
        }
        self.advance(zxid);
    }

    /// Everything up to `zxid` is applied and its events are queued. [`Watches::notify`] says so itself;
    /// this is for what has no events: the start of an epoch, and a snapshot that was installed.
    pub fn advance(&self, zxid: Zxid) {
        self.last_zxid.store(zxid.0, Ordering::Release);
        self.advanced.notify_waiters();
    }

    /// The last transaction whose events are queued on every connection: what an answer may carry
    /// that did not look at the state (rule W2).
    pub fn last_zxid(&self) -> Zxid {
        Zxid(self.last_zxid.load(Ordering::Acquire))
    }

    /// Returns once `zxid` is applied here. Bound it by a timeout.
    pub async fn reached(&self, zxid: Zxid) {
        loop {
            let advanced = self.advanced.notified();
            tokio::pin!(advanced);
            // Registered before looking, so that no transaction comes in between.
            advanced.as_mut().enable();
            if self.last_zxid() >= zxid {
                return;
            }
            advanced.await;
        }
    }

    /// A connection came to be. [`Watches::forget`] ends what this begins.
    pub fn register(&self, connection: &Arc<Connection>) {
        let mut tables = self.tables.lock();
        tables
            .connections
            .insert(connection.number(), connection.clone());
    }

    /// `connection` is the session's from now on.
    pub fn own_session(&self, session: SessionId, connection: u64) {
        self.tables.lock().sessions.insert(session, connection);
    }

    /// A connection is closed; its watches die with it.
    pub fn forget(&self, connection: &Connection) {
        let (number, session) = (connection.number(), connection.session());
        let mut tables = self.tables.lock();
        tables.connections.remove(&number);
        tables.watches.forget(number);
        tables.calls.forget(number);
        if let Some(session) = session
            && tables.sessions.get(&session) == Some(&number)
        {
            tables.sessions.remove(&session);
        }
    }

    /// Tells `connection` of the znode's next change. Atomic against apply if the state is locked.
    pub fn watch_data(&self, connection: u64, path: &ZnodePath) -> Result<(), TooManyWatches> {
        self.tables.lock().watches.watch_data(connection, path)
    }

    /// Tells `connection` of the next child created or deleted. Atomic against apply if the state is locked.
    pub fn watch_children(&self, connection: u64, path: &ZnodePath) -> Result<(), TooManyWatches> {
        self.tables.lock().watches.watch_children(connection, path)
    }

    /// Tells `connection` of the call's answer once it is there.
    pub fn await_call(&self, call: CallId, form: AnswerForm, connection: u64) {
        let mut tables = self.tables.lock();
        tables.calls.wait_on_connection(call, form, connection);
    }

    /// The call's answer once it is there, for whoever has no connection: HTTP. None if too many wait
    /// for it already ([`MAX_WAITERS_PER_CALL`]).
    pub fn late_answer(self: &Arc<Self>, call: CallId) -> Option<LateAnswer> {
        let (number, receiver) = self.tables.lock().calls.wait(call)?;
        Some(LateAnswer::new(self.clone(), call, number, receiver))
    }

    pub(crate) fn stop_waiting(&self, call: CallId, number: u64) {
        self.tables.lock().calls.stop_waiting(call, number);
    }

    /// Closes a connection, if it is still there.
    pub(crate) fn close(&self, connection: u64, reason: &'static str) {
        let connection = self.tables.lock().connections.get(&connection).cloned();
        if let Some(connection) = connection {
            connection.close(reason);
        }
    }

    /// Closes every connection, and ends every long poll: the server stops, or has missed transactions (rule S3).
    pub fn close_all(&self, reason: &'static str) {
        let polls = self.tables.lock().calls.abandon_polls(reason);
        // In the order of their numbers, which a seed of the simulation repeats.
        for connection in self.connections() {
            connection.close(reason);
        }
        for poll in polls {
            poll.tell();
        }
    }

    /// The open connections, by number.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        let mut connections: Vec<_> = self.tables.lock().connections.values().cloned().collect();
        connections.sort_unstable_by_key(|connection| connection.number());
        connections
    }

    /// How many watches there are.
    pub fn count(&self) -> usize {
        self.tables.lock().watches.len()
    }
}

impl Tables {
    /// What a change tells besides watches.
    fn tell(&mut self, zxid: Zxid, change: &Change, mail: &mut Mail) {
        match change {
            Change::PutAnswer { call, answer } => self.answered(zxid, *call, answer, mail),
            Change::CloseSession { session } => {
                self.calls.end_session(*session);
                if let Some(connection) = self.disown(*session) {
                    mail.told.push((connection, Told::SessionEnded));
                }
            }
            Change::MoveSession { session, owner, .. } => {
                let holder = self
                    .sessions
                    .get(session)
                    .and_then(|number| self.connections.get(number));
                if holder.is_some_and(|connection| Some(connection.owner()) != *owner)
                    && let Some(connection) = self.disown(*session)
                {
                    mail.told.push((connection, Told::SessionMoved));
                }
            }
            _ => {}
        }
    }

    fn answered(&mut self, zxid: Zxid, call: CallId, answer: &Answer, mail: &mut Mail) {
        let Some(waiters) = self.calls.take(call) else {
            return;
        };
        if let Some(listener) = &waiters.connection
            && let Some(connection) = self.connections.get(&listener.connection)
        {
            if let Some(path) = &listener.path {
                let event = Told::Event {
                    frame: encode_event(zxid, EventType::NodeDataChanged, path),
                    closed: None,
                };
                mail.told.push((connection.clone(), event));
            }
            if let Some(mount) = &listener.mount {
                let answer = Notification::Answer {
                    mount: mount.as_str().to_owned(),
                    key: call.key,
                    response: CallResponse::from(&answer.ending),
                };
                let answer = Told::LateAnswer(encode(zxid, &answer));
                mail.told.push((connection.clone(), answer));
            }
        }
        mail.late.extend(waiters.into_waiting(answer));
    }

    fn disown(&mut self, session: SessionId) -> Option<Arc<Connection>> {
        let number = self.sessions.remove(&session)?;
        self.connections.get(&number).cloned()
    }

    /// One event is encoded once, however many it is told to.
    fn address(&self, zxid: Zxid, fired: Fired, mail: &mut Mail) {
        let frame = encode_event(zxid, fired.event, &fired.path);
        for number in fired.connections {
            if let Some(connection) = self.connections.get(&number) {
                let event = Told::Event {
                    frame: frame.clone(),
                    closed: fired.closed.clone(),
                };
                mail.told.push((connection.clone(), event));
            }
        }
    }
}

fn encode_event(zxid: Zxid, event: EventType, path: &ZnodePath) -> Bytes {
    encode(
        zxid,
        &Notification::Watch(WatcherEvent::of(event, path.as_str())),
    )
}

fn encode(zxid: Zxid, notification: &Notification) -> Bytes {
    let mut frame = BytesMut::new();
    notification.encode_frame(zxid, &mut frame);
    frame.freeze()
}
