//! Wakes: parked calls whose watch has fired run again, within a budget for each entry: the mounts by turns (rule
//! C5), the calls of each in the order of their age (C4).
//!
//! The state's index has every mark. Here they are sorted by what they wait for, so that calls which cannot run
//! now, of a mount that is suspended, say, cost nothing however many they are.

use std::collections::{BTreeSet, HashMap};

use quorate_model::bound::Bound;
use quorate_model::call::{Ending, ParkedCall, Watch};
use quorate_model::id::{CallId, SessionId, Timestamp};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Mount, RecipeDigest};
use quorate_model::run::{LogLevel, LogLine, RunEnding, Runner};
use quorate_model::write_set::Change;

use super::turns::{Mark, Turns};
use super::{Evaluator, RecipeLine, ending_of, failure_of};
use crate::apply::Records;
use crate::operations::call::{self, Call};
use crate::operations::mount::{self, Counted, LEAST_CALL};
use crate::operations::{standing, znode};
use crate::run::RunTree;
use crate::state::IndexKey;
use crate::view::View;

/// The stretch of time over which the runs of one parked call are counted, in milliseconds.
const PACE_MS: u64 = 20;

/// What a wake counts of an entry's budget at least, in fuel: however little its run does, an instance is made for it,
/// and what it changes is written and applied. So many that run cheaply take their time too (rule C5).
const FUEL_PER_WAKE: u64 = 100_000;

/// Marked calls that wait for something, by mount.
type Waiting = HashMap<ZnodePath, BTreeSet<Mark>>;

/// The marked calls. One that is not marked any more, or is gone, may still stand here: whoever takes it looks.
pub(super) struct Wakes {
    /// Who can be run.
    due: Turns,
    /// Who has run too often in this stretch of time.
    paced: Waiting,
    /// Whose recipe is not compiled here yet (rule C6).
    unready: Waiting,
    /// Whose mount is suspended.
    suspended: Waiting,
    /// The stretch of time that is counted in, and the calls' runs in it.
    runs: (u64, HashMap<CallId, u32>),
    /// The second that is counted in, and the mounts' wakes in it.
    rates: (u64, HashMap<ZnodePath, u64>),
    /// How many calls have woken one another in a row up to this one, where it is more than one; of a marked call, and
    /// of one that waits for a moment which has come.
    chains: HashMap<CallId, u64>,
    /// The same of the call whose transaction is being built; 0 if it is a request's, or time's.
    depth: u64,
}

impl Wakes {
    pub(super) fn new(marks: Vec<(ZnodePath, Mark)>) -> Wakes {
        let mut due = Turns::default();
        for (mount, mark) in marks {
            due.insert(mount, mark);
        }
        Wakes {
            due,
            paced: HashMap::new(),
            unready: HashMap::new(),
            suspended: HashMap::new(),
            runs: (0, HashMap::new()),
            rates: (0, HashMap::new()),
            chains: HashMap::new(),
            depth: 0,
        }
    }

    /// Whether a call may be run, now or soon.
    pub(super) fn any(&self) -> bool {
        !(self.due.is_empty() && self.paced.is_empty() && self.unready.is_empty())
    }

    /// Whether there is something to look at, at this moment.
    fn any_now(&self, now: Timestamp) -> bool {
        !self.due.is_empty() || self.runs.0 != now.0 / PACE_MS && self.any()
    }

    /// A change of a finished transaction.
    pub(super) fn follow(&mut self, view: &View, change: &Change, now: Timestamp) {
        match change {
            Change::Mark(id) => {
                if let Some(parked) = view.parked(*id) {
                    self.due.insert(parked.mount, (parked.age, *id));
                    if self.depth > 0 {
                        self.chains.insert(*id, self.depth + 1);
                    }
                }
            }
            Change::Park(parked) if parked.marked => {
                let mark = (parked.age, parked.id);
                self.due.insert(parked.mount.clone(), mark);
            }
            Change::Park(parked) if self.depth > 0 => {
                let come = |watch: &Watch| matches!(watch, Watch::Time(at) if *at <= now);
                if parked.watches.iter().any(come) {
                    self.chains.insert(parked.id, self.depth);
                }
            }
            Change::Unpark(id) => {
                self.chains.remove(id);
            }
            Change::Suspend {
                mount,
                reason: None,
            } => {
                let calls = self.suspended.remove(mount).unwrap_or_default();
                self.due.extend(mount.clone(), calls);
            }
            // None of its calls runs any more.
            Change::SetUnmounting { mount, .. } => {
                self.due.remove(mount);
                self.suspended.remove(mount);
                self.paced.remove(mount);
                self.unready.remove(mount);
            }
            _ => {}
        }
    }

    /// At the beginning of a stretch of time: who waited for it is due again.
    fn advance(&mut self, now: Timestamp) {
        let stretch = now.0 / PACE_MS;
        if self.runs.0 == stretch {
            return;
        }
        self.runs = (stretch, HashMap::new());
        let paced = std::mem::take(&mut self.paced);
        // One of each mount finds out whether it is ready.
        let unready = std::mem::take(&mut self.unready);
        for (mount, calls) in paced.into_iter().chain(unready) {
            self.due.extend(mount, calls);
        }
    }

    /// Counts one more wake of a mount; gives how many there were in this second.
    fn count(&mut self, mount: &ZnodePath, now: Timestamp) -> u64 {
        let second = now.0 / 1000;
        if self.rates.0 != second {
            self.rates = (second, HashMap::new());
        }
        let wakes = self.rates.1.entry(mount.clone()).or_default();
        *wakes += 1;
        *wakes
    }
}

impl<R: Runner<RunTree>> Evaluator<R> {
    /// Runs timers and marked calls until none is due or the entry's budget is used up.
    pub(super) fn settle(&mut self) {
        if self.wakes.any_now(self.time) || self.due <= self.time {
            self.left_over = !self.settle_within_budget(true);
            self.look_ahead();
        } else {
            self.left_over = false;
        }
    }

    /// What is due next, so that a request that concerns no timer pays nothing for them.
    pub(super) fn look_ahead(&mut self) {
        let never = Timestamp(u64::MAX);
        let lease = self.first_lease(never).map(|(moment, _)| moment);
        let alarm = self.first_alarm(never).map(|(moment, _)| moment);
        let upload = self.first_upload(never).map(|(moment, _)| moment);
        let due = lease.into_iter().chain(alarm).chain(upload);
        self.due = due.min().unwrap_or(never);
    }

    /// Runs timers that are due, and no call yet. Where none of them runs none is born, so this comes to an end.
    pub(super) fn settle_timers(&mut self) {
        if self.due <= self.time {
            self.settle_within_budget(false);
            self.left_over = true;
            self.look_ahead();
        }
    }

    /// Whether everything was done that can be done now.
    fn settle_within_budget(&mut self, with_calls: bool) -> bool {
        self.wakes.advance(self.time);
        loop {
            let bounds = &self.bounds;
            if self.bytes >= bounds.wake_bytes
                || self.spent.fuel >= bounds.wake_fuel
                || self.spent.steps >= bounds.wakes_at_once
            {
                return false;
            }
            self.spent.steps += 1;
            if let Some((_, path)) = self.first_lease(self.time) {
                self.begin();
                znode::delete_node(&mut self.view, &path);
                self.finish(None, SessionId::NONE, None, None);
            } else if let Some((_, id)) = self.first_alarm(self.time) {
                self.ring(id);
            } else if let Some((_, digest)) = self.first_upload(self.time) {
                self.begin();
                self.view.change(Change::DropUpload { digest });
                self.finish(None, SessionId::NONE, None, None);
            } else if !with_calls {
                return false;
            } else {
                let Some((parked, mount)) = self.next_mark() else {
                    self.spent.steps -= 1;
                    return true;
                };
                match self.excess(&parked, &mount) {
                    None => self.wake_at(parked, mount),
                    Some(reason) => self.suspend(&parked, &reason),
                }
            }
        }
    }

    /// Of the mount whose turn it is, the oldest marked call that can be run now. Those that cannot are put where
    /// they wait for it.
    fn next_mark(&mut self) -> Option<(ParkedCall, Mount)> {
        while let Some((_, mark)) = self.wakes.due.pop() {
            let found = self.marked(mark.1);
            let Some((parked, mount)) = found.filter(|(_, mount)| mount.unmounting.is_none())
            else {
                continue;
            };
            if mount.suspended.is_some() {
                let calls = self.wakes.suspended.entry(mount.path).or_default();
                calls.insert(mark);
            } else if !self.runner.ready(&mount.digest) {
                let calls = self.wakes.unready.entry(mount.path).or_default();
                calls.insert(mark);
            } else if self.exceeds_its_pace(mark.1) {
                let calls = self.wakes.paced.entry(mount.path).or_default();
                calls.insert(mark);
            } else {
                return Some((parked, mount));
            }
        }
        None
    }

    /// A call, if it is parked and its run is due.
    fn marked(&self, id: CallId) -> Option<(ParkedCall, Mount)> {
        let parked = self.view.parked(id).filter(|parked| parked.marked)?;
        let mount = Records::mount(&self.view, &parked.mount)?;
        Some((parked, mount))
    }

    /// Whether it has run so often just now that it has to wait, so that others are not held up.
    fn exceeds_its_pace(&mut self, id: CallId) -> bool {
        let runs = self.wakes.runs.1.entry(id).or_default();
        *runs += 1;
        *runs > self.bounds.runs_at_once
    }

    /// Why a mount wakes too much, if it does.
    fn excess(&mut self, parked: &ParkedCall, mount: &Mount) -> Option<String> {
        let depth = self.wakes.chains.get(&parked.id).copied().unwrap_or(1);
        let most = mount.bounds.of(Bound::ChainDepth);
        if depth > most {
            let why = format!("more than {most} calls have woken one another in a row");
            return Some(Bound::ChainDepth.suspension(&why));
        }
        let most = mount.bounds.of(Bound::WakesPerSecond);
        (self.wakes.count(&mount.path, self.time) > most).then(|| {
            let why = format!("more than {most} calls have woken in a second");
            Bound::WakesPerSecond.suspension(&why)
        })
    }

    /// Suspends the mount of a marked call, which keeps its mark and may run once it is resumed.
    fn suspend(&mut self, parked: &ParkedCall, reason: &str) {
        self.wakes.chains.remove(&parked.id);
        let calls = self.wakes.suspended.entry(parked.mount.clone());
        calls.or_default().insert((parked.age, parked.id));
        self.begin();
        mount::suspend(&mut self.view, &parked.mount, reason);
        self.finish(None, SessionId::NONE, None, None);
    }

    /// A parked call's deadline has passed, or a moment that it waits for has come.
    fn ring(&mut self, id: CallId) {
        self.wakes.depth = self.wakes.chains.remove(&id).unwrap_or(0);
        self.begin();
        if let Some(parked) = self.view.parked(id) {
            let passed = |deadline| deadline <= self.time;
            if parked.deadline.is_some_and(passed) {
                call::end_without_result(&mut self.view, &parked, Ending::TimedOut);
            } else {
                self.view.change(Change::Mark(id));
            }
        }
        self.finish(None, id.session, Some(id), None);
        self.wakes.depth = 0;
    }

    /// Runs a marked call again.
    pub(super) fn wake(&mut self, id: CallId) {
        if let Some((parked, mount)) = self.marked(id) {
            self.wake_at(parked, mount);
        }
    }

    fn wake_at(&mut self, parked: ParkedCall, mount: Mount) {
        let id = parked.id;
        let upgrade = mount.upgrade.filter(|_| !id.is_standing());
        let follows = upgrade.is_some_and(|upgrade| upgrade.awaits(parked.age, id));
        if follows && let Err(why) = self.fits(&mount.digest, &parked) {
            return self.end_outdated(&parked, why);
        }
        let start = self.begin();
        let call = Call::woken(parked.clone());
        let counted = Counted::from(&mount);
        let fuel_before = self.fuel;
        let shadow = self.run_shadow(&call, &mount);
        let (ending, created) = self.run(call.input(&mount, &self.view), mount);
        self.compare_shadow(shadow, start, &ending);
        let ending = match ending {
            RunEnding::NotReady => {
                // It was ready a moment ago. Its mark stays.
                self.view.roll_back(start);
                self.counter -= 1;
                let calls = self.wakes.unready.entry(parked.mount).or_default();
                calls.insert((parked.age, id));
                return;
            }
            RunEnding::Parked { memo, watches } => call
                .park(&mut self.view, &self.bounds, memo, &watches, &created)
                .err(),
            ending => Some(ending),
        };
        let failure = ending.as_ref().and_then(failure_of);
        match ending {
            None => {}
            Some(RunEnding::Returned(_)) if id.is_standing() => {
                self.view.change(Change::Unpark(id))
            }
            Some(RunEnding::Returned(result)) => {
                call.answer(&mut self.view, Ending::Returned(result));
            }
            Some(failed) => {
                self.view.roll_back(start);
                self.record_failure(&failed, &parked.mount, |mount, view| {
                    call.input(mount, view)
                });
                let ending = ending_of(failed);
                if id.is_standing() {
                    self.fail_standing(&parked, &ending);
                } else {
                    call::end_without_result(&mut self.view, &parked, ending);
                }
            }
        }
        mount::count_run(&mut self.view, &counted, failure.as_deref());
        if follows && self.view.parked(id).is_none() {
            mount::count_followed(&mut self.view, &parked.mount, false);
        }
        // Its shadow's, and that of its record, too.
        let fuel = self.fuel - fuel_before;
        self.spent.fuel += fuel.max(FUEL_PER_WAKE);
        self.wakes.due.charge(&parked.mount, fuel);
        self.wakes.depth = self.wakes.chains.remove(&id).unwrap_or(1);
        self.finish(None, id.session, Some(id), None);
        self.wakes.depth = 0;
    }

    /// A call that is woken before it has followed its mount's upgrade, and does not fit it, ends as it would have by
    /// following (rule C10).
    fn end_outdated(&mut self, parked: &ParkedCall, why: String) {
        self.begin();
        call::end_without_result(&mut self.view, parked, Ending::Outdated(why));
        mount::count_followed(&mut self.view, &parked.mount, true);
        self.spent.fuel += FUEL_PER_WAKE;
        self.wakes.depth = self.wakes.chains.remove(&parked.id).unwrap_or(1);
        self.finish(None, parked.id.session, Some(parked.id), None);
        self.wakes.depth = 0;
    }

    /// A standing call has no caller to be told, so its operator is.
    fn fail_standing(&mut self, parked: &ParkedCall, ending: &Ending) {
        let pause_ms = standing::fail(&mut self.view, parked);
        self.log.push(RecipeLine {
            mount: parked.mount.clone(),
            operation: "standing".into(),
            line: LogLine {
                level: LogLevel::Warn,
                message: format!("{ending}; it is tried again in {pause_ms} ms"),
            },
        });
    }

    fn first_lease(&self, until: Timestamp) -> Option<(Timestamp, ZnodePath)> {
        let from = IndexKey::Lease(Timestamp(0), ZnodePath::root());
        let due = |key: &IndexKey| matches!(key, IndexKey::Lease(moment, _) if *moment <= until);
        match self.view.indexed(from, due, 1).pop()? {
            IndexKey::Lease(moment, path) => Some((moment, path)),
            _ => None,
        }
    }

    fn first_upload(&self, until: Timestamp) -> Option<(Timestamp, RecipeDigest)> {
        let from = IndexKey::Upload(Timestamp(0), RecipeDigest([0; 32]));
        let due = |key: &IndexKey| matches!(key, IndexKey::Upload(moment, _) if *moment <= until);
        match self.view.indexed(from, due, 1).pop()? {
            IndexKey::Upload(moment, digest) => Some((moment, digest)),
            _ => None,
        }
    }

    fn first_alarm(&self, until: Timestamp) -> Option<(Timestamp, CallId)> {
        let from = IndexKey::Alarm(Timestamp(0), LEAST_CALL);
        let due = |key: &IndexKey| matches!(key, IndexKey::Alarm(moment, _) if *moment <= until);
        match self.view.indexed(from, due, 1).pop()? {
            IndexKey::Alarm(moment, call) => Some((moment, call)),
            _ => None,
        }
    }
}
