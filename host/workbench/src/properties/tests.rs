//! Each kind of property, told of calls by hand.

use quorate_model::id::{CallId, SessionId, Timestamp};
use quorate_sandbox::{Interface, Operation, Type};
use serde_json::{Value, json};

use super::call::Call;
use super::{Rule, grows, holds, moves, parse};

const NOW: Timestamp = Timestamp(1_000);

/// Operations with their parameters.
const OPERATIONS: [(&str, &[&str]); 6] = [
    ("take", &["name", "amount"]),
    ("give", &["name", "amount"]),
    ("renew", &["name"]),
    ("offer", &["queue", "item"]),
    ("poll", &["queue"]),
    ("next", &["name"]),
];

fn interface() -> Interface {
    let operations = OPERATIONS.map(|(name, parameters)| Operation {
        interface: None,
        name: name.into(),
        parameters: parameters
            .iter()
            .map(|name| ((*name).into(), Type::String))
            .collect(),
        result: Some(Type::String),
        documentation: None,
    });
    Interface {
        operations: operations.into(),
        guard: None,
        standing: None,
        version: None,
        documentation: None,
    }
}

/// A rule, and the calls that it has been told of.
struct Told {
    rule: Box<dyn Rule>,
    calls: Vec<Call>,
}

impl Told {
    fn holds(text: &str) -> Told {
        let properties = parse(&format!("[[holds]]\n{text}")).unwrap();
        let rule = holds::Rule::new(&properties.holds[0], &interface()).unwrap();
        Told::of(rule)
    }

    fn of(rule: impl Rule + 'static) -> Told {
        let (rule, calls) = (Box::new(rule), Vec::new());
        Told { rule, calls }
    }

    /// Session `session` calls; gives the call's place.
    fn call(&mut self, session: u64, operation: &str, arguments: Value) -> usize {
        let interface = interface();
        let place = interface.find(operation).unwrap();
        let age = self.calls.len() as u64 + 1;
        let id = CallId {
            session: SessionId(session),
            key: age,
        };
        let name = format!("s{session}@{age}");
        let operation = &interface.operations[place];
        let call = Call::new(id, &name, age, place, operation, &arguments.to_string());
        self.rule.called(&call);
        self.calls.push(call);
        self.calls.len() - 1
    }

    fn ends(&mut self, call: usize, result: Value) -> Vec<String> {
        self.ends_at(call, result, NOW)
    }

    fn ends_at(&mut self, call: usize, result: Value, now: Timestamp) -> Vec<String> {
        self.rule.ended(&self.calls[call], Some(&result), now)
    }

    /// A call that returns at once.
    fn returns(
        &mut self,
        session: u64,
        operation: &str,
        arguments: Value,
        result: Value,
    ) -> Vec<String> {
        let call = self.call(session, operation, arguments);
        self.ends(call, result)
    }

    fn settled(&mut self, waiting: &[usize], now: Timestamp) -> Vec<String> {
        let waiting: Vec<&Call> = waiting.iter().map(|place| &self.calls[*place]).collect();
        self.rule.settled(&waiting, now)
    }
}

fn nothing() -> Vec<String> {
    Vec::new()
}

#[test]
fn what_is_held_is_given_back_by_a_call_or_with_the_session() {
    let mut told = Told::holds("take = \"take\"\ngive = \"give\"\nby = \"name\"");
    assert_eq!(
        told.returns(1, "take", json!(["a"]), json!("yes")),
        nothing()
    );
    assert_eq!(
        told.returns(2, "take", json!(["b"]), json!("yes")),
        nothing()
    );
    assert_eq!(
        told.returns(2, "take", json!(["a"]), json!(null)),
        nothing()
    );
    // Nothing was given back, as its result says; and not by somebody else.
    assert_eq!(
        told.returns(1, "give", json!(["a"]), json!(false)),
        nothing()
    );
    assert_eq!(
        told.returns(2, "give", json!(["a"]), json!(true)),
        nothing()
    );
    let said = told.returns(2, "take", json!(["a"]), json!("yes"));
    assert_eq!(
        said,
        ["s2@6 take(\"a\") has \"a\", which is held by s1 and by s2"]
    );
    assert_eq!(
        told.returns(2, "give", json!(["a"]), json!(null)),
        nothing()
    );
    told.rule.session_ended(SessionId(1));
    assert_eq!(
        told.returns(3, "take", json!(["a"]), json!("yes")),
        nothing()
    );
}

#[test]
fn who_waits_for_what_is_free_is_named() {
    let mut told = Told::holds(
        "take = \"take\"\ngive = \"give\"\nby = \"name\"\nmost = 3\nweight = \"amount\"",
    );
    assert_eq!(
        told.returns(1, "take", json!(["a", 2]), json!("yes")),
        nothing()
    );
    let big = told.call(2, "take", json!(["a", 2]));
    assert_eq!(told.settled(&[big], NOW), nothing());
    // A smaller one that stands behind may wait, since it would overtake.
    let small = told.call(3, "take", json!(["a", 1]));
    assert_eq!(told.settled(&[big, small], NOW), nothing());
    assert_eq!(
        told.returns(1, "give", json!(["a", 2]), json!(null)),
        nothing()
    );
    let said = told.settled(&[big, small], NOW);
    assert_eq!(said, ["s2@2 take(\"a\", 2) waits, but nobody holds \"a\""]);
    assert_eq!(told.ends(big, json!("yes")), nothing());
    assert_eq!(
        told.settled(&[small], NOW),
        ["s3@3 take(\"a\", 1) waits, but 2 of 3 of \"a\" is held"]
    );
    let said = told.returns(4, "take", json!(["a", 2]), json!("yes"));
    assert_eq!(
        said,
        ["s4@5 take(\"a\", 2) has \"a\", of which there is 3, and 4 is held, by s2 and by s4"]
    );
}

#[test]
fn first_come_is_first_served_and_tokens_grow() {
    let mut told = Told::holds(
        "take = \"take\"\ngive = \"give\"\nby = \"name\"\nfair = true\nreentrant = true\ntoken = \"token\"",
    );
    let token = |token: u64| json!({"token": token});
    assert_eq!(told.returns(1, "take", json!(["a"]), token(5)), nothing());
    let first = told.call(2, "take", json!(["a"]));
    let second = told.call(3, "take", json!(["a"]));
    // Again, by the one that has it.
    assert_eq!(told.returns(1, "take", json!(["a"]), token(5)), nothing());
    assert_eq!(told.returns(1, "give", json!(["a"]), json!(1)), nothing());
    assert_eq!(told.returns(1, "give", json!(["a"]), json!(0)), nothing());
    let said = told.ends(second, token(4));
    assert_eq!(
        said,
        [
            "s3@3 take(\"a\") has \"a\" before s2@2 take(\"a\"), which came first",
            "s3@3 take(\"a\") has \"a\" with token 4, after 5",
        ]
    );
    // One that is gone is not overtaken.
    told.rule.session_ended(SessionId(3));
    told.rule.session_ended(SessionId(2));
    let _ = first;
    assert_eq!(told.returns(4, "take", json!(["a"]), token(6)), nothing());
}

#[test]
fn a_lease_ends_by_itself_and_can_be_renewed() {
    let mut told = Told::holds(
        "take = \"take\"\nby = \"name\"\nuntil = \"until\"\nrenew = \"renew\"\noutlives-session = true",
    );
    assert_eq!(
        told.returns(1, "take", json!(["a"]), json!({"until": 2_000})),
        nothing()
    );
    told.rule.session_ended(SessionId(1));
    let waits = told.call(2, "take", json!(["a"]));
    assert_eq!(told.settled(&[waits], Timestamp(1_999)), nothing());
    assert_eq!(
        told.returns(1, "renew", json!(["a"]), json!({"until": 3_000})),
        nothing()
    );
    assert_eq!(told.settled(&[waits], Timestamp(2_999)), nothing());
    assert_eq!(told.settled(&[waits], Timestamp(3_000)).len(), 1);
    assert_eq!(
        told.ends_at(waits, json!({"until": 9_000}), Timestamp(3_000)),
        nothing()
    );
}

#[test]
fn items_are_neither_lost_nor_twice_and_in_order() {
    let text = "[[moves]]\nput = \"offer\"\nitem = \"item\"\ntake = \"poll\"\nby = \"queue\"\nordered = true";
    let properties = parse(text).unwrap();
    let rule = moves::Rule::new(&properties.moves[0], &interface()).unwrap();
    let mut told = Told::of(rule);
    for item in ["x", "y", "z"] {
        assert_eq!(
            told.returns(1, "offer", json!(["q", item]), json!(null)),
            nothing()
        );
    }
    assert_eq!(told.returns(2, "poll", json!(["q"]), json!("x")), nothing());
    assert_eq!(
        told.returns(2, "poll", json!(["q"]), json!("x")),
        ["s2@5 poll(\"q\") took \"x\", which was taken before"]
    );
    assert_eq!(
        told.returns(2, "poll", json!(["other"]), json!("y")),
        ["s2@6 poll(\"other\") took \"y\", which was never put in"]
    );
    assert_eq!(
        told.returns(2, "poll", json!(["q"]), json!("z")),
        ["s2@7 poll(\"q\") took \"z\", but \"y\" was put in before it"]
    );
    assert_eq!(
        told.returns(2, "poll", json!(["q"]), json!(null)),
        ["s2@8 poll(\"q\") returned null, but \"y\" was put in and not taken"]
    );
    let waits = told.call(3, "poll", json!(["q"]));
    assert_eq!(
        told.settled(&[waits], NOW),
        ["s3@9 poll(\"q\") waits, but \"y\" is there to be taken"]
    );
}

#[test]
fn results_grow_row_by_row() {
    let text = "[[grows]]\nresult = \"next\"\nby = \"name\"\nstep = 2";
    let properties = parse(text).unwrap();
    let rule = grows::Rule::new(&properties.grows[0], &interface()).unwrap();
    let mut told = Told::of(rule);
    assert_eq!(told.returns(1, "next", json!(["a"]), json!(1)), nothing());
    assert_eq!(told.returns(2, "next", json!(["b"]), json!("1")), nothing());
    assert_eq!(told.returns(2, "next", json!(["a"]), json!(3)), nothing());
    assert_eq!(
        told.returns(1, "next", json!(["a"]), json!(4)),
        ["s1@4 next(\"a\") returned 4, after 3"]
    );
}

#[test]
fn what_is_always_so_has_values_or_bounds() {
    let admits = |text: &str, result: Value| {
        let properties = parse(&format!("[[always]]\ncall = \"x\"\n{text}")).unwrap();
        properties.always[0].admits(&result)
    };
    assert!(admits("", json!(null)) && admits("", json!(0)) && !admits("", json!(false)));
    assert!(admits("returns = [\"a\", 1]", json!(1)) && !admits("returns = [\"a\", 1]", json!(2)));
    assert!(admits("at-most = 2", json!(2)) && !admits("at-most = 2", json!(3)));
    assert!(admits("at-least = 2", json!(2)) && !admits("at-least = 2", json!(null)));
}
