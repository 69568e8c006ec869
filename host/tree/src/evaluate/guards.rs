//! Guards are asked about plain clients' writes (rule C7).

use quorate_model::bound::{Bound, EPHEMERAL_BYTES};
use quorate_model::outcome::Refusal;
use quorate_model::recipe::Mount;
use quorate_model::request::{CreatePath, Operation, Request, ZnodeOperation};
use quorate_model::run::{GuardedChange, Invocation, RunEnding, RunInput, Runner};

use super::{Evaluator, failure_of};
use crate::operations::mount::{self, Counted};
use crate::run::RunTree;
use crate::view::Progress;

/// What each guard costs of the request's budget beside its own fuel, so that the number of guards is bounded too.
const FUEL_PER_GUARD: u64 = 10_000;

impl<R: Runner<RunTree>> Evaluator<R> {
    /// Asks each guard whose mount the request has changed since `start`, once. What guards write is part of the
    /// same transaction; whoever refuses, the caller takes all of it back.
    pub(super) fn ask_guards(&mut self, request: &Request, start: Progress) -> Result<(), Refusal> {
        let mut fuel = self.bounds.guard_fuel;
        for (mount, changes) in self.view.guarded_since(start) {
            let part = part_below(&request.operation, &mount);
            let asked = self.ask_guard(request, mount, changes, &mut fuel);
            asked.map_err(|refusal| match part {
                Some(index) => Refusal::Multi {
                    index,
                    refusal: Box::new(refusal),
                },
                None => refusal,
            })?;
        }
        Ok(())
    }

    fn ask_guard(
        &mut self,
        request: &Request,
        mount: Mount,
        changes: Vec<GuardedChange>,
        fuel: &mut u64,
    ) -> Result<(), Refusal> {
        let (path, recipe) = (mount.path.clone(), mount.recipe.clone());
        let failed = |reason: String| Refusal::GuardFailed {
            mount: path.clone(),
            recipe: recipe.clone(),
            reason,
        };
        // What it guards is guarded until it is gone: nothing is written past it in between.
        if mount.unmounting.is_some() {
            return Err(failed(format!(
                "it is being unmounted, and then it guards no more; if nobody goes on with that, `quorate unmount {path}` does"
            )));
        }
        if let Some(reason) = &mount.suspended {
            return Err(failed(format!(
                "it is suspended ({reason}); `quorate resume {path}` lets it run again"
            )));
        }
        *fuel = fuel.saturating_sub(FUEL_PER_GUARD);
        if *fuel == 0 {
            let most = self.bounds.guard_fuel;
            return Err(failed(format!(
                "all guards that one request asks have {most} units of fuel together, and those are used up"
            )));
        }
        let most = mount.bounds.of(Bound::Fuel).min(*fuel);
        let moment = self.view.moment();
        let input = RunInput {
            digest: mount.digest,
            invocation: Invocation::Guard(changes),
            session: request.session,
            identities: Vec::clone(&request.identities),
            now: moment.time,
            started: moment.time,
            transaction: moment.zxid,
            memo: None,
            bounds: mount.bounds.with(Bound::Fuel, Some(most)),
        };
        let counted = Counted::from(&mount);
        let (before, start) = (self.fuel, self.view.progress());
        let (ending, _) = self.run(input.clone(), mount);
        if let RunEnding::Trapped(_) | RunEnding::Exceeded { .. } = &ending {
            self.view.roll_back(start);
            self.record_failure(&ending, &path, |_, _| input);
        }
        *fuel = fuel.saturating_sub(self.fuel - before);
        match ending {
            RunEnding::Returned(_) => {
                mount::count_run(&mut self.view, &counted, None);
                Ok(())
            }
            RunEnding::Refused(reason) => Err(Refusal::GuardRefused {
                mount: path,
                reason,
            }),
            RunEnding::NotReady => Err(Refusal::NotReady(path)),
            RunEnding::Exceeded { bound, message } if bound == EPHEMERAL_BYTES => {
                let bound = bound.into();
                Err(Refusal::BoundReached { bound, message })
            }
            ending => {
                let failure = failure_of(&ending)
                    .unwrap_or_else(|| "a guard has to return, or to refuse".into());
                self.failed_guard = Some((counted, failure.clone()));
                Err(failed(failure))
            }
        }
    }
}

/// Of a multi: the first part that concerns the mount. A multi fails at one of its parts, in ZooKeeper's protocol.
fn part_below(operation: &Operation, mount: &Mount) -> Option<u32> {
    let Operation::Multi(parts) = operation else {
        return None;
    };
    let concerns = |part: &ZnodeOperation| {
        let path = match part {
            ZnodeOperation::Create { path, .. } => match path {
                CreatePath::Exactly(path) => path,
                CreatePath::Sequential { parent, .. } => parent,
            },
            ZnodeOperation::Delete { path, .. } | ZnodeOperation::Set { path, .. } => path,
            ZnodeOperation::SetAcl { .. } | ZnodeOperation::Check { .. } => return false,
        };
        mount.path.contains(path)
    };
    let part = parts.iter().position(concerns).unwrap_or(0);
    Some(part as u32)
}
