//! What the leader keeps of runs that were made to be looked at: the last failures, recorded, and how mounts' shadows
//! compare.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use quorate_model::id::{Timestamp, Zxid};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::RecipeDigest;
use quorate_model::recording::{Recording, Step};
use quorate_tree::{Observed, ShadowRun};
use serde::{Deserialize, Serialize};

/// How many recordings are kept.
const MAX_RECORDINGS: usize = 100;

/// Their bytes, about.
const MAX_RECORDING_BYTES: usize = 8 << 20;

/// How many differences of one shadow are kept: the last.
const MAX_DIFFERENCES: usize = 5;

/// What a kept difference may have changed, in changes: of more only the numbers are told.
const MAX_CHANGES: usize = 100;

/// What was observed here.
#[derive(Debug, Default)]
pub(super) struct Observations {
    failures: Mutex<Failures>,
    shadows: Mutex<BTreeMap<ZnodePath, Compared>>,
}

#[derive(Debug, Default)]
struct Failures {
    kept: VecDeque<(Zxid, Recording)>,
    bytes: usize,
}

/// How a mount's shadow compares with what is mounted, on the calls that both ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The shadow.
    pub digest: RecipeDigest,
    /// Runs that both made.
    pub runs: u64,
    /// Those that ended otherwise, or would have changed something else.
    pub differing: u64,
    /// The last of those.
    pub last: VecDeque<ShadowRun>,
}

/// A failed run, in a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The transaction that it failed in, by which its recording is asked for.
    pub zxid: Zxid,
    /// When.
    pub at: Timestamp,
    /// The mount.
    pub mount: ZnodePath,
    /// The operation.
    pub operation: String,
    /// Why.
    pub error: String,
}

impl Observations {
    pub(super) fn take(&self, observed: Observed) {
        match observed {
            Observed::Failure { zxid, recording } => self.failures.lock().take(zxid, *recording),
            Observed::Shadow(run) => {
                let run = *run;
                let mut shadows = self.shadows.lock();
                let fresh = || Compared {
                    digest: run.digest,
                    runs: 0,
                    differing: 0,
                    last: VecDeque::new(),
                };
                let compared = shadows.entry(run.mount.clone()).or_insert_with(fresh);
                if compared.digest != run.digest {
                    *compared = fresh();
                }
                compared.take(run);
            }
        }
    }

    pub(super) fn retain(&self, is_there: impl Fn(&ZnodePath) -> bool) {
        self.shadows.lock().retain(|mount, _| is_there(mount));
    }

    pub(super) fn shadows(&self) -> BTreeMap<ZnodePath, Compared> {
        self.shadows.lock().clone()
    }

    /// The last first.
    pub(super) fn failures(&self) -> Vec<Failure> {
        let failures = self.failures.lock();
        let shown = failures.kept.iter().rev().map(|(zxid, recording)| Failure {
            zxid: *zxid,
            at: recording.input.now,
            mount: recording.mount.clone(),
            operation: recording.input.invocation.name().to_owned(),
            error: recording.ran.ending.to_string(),
        });
        shown.collect()
    }

    pub(super) fn recording(&self, zxid: Zxid) -> Option<Recording> {
        let failures = self.failures.lock();
        let found = failures.kept.iter().find(|(kept, _)| *kept == zxid);
        found.map(|(_, recording)| recording.clone())
    }
}

impl Compared {
    fn take(&mut self, mut run: ShadowRun) {
        self.runs += 1;
        let Some(difference) = &mut run.difference else {
            return;
        };
        self.differing += 1;
        difference.mounted.1.truncate(MAX_CHANGES);
        difference.shadow.1.truncate(MAX_CHANGES);
        self.last.push_back(run);
        if self.last.len() > MAX_DIFFERENCES {
            self.last.pop_front();
        }
    }
}

impl Failures {
    fn take(&mut self, zxid: Zxid, recording: Recording) {
        self.bytes += bytes(&recording);
        self.kept.push_back((zxid, recording));
        while self.kept.len() > MAX_RECORDINGS || self.bytes > MAX_RECORDING_BYTES {
            let Some((_, oldest)) = self.kept.pop_front() else {
                return;
            };
            self.bytes -= bytes(&oldest);
        }
    }
}

fn bytes(recording: &Recording) -> usize {
    let lines = recording.ran.log.iter().map(|line| 16 + line.message.len());
    1000 + recording.steps.iter().map(Step::bytes).sum::<usize>() + lines.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use quorate_model::run::RunEnding;
    use quorate_tree::Difference;

    use super::*;

    fn run(shadow: u8, differs: bool) -> Observed {
        let returned = |text: &str| (RunEnding::Returned(text.into()), Vec::new());
        Observed::Shadow(Box::new(ShadowRun {
            mount: ZnodePath::parse("/m").unwrap(),
            operation: "add".into(),
            zxid: Zxid::new(1, 1),
            at: Timestamp(5),
            digest: RecipeDigest([shadow; 32]),
            difference: differs.then(|| Difference {
                mounted: returned("1"),
                shadow: returned("2"),
            }),
        }))
    }

    #[test]
    fn differences_are_counted_and_the_last_are_kept_until_there_is_another_shadow() {
        let observations = Observations::default();
        for number in 0..10 {
            observations.take(run(7, number % 2 == 0));
        }
        observations.take(run(7, true));
        let at = ZnodePath::parse("/m").unwrap();
        let compared = observations.shadows().remove(&at).unwrap();
        assert_eq!((compared.runs, compared.differing), (11, 6));
        assert_eq!(compared.last.len(), MAX_DIFFERENCES);
        observations.take(run(8, false));
        let compared = observations.shadows().remove(&at).unwrap();
        assert_eq!((compared.runs, compared.differing), (1, 0));
    }
}
