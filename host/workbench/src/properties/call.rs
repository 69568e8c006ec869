//! A call as properties see it.

use std::fmt;

use quorate_model::id::CallId;
use quorate_sandbox::Operation;
use serde_json::{Map, Value};

/// A call that has run.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) id: CallId,
    /// In the order in which calls began.
    pub(super) age: u64,
    /// The operation's place in the interface.
    pub(super) operation: usize,
    /// By the parameters' names.
    pub(super) arguments: Map<String, Value>,
    /// Whether it was parked.
    pub(super) waited: bool,
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
        let given = match serde_json::from_str(arguments) {
            Ok(Value::Array(values)) => names.zip(values).collect(),
            Ok(Value::Object(values)) => values,
            _ => Map::new(),
        };
        let shown: Vec<String> = given.values().map(Value::to_string).collect();
        let shown = format!("{name} {}({})", operation.name, shown.join(", "));
        Call {
            id,
            age,
            operation: place,
            arguments: given,
            waited: false,
            shown,
        }
    }

    /// An argument as JSON, `null` if it was left out.
    pub(super) fn argument(&self, parameter: &str) -> &Value {
        self.arguments.get(parameter).unwrap_or(&Value::Null)
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

/// Whether a result gives something: not `null`, `false` or an empty list.
pub(super) fn gives(result: &Value) -> bool {
    match result {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

/// A field of a result, such as `grant.token`; `.` is the result itself.
pub(super) fn field<'a>(result: &'a Value, path: &str) -> &'a Value {
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
