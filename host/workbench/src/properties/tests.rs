//! Each kind of property, told of calls by hand.

use quorate_model::id::{CallId, SessionId, Timestamp};
use quorate_sandbox::{Interface, Operation, Type};
use serde_json::{Value, json};

use super::call::Call;
use super::{Rule, gates, grows, holds, meets, moves, paces, parse, shares};

const NOW: Timestamp = Timestamp(1_000);

/// Operations with their parameters.
const OPERATIONS: [(&str, &[&str]); 10] = [
    ("take", &["name", "amount"]),
    ("give", &["name", "amount"]),
    ("renew", &["name"]),
    ("offer", &["queue", "item"]),
    ("poll", &["queue"]),
    ("next", &["name"]),
    ("take-all", &["names"]),
    ("enter", &["name", "size"]),
    ("leave", &["name"]),
    ("join", &["name", "member"]),
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

impl Told {
    fn gates(text: &str) -> Told {
        let properties = parse(&format!("[[gates]]\n{text}")).unwrap();
        Told::of(gates::Rule::new(&properties.gates[0], &interface()).unwrap())
    }

    fn meets(text: &str) -> Told {
        let properties = parse(&format!("[[meets]]\n{text}")).unwrap();
        Told::of(meets::Rule::new(&properties.meets[0], &interface()).unwrap())
    }

    fn shares(text: &str) -> Told {
        let properties = parse(&format!("[[shares]]\n{text}")).unwrap();
        Told::of(shares::Rule::new(&properties.shares[0], &interface()).unwrap())
    }

    fn paces(text: &str) -> Told {
        let properties = parse(&format!("[[paces]]\n{text}")).unwrap();
        Told::of(paces::Rule::new(&properties.paces[0], &interface()).unwrap())
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

#[test]
fn several_are_taken_together_and_one_of_several_by_itself() {
    let mut told = Told::holds("take = \"take-all\"\nby = \"names\"");
    let first = told.returns(1, "take-all", json!([["a", "b"]]), json!("yes"));
    assert_eq!(first, nothing());
    let both = told.call(2, "take-all", json!([["b", "c"]]));
    assert_eq!(told.settled(&[both], NOW), nothing(), "b is held");
    assert_eq!(told.ends(both, json!("yes")).len(), 1, "of b");
    let free = told.call(3, "take-all", json!([["d"]]));
    assert_eq!(told.settled(&[free], NOW).len(), 1);

    let each = "take = \"next\"\ngive = \"give\"\nby = \"name\"\neach = \"amount\"";
    let mut told = Told::holds(each);
    let one = |amount: u64| json!({"amount": amount});
    assert_eq!(told.returns(1, "next", json!(["a"]), one(1)), nothing());
    assert_eq!(told.returns(2, "next", json!(["a"]), one(2)), nothing());
    assert_eq!(
        told.returns(1, "give", json!(["a", 1]), json!(1)),
        nothing()
    );
    assert_eq!(told.returns(3, "next", json!(["a"]), one(1)), nothing());
    assert_eq!(told.returns(3, "next", json!(["a"]), one(2)).len(), 1);
}

#[test]
fn who_takes_the_whole_has_it_alone_and_gives_it_back_at_once() {
    let whole = "take = [\"take\", \"next\"]\nwhole = \"next\"\nmost = 9\nby = \"name\"";
    let mut told = Told::holds(&format!("{whole}\ngive = \"leave\"\ngive-all = true"));
    for _ in 0..2 {
        let took = told.returns(1, "take", json!(["a"]), json!("yes"));
        assert_eq!(took, nothing());
    }
    assert_eq!(told.returns(1, "leave", json!(["a"]), json!(1)), nothing());
    assert_eq!(told.returns(2, "next", json!(["a"]), json!(1)), nothing());
    assert_eq!(told.returns(1, "take", json!(["a"]), json!(1)).len(), 1);
}

#[test]
fn nobody_passes_a_gate_that_is_shut() {
    let text = "shut = \"take\"\nopen = \"give\"\nopen-at = 0\npass = \"next\"\nby = \"name\"";
    let mut told = Told::gates(text);
    assert_eq!(
        told.returns(1, "next", json!(["a"]), json!(null)),
        nothing()
    );
    assert_eq!(
        told.returns(1, "take", json!(["a"]), json!(true)),
        nothing()
    );
    assert_eq!(told.returns(1, "next", json!(["a"]), json!(null)).len(), 1);
    let waits = told.call(2, "next", json!(["a"]));
    assert_eq!(told.returns(1, "give", json!(["a"]), json!(1)), nothing());
    assert_eq!(told.settled(&[waits], NOW), nothing());
    assert_eq!(told.returns(1, "give", json!(["a"]), json!(0)), nothing());
    // Shut again: who came before may pass all the same.
    assert_eq!(
        told.returns(1, "take", json!(["a"]), json!(true)),
        nothing()
    );
    assert_eq!(told.settled(&[waits], NOW).len(), 1);
    assert_eq!(told.ends(waits, json!(null)), nothing());
}

#[test]
fn rounds_begin_and_end_together() {
    let mut told =
        Told::meets("enter = \"enter\"\nsize = \"size\"\nleave = \"leave\"\nby = \"name\"");
    let enters = json!(["a", 2]);
    assert_eq!(
        told.returns(1, "enter", enters.clone(), json!(null)).len(),
        1,
        "alone"
    );
    let mut told =
        Told::meets("enter = \"enter\"\nsize = \"size\"\nleave = \"leave\"\nby = \"name\"");
    let first = told.call(1, "enter", enters.clone());
    assert_eq!(
        told.returns(2, "enter", enters.clone(), json!(null)),
        nothing()
    );
    assert_eq!(told.ends(first, json!(null)), nothing());
    let third = told.call(3, "enter", enters.clone());
    let leaves = told.call(1, "leave", json!(["a"]));
    assert_eq!(
        told.ends(leaves, json!(null)).len(),
        1,
        "the other is in it"
    );
    assert_eq!(
        told.returns(2, "leave", json!(["a"]), json!(null)),
        nothing()
    );
    assert_eq!(told.returns(1, "enter", enters, json!(null)), nothing());
    assert_eq!(told.ends(third, json!(null)), nothing());
}

#[test]
fn nothing_is_two_members() {
    let mut told = Told::shares("told = \"join\"\nmember = \"member\"\nby = \"name\"");
    let mut join = |session, member: &str, has: Value| {
        told.returns(session, "join", json!(["a", member]), has)
    };
    assert_eq!(join(1, "one", json!([1, 2])), nothing());
    assert_eq!(join(2, "two", json!([3])), nothing());
    assert_eq!(join(2, "two", json!([2, 3])).len(), 1);
    assert_eq!(join(1, "one", json!([1])), nothing());
    told.rule.session_ended(SessionId(2));
    let call = told.returns(1, "join", json!(["a", "one"]), json!([1, 2, 3]));
    assert_eq!(call, nothing());
}

#[test]
fn no_more_is_taken_than_comes() {
    let text = "take = \"take\"\nweight = \"amount\"\nby = \"name\"\nmost = 5\nrefill = 1\nperiod-ms = 1000";
    let mut told = Told::paces(text);
    let mut take = |amount: u64, at: u64| {
        let call = told.call(1, "take", json!(["a", amount]));
        told.ends_at(call, json!("yes"), Timestamp(at))
    };
    assert_eq!(take(4, 0), nothing());
    assert_eq!(take(2, 1_000), nothing());
    assert_eq!(take(1, 2_000), nothing());
    assert_eq!(take(1, 2_999).len(), 1);
}
