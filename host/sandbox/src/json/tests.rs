//! Values of random types go to JSON and come back the same; what does not fit is told by name and path.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use wasmtime::component::Val;

use super::write::{Side, TooLong, result};
use super::{arguments, may_be_null};
use crate::interface::{Definition, Named, Operation, Type};

fn named(name: &str, definition: Definition) -> Type {
    Type::Named(Arc::new(Named {
        name: name.into(),
        documentation: None,
        definition,
    }))
}

fn names(prefix: &'static str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |place| format!("{prefix}-{place}"))
}

fn any_type() -> impl Strategy<Value = Type> {
    let leaf = prop_oneof![
        Just(Type::Bool),
        Just(Type::S8),
        Just(Type::U8),
        Just(Type::S16),
        Just(Type::U16),
        Just(Type::S32),
        Just(Type::U32),
        Just(Type::S64),
        Just(Type::U64),
        Just(Type::F32),
        Just(Type::F64),
        Just(Type::Char),
        Just(Type::String),
        Just(Type::Bytes),
        (1..5_usize).prop_map(|n| named("colour", Definition::Enum(names("case", n).collect()))),
        (1..5_usize).prop_map(|n| named("rights", Definition::Flags(names("flag", n).collect()))),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|ty| Type::List(Arc::new(ty))),
            inner.clone().prop_map(|ty| Type::Option(Arc::new(ty))),
            vec(inner.clone(), 1..4).prop_map(|types| Type::Tuple(types.into())),
            (
                prop::option::of(inner.clone()),
                prop::option::of(inner.clone())
            )
                .prop_map(|sides| Type::Result(Arc::new(sides))),
            vec(inner.clone(), 1..4).prop_map(|types| {
                let fields = names("field", types.len()).zip(types).collect();
                named("record", Definition::Record(fields))
            }),
            vec(prop::option::of(inner.clone()), 1..4).prop_map(|types| {
                let cases = names("case", types.len()).zip(types).collect();
                named("variant", Definition::Variant(cases))
            }),
            inner.prop_map(|ty| named("alias", Definition::Alias(ty))),
        ]
    })
}

fn any_value(ty: &Type) -> BoxedStrategy<Val> {
    match ty {
        Type::Bool => any::<bool>().prop_map(Val::Bool).boxed(),
        Type::S8 => any::<i8>().prop_map(Val::S8).boxed(),
        Type::U8 => any::<u8>().prop_map(Val::U8).boxed(),
        Type::S16 => any::<i16>().prop_map(Val::S16).boxed(),
        Type::U16 => any::<u16>().prop_map(Val::U16).boxed(),
        Type::S32 => any::<i32>().prop_map(Val::S32).boxed(),
        Type::U32 => any::<u32>().prop_map(Val::U32).boxed(),
        Type::S64 => any::<i64>().prop_map(Val::S64).boxed(),
        Type::U64 => any::<u64>().prop_map(Val::U64).boxed(),
        Type::F32 => prop::num::f32::ANY.prop_map(Val::Float32).boxed(),
        Type::F64 => prop::num::f64::ANY.prop_map(Val::Float64).boxed(),
        Type::Char => any::<char>().prop_map(Val::Char).boxed(),
        Type::String => any::<String>().prop_map(Val::String).boxed(),
        Type::Bytes => {
            let bytes = prop_oneof![
                vec(any::<u8>(), 0..20),
                any::<String>().prop_map(String::into_bytes)
            ];
            bytes
                .prop_map(|bytes| Val::List(bytes.into_iter().map(Val::U8).collect()))
                .boxed()
        }
        Type::List(item) => vec(any_value(item), 0..4).prop_map(Val::List).boxed(),
        Type::Tuple(items) => {
            let items: Vec<_> = items.iter().map(any_value).collect();
            items.prop_map(Val::Tuple).boxed()
        }
        Type::Option(item) => prop::option::of(any_value(item))
            .prop_map(|value| Val::Option(value.map(Box::new)))
            .boxed(),
        Type::Result(sides) => {
            let ok = carried(&sides.0).prop_map(|value| Val::Result(Ok(value)));
            let err = carried(&sides.1).prop_map(|value| Val::Result(Err(value)));
            prop_oneof![ok, err].boxed()
        }
        Type::Named(named) => match &named.definition {
            Definition::Alias(ty) => any_value(ty),
            Definition::Enum(cases) => prop::sample::select(cases.clone())
                .prop_map(Val::Enum)
                .boxed(),
            Definition::Flags(flags) => prop::sample::subsequence(flags.clone(), 0..=flags.len())
                .prop_map(Val::Flags)
                .boxed(),
            Definition::Record(fields) => {
                let values: Vec<_> = fields.iter().map(|(_, ty)| any_value(ty)).collect();
                let names: Vec<_> = fields.iter().map(|(name, _)| name.clone()).collect();
                values
                    .prop_map(move |values| {
                        Val::Record(names.iter().cloned().zip(values).collect())
                    })
                    .boxed()
            }
            Definition::Variant(cases) => prop::sample::select(cases.clone())
                .prop_flat_map(|(case, ty)| {
                    carried(&ty).prop_map(move |value| Val::Variant(case.clone(), value))
                })
                .boxed(),
        },
    }
}

fn carried(ty: &Option<Type>) -> BoxedStrategy<Option<Box<Val>>> {
    match ty {
        Some(ty) => any_value(ty)
            .prop_map(|value| Some(Box::new(value)))
            .boxed(),
        None => Just(None).boxed(),
    }
}

fn typed_value() -> impl Strategy<Value = (Type, Val)> {
    any_type().prop_flat_map(|ty| any_value(&ty).prop_map(move |value| (ty.clone(), value)))
}

/// All not-a-numbers are one in JSON, as they are for WebAssembly's components.
fn canonical(value: Val) -> Val {
    let boxed = |value: Option<Box<Val>>| value.map(|value| Box::new(canonical(*value)));
    match value {
        Val::Float32(value) if value.is_nan() => Val::Float32(f32::NAN),
        Val::Float64(value) if value.is_nan() => Val::Float64(f64::NAN),
        Val::List(values) => Val::List(values.into_iter().map(canonical).collect()),
        Val::Tuple(values) => Val::Tuple(values.into_iter().map(canonical).collect()),
        Val::Record(values) => Val::Record(
            values
                .into_iter()
                .map(|(name, value)| (name, canonical(value)))
                .collect(),
        ),
        Val::Option(value) => Val::Option(boxed(value)),
        Val::Variant(case, value) => Val::Variant(case, boxed(value)),
        Val::Result(Ok(value)) => Val::Result(Ok(boxed(value))),
        Val::Result(Err(value)) => Val::Result(Err(boxed(value))),
        other => other,
    }
}

fn operation(parameters: &[(&str, Type)]) -> Operation {
    Operation {
        interface: None,
        name: "act".into(),
        parameters: parameters
            .iter()
            .map(|(name, ty)| ((*name).to_owned(), ty.clone()))
            .collect(),
        result: None,
        documentation: None,
    }
}

/// As the argument of an operation with one parameter, `value`.
fn parse(ty: &Type, json: &str) -> Result<Val, String> {
    let operation = operation(&[("value", ty.clone())]);
    let values = arguments(&operation, &format!("[{json}]"))?;
    Ok(values.into_iter().next().expect("one parameter, one value"))
}

/// A value in a place where a `result` keeps its `ok` and `err`.
fn write(ty: &Type, value: Val, most_bytes: usize) -> Result<String, TooLong> {
    let ty = Type::Tuple([ty.clone()].into());
    match result(Some(&ty), Some(&Val::Tuple(vec![value])), most_bytes)? {
        Side::Returned(json) => Ok(json[1..json.len() - 1].to_owned()),
        Side::Failed(_) => panic!("a tuple does not fail"),
    }
}

proptest! {
    #[test]
    fn values_go_to_json_and_back((ty, value) in typed_value()) {
        let json = write(&ty, value.clone(), usize::MAX).unwrap();
        let back = parse(&ty, &json);
        prop_assert_eq!(back.map(canonical), Ok(canonical(value)), "{}", json);
    }

    #[test]
    fn the_bound_is_held((ty, value) in typed_value(), most_bytes in 2..50_usize) {
        match write(&ty, value.clone(), most_bytes) {
            Ok(json) => prop_assert!(json.len() + 2 <= most_bytes),
            Err(TooLong) => {
                let whole = write(&ty, value, usize::MAX).unwrap();
                prop_assert!(whole.len() + 2 > most_bytes);
            }
        }
    }

    #[test]
    fn any_json_is_taken_or_refused_with_the_parameters_name(
        ty in any_type(),
        (_, other) in typed_value(),
        json in prop_oneof![Just(String::new()), "[a-z0-9\\[\\]{}\",:. -]{0,20}"],
    ) {
        let _ = parse(&ty, &json);
        let other = write(&Type::Tuple([Type::Bool].into()), other, usize::MAX);
        if let Err(message) = parse(&ty, &other.unwrap()) {
            prop_assert!(message.contains("argument `value`"), "{}", message);
        }
    }

    #[test]
    fn may_be_null_is_exact((ty, value) in typed_value()) {
        let json = write(&ty, value, usize::MAX).unwrap();
        prop_assert!(json != "null" || may_be_null(&ty));
    }
}

#[test]
fn the_forms_of_the_documentation() {
    let grant = named(
        "grant",
        Definition::Record(vec![
            ("token".into(), Type::U64),
            ("held-by".into(), Type::Option(Arc::new(Type::String))),
        ]),
    );
    let lifetime = named(
        "lifetime",
        Definition::Variant(vec![
            ("persistent".into(), None),
            ("until".into(), Some(Type::U64)),
        ]),
    );
    let twice = Type::Option(Arc::new(Type::Option(Arc::new(Type::U8))));
    let same = [
        (&Type::U64, "18446744073709551615"),
        (&Type::S64, "-9223372036854775808"),
        (&Type::F64, "0.1"),
        (&Type::F64, "\"NaN\""),
        (&Type::F32, "\"-Infinity\""),
        (&Type::Char, "\"ü\""),
        (&Type::String, r#""a\"b\\c\nd\u0001""#),
        (&Type::Bytes, "\"text\""),
        (&Type::Bytes, r#"{"base64":"/w=="}"#),
        (&grant, r#"{"token":7,"held-by":null}"#),
        (&grant, r#"{"token":7,"held-by":"me"}"#),
        (&lifetime, "\"persistent\""),
        (&lifetime, r#"{"until":5}"#),
        (&twice, "null"),
        (&twice, r#"{"some":null}"#),
        (&twice, r#"{"some":3}"#),
    ];
    for (ty, json) in same {
        let value = parse(ty, json).unwrap();
        assert_eq!(write(ty, value, 100).unwrap(), json);
    }
    let also = [
        (
            &Type::U64,
            "\"18446744073709551615\"",
            "18446744073709551615",
        ),
        (&Type::F64, "1", "1.0"),
        (&Type::Bytes, "[104,105]", "\"hi\""),
        (&grant, r#"{"token":"7"}"#, r#"{"token":7,"held-by":null}"#),
    ];
    for (ty, json, canonical) in also {
        let value = parse(ty, json).unwrap();
        assert_eq!(write(ty, value, 100).unwrap(), canonical);
    }
}

#[test]
fn what_does_not_fit_is_told_by_name_and_path() {
    let point = named(
        "point",
        Definition::Record(vec![("x".into(), Type::S8), ("y".into(), Type::S8)]),
    );
    let points = Type::List(Arc::new(point));
    let colour = named(
        "colour",
        Definition::Enum(vec!["red".into(), "green".into()]),
    );
    let operation = operation(&[
        ("name", Type::String),
        ("points", points),
        ("colour", Type::Option(Arc::new(colour))),
    ]);
    let cases = [
        ("[3,[]]", "argument `name`: expected string, got number"),
        (
            r#"["a",[{"x":1,"y":2},{"x":1,"y":"a"}]]"#,
            "argument `points`[1].y: expected s8, got the string \"a\"",
        ),
        (
            r#"["a",[{"x":1,"y":200}]]"#,
            "argument `points`[0].y: \"200\" does not fit s8",
        ),
        (
            r#"["a",[{"x":1}]]"#,
            "argument `points`[0].y: it is missing",
        ),
        (
            r#"["a",[{"x":1,"y":1,"z":1}]]"#,
            "argument `points`[0]: point has no field \"z\"; it has x and y",
        ),
        (
            r#"["a",[],"blue"]"#,
            "argument `colour`: colour has no case \"blue\"; it has red and green",
        ),
        (
            r#"["a"]"#,
            "act takes 3 arguments (name, points and colour), not 1",
        ),
        (
            r#"["a",[],null,4]"#,
            "act takes 3 arguments (name, points and colour), not 4",
        ),
        (r#"{"name":"a"}"#, "argument `points`: it is missing"),
        (
            r#"{"name":"a","points":[],"size":1}"#,
            "act has no parameter `size`; it takes name, points and colour",
        ),
        (
            "7",
            "the arguments must be a JSON array or object, not number",
        ),
        (
            "[",
            "the arguments are no JSON: EOF while parsing a list at line 1 column 1",
        ),
    ];
    for (json, message) in cases {
        assert_eq!(arguments(&operation, json).unwrap_err(), message, "{json}");
    }
    assert!(
        arguments(&operation, r#"["a",[]]"#).is_ok(),
        "an option may be left out"
    );
    assert!(arguments(&operation, r#"{"points":[],"name":"a"}"#).is_ok());
    let deep = "[".repeat(100_000);
    assert!(arguments(&operation, &deep).is_err());
}

#[test]
fn a_result_says_its_side() {
    let ty = Type::Result(Arc::new((Some(Type::U8), Some(Type::String))));
    let ok = Val::Result(Ok(Some(Box::new(Val::U8(3)))));
    let returned = Side::Returned("3".into());
    assert_eq!(result(Some(&ty), Some(&ok), 10), Ok(returned));
    let err = Val::Result(Err(Some(Box::new(Val::String("no".into())))));
    let failed = Side::Failed("\"no\"".into());
    assert_eq!(result(Some(&ty), Some(&err), 10), Ok(failed));
    let nothing = Side::Returned("null".into());
    assert_eq!(result(None, None, 10), Ok(nothing));
}

/// As WAVE writes it.
fn wave(value: &Val) -> String {
    let all = |values: &[Val]| values.iter().map(wave).collect::<Vec<_>>().join(", ");
    let carried = |value: &Option<Box<Val>>| match value {
        Some(value) => format!("({})", wave(value)),
        None => String::new(),
    };
    let float = |number: f64, text: String| match number {
        _ if number.is_nan() => "nan".to_owned(),
        _ if number == f64::INFINITY => "inf".to_owned(),
        _ if number == f64::NEG_INFINITY => "-inf".to_owned(),
        _ => text,
    };
    match value {
        Val::Bool(value) => value.to_string(),
        Val::S8(value) => value.to_string(),
        Val::U8(value) => value.to_string(),
        Val::S16(value) => value.to_string(),
        Val::U16(value) => value.to_string(),
        Val::S32(value) => value.to_string(),
        Val::U32(value) => value.to_string(),
        Val::S64(value) => value.to_string(),
        Val::U64(value) => value.to_string(),
        Val::Float32(value) => float(f64::from(*value), format!("{value:e}")),
        Val::Float64(value) => float(*value, format!("{value:e}")),
        Val::Char(value) => format!("'{}'", value.escape_default()),
        Val::String(value) => format!("\"{}\"", value.escape_default()),
        Val::List(values) => format!("[{}]", all(values)),
        Val::Tuple(values) => format!("({})", all(values)),
        Val::Record(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| format!("{name}: {}", wave(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Val::Variant(case, value) => format!("{case}{}", carried(value)),
        Val::Enum(case) => case.clone(),
        Val::Option(None) => "none".into(),
        Val::Option(value) => format!("some{}", carried(value)),
        Val::Result(Ok(value)) => format!("ok{}", carried(value)),
        Val::Result(Err(value)) => format!("err{}", carried(value)),
        Val::Flags(flags) => format!("{{{}}}", flags.join(", ")),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn wave_says_the_same_as_json((ty, value) in typed_value()) {
        let operation = operation(&[("it", ty)]);
        let text = format!("({})", wave(&value));
        let read = arguments(&operation, &text);
        let read = read.map(|mut values| canonical(values.remove(0)));
        prop_assert_eq!(read, Ok(canonical(value)), "{}", text);
    }

    #[test]
    fn any_text_is_wave_or_an_error(ty in any_type(), text in "\\([a-z0-9-\"'\\\\{}\\[\\]():,. é%]{0,30}") {
        let _ = arguments(&operation(&[("it", ty)]), &text);
    }
}

#[test]
fn wave_is_read_as_people_write_it() {
    let count = Type::Option(Arc::new(Type::U32));
    let operation = operation(&[("name", Type::String), ("count", count)]);
    for text in [
        r#"("x", some(3))"#,
        r#"("x",3)"#,
        "( \"x\" , 3 , )",
        r#"("\u{78}", 3)"#,
    ] {
        let values = arguments(&operation, text).unwrap();
        let expected = [
            Val::String("x".into()),
            Val::Option(Some(Box::new(Val::U32(3)))),
        ];
        assert_eq!(values, expected, "{text}");
    }
    // What may be left out may be.
    assert_eq!(
        arguments(&operation, r#"("x")"#).unwrap()[1],
        Val::Option(None)
    );
    for (text, said) in [
        ("(x)", "argument `name`: expected '\"', got 'x'"),
        ("(\"x\", -1)", "does not fit u32"),
        ("(\"x\", 1, 2)", "takes only 2"),
        ("(\"x\"", "expected ','"),
        ("(\"x", "closing quotation mark"),
        ("(\"x\") y", "behind the arguments"),
        (r#"("\u{110000}")"#, "a character's number"),
        ("()", "takes 2 arguments"),
    ] {
        let error = arguments(&operation, text).unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
}
