//! Barriers and latches: nobody passes early, and nobody stays behind.

use std::collections::{BTreeMap, BTreeSet};

use quorate_tests::random::{Asked, CallId, Event, Property, Rng, SessionId, Value, hold, json};

use crate::{Waiting, ensure};

#[test]
fn barrier_holds_whoever_comes_until_it_is_removed() {
    hold("barrier", Barrier::default);
}

#[derive(Default)]
struct Barrier {
    /// Counts those that were set; none stands if none.
    standing: Option<u64>,
    set: u64,
    /// Which barrier each call waits for.
    waiting: BTreeMap<CallId, Option<u64>>,
}

impl Property for Barrier {
    fn ask(&mut self, random: &mut Rng, _: SessionId) -> (&'static str, Value) {
        let operations = ["wait", "wait", "wait", "set", "remove", "is-set"];
        (operations[random.usize(0..operations.len())], json!(["a"]))
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Asked(asked) if asked.operation == "wait" => {
                self.waiting.insert(asked.id, self.standing);
            }
            Event::Asked(_) => {}
            Event::Returned(asked, value) => match asked.operation.as_str() {
                "set" => {
                    ensure!(
                        value == &json!(self.standing.is_none()),
                        "{:?} stands",
                        self.standing
                    );
                    if self.standing.is_none() {
                        self.set += 1;
                        self.standing = Some(self.set);
                    }
                }
                "remove" => {
                    let stood = self.standing.take();
                    ensure!(value == &json!(stood.is_some()), "{stood:?} stood");
                }
                "is-set" => {
                    let stands = self.standing.is_some();
                    ensure!(value == &json!(stands), "it is {stands}");
                }
                _ => {
                    let waited_for = self.waiting.remove(&asked.id).flatten();
                    let passes = waited_for.is_none() || waited_for != self.standing;
                    ensure!(passes, "the barrier that it waited for stands");
                }
            },
            Event::Ended(asked, _) => {
                self.waiting.remove(&asked.id);
            }
            Event::SessionEnded(session) => self.waiting.retain(|call, _| call.session != *session),
        }
        Ok(())
    }

    fn rest(&mut self, _: u64) -> Result<(), String> {
        let late = self
            .waiting
            .iter()
            .find(|(_, barrier)| **barrier != self.standing);
        ensure!(
            late.is_none(),
            "{late:?} waits for a barrier that does not stand"
        );
        Ok(())
    }
}

#[test]
fn double_barrier_begins_and_ends_together() {
    hold("double-barrier", DoubleBarrier::default);
}

const SIZE: usize = 3;

/// A round, from the first that passes to the end of the last.
#[derive(Default)]
struct Round {
    passed: BTreeSet<SessionId>,
    gone: BTreeSet<SessionId>,
}

#[derive(Default)]
struct DoubleBarrier {
    entering: Waiting,
    leaving: Waiting,
    round: Option<Round>,
}

impl DoubleBarrier {
    fn go(&mut self, session: SessionId) {
        if let Some(round) = &mut self.round
            && round.passed.contains(&session)
        {
            round.gone.insert(session);
        }
    }
}

impl Property for DoubleBarrier {
    fn ask(&mut self, random: &mut Rng, session: SessionId) -> (&'static str, Value) {
        let round = self.round.as_ref();
        let is_in = round
            .is_some_and(|round| round.passed.contains(&session) && !round.gone.contains(&session));
        match random.u8(0..10) {
            0..=8 if is_in => ("leave", json!(["a"])),
            9 => ("members", json!(["a"])),
            _ => ("enter", json!(["a", SIZE])),
        }
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Asked(asked) if asked.operation == "enter" => self.entering.push(asked),
            Event::Asked(asked) if asked.operation == "leave" => {
                self.leaving.push(asked);
                self.go(asked.id.session);
            }
            Event::Asked(_) => {}
            Event::Returned(asked, _) if asked.operation == "enter" => {
                let sessions = self.entering.of("a").map(|asked| asked.id.session);
                let sessions: BTreeSet<SessionId> = sessions.collect();
                // A round is over when all who passed have gone.
                let is_over =
                    |round: &Round| round.passed.len() == SIZE && round.gone == round.passed;
                if self.round.as_ref().is_none_or(is_over) {
                    ensure!(sessions.len() >= SIZE, "{sessions:?} alone have entered");
                    self.round = Some(Round::default());
                }
                let round = self.round.get_or_insert_default();
                round.passed.insert(asked.id.session);
                ensure!(round.passed.len() <= SIZE, "{:?} have passed", round.passed);
                self.entering.remove(asked.id);
            }
            Event::Returned(asked, _) if asked.operation == "leave" => {
                let round = self.round.as_ref();
                let all_gone = round.is_some_and(|round| round.passed == round.gone);
                // Another round may have begun since, which all of this one have made room for.
                let next = round.is_some_and(|round| !round.passed.contains(&asked.id.session));
                ensure!(all_gone || next, "not all have left");
                self.leaving.remove(asked.id);
            }
            Event::Returned(..) => {}
            Event::Ended(asked, _) => {
                self.entering.remove(asked.id);
                self.leaving.remove(asked.id);
            }
            Event::SessionEnded(session) => {
                self.entering.end_session(*session);
                self.leaving.end_session(*session);
                self.go(*session);
            }
        }
        Ok(())
    }

    fn rest(&mut self, _: u64) -> Result<(), String> {
        let all_gone = self
            .round
            .as_ref()
            .is_none_or(|round| round.passed == round.gone);
        if all_gone {
            let sessions = self.entering.of("a").map(|asked| asked.id.session);
            let sessions: BTreeSet<SessionId> = sessions.collect();
            ensure!(sessions.len() < SIZE, "{sessions:?} wait to enter");
            let leaving = self.leaving.first("a");
            ensure!(leaving.is_none(), "{leaving:?} waits for nobody");
        }
        Ok(())
    }

    fn delays_wakes(&self) -> bool {
        // The model takes those who have passed for those who may.
        false
    }
}

#[test]
fn countdown_latch_opens_at_zero() {
    hold("countdown-latch", CountdownLatch::default);
}

#[derive(Default)]
struct CountdownLatch {
    count: Option<u64>,
    waiting: Waiting,
}

impl Property for CountdownLatch {
    fn ask(&mut self, random: &mut Rng, _: SessionId) -> (&'static str, Value) {
        match random.u8(0..20) {
            0..2 => ("start", json!(["a", random.u64(0..4)])),
            2..12 => ("wait", json!(["a"])),
            12..18 => ("count-down", json!(["a", random.u64(0..3)])),
            18 => ("remove", json!(["a"])),
            _ => ("count", json!(["a"])),
        }
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        let is_wait = |asked: &Asked| asked.operation == "wait";
        match event {
            Event::Asked(asked) if is_wait(asked) => self.waiting.push(asked),
            Event::Asked(_) => {}
            Event::Returned(asked, value) => match asked.operation.as_str() {
                "start" => {
                    ensure!(
                        value == &json!(self.count.is_none()),
                        "it is at {:?}",
                        self.count
                    );
                    self.count.get_or_insert(asked.number(1));
                }
                "count-down" => {
                    self.count = self
                        .count
                        .map(|count| count.saturating_sub(asked.number(1)));
                    ensure!(value == &json!(self.count), "it is at {:?}", self.count);
                }
                "count" => ensure!(value == &json!(self.count), "it is at {:?}", self.count),
                "remove" => {
                    ensure!(
                        value == &json!(self.count.is_some()),
                        "it is at {:?}",
                        self.count
                    );
                    self.count = None;
                }
                _ => {
                    ensure!(self.count == Some(0), "it is at {:?}", self.count);
                    self.waiting.remove(asked.id);
                }
            },
            Event::Ended(asked, why) => {
                let may = !is_wait(asked) || self.count.is_none() || !why.contains("there is no");
                ensure!(may, "{why}, and it is at {:?}", self.count);
                self.waiting.remove(asked.id);
            }
            Event::SessionEnded(session) => self.waiting.end_session(*session),
        }
        Ok(())
    }

    fn rest(&mut self, _: u64) -> Result<(), String> {
        let waits = self.waiting.first("a").is_some();
        ensure!(
            !waits || self.count > Some(0),
            "one waits, and it is at {:?}",
            self.count
        );
        Ok(())
    }

    fn delays_wakes(&self) -> bool {
        // A latch that has opened may be removed before all who wait are told: they are refused then.
        false
    }
}
