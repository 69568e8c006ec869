//! Items that are put in and taken out: nothing is lost, nothing comes twice, and, if wished, in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Result, bail};
use quorate_model::id::Timestamp;
use quorate_sandbox::Interface;
use serde_json::Value;

use super::call::{Call, field};
use super::file::Moves;

pub(super) struct Rule {
    moves: Moves,
    put: Vec<usize>,
    take: Vec<usize>,
    /// By what tells the places apart.
    places: BTreeMap<String, Place>,
}

#[derive(Default)]
struct Place {
    /// What is in it, in the order in which it was put in.
    items: VecDeque<Value>,
    /// What was taken out of it, as JSON.
    taken: BTreeSet<String>,
}

impl Rule {
    pub(super) fn new(moves: &Moves, interface: &Interface) -> Result<Rule> {
        let by = moves.by.as_ref();
        let put = moves
            .put
            .with_parameters(interface, &[by, Some(&moves.item)])?;
        let take = moves.take.with_parameters(interface, &[by])?;
        if put.is_empty() || take.is_empty() {
            bail!("`put` and `take` name at least one operation each");
        }
        Ok(Rule {
            moves: moves.clone(),
            put,
            take,
            places: BTreeMap::new(),
        })
    }

    fn key(&self, call: &Call) -> String {
        let by = self.moves.by.as_ref();
        by.map_or_else(String::new, |by| call.argument(by).to_string())
    }
}

impl super::Rule for Rule {
    fn name(&self) -> &'static str {
        "moves"
    }

    fn ended(&mut self, call: &Call, result: Option<&Value>, _now: Timestamp) -> Vec<String> {
        let Some(result) = result else {
            return Vec::new();
        };
        let key = self.key(call);
        let place = self.places.entry(key).or_default();
        if self.put.contains(&call.operation) && *result != Value::Bool(false) {
            place
                .items
                .push_back(call.argument(&self.moves.item).clone());
        }
        if !self.take.contains(&call.operation) {
            return Vec::new();
        }
        if !call.gives(result) {
            let lost = place.items.front();
            return lost
                .map(|item| {
                    format!("{call} returned {result}, but {item} was put in and not taken")
                })
                .into_iter()
                .collect();
        }
        let item = field(result, &self.moves.field);
        let Some(at) = place.items.iter().position(|other| other == item) else {
            let what = match place.taken.contains(&item.to_string()) {
                true => "was taken before",
                false => "was never put in",
            };
            return vec![format!("{call} took {item}, which {what}")];
        };
        place.items.remove(at);
        place.taken.insert(item.to_string());
        match place.items.front() {
            Some(first) if self.moves.ordered && at > 0 => {
                vec![format!(
                    "{call} took {item}, but {first} was put in before it"
                )]
            }
            _ => Vec::new(),
        }
    }

    fn settled(&mut self, waiting: &[&Call], _now: Timestamp) -> Vec<String> {
        let takes = waiting
            .iter()
            .filter(|call| self.take.contains(&call.operation));
        let mut said = Vec::new();
        for call in takes {
            let item = self
                .places
                .get(&self.key(call))
                .and_then(|place| place.items.front());
            said.extend(item.map(|item| format!("{call} waits, but {item} is there to be taken")));
        }
        said
    }
}
