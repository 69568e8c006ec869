//! Every operation of every standard recipe takes whatever its types let through: it gives a result, waits, or refuses and
//! says why. It never traps, never exceeds a bound of its run (the world fails then), and touches nothing that it was not
//! told the name of. The operations and their types are the component's own, so a new one is held to this too.

use std::collections::BTreeSet;

use quorate_tests::random::{
    Compiled, Definition, Event, Interfaced, Rng, SessionId, Type, Value, World, json,
};

/// Calls of each operation with arguments drawn at random, beside those where one argument is nasty.
const DRAWN: usize = 40;

/// Where the recipe is mounted.
const MOUNT: &str = "/mount";

/// What every recipe keeps its names under: its own words, or names that are no caller's.
const OWN: [&str; 2] = ["sequences", "slots"];

#[test]
fn every_operation_takes_whatever_its_types_let_through() {
    let mut operations = 0;
    for recipe in quorate_recipes::all() {
        let compiled = Compiled::standard(recipe.name);
        let mut case = Case::new(recipe.name, &compiled);
        // Twice: the second time there is what the first has left.
        for _ in 0..2 {
            for operation in compiled.operations() {
                case.try_all(operation);
                operations += 1;
            }
        }
    }
    assert!(operations > 2 * 100, "{operations}");
}

struct Case {
    recipe: &'static str,
    world: World,
    random: Rng,
    /// The texts that calls which wait were given.
    waiting: BTreeSet<String>,
}

impl Case {
    fn new(recipe: &'static str, compiled: &Compiled) -> Case {
        Case {
            recipe,
            world: World::new(compiled, 1000),
            random: Rng::with_seed(7),
            waiting: BTreeSet::new(),
        }
    }

    fn try_all(&mut self, operation: &Interfaced) {
        let types: Vec<&Type> = operation.parameters.iter().map(|(_, ty)| ty).collect();
        let nasty: Vec<Vec<Value>> = types.iter().map(|ty| nasty(ty)).collect();
        let sane: Vec<Value> = types.iter().map(|ty| sane(ty)).collect();
        let session = self.world.open();
        self.call(session, operation, sane.clone());
        for (place, values) in nasty.iter().enumerate() {
            for value in values {
                let mut arguments = sane.clone();
                arguments[place] = value.clone();
                self.call(session, operation, arguments);
            }
        }
        for _ in 0..DRAWN {
            let drawn = nasty.iter().zip(&sane).map(|(values, sane)| {
                let pick = self.random.usize(0..values.len() * 2);
                values.get(pick).unwrap_or(sane).clone()
            });
            let arguments = drawn.collect();
            self.call(session, operation, arguments);
        }
        // Whoever waits is given up or goes on; nothing of it is a fault either.
        self.world.pass(60_000);
        for call in self.world.parked() {
            if self.random.bool() {
                self.world.cancel(call);
            }
        }
        if self.random.bool() {
            self.world.expire(session);
        }
        self.world.settle();
        self.world.events();
    }

    fn call(&mut self, session: SessionId, operation: &Interfaced, arguments: Vec<Value>) {
        let arguments = Value::Array(arguments);
        if arguments.to_string().len() > MAX_ARGUMENTS {
            return;
        }
        let mut texts = self.waiting.clone();
        collect_texts(&arguments, &mut texts);
        let before = self.world.tree();
        let id = self
            .world
            .call(session, &operation.name, arguments.clone(), None);
        let ended = self
            .world
            .events()
            .into_iter()
            .find_map(|(_, event)| match event {
                Event::Ended(asked, why) if asked.id == id => Some(Some(why)),
                Event::Returned(asked, _) if asked.id == id => Some(None),
                _ => None,
            });
        let after = self.world.tree();
        let shown = || {
            let text: String = arguments.to_string().chars().take(300).collect();
            format!("{} {}{text}", self.recipe, operation.name)
        };
        match ended {
            Some(Some(why)) => {
                let reason = why.strip_prefix("refused: ");
                assert!(
                    reason.is_some_and(|reason| (5..4000).contains(&reason.len())),
                    "{} ends with {why:?}",
                    shown()
                );
                assert!(
                    before == after,
                    "{} is refused, and changes the tree",
                    shown()
                );
                return;
            }
            Some(None) => {}
            None => self.waiting.clone_from(&texts),
        }
        let changed = before
            .iter()
            .filter(|(path, node)| after.get(*path) != Some(node))
            .chain(after.iter().filter(|(path, _)| !before.contains_key(*path)));
        for (path, _) in changed {
            let below = path
                .strip_prefix(MOUNT)
                .and_then(|below| below.strip_prefix('/'));
            let mut names = below.unwrap_or_default().split('/');
            let name = names.next().unwrap_or_default();
            let is_named = texts.contains(name)
                || OWN.contains(&name) && names.next().is_none_or(|name| texts.contains(name));
            assert!(is_named, "{} changes {path}", shown());
        }
    }
}

/// Longer ones do not reach the recipe.
const MAX_ARGUMENTS: usize = 256 << 10;

fn collect_texts(value: &Value, texts: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            texts.insert(text.clone());
        }
        Value::Array(values) => values.iter().for_each(|it| collect_texts(it, texts)),
        Value::Object(fields) => fields.values().for_each(|it| collect_texts(it, texts)),
        _ => {}
    }
}

/// A value that most operations do something with.
fn sane(ty: &Type) -> Value {
    match ty {
        Type::Bool => json!(true),
        Type::S8 | Type::U8 | Type::S16 | Type::U16 | Type::S32 | Type::U32 => json!(1),
        Type::S64 | Type::U64 => json!(1),
        Type::F32 | Type::F64 => json!(1.5),
        Type::Char | Type::String => json!("a"),
        Type::Bytes => json!([1]),
        Type::List(item) => json!([sane(item)]),
        Type::Tuple(items) => items.iter().map(sane).collect(),
        Type::Option(_) => Value::Null,
        Type::Result(sides) => json!({"ok": sides.0.as_ref().map(sane)}),
        Type::Named(named) => match &named.definition {
            Definition::Record(fields) => record(fields, |_, ty| sane(ty)),
            Definition::Variant(cases) => case(&cases[0]).1,
            Definition::Enum(cases) => json!(cases[0]),
            Definition::Flags(_) => json!([]),
            Definition::Alias(ty) => sane(ty),
        },
    }
}

fn record(fields: &[(String, Type)], mut value: impl FnMut(usize, &Type) -> Value) -> Value {
    let fields = fields.iter().enumerate();
    let fields = fields.map(|(place, (name, ty))| (name.clone(), value(place, ty)));
    Value::Object(fields.collect())
}

fn case((name, ty): &(String, Option<Type>)) -> (&str, Value) {
    let value = match ty {
        Some(ty) => json!({ name: sane(ty) }),
        None => json!(name),
    };
    (name, value)
}

/// Values that a careless or hostile caller gives.
fn nasty(ty: &Type) -> Vec<Value> {
    let signed = |bits: u32| {
        vec![
            json!(0),
            json!(-1),
            json!(i64::MIN >> (64 - bits)),
            json!(i64::MAX >> (64 - bits)),
        ]
    };
    let unsigned = |bits: u32| {
        vec![
            json!(0),
            json!(2),
            json!(1000),
            json!(u64::MAX >> (64 - bits)),
        ]
    };
    match ty {
        Type::Bool => vec![json!(true), json!(false)],
        Type::S8 => signed(8),
        Type::S16 => signed(16),
        Type::S32 => signed(32),
        Type::S64 => signed(64),
        Type::U8 => vec![json!(0), json!(255)],
        Type::U16 => unsigned(16),
        Type::U32 => unsigned(32),
        Type::U64 => unsigned(64),
        Type::F32 | Type::F64 => {
            vec![
                json!(0.0),
                json!(-0.0),
                json!("NaN"),
                json!("Infinity"),
                json!("-Infinity"),
            ]
        }
        Type::Char => vec![json!("\0"), json!("/"), json!("\u{10ffff}")],
        Type::String => texts(),
        Type::Bytes => vec![json!([]), json!([0, 255]), json!(vec![0; 10_000])],
        Type::List(item) => {
            let one = sane(item);
            let mut lists = vec![
                json!([]),
                json!([one, one]),
                json!(vec![one.clone(); 100]),
                json!(vec![one; 10_000]),
            ];
            let mut all = nasty(item);
            lists.extend(all.iter().map(|value| json!([value])));
            all.retain(|value| value.to_string().len() < 1000);
            lists.push(Value::Array(all));
            if matches!(**item, Type::String) {
                let names = |count: usize, bytes: usize| -> Value {
                    (0..count)
                        .map(|number| json!(format!("{number:0bytes$}")))
                        .collect()
                };
                lists.extend([
                    names(64, 100),
                    names(64, 1024),
                    names(100, 1024),
                    names(1000, 4),
                ]);
            }
            lists
        }
        Type::Tuple(items) => vec![items.iter().map(|ty| nasty(ty)[0].clone()).collect()],
        Type::Option(item) => {
            let mut values = nasty(item);
            values.push(sane(item));
            values
        }
        Type::Result(sides) => vec![
            json!({"ok": sides.0.as_ref().map(sane)}),
            json!({"err": sides.1.as_ref().map(sane)}),
        ],
        Type::Named(named) => match &named.definition {
            Definition::Record(fields) => fields
                .iter()
                .enumerate()
                .flat_map(|(nasty_one, (_, ty))| {
                    let of_field = nasty(ty).into_iter();
                    of_field.map(move |value| {
                        record(fields, |place, ty| match place == nasty_one {
                            true => value.clone(),
                            false => sane(ty),
                        })
                    })
                })
                .collect(),
            Definition::Variant(cases) => cases.iter().map(|it| case(it).1).collect(),
            Definition::Enum(cases) => cases.iter().map(|it| json!(it)).collect(),
            Definition::Flags(flags) => vec![json!([]), json!(flags)],
            Definition::Alias(ty) => nasty(ty),
        },
    }
}

/// Names that are none, the longest, what other texts than names are taken for, and names that recipes use themselves.
fn texts() -> Vec<Value> {
    let nested = |bytes: usize| format!("{}{}", "[".repeat(bytes / 2), "]".repeat(bytes / 2));
    let schema = |depth: usize| format!("{}{{}}{}", "{\"not\":".repeat(depth), "}".repeat(depth));
    let texts = [
        "",
        "/",
        "a/b",
        "/a",
        "a/",
        ".",
        "..",
        "../a",
        "a\0b",
        "\0",
        "\n",
        "a\r\nb",
        "\u{7f}",
        "\u{85}",
        "\u{202e}",
        "é€漢",
        "e\u{301}",
        "\u{1f600}",
        "\u{fffd}",
        "\u{feff}",
        " ",
        "\"\\",
        "~",
        "%00",
        "null",
        "{}",
        "[]",
        "1e999",
        "-0",
        "\"\\ud800\"",
        "{\"$ref\":\"#\"}",
        "{\"enum\":[]}",
        "items",
        "gate",
        "line",
        "leader",
        "versions",
        "members",
        "table",
        "ticket-0000000000000001",
        "100-0000000000000001",
        "every 1s",
        "every 4294967295d",
        "every 0s",
        "every é",
        "* * * * *",
        "0 0 29 2 *",
        "0 0 31 2 *",
        "*/0 * * * *",
        "*/99999999999999999999 * * * *",
        "5-1 * * * *",
        "1/",
    ];
    let long = [
        "x".repeat(1024),
        "x".repeat(1025),
        "x".repeat(10_000),
        "\"".repeat(1024),
        "€".repeat(3_400),
        "\u{1}".repeat(4_000),
        "x".repeat(200_000),
        nested(200),
        nested(100_000),
        schema(30),
        schema(60),
        schema(5_000),
        format!("{{\"enum\":[{}1]}}", "1,".repeat(50_000)),
        format!("{}1", "1,".repeat(50_000)),
        format!("every {}s", "9".repeat(10_000)),
    ];
    let short = texts.into_iter().map(str::to_owned);
    short.chain(long).map(Value::from).collect()
}
