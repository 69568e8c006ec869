//! `quorate recipe explore`

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use quorate_workbench::{Exploration, Explored, Workbench, explore};
use serde_json::json;

use super::super::output::Output;
use super::super::session::Interrupted;
use super::shelf::{Files, Given};

/// Try schedules at random against what must hold, and show the shortest that breaks it
///
/// The file says what clients may call, what else may happen, and which properties must hold (docs/testing-recipes.md).
/// A schedule that breaks one is shown as a scenario, which `quorate recipe test` runs: keep it as a test. The same
/// seed finds the same schedule.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  quorate recipe explore\n  quorate recipe explore explore.toml --seed 2 --runs 100000 --seconds 600 --keep scenarios/found.txt"
)]
pub(in super::super) struct Explore {
    /// The file of properties
    #[arg(default_value = "explore.toml")]
    file: PathBuf,
    /// Explore this component instead of the recipe that the file names
    #[arg(long, value_name = "[NAME=]FILE.wasm", value_parser = Given::parse)]
    recipe: Option<Given>,
    /// Where the randomness begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Play so many schedules at most
    #[arg(long, default_value_t = 2_000)]
    runs: u64,
    /// Stop after so many seconds
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Write the schedule that is found into this file
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
}

impl Explore {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<()> {
        let named = self.named()?;
        let enough = Arc::new(AtomicBool::new(false));
        let work = tokio::task::spawn_blocking({
            let (enough, output) = (enough.clone(), *output);
            let exploration = Exploration {
                file: named,
                recipe: self.recipe.as_ref().map(|given| given.name().to_owned()),
                seed: self.seed,
                runs: self.runs,
            };
            // Paths in what is found are relative to where it is kept.
            let place = self.keep.clone().unwrap_or_else(|| self.file.clone());
            let given: Vec<Given> = self.recipe.clone().into_iter().collect();
            let file = self.file.clone();
            move || {
                if !file.is_file() {
                    bail!(
                        "there is no file {}: it says what clients call and what must hold; `quorate recipe new` makes one",
                        file.display()
                    );
                }
                let shelf = Files::of(&place, &given, &output);
                explore(&Workbench::new()?, &shelf, &exploration, &|| {
                    enough.load(Ordering::Relaxed)
                })
            }
        });
        let mut work = std::pin::pin!(work);
        let explored = tokio::select! {
            done = &mut work => done??,
            () = tokio::time::sleep(Duration::from_secs(self.seconds)) => {
                enough.store(true, Ordering::Relaxed);
                work.await??
            }
            _ = tokio::signal::ctrl_c() => {
                enough.store(true, Ordering::Relaxed);
                let explored = work.await??;
                if explored.found.is_none() {
                    self.tell(&explored, output)?;
                    return Err(Interrupted("nothing was found so far".into()).into());
                }
                explored
            }
        };
        self.tell(&explored, output)?;
        let Some(found) = &explored.found else {
            return Ok(());
        };
        if let Some(keep) = &self.keep {
            fs::write(keep, &found.scenario)
                .with_context(|| format!("cannot write {}", keep.display()))?;
        }
        bail!("{}", found.violation);
    }

    fn tell(&self, explored: &Explored, output: &Output) -> anyhow::Result<()> {
        let Explored { runs, steps, .. } = explored;
        let mut text = String::new();
        if let Some(found) = &explored.found {
            let (before, after) = found.steps;
            text += &format!(
                "{}\nThe shortest schedule that was found has {after} steps, out of {before}, as a scenario{}:\n\n",
                found.violation,
                match &self.keep {
                    Some(keep) => format!(" (kept in {})", keep.display()),
                    None => String::new(),
                }
            );
            text += &found.scenario;
            text += "\n";
        }
        text += &format!(
            "{runs} runs, {steps} steps, seed {}; checked: {}",
            self.seed, explored.checked
        );
        for (operation, tally) in &explored.operations {
            text += &format!(
                "\n  {operation}: {} calls, {} returned at once, {} after waiting, {} refused",
                tally.called, tally.at_once, tally.later, tally.refused
            );
        }
        let operations: serde_json::Map<String, serde_json::Value> = explored
            .operations
            .iter()
            .map(|(operation, tally)| {
                let tally = json!({"calls": tally.called, "at_once": tally.at_once, "later": tally.later, "refused": tally.refused});
                (operation.clone(), tally)
            })
            .collect();
        let found = explored.found.as_ref().map(|found| {
            json!({
                "property": found.violation.property,
                "what": found.violation.what,
                "steps": found.steps.1,
                "scenario": found.scenario,
            })
        });
        let document = json!({
            "seed": self.seed,
            "runs": runs,
            "steps": steps,
            "operations": operations,
            "found": found,
        });
        output.print(text, document)?;
        Ok(())
    }

    /// The file of properties as seen from where what is found is kept.
    fn named(&self) -> anyhow::Result<String> {
        let name = self.file.file_name().and_then(|name| name.to_str());
        let name = name.context("the file of properties has no name")?;
        let Some(keep) = &self.keep else {
            return Ok(name.to_owned());
        };
        let folder = |path: &Path| {
            let parent = path.parent().unwrap_or(Path::new("")).join(".");
            fs::canonicalize(&parent)
                .with_context(|| format!("there is no folder {}", parent.display()))
        };
        let (from, to) = (folder(keep)?, folder(&self.file)?);
        let way = quorate_workbench::relative(&from, &to);
        Ok(match way.is_empty() {
            true => name.to_owned(),
            false => format!("{way}/{name}"),
        })
    }
}
