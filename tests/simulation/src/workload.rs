//! What the clients do: registers, pipelines, counters, locks, queues, leases, pairs, watches, ephemerals. Each writes down what it saw.

mod ephemerals;
mod leases;
mod locks;
mod mounted;
mod pairs;
mod queues;
mod watches;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate_model::acl::Acl;
use quorate_wire::{Create, RequestBody, ResponseBody};
use serde_json::json;

use crate::check::ephemerals::EPHEMERALS;
use crate::check::once::PIPELINES;
use crate::client::calls::{Call, Called};
use crate::client::{Answer, Client};
use crate::history::{Ask, History, Operation, Told};

/// How many znodes the clients write to.
const REGISTERS: u64 = 6;

/// How many writes are under way at a time in a pipeline.
const PIPELINE: u64 = 6;

const NO_NODE: i32 = -101;
const BAD_VERSION: i32 = -103;
const NODE_EXISTS: i32 = -110;

/// What a client of the simulation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Creates, sets, deletes and reads znodes.
    Registers,
    /// Sets a znode of its own, several times at once.
    Pipeline,
    /// Counts, by calls.
    Counts,
    /// Takes and gives back a lock, and sometimes dies with it.
    Locks,
    /// Offers, takes, claims and confirms items of a queue, by several calls at once.
    Queues,
    /// Takes leases, and renews them, gives them back, or lets them end.
    Leases,
    /// Waits for locks at a mount that changes.
    Mounted,
    /// Changes two znodes together.
    Pairs,
    /// Watches znodes that others write to.
    Watches,
    /// Creates ephemerals, and sometimes dies.
    Ephemerals,
}

/// One client of the simulation.
pub struct Program {
    /// Which.
    id: u64,
    /// What it is.
    role: Role,
    /// Its connection.
    client: Client,
    /// What all saw.
    history: History,
    /// When it stops, since the beginning.
    until: Duration,
    /// Set when the recipes are mounted.
    mounted: Arc<AtomicBool>,
    /// The ephemerals that it has asked for.
    ephemerals: Vec<String>,
}

impl Program {
    /// A client that does what its role is until then, since the beginning, once the recipes are mounted.
    pub fn new(
        (id, role): (u64, Role),
        client: Client,
        history: History,
        until: Duration,
        mounted: Arc<AtomicBool>,
    ) -> Program {
        Program {
            id,
            role,
            client,
            history,
            until,
            mounted,
            ephemerals: Vec::new(),
        }
    }

    /// Does what its role is, until it is time to stop; then the last answers are awaited.
    pub async fn run(mut self) -> turmoil::Result {
        while !self.mounted.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.prepare().await;
        let mut number = 0;
        while turmoil::sim_elapsed().unwrap_or_default() < self.until {
            number += 1;
            match self.role {
                Role::Registers => self.register(number).await,
                Role::Pipeline => self.pipeline(number).await,
                Role::Counts => self.count().await,
                Role::Locks => self.lock().await,
                Role::Queues => self.queue(number).await,
                Role::Leases => self.lease().await,
                Role::Mounted => self.lock_where_mounts_change().await,
                Role::Pairs => self.pair(number).await,
                Role::Watches => self.watch().await,
                Role::Ephemerals => self.ephemeral(number).await,
            }
            let pause = self.client.random().u64(0..120);
            self.client.idle(Duration::from_millis(pause)).await;
        }
        match self.role {
            Role::Watches => self.end_watching().await,
            Role::Ephemerals => self.end_ephemerals().await,
            _ => {}
        }
        tracing::info!("client {} has ended, {:?}", self.id, self.role);
        Ok(())
    }

    /// What is to be there before, whoever makes it first.
    async fn prepare(&mut self) {
        let mut paths = vec![
            PIPELINES.trim_end_matches('/').to_owned(),
            EPHEMERALS.to_owned(),
        ];
        if self.role == Role::Pipeline {
            paths.push(format!("{PIPELINES}{}", self.id));
        }
        for path in paths {
            let asked = self.history.event();
            loop {
                let create = create(&path, "0");
                match self.client.ask(create).await {
                    Ok(Answer { error, .. }) if error == 0 || error == NODE_EXISTS => break,
                    _ => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
            if self.role == Role::Pipeline && path.ends_with(&self.id.to_string()) {
                self.history.operation(Operation {
                    client: self.id,
                    register: path,
                    ask: Ask::Create("0".into()),
                    asked,
                    told: Some((self.history.event(), Told::Done)),
                });
            }
        }
    }

    async fn register(&mut self, number: u64) {
        let random = self.client.random();
        let register = format!("/r{}", random.u64(0..REGISTERS));
        let version = random.bool().then(|| random.i32(0..3));
        let data = format!("{}-{number}", self.id);
        let ask = match random.u8(..100) {
            0..20 => Ask::Create(data),
            20..55 => Ask::Set(data, version),
            55..65 => Ask::Delete(version),
            _ => Ask::Get,
        };
        let body = match &ask {
            Ask::Create(data) => create(&register, data),
            Ask::Set(data, version) => set(&register, data, *version),
            Ask::Delete(version) => RequestBody::Delete {
                path: register.clone(),
                version: version.unwrap_or(-1),
            },
            Ask::Get | Ask::GetOf(_) | Ask::Together(..) | Ask::Add(_) => RequestBody::GetData {
                path: register.clone(),
                watch: false,
            },
        };
        let mut bodies = vec![body];
        if ask == Ask::Get {
            let path = register.clone();
            bodies.insert(0, RequestBody::Sync { path });
        }
        let wanted = bodies.len();
        if self.client.connected().await.is_err() {
            return;
        }
        let asked = self.history.event();
        let (answers, ended) = self.client.ask_all(bodies).await;
        let told = match answers.last() {
            Some(answer) if answers.len() == wanted && ended.is_ok() => {
                match told(&ask, answer) {
                    Some(told) => Some((self.history.event(), told)),
                    None => {
                        // Such as SessionMoved, after which nothing was done over this connection.
                        self.client.hang_up();
                        None
                    }
                }
            }
            _ if ask == Ask::Get => return,
            _ => None,
        };
        self.history.operation(Operation {
            client: self.id,
            register,
            ask,
            asked,
            told,
        });
    }

    async fn pipeline(&mut self, round: u64) {
        let register = format!("{PIPELINES}{}", self.id);
        let numbers: Vec<u64> = (0..PIPELINE).map(|n| round * PIPELINE + n).collect();
        let bodies = numbers.iter();
        let bodies = bodies.map(|number| set(&register, &number.to_string(), None));
        if self.client.connected().await.is_err() {
            return;
        }
        let asked: Vec<u64> = numbers.iter().map(|_| self.history.event()).collect();
        let (answers, _) = self.client.ask_all(bodies.collect()).await;
        let mut answers = answers.iter();
        for (number, asked) in numbers.iter().zip(asked) {
            let ask = Ask::Set(number.to_string(), None);
            let told = answers.next().and_then(|answer| told(&ask, answer));
            self.history.operation(Operation {
                client: self.id,
                register: register.clone(),
                told: told.map(|told| (self.history.event(), told)),
                ask,
                asked,
            });
        }
    }

    async fn count(&mut self) {
        if self.client.connected().await.is_err() {
            return;
        }
        let asked = self.history.event();
        let add = Call::new("/counters", "add", json!(["hits", 1]));
        let told = match self.call(add).await {
            Some(called) if called.told.is_some() => {
                let value = called.returned().and_then(|value| value.as_i64());
                if value.is_none() {
                    self.complain(&called);
                }
                value.map(|value| (self.history.event(), Told::Value(value)))
            }
            _ => None,
        };
        self.history.operation(Operation {
            client: self.id,
            register: "the counter".into(),
            ask: Ask::Add(1),
            asked,
            told,
        });
    }

    /// Calls, and writes down what was told.
    async fn call_all(&mut self, calls: Vec<Call>) -> Vec<Called> {
        let called = self.client.call_all(calls).await;
        for one in &called {
            self.history.called(one.clone());
        }
        called
    }

    async fn call(&mut self, call: Call) -> Option<Called> {
        self.call_all(vec![call]).await.pop()
    }

    /// That is not what it can have been told.
    fn complain(&self, called: &Called) {
        let what = format!("client {}: {called:?}", self.id);
        self.history.complain(what);
    }
}

/// Once nothing breaks any more, each of these servers, which have a seed each, opens a session and takes a write.
pub async fn serve_at_last(servers: Vec<(u64, u64)>, until: Duration) -> turmoil::Result {
    tokio::time::sleep(until).await;
    for (server, seed) in servers {
        let mut client = Client::new(vec![server], seed);
        loop {
            let write = create(&format!("/served-by-{server}"), "");
            match client.ask(write).await {
                Ok(Answer { error, .. }) if error == 0 || error == NODE_EXISTS => break,
                _ => client.hang_up(),
            }
        }
        tracing::info!("server {server} serves");
    }
    Ok(())
}

fn create(path: &str, data: &str) -> RequestBody {
    RequestBody::Create(Create {
        path: path.into(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        acl: Acl::open(),
        flags: 0,
    })
}

fn set(path: &str, data: &str, version: Option<i32>) -> RequestBody {
    RequestBody::SetData {
        path: path.into(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        version: version.unwrap_or(-1),
    }
}

/// What an answer says of the register; none if it says nothing about it.
fn told(ask: &Ask, answer: &Answer) -> Option<Told> {
    Some(match (answer.error, &answer.body) {
        (NO_NODE, _) => Told::NoNode,
        (NODE_EXISTS, _) => Told::Exists,
        (BAD_VERSION, _) => Told::BadVersion,
        (0, ResponseBody::Data { data, stat }) => {
            Told::Data(String::from_utf8_lossy(data).into_owned(), stat.version)
        }
        (0, ResponseBody::Stat(stat)) => Told::Version(stat.version),
        (0, _) if matches!(ask, Ask::Create(_) | Ask::Delete(_)) => Told::Done,
        _ => return None,
    })
}
