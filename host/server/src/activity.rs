//! Activity: what recipes do on this server while it leads: each operation's runs, and the last lines they wrote.
//!
//! Nothing of it is replicated, and a new leader begins from nothing: a line is known by its run's transaction,
//! so that whoever follows the lines goes on at the next leader. Lines, recorded failures and shadows' runs are told
//! once their transaction is applied, right before its answer (rule S4); what was evaluated in an epoch that was lost
//! is forgotten. Runs are counted when they are made: that is for eyes, not for accounts.

mod exporter;
mod observed;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_model::id::{Timestamp, Zxid};
use quorate_model::path::ZnodePath;
use quorate_model::recording::Recording;
use quorate_model::run::{LogLevel, LogLine, RunEnding};
use quorate_tree::Observed;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub(crate) use exporter::Exporter;
pub(crate) use observed::{Compared, Failure};

use observed::Observations;

/// How many operations are counted one by one; those of mounts that are gone make room.
const MAX_OPERATIONS: usize = 10_000;

/// How many lines are kept.
const MAX_LINES: usize = 10_000;

/// Their bytes.
const MAX_LINE_BYTES: usize = 8 << 20;

/// The most bytes of what is observed and not applied yet; of lines as many as are kept.
const MAX_UNSETTLED_BYTES: usize = 8 << 20;

/// How many lines one answer has at most, but for those of one run, which stay together.
const MAX_LINES_AT_ONCE: usize = 1000;

/// How long lines are waited for at most, in milliseconds.
pub(crate) const MAX_WAIT_MS: u64 = 30_000;

/// What recipes did here, since this server began to lead for the first time.
#[derive(Debug)]
pub struct Activity {
    operations: Mutex<BTreeMap<(ZnodePath, String), Counted>>,
    lines: Mutex<Lines>,
    observations: Observations,
    unsettled: Mutex<Unsettled>,
    /// The transaction of the last line that is told.
    last: watch::Sender<Zxid>,
}

/// What one operation of one mount did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// Calls that came, each once however often it is woken.
    pub calls: u64,
    /// Runs, the first ones among them.
    pub runs: u64,
    /// Runs that ended in each way: `returned`, `parked`, `failed`, `refused`, `trapped`, `exceeded`.
    pub endings: BTreeMap<String, u64>,
    /// What the runs used of their fuel.
    pub fuel: u64,
    /// How long they took together, in microseconds.
    pub micros: u64,
    /// How long the longest took.
    pub longest_micros: u64,
    /// Bytes of paths and data that they wrote.
    pub written_bytes: u64,
}

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Ran<'a> {
    pub(crate) mount: &'a ZnodePath,
    pub(crate) operation: &'a str,
    pub(crate) zxid: Zxid,
    pub(crate) at: Timestamp,
    /// Whether its call ran before, and was parked.
    pub(crate) woken: bool,
    pub(crate) ending: &'a RunEnding,
    pub(crate) fuel: u64,
    pub(crate) took: Duration,
    pub(crate) written_bytes: u64,
    pub(crate) log: &'a [LogLine],
}

/// A line that a recipe wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The transaction of the run that wrote it.
    pub zxid: Zxid,
    /// When, in the ensemble's time.
    pub at: Timestamp,
    /// The mount.
    pub mount: ZnodePath,
    /// The operation.
    pub operation: String,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The line.
    pub message: String,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<Line>,
    bytes: usize,
}

/// What was evaluated and is not known to be applied, in the order of its transactions.
#[derive(Debug, Default)]
struct Unsettled {
    lines: Lines,
    observed: VecDeque<Observed>,
    observed_bytes: usize,
}

/// Which lines are asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// Those of later transactions only.
    pub after: Zxid,
    /// Of this mount only.
    pub mount: Option<ZnodePath>,
}

/// What one server asks of the one that leads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Look {
    /// What each operation did, and how shadows compare.
    Operations,
    /// Lines, and if there are none, those that come within a while.
    Lines {
        /// Which.
        wanted: Wanted,
        /// That while.
        wait_ms: u64,
    },
    /// The last runs that failed.
    Failures,
    /// One of those, as it was recorded.
    Recording(Zxid),
}

/// What it is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Seen {
    /// What recipes did.
    Operations {
        /// By mount and operation.
        counted: BTreeMap<(ZnodePath, String), Counted>,
        /// By mount: how its shadow compares with what is mounted.
        shadows: BTreeMap<ZnodePath, Compared>,
    },
    /// The oldest first.
    Lines {
        /// Those that are wanted.
        lines: Vec<Line>,
        /// What to ask for next.
        next: Zxid,
    },
    /// The last first.
    Failures(Vec<Failure>),
    /// If the run is still known: its recording, or why there is none.
    Recording(Option<Result<Box<Recording>, String>>),
}

impl Default for Activity {
    fn default() -> Activity {
        Activity {
            operations: Mutex::default(),
            lines: Mutex::default(),
            observations: Observations::default(),
            unsettled: Mutex::default(),
            last: watch::Sender::new(Zxid::ZERO),
        }
    }
}

impl Activity {
    /// Takes in a run. One that ended before it began (a call that does not fit, a recipe that is not ready) is none.
    pub(crate) fn ran(&self, ran: &Ran<'_>) {
        let Some(ending) = ending_name(ran.ending) else {
            return;
        };
        {
            let mut operations = self.operations.lock();
            let key = (ran.mount.clone(), ran.operation.to_owned());
            let full = operations.len() >= MAX_OPERATIONS && !operations.contains_key(&key);
            if !full {
                let counted = operations.entry(key).or_default();
                counted.calls += u64::from(!ran.woken);
                counted.runs += 1;
                *counted.endings.entry(ending.to_owned()).or_default() += 1;
                counted.fuel += ran.fuel;
                let micros = u64::try_from(ran.took.as_micros()).unwrap_or(u64::MAX);
                counted.micros = counted.micros.saturating_add(micros);
                counted.longest_micros = counted.longest_micros.max(micros);
                counted.written_bytes += ran.written_bytes;
            }
        }
        if !ran.log.is_empty() {
            self.unsettled.lock().lines.take(ran);
        }
    }

    /// Takes in what was run to be looked at.
    pub(crate) fn observe(&self, observed: Observed) {
        self.unsettled.lock().observe(observed);
    }

    /// A transaction is applied: what its runs wrote, and how they failed, may be told from now on (rule S4).
    pub(crate) fn settle(&self, zxid: Zxid) {
        let mut unsettled = self.unsettled.lock();
        while let Some(observed) = unsettled.next_observed(zxid) {
            self.observations.take(observed);
        }
        let line = unsettled.lines.kept.front().map(|line| line.zxid);
        if line.is_some_and(|first| first <= zxid) {
            let mut lines = self.lines.lock();
            lines.extend(&mut unsettled.lines, zxid);
            if let Some(last) = lines.kept.back() {
                self.last.send_replace(last.zxid);
            }
        }
    }

    /// A transaction of an earlier epoch that has not been applied never will be.
    pub(crate) fn epoch_opened(&self, epoch: u32) {
        self.unsettled.lock().drop_before(Zxid::new(epoch, 0));
    }

    /// Only these mounts are there.
    pub(crate) fn retain(&self, is_there: impl Fn(&ZnodePath) -> bool) {
        self.observations.retain(&is_there);
        let mut operations = self.operations.lock();
        operations.retain(|(mount, _), _| is_there(mount));
    }

    /// The oldest of the lines that are wanted, and how far that is: what to ask for next.
    fn lines(&self, wanted: &Wanted) -> (Vec<Line>, Zxid) {
        let lines = self.lines.lock();
        let begin = lines.kept.partition_point(|line| line.zxid <= wanted.after);
        let mut found: Vec<Line> = Vec::new();
        let mut end = wanted.after;
        for line in lines.kept.range(begin..) {
            if found.len() >= MAX_LINES_AT_ONCE && line.zxid != end {
                break;
            }
            end = line.zxid;
            if wanted
                .mount
                .as_ref()
                .is_none_or(|mount| *mount == line.mount)
            {
                found.push(line.clone());
            }
        }
        (found, end)
    }

    /// Looks here. Never longer than a minute.
    pub(crate) async fn look(&self, look: Look) -> Seen {
        let (wanted, wait_ms) = match look {
            Look::Operations => {
                let counted = self.operations.lock().clone();
                let shadows = self.observations.shadows();
                return Seen::Operations { counted, shadows };
            }
            Look::Lines { wanted, wait_ms } => (wanted, wait_ms),
            Look::Failures => return Seen::Failures(self.observations.failures()),
            Look::Recording(zxid) => {
                let found = self.observations.recording(zxid);
                return Seen::Recording(found.map(|it| it.map(Box::new)));
            }
        };
        let wait = Duration::from_millis(wait_ms.min(MAX_WAIT_MS));
        let found = async {
            let mut wanted = wanted.clone();
            loop {
                let (lines, next) = self.lines(&wanted);
                if !lines.is_empty() {
                    return Seen::Lines { lines, next };
                }
                wanted.after = next;
                self.more(next).await;
            }
        };
        tokio::time::timeout(wait, found).await.unwrap_or_else(|_| {
            let (lines, next) = self.lines(&wanted);
            Seen::Lines { lines, next }
        })
    }

    /// Returns when there may be lines of later transactions.
    async fn more(&self, after: Zxid) {
        let mut last = self.last.subscribe();
        // The sender is ours, so it does not go before we do.
        let _ = last.wait_for(|last| *last > after).await;
    }
}

impl Unsettled {
    fn observe(&mut self, observed: Observed) {
        self.observed_bytes += observed.bytes();
        self.observed.push_back(observed);
        while self.observed_bytes > MAX_UNSETTLED_BYTES {
            let Some(oldest) = self.observed.pop_front() else {
                return;
            };
            self.observed_bytes -= oldest.bytes();
        }
    }

    /// The first, if it is of that transaction or an earlier one.
    fn next_observed(&mut self, until: Zxid) -> Option<Observed> {
        let found = self.observed.pop_front_if(|it| it.zxid() <= until)?;
        self.observed_bytes -= found.bytes();
        Some(found)
    }

    fn drop_before(&mut self, first: Zxid) {
        let last = Zxid(first.0.saturating_sub(1));
        Lines::default().extend(&mut self.lines, last);
        while self.next_observed(last).is_some() {}
    }
}

impl Lines {
    /// What `others` begins with, up to a transaction.
    fn extend(&mut self, others: &mut Lines, until: Zxid) {
        while let Some(line) = others.kept.pop_front_if(|line| line.zxid <= until) {
            others.bytes -= line.message.len();
            self.bytes += line.message.len();
            self.kept.push_back(line);
        }
        self.trim();
    }

    fn take(&mut self, ran: &Ran<'_>) {
        for line in ran.log {
            self.bytes += line.message.len();
            self.kept.push_back(Line {
                zxid: ran.zxid,
                at: ran.at,
                mount: ran.mount.clone(),
                operation: ran.operation.to_owned(),
                level: level_name(line.level).to_owned(),
                message: line.message.clone(),
            });
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.kept.len() > MAX_LINES || self.bytes > MAX_LINE_BYTES {
            let Some(oldest) = self.kept.pop_front() else {
                return;
            };
            self.bytes -= oldest.message.len();
        }
    }
}

fn ending_name(ending: &RunEnding) -> Option<&'static str> {
    match ending {
        RunEnding::Returned(_) => Some("returned"),
        RunEnding::Parked { .. } => Some("parked"),
        RunEnding::Failed(_) => Some("failed"),
        RunEnding::Refused(_) => Some("refused"),
        RunEnding::Trapped(_) => Some("trapped"),
        RunEnding::Exceeded { .. } => Some("exceeded"),
        RunEnding::BadCall(_) | RunEnding::NotReady => None,
    }
}

pub(crate) fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str) -> LogLine {
        LogLine {
            level: LogLevel::Info,
            message: message.to_owned(),
        }
    }

    fn run(activity: &Activity, mount: &str, counter: u32, ending: &RunEnding, log: &[LogLine]) {
        let zxid = Zxid::new(1, counter);
        evaluated(activity, mount, zxid, ending, log);
        activity.settle(zxid);
    }

    fn evaluated(
        activity: &Activity,
        mount: &str,
        zxid: Zxid,
        ending: &RunEnding,
        log: &[LogLine],
    ) {
        activity.ran(&Ran {
            mount: &ZnodePath::parse(mount).unwrap(),
            operation: "add",
            zxid,
            at: Timestamp(7),
            woken: zxid.counter() > 1,
            ending,
            fuel: 10,
            took: Duration::from_micros(5 + u64::from(zxid.counter())),
            written_bytes: 3,
            log,
        });
    }

    #[test]
    fn runs_are_counted_by_mount_and_operation() {
        let activity = Activity::default();
        run(&activity, "/a", 1, &RunEnding::Refused("no".into()), &[]);
        run(&activity, "/a", 2, &RunEnding::Returned("1".into()), &[]);
        run(&activity, "/b", 3, &RunEnding::BadCall("what?".into()), &[]);
        let operations = activity.operations.lock().clone();
        assert_eq!(operations.len(), 1, "{operations:?}");
        let key = (ZnodePath::parse("/a").unwrap(), "add".to_owned());
        let endings = [("refused", 1), ("returned", 1)].map(|(name, n)| (name.to_owned(), n));
        let counted = Counted {
            calls: 1,
            runs: 2,
            endings: endings.into(),
            fuel: 20,
            micros: 13,
            longest_micros: 7,
            written_bytes: 6,
        };
        assert_eq!(operations[&key], counted);
        activity.retain(|mount| *mount != key.0);
        assert!(activity.operations.lock().is_empty());
    }

    #[test]
    fn lines_of_one_run_stay_together_and_the_oldest_go() {
        let activity = Activity::default();
        let many = vec![line("x"); MAX_LINES_AT_ONCE + 5];
        let returned = RunEnding::Returned("1".into());
        run(&activity, "/a", 1, &returned, &many);
        run(&activity, "/b", 2, &returned, &[line("second")]);
        let all = Wanted::default();
        let (first, end) = activity.lines(&all);
        assert_eq!((first.len(), end), (many.len(), Zxid::new(1, 1)));
        let next = Wanted { after: end, ..all };
        let (second, end) = activity.lines(&next);
        assert_eq!(
            (second[0].message.as_str(), end),
            ("second", Zxid::new(1, 2))
        );
        let of_b = Wanted {
            mount: Some(ZnodePath::parse("/b").unwrap()),
            ..Wanted::default()
        };
        assert_eq!(activity.lines(&of_b).0.len(), 1);

        for counter in 3..40 {
            run(
                &activity,
                "/a",
                counter,
                &returned,
                &[line(&"y".repeat(1 << 18))],
            );
        }
        let (kept, _) = activity.lines(&Wanted::default());
        assert_eq!(kept.len(), MAX_LINE_BYTES >> 18);
    }

    #[test]
    fn s4_a_line_is_told_once_its_transaction_is_applied_and_never_if_its_epoch_was_lost() {
        let activity = Activity::default();
        let told = || {
            let (lines, _) = activity.lines(&Wanted::default());
            let told = lines.into_iter().map(|line| line.message);
            told.collect::<Vec<_>>().join(" ")
        };
        let returned = RunEnding::Returned("1".into());
        let evaluate = |epoch, counter, text: &str| {
            let zxid = Zxid::new(epoch, counter);
            evaluated(&activity, "/a", zxid, &returned, &[line(text)]);
        };
        for (counter, text) in [(1, "first"), (2, "second"), (4, "lost")] {
            evaluate(1, counter, text);
        }
        assert_eq!(told(), "");
        activity.settle(Zxid::new(1, 1));
        assert_eq!(told(), "first");
        activity.settle(Zxid::new(1, 3));
        assert_eq!(told(), "first second");
        activity.epoch_opened(2);
        evaluate(2, 1, "again");
        activity.settle(Zxid::new(2, 1));
        assert_eq!(told(), "first second again");
    }

    #[test]
    fn what_is_not_applied_is_bounded() {
        let activity = Activity::default();
        let returned = RunEnding::Returned("1".into());
        for counter in 1..40 {
            let zxid = Zxid::new(1, counter);
            let long = [line(&"y".repeat(1 << 18))];
            evaluated(&activity, "/a", zxid, &returned, &long);
        }
        assert_eq!(activity.unsettled.lock().lines.bytes, MAX_LINE_BYTES);
        activity.epoch_opened(2);
        assert_eq!(activity.unsettled.lock().lines.bytes, 0);
        for _ in 0..40 {
            activity.observe(observed::tests::failure(Zxid::new(2, 1), 1 << 18));
        }
        let bytes = activity.unsettled.lock().observed_bytes;
        assert!((MAX_UNSETTLED_BYTES / 2..=MAX_UNSETTLED_BYTES).contains(&bytes));
        assert_eq!(activity.observations.failures().len(), 0);
        activity.settle(Zxid::new(2, 1));
        assert!(activity.observations.failures().len() > 20);
        assert_eq!(activity.unsettled.lock().observed_bytes, 0);
    }

    #[tokio::test]
    async fn whoever_follows_is_told_of_more() {
        let activity = Activity::default();
        run(
            &activity,
            "/a",
            5,
            &RunEnding::Returned("1".into()),
            &[line("x")],
        );
        activity.more(Zxid::new(1, 4)).await;
        let waits = activity.more(Zxid::new(1, 5));
        let waits = tokio::time::timeout(Duration::from_millis(1), waits);
        assert!(waits.await.is_err());
    }
}
