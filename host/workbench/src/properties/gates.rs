//! Gates that are shut and opened: who comes while one is shut waits until it is opened, and no longer.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use quorate_model::id::{SessionId, Timestamp};
use quorate_sandbox::Interface;
use serde_json::Value;

use super::call::Call;
use super::file::Gates;

pub(super) struct Rule {
    gates: Gates,
    shut: Vec<usize>,
    open: Vec<usize>,
    pass: Vec<usize>,
    /// By what tells them apart.
    places: BTreeMap<String, Gate>,
}

#[derive(Default)]
struct Gate {
    is_shut: bool,
    /// Calls that have come and not passed, by their age, and whether it has been open since.
    waiting: BTreeMap<u64, (SessionId, bool)>,
}

impl Rule {
    pub(super) fn new(gates: &Gates, interface: &Interface) -> Result<Rule> {
        let by = [gates.by.as_ref()];
        let rule = Rule {
            gates: gates.clone(),
            shut: gates.shut.with_parameters(interface, &by)?,
            open: gates.open.with_parameters(interface, &by)?,
            pass: gates.pass.with_parameters(interface, &by)?,
            places: BTreeMap::new(),
        };
        if rule.shut.is_empty() || rule.open.is_empty() || rule.pass.is_empty() {
            bail!("`shut`, `open` and `pass` name at least one operation each");
        }
        Ok(rule)
    }

    fn key(&self, call: &Call) -> String {
        let by = self.gates.by.as_ref();
        by.map_or_else(|| "the gate".into(), |by| call.argument(by).to_string())
    }
}

impl super::Rule for Rule {
    fn name(&self) -> &'static str {
        "gates"
    }

    fn called(&mut self, call: &Call) {
        if self.pass.contains(&call.operation) {
            let gate = self.places.entry(self.key(call)).or_default();
            let waiting = (call.id.session, !gate.is_shut);
            gate.waiting.insert(call.age, waiting);
        }
    }

    fn ended(&mut self, call: &Call, result: Option<&Value>, _now: Timestamp) -> Vec<String> {
        let key = self.key(call);
        let gate = self.places.entry(key.clone()).or_default();
        let came = gate.waiting.remove(&call.age);
        let Some(result) = result else {
            return Vec::new();
        };
        if let Some((_, false)) = came {
            return vec![format!(
                "{call} passed, but {key} has been shut since it came"
            )];
        }
        let did = *result != Value::Bool(false);
        if self.shut.contains(&call.operation) && did {
            gate.is_shut = true;
        }
        let opens = self.gates.open_at.as_ref().is_none_or(|at| at == result);
        if self.open.contains(&call.operation) && did && opens {
            gate.is_shut = false;
            let waiting = gate.waiting.values_mut();
            waiting.for_each(|(_, was_open)| *was_open = true);
        }
        Vec::new()
    }

    fn session_ended(&mut self, session: SessionId) {
        for gate in self.places.values_mut() {
            gate.waiting.retain(|_, (other, _)| *other != session);
        }
    }

    fn settled(&mut self, waiting: &[&Call], _now: Timestamp) -> Vec<String> {
        let may_pass = |call: &&&Call| {
            let gate = self.places.get(&self.key(call));
            gate.and_then(|gate| gate.waiting.get(&call.age))
                .is_some_and(|(_, was_open)| *was_open)
        };
        let late = waiting.iter().filter(may_pass);
        late.map(|call| {
            format!(
                "{call} waits, but {} has been open since it came",
                self.key(call)
            )
        })
        .collect()
    }
}
