//! `quorate recipe new`

use std::path::PathBuf;

use clap::Args;
use quorate_workbench::NewProject;
use serde_json::json;

use super::super::output::Output;

/// Make a project for a recipe of your own
///
/// It builds with `cargo build --release --target wasm32-unknown-unknown`, and has a recipe to start from, a scenario,
/// and properties to explore. The SDK comes with it, in the folder `quorate`: neither a checkout nor a server is needed.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  quorate recipe new turnstile")]
pub(in super::super) struct New {
    /// What the recipe is called, such as fair-lock
    name: String,
    /// The folder to make [default: the name]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Stand on the SDK of a checkout of Quorate instead: its folder, or that of sdk/rust in it
    #[arg(long, value_name = "PATH")]
    sdk: Option<PathBuf>,
}

impl New {
    pub(super) fn run(self, output: &Output) -> anyhow::Result<()> {
        let directory = self.directory.unwrap_or_else(|| PathBuf::from(&self.name));
        let project = NewProject {
            name: self.name,
            directory,
            sdk: self.sdk,
        };
        let files = project.make()?;
        let (name, shown) = (&project.name, project.directory.display());
        let component = format!(
            "target/wasm32-unknown-unknown/release/{}.wasm",
            name.replace('-', "_")
        );
        let text = format!(
            "made {shown}: the recipe is in src/lib.rs. What to do with it:\n  \
             cd {shown}\n  \
             cargo build --release --target wasm32-unknown-unknown\n  \
             quorate recipe check {component}\n  \
             quorate recipe test\n  \
             quorate recipe explore\n  \
             quorate recipe push {component}"
        );
        let document = json!({"name": name, "directory": project.directory, "files": files});
        output.print(text, document)?;
        Ok(())
    }
}
