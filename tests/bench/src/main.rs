//! The benchmark against ZooKeeper: the same load on both servers in turn, operations per second and per CPU-second.

#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock: it measures time"
)]

mod loads;
mod locks;
mod measure;
mod report;
mod servers;
mod session;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use loads::{Load, Operation};
use locks::LockKind;
use measure::{Measurement, Scenario, run};
use report::{Pair, Row};
use servers::{Kind, Server};

/// Drives Quorate and ZooKeeper, both started here with fsync on, with the same load in turn.
#[derive(Parser)]
struct Options {
    /// Quorate's server, built with --release.
    #[arg(long)]
    server: PathBuf,
    /// ZooKeeper's jar, as Debian's package has it; without it Quorate is measured alone.
    #[arg(long)]
    zookeeper: Option<PathBuf>,
    /// Where the servers keep their data: a directory on the disk to be measured. It is emptied.
    #[arg(long)]
    directory: PathBuf,
    /// How often each scenario is run on each server.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one run is measured.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Runs only the scenarios whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// A few seconds, to see that it works: one short round.
    #[arg(long)]
    smoke: bool,
    /// Writes the table between the markers of this Markdown file.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

fn main() -> Result<()> {
    let mut options = Options::parse();
    if options.smoke {
        options.rounds = 1;
        options.seconds = options.seconds.min(0.2);
    }
    // One thread: what the driver takes is not there for the server, and must not depend on the load.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(bench(&options))
}

async fn bench(options: &Options) -> Result<()> {
    let mut ours = Server::start(Kind::Quorate, &options.server, &options.directory).await?;
    ours.mount("/locks", "fair-lock").await?;
    let mut theirs = match &options.zookeeper {
        Some(jar) => Some(Server::start(Kind::Zookeeper, jar, &options.directory).await?),
        None => None,
    };
    let scenarios: Vec<Scenario> = scenarios()
        .into_iter()
        .filter(|scenario| {
            let wanted = options.only.as_deref().unwrap_or("");
            scenario.name.contains(wanted)
        })
        .collect();
    if scenarios.is_empty() {
        bail!("no scenario has that in its name");
    }
    if !options.smoke {
        println!("warming up: the JVM compiles what runs often");
        for scenario in &scenarios {
            for server in [Some(&ours), theirs.as_ref()].into_iter().flatten() {
                scenario.run_on(server, Duration::from_secs(1)).await?;
            }
        }
    }
    let mut rows = Vec::new();
    for scenario in &scenarios {
        let mut pairs = Vec::new();
        for round in 0..options.rounds {
            let pair = measure_pair(scenario, &ours, theirs.as_ref(), round, options).await?;
            println!("{}", report::progress(&scenario.name, round, &pair));
            pairs.push(pair);
        }
        rows.push(Row::new(scenario, &pairs));
    }
    ours.stop().await?;
    if let Some(theirs) = &mut theirs {
        theirs.stop().await?;
    }
    let table = report::table(&rows, theirs.is_some());
    println!("\n{table}");
    if let Some(path) = &options.markdown {
        report::write(path, &table, options.rounds, options.seconds)
            .with_context(|| format!("the table could not be written to {}", path.display()))?;
    }
    Ok(())
}

/// Both servers, right after one another, who is first alternating: a disturbance of the machine hits
/// both sides of a ratio alike.
async fn measure_pair(
    scenario: &Scenario,
    ours: &Server,
    theirs: Option<&Server>,
    round: usize,
    options: &Options,
) -> Result<Pair> {
    let time = Duration::from_secs_f64(options.seconds);
    let Some(theirs) = theirs else {
        let ours = scenario.run_on(ours, time).await?;
        return Ok(Pair { ours, theirs: None });
    };
    let (ours, theirs): (Measurement, Measurement) = if round.is_multiple_of(2) {
        let first = scenario.run_on(ours, time).await?;
        (first, scenario.run_on(theirs, time).await?)
    } else {
        let first = scenario.run_on(theirs, time).await?;
        (scenario.run_on(ours, time).await?, first)
    };
    Ok(Pair {
        ours,
        theirs: Some(theirs),
    })
}

impl Scenario {
    async fn run_on(&self, server: &Server, time: Duration) -> Result<Measurement> {
        run(self, server, time)
            .await
            .with_context(|| format!("{} on {}", self.name, server.kind.name()))
    }
}

fn scenarios() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for operation in [Operation::Get, Operation::Set, Operation::Create] {
        for sessions in [1, 64, 256] {
            scenarios.push(Scenario::plain(Load {
                operation,
                sessions,
                in_flight: 1,
            }));
        }
        if operation == Operation::Get {
            scenarios.push(Scenario::plain(Load {
                operation,
                sessions: 64,
                in_flight: 16,
            }));
        }
    }
    // The recipe against what ZooKeeper's users have, and the client-side lock on both.
    scenarios.push(Scenario::lock(LockKind::Recipe, LockKind::ClientSide));
    scenarios.push(Scenario::lock(LockKind::ClientSide, LockKind::ClientSide));
    scenarios
}
