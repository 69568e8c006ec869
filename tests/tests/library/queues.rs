//! Queues, schedules, rates: nothing lost, nothing twice, in order.

use std::collections::{BTreeMap, BTreeSet};

use quorate_tests::random::{
    Asked, Compiled, Event, Property, Rng, SessionId, Value, World, hold, json,
};

use crate::{Waiting, ensure};

#[test]
fn queue_loses_nothing_gives_nothing_twice_and_keeps_order() {
    hold("queue", Queue::default);
}

#[derive(Default)]
struct Queue {
    /// By id: when it is due.
    items: BTreeMap<String, u64>,
    /// By id: whose.
    claims: BTreeMap<String, SessionId>,
    done: BTreeSet<String>,
    waiting: Waiting,
}

impl Queue {
    /// The first item that is due and not claimed.
    fn first(&self, at: u64) -> Option<&String> {
        let is_free = |(id, due): &(&String, &u64)| **due <= at && !self.claims.contains_key(*id);
        self.items.iter().find(is_free).map(|(id, _)| id)
    }
}

impl Property for Queue {
    fn ask(&mut self, random: &mut Rng, session: SessionId) -> (&'static str, Value) {
        let own = |claim: &(&String, &SessionId)| *claim.1 == session;
        let claimed: Vec<&String> = self.claims.iter().filter(own).map(|(id, _)| id).collect();
        let claimed = random.choice(claimed);
        match (claimed, random.u32(0..100)) {
            (Some(id), n) if n < 35 => ("confirm", json!(["a", id])),
            (Some(id), n) if n < 45 => ("give-back", json!(["a", id])),
            (_, n) if n < 55 => ("offer", json!(["a", "content"])),
            (_, n) if n < 70 => {
                let delay = if random.bool() {
                    0
                } else {
                    random.u64(1..3000)
                };
                (
                    "offer-with",
                    json!(["a", "content", random.u8(98..103), delay]),
                )
            }
            (_, n) if n < 80 => ("take", json!(["a"])),
            (_, n) if n < 88 => ("claim", json!(["a"])),
            (_, n) if n < 92 => ("poll", json!(["a"])),
            (_, n) if n < 96 => ("try-claim", json!(["a"])),
            _ => ("size", json!(["a"])),
        }
    }

    fn see(&mut self, at: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Asked(asked) if ["take", "claim"].contains(&asked.operation.as_str()) => {
                self.waiting.push(asked);
            }
            Event::Asked(_) => {}
            Event::Returned(asked, value) => match asked.operation.as_str() {
                "offer" | "offer-with" => {
                    let id = value.as_str().unwrap_or_default().to_owned();
                    let delay = asked.arguments.get(3).map_or(0, |_| asked.number(3));
                    let is_new = self.items.insert(id.clone(), at + delay).is_none();
                    ensure!(is_new && !self.done.contains(&id), "the id {id} is not new");
                }
                "confirm" => {
                    let id = asked.text(1);
                    let owner = self.claims.remove(id);
                    ensure!(owner == Some(asked.id.session), "{owner:?} has claimed it");
                    ensure!(self.items.remove(id).is_some(), "there is no such item");
                    self.done.insert(id.to_owned());
                }
                "give-back" => {
                    self.claims.remove(asked.text(1));
                }
                "size" => {
                    let sizes = (value["items"].as_u64(), value["claimed"].as_u64());
                    let known = (self.items.len() as u64, self.claims.len() as u64);
                    ensure!(
                        sizes == (Some(known.0), Some(known.1)),
                        "there are {known:?}"
                    );
                }
                operation => {
                    let waits = operation == "take" || operation == "claim";
                    let first_waiting = self.waiting.first("a").map(|first| first.id);
                    let in_turn = waits == (first_waiting == Some(asked.id));
                    self.waiting.remove(asked.id);
                    let Some(id) = value["id"].as_str() else {
                        let available = self.first(at);
                        let nothing = available.is_none() || first_waiting.is_some();
                        ensure!(nothing, "{available:?} is there");
                        return Ok(());
                    };
                    ensure!(
                        in_turn && (waits || first_waiting.is_none()),
                        "{first_waiting:?} came before"
                    );
                    ensure!(
                        self.first(at).is_some_and(|first| first == id),
                        "{:?} is the first",
                        self.first(at)
                    );
                    if operation.ends_with("claim") {
                        self.claims.insert(id.to_owned(), asked.id.session);
                    } else {
                        self.items.remove(id);
                        self.done.insert(id.to_owned());
                    }
                }
            },
            Event::Ended(asked, why) => {
                self.waiting.remove(asked.id);
                ensure!(
                    !["confirm", "give-back"].contains(&asked.operation.as_str()),
                    "{why}"
                );
            }
            Event::SessionEnded(session) => {
                self.waiting.end_session(*session);
                self.claims.retain(|_, owner| owner != session);
            }
        }
        Ok(())
    }

    fn rest(&mut self, now: u64) -> Result<(), String> {
        let (first, waiting) = (self.first(now), self.waiting.first("a"));
        ensure!(
            first.is_none() || waiting.is_none(),
            "{first:?} is there, and {waiting:?} waits"
        );
        Ok(())
    }
}

#[test]
fn queue_leaves_nothing_behind() {
    let recipe = Compiled::standard("queue");
    let mut world = World::new(&recipe, 1000);
    let (one, other) = (world.open(), world.open());
    world.call(one, "claim", json!(["a"]), None);
    world.call(other, "offer-with", json!(["a", "x", 5, 100]), None);
    world.pass(100);
    world.expire(one);
    let call = world.call(other, "take", json!(["a"]), None);
    world.settle();
    let taken = world
        .events()
        .into_iter()
        .find_map(|(_, event)| match event {
            Event::Returned(asked, value) if asked.id == call => Some(value),
            _ => None,
        });
    assert_eq!(taken.expect("it has come back")["content"], "x");
    assert_eq!(world.znodes(), 0);
}

#[test]
fn scheduler_gives_each_run_once_and_loses_none() {
    hold("scheduler", Scheduler::default);
}

#[derive(Default)]
struct Scheduler {
    /// By due time: whose, if it is somebody's, and whether it is done.
    runs: BTreeMap<u64, (Option<SessionId>, bool)>,
    /// When the next run is due.
    due: u64,
    waiting: Waiting,
}

const INTERVAL_MS: u64 = 3000;

impl Property for Scheduler {
    fn prepare(&mut self) -> Vec<(&'static str, Value)> {
        vec![("define", json!(["a", "every 3s"]))]
    }

    fn ask(&mut self, random: &mut Rng, session: SessionId) -> (&'static str, Value) {
        let own = |run: &(&u64, &(Option<SessionId>, bool))| run.1.0 == Some(session) && !run.1.1;
        let own = random.choice(self.runs.iter().filter(own).collect::<Vec<_>>());
        match (own, random.u8(0..10)) {
            (Some((due, _)), 0..=7) => ("done", json!(["a", due])),
            (_, 8) => ("show", json!(["a"])),
            (_, 9) => ("define", json!(["a", "every 3s"])),
            _ => ("next", json!(["a"])),
        }
    }

    fn see(&mut self, at: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Asked(asked) if asked.operation == "next" => self.waiting.push(asked),
            Event::Asked(_) => {}
            Event::Returned(asked, value) => match asked.operation.as_str() {
                "define" if self.due == 0 => self.due = at + INTERVAL_MS,
                "done" => {
                    let run = self
                        .runs
                        .get_mut(&asked.number(1))
                        .ok_or("there is no such run")?;
                    ensure!(*run == (Some(asked.id.session), false), "it is {run:?}");
                    run.1 = true;
                }
                "next" => {
                    let due = value["due"].as_u64().unwrap_or(0);
                    let first = self.waiting.first("a").map(|first| first.id);
                    ensure!(first == Some(asked.id), "{first:?} came before");
                    ensure!(due <= at, "it is not due yet");
                    let known = self.runs.get(&due).copied();
                    let again = value["again"] == json!(true);
                    ensure!(
                        known == again.then_some((None, false)),
                        "the run is {known:?}"
                    );
                    if !again {
                        ensure!(due == self.due, "{} is due next", self.due);
                        // What was missed meanwhile is made up for by this run.
                        self.due += ((at - due) / INTERVAL_MS + 1) * INTERVAL_MS;
                    }
                    self.runs.insert(due, (Some(asked.id.session), false));
                    self.waiting.remove(asked.id);
                }
                _ => {}
            },
            Event::Ended(asked, why) => {
                self.waiting.remove(asked.id);
                ensure!(asked.operation != "done", "{why}");
            }
            Event::SessionEnded(session) => {
                self.waiting.end_session(*session);
                for run in self.runs.values_mut() {
                    if run.0 == Some(*session) {
                        run.0 = None;
                    }
                }
            }
        }
        Ok(())
    }

    fn rest(&mut self, now: u64) -> Result<(), String> {
        if self.waiting.first("a").is_some() {
            let lost = self.runs.iter().find(|(_, run)| **run == (None, false));
            ensure!(lost.is_none(), "{lost:?} is lost, and one waits");
            ensure!(self.due > now, "{} is due, and one waits", self.due);
        }
        Ok(())
    }
}

#[test]
fn rate_limiter_gives_no_more_than_comes_and_is_fair() {
    hold("rate-limiter", RateLimiter::default);
}

/// Tokens: what the bucket holds, and what comes in a second.
const CAPACITY: u64 = 5;
const REFILL: u64 = 3;

#[derive(Default)]
struct RateLimiter {
    /// When, and how many.
    taken: Vec<(u64, u64)>,
    waiting: Waiting,
}

impl RateLimiter {
    /// The most that a bucket could have given from some moment on, and what it has, in milliseconds of tokens.
    fn check(&self, at: u64) -> Result<(), String> {
        let mut sum = 0;
        for (since, tokens) in self.taken.iter().rev() {
            sum += tokens;
            let most = CAPACITY * 1000 + (at - since) * REFILL;
            ensure!(sum * 1000 <= most, "{sum} tokens in {} ms", at - since);
        }
        Ok(())
    }

    /// What is in the bucket, in thousandths of a token.
    fn level(&self, now: u64) -> u64 {
        let mut level = CAPACITY * 1000;
        let mut last = self.taken.first().map_or(now, |(at, _)| *at);
        for (at, tokens) in &self.taken {
            level = (level + (at - last) * REFILL).min(CAPACITY * 1000) - tokens * 1000;
            last = *at;
        }
        (level + (now - last) * REFILL).min(CAPACITY * 1000)
    }

    fn take(&mut self, at: u64, asked: &Asked) -> Result<(), String> {
        self.taken.push((at, asked.number(1)));
        self.check(at)
    }
}

impl Property for RateLimiter {
    fn prepare(&mut self) -> Vec<(&'static str, Value)> {
        vec![("configure", json!(["a", CAPACITY, REFILL, 1000]))]
    }

    fn ask(&mut self, random: &mut Rng, _: SessionId) -> (&'static str, Value) {
        let tokens = random.u64(1..CAPACITY + 1);
        match random.u8(0..10) {
            0..5 => ("take", json!(["a", tokens])),
            5..9 => ("try-take", json!(["a", tokens])),
            _ => ("peek", json!(["a"])),
        }
    }

    fn see(&mut self, at: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Asked(asked) if asked.operation == "take" => self.waiting.push(asked),
            Event::Asked(_) => {}
            Event::Returned(asked, value) => match asked.operation.as_str() {
                "take" => {
                    let first = self.waiting.first("a").map(|first| first.id);
                    ensure!(first == Some(asked.id), "{first:?} came before");
                    self.waiting.remove(asked.id);
                    return self.take(at, asked);
                }
                "try-take" if value == &json!("taken") => {
                    let first = self.waiting.first("a");
                    ensure!(first.is_none(), "{first:?} came before");
                    return self.take(at, asked);
                }
                "try-take" => {
                    let enough = self.level(at) >= asked.number(1) * 1000;
                    let waits = self.waiting.first("a").is_some();
                    ensure!(waits || !enough, "there were enough");
                    ensure!(
                        value["retry-after"].as_u64() > Some(0),
                        "it says nothing of when"
                    );
                }
                "peek" => {
                    let level = self.level(at) / 1000;
                    ensure!(value["tokens"] == json!(level), "there are {level}");
                }
                _ => {}
            },
            Event::Ended(asked, _) => self.waiting.remove(asked.id),
            Event::SessionEnded(session) => self.waiting.end_session(*session),
        }
        Ok(())
    }

    fn rest(&mut self, now: u64) -> Result<(), String> {
        if let Some(first) = self.waiting.first("a") {
            let level = self.level(now);
            ensure!(
                level < first.number(1) * 1000,
                "{first:?} waits, and there are {level}"
            );
        }
        Ok(())
    }

    fn longest_pause(&self) -> u64 {
        700
    }
}
