//! `quorate recipe top` and `quorate recipe logs`: what recipes do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use quorate_client::activity::{MountActivity, OperationActivity, RecipeLine};
use quorate_client::admin::Admin;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::output::Output;
use super::session::{interrupted, seconds};

/// How long one request for lines waits.
const WAIT: Duration = Duration::from_secs(10);

/// After a request failed while lines are followed: a leader is being elected, perhaps.
const RETRY: Duration = Duration::from_secs(1);

/// Show what recipes do, live: calls, runs, time, and who waits
///
/// One line for each operation that was called since the server that leads began to; rates are those since the
/// line was shown before. Any server may be asked.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  quorate recipe top\n  quorate recipe top --once --json")]
pub(super) struct Top {
    /// Show it once, as totals, and end
    #[arg(long)]
    once: bool,
    /// How often to look
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    every: f64,
}

impl Top {
    pub(super) async fn run(self, admin: &Admin, output: &Output) -> anyhow::Result<()> {
        let every = seconds("--every", self.every)?;
        let mut before: Option<(Instant, Vec<MountActivity>)> = None;
        let mut interrupted = std::pin::pin!(interrupted());
        loop {
            let now = admin.activity().await?;
            let at = Instant::now();
            let past = before.as_ref().map(|(then, past)| (at - *then, &past[..]));
            let mut table = table(&now, past);
            if !self.once {
                // From the upper left corner, over what stood there.
                table.insert_str(0, "\x1b[H\x1b[J");
            }
            output.print(table.trim_end(), json!({"mounts": now}))?;
            if self.once {
                return Ok(());
            }
            before = Some((at, now));
            tokio::select! {
                () = sleep(every) => {}
                () = &mut interrupted => return Ok(()),
            }
        }
    }
}

/// A line for each operation, in columns. With what was there some time before, calls and runs are per second.
fn table(now: &[MountActivity], past: Option<(Duration, &[MountActivity])>) -> String {
    let mut text = String::new();
    let unit = if past.is_some() { "/s" } else { "" };
    let _ = writeln!(
        text,
        "{:<20} {:<20} {:>10} {:>10} {:>9} {:>9} {:>10} {:>8} {:>8}",
        "MOUNT",
        "OPERATION",
        format!("CALLS{unit}"),
        format!("RUNS{unit}"),
        "RUNS/CALL",
        "µS/RUN",
        "FUEL/RUN",
        "B/RUN",
        "FAILED",
    );
    let earlier = past.map(|(time, mounts)| (time, by_name(mounts)));
    for mount in now {
        for operation in &mount.operations {
            let name = (&*mount.mount, &*operation.operation);
            let rate = |number: u64, of: fn(&OperationActivity) -> u64| match &earlier {
                None => number.to_string(),
                Some((time, earlier)) => {
                    let before = earlier.get(&name).map_or(0, |before| of(before));
                    let rate = number.saturating_sub(before) as f64 / time.as_secs_f64();
                    format!("{rate:.1}")
                }
            };
            let per_run = |number: u64| number / operation.runs.max(1);
            let _ = writeln!(
                text,
                "{:<20} {:<20} {:>10} {:>10} {:>9.2} {:>9} {:>10} {:>8} {:>8}",
                mount.mount,
                operation.operation,
                rate(operation.calls, |operation| operation.calls),
                rate(operation.runs, |operation| operation.runs),
                operation.runs as f64 / operation.calls.max(1) as f64,
                per_run(operation.micros),
                per_run(operation.fuel),
                per_run(operation.written_bytes),
                failed(operation),
            );
        }
        if let Some(shadow) = &mount.shadow {
            let _ = writeln!(
                text,
                "{:<20} its shadow did something else in {} of {} runs{}",
                mount.mount,
                shadow.differing,
                shadow.runs,
                match &shadow.stopped {
                    Some(reason) => format!(", and runs no more: {reason}"),
                    None => String::new(),
                }
            );
        }
        if mount.parked > 0 {
            let oldest = mount.oldest_parked_ms.unwrap_or_default() as f64 / 1000.0;
            let _ = writeln!(
                text,
                "{:<20} {} parked, the oldest for {oldest:.1} s",
                mount.mount, mount.parked
            );
        }
    }
    if now.iter().all(|mount| mount.operations.is_empty()) {
        text += "nothing was called yet\n";
    }
    text
}

fn by_name(mounts: &[MountActivity]) -> BTreeMap<(&str, &str), &OperationActivity> {
    let operations = mounts.iter().flat_map(|mount| {
        let named = |operation| (&*mount.mount, operation);
        mount.operations.iter().map(named)
    });
    operations
        .map(|(mount, operation)| ((mount, &*operation.operation), operation))
        .collect()
}

/// Runs that ended by a fault of the recipe.
fn failed(operation: &OperationActivity) -> u64 {
    ["trapped", "exceeded"]
        .iter()
        .filter_map(|ending| operation.endings.get(*ending))
        .sum()
}

/// Print what recipes write to their log
///
/// The server that leads keeps the last lines of all recipes; any server may be asked. A new leader begins with none.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  quorate recipe logs -f\n  quorate recipe logs --mount /jobs --json"
)]
pub(super) struct Logs {
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Only what the recipe at this mount writes
    #[arg(long, value_name = "PATH")]
    mount: Option<String>,
}

impl Logs {
    pub(super) async fn run(self, admin: &Admin, output: &Output) -> anyhow::Result<()> {
        let mut after: Option<String> = None;
        let mut interrupted = std::pin::pin!(interrupted());
        let mut told = false;
        loop {
            let wait = match (self.follow, &after) {
                (true, Some(_)) => WAIT,
                _ => Duration::ZERO,
            };
            let lines = tokio::select! {
                lines = admin.recipe_lines(after.as_deref(), self.mount.as_deref(), wait) => lines,
                () = &mut interrupted => return Ok(()),
            };
            let lines = match lines {
                Ok(lines) => lines,
                // The first failure is told at once: the address may be wrong.
                Err(error) if after.is_none() => return Err(error.into()),
                Err(error) => {
                    if !told {
                        output.note(format!("{error}; trying again"), json!({"event": "retry"}));
                    }
                    told = true;
                    tokio::select! {
                        () = sleep(RETRY) => continue,
                        () = &mut interrupted => return Ok(()),
                    }
                }
            };
            told = false;
            let none = lines.lines.is_empty();
            for line in &lines.lines {
                output.print(line_text(line), serde_json::to_value(line)?)?;
            }
            if none && !self.follow {
                return Ok(());
            }
            after = Some(lines.next);
        }
    }
}

fn line_text(line: &RecipeLine) -> String {
    let seconds = line.at / 1000;
    let (hours, minutes, seconds) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!(
        "{hours:02}:{minutes:02}:{seconds:02}.{:03}Z {:<5} {} {}: {}",
        line.at % 1000,
        line.level.to_uppercase(),
        line.mount,
        line.operation,
        line.message
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(calls: u64, parked: u64) -> Vec<MountActivity> {
        let endings = [("returned".to_owned(), calls), ("trapped".to_owned(), 2)];
        vec![MountActivity {
            mount: "/counters".into(),
            recipe: "counter".into(),
            parked,
            shadow: None,
            oldest_parked_ms: (parked > 0).then_some(1500),
            operations: vec![OperationActivity {
                operation: "add".into(),
                calls,
                runs: 2 * calls,
                endings: endings.into(),
                fuel: 400,
                micros: 600,
                longest_micros: 50,
                written_bytes: 80,
            }],
        }]
    }

    #[test]
    fn totals_and_rates_stand_in_columns() {
        let totals = table(&mounts(10, 3), None);
        let lines: Vec<&str> = totals.lines().collect();
        let columns: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(
            columns,
            ["/counters", "add", "10", "20", "2.00", "30", "20", "4", "2"]
        );
        assert_eq!(
            lines[2].split_whitespace().collect::<Vec<_>>().join(" "),
            "/counters 3 parked, the oldest for 1.5 s"
        );
        let earlier = mounts(4, 0);
        let rates = table(&mounts(10, 0), Some((Duration::from_secs(2), &earlier)));
        let line = rates.lines().nth(1).unwrap();
        let columns: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(columns[2..4], ["3.0", "6.0"]);
        assert!(table(&[], None).contains("nothing was called yet"));
    }

    #[test]
    fn a_line_says_when_where_and_what() {
        let line = RecipeLine {
            zxid: 1,
            at: 1_767_225_600_000 + 3_723_004,
            mount: "/m".into(),
            operation: "add".into(),
            level: "warn".into(),
            message: "too many".into(),
        };
        assert_eq!(line_text(&line), "01:02:03.004Z WARN  /m add: too many");
    }
}
