//! `quorate mount`, `mounts`, `unmount` and `resume`: recipes bound to znodes.

use std::pin::pin;
use std::time::Duration;

use clap::Args;
use quorate_client::ClientError;
use quorate_client::admin::{self, Admin, MountOptions, Shadow};
use quorate_model::path::ZnodePath;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::output::Output;
use super::session::unless_interrupted;
use super::{Global, Usage};
use crate::http::body::long_integer;

/// A mount that takes longer says what it waits for.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// Between two looks whether a recipe is compiled. Each waits a while for it.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// So many looks; then it stays mounted, and calls are refused until it is compiled.
const MAX_LOOKS: u32 = 40;

/// Bind a recipe to a znode, so that its operations can be called there
///
/// The znode is created if need be. Other clients read what is below it; they write there only if it is open.
/// Without RECIPE, what is said is changed of a mount that is there. A mount keeps the component that it was made with:
/// with --upgrade it goes on with the one that has the recipe's name now, or with the one of --digest. The tree stays,
/// and calls that wait go on with the new component; those that do not fit it end, and --check says how many.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Mount {
    /// The znode
    path: String,
    /// The recipe's name; `quorate recipe list` lists them
    recipe: Option<String>,
    /// Parameters of the recipe, which become the znode's data; without, they stay as they are
    #[arg(long, value_name = "JSON")]
    parameters: Option<String>,
    /// Let other clients write below it too
    #[arg(long)]
    open: bool,
    /// Let only the recipe write below it, as is the default of a new mount
    #[arg(long, conflicts_with = "open")]
    sealed: bool,
    /// Set a bound, such as fuel=1000000; an empty value sets it back to its default. docs/recipes.md lists them
    #[arg(long = "set", value_name = "BOUND=VALUE")]
    bounds: Vec<String>,
    /// Who may call, such as ip:10.0.0.0/8,digest:anna:…; world:anyone is everybody
    #[arg(long, value_name = "SCHEME:ID", value_delimiter = ',')]
    callers: Vec<String>,
    /// Run another component beside the mounted one, on the same calls, and count where it would do something else;
    /// `quorate mounts PATH` shows that
    #[arg(long, value_name = "RECIPE[@DIGEST]")]
    shadow: Option<String>,
    /// No shadow any more
    #[arg(long, conflicts_with = "shadow")]
    no_shadow: bool,
    /// Swap the component that is mounted there
    #[arg(long, requires = "recipe")]
    upgrade: bool,
    /// The component to upgrade to, by its digest or the first digits of it; `quorate recipe show` lists them
    #[arg(long, requires = "upgrade")]
    digest: Option<String>,
    /// Say what the upgrade would do, and do nothing
    #[arg(long, requires = "upgrade")]
    check: bool,
}

const EXAMPLES: &str = r#"Examples:
  quorate mount /locks fair-lock
  quorate mount /jobs my-queue --parameters '{"workers": 10}'      my-queue: a recipe of your own
  quorate mount /jobs --set fuel=50000000 --callers ip:10.0.0.0/8
  quorate mount /jobs --shadow my-queue         the newest beside the mounted one, to compare
  quorate mount /jobs my-queue --upgrade"#;

/// List the mounts, or show one
#[derive(Args, Debug)]
pub(super) struct Mounts {
    /// The one to show, with all its bounds
    path: Option<String>,
}

/// Unbind a recipe from its znode: calls that wait end, the znodes stay
#[derive(Args, Debug)]
pub(super) struct Unmount {
    /// The znode
    path: String,
}

/// Let a recipe run again that was suspended, since it failed too often or woke itself too much
#[derive(Args, Debug)]
pub(super) struct Resume {
    /// The znode
    path: String,
}

impl Mount {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let mut options = self.options()?;
        let path = path(&self.path)?;
        if path.is_root() {
            return Err(Usage(
                "/ cannot be a mount: recipes are mounted below it, such as at /locks".into(),
            )
            .into());
        }
        let admin = global.admin()?;
        options.shadow = match &self.shadow {
            Some(shadow) => Some(Some(whole_shadow(&admin, shadow).await?)),
            None => self.no_shadow.then_some(None),
        };
        let Some(recipe) = &self.recipe else {
            if options == MountOptions::default() {
                return Err(Usage("say which recipe to mount, or what to change".into()).into());
            }
            let mount = unless_interrupted(admin.set_mount(&self.path, options)).await?;
            output.print(line(&mount), serde_json::to_value(&mount)?)?;
            return Ok(());
        };
        let digest = match &self.digest {
            Some(digest) => Some(whole_digest(&admin, recipe, digest).await?),
            None => None,
        };
        let digest = digest.as_deref();
        if self.check {
            let check = unless_interrupted(admin.check_upgrade(&self.path, recipe, digest)).await?;
            let text = format!(
                "{path} is {} and would be {}: {} calls wait, {} of them would end",
                short(&check.digest),
                short(&check.upgrade_to),
                check.parked_calls,
                check.ending_calls,
            );
            output.print(text, serde_json::to_value(&check)?)?;
            return Ok(());
        }
        let (mount, text) = if self.upgrade {
            let upgrade = || admin.upgrade(&self.path, recipe, digest, options.clone());
            let mount = unless_interrupted(until_ready(output, recipe, upgrade)).await?;
            let (followed, ended) = (mount.followed_calls, mount.ended_calls.unwrap_or(0));
            let text = format!(
                "{path} goes on as {} ({}); calls that go on: {}, that ended: {ended}",
                mount.recipe,
                short(&mount.digest),
                followed.unwrap_or(0).saturating_sub(ended),
            );
            (mount, text)
        } else {
            let mount = || admin.mount(&self.path, recipe, options.clone());
            let mount = unless_interrupted(until_ready(output, recipe, mount)).await?;
            let text = format!(
                "mounted {recipe} at {path}\ncall it: quorate call {path} OPERATION; `quorate recipe show {recipe}` lists the operations",
                recipe = mount.recipe,
                path = mount.path,
            );
            (mount, text)
        };
        output.print(text, serde_json::to_value(&mount)?)?;
        if mount.ready == Some(false) {
            let text = "it is not compiled yet where calls run, and they are refused as not ready until it is: the servers' logs say why, if it cannot be";
            output.note(text, json!({"ready": false}));
        }
        Ok(())
    }

    fn options(&self) -> Result<MountOptions, Usage> {
        let bound = |text: &String| {
            let wrong = || Usage(format!("--set takes BOUND=VALUE, and not {text:?}"));
            let (name, value) = text.split_once('=').ok_or_else(wrong)?;
            let value = match value {
                "" => None,
                value => Some(value.parse().map_err(|_| wrong())?),
            };
            Ok((name.to_owned(), value))
        };
        Ok(MountOptions {
            parameters: self.parameters.as_deref().map(parameters).transpose()?,
            sealed: match (self.open, self.sealed) {
                (true, _) => Some(false),
                (_, true) => Some(true),
                _ => None,
            },
            bounds: self
                .bounds
                .iter()
                .map(bound)
                .collect::<Result<_, Usage>>()?,
            callers: (!self.callers.is_empty()).then(|| self.callers.clone()),
            shadow: None,
        })
    }
}

/// Asks until the recipe is compiled where calls run, so that the first of them is not refused as not ready. Says so
/// if that takes a while.
async fn until_ready<F>(
    output: &Output,
    recipe: &str,
    ask: impl Fn() -> F,
) -> Result<admin::Mount, ClientError>
where
    F: Future<Output = Result<admin::Mount, ClientError>>,
{
    let mut is_told = false;
    let mut tell = |what: &str| {
        if !std::mem::replace(&mut is_told, true) {
            let text = format!("{recipe} {what}: waiting");
            output.note(text, json!({"waiting": recipe}));
        }
    };
    let mut looks = 0;
    loop {
        looks += 1;
        let mut asked = pin!(ask());
        let answer = match timeout(TELL_AFTER, &mut asked).await {
            Ok(answer) => answer,
            Err(_) => {
                tell("is being compiled where calls run, or calls that wait follow it");
                asked.await
            }
        };
        let is_not_ready = match &answer {
            Ok(mount) => mount.ready == Some(false),
            Err(ClientError::Refused { code, .. }) => code == "not-ready",
            Err(_) => false,
        };
        if !is_not_ready || looks >= MAX_LOOKS {
            return answer;
        }
        tell("is not compiled yet where calls run");
        sleep(ASK_EVERY).await;
    }
}

/// `RECIPE` or `RECIPE@DIGEST`.
async fn whole_shadow(admin: &Admin, text: &str) -> anyhow::Result<Shadow> {
    let (recipe, digits) = match text.split_once('@') {
        Some((recipe, digits)) => (recipe, Some(digits)),
        None => (text, None),
    };
    let digest = match digits {
        Some(digits) => Some(whole_digest(admin, recipe, digits).await?),
        None => None,
    };
    Ok(Shadow {
        recipe: recipe.to_owned(),
        digest,
    })
}

/// The digest that begins with these digits.
async fn whole_digest(admin: &Admin, recipe: &str, digits: &str) -> anyhow::Result<String> {
    let versions = admin.recipe(recipe).await?.versions;
    let mut found = versions
        .into_iter()
        .filter(|version| version.digest.starts_with(digits));
    match (found.next(), found.next()) {
        (Some(version), None) => Ok(version.digest),
        (None, _) => Err(Usage(format!("{recipe} has no component {digits}")).into()),
        _ => Err(Usage(format!(
            "{recipe} has several components {digits}…: say more digits"
        ))
        .into()),
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

impl Resume {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        path(&self.path)?;
        let was_suspended = unless_interrupted(global.admin()?.resume(&self.path)).await?;
        let path = self.path;
        let text = match was_suspended {
            true => format!("{path} runs again"),
            false => format!("{path} was not suspended: nothing has changed"),
        };
        let json = json!({"resumed": path, "was_suspended": was_suspended});
        output.print(text, json)?;
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
        let admin = global.admin()?;
        // Nothing is mounted at the root itself: what is below it is all.
        if let Some(path) = self.path.as_ref().filter(|path| *path != "/") {
            let document = admin.mount_document(path).await?;
            output.print(page(&document), document.clone())?;
            return Ok(());
        }
        let mounts = admin.mounts().await?;
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
        let mut unmount = pin!(admin.unmount(&self.path));
        let told = async {
            match timeout(TELL_AFTER, &mut unmount).await {
                Ok(answer) => answer,
                Err(_) => {
                    let text = "the calls that wait are ended, one after the other; if this is interrupted, to repeat it goes on";
                    output.note(text, json!({"unmounting": self.path}));
                    unmount.await
                }
            }
        };
        let ended_calls = unless_interrupted(told).await?;
        let path = &self.path;
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
    let digest = short(&mount.digest);
    let open = if mount.sealed { "" } else { "  open" };
    let suspended = mount.suspended.as_ref();
    let suspended = suspended.map_or_else(String::new, |reason| format!("  suspended: {reason}"));
    let (path, recipe) = (&mount.path, &mount.recipe);
    let unmounting = match &mount.unmounting {
        Some(ended) => format!(
            "  being unmounted, {} calls have ended; `quorate unmount {path}` goes on with it",
            ended.ended_calls
        ),
        None => String::new(),
    };
    let following = match &mount.upgrade {
        Some(upgrade) if upgrade.following && mount.unmounting.is_none() => format!(
            "  upgraded, {} calls have followed; the same upgrade again goes on with it",
            upgrade.followed_calls
        ),
        _ => String::new(),
    };
    format!("{path:<20} {recipe:<20} {digest}{open}{suspended}{following}{unmounting}")
}

/// A mount, one member a line.
fn page(document: &Value) -> String {
    let lines = |document: &Value, indent: &str| -> String {
        let members = document.as_object().into_iter().flatten();
        members
            .map(|(name, value)| match value {
                Value::String(text) => format!("{indent}{name}: {text}\n"),
                value => format!("{indent}{name}: {value}\n"),
            })
            .collect()
    };
    let mut plain = document.clone();
    let bounds = plain.as_object_mut().and_then(|it| it.remove("bounds"));
    let bounds = bounds.map_or_else(String::new, |bounds| lines(&bounds, "  "));
    format!("{}bounds:\n{}", lines(&plain, ""), bounds.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(ready: bool) -> admin::Mount {
        serde_json::from_value(json!({
            "path": "/m", "recipe": "r", "digest": "1", "sealed": true, "ready": ready,
        }))
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn c6_a_mount_is_asked_for_until_it_is_compiled_where_calls_run() {
        let refused = |code: &str| {
            Err(ClientError::Refused {
                code: code.into(),
                message: String::new(),
            })
        };
        let answers = [Ok(mounted(false)), refused("not-ready"), Ok(mounted(true))];
        let answers = std::cell::RefCell::new(answers.into_iter());
        let ask = || async {
            // Longer than nothing is said.
            sleep(2 * TELL_AFTER).await;
            answers.borrow_mut().next().unwrap()
        };
        let output = Output::new(true);
        let mount = until_ready(&output, "r", ask).await.unwrap();
        assert_eq!(mount.ready, Some(true));
        assert_eq!(answers.borrow().len(), 0);
        let other = until_ready(&output, "r", || async { refused("no-recipe") }).await;
        assert!(matches!(other, Err(ClientError::Refused { code, .. }) if code == "no-recipe"));
        // What cannot be compiled is given up on.
        let never = until_ready(&output, "r", || async { Ok(mounted(false)) }).await;
        assert_eq!(never.unwrap().ready, Some(false));
    }

    #[test]
    fn a_line_of_a_mount_says_what_is_under_way() {
        let mut mount = mounted(true);
        assert!(!line(&mount).contains("upgrade"), "{}", line(&mount));
        let upgrade = |following| admin::Following {
            following,
            followed_calls: 5,
            ended_calls: 1,
        };
        mount.upgrade = Some(upgrade(false));
        assert!(!line(&mount).contains("upgrade"), "{}", line(&mount));
        mount.upgrade = Some(upgrade(true));
        assert!(
            line(&mount).contains("5 calls have followed"),
            "{}",
            line(&mount)
        );
        mount.unmounting = Some(admin::Ended { ended_calls: 7 });
        assert!(
            line(&mount).contains("being unmounted, 7 calls"),
            "{}",
            line(&mount)
        );
    }

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
