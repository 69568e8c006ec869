//! The command line: one file per subject.

mod cluster;
mod serve;
mod zoo_cfg;

mod activity;
mod call;
mod mount;
mod parked;
mod recipe;
mod trial;

mod watch;
mod znode;

mod completion;

mod output;
mod session;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use quorate_client::Proof;
use quorate_client::admin::Admin;

use output::Output;

/// What a shell gets for a failure.
const FAILURE: u8 = 1;

/// What a shell gets for a command line that makes no sense; clap gives the same.
const USAGE: u8 = 2;

/// Coordination with ZooKeeper's protocol, and recipes that run inside it.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, about, long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "\
Coordination with ZooKeeper's protocol, and recipes that run inside it.

`quorate serve` is the server. Every other command is a client of one: those about recipes and mounts
speak to its HTTP port (--http), those about calls and znodes to its ZooKeeper port (--server).
For a server elsewhere give both, or export QUORATE_SERVER and QUORATE_HTTP.";

const EXAMPLES: &str = "\
Examples:
  quorate serve --data-dir /var/lib/quorate   a server, on ports 2181 and 2180
  quorate mount /locks fair-lock              make a recipe callable
  quorate call /locks acquire inventory --hold
                                              hold a lock until Ctrl-C
  quorate create /config initial              a plain znode, as in ZooKeeper
  quorate watch /config                       print it, and again when it changes

Exit status: 0 done, 1 failed (the reason is on standard error), 2 wrong usage.";

/// What every command understands.
#[derive(Args, Debug)]
struct Global {
    /// Servers of ZooKeeper's protocol, separated by commas [env: QUORATE_SERVER] [default: 127.0.0.1:2181]
    // Not by clap's `env`: whether somebody wrote it on this very command line matters, see `admin`.
    #[arg(long, global = true, value_name = "HOST:PORT")]
    server: Option<String>,
    /// The HTTP port, for recipes and mounts; with `serve`, where to listen [default: 127.0.0.1:2180]
    #[arg(
        long,
        global = true,
        env = "QUORATE_HTTP",
        value_name = "HOST:PORT",
        value_parser = http_address
    )]
    http: Option<String>,
    /// Who you are, for access control lists, such as digest:anna:secret; several times for several
    #[arg(
        long,
        global = true,
        env = "QUORATE_AUTH",
        hide_env_values = true,
        value_name = "SCHEME:PROOF",
        value_parser = proof
    )]
    auth: Vec<Proof>,
    /// Print for programs: one JSON document per line
    #[arg(long, global = true)]
    json: bool,
}

/// Where ZooKeeper's protocol is, unless told otherwise.
const DEFAULT_SERVER: &str = "127.0.0.1:2181";

/// Where HTTP is, unless told otherwise.
const DEFAULT_HTTP: &str = "127.0.0.1:2180";

/// `host:port`, also out of a URL.
fn http_address(text: &str) -> Result<String, String> {
    let address = text.strip_prefix("http://").unwrap_or(text);
    let address = address.strip_suffix('/').unwrap_or(address);
    if address.contains('/') {
        return Err("it takes HOST:PORT, or http://HOST:PORT without a path".into());
    }
    Ok(address.to_owned())
}

/// `scheme:proof`, as ZooKeeper's `addauth` has them apart.
fn proof(text: &str) -> Result<Proof, String> {
    match text.split_once(':') {
        Some((scheme, secret)) if !scheme.is_empty() && !secret.is_empty() => Ok(Proof {
            scheme: scheme.to_owned(),
            secret: secret.to_owned().into(),
        }),
        // What was written may be a secret: it is not repeated.
        _ => Err("it takes SCHEME:PROOF, such as digest:USER:PASSWORD".into()),
    }
}

impl Global {
    /// For commands that speak HTTP.
    ///
    /// # Errors
    /// [`Usage`] if only the other port was named: the command would go to another server than is meant.
    fn admin(&self) -> anyhow::Result<Admin> {
        if self.server.is_some() && self.http.is_none() {
            return Err(Usage(
                "this command speaks to the HTTP port, which --server does not name: give --http HOST:PORT"
                    .into(),
            )
            .into());
        }
        Ok(Admin::new(self.http.as_deref().unwrap_or(DEFAULT_HTTP))?)
    }

    /// The servers, for commands that speak ZooKeeper's protocol.
    ///
    /// # Errors
    /// As [`Global::admin`].
    fn servers(&self) -> Result<String, Usage> {
        let from_environment = variable("QUORATE_SERVER");
        if let Some(servers) = self.server.clone().or(from_environment) {
            return Ok(servers);
        }
        let http_from_environment =
            variable("QUORATE_HTTP").and_then(|text| http_address(&text).ok());
        if self.http.is_some() && self.http != http_from_environment {
            return Err(Usage(
                "this command speaks ZooKeeper's protocol, and --http names another port: give --server HOST:PORT"
                    .into(),
            ));
        }
        Ok(DEFAULT_SERVER.into())
    }
}

/// A variable of the environment; an empty one is none.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    #[command(subcommand)]
    Recipe(recipe::Recipe),
    Mount(mount::Mount),
    Mounts(mount::Mounts),
    Unmount(mount::Unmount),
    Resume(mount::Resume),
    Call(parked::CallCommand),
    Ls(znode::Ls),
    Get(znode::Get),
    Set(znode::Set),
    Create(znode::Create),
    Delete(znode::Delete),
    Stat(znode::Stat),
    Watch(watch::Watch),
    Completion(completion::Completion),
}

/// Does what was asked. Results go to standard output; a failure is told on standard error.
pub async fn run(cli: Cli) -> ExitCode {
    let output = Output::new(cli.global.json);
    match dispatch(cli, &output).await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough, as `head` does.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output.failure(&error);
            let wrong_usage = error.downcast_ref::<Usage>().is_some();
            ExitCode::from(if wrong_usage { USAGE } else { FAILURE })
        }
    }
}

async fn dispatch(cli: Cli, output: &Output) -> anyhow::Result<()> {
    let Cli { global, command } = cli;
    match command {
        Command::Serve(serve) => serve.run(&global, output).await,
        Command::Cluster(cluster) => cluster.run(&global, output).await,
        Command::Recipe(recipe) => recipe.run(&global, output).await,
        Command::Mount(mount) => mount.run(&global, output).await,
        Command::Mounts(mounts) => mounts.run(&global, output).await,
        Command::Unmount(unmount) => unmount.run(&global, output).await,
        Command::Resume(resume) => resume.run(&global, output).await,
        Command::Call(call) => call.run(&global, output).await,
        Command::Ls(ls) => ls.run(&global, output).await,
        Command::Get(get) => get.run(&global, output).await,
        Command::Set(set) => set.run(&global, output).await,
        Command::Create(create) => create.run(&global, output).await,
        Command::Delete(delete) => delete.run(&global, output).await,
        Command::Stat(stat) => stat.run(&global, output).await,
        Command::Watch(watch) => watch.run(&global, output).await,
        Command::Completion(completion) => completion.run(),
    }
}

/// The command line makes no sense, in a way that only the command can tell.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_may_come_as_a_url() {
        for good in ["h:1", "http://h:1", "http://h:1/"] {
            assert_eq!(http_address(good).as_deref(), Ok("h:1"));
        }
        for bad in ["https://h:1", "http://h:1/v1", "h:1/v1"] {
            assert!(http_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_command_and_option_is_explained() {
        fn check(command: &clap::Command) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name}");
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{name} {}",
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
