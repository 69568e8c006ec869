//! The binary: command line, log lines, runtime.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use mimalloc::MiMalloc;
use quorate::command::{self, Cli};
use tracing_subscriber::EnvFilter;

/// Evaluation and apply allocate and free many small things on different threads, which glibc's allocator
/// is slow at, and does not give back.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What is logged, unless `QUORATE_LOG` says otherwise: openraft tells a lot that is of no use to an operator, and at every
/// change of leaders warns of messages that come too late by design.
const DEFAULT_LOG: &str = "info,openraft=warn,openraft::core::raft_core=error";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).take(3).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == quorate_sandbox::COMPILE_COMMAND
    {
        // A server has started it: no command of the command line, and nothing for people.
        return quorate_sandbox::compile_child(rest.iter().map(OsString::as_os_str));
    }
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("QUORATE_LOG").unwrap_or_else(|_| DEFAULT_LOG.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("quorate: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(command::run(cli))
}
