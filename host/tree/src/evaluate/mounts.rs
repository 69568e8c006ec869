//! Mounting, upgrading and unmounting: what touches very many parked calls goes in steps (rule S6).

use quorate_model::call::Ending;
use quorate_model::id::{CallId, SessionId, Zxid};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::request::Operation;
use quorate_model::run::Runner;
use quorate_model::write_set::Change;

use super::Evaluator;
use crate::apply::Records as _;
use crate::operations::mount::{LEAST_CALL, MountRequest};
use crate::operations::{call, mount};
use crate::run::RunTree;

/// What an upgrade does to the calls that wait.
#[derive(Clone, Copy, Default)]
pub(super) struct Woken {
    /// How many run again.
    pub(super) calls: u32,
    /// How many of those end, since they do not fit the component.
    pub(super) ending: u32,
}

impl<R: Runner<RunTree>> Evaluator<R> {
    /// Mounts, or upgrades: the parked calls are marked then.
    pub(super) fn mount(&mut self, operation: &Operation) -> Result<Outcome, Refusal> {
        let Some(request) = mount_request(operation) else {
            return Err(Refusal::BadArguments("it mounts nothing".into()));
        };
        if request.upgrade {
            let (_, version) = mount::target(&self.view, &request)?;
            if !self.runner.ready(&version.digest) {
                return Err(Refusal::NotReady(request.path.clone()));
            }
        }
        mount::mount(&mut self.view, &request)
    }

    /// Marks the parked calls of a mount that is about to go on with another component, in steps. They are marked
    /// before and not behind the upgrade: to run once too often on the old component does no harm, so whenever the
    /// epoch ends, the request can be evaluated again.
    pub(super) fn mark_for_upgrade(&mut self, operation: &Operation) -> Woken {
        let mut woken = Woken::default();
        let Some(request) = mount_request(operation).filter(|request| request.upgrade) else {
            return woken;
        };
        let version = match mount::target(&self.view, &request) {
            Ok((Some(before), version)) if before.digest != version.digest => version,
            // Refused, or nothing to do.
            _ => return woken,
        };
        if !self.runner.ready(&version.digest) {
            return woken;
        }
        let path = request.path;
        let mut from = (Zxid::ZERO, LEAST_CALL);
        loop {
            let calls = mount::parked_calls(&self.view, path, from, self.bounds.mount_step);
            let Some((age, last)) = calls.last() else {
                return woken;
            };
            from = (*age, behind(*last));
            self.begin();
            for (_, id) in calls.into_iter().filter(|(_, id)| !id.is_standing()) {
                let Some(parked) = self.view.parked(id) else {
                    continue;
                };
                woken.calls += 1;
                let (operation, arguments) = (&parked.operation, &parked.arguments);
                if !self.runner.fits(&version.digest, operation, arguments) {
                    woken.ending += 1;
                }
                if !parked.marked {
                    self.view.change(Change::Mark(id));
                }
            }
            self.finish(None, SessionId::NONE, None, None);
        }
    }

    /// Ends the parked calls of a mount, in steps: whoever asked may not unmount, but has said so to nobody else yet.
    pub(super) fn end_parked_calls(&mut self, path: &ZnodePath) -> u32 {
        let mut ended = 0;
        loop {
            let from = (Zxid::ZERO, LEAST_CALL);
            let calls = mount::parked_calls(&self.view, path, from, self.bounds.mount_step);
            if calls.is_empty() {
                return ended;
            }
            self.begin();
            for (_, id) in calls {
                if id.is_standing() {
                    self.view.change(Change::Unpark(id));
                } else if let Some(parked) = self.view.parked(id) {
                    call::end_without_result(&mut self.view, &parked, Ending::Unmounted);
                    ended += 1;
                }
            }
            self.finish(None, SessionId::NONE, None, None);
        }
    }
}

/// The least call id after this one.
fn behind(id: CallId) -> CallId {
    match id.key.checked_add(1) {
        Some(key) => CallId { key, ..id },
        None => CallId {
            session: SessionId(id.session.0.saturating_add(1)),
            key: 0,
        },
    }
}

fn mount_request(operation: &Operation) -> Option<MountRequest<'_>> {
    match operation {
        Operation::Mount {
            path,
            recipe,
            digest,
            settings,
            upgrade,
        } => Some(MountRequest {
            path,
            recipe,
            digest: *digest,
            settings,
            upgrade: *upgrade,
        }),
        _ => None,
    }
}
