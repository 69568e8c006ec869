//! Locks: at no transaction has a lock two holders, and tokens grow from holder to holder.

use std::collections::BTreeMap;

use quorate_model::id::{SessionId, Zxid};

use crate::check::{Kind, Violation};
use crate::history::Hold;

/// Two holds of one lock that overlap, and tokens that do not grow.
pub fn violations(holds: &[Hold], ended: &BTreeMap<SessionId, Zxid>) -> Vec<Violation> {
    let mut locks: BTreeMap<&str, Vec<&Hold>> = BTreeMap::new();
    for hold in holds {
        locks.entry(&hold.lock).or_default().push(hold);
    }
    let mut found = Vec::new();
    let mut broken = |what| found.push(Violation::new(Kind::TwoHolders, what));
    for (lock, mut holds) in locks {
        holds.sort_by_key(|hold| (hold.granted, hold.token));
        for pair in holds.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            if before.token >= after.token {
                broken(format!(
                    "{lock}: the token {} of {before:?} is not below that of {after:?}",
                    before.token
                ));
            }
            // Its end with the session's at the latest.
            let session_end = ended.get(&before.session).copied();
            let end = before.released.into_iter().chain(session_end).min();
            if end.is_none_or(|end| end > after.granted) {
                broken(format!(
                    "{lock}: two holders: {before:?}, whose session ended {session_end:?}, and {after:?}"
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(client: u64, token: u64, granted: u64, released: Option<u64>) -> Hold {
        Hold {
            client,
            lock: "door".into(),
            session: SessionId(client),
            token,
            granted: Zxid(granted),
            released: released.map(Zxid),
        }
    }

    #[test]
    fn holds_that_overlap_are_found() {
        let none = BTreeMap::new();
        let good = [hold(1, 5, 10, Some(20)), hold(2, 6, 20, Some(30))];
        assert_eq!(violations(&good, &none), []);
        let bad = [hold(1, 5, 10, Some(21)), hold(2, 6, 20, Some(30))];
        assert_eq!(violations(&bad, &none).len(), 1);
        let never_released = [hold(1, 5, 10, None), hold(2, 6, 20, Some(30))];
        assert_eq!(violations(&never_released, &none).len(), 1);
        let expired = BTreeMap::from([(SessionId(1), Zxid(15))]);
        assert_eq!(violations(&never_released, &expired), []);
    }

    #[test]
    fn tokens_that_do_not_grow_are_found() {
        let holds = [hold(1, 5, 10, Some(20)), hold(2, 5, 20, Some(30))];
        assert_eq!(violations(&holds, &BTreeMap::new()).len(), 1);
    }
}
