//! Jobs by schedule, each run by one of many servers.
//!
//! A job is a persistent znode whose data are its schedule and when it is due. A run that was handed out is a
//! persistent znode too, with a mark beside it that goes with the runner's session: a run without its mark is
//! handed out again. Who waits stands in a line, of which only the first watches the clock.

use quorate_recipe::prelude::*;

mod schedule;

use schedule::Schedule;

recipe!(
    r#"
    package quorate:scheduler@0.1.0;

    /// Jobs by schedule. Many servers wait for the next run of a job; when it is due, one of them gets it,
    /// first come first served, and one only. A run whose server's session ends before it says `done` is
    /// given to another; so a run may be begun twice, but is not lost.
    ///
    /// Times are the server's, in UTC. If nobody waits when a job is due, whoever comes first gets the run,
    /// late; due times that pass meanwhile are made up for by that one run.
    interface scheduler {
        /// One run of a job.
        record run {
            /// When it was due, in milliseconds since the Unix epoch; `done` takes it, and it is the
            /// run's name for whatever the job writes: no other run of the job has it.
            due: u64,
            /// Whether it was given to another before, who did not finish it.
            again: bool,
        }

        /// Some of the jobs' names.
        record name-page {
            /// In byte order.
            names: list<string>,
            /// The `after` of the next page; none if these were the last.
            next: option<string>,
        }

        /// A job as it is.
        record job-state {
            /// As it was defined.
            schedule: string,
            /// When it is due next, in milliseconds since the Unix epoch.
            due: u64,
            /// Runs that were begun and are not done.
            running: u32,
        }

        /// Defines a job, or gives it another schedule: `every 15m` (also s, h, d), counted from now, or as
        /// in cron `minute hour day month weekday` in numbers, such as `0 9 * * 1-5`: 256 bytes at most
        /// (`schedule-bytes`). A job that has that schedule already stays as it is.
        define: func(name: string, schedule: string);

        /// Waits until the job is due and this call's turn comes; gives the run. Refused if there is no
        /// such job, or it is removed, or 1,000 calls wait for it (`waiting`). No run begins while 100 are
        /// begun and not done (`running`).
        next: func(name: string) -> run;

        /// The run is done: nobody gets it again. Refused if it is not this session's.
        done: func(name: string, due: u64);

        /// A job as it is; none if there is no such job.
        show: func(name: string) -> option<job-state>;

        /// The names of all jobs, if they fit one answer: 5,000, and 512 KiB. Refused if there are more:
        /// `jobs-after` gives them too.
        jobs: func() -> list<string>;

        /// The names behind `after`: `most` at most, and what fits one answer. With none it begins at the
        /// first.
        jobs-after: func(after: option<string>, most: u32) -> name-page;

        /// Removes a job, its runs included; says whether there was one.
        remove: func(name: string) -> bool;
    }

    world recipe {
        export scheduler;
    }
"#
);

/// Runs of one job that are begun and not done: more mean that nobody says `done`.
const MAX_RUNNING: u32 = 100;

/// Calls that wait for one job: to remove it ends them all at once.
const MAX_WAITING: u32 = 1000;

/// A schedule as a text.
const MAX_SCHEDULE_BYTES: usize = 256;

/// Digits of a due time in a name.
const MOMENT_DIGITS: usize = 16;

fn define(name: String, schedule: String) {
    let job = Job::of(&name);
    bound::require_bytes("schedule-bytes", &schedule, MAX_SCHEDULE_BYTES);
    let parsed = match Schedule::parse(&schedule) {
        Ok(parsed) => parsed,
        Err(why) => refuse!("{why}"),
    };
    if job.read().is_some_and(|(known, _)| known == schedule) {
        return;
    }
    let now = call::now();
    job.put(&schedule, due_after(&parsed, now, now));
}

fn next(name: String) -> Run {
    let job = Job::of(&name);
    if call::memo_bytes().is_none() {
        let waiting = tree::exists(&job.line).map_or(0, |stat| stat.children);
        if waiting == 0
            && let Some(run) = job.take()
        {
            return run;
        }
        if waiting >= MAX_WAITING {
            bound::reached("waiting", &format!("{waiting} calls wait for {name:?}"));
        }
    }
    let place = line::stand_in(&job.line, "");
    if let Some(run) = job.take() {
        tree::delete(&place.path);
        return run;
    }
    let (_, due) = job.expect();
    // One that has passed and is not given out waits for a run to be done.
    if due > call::now() {
        watch::time(due);
    }
    watch::children(&job.runners);
    watch::children(&job.runs);
    park!(place.ticket; name);
}

fn done(name: String, due: u64) {
    let job = Job::of(&name);
    let run = moment(due);
    let mark = path!(job.runners, run);
    if !tree::exists(&mark).is_some_and(|stat| stat.is_mine()) {
        refuse!("the run {due} of {name:?} is not this session's");
    }
    tree::delete(&mark);
    tree::delete(&path!(job.runs, run));
}

fn show(name: String) -> Option<JobState> {
    let job = Job::of(&name);
    let (schedule, due) = job.read()?;
    let running = tree::exists(&job.runs).map_or(0, |stat| stat.children);
    Some(JobState {
        schedule,
        due,
        running,
    })
}

fn jobs() -> Vec<String> {
    page::names("").all_or_refuse("jobs-after")
}

fn jobs_after(after: Option<String>, most: u32) -> NamePage {
    let page = page::names_after("", after, most);
    NamePage {
        names: page.items,
        next: page.next,
    }
}

fn remove(name: String) -> bool {
    let job = Job::of(&name);
    if job.read().is_none() {
        return false;
    }
    // Those who wait are woken, and refused.
    for part in [&job.runners, &job.runs, &job.line] {
        for child in tree::children(part, &Range::all()) {
            tree::delete(&path!(part, child));
        }
    }
    tree::delete(&job.path);
    true
}

/// The paths of a job's parts.
struct Job {
    path: String,
    /// `<due>` of each run that was begun.
    runs: String,
    /// The same, for its runner's session.
    runners: String,
    line: String,
}

impl Job {
    fn of(name: &str) -> Job {
        require_name(name);
        Job {
            path: name.to_owned(),
            runs: path!(name, "runs"),
            runners: path!(name, "runners"),
            line: path!(name, "line"),
        }
    }

    /// Its schedule, and when it is due.
    fn read(&self) -> Option<(String, u64)> {
        let node = tree::get(&self.path)?;
        let (due, schedule) = node.text().split_once(' ').expect("due time and schedule");
        let due = due.parse().expect("a due time is a number");
        Some((schedule.to_owned(), due))
    }

    fn expect(&self) -> (String, u64) {
        match self.read() {
            Some(read) => read,
            None => refuse!("there is no job {:?}: define makes one", self.path),
        }
    }

    fn put(&self, schedule: &str, due: u64) {
        tree::put(&self.path, format!("{due} {schedule}"));
    }

    /// The run to be given to whoever stands first; none if none is due.
    fn take(&self) -> Option<Run> {
        let (schedule, due) = self.expect();
        let runs = tree::children(&self.runs, &Range::first(MAX_RUNNING));
        let lost = runs
            .iter()
            .find(|run| tree::exists(&path!(self.runners, run)).is_none());
        if let Some(run) = lost {
            tree::create(&path!(self.runners, run), "", mine());
            let due = run.parse().expect("a run's name is its due time");
            return Some(Run { due, again: true });
        }
        let now = call::now();
        if now < due || runs.len() as u32 >= MAX_RUNNING {
            return None;
        }
        let run = moment(due);
        tree::create(&path!(self.runs, run), "", Lifetime::Persistent);
        tree::create(&path!(self.runners, run), "", mine());
        let parsed = Schedule::parse(&schedule).expect("it was read when it was defined");
        // What has passed meanwhile is made up for by this run.
        self.put(&schedule, due_after(&parsed, due, now));
        Some(Run { due, again: false })
    }
}

fn due_after(schedule: &Schedule, last: u64, now: u64) -> u64 {
    match schedule.next(last, now) {
        Some(due) => due,
        None => refuse!("the schedule is never due again"),
    }
}

fn moment(at: u64) -> String {
    format!("{at:0MOMENT_DIGITS$}")
}
