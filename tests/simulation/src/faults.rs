//! Faults, from the seed: what breaks when, and when it is mended.

use std::sync::Arc;
use std::time::Duration;

use turmoil::Sim;

use crate::server::{Host, name};

/// Breaks things while the simulation goes on.
pub struct Faults {
    random: fastrand::Rng,
    hosts: Vec<Arc<Host>>,
    /// When the next thing breaks.
    next: Duration,
    /// What is to be mended when.
    broken: Vec<(Duration, Broken)>,
    /// How often each kind of fault was there.
    pub crashes: u64,
    /// Links that were cut or held, one way or both.
    pub cuts: u64,
    /// Disks that were slow for a while, and clocks that jumped.
    pub others: u64,
}

enum Broken {
    /// The server at this place is down.
    Down(usize),
    /// Nothing passes between two servers, and what was sent is lost.
    Cut(String, String),
    /// Nothing passes from the first to the second, and what was sent is lost.
    OneWay(String, String),
    /// What is sent between two waits.
    Held(String, String),
    /// The disk at this place is slow.
    Slow(usize),
}

impl Faults {
    /// Nothing is broken yet.
    pub fn new(seed: u64, hosts: Vec<Arc<Host>>) -> Faults {
        Faults {
            random: fastrand::Rng::with_seed(seed),
            hosts,
            next: Duration::from_secs(2),
            broken: Vec::new(),
            crashes: 0,
            cuts: 0,
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
        for (_, broken) in std::mem::take(&mut self.broken) {
            self.mend(sim, broken);
        }
    }

    fn inflict(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let until = now + Duration::from_millis(self.random.u64(30..3000));
        let place = self.random.usize(..self.hosts.len());
        let server = self.name(place);
        match self.random.u8(..100) {
            0..25 => self.crash(sim, place, until),
            // All at once, as when the power goes.
            25..30 => {
                for place in 0..self.hosts.len() {
                    self.crash(sim, place, until);
                }
            }
            30..45 => {
                for other in self.others(place) {
                    self.cut(sim, &server, &other, until);
                }
            }
            45..58 => {
                let other = self.other(place);
                self.cut(sim, &server, &other, until);
            }
            58..68 => {
                let other = self.other(place);
                if self.free(&server, &other) {
                    self.cuts += 1;
                    sim.partition_oneway(server.as_str(), other.as_str());
                    self.broken.push((until, Broken::OneWay(server, other)));
                }
            }
            68..83 => {
                let others = match self.random.bool() {
                    true => self.others(place),
                    false => vec![self.other(place)],
                };
                for other in others {
                    if self.free(&server, &other) {
                        self.cuts += 1;
                        sim.hold(server.as_str(), other.as_str());
                        let held = Broken::Held(server.clone(), other);
                        self.broken.push((until, held));
                    }
                }
            }
            83..93 => {
                self.others += 1;
                let most = Duration::from_millis(self.random.u64(20..400));
                self.hosts[place].disk.slow(Some(most));
                self.broken.push((until, Broken::Slow(place)));
            }
            _ => {
                self.others += 1;
                self.hosts[place]
                    .hands
                    .jump(self.random.i64(-600_000..600_000));
            }
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

    fn cut(&mut self, sim: &mut Sim<'_>, one: &str, other: &str, until: Duration) {
        if self.free(one, other) {
            self.cuts += 1;
            tracing::info!("the link between {one} and {other} is cut");
            sim.partition(one, other);
            let cut = Broken::Cut(one.into(), other.into());
            self.broken.push((until, cut));
        }
    }

    /// Whether nothing is wrong between two servers yet.
    fn free(&self, one: &str, other: &str) -> bool {
        !self.broken.iter().any(|(_, broken)| match broken {
            Broken::Cut(a, b) | Broken::OneWay(a, b) | Broken::Held(a, b) => {
                (a == one && b == other) || (a == other && b == one)
            }
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
            Broken::Cut(one, other) => sim.repair(one.as_str(), other.as_str()),
            Broken::OneWay(one, other) => sim.repair_oneway(one.as_str(), other.as_str()),
            Broken::Held(one, other) => sim.release(one.as_str(), other.as_str()),
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
