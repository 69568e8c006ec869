//! What the leader keeps of runs that were made to be looked at: the last failures, recorded, and how mounts' shadows
//! compare.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use quorate_model::id::{Timestamp, Zxid};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::RecipeDigest;
use quorate_model::recording::Recording;
use quorate_tree::{FailedRun, Observed, ShadowRun};
use serde::{Deserialize, Serialize};

/// How many recordings are kept.
const MAX_RECORDINGS: usize = 100;

/// Their bytes, about.
const MAX_RECORDING_BYTES: usize = 8 << 20;

/// How many differences of one shadow are kept: the last.
const MAX_DIFFERENCES: usize = 5;

/// How many mounts' shadows are counted.
const MAX_SHADOWS: usize = 1000;

/// What was observed here.
#[derive(Debug, Default)]
pub(super) struct Observations {
    failures: Mutex<Failures>,
    shadows: Mutex<BTreeMap<ZnodePath, Compared>>,
}

#[derive(Debug, Default)]
struct Failures {
    kept: VecDeque<FailedRun>,
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
    /// Why it runs no more, if so.
    pub stopped: Option<String>,
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
    /// Why there is no recording of it, for people; none if there is one.
    pub not_recorded: Option<String>,
}

impl Observations {
    pub(super) fn take(&self, observed: Observed) {
        match observed {
            Observed::Failure(failed) => self.failures.lock().take(*failed),
            Observed::Shadow(run) => {
                let run = *run;
                let mut shadows = self.shadows.lock();
                if shadows.len() >= MAX_SHADOWS && !shadows.contains_key(&run.mount) {
                    return;
                }
                let fresh = || Compared {
                    digest: run.digest,
                    runs: 0,
                    differing: 0,
                    last: VecDeque::new(),
                    stopped: None,
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

    /// Runs and differences by mount, without what differed.
    pub(super) fn counts(&self) -> Vec<(ZnodePath, u64, u64)> {
        let shadows = self.shadows.lock();
        let counts = shadows
            .iter()
            .map(|(mount, it)| (mount.clone(), it.runs, it.differing));
        counts.collect()
    }

    /// The last first.
    pub(super) fn failures(&self) -> Vec<Failure> {
        let failures = self.failures.lock();
        let shown = failures.kept.iter().rev().map(|kept| Failure {
            zxid: kept.zxid,
            at: kept.at,
            mount: kept.mount.clone(),
            operation: kept.operation.clone(),
            error: kept.error.clone(),
            not_recorded: kept.recording.as_ref().err().cloned(),
        });
        shown.collect()
    }

    /// If the run is still known: its recording, or why there is none.
    pub(super) fn recording(&self, zxid: Zxid) -> Option<Result<Recording, String>> {
        let failures = self.failures.lock();
        let found = failures.kept.iter().find(|kept| kept.zxid == zxid);
        found.map(|kept| kept.recording.clone())
    }
}

impl Compared {
    fn take(&mut self, run: ShadowRun) {
        self.runs += 1;
        self.stopped.clone_from(&run.stopped);
        if run.difference.is_none() {
            return;
        }
        self.differing += 1;
        self.last.push_back(run);
        if self.last.len() > MAX_DIFFERENCES {
            self.last.pop_front();
        }
    }
}

impl Failures {
    fn take(&mut self, failed: FailedRun) {
        self.bytes += failed.bytes();
        self.kept.push_back(failed);
        while self.kept.len() > MAX_RECORDINGS || self.bytes > MAX_RECORDING_BYTES {
            let Some(oldest) = self.kept.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use quorate_model::bound::MountBounds;
    use quorate_model::id::SessionId;
    use quorate_model::recording::Ran;
    use quorate_model::run::{Invocation, RunEnding, RunInput};
    use quorate_tree::{Difference, Side};

    use super::*;

    /// One whose recording has so many bytes, and some more.
    pub(in super::super) fn failure(zxid: Zxid, bytes: usize) -> Observed {
        let input = RunInput {
            digest: RecipeDigest([7; 32]),
            invocation: Invocation::Standing,
            session: SessionId::NONE,
            identities: Vec::new(),
            now: Timestamp(5),
            started: Timestamp(5),
            transaction: zxid,
            memo: Some(vec![b'm'; bytes].into()),
            bounds: MountBounds::default(),
        };
        let recording = Recording {
            mount: ZnodePath::parse("/m").unwrap(),
            recipe: "adder".into(),
            input,
            steps: Vec::new(),
            ran: Ran {
                ending: RunEnding::Trapped("as asked".into()),
                fuel: 1,
                log: Vec::new(),
            },
        };
        failed(zxid, Ok(recording))
    }

    fn failed(zxid: Zxid, recording: Result<Recording, String>) -> Observed {
        Observed::Failure(Box::new(FailedRun {
            zxid,
            at: Timestamp(5),
            mount: ZnodePath::parse("/m").unwrap(),
            operation: "add".into(),
            error: "as asked".into(),
            recording,
        }))
    }

    #[test]
    fn a_failure_that_was_not_recorded_is_listed_with_the_reason() {
        let observations = Observations::default();
        let (first, second) = (Zxid::new(1, 1), Zxid::new(1, 2));
        observations.take(failure(first, 10));
        observations.take(failed(second, Err("it was told too much".into())));
        let listed = observations.failures();
        let reasons: Vec<_> = listed.iter().map(|it| it.not_recorded.as_deref()).collect();
        assert_eq!(reasons, [Some("it was told too much"), None]);
        let known = |zxid| observations.recording(zxid).map(|it| it.map(|it| it.mount));
        assert_eq!(known(first), Some(Ok(ZnodePath::parse("/m").unwrap())));
        assert_eq!(known(second), Some(Err("it was told too much".into())));
        assert_eq!(known(Zxid::new(1, 3)), None);
    }

    fn run(shadow: u8, differs: bool) -> Observed {
        let returned = |text: &str| Side {
            ending: format!("returned {text}"),
            changed: 0,
            changes: Vec::new(),
        };
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
            stopped: None,
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
