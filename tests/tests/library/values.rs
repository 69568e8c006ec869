//! Counters, values, documents, numbers: what was written is what is read, and no number is given twice.

use std::collections::{BTreeMap, BTreeSet};

use quorate_tests::random::{Asked, Event, Property, Rng, SessionId, Value, hold, json};

use crate::ensure;

#[test]
fn counter_loses_no_addition() {
    hold("counter", Counter::default);
}

#[derive(Default)]
struct Counter(i64);

impl Property for Counter {
    fn ask(&mut self, random: &mut Rng, _: SessionId) -> (&'static str, Value) {
        match random.u8(0..3) {
            0 => ("add", json!(["a", random.i64(-9..10)])),
            1 => (
                "compare-and-set",
                json!(["a", self.0 + random.i64(0..2), random.i64(0..100)]),
            ),
            _ => ("get", json!(["a"])),
        }
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        let Event::Returned(asked, value) = event else {
            return Ok(());
        };
        let number = |index: usize| asked.arguments[index].as_i64().unwrap_or(0);
        let expected = match asked.operation.as_str() {
            "add" => {
                self.0 += number(1);
                json!(self.0)
            }
            "compare-and-set" => {
                let is_it = self.0 == number(1);
                self.0 = if is_it { number(2) } else { self.0 };
                json!(is_it)
            }
            _ => json!(self.0),
        };
        ensure!(value == &expected, "expected {expected}");
        Ok(())
    }
}

#[test]
fn shared_value_has_one_value_and_its_versions_never_come_again() {
    hold("shared-value", SharedValue::default);
}

#[derive(Default)]
struct SharedValue {
    current: Option<(u64, String)>,
    versions: BTreeSet<u64>,
    waiting: Vec<Asked>,
}

impl SharedValue {
    fn set(&mut self, version: &Value, value: &str) -> Result<(), String> {
        let version = version.as_u64().ok_or("no version")?;
        ensure!(
            self.versions.last() < Some(&version),
            "the version does not grow"
        );
        self.versions.insert(version);
        self.current = Some((version, value.to_owned()));
        Ok(())
    }
}

impl Property for SharedValue {
    fn ask(&mut self, random: &mut Rng, _: SessionId) -> (&'static str, Value) {
        let value = random.u8(0..3).to_string();
        let known = random.choice(
            self.versions
                .iter()
                .rev()
                .take(3)
                .map(Some)
                .chain([None])
                .collect::<Vec<_>>(),
        );
        let known = json!(known.flatten());
        match random.u8(0..10) {
            0..2 => ("set", json!(["a", value])),
            2..5 => ("compare-and-set", json!(["a", known, value])),
            5..9 => ("wait-for-change", json!(["a", known])),
            _ => ("remove", json!(["a"])),
        }
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        let version = self.current.as_ref().map(|(version, _)| *version);
        match event {
            Event::Asked(asked) if asked.operation == "wait-for-change" => {
                self.waiting.push(asked.clone())
            }
            Event::Asked(_) => {}
            Event::Returned(asked, value) => match asked.operation.as_str() {
                "set" => return self.set(value, asked.text(1)),
                "compare-and-set" => {
                    let is_it = asked.arguments[1].as_u64() == version;
                    ensure!(is_it != value.is_null(), "the version is {version:?}");
                    if is_it {
                        return self.set(value, asked.text(2));
                    }
                }
                "remove" => {
                    ensure!(
                        value == &json!(version.is_some()),
                        "the version is {version:?}"
                    );
                    self.current = None;
                }
                _ => {
                    self.waiting.retain(|call| call.id != asked.id);
                    let known = self
                        .current
                        .as_ref()
                        .map(|(version, value)| json!({"value": value, "version": version}));
                    ensure!(value == &json!(known), "it is {known:?}");
                    ensure!(
                        asked.arguments[1].as_u64() != version,
                        "nothing has changed"
                    );
                }
            },
            Event::Ended(asked, _) => self.waiting.retain(|call| call.id != asked.id),
            Event::SessionEnded(session) => self.waiting.retain(|call| call.id.session != *session),
        }
        Ok(())
    }

    fn rest(&mut self, _: u64) -> Result<(), String> {
        let version = self.current.as_ref().map(|(version, _)| *version);
        let late = self
            .waiting
            .iter()
            .find(|call| call.arguments[1].as_u64() != version);
        ensure!(
            late.is_none(),
            "{late:?} waits, and the version is {version:?}"
        );
        Ok(())
    }
}

#[test]
fn config_keeps_its_versions_and_its_schema() {
    hold("config", Config::default);
}

#[derive(Default)]
struct Config {
    versions: Vec<String>,
    has_schema: bool,
    waiting: Vec<Asked>,
}

/// What fits the schema, and what does not.
const FITS: &str = r#"{"port": 80}"#;
const OTHER: &str = r#"{"port": "eighty"}"#;
const SCHEMA: &str = r#"{"properties": {"port": {"type": "integer"}}}"#;

impl Property for Config {
    fn ask(&mut self, random: &mut Rng, _: SessionId) -> (&'static str, Value) {
        let document = [FITS, OTHER][random.usize(0..2)];
        let latest = self.versions.len() as u64;
        let known = random.u64(latest.saturating_sub(2)..latest + 1);
        match random.u8(0..12) {
            0..4 => ("put", json!(["a", document])),
            4 => ("put-if", json!(["a", document, known])),
            5 => ("rollback", json!(["a", known])),
            6 => ("set-schema", json!(["a", random.bool().then_some(SCHEMA)])),
            7 => ("get-version", json!(["a", known])),
            8 => ("versions", json!(["a"])),
            9 => ("put", json!(["a", "no JSON"])),
            _ => ("wait-for-change", json!(["a", known])),
        }
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        let latest = self.versions.len() as u64;
        let last = self.versions.last().cloned();
        match event {
            Event::Asked(asked) if asked.operation == "wait-for-change" => {
                self.waiting.push(asked.clone())
            }
            Event::Asked(_) => {}
            Event::Returned(asked, value) => match asked.operation.as_str() {
                "put" | "put-if" | "rollback" => {
                    if asked.operation == "put-if" {
                        let is_it = asked.number(2) == latest;
                        ensure!(is_it != value.is_null(), "the version is {latest}");
                        if !is_it {
                            return Ok(());
                        }
                    }
                    let document = match asked.operation.as_str() {
                        "rollback" => self.versions[asked.number(1) as usize - 1].clone(),
                        _ => asked.text(1).to_owned(),
                    };
                    ensure!(!self.has_schema || document == FITS, "it does not fit");
                    ensure!(value == &json!(latest + 1), "the version is {latest}");
                    self.versions.push(document);
                }
                "set-schema" => {
                    self.has_schema = !asked.arguments[1].is_null();
                    let fits = !self.has_schema || last.is_none_or(|last| last == FITS);
                    ensure!(fits, "the document does not fit");
                }
                "get-version" => {
                    let number = asked.number(1);
                    let kept = number > 0 && number + 100 > latest;
                    let known = kept
                        .then(|| self.versions.get(number as usize - 1))
                        .flatten();
                    ensure!(
                        value["document"].as_str() == known.map(String::as_str),
                        "it is {known:?}"
                    );
                }
                "versions" => {
                    let kept: Vec<u64> = (1..=latest).rev().take(100).collect();
                    ensure!(value == &json!(kept), "there are {latest}");
                }
                _ => {
                    self.waiting.retain(|call| call.id != asked.id);
                    ensure!(latest != asked.number(1), "nothing has changed");
                    let told = value["document"].as_str();
                    ensure!(told == last.as_deref(), "it is {last:?}");
                }
            },
            Event::Ended(asked, why) => {
                self.waiting.retain(|call| call.id != asked.id);
                let fits = asked.operation == "put" && asked.text(1) == FITS;
                ensure!(!fits, "{why}");
            }
            Event::SessionEnded(session) => self.waiting.retain(|call| call.id.session != *session),
        }
        Ok(())
    }

    fn rest(&mut self, _: u64) -> Result<(), String> {
        let latest = self.versions.len() as u64;
        let late = self.waiting.iter().find(|call| call.number(1) != latest);
        ensure!(
            late.is_none(),
            "{late:?} waits, and the version is {latest}"
        );
        Ok(())
    }
}

#[test]
fn id_generator_gives_no_number_twice() {
    hold("id-generator", IdGenerator::default);
}

#[derive(Default)]
struct IdGenerator {
    given: u64,
    slots: BTreeMap<u64, SessionId>,
}

impl Property for IdGenerator {
    fn ask(&mut self, random: &mut Rng, _: SessionId) -> (&'static str, Value) {
        match random.u8(0..10) {
            0..3 => ("next", json!(["a"])),
            3..5 => ("reserve", json!(["a", random.u8(1..50)])),
            5 => ("skip-to", json!(["a", self.given + random.u64(0..5)])),
            6..8 => ("claim-slot", json!(["a", 4])),
            _ => ("release-slot", json!(["a"])),
        }
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Returned(asked, value) => {
                let session = asked.id.session;
                let own = self.slots.iter().find(|(_, owner)| **owner == session);
                let own = own.map(|(slot, _)| *slot);
                match asked.operation.as_str() {
                    "next" | "reserve" => {
                        let (first, count) = match value.as_u64() {
                            Some(number) => (number, 1),
                            None => (value["first"].as_u64().unwrap_or(0), asked.number(1)),
                        };
                        ensure!(first > self.given, "{first} was given");
                        self.given = first + count - 1;
                    }
                    "skip-to" if value == &json!(true) => self.given = asked.number(1) - 1,
                    "claim-slot" => {
                        let free = (0..4).find(|slot| !self.slots.contains_key(slot));
                        ensure!(value == &json!(own.or(free)), "{:?} are taken", self.slots);
                        self.slots
                            .extend(value.as_u64().map(|slot| (slot, session)));
                    }
                    "release-slot" => {
                        ensure!(value == &json!(own.is_some()), "it had {own:?}");
                        self.slots.retain(|_, owner| *owner != session);
                    }
                    _ => {}
                }
            }
            Event::SessionEnded(session) => self.slots.retain(|_, owner| owner != session),
            Event::Ended(_, why) => return Err(why.clone()),
            Event::Asked(_) => {}
        }
        Ok(())
    }
}
