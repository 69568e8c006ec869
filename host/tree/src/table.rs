//! An ordered table whose entries know whether the snapshot being written has covered them, and which
//! keeps the sum of their hashes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::RangeBounds;

use crate::digest::{Sum, digest_of};
use crate::snapshot::Record;

/// A value of a table.
pub(crate) trait Kept<K> {
    /// It and its key as a snapshot holds them, and as they are hashed.
    fn record(&self, key: &K) -> Record<'_>;

    /// Of it and its key, for the state's digest.
    fn hash(&self, key: &K) -> u64 {
        digest_of(&self.record(key))
    }
}

/// Keys in order; each value with the mark of the last snapshot that covered it.
pub(crate) struct Table<K, V> {
    entries: BTreeMap<K, (u8, V)>,
    sum: Sum,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table {
            entries: BTreeMap::new(),
            sum: Sum::default(),
        }
    }
}

impl<K: Ord + Clone, V: Kept<K>> Table<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Of all entries, for the state's digest.
    pub(crate) fn sum(&self) -> Sum {
        self.sum
    }

    /// The same, counted anew.
    #[cfg(test)]
    pub(crate) fn counted_sum(&self) -> Sum {
        let mut sum = Sum::default();
        for (key, (_, value)) in &self.entries {
            sum.add(value.hash(key));
        }
        sum
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|(_, value)| value)
    }

    pub(crate) fn range(&self, range: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        self.entries
            .range(range)
            .map(|(key, (_, value))| (key, value))
    }

    /// Puts a value, covered by snapshot `mark`; gives the old one if that snapshot has not covered it.
    pub(crate) fn put(&mut self, key: K, value: V, mark: u8) -> Option<V> {
        self.sum.add(value.hash(&key));
        let (covered_by, old) = match self.entries.entry(key) {
            Entry::Vacant(place) => {
                place.insert((mark, value));
                return None;
            }
            Entry::Occupied(mut place) => {
                self.sum.remove(place.get().1.hash(place.key()));
                place.insert((mark, value))
            }
        };
        (covered_by != mark).then_some(old)
    }

    /// Takes a value out; gives it, and whether snapshot `mark` has covered it.
    pub(crate) fn remove(&mut self, key: &K, mark: u8) -> Option<(V, bool)> {
        let (covered_by, old) = self.entries.remove(key)?;
        self.sum.remove(old.hash(key));
        Some((old, covered_by == mark))
    }

    /// The next entries behind `after` in order, at most `limit`, each with whether `mark` has covered it; they are covered then.
    pub(crate) fn cover(
        &mut self,
        after: Option<&K>,
        limit: usize,
        mark: u8,
    ) -> impl Iterator<Item = (&K, &V, bool)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.entries
            .range_mut::<K, _>((from, Unbounded))
            .take(limit)
            .map(move |(key, entry)| {
                let covered = entry.0 == mark;
                entry.0 = mark;
                (key, &entry.1, covered)
            })
    }

    /// Forgets every mark.
    pub(crate) fn reset_marks(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.0 = 0);
    }
}
