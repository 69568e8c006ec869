//! The state as the next transaction will find it: the overlay over the committed base.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use quorate_model::acl::Acl;
use quorate_model::call::{Answer, ParkedCall, Watch};
use quorate_model::id::{CallId, SessionId, Zxid};
use quorate_model::outcome::Refusal;
use quorate_model::path::{RelativePath, ZnodePath};
use quorate_model::recipe::{Component, Mount, Recipe, RecipeDigest, Upload};
use quorate_model::run::{Child, GuardedChange, Range};
use quorate_model::write_set::Change;
use quorate_model::znode::{Node, Stat};

use crate::apply::{Moment, Records, apply_change};
use crate::operations::znode::Proved;
use crate::overlay::{Key, Overlay, OverlayNode, Savepoint, Value};
use crate::state::{IndexKey, Session, SharedState, State, Taken, answer_bytes};

/// The first of all digests, for the beginning of a range.
const LEAST_DIGEST: RecipeDigest = RecipeDigest([0; 32]);

/// The merged state, and the transaction being built on it.
///
/// A read looks into the overlay, then into the base under a short read lock. The overlay never
/// knows less than the base, and what it drops is in the base already, so no read falls between.
pub(crate) struct View {
    base: SharedState,
    overlay: Overlay,
    moment: Moment,
    changes: Vec<Change>,
}

/// How far the transaction being built had come.
#[derive(Clone, Copy)]
pub(crate) struct Progress {
    overlay: Savepoint,
    changes: usize,
}

impl View {
    pub(crate) fn new(base: SharedState) -> View {
        let (zxid, time) = {
            let state = base.read();
            (state.last_zxid(), state.last_time())
        };
        View {
            base,
            overlay: Overlay::default(),
            moment: Moment { zxid, time },
            changes: Vec::new(),
        }
    }

    /// Begins a transaction. The one before was finished or rolled back.
    pub(crate) fn begin(&mut self, moment: Moment) {
        debug_assert!(
            self.changes.is_empty(),
            "the transaction before was not finished"
        );
        self.moment = moment;
    }

    /// Of the transaction being built.
    pub(crate) fn moment(&self) -> Moment {
        self.moment
    }

    /// Makes a change, visible to every later read.
    ///
    /// The caller has checked that it fits: that it does not is a defect, and the barrier around
    /// evaluation (rule S5) turns it into a refusal.
    pub(crate) fn change(&mut self, change: Change) {
        if let Err(reason) = apply_change(self, self.moment, &change) {
            panic!("an operation made a change that does not fit: {reason}");
        }
        self.changes.push(change);
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            overlay: self.overlay.savepoint(),
            changes: self.changes.len(),
        }
    }

    /// What was changed since, in order.
    pub(crate) fn changes_since(&self, progress: Progress) -> &[Change] {
        &self.changes[progress.changes..]
    }

    /// Takes back what was changed since.
    pub(crate) fn roll_back(&mut self, to: Progress) {
        self.overlay.roll_back(to.overlay);
        self.changes.truncate(to.changes);
    }

    /// Finishes the transaction: marks the parked calls that it wakes, but for `except`, whose own it is.
    pub(crate) fn finish(&mut self, except: Option<CallId>) -> Vec<Change> {
        if self.any_parked() {
            let mut woken: Vec<CallId> =
                self.changes.iter().flat_map(|c| self.woken_by(c)).collect();
            woken.sort_unstable();
            woken.dedup();
            for call in woken {
                // A call that this transaction unparks or has marked is out of the index already.
                if Some(call) != except {
                    self.change(Change::Mark(call));
                }
            }
        }
        self.overlay.commit(self.moment.zxid);
        std::mem::take(&mut self.changes)
    }

    /// Everything up to `zxid` is in the base.
    pub(crate) fn drop_applied(&mut self, zxid: Zxid) {
        self.overlay.drop_applied(zxid);
    }

    /// What was changed since at mounts whose guards want to know: each znode once, with what it was.
    pub(crate) fn guarded_since(&self, since: Progress) -> Vec<(Mount, Vec<GuardedChange>)> {
        if !self.any_mount() {
            return Vec::new();
        }
        let mut asked: Vec<(Mount, Vec<GuardedChange>)> = Vec::new();
        let mut places: HashMap<ZnodePath, usize> = HashMap::new();
        let mut before = None;
        let mut seen = HashSet::new();
        for change in &self.changes[since.changes..] {
            let (Change::CreateNode { path, .. }
            | Change::DeleteNode { path }
            | Change::SetData { path, .. }) = change
            else {
                continue;
            };
            let mount = self.mount_above(path);
            let mount = mount.filter(|mount| mount.exports.guard && mount.path != *path);
            let Some(mount) = mount.filter(|_| seen.insert(path)) else {
                continue;
            };
            let before = before.get_or_insert_with(|| self.nodes_before(since));
            let before = before.get(path).cloned().flatten();
            let after = self.node(path);
            if before.is_none() && after.is_none() {
                continue;
            }
            let relative = path.as_str()[mount.path.as_str().len()..].trim_start_matches('/');
            let relative = RelativePath::parse(relative).expect("a part of a path is one");
            let place = *places.entry(mount.path.clone()).or_insert_with(|| {
                asked.push((mount, Vec::new()));
                asked.len() - 1
            });
            asked[place].1.push(GuardedChange {
                path: relative,
                before,
                after,
            });
        }
        asked
    }

    /// The znodes that were changed since, as they were.
    fn nodes_before(&self, since: Progress) -> HashMap<ZnodePath, Option<Node>> {
        let base = self.base.read();
        let mut nodes = HashMap::new();
        for (key, before) in self.overlay.undone(since.overlay) {
            let Key::Node(path) = key else { continue };
            if nodes.contains_key(path) {
                continue;
            }
            let node = match before {
                None => base.node(path),
                Some(Some(Value::Node(node))) => match &node.data {
                    Some(data) => Some(Node {
                        data: data.clone(),
                        stat: node.stat,
                    }),
                    None => base.node(path).map(|before| Node {
                        data: before.data,
                        stat: node.stat,
                    }),
                },
                Some(_) => None,
            };
            nodes.insert(path.clone(), node);
        }
        nodes
    }

    fn any_parked(&self) -> bool {
        let least = CallId {
            session: SessionId::NONE,
            key: 0,
        };
        let overlaid = self.overlay.from(Key::Parked(least)).next();
        matches!(overlaid, Some((Key::Parked(_), _)))
            || self.base.read().parked_calls().next().is_some()
    }

    /// The parked calls that a change wakes.
    fn woken_by(&self, change: &Change) -> Vec<CallId> {
        let (path, children_changed) = match change {
            Change::CreateNode { path, .. } | Change::DeleteNode { path } => (path, true),
            Change::SetData { path, .. } => (path, false),
            _ => return Vec::new(),
        };
        // Only calls of the mount there watch it. While that is being unmounted they all end, and none runs again:
        // else the first that ends, with what it leaves, might mark all others in one transaction (rule S6).
        if self.is_unmounting(path) {
            return Vec::new();
        }
        let parent = path.parent().filter(|_| children_changed);
        let watches = [Watch::Node(path.clone())]
            .into_iter()
            .chain(parent.map(Watch::Children))
            .chain(path.upwards().map(Watch::Subtree));
        watches.flat_map(|watch| self.watchers(watch)).collect()
    }

    fn watchers(&self, watch: Watch) -> impl Iterator<Item = CallId> {
        let least = CallId {
            session: SessionId::NONE,
            key: 0,
        };
        let from = IndexKey::Watch(watch.clone(), least);
        let same = |key: &IndexKey| matches!(key, IndexKey::Watch(other, _) if *other == watch);
        let found = self.indexed(from, same, usize::MAX);
        found.into_iter().filter_map(|key| match key {
            IndexKey::Watch(_, call) => Some(call),
            _ => None,
        })
    }

    /// The index keys from `from` on for as long as they are `wanted`, in order, at most `limit`.
    pub(crate) fn indexed(
        &self,
        from: IndexKey,
        wanted: impl Fn(&IndexKey) -> bool,
        limit: usize,
    ) -> Vec<IndexKey> {
        let base = self.base.read();
        let hidden = |key: &IndexKey| {
            !self.overlay.is_empty() && self.overlay.get(&Key::Index(key.clone())) == Some(None)
        };
        let mut committed = base
            .index
            .range(&from..)
            .take_while(|key| wanted(key))
            .filter(|key| !hidden(key))
            .peekable();
        let mut overlaid = self
            .overlay
            .from(Key::Index(from.clone()))
            .map_while(|(key, value)| match key {
                Key::Index(key) if wanted(key) => Some((key, value)),
                _ => None,
            })
            .filter_map(|(key, value)| value.map(|_| key))
            .peekable();
        let mut merged = Vec::new();
        while merged.len() < limit {
            let next = match (committed.peek(), overlaid.peek()) {
                (None, None) => break,
                (Some(&key), None) => {
                    committed.next();
                    key
                }
                (None, Some(&key)) => {
                    overlaid.next();
                    key
                }
                (Some(&left), Some(&right)) => {
                    if left <= right {
                        committed.next();
                    }
                    if right <= left {
                        overlaid.next();
                    }
                    left.min(right)
                }
            };
            merged.push(next.clone());
        }
        merged
    }

    /// A znode's stat, for who needs one permission on it.
    ///
    /// # Errors
    /// NoNode before NoAuth, as in ZooKeeper.
    pub(crate) fn stat_for(
        &self,
        path: &ZnodePath,
        permission: u32,
        client: &Proved<'_>,
    ) -> Result<Stat, Refusal> {
        let no_node = || Refusal::NoNode(path.clone());
        let permitted = |stat, acl: &Acl| match client.has(permission, acl) {
            true => Ok(stat),
            false => Err(Refusal::no_permission(path, permission)),
        };
        match self.overlay.get(&Key::Node(path.clone())) {
            Some(Some(Value::Node(node))) if node.open_to & permission != 0 => Ok(node.stat),
            Some(Some(Value::Node(node))) => match &node.acl {
                Some(acl) => permitted(node.stat, acl),
                None => {
                    let base = self.base.read();
                    permitted(node.stat, base.find(path).ok_or_else(no_node)?.acl())
                }
            },
            Some(_) => Err(no_node()),
            None => {
                let base = self.base.read();
                let znode = base.find(path).ok_or_else(no_node)?;
                match znode.open_to() & permission != 0 {
                    true => Ok(znode.stat()),
                    false => permitted(znode.stat(), znode.acl()),
                }
            }
        }
    }

    /// A znode's data and stat.
    pub(crate) fn node(&self, path: &ZnodePath) -> Option<Node> {
        let base = self.base.read();
        self.node_over(&base, path)
    }

    fn node_over(&self, base: &State, path: &ZnodePath) -> Option<Node> {
        match self.overlay.get(&Key::Node(path.clone())) {
            Some(Some(Value::Node(node))) => match &node.data {
                Some(data) => Some(Node {
                    data: data.clone(),
                    stat: node.stat,
                }),
                None => base.node(path).map(|before| Node {
                    data: before.data,
                    stat: node.stat,
                }),
            },
            Some(_) => None,
            None => base.node(path),
        }
    }

    /// The names of some children; none if there is no such znode.
    pub(crate) fn children(&self, path: &ZnodePath, range: &Range) -> Option<Vec<String>> {
        let base = self.base.read();
        self.children_over(&base, path, range)
    }

    /// The same with data and stat.
    pub(crate) fn entries(&self, path: &ZnodePath, range: &Range) -> Option<Vec<Child>> {
        let base = self.base.read();
        let names = self.children_over(&base, path, range)?;
        let entry = |name: String| {
            let child = path.child(&name).ok()?;
            Some(Child {
                node: self.node_over(&base, &child)?,
                name,
            })
        };
        Some(names.into_iter().filter_map(entry).collect())
    }

    fn children_over(&self, base: &State, path: &ZnodePath, range: &Range) -> Option<Vec<String>> {
        if let Some(None) = self.overlay.get(&Key::Node(path.clone())) {
            return None;
        }
        let inside = |name: &str| {
            range.after.as_deref().is_none_or(|after| name > after)
                && range.before.as_deref().is_none_or(|before| name < before)
        };
        let first = range.after.clone().unwrap_or_default();
        let overlaid: Vec<(&String, bool)> = self
            .overlay
            .from(Key::Child(path.clone(), first))
            .map_while(|(key, value)| match key {
                Key::Child(parent, name) if parent == path => Some((name, value.is_some())),
                _ => None,
            })
            .filter(|(name, _)| inside(name))
            .collect();
        let gone = overlaid.iter().filter(|(_, present)| !present).count() as u32;
        let enough = Range {
            limit: range.limit.saturating_add(gone),
            ..range.clone()
        };
        let committed = base.children_in(path, &enough);
        if committed.is_none() && self.overlay.get(&Key::Node(path.clone())).is_none() {
            return None;
        }
        let mut names = committed.unwrap_or_default();
        if !overlaid.is_empty() {
            let said = |name: &String| overlaid.binary_search_by(|(other, _)| (*other).cmp(name));
            names.retain(|name| said(name).is_err());
            names.extend(
                overlaid
                    .iter()
                    .filter(|(_, present)| *present)
                    .map(|(name, _)| (*name).clone()),
            );
            names.sort_unstable();
            if range.descending {
                names.reverse();
            }
            names.truncate(range.limit as usize);
        }
        Some(names)
    }

    /// The kept answer to a call.
    pub(crate) fn answer(&self, call: CallId) -> Option<Answer> {
        match self.overlay.get(&Key::Answer(call)) {
            Some(Some(Value::Answer(answer))) => Some(answer.clone()),
            Some(_) => None,
            None => self.base.read().answer(call).cloned(),
        }
    }

    /// The calls of a session that wait, by key.
    pub(crate) fn parked_of(&self, session: SessionId) -> Vec<CallId> {
        let mut calls: BTreeSet<CallId> = self.base.read().calls_of(session).collect();
        for (key, value) in self.overlay.from(Key::Parked(CallId { session, key: 0 })) {
            match key {
                Key::Parked(call) if call.session == session => {
                    overlay_one(&mut calls, *call, value)
                }
                _ => break,
            }
        }
        calls.into_iter().collect()
    }

    /// What answers and parked calls take in all, and the parked calls of a mount: of the committed state,
    /// since these bounds need not be exact.
    pub(crate) fn held(&self, mount: &ZnodePath) -> (Taken, Taken) {
        let base = self.base.read();
        let parked = base.held.parked.get(mount).copied();
        (base.held.all, parked.unwrap_or_default())
    }

    /// Whether a component is kept.
    pub(crate) fn has_component(&self, digest: RecipeDigest) -> bool {
        self.component_bytes(digest).is_some()
    }

    /// How many bytes a component has that is kept.
    pub(crate) fn component_bytes(&self, digest: RecipeDigest) -> Option<u64> {
        match self.overlay.get(&Key::Component(digest)) {
            Some(Some(Value::Component(bytes))) => Some(*bytes),
            Some(_) => None,
            None => self.base.read().component(&digest).map(Component::bytes),
        }
    }

    /// What components take.
    pub(crate) fn components(&self) -> Taken {
        let mut all: BTreeMap<RecipeDigest, u64> = {
            let base = self.base.read();
            let components = base.components();
            components
                .map(|(digest, component)| (*digest, component.bytes()))
                .collect()
        };
        for (key, value) in self.overlay.from(Key::Component(LEAST_DIGEST)) {
            match (key, value) {
                (Key::Component(digest), Some(Value::Component(bytes))) => {
                    all.insert(*digest, *bytes);
                }
                (Key::Component(digest), _) => {
                    all.remove(digest);
                }
                _ => break,
            }
        }
        Taken {
            count: all.len() as u64,
            bytes: all.values().sum(),
        }
    }

    /// What is being uploaded, each counted with what it will be.
    pub(crate) fn uploads(&self) -> Taken {
        let mut all: BTreeMap<RecipeDigest, u64> = {
            let base = self.base.read();
            let uploads = base.uploads();
            uploads
                .map(|upload| (upload.digest, upload.bytes))
                .collect()
        };
        for (key, value) in self.overlay.from(Key::Upload(LEAST_DIGEST)) {
            match (key, value) {
                (Key::Upload(digest), Some(Value::Upload(upload))) => {
                    all.insert(*digest, upload.bytes);
                }
                (Key::Upload(digest), _) => {
                    all.remove(digest);
                }
                _ => break,
            }
        }
        Taken {
            count: all.len() as u64,
            bytes: all.values().sum(),
        }
    }

    /// All recipes by name.
    pub(crate) fn recipes(&self) -> Vec<Recipe> {
        let mut recipes: Vec<Recipe> = self.base.read().recipes().cloned().collect();
        for (key, value) in self.overlay.from(Key::Recipe(String::new())) {
            let Key::Recipe(name) = key else { break };
            recipes.retain(|recipe| recipe.name != *name);
            if let Some(Value::Recipe(recipe)) = value {
                recipes.push(recipe.clone());
            }
        }
        recipes.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        recipes
    }

    /// The recipe that has this name.
    pub(crate) fn recipe(&self, name: &str) -> Option<Recipe> {
        match self.overlay.get(&Key::Recipe(name.to_owned())) {
            Some(Some(Value::Recipe(recipe))) => Some(recipe.clone()),
            Some(_) => None,
            None => self.base.read().recipe(name).cloned(),
        }
    }

    fn any_mount(&self) -> bool {
        let overlaid = self.overlay.from(Key::Mount(ZnodePath::root())).next();
        matches!(overlaid, Some((Key::Mount(_), _))) || self.base.read().mounts.len() > 0
    }

    /// The marked calls of the committed state, by age; none of a mount that is being unmounted.
    pub(crate) fn committed_marks(&self) -> Vec<(ZnodePath, (Zxid, CallId))> {
        let least = CallId {
            session: SessionId::NONE,
            key: 0,
        };
        let base = self.base.read();
        let marks = base.index.range(IndexKey::Mark(Zxid::ZERO, least)..);
        marks
            .map_while(|key| match key {
                IndexKey::Mark(age, call) => Some((*age, *call)),
                _ => None,
            })
            .filter_map(|mark| {
                let mount = base.mount(&base.parked(mark.1)?.mount)?;
                let stays = mount.unmounting.is_none();
                stays.then(|| (mount.path.clone(), mark))
            })
            .collect()
    }

    /// The mount at this znode or above it.
    pub(crate) fn mount_above(&self, path: &ZnodePath) -> Option<Mount> {
        let overlaid = self.overlay.from(Key::Mount(ZnodePath::root())).next();
        if !matches!(overlaid, Some((Key::Mount(_), _))) {
            return self.base.read().mount_above(path).cloned();
        }
        path.upwards().find_map(|path| Records::mount(self, &path))
    }

    /// Whether the mount at this znode or above it is being unmounted.
    fn is_unmounting(&self, path: &ZnodePath) -> bool {
        let overlaid = self.overlay.from(Key::Mount(ZnodePath::root())).next();
        let overlaid = matches!(overlaid, Some((Key::Mount(_), _)));
        let base = self.base.read();
        // Mounts do not nest, so the first that is found is the only one.
        let found = path.upwards().find_map(|place| {
            let known = overlaid.then(|| self.overlay.get(&Key::Mount(place.clone())));
            match known.flatten() {
                Some(Some(Value::Mount(mount))) => Some(mount.unmounting.is_some()),
                Some(_) => None,
                None => base.mount(&place).map(|mount| mount.unmounting.is_some()),
            }
        });
        found.unwrap_or(false)
    }

    /// All mounts.
    pub(crate) fn mounts(&self) -> Vec<Mount> {
        let mut mounts: Vec<Mount> = self.base.read().mounts().cloned().collect();
        for (key, value) in self.overlay.from(Key::Mount(ZnodePath::root())) {
            let Key::Mount(path) = key else { break };
            mounts.retain(|mount| mount.path != *path);
            if let Some(Value::Mount(mount)) = value {
                mounts.push(mount.clone());
            }
        }
        mounts.sort_unstable_by(|left, right| left.path.cmp(&right.path));
        mounts
    }

    /// A znode as the overlay has it, taken over from the base if need be.
    fn overlay_node(&self, path: &ZnodePath) -> Option<OverlayNode> {
        match self.overlay.get(&Key::Node(path.clone())) {
            Some(Some(Value::Node(node))) => Some(node.clone()),
            Some(_) => None,
            None => {
                let base = self.base.read();
                let znode = base.find(path)?;
                Some(OverlayNode {
                    stat: znode.stat(),
                    acl: None,
                    open_to: znode.open_to(),
                    data: None,
                })
            }
        }
    }

    fn put(&mut self, key: Key, value: Option<Value>) {
        self.overlay.put(self.moment.zxid, key, value);
    }

    /// One child more, or one less.
    fn count_child(&mut self, parent: &ZnodePath, name: &str, present: bool) {
        let mut node = self
            .overlay_node(parent)
            .expect("apply_change has seen the parent");
        if present {
            node.stat.children += 1;
        } else {
            node.stat.children -= 1;
        }
        self.put(Key::Node(parent.clone()), Some(Value::Node(node)));
        let key = Key::Child(parent.clone(), name.to_owned());
        self.put(key, present.then_some(Value::Present));
    }
}

impl Records for View {
    fn stat(&self, path: &ZnodePath) -> Option<Stat> {
        match self.overlay.get(&Key::Node(path.clone())) {
            Some(Some(Value::Node(node))) => Some(node.stat),
            Some(_) => None,
            None => self.base.read().stat(path),
        }
    }

    fn insert_node(&mut self, path: &ZnodePath, stat: Stat, acl: &Acl, data: &Bytes) {
        let node = OverlayNode {
            stat,
            acl: Some(acl.clone()),
            open_to: acl.of_everybody(),
            data: Some(data.clone()),
        };
        self.put(Key::Node(path.clone()), Some(Value::Node(node)));
        if let Some(parent) = path.parent() {
            self.count_child(&parent, path.name(), true);
        }
    }

    fn update_node(
        &mut self,
        path: &ZnodePath,
        stat: Stat,
        acl: Option<&Acl>,
        data: Option<&Bytes>,
    ) {
        let mut node = self.overlay_node(path).expect("apply_change has seen it");
        node.stat = stat;
        if let Some(acl) = acl {
            node.acl = Some(acl.clone());
            node.open_to = acl.of_everybody();
        }
        if let Some(data) = data {
            node.data = Some(data.clone());
        }
        self.put(Key::Node(path.clone()), Some(Value::Node(node)));
    }

    fn remove_node(&mut self, path: &ZnodePath) {
        self.put(Key::Node(path.clone()), None);
        if let Some(parent) = path.parent() {
            self.count_child(&parent, path.name(), false);
        }
    }

    fn session(&self, session: SessionId) -> Option<Session> {
        match self.overlay.get(&Key::Session(session)) {
            Some(Some(Value::Session(value))) => Some(*value),
            Some(_) => None,
            None => self.base.read().session(session).copied(),
        }
    }

    fn put_session(&mut self, session: SessionId, value: Option<Session>) {
        self.put(Key::Session(session), value.map(Value::Session));
    }

    fn answer_bytes(&self, call: CallId) -> Option<u64> {
        match self.overlay.get(&Key::Answer(call)) {
            Some(Some(Value::Answer(answer))) => Some(answer_bytes(answer)),
            Some(_) => None,
            None => self.base.read().answer(call).map(answer_bytes),
        }
    }

    fn answers_up_to(&self, session: SessionId, key: u64) -> Vec<CallId> {
        let mut answers: BTreeSet<CallId> = self.base.read().answers_of(session, key).collect();
        for (other, value) in self.overlay.from(Key::Answer(CallId { session, key: 0 })) {
            match other {
                Key::Answer(call) if call.session == session && call.key <= key => {
                    overlay_one(&mut answers, *call, value);
                }
                _ => break,
            }
        }
        answers.into_iter().collect()
    }

    fn put_answer(&mut self, call: CallId, answer: Option<&Answer>) {
        self.put(Key::Answer(call), answer.cloned().map(Value::Answer));
    }

    fn parked(&self, call: CallId) -> Option<ParkedCall> {
        match self.overlay.get(&Key::Parked(call)) {
            Some(Some(Value::Parked(parked))) => Some(ParkedCall::clone(parked)),
            Some(_) => None,
            None => self.base.read().parked(call).cloned(),
        }
    }

    fn put_parked(&mut self, call: CallId, parked: Option<ParkedCall>) {
        self.put(Key::Parked(call), parked.map(Box::new).map(Value::Parked));
    }

    fn upload(&self, digest: &RecipeDigest) -> Option<Upload> {
        match self.overlay.get(&Key::Upload(*digest)) {
            Some(Some(Value::Upload(upload))) => Some(upload.clone()),
            Some(_) => None,
            None => self.base.read().upload(digest),
        }
    }

    /// Nobody reads the pieces here.
    fn put_piece(&mut self, upload: &Upload, _: &Bytes) {
        let value = Value::Upload(upload.clone());
        self.put(Key::Upload(upload.digest), Some(value));
    }

    fn drop_upload(&mut self, upload: &Upload) {
        self.put(Key::Upload(upload.digest), None);
    }

    fn keep_component(&mut self, upload: &Upload) {
        self.put(Key::Upload(upload.digest), None);
        let value = Value::Component(upload.bytes);
        self.put(Key::Component(upload.digest), Some(value));
    }

    fn remove_component(&mut self, digest: &RecipeDigest) {
        self.put(Key::Component(*digest), None);
    }

    fn put_recipe(&mut self, name: &str, recipe: Option<&Recipe>) {
        self.put(
            Key::Recipe(name.to_owned()),
            recipe.cloned().map(Value::Recipe),
        );
    }

    fn mount(&self, path: &ZnodePath) -> Option<Mount> {
        match self.overlay.get(&Key::Mount(path.clone())) {
            Some(Some(Value::Mount(mount))) => Some(mount.clone()),
            Some(_) => None,
            None => self.base.read().mount(path).cloned(),
        }
    }

    fn put_mount(&mut self, path: &ZnodePath, mount: Option<&Mount>) {
        self.put(Key::Mount(path.clone()), mount.cloned().map(Value::Mount));
    }

    fn sequence_floor(&self) -> u64 {
        match self.overlay.get(&Key::SequenceFloor) {
            Some(Some(Value::Number(floor))) => *floor,
            _ => self.base.read().sequence_floor,
        }
    }

    fn put_sequence_floor(&mut self, floor: u64) {
        self.put(Key::SequenceFloor, Some(Value::Number(floor)));
    }

    fn version(&self) -> u32 {
        match self.overlay.get(&Key::Version) {
            Some(Some(Value::Version(version))) => *version,
            _ => self.base.read().version,
        }
    }

    fn put_version(&mut self, version: u32) {
        self.put(Key::Version, Some(Value::Version(version)));
    }

    fn add_index(&mut self, key: IndexKey) {
        self.put(Key::Index(key), Some(Value::Present));
    }

    fn remove_index(&mut self, key: IndexKey) {
        self.put(Key::Index(key), None);
    }
}

fn overlay_one(calls: &mut BTreeSet<CallId>, call: CallId, value: Option<&Value>) {
    if value.is_some() {
        calls.insert(call);
    } else {
        calls.remove(&call);
    }
}
