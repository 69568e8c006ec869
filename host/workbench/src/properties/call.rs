//! A call as properties see it.

use std::fmt;

use quorate_model::id::CallId;
use quorate_sandbox::Operation;
use serde_json::Value;

/// A call that has run.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) id: CallId,
    /// In the order in which calls began.
    pub(super) age: u64,
    /// The operation's place in the interface.
    pub(super) operation: usize,
    /// With the parameters' names.
    arguments: Vec<(String, Value)>,
    /// Whether it was parked.
    pub(super) waited: bool,
    /// Whether it parked again when it was run again right behind its last run; none if that was not tried.
    pub(super) parks_again: Option<bool>,
    /// Whether its operation has a result.
    has_result: bool,
    shown: String,
}

impl Call {
    pub(super) fn new(
        id: CallId,
        name: &str,
        age: u64,
        place: usize,
        operation: &Operation,
        arguments: &str,
    ) -> Call {
        let names = operation.parameters.iter().map(|(name, _)| name.clone());
        let given: Vec<(String, Value)> = match serde_json::from_str(arguments) {
            Ok(Value::Array(values)) => names.zip(values).collect(),
            Ok(Value::Object(values)) => values.into_iter().collect(),
            _ => Vec::new(),
        };
        let shown: Vec<String> = given.iter().map(|(_, value)| value.to_string()).collect();
        let shown = format!("{name} {}({})", operation.name, shown.join(", "));
        Call {
            id,
            age,
            operation: place,
            arguments: given,
            waited: false,
            parks_again: None,
            has_result: operation.result.is_some(),
            shown,
        }
    }

    /// Whether its operation has that parameter, and it was given.
    pub(super) fn has(&self, parameter: &str) -> bool {
        self.arguments.iter().any(|(name, _)| name == parameter)
    }

    /// An argument as JSON, `null` if it was left out.
    pub(super) fn argument(&self, parameter: &str) -> &Value {
        let found = self.arguments.iter().find(|(name, _)| name == parameter);
        found.map_or(&Value::Null, |(_, value)| value)
    }

    /// Whether its result gives something: not `null`, `false` or an empty list, if the operation has a result.
    pub(super) fn gives(&self, result: &Value) -> bool {
        !self.has_result || gives(result)
    }

    /// The session's name, as the call's begins.
    pub(super) fn client(&self) -> &str {
        self.shown.split('@').next().unwrap_or(&self.shown)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

fn gives(result: &Value) -> bool {
    match result {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

/// A field of a result, such as `grant.token`; `.` is the result itself.
pub(crate) fn field<'a>(result: &'a Value, path: &str) -> &'a Value {
    let names = path.split('.').filter(|name| !name.is_empty());
    names.fold(result, |value, name| {
        value.get(name).unwrap_or(&Value::Null)
    })
}

/// A number, also one that is written as a string.
pub(super) fn number(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => number
            .as_i64()
            .map(i128::from)
            .or_else(|| number.as_u64().map(i128::from)),
        Value::String(digits) => digits.parse().ok(),
        _ => None,
    }
}

/// A call's words as its arguments: JSON where they are, else strings.
pub(crate) fn arguments(words: &[&str]) -> String {
    let values = words.iter().map(|word| {
        serde_json::from_str(word).unwrap_or_else(|_| Value::String((*word).to_owned()))
    });
    Value::Array(values.collect()).to_string()
}
