//! The history: what clients asked for and what they were told, in the order in which they were asked and told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use quorate_model::id::{SessionId, Zxid};

/// What is asked of one register: a znode, or a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Create it with these data.
    Create(String),
    /// Set its data, at this version if one is named.
    Set(String, Option<i32>),
    /// Delete it, at this version if one is named.
    Delete(Option<i32>),
    /// Its data and version, after a sync.
    Get,
    /// Add to the counter.
    Add(i64),
}

/// What was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was done.
    Done,
    /// It was set, and has this version.
    Version(i32),
    /// Data and version.
    Data(String, i32),
    /// The counter's value.
    Value(i64),
    /// There is no such znode.
    NoNode,
    /// There is one.
    Exists,
    /// It has another version.
    BadVersion,
}

/// One request, from its being asked to its being answered.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who.
    pub client: u64,
    /// Of which register.
    pub register: String,
    /// What.
    pub ask: Ask,
    /// When it was asked, in the order of all events.
    pub asked: u64,
    /// When it was answered and what was told; none if that is not known, and it may yet be done.
    pub told: Option<(u64, Told)>,
}

/// One hold of a lock.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Who.
    pub client: u64,
    /// Of which lock.
    pub lock: String,
    /// The session that holds it.
    pub session: SessionId,
    /// The fencing token.
    pub token: u64,
    /// As of when it was told that it has the lock.
    pub granted: Zxid,
    /// As of when it gave it back; none if it did not get to know, or never did.
    pub released: Option<Zxid>,
}

/// What all clients saw. Cheap to clone.
#[derive(Clone, Default)]
pub struct History {
    next: Arc<AtomicU64>,
    operations: Arc<Mutex<Vec<Operation>>>,
    holds: Arc<Mutex<Vec<Hold>>>,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl History {
    /// The next place in the order of all events.
    pub fn event(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// An operation has ended, or its end will never be known.
    pub fn operation(&self, operation: Operation) {
        self.operations.lock().push(operation);
    }

    /// A hold has ended.
    pub fn hold(&self, hold: Hold) {
        self.holds.lock().push(hold);
    }

    /// A client was told what it cannot have been told.
    pub fn complain(&self, what: String) {
        self.complaints.lock().push(what);
    }

    /// All operations.
    pub fn operations(&self) -> Vec<Operation> {
        self.operations.lock().clone()
    }

    /// All holds.
    pub fn holds(&self) -> Vec<Hold> {
        self.holds.lock().clone()
    }

    /// What clients complained of.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().clone()
    }
}
