//! Elections, memberships, partitions, services: one leader, one owner, and everybody sees who is there.

use std::collections::{BTreeMap, BTreeSet};

use quorate_tests::random::{
    Asked, Compiled, Event, Property, Rng, SessionId, Value, World, hold, json,
};

use crate::{Waiting, ensure};

#[test]
fn election_has_one_leader_the_best_of_those_who_waited() {
    hold("election", Election::default);
}

/// Who stands: its session and rank, and the election's vacancies before it did.
struct Candidacy {
    session: SessionId,
    rank: u64,
    vacancies: u64,
    /// Its call, if one waits.
    asked: Option<Asked>,
}

#[derive(Default)]
struct Election {
    leader: Option<(u64, SessionId)>,
    last_token: u64,
    vacancies: u64,
    /// In the order of their candidacies.
    candidates: Vec<Candidacy>,
    awaiting: Waiting,
    observing: Vec<Asked>,
}

impl Election {
    /// A term has become known.
    fn leads(&mut self, token: Option<u64>, session: SessionId) -> Result<(), String> {
        let Some(token) = token else {
            return Err("a term without a token".into());
        };
        if self.leader == Some((token, session)) {
            return Ok(());
        }
        ensure!(self.leader.is_none(), "{:?} leads", self.leader);
        ensure!(token > self.last_token, "the token does not grow");
        let own = self
            .candidates
            .iter()
            .filter(|candidate| candidate.session == session);
        let Some(rank) = own.map(|candidate| candidate.rank).min() else {
            return Err(format!("{session} does not stand"));
        };
        for candidate in &self.candidates {
            if candidate.session == session {
                break;
            }
            let better = candidate.rank <= rank && candidate.vacancies < self.vacancies;
            ensure!(
                !better,
                "{} of rank {} was there",
                candidate.session,
                candidate.rank
            );
        }
        self.last_token = token;
        self.leader = Some((token, session));
        Ok(())
    }

    /// The next to lead.
    fn first(&self) -> Option<&Candidacy> {
        self.candidates
            .iter()
            .min_by_key(|candidate| candidate.rank)
    }

    fn has_entered(&self, session: SessionId) -> bool {
        let is_entered = |other: &Candidacy| other.session == session && other.asked.is_none();
        self.candidates.iter().any(is_entered)
    }

    fn end(&mut self, session: SessionId) {
        self.candidates
            .retain(|candidate| candidate.session != session);
        if self.leader.is_some_and(|(_, leader)| leader == session) {
            self.leader = None;
        }
        self.vacancies += 1;
    }
}

impl Property for Election {
    fn ask(&mut self, random: &mut Rng, session: SessionId) -> (&'static str, Value) {
        let known = match (self.leader, random.bool()) {
            (Some((token, _)), true) => json!(token),
            _ => Value::Null,
        };
        let leads = self.leader.is_some_and(|(_, leader)| leader == session);
        match random.u8(0..20) {
            0..8 if leads => ("resign", json!(["a"])),
            0..2 => ("campaign", json!(["a", "me"])),
            2..9 => ("campaign-ranked", json!(["a", "me", random.u8(0..3)])),
            9..12 => ("enter", json!(["a", "me", random.u8(0..3)])),
            12 => ("await-leadership", json!(["a"])),
            13 => ("has-leadership", json!(["a"])),
            14..16 => ("leader", json!(["a"])),
            16..18 => ("observe", json!(["a", known])),
            18 => ("candidates", json!(["a"])),
            _ => ("resign", json!(["a"])),
        }
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Asked(asked) => {
                let rank = || asked.arguments.get(2).and_then(Value::as_u64).unwrap_or(0);
                let session = asked.id.session;
                match asked.operation.as_str() {
                    "campaign" | "campaign-ranked" => self.candidates.push(Candidacy {
                        session,
                        rank: rank(),
                        vacancies: self.vacancies,
                        asked: Some(asked.clone()),
                    }),
                    // One that has entered already stands as before.
                    "enter" if !self.has_entered(session) => {
                        self.candidates.push(Candidacy {
                            session,
                            rank: rank(),
                            vacancies: self.vacancies,
                            asked: None,
                        });
                    }
                    "await-leadership" => self.awaiting.push(asked),
                    "observe" => self.observing.push(asked.clone()),
                    _ => {}
                }
            }
            Event::Returned(asked, value) => {
                let session = asked.id.session;
                let is_it = |candidate: &Candidacy| {
                    candidate
                        .asked
                        .as_ref()
                        .is_some_and(|call| call.id == asked.id)
                };
                match asked.operation.as_str() {
                    "resign" => {
                        let led = self.leader.is_some_and(|(_, leader)| leader == session);
                        ensure!(!led || value == &json!(true), "{:?} leads", self.leader);
                        let another = self.leader.is_some() && !led;
                        ensure!(
                            !another || value == &json!(false),
                            "{:?} leads",
                            self.leader
                        );
                        self.end(session);
                    }
                    "leader" | "observe" => {
                        self.observing.retain(|call| call.id != asked.id);
                        let leader = value["session"].as_u64().map(SessionId);
                        if asked.operation == "observe" {
                            ensure!(value["token"] != asked.arguments[1], "nothing has changed");
                        }
                        match leader {
                            Some(leader) => self.leads(value["token"].as_u64(), leader)?,
                            None => {
                                ensure!(self.leader.is_none(), "{:?} leads", self.leader);
                                // Who waits in a call may not have been told yet.
                                let first = self.first();
                                let waits = first.is_none_or(|first| first.asked.is_some());
                                ensure!(waits, "one has entered");
                            }
                        }
                    }
                    "candidates" => {}
                    _ if value.is_null() => {
                        let led = self.leader.is_some_and(|(_, leader)| leader == session);
                        ensure!(!led, "it leads");
                    }
                    _ => {
                        self.leads(value["token"].as_u64(), session)?;
                        self.awaiting.remove(asked.id);
                        // Its session stands no more by this call, but leads.
                        for candidate in &mut self.candidates {
                            if is_it(candidate) {
                                candidate.asked = None;
                            }
                        }
                    }
                }
            }
            Event::Ended(asked, _) => {
                self.awaiting.remove(asked.id);
                self.observing.retain(|call| call.id != asked.id);
                self.candidates.retain(|candidate| {
                    candidate
                        .asked
                        .as_ref()
                        .is_none_or(|call| call.id != asked.id)
                });
            }
            Event::SessionEnded(session) => {
                self.awaiting.end_session(*session);
                self.observing.retain(|call| call.id.session != *session);
                self.end(*session);
            }
        }
        Ok(())
    }

    fn rest(&mut self, _: u64) -> Result<(), String> {
        for call in &self.observing {
            let known = call.arguments[1].as_u64();
            let stale = self.leader.is_some_and(|(token, _)| Some(token) != known);
            ensure!(!stale, "{call:?} waits, and {:?} leads", self.leader);
        }
        // One that has entered may lead, and nobody been told yet.
        let entered = self
            .candidates
            .iter()
            .any(|candidate| candidate.asked.is_none());
        let free = self.leader.is_none() && !entered;
        ensure!(
            !free || self.candidates.is_empty(),
            "nobody leads, and one waits"
        );
        Ok(())
    }
}

#[test]
fn membership_tells_who_is_there_and_misses_no_change() {
    hold("membership", Membership::default);
}

#[derive(Default)]
struct Membership {
    members: BTreeMap<String, (SessionId, String)>,
    /// The versions that were seen, with what they were of.
    versions: BTreeMap<u64, BTreeMap<String, (SessionId, String)>>,
    waiting: Vec<Asked>,
}

impl Property for Membership {
    fn ask(&mut self, random: &mut Rng, _: SessionId) -> (&'static str, Value) {
        let member = ["x", "y", "z"][random.usize(0..3)];
        let last = self.versions.keys().next_back().copied().unwrap_or(0);
        match random.u8(0..10) {
            0..3 => ("join", json!(["a", member, random.u8(0..9).to_string()])),
            3..5 => ("leave", json!(["a", member])),
            5..7 => ("members", json!(["a"])),
            _ => ("wait-for-change", json!(["a", last])),
        }
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Asked(asked) if asked.operation == "wait-for-change" => {
                self.waiting.push(asked.clone());
            }
            Event::Asked(_) => {}
            Event::Returned(asked, value) => {
                let session = asked.id.session;
                match asked.operation.as_str() {
                    "join" => {
                        let (member, data) = (asked.text(1).to_owned(), asked.text(2).to_owned());
                        let before = self.members.insert(member, (session, data));
                        ensure!(
                            before.is_none_or(|(owner, _)| owner == session),
                            "it was another's"
                        );
                    }
                    "leave" => {
                        let is_its = |(owner, _): &mut (SessionId, String)| *owner == session;
                        let left = self.members.get_mut(asked.text(1)).is_some_and(is_its);
                        ensure!(value == &json!(left), "it was there: {left}");
                        if left {
                            self.members.remove(asked.text(1));
                        }
                    }
                    _ => {
                        let version = value["version"].as_u64().unwrap_or(u64::MAX);
                        let told = value["members"].as_array().cloned().unwrap_or_default();
                        let known = self.members.iter().map(|(name, (session, data))| {
                            json!({"name": name, "data": data, "session": session.0})
                        });
                        ensure!(
                            told == known.collect::<Vec<_>>(),
                            "there are {:?}",
                            self.members
                        );
                        if asked.operation != "members" {
                            ensure!(version != asked.number(1), "nothing has changed");
                            self.waiting.retain(|call| call.id != asked.id);
                        }
                        let before = self.versions.insert(version, self.members.clone());
                        let same = before.is_none_or(|before| before == self.members);
                        ensure!(same, "the version {version} comes again");
                    }
                }
            }
            Event::Ended(asked, _) => self.waiting.retain(|call| call.id != asked.id),
            Event::SessionEnded(session) => {
                self.waiting.retain(|call| call.id.session != *session);
                self.members.retain(|_, (owner, _)| owner != session);
            }
        }
        Ok(())
    }

    fn rest(&mut self, _: u64) -> Result<(), String> {
        for call in &self.waiting {
            let known = self.versions.get(&call.number(1));
            let changed = known.is_some_and(|known| *known != self.members);
            ensure!(!changed, "{call:?} waits, and the members are others");
        }
        Ok(())
    }
}

#[test]
fn partitioner_has_one_owner_of_each_partition() {
    hold("partitioner", Partitioner::default);
}

const PARTITIONS: usize = 7;

#[derive(Default)]
struct Partitioner {
    members: BTreeMap<String, SessionId>,
    /// Who works on each partition, as it was told.
    working: BTreeMap<u64, String>,
    /// What each was told to give up.
    to_release: BTreeMap<String, Vec<Value>>,
}

impl Partitioner {
    fn gone(&mut self, member: &str) {
        self.members.remove(member);
        self.to_release.remove(member);
        self.working.retain(|_, owner| owner != member);
    }

    fn share(&mut self, member: &str, share: &Value) -> Result<(), String> {
        let owned = share["owned"].as_array().cloned().unwrap_or_default();
        let owned: BTreeSet<u64> = owned.iter().filter_map(Value::as_u64).collect();
        // What it was told to own it works on, unless it has given it up itself.
        let lost = self
            .working
            .iter()
            .find(|(number, owner)| *owner == member && !owned.contains(number));
        ensure!(lost.is_none(), "{lost:?} was taken away");
        for number in owned {
            let before = self.working.insert(number, member.to_owned());
            let same = before.as_ref().is_none_or(|before| before == member);
            ensure!(same, "{before:?} works on {number}");
        }
        let to_release = share["to-release"].as_array().cloned().unwrap_or_default();
        self.to_release.insert(member.to_owned(), to_release);
        Ok(())
    }
}

impl Property for Partitioner {
    fn ask(&mut self, random: &mut Rng, session: SessionId) -> (&'static str, Value) {
        let own = self.members.iter().find(|(_, owner)| **owner == session);
        let Some((member, _)) = own else {
            let member = ["x", "y", "z", "u"][random.usize(0..4)];
            return ("join", json!(["a", member, PARTITIONS]));
        };
        match (random.u8(0..10), self.to_release.get(member)) {
            (0..6, Some(partitions)) if !partitions.is_empty() => {
                ("release", json!(["a", member, partitions]))
            }
            (0..2, _) => ("leave", json!(["a", member])),
            (2..6, _) => ("owners", json!(["a"])),
            (6..9, _) => ("show", json!(["a", member])),
            _ => ("wait-for-change", json!(["a", member, 0])),
        }
    }

    fn see(&mut self, _: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Asked(asked) if asked.operation == "release" => {
                // It has stopped working on them before it says so.
                let numbers = asked.arguments[2].as_array().into_iter().flatten();
                for number in numbers.filter_map(Value::as_u64) {
                    self.working.remove(&number);
                }
            }
            Event::Asked(_) => {}
            Event::Returned(asked, value) => match asked.operation.as_str() {
                "owners" => {
                    let owners: Vec<&str> = value
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_str)
                        .collect();
                    let wanted = if self.members.is_empty() {
                        0
                    } else {
                        PARTITIONS
                    };
                    ensure!(
                        owners.len() == wanted,
                        "{} partitions have owners",
                        owners.len()
                    );
                    let stranger = owners
                        .iter()
                        .find(|owner| !self.members.contains_key(**owner));
                    ensure!(stranger.is_none(), "{stranger:?} is not there");
                }
                "leave" => self.gone(asked.text(1)),
                _ => {
                    let member = asked.text(1).to_owned();
                    self.members.insert(member.clone(), asked.id.session);
                    return self.share(&member, value);
                }
            },
            Event::Ended(..) => {}
            Event::SessionEnded(session) => {
                let gone = self.members.iter().filter(|(_, owner)| *owner == session);
                let gone: Vec<String> = gone.map(|(member, _)| member.clone()).collect();
                for member in gone {
                    self.gone(&member);
                }
            }
        }
        Ok(())
    }
}

/// The result of a call that returns at once.
fn result(world: &mut World, session: SessionId, operation: &str, arguments: Value) -> Value {
    let call = world.call(session, operation, arguments, None);
    let events = world.events();
    let returned = events.into_iter().find_map(|(_, event)| match event {
        Event::Returned(asked, value) if asked.id == call => Some(value),
        _ => None,
    });
    returned.expect("it returns at once")
}

#[test]
fn partitioner_moves_few_partitions_and_leaves_nothing_behind() {
    let recipe = Compiled::standard("partitioner");
    let mut world = World::new(&recipe, 1000);
    let mut sessions = Vec::new();
    let mut before = vec![String::new(); 100];
    for count in 1..=8 {
        let member = format!("member-{count}");
        let session = world.open();
        result(&mut world, session, "join", json!(["a", member, 100]));
        sessions.push((session, member));
        for (session, member) in &sessions {
            let share = result(&mut world, *session, "show", json!(["a", member]));
            let to_release = share["to-release"].clone();
            result(
                &mut world,
                *session,
                "release",
                json!(["a", member, to_release]),
            );
        }
        let owners = result(&mut world, sessions[0].0, "owners", json!(["a"]));
        let owners: Vec<String> = serde_json::from_value(owners).expect("names");
        let moved = before
            .iter()
            .zip(&owners)
            .filter(|(before, after)| before != after)
            .count();
        assert!(
            moved <= 100usize.div_ceil(count),
            "{moved} of 100 moved to {count} members"
        );
        for (_, member) in &sessions {
            let share = owners.iter().filter(|owner| *owner == member).count();
            assert!(
                share == 100 / count || share == 100usize.div_ceil(count),
                "{share} of {count}"
            );
        }
        before = owners;
    }
    for (session, member) in sessions {
        result(&mut world, session, "leave", json!(["a", member]));
    }
    assert_eq!(world.znodes(), 0);
}

#[test]
fn registry_resolves_what_lives() {
    hold("registry", Registry::default);
}

#[derive(Default)]
struct Registry {
    /// By id: whose, or until when; and its zone.
    instances: BTreeMap<String, (Result<SessionId, u64>, String)>,
    waiting: Vec<Asked>,
}

impl Registry {
    fn live(&self, at: u64) -> impl Iterator<Item = (&String, &String)> {
        let lives =
            move |health: &Result<SessionId, u64>| health.map_or_else(|until| until > at, |_| true);
        self.instances
            .iter()
            .filter(move |(_, (health, _))| lives(health))
            .map(|(id, (_, zone))| (id, zone))
    }
}

impl Property for Registry {
    fn ask(&mut self, random: &mut Rng, _: SessionId) -> (&'static str, Value) {
        let id = ["x", "y", "z"][random.usize(0..3)];
        let zone = ["north", "south"][random.usize(0..2)];
        let tags = json!([{"key": "zone", "value": zone}]);
        let duration = random.u64(1..4000);
        match random.u8(0..10) {
            0..2 => ("register", json!(["a", id, "host:1", tags])),
            2..4 => ("register-for", json!(["a", id, "host:1", tags, duration])),
            4 => ("renew", json!(["a", id, duration])),
            5 => ("deregister", json!(["a", id])),
            6..9 => ("resolve", json!(["a", tags])),
            _ => ("wait-for-change", json!(["a", [], 0])),
        }
    }

    fn see(&mut self, at: u64, event: &Event) -> Result<(), String> {
        match event {
            Event::Asked(asked) if asked.operation == "wait-for-change" => {
                self.waiting.push(asked.clone())
            }
            Event::Asked(_) => {}
            Event::Returned(asked, value) => match asked.operation.as_str() {
                "register" | "register-for" => {
                    let zone = asked.arguments[3][0]["value"]
                        .as_str()
                        .unwrap_or("")
                        .to_owned();
                    let health = match asked.arguments.get(4).and_then(Value::as_u64) {
                        Some(duration) => Err(at + duration),
                        None => Ok(asked.id.session),
                    };
                    self.instances
                        .insert(asked.text(1).to_owned(), (health, zone));
                }
                "renew" | "deregister" => {
                    let id = asked.text(1);
                    let lives = self.live(at).any(|(other, _)| other == id);
                    ensure!(value == &json!(lives), "it is there: {lives}");
                    if asked.operation == "deregister" {
                        self.instances.remove(id);
                    } else if lives && let Some(instance) = self.instances.get_mut(id) {
                        instance.0 = Err(at + asked.number(2));
                    }
                }
                "resolve" => {
                    let zone = asked.arguments[1][0]["value"].as_str().unwrap_or("");
                    let known: Vec<&String> = self
                        .live(at)
                        .filter(|(_, other)| *other == zone)
                        .map(|(id, _)| id)
                        .collect();
                    let told = value["instances"].as_array().into_iter().flatten();
                    let told: Vec<&str> = told.filter_map(|one| one["id"].as_str()).collect();
                    ensure!(told == known, "there are {known:?}");
                }
                _ => {
                    self.waiting.retain(|call| call.id != asked.id);
                    ensure!(self.live(at).next().is_some(), "there is none");
                }
            },
            Event::Ended(asked, why) => {
                self.waiting.retain(|call| call.id != asked.id);
                ensure!(asked.operation != "resolve", "{why}");
            }
            Event::SessionEnded(session) => {
                self.waiting.retain(|call| call.id.session != *session);
                self.instances
                    .retain(|_, (health, _)| *health != Ok(*session));
            }
        }
        Ok(())
    }

    fn rest(&mut self, now: u64) -> Result<(), String> {
        let waits = !self.waiting.is_empty();
        ensure!(
            !waits || self.live(now).next().is_none(),
            "one waits, and there is an instance"
        );
        Ok(())
    }
}
