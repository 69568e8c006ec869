//! `quorate recipe test`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use quorate_workbench::{Difference, Workbench, differences};
use serde_json::json;

use super::super::output::Output;
use super::shelf::{Files, Given};

/// The folder whose scenarios are run if none are named.
const SCENARIOS: &str = "scenarios";

/// Run scenarios against a recipe, without a server
///
/// A scenario is a script of sessions, calls, time and failures, with the output that it is expected to have
/// (docs/testing-recipes.md). `> mount /locks fair-lock` takes the component that the project around the file has built,
/// or a standard recipe; `> mount /locks ../my.wasm` that file.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  quorate recipe test\n  quorate recipe test --bless scenarios/turnstile.txt"
)]
pub(in super::super) struct Test {
    /// Scenario files, or folders of them (*.txt) [default: scenarios]
    files: Vec<PathBuf>,
    /// Write the output that the scenarios have into their files: look at the difference
    #[arg(long)]
    bless: bool,
    /// Take this file for the recipe NAME [default: the file's name]
    #[arg(long, value_name = "[NAME=]FILE.wasm", value_parser = Given::parse)]
    recipe: Vec<Given>,
}

impl Test {
    pub(super) fn run(self, output: &Output) -> anyhow::Result<()> {
        let files = scenarios(&self.files)?;
        let workbench = Workbench::new()?;
        let mut wrong = 0;
        for file in &files {
            let shown = file.display();
            let expected =
                fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
            let shelf = Files::of(file, &self.recipe, output);
            let played = workbench.run(&expected, &shelf);
            let actual = match played {
                Ok(actual) => actual,
                Err(error) => {
                    wrong += 1;
                    let document = json!({"file": shown.to_string(), "status": "error", "error": format!("{error:#}")});
                    output.print(format!("{shown}: it cannot be run\n{error:#}"), document)?;
                    continue;
                }
            };
            let found = differences(&expected, &actual);
            let status = match (found.is_empty(), self.bless) {
                (true, _) => "passed",
                (false, true) => "blessed",
                (false, false) => "failed",
            };
            if self.bless && actual != expected {
                fs::write(file, &actual).with_context(|| format!("cannot write {shown}"))?;
            }
            wrong += usize::from(status == "failed");
            let commands = expected
                .lines()
                .filter(|line| line.starts_with('>'))
                .count();
            let mut text = format!("{shown}: {status}, {commands} commands");
            for difference in &found {
                text += &format!("\n{}", difference.shown().trim_end());
            }
            let found: Vec<_> = found.iter().map(document).collect();
            output.print(
                text,
                json!({"file": shown.to_string(), "status": status, "commands": commands, "differences": found}),
            )?;
        }
        if wrong > 0 {
            bail!(
                "{wrong} of {} did not go as written; where the new output is right, --bless writes it down",
                plural(files.len())
            );
        }
        Ok(())
    }
}

fn plural(count: usize) -> String {
    match count {
        1 => "1 scenario".into(),
        _ => format!("{count} scenarios"),
    }
}

fn document(difference: &Difference) -> serde_json::Value {
    json!({
        "line": difference.line,
        "command": difference.command,
        "expected": difference.expected,
        "actual": difference.actual,
    })
}

/// The files themselves, and those in the folders.
fn scenarios(named: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let default = [PathBuf::from(SCENARIOS)];
    let is_default = named.is_empty();
    let mut files = Vec::new();
    for path in if is_default { &default } else { named } {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries =
            fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
        let paths = entries.flatten().map(|entry| entry.path());
        let is_scenario = |path: &PathBuf| path.extension().is_some_and(|it| it == "txt");
        let mut found: Vec<PathBuf> = paths.filter(is_scenario).collect();
        if found.is_empty() {
            bail!("{} has no scenario, a file *.txt", path.display());
        }
        found.sort();
        files.extend(found);
    }
    if is_default && !Path::new(SCENARIOS).exists() {
        bail!(
            "there is no folder {SCENARIOS} here: name scenario files, or begin with `quorate recipe new`"
        );
    }
    Ok(files)
}
