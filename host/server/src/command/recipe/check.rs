//! `quorate recipe check`

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use quorate_client::admin;
use quorate_sandbox::{CompileLimits, Compiler, SandboxConfig};
use quorate_workbench::Workbench;
use serde_json::json;

use super::super::output::Output;
use super::shelf::name_of;

/// Say whether a server would take a recipe, and show its operations
///
/// It needs no server: this is the check that a server makes of an upload, compilation included.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  quorate recipe check target/wasm32-unknown-unknown/release/turnstile.wasm"
)]
pub(in super::super) struct Check {
    /// The .wasm file
    file: PathBuf,
}

impl Check {
    pub(super) fn run(self, output: &Output) -> anyhow::Result<()> {
        let file = self.file.display();
        let upload = fs::read(&self.file).with_context(|| format!("cannot read {file}"))?;
        // As a server has it compiled: in a process of its own, within its bounds.
        let sandbox = SandboxConfig {
            compiler: Some(Compiler::this_program(CompileLimits::default())?),
            ..SandboxConfig::default()
        };
        let prepared = Workbench::with(sandbox)?.prepare(&upload)?;
        let mut document = serde_json::to_value(prepared.interface.describe())?;
        document["name"] = name_of(&self.file).into();
        document["digest"] = prepared.digest.to_string().into();
        document["bytes"] = prepared.component.len().into();
        let recipe: admin::Recipe = serde_json::from_value(document.clone())?;
        document["status"] = json!("good");
        let size = prepared.component.len().div_ceil(1024);
        let page = super::page(&recipe);
        output.print(
            format!("{file}: a server takes it, {size} KiB\n\n{page}"),
            document,
        )?;
        Ok(())
    }
}
