//! `quorate mount`, `mounts` and `unmount`: recipes bound to znodes.

use clap::Args;
use quorate_client::admin::{self, MountOptions};
use serde_json::{Value, json};

use super::output::Output;
use super::{Global, Usage};

/// Bind a recipe to a znode, so that its operations can be called there
///
/// The znode is created if need be. Other clients read what is below it; they write there only if --open is given.
/// Mounting the same recipe again moves the mount to the component that has the name now.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Mount {
    /// The znode
    path: String,
    /// The recipe's name; `quorate recipe list` lists them
    recipe: String,
    /// Parameters of the recipe, which become the znode's data; without, they stay as they are
    #[arg(long, value_name = "JSON")]
    parameters: Option<String>,
    /// Let other clients write below it too
    #[arg(long)]
    open: bool,
}

const EXAMPLES: &str = r#"Examples:
  quorate mount /locks fair-lock
  quorate mount /limits rate-limiter --parameters '{"per_second": 10}'"#;

/// List the mounts
#[derive(Args, Debug)]
pub(super) struct Mounts {}

/// Unbind a recipe from its znode: calls that wait end, the znodes stay
#[derive(Args, Debug)]
pub(super) struct Unmount {
    /// The znode
    path: String,
}

impl Mount {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let parameters = self
            .parameters
            .map(|text| serde_json::from_str::<Value>(&text))
            .transpose()
            .map_err(|error| Usage(format!("--parameters takes JSON: {error}")))?;
        let options = MountOptions {
            parameters,
            open: self.open,
        };
        let mount = global
            .admin()?
            .mount(&self.path, &self.recipe, options)
            .await?;
        let text = format!(
            "mounted {recipe} at {path}\ncall it: quorate call {path} OPERATION; `quorate recipe show {recipe}` lists the operations",
            recipe = mount.recipe,
            path = mount.path,
        );
        output.print(text, serde_json::to_value(&mount)?)?;
        Ok(())
    }
}

impl Mounts {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let mounts = global.admin()?.mounts().await?;
        if output.is_for_people() && mounts.is_empty() {
            output.print(
                "no mounts: make one with `quorate mount PATH RECIPE`",
                json!({}),
            )?;
        }
        for mount in mounts {
            output.print(line(&mount), serde_json::to_value(&mount)?)?;
        }
        Ok(())
    }
}

impl Unmount {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let ended_calls = global.admin()?.unmount(&self.path).await?;
        let path = self.path;
        let text = match ended_calls {
            0 => format!("unmounted {path}"),
            1 => format!("unmounted {path}; 1 call that waited has ended"),
            count => format!("unmounted {path}; {count} calls that waited have ended"),
        };
        output.print(text, json!({"unmounted": path, "ended_calls": ended_calls}))?;
        Ok(())
    }
}

fn line(mount: &admin::Mount) -> String {
    let digest = mount.digest.get(..12).unwrap_or(&mount.digest);
    let open = if mount.sealed { "" } else { "  open" };
    format!("{:<20} {:<20} {digest}{open}", mount.path, mount.recipe)
}
