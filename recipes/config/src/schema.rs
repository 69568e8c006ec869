//! The subset of JSON Schema that documents are checked against, and what a check may cost.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// How deep schemas and documents may nest.
const MAX_DEPTH: usize = 32;

/// The most characters of a name or a value in a message.
const MAX_SHOWN: usize = 100;

/// What says nothing about what fits.
const ANNOTATIONS: [&str; 9] = [
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "format",
];

const TYPES: [&str; 7] = [
    "null", "boolean", "object", "array", "number", "string", "integer",
];

/// Whether `schema` is of the subset; if not, what is not and where.
pub(crate) fn check(schema: &Value) -> Result<(), String> {
    check_at(schema, 0).map_err(|Wrong { at, why }| format!("#{at}: {why}"))
}

/// Why a document is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// It does not fit: what does not and where.
    Wrong(String),
    /// To find out takes more steps than there are.
    TooCostly,
}

/// Whether `document` fits a `schema` that passed [`check`]. Takes what it costs off `steps`: about one for each value,
/// keyword and entry of a list that is looked at. So it takes at most about the document's values times the schema's.
pub(crate) fn fit(document: &Value, schema: &Value, steps: &mut u64) -> Result<(), Misfit> {
    let mut fitting = Fitting {
        steps: *steps,
        alternatives: 0,
    };
    let fits = fitting.fit_at(document, schema, 0);
    *steps = fitting.steps;
    fits.map_err(|stop| match stop {
        Stop::TooCostly => Misfit::TooCostly,
        Stop::Wrong(Wrong { at, why }) if at.is_empty() => {
            Misfit::Wrong(format!("the document: {why}"))
        }
        Stop::Wrong(Wrong { at, why }) => Misfit::Wrong(format!("{at}: {why}")),
    })
}

/// About how many values a text in JSON has, told before it is read. Each key counts as four and one more for each 8
/// bytes, since it is compared with others of its object.
pub(crate) fn values_in(text: &str) -> u64 {
    let (mut values, mut is_text, mut is_escaped) = (1, false, false);
    let mut text_bytes = 0;
    for byte in text.bytes() {
        text_bytes += u64::from(is_text);
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => {
                is_text = !is_text;
                if is_text {
                    text_bytes = 0;
                }
            }
            b',' | b'[' | b'{' if !is_text => values += 1,
            b':' if !is_text => values += 4 + text_bytes / 8,
            _ => {}
        }
    }
    values
}

/// What is wrong, and where: the place is put together on the way back, since most of what is looked at is right.
#[derive(Debug)]
struct Wrong {
    at: String,
    why: String,
}

impl Wrong {
    fn here(why: impl Into<String>) -> Wrong {
        Wrong {
            at: String::new(),
            why: why.into(),
        }
    }

    fn below(self, name: &str) -> Wrong {
        Wrong {
            at: format!("/{}{}", shown(name), self.at),
            why: self.why,
        }
    }
}

fn check_at(schema: &Value, depth: usize) -> Result<(), Wrong> {
    if depth > MAX_DEPTH {
        return Err(Wrong::here(format!(
            "schemas nest {MAX_DEPTH} deep at most"
        )));
    }
    let keywords = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(keywords) => keywords,
        _ => return Err(Wrong::here("a schema is an object, true or false")),
    };
    for (keyword, value) in keywords {
        check_keyword(keyword, value, depth).map_err(|wrong| wrong.below(keyword))?;
    }
    Ok(())
}

fn check_keyword(keyword: &str, value: &Value, depth: usize) -> Result<(), Wrong> {
    let expect = |is: bool, what: &str| match is {
        true => Ok(()),
        false => Err(Wrong::here(format!("expected {what}"))),
    };
    match keyword {
        "type" => {
            let mut names = types(value).peekable();
            expect(
                names.peek().is_some() && names.all(|name| TYPES.contains(&name)),
                "the name of a type, or a list of them",
            )
        }
        "enum" => expect(value.is_array(), "a list"),
        "const" => Ok(()),
        "properties" => {
            let Some(properties) = value.as_object() else {
                return expect(false, "an object");
            };
            for (name, schema) in properties {
                check_at(schema, depth + 1).map_err(|wrong| wrong.below(name))?;
            }
            Ok(())
        }
        "additionalProperties" | "items" | "not" => check_at(value, depth + 1),
        "required" => expect(
            value
                .as_array()
                .is_some_and(|names| names.iter().all(Value::is_string)),
            "a list of names",
        ),
        "allOf" | "anyOf" | "oneOf" => {
            let Some(schemas) = value.as_array().filter(|schemas| !schemas.is_empty()) else {
                return expect(false, "a list of schemas");
            };
            for (index, schema) in schemas.iter().enumerate() {
                check_at(schema, depth + 1).map_err(|wrong| wrong.below(&index.to_string()))?;
            }
            Ok(())
        }
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
            expect(value.is_number(), "a number")
        }
        "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
            expect(value.is_u64(), "a whole number")
        }
        "uniqueItems" => expect(value.is_boolean(), "true or false"),
        keyword if ANNOTATIONS.contains(&keyword) => Ok(()),
        _ => Err(Wrong::here(
            "this keyword is not of the subset that is checked here",
        )),
    }
}

/// Why a check ends before everything is looked at.
enum Stop {
    Wrong(Wrong),
    TooCostly,
}

impl Stop {
    fn below(self, name: &str) -> Stop {
        match self {
            // Of an alternative.
            Stop::Wrong(wrong) if wrong.why.is_empty() => Stop::Wrong(wrong),
            Stop::Wrong(wrong) => Stop::Wrong(wrong.below(name)),
            Stop::TooCostly => Stop::TooCostly,
        }
    }
}

/// A check that goes on.
struct Fitting {
    /// What it may still cost.
    steps: u64,
    /// How deep it is in alternatives, of which nobody is told why they do not fit.
    alternatives: u32,
}

impl Fitting {
    /// Takes one step, and one more for each 16 bytes.
    fn step(&mut self, bytes: usize) -> Result<(), Stop> {
        let cost = 1 + bytes as u64 / 16;
        match self.steps.checked_sub(cost) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => {
                self.steps = 0;
                Err(Stop::TooCostly)
            }
        }
    }

    fn fit_at(&mut self, value: &Value, schema: &Value, depth: usize) -> Result<(), Stop> {
        let fail = |why: &str| Err(Stop::Wrong(Wrong::here(why)));
        self.step(0)?;
        if depth > MAX_DEPTH {
            return fail("it nests too deep");
        }
        let keywords = match schema {
            Value::Object(keywords) => keywords,
            Value::Bool(true) => return Ok(()),
            _ => return fail("it is not allowed"),
        };
        for (keyword, wanted) in keywords {
            self.step(0)?;
            if let Some(why) = self.fit_keyword(value, keywords, keyword, wanted, depth)? {
                return fail(&why);
            }
        }
        Ok(())
    }

    /// Why the value does not fit; what is wrong deeper in it is an error with its place.
    fn fit_keyword(
        &mut self,
        value: &Value,
        keywords: &Map<String, Value>,
        keyword: &str,
        wanted: &Value,
        depth: usize,
    ) -> Result<Option<String>, Stop> {
        let says_why = self.alternatives == 0;
        let expected = |what: &str, unit: &str| match says_why {
            true => format!("expected {what}{}{unit}", shown(&wanted.to_string())),
            false => String::new(),
        };
        Ok(match keyword {
            "type" if !types(wanted).any(|name| is_of(value, name)) => Some(match says_why {
                true => format!(
                    "expected {}",
                    types(wanted).collect::<Vec<_>>().join(" or ")
                ),
                false => String::new(),
            }),
            "enum" => {
                for one in list(wanted) {
                    if self.equal(one, value)? {
                        return Ok(None);
                    }
                }
                Some(expected("one of ", ""))
            }
            "const" if !self.equal(wanted, value)? => Some(expected("", "")),
            "minimum" if is_beyond(value, wanted, |value, limit| value < limit) => {
                Some(expected("at least ", ""))
            }
            "maximum" if is_beyond(value, wanted, |value, limit| value > limit) => {
                Some(expected("at most ", ""))
            }
            "exclusiveMinimum" if is_beyond(value, wanted, |value, limit| value <= limit) => {
                Some(expected("more than ", ""))
            }
            "exclusiveMaximum" if is_beyond(value, wanted, |value, limit| value >= limit) => {
                Some(expected("less than ", ""))
            }
            "minLength" if is_below(self.length(value)?, wanted) => {
                Some(expected("at least ", " characters"))
            }
            "maxLength" if is_above(self.length(value)?, wanted) => {
                Some(expected("at most ", " characters"))
            }
            "minItems" if is_below(value.as_array().map(Vec::len), wanted) => {
                Some(expected("at least ", " items"))
            }
            "maxItems" if is_above(value.as_array().map(Vec::len), wanted) => {
                Some(expected("at most ", " items"))
            }
            "minProperties" if is_below(value.as_object().map(Map::len), wanted) => {
                Some(expected("at least ", " properties"))
            }
            "maxProperties" if is_above(value.as_object().map(Map::len), wanted) => {
                Some(expected("at most ", " properties"))
            }
            "uniqueItems" if wanted == true && self.has_twice(list(value))? => {
                Some("it has an item twice".into())
            }
            "required" => {
                for name in list(wanted).iter().filter_map(Value::as_str) {
                    self.step(64 + name.len() * 8)?;
                    let object = value.as_object();
                    if object.is_some_and(|object| !object.contains_key(name)) {
                        return Ok(Some(match says_why {
                            true => format!("{:?} is missing", shown(name)),
                            false => String::new(),
                        }));
                    }
                }
                None
            }
            "items" => {
                for (index, item) in list(value).iter().enumerate() {
                    self.fit_at(item, wanted, depth + 1)
                        .map_err(|stop| stop.below(&index.to_string()))?;
                }
                None
            }
            "properties" | "additionalProperties" => {
                for (name, property) in value.as_object().into_iter().flatten() {
                    // It is compared with some of the schema's names.
                    self.step(64 + name.len() * 8)?;
                    let declared = keywords.get("properties").and_then(|known| known.get(name));
                    let schema = match keyword {
                        "properties" => declared,
                        _ => declared.is_none().then_some(wanted),
                    };
                    if let Some(schema) = schema {
                        self.fit_at(property, schema, depth + 1)
                            .map_err(|stop| stop.below(name))?;
                    }
                }
                None
            }
            "allOf" => {
                for schema in list(wanted) {
                    self.fit_at(value, schema, depth + 1)?;
                }
                None
            }
            "not" if self.fits(value, wanted, depth + 1)? => {
                Some("it fits what it must not".into())
            }
            "anyOf" => {
                for schema in list(wanted) {
                    if self.fits(value, schema, depth + 1)? {
                        return Ok(None);
                    }
                }
                Some("it fits none of the alternatives".into())
            }
            "oneOf" => {
                let mut fitting = 0;
                for schema in list(wanted) {
                    fitting += usize::from(self.fits(value, schema, depth + 1)?);
                }
                (fitting != 1).then(|| "it does not fit exactly one of the alternatives".into())
            }
            _ => None,
        })
    }

    fn fits(&mut self, value: &Value, schema: &Value, depth: usize) -> Result<bool, Stop> {
        self.alternatives += 1;
        let fits = self.fit_at(value, schema, depth);
        self.alternatives -= 1;
        match fits {
            Ok(()) => Ok(true),
            Err(Stop::Wrong(_)) => Ok(false),
            Err(Stop::TooCostly) => Err(Stop::TooCostly),
        }
    }

    /// As JSON Schema has it: 1 and 1.0 are the same number.
    fn equal(&mut self, left: &Value, right: &Value) -> Result<bool, Stop> {
        self.step(0)?;
        match (left, right) {
            (Value::Number(one), Value::Number(other)) => {
                Ok(one == other || one.as_f64() == other.as_f64())
            }
            (Value::String(one), Value::String(other)) if one.len() == other.len() => {
                self.step(one.len())?;
                Ok(one == other)
            }
            (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
                for (left, right) in one.iter().zip(other) {
                    if !self.equal(left, right)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Value::Object(one), Value::Object(other)) if one.len() == other.len() => {
                for ((name, left), (other_name, right)) in one.iter().zip(other) {
                    self.step(name.len())?;
                    if name != other_name || !self.equal(left, right)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Value::Null, Value::Null) => Ok(true),
            (Value::Bool(one), Value::Bool(other)) => Ok(one == other),
            _ => Ok(false),
        }
    }

    fn has_twice(&mut self, items: &[Value]) -> Result<bool, Stop> {
        let mut seen = BTreeSet::new();
        for item in items {
            let text = canonical(item).to_string();
            // It is written, and found its place among the others.
            self.step(16 * text.len())?;
            if !seen.insert(text) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The characters of a text.
    fn length(&mut self, value: &Value) -> Result<Option<usize>, Stop> {
        let Some(text) = value.as_str() else {
            return Ok(None);
        };
        self.step(text.len())?;
        Ok(Some(text.chars().count()))
    }
}

/// The same of all values that are equal.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Number(number) =>
        // Minus zero is zero.
        {
            number
                .as_f64()
                .map_or(Value::Null, |number| Value::from(number + 0.0))
        }
        Value::Array(items) => items.iter().map(canonical).collect(),
        Value::Object(properties) => {
            let canonical = |(name, value): (&String, &Value)| (name.clone(), canonical(value));
            Value::Object(properties.iter().map(canonical).collect())
        }
        other => other.clone(),
    }
}

/// A text as a message has it.
fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// One name, or those of a list, of which what is no name is an empty one.
fn types(value: &Value) -> impl Iterator<Item = &str> {
    let one = value.as_str().into_iter();
    one.chain(list(value).iter().map(|name| name.as_str().unwrap_or("")))
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        // 1.0 is one too.
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    }
}

fn is_beyond(value: &Value, limit: &Value, beyond: impl Fn(f64, f64) -> bool) -> bool {
    match (value.as_f64(), limit.as_f64()) {
        (Some(value), Some(limit)) => beyond(value, limit),
        _ => false,
    }
}

fn is_below(count: Option<usize>, wanted: &Value) -> bool {
    let limit = wanted.as_u64();
    count
        .zip(limit)
        .is_some_and(|(count, limit)| (count as u64) < limit)
}

fn is_above(count: Option<usize>, wanted: &Value) -> bool {
    let limit = wanted.as_u64();
    count
        .zip(limit)
        .is_some_and(|(count, limit)| count as u64 > limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn holds(schema: Value, fitting: &[Value], others: &[(Value, &str)]) {
        assert_eq!(check(&schema), Ok(()));
        for document in fitting {
            let mut steps = 10_000;
            assert_eq!(fit(document, &schema, &mut steps), Ok(()), "{document}");
        }
        for (document, why) in others {
            let mut steps = 10_000;
            let misfit = Misfit::Wrong((*why).to_owned());
            assert_eq!(
                fit(document, &schema, &mut steps),
                Err(misfit),
                "{document}"
            );
        }
    }

    #[test]
    fn objects() {
        let schema = json!({
            "type": "object",
            "required": ["port"],
            "properties": {
                "port": {"type": "integer", "minimum": 1, "exclusiveMaximum": 65536},
                "hosts": {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 2, "uniqueItems": true},
            },
            "additionalProperties": false,
        });
        holds(
            schema,
            &[
                json!({"port": 80.0}),
                json!({"port": 1, "hosts": ["a", "b"]}),
            ],
            &[
                (json!([]), "the document: expected object"),
                (json!({}), "the document: \"port\" is missing"),
                (json!({"port": 0}), "/port: expected at least 1"),
                (json!({"port": 65536}), "/port: expected less than 65536"),
                (json!({"port": 1.5}), "/port: expected integer"),
                (json!({"port": 1, "x": 1}), "/x: it is not allowed"),
                (
                    json!({"port": 1, "hosts": ["a", ""]}),
                    "/hosts/1: expected at least 1 characters",
                ),
                (
                    json!({"port": 1, "hosts": ["a", "b", "c"]}),
                    "/hosts: expected at most 2 items",
                ),
                (
                    json!({"port": 1, "hosts": ["a", "a"]}),
                    "/hosts: it has an item twice",
                ),
            ],
        );
    }

    #[test]
    fn alternatives() {
        let schema = json!({
            "oneOf": [{"type": ["integer", "null"]}, {"const": 1}, {"enum": ["on", "off"]}],
            "not": {"const": 7},
        });
        holds(
            schema,
            &[json!(2), json!(null), json!("on")],
            &[
                (
                    json!(1.0),
                    "the document: it does not fit exactly one of the alternatives",
                ),
                (
                    json!("maybe"),
                    "the document: it does not fit exactly one of the alternatives",
                ),
                (json!(7), "the document: it fits what it must not"),
            ],
        );
        holds(
            json!({"anyOf": [{"type": "object", "minProperties": 1}, {"allOf": [{"type": "string"}, {"maxLength": 2}]}]}),
            &[json!({"a": 1}), json!("äö")],
            &[(
                json!("abc"),
                "the document: it fits none of the alternatives",
            )],
        );
    }

    #[test]
    fn what_is_not_of_the_subset_is_refused() {
        for (schema, at) in [
            (
                json!({"properties": {"a": {"$ref": "#/x"}}}),
                "#/properties/a/$ref",
            ),
            (json!({"pattern": "a+"}), "#/pattern"),
            (json!({"type": "text"}), "#/type"),
            (json!({"type": []}), "#/type"),
            (json!({"minLength": -1}), "#/minLength"),
            (json!({"anyOf": []}), "#/anyOf"),
            (json!(5), "#: a schema"),
        ] {
            let refused = check(&schema).unwrap_err();
            assert!(refused.starts_with(at), "{refused}");
        }
        let deep = (0..40).fold(json!({}), |schema, _| json!({"not": schema}));
        assert!(check(&deep).unwrap_err().contains("nest"));
    }

    #[test]
    fn equal_numbers_are_items_twice_wherever_they_stand() {
        holds(
            json!({"uniqueItems": true}),
            &[json!([1, "1", [1], {"a": 1}, null])],
            &[
                (json!([1, 1.0]), "the document: it has an item twice"),
                (json!([[1], [1.0]]), "the document: it has an item twice"),
            ],
        );
    }

    #[test]
    fn what_takes_too_many_steps_is_said_and_not_done() {
        let costs = |document: &Value, schema: &Value| {
            let mut steps = 1_000_000;
            assert_ne!(fit(document, schema, &mut steps), Err(Misfit::TooCostly));
            let cost = 1_000_000 - steps;
            let mut steps = cost - 1;
            assert_eq!(fit(document, schema, &mut steps), Err(Misfit::TooCostly));
            cost
        };
        let one = json!({"not": {"enum": ["x", "y"]}});
        let many = json!({"items": {"allOf": vec![one; 20]}});
        let few_items = costs(&json!(vec!["a"; 10]), &many);
        let many_items = costs(&json!(vec!["a"; 100]), &many);
        assert!(many_items > 9 * few_items, "{few_items} and {many_items}");
        let long = "a".repeat(100_000);
        assert!(costs(&json!(long), &json!({"maxLength": 5})) > 1000);
        let items: Vec<Value> = (0..1000).map(Value::from).collect();
        assert!(costs(&json!(items), &json!({"uniqueItems": true})) < 10_000);
    }

    #[test]
    fn values_are_counted_before_they_are_read() {
        assert_eq!(values_in("1"), 1);
        assert_eq!(values_in(r#"{"a,[": [1, "\"{", {}]}"#), 6 + 4);
    }

    #[test]
    fn long_names_and_values_are_cut_in_messages() {
        let long = "x".repeat(100_000);
        let mut properties = Map::new();
        properties.insert(long.clone(), json!({"const": long}));
        let schema = json!({ "properties": properties });
        let mut document = Map::new();
        document.insert(long, json!(1));
        let misfit = fit(&Value::Object(document), &schema, &mut 100_000);
        let Err(Misfit::Wrong(why)) = misfit else {
            panic!("{misfit:?}");
        };
        assert!(why.len() < 300, "{}", why.len());
    }
}
