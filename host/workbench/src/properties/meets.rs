//! Meetings: so many begin together, and end together.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use quorate_model::id::{SessionId, Timestamp};
use quorate_sandbox::Interface;
use serde_json::Value;

use super::call::{Call, number};
use super::file::Meets;

pub(super) struct Rule {
    meets: Meets,
    enter: Vec<usize>,
    leave: Vec<usize>,
    /// By what tells them apart.
    places: BTreeMap<String, Place>,
}

#[derive(Default)]
struct Place {
    /// Calls that want to enter, by their age.
    waiting: BTreeMap<u64, SessionId>,
    /// How many rounds there have been.
    rounds: u64,
    /// Those that may be in the round that has begun: who waited when its first member went on.
    candidates: BTreeSet<u64>,
    /// How many more of them may go on.
    seats: i128,
    /// Who has gone on, in which round, and has not begun to leave.
    inside: BTreeMap<SessionId, u64>,
    leaving: BTreeMap<SessionId, u64>,
}

impl Rule {
    pub(super) fn new(meets: &Meets, interface: &Interface) -> Result<Rule> {
        let by = meets.by.as_ref();
        let enter = meets
            .enter
            .with_parameters(interface, &[by, Some(&meets.size)])?;
        let leave = meets.leave.with_parameters(interface, &[by])?;
        if enter.is_empty() || leave.is_empty() {
            bail!("`enter` and `leave` name at least one operation each");
        }
        Ok(Rule {
            meets: meets.clone(),
            enter,
            leave,
            places: BTreeMap::new(),
        })
    }

    fn key(&self, call: &Call) -> String {
        let by = self.meets.by.as_ref();
        by.map_or_else(String::new, |by| call.argument(by).to_string())
    }
}

impl Place {
    /// A call has entered, where so many meet; what is wrong with that.
    fn entered(&mut self, call: &Call, size: i128) -> Option<String> {
        let come = self.waiting.len() as i128 + 1;
        let is_of_round = self.seats > 0 && self.candidates.contains(&call.age);
        if !is_of_round && (!self.inside.is_empty() || come < size) {
            let inside = self.inside.len();
            return Some(format!(
                "{call} went on, but {come} of {size} have come, and {inside} are in the round before"
            ));
        }
        if !is_of_round {
            self.rounds += 1;
            self.seats = size;
            self.candidates = self.waiting.keys().copied().collect();
        }
        self.seats -= 1;
        self.inside.insert(call.id.session, self.rounds);
        None
    }
}

impl super::Rule for Rule {
    fn name(&self) -> &'static str {
        "meets"
    }

    fn called(&mut self, call: &Call) {
        let place = self.places.entry(self.key(call)).or_default();
        let session = call.id.session;
        if self.enter.contains(&call.operation) {
            place.waiting.insert(call.age, session);
        } else if self.leave.contains(&call.operation)
            && let Some(round) = place.inside.remove(&session)
        {
            place.leaving.insert(session, round);
        }
    }

    fn ended(&mut self, call: &Call, result: Option<&Value>, _now: Timestamp) -> Vec<String> {
        let place = self.places.entry(self.key(call)).or_default();
        if self.enter.contains(&call.operation) {
            place.waiting.remove(&call.age);
            let size = number(call.argument(&self.meets.size)).unwrap_or(1);
            let wrong = result.and_then(|_| place.entered(call, size));
            return wrong.into_iter().collect();
        }
        if !self.leave.contains(&call.operation) {
            return Vec::new();
        }
        let round = place.leaving.remove(&call.id.session);
        let stays = place.inside.values().any(|other| Some(*other) == round);
        match result {
            Some(_) if stays => vec![format!(
                "{call} returned, but others of its round are in it"
            )],
            _ => Vec::new(),
        }
    }

    fn session_ended(&mut self, session: SessionId) {
        for place in self.places.values_mut() {
            place.waiting.retain(|_, other| *other != session);
            place.inside.remove(&session);
            place.leaving.remove(&session);
        }
    }
}
