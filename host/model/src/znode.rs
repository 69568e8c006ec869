//! A znode's values: how long it lives, its stat, its data.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{SessionId, Timestamp, Zxid};

/// The most data one znode takes, in bytes: ZooKeeper's `jute.maxbuffer` default, 1 MiB less one.
pub const MAX_DATA_BYTES: usize = 0xf_ffff;

/// How long a znode lives. Only `Persistent` and `Container` have children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Lifetime {
    /// Until it is deleted.
    Persistent,
    /// Until its last child is deleted: it goes in the same transaction.
    Container,
    /// Until that session ends: ZooKeeper's ephemeral.
    Session(SessionId),
    /// Until that moment.
    Until(Timestamp),
}

impl Lifetime {
    /// Whether a znode of this lifetime may have children.
    pub fn allows_children(self) -> bool {
        matches!(self, Lifetime::Persistent | Lifetime::Container)
    }

    /// What `Stat.ephemeralOwner` shows to ZooKeeper's clients: the session. It marks containers and
    /// timed znodes there too, but on disk only: its `DataNode.copyStat` shows 0 for them.
    pub fn ephemeral_owner(self) -> i64 {
        match self {
            Lifetime::Session(session) => session.0 as i64,
            Lifetime::Persistent | Lifetime::Container | Lifetime::Until(_) => 0,
        }
    }
}

/// All of a znode but its name, data and access control list. What ZooKeeper calls Stat is derived from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// The transaction that created it (czxid).
    pub created: Zxid,
    /// The one that last set its data, or created it (mzxid).
    pub modified: Zxid,
    /// The one that last created or deleted a child, or created it (pzxid).
    pub children_modified: Zxid,
    /// The moment of `created` (ctime).
    pub created_at: Timestamp,
    /// The moment of `modified` (mtime).
    pub modified_at: Timestamp,
    /// How often its data were set. Wraps as ZooKeeper's does, never to -1, which means "any version".
    pub version: i32,
    /// How often a child was created or deleted (cversion).
    pub children_version: i32,
    /// How often its access control list was set (aversion).
    pub acl_version: i32,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// How many bytes of data.
    pub data_length: u32,
    /// How many children.
    pub children: u32,
}

/// A znode's data and stat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its data.
    #[serde(with = "crate::readable")]
    pub data: Bytes,
    /// Everything else.
    pub stat: Stat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ephemerals_have_an_owner() {
        assert_eq!(Lifetime::Session(SessionId(7)).ephemeral_owner(), 7);
        for lifetime in [
            Lifetime::Persistent,
            Lifetime::Container,
            Lifetime::Until(Timestamp(1)),
        ] {
            assert_eq!(lifetime.ephemeral_owner(), 0, "{lifetime:?}");
        }
    }
}
