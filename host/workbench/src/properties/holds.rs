//! What is taken and given back: locks, semaphores, leases, elections. Never more of it is held than there
//! is, tokens grow, first come is first served, and nobody waits for what is free.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use quorate_model::id::{SessionId, Timestamp};
use quorate_sandbox::Interface;
use serde_json::Value;

use super::call::{Call, field, gives, number};
use super::file::Holds;

pub(super) struct Rule {
    holds: Holds,
    take: Vec<usize>,
    give: Vec<usize>,
    renew: Vec<usize>,
    /// By what tells the things apart.
    things: BTreeMap<String, Thing>,
}

#[derive(Default)]
struct Thing {
    /// One for each call that took some of it and has not been matched by one that gave it back.
    held: Vec<Held>,
    /// The calls that wait for it, the oldest first.
    waiting: Vec<Call>,
    last_token: Option<i128>,
}

struct Held {
    session: SessionId,
    client: String,
    weight: i128,
    token: Option<i128>,
    until: Option<i128>,
}

impl Rule {
    pub(super) fn new(holds: &Holds, interface: &Interface) -> Result<Rule> {
        let by = holds.by.as_ref();
        let take = holds
            .take
            .with_parameters(interface, &[by, holds.weight.as_ref()])?;
        if take.is_empty() {
            bail!("`take` names at least one operation");
        }
        Ok(Rule {
            holds: holds.clone(),
            take,
            give: holds.give.with_parameters(interface, &[by])?,
            renew: holds.renew.with_parameters(interface, &[by])?,
            things: BTreeMap::new(),
        })
    }

    fn key(&self, call: &Call) -> String {
        let by = self.holds.by.as_ref();
        by.map_or_else(|| "it".into(), |by| call.argument(by).to_string())
    }

    /// How much a call takes or gives back, if it says so.
    fn weight(&self, call: &Call) -> Option<i128> {
        number(call.argument(self.holds.weight.as_ref()?))
    }

    fn until(&self, result: &Value) -> Option<i128> {
        number(field(result, self.holds.until.as_ref()?))
    }

    fn took(&mut self, call: &Call, result: &Value, key: &str) -> Vec<String> {
        let mut said = Vec::new();
        let (weight, until) = (self.weight(call).unwrap_or(1), self.until(result));
        let token = self.holds.token.as_ref().map(|token| field(result, token));
        let thing = self.things.entry(key.to_owned()).or_default();
        let session = call.id.session;
        let had_it = thing.held.iter().any(|held| held.session == session);
        thing.held.push(Held {
            session,
            client: call.client().to_owned(),
            weight,
            token: token.and_then(number),
            until,
        });
        let again = had_it && self.holds.reentrant;
        if thing.amount(self.holds.reentrant) > self.holds.most {
            let mut holders: Vec<&str> = thing.held.iter().map(|held| &*held.client).collect();
            holders.dedup();
            said.push(match self.holds.most {
                1 => format!(
                    "{call} has {key}, which is held by {}",
                    holders.join(" and by ")
                ),
                most => format!(
                    "{call} has {key}, of which there is {most}, and {} is held, by {}",
                    thing.amount(self.holds.reentrant),
                    holders.join(" and by ")
                ),
            });
        }
        if self.holds.fair
            && !again
            && let Some(first) = thing.waiting.iter().find(|other| other.age < call.age)
        {
            said.push(format!("{call} has {key} before {first}, which came first"));
        }
        if let Some(token) = token {
            match (number(token), thing.last_token) {
                (None, _) => said.push(format!("{call} has {key} without a token: {result}")),
                (Some(token), Some(last)) if token <= last && !again => {
                    said.push(format!("{call} has {key} with token {token}, after {last}"));
                }
                (token, _) => thing.last_token = token,
            }
        }
        said
    }
}

impl Thing {
    /// How much of it is held; by one session once only, if it is reentrant.
    fn amount(&self, reentrant: bool) -> i128 {
        if !reentrant {
            return self.held.iter().map(|held| held.weight).sum();
        }
        let by_session: BTreeMap<SessionId, i128> = self
            .held
            .iter()
            .map(|held| (held.session, held.weight))
            .collect();
        by_session.values().sum()
    }

    /// Drops what has ended by its time.
    fn end_by_itself(&mut self, now: Timestamp) {
        let now = i128::from(now.0);
        self.held
            .retain(|held| held.until.is_none_or(|until| until > now));
    }
}

impl super::Rule for Rule {
    fn name(&self) -> &'static str {
        "holds"
    }

    fn called(&mut self, call: &Call) {
        if self.take.contains(&call.operation) {
            let thing = self.things.entry(self.key(call)).or_default();
            thing.waiting.push(call.clone());
        }
    }

    fn ended(&mut self, call: &Call, result: Option<&Value>, now: Timestamp) -> Vec<String> {
        let key = self.key(call);
        let Some(thing) = self.things.get_mut(&key) else {
            return Vec::new();
        };
        thing.waiting.retain(|other| other.age != call.age);
        thing.end_by_itself(now);
        let Some(result) = result.filter(|result| **result != Value::Bool(false)) else {
            return Vec::new();
        };
        if self.take.contains(&call.operation) && gives(result) {
            return self.took(call, result, &key);
        }
        let token = self.holds.token.as_ref();
        let token = token.map(|path| path.rsplit('.').next().unwrap_or(path));
        let named = token
            .filter(|token| call.has(token))
            .map(|token| number(call.argument(token)));
        let is_mine = |held: &Held| match named {
            Some(token) => held.token == token,
            None => held.session == call.id.session,
        };
        if self.give.contains(&call.operation) {
            let weight = self.weight(call);
            let fits =
                |held: &Held| is_mine(held) && weight.is_none_or(|weight| held.weight == weight);
            let thing = self.things.entry(key).or_default();
            let place = thing.held.iter().position(fits);
            if let Some(place) = place.or_else(|| thing.held.iter().position(is_mine)) {
                thing.held.remove(place);
            }
        } else if self.renew.contains(&call.operation) {
            let until = self.until(result);
            let thing = self.things.entry(key).or_default();
            let mine = thing.held.iter_mut().filter(|held| is_mine(held));
            mine.for_each(|held| held.until = until);
        }
        Vec::new()
    }

    fn session_ended(&mut self, session: SessionId) {
        for thing in self.things.values_mut() {
            thing.waiting.retain(|call| call.id.session != session);
            if !self.holds.outlives_session {
                thing.held.retain(|held| held.session != session);
            }
        }
    }

    fn settled(&mut self, waiting: &[&Call], now: Timestamp) -> Vec<String> {
        let mut first = BTreeMap::new();
        for call in waiting
            .iter()
            .filter(|call| self.take.contains(&call.operation))
        {
            first.entry(self.key(call)).or_insert(*call);
        }
        let mut said = Vec::new();
        for (key, thing) in &mut self.things {
            thing.end_by_itself(now);
            let Some(call) = first.get(key) else { continue };
            let wanted = self.holds.weight.as_ref();
            let wanted = wanted
                .and_then(|weight| number(call.argument(weight)))
                .unwrap_or(1);
            let held = thing.amount(self.holds.reentrant);
            if held + wanted <= self.holds.most {
                let who = match held {
                    0 => format!("nobody holds {key}"),
                    _ => format!("{held} of {} of {key} is held", self.holds.most),
                };
                said.push(format!("{call} waits, but {who}"));
            }
        }
        said
    }
}
