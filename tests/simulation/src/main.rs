//! The simulation: `quorate-simulation --help`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use parking_lot::Mutex;
use quorate_simulation::check::{Kind, Violation};
use quorate_simulation::members::Move;
use quorate_simulation::random;
use quorate_simulation::run::{self, Defect, Report};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

mod totals;

use totals::Totals;

/// Runs an ensemble of three to five servers on simulated machines: crashes, restarts, cuts, delays, wrong clocks and slow
/// disks from a seed, with clients that write, call and lock, and a checker of what they saw.
#[derive(Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// The first seed; alone with --seeds 1.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds, of the simulation's own time, in which things break.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Breaks something on purpose: the checker has to find it, or the command fails.
    #[arg(long)]
    defect: Option<Defect>,
    /// Runs each seed twice, and compares.
    #[arg(long)]
    twice: bool,
    /// Runs at the same time; as many as there are processors, if not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Runs the one seed in this process: what `--log` is for. Logs go to standard error as RUST_LOG says.
    #[arg(long)]
    log: bool,
    /// Where compiled recipes are kept.
    #[arg(long, hide = true)]
    cache: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match &arguments.cache {
        Some(cache) => one(&arguments, cache),
        None => {
            let cache = tempfile::tempdir()?;
            match arguments.log {
                true => one(&arguments, cache.path()),
                false => many(&arguments, cache.path()),
            }
        }
    }
}

/// The simulation's own time, for its logs.
struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        write!(out, "{:7.3}", elapsed.as_secs_f64())
    }
}

/// Runs one seed in this process.
fn one(arguments: &Arguments, cache: &Path) -> anyhow::Result<ExitCode> {
    let filter = match arguments.log {
        true => tracing_subscriber::EnvFilter::from_default_env(),
        false => tracing_subscriber::EnvFilter::new("off"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_timer(SimulatedTime)
        .init();
    let directory = tempfile::tempdir()?;
    let faults = Duration::from_secs(arguments.seconds);
    let (seed, defect) = (arguments.seed, arguments.defect);
    let Report {
        violations,
        trace,
        counts,
        time,
    } = {
        let engine = run::engine(cache)?;
        random::begin(seed);
        let run = || run::run(seed, faults, defect, directory.path(), &engine);
        let ran = std::thread::scope(|scope| scope.spawn(run).join());
        ran.expect("a run does not panic")?
    };
    let counts = totals::line(counts);
    println!("{counts}, {:.1} s, trace {trace:016x}", time.as_secs_f64());
    for violation in &violations {
        println!("{violation}");
    }
    Ok(match violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    })
}

/// What a seed said without most of its violations, of which a broken run has hundreds.
fn shortened(said: &str) -> String {
    const SHOWN: usize = 6;
    let lines: Vec<&str> = said.lines().collect();
    match lines.len().saturating_sub(SHOWN) {
        0 => said.to_owned(),
        more => format!(
            "{}\n... and {more} lines more: run this seed alone",
            lines[..SHOWN].join("\n")
        ),
    }
}

/// What came of all seeds.
#[derive(Default)]
struct Outcome {
    /// Those with violations.
    bad: Vec<u64>,
    /// Those whose violations prove that the defect was found.
    proven: Vec<u64>,
    totals: Totals,
}

/// Runs the seeds, each in a process of its own.
fn many(arguments: &Arguments, cache: &Path) -> anyhow::Result<ExitCode> {
    // Compiled once, before several processes want the recipes at the same time.
    run::engine(cache)?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or(processors).max(1);
    let next = AtomicU64::new(arguments.seed);
    let end = arguments.seed + arguments.seeds;
    let outcome: Mutex<Outcome> = Mutex::default();
    std::thread::scope(|scope| {
        let worker = || -> anyhow::Result<()> {
            loop {
                let seed = next.fetch_add(1, Ordering::SeqCst);
                if seed >= end {
                    return Ok(());
                }
                let (mut well, mut said) = child(arguments, seed, cache)?;
                if arguments.twice {
                    let (_, again) = child(arguments, seed, cache)?;
                    if again != said {
                        well = false;
                        let what = format!("the second time, this came: {}", again.trim_end());
                        said += &Violation::new(Kind::Replay, what).to_string();
                    }
                }
                println!("seed {seed}: {}", shortened(said.trim_end()));
                let kinds = said.lines().filter_map(Violation::kind_of);
                let proofs = arguments.defect.map_or(&[][..], Defect::proofs);
                let mut outcome = outcome.lock();
                outcome.totals.add(&said);
                if kinds.into_iter().any(|kind| proofs.contains(&kind)) {
                    outcome.proven.push(seed);
                }
                if !well {
                    outcome.bad.push(seed);
                }
            }
        };
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    let outcome = outcome.into_inner();
    println!("together: {}", outcome.totals);
    Ok(match arguments.defect {
        None => judge(arguments, &outcome),
        Some(defect) => judge_defect(arguments, defect, &outcome),
    })
}

/// Whether all is well.
fn judge(arguments: &Arguments, outcome: &Outcome) -> ExitCode {
    let seeds = arguments.seeds;
    if let [first, ..] = outcome.bad.as_slice() {
        let bad = &outcome.bad;
        println!("{} of {seeds} seeds with violations: {bad:?}", bad.len());
        println!(
            "again: quorate-simulation --seed {first} --seconds {} --log",
            arguments.seconds
        );
        return ExitCode::FAILURE;
    }
    let changes = Move::ALL.iter().filter(|asked| **asked != Move::Lead);
    let changes = changes.map(|asked| outcome.totals.of(run::name_of(*asked)));
    if outcome.totals.of(run::MEMBERS_CHANGE) > 0 && changes.sum::<u64>() == 0 {
        println!("{seeds} seeds, no violation; but the members were to change, and never did");
        return ExitCode::FAILURE;
    }
    println!("{seeds} seeds, no violation");
    ExitCode::SUCCESS
}

/// Whether the checker has found what is wrong on purpose.
fn judge_defect(arguments: &Arguments, defect: Defect, outcome: &Outcome) -> ExitCode {
    let seeds = arguments.seeds;
    let proofs = defect.proofs().iter().map(Kind::to_string);
    let proofs = proofs.collect::<Vec<_>>().join(", ");
    if outcome.proven.is_empty() {
        println!(
            "{seeds} seeds, and the checker has not found the defect {defect:?} (by {proofs})"
        );
        return ExitCode::FAILURE;
    }
    println!(
        "the checker found the defect {defect:?} (by {proofs}) in {} of {seeds} seeds; {} had violations of any kind",
        outcome.proven.len(),
        outcome.bad.len()
    );
    ExitCode::SUCCESS
}

fn child(arguments: &Arguments, seed: u64, cache: &Path) -> anyhow::Result<(bool, String)> {
    use clap::ValueEnum as _;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--seed", &seed.to_string()]);
    command.args(["--seconds", &arguments.seconds.to_string()]);
    command.arg("--cache").arg(cache);
    if let Some(value) = arguments
        .defect
        .and_then(|defect| defect.to_possible_value())
    {
        command.args(["--defect", value.get_name()]);
    }
    let output = command.output().context("cannot run a seed")?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !matches!(output.status.code(), Some(0 | 1)) {
        let what = format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        said += &Violation::new(Kind::Failed, what).to_string();
    }
    Ok((output.status.success(), said))
}
