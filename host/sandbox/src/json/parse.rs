//! JSON to component values, with messages that name the parameter and the path inside it.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};
use wasmtime::component::Val;

use super::{INFINITY, MINUS_INFINITY, NAN, may_be_null, wave};
use crate::interface::{Definition, Named, Operation, Type, list};

/// The values of an operation's parameters from `text`: a JSON array by position, or an object by name, or
/// the same in WAVE, in parentheses. An empty text stands for no arguments. For people if they do not fit. serde_json bounds the depth.
pub(crate) fn arguments(operation: &Operation, text: &str) -> Result<Vec<Val>, String> {
    let value: Value = match text.trim() {
        "" => Value::Array(Vec::new()),
        text if text.starts_with('(') => wave::arguments(operation, text)?,
        text => serde_json::from_str(text)
            .map_err(|error| format!("the arguments are no JSON: {error}"))?,
    };
    let parameters = &operation.parameters;
    let wrong_count = |given: usize| {
        let names = match parameters.is_empty() {
            true => "none".to_owned(),
            false => list(parameters.iter().map(|(name, _)| &**name)),
        };
        format!(
            "{} takes {} ({names}), not {given}",
            operation.name,
            plural(parameters.len(), "argument")
        )
    };
    match value {
        Value::Array(values) => {
            if values.len() > parameters.len() {
                return Err(wrong_count(values.len()));
            }
            let given = values.len();
            let mut values = values.into_iter();
            parameters
                .iter()
                .map(|(name, ty)| match values.next() {
                    Some(value) => argument(name, ty, value),
                    None => left_out(ty).ok_or_else(|| wrong_count(given)),
                })
                .collect()
        }
        Value::Object(mut values) => {
            let converted = parameters
                .iter()
                .map(|(name, ty)| match values.remove(name) {
                    Some(value) => argument(name, ty, value),
                    None => left_out(ty).ok_or_else(|| format!("argument `{name}`: it is missing")),
                })
                .collect();
            match values.keys().next() {
                Some(unknown) => Err(format!(
                    "{} has no parameter `{unknown}`; it takes {}",
                    operation.name,
                    list(parameters.iter().map(|(name, _)| &**name))
                )),
                None => converted,
            }
        }
        other => Err(format!(
            "the arguments must be a JSON array or object, not {}",
            kind(&other)
        )),
    }
}

fn argument(name: &str, ty: &Type, value: Value) -> Result<Val, String> {
    convert(ty, value).map_err(|problem| {
        let mut message = format!("argument `{name}`");
        for step in problem.path.iter().rev() {
            // Writing to a string cannot fail.
            let _ = match step {
                Step::Name(name) => write!(message, ".{name}"),
                Step::Place(place) => write!(message, "[{place}]"),
            };
        }
        format!("{message}: {}", problem.message)
    })
}

/// What an argument or a field is that was left out: none, if it is an option.
fn left_out(ty: &Type) -> Option<Val> {
    may_be_null(ty).then_some(Val::Option(None))
}

/// What does not fit, and where. The path grows from the inside out.
struct Problem {
    path: Vec<Step>,
    message: String,
}

enum Step {
    Name(String),
    Place(usize),
}

impl Problem {
    fn new(message: impl Into<String>) -> Problem {
        Problem {
            path: Vec::new(),
            message: message.into(),
        }
    }

    fn expected(what: impl std::fmt::Display, got: &Value) -> Problem {
        Problem::new(format!("expected {what}, got {}", kind(got)))
    }

    fn at_name(mut self, name: &str) -> Problem {
        self.path.push(Step::Name(name.to_owned()));
        self
    }

    fn at(mut self, place: usize) -> Problem {
        self.path.push(Step::Place(place));
        self
    }
}

fn convert(ty: &Type, value: Value) -> Result<Val, Problem> {
    Ok(match ty {
        Type::Bool => match value {
            Value::Bool(value) => Val::Bool(value),
            other => return Err(Problem::expected("true or false", &other)),
        },
        Type::S8 => Val::S8(integer(ty, &value)?),
        Type::U8 => Val::U8(integer(ty, &value)?),
        Type::S16 => Val::S16(integer(ty, &value)?),
        Type::U16 => Val::U16(integer(ty, &value)?),
        Type::S32 => Val::S32(integer(ty, &value)?),
        Type::U32 => Val::U32(integer(ty, &value)?),
        Type::S64 => Val::S64(integer(ty, &value)?),
        Type::U64 => Val::U64(integer(ty, &value)?),
        Type::F32 => {
            let wide = float(ty, &value)?;
            let narrow = wide as f32;
            if narrow.is_infinite() && wide.is_finite() {
                return Err(Problem::new(format!("{value} does not fit f32")));
            }
            Val::Float32(narrow)
        }
        Type::F64 => Val::Float64(float(ty, &value)?),
        Type::Char => {
            let text = string("a string of one character", value)?;
            let mut characters = text.chars();
            match (characters.next(), characters.next()) {
                (Some(one), None) => Val::Char(one),
                _ => {
                    return Err(Problem::new(format!(
                        "expected one character, got a string of {}",
                        text.chars().count()
                    )));
                }
            }
        }
        Type::String => Val::String(string("string", value)?),
        Type::Bytes => bytes(value)?,
        Type::List(item) => match value {
            Value::Array(values) => {
                let values = values.into_iter().enumerate();
                Val::List(
                    values
                        .map(|(place, value)| convert(item, value).map_err(|it| it.at(place)))
                        .collect::<Result<_, _>>()?,
                )
            }
            other => return Err(Problem::expected("array", &other)),
        },
        Type::Tuple(items) => match value {
            Value::Array(values) if values.len() == items.len() => {
                let values = items.iter().zip(values).enumerate();
                Val::Tuple(
                    values
                        .map(|(place, (item, value))| {
                            convert(item, value).map_err(|it| it.at(place))
                        })
                        .collect::<Result<_, _>>()?,
                )
            }
            Value::Array(values) => {
                return Err(Problem::new(format!(
                    "expected an array of {}, got one of {}",
                    items.len(),
                    values.len()
                )));
            }
            other => {
                let what = format!("an array of {}", items.len());
                return Err(Problem::expected(what, &other));
            }
        },
        Type::Option(item) => match value {
            Value::Null => Val::Option(None),
            Value::Object(mut object) if may_be_null(item) && object.len() == 1 => {
                match object.remove("some") {
                    Some(value) => {
                        let value = convert(item, value).map_err(|it| it.at_name("some"))?;
                        Val::Option(Some(Box::new(value)))
                    }
                    None => return Err(Problem::new("expected null or {\"some\": …}")),
                }
            }
            other if may_be_null(item) => {
                return Err(Problem::expected("null or {\"some\": …}", &other));
            }
            other => Val::Option(Some(Box::new(convert(item, other)?))),
        },
        Type::Result(sides) => {
            let (side, value) = single(value, "{\"ok\": …} or {\"err\": …}")?;
            let carried = |ty: &Option<Type>| match (ty, value) {
                (Some(ty), value) => match convert(ty, value) {
                    Ok(value) => Ok(Some(Box::new(value))),
                    Err(problem) => Err(problem.at_name(&side)),
                },
                (None, Value::Null) => Ok(None),
                (None, other) => Err(Problem::expected("null", &other).at_name(&side)),
            };
            match &*side {
                "ok" => Val::Result(Ok(carried(&sides.0)?)),
                "err" => Val::Result(Err(carried(&sides.1)?)),
                _ => return Err(Problem::new("expected {\"ok\": …} or {\"err\": …}")),
            }
        }
        Type::Named(named) => defined(named, value)?,
    })
}

fn defined(named: &Named, value: Value) -> Result<Val, Problem> {
    Ok(match &named.definition {
        Definition::Alias(ty) => convert(ty, value)?,
        Definition::Record(fields) => match value {
            Value::Object(object) => record(named, fields, object)?,
            other => {
                let what = format!("object ({})", named.name);
                return Err(Problem::expected(what, &other));
            }
        },
        Definition::Variant(cases) => {
            let names = || list(cases.iter().map(|(case, _)| &**case));
            let (name, carried) = match value {
                Value::String(name) => (name, None),
                other => {
                    let (name, carried) = single(other, "the case of a variant")?;
                    (name, Some(carried))
                }
            };
            let Some((_, ty)) = cases.iter().find(|(case, _)| *case == name) else {
                return Err(Problem::new(format!(
                    "{} has no case {name:?}; it has {}",
                    named.name,
                    names()
                )));
            };
            let carried = match (ty, carried) {
                (None, None) => None,
                (Some(ty), Some(value)) => Some(Box::new(
                    convert(ty, value).map_err(|it| it.at_name(&name))?,
                )),
                (None, Some(_)) => {
                    let message = format!("the case {name:?} carries nothing: write {name:?}");
                    return Err(Problem::new(message));
                }
                (Some(ty), None) => {
                    let message = format!("the case {name:?} carries {ty}: write {{{name:?}: …}}");
                    return Err(Problem::new(message));
                }
            };
            Val::Variant(name, carried)
        }
        Definition::Enum(cases) => {
            let name = string(format!("one of {}", names(cases)), value)?;
            if !cases.contains(&name) {
                return Err(Problem::new(format!(
                    "{} has no case {name:?}; it has {}",
                    named.name,
                    names(cases)
                )));
            }
            Val::Enum(name)
        }
        Definition::Flags(flags) => {
            let Value::Array(values) = value else {
                let what = format!("an array of some of {}", names(flags));
                return Err(Problem::expected(what, &value));
            };
            let mut set = Vec::with_capacity(values.len().min(flags.len()));
            for (place, value) in values.into_iter().enumerate() {
                let name = string("string", value).map_err(|it| it.at(place))?;
                if !flags.contains(&name) {
                    return Err(Problem::new(format!(
                        "{} has no flag {name:?}; it has {}",
                        named.name,
                        names(flags)
                    ))
                    .at(place));
                }
                if !set.contains(&name) {
                    set.push(name);
                }
            }
            Val::Flags(set)
        }
    })
}

fn record(
    named: &Named,
    fields: &[(String, Type)],
    mut object: Map<String, Value>,
) -> Result<Val, Problem> {
    let mut values = Vec::with_capacity(fields.len());
    for (field, ty) in fields {
        let value = match object.remove(field) {
            Some(value) => convert(ty, value).map_err(|it| it.at_name(field))?,
            None => left_out(ty).ok_or_else(|| Problem::new("it is missing").at_name(field))?,
        };
        values.push((field.clone(), value));
    }
    match object.keys().next() {
        Some(unknown) => Err(Problem::new(format!(
            "{} has no field {unknown:?}; it has {}",
            named.name,
            list(fields.iter().map(|(field, _)| &**field))
        ))),
        None => Ok(Val::Record(values)),
    }
}

fn bytes(value: Value) -> Result<Val, Problem> {
    let bytes = match value {
        Value::String(text) => text.into_bytes(),
        Value::Array(values) => {
            let mut bytes = Vec::with_capacity(values.len());
            for (place, value) in values.iter().enumerate() {
                bytes.push(integer(&Type::U8, value).map_err(|it| it.at(place))?);
            }
            bytes
        }
        Value::Object(mut object) if object.len() == 1 && object.contains_key("base64") => {
            let text = match object.remove("base64") {
                Some(Value::String(text)) => text,
                _ => return Err(Problem::new("expected a string").at_name("base64")),
            };
            BASE64
                .decode(text)
                .map_err(|error| Problem::new(format!("{error}")).at_name("base64"))?
        }
        other => {
            let what = "the text of list<u8>, {\"base64\": …} or an array of numbers";
            return Err(Problem::expected(what, &other));
        }
    };
    Ok(Val::List(bytes.into_iter().map(Val::U8).collect()))
}

fn string(what: impl std::fmt::Display, value: Value) -> Result<String, Problem> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(Problem::expected(what, &other)),
    }
}

/// The one name and value of an object such as `{"ok": 1}`.
fn single(value: Value, what: &str) -> Result<(String, Value), Problem> {
    match value {
        Value::Object(object) if object.len() == 1 => object
            .into_iter()
            .next()
            .ok_or_else(|| Problem::new(format!("expected {what}"))),
        Value::Object(_) => Err(Problem::new(format!(
            "expected {what}: an object with one name"
        ))),
        other => Err(Problem::expected(what, &other)),
    }
}

fn integer<T: TryFrom<i128>>(ty: &Type, value: &Value) -> Result<T, Problem> {
    let wide = match value {
        Value::Number(number) => number
            .as_u64()
            .map(i128::from)
            .or_else(|| number.as_i64().map(i128::from)),
        Value::String(digits) => {
            let parsed = digits.parse::<i128>().map_err(|_| {
                Problem::new(format!("expected {ty}, got the string {}", cut(digits)))
            })?;
            Some(parsed)
        }
        other => return Err(Problem::expected(ty, other)),
    };
    wide.and_then(|wide| T::try_from(wide).ok())
        .ok_or_else(|| Problem::new(format!("{} does not fit {ty}", cut(&value.to_string()))))
}

fn float(ty: &Type, value: &Value) -> Result<f64, Problem> {
    match value {
        Value::Number(number) => number
            .as_f64()
            .ok_or_else(|| Problem::new(format!("{number} does not fit {ty}"))),
        Value::String(word) => match &**word {
            NAN => Ok(f64::NAN),
            INFINITY => Ok(f64::INFINITY),
            MINUS_INFINITY => Ok(f64::NEG_INFINITY),
            _ => Err(Problem::expected(ty, value)),
        },
        other => Err(Problem::expected(ty, other)),
    }
}

fn names(names: &[String]) -> String {
    list(names.iter().map(|name| &**name))
}

/// Enough of a value to recognise it.
fn cut(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn plural(count: usize, word: &str) -> String {
    match count {
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    }
}
