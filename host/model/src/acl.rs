//! Access control lists, as ZooKeeper's clients know them.

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

/// Permission bits, as on ZooKeeper's wire.
pub mod permission {
    /// Read data and list children.
    pub const READ: u32 = 1;
    /// Set data.
    pub const WRITE: u32 = 2;
    /// Create children.
    pub const CREATE: u32 = 4;
    /// Delete children.
    pub const DELETE: u32 = 8;
    /// Set the access control list.
    pub const ADMIN: u32 = 16;
    /// All of them.
    pub const ALL: u32 = 31;
}

/// Who somebody has proved to be, such as `ip`/`127.0.0.1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// How it was proved: `world`, `ip`, `digest`, …
    pub scheme: String,
    /// Who, in that scheme's own form.
    pub id: String,
}

/// One entry of an access control list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AclEntry {
    /// Bits of [`permission`].
    pub permissions: u32,
    /// To whom they are given.
    pub identity: Identity,
}

/// A znode's access control list: at least one entry. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Acl(pub Arc<[AclEntry]>);

impl Acl {
    /// `world:anyone` with every permission: ZooKeeper's `OPEN_ACL_UNSAFE`.
    pub fn open() -> Acl {
        static OPEN: LazyLock<Acl> = LazyLock::new(|| Acl::of_anyone(permission::ALL));
        OPEN.clone()
    }

    /// `world:anyone` who may read: ZooKeeper's `READ_ACL_UNSAFE`.
    pub fn read_only() -> Acl {
        Acl::of_anyone(permission::READ)
    }

    fn of_anyone(permissions: u32) -> Acl {
        Acl::from(vec![AclEntry {
            permissions,
            identity: Identity {
                scheme: "world".into(),
                id: "anyone".into(),
            },
        }])
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let entry = |entry: &AclEntry| 16 + entry.identity.scheme.len() + entry.identity.id.len();
        self.0.iter().map(entry).sum()
    }
}

impl From<Vec<AclEntry>> for Acl {
    fn from(entries: Vec<AclEntry>) -> Acl {
        Acl(entries.into())
    }
}
