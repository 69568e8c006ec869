//! Leases: at no transaction has one two holders, tokens grow from holder to holder, and none ends before its time unless it
//! is given back.

use std::collections::BTreeMap;

use quorate_model::call::Ending;
use quorate_model::id::{Timestamp, Zxid};
use quorate_model::write_set::{Change, Transaction};
use quorate_model::znode::Lifetime;
use serde_json::Value;

use crate::check::{Kind, Violation};

/// Where the leases are.
pub const LEASES: &str = "/leases/";

/// A lease that somebody has.
#[derive(Debug)]
struct Held {
    token: u64,
    until: Timestamp,
}

/// Leases with two holders, with a token that has not grown, or of another length than was told.
pub fn violations(transactions: &BTreeMap<Zxid, Transaction>) -> Vec<Violation> {
    let mut found = Vec::new();
    // By name: who has it, and the last token if there was one.
    let mut leases: BTreeMap<&str, (Option<Held>, Option<u64>)> = BTreeMap::new();
    for (zxid, transaction) in transactions {
        let mut broken = |what: String| {
            found.push(Violation::new(
                Kind::TwoHolders,
                format!("{what}, at {zxid}"),
            ));
        };
        let time = transaction.time;
        for change in &transaction.changes {
            let (path, until) = match change {
                Change::CreateNode { path, lifetime, .. }
                | Change::SetLifetime { path, lifetime } => match lifetime {
                    Lifetime::Until(until) => (path, Some(*until)),
                    _ => continue,
                },
                Change::DeleteNode { path } => (path, None),
                _ => continue,
            };
            let Some((name, token)) = lease_of(path.as_str()) else {
                continue;
            };
            let (held, last) = leases.entry(name).or_default();
            let Some(until) = until else {
                if let Some(ended) = held.take_if(|held| held.token == token)
                    && time < ended.until
                    && result(transaction) != Some(Value::Bool(true))
                {
                    broken(format!("{name}: {ended:?} ended at {time:?}"));
                }
                continue;
            };
            let wrong = match held {
                Some(held) if held.token != token => {
                    Some(format!("{held:?}, and {token} has it too"))
                }
                Some(held) => (held.until < time).then(|| format!("{held:?} renewed at {time:?}")),
                None => (Some(token) <= *last).then(|| format!("{token} comes behind {last:?}")),
            };
            if let Some(wrong) = wrong {
                broken(format!("{name}: {wrong}"));
            }
            let told = result(transaction).unwrap_or_default();
            if told["token"].as_u64() != Some(token) || told["expires"].as_u64() != Some(until.0) {
                broken(format!(
                    "{name}: {token} is held until {until:?}, and was told {told}"
                ));
            }
            *last = (*last).max(Some(token));
            *held = Some(Held { token, until });
        }
    }
    found
}

/// A lease's name and token.
fn lease_of(path: &str) -> Option<(&str, u64)> {
    let (name, ticket) = path.strip_prefix(LEASES)?.split_once('/')?;
    Some((name, ticket.strip_prefix("ticket-")?.parse().ok()?))
}

/// What the call returns that this transaction answers.
fn result(transaction: &Transaction) -> Option<Value> {
    transaction.changes.iter().find_map(|change| match change {
        Change::PutAnswer { answer, .. } => match &answer.ending {
            Ending::Returned(result) => serde_json::from_str(result).ok(),
            _ => None,
        },
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::call::{Answer, Fingerprint};
    use quorate_model::id::{CallId, SessionId};
    use quorate_model::path::ZnodePath;
    use serde_json::json;

    fn path(token: u64) -> ZnodePath {
        ZnodePath::parse(&format!("{LEASES}a/ticket-{token:016}")).unwrap()
    }

    fn answer(result: &Value) -> Change {
        Change::PutAnswer {
            call: CallId {
                session: SessionId(1),
                key: 1,
            },
            answer: Answer {
                fingerprint: Fingerprint([0; 16]),
                ending: Ending::Returned(result.to_string()),
                zxid: Zxid(0),
            },
        }
    }

    fn held(token: u64, until: u64) -> Vec<Change> {
        let lifetime = Change::SetLifetime {
            path: path(token),
            lifetime: Lifetime::Until(Timestamp(until)),
        };
        vec![lifetime, answer(&json!({"token": token, "expires": until}))]
    }

    fn gone(token: u64) -> Change {
        Change::DeleteNode { path: path(token) }
    }

    /// Each at its time.
    fn count(transactions: Vec<(u64, Vec<Change>)>) -> usize {
        let transactions = (1..).zip(transactions).map(|(zxid, (time, changes))| {
            let transaction = Transaction {
                time: Timestamp(time),
                origin: None,
                session: SessionId(1),
                changes,
                outcome: None,
            };
            (Zxid(zxid), transaction)
        });
        violations(&transactions.collect()).len()
    }

    #[test]
    fn two_holders_are_found() {
        let released = vec![gone(1), answer(&json!(true))];
        let ended = vec![gone(1)];
        assert_eq!(count(vec![(0, held(1, 9)), (5, held(2, 20))]), 1);
        assert_eq!(
            count(vec![(0, held(1, 9)), (5, released), (5, held(2, 20))]),
            0
        );
        assert_eq!(
            count(vec![(0, held(0, 9)), (9, vec![gone(0)]), (9, held(2, 20))]),
            0
        );
        assert_eq!(count(vec![(0, held(1, 9)), (8, ended.clone())]), 1);
        assert_eq!(
            count(vec![(0, held(2, 9)), (9, vec![gone(2)]), (9, held(1, 20))]),
            1
        );
    }

    #[test]
    fn what_has_ended_is_not_renewed() {
        assert_eq!(count(vec![(0, held(1, 9)), (8, held(1, 17))]), 0);
        assert_eq!(count(vec![(0, held(1, 9)), (10, held(1, 17))]), 1);
        let other = vec![
            held(1, 9).remove(0),
            answer(&json!({"token": 1, "expires": 8})),
        ];
        assert_eq!(count(vec![(0, other)]), 1);
    }
}
