//! `quorate call --dry-run` and `quorate call dry-run`: what a call would do.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::Global;
use super::output::{Output, value_text};
use super::session::unless_interrupted;

/// How many changes people are shown.
const SHOWN_CHANGES: usize = 50;

/// Show what a call that waits would do if it were woken now, and keep nothing of it
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  quorate call dry-run 4294967299 1 --record call.json     as `quorate call list` names it"
)]
pub(super) struct DryRun {
    /// The call's session, as a number
    session: u64,
    /// The call's key
    key: u64,
    /// Write down all that the run was told, for `quorate recipe replay`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

impl DryRun {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let admin = global.admin()?;
        let tried = admin.try_parked(self.session, self.key, self.record.is_some());
        show(
            unless_interrupted(tried).await?,
            self.record.as_deref(),
            output,
        )
    }
}

/// A call of which nothing is kept, in a session of its own.
pub(super) async fn call(
    global: &Global,
    output: &Output,
    (mount, operation): (&str, &str),
    arguments: &Value,
    record: Option<&Path>,
) -> anyhow::Result<()> {
    let admin = global.admin()?;
    let tried = admin.try_call(mount, operation, arguments, record.is_some());
    show(unless_interrupted(tried).await?, record, output)
}

fn show(mut tried: Value, record: Option<&Path>, output: &Output) -> anyhow::Result<()> {
    if let (Some(path), Some(document)) = (record, tried.as_object_mut()) {
        let recording = document.remove("recording").filter(|it| !it.is_null());
        let reason = document.get("not_recorded").and_then(Value::as_str);
        let recording = recording
            .with_context(|| format!("not recorded: {}", reason.unwrap_or("there is none")))?;
        fs::write(path, serde_json::to_vec_pretty(&recording)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let shown = path.display().to_string();
        output.note(
            format!("recorded in {shown}: quorate recipe replay {shown}"),
            json!({"event": "recorded", "file": shown}),
        );
    }
    output.print(page(&tried), tried)?;
    Ok(())
}

fn page(tried: &Value) -> String {
    let status = tried["status"].as_str().unwrap_or_default();
    let mut page = match (&tried["result"], &tried["error"]) {
        (Value::Null, Value::Null) => status.to_owned(),
        (Value::Null, error) => format!("{status}: {}", value_text(error)),
        (result, _) => format!("{status}: {}", value_text(result)),
    };
    page += &format!("\nfuel: {}", tried["fuel"]);
    for watch in tried["waits_for"].as_array().into_iter().flatten() {
        page += &format!("\nwaits for {watch}");
    }
    for line in tried["log"].as_array().into_iter().flatten() {
        let level = line["level"].as_str().unwrap_or_default().to_uppercase();
        let message = line["message"].as_str().unwrap_or_default();
        page += &format!("\n{level:<5} {message}");
    }
    let changes = tried["changes"].as_array().map_or(&[][..], Vec::as_slice);
    let would = match (tried["commits"] == true, changes.is_empty()) {
        (_, true) => "\nit would change nothing",
        (true, false) => "\nit would change:",
        (false, false) => "\nit would change nothing; before it ended it had written:",
    };
    page += would;
    for change in changes.iter().take(SHOWN_CHANGES) {
        page += &format!("\n  {change}");
    }
    if changes.len() > SHOWN_CHANGES {
        page += &format!("\n  and {} more", changes.len() - SHOWN_CHANGES);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_would_be() {
        let tried = json!({
            "status": "parked", "fuel": 7, "commits": true,
            "waits_for": [{"node": "a"}],
            "log": [{"level": "info", "message": "hello"}],
            "changes": [{"delete-node": {"path": "/m/a"}}],
        });
        assert_eq!(
            page(&tried),
            "parked\nfuel: 7\nwaits for {\"node\":\"a\"}\nINFO  hello\nit would change:\n  {\"delete-node\":{\"path\":\"/m/a\"}}"
        );
        let refused = json!({"status": "refused", "error": "no", "fuel": 1, "commits": false, "changes": [1]});
        assert!(page(&refused).starts_with("refused: no\n"));
        assert!(page(&refused).contains("change nothing; before"));
    }
}
