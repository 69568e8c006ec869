//! `quorate mount`, `mounts` and `unmount`: recipes bound to znodes.

use clap::Args;
use quorate_client::ClientError;
use quorate_client::admin::{self, MountOptions};
use quorate_model::path::ZnodePath;
use serde_json::{Value, json};

use super::output::Output;
use super::session::unless_interrupted;
use super::{Global, Usage};
use crate::http::body::long_integer;

/// Bind a recipe to a znode, so that its operations can be called there
///
/// The znode is created if need be. Other clients read what is below it; they write there only if --open is given.
/// Mounting what is mounted again sets its parameters and --open anew. A mount keeps the component that it was
/// made with: to move it to the one that has the recipe's name now, unmount it, which ends calls that wait, and mount again.
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
  quorate mount /jobs my-queue --parameters '{"workers": 10}'      my-queue: a recipe of your own"#;

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
        let parameters = self.parameters.as_deref().map(parameters).transpose()?;
        let options = MountOptions {
            parameters,
            open: self.open,
        };
        let path = path(&self.path)?;
        if path.is_root() {
            return Err(Usage(
                "/ cannot be a mount: recipes are mounted below it, such as at /locks".into(),
            )
            .into());
        }
        let admin = global.admin()?;
        let mount = unless_interrupted(admin.mount(&self.path, &self.recipe, options)).await?;
        let text = format!(
            "mounted {recipe} at {path}\ncall it: quorate call {path} OPERATION; `quorate recipe show {recipe}` lists the operations",
            recipe = mount.recipe,
            path = mount.path,
        );
        output.print(text, serde_json::to_value(&mount)?)?;
        Ok(())
    }
}

/// As the commands about znodes take it.
fn path(text: &str) -> Result<ZnodePath, ClientError> {
    Ok(ZnodePath::parse(text)?)
}

fn parameters(text: &str) -> Result<Value, Usage> {
    if let Some(integer) = long_integer(text.as_bytes()) {
        return Err(Usage(format!(
            "--parameters: {integer} has more than 64 bits and would lose digits: write it as a string"
        )));
    }
    serde_json::from_str(text).map_err(|error| Usage(format!("--parameters takes JSON: {error}")))
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
        path(&self.path)?;
        let admin = global.admin()?;
        let ended_calls = unless_interrupted(admin.unmount(&self.path)).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_keep_their_numbers() {
        let good = r#"{"a": 18446744073709551615, "b": 0.1}"#;
        let expected = json!({"a": u64::MAX, "b": 0.1});
        assert_eq!(parameters(good).unwrap(), expected);
        for bad in ["[18446744073709551616]", "{"] {
            assert!(parameters(bad).is_err(), "{bad}");
        }
    }
}
