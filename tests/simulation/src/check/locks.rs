//! Locks: at no transaction has a lock two holders, and tokens grow from holder to holder.

use std::collections::BTreeMap;

use quorate_model::id::{CallId, SessionId, Zxid};

use crate::check::{Kind, Violation};
use crate::history::Hold;

/// When something has ended, as the log says: a call by its answer, and a session.
pub struct Ended {
    /// The calls; what a client was told may be as of later, since it may have asked again.
    pub calls: BTreeMap<CallId, Zxid>,
    /// The sessions.
    pub sessions: BTreeMap<SessionId, Zxid>,
}

/// Two holds of one lock that overlap, and tokens that do not grow.
pub fn violations(holds: &[Hold], ended: &Ended) -> Vec<Violation> {
    let mut locks: BTreeMap<&str, Vec<(Zxid, &Hold)>> = BTreeMap::new();
    for hold in holds {
        // One that is not in the log is found elsewhere.
        if let Some(granted) = ended.calls.get(&hold.acquired) {
            let holds = locks.entry(&hold.lock).or_default();
            holds.push((*granted, hold));
        }
    }
    let mut found = Vec::new();
    let mut broken = |what| found.push(Violation::new(Kind::TwoHolders, what));
    for (lock, mut holds) in locks {
        holds.sort_by_key(|(granted, hold)| (*granted, hold.token));
        for pair in holds.windows(2) {
            let ((_, before), (granted, after)) = (pair[0], pair[1]);
            if before.token >= after.token {
                broken(format!(
                    "{lock}: the token {} of {before:?} is not below that of {after:?}",
                    before.token
                ));
            }
            // Its end with the session's at the latest.
            let session_end = ended.sessions.get(&before.acquired.session).copied();
            let released = before.released.and_then(|call| ended.calls.get(&call));
            let end = released.copied().into_iter().chain(session_end).min();
            if end.is_none_or(|end| end > granted) {
                broken(format!(
                    "{lock}: two holders: {before:?}, which ended {end:?}, and {after:?}, from {granted} on"
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happened when to one lock, by client: its token, when it was granted and when released.
    fn count(holds: &[(u64, u64, u64, Option<u64>)], sessions: &[(u64, u64)]) -> usize {
        let mut calls = BTreeMap::new();
        let mut call = |client: u64, zxid: u64| {
            let session = SessionId(client);
            let id = CallId { session, key: zxid };
            calls.insert(id, Zxid(zxid));
            id
        };
        let holds: Vec<Hold> = holds
            .iter()
            .map(|(client, token, granted, released)| Hold {
                lock: "door".into(),
                token: *token,
                acquired: call(*client, *granted),
                released: released.map(|released| call(*client, released)),
            })
            .collect();
        let sessions = sessions.iter();
        let sessions = sessions.map(|(session, end)| (SessionId(*session), Zxid(*end)));
        let ended = Ended {
            sessions: sessions.collect(),
            calls,
        };
        violations(&holds, &ended).len()
    }

    #[test]
    fn holds_that_overlap_are_found() {
        let next = (2, 6, 20, Some(30));
        assert_eq!(count(&[(1, 5, 10, Some(20)), next], &[]), 0);
        assert_eq!(count(&[(1, 5, 10, Some(21)), next], &[]), 1);
        assert_eq!(count(&[(1, 5, 10, None), next], &[]), 1);
        let expired = [(1, 15)];
        assert_eq!(count(&[(1, 5, 10, None), next], &expired), 0);
    }

    #[test]
    fn tokens_that_do_not_grow_are_found() {
        let holds = [(1, 5, 10, Some(20)), (2, 5, 20, Some(30))];
        assert_eq!(count(&holds, &[]), 1);
    }
}
