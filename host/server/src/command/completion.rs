//! `quorate completion`: what a shell needs to complete commands.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;

/// Print the completion script for a shell
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  quorate completion bash > ~/.local/share/bash-completion/completions/quorate"
)]
pub(super) struct Completion {
    /// The shell
    shell: Shell,
}

impl Completion {
    pub(super) fn run(self) -> anyhow::Result<()> {
        // Written whole and then printed: the generator panics on a broken pipe.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "quorate", &mut script);
        std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
        Ok(())
    }
}
