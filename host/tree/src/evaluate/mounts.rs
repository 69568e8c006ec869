//! Mounting, upgrading and unmounting. What concerns all parked calls of a mount goes by a mark in the mount, which one
//! transaction sets, and then in steps: each is a request of its own, of bounded size, so others' requests are evaluated
//! in between (rule S6). The state says how far that has come, so any leader goes on with it, whoever asks.

use quorate_model::call::{Ending, ParkedCall};
use quorate_model::id::Zxid;
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::RecipeDigest;
use quorate_model::request::Operation;
use quorate_model::run::Runner;
use quorate_model::write_set::Change;

use super::{Evaluator, MAX_MESSAGE_CHARACTERS, changes_bytes};
use crate::apply::Records as _;
use crate::operations::mount::{LEAST_MARK, MountRequest};
use crate::operations::{call, mount};
use crate::run::RunTree;

impl<R: Runner<RunTree>> Evaluator<R> {
    /// Mounts, or upgrades: the parked calls follow by [`Evaluator::follow_upgrade`].
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

    /// The next of the calls that were parked when the component was swapped: each is marked, so that it runs on the
    /// new one, or ends, if it does not fit that (rule C10).
    pub(super) fn follow_upgrade(
        &mut self,
        path: &ZnodePath,
        swapped: Zxid,
    ) -> Result<Outcome, Refusal> {
        let mount = mount::expect_stays(mount::find(&self.view, path)?)?;
        let same = mount.upgrade.filter(|upgrade| upgrade.swapped == swapped);
        let mut upgrade = same.ok_or_else(|| Refusal::Overtaken(path.clone()))?;
        if let Some(behind) = upgrade.behind {
            if !self.runner.ready(&mount.digest) {
                return Err(Refusal::NotReady(path.clone()));
            }
            let calls = mount::parked_calls(&self.view, path, behind, self.bounds.mount_step);
            let mut is_last = calls.len() < self.bounds.mount_step;
            let mut bytes = 0;
            for (age, id) in calls {
                if age >= swapped {
                    is_last = true;
                    break;
                }
                if bytes >= self.bounds.mount_step_bytes {
                    is_last = false;
                    break;
                }
                upgrade.behind = Some((age, id));
                let parked = self.view.parked(id).filter(|_| !id.is_standing());
                let Some(parked) = parked else {
                    continue;
                };
                upgrade.followed_calls += 1;
                bytes += parked.arguments.len();
                let before = self.view.progress();
                match self.fits(&mount.digest, &parked) {
                    Ok(()) if parked.marked => {}
                    Ok(()) => self.view.change(Change::Mark(id)),
                    Err(why) => {
                        upgrade.ended_calls += 1;
                        let ending = Ending::Outdated(why);
                        call::end_without_result(&mut self.view, &parked, ending);
                    }
                }
                bytes += changes_bytes(self.view.changes_since(before));
            }
            if is_last {
                upgrade.behind = None;
            }
            self.view.change(Change::SetUpgrade {
                mount: path.clone(),
                upgrade,
            });
        }
        Ok(Outcome::Followed {
            followed_calls: upgrade.followed_calls,
            ended_calls: upgrade.ended_calls,
            done: upgrade.behind.is_none(),
        })
    }

    /// Whether a parked call fits a component; why not, for its caller.
    pub(super) fn fits(&self, digest: &RecipeDigest, parked: &ParkedCall) -> Result<(), String> {
        let (operation, arguments) = (&parked.operation, &parked.arguments);
        let fits = self.runner.fits(digest, operation, arguments);
        fits.map_err(|why| why.chars().take(MAX_MESSAGE_CHARACTERS).collect())
    }

    /// Ends the next of the parked calls of a mount that is being unmounted; behind the last the mount goes.
    pub(super) fn continue_unmount(
        &mut self,
        path: &ZnodePath,
        mounted: Zxid,
    ) -> Result<Outcome, Refusal> {
        let (mount, mut ended_calls) = mount::unmounting(&self.view, path, mounted)?;
        let calls = mount::parked_calls(&self.view, path, LEAST_MARK, self.bounds.mount_step);
        let mut is_last = calls.len() < self.bounds.mount_step;
        let mut bytes = 0;
        for (_, id) in calls {
            if bytes >= self.bounds.mount_step_bytes {
                is_last = false;
                break;
            }
            let before = self.view.progress();
            if let Some(parked) = self.view.parked(id) {
                call::end_without_result(&mut self.view, &parked, Ending::Unmounted);
                ended_calls += 1;
            }
            bytes += changes_bytes(self.view.changes_since(before));
        }
        if is_last {
            mount::remove(&mut self.view, &mount);
            return Ok(Outcome::Unmounted { ended_calls });
        }
        self.view.change(Change::SetUnmounting {
            mount: path.clone(),
            ended_calls,
        });
        Ok(Outcome::Unmounting {
            mounted,
            ended_calls,
        })
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
