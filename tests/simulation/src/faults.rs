//! Faults, from the seed: what breaks when, and when it is mended.

use std::sync::Arc;
use std::time::Duration;

use turmoil::Sim;

use crate::server::{Host, name};

/// Breaks things while the simulation goes on.
pub struct Faults {
    random: fastrand::Rng,
    hosts: Vec<Arc<Host>>,
    /// The clients' names.
    clients: Vec<String>,
    /// When the next thing breaks.
    next: Duration,
    /// What is to be mended when.
    broken: Vec<(Duration, Broken)>,
    /// How often each kind of fault was there.
    pub crashes: u64,
    /// Links between servers that were cut or held, one way or both.
    pub cuts: u64,
    /// The same of links between clients and servers.
    pub client_cuts: u64,
    /// Disks that were slow for a while, and clocks that jumped.
    pub others: u64,
}

enum Broken {
    /// The server at this place is down.
    Down(usize),
    /// Something is wrong between two.
    Link(How, String, String),
    /// The disk at this place is slow.
    Slow(usize),
}

/// What is wrong between two machines.
#[derive(Clone, Copy, Debug)]
enum How {
    /// Nothing passes, and what was sent is lost.
    Cut,
    /// Nothing passes from the first to the second, and what was sent is lost.
    OneWay,
    /// What is sent waits, and comes late.
    Held,
}

impl Faults {
    /// Nothing is broken yet.
    pub fn new(seed: u64, hosts: Vec<Arc<Host>>, clients: Vec<String>) -> Faults {
        Faults {
            random: fastrand::Rng::with_seed(seed),
            hosts,
            clients,
            next: Duration::from_secs(2),
            broken: Vec::new(),
            crashes: 0,
            cuts: 0,
            client_cuts: 0,
            others: 0,
        }
    }

    /// Breaks and mends what is due.
    pub fn step(&mut self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        let (due, later) = std::mem::take(&mut self.broken)
            .into_iter()
            .partition(|(until, _)| *until <= now);
        self.broken = later;
        for (_, broken) in due {
            self.mend(sim, broken);
        }
        if now >= self.next {
            self.next = now + Duration::from_millis(self.random.u64(50..1500));
            self.inflict(sim, now);
        }
    }

    /// Mends everything.
    pub fn end(&mut self, sim: &mut Sim<'_>) {
        if !self.broken.is_empty() {
            tracing::info!("everything is mended after {:?}", sim.elapsed());
        }
        for (_, broken) in std::mem::take(&mut self.broken) {
            self.mend(sim, broken);
        }
    }

    fn inflict(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let until = now + Duration::from_millis(self.random.u64(30..3000));
        let place = self.random.usize(..self.hosts.len());
        let server = self.name(place);
        match self.random.u8(..125) {
            0..25 => self.crash(sim, place, until),
            // All at once, as when the power goes.
            25..30 => {
                for place in 0..self.hosts.len() {
                    self.crash(sim, place, until);
                }
            }
            30..45 => {
                for other in self.others(place) {
                    self.cuts += self.sever(sim, How::Cut, &server, &other, until);
                }
            }
            45..58 => {
                let other = self.other(place);
                self.cuts += self.sever(sim, How::Cut, &server, &other, until);
            }
            58..68 => {
                let other = self.other(place);
                self.cuts += self.sever(sim, How::OneWay, &server, &other, until);
            }
            68..83 => {
                let others = match self.random.bool() {
                    true => self.others(place),
                    false => vec![self.other(place)],
                };
                for other in others {
                    self.cuts += self.sever(sim, How::Held, &server, &other, until);
                }
            }
            83..93 => {
                self.others += 1;
                let most = Duration::from_millis(self.random.u64(20..400));
                self.hosts[place].disk.slow(Some(most));
                self.broken.push((until, Broken::Slow(place)));
            }
            93..100 => {
                self.others += 1;
                self.hosts[place]
                    .hands
                    .jump(self.random.i64(-600_000..600_000));
            }
            _ => self.trouble_client(sim, server, until),
        }
    }

    fn crash(&mut self, sim: &mut Sim<'_>, place: usize, until: Duration) {
        let down =
            |broken: &(Duration, Broken)| matches!(broken.1, Broken::Down(at) if at == place);
        if self.broken.iter().any(down) {
            return;
        }
        self.crashes += 1;
        tracing::info!("server {} crashes", self.hosts[place].server);
        self.hosts[place].disk.crash();
        *self.hosts[place].running.lock() = None;
        sim.crash(self.name(place).as_str());
        self.broken.push((until, Broken::Down(place)));
    }

    /// Something is wrong between a client and `server`, or all servers.
    fn trouble_client(&mut self, sim: &mut Sim<'_>, server: String, until: Duration) {
        let client = self.clients[self.random.usize(..self.clients.len())].clone();
        let how = match self.random.u8(..4) {
            0 => How::Cut,
            1 => How::OneWay,
            _ => How::Held,
        };
        let servers = match self.random.bool() {
            true => (0..self.hosts.len())
                .map(|place| self.name(place))
                .collect(),
            false => vec![server],
        };
        let from_client = self.random.bool();
        for server in servers {
            let (one, other) = match from_client {
                true => (&client, &server),
                false => (&server, &client),
            };
            self.client_cuts += self.sever(sim, how, one, other, until);
        }
    }

    /// Severs a link, unless something is wrong with it already; gives how many were severed.
    fn sever(
        &mut self,
        sim: &mut Sim<'_>,
        how: How,
        one: &str,
        other: &str,
        until: Duration,
    ) -> u64 {
        if !self.free(one, other) {
            return 0;
        }
        tracing::info!("the link from {one} to {other} breaks: {how:?}");
        match how {
            How::Cut => sim.partition(one, other),
            How::OneWay => sim.partition_oneway(one, other),
            How::Held => sim.hold(one, other),
        }
        let severed = Broken::Link(how, one.into(), other.into());
        self.broken.push((until, severed));
        1
    }

    /// Whether nothing is wrong between two yet.
    fn free(&self, one: &str, other: &str) -> bool {
        !self.broken.iter().any(|(_, broken)| match broken {
            Broken::Link(_, a, b) => (a == one && b == other) || (a == other && b == one),
            Broken::Down(_) | Broken::Slow(_) => false,
        })
    }

    fn mend(&self, sim: &mut Sim<'_>, broken: Broken) {
        match broken {
            Broken::Down(place) => {
                tracing::info!("server {} starts again", self.hosts[place].server);
                self.hosts[place].ledger.installed(self.hosts[place].server);
                sim.bounce(self.name(place).as_str());
            }
            Broken::Link(how, one, other) => match how {
                How::Cut => sim.repair(one.as_str(), other.as_str()),
                How::OneWay => sim.repair_oneway(one.as_str(), other.as_str()),
                How::Held => sim.release(one.as_str(), other.as_str()),
            },
            Broken::Slow(place) => self.hosts[place].disk.slow(None),
        }
    }

    fn name(&self, place: usize) -> String {
        name(self.hosts[place].server.0)
    }

    fn others(&self, place: usize) -> Vec<String> {
        let others = (0..self.hosts.len()).filter(|other| *other != place);
        others.map(|other| self.name(other)).collect()
    }

    fn other(&mut self, place: usize) -> String {
        let mut others = self.others(place);
        others.swap_remove(self.random.usize(..others.len()))
    }
}
