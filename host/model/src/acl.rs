//! Access control lists, as ZooKeeper's clients know them.

use std::fmt;
use std::net::IpAddr;
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

impl Identity {
    /// `world:anyone`: whoever it is.
    pub fn anyone() -> Identity {
        Identity {
            scheme: "world".into(),
            id: "anyone".into(),
        }
    }

    /// Reads `scheme:id`; none if there is no colon or nothing on one side of it.
    pub fn parse(text: &str) -> Option<Identity> {
        let (scheme, id) = text.split_once(':')?;
        let filled = !scheme.is_empty() && !id.is_empty();
        filled.then(|| Identity {
            scheme: scheme.to_owned(),
            id: id.to_owned(),
        })
    }

    /// Whether who has proved `proved` is meant. An id of the scheme `ip` may be a range, `10.0.0.0/8`.
    pub fn admits(&self, proved: &[Identity]) -> bool {
        if *self == Identity::anyone() {
            return true;
        }
        proved.iter().any(|one| {
            let same_scheme = one.scheme == self.scheme;
            same_scheme && (one.id == self.id || self.scheme == "ip" && in_range(&self.id, &one.id))
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scheme, self.id)
    }
}

/// Whether an address is in a range `address/bits`, both of IPv4 or both of IPv6.
fn in_range(range: &str, address: &str) -> bool {
    let Some((start, bits)) = range.split_once('/') else {
        return false;
    };
    let parsed = (start.parse(), address.parse(), bits.parse::<u32>());
    let (Ok(start), Ok(address), Ok(bits)) = parsed else {
        return false;
    };
    match (start, address) {
        (IpAddr::V4(start), IpAddr::V4(address)) if bits <= 32 => {
            let differ = start.to_bits() ^ address.to_bits();
            differ.checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(start), IpAddr::V6(address)) if bits <= 128 => {
            let differ = start.to_bits() ^ address.to_bits();
            differ.checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_admits_itself_and_a_range_its_addresses() {
        let of = |text| Identity::parse(text).unwrap();
        let proved = [of("ip:10.1.2.3"), of("digest:anna:x")];
        for good in [
            "world:anyone",
            "ip:10.1.2.3",
            "ip:10.0.0.0/8",
            "ip:0.0.0.0/0",
            "digest:anna:x",
        ] {
            assert!(of(good).admits(&proved), "{good}");
        }
        for bad in [
            "ip:10.1.2.4",
            "ip:11.0.0.0/8",
            "ip:10.1.2.3/33",
            "ip:::/0",
            "ip:x/8",
            "digest:anna",
            "x:anyone",
        ] {
            assert!(!of(bad).admits(&proved), "{bad}");
        }
        assert!(of("ip:fe80::/10").admits(&[of("ip:fe80::1")]));
        for wrong in ["anna", ":x", "x:"] {
            assert_eq!(Identity::parse(wrong), None, "{wrong}");
        }
    }
}
