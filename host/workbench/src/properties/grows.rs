//! Results that grow from call to call: tokens, ids, counts.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use quorate_model::id::Timestamp;
use quorate_sandbox::Interface;
use serde_json::Value;

use super::call::{Call, field, number};
use super::file::Grows;

pub(super) struct Rule {
    grows: Grows,
    operations: Vec<usize>,
    /// The last number, by what tells the rows apart.
    last: BTreeMap<String, i128>,
}

impl Rule {
    pub(super) fn new(grows: &Grows, interface: &Interface) -> Result<Rule> {
        let parameters = [grows.by.as_ref(), grows.step_by.as_ref()];
        let operations = grows.result.with_parameters(interface, &parameters)?;
        if operations.is_empty() {
            bail!("`result` names the operations whose results grow");
        }
        Ok(Rule {
            grows: grows.clone(),
            operations,
            last: BTreeMap::new(),
        })
    }
}

impl super::Rule for Rule {
    fn name(&self) -> &'static str {
        "grows"
    }

    fn ended(&mut self, call: &Call, result: Option<&Value>, _now: Timestamp) -> Vec<String> {
        let found = result.filter(|_| self.operations.contains(&call.operation));
        let Some(number) = found.and_then(|result| number(field(result, &self.grows.field))) else {
            return Vec::new();
        };
        let row = self
            .grows
            .by
            .as_ref()
            .map(|by| call.argument(by).to_string());
        let last = self.last.insert(row.unwrap_or_default(), number);
        let Some(last) = last else {
            return Vec::new();
        };
        let by = self.grows.step_by.as_ref();
        let step = by.and_then(|by| self::number(call.argument(by)));
        let grew = match self.grows.step.or(step) {
            Some(step) => number == last + step,
            None => number > last,
        };
        match grew {
            true => Vec::new(),
            false => vec![format!("{call} returned {number}, after {last}")],
        }
    }
}
