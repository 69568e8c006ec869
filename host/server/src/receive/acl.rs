//! Access control lists as they come from the wire: checked for form, `auth` written out.

use std::net::IpAddr;

use quorate_model::acl::{Acl, AclEntry, Identity};
use quorate_wire::ErrorCode;

/// The most entries of one list, as written out. ZooKeeper has no bound but its packet.
const MAX_ENTRIES: usize = 1024;

/// ZooKeeper's `PrepRequestProcessor.fixupACL`: an empty list, an unknown scheme or an id that does
/// not fit it is InvalidACL; `auth` becomes every identity that the connection has proved.
pub(super) fn expand(acl: Acl, identities: &[Identity]) -> Result<Acl, ErrorCode> {
    let mut expanded: Vec<AclEntry> = Vec::with_capacity(acl.0.len());
    let mut add = |entry: AclEntry| {
        if expanded.contains(&entry) {
            return Ok(());
        }
        if expanded.len() >= MAX_ENTRIES {
            return Err(ErrorCode::InvalidAcl);
        }
        expanded.push(entry);
        Ok(())
    };
    for entry in acl.0 {
        let Identity { scheme, id } = &entry.identity;
        match scheme.as_str() {
            "world" if id == "anyone" => add(entry)?,
            "ip" if is_address_range(id) => add(entry)?,
            "digest" if id.split(':').count() == 2 => add(entry)?,
            "auth" => {
                let mut proved = identities.iter().filter(|identity| is_proof(identity));
                let first = proved.next().ok_or(ErrorCode::InvalidAcl)?;
                for identity in std::iter::once(first).chain(proved) {
                    add(AclEntry {
                        permissions: entry.permissions,
                        identity: identity.clone(),
                    })?;
                }
            }
            _ => return Err(ErrorCode::InvalidAcl),
        }
    }
    if expanded.is_empty() {
        return Err(ErrorCode::InvalidAcl);
    }
    Ok(Acl(expanded))
}

/// An address proves nothing about who the client is (`AuthenticationProvider.isAuthenticated`).
fn is_proof(identity: &Identity) -> bool {
    identity.scheme != "ip"
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
            ("kerberos", "me", false),
            ("", "", false),
        ] {
            let expanded = expand(Acl(vec![entry(scheme, id)]), &[]);
            assert_eq!(expanded.is_ok(), good, "{scheme}:{id}");
        }
        assert_eq!(expand(Acl(vec![]), &[]), Err(ErrorCode::InvalidAcl));
    }

    #[test]
    fn auth_is_written_out() {
        let identities = [
            entry("ip", "10.0.0.1"),
            entry("digest", "a:x"),
            entry("digest", "b:y"),
        ]
        .map(|entry| entry.identity);
        let asked = Acl(vec![entry("auth", ""), entry("digest", "a:x")]);
        assert_eq!(
            expand(asked.clone(), &identities),
            Ok(Acl(vec![entry("digest", "a:x"), entry("digest", "b:y")])),
            "without the address, without repeats"
        );
        assert_eq!(
            expand(asked, &identities[..1]),
            Err(ErrorCode::InvalidAcl),
            "nothing was proved"
        );
    }
}
