//! The history: what clients asked for and what they were told, in the order in which they were asked and told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use quorate_model::id::{CallId, Zxid};

use crate::client::calls::Called;
use crate::client::watches::Watch;

/// What is asked of one register: a znode, a pair of them, or a counter.
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
    /// Data and version of one of a pair, after a sync.
    GetOf(usize),
    /// All these parts, or none, with a pair of znodes. What they write are these data.
    Together(String, Vec<Part>),
    /// Add to the counter.
    Add(i64),
}

/// A part of what is done together: to which znode of a pair, and at which version, if one is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Create it.
    Create(usize),
    /// Set its data.
    Set(usize, Option<i32>),
    /// Delete it.
    Delete(usize, Option<i32>),
    /// Fail unless it has this version.
    Check(usize, i32),
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
    /// All parts were done; the versions of those that were set.
    Together(Vec<Option<i32>>),
    /// Nothing was done, because of this part.
    Refused(usize, Box<Told>),
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
    /// Which lock.
    pub lock: String,
    /// The fencing token.
    pub token: u64,
    /// The call that took it.
    pub acquired: CallId,
    /// The call that was to give it back, if there was one.
    pub released: Option<CallId>,
}

/// What a read without a sync has shown.
#[derive(Clone, Debug)]
pub struct Glimpse {
    /// Whose.
    pub client: u64,
    /// Of which znode.
    pub path: String,
    /// As of when.
    pub zxid: Zxid,
    /// What.
    pub seen: Seen,
}

/// What of a znode was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// When it was last written; none if it is not there.
    Written(Option<Zxid>),
    /// Its children.
    Children(BTreeSet<String>),
}

/// What all clients saw. Cheap to clone.
#[derive(Clone, Default)]
pub struct History {
    next: Arc<AtomicU64>,
    operations: Arc<Mutex<Vec<Operation>>>,
    holds: Arc<Mutex<Vec<Hold>>>,
    glimpses: Arc<Mutex<Vec<Glimpse>>>,
    watches: Arc<Mutex<Vec<(u64, Watch)>>>,
    called: Arc<Mutex<Vec<Called>>>,
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

    /// A read without a sync was answered.
    pub fn glimpse(&self, glimpse: Glimpse) {
        self.glimpses.lock().push(glimpse);
    }

    /// A client's watch has ended.
    pub fn watch(&self, client: u64, watch: Watch) {
        self.watches.lock().push((client, watch));
    }

    /// A call has ended for its client.
    pub fn called(&self, called: Called) {
        self.called.lock().push(called);
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

    /// All reads without a sync.
    pub fn glimpses(&self) -> Vec<Glimpse> {
        self.glimpses.lock().clone()
    }

    /// All watches, with whose they were.
    pub fn watches(&self) -> Vec<(u64, Watch)> {
        self.watches.lock().clone()
    }

    /// All calls.
    pub fn calls(&self) -> Vec<Called> {
        self.called.lock().clone()
    }

    /// What clients complained of.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().clone()
    }
}
