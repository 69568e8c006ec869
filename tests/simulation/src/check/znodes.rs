//! Znodes: what became of each, transaction by transaction, as the log says; and whether what was read is what was there.

use std::collections::{BTreeMap, BTreeSet};

use quorate_model::id::Zxid;
use quorate_model::write_set::{Change, Transaction};
use quorate_wire::EventType;

use crate::check::{Kind, Violation};
use crate::history::{Glimpse, Seen};

/// What became of the znodes.
#[derive(Default)]
pub struct Znodes {
    /// Of each znode, in order.
    changes: BTreeMap<String, Vec<(Zxid, EventType)>>,
    /// Of each znode's children, in order: which was created, or deleted.
    children: BTreeMap<String, Vec<(Zxid, String, bool)>>,
}

impl Znodes {
    /// As these transactions say.
    pub fn new(transactions: &BTreeMap<Zxid, Transaction>) -> Znodes {
        let mut znodes = Znodes::default();
        for (zxid, transaction) in transactions {
            for change in &transaction.changes {
                let (path, event) = match change {
                    Change::CreateNode { path, .. } => (path, EventType::NodeCreated),
                    Change::SetData { path, .. } => (path, EventType::NodeDataChanged),
                    Change::DeleteNode { path } => (path, EventType::NodeDeleted),
                    _ => continue,
                };
                znodes.changed(*zxid, path.as_str(), event);
            }
        }
        znodes
    }

    fn changed(&mut self, zxid: Zxid, path: &str, event: EventType) {
        let changes = self.changes.entry(path.to_owned()).or_default();
        changes.push((zxid, event));
        if event != EventType::NodeDataChanged
            && let Some((parent, name)) = path.rsplit_once('/')
        {
            let children = self.children.entry(parent.to_owned()).or_default();
            children.push((zxid, name.to_owned(), event == EventType::NodeCreated));
        }
    }

    /// What a watch of the znode would be told, in order.
    pub fn changes(&self, path: &str) -> Vec<(Zxid, EventType)> {
        self.changes.get(path).cloned().unwrap_or_default()
    }

    /// What a watch of the znode's children would be told, in order.
    pub fn changes_of_children(&self, path: &str) -> Vec<(Zxid, EventType)> {
        let children = self.children.get(path).into_iter().flatten();
        children
            .map(|(zxid, ..)| (*zxid, EventType::NodeChildrenChanged))
            .collect()
    }

    /// When the znode was last written, if it is there as of `zxid`.
    pub fn written(&self, path: &str, zxid: Zxid) -> Option<Zxid> {
        let changes = self.changes.get(path)?;
        let last = changes.iter().rfind(|(at, _)| *at <= zxid)?;
        (last.1 != EventType::NodeDeleted).then_some(last.0)
    }

    /// Its children as of `zxid`.
    pub fn children(&self, path: &str, zxid: Zxid) -> BTreeSet<String> {
        let mut now = BTreeSet::new();
        let changes = self.children.get(path).into_iter().flatten();
        for (_, name, created) in changes.take_while(|(at, ..)| *at <= zxid) {
            match created {
                true => now.insert(name.clone()),
                false => now.remove(name),
            };
        }
        now
    }

    /// Reads that say something else than what was there.
    pub fn violations(&self, glimpses: &[Glimpse]) -> Vec<Violation> {
        let mut found = Vec::new();
        for glimpse in glimpses {
            let there = match &glimpse.seen {
                Seen::Written(_) => Seen::Written(self.written(&glimpse.path, glimpse.zxid)),
                Seen::Children(_) => Seen::Children(self.children(&glimpse.path, glimpse.zxid)),
            };
            if there != glimpse.seen {
                let what = format!("{glimpse:?}, and there was {there:?}");
                found.push(Violation::new(Kind::Answer, what));
            }
        }
        found
    }
}

#[cfg(test)]
impl Znodes {
    /// One znode, to which these things happened.
    pub fn of(path: &str, changes: &[(u64, EventType)]) -> Znodes {
        let mut znodes = Znodes::default();
        for (zxid, event) in changes {
            znodes.changed(Zxid(*zxid), path, *event);
        }
        znodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_that_say_what_was_not_there_are_found() {
        let mut znodes = Znodes::default();
        znodes.changed(Zxid(1), "/a", EventType::NodeCreated);
        znodes.changed(Zxid(2), "/a/b", EventType::NodeCreated);
        znodes.changed(Zxid(3), "/a", EventType::NodeDataChanged);
        znodes.changed(Zxid(4), "/a/b", EventType::NodeDeleted);
        let count = |path: &str, zxid, seen| {
            let path = path.into();
            let zxid = Zxid(zxid);
            let glimpse = Glimpse {
                client: 1,
                path,
                zxid,
                seen,
            };
            znodes.violations(&[glimpse]).len()
        };
        let written = |zxid: u64| Seen::Written(Some(Zxid(zxid)));
        assert_eq!(count("/a", 2, written(1)), 0);
        assert_eq!(count("/a", 5, written(3)), 0);
        assert_eq!(count("/a", 5, written(1)), 1);
        assert_eq!(count("/a/b", 3, written(2)), 0);
        assert_eq!(count("/a/b", 4, written(2)), 1);
        assert_eq!(count("/a/b", 4, Seen::Written(None)), 0);
        let children =
            |names: &[&str]| Seen::Children(names.iter().map(|one| (*one).into()).collect());
        assert_eq!(count("/a", 3, children(&["b"])), 0);
        assert_eq!(count("/a", 4, children(&["b"])), 1);
        assert_eq!(count("/a", 4, children(&[])), 0);
    }
}
