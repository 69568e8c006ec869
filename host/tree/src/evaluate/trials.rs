//! Trials: runs of which nothing is kept. For whoever asks what a call would do (a dry run), for a new version beside
//! the mounted one (its shadow), and for the record of a run that has failed.
//!
//! A trial stands where a run would: in a transaction, at its moment, over what everything before has left. What it
//! wrote is taken back.

use std::collections::BTreeSet;

use quorate_model::bound::Bound;
use quorate_model::call::CallRequest;
use quorate_model::id::{CallId, SessionId, Timestamp, Zxid};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Mount, RecipeDigest};
use quorate_model::recording::{Ran, Recording};
use quorate_model::request::Request;
use quorate_model::run::{RunEnding, RunInput, Runner};
use quorate_model::trial::{MAX_RECORDING_BYTES, TOLD_TOO_MUCH, Trial, TrialOf, TrialRequest};
use quorate_model::write_set::Change;
use serde::{Deserialize, Serialize};

use super::{Evaluator, bad_call, changes_bytes, failure_of};
use crate::apply::Records;
use crate::operations::call::{self, Call};
use crate::operations::mount::{LEAST_CALL, expect_stays};
use crate::operations::session;
use crate::run::RunTree;
use crate::view::{Progress, View};

/// How often a failed run of one mount is recorded at most, in milliseconds: it is run a second time for that.
const RECORD_EVERY_MS: u64 = 1000;

/// Why a run that took too long is not recorded.
const TOO_SLOW: &str =
    "it took too long by the clock, and what it was told does not say why: it would not again";

/// What a dry run counts beside its fuel, so that their number is bounded too.
const FUEL_PER_DRY_RUN: u64 = 1_000_000;

/// What operators are to know beside the outcomes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Observed {
    /// A mount's shadow ran beside it.
    Shadow(Box<ShadowRun>),
    /// A run has failed.
    Failure(Box<FailedRun>),
}

/// A run that has failed, and how it went when it was run once more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedRun {
    /// The transaction that it failed in.
    pub zxid: Zxid,
    /// When.
    pub at: Timestamp,
    /// The mount.
    pub mount: ZnodePath,
    /// The operation.
    pub operation: String,
    /// How it failed.
    pub error: String,
    /// All that it was told; or why that was not recorded, for people.
    pub recording: Result<Recording, String>,
}

impl FailedRun {
    /// About how many bytes it has.
    pub fn bytes(&self) -> usize {
        let recorded = match &self.recording {
            Ok(recording) => recording.bytes(),
            Err(reason) => reason.len(),
        };
        let names = self.mount.as_str().len() + self.operation.len();
        200 + names + self.error.len() + recorded
    }
}

impl Observed {
    /// The transaction that the run was made in.
    pub fn zxid(&self) -> Zxid {
        match self {
            Observed::Shadow(run) => run.zxid,
            Observed::Failure(failed) => failed.zxid,
        }
    }

    /// About how many bytes it has.
    pub fn bytes(&self) -> usize {
        match self {
            Observed::Shadow(run) => {
                let sides = run
                    .difference
                    .iter()
                    .flat_map(|it| [&it.mounted, &it.shadow]);
                500 + sides.map(Side::bytes).sum::<usize>()
            }
            Observed::Failure(failed) => failed.bytes(),
        }
    }
}

/// How a mount's shadow went beside it, on the same call and the same state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShadowRun {
    /// The mount.
    pub mount: ZnodePath,
    /// The operation.
    pub operation: String,
    /// The call's transaction.
    pub zxid: Zxid,
    /// When.
    pub at: Timestamp,
    /// Which component ran as the shadow.
    pub digest: RecipeDigest,
    /// What both did, where that is not the same.
    pub difference: Option<Difference>,
    /// Why this leader runs it no more: too many of its runs in a row have failed.
    pub stopped: Option<String>,
}

/// Two runs of one call that differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The mounted component's.
    pub mounted: Side,
    /// The shadow's.
    pub shadow: Side,
}

/// One of two runs of a call: enough to see what it did, since differences are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// How it ended, cut off where that is long.
    pub ending: String,
    /// How many records it changed.
    pub changed: u64,
    /// Those changes, in order; none if they are too large to be kept.
    pub changes: Vec<Change>,
}

/// The most bytes of changes that are kept of one side.
const MAX_SIDE_BYTES: usize = 16 << 10;

impl Side {
    fn bytes(&self) -> usize {
        self.ending.len() + changes_bytes(&self.changes)
    }

    fn of(ending: &RunEnding, changes: Vec<Change>) -> Side {
        let fits = changes_bytes(&changes) <= MAX_SIDE_BYTES;
        Side {
            ending: ending.to_string().chars().take(1000).collect(),
            changed: changes.len() as u64,
            changes: if fits { changes } else { Vec::new() },
        }
    }
}

/// A shadow has run; the mounted component is about to.
pub(super) struct Shadow {
    run: ShadowRun,
    trial: Trial,
}

/// Which mounts' failed runs were recorded in this stretch of time.
#[derive(Default)]
pub(super) struct Recorded {
    stretch: u64,
    mounts: BTreeSet<ZnodePath>,
}

/// What dry runs have used in this second.
#[derive(Default)]
pub(super) struct DryRuns {
    second: u64,
    fuel: u64,
}

impl<R: Runner<RunTree>> Evaluator<R> {
    /// What there is to observe since the last call.
    pub fn take_observed(&mut self) -> Vec<Observed> {
        std::mem::take(&mut self.observed)
    }

    /// How a call would go if it were made now, without a session; nothing of it is kept. None if nothing is
    /// mounted there.
    pub fn rehearse(&mut self, request: &CallRequest) -> Option<Trial> {
        let mount = Records::mount(&self.view, &request.mount)?;
        let call = Call::first(&self.view, LEAST_CALL, &[], request);
        Some(self.rehearse_call(&call, mount))
    }

    /// How a parked call would go if it were woken now; nothing of it is kept. None if it is not parked. One that
    /// would not wait any more has been missed by its watches.
    pub fn rehearse_parked(&mut self, id: CallId) -> Option<Trial> {
        let parked = self.view.parked(id)?;
        let mount = Records::mount(&self.view, &parked.mount)?;
        Some(self.rehearse_call(&Call::woken(parked), mount))
    }

    fn rehearse_call(&mut self, call: &Call, mount: Mount) -> Trial {
        self.begin();
        let trial = self.on_trial(call.input(&mount, &self.view), mount, false);
        self.counter -= 1;
        trial
    }

    /// A dry run: what is asked is answered, in its place among all requests, and changes nothing. Mounts that are
    /// suspended can be tried: that is what one does then.
    pub(super) fn try_out(
        &mut self,
        request: &Request,
        wanted: &TrialRequest,
    ) -> Result<Outcome, Refusal> {
        let call = match &wanted.of {
            TrialOf::Call(call_request) => {
                if request.session != SessionId::NONE {
                    session::expect_owner(&self.view, request.session, request.owner)?;
                }
                let id = CallId {
                    session: request.session,
                    ..LEAST_CALL
                };
                Call::first(&self.view, id, &request.identities, call_request)
            }
            TrialOf::Parked(id) => {
                let parked = self.view.parked(*id);
                Call::woken(parked.ok_or(Refusal::NoCall { key: id.key })?)
            }
        };
        let path = &call.request.mount;
        let mount = Records::mount(&self.view, path);
        let mount = mount.ok_or_else(|| Refusal::NotMounted(path.clone()))?;
        let mount = expect_stays(mount)?;
        call::expect_caller(&mount, &request.identities)?;
        self.expect_room_for_dry_run()?;
        let input = call.input(&mount, &self.view);
        let trial = self.on_trial(input, mount, wanted.record);
        self.dry_runs.fuel = self.dry_runs.fuel.saturating_add(trial.ran.fuel);
        match trial.ran.ending {
            RunEnding::BadCall(message) => Err(bad_call(&message)),
            RunEnding::NotReady => Err(Refusal::NotReady(path.clone())),
            _ => Ok(Outcome::Tried(Box::new(trial))),
        }
    }

    /// They run where all requests are evaluated, and nobody has to acknowledge them: so they have a share of each
    /// second, together, and whoever comes later is refused (rule C5).
    fn expect_room_for_dry_run(&mut self) -> Result<(), Refusal> {
        let second = self.time.0 / 1000;
        if self.dry_runs.second != second {
            self.dry_runs = DryRuns { second, fuel: 0 };
        }
        let (used, most) = (self.dry_runs.fuel, self.bounds.dry_run_fuel);
        if used >= most {
            return Err(Refusal::BoundReached {
                bound: "dry-runs".into(),
                message: format!(
                    "all dry runs of one second have {most} units of fuel together, each counting \
                     {FUEL_PER_DRY_RUN} more than it uses, and those are used up: try again in a second"
                ),
            });
        }
        self.dry_runs.fuel = used.saturating_add(FUEL_PER_DRY_RUN);
        Ok(())
    }

    /// Runs the mount's shadow, if it has one that is ready here.
    pub(super) fn run_shadow(&mut self, call: &Call, mount: &Mount) -> Option<Shadow> {
        let digest = mount.shadow.filter(|digest| *digest != mount.digest)?;
        let most = mount.bounds.of(Bound::Failures);
        let failures = self.shadow_failures.get(&(mount.path.clone(), digest));
        let stopped = failures.is_some_and(|failures| most > 0 && *failures >= most);
        if stopped || !self.runner.ready(&digest) {
            return None;
        }
        let moment = self.view.moment();
        let input = RunInput {
            digest,
            ..call.input(mount, &self.view)
        };
        let mut run = ShadowRun {
            mount: mount.path.clone(),
            operation: input.invocation.name().to_owned(),
            zxid: moment.zxid,
            at: moment.time,
            digest,
            difference: None,
            stopped: None,
        };
        let trial = self.on_trial(input, mount.clone(), false);
        let key = (mount.path.clone(), digest);
        match failure_of(&trial.ran.ending) {
            None => {
                self.shadow_failures.remove(&key);
            }
            Some(failure) => {
                let failures = self.shadow_failures.entry(key).or_default();
                *failures += 1;
                if *failures == most {
                    run.stopped = Some(format!(
                        "{most} of its runs in a row have failed, the last: {failure}"
                    ));
                }
            }
        }
        Some(Shadow { run, trial })
    }

    /// The mounted component has run too, since `start`.
    pub(super) fn compare_shadow(
        &mut self,
        shadow: Option<Shadow>,
        start: Progress,
        ending: &RunEnding,
    ) {
        let Some(Shadow { mut run, trial }) = shadow else {
            return;
        };
        if *ending == RunEnding::NotReady {
            return;
        }
        // What a run wrote counts only if it ended well.
        let kept = |ending: &RunEnding, changes: Vec<Change>| match ending {
            RunEnding::Returned(_) | RunEnding::Parked { .. } => changes,
            _ => Vec::new(),
        };
        let changes = self.view.changes_since(start).to_vec();
        let changes = kept(ending, changes);
        let shadows = kept(&trial.ran.ending, trial.changes);
        if *ending != trial.ran.ending || changes != shadows {
            run.difference = Some(Difference {
                mounted: Side::of(ending, changes),
                shadow: Side::of(&trial.ran.ending, shadows),
            });
        }
        self.observed.push(Observed::Shadow(Box::new(run)));
    }

    /// A run has failed, and what it wrote is taken back: it is run once more, from the same state, to be recorded.
    ///
    /// One that took too long by the clock is not: what it did is no matter of what it was told. That is said, as it is of
    /// one that was told too much.
    pub(super) fn record_failure(
        &mut self,
        failed: &RunEnding,
        path: &ZnodePath,
        input: impl FnOnce(&Mount, &View) -> RunInput,
    ) {
        if !failed.is_failure() {
            return;
        }
        let is_by_clock = matches!(
            failed, RunEnding::Exceeded { bound, .. } if bound == Bound::WallClock.name()
        );
        let stretch = self.time.0 / RECORD_EVERY_MS;
        if self.recorded.stretch != stretch {
            self.recorded = Recorded {
                stretch,
                mounts: BTreeSet::new(),
            };
        }
        if !self.recorded.mounts.insert(path.clone()) {
            return;
        }
        let Some(mount) = Records::mount(&self.view, path) else {
            return;
        };
        let zxid = self.view.moment().zxid;
        let input = input(&mount, &self.view);
        let (at, operation) = (input.now, input.invocation.name().to_owned());
        let recording = match is_by_clock {
            true => Err(TOO_SLOW.to_owned()),
            false => {
                let trial = self.on_trial(input, mount, true);
                trial.recording.ok_or_else(|| TOLD_TOO_MUCH.to_owned())
            }
        };
        self.observed.push(Observed::Failure(Box::new(FailedRun {
            zxid,
            at,
            mount: path.clone(),
            operation,
            error: failed.to_string(),
            recording,
        })));
    }

    /// One run in the transaction being built, and all of it taken back.
    fn on_trial(&mut self, input: RunInput, mount: Mount, record: bool) -> Trial {
        let start = self.view.progress();
        let (path, recipe) = (mount.path.clone(), mount.recipe.clone());
        let recorded = record.then(|| input.clone());
        let mut report = self.run_on(input, mount, |tree| tree.on_trial(record));
        let ran = Ran {
            ending: report.ending,
            fuel: report.fuel,
            log: report.log,
        };
        let steps = report.tree.take_steps();
        let recording = recorded.zip(steps).map(|(input, steps)| Recording {
            mount: path,
            recipe,
            input,
            steps,
            ran: ran.clone(),
        });
        let recording = recording.filter(|recording| recording.bytes() <= MAX_RECORDING_BYTES);
        let changes = self.view.changes_since(start).to_vec();
        self.view.roll_back(start);
        Trial {
            ran,
            changes,
            recording,
        }
    }
}
