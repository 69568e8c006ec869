//! `quorate recipe`: upload, list, show, remove; and what an author does without a server.

mod new;

mod check;
mod explore;
mod test;

mod replay;

mod shelf;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use quorate_client::admin;
use serde_json::json;

use super::activity::{Logs, Top};
use super::output::Output;
use super::session::unless_interrupted;
use super::{Global, Usage};

/// How many digits of a digest people are shown.
const SHORT_DIGEST: usize = 12;

/// Write, test, upload, list, show and remove recipes
#[derive(Debug, Subcommand)]
pub(super) enum Recipe {
    New(new::New),
    Check(check::Check),
    Test(test::Test),
    Explore(explore::Explore),
    Push(Push),
    List(List),
    Show(Show),
    Remove(Remove),
    Top(Top),
    Logs(Logs),
    Failures(replay::Failures),
    Replay(replay::Replay),
}

/// Upload a recipe
///
/// Takes a WebAssembly component, or the core module that a plain
/// `cargo build --target wasm32-unknown-unknown` makes with the SDK. The server checks it and says what is wrong.
/// Under a name that is taken, the new component takes it over, and the old ones stay beside it. Mounts keep the
/// component that they were made with until `quorate mount --upgrade`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  quorate recipe push target/wasm32-unknown-unknown/release/turnstile.wasm"
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

/// Remove a recipe, or one component of it, that is not mounted
#[derive(Args, Debug)]
pub(super) struct Remove {
    /// The recipe's name
    name: String,
    /// Only the component with this digest
    #[arg(long)]
    digest: Option<String>,
}

impl Recipe {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let admin = || global.admin();
        match self {
            Recipe::New(new) => new.run(output)?,
            Recipe::Check(check) => check.run(output)?,
            Recipe::Test(test) => test.run(output)?,
            Recipe::Explore(explore) => explore.run(output).await?,
            Recipe::Failures(failures) => failures.run(&admin()?, output).await?,
            Recipe::Replay(replay) => replay.run(admin, output).await?,
            Recipe::Push(push) => {
                let admin = admin()?;
                let name = push.name()?;
                let file = push.file.display();
                let component = tokio::fs::read(&push.file)
                    .await
                    .with_context(|| format!("cannot read {file}"))?;
                let before = admin.recipes().await?;
                let before = before.into_iter().find(|recipe| recipe.name == name);
                let before = before.map(|recipe| recipe.digest);
                let recipe = unless_interrupted(admin.push_recipe(&name, component)).await?;
                let mounts = mounts_of(&name, &admin.mounts().await?);
                let mut document = serde_json::to_value(&recipe)?;
                document["replaced"] = json!(before);
                document["mounts"] = json!(mounts);
                output.print(pushed(&recipe, before.as_deref(), &mounts), document)?;
            }
            Recipe::Top(top) => top.run(&admin()?, output).await?,
            Recipe::Logs(logs) => logs.run(&admin()?, output).await?,
            Recipe::List(List {}) => {
                let admin = admin()?;
                let recipes = admin.recipes().await?;
                let mounts = admin.mounts().await?;
                if output.is_for_people() && recipes.is_empty() {
                    output.print(
                        "no recipes: push one with `quorate recipe push FILE`",
                        json!({}),
                    )?;
                }
                for mut recipe in recipes {
                    let mounts = mounts_of(&recipe.name, &mounts);
                    let paths = mounts.iter().map(|mount| mount.path.clone());
                    recipe.mounts = Some(paths.collect());
                    output.print(line(&recipe, &mounts), serde_json::to_value(&recipe)?)?;
                }
            }
            Recipe::Show(Show { name }) => {
                let recipe = admin()?.recipe(&name).await?;
                output.print(page(&recipe), serde_json::to_value(&recipe)?)?;
            }
            Recipe::Remove(Remove { name, digest }) => {
                match &digest {
                    None => unless_interrupted(admin()?.remove_recipe(&name)).await?,
                    Some(digest) => {
                        unless_interrupted(admin()?.remove_recipe_version(&name, digest)).await?;
                    }
                }
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
        let name = shelf::name_of(&self.file);
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

/// The mounts that were made by this name. Two names may have the same component, so the digest says nothing.
fn mounts_of(name: &str, mounts: &[admin::Mount]) -> Vec<admin::Mount> {
    let of_name = mounts.iter().filter(|mount| mount.recipe == name);
    of_name.cloned().collect()
}

/// What a push came to; `before` is the digest that had the name.
fn pushed(recipe: &admin::Recipe, before: Option<&str>, mounts: &[admin::Mount]) -> String {
    let (name, digest) = (&recipe.name, short(&recipe.digest));
    let mut text = match before {
        Some(before) if before == recipe.digest => format!("{name} was {digest} already"),
        Some(before) => format!(
            "pushed {name}: it was {}, and is {digest} now",
            short(before)
        ),
        None => format!("pushed {name} ({digest})"),
    };
    text += &format!(": {}", names(recipe));
    let old = mounts.iter().filter(|mount| mount.digest != recipe.digest);
    let old: Vec<&str> = old.map(|mount| &*mount.path).collect();
    for path in &old {
        text += &format!(
            "\n{path} keeps the old one until you upgrade it: quorate mount {path} {name} --upgrade"
        );
    }
    if mounts.is_empty() {
        text += &format!("\nmount it: quorate mount /{name} {name}");
    }
    text
}

fn line(recipe: &admin::Recipe, mounts: &[admin::Mount]) -> String {
    let size = recipe.bytes.unwrap_or(0).div_ceil(1024);
    let shown = |mount: &admin::Mount| match mount.digest == recipe.digest {
        true => mount.path.clone(),
        false => format!("{} (as {} still)", mount.path, short(&mount.digest)),
    };
    let mounts: Vec<String> = mounts.iter().map(shown).collect();
    let mounts = match mounts.is_empty() {
        true => "not mounted".to_owned(),
        false => format!("mounted at {}", mounts.join(", ")),
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
    for version in recipe.versions.iter().skip(1) {
        let mounts = match version.mounts.is_empty() {
            true => String::new(),
            false => format!(", mounted at {}", version.mounts.join(", ")),
        };
        page += &format!("before: {}{mounts}\n", short(&version.digest));
    }
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
    use std::collections::BTreeMap;

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
    fn a_push_says_what_it_replaces_and_which_mounts_keep_it() {
        let recipe: admin::Recipe = serde_json::from_value(json!({
            "name": "lock", "digest": "1111111111111111",
            "operations": [{"name": "acquire", "parameters": []}],
        }))
        .unwrap();
        let mount = |path: &str, recipe: &str, digest: &str| admin::Mount {
            path: path.into(),
            recipe: recipe.into(),
            digest: digest.into(),
            shadow: None,
            sealed: true,
            set: BTreeMap::new(),
            callers: Vec::new(),
            suspended: None,
            upgrade: None,
            unmounting: None,
            ready: None,
            followed_calls: None,
            ended_calls: None,
        };
        let mounts = [
            mount("/a", "lock", "2222222222222222"),
            mount("/b", "other", "1111111111111111"),
            mount("/c", "lock", "1111111111111111"),
        ];
        let mounts = mounts_of("lock", &mounts);
        assert_eq!(
            line(&recipe, &mounts),
            "lock                 111111111111       0 KiB  mounted at /a (as 222222222222 still), /c"
        );
        let text = pushed(&recipe, Some("2222222222222222"), &mounts);
        assert!(text.starts_with(
            "pushed lock: it was 222222222222, and is 111111111111 now: acquire\n/a keeps"
        ));
        assert!(!text.contains("/c"), "{text}");
        let text = pushed(&recipe, None, &[]);
        assert_eq!(
            text,
            "pushed lock (111111111111): acquire\nmount it: quorate mount /lock lock"
        );
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
