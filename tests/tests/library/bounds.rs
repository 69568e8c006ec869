//! What a recipe keeps of a caller's data has bounds, so that what lists it never fails: it is given in pages, or refused
//! with the operation that gives it so. A run that exceeds a bound of its own fails the test by itself.
//!
//! With `QUORATE_FUEL=1` and `--nocapture` they show what the dearest calls cost, of the 20,000,000 that a run has.

use std::collections::BTreeMap;

use quorate_tests::random::{Compiled, Event, SessionId, Value, World, json};

/// Calls of one session, and the bytes after which another one is asked: their answers are kept.
const CALLS: usize = 900;
const BYTES: usize = 8 << 20;

/// Calls of many sessions, of which none ends.
struct Callers {
    world: World,
    session: SessionId,
    left: usize,
    bytes: usize,
}

impl Callers {
    fn of(recipe: &str) -> Callers {
        let mut world = World::new(&Compiled::standard(recipe), 1000);
        let session = world.open();
        Callers {
            world,
            session,
            left: CALLS,
            bytes: 0,
        }
    }

    /// The next calls are those of another session.
    fn another(&mut self) {
        self.session = self.world.open();
        self.left = CALLS;
        self.bytes = 0;
    }

    /// The result; none if it waits.
    fn ask(&mut self, operation: &str, arguments: Value) -> Option<Result<Value, String>> {
        if self.left == 0 || self.bytes > BYTES {
            self.another();
        }
        self.left -= 1;
        let shown = arguments.to_string();
        self.bytes += shown.len();
        let id = self.world.call(self.session, operation, arguments, None);
        let fuel = self.world.most_fuel();
        if std::env::var_os("QUORATE_FUEL").is_some() && fuel > 2_000_000 {
            println!(
                "{fuel} {operation} {}",
                shown.chars().take(60).collect::<String>()
            );
        }
        let events = self.world.events();
        let ended = events.into_iter().find_map(|(_, event)| match event {
            Event::Returned(asked, value) if asked.id == id => Some(Ok(value)),
            Event::Ended(asked, why) if asked.id == id => Some(Err(why)),
            _ => None,
        });
        if let Some(Ok(value)) = &ended {
            self.bytes += value.to_string().len();
        }
        ended
    }

    #[track_caller]
    fn get(&mut self, operation: &str, arguments: Value) -> Value {
        match self.ask(operation, arguments) {
            Some(Ok(value)) => value,
            other => panic!("{operation}: {other:?}"),
        }
    }

    /// Refused, for something that is said.
    #[track_caller]
    fn refused(&mut self, operation: &str, arguments: Value, why: &str) {
        match self.ask(operation, arguments) {
            Some(Err(refused)) if refused.contains(why) => {}
            other => panic!("{operation}: {other:?}"),
        }
    }

    /// All pages of `most`, and how many there were. The arguments end where `after` and `most` begin.
    fn pages(
        &mut self,
        operation: &str,
        arguments: &[Value],
        field: &str,
        most: u32,
    ) -> (Vec<Value>, usize) {
        let (mut all, mut pages, mut after) = (Vec::new(), 0, Value::Null);
        loop {
            let mut arguments = arguments.to_vec();
            arguments.extend([after, json!(most)]);
            let mut page = self.get(operation, Value::Array(arguments));
            let items = page[field].as_array_mut().expect("a list");
            assert!(items.len() <= most as usize, "{} items", items.len());
            all.append(items);
            pages += 1;
            after = page["next"].take();
            if after.is_null() {
                return (all, pages);
            }
        }
    }
}

/// What takes most in JSON of so many bytes.
fn longest(bytes: usize) -> String {
    "\u{1}".repeat(bytes)
}

/// Names that sort as their numbers.
fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{number:06}")).collect()
}

#[track_caller]
fn names_of(items: &[Value], field: &str) -> Vec<String> {
    let name = |item: &Value| item[field].as_str().expect("a name").to_owned();
    items.iter().map(name).collect()
}

#[test]
fn membership_tells_of_many_members_in_pages() {
    let mut callers = Callers::of("membership");
    let why = "beyond the bound member-bytes: 4097, and 4096 is the most";
    callers.refused("join", json!(["long", "x", "x".repeat(4097)]), why);
    let names = numbered(200);
    for name in &names {
        callers.get("join", json!(["long", name, longest(4096)]));
    }
    callers.refused("members", json!(["long"]), "members-after");
    callers.refused("wait-for-change", json!(["long", 0]), "members-after");
    let version = callers.get("wait-for-version", json!(["long", 0]));
    assert_eq!(
        callers.ask("wait-for-version", json!(["long", version])),
        None
    );
    let (members, pages) = callers.pages("members-after", &[json!("long")], "members", u32::MAX);
    assert_eq!(names_of(&members, "name"), names);
    assert!(pages > 1, "{pages}");
    callers.refused("members-after", json!(["long", null, 0]), "at least one");

    let names = numbered(5001);
    for name in &names[1..] {
        callers.get("join", json!(["many", name, ""]));
    }
    let all = callers.get("members", json!(["many"]));
    assert_eq!(all["members"].as_array().expect("a list").len(), 5000);
    callers.get("join", json!(["many", names[0], ""]));
    callers.refused("members", json!(["many"]), "members-after");
    for (most, expected) in [(u32::MAX, 2), (1000, 6), (2501, 2)] {
        let (members, pages) = callers.pages("members-after", &[json!("many")], "members", most);
        assert_eq!(names_of(&members, "name"), names);
        assert_eq!(pages, expected);
    }
    // From where there is nobody, and behind the last.
    let page = callers.get("members-after", json!(["many", "004999x", 5]));
    assert_eq!(
        names_of(page["members"].as_array().expect("a list"), "name"),
        ["005000"]
    );
    let page = callers.get("members-after", json!(["many", "~", 5]));
    assert_eq!(
        (&page["members"], &page["next"]),
        (&json!([]), &Value::Null)
    );
}

#[test]
fn registry_resolves_many_instances_in_pages() {
    let mut callers = Callers::of("registry");
    let tag = |key: &str, value: &str| json!({"key": key, "value": value});
    let tags: Vec<Value> = (0..32).map(|number| tag(&number.to_string(), "")).collect();
    let address = |bytes: usize| "\"".repeat(bytes);
    callers.refused(
        "register",
        json!(["long", "x", address(4096), tags]),
        "beyond the bound instance-bytes",
    );
    let many_tags = vec![tag("", ""); 33];
    let why = "beyond the bound tags: 33, and 32 is the most";
    callers.refused("register", json!(["long", "x", "", many_tags]), why);
    callers.refused("resolve", json!(["long", many_tags]), why);
    let names = numbered(250);
    for name in &names {
        callers.get("register", json!(["long", name, address(3900), tags]));
    }
    callers.refused("resolve", json!(["long", []]), "resolve-after");
    callers.refused("wait-for-change", json!(["long", [], 0]), "resolve-after");
    callers.get("wait-for-version", json!(["long", 0]));
    // The filter that takes longest to look for.
    let mut filter = tags.clone();
    filter.reverse();
    for filter in [json!([]), json!(filter)] {
        let arguments = [json!("long"), filter];
        let (found, pages) = callers.pages("resolve-after", &arguments, "instances", u32::MAX);
        assert_eq!(names_of(&found, "id"), names);
        assert!(pages > 1, "{pages}");
    }

    // Few that fit, among many.
    let names = numbered(5500);
    for (number, name) in names.iter().enumerate() {
        let tags = if number % 1000 == 999 {
            vec![tag("here", "")]
        } else {
            many_tags[..8].to_vec()
        };
        callers.get("register", json!(["many", name, "", tags]));
    }
    callers.refused(
        "resolve",
        json!(["many", [tag("here", "")]]),
        "resolve-after",
    );
    let arguments = [json!("many"), json!([tag("here", "")])];
    let (found, _) = callers.pages("resolve-after", &arguments, "instances", 2);
    let fitting = ["000999", "001999", "002999", "003999", "004999"];
    assert_eq!(names_of(&found, "id"), fitting);
    let (found, pages) = callers.pages("resolve-after", &arguments, "instances", u32::MAX);
    assert_eq!(names_of(&found, "id"), fitting);
    assert!((2..5).contains(&pages), "{pages}");
}

#[test]
fn names_are_given_in_pages_where_there_are_many() {
    let cases: [(&str, &str, Value, &str, usize); 3] = [
        (
            "registry",
            "register",
            json!(["x", "", []]),
            "services",
            5000,
        ),
        ("scheduler", "define", json!(["every 1h"]), "jobs", 5000),
        ("config", "put", json!(["{}"]), "documents", 2000),
    ];
    for (recipe, make, rest, list, most) in cases {
        let mut callers = Callers::of(recipe);
        let names = numbered(most + 1);
        let make = |callers: &mut Callers, name: &str| {
            let mut arguments = vec![json!(name)];
            arguments.extend(rest.as_array().expect("a list").clone());
            callers.get(make, Value::Array(arguments));
        };
        for name in &names[..most] {
            make(&mut callers, name);
        }
        let listed = callers.get(list, json!([]));
        assert_eq!(listed, json!(names[..most]), "{recipe}");
        make(&mut callers, &names[most]);
        let pages = format!("{list}-after");
        callers.refused(list, json!([]), &pages);
        for (at_once, expected) in [(u32::MAX, 2), (1000, most / 1000 + 1)] {
            let (listed, count) = callers.pages(&pages, &[], "names", at_once);
            assert_eq!(
                (Value::Array(listed), count),
                (json!(names), expected),
                "{recipe}"
            );
        }
        callers.refused(&pages, json!([null, 0]), "at least one");

        // Long names fill a page before many are on it.
        let mut callers = Callers::of(recipe);
        let names: Vec<String> = numbered(1000)
            .iter()
            .map(|number| format!("{number}{}", "\"".repeat(1000)))
            .collect();
        for name in &names {
            make(&mut callers, name);
        }
        callers.refused(list, json!([]), &pages);
        let (listed, count) = callers.pages(&pages, &[], "names", u32::MAX);
        assert_eq!((Value::Array(listed), count), (json!(names), 4), "{recipe}");
    }
}

#[test]
fn election_has_so_many_candidates_and_tells_of_them_in_pages() {
    let mut callers = Callers::of("election");
    let why = "beyond the bound candidate-bytes: 1025, and 1024 is the most";
    for (operation, rest) in [
        ("campaign", vec![]),
        ("campaign-ranked", vec![0]),
        ("enter", vec![0]),
    ] {
        let mut arguments = vec![json!("a"), json!("x".repeat(1025))];
        arguments.extend(rest.into_iter().map(Value::from));
        callers.refused(operation, Value::Array(arguments), why);
    }
    let leader = callers.session;
    callers.get("campaign", json!(["a", ""]));
    for rank in 0..1000 {
        callers.another();
        callers.get("enter", json!(["a", longest(1024), rank]));
    }
    callers.another();
    callers.refused(
        "enter",
        json!(["a", "", 0]),
        "beyond the bound candidates: 1000",
    );
    callers.refused(
        "campaign",
        json!(["a", ""]),
        "beyond the bound candidates: 1000",
    );
    callers.refused("candidates", json!(["a"]), "candidates-after");
    for most in [7, 999, u32::MAX] {
        let (found, pages) = callers.pages("candidates-after", &[json!("a")], "candidates", most);
        let ranks: Vec<u64> = found.iter().filter_map(|it| it["rank"].as_u64()).collect();
        assert_eq!(ranks, (0..1000).collect::<Vec<_>>());
        assert!(pages > 1);
    }
    assert_eq!(callers.get("has-leadership", json!(["a"])), Value::Null);
    callers.session = leader;
    assert_eq!(callers.get("resign", json!(["a"])), json!(true));
    assert_eq!(
        callers.get("leader", json!(["a"]))["candidate"],
        json!(longest(1024))
    );
}

#[test]
fn read_write_lock_tells_of_many_readers_in_pages() {
    let mut callers = Callers::of("read-write-lock");
    let tokens: Vec<Value> = (0..5001)
        .map(|_| callers.get("acquire-read", json!(["a"]))["token"].take())
        .collect();
    assert_eq!(callers.ask("acquire-write", json!(["a"])), None);
    assert_eq!(callers.ask("acquire-read", json!(["a"])), None);
    callers.refused("holders", json!(["a"]), "holders-after");
    for (most, expected) in [(u32::MAX, 2), (1000, 6)] {
        let (found, pages) = callers.pages("holders-after", &[json!("a")], "holders", most);
        let found: Vec<Value> = found.into_iter().map(|mut it| it["token"].take()).collect();
        assert_eq!((found, pages), (tokens.clone(), expected));
    }
    callers.get("acquire-write", json!(["b"]));
    assert_eq!(callers.ask("acquire-read", json!(["b"])), None);
    let (found, pages) = callers.pages("holders-after", &[json!("b")], "holders", 1);
    assert_eq!((found.len(), pages), (1, 1));
    assert_eq!(Value::Array(found), callers.get("holders", json!(["b"])));
    let page = callers.get("holders-after", json!(["b", u64::MAX, 1]));
    assert_eq!(page, json!({"holders": [], "next": null}));
}

#[test]
fn what_is_given_singly_has_a_size() {
    let cases = [
        ("queue", "offer", json!(["a"]), "item-bytes", 128 << 10),
        (
            "shared-value",
            "set",
            json!(["a"]),
            "value-bytes",
            128 << 10,
        ),
        (
            "shared-value",
            "compare-and-set",
            json!(["b", null]),
            "value-bytes",
            128 << 10,
        ),
        ("lease", "acquire", json!(["a"]), "owner-bytes", 1 << 10),
        ("lease", "try-acquire", json!(["b"]), "owner-bytes", 1 << 10),
        ("partitioner", "join", json!(["a"]), "member-name-bytes", 64),
        ("config", "put", json!(["a"]), "document-bytes", 128 << 10),
        (
            "config",
            "set-schema",
            json!(["b"]),
            "schema-bytes",
            32 << 10,
        ),
    ];
    let last = |operation: &str| match operation {
        "acquire" | "try-acquire" => vec![json!(1000)],
        "join" => vec![json!(1)],
        _ => vec![],
    };
    for (recipe, operation, first, bound, most) in cases {
        let mut callers = Callers::of(recipe);
        for bytes in [most + 1, most] {
            let text = match recipe {
                "config" => format!("{}{}", " ".repeat(bytes - 2), "{}"),
                _ => "x".repeat(bytes),
            };
            let mut arguments = first.as_array().expect("a list").clone();
            arguments.push(json!(text));
            arguments.extend(last(operation));
            let arguments = Value::Array(arguments);
            if bytes > most {
                let why = format!("beyond the bound {bound}: {bytes}, and {most} is the most");
                callers.refused(operation, arguments, &why);
            } else {
                callers.get(operation, arguments);
            }
        }
    }
    // Also what takes most in JSON comes back.
    let mut callers = Callers::of("queue");
    callers.get("offer", json!(["a", "\"".repeat(100 << 10)]));
    assert!(callers.get("poll", json!(["a"])).is_object());
}

#[test]
fn queue_goes_on_when_many_large_items_are_due_at_once() {
    let mut callers = Callers::of("queue");
    for _ in 0..150 {
        let arguments = json!(["a", "x".repeat(128 << 10), 5, 1000]);
        callers.get("offer-with", arguments);
    }
    callers.world.pass(2000);
    for _ in 0..150 {
        assert!(callers.get("poll", json!(["a"])).is_object());
    }
    assert_eq!(callers.get("poll", json!(["a"])), Value::Null);
}

#[test]
fn multi_lock_takes_so_many_names_of_so_many_bytes() {
    let mut callers = Callers::of("multi-lock");
    let names = |count: usize, bytes: usize| -> Vec<String> {
        (0..count)
            .map(|number| format!("{number:0bytes$}"))
            .collect()
    };
    callers.refused(
        "acquire",
        json!([names(65, 3)]),
        "beyond the bound names: 65",
    );
    callers.refused(
        "acquire",
        json!([names(64, 129)]),
        "beyond the bound names-bytes: 8256",
    );
    let all = names(64, 128);
    callers.get("acquire", json!([all]));
    callers.refused("acquire", json!([all]), "already");
    callers.another();
    assert_eq!(callers.ask("acquire", json!([all])), None);
    // Of a session that waits for all of them itself.
    assert_eq!(callers.ask("acquire", json!([all])), None);
    assert_eq!(callers.get("try-acquire", json!([all])), Value::Null);
    callers.refused("release", json!([all]), "does not hold");
}

#[test]
fn partitioner_settles_the_largest_group() {
    let mut callers = Callers::of("partitioner");
    let name = |number: usize| format!("{number:064}");
    let refused = callers.ask("join", json!(["a", "x", 1001]));
    assert!(refused.is_some_and(|it| it.is_err_and(|why| why.contains("bound partitions"))));
    let first = callers.session;
    for number in 0..1000 {
        callers.get("join", json!(["a", name(number), 1000]));
    }
    callers.refused("join", json!(["a", "x", 1000]), "beyond the bound members");
    let owners = callers.get("owners", json!(["a"]));
    assert_eq!(owners.as_array().expect("a list").len(), 1000);
    // Those of one session end, and the others take over.
    callers.another();
    callers.world.expire(first);
    let owners = callers.get("owners", json!(["a"]));
    let mut shares = BTreeMap::new();
    for owner in owners.as_array().expect("a list") {
        *shares.entry(owner.to_string()).or_insert(0) += 1;
    }
    let evenly = shares.values().max().zip(shares.values().min());
    assert!(
        shares.len() > 90 && evenly.is_some_and(|(most, least)| most - least <= 1),
        "{shares:?}"
    );
}

#[test]
fn scheduler_has_so_many_that_wait_and_removes_them_at_once() {
    let mut callers = Callers::of("scheduler");
    let why = "beyond the bound schedule-bytes: 257, and 256 is the most";
    callers.refused("define", json!(["a", " ".repeat(257)]), why);
    callers.get("define", json!(["a", "every 1h"]));
    for _ in 0..1000 {
        assert_eq!(callers.ask("next", json!(["a"])), None);
    }
    callers.refused("next", json!(["a"]), "beyond the bound waiting: 1000");
    assert_eq!(callers.world.parked().len(), 1000);
    assert_eq!(callers.get("remove", json!(["a"])), json!(true));
    callers.world.settle();
    assert_eq!(callers.world.parked(), []);
    assert_eq!(callers.world.znodes(), 0);
}

#[test]
fn config_refuses_what_costs_too_much_to_check_when_it_is_stored() {
    let mut callers = Callers::of("config");
    let text = |value: &Value| value.to_string();
    // Too many values to be read at each put.
    let values = |count: usize| text(&json!(vec![1; count]));
    callers.refused(
        "put",
        json!(["a", values(6_000)]),
        "beyond the bound document-values: 6001",
    );
    callers.get("put", json!(["a", values(5_999)]));
    let objects = |count: usize| {
        let properties = (0..count).map(|number| (format!("{number}"), json!({})));
        text(&Value::Object(properties.collect()))
    };
    callers.get("put", json!(["a", objects(990)]));
    let schema = |count: usize| text(&json!({"enum": vec![1; count]}));
    let why = "beyond the bound schema-values: 2501";
    callers.refused("set-schema", json!(["b", schema(2495)]), why);
    callers.get("set-schema", json!(["b", schema(2494)]));
    callers.get("put", json!(["b", "1"]));

    // A schema that is deep: it is refused, not the documents behind it.
    let deep = (0..40).fold(json!({}), |schema, _| json!({"not": schema}));
    callers.refused("set-schema", json!(["c", text(&deep)]), "nest");
    let deepest = format!("{}{}", "[".repeat(60_000), "]".repeat(60_000));
    callers.refused(
        "put",
        json!(["c", deepest]),
        "beyond the bound document-values",
    );
    let deepest = format!("{}{}", "[".repeat(4_000), "]".repeat(4_000));
    callers.refused("put", json!(["c", deepest]), "no JSON");

    // One that looks at each value often: the longest documents do not go with it, the others do.
    let one = json!({"not": {"enum": ["x", "y"]}});
    let often = text(&json!({"items": {"allOf": vec![one; 100]}}));
    callers.get("set-schema", json!(["d", often]));
    callers.get("put", json!(["d", values(30)]));
    callers.refused(
        "put",
        json!(["d", values(4_000)]),
        "beyond the bound check-steps",
    );
    callers.get("put", json!(["d", values(35)]));
    callers.get("put", json!(["e", values(4_000)]));
    callers.refused(
        "set-schema",
        json!(["e", often]),
        "beyond the bound check-steps",
    );
    callers.get("put", json!(["e", values(4_000)]));

    // What takes all that there is, in the largest document and schema.
    let named = |count: usize, value: Value| -> Value {
        let names = (0..count).map(|number| format!("{number:x>8}"));
        Value::Object(names.map(|name| (name, value.clone())).collect())
    };
    let schema = json!({"items": {"properties": named(200, json!({"maxLength": 9}))}});
    callers.get("set-schema", json!(["f", text(&schema)]));
    let long = text(&json!(vec![named(200, json!("x")); 4]));
    callers.get("put", json!(["f", long]));
    callers.get("put", json!(["f", text(&named(980, json!("x")))]));
    let unique = text(&json!({"uniqueItems": true}));
    callers.get("set-schema", json!(["g", unique]));
    let items: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    callers.get("put", json!(["g", text(&json!(items))]));
    let message = "x".repeat(100 << 10);
    callers.get("set-schema", json!(["h", text(&json!({"const": "y"}))]));
    callers.refused("put", json!(["h", text(&json!(message))]), "expected \"y\"");
}
