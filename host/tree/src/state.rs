//! The committed state: what every server has after the same entries.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use quorate_model::acl::{Acl, Identity};
use quorate_model::call::{Answer, Ending, ParkedCall, Watch};
use quorate_model::id::{CallId, Owner, SessionId, Timestamp, Zxid};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Component, Mount, Recipe, RecipeDigest, Upload};
use quorate_model::request::Password;
use quorate_model::run::Range;
use quorate_model::znode::{Lifetime, Node, Stat};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::digest::digest_of;
use crate::nodes::{NodeTable, Slot};
use crate::snapshot::Progress;
use crate::table::Table;

/// The state as the stages of a server share it: `apply` writes, everybody reads. Rule E2: no lock is held across a run.
pub type SharedState = Arc<RwLock<State>>;

/// Everything that is replicated.
pub struct State {
    pub(crate) epoch: u32,
    pub(crate) counter: u32,
    pub(crate) time: Timestamp,
    /// No mount that is made gives a number below this one: numbers of one that is gone may still be in the tree.
    pub(crate) sequence_floor: u64,
    /// That every member is known to read; 0 until the first leader has heard all of them (rule S7).
    pub(crate) version: u32,
    /// Of all sessions together, and of each mount; derived from the tables.
    pub(crate) held: Held,
    pub(crate) nodes: NodeTable,
    pub(crate) sessions: Table<SessionId, Session>,
    pub(crate) answers: Table<CallId, Answer>,
    pub(crate) calls: Table<CallId, ParkedCall>,
    pub(crate) uploads: Table<RecipeDigest, Upload>,
    /// Of uploads, by place.
    pub(crate) pieces: Table<(RecipeDigest, u32), Piece>,
    pub(crate) components: Table<RecipeDigest, Component>,
    pub(crate) recipes: Table<String, Recipe>,
    pub(crate) mounts: Table<ZnodePath, Mount>,
    /// Derived from the tables, never stored.
    pub(crate) index: BTreeSet<IndexKey>,
    /// The number of the last snapshot that was begun.
    pub(crate) mark: u8,
    pub(crate) snapshot: Option<Progress>,
}

/// A znode of the state, found once.
#[derive(Clone, Copy)]
pub struct Znode<'a> {
    nodes: &'a NodeTable,
    slot: Slot,
}

impl<'a> Znode<'a> {
    /// Its data and stat.
    pub fn node(self) -> Node {
        self.nodes.node(self.slot)
    }

    /// Its stat.
    pub fn stat(self) -> Stat {
        self.nodes.stat(self.slot)
    }

    /// The names of all its children in byte order.
    pub fn children(self) -> Vec<String> {
        self.children_in(&Range {
            limit: u32::MAX,
            ..Range::default()
        })
    }

    /// The names of some of its children.
    pub fn children_in(self, range: &Range) -> Vec<String> {
        self.nodes.children(self.slot, range)
    }

    /// Its access control list.
    pub fn acl(self) -> &'a Acl {
        self.nodes.acl(self.slot)
    }

    /// What its access control list gives to everybody, as bits of [`permission`](quorate_model::acl::permission).
    /// Needs no look at the list itself.
    pub fn open_to(self) -> u32 {
        self.nodes.open_to(self.slot)
    }

    /// Whether its access control list gives one of `permissions` to who has proved `identities`.
    pub fn permits(self, permissions: u32, identities: &[Identity]) -> bool {
        self.open_to() & permissions != 0 || self.acl().permits(permissions, identities)
    }
}

/// A client's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Proves that a client may go on with it.
    pub password: Password,
    /// How long it lives without a sign of its client.
    pub timeout_ms: u32,
    /// The connection that may write in it (rule W3); none for a session of HTTP.
    pub owner: Option<Owner>,
    /// A key up to this one is refused, unless its call is parked or its answer kept (rule C1).
    pub acknowledged: u64,
    /// How many answers are kept.
    pub answers: u32,
    /// How many of its calls are parked.
    pub parked: u32,
    /// About how many bytes both take (rule C2).
    pub call_bytes: u64,
    /// About how many bytes the end of all its znodes would take in the log (rule S6).
    pub ephemeral_bytes: u64,
}

/// What the answers and the parked calls of the whole ensemble take, and those of each mount (rule C2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Answers and parked calls.
    pub(crate) all: Taken,
    /// Parked calls.
    pub(crate) parked: HashMap<ZnodePath, Taken>,
}

/// How much there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

impl Taken {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }

    pub(crate) fn remove(&mut self, bytes: u64) {
        self.count -= 1;
        self.bytes -= bytes;
    }
}

impl Held {
    pub(crate) fn add_parked(&mut self, call: &ParkedCall) {
        let bytes = parked_bytes(call);
        self.all.add(bytes);
        self.parked
            .entry(call.mount.clone())
            .or_default()
            .add(bytes);
    }

    pub(crate) fn remove_parked(&mut self, call: &ParkedCall) {
        let bytes = parked_bytes(call);
        self.all.remove(bytes);
        if let Some(taken) = self.parked.get_mut(&call.mount) {
            taken.remove(bytes);
            if taken.count == 0 {
                self.parked.remove(&call.mount);
            }
        }
    }
}

/// A piece of an upload. Its hash is made once: the upload's end takes all of them out in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    pub(crate) hash: u64,
}

impl Piece {
    pub(crate) fn new(place: &(RecipeDigest, u32), bytes: Bytes) -> Piece {
        let hash = xxh3_64_with_seed(&bytes, digest_of(place));
        Piece { bytes, hash }
    }
}

/// About how many bytes of memory a kept answer takes.
pub(crate) fn answer_bytes(answer: &Answer) -> u64 {
    let text = match &answer.ending {
        Ending::Returned(text)
        | Ending::Failed(text)
        | Ending::Refused(text)
        | Ending::Trapped(text)
        | Ending::Outdated(text) => text.len(),
        Ending::Exceeded { bound, message } => bound.len() + message.len(),
        Ending::Cancelled | Ending::TimedOut | Ending::Unmounted => 0,
    };
    128 + text as u64
}

/// About how many bytes of memory a parked call takes.
pub(crate) fn parked_bytes(call: &ParkedCall) -> u64 {
    let watches = call.watches.iter().map(|watch| match watch {
        Watch::Node(path) | Watch::Children(path) | Watch::Subtree(path) => path.as_str().len(),
        Watch::Time(_) => 0,
    });
    let created = call.created.iter().map(|(path, _)| path.as_str().len());
    let identities = call
        .identities
        .iter()
        .map(|identity| identity.scheme.len() + identity.id.len());
    let memo = call.memo.as_ref().map_or(0, Bytes::len);
    let text = call.mount.as_str().len() + call.operation.len() + call.arguments.len() + memo;
    let lists = call.watches.len() + call.created.len() + call.identities.len();
    let all = 256 + text + 64 * lists + watches.chain(created).chain(identities).sum::<usize>();
    all as u64
}

/// About how many bytes the deletion of a znode takes in the log: its path, its parent's, and their changes.
pub(crate) fn deletion_bytes(path: &ZnodePath) -> u64 {
    32 + 2 * path.as_str().len() as u64
}

/// What the state can be asked for other than by its tables' keys. Ordered, so that each kind is a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum IndexKey {
    /// A znode that goes with its session.
    Ephemeral(SessionId, ZnodePath),
    /// A znode that goes at that moment.
    Lease(Timestamp, ZnodePath),
    /// A parked call that a change would wake; never [`Watch::Time`].
    Watch(Watch, CallId),
    /// A parked call that a moment wakes, or (its deadline) ends.
    Alarm(Timestamp, CallId),
    /// A parked call whose run is due, by age (rule C4).
    Mark(Zxid, CallId),
    /// A parked call of a mount, by age.
    CallOf(ZnodePath, Zxid, CallId),
    /// An upload that is dropped at that moment.
    Upload(Timestamp, RecipeDigest),
}

/// How much of everything there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Znodes, the root included.
    pub znodes: u64,
    /// Their data, in bytes.
    pub data_bytes: u64,
    /// Live sessions.
    pub sessions: u64,
    /// Znodes that go with a session.
    pub ephemerals: u64,
    /// Calls that wait.
    pub parked_calls: u64,
    /// Answers not yet acknowledged.
    pub answers: u64,
    /// Mounted recipes.
    pub mounts: u64,
    /// Those of them that are suspended.
    pub suspended: u64,
    /// Recipes by name.
    pub recipes: u64,
    /// Their components.
    pub components: u64,
    /// The components' bytes.
    pub component_bytes: u64,
    /// Components that are being uploaded.
    pub uploads: u64,
    /// The bytes of them that have come.
    pub upload_bytes: u64,
}

impl Default for State {
    fn default() -> State {
        State::new()
    }
}

impl State {
    /// A new ensemble's: the root, and what ZooKeeper's clients expect below `/zookeeper`.
    pub fn new() -> State {
        let mut state = State::vacant();
        let stat = Stat {
            created: Zxid::ZERO,
            modified: Zxid::ZERO,
            children_modified: Zxid::ZERO,
            created_at: Timestamp(0),
            modified_at: Timestamp(0),
            version: 0,
            children_version: 0,
            acl_version: 0,
            lifetime: Lifetime::Persistent,
            data_length: 0,
            children: 0,
        };
        let counted = |children_version| Stat {
            children_version,
            ..stat
        };
        let open = Acl::open();
        let root = state
            .nodes
            .insert(crate::nodes::ROOT, "", &counted(1), &open, b"");
        let zookeeper = state
            .nodes
            .insert(root, "zookeeper", &counted(2), &open, b"");
        for (name, acl) in [("config", &Acl::read_only()), ("quota", &open)] {
            state.nodes.insert(zookeeper, name, &stat, acl, b"");
        }
        state
    }

    /// What stands in place of a state while another is read into memory: not even the root is there, and
    /// nothing may be answered from it. See [`State::is_vacant`].
    pub fn vacant() -> State {
        State {
            epoch: 0,
            counter: 0,
            time: Timestamp(0),
            sequence_floor: 0,
            version: 0,
            held: Held::default(),
            nodes: NodeTable::default(),
            sessions: Table::default(),
            answers: Table::default(),
            calls: Table::default(),
            uploads: Table::default(),
            pieces: Table::default(),
            components: Table::default(),
            recipes: Table::default(),
            mounts: Table::default(),
            index: BTreeSet::new(),
            mark: 0,
            snapshot: None,
        }
    }

    /// Whether this is no state at all, but the place of one that is being read from a snapshot.
    pub fn is_vacant(&self) -> bool {
        self.nodes.len() == 0
    }

    /// The last transaction applied.
    pub fn last_zxid(&self) -> Zxid {
        Zxid::new(self.epoch, self.counter)
    }

    /// Its moment.
    pub fn last_time(&self) -> Timestamp {
        self.time
    }

    /// The current epoch; 0 before the first.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The ensemble's version: what every member is known to read (rule S7).
    pub fn version(&self) -> u32 {
        self.version
    }

    /// A znode, to be asked for whatever is wanted of it.
    pub fn find(&self, path: &ZnodePath) -> Option<Znode<'_>> {
        let slot = self.nodes.find(path)?;
        Some(Znode {
            nodes: &self.nodes,
            slot,
        })
    }

    /// A znode's data and stat.
    pub fn node(&self, path: &ZnodePath) -> Option<Node> {
        self.find(path).map(|znode| znode.node())
    }

    /// A znode's stat.
    pub fn stat(&self, path: &ZnodePath) -> Option<Stat> {
        self.find(path).map(|znode| znode.stat())
    }

    /// A znode's access control list.
    pub fn acl(&self, path: &ZnodePath) -> Option<Acl> {
        self.find(path).map(|znode| znode.acl().clone())
    }

    /// The names of all children in byte order.
    pub fn children(&self, path: &ZnodePath) -> Option<Vec<String>> {
        self.find(path).map(|znode| znode.children())
    }

    /// The names of some children.
    pub fn children_in(&self, path: &ZnodePath, range: &Range) -> Option<Vec<String>> {
        self.find(path).map(|znode| znode.children_in(range))
    }

    /// A live session.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// All live sessions.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.range(..).map(|(&id, session)| (id, session))
    }

    /// The kept answer to a call.
    pub fn answer(&self, call: CallId) -> Option<&Answer> {
        self.answers.get(&call)
    }

    /// A call that waits.
    pub fn parked(&self, call: CallId) -> Option<&ParkedCall> {
        self.calls.get(&call)
    }

    /// All calls that wait.
    pub fn parked_calls(&self) -> impl Iterator<Item = &ParkedCall> {
        self.calls.values()
    }

    /// How many calls wait: at a mount, or in all.
    pub fn parked_number(&self, mount: Option<&ZnodePath>) -> u64 {
        match mount {
            None => self.calls.len() as u64,
            Some(mount) => self.held.parked.get(mount).map_or(0, |taken| taken.count),
        }
    }

    /// The calls that are parked at a mount, the oldest first.
    pub fn parked_at<'a>(
        &'a self,
        mount: &'a ZnodePath,
    ) -> impl Iterator<Item = &'a ParkedCall> + 'a {
        self.parked_marks(mount, None)
            .filter_map(|(_, id)| self.calls.get(&id))
    }

    /// All calls that wait, the oldest first. To begin costs a look at each mount, to go on a look at one.
    pub fn parked_by_age(&self) -> impl Iterator<Item = &ParkedCall> {
        let head = |mount, after| {
            let (age, id) = self.parked_marks(mount, after).next()?;
            Some(Reverse((age, id, mount)))
        };
        let mounts = self.held.parked.keys();
        let mut heads: BinaryHeap<_> = mounts.filter_map(|mount| head(mount, None)).collect();
        std::iter::from_fn(move || {
            let Reverse((age, id, mount)) = heads.pop()?;
            heads.extend(head(mount, Some((age, id))));
            self.calls.get(&id)
        })
    }

    /// Age and id of the calls that are parked at a mount, by age, behind `after`.
    fn parked_marks<'a>(
        &'a self,
        mount: &'a ZnodePath,
        after: Option<(Zxid, CallId)>,
    ) -> impl Iterator<Item = (Zxid, CallId)> + 'a {
        let least = CallId {
            session: SessionId::NONE,
            key: 0,
        };
        let from = match after {
            None => Included(IndexKey::CallOf(mount.clone(), Zxid::ZERO, least)),
            Some((age, id)) => Excluded(IndexKey::CallOf(mount.clone(), age, id)),
        };
        self.index
            .range((from, Unbounded))
            .map_while(move |key| match key {
                IndexKey::CallOf(of, age, id) if of == mount => Some((*age, *id)),
                _ => None,
            })
    }

    /// The mount at exactly this znode.
    pub fn mount(&self, path: &ZnodePath) -> Option<&Mount> {
        self.mounts.get(path)
    }

    /// The mount at this znode or above it.
    pub fn mount_above(&self, path: &ZnodePath) -> Option<&Mount> {
        if self.mounts.len() == 0 {
            return None;
        }
        path.upwards().find_map(|path| self.mounts.get(&path))
    }

    /// All mounts.
    pub fn mounts(&self) -> impl Iterator<Item = &Mount> {
        self.mounts.values()
    }

    /// The component of a recipe that has a name or a mount.
    pub fn component(&self, digest: &RecipeDigest) -> Option<&Component> {
        self.components.get(digest)
    }

    /// The components of all recipes that have a name or a mount.
    pub fn components(&self) -> impl Iterator<Item = (&RecipeDigest, &Component)> {
        self.components.range(..)
    }

    /// What is being uploaded.
    pub fn uploads(&self) -> impl Iterator<Item = &Upload> {
        self.uploads.values()
    }

    /// The recipe that has this name.
    pub fn recipe(&self, name: &str) -> Option<&Recipe> {
        self.recipes.get(name)
    }

    /// All recipes by name.
    pub fn recipes(&self) -> impl Iterator<Item = &Recipe> {
        self.recipes.values()
    }

    /// The znodes that go with a session, in order.
    pub fn ephemerals(&self, session: SessionId) -> Vec<ZnodePath> {
        let from = IndexKey::Ephemeral(session, ZnodePath::root());
        self.index
            .range(from..)
            .map_while(|key| match key {
                IndexKey::Ephemeral(owner, path) if *owner == session => Some(path.clone()),
                _ => None,
            })
            .collect()
    }

    /// How much of everything there is. Counts the ephemerals one by one: for an operator's eyes, not for a hot path.
    pub fn counts(&self) -> Counts {
        let ephemerals = self
            .index
            .range(..IndexKey::Lease(Timestamp(0), ZnodePath::root()))
            .count();
        Counts {
            znodes: self.nodes.len(),
            data_bytes: self.nodes.data_bytes(),
            sessions: self.sessions.len() as u64,
            ephemerals: ephemerals as u64,
            parked_calls: self.calls.len() as u64,
            answers: self.answers.len() as u64,
            mounts: self.mounts.len() as u64,
            suspended: self
                .mounts()
                .filter(|mount| mount.suspended.is_some())
                .count() as u64,
            recipes: self.recipes.len() as u64,
            components: self.components.len() as u64,
            component_bytes: self.components.values().map(Component::bytes).sum(),
            uploads: self.uploads.len() as u64,
            upload_bytes: self.uploads.values().map(|upload| upload.received).sum(),
        }
    }

    /// The parked call whose run is due first, of those whose mount runs calls and whose component is `ready` here.
    pub fn first_marked(&self, ready: impl Fn(&RecipeDigest) -> bool) -> Option<CallId> {
        let least = CallId {
            session: SessionId::NONE,
            key: 0,
        };
        let marks = self.index.range(IndexKey::Mark(Zxid::ZERO, least)..);
        marks
            .map_while(|key| match key {
                IndexKey::Mark(_, call) => Some(*call),
                _ => None,
            })
            .find(|call| {
                let mount = self
                    .calls
                    .get(call)
                    .and_then(|call| self.mount(&call.mount));
                mount.is_some_and(|mount| {
                    mount.suspended.is_none() && mount.unmounting.is_none() && ready(&mount.digest)
                })
            })
    }

    /// The calls that are parked at a mount, by age, behind the one of that age and id, at most `limit`: for whoever
    /// gives the lock back in between.
    pub fn parked_behind(
        &self,
        mount: &ZnodePath,
        after: Option<(Zxid, CallId)>,
        limit: usize,
    ) -> Vec<&ParkedCall> {
        self.parked_marks(mount, after)
            .take(limit)
            .filter_map(|(_, id)| self.calls.get(&id))
            .collect()
    }

    pub(crate) fn answers_of(
        &self,
        session: SessionId,
        up_to: u64,
    ) -> impl Iterator<Item = CallId> + '_ {
        let (first, last) = (
            CallId { session, key: 0 },
            CallId {
                session,
                key: up_to,
            },
        );
        self.answers
            .range((Included(first), Included(last)))
            .map(|(&call, _)| call)
    }

    pub(crate) fn calls_of(&self, session: SessionId) -> impl Iterator<Item = CallId> + '_ {
        let (first, last) = (
            CallId { session, key: 0 },
            CallId {
                session,
                key: u64::MAX,
            },
        );
        self.calls
            .range((Included(first), Included(last)))
            .map(|(&call, _)| call)
    }
}
