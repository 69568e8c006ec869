//! The simulation: `quorate-simulation --help`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use parking_lot::Mutex;
use quorate_simulation::random;
use quorate_simulation::run::{self, Defect, Report};

/// Runs an ensemble of three or four servers on simulated machines: crashes, restarts, cuts, delays, wrong clocks and slow
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

/// Runs one seed in this process.
fn one(arguments: &Arguments, cache: &Path) -> anyhow::Result<ExitCode> {
    let filter = match arguments.log {
        true => tracing_subscriber::EnvFilter::from_default_env(),
        false => tracing_subscriber::EnvFilter::new("off"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let directory = tempfile::tempdir()?;
    let time = Duration::from_secs(arguments.seconds);
    let (seed, defect) = (arguments.seed, arguments.defect);
    let Report {
        violations,
        trace,
        summary,
    } = {
        let sandbox = run::sandbox(cache)?;
        random::begin(seed);
        let run = || run::run(seed, time, defect, directory.path(), &sandbox);
        let ran = std::thread::scope(|scope| scope.spawn(run).join());
        ran.expect("a run does not panic")?
    };
    println!("{summary}, trace {trace:016x}");
    for violation in &violations {
        println!("VIOLATION: {violation}");
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

/// Runs the seeds, each in a process of its own.
fn many(arguments: &Arguments, cache: &Path) -> anyhow::Result<ExitCode> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or(processors).max(1);
    let next = AtomicU64::new(arguments.seed);
    let end = arguments.seed + arguments.seeds;
    let bad: Mutex<Vec<u64>> = Mutex::default();
    std::thread::scope(|scope| {
        let worker = || -> anyhow::Result<()> {
            loop {
                let seed = next.fetch_add(1, Ordering::SeqCst);
                if seed >= end {
                    return Ok(());
                }
                let (mut well, said) = child(arguments, seed, cache)?;
                let mut line = format!("seed {seed}: {}", shortened(said.trim_end()));
                if arguments.twice {
                    let (_, again) = child(arguments, seed, cache)?;
                    if again != said {
                        well = false;
                        line += &format!("\nVIOLATION: the same seed gave: {}", again.trim_end());
                    }
                }
                println!("{line}");
                if !well {
                    bad.lock().push(seed);
                }
            }
        };
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    let bad = bad.into_inner();
    let seconds = arguments.seconds;
    match (arguments.defect, bad.as_slice()) {
        (None, []) => {
            println!("{} seeds, no violation", arguments.seeds);
            Ok(ExitCode::SUCCESS)
        }
        (None, [first, ..]) => {
            println!(
                "{} of {} seeds with violations: {bad:?}",
                bad.len(),
                arguments.seeds
            );
            println!("again: quorate-simulation --seed {first} --seconds {seconds} --log");
            Ok(ExitCode::FAILURE)
        }
        (Some(defect), []) => {
            println!(
                "{} seeds, and the checker has not found the defect {defect:?}",
                arguments.seeds
            );
            Ok(ExitCode::FAILURE)
        }
        (Some(defect), _) => {
            println!(
                "the checker found the defect {defect:?} in {} of {} seeds",
                bad.len(),
                arguments.seeds
            );
            Ok(ExitCode::SUCCESS)
        }
    }
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
        said += &format!("VIOLATION: the process has failed: {}", output.status);
        said += &String::from_utf8_lossy(&output.stderr);
    }
    Ok((output.status.success(), said))
}
