//! Who clients are: by their address, and by what they prove with auth.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use quorate_model::acl::Identity;
use quorate_wire::ErrorCode;
use sha1::{Digest as _, Sha1};
use thiserror::Error;

/// The most identities that one connection may add by auth: each goes along with each of its writes.
const MAX_IDENTITIES: usize = 32;

/// The most bytes of one identity: what the name in a certificate may need.
const MAX_IDENTITY_BYTES: usize = 1024;

/// The most bytes of all identities that one connection adds.
const MAX_IDENTITIES_BYTES: usize = 4096;

/// Who passes every access control list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Whoever connects: ZooKeeper's `skipACL`.
    pub skip_acl: bool,
    /// Who knows this password.
    pub super_digest: Option<SuperDigest>,
}

/// The super user's name and password as a hash: ZooKeeper's `DigestAuthenticationProvider.superDigest`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SuperDigest([u8; 20]);

/// It is not `USER:HASH`, where the hash is the SHA-1 of `USER:PASSWORD` in base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the super user's digest is USER:HASH, such as super:D/InIHSb7yEEbrWz8b9l71RjZJU= for the password test: \
     printf %s USER:PASSWORD | openssl dgst -sha1 -binary | base64 makes the hash"
)]
pub struct NoDigest;

impl SuperDigest {
    /// Reads `user:hash`, as ZooKeeper's tools print it. The hash is of the name too, so it alone is kept.
    ///
    /// # Errors
    /// [`NoDigest`].
    pub fn parse(text: &str) -> Result<SuperDigest, NoDigest> {
        let (user, hash) = text.split_once(':').ok_or(NoDigest)?;
        let hash = BASE64_STANDARD.decode(hash).map_err(|_| NoDigest)?;
        let hash = hash.try_into().map_err(|_| NoDigest)?;
        match user.is_empty() {
            true => Err(NoDigest),
            false => Ok(SuperDigest(hash)),
        }
    }
}

/// Keeps it out of logs: what is not salted can be guessed from.
impl fmt::Debug for SuperDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SuperDigest(…)")
    }
}

impl Access {
    /// Who the client at an address is before it has proved anything.
    pub fn identities(&self, address: IpAddr) -> Vec<Identity> {
        let mut identities = vec![Identity::address(address)];
        if self.skip_acl {
            identities.push(Identity::super_user());
        }
        identities
    }

    /// What auth proves. `ip` proves nothing that the connection does not have already; `world` is no
    /// scheme to prove anything by, so it fails in ZooKeeper too.
    ///
    /// # Errors
    /// AuthFailed: no such scheme, or too many identities.
    pub(super) fn prove(
        &self,
        identities: &mut Vec<Identity>,
        scheme: &str,
        auth: &[u8],
    ) -> Result<(), ErrorCode> {
        match scheme {
            "ip" => Ok(()),
            "digest" => {
                let text = String::from_utf8_lossy(auth);
                let hash = <[u8; 20]>::from(Sha1::digest(text.as_bytes()));
                let is_super = self.super_digest == Some(SuperDigest(hash));
                if is_super && !identities.iter().any(Identity::is_super_user) {
                    identities.push(Identity::super_user());
                }
                add(identities, digest_identity(&text, hash))
            }
            _ => Err(ErrorCode::AuthFailed),
        }
    }
}

/// Whether it says who the client is, and not only from where it comes (`AuthenticationProvider.isAuthenticated`), or
/// that it is let do everything.
pub(super) fn is_proof(identity: &Identity) -> bool {
    identity.scheme != "ip" && !identity.is_super_user()
}

fn add(identities: &mut Vec<Identity>, identity: Identity) -> Result<(), ErrorCode> {
    if identities.contains(&identity) {
        return Ok(());
    }
    let bytes = |identity: &Identity| identity.scheme.len() + identity.id.len();
    let added = identities.iter().filter(|one| is_proof(one));
    let added_bytes: usize = added.clone().map(bytes).sum();
    if bytes(&identity) > MAX_IDENTITY_BYTES
        || added.count() >= MAX_IDENTITIES
        || added_bytes + bytes(&identity) > MAX_IDENTITIES_BYTES
    {
        return Err(ErrorCode::AuthFailed);
    }
    identities.push(identity);
    Ok(())
}

/// As ZooKeeper's `DigestAuthenticationProvider` makes it of `user:password`: `user:` and the
/// SHA-1 of the whole in base64.
fn digest_identity(text: &str, hash: [u8; 20]) -> Identity {
    let user = text.split(':').next().unwrap_or_default();
    Identity {
        scheme: "digest".into(),
        id: format!("{user}:{}", BASE64_STANDARD.encode(hash)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add_identity(
        identities: &mut Vec<Identity>,
        scheme: &str,
        auth: &[u8],
    ) -> Result<(), ErrorCode> {
        Access::default().prove(identities, scheme, auth)
    }

    #[test]
    fn digest_is_zookeepers() {
        // The example of ZooKeeper's own documentation and tests: super:test.
        let mut identities = vec![];
        add_identity(&mut identities, "digest", b"super:test").unwrap();
        let shown: Vec<String> = identities.iter().map(Identity::to_string).collect();
        assert_eq!(shown, ["digest:super:D/InIHSb7yEEbrWz8b9l71RjZJU="]);
    }

    #[test]
    fn auth_adds_an_identity_once_and_within_a_bound() {
        let mut identities = vec![];
        for _ in 0..3 {
            assert_eq!(add_identity(&mut identities, "digest", b"a:b"), Ok(()));
        }
        assert_eq!(identities.len(), 1);
        assert_eq!(add_identity(&mut identities, "ip", b""), Ok(()));
        assert_eq!(
            add_identity(&mut identities, "kerberos", b""),
            Err(ErrorCode::AuthFailed)
        );
        assert_eq!(
            add_identity(&mut identities, "world", b"anyone"),
            Err(ErrorCode::AuthFailed)
        );
        let mut more = |prefix: &str| {
            let added = (0..100).filter(|n: &u32| {
                let auth = format!("{prefix}{n}:password");
                add_identity(&mut identities, "digest", auth.as_bytes()).is_ok()
            });
            added.count()
        };
        assert_eq!(more(""), MAX_IDENTITIES - 1);
    }

    #[test]
    fn identities_are_bounded_in_bytes() {
        let mut identities = vec![];
        let mut add = |length: usize, n: usize| {
            let auth = format!("{n}{}:password", "u".repeat(length));
            add_identity(&mut identities, "digest", auth.as_bytes())
        };
        assert_eq!(add(1_000_000, 0), Err(ErrorCode::AuthFailed));
        assert_eq!(add(MAX_IDENTITY_BYTES, 0), Err(ErrorCode::AuthFailed));
        let taken = (0..32).take_while(|n| add(900, *n).is_ok()).count();
        assert_eq!(taken, 4);
        assert!(format!("{identities:?}").len() < MAX_IDENTITIES_BYTES + 200);
        // The password takes no room, however long it is.
        let long = format!("a:{}", "p".repeat(100_000));
        assert_eq!(add_identity(&mut vec![], "digest", long.as_bytes()), Ok(()));
    }

    #[test]
    fn who_knows_the_super_users_password_is_the_super_user() {
        let access = Access {
            super_digest: Some(SuperDigest::parse("super:D/InIHSb7yEEbrWz8b9l71RjZJU=").unwrap()),
            ..Access::default()
        };
        let mut identities = access.identities([127, 0, 0, 1].into());
        access
            .prove(&mut identities, "digest", b"super:toast")
            .unwrap();
        assert!(!identities.iter().any(Identity::is_super_user));
        for _ in 0..2 {
            access
                .prove(&mut identities, "digest", b"super:test")
                .unwrap();
        }
        let supers = identities.iter().filter(|one| one.is_super_user());
        assert_eq!(supers.count(), 1);
        assert_eq!(identities.len(), 4, "the address and two digests besides");
        assert!(!format!("{access:?}").contains("D/In"));
        let mut others = vec![];
        add_identity(&mut others, "digest", b"super:test").unwrap();
        assert!(
            !others.iter().any(Identity::is_super_user),
            "where no digest is named"
        );
        assert!(add_identity(&mut others, "super", b"").is_err());
    }

    #[test]
    fn a_super_digest_is_a_name_and_a_hash() {
        for wrong in [
            "",
            "super",
            "super:",
            ":D/InIHSb7yEEbrWz8b9l71RjZJU=",
            "super:test",
            "super:dGVzdA==",
        ] {
            assert_eq!(SuperDigest::parse(wrong), Err(NoDigest), "{wrong}");
        }
    }

    #[test]
    fn where_lists_are_skipped_everybody_is_the_super_user() {
        let skipping = Access {
            skip_acl: true,
            ..Access::default()
        };
        let address = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(
            Access::default().identities(address),
            [Identity::address(address)]
        );
        assert_eq!(Identity::address(address).to_string(), "ip:10.0.0.1");
        let mut identities = skipping.identities(address);
        assert_eq!(identities[1], Identity::super_user());
        assert!(identities.iter().all(|one| !is_proof(one)));
        skipping.prove(&mut identities, "digest", b"a:b").unwrap();
        assert!(is_proof(&identities[2]));
    }
}
