//! The subset of JSON Schema that documents are checked against.

use serde_json::{Map, Value};

/// How deep schemas and documents may nest.
const MAX_DEPTH: usize = 32;

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
    check_at(schema, "#", 0)
}

/// Whether `document` fits a `schema` that passed [`check`]; if not, what does not and where.
pub(crate) fn fit(document: &Value, schema: &Value) -> Result<(), String> {
    fit_at(document, schema, "", 0)
}

fn check_at(schema: &Value, at: &str, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("{at}: schemas nest {MAX_DEPTH} deep at most"));
    }
    let keywords = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(keywords) => keywords,
        _ => return Err(format!("{at}: a schema is an object, true or false")),
    };
    for (keyword, value) in keywords {
        let at = format!("{at}/{keyword}");
        let expect = |is: bool, what: &str| {
            if is {
                Ok(())
            } else {
                Err(format!("{at}: expected {what}"))
            }
        };
        match keyword.as_str() {
            "type" => expect(
                !types(value).is_empty() && types(value).iter().all(|name| TYPES.contains(name)),
                "the name of a type, or a list of them",
            )?,
            "enum" => expect(value.is_array(), "a list")?,
            "const" => {}
            "properties" => {
                let Some(properties) = value.as_object() else {
                    return expect(false, "an object");
                };
                for (name, schema) in properties {
                    check_at(schema, &format!("{at}/{name}"), depth + 1)?;
                }
            }
            "additionalProperties" | "items" | "not" => check_at(value, &at, depth + 1)?,
            "required" => expect(
                value
                    .as_array()
                    .is_some_and(|names| names.iter().all(Value::is_string)),
                "a list of names",
            )?,
            "allOf" | "anyOf" | "oneOf" => {
                let Some(schemas) = value.as_array().filter(|schemas| !schemas.is_empty()) else {
                    return expect(false, "a list of schemas");
                };
                for (index, schema) in schemas.iter().enumerate() {
                    check_at(schema, &format!("{at}/{index}"), depth + 1)?;
                }
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                expect(value.is_number(), "a number")?;
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties"
            | "maxProperties" => expect(value.is_u64(), "a whole number")?,
            "uniqueItems" => expect(value.is_boolean(), "true or false")?,
            keyword if ANNOTATIONS.contains(&keyword) => {}
            _ => {
                return Err(format!(
                    "{at}: this keyword is not of the subset that is checked here"
                ));
            }
        }
    }
    Ok(())
}

fn fit_at(value: &Value, schema: &Value, at: &str, depth: usize) -> Result<(), String> {
    let fail = |why: String| {
        let place = if at.is_empty() { "the document" } else { at };
        Err(format!("{place}: {why}"))
    };
    if depth > MAX_DEPTH {
        return fail(format!("it nests deeper than {MAX_DEPTH}"));
    }
    let keywords = match schema {
        Value::Object(keywords) => keywords,
        Value::Bool(true) => return Ok(()),
        _ => return fail("it is not allowed".into()),
    };
    for (keyword, wanted) in keywords {
        let why = match keyword.as_str() {
            "type" if !types(wanted).iter().any(|name| is_of(value, name)) => {
                Some(format!("expected {}", types(wanted).join(" or ")))
            }
            "enum" if !list(wanted).iter().any(|one| equal(one, value)) => {
                Some(format!("expected one of {wanted}"))
            }
            "const" if !equal(wanted, value) => Some(format!("expected {wanted}")),
            "minimum" if is_beyond(value, wanted, |value, limit| value < limit) => {
                Some(format!("expected at least {wanted}"))
            }
            "maximum" if is_beyond(value, wanted, |value, limit| value > limit) => {
                Some(format!("expected at most {wanted}"))
            }
            "exclusiveMinimum" if is_beyond(value, wanted, |value, limit| value <= limit) => {
                Some(format!("expected more than {wanted}"))
            }
            "exclusiveMaximum" if is_beyond(value, wanted, |value, limit| value >= limit) => {
                Some(format!("expected less than {wanted}"))
            }
            "minLength" => below(value.as_str().map(length), wanted, "characters"),
            "maxLength" => above(value.as_str().map(length), wanted, "characters"),
            "minItems" => below(value.as_array().map(Vec::len), wanted, "items"),
            "maxItems" => above(value.as_array().map(Vec::len), wanted, "items"),
            "minProperties" => below(value.as_object().map(Map::len), wanted, "properties"),
            "maxProperties" => above(value.as_object().map(Map::len), wanted, "properties"),
            "uniqueItems" if wanted == true && has_twice(list(value)) => {
                Some("it has an item twice".into())
            }
            "required" => list(wanted)
                .iter()
                .filter_map(Value::as_str)
                .find(|name| {
                    value
                        .as_object()
                        .is_some_and(|object| !object.contains_key(*name))
                })
                .map(|name| format!("{name:?} is missing")),
            "items" => {
                for (index, item) in list(value).iter().enumerate() {
                    fit_at(item, wanted, &format!("{at}/{index}"), depth + 1)?;
                }
                None
            }
            "properties" | "additionalProperties" => {
                for (name, property) in value.as_object().into_iter().flatten() {
                    let declared = keywords.get("properties").and_then(|known| known.get(name));
                    let schema = match keyword.as_str() {
                        "properties" => declared,
                        _ => declared.is_none().then_some(wanted),
                    };
                    if let Some(schema) = schema {
                        fit_at(property, schema, &format!("{at}/{name}"), depth + 1)?;
                    }
                }
                None
            }
            "allOf" => {
                for schema in list(wanted) {
                    fit_at(value, schema, at, depth + 1)?;
                }
                None
            }
            "anyOf" | "oneOf" | "not" => {
                let fits = |schema: &&Value| fit_at(value, schema, at, depth + 1).is_ok();
                match keyword.as_str() {
                    "not" if fits(&wanted) => Some("it fits what it must not".into()),
                    "anyOf" if !list(wanted).iter().any(|schema| fits(&schema)) => {
                        Some("it fits none of the alternatives".into())
                    }
                    "oneOf" if list(wanted).iter().filter(fits).count() != 1 => {
                        Some("it does not fit exactly one of the alternatives".into())
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        if let Some(why) = why {
            return fail(why);
        }
    }
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// One name, or the names of a list if all are.
fn types(value: &Value) -> Vec<&str> {
    match value {
        Value::String(name) => vec![name],
        Value::Array(names) => names
            .iter()
            .map(|name| name.as_str().unwrap_or(""))
            .collect(),
        _ => Vec::new(),
    }
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

/// As JSON Schema has it: 1 and 1.0 are the same number.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || one.as_f64() == other.as_f64()
        }
        _ => left == right,
    }
}

fn has_twice(items: &[Value]) -> bool {
    (1..items.len()).any(|index| {
        items[..index]
            .iter()
            .any(|other| equal(other, &items[index]))
    })
}

fn is_beyond(value: &Value, limit: &Value, beyond: impl Fn(f64, f64) -> bool) -> bool {
    match (value.as_f64(), limit.as_f64()) {
        (Some(value), Some(limit)) => beyond(value, limit),
        _ => false,
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

fn below(count: Option<usize>, wanted: &Value, what: &str) -> Option<String> {
    let is_below = (count? as u64) < wanted.as_u64()?;
    is_below.then(|| format!("expected at least {wanted} {what}"))
}

fn above(count: Option<usize>, wanted: &Value, what: &str) -> Option<String> {
    let is_above = (count? as u64) > wanted.as_u64()?;
    is_above.then(|| format!("expected at most {wanted} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn holds(schema: Value, fitting: &[Value], others: &[(Value, &str)]) {
        assert_eq!(check(&schema), Ok(()));
        for document in fitting {
            assert_eq!(fit(document, &schema), Ok(()), "{document}");
        }
        for (document, why) in others {
            assert_eq!(fit(document, &schema), Err((*why).to_owned()), "{document}");
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
}
