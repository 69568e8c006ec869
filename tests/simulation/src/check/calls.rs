//! Calls: each has one answer, and its client is told that one; a call that ends without a result leaves nothing behind
//! (rule C3), none waits where nothing is mounted, and whoever is woken runs.

use std::collections::{BTreeMap, BTreeSet};

use quorate_model::call::{Answer, Ending, ParkedCall};
use quorate_model::id::{CallId, SessionId, Zxid};
use quorate_model::path::ZnodePath;
use quorate_model::write_set::{Change, Transaction};
use quorate_model::znode::Lifetime;
use quorate_wire::{CallResponse, CallStatus};

use crate::check::tree::Tree;
use crate::check::{Kind, Violation};
use crate::client::calls::Called;

/// A call that is to run is run before so many transactions have been applied.
const SOON: usize = 300;

/// What became of the calls, as the log says.
#[derive(Default)]
struct Calls {
    tree: Tree,
    mounts: BTreeSet<ZnodePath>,
    parked: BTreeMap<CallId, ParkedCall>,
    /// All that ever were.
    were_parked: BTreeSet<CallId>,
    answers: BTreeMap<CallId, (Zxid, Answer)>,
    /// Up to which key each session has acknowledged: only calls that waited by then go on.
    marks: BTreeMap<SessionId, u64>,
    closed: BTreeSet<SessionId>,
    /// Which calls are to run, and since which transaction in the order of all.
    due: BTreeMap<CallId, usize>,
    found: Vec<Violation>,
}

/// Calls that were answered twice, or never, or wrongly, or left something behind.
pub fn violations(called: &[Called], transactions: &BTreeMap<Zxid, Transaction>) -> Vec<Violation> {
    let mut calls = Calls::default();
    for (place, (zxid, transaction)) in transactions.iter().enumerate() {
        calls.apply(place, *zxid, transaction);
    }
    for one in called {
        calls.told(one);
    }
    calls.found
}

/// At which transaction each call was answered.
pub fn answered(transactions: &BTreeMap<Zxid, Transaction>) -> BTreeMap<CallId, Zxid> {
    let mut answered = BTreeMap::new();
    for (zxid, transaction) in transactions {
        for change in &transaction.changes {
            if let Change::PutAnswer { call, .. } = change {
                answered.insert(*call, *zxid);
            }
        }
    }
    answered
}

impl Calls {
    fn broken(&mut self, kind: Kind, what: String) {
        self.found.push(Violation::new(kind, what));
    }

    fn apply(&mut self, place: usize, zxid: Zxid, transaction: &Transaction) {
        let mut ended = Vec::new();
        for change in &transaction.changes {
            self.tree.apply(zxid, change);
            match change {
                Change::Park(call) => {
                    self.may_go_on(zxid, call.id);
                    if !self.mounts.contains(&call.mount) {
                        let what =
                            format!("{call:?} waits at {zxid}, and nothing is mounted there");
                        self.broken(Kind::Call, what);
                    }
                    // A standing call is kept before it has run first, with its mark.
                    match call.marked {
                        true => drop(self.due.insert(call.id, place)),
                        false => drop(self.due.remove(&call.id)),
                    }
                    self.were_parked.insert(call.id);
                    self.parked.insert(call.id, (**call).clone());
                }
                Change::Unpark(id) => {
                    self.due.remove(id);
                    match self.parked.remove(id) {
                        Some(call) => ended.push(call),
                        None => {
                            let what = format!("{id:?} ended at {zxid}, and did not wait");
                            self.broken(Kind::Twice, what);
                        }
                    }
                }
                Change::Mark(id) => drop(self.due.entry(*id).or_insert(place)),
                Change::PutAnswer { call, answer } => {
                    self.may_go_on(zxid, *call);
                    self.answers.insert(*call, (zxid, answer.clone()));
                }
                Change::Acknowledge {
                    session,
                    mark,
                    forgotten,
                } => self.acknowledged(zxid, *session, *mark, forgotten),
                Change::CloseSession { session } => drop(self.closed.insert(*session)),
                Change::PutMount(mount) => {
                    self.mounts.insert(mount.path.clone());
                }
                Change::RemoveMount { path } => {
                    self.mounts.remove(path);
                }
                _ => {}
            }
        }
        for call in ended {
            self.ended(zxid, transaction, &call);
        }
        let left = self.parked.values().find(|call| {
            self.closed.contains(&call.id.session) || !self.mounts.contains(&call.mount)
        });
        if let Some(left) = left.cloned() {
            self.parked.remove(&left.id);
            let what = format!("{left:?} waits at {zxid}, and its session or its mount has gone");
            self.broken(Kind::Call, what);
        }
        let late = self.due.iter().find(|(_, since)| place > **since + SOON);
        if let Some((id, _)) = late.map(|(id, since)| (*id, *since)) {
            self.due.remove(&id);
            let what = format!("{id:?} was woken, and has not run {SOON} transactions later");
            self.broken(Kind::Stuck, what);
        }
    }

    /// What is forgotten was answered, and marks go up.
    fn acknowledged(&mut self, zxid: Zxid, session: SessionId, mark: u64, forgotten: &[u64]) {
        let before = self.marks.insert(session, mark).unwrap_or_default();
        let wrong = forgotten.iter().find(|key| {
            let key = **key;
            key > mark || !self.answers.contains_key(&CallId { session, key })
        });
        if mark < before || wrong.is_some() {
            let what = format!(
                "{session:?} acknowledged at {zxid} up to {mark}, {before} before; forgotten without an answer: {wrong:?}"
            );
            self.broken(Kind::Lost, what);
        }
    }

    /// A call may be parked, or answered, only before it has its answer.
    fn may_go_on(&mut self, zxid: Zxid, id: CallId) {
        let mark = self.marks.get(&id.session);
        let too_late = mark.is_some_and(|mark| id.key <= *mark) && !self.were_parked.contains(&id);
        if self.answers.contains_key(&id) || too_late {
            let what = format!("{id:?} went on at {zxid}, and had its answer, or was refused");
            self.broken(Kind::Twice, what);
        }
    }

    /// A call that waited has ended in this transaction.
    fn ended(&mut self, zxid: Zxid, transaction: &Transaction, call: &ParkedCall) {
        if call.id.is_standing() || self.closed.contains(&call.id.session) {
            return;
        }
        let answer = self.answers.get(&call.id);
        let Some((_, answer)) = answer.filter(|(at, _)| *at == zxid) else {
            let what = format!("{call:?} ended at {zxid} without an answer");
            return self.broken(Kind::Lost, what);
        };
        let ending = answer.ending.clone();
        if ending == Ending::TimedOut
            && call
                .deadline
                .is_none_or(|deadline| transaction.time < deadline)
        {
            let what = format!("{call:?} timed out at {zxid}, too early");
            self.broken(Kind::Call, what);
        }
        if matches!(ending, Ending::Returned(_)) {
            return;
        }
        for (path, created) in &call.created {
            let there = self.tree.node(path.as_str()).is_some_and(|node| {
                node.created == *created && node.lifetime == Lifetime::Session(call.id.session)
            });
            if there && self.tree.children(path.as_str()).next().is_none() {
                let what = format!("{call:?} ended at {zxid} by {ending:?}, and left {path}");
                self.broken(Kind::Call, what);
            }
        }
    }

    /// What a client was told is what the log has.
    fn told(&mut self, called: &Called) {
        let Some((told_at, response)) = &called.told else {
            return;
        };
        let id = called.id;
        let (kind, what) = match self.answers.get(&id) {
            None if response.status != CallStatus::BadCall => {
                (Kind::Lost, "its answer is not in the log")
            }
            // It was refused, so it never ran.
            None if self.were_parked.contains(&id) => (Kind::Answer, "it waited"),
            None => return,
            Some((at, answer))
                if CallResponse::from(&answer.ending) != *response || at > told_at =>
            {
                (Kind::Answer, "the log has another answer")
            }
            Some(_) => return,
        };
        let answer = self.answers.get(&id);
        let what = format!("{called:?}: {what}: {answer:?}");
        self.broken(kind, what);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::check::tests::transactions;
    use crate::client::calls::Call;
    use bytes::Bytes;
    use quorate_model::acl::Acl;
    use quorate_model::bound::MountBounds;
    use quorate_model::call::Fingerprint;
    use quorate_model::id::Timestamp;
    use quorate_model::recipe::{Exports, Mount, RecipeDigest};
    use quorate_model::request::Password;
    use serde_json::json;

    const ID: CallId = CallId {
        session: SessionId(1),
        key: 7,
    };

    fn path(text: &str) -> ZnodePath {
        ZnodePath::parse(text).unwrap()
    }

    fn open() -> Change {
        Change::OpenSession {
            password: Password([0; 16]),
            timeout_ms: 1,
            owner: None,
        }
    }

    fn mount() -> Change {
        Change::PutMount(Mount {
            path: path("/m"),
            recipe: "r".into(),
            digest: RecipeDigest::of(b"r"),
            exports: Exports::default(),
            shadow: None,
            mounted: Zxid(2),
            next_sequence: 0,
            sealed: true,
            bounds: MountBounds::default(),
            callers: Arc::default(),
            failures: 0,
            suspended: None,
            upgrade: None,
            unmounting: None,
        })
    }

    fn ticket() -> Change {
        Change::CreateNode {
            path: path("/m/ticket"),
            data: Bytes::new(),
            acl: Acl::open(),
            lifetime: Lifetime::Session(ID.session),
        }
    }

    fn park() -> Change {
        Change::Park(Box::new(ParkedCall {
            id: ID,
            mount: path("/m"),
            operation: "wait".into(),
            arguments: "[]".into(),
            fingerprint: Fingerprint([0; 16]),
            identities: Vec::new(),
            started: Timestamp(0),
            deadline: Some(Timestamp(5)),
            age: Zxid(3),
            memo: None,
            watches: Vec::new(),
            created: vec![(path("/m/ticket"), Zxid(3))],
            marked: false,
            suspected: 0,
            retry: None,
        }))
    }

    fn answer(ending: Ending) -> Change {
        Change::PutAnswer {
            call: ID,
            answer: Answer {
                fingerprint: Fingerprint([0; 16]),
                ending,
                zxid: Zxid(0),
            },
        }
    }

    fn delete() -> Change {
        Change::DeleteNode {
            path: path("/m/ticket"),
        }
    }

    /// What is wrong if these transactions follow on a session, a mount and a parked call: each at its zxid in ms.
    fn kinds(last: Vec<Vec<Change>>, called: &[Called]) -> Vec<Kind> {
        let begin = vec![vec![open()], vec![mount()], vec![ticket(), park()]];
        let all = begin.into_iter().chain(last);
        let found = violations(called, &transactions(all));
        found.into_iter().map(|found| found.kind).collect()
    }

    #[test]
    fn each_call_has_one_answer() {
        let returned = || answer(Ending::Returned("1".into()));
        let good = vec![Change::Unpark(ID), delete(), returned()];
        assert_eq!(kinds(vec![], &[]), []);
        assert_eq!(kinds(vec![good.clone()], &[]), []);
        let bad = vec![good.clone(), vec![returned()]];
        assert_eq!(kinds(bad, &[]), [Kind::Twice]);
        assert_eq!(kinds(vec![good, vec![park()]], &[]), [Kind::Twice]);
        assert_eq!(kinds(vec![vec![Change::Unpark(ID)]], &[]), [Kind::Lost]);
    }

    #[test]
    fn c1_what_is_acknowledged_never_begins_and_what_waits_goes_on() {
        let acknowledged = |mark, forgotten: &[u64]| Change::Acknowledge {
            session: ID.session,
            mark,
            forgotten: forgotten.to_vec(),
        };
        let other = || match park() {
            Change::Park(mut call) => {
                call.id.key = 6;
                Change::Park(call)
            }
            change => change,
        };
        assert_eq!(kinds(vec![vec![acknowledged(7, &[]), park()]], &[]), []);
        let begins = vec![vec![acknowledged(7, &[]), other()]];
        assert_eq!(kinds(begins, &[]), [Kind::Twice]);
        assert_eq!(kinds(vec![vec![acknowledged(7, &[7])]], &[]), [Kind::Lost]);
        let back = vec![vec![acknowledged(7, &[]), acknowledged(6, &[])]];
        assert_eq!(kinds(back, &[]), [Kind::Lost]);
    }

    #[test]
    fn c3_what_a_call_without_a_result_has_created_goes() {
        let end = |ending| vec![Change::Unpark(ID), answer(ending)];
        let with_delete = |ending| vec![Change::Unpark(ID), delete(), answer(ending)];
        assert_eq!(kinds(vec![with_delete(Ending::Unmounted)], &[]), []);
        assert_eq!(kinds(vec![end(Ending::Unmounted)], &[]), [Kind::Call]);
        // At 4 ms that is too early, and at 5 not.
        let timed_out = with_delete(Ending::TimedOut);
        assert_eq!(kinds(vec![timed_out.clone()], &[]), [Kind::Call]);
        assert_eq!(kinds(vec![vec![], timed_out], &[]), []);
    }

    #[test]
    fn s6_no_call_waits_where_nothing_is_mounted() {
        let unmount = Change::RemoveMount { path: path("/m") };
        assert_eq!(kinds(vec![vec![unmount.clone()]], &[]), [Kind::Call]);
        let ended = vec![Change::Unpark(ID), delete(), answer(Ending::Unmounted)];
        assert_eq!(kinds(vec![ended, vec![unmount]], &[]), []);
    }

    #[test]
    fn c4_whoever_is_woken_runs() {
        let mark = vec![Change::Mark(ID)];
        let idle = || std::iter::repeat_n(vec![], SOON + 1);
        let late: Vec<_> = std::iter::once(mark.clone()).chain(idle()).collect();
        assert_eq!(kinds(late, &[]), [Kind::Stuck]);
        let runs = [mark, vec![park()]].into_iter().chain(idle());
        assert_eq!(kinds(runs.collect(), &[]), []);
    }

    #[test]
    fn a_client_is_told_what_the_log_has() {
        let ended = || {
            let returned = answer(Ending::Returned("1".into()));
            vec![vec![Change::Unpark(ID), delete(), returned]]
        };
        let told = |status, result: &str| Called {
            id: ID,
            call: Call::new("/m", "wait", json!([])),
            told: Some((
                Zxid(9),
                CallResponse {
                    status,
                    result: result.into(),
                },
            )),
        };
        let right = told(CallStatus::Returned, "1");
        assert_eq!(kinds(ended(), std::slice::from_ref(&right)), []);
        assert_eq!(kinds(vec![], &[right]), [Kind::Lost]);
        let wrong = told(CallStatus::Returned, "2");
        assert_eq!(kinds(ended(), &[wrong]), [Kind::Answer]);
        let refused = told(CallStatus::BadCall, "");
        assert_eq!(kinds(ended(), &[refused]), [Kind::Answer]);
    }
}
