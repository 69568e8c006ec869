//! Queues: every item that was offered is there, once, until it is taken or confirmed; the first goes to whoever waits
//! longest.

use std::collections::{BTreeMap, BTreeSet};

use quorate_model::call::Ending;
use quorate_model::id::{SessionId, Zxid};
use quorate_model::write_set::{Change, Transaction};
use quorate_model::znode::Lifetime;
use quorate_wire::CallStatus;
use serde_json::Value;

use crate::check::tree::Tree;
use crate::check::{Kind, Violation};
use crate::client::calls::Called;

/// Where the queues are.
pub const QUEUES: &str = "/queues";

/// Whoever waits for an item that is there has it before so many transactions have been applied.
const SOON: usize = 300;

/// Items that are lost, there twice, given out of turn, or given to nobody while somebody waits.
pub fn violations(called: &[Called], transactions: &BTreeMap<Zxid, Transaction>) -> Vec<Violation> {
    let mut queues = Queues::default();
    for (zxid, transaction) in transactions {
        queues.apply(*zxid, transaction);
    }
    let offered = called
        .iter()
        .filter(|one| one.call.mount == QUEUES && one.call.operation == "offer");
    for offer in offered {
        queues.offered(offer);
    }
    queues.found
}

#[derive(Default)]
struct Queues {
    tree: Tree,
    /// By content: the ids that it was offered as. Every content that a client offers is unique.
    offered: BTreeMap<String, Vec<String>>,
    /// All ids that ever were, with their queue.
    ids: BTreeSet<String>,
    /// For how many transactions each queue has had an item and somebody who waits for it.
    idle: BTreeMap<String, usize>,
    found: Vec<Violation>,
}

/// What of a queue a path is: the queue's path, the part, and the name there.
fn part_of(path: &str) -> Option<(&str, &str, &str)> {
    let (above, name) = path.strip_prefix(QUEUES)?.rsplit_once('/')?;
    let (queue, part) = above.rsplit_once('/')?;
    (!queue.is_empty()).then(|| (&path[..QUEUES.len() + queue.len()], part, name))
}

/// The session of the first call that returns in this transaction, and its result.
fn returned(transaction: &Transaction) -> Option<(SessionId, Value)> {
    transaction.changes.iter().find_map(|change| match change {
        Change::PutAnswer { call, answer } => match &answer.ending {
            Ending::Returned(result) => Some((
                call.session,
                serde_json::from_str(result).unwrap_or_default(),
            )),
            _ => None,
        },
        _ => None,
    })
}

impl Queues {
    fn broken(&mut self, kind: Kind, what: String) {
        self.found.push(Violation::new(kind, what));
    }

    /// The first item of a queue that nobody has claimed.
    fn first(&self, queue: &str) -> Option<&str> {
        self.tree
            .children(&format!("{queue}/items"))
            .find(|(id, _)| self.tree.node(&format!("{queue}/claims/{id}")).is_none())
            .map(|(id, _)| id)
    }

    /// Who waits longest.
    fn first_ticket(&self, queue: &str) -> Option<String> {
        let consumers = format!("{queue}/consumers");
        let first = self.tree.children(&consumers).next();
        first.map(|(ticket, _)| format!("{consumers}/{ticket}"))
    }

    fn apply(&mut self, zxid: Zxid, transaction: &Transaction) {
        let deletes = |wanted: &str| {
            let deleted = |change: &Change| matches!(change, Change::DeleteNode { path } if path.as_str() == wanted);
            transaction.changes.iter().any(deleted)
        };
        let mut touched = BTreeSet::new();
        for change in &transaction.changes {
            let (path, created) = match change {
                Change::CreateNode { path, data, .. } => (path, Some(data)),
                Change::DeleteNode { path } => (path, None),
                _ => continue,
            };
            let Some((queue, part, id)) = part_of(path.as_str()) else {
                continue;
            };
            touched.insert(queue);
            match (part, created) {
                ("items", Some(content)) => {
                    if !self.ids.insert(path.as_str().to_owned()) {
                        self.broken(Kind::Twice, format!("{path} is there again at {zxid}"));
                    }
                    let content = String::from_utf8_lossy(content).into_owned();
                    self.offered.entry(content).or_default().push(id.to_owned());
                }
                ("items", None) => {
                    let claim = format!("{queue}/claims/{id}");
                    let claimer = self.tree.node(&claim).map(|node| node.lifetime);
                    match claimer {
                        None => self.given(zxid, transaction, queue, id, &deletes),
                        // It is confirmed, by whoever has it.
                        Some(claimer) => {
                            let by = returned(transaction).map(|(by, _)| Lifetime::Session(by));
                            if by != Some(claimer) || !deletes(&claim) {
                                let what = format!(
                                    "{path}, claimed by {claimer:?}, went at {zxid} by {by:?}"
                                );
                                self.broken(Kind::Queue, what);
                            }
                        }
                    }
                }
                ("claims", Some(_)) => self.given(zxid, transaction, queue, id, &deletes),
                _ => {}
            }
        }
        for change in &transaction.changes {
            self.tree.apply(zxid, change);
        }
        for queue in touched {
            self.idle.entry(queue.to_owned()).or_default();
        }
        let queues: Vec<String> = self.idle.keys().cloned().collect();
        for queue in queues {
            let idle = self.first(&queue).is_some() && self.first_ticket(&queue).is_some();
            let count = self.idle.entry(queue.clone()).or_default();
            *count = if idle { *count + 1 } else { 0 };
            if *count > SOON {
                *count = 0;
                let what = format!("{queue} has an item at {zxid}, and somebody waits for it");
                self.broken(Kind::Stuck, what);
            }
        }
    }

    /// An item was given in this transaction, before which the tree is as it is here.
    fn given(
        &mut self,
        zxid: Zxid,
        transaction: &Transaction,
        queue: &str,
        id: &str,
        deletes: &dyn Fn(&str) -> bool,
    ) {
        let told = returned(transaction).and_then(|(_, item)| Some(item["id"].as_str()? == id));
        if told != Some(true) {
            let what = format!("{id} of {queue} went at {zxid}, and was given to nobody");
            self.broken(Kind::Queue, what);
        }
        let first = self.first(queue).map(str::to_owned);
        if first.as_deref() != Some(id) {
            let what = format!("{id} of {queue} was given at {zxid}, and the first was {first:?}");
            self.broken(Kind::Queue, what);
        }
        if let Some(ticket) = self.first_ticket(queue).filter(|ticket| !deletes(ticket)) {
            let what = format!("{id} of {queue} was given at {zxid}, not to {ticket}");
            self.broken(Kind::Queue, what);
        }
    }

    /// What was offered is there once; if that was not told, once at most.
    fn offered(&mut self, offer: &Called) {
        let content = offer.call.arguments[1].as_str().unwrap_or_default();
        let ids = self.offered.get(content).map_or(&[][..], Vec::as_slice);
        let told = offer.returned();
        let told = told.as_ref().and_then(Value::as_str);
        let kind = match (offer.status(), ids) {
            (Some(CallStatus::Returned), [id]) if told == Some(id) => return,
            (None, [] | [_]) | (Some(CallStatus::BadCall), []) => return,
            (Some(_), []) => Kind::Lost,
            (_, [_]) => Kind::Answer,
            _ => Kind::Twice,
        };
        let what = format!("{offer:?} was offered as {ids:?}");
        self.broken(kind, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::transactions;
    use crate::client::calls::Call;
    use bytes::Bytes;
    use quorate_model::acl::Acl;
    use quorate_model::call::{Answer, Fingerprint};
    use quorate_model::id::CallId;
    use quorate_model::path::ZnodePath;
    use quorate_wire::CallResponse;
    use serde_json::json;

    fn create(path: &str, lifetime: Lifetime) -> Change {
        Change::CreateNode {
            path: ZnodePath::parse(&format!("{QUEUES}/{path}")).unwrap(),
            data: Bytes::from_static(b"what"),
            acl: Acl::open(),
            lifetime,
        }
    }

    fn item(id: &str) -> Change {
        create(&format!("q/items/{id}"), Lifetime::Persistent)
    }

    fn delete(path: &str) -> Change {
        Change::DeleteNode {
            path: ZnodePath::parse(&format!("{QUEUES}/{path}")).unwrap(),
        }
    }

    fn mine(path: &str) -> Change {
        create(path, Lifetime::Session(SessionId(1)))
    }

    fn answer(session: u64, result: Value) -> Change {
        Change::PutAnswer {
            call: CallId {
                session: SessionId(session),
                key: 1,
            },
            answer: Answer {
                fingerprint: Fingerprint([0; 16]),
                ending: Ending::Returned(result.to_string()),
                zxid: Zxid(0),
            },
        }
    }

    fn given(id: &str) -> Change {
        answer(1, json!({"id": id, "content": "what"}))
    }

    fn kinds(all: Vec<Vec<Change>>, called: &[Called]) -> Vec<Kind> {
        let found = violations(called, &transactions(all));
        found.into_iter().map(|found| found.kind).collect()
    }

    #[test]
    fn the_first_item_is_given_to_whoever_waits_longest() {
        let two = || vec![vec![item("1")], vec![item("2")]];
        let with = |last: Vec<Vec<Change>>| kinds([two(), last].concat(), &[]);
        assert_eq!(with(vec![vec![delete("q/items/1"), given("1")]]), []);
        let second = vec![delete("q/items/2"), given("2")];
        assert_eq!(with(vec![second.clone()]), [Kind::Queue]);
        let claimed = vec![mine("q/claims/1"), given("1")];
        assert_eq!(with(vec![claimed.clone(), second]), []);
        assert_eq!(with(vec![vec![delete("q/items/1")]]), [Kind::Queue]);
        let ticket = |number| mine(&format!("q/consumers/ticket-{number}"));
        let to = |number| {
            let ticket = delete(&format!("q/consumers/ticket-{number}"));
            vec![delete("q/items/1"), ticket, given("1")]
        };
        let waiting = vec![ticket(1), ticket(2)];
        assert_eq!(with(vec![waiting.clone(), to(1)]), []);
        assert_eq!(with(vec![waiting.clone(), to(2)]), [Kind::Queue]);
        let idle = std::iter::repeat_n(vec![], SOON);
        let idle = std::iter::once(waiting).chain(idle).collect();
        assert_eq!(with(idle), [Kind::Stuck]);
    }

    #[test]
    fn an_item_is_confirmed_by_whoever_has_it() {
        let with = |by| {
            let claimed = vec![mine("q/claims/1"), given("1")];
            let confirm = vec![
                delete("q/claims/1"),
                delete("q/items/1"),
                answer(by, Value::Null),
            ];
            kinds(vec![vec![item("1")], claimed, confirm], &[])
        };
        assert_eq!(with(1), []);
        assert_eq!(with(2), [Kind::Queue]);
    }

    #[test]
    fn what_was_offered_is_there_once() {
        let offer = |told: Option<&str>| Called {
            id: CallId {
                session: SessionId(1),
                key: 1,
            },
            call: Call::new(QUEUES, "offer", json!(["q", "what"])),
            told: told.map(|id| {
                let response = CallResponse {
                    status: CallStatus::Returned,
                    result: json!(id).to_string(),
                };
                (Zxid(1), response)
            }),
        };
        let once = || vec![vec![item("1")]];
        let twice = || vec![vec![item("1")], vec![item("2")]];
        assert_eq!(kinds(once(), &[offer(Some("1"))]), []);
        assert_eq!(kinds(once(), &[offer(None)]), []);
        assert_eq!(kinds(vec![], &[offer(None)]), []);
        assert_eq!(kinds(vec![], &[offer(Some("1"))]), [Kind::Lost]);
        assert_eq!(kinds(once(), &[offer(Some("2"))]), [Kind::Answer]);
        assert_eq!(kinds(twice(), &[offer(Some("1"))]), [Kind::Twice]);
        assert_eq!(kinds(twice(), &[offer(None)]), [Kind::Twice]);
    }
}
