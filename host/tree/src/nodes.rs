//! The znodes of the committed state, packed: one allocation per znode, numbers as varints.
//!
//! A znode lives in a slot that it keeps for its life; its parent is a slot number, so a path is
//! found by one hash lookup per name. Child lists hold slot numbers in the byte order of the names.

use std::cmp::Ordering;
use std::hash::BuildHasher;

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use quorate_model::acl::Acl;
use quorate_model::id::{SessionId, Timestamp, Zxid};
use quorate_model::path::ZnodePath;
use quorate_model::run::Range;
use quorate_model::znode::{Lifetime, Node, Stat};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::digest::{Sum, digest_of};

/// A znode's place in the table.
pub(crate) type Slot = u32;

/// The root's.
pub(crate) const ROOT: Slot = 0;

/// How long a chunk of a child list may grow before it is split: short enough to shift cheaply,
/// long enough that the list of chunks stays short with 100,000 children.
const MAX_CHUNK: usize = 512;

/// All znodes.
#[derive(Default)]
pub(crate) struct NodeTable {
    records: Vec<Option<Box<[u8]>>>,
    /// By which snapshot a slot was last covered; see `snapshot.rs`.
    pub(crate) marks: Vec<u8>,
    free: Vec<Slot>,
    by_name: HashTable<Slot>,
    children: HashMap<Slot, ChildList>,
    acls: AclTable,
    hasher: DefaultHashBuilder,
    data_bytes: u64,
    sum: Sum,
}

/// A znode with all that its record holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FullNode {
    pub(crate) stat: Stat,
    pub(crate) acl: Acl,
    pub(crate) data: Bytes,
}

impl NodeTable {
    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        (self.records.len() - self.free.len()) as u64
    }

    /// The bytes of data of all znodes.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Of all znodes, for the state's digest.
    pub(crate) fn sum(&self) -> Sum {
        self.sum
    }

    /// The same, counted anew.
    pub(crate) fn counted_sum(&self) -> Sum {
        let mut sum = Sum::default();
        let used = (0..self.slot_count()).filter(|&slot| self.is_used(slot));
        used.for_each(|slot| sum.add(self.digest(slot)));
        sum
    }

    /// One past the highest slot ever used.
    pub(crate) fn slot_count(&self) -> Slot {
        self.records.len() as Slot
    }

    /// The slot of the znode at `path`.
    pub(crate) fn find(&self, path: &ZnodePath) -> Option<Slot> {
        let root = self.records.first()?.is_some().then_some(ROOT)?;
        path.names()
            .try_fold(root, |parent, name| self.find_child(parent, name))
    }

    fn find_child(&self, parent: Slot, name: &str) -> Option<Slot> {
        self.by_name
            .find(self.hash(parent, name), |&slot| {
                self.is_called(slot, parent, name)
            })
            .copied()
    }

    /// A znode's stat.
    pub(crate) fn stat(&self, slot: Slot) -> Stat {
        self.unpack(slot).stat
    }

    /// A znode's data and stat.
    pub(crate) fn node(&self, slot: Slot) -> Node {
        let packed = self.unpack(slot);
        Node {
            data: Bytes::copy_from_slice(packed.data),
            stat: packed.stat,
        }
    }

    /// A znode's access control list.
    pub(crate) fn acl(&self, slot: Slot) -> &Acl {
        &self.held_acl(slot).list
    }

    /// What that gives to everybody, as bits of [`permission`](quorate_model::acl::permission): it was counted when
    /// the list came to be.
    pub(crate) fn open_to(&self, slot: Slot) -> u32 {
        self.held_acl(slot).of_everybody
    }

    fn held_acl(&self, slot: Slot) -> &HeldAcl {
        let record = self.records[slot as usize]
            .as_ref()
            .expect("the caller found it");
        self.acls.get(read_content(record).0)
    }

    /// All of it.
    pub(crate) fn full(&self, slot: Slot) -> FullNode {
        let packed = self.unpack(slot);
        FullNode {
            stat: packed.stat,
            acl: self.acls.get(packed.acl).list.clone(),
            data: Bytes::copy_from_slice(packed.data),
        }
    }

    /// The name and the parent; none for a slot that is free.
    pub(crate) fn place(&self, slot: Slot) -> Option<(Slot, &str)> {
        let record = self.records.get(slot as usize)?.as_ref()?;
        Some(read_place(record))
    }

    /// The names of a znode's children that are in `range`.
    pub(crate) fn children(&self, parent: Slot, range: &Range) -> Vec<String> {
        let Some(list) = self.children.get(&parent) else {
            return Vec::new();
        };
        let name = |slot: Slot| self.name(slot);
        list.range(name, range)
            .map(|slot| name(slot).to_owned())
            .collect()
    }

    /// Puts a znode into a free slot and its parent's list; the caller has seen that there is none of that name.
    pub(crate) fn insert(
        &mut self,
        parent: Slot,
        name: &str,
        stat: &Stat,
        acl: &Acl,
        data: &[u8],
    ) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.records.push(None);
            self.marks.push(0);
            (self.records.len() - 1) as Slot
        });
        self.insert_at(slot, parent, name, stat, acl, data);
        if slot != ROOT {
            self.link(slot);
        }
        self.sum.add(self.digest(slot));
        slot
    }

    /// Fills one slot, without linking or summing it: a snapshot's record comes before its parent may be there.
    pub(crate) fn insert_at(
        &mut self,
        slot: Slot,
        parent: Slot,
        name: &str,
        stat: &Stat,
        acl: &Acl,
        data: &[u8],
    ) {
        let acl = self.acls.hold(acl);
        self.data_bytes += data.len() as u64;
        self.records[slot as usize] = Some(pack(parent, name, stat, acl, data));
    }

    /// Makes room for slots up to this one; those that stay empty are free after [`Self::relink`].
    pub(crate) fn reserve_slot(&mut self, slot: Slot) {
        let length = (slot as usize + 1).max(self.records.len());
        self.records.resize_with(length, || None);
        self.marks.resize(length, 0);
    }

    /// Whether the slot holds a znode.
    pub(crate) fn is_used(&self, slot: Slot) -> bool {
        self.records.get(slot as usize).is_some_and(Option::is_some)
    }

    /// Rebuilds names, child lists, free slots and the sum from the records; false if a parent is missing, a
    /// name stands twice, or a znode cannot be reached from the root.
    pub(crate) fn relink(&mut self) -> bool {
        self.by_name.clear();
        self.children.clear();
        self.free.clear();
        if !self.is_used(ROOT) {
            return false;
        }
        for slot in (1..self.slot_count()).rev() {
            let Some((parent, name)) = self.place(slot) else {
                self.free.push(slot);
                continue;
            };
            if !self.is_used(parent) || self.find_child(parent, name).is_some() {
                return false;
            }
            self.link(slot);
        }
        let (mut reached, mut next) = (0, vec![ROOT]);
        while let Some(slot) = next.pop() {
            reached += 1;
            let list = self.children.get(&slot);
            next.extend(list.iter().flat_map(|list| list.chunks.iter().flatten()));
        }
        if reached != self.len() {
            return false;
        }
        self.sum = self.counted_sum();
        true
    }

    fn link(&mut self, slot: Slot) {
        let (parent, name) = self
            .place(slot)
            .expect("a slot is filled before it is linked");
        let hash = self.hash(parent, name);
        let (records, hasher) = (&self.records, &self.hasher);
        self.by_name
            .insert_unique(hash, slot, |&other| hash_of(hasher, records, other));
        let list = self.children.entry(parent).or_default();
        list.insert(|other| name_in(records, other), slot);
    }

    /// Replaces a znode's stat and, where given, its access control list and data.
    pub(crate) fn replace(
        &mut self,
        slot: Slot,
        stat: &Stat,
        acl: Option<&Acl>,
        data: Option<&[u8]>,
    ) {
        let held = acl.map(|acl| self.acls.hold(acl));
        self.sum.remove(self.digest(slot));
        let old = self.unpack(slot);
        let (old_acl, old_length) = (old.acl, old.data.len());
        let record = pack(
            old.parent,
            old.name,
            stat,
            held.unwrap_or(old_acl),
            data.unwrap_or(old.data),
        );
        if held.is_some() {
            self.acls.release(old_acl);
        }
        if let Some(data) = data {
            self.data_bytes = self.data_bytes - old_length as u64 + data.len() as u64;
        }
        self.records[slot as usize] = Some(record);
        self.sum.add(self.digest(slot));
    }

    /// Takes a znode without children out.
    pub(crate) fn remove(&mut self, slot: Slot) {
        let (parent, name) = self.place(slot).expect("the caller found it");
        let hash = self.hash(parent, name);
        let records = &self.records;
        if let Some(list) = self.children.get_mut(&parent) {
            list.remove(|other| name_in(records, other), slot);
            if list.length == 0 {
                self.children.remove(&parent);
            }
        }
        if let Ok(entry) = self.by_name.find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
        self.sum.remove(self.digest(slot));
        let old = self.unpack(slot);
        let (acl, length) = (old.acl, old.data.len());
        self.acls.release(acl);
        self.data_bytes -= length as u64;
        self.records[slot as usize] = None;
        self.free.push(slot);
    }

    /// A znode's hash: of its path, its access control list, and the rest of its record as it is packed. Neither
    /// slots nor the numbers of lists go in: they are not the same on every server.
    fn digest(&self, slot: Slot) -> u64 {
        let record = self.records[slot as usize]
            .as_ref()
            .expect("only of a slot that is filled");
        let (acl, content) = read_content(record);
        let (mut seed, mut at) = (self.acls.get(acl).digest, slot);
        while at != ROOT {
            let (parent, name) = self.place(at).expect("a linked slot is filled");
            seed = xxh3_64_with_seed(name.as_bytes(), seed);
            at = parent;
        }
        xxh3_64_with_seed(content, seed)
    }

    fn unpack(&self, slot: Slot) -> Packed<'_> {
        let record = self.records[slot as usize]
            .as_ref()
            .expect("the caller found it");
        let children = self.children.get(&slot).map_or(0, |list| list.length);
        unpack(record, children)
    }

    /// Changes the last byte of a record behind the sum's back.
    #[cfg(test)]
    pub(crate) fn damage(&mut self, path: &ZnodePath) {
        let slot = self.find(path).unwrap();
        *self.records[slot as usize]
            .as_mut()
            .unwrap()
            .last_mut()
            .unwrap() ^= 1;
    }

    fn name(&self, slot: Slot) -> &str {
        name_in(&self.records, slot)
    }

    fn is_called(&self, slot: Slot, parent: Slot, name: &str) -> bool {
        self.place(slot)
            .is_some_and(|place| place == (parent, name))
    }

    fn hash(&self, parent: Slot, name: &str) -> u64 {
        self.hasher.hash_one((parent, name))
    }
}

fn name_in(records: &[Option<Box<[u8]>>], slot: Slot) -> &str {
    read_place(
        records[slot as usize]
            .as_ref()
            .expect("a linked slot is filled"),
    )
    .1
}

fn hash_of(hasher: &DefaultHashBuilder, records: &[Option<Box<[u8]>>], slot: Slot) -> u64 {
    hasher.hash_one(read_place(
        records[slot as usize]
            .as_ref()
            .expect("a linked slot is filled"),
    ))
}

/// A record, read.
struct Packed<'a> {
    parent: Slot,
    name: &'a str,
    stat: Stat,
    acl: AclId,
    data: &'a [u8],
}

const PERSISTENT: u8 = 0;
const CONTAINER: u8 = 1;
const SESSION: u8 = 2;
const UNTIL: u8 = 3;

/// Parent, name, access control list, and the content: lifetime, stat, data. In this order, so that a lookup
/// reads only the beginning, and the content's bytes are the same on every server. Later zxids and moments
/// stand as differences from the first. The content goes into the digest: with another form of it, the
/// snapshots' version has to be another.
fn pack(parent: Slot, name: &str, stat: &Stat, acl: AclId, data: &[u8]) -> Box<[u8]> {
    let mut out = Vec::with_capacity(40 + name.len() + data.len());
    put(&mut out, u64::from(parent));
    put(&mut out, name.len() as u64);
    out.extend_from_slice(name.as_bytes());
    put(&mut out, u64::from(acl));
    let (kind, until) = match stat.lifetime {
        Lifetime::Persistent => (PERSISTENT, None),
        Lifetime::Container => (CONTAINER, None),
        Lifetime::Session(session) => (SESSION, Some(session.0)),
        Lifetime::Until(moment) => (UNTIL, Some(moment.0)),
    };
    out.push(kind);
    if let Some(until) = until {
        put(&mut out, until);
    }
    put(&mut out, stat.created.0);
    put(&mut out, stat.modified.0.wrapping_sub(stat.created.0));
    put(
        &mut out,
        stat.children_modified.0.wrapping_sub(stat.created.0),
    );
    put(&mut out, stat.created_at.0);
    put(&mut out, stat.modified_at.0.wrapping_sub(stat.created_at.0));
    for version in [stat.version, stat.children_version, stat.acl_version] {
        put(&mut out, u64::from(version as u32));
    }
    out.extend_from_slice(data);
    out.into_boxed_slice()
}

fn unpack(record: &[u8], children: u32) -> Packed<'_> {
    let (parent, name) = read_place(record);
    let (acl, content) = read_content(record);
    let kind = content[0];
    let mut at = 1;
    let mut take = || take(content, &mut at);
    let lifetime = match kind {
        CONTAINER => Lifetime::Container,
        SESSION => Lifetime::Session(SessionId(take())),
        UNTIL => Lifetime::Until(Timestamp(take())),
        _ => Lifetime::Persistent,
    };
    let created = take();
    let modified = created.wrapping_add(take());
    let children_modified = created.wrapping_add(take());
    let created_at = take();
    let modified_at = created_at.wrapping_add(take());
    let (version, children_version, acl_version) = (
        take() as u32 as i32,
        take() as u32 as i32,
        take() as u32 as i32,
    );
    let data = &content[at..];
    let stat = Stat {
        created: Zxid(created),
        modified: Zxid(modified),
        children_modified: Zxid(children_modified),
        created_at: Timestamp(created_at),
        modified_at: Timestamp(modified_at),
        version,
        children_version,
        acl_version,
        lifetime,
        data_length: data.len() as u32,
        children,
    };
    Packed {
        parent,
        name,
        stat,
        acl,
        data,
    }
}

fn read_place(record: &[u8]) -> (Slot, &str) {
    let mut at = 0;
    let parent = take(record, &mut at) as Slot;
    let length = take(record, &mut at) as usize;
    let name = std::str::from_utf8(&record[at..at + length]).expect("packed from a str");
    (parent, name)
}

/// What stands behind the name.
fn read_content(record: &[u8]) -> (AclId, &[u8]) {
    let mut at = 0;
    take(record, &mut at);
    at += take(record, &mut at) as usize;
    let acl = take(record, &mut at) as AclId;
    (acl, &record[at..])
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(record: &[u8], at: &mut usize) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = record[*at];
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
        shift += 7;
    }
}

/// Slots in the byte order of their names, in chunks of bounded length.
#[derive(Default)]
struct ChildList {
    chunks: Vec<Vec<Slot>>,
    length: u32,
}

impl ChildList {
    fn insert<'a>(&mut self, name: impl Fn(Slot) -> &'a str, slot: Slot) {
        self.length += 1;
        if self.chunks.is_empty() {
            self.chunks.push(vec![slot]);
            return;
        }
        let chunk_at = self.chunk_of(&name, name(slot)).min(self.chunks.len() - 1);
        let chunk = &mut self.chunks[chunk_at];
        let at = chunk.partition_point(|&other| name(other) < name(slot));
        chunk.insert(at, slot);
        if chunk.len() > MAX_CHUNK {
            // Names mostly come in ascending order: leave the left part full.
            let keep = if at + 1 == chunk.len() {
                MAX_CHUNK
            } else {
                MAX_CHUNK / 2
            };
            let right = chunk.split_off(keep);
            self.chunks.insert(chunk_at + 1, right);
        }
    }

    fn remove<'a>(&mut self, name: impl Fn(Slot) -> &'a str, slot: Slot) {
        let chunk_at = self.chunk_of(&name, name(slot));
        let Some(chunk) = self.chunks.get_mut(chunk_at) else {
            return;
        };
        let at = chunk.partition_point(|&other| name(other) < name(slot));
        if chunk.get(at) == Some(&slot) {
            chunk.remove(at);
            self.length -= 1;
            if chunk.is_empty() {
                self.chunks.remove(chunk_at);
            }
        }
    }

    /// The first chunk whose last name is not before `wanted`.
    fn chunk_of<'a>(&self, name: impl Fn(Slot) -> &'a str, wanted: &str) -> usize {
        self.chunks.partition_point(|chunk| {
            chunk
                .last()
                .is_some_and(|&last| name(last).cmp(wanted) == Ordering::Less)
        })
    }

    fn range<'a>(
        &'a self,
        name: impl Fn(Slot) -> &'a str + Copy + 'a,
        range: &Range,
    ) -> impl Iterator<Item = Slot> + 'a {
        // The position of the first child that is not before the bound (or, `beyond`, after it).
        let position = |bound: &str, beyond: bool| {
            let chunk_at = self.chunk_of(name, bound);
            let at = self.chunks.get(chunk_at).map_or(0, |chunk| {
                chunk.partition_point(|&slot| {
                    let found = name(slot);
                    if beyond {
                        found <= bound
                    } else {
                        found < bound
                    }
                })
            });
            (chunk_at, at)
        };
        let from = range
            .after
            .as_deref()
            .map_or((0, 0), |after| position(after, true));
        let to = range
            .before
            .as_deref()
            .map_or((self.chunks.len(), 0), |before| position(before, false));
        let length = |chunk_at: usize| self.chunks.get(chunk_at).map_or(0, Vec::len);
        let step = move |place: (usize, usize)| {
            if place.1 < length(place.0) {
                place
            } else {
                (place.0 + 1, 0)
            }
        };
        let (mut low, mut high) = (step(from), to);
        let descending = range.descending;
        std::iter::from_fn(move || {
            if descending {
                if high <= low {
                    return None;
                }
                high = if high.1 > 0 {
                    (high.0, high.1 - 1)
                } else {
                    let before = high.0.checked_sub(1)?;
                    (before, length(before).checked_sub(1)?)
                };
                if high < low {
                    None
                } else {
                    self.chunks.get(high.0)?.get(high.1).copied()
                }
            } else {
                if low >= high {
                    return None;
                }
                let slot = self.chunks.get(low.0)?.get(low.1).copied();
                low = step((low.0, low.1 + 1));
                slot
            }
        })
        .take(range.limit as usize)
    }
}

/// A list's number in the table of those in use; 0 is the open one, which most znodes have.
type AclId = u32;

/// The access control lists in use, each once.
struct AclTable {
    lists: Vec<HeldAcl>,
    ids: HashMap<Acl, AclId>,
    free: Vec<AclId>,
}

struct HeldAcl {
    list: Acl,
    holders: u32,
    digest: u64,
    of_everybody: u32,
}

impl HeldAcl {
    fn new(list: &Acl) -> HeldAcl {
        HeldAcl {
            list: list.clone(),
            holders: 1,
            digest: digest_of(list),
            of_everybody: list.of_everybody(),
        }
    }
}

impl Default for AclTable {
    fn default() -> AclTable {
        let open = Acl::open();
        AclTable {
            lists: vec![HeldAcl::new(&open)],
            ids: HashMap::from_iter([(open, 0)]),
            free: Vec::new(),
        }
    }
}

impl AclTable {
    fn get(&self, id: AclId) -> &HeldAcl {
        &self.lists[id as usize]
    }

    fn hold(&mut self, acl: &Acl) -> AclId {
        if let Some(&id) = self.ids.get(acl) {
            self.lists[id as usize].holders += 1;
            return id;
        }
        let held = HeldAcl::new(acl);
        let id = match self.free.pop() {
            Some(id) => {
                self.lists[id as usize] = held;
                id
            }
            None => {
                self.lists.push(held);
                (self.lists.len() - 1) as AclId
            }
        };
        self.ids.insert(acl.clone(), id);
        id
    }

    fn release(&mut self, id: AclId) {
        let held = &mut self.lists[id as usize];
        held.holders -= 1;
        if held.holders == 0 {
            self.ids.remove(&held.list);
            self.free.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn stat(number: u64, lifetime: Lifetime) -> Stat {
        Stat {
            created: Zxid(number),
            modified: Zxid(number + 3),
            children_modified: Zxid(number),
            created_at: Timestamp(number * 7),
            modified_at: Timestamp(number * 9),
            version: number as i32,
            children_version: -2,
            acl_version: 1,
            lifetime,
            data_length: 0,
            children: 0,
        }
    }

    #[test]
    fn a_record_of_100_bytes_stays_small() {
        let mut stat = stat(1 << 33, Lifetime::Persistent);
        stat.created_at = Timestamp(1_800_000_000_000);
        stat.modified_at = stat.created_at;
        let record = pack(70_000, "ticket-0000000001", &stat, 0, &[0; 100]);
        assert!(record.len() <= 100 + 17 + 35, "{}", record.len());
    }

    fn range() -> impl Strategy<Value = Range> {
        let bound = || proptest::option::of("[a-c]{0,3}");
        (bound(), bound(), any::<bool>(), 0..700_u32).prop_map(
            |(after, before, descending, limit)| Range {
                after,
                before,
                descending,
                limit,
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_reads_back(number in any::<u32>(), session in any::<u64>(), name in "[a-zü]{1,40}", data: Vec<u8>) {
            for lifetime in [
                Lifetime::Persistent,
                Lifetime::Container,
                Lifetime::Session(SessionId(session)),
                Lifetime::Until(Timestamp(session)),
            ] {
                let mut stat = stat(u64::from(number), lifetime);
                let record = pack(number, &name, &stat, 7, &data);
                let packed = unpack(&record, 5);
                stat.children = 5;
                stat.data_length = data.len() as u32;
                prop_assert_eq!(packed.stat, stat);
                prop_assert_eq!((packed.parent, packed.name, packed.acl), (number, &*name, 7));
                prop_assert_eq!(packed.data, &*data);
            }
        }

        /// Inserts and removes children like a sorted map, and answers every range like one.
        #[test]
        fn children_stand_in_byte_order(
            steps in proptest::collection::vec(("[a-d]{1,5}", any::<bool>()), 0..1500),
            ranges in proptest::collection::vec(range(), 1..8),
        ) {
            let mut table = NodeTable::default();
            let root = table.insert(ROOT, "", &stat(0, Lifetime::Persistent), &Acl::open(), b"");
            let mut model = BTreeMap::new();
            for (name, remove) in steps {
                if remove {
                    if let Some(slot) = model.remove(&name) {
                        table.remove(slot);
                    }
                } else {
                    model.entry(name).or_insert_with_key(|name| {
                        let stat = stat(1, Lifetime::Persistent);
                        table.insert(root, name, &stat, &Acl::open(), b"x")
                    });
                }
            }
            prop_assert_eq!(table.stat(root).children as usize, model.len());
            prop_assert_eq!(table.data_bytes(), model.len() as u64);
            for range in ranges {
                let inside = |name: &&String| {
                    range.after.as_ref().is_none_or(|after| *name > after)
                        && range.before.as_ref().is_none_or(|before| *name < before)
                };
                let mut expected: Vec<String> = model.keys().filter(inside).cloned().collect();
                if range.descending {
                    expected.reverse();
                }
                expected.truncate(range.limit as usize);
                prop_assert_eq!(table.children(root, &range), expected);
            }
        }
    }
}
