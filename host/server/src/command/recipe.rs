//! `quorate recipe`: upload, list, show, remove.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use quorate_client::admin;
use serde_json::json;

use super::output::Output;
use super::{Global, Usage};

/// How many digits of a digest people are shown.
const SHORT_DIGEST: usize = 12;

/// Upload, list, show and remove recipes
#[derive(Debug, Subcommand)]
pub(super) enum Recipe {
    Push(Push),
    List(List),
    Show(Show),
    Remove(Remove),
}

/// Upload a recipe
///
/// Takes a WebAssembly component, or the core module that a plain
/// `cargo build --target wasm32-unknown-unknown` makes with the SDK. The server checks it and says what is wrong.
/// Mounts keep the component that they were made with: mount again to move one to the new component.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  quorate recipe push target/wasm32-unknown-unknown/recipe/my_lock.wasm"
)]
pub(super) struct Push {
    /// The .wasm file
    file: PathBuf,
    /// What to call it [default: the file's name without .wasm, `_` as `-`]
    #[arg(long)]
    name: Option<String>,
}

/// List the recipes
#[derive(Args, Debug)]
pub(super) struct List {}

/// Show a recipe: its operations, their parameters and documentation
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  quorate recipe show fair-lock")]
pub(super) struct Show {
    /// The recipe's name
    name: String,
}

/// Remove a recipe that is not mounted
#[derive(Args, Debug)]
pub(super) struct Remove {
    /// The recipe's name
    name: String,
}

impl Recipe {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let admin = global.admin()?;
        match self {
            Recipe::Push(push) => {
                let name = push.name()?;
                let file = push.file.display();
                let component = tokio::fs::read(&push.file)
                    .await
                    .with_context(|| format!("cannot read {file}"))?;
                let recipe = admin.push_recipe(&name, component).await?;
                let text = format!(
                    "pushed {} ({}): {}\nmount it: quorate mount /{} {}",
                    recipe.name,
                    short(&recipe.digest),
                    names(&recipe),
                    recipe.name,
                    recipe.name,
                );
                output.print(text, serde_json::to_value(&recipe)?)?;
            }
            Recipe::List(List {}) => {
                let recipes = admin.recipes().await?;
                if output.is_for_people() && recipes.is_empty() {
                    output.print(
                        "no recipes: push one with `quorate recipe push FILE`",
                        json!({}),
                    )?;
                }
                for recipe in recipes {
                    output.print(line(&recipe), serde_json::to_value(&recipe)?)?;
                }
            }
            Recipe::Show(Show { name }) => {
                let recipe = admin.recipe(&name).await?;
                output.print(page(&recipe), serde_json::to_value(&recipe)?)?;
            }
            Recipe::Remove(Remove { name }) => {
                admin.remove_recipe(&name).await?;
                output.print(format!("removed {name}"), json!({"removed": name}))?;
            }
        }
        Ok(())
    }
}

impl Push {
    fn name(&self) -> Result<String, Usage> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let stem = self.file.file_stem().and_then(|stem| stem.to_str());
        let name = stem.unwrap_or_default().to_lowercase().replace('_', "-");
        if name.is_empty() {
            return Err(Usage(format!(
                "{} gives no name for the recipe: say one with --name",
                self.file.display()
            )));
        }
        Ok(name)
    }
}

fn short(digest: &str) -> &str {
    digest.get(..SHORT_DIGEST).unwrap_or(digest)
}

fn names(recipe: &admin::Recipe) -> String {
    let operations = recipe
        .interface
        .iter()
        .flat_map(|interface| &interface.operations);
    let names: Vec<&str> = operations.map(|operation| &*operation.name).collect();
    names.join(", ")
}

fn line(recipe: &admin::Recipe) -> String {
    let size = recipe.bytes.unwrap_or(0).div_ceil(1024);
    let mounts = match recipe.mounts.as_deref() {
        None | Some([]) => "not mounted".to_owned(),
        Some(mounts) => format!("mounted at {}", mounts.join(", ")),
    };
    format!(
        "{:<20} {}  {size:>6} KiB  {mounts}",
        recipe.name,
        short(&recipe.digest)
    )
}

/// All of it, operation by operation.
fn page(recipe: &admin::Recipe) -> String {
    let mut page = format!("{} ({})\n", recipe.name, short(&recipe.digest));
    let Some(interface) = &recipe.interface else {
        return page;
    };
    if let Some(documentation) = &interface.documentation {
        page += &indented(documentation, "  ");
    }
    for operation in &interface.operations {
        page += &format!("\n{}\n", operation.signature());
        page += &indented(
            operation.documentation.as_deref().unwrap_or_default(),
            "    ",
        );
    }
    if !interface.types.is_empty() {
        page += "\nTypes:\n";
    }
    for named in &interface.types {
        page += &format!("  {}\n", named.definition);
        page += &indented(named.documentation.as_deref().unwrap_or_default(), "      ");
    }
    page.truncate(page.trim_end().len());
    page
}

fn indented(text: &str, by: &str) -> String {
    text.lines().map(|line| format!("{by}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_called_after_its_file() {
        let name = |file: &str| {
            Push {
                file: file.into(),
                name: None,
            }
            .name()
            .map_err(|usage| usage.0)
        };
        assert_eq!(name("target/Fair_Lock.wasm"), Ok("fair-lock".into()));
        assert!(name("/").is_err());
    }

    #[test]
    fn a_page_shows_each_operation_with_its_documentation() {
        let recipe: admin::Recipe = serde_json::from_value(json!({
            "name": "lock", "digest": "0123456789abcdef", "bytes": 1, "pushed_at": 2,
            "documentation": "Locks.",
            "operations": [
                {"name": "acquire", "parameters": [{"name": "name", "type": "string"}], "result": "grant", "documentation": "Waits.\nIn line."},
                {"name": "release", "parameters": []},
            ],
            "types": [{"name": "grant", "definition": "record grant { token: u64 }"}],
        }))
        .unwrap();
        assert_eq!(
            page(&recipe),
            "lock (0123456789ab)\n  Locks.\n\nacquire(name: string) -> grant\n    Waits.\n    In line.\n\n\
             release()\n\nTypes:\n  record grant { token: u64 }"
        );
    }
}
