//! `quorate call` and what stands below it: the calls that wait.

use clap::{Args, Subcommand};
use quorate_client::activity::Parked;
use serde_json::{Value, json};

use super::Global;
use super::call::Call;
use super::output::Output;
use super::session::unless_interrupted;
use super::trial::DryRun;

/// Call an operation of a mounted recipe
///
/// Waits as long as the call has to wait its turn; Ctrl-C gives up. The session ends with the command,
/// and with it what it held, unless --hold keeps it. A call is executed once, also if the connection is lost meanwhile.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = super::call::EXAMPLES
)]
pub(super) struct CallCommand {
    #[command(flatten)]
    call: Option<Call>,
    #[command(subcommand)]
    parked: Option<ParkedCommand>,
}

#[derive(Debug, Subcommand)]
enum ParkedCommand {
    List(List),
    Cancel(Cancel),
    DryRun(DryRun),
}

/// List the calls that wait, whoever made them, the oldest first
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  quorate call list --mount /locks")]
struct List {
    /// Only those at this mount
    #[arg(long, value_name = "PATH")]
    mount: Option<String>,
    /// At most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u64,
}

/// End a call that waits: its caller is told that it was cancelled
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  quorate call cancel 4294967299 1     as `quorate call list` names it"
)]
struct Cancel {
    /// The call's session, as a number
    session: u64,
    /// The call's key
    key: u64,
}

impl CallCommand {
    pub(super) async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        match (self.call, self.parked) {
            (_, Some(ParkedCommand::List(list))) => list.run(global, output).await,
            (_, Some(ParkedCommand::DryRun(dry_run))) => dry_run.run(global, output).await,
            (_, Some(ParkedCommand::Cancel(cancel))) => cancel.run(global, output).await,
            (Some(call), None) => call.run(global, output).await,
            (None, None) => Err(super::Usage("which mount, and which operation?".into()).into()),
        }
    }
}

impl List {
    async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let admin = global.admin()?;
        let found = admin
            .parked_calls(self.mount.as_deref(), Some(self.limit))
            .await?;
        let shown = found.calls.len() as u64;
        if output.is_for_people() && found.calls.is_empty() {
            output.print("no call waits", json!({}))?;
        }
        for call in &found.calls {
            output.print(line(call), serde_json::to_value(call)?)?;
        }
        if found.number > shown {
            output.note(
                format!("{} more: --limit shows more of them", found.number - shown),
                json!({"event": "more", "number": found.number}),
            );
        }
        Ok(())
    }
}

impl Cancel {
    async fn run(self, global: &Global, output: &Output) -> anyhow::Result<()> {
        let admin = global.admin()?;
        let ended = unless_interrupted(admin.cancel_call(self.session, self.key)).await?;
        let status = ended["status"].as_str().unwrap_or_default().to_owned();
        let text = match &*status {
            "cancelled" => "cancelled".to_owned(),
            other => format!("it had ended before: {other}"),
        };
        output.print(text, ended)?;
        Ok(())
    }
}

fn line(call: &Parked) -> String {
    let age = call.age_ms as f64 / 1000.0;
    let due = if call.marked {
        ", and its run is due"
    } else {
        ""
    };
    let waits: Vec<String> = call.waits_for.iter().map(watch_text).collect();
    format!(
        "{} {}  {} {} {}  for {age:.1} s, waits for {}{due}",
        call.session,
        call.key,
        call.mount,
        call.operation,
        call.arguments,
        waits.join(", ")
    )
}

fn watch_text(watch: &Value) -> String {
    let parts = watch.as_object().into_iter().flatten();
    let parts = parts.map(|(kind, what)| match (&**kind, what) {
        ("node", Value::String(path)) => path.clone(),
        (kind, Value::String(path)) => format!("{kind} of {path}"),
        (kind, what) => format!("{kind} {what}"),
    });
    parts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        command: CallCommand,
    }

    #[test]
    fn a_call_and_what_else_there_is_are_told_apart() {
        let parsed = |words: &[&str]| {
            let words = ["call"].iter().chain(words);
            let command = Line::try_parse_from(words).unwrap().command;
            (command.call.is_some(), command.parked.is_some())
        };
        assert_eq!(parsed(&["/m", "acquire", "list", "--hold"]), (true, false));
        assert_eq!(parsed(&["/m", "acquire"]), (true, false));
        assert_eq!(parsed(&["list", "--limit", "3"]), (false, true));
        assert_eq!(parsed(&["cancel", "7", "1"]), (false, true));
    }

    #[test]
    fn a_call_says_what_it_waits_for() {
        let call = Parked {
            session: 7,
            key: 1,
            mount: "/locks".into(),
            operation: "acquire".into(),
            arguments: json!(["x"]),
            age_ms: 2500,
            deadline: None,
            waits_for: vec![json!({"node": "/locks/x/t-1"}), json!({"time": 5})],
            marked: false,
        };
        assert_eq!(
            line(&call),
            r#"7 1  /locks acquire ["x"]  for 2.5 s, waits for /locks/x/t-1, time 5"#
        );
    }
}
