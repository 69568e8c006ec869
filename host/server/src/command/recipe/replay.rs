//! `quorate recipe failures` and `quorate recipe replay`: runs that have failed, and run again elsewhere.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use quorate_client::admin::Admin;
use quorate_client::trial::Failure;
use quorate_model::recording::Recording;
use quorate_workbench::{Replayed, replay};
use serde_json::json;

use super::super::output::Output;
use crate::activity::level_name;

/// List the last runs that trapped or exceeded a bound, or give one as a file to replay
///
/// The server that leads keeps them, at most one of each mount and second: it runs the call once more, from the same
/// state, and takes down all that it was told. A new leader begins with none.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  quorate recipe failures\n  quorate recipe failures 4294967312 > failure.json"
)]
pub(in super::super) struct Failures {
    /// The one to give, by its zxid
    zxid: Option<u64>,
}

impl Failures {
    pub(super) async fn run(self, admin: &Admin, output: &Output) -> anyhow::Result<()> {
        if let Some(zxid) = self.zxid {
            let recording = admin.recording(zxid).await?;
            output.print(serde_json::to_string_pretty(&recording)?, recording)?;
            return Ok(());
        }
        let failures = admin.failures().await?;
        if output.is_for_people() && failures.is_empty() {
            output.print("no run has failed since this leader began", json!({}))?;
        }
        for failure in &failures {
            output.print(line(failure), serde_json::to_value(failure)?)?;
        }
        Ok(())
    }
}

fn line(failure: &Failure) -> String {
    let line = format!(
        "{}  {} {}: {}",
        failure.zxid, failure.mount, failure.operation, failure.error
    );
    match &failure.not_recorded {
        Some(reason) => format!("{line} (not recorded: {reason})"),
        None => line,
    }
}

/// Run a recorded run again, here, bit for bit
///
/// The recording (of `quorate call --dry-run --record`, or of `quorate recipe failures`) has all that the run was told:
/// its arguments, the time, and what the tree answered. Another component, say one that mends it, is told the same as
/// long as it asks the same.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  quorate recipe replay failure.json\n  quorate recipe replay failure.json --component target/wasm32-unknown-unknown/release/turnstile.wasm"
)]
pub(in super::super) struct Replay {
    /// The recording
    file: PathBuf,
    /// The .wasm file to run [default: the recorded component, from the server]
    #[arg(long, value_name = "FILE.wasm")]
    component: Option<PathBuf>,
}

impl Replay {
    pub(super) async fn run(
        self,
        admin: impl FnOnce() -> anyhow::Result<Admin>,
        output: &Output,
    ) -> anyhow::Result<()> {
        let file = self.file.display();
        let text = fs::read(&self.file).with_context(|| format!("cannot read {file}"))?;
        let recording: Recording = serde_json::from_slice(&text)
            .with_context(|| format!("{file} is no recording of a run"))?;
        let upload = match &self.component {
            Some(path) => {
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
            }
            None => {
                let digest = recording.input.digest.to_string();
                let component = admin()?.component(&digest).await;
                let component = component.with_context(|| {
                    format!("the component {digest} is needed: name its file with --component")
                })?;
                component.to_vec()
            }
        };
        let replayed = tokio::task::spawn_blocking(move || replay(&recording, &upload)).await??;
        let document = json!({
            "ending": replayed.ran.ending,
            "fuel": replayed.ran.fuel,
            "log": replayed.ran.log,
            "same": replayed.differences.is_empty(),
            "differences": replayed.differences,
            "strayed": replayed.strayed,
        });
        output.print(page(&replayed), document)?;
        if !replayed.differences.is_empty() && !replayed.other_component {
            bail!("it did not go as recorded, with the same component: please report this");
        }
        Ok(())
    }
}

fn page(replayed: &Replayed) -> String {
    let mut page = String::new();
    for line in &replayed.ran.log {
        page += &format!(
            "{:<5} {}\n",
            level_name(line.level).to_uppercase(),
            line.message
        );
    }
    page += &format!("{}\nfuel: {}\n", replayed.ran.ending, replayed.ran.fuel);
    match (&replayed.strayed, &replayed.differences[..]) {
        (_, []) => page += "as recorded",
        (None, differences) => page += &differences.join("\n"),
        (Some(strayed), _) => {
            page += &format!("it strayed from what was recorded, so it cannot go on: {strayed}");
        }
    }
    page
}
