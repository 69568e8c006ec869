//! The tree as the log says it was, transaction by transaction.

use std::collections::BTreeMap;

use quorate_model::id::Zxid;
use quorate_model::write_set::Change;
use quorate_model::znode::Lifetime;

/// A znode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The transaction that created it.
    pub created: Zxid,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Its data.
    pub data: String,
}

/// Znodes by path.
#[derive(Default)]
pub struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// A change of the transaction `zxid`.
    pub fn apply(&mut self, zxid: Zxid, change: &Change) {
        match change {
            Change::CreateNode {
                path,
                data,
                lifetime,
                ..
            } => {
                let node = Node {
                    created: zxid,
                    lifetime: *lifetime,
                    data: String::from_utf8_lossy(data).into_owned(),
                };
                self.0.insert(path.as_str().to_owned(), node);
            }
            Change::DeleteNode { path } => drop(self.0.remove(path.as_str())),
            Change::SetData { path, data, .. } => {
                if let Some(node) = self.0.get_mut(path.as_str()) {
                    node.data = String::from_utf8_lossy(data).into_owned();
                }
            }
            Change::SetLifetime { path, lifetime } => {
                if let Some(node) = self.0.get_mut(path.as_str()) {
                    node.lifetime = *lifetime;
                }
            }
            _ => {}
        }
    }

    /// The znode, if it is there.
    pub fn node(&self, path: &str) -> Option<&Node> {
        self.0.get(path)
    }

    /// Its children by name, in order.
    pub fn children(&self, path: &str) -> impl Iterator<Item = (&str, &Node)> + use<'_> {
        let prefix = format!("{path}/");
        let length = prefix.len();
        let below = self.0.range(prefix.clone()..);
        below
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .filter(move |(path, _)| !path[length..].contains('/'))
            .map(move |(path, node)| (&path[length..], node))
    }
}
