//! What is taken and given back: locks, semaphores, leases, elections. Never more of it is held than there
//! is, tokens grow, first come is first served, and nobody waits for what is free.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use quorate_model::id::{SessionId, Timestamp};
use quorate_sandbox::Interface;
use serde_json::Value;

use super::call::{Call, field, number};
use super::file::Holds;

pub(super) struct Rule {
    holds: Holds,
    take: Vec<usize>,
    give: Vec<usize>,
    renew: Vec<usize>,
    whole: Vec<usize>,
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
    /// Which one it is, as JSON.
    item: Option<String>,
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
            whole: holds.whole.with_parameters(interface, &[by])?,
            things: BTreeMap::new(),
        })
    }

    /// What a call takes or gives back: one thing, or several at once, each once however often it is named.
    fn keys(&self, call: &Call) -> BTreeSet<String> {
        match self.holds.by.as_ref().map(|by| call.argument(by)) {
            None => BTreeSet::from(["it".into()]),
            Some(Value::Array(several)) => several.iter().map(Value::to_string).collect(),
            Some(one) => BTreeSet::from([one.to_string()]),
        }
    }

    /// How much a call takes or gives back, if it says so.
    fn weight(&self, call: &Call) -> Option<i128> {
        if self.whole.contains(&call.operation) {
            return Some(self.holds.most);
        }
        number(call.argument(self.holds.weight.as_ref()?))
    }

    fn until(&self, result: &Value) -> Option<i128> {
        number(field(result, self.holds.until.as_ref()?))
    }

    fn took(&mut self, call: &Call, result: &Value, key: &str) -> Vec<String> {
        let mut said = Vec::new();
        let (weight, until) = (self.weight(call).unwrap_or(1), self.until(result));
        let token = self.holds.token.as_ref().map(|token| field(result, token));
        let each = self.holds.each.as_ref();
        let item = each.map(|each| field(result, each).to_string());
        let thing = self.things.entry(key.to_owned()).or_default();
        let session = call.id.session;
        let is_it = |held: &Held| held.session == session && held.item == item;
        let had_it = thing.held.iter().any(is_it);
        thing.held.push(Held {
            session,
            client: call.client().to_owned(),
            weight,
            token: token.and_then(number),
            until,
            item: item.clone(),
        });
        let again = had_it && self.holds.reentrant;
        if thing.amount(self.holds.reentrant, item.as_ref()) > self.holds.most {
            let of_it = thing.held.iter().filter(|held| held.item == item);
            let mut holders: Vec<&str> = of_it.map(|held| &*held.client).collect();
            holders.dedup();
            let key = match &item {
                Some(item) => format!("{item} of {key}"),
                None => key.to_owned(),
            };
            said.push(match self.holds.most {
                1 => format!(
                    "{call} has {key}, which is held by {}",
                    holders.join(" and by ")
                ),
                most => format!(
                    "{call} has {key}, of which there is {most}, and {} is held, by {}",
                    thing.amount(self.holds.reentrant, item.as_ref()),
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

impl Rule {
    /// A call that is none of those that take.
    fn gave(&mut self, call: &Call, result: &Value, key: &str) {
        let last = |path: &String| path.rsplit('.').next().unwrap_or(path).to_owned();
        let token = self.holds.token.as_ref().map(last);
        let token = token
            .filter(|token| call.has(token))
            .map(|token| number(call.argument(&token)));
        let item = self.holds.each.as_ref().map(last);
        let item = item
            .filter(|item| call.has(item))
            .map(|item| call.argument(&item).to_string());
        let is_mine = |held: &Held| match (&token, &item) {
            (Some(token), _) => held.token == *token,
            (None, Some(_)) => held.session == call.id.session && held.item == item,
            (None, None) => held.session == call.id.session,
        };
        let (weight, until) = (self.weight(call), self.until(result));
        let thing = self.things.entry(key.to_owned()).or_default();
        if self.give.contains(&call.operation) && self.holds.give_all {
            thing.held.retain(|held| !is_mine(held));
        } else if self.give.contains(&call.operation) {
            let fits =
                |held: &Held| is_mine(held) && weight.is_none_or(|weight| held.weight == weight);
            let place = thing.held.iter().position(fits);
            if let Some(place) = place.or_else(|| thing.held.iter().position(is_mine)) {
                thing.held.remove(place);
            }
        } else if self.renew.contains(&call.operation) {
            let mine = thing.held.iter_mut().filter(|held| is_mine(held));
            mine.for_each(|held| held.until = until);
        }
    }
}

impl Thing {
    /// How much of it is held; by one session once only, if it is reentrant.
    fn amount(&self, reentrant: bool, item: Option<&String>) -> i128 {
        let held = self.held.iter().filter(|held| held.item.as_ref() == item);
        if !reentrant {
            return held.map(|held| held.weight).sum();
        }
        let by_session: BTreeMap<SessionId, i128> =
            held.map(|held| (held.session, held.weight)).collect();
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
            for key in self.keys(call) {
                let thing = self.things.entry(key).or_default();
                thing.waiting.push(call.clone());
            }
        }
    }

    fn ended(&mut self, call: &Call, result: Option<&Value>, now: Timestamp) -> Vec<String> {
        let keys = self.keys(call);
        let mut said = Vec::new();
        for key in keys {
            let Some(thing) = self.things.get_mut(&key) else {
                continue;
            };
            thing.waiting.retain(|other| other.age != call.age);
            thing.end_by_itself(now);
            let Some(result) = result.filter(|result| **result != Value::Bool(false)) else {
                continue;
            };
            if self.take.contains(&call.operation) && call.gives(result) {
                said.extend(self.took(call, result, &key));
            } else {
                self.gave(call, result, &key);
            }
        }
        said
    }

    fn session_ended(&mut self, session: SessionId) {
        for thing in self.things.values_mut() {
            thing.waiting.retain(|call| call.id.session != session);
            if !self.holds.outlives_session {
                thing.held.retain(|held| held.session != session);
            }
        }
    }

    /// The first in line waits for nothing that is free. Of one among several that are alike nothing can be said: which it
    /// would get is told by its result.
    fn settled(&mut self, waiting: &[&Call], now: Timestamp) -> Vec<String> {
        if self.holds.each.is_some() {
            return Vec::new();
        }
        for thing in self.things.values_mut() {
            thing.end_by_itself(now);
        }
        let (mut ahead, mut said) = (BTreeSet::new(), Vec::new());
        let takes = waiting
            .iter()
            .filter(|call| self.take.contains(&call.operation));
        for call in takes {
            let keys = self.keys(call);
            let is_first = !keys.iter().any(|key| ahead.contains(key));
            ahead.extend(keys.iter().cloned());
            let wanted = self.weight(call).unwrap_or(1);
            let held = |key: &String| {
                let thing = self.things.get(key);
                thing.map_or(0, |thing| thing.amount(self.holds.reentrant, None))
            };
            let most = self.holds.most;
            if !is_first || keys.iter().any(|key| held(key) + wanted > most) {
                continue;
            }
            let free = keys.iter().map(|key| match held(key) {
                0 => format!("nobody holds {key}"),
                held => format!("{held} of {most} of {key} is held"),
            });
            let free = free.collect::<Vec<_>>().join(", and ");
            said.push(format!("{call} waits, but {free}"));
        }
        said
    }
}
