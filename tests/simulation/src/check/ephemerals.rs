//! Ephemerals: each exists as long as its session does, unless the session itself deletes it.

use std::collections::{BTreeMap, BTreeSet};

use quorate_model::id::{SessionId, Zxid};
use quorate_model::write_set::{Change, Transaction};
use quorate_model::znode::Lifetime;

use crate::check::{Kind, Violation};

/// Below this znode clients create ephemerals, and nobody else deletes them.
pub const EPHEMERALS: &str = "/ephemerals";

/// Ephemerals of no session, or of one that has ended, and those that went before their sessions did.
pub fn violations(transactions: &BTreeMap<Zxid, Transaction>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut broken = |what| found.push(Violation::new(Kind::Ephemeral, what));
    let mut open: BTreeSet<SessionId> = BTreeSet::new();
    let mut ephemerals: BTreeMap<&str, SessionId> = BTreeMap::new();
    for (zxid, transaction) in transactions {
        let closed = |owner| {
            let closes = |change: &Change| matches!(change, Change::CloseSession { session } if *session == owner);
            transaction.changes.iter().any(closes)
        };
        for change in &transaction.changes {
            match change {
                Change::OpenSession { .. } => drop(open.insert(SessionId(zxid.0))),
                Change::UpgradeSession { session, .. } => drop(open.insert(*session)),
                Change::CloseSession { session } => {
                    open.remove(session);
                    for (path, _) in ephemerals.iter().filter(|(_, owner)| *owner == session) {
                        broken(format!(
                            "{path} is there still, and session {session} has ended at {zxid}"
                        ));
                    }
                }
                Change::CreateNode { path, lifetime, .. }
                | Change::SetLifetime { path, lifetime } => match lifetime {
                    Lifetime::Session(owner) => {
                        if !open.contains(owner) {
                            broken(format!(
                                "{path} was created at {zxid}, and there is no session {owner}"
                            ));
                        }
                        ephemerals.insert(path.as_str(), *owner);
                    }
                    Lifetime::Persistent | Lifetime::Container | Lifetime::Until(_) => {
                        ephemerals.remove(path.as_str());
                    }
                },
                Change::DeleteNode { path } => {
                    if let Some(owner) = ephemerals.remove(path.as_str())
                        && path.as_str().starts_with(EPHEMERALS)
                        && transaction.session != owner
                        && !closed(owner)
                    {
                        broken(format!(
                            "{path} went at {zxid}, and its session {owner} goes on"
                        ));
                    }
                }
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quorate_model::acl::Acl;
    use quorate_model::id::Timestamp;
    use quorate_model::path::ZnodePath;
    use quorate_model::request::Password;

    fn path() -> ZnodePath {
        ZnodePath::parse("/ephemerals/a").unwrap()
    }

    fn open() -> Change {
        Change::OpenSession {
            password: Password([0; 16]),
            timeout_ms: 1,
            owner: None,
        }
    }

    fn create(session: u64) -> Change {
        Change::CreateNode {
            path: path(),
            data: Bytes::new(),
            acl: Acl::open(),
            lifetime: Lifetime::Session(SessionId(session)),
        }
    }

    fn delete() -> Change {
        Change::DeleteNode { path: path() }
    }

    fn close(session: u64) -> Change {
        Change::CloseSession {
            session: SessionId(session),
        }
    }

    /// Each transaction is of the session that it begins with; the first is at zxid 1.
    fn count(transactions: &[(u64, Vec<Change>)]) -> usize {
        let transaction = |(session, changes): &(u64, Vec<Change>)| Transaction {
            time: Timestamp(0),
            origin: None,
            session: SessionId(*session),
            changes: changes.clone(),
            outcome: None,
        };
        let all = (1..)
            .map(Zxid)
            .zip(transactions.iter().map(transaction))
            .collect();
        violations(&all).len()
    }

    #[test]
    fn an_ephemeral_lives_as_long_as_its_session() {
        let begin = [(0, vec![open()]), (1, vec![create(1)])];
        let with = |last: (u64, Vec<Change>)| count(&[&begin[..], &[last]].concat());
        assert_eq!(count(&begin), 0);
        assert_eq!(with((0, vec![delete(), close(1)])), 0);
        assert_eq!(with((1, vec![delete()])), 0, "it may delete it itself");
        assert_eq!(with((0, vec![close(1)])), 1);
        assert_eq!(with((0, vec![delete()])), 1);
        assert_eq!(
            count(&[(0, vec![open()]), (0, vec![close(1)]), (1, vec![create(1)])]),
            1
        );
        assert_eq!(count(&[(0, vec![open()]), (2, vec![create(2)])]), 1);
    }
}
