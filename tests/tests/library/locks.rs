//! Locks, semaphores and leases: no two holders, first come first served, and nobody waits for what is free.

use std::collections::{BTreeMap, BTreeSet};

use quorate_tests::random::{Asked, CallId, Event, Property, Rng, SessionId, Value, hold, json};

use crate::{Waiting, ensure};

const NAMES: [&str; 2] = ["a", "b"];

fn name(random: &mut Rng) -> &'static str {
    NAMES[random.usize(0..NAMES.len())]
}

#[test]
fn fair_lock_has_one_holder_and_is_fair() {
    hold("fair-lock", FairLock::default);
}

/// Who holds a lock.
struct Holder {
    session: SessionId,
    /// Once a call has said it.
    token: Option<u64>,
    holds: u64,
    is_asked: bool,
    /// A call whose turn has come, and which has not been told yet.
    untold: Option<CallId>,
}

#[derive(Default)]
struct FairLock {
    holders: BTreeMap<String, Holder>,
    waiting: Waiting,
    listening: Waiting,
    tokens: BTreeMap<String, u64>,
}

impl FairLock {
    /// The lock is known to be held, or its holder to have been asked, by what another call was told: then the
    /// first that waits holds it, and its call will be told.
    fn hold_untold(&mut self, name: &str) {
        if !self.holders.contains_key(name)
            && let Some(first) = self.waiting.first(name)
        {
            let (session, call) = (first.id.session, first.id);
            let holder = Holder {
                session,
                token: None,
                holds: 1,
                is_asked: false,
                untold: Some(call),
            };
            self.holders.insert(name.to_owned(), holder);
            self.waiting.remove(call);
        }
    }

    fn granted(&mut self, asked: &Asked, grant: &Value) -> Result<(), String> {
        let name = asked.text(0);
        let session = asked.id.session;
        let first = self.waiting.first(name).map(|first| first.id);
        if first.is_some_and(|first| first.session == session && first != asked.id) {
            self.hold_untold(name);
        }
        let token = grant["token"].as_u64();
        let holder = match self.holders.get_mut(name) {
            Some(holder) if holder.untold == Some(asked.id) => {
                holder.untold = None;
                holder
            }
            Some(holder) => {
                ensure!(
                    holder.session == session,
                    "{} holds {name} already",
                    holder.session
                );
                holder.holds += 1;
                holder
            }
            None => {
                ensure!(first == Some(asked.id), "{first:?} came before");
                self.hold_untold(name);
                let holder = self.holders.get_mut(name).ok_or("it does not wait")?;
                holder.untold = None;
                holder
            }
        };
        let holds = holder.holds;
        ensure!(grant["holds"] == json!(holds), "it holds {holds} times");
        let known = holder.token;
        ensure!(
            known.is_none() || known == token,
            "a hold more has another token"
        );
        holder.token = token;
        if known.is_none() {
            let last = self.tokens.insert(name.to_owned(), token.unwrap_or(0));
            ensure!(last < token, "the token does not grow");
        }
        self.waiting.remove(asked.id);
        Ok(())
    }

    fn holds(&self, name: &str, session: SessionId) -> bool {
        self.holders
            .get(name)
            .is_some_and(|holder| holder.session == session)
    }

    fn give_back(&mut self, name: &str) -> u64 {
        let Some(holder) = self.holders.get_mut(name) else {
            return 0;
        };
        holder.holds -= 1;
        let left = holder.holds;
        if left == 0 {
            self.holders.remove(name);
        }
        left
    }
}

impl Property for FairLock {
    fn ask(&mut self, random: &mut Rng, session: SessionId) -> (&'static str, Value) {
        let name = name(random);
        let release = if self.holds(name, session) { 50 } else { 2 };
        match random.u32(0..100) {
            n if n < release => ("release", json!([name])),
            n if n < 60 => ("acquire", json!([name])),
            n if n < 75 => ("try-acquire", json!([name])),
            n if n < 85 => ("acquire-within", json!([name, random.u64(0..3000)])),
            n if n < 90 => ("holder", json!([name])),
            n if n < 95 => ("request-release", json!([name])),
            _ => ("wait-for-request", json!([name])),
        }
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Asked(asked) => match asked.operation.as_str() {
                "acquire" | "acquire-within" | "try-acquire" => self.waiting.push(asked),
                "wait-for-request" => self.listening.push(asked),
                _ => {}
            },
            Event::Returned(asked, value) => {
                let (name, session) = (asked.text(0), asked.id.session);
                match asked.operation.as_str() {
                    "acquire" => return self.granted(asked, value),
                    "try-acquire" | "acquire-within" if !value.is_null() => {
                        return self.granted(asked, value);
                    }
                    "try-acquire" | "acquire-within" => self.waiting.remove(asked.id),
                    "release" => {
                        self.hold_untold(name);
                        ensure!(
                            self.holds(name, session),
                            "it released what it did not hold"
                        );
                        let left = self.give_back(name);
                        ensure!(value == &json!(left), "{left} holds are left");
                    }
                    "holder" => {
                        let holder = self.holders.get(name);
                        let known = holder.map(|holder| holder.session.0);
                        let said = value["session"].as_u64();
                        // A waiter whose turn has come may not have been told yet.
                        ensure!(known.is_none() || known == said, "{known:?} holds it");
                    }
                    "request-release" if value == &json!(true) => {
                        self.hold_untold(name);
                        let holder = self.holders.get_mut(name).ok_or("there is no holder")?;
                        holder.is_asked = true;
                    }
                    "request-release" => {
                        ensure!(!self.holders.contains_key(name), "there is a holder");
                    }
                    "wait-for-request" => {
                        self.listening.remove(asked.id);
                        let asked_for =
                            self.holders.get(name).is_some_and(|holder| holder.is_asked);
                        let is_asked = self.holds(name, session) && asked_for;
                        ensure!(value == &json!(false) || is_asked, "nobody has asked");
                    }
                    _ => {}
                }
            }
            Event::Ended(asked, _) => {
                let name = asked.text(0);
                self.waiting.remove(asked.id);
                self.listening.remove(asked.id);
                let untold = self.holders.get(name).and_then(|holder| holder.untold);
                if untold == Some(asked.id) {
                    self.give_back(name);
                }
                let refused = asked.operation == "release";
                let held = self.holds(name, asked.id.session);
                ensure!(!refused || !held, "a holder may release");
            }
            Event::SessionEnded(session) => {
                self.waiting.end_session(*session);
                self.listening.end_session(*session);
                self.holders.retain(|_, holder| holder.session != *session);
            }
        }
        Ok(())
    }

    fn rest(&mut self, _: u64) -> Result<(), String> {
        for name in NAMES {
            let waits = self.waiting.first(name).is_some();
            let holder = self.holders.get(name);
            ensure!(!waits || holder.is_some(), "{name} is free, and one waits");
            let untold = holder.and_then(|holder| holder.untold);
            ensure!(untold.is_none(), "{untold:?} holds {name}, and is not told");
            for listening in self.listening.of(name) {
                let is_its =
                    |holder: &Holder| holder.session == listening.id.session && !holder.is_asked;
                let may = holder.is_some_and(is_its);
                ensure!(
                    may,
                    "{listening:?} waits for a request that has come, or never will"
                );
            }
        }
        Ok(())
    }
}

#[test]
fn read_write_lock_has_one_writer_or_readers_and_is_fair() {
    hold("read-write-lock", ReadWriteLock::default);
}

#[derive(Default)]
struct ReadWriteLock {
    /// Name, session, token, and whether it writes.
    holds: Vec<(String, SessionId, u64, bool)>,
    waiting: Waiting,
}

fn writes(asked: &Asked) -> bool {
    asked.operation.ends_with("write")
}

impl Property for ReadWriteLock {
    fn ask(&mut self, random: &mut Rng, session: SessionId) -> (&'static str, Value) {
        let name = name(random);
        let held = |hold: &&(String, SessionId, u64, bool)| hold.0 == name && hold.1 == session;
        let held = random.choice(self.holds.iter().filter(held).collect::<Vec<_>>());
        match (held, random.u32(0..100)) {
            (Some(hold), n) if n < 50 => ("release", json!([name, hold.2])),
            (Some(hold), n) if n < 60 => ("downgrade", json!([name, hold.2])),
            (_, n) if n < 70 => ("acquire-read", json!([name])),
            (_, n) if n < 85 => ("acquire-write", json!([name])),
            (_, n) if n < 90 => ("try-acquire-read", json!([name])),
            (_, n) if n < 95 => ("try-acquire-write", json!([name])),
            _ => ("holders", json!([name])),
        }
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Asked(asked) if asked.operation.contains("acquire") => self.waiting.push(asked),
            Event::Asked(_) => {}
            Event::Returned(asked, value) => {
                let name = asked.text(0).to_owned();
                match asked.operation.as_str() {
                    "release" => self
                        .holds
                        .retain(|hold| hold.0 != name || hold.2 != asked.number(1)),
                    "downgrade" => {
                        let token = asked.number(1);
                        for hold in &mut self.holds {
                            if hold.0 == name && hold.2 == token {
                                ensure!(hold.3, "it does not write");
                                hold.3 = false;
                            }
                        }
                    }
                    "holders" => {
                        for hold in self.holds.iter().filter(|hold| hold.0 == name) {
                            let is_it = |one: &Value| {
                                one["token"] == json!(hold.2) && one["writes"] == json!(hold.3)
                            };
                            let named = value.as_array().is_some_and(|list| list.iter().any(is_it));
                            ensure!(named, "{hold:?} is not among the holders");
                        }
                    }
                    _ if value.is_null() => self.waiting.remove(asked.id),
                    _ => {
                        let writes_too = writes(asked);
                        for hold in self.holds.iter().filter(|hold| hold.0 == name) {
                            ensure!(!writes_too && !hold.3, "{hold:?} has it");
                        }
                        let ahead = self
                            .waiting
                            .of(&name)
                            .take_while(|other| other.id != asked.id);
                        for other in ahead {
                            ensure!(!writes_too && !writes(other), "{other:?} came before");
                        }
                        let token = value["token"].as_u64().unwrap_or(0);
                        self.holds.push((name, asked.id.session, token, writes_too));
                        self.waiting.remove(asked.id);
                    }
                }
            }
            Event::Ended(asked, why) => {
                self.waiting.remove(asked.id);
                ensure!(asked.operation != "release", "{why}");
            }
            Event::SessionEnded(session) => {
                self.waiting.end_session(*session);
                self.holds.retain(|hold| hold.1 != *session);
            }
        }
        Ok(())
    }

    fn rest(&mut self, _: u64) -> Result<(), String> {
        for name in NAMES {
            let Some(first) = self.waiting.first(name) else {
                continue;
            };
            let mut held = self.holds.iter().filter(|hold| hold.0 == name);
            let blocked = held.any(|hold| hold.3 || writes(first));
            ensure!(blocked, "{first:?} waits for nobody");
        }
        Ok(())
    }
}

#[test]
fn semaphore_gives_no_more_permits_than_there_are_and_is_fair() {
    hold("semaphore", Semaphore::default);
}

#[derive(Default)]
struct Semaphore {
    permits: u64,
    /// Session, token, permits.
    holds: Vec<(SessionId, u64, u64)>,
    waiting: Waiting,
}

impl Semaphore {
    fn held(&self) -> u64 {
        self.holds.iter().map(|hold| hold.2).sum()
    }
}

impl Property for Semaphore {
    fn prepare(&mut self) -> Vec<(&'static str, Value)> {
        vec![("set-permits", json!(["a", 5]))]
    }

    fn ask(&mut self, random: &mut Rng, session: SessionId) -> (&'static str, Value) {
        let own = |hold: &&(SessionId, u64, u64)| hold.0 == session;
        let held = random.choice(self.holds.iter().filter(own).collect::<Vec<_>>());
        match (held, random.u32(0..100)) {
            (Some(hold), n) if n < 50 => ("release", json!(["a", hold.1])),
            (_, n) if n < 80 => ("acquire", json!(["a", random.u64(1..5)])),
            (_, n) if n < 90 => ("try-acquire", json!(["a", random.u64(1..5)])),
            (_, n) if n < 94 => ("set-permits", json!(["a", random.u64(2..7)])),
            _ => ("usage", json!(["a"])),
        }
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Asked(asked) if asked.operation.contains("acquire") => self.waiting.push(asked),
            Event::Asked(_) => {}
            Event::Returned(asked, value) => match asked.operation.as_str() {
                "set-permits" => self.permits = asked.number(1),
                "release" => self.holds.retain(|hold| hold.1 != asked.number(1)),
                "usage" => {
                    // Nobody holds what the model does not know of, but who has not been told yet.
                    let held = value["held"].as_u64().unwrap_or(0);
                    ensure!(held == self.held(), "{} are held", self.held());
                }
                _ if value.is_null() => self.waiting.remove(asked.id),
                _ => {
                    let (wanted, held) = (asked.number(1), self.held());
                    ensure!(
                        held + wanted <= self.permits,
                        "{held} of {} are held",
                        self.permits
                    );
                    let first = self.waiting.first("a").map(|first| first.id);
                    ensure!(first == Some(asked.id), "{first:?} came before");
                    self.waiting.remove(asked.id);
                    let token = value["token"].as_u64().unwrap_or(0);
                    self.holds.push((asked.id.session, token, wanted));
                }
            },
            Event::Ended(asked, why) => {
                self.waiting.remove(asked.id);
                ensure!(asked.operation != "release", "{why}");
            }
            Event::SessionEnded(session) => {
                self.waiting.end_session(*session);
                self.holds.retain(|hold| hold.0 != *session);
            }
        }
        Ok(())
    }

    fn rest(&mut self, _: u64) -> Result<(), String> {
        if let Some(first) = self.waiting.first("a") {
            let held = self.held();
            let blocked = held + first.number(1) > self.permits;
            ensure!(
                blocked,
                "{first:?} waits, and {held} of {} are held",
                self.permits
            );
        }
        Ok(())
    }
}

#[test]
fn multi_lock_has_one_holder_of_each_and_no_deadlock() {
    hold("multi-lock", MultiLock::default);
}

#[derive(Default)]
struct MultiLock {
    holders: BTreeMap<String, SessionId>,
    waiting: Vec<Asked>,
}

fn names(asked: &Asked) -> BTreeSet<String> {
    let names = asked.arguments[0].as_array().into_iter().flatten();
    names
        .filter_map(|name| Some(name.as_str()?.to_owned()))
        .collect()
}

impl Property for MultiLock {
    fn ask(&mut self, random: &mut Rng, session: SessionId) -> (&'static str, Value) {
        let own = self
            .holders
            .iter()
            .filter(|(_, holder)| **holder == session);
        let own: Vec<&String> = own.map(|(name, _)| name).collect();
        if !own.is_empty() && random.u8(0..10) < 6 {
            let count = random.usize(1..own.len() + 1);
            return ("release", json!([&own[..count]]));
        }
        let names: Vec<&str> = ["a", "b", "c", "d"]
            .into_iter()
            .filter(|_| random.bool())
            .collect();
        let mut names = if names.is_empty() { vec!["a"] } else { names };
        random.shuffle(&mut names);
        match random.u8(0..10) {
            0..8 => ("acquire", json!([names])),
            _ => ("try-acquire", json!([names])),
        }
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Asked(asked) if asked.operation != "release" => self.waiting.push(asked.clone()),
            Event::Asked(_) => {}
            Event::Returned(asked, value) => {
                let wanted = names(asked);
                if asked.operation == "release" {
                    self.holders.retain(|name, _| !wanted.contains(name));
                    return Ok(());
                }
                if !value.is_null() {
                    for name in &wanted {
                        ensure!(!self.holders.contains_key(name), "{name} is held");
                        self.holders.insert(name.clone(), asked.id.session);
                    }
                    let ahead = self.waiting.iter().take_while(|other| other.id != asked.id);
                    for other in ahead {
                        ensure!(names(other).is_disjoint(&wanted), "{other:?} came before");
                    }
                }
                self.waiting.retain(|other| other.id != asked.id);
            }
            Event::Ended(asked, why) => {
                self.waiting.retain(|other| other.id != asked.id);
                ensure!(asked.operation != "release", "{why}");
                let session = asked.id.session;
                let own = |name: &String| self.holders.get(name) == Some(&session);
                // Or its turn has come, and it has not been told yet.
                let waits = self.waiting.iter().any(|other| other.id.session == session);
                let may = waits || names(asked).iter().any(own);
                ensure!(!why.contains("already") || may, "{why}");
            }
            Event::SessionEnded(session) => {
                self.waiting.retain(|other| other.id.session != *session);
                self.holders.retain(|_, holder| holder != session);
            }
        }
        Ok(())
    }

    fn rest(&mut self, _: u64) -> Result<(), String> {
        for (place, asked) in self.waiting.iter().enumerate() {
            let wanted = names(asked);
            let held = wanted.iter().any(|name| self.holders.contains_key(name));
            let ahead = self.waiting[..place].iter();
            let behind = ahead
                .into_iter()
                .any(|other| !names(other).is_disjoint(&wanted));
            ensure!(held || behind, "{asked:?} waits for nobody");
        }
        Ok(())
    }
}

#[test]
fn lease_has_one_holder_until_it_ends() {
    hold("lease", Lease::default);
}

#[derive(Default)]
struct Lease {
    /// Token and end.
    lease: Option<(u64, u64)>,
    waiting: Waiting,
    last_token: Option<u64>,
}

impl Property for Lease {
    fn ask(&mut self, random: &mut Rng, _: SessionId) -> (&'static str, Value) {
        let token = match self.last_token {
            Some(token) if random.bool() => token,
            _ => random.u64(0..30),
        };
        let duration = random.u64(1..4000);
        match random.u8(0..10) {
            0..4 => ("acquire", json!(["a", "me", duration])),
            4 => ("try-acquire", json!(["a", "me", duration])),
            5..7 => ("renew", json!(["a", token, duration])),
            7..9 => ("release", json!(["a", token])),
            _ => ("holder", json!(["a"])),
        }
    }

    fn see(&mut self, at: u64, event: &Event) -> Result<(), String> {
        let current = self.lease.filter(|(_, expires)| *expires > at);
        match event {
            Event::Asked(asked) if asked.operation.contains("acquire") => self.waiting.push(asked),
            Event::Asked(_) => {}
            Event::Returned(asked, value) => {
                let token = value["token"].as_u64();
                let expires = value["expires"].as_u64();
                match asked.operation.as_str() {
                    "acquire" | "try-acquire" if token.is_some() => {
                        ensure!(current.is_none(), "{current:?} has it");
                        let first = self.waiting.first("a").map(|first| first.id);
                        ensure!(first == Some(asked.id), "{first:?} came before");
                        ensure!(token > self.last_token, "the token does not grow");
                        ensure!(
                            expires == Some(at + asked.number(2)),
                            "it ends at another time"
                        );
                        self.waiting.remove(asked.id);
                        self.last_token = token;
                        self.lease = token.zip(expires);
                    }
                    "try-acquire" => self.waiting.remove(asked.id),
                    "renew" => {
                        let is_it = current.is_some_and(|(token, _)| token == asked.number(1));
                        ensure!(is_it == token.is_some(), "{current:?} has it");
                        self.lease = token.zip(expires).or(self.lease);
                    }
                    "release" => {
                        let is_it = current.is_some_and(|(token, _)| token == asked.number(1));
                        ensure!(value == &json!(is_it), "{current:?} has it");
                        if is_it {
                            self.lease = None;
                        }
                    }
                    "holder" => {
                        let known = current.map(|(token, _)| token);
                        ensure!(known == token, "{known:?} has it");
                    }
                    _ => {}
                }
            }
            Event::Ended(asked, _) => self.waiting.remove(asked.id),
            // A lease outlives it.
            Event::SessionEnded(session) => self.waiting.end_session(*session),
        }
        Ok(())
    }

    fn rest(&mut self, now: u64) -> Result<(), String> {
        let held = self.lease.is_some_and(|(_, expires)| expires > now);
        let waits = self.waiting.first("a").is_some();
        ensure!(held || !waits, "the lease is free, and one waits");
        Ok(())
    }
}
