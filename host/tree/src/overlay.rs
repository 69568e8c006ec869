//! The overlay: what the leader has evaluated and not yet seen applied.
//!
//! Every record that an unapplied transaction has changed stands here as it will be, with the zxid
//! of the last such transaction; it is dropped once that one is in the base (rule E2). Changes of the
//! transaction being built can be taken back.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quorate_model::acl::Acl;
use quorate_model::call::{Answer, ParkedCall};
use quorate_model::id::{CallId, SessionId, Zxid};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Mount, Recipe, RecipeDigest, Upload};
use quorate_model::znode::Stat;

use crate::state::{IndexKey, Session};

/// What a record is found by. Ordered, so that a znode's children and each kind of index are ranges.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Node(ZnodePath),
    Child(ZnodePath, String),
    Session(SessionId),
    Answer(CallId),
    Parked(CallId),
    Upload(RecipeDigest),
    Component(RecipeDigest),
    Recipe(String),
    Mount(ZnodePath),
    SequenceFloor,
    Version,
    Index(IndexKey),
}

/// What a record will be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Node(OverlayNode),
    Session(Session),
    Answer(Answer),
    Parked(Box<ParkedCall>),
    Upload(Upload),
    /// How many bytes it has.
    Component(u64),
    Recipe(Recipe),
    Mount(Mount),
    Number(u64),
    Version(u32),
    /// Of a child or an index: all there is to say.
    Present,
}

/// A znode as it will be. Data and access control list are none while they are as in the base.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OverlayNode {
    pub(crate) stat: Stat,
    pub(crate) acl: Option<Acl>,
    /// What the access control list, wherever it is, gives to everybody.
    pub(crate) open_to: u32,
    pub(crate) data: Option<Bytes>,
}

#[derive(Clone, Debug)]
struct Record {
    zxid: Zxid,
    /// None for one that will be gone.
    value: Option<Value>,
}

/// All unapplied changes.
#[derive(Default)]
pub(crate) struct Overlay {
    records: BTreeMap<Key, Record>,
    /// What stood there before the transaction being built, in the order of its changes.
    undo: Vec<(Key, Option<Record>)>,
    /// Which transaction wrote what, in order.
    written: VecDeque<(Zxid, Key)>,
}

/// How far the transaction being built had come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Savepoint(usize);

impl Overlay {
    /// What the overlay says of a record: nothing, that it will be gone, or what it will be.
    pub(crate) fn get(&self, key: &Key) -> Option<Option<&Value>> {
        if self.records.is_empty() {
            return None;
        }
        self.records.get(key).map(|record| record.value.as_ref())
    }

    /// What it says of the records from `key` on, in order.
    pub(crate) fn from(&self, key: Key) -> impl Iterator<Item = (&Key, Option<&Value>)> {
        self.records
            .range(key..)
            .map(|(key, record)| (key, record.value.as_ref()))
    }

    pub(crate) fn put(&mut self, zxid: Zxid, key: Key, value: Option<Value>) {
        let before = self.records.insert(key.clone(), Record { zxid, value });
        self.undo.push((key, before));
    }

    pub(crate) fn savepoint(&self) -> Savepoint {
        Savepoint(self.undo.len())
    }

    /// Takes back what was put since.
    pub(crate) fn roll_back(&mut self, to: Savepoint) {
        for (key, before) in self.undo.drain(to.0..).rev() {
            match before {
                Some(record) => self.records.insert(key, record),
                None => self.records.remove(&key),
            };
        }
    }

    /// What stood there before each change since, in the order of the changes: of a record that was changed twice
    /// the first counts. None where the overlay said nothing.
    pub(crate) fn undone(
        &self,
        since: Savepoint,
    ) -> impl Iterator<Item = (&Key, Option<Option<&Value>>)> {
        self.undo[since.0..].iter().map(|(key, before)| {
            let before = before.as_ref().map(|record| record.value.as_ref());
            (key, before)
        })
    }

    /// The transaction being built is done: its changes stay until they are applied.
    pub(crate) fn commit(&mut self, zxid: Zxid) {
        self.written
            .extend(self.undo.drain(..).map(|(key, _)| (zxid, key)));
    }

    /// Everything up to `zxid` is in the base.
    pub(crate) fn drop_applied(&mut self, zxid: Zxid) {
        while self
            .written
            .front()
            .is_some_and(|(written, _)| *written <= zxid)
        {
            let Some((_, key)) = self.written.pop_front() else {
                return;
            };
            if self
                .records
                .get(&key)
                .is_some_and(|record| record.zxid <= zxid)
            {
                self.records.remove(&key);
            }
        }
    }

    /// Whether nothing is left unapplied.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}
