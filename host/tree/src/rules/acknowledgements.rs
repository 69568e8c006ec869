//! Acknowledgements (rule C1): which answers go, which keys are refused, whatever order they arrive in.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use quorate_model::call::Answer;

use super::*;

/// Keys of the sequences here.
const KEYS: u64 = 8;

/// Keys that divide by three wait, until somebody sets the znode of their number.
fn waits(key: u64) -> bool {
    key.is_multiple_of(3)
}

fn set_off(key: u64) -> Operation {
    Operation::Znode(ZnodeOperation::Set {
        path: ZnodePath::parse(&format!("/m/k{key}")).unwrap(),
        data: bytes::Bytes::new(),
        version: -1,
    })
}

fn call(key: u64, acknowledged: Acknowledgement) -> CallRequest {
    CallRequest {
        key,
        mount: ZnodePath::parse("/m").unwrap(),
        operation: if waits(key) { "wait" } else { "set" }.into(),
        arguments: format!("k{key}"),
        timeout_ms: None,
        acknowledged,
    }
}

fn said(mark: u64, awaited: &[u64]) -> Acknowledgement {
    Acknowledgement::new(mark, awaited.to_vec()).unwrap()
}

/// A world in which whatever waits can be set off.
fn prepared(keys: u64) -> (World, SessionId) {
    let (mut world, session) = mounted(false);
    for key in (1..=keys).filter(|key| waits(*key)) {
        world.ask(session, create(&format!("/m/k{key}")));
    }
    (world, session)
}

impl World {
    fn ask_call(&mut self, session: SessionId, key: u64, said: Acknowledgement) -> Outcome {
        self.ask(session, Operation::Call(call(key, said)))
    }

    /// The keys whose calls wait, and those whose answers are kept.
    fn known(&self, session: SessionId, keys: u64) -> (Vec<u64>, Vec<u64>) {
        let id = |key: &u64| CallId { session, key: *key };
        let parked = (1..=keys).filter(|key| self.replica.parked(id(key)).is_some());
        let answered = (1..=keys).filter(|key| self.replica.answer(id(key)).is_some());
        (parked.collect(), answered.collect())
    }
}

#[test]
fn c1_an_awaited_call_keeps_its_answer_until_it_is_awaited_no_more() {
    let (mut world, session) = prepared(KEYS);
    for key in 1..=6 {
        world.ask_call(session, key, Acknowledgement::default());
    }
    world.ask(session, Operation::Acknowledge(said(6, &[3, 5, 6])));
    assert_eq!(world.known(session, KEYS), (vec![3, 6], vec![5]));
    assert_eq!(
        world.ask_call(session, 3, said(2, &[])),
        Outcome::Parked,
        "it is there again"
    );
    world.ask(session, set_off(3));
    let answered = world.ask_call(session, 3, said(6, &[3, 5, 6]));
    assert!(matches!(answered, Outcome::Answered(_)), "{answered:?}");
    assert_eq!(world.known(session, KEYS), (vec![6], vec![3, 5]));
    // One that was sent before, and comes late, brings nothing back and takes nothing away.
    for late in [said(0, &[]), said(4, &[3]), said(6, &[3, 5, 6])] {
        world.ask(session, Operation::Acknowledge(late));
        assert_eq!(world.known(session, KEYS), (vec![6], vec![3, 5]));
    }
    world.ask(session, Operation::Acknowledge(said(6, &[5, 6])));
    assert_eq!(world.known(session, KEYS), (vec![6], vec![5]));
    for key in [1, 2, 3, 4] {
        let late = world.ask_call(session, key, Acknowledgement::default());
        assert_eq!(late, Outcome::Refused(Refusal::Acknowledged { key }));
    }
    // A call that waits although nobody awaits it goes on; its answer stays until the next acknowledgement.
    world.ask(session, Operation::Acknowledge(said(6, &[])));
    assert_eq!(world.known(session, KEYS), (vec![6], vec![]));
    world.ask(session, set_off(6));
    assert_eq!(world.known(session, KEYS), (vec![], vec![6]));
    world.ask(session, Operation::Acknowledge(said(6, &[])));
    assert_eq!(world.known(session, KEYS), (vec![], vec![]));
}

#[test]
fn c1_a_key_that_was_passed_over_is_refused_although_nobody_has_used_it() {
    let (mut world, session) = prepared(KEYS);
    world.ask_call(session, 5, said(4, &[2]));
    for key in [1, 2, 3, 4] {
        let late = world.ask_call(session, key, Acknowledgement::default());
        assert_eq!(late, Outcome::Refused(Refusal::Acknowledged { key }));
    }
}

/// About a thousand calls may be kept, so it would be refused if the one that waits held the others back.
#[test]
fn c1_a_session_whose_call_waits_makes_any_number_of_others() {
    let (mut world, session) = prepared(3);
    assert_eq!(world.ask_call(session, 3, said(2, &[])), Outcome::Parked);
    for first in (4..5_000).step_by(100) {
        for key in first..first + 100 {
            let mut one = call(key, said(key - 1, &[3]));
            one.operation = "set".into();
            let request = request(session, Operation::Call(one));
            world.evaluator.evaluate(&request, None, world.now);
        }
        let batch = world.evaluator.take_batch(usize::MAX).unwrap();
        let mut outcomes = batch.transactions.iter().flat_map(|one| &one.outcome);
        let refused = outcomes.find(|outcome| !matches!(outcome, Outcome::Answered(_)));
        assert_eq!(refused, None);
        world.propose_batch(batch);
        world.apply();
    }
    let kept = *world.replica.session(session).unwrap();
    assert_eq!((kept.parked, kept.answers), (1, 1));
    world.ask(session, set_off(3));
    let answered = world.ask_call(session, 3, said(5_100, &[3]));
    assert!(matches!(answered, Outcome::Answered(_)), "{answered:?}");
}

/// What anybody may do, in any order.
#[derive(Clone, Debug)]
enum Act {
    Call(u64, Acknowledgement),
    Acknowledge(Acknowledgement),
    SetOff(u64),
    Apply,
    NewEpoch,
}

fn act() -> impl Strategy<Value = Act> {
    let key = || 1..=KEYS;
    let said = || {
        (0..=KEYS, any::<u16>()).prop_map(|(mark, bits)| {
            let awaited = (1..=mark).filter(|key| bits & (1 << key) != 0);
            Acknowledgement::new(mark, awaited.collect()).unwrap()
        })
    };
    prop_oneof![
        6 => (key(), said()).prop_map(|(key, said)| Act::Call(key, said)),
        2 => said().prop_map(Act::Acknowledge),
        3 => key().prop_map(Act::SetOff),
        2 => Just(Act::Apply),
        1 => Just(Act::NewEpoch),
    ]
}

/// The rule, in the plainest words.
#[derive(Default)]
struct Model {
    mark: u64,
    parked: BTreeSet<u64>,
    answered: BTreeSet<u64>,
}

impl Model {
    fn acknowledge(&mut self, said: &Acknowledgement) {
        self.mark = self.mark.max(said.mark());
        self.answered
            .retain(|key| *key > said.mark() || said.awaited().contains(key));
    }

    fn call(&mut self, key: u64, said: &Acknowledgement) -> &'static str {
        self.acknowledge(said);
        if self.answered.contains(&key) {
            "answered"
        } else if self.parked.contains(&key) {
            "parked"
        } else if key <= self.mark {
            "refused"
        } else if waits(key) {
            self.parked.insert(key);
            "parked"
        } else {
            self.answered.insert(key);
            "answered"
        }
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Answered(_) => "answered",
        Outcome::Parked => "parked",
        Outcome::Refused(Refusal::Acknowledged { .. }) => "refused",
        _ => "something else",
    }
}

/// A client whose requests and answers are lost, doubled and overtaken, as over HTTP.
#[derive(Clone, Debug)]
enum Event {
    /// It makes a call.
    Make,
    /// It repeats one of those whose answers it wants.
    Repeat(usize),
    /// It says what it has seen.
    Acknowledge,
    /// A request arrives; whether it will once more.
    Arrive(usize, bool),
    /// An answer arrives; whether it will once more.
    Answer(usize, bool),
    LoseRequest(usize),
    LoseAnswer(usize),
    SetOff(usize),
    NewEpoch,
}

fn event() -> impl Strategy<Value = Event> {
    let some = any::<usize>;
    prop_oneof![
        4 => Just(Event::Make),
        2 => some().prop_map(Event::Repeat),
        1 => Just(Event::Acknowledge),
        8 => (some(), any::<bool>()).prop_map(|(one, again)| Event::Arrive(one, again)),
        6 => (some(), any::<bool>()).prop_map(|(one, again)| Event::Answer(one, again)),
        1 => some().prop_map(Event::LoseRequest),
        1 => some().prop_map(Event::LoseAnswer),
        2 => some().prop_map(Event::SetOff),
        1 => Just(Event::NewEpoch),
    ]
}

/// The most calls that it makes.
const MOST_CALLS: u64 = 30;

struct Unordered {
    world: World,
    session: SessionId,
    last: u64,
    /// The keys whose answers it wants, and whether the server has said that it keeps the call.
    wanted: BTreeMap<u64, bool>,
    requests: Vec<Operation>,
    answers: Vec<(u64, Outcome)>,
    ran: BTreeSet<u64>,
    seen: BTreeMap<u64, Answer>,
}

/// Takes one out, or a copy of it.
fn pick<T: Clone>(from: &mut Vec<T>, which: usize, again: bool) -> Option<T> {
    let place = which.checked_rem(from.len())?;
    Some(match again {
        true => from[place].clone(),
        false => from.swap_remove(place),
    })
}

impl Unordered {
    fn acknowledgement(&self) -> Acknowledgement {
        let unsure = self.wanted.iter().find(|(_, known)| !**known);
        let mark = unsure.map_or(self.last, |(key, _)| key - 1);
        let awaited = self.wanted.range(..=mark).map(|(key, _)| *key);
        Acknowledgement::new(mark, awaited.collect()).unwrap()
    }

    fn send(&mut self, key: u64) {
        let request = call(key, self.acknowledgement());
        self.requests.push(Operation::Call(request));
    }

    fn act(&mut self, event: &Event) {
        match event {
            Event::Make if self.last < MOST_CALLS => {
                self.last += 1;
                self.wanted.insert(self.last, false);
                self.send(self.last);
            }
            Event::Make => {}
            Event::Repeat(which) => {
                let mut keys: Vec<u64> = self.wanted.keys().copied().collect();
                if let Some(key) = pick(&mut keys, *which, true) {
                    self.send(key);
                }
            }
            Event::Acknowledge => {
                let said = self.acknowledgement();
                self.requests.push(Operation::Acknowledge(said));
            }
            Event::Arrive(which, again) => {
                if let Some(request) = pick(&mut self.requests, *which, *again) {
                    self.arrive(request);
                }
            }
            Event::Answer(which, again) => {
                if let Some((key, outcome)) = pick(&mut self.answers, *which, *again) {
                    self.hear(key, outcome);
                }
            }
            Event::LoseRequest(which) => drop(pick(&mut self.requests, *which, false)),
            Event::LoseAnswer(which) => drop(pick(&mut self.answers, *which, false)),
            Event::SetOff(which) => {
                let key = *which as u64 % MOST_CALLS / 3 * 3 + 3;
                self.world.ask(self.session, set_off(key));
            }
            Event::NewEpoch => {
                self.world.open_epoch();
            }
        }
        for (key, known) in &self.wanted {
            assert!(!known || self.is_known(*key), "call {key} is lost");
        }
    }

    fn is_known(&self, key: u64) -> bool {
        let id = CallId {
            session: self.session,
            key,
        };
        self.world.replica.parked(id).is_some() || self.world.replica.answer(id).is_some()
    }

    /// Whether it is to be made, or set off, before it has its answer.
    fn is_wanted_and_waits(&self, key: u64) -> bool {
        let id = CallId {
            session: self.session,
            key,
        };
        self.wanted.contains_key(&key) && self.world.replica.answer(id).is_none()
    }

    fn arrive(&mut self, request: Operation) {
        let key = match &request {
            Operation::Call(call) => Some(call.key),
            _ => None,
        };
        let known = key.is_some_and(|key| self.is_known(key));
        let outcome = self.world.ask(self.session, request);
        let Some(key) = key else { return };
        if !known && matches!(outcome, Outcome::Parked | Outcome::Answered(_)) {
            assert!(self.ran.insert(key), "call {key} ran twice");
        }
        self.answers.push((key, outcome));
    }

    fn hear(&mut self, key: u64, outcome: Outcome) {
        match outcome {
            Outcome::Parked => {
                if let Some(known) = self.wanted.get_mut(&key) {
                    *known = true;
                }
            }
            Outcome::Answered(answer) => {
                self.wanted.remove(&key);
                let first = self.seen.entry(key).or_insert_with(|| answer.clone());
                assert_eq!(*first, answer, "call {key} has two answers");
            }
            Outcome::Refused(Refusal::Acknowledged { .. }) => {
                assert!(!self.wanted.contains_key(&key), "call {key} is refused");
            }
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn c1_what_is_kept_and_what_is_refused_is_as_in_the_model(acts in proptest::collection::vec(act(), 1..60)) {
        let (mut world, session) = prepared(KEYS);
        let mut model = Model::default();
        for act in &acts {
            match act {
                Act::Call(key, said) => {
                    let outcome = world.ask_call(session, *key, said.clone());
                    prop_assert_eq!(word(&outcome), model.call(*key, said));
                }
                Act::Acknowledge(said) => {
                    world.ask(session, Operation::Acknowledge(said.clone()));
                    model.acknowledge(said);
                }
                Act::SetOff(key) => {
                    world.ask(session, set_off(*key));
                    if model.parked.remove(key) {
                        model.answered.insert(*key);
                    }
                }
                Act::Apply => world.apply(),
                Act::NewEpoch => {
                    world.open_epoch();
                }
            }
            let (parked, answered) = world.known(session, KEYS);
            prop_assert!(model.parked.iter().eq(&parked) && model.answered.iter().eq(&answered));
            let kept = world.replica.session(session).unwrap();
            let counts = (parked.len() as u32, answered.len() as u32);
            prop_assert_eq!((kept.acknowledged, (kept.parked, kept.answers)), (model.mark, counts));
        }
    }

    #[test]
    fn c1_in_whatever_order_its_requests_arrive_a_client_loses_no_answer_and_nothing_runs_twice(
        events in proptest::collection::vec(event(), 1..150),
    ) {
        let (world, session) = prepared(MOST_CALLS);
        let mut client = Unordered {
            world,
            session,
            last: 0,
            wanted: BTreeMap::new(),
            requests: Vec::new(),
            answers: Vec::new(),
            ran: BTreeSet::new(),
            seen: BTreeMap::new(),
        };
        for event in &events {
            client.act(event);
        }
        // In the end it gets them all, and then nothing is left of them.
        for key in (1..=MOST_CALLS).filter(|key| waits(*key)) {
            while client.is_wanted_and_waits(key) {
                client.send(key);
                let request = client.requests.pop().unwrap();
                client.arrive(request);
                let (key, outcome) = client.answers.pop().unwrap();
                client.hear(key, outcome);
                client.world.ask(session, set_off(key));
            }
        }
        while let Some((&key, _)) = client.wanted.first_key_value() {
            client.send(key);
            let request = client.requests.pop().unwrap();
            client.arrive(request);
            let (key, outcome) = client.answers.pop().unwrap();
            client.hear(key, outcome);
        }
        prop_assert_eq!(client.ran.len() as u64, client.last);
        let said = client.acknowledgement();
        prop_assert_eq!((said.mark(), said.awaited().len()), (client.last, 0));
        client.arrive(Operation::Acknowledge(said));
        // Whatever is still under way comes too late to run, and keeps nothing.
        for request in std::mem::take(&mut client.requests) {
            client.arrive(request);
        }
        let kept = client.world.replica.session(session).unwrap();
        prop_assert_eq!((kept.parked, kept.answers), (0, 0));
    }
}
