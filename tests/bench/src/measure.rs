//! One run of one scenario on one server: sessions are opened, loaded, measured and closed.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::LocalSet;

use crate::loads::{self, Load};
use crate::locks::{self, LockKind};
use crate::servers::{Kind, Server};
use crate::session::Session;

/// Of every run, before its measurement begins: connections are warm then.
const LEAD: Duration = Duration::from_millis(200);

/// A run ends early at this many operations, so that what it creates is bounded.
const MAX_OPERATIONS: u64 = 2_000_000;

/// How many clients hand a lock around.
pub(crate) const LOCK_CLIENTS: usize = 32;

/// What is done.
pub(crate) struct Scenario {
    pub(crate) name: String,
    ours: Work,
    theirs: Work,
}

#[derive(Clone, Copy)]
enum Work {
    Plain(Load),
    Lock(LockKind),
}

impl Scenario {
    pub(crate) fn plain(load: Load) -> Scenario {
        Scenario {
            name: load.to_string(),
            ours: Work::Plain(load),
            theirs: Work::Plain(load),
        }
    }

    pub(crate) fn lock(ours: LockKind, theirs: LockKind) -> Scenario {
        Scenario {
            name: format!("lock hand-off, {LOCK_CLIENTS} clients: {}", ours.name()),
            ours: Work::Lock(ours),
            theirs: Work::Lock(theirs),
        }
    }
}

/// What came out.
#[derive(Clone, Copy)]
pub(crate) struct Measurement {
    /// Operations answered, or locks handed over.
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    /// Of the server's process, all threads, user and system.
    pub(crate) cpu_seconds: f64,
}

impl Measurement {
    pub(crate) fn per_second(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    pub(crate) fn per_cpu_second(&self) -> f64 {
        // The kernel counts in hundredths of a second.
        self.operations as f64 / self.cpu_seconds.max(0.01)
    }
}

/// What the tasks of a run share: they are all on one thread.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) operations: Cell<u64>,
    pub(crate) stop: Cell<bool>,
    /// Who is in the critical section.
    pub(crate) holder: Cell<Option<usize>>,
}

impl Tally {
    pub(crate) fn add(&self, operations: u64) {
        self.operations.set(self.operations.get() + operations);
    }
}

/// Runs `scenario` on `server` for `time`.
pub(crate) async fn run(
    scenario: &Scenario,
    server: &Server,
    time: Duration,
) -> Result<Measurement> {
    let work = match server.kind {
        Kind::Quorate => scenario.ours,
        Kind::Zookeeper => scenario.theirs,
    };
    let count = match work {
        Work::Plain(load) => load.sessions,
        Work::Lock(_) => LOCK_CLIENTS,
    };
    let mut sessions = Vec::with_capacity(count);
    for _ in 0..count {
        sessions.push(Session::open(server.address).await?);
    }
    // A place of its own in the tree.
    let base = format!("/bench-{:x}", sessions[0].id);
    sessions[0].create(&base, b"", 0).await?;
    if let Work::Plain(load) = work {
        loads::prepare(load, &mut sessions, &base).await?;
    }
    LocalSet::new()
        .run_until(measure(work, sessions, base, server, time))
        .await
}

async fn measure(
    work: Work,
    sessions: Vec<Session>,
    base: String,
    server: &Server,
    time: Duration,
) -> Result<Measurement> {
    let tally = Rc::new(Tally::default());
    let base: Rc<str> = base.into();
    let mut tasks = Vec::with_capacity(sessions.len());
    for (number, session) in sessions.into_iter().enumerate() {
        let (tally, base) = (tally.clone(), base.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let done = match work {
                Work::Plain(load) => loads::drive(load, session, number, &base, &tally).await,
                Work::Lock(kind) => locks::drive(kind, session, number, &base, &tally).await,
            };
            // One failure ends the run.
            if done.is_err() {
                tally.stop.set(true);
            }
            done
        }));
    }
    tokio::time::sleep(LEAD).await;
    let (begin, operations) = (Instant::now(), tally.operations.get());
    let cpu = server.cpu_seconds()?;
    while begin.elapsed() < time && tally.operations.get() < MAX_OPERATIONS && !tally.stop.get() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let measurement = Measurement {
        operations: tally.operations.get() - operations,
        seconds: begin.elapsed().as_secs_f64(),
        cpu_seconds: server.cpu_seconds()? - cpu,
    };
    tally.stop.set(true);
    for task in tasks {
        task.await.context("a task of the load panicked")??;
    }
    if measurement.operations == 0 {
        bail!("not one operation was answered");
    }
    Ok(measurement)
}
