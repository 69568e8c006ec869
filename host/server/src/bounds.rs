//! Every bound that somebody can reach by a name: what it is by default, what tests it, and how it is counted.
//!
//! The names are those of the refusals and of `quorate_bounds_reached_total{bound="NAME"}`. docs/bounds.md lists the same
//! bounds, which a test holds.

use quorate_model::bound::{Bound as OfMount, EPHEMERAL_BYTES};
use quorate_model::call::Ending;
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::run::RunEnding;
use quorate_model::write_set::{Change, Transaction};
use quorate_sandbox::{CompileLimits, RunLimits, UploadLimits, bound};
use quorate_tree::{Bounds, CREATED_BYTES_PER_CALL, CREATED_PER_CALL};

use crate::metrics::Metrics;

/// Of how many uploads one server holds the bytes at once.
pub const UPLOADS_AT_ONCE: &str = "uploads-at-once";

/// How many bytes of an upload have to arrive in a second: who sends fewer takes a place from others.
pub const UPLOAD_RATE: &str = "upload-bytes-per-second";

/// The bytes of one upload: more are not even read.
pub const UPLOAD_BYTES: &str = "bytes";

/// How many components a recipe's name has beside its newest.
const VERSIONS: u64 = 10;

/// About how many bytes the end of a session may take in the log.
const EPHEMERAL_BYTES_PER_SESSION: u64 = 32 << 20;

/// One bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// As refusals, metrics and the documentation call it.
    pub name: &'static str,
    /// What reaches it.
    pub kind: Kind,
    /// What it is where nobody has set another value: bytes, if the name says so; milliseconds of `wall-clock`,
    /// seconds of what is compiled.
    pub default: u64,
    /// The file of the test that reaches it, and the test's name.
    pub test: (&'static str, &'static str),
}

/// What reaches a bound, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A run: it ends as exceeded.
    Run,
    /// An upload: it is refused before it is compiled.
    Upload,
    /// A compilation: it is ended, and the upload refused.
    Compilation,
    /// What is kept: more is refused.
    Kept,
    /// A mount: it is suspended.
    Mount,
}

const HOSTILE: &str = "host/sandbox/tests/hostile.rs";
const LIMITS: &str = "host/sandbox/tests/bounds.rs";
const COMPILER: &str = "host/server/tests/compiler.rs";
const HERE: &str = "host/server/src/bounds/tests.rs";
const HTTP: &str = "host/server/src/http/tests.rs";

/// All of them.
pub fn all() -> Vec<Bound> {
    let mut all = of_runs();
    all.extend(UploadLimits::default().bounds().map(|(name, limit)| Bound {
        name,
        kind: Kind::Upload,
        default: *limit as u64,
        test: (HERE, "what_an_upload_exceeds_is_counted"),
    }));
    all.push(Bound {
        name: UPLOADS_AT_ONCE,
        kind: Kind::Upload,
        default: crate::http::MAX_UPLOADS as u64,
        test: (
            HTTP,
            "an_upload_that_waits_too_long_for_its_turn_is_counted",
        ),
    });
    all.push(Bound {
        name: UPLOAD_RATE,
        kind: Kind::Upload,
        default: crate::http::UPLOAD_BYTES_PER_SECOND as u64,
        test: (HTTP, "an_upload_that_comes_too_slowly_gives_its_place_back"),
    });
    all.extend(of_compilations());
    all.extend(of_what_is_kept());
    let suspend = [
        OfMount::WakesPerSecond,
        OfMount::ChainDepth,
        OfMount::Failures,
    ];
    all.extend(suspend.map(|bound| Bound {
        name: bound.name(),
        kind: Kind::Mount,
        default: bound.default_value(),
        test: (HERE, "what_is_kept_and_what_suspends_is_counted"),
    }));
    all
}

fn of_runs() -> Vec<Bound> {
    let (limits, bounds) = (RunLimits::default(), Bounds::default());
    let milliseconds = u64::try_from(limits.wall_clock.as_millis()).unwrap_or(u64::MAX);
    let bombs = (HOSTILE, "loops_and_bombs");
    let lies = (HOSTILE, "changes_that_lie_touch_nothing");
    let parks = (HOSTILE, "parking_and_refusing");
    let results = (HOSTILE, "results_that_lie");
    let rows = [
        (bound::FUEL, limits.fuel, bombs),
        (
            bound::WALL_CLOCK,
            milliseconds,
            (HOSTILE, "fuel_is_not_time"),
        ),
        (bound::MEMORY, limits.memory_bytes as u64, bombs),
        (bound::TABLE, limits.table_elements as u64, bombs),
        (bound::STACK, limits.stack_bytes as u64, bombs),
        (bound::TREE_OPERATIONS, limits.tree_operations, lies),
        (
            bound::DEPTH,
            limits.depth as u64,
            (LIMITS, "a_path_has_so_many_names"),
        ),
        (
            bound::CHILDREN,
            limits.children as u64,
            (LIMITS, "one_question_gives_so_many_children"),
        ),
        (bound::CROSSING, limits.crossing_bytes as u64, results),
        (
            bound::WRITE_SET,
            limits.write_set_bytes as u64,
            (LIMITS, "a_run_writes_so_many_bytes"),
        ),
        (
            bound::ARGUMENTS,
            limits.argument_bytes as u64,
            (LIMITS, "arguments_have_so_many_bytes"),
        ),
        (bound::RESULT, limits.result_bytes as u64, results),
        (bound::LOG_LINES, limits.log_lines as u64, lies),
        (bound::LOG_BYTES, limits.log_bytes as u64, lies),
        (bound::MEMO, limits.memo_bytes as u64, parks),
        (bound::WATCHES, limits.watches as u64, parks),
        (
            CREATED_PER_CALL,
            bounds.created_per_call as u64,
            (HERE, "what_a_call_leaves_to_its_end_is_counted"),
        ),
        (
            CREATED_BYTES_PER_CALL,
            bounds.created_bytes_per_call as u64,
            (HERE, "what_a_call_leaves_to_its_end_is_counted"),
        ),
    ];
    let row = |(name, default, test)| Bound {
        name,
        kind: Kind::Run,
        default,
        test,
    };
    rows.map(row).into()
}

fn of_compilations() -> [Bound; 4] {
    let limits = CompileLimits::default();
    let rows = [
        (
            bound::COMPILE_CPU,
            limits.cpu_seconds,
            "a_compilation_has_so_much_of_a_processor",
        ),
        (
            bound::COMPILE_WALL_CLOCK,
            limits.wall_clock.as_secs(),
            "a_compilation_has_so_long",
        ),
        (
            bound::COMPILE_MEMORY,
            limits.memory_bytes,
            "a_compilation_has_so_much_memory",
        ),
        (
            bound::CODE,
            limits.code_bytes as u64,
            "a_compilation_makes_so_much_code",
        ),
    ];
    rows.map(|(name, default, test)| Bound {
        name,
        kind: Kind::Compilation,
        default,
        test: (COMPILER, test),
    })
}

fn of_what_is_kept() -> [Bound; 14] {
    let bounds = Bounds::default();
    let rows = [
        ("components", bounds.components),
        ("component-bytes", bounds.component_bytes),
        ("recipes", bounds.recipes),
        ("versions", VERSIONS),
        ("uploads", bounds.uploads),
        ("upload-bytes", bounds.upload_bytes),
        ("calls-per-session", bounds.calls_per_session.into()),
        ("call-bytes-per-session", bounds.call_bytes_per_session),
        ("calls", bounds.calls),
        ("call-bytes", bounds.call_bytes),
        (
            OfMount::ParkedCalls.name(),
            OfMount::ParkedCalls.default_value(),
        ),
        (
            OfMount::ParkedBytes.name(),
            OfMount::ParkedBytes.default_value(),
        ),
        (EPHEMERAL_BYTES, EPHEMERAL_BYTES_PER_SESSION),
        ("dry-runs", bounds.dry_run_fuel),
    ];
    rows.map(|(name, default)| Bound {
        name,
        kind: Kind::Kept,
        default,
        test: (HERE, "what_is_kept_and_what_suspends_is_counted"),
    })
}

impl Metrics {
    /// A run has ended, as its recipe ended it: what it then comes to is [`Metrics::count_transaction`]'s.
    pub(crate) fn count_ending(&self, ending: &RunEnding) {
        if let RunEnding::Exceeded { bound, .. } = ending {
            self.reached(bound);
        }
    }

    /// A transaction has been evaluated: it may have been refused, or have suspended a mount.
    pub(crate) fn count_transaction(&self, transaction: &Transaction) {
        let refused = transaction
            .outcome
            .as_ref()
            .and_then(|outcome| match outcome {
                Outcome::Refused(refusal) => Some(refusal.reason()),
                _ => None,
            });
        if let Some(Refusal::BoundReached { bound, .. }) = refused {
            self.reached(bound);
        }
        for change in &transaction.changes {
            match change {
                Change::Suspend {
                    reason: Some(reason),
                    ..
                } => {
                    if let Some(bound) = OfMount::that_suspended(reason) {
                        self.reached(bound.name());
                    }
                }
                // Its run parked: that it may not, only who keeps it in mind knows.
                Change::PutAnswer { answer, .. } => {
                    if let Ending::Exceeded { bound, .. } = &answer.ending
                        && [CREATED_PER_CALL, CREATED_BYTES_PER_CALL].contains(&bound.as_str())
                    {
                        self.reached(bound);
                    }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
