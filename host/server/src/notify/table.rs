//! Who watches what: the one-shot watches of the clients connected here.

use hashbrown::{HashMap, HashSet};
use quorate_model::acl::{Acl, permission};
use quorate_model::path::ZnodePath;
use quorate_model::write_set::Change;
use quorate_tree::State;
use quorate_wire::EventType;
use thiserror::Error;

/// The most watches that one connection holds. A client that watches more than this many znodes would
/// spend its reconnects on setWatches alone.
pub const MAX_WATCHES_PER_CONNECTION: usize = 1 << 18;

/// A connection holds [`MAX_WATCHES_PER_CONNECTION`] watches already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the connection holds {MAX_WATCHES_PER_CONNECTION} watches already")]
pub struct TooManyWatches;

/// A watch that fired, on some connections.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fired {
    /// What happened.
    pub(super) event: EventType,
    /// To which znode.
    pub(super) path: ZnodePath,
    /// Who is told: ascending, without repeats, never empty.
    pub(super) connections: Vec<u64>,
    /// The znode's access control list, unless that lets everybody read: then only who may is told.
    pub(super) closed: Option<Acl>,
}

/// The watches of all connections. As in ZooKeeper, exists and getData set the same kind of watch, so
/// that both on one path give one event.
#[derive(Debug, Default)]
pub(super) struct WatchTable {
    data: Watched,
    children: Watched,
    of_connection: HashMap<u64, Paths>,
    count: usize,
}

/// The connections that watch a path, ascending: numbers grow, so that a new one mostly goes to the end.
type Watched = HashMap<ZnodePath, Vec<u64>>;

#[derive(Debug, Default)]
struct Paths {
    data: HashSet<ZnodePath>,
    children: HashSet<ZnodePath>,
}

impl WatchTable {
    /// Tells `connection` when the znode is created or deleted, or its data are set.
    pub(super) fn watch_data(
        &mut self,
        connection: u64,
        path: &ZnodePath,
    ) -> Result<(), TooManyWatches> {
        let paths = self.of_connection.entry(connection).or_default();
        if paths.len() >= MAX_WATCHES_PER_CONNECTION && !paths.data.contains(path) {
            return Err(TooManyWatches);
        }
        if paths.data.insert(path.clone()) {
            self.count += 1;
            insert(&mut self.data, path, connection);
        }
        Ok(())
    }

    /// Tells `connection` when a child is created or deleted, or the znode itself is deleted.
    pub(super) fn watch_children(
        &mut self,
        connection: u64,
        path: &ZnodePath,
    ) -> Result<(), TooManyWatches> {
        let paths = self.of_connection.entry(connection).or_default();
        if paths.len() >= MAX_WATCHES_PER_CONNECTION && !paths.children.contains(path) {
            return Err(TooManyWatches);
        }
        if paths.children.insert(path.clone()) {
            self.count += 1;
            insert(&mut self.children, path, connection);
        }
        Ok(())
    }

    /// Watches die with their connection.
    pub(super) fn forget(&mut self, connection: u64) {
        let Some(paths) = self.of_connection.remove(&connection) else {
            return;
        };
        self.count -= paths.len();
        for path in &paths.data {
            remove(&mut self.data, path, connection);
        }
        for path in &paths.children {
            remove(&mut self.children, path, connection);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Takes out the watches that `change` fires, in the order in which ZooKeeper tells them: the
    /// znode's own before its parent's.
    ///
    /// `before` is the state in front of the transaction. A znode that is there has its list there: no other change of
    /// the same transaction fires the watch as well, and no transaction of a client's sets a list and does more.
    pub(super) fn fire(&mut self, change: &Change, before: &State, fired: &mut Vec<Fired>) {
        if self.count == 0 {
            return;
        }
        match change {
            Change::CreateNode { path, acl, .. } => {
                if let Some(connections) = self.take_data(path.as_str()) {
                    let closed = (acl.of_everybody() & permission::READ == 0).then(|| acl.clone());
                    push(fired, EventType::NodeCreated, path, connections, closed);
                }
                self.fire_parent(path, before, fired);
            }
            Change::DeleteNode { path } => {
                self.fire_deleted(path, before, fired);
                self.fire_parent(path, before, fired);
            }
            Change::SetData { path, .. } => {
                if let Some(connections) = self.take_data(path.as_str()) {
                    let closed = closed(before, path);
                    push(fired, EventType::NodeDataChanged, path, connections, closed);
                }
            }
            // A changed parent is told by the change of its child; the rest is no event in ZooKeeper either.
            Change::TouchParent { .. }
            | Change::SetAcl { .. }
            | Change::SetLifetime { .. }
            | Change::OpenSession { .. }
            | Change::UpgradeSession { .. }
            | Change::MoveSession { .. }
            | Change::CloseSession { .. }
            | Change::Park(_)
            | Change::Unpark(_)
            | Change::Mark(_)
            | Change::PutAnswer { .. }
            | Change::Acknowledge { .. }
            | Change::PutPiece { .. }
            | Change::DropUpload { .. }
            | Change::KeepComponent { .. }
            | Change::RemoveComponent { .. }
            | Change::PutRecipe(_)
            | Change::RemoveRecipe { .. }
            | Change::PutMount(_)
            | Change::SetSequence { .. }
            | Change::CountFailures { .. }
            | Change::Suspend { .. }
            | Change::RemoveMount { .. }
            | Change::RaiseVersion { .. }
            | Change::SetUnmounting { .. }
            | Change::SetUpgrade { .. } => {}
        }
    }

    fn fire_parent(&mut self, path: &ZnodePath, before: &State, fired: &mut Vec<Fired>) {
        if let Some((parent, connections)) = self.take_children(parent(path.as_str())) {
            let closed = closed(before, &parent);
            let event = EventType::NodeChildrenChanged;
            push(fired, event, &parent, connections, closed);
        }
    }

    /// Whoever watches both data and children is told once.
    fn fire_deleted(&mut self, path: &ZnodePath, before: &State, fired: &mut Vec<Fired>) {
        let data = self.take_data(path.as_str());
        let children = self.take_children(path.as_str());
        let connections = match (data, children) {
            (None, None) => return,
            (Some(connections), None) | (None, Some((_, connections))) => connections,
            (Some(mut connections), Some((_, children))) => {
                connections.extend(children);
                connections.sort_unstable();
                connections.dedup();
                connections
            }
        };
        let closed = closed(before, path);
        push(fired, EventType::NodeDeleted, path, connections, closed);
    }

    fn take_data(&mut self, path: &str) -> Option<Vec<u64>> {
        let (path, connections) = self.data.remove_entry(path)?;
        self.count -= connections.len();
        for connection in &connections {
            if let Some(paths) = self.of_connection.get_mut(connection) {
                paths.data.remove(&path);
            }
        }
        Some(connections)
    }

    fn take_children(&mut self, path: &str) -> Option<(ZnodePath, Vec<u64>)> {
        let (path, connections) = self.children.remove_entry(path)?;
        self.count -= connections.len();
        for connection in &connections {
            if let Some(paths) = self.of_connection.get_mut(connection) {
                paths.children.remove(&path);
            }
        }
        Some((path, connections))
    }
}

impl Paths {
    fn len(&self) -> usize {
        self.data.len() + self.children.len()
    }
}

/// The parent's path without an allocation; of the root nobody asks, it is neither created nor deleted.
fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

fn insert(watched: &mut Watched, path: &ZnodePath, connection: u64) {
    let connections = watched.entry(path.clone()).or_default();
    if let Err(at) = connections.binary_search(&connection) {
        connections.insert(at, connection);
    }
}

fn remove(watched: &mut Watched, path: &ZnodePath, connection: u64) {
    if let Some(connections) = watched.get_mut(path) {
        if let Ok(at) = connections.binary_search(&connection) {
            connections.remove(at);
        }
        if connections.is_empty() {
            watched.remove(path);
        }
    }
}

/// A znode's access control list, unless it lets everybody read. It is looked for only where somebody watches, and not
/// at all where everybody may.
fn closed(state: &State, path: &ZnodePath) -> Option<Acl> {
    let znode = state.find(path)?;
    (znode.open_to() & permission::READ == 0).then(|| znode.acl().clone())
}

fn push(
    fired: &mut Vec<Fired>,
    event: EventType,
    path: &ZnodePath,
    connections: Vec<u64>,
    closed: Option<Acl>,
) {
    fired.push(Fired {
        event,
        path: path.clone(),
        connections,
        closed,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quorate_model::znode::Lifetime;

    fn path(text: &str) -> ZnodePath {
        ZnodePath::parse(text).unwrap()
    }

    fn created(text: &str) -> Change {
        Change::CreateNode {
            path: path(text),
            data: Bytes::new(),
            acl: Acl::open(),
            lifetime: Lifetime::Persistent,
        }
    }

    fn deleted(text: &str) -> Change {
        Change::DeleteNode { path: path(text) }
    }

    fn set(text: &str) -> Change {
        Change::SetData {
            path: path(text),
            data: Bytes::new(),
            version: 1,
        }
    }

    fn touched(text: &str) -> Change {
        Change::TouchParent {
            path: path(text),
            children_version: 1,
        }
    }

    /// Watches as `"data 1 /a"`, fired as `"NodeCreated /a [1]"`.
    fn check(watches: &[&str], changes: &[Change], expected: &[&str]) {
        let mut table = WatchTable::default();
        for watch in watches {
            let words: Vec<&str> = watch.split(' ').collect();
            let connection = words[1].parse().unwrap();
            match words[0] {
                "data" => table.watch_data(connection, &path(words[2])).unwrap(),
                _ => table.watch_children(connection, &path(words[2])).unwrap(),
            }
        }
        let mut fired = Vec::new();
        for change in changes {
            table.fire(change, &State::new(), &mut fired);
        }
        let told: Vec<String> = fired
            .iter()
            .map(|f| format!("{:?} {} {:?}", f.event, f.path, f.connections))
            .collect();
        assert_eq!(told, expected, "watches {watches:?}");
    }

    #[test]
    fn each_change_fires_what_zookeeper_fires() {
        check(&["data 1 /a"], &[created("/a")], &["NodeCreated /a [1]"]);
        check(&["data 1 /a"], &[set("/a")], &["NodeDataChanged /a [1]"]);
        check(&["data 1 /a"], &[deleted("/a")], &["NodeDeleted /a [1]"]);
        check(&["children 1 /a"], &[set("/a")], &[]);
        check(
            &["children 1 /a"],
            &[deleted("/a")],
            &["NodeDeleted /a [1]"],
        );
        check(
            &["children 1 /a"],
            &[created("/a/b")],
            &["NodeChildrenChanged /a [1]"],
        );
        check(
            &["children 1 /"],
            &[deleted("/a")],
            &["NodeChildrenChanged / [1]"],
        );
        check(&["data 1 /a"], &[created("/a/b"), touched("/a")], &[]);
        check(&["data 1 /a"], &[created("/ab")], &[]);
        check(&["children 1 /a"], &[created("/ab")], &[]);
    }

    #[test]
    fn a_watch_fires_once() {
        check(
            &["data 1 /a"],
            &[set("/a"), set("/a"), deleted("/a")],
            &["NodeDataChanged /a [1]"],
        );
    }

    #[test]
    fn the_znode_is_told_before_its_parent() {
        check(
            &["children 1 /a", "data 1 /a/b"],
            &[created("/a/b")],
            &["NodeCreated /a/b [1]", "NodeChildrenChanged /a [1]"],
        );
    }

    #[test]
    fn who_watches_data_and_children_is_told_once_of_a_deletion() {
        check(
            &["data 2 /a", "children 1 /a", "children 2 /a", "data 3 /a"],
            &[deleted("/a")],
            &["NodeDeleted /a [1, 2, 3]"],
        );
    }

    #[test]
    fn exists_and_get_set_one_watch() {
        check(
            &["data 1 /a", "data 1 /a"],
            &[set("/a")],
            &["NodeDataChanged /a [1]"],
        );
    }

    #[test]
    fn watches_die_with_their_connection() {
        let mut table = WatchTable::default();
        table.watch_data(1, &path("/a")).unwrap();
        table.watch_children(1, &path("/a")).unwrap();
        table.watch_data(2, &path("/a")).unwrap();
        assert_eq!(table.len(), 3);
        table.forget(1);
        assert_eq!(table.len(), 1);
        let mut fired = Vec::new();
        table.fire(&deleted("/a"), &State::new(), &mut fired);
        assert_eq!(fired[0].connections, [2]);
        assert_eq!(table.len(), 0);
        assert!(table.data.is_empty() && table.children.is_empty());
    }

    #[test]
    fn a_connection_has_a_bound() {
        let mut table = WatchTable::default();
        for number in 0..MAX_WATCHES_PER_CONNECTION {
            table.watch_data(1, &path(&format!("/{number}"))).unwrap();
        }
        assert_eq!(table.watch_children(1, &path("/0")), Err(TooManyWatches));
        assert_eq!(table.watch_data(1, &path("/0")), Ok(()), "it has that one");
        assert_eq!(table.watch_data(2, &path("/x")), Ok(()), "another may");
    }
}
