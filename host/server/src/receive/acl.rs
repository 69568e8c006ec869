//! Access control lists as they come from the wire: checked for form, `auth` written out.

use std::net::IpAddr;

use quorate_model::acl::{Acl, AclEntry, Identity};
use quorate_wire::ErrorCode;

use super::access::is_proof;

/// The most entries of one list, as written out. ZooKeeper has no bound but its packet.
const MAX_ENTRIES: usize = 1024;

/// The most bytes of one list, as written out.
const MAX_LIST_BYTES: usize = 64 << 10;

/// The most bytes of all lists of one request, as written out: a few bytes of `auth` become all that
/// the connection has proved, and a multi has room for ten thousands of them.
const MAX_BYTES_PER_REQUEST: usize = 1 << 20;

/// Writes out the lists of one request.
pub(super) struct Expansion<'a> {
    identities: &'a [Identity],
    bytes_left: usize,
}

impl<'a> Expansion<'a> {
    /// For a connection that has proved to be these.
    pub(super) fn new(identities: &'a [Identity]) -> Expansion<'a> {
        Expansion {
            identities,
            bytes_left: MAX_BYTES_PER_REQUEST,
        }
    }

    /// ZooKeeper's `PrepRequestProcessor.fixupACL`: an empty list, an unknown scheme or an id that does
    /// not fit it is InvalidACL; `auth` becomes every identity that the connection has proved.
    pub(super) fn expand(&mut self, acl: Acl) -> Result<Acl, ErrorCode> {
        let mut expanded: Vec<AclEntry> = Vec::with_capacity(acl.0.len().min(MAX_ENTRIES));
        let mut list_bytes_left = MAX_LIST_BYTES.min(self.bytes_left);
        let mut add = |permissions: u32, identity: &Identity| {
            let same =
                |entry: &AclEntry| entry.permissions == permissions && entry.identity == *identity;
            if expanded.iter().any(same) {
                return Ok(());
            }
            let bytes = ENTRY_BYTES + identity.scheme.len() + identity.id.len();
            if expanded.len() >= MAX_ENTRIES || bytes > list_bytes_left {
                return Err(ErrorCode::InvalidAcl);
            }
            list_bytes_left -= bytes;
            self.bytes_left -= bytes;
            expanded.push(AclEntry {
                permissions,
                identity: identity.clone(),
            });
            Ok(())
        };
        for AclEntry {
            permissions,
            identity,
        } in acl.0.iter()
        {
            let Identity { scheme, id } = identity;
            match scheme.as_str() {
                "world" if id == "anyone" => add(*permissions, identity)?,
                "ip" if is_address_range(id) => add(*permissions, identity)?,
                "digest" if is_user_and_digest(id) => add(*permissions, identity)?,
                "auth" => {
                    let mut proved = self.identities.iter().filter(|one| is_proof(one));
                    let first = proved.next().ok_or(ErrorCode::InvalidAcl)?;
                    for identity in std::iter::once(first).chain(proved) {
                        add(*permissions, identity)?;
                    }
                }
                _ => return Err(ErrorCode::InvalidAcl),
            }
        }
        if expanded.is_empty() {
            return Err(ErrorCode::InvalidAcl);
        }
        Ok(Acl::from(expanded))
    }
}

/// What an entry takes besides its scheme and id: the permissions and two lengths, on the wire.
const ENTRY_BYTES: usize = 12;

/// ZooKeeper's `DigestAuthenticationProvider.isValid`: two parts, as Java splits, without the empty
/// ones at the end. So `a:` is none and `a:b:` is one.
fn is_user_and_digest(id: &str) -> bool {
    id.trim_end_matches(':').split(':').count() == 2
}

/// `address` or `address/bits`.
fn is_address_range(id: &str) -> bool {
    let (address, bits) = match id.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (id, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits.parse::<u32>().is_ok_and(|bits| bits <= most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(acl: Acl, identities: &[Identity]) -> Result<Acl, ErrorCode> {
        Expansion::new(identities).expand(acl)
    }

    fn entry(scheme: &str, id: &str) -> AclEntry {
        AclEntry {
            permissions: 31,
            identity: Identity {
                scheme: scheme.into(),
                id: id.into(),
            },
        }
    }

    #[test]
    fn form_is_checked_as_zookeeper_does() {
        for (scheme, id, good) in [
            ("world", "anyone", true),
            ("world", "me", false),
            ("ip", "10.0.0.1", true),
            ("ip", "10.0.0.0/8", true),
            ("ip", "10.0.0.0/33", false),
            ("ip", "::1/128", true),
            ("ip", "here", false),
            ("digest", "user:hash", true),
            ("digest", "user", false),
            ("digest", "user:hash:more", false),
            ("digest", "user:", false),
            ("digest", "::", false),
            ("digest", ":", false),
            ("digest", "", false),
            ("digest", ":hash", true),
            ("digest", "user:hash:", true),
            ("kerberos", "me", false),
            ("", "", false),
        ] {
            let expanded = expand(Acl::from(vec![entry(scheme, id)]), &[]);
            assert_eq!(expanded.is_ok(), good, "{scheme}:{id}");
        }
        assert_eq!(expand(Acl::from(vec![]), &[]), Err(ErrorCode::InvalidAcl));
    }

    #[test]
    fn auth_is_written_out() {
        let identities = [
            entry("ip", "10.0.0.1"),
            entry("digest", "a:x"),
            entry("digest", "b:y"),
        ]
        .map(|entry| entry.identity);
        let asked = Acl::from(vec![entry("auth", ""), entry("digest", "a:x")]);
        assert_eq!(
            expand(asked.clone(), &identities),
            Ok(Acl::from(vec![
                entry("digest", "a:x"),
                entry("digest", "b:y")
            ])),
            "without the address, without repeats"
        );
        assert_eq!(
            expand(asked, &identities[..1]),
            Err(ErrorCode::InvalidAcl),
            "nothing was proved"
        );
    }

    #[test]
    fn what_is_written_out_has_a_bound_per_list_and_per_request() {
        let identities: Vec<Identity> = (0..4)
            .map(|n| entry("digest", &format!("{n}{}:x", "u".repeat(1000))).identity)
            .collect();
        let asked = |entries: u32| {
            let entries = (0..entries).map(|permissions| AclEntry {
                permissions,
                ..entry("auth", "")
            });
            Acl(entries.collect())
        };
        let mut expansion = Expansion::new(&identities);
        assert_eq!(expansion.expand(asked(100)), Err(ErrorCode::InvalidAcl));
        let mut expansion = Expansion::new(&identities);
        let expanded = (0..1000).take_while(|_| expansion.expand(asked(10)).is_ok());
        let expanded = expanded.count();
        assert!((20..30).contains(&expanded), "{expanded} lists of 40 KB");
    }
}
