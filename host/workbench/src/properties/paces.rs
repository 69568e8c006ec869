//! What comes with time: no more of it is taken than was there at first and has come since.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use quorate_model::id::Timestamp;
use quorate_sandbox::Interface;
use serde_json::Value;

use super::call::{Call, number};
use super::file::Paces;

pub(super) struct Rule {
    paces: Paces,
    take: Vec<usize>,
    /// By what tells them apart: how much is left, in parts of which a period's milliseconds make one, and when.
    things: BTreeMap<String, (i128, Timestamp)>,
}

impl Rule {
    pub(super) fn new(paces: &Paces, interface: &Interface) -> Result<Rule> {
        let parameters = [paces.by.as_ref(), paces.weight.as_ref()];
        let take = paces.take.with_parameters(interface, &parameters)?;
        if take.is_empty() || paces.most < 1 || paces.refill < 1 || paces.period_ms < 1 {
            bail!(
                "`take` names at least one operation, and `most`, `refill` and `period-ms` are at least 1"
            );
        }
        Ok(Rule {
            paces: paces.clone(),
            take,
            things: BTreeMap::new(),
        })
    }
}

impl super::Rule for Rule {
    fn name(&self) -> &'static str {
        "paces"
    }

    fn ended(&mut self, call: &Call, result: Option<&Value>, now: Timestamp) -> Vec<String> {
        let paces = &self.paces;
        let took = result.is_some_and(|result| match &paces.taken {
            Some(taken) => taken == result,
            None => call.gives(result),
        });
        if !took || !self.take.contains(&call.operation) {
            return Vec::new();
        }
        let by = paces.by.as_ref();
        let key = by.map_or_else(|| "it".into(), |by| call.argument(by).to_string());
        let weight = paces.weight.as_ref();
        let weight = weight.and_then(|weight| number(call.argument(weight)));
        let weight = weight.unwrap_or(1);
        let full = paces.most.saturating_mul(paces.period_ms);
        let (parts, at) = self.things.entry(key.clone()).or_insert((full, now));
        let passed = i128::from(now.0.saturating_sub(at.0));
        let there = parts.saturating_add(passed.saturating_mul(paces.refill));
        let there = there.min(full);
        (*parts, *at) = (there - weight.saturating_mul(paces.period_ms), now);
        match *parts < 0 {
            false => Vec::new(),
            true => {
                let there = there / paces.period_ms;
                vec![format!(
                    "{call} took {weight} of {key}, of which there are {there}"
                )]
            }
        }
    }
}
