//! Access control lists, as ZooKeeper's clients know them.

use std::collections::HashSet;
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

    /// One of them by its name in ZooKeeper's documentation; of several, the first.
    pub fn name(permission: u32) -> &'static str {
        match permission {
            READ => "READ",
            WRITE => "WRITE",
            CREATE => "CREATE",
            DELETE => "DELETE",
            _ => "ADMIN",
        }
    }
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

    /// The super user, who passes every access control list: ZooKeeper's `super` scheme.
    pub fn super_user() -> Identity {
        Identity {
            scheme: "super".into(),
            id: String::new(),
        }
    }

    fn is_anyone(&self) -> bool {
        self.scheme == "world" && self.id == "anyone"
    }

    /// Whether it is the super user's.
    pub fn is_super_user(&self) -> bool {
        self.scheme == "super"
    }

    /// Of the client at this address.
    pub fn address(address: IpAddr) -> Identity {
        Identity {
            scheme: "ip".into(),
            id: address.to_canonical().to_string(),
        }
    }

    /// Without what others might guess a password by: of a digest `user:hash`, `user:x` is left, as ZooKeeper shows it.
    pub fn masked(&self) -> Identity {
        let Some((user, _)) = self.id.split_once(':').filter(|_| self.scheme == "digest") else {
            return self.clone();
        };
        Identity {
            scheme: self.scheme.clone(),
            id: format!("{user}:x"),
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
        if self.is_anyone() {
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

/// Addresses as an id of the scheme `ip` says them: `address/bits`, or that very address, however it is written.
#[derive(Clone, Copy, Debug)]
struct AddressRange {
    start: IpAddr,
    bits: u32,
}

impl AddressRange {
    fn parse(text: &str) -> Option<AddressRange> {
        let (start, bits) = match text.split_once('/') {
            Some((start, bits)) => (start.parse::<IpAddr>().ok()?, Some(bits.parse().ok()?)),
            None => (text.parse::<IpAddr>().ok()?.to_canonical(), None),
        };
        let most = if start.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(AddressRange { start, bits })
    }

    fn contains(self, address: IpAddr) -> bool {
        match (self.start, address) {
            (IpAddr::V4(start), IpAddr::V4(address)) => {
                let differ = start.to_bits() ^ address.to_bits();
                differ.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(start), IpAddr::V6(address)) => {
                let differ = start.to_bits() ^ address.to_bits();
                differ.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Whether an address is in a range.
fn in_range(range: &str, address: &str) -> bool {
    let parsed = AddressRange::parse(range).zip(address.parse().ok());
    parsed.is_some_and(|(range, address)| range.contains(address))
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
            identity: Identity::anyone(),
        }])
    }

    /// What it gives to whoever it is, as bits of [`permission`].
    pub fn of_everybody(&self) -> u32 {
        let given = self.0.iter().filter(|entry| entry.identity.is_anyone());
        given.fold(0, |given, entry| given | entry.permissions)
    }

    /// Whether it gives one of `permissions` to who has proved `proved`. The super user has all.
    pub fn permits(&self, permissions: u32, proved: &[Identity]) -> bool {
        let gives = |entry: &AclEntry| {
            entry.permissions & permissions != 0 && entry.identity.admits(proved)
        };
        proved.iter().any(Identity::is_super_user) || self.0.iter().any(gives)
    }

    /// What it gives to who has proved `proved`, as bits of [`permission`]. The super user has all.
    pub fn given_to(&self, proved: &[Identity]) -> u32 {
        if proved.iter().any(Identity::is_super_user) {
            return permission::ALL;
        }
        let admits = self.0.iter().filter(|entry| entry.identity.admits(proved));
        admits.fold(0, |given, entry| given | entry.permissions)
    }

    /// The same list without what others might guess a password by.
    pub fn masked(&self) -> Acl {
        let entries = self.0.iter().map(|entry| AclEntry {
            permissions: entry.permissions,
            identity: entry.identity.masked(),
        });
        Acl(entries.collect())
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let entry = |entry: &AclEntry| 16 + entry.identity.scheme.len() + entry.identity.id.len();
        self.0.iter().map(entry).sum()
    }
}

/// To whom a list gives a permission, made to be asked about many clients: however long the list is, each costs little.
#[derive(Debug)]
pub struct Admitted {
    anyone: bool,
    exactly: HashSet<Identity>,
    ranges: Vec<AddressRange>,
}

impl Admitted {
    /// To whom `acl` gives `permission`.
    pub fn of(acl: &Acl, permission: u32) -> Admitted {
        let given = acl.0.iter();
        let given = given.filter(|entry| entry.permissions & permission != 0);
        let mut admitted = Admitted {
            anyone: false,
            exactly: HashSet::new(),
            ranges: Vec::new(),
        };
        for AclEntry { identity, .. } in given {
            admitted.anyone |= identity.is_anyone();
            match AddressRange::parse(&identity.id).filter(|_| identity.scheme == "ip") {
                Some(range) => admitted.ranges.push(range),
                None => drop(admitted.exactly.insert(identity.clone())),
            }
        }
        admitted
    }

    /// Whether who has proved `proved` is among them. The super user always is.
    pub fn admits(&self, proved: &[Identity]) -> bool {
        let in_range = |one: &Identity| match one.id.parse() {
            Ok(address) if one.scheme == "ip" => {
                self.ranges.iter().any(|range| range.contains(address))
            }
            _ => false,
        };
        self.anyone
            || proved
                .iter()
                .any(|one| one.is_super_user() || self.exactly.contains(one) || in_range(one))
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
        assert!(of("ip:fe80:0:0:0:0:0:0:1").admits(&[of("ip:fe80::1")]));
        for wrong in ["anna", ":x", "x:"] {
            assert_eq!(Identity::parse(wrong), None, "{wrong}");
        }
    }

    fn acl(entries: &[(u32, &str)]) -> Acl {
        let entry = |&(permissions, text): &(u32, &str)| AclEntry {
            permissions,
            identity: Identity::parse(text).unwrap(),
        };
        Acl(entries.iter().map(entry).collect())
    }

    #[test]
    fn a_list_gives_what_its_entries_give_together_and_everything_to_the_super_user() {
        use permission::{ADMIN, READ, WRITE};
        let list = acl(&[
            (READ, "world:anyone"),
            (WRITE, "digest:anna:h"),
            (ADMIN, "ip:10.0.0.0/8"),
        ]);
        let anna = [Identity::parse("digest:anna:h").unwrap()];
        assert_eq!(list.of_everybody(), READ);
        assert!(list.permits(READ, &[]) && !list.permits(WRITE, &[]));
        assert!(list.permits(WRITE, &anna) && list.permits(WRITE | ADMIN, &anna));
        assert!(!list.permits(ADMIN, &anna));
        assert!(list.permits(ADMIN, &[Identity::address([10, 0, 0, 7].into())]));
        assert!(list.permits(ADMIN, &[Identity::super_user()]));
        assert!(acl(&[]).permits(ADMIN, &[Identity::super_user()]));
        assert!(!acl(&[]).permits(ADMIN, &anna));
        assert_eq!(Acl::open().of_everybody(), permission::ALL);
    }

    #[test]
    fn hashes_are_masked_and_a_long_list_is_named_in_part() {
        let list = acl(&[
            (31, "digest:anna:h:i"),
            (31, "ip:10.0.0.1"),
            (1, "world:anyone"),
        ]);
        let masked = acl(&[
            (31, "digest:anna:x"),
            (31, "ip:10.0.0.1"),
            (1, "world:anyone"),
        ]);
        assert_eq!(list.masked(), masked);
    }

    #[test]
    fn a_list_that_was_made_ready_admits_whom_the_list_permits() {
        use permission::{ALL, READ, WRITE};
        let lists = [
            acl(&[]),
            acl(&[(READ, "world:anyone")]),
            acl(&[(WRITE, "world:anyone"), (READ, "ip:10.0.0.0/8")]),
            acl(&[(ALL, "ip:fe80:0:0:0:0:0:0:1"), (READ, "digest:anna:h")]),
            acl(&[
                (READ, "ip:none/8"),
                (READ, "ip:10.1.2.3"),
                (WRITE, "digest:anna:h"),
            ]),
        ];
        let people = [
            "",
            "digest:anna:h",
            "digest:otto:h",
            "ip:10.1.2.3",
            "ip:fe80::1",
            "ip:none/8",
            "super:",
        ];
        for list in &lists {
            let ready = Admitted::of(list, READ);
            for one in people {
                for other in people {
                    let proved: Vec<Identity> = [one, other]
                        .into_iter()
                        .filter_map(|text| match text {
                            "super:" => Some(Identity::super_user()),
                            text => Identity::parse(text),
                        })
                        .collect();
                    let permits = list.permits(READ, &proved);
                    assert_eq!(ready.admits(&proved), permits, "{list:?} {proved:?}");
                    assert_eq!(
                        list.given_to(&proved) & READ != 0,
                        permits,
                        "{list:?} {proved:?}"
                    );
                }
            }
        }
    }
}
