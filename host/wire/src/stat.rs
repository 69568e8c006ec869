//! Stat, as it stands on the wire.

use quorate_model::znode;

use crate::jute::{DecodeError, Reader, Record, Writer};

/// A znode's stat with ZooKeeper's names and numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// The transaction that created it.
    pub czxid: i64,
    /// The one that last set its data.
    pub mzxid: i64,
    /// When it was created, in milliseconds since the Unix epoch.
    pub ctime: i64,
    /// When its data were last set.
    pub mtime: i64,
    /// How often its data were set.
    pub version: i32,
    /// How often a child was created or deleted.
    pub cversion: i32,
    /// How often its access control list was set.
    pub aversion: i32,
    /// The session whose ephemeral it is; 0 for every other znode.
    pub ephemeral_owner: i64,
    /// How many bytes of data.
    pub data_length: i32,
    /// How many children.
    pub num_children: i32,
    /// The transaction that last created or deleted a child.
    pub pzxid: i64,
}

/// How many bytes a stat takes.
pub const STAT_BYTES: usize = 68;

impl From<&znode::Stat> for Stat {
    fn from(stat: &znode::Stat) -> Stat {
        Stat {
            czxid: stat.created.0.cast_signed(),
            mzxid: stat.modified.0.cast_signed(),
            ctime: stat.created_at.0.cast_signed(),
            mtime: stat.modified_at.0.cast_signed(),
            version: stat.version,
            cversion: stat.children_version,
            aversion: stat.acl_version,
            ephemeral_owner: stat.lifetime.ephemeral_owner(),
            data_length: stat.data_length.cast_signed(),
            num_children: stat.children.cast_signed(),
            pzxid: stat.children_modified.0.cast_signed(),
        }
    }
}

impl Record for Stat {
    fn encode(&self, out: &mut Writer<'_>) {
        out.long(self.czxid);
        out.long(self.mzxid);
        out.long(self.ctime);
        out.long(self.mtime);
        out.int(self.version);
        out.int(self.cversion);
        out.int(self.aversion);
        out.long(self.ephemeral_owner);
        out.int(self.data_length);
        out.int(self.num_children);
        out.long(self.pzxid);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Stat, DecodeError> {
        Ok(Stat {
            czxid: input.long()?,
            mzxid: input.long()?,
            ctime: input.long()?,
            mtime: input.long()?,
            version: input.int()?,
            cversion: input.int()?,
            aversion: input.int()?,
            ephemeral_owner: input.long()?,
            data_length: input.int()?,
            num_children: input.int()?,
            pzxid: input.long()?,
        })
    }
}
