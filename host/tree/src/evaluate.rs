//! Evaluate: requests, wakes and timers become transactions. On the leader only, one at a time.
//!
//! Pure: the time is an argument, recipes run behind [`Runner`], and what comes out is a batch for
//! one raft entry. The driver (a server's leader, a scenario, a simulation) says when.

use std::collections::BTreeMap;

use quorate_model::call::{CallRequest, Ending, Watch};
use quorate_model::id::{CallId, Origin, SessionId, Timestamp, Zxid};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::Mount;
use quorate_model::request::{Operation, Request};
use quorate_model::run::{LogLine, RunEnding, Runner};
use quorate_model::write_set::{Batch, Change, Transaction};
use quorate_model::znode::Lifetime;

use crate::apply::{Moment, Records};
use crate::operations::call::{self, Admission, Call};
use crate::operations::{mount, multi, recipe, session, znode};
use crate::run::RunTree;
use crate::state::{IndexKey, SharedState};
use crate::view::{Progress, View};

/// How much evaluation keeps, and does at once.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Answers kept and calls parked in one session (rule C2).
    pub calls_per_session: u32,
    /// Bytes of a call's arguments.
    pub arguments_bytes: usize,
    /// Wakes and timers evaluated behind one request; what is left over goes first in the next entry (rule C4).
    pub wakes_at_once: u32,
    /// Runs of one parked call behind one request, so that a call that wakes itself ends.
    pub runs_in_a_row: u32,
    /// Parked calls that one transaction of an unmount ends (rule S6).
    pub unmount_step: usize,
    /// A parked call over whose run so many epochs ended is ended (rule S5).
    pub lost_epochs: u32,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            calls_per_session: 1000,
            arguments_bytes: 256 << 10,
            wakes_at_once: 1000,
            runs_in_a_row: 64,
            unmount_step: 1000,
            lost_epochs: 3,
        }
    }
}

/// Makes transactions, from the state at which an epoch began onwards.
pub struct Evaluator<R> {
    pub(crate) view: View,
    base: SharedState,
    runner: R,
    bounds: Bounds,
    epoch: u32,
    counter: u32,
    time: Timestamp,
    /// No timer is due before this moment.
    due: Timestamp,
    /// Whether a parked call may be marked.
    marked: bool,
    first_counter: u32,
    transactions: Vec<Transaction>,
    bytes: usize,
    log: Vec<RecipeLine>,
}

/// A line that a recipe wrote, and where.
#[derive(Clone, Debug)]
pub struct RecipeLine {
    /// The mount.
    pub mount: ZnodePath,
    /// The operation.
    pub operation: String,
    /// The line.
    pub line: LogLine,
}

impl<R: Runner<RunTree>> Evaluator<R> {
    /// Begins with exactly the state that `base` has now: the epoch's start was its last entry.
    pub fn new(base: SharedState, runner: R, bounds: Bounds) -> Evaluator<R> {
        let (last, time) = {
            let state = base.read();
            (state.last_zxid(), state.last_time())
        };
        let mut evaluator = Evaluator {
            view: View::new(base.clone()),
            base,
            runner,
            bounds,
            epoch: last.epoch(),
            counter: last.counter(),
            time,
            due: Timestamp(0),
            marked: true,
            first_counter: last.counter().wrapping_add(1),
            transactions: Vec::new(),
            bytes: 0,
            log: Vec::new(),
        };
        evaluator.look_ahead();
        evaluator
    }

    /// How many transactions the epoch has room for: a leader opens a new epoch before there is none (zxid rollover).
    pub fn room(&self) -> u32 {
        u32::MAX - self.counter
    }

    /// About how many bytes the batch has so far.
    pub fn batch_bytes(&self) -> usize {
        self.bytes
    }

    /// What was evaluated since the last call, for one raft entry; none if that is nothing.
    pub fn take_batch(&mut self) -> Option<Batch> {
        if self.transactions.is_empty() {
            return None;
        }
        self.bytes = 0;
        let first_counter =
            std::mem::replace(&mut self.first_counter, self.counter.wrapping_add(1));
        let transactions = std::mem::take(&mut self.transactions);
        Some(Batch {
            epoch: self.epoch,
            first_counter,
            transactions,
        })
    }

    /// The lines that recipes wrote since the last call.
    pub fn take_log(&mut self) -> Vec<RecipeLine> {
        std::mem::take(&mut self.log)
    }

    /// Everything up to `zxid` is applied here.
    pub fn applied(&mut self, zxid: Zxid) {
        self.view.drop_applied(zxid);
    }

    /// When the next lease ends, or the next parked call's moment comes, at the earliest.
    pub fn next_due(&self) -> Timestamp {
        self.due
    }

    /// Whether a parked call's run is due: left over from the last batch, or from the leader before.
    pub fn has_wakes(&self) -> bool {
        self.marked
    }

    /// Does what is due at `now`: leases end, deadlines pass, moments come, marked calls run.
    pub fn tick(&mut self, now: Timestamp) {
        self.time = self.time.max(now);
        self.settle();
    }

    /// Runs the call that this epoch's start names as a suspect; ends it if too many epochs ended over
    /// that (rule S5). The driver proposes the outcome before it evaluates anything else.
    pub fn run_suspect(&mut self, id: CallId, now: Timestamp) {
        self.time = self.time.max(now);
        let Some(parked) = self.view.parked(id).filter(|parked| parked.marked) else {
            return;
        };
        // The epoch that has just begun is counted, and not lost yet.
        let lost = parked.suspected.saturating_sub(1);
        if lost < self.bounds.lost_epochs {
            self.wake(id);
            return;
        }
        self.begin();
        let message = format!("{lost} epochs ended while it was run: a defect of the server");
        call::end_without_result(&mut self.view, &parked, Ending::Trapped(message));
        self.finish(None, id.session, Some(id), None);
    }

    /// Evaluates a request, and right behind it what it wakes. Timers that are due come first (rule E3).
    pub fn evaluate(&mut self, request: &Request, origin: Option<Origin>, now: Timestamp) {
        if self.due <= now {
            self.tick(now);
        }
        self.evaluate_alone(request, origin, now);
        self.settle();
    }

    /// Evaluates a request, and leaves what it wakes for later: whichever of them ends epochs is then
    /// found out (rule S5).
    pub fn evaluate_alone(&mut self, request: &Request, origin: Option<Origin>, now: Timestamp) {
        self.time = self.time.max(now);
        let ended = match &request.operation {
            Operation::Unmount { path } => self.end_parked_calls(path),
            _ => 0,
        };
        let start = self.begin();
        let outcome = match self.decide(request) {
            Ok(Outcome::Unmounted { .. }) => Outcome::Unmounted { ended_calls: ended },
            Ok(outcome) => outcome,
            Err(refusal) => {
                self.view.roll_back(start);
                self.acknowledge_anyway(request);
                Outcome::Refused(refusal)
            }
        };
        self.finish(origin, request.session, None, Some(outcome));
    }

    /// Answers a request with a refusal that was decided elsewhere, in its place in the order.
    pub fn refuse(&mut self, request: &Request, origin: Option<Origin>, refusal: Refusal) {
        self.begin();
        self.finish(
            origin,
            request.session,
            None,
            Some(Outcome::Refused(refusal)),
        );
    }

    /// An acknowledgement that came with a refused call counts all the same.
    fn acknowledge_anyway(&mut self, request: &Request) {
        if let Operation::Call(call_request) = &request.operation
            && session::expect_owner(&self.view, request.session, request.owner).is_ok()
        {
            call::acknowledge(&mut self.view, request.session, call_request.acknowledged);
        }
    }

    fn decide(&mut self, request: &Request) -> Result<Outcome, Refusal> {
        let (id, owner) = (request.session, request.owner);
        let view = &mut self.view;
        match &request.operation {
            Operation::OpenSession {
                timeout_ms,
                password,
            } => Ok(session::open(view, owner, *password, *timeout_ms)),
            Operation::AttachSession {
                password,
                timeout_ms,
            } => session::attach(view, id, owner, *password, *timeout_ms),
            Operation::ExpireSession => {
                view.session(id).ok_or(Refusal::SessionExpired)?;
                session::close(view, id);
                Ok(Outcome::SessionClosed)
            }
            Operation::PushRecipe { name, component } => recipe::push(view, name, component),
            Operation::RemoveRecipe { name } => recipe::remove(view, name),
            Operation::Mount {
                path,
                recipe,
                digest,
                parameters,
                sealed,
            } => {
                let request = mount::MountRequest {
                    path,
                    recipe,
                    digest: *digest,
                    parameters: parameters.as_ref(),
                    sealed: *sealed,
                };
                mount::mount(view, &request)
            }
            Operation::Unmount { path } => mount::unmount(view, path),
            Operation::CloseSession => {
                session::expect_owner(view, id, owner)?;
                session::close(view, id);
                Ok(Outcome::SessionClosed)
            }
            Operation::Znode(operation) => {
                session::expect_owner(view, id, owner)?;
                znode::execute(view, id, operation).map(Outcome::Znode)
            }
            Operation::Multi(operations) => {
                session::expect_owner(view, id, owner)?;
                multi::execute(view, id, operations)
            }
            Operation::Sync(path) => {
                session::expect_owner(view, id, owner)?;
                Ok(Outcome::Synced(path.clone()))
            }
            Operation::Acknowledge { key } => {
                session::expect_owner(view, id, owner)?;
                call::acknowledge(view, id, *key);
                Ok(Outcome::Acknowledged)
            }
            Operation::Cancel { key } => {
                session::expect_owner(view, id, owner)?;
                self.cancel(CallId {
                    session: id,
                    key: *key,
                })
            }
            Operation::Call(call_request) => {
                session::expect_owner(view, id, owner)?;
                call::acknowledge(view, id, call_request.acknowledged);
                self.call(request, call_request)
            }
        }
    }

    fn cancel(&mut self, id: CallId) -> Result<Outcome, Refusal> {
        if let Some(answer) = self.view.answer(id) {
            return Ok(Outcome::Answered(answer));
        }
        let parked = self
            .view
            .parked(id)
            .ok_or(Refusal::NoCall { key: id.key })?;
        let answer = call::end_without_result(&mut self.view, &parked, Ending::Cancelled);
        Ok(Outcome::Answered(answer))
    }

    fn call(&mut self, request: &Request, call_request: &CallRequest) -> Result<Outcome, Refusal> {
        let id = CallId {
            session: request.session,
            key: call_request.key,
        };
        let found = self
            .view
            .session(id.session)
            .ok_or(Refusal::SessionExpired)?;
        let mount = match call::admit(&self.view, &self.bounds, id, &found, call_request)? {
            Admission::Known(outcome) => return Ok(outcome),
            Admission::New(mount) => mount,
        };
        let call = Call {
            id,
            request: call_request.clone(),
            identities: request.identities.clone(),
            started: self.view.moment().time,
            parked: None,
        };
        let start = self.view.progress();
        let (ending, created) = self.run(&call, mount);
        match ending {
            RunEnding::Returned(result) => {
                Ok(call.answer(&mut self.view, Ending::Returned(result)))
            }
            RunEnding::Parked { memo, watches } => {
                match call.park(&mut self.view, memo, &watches, &created) {
                    Ok(()) => Ok(Outcome::Parked),
                    Err(breach) => {
                        self.view.roll_back(start);
                        Ok(call.answer(&mut self.view, Ending::Trapped(breach)))
                    }
                }
            }
            RunEnding::BadCall(message) => Err(Refusal::BadCall(message)),
            RunEnding::NotReady => Err(Refusal::NotReady(call_request.mount.clone())),
            failed => {
                self.view.roll_back(start);
                Ok(call.answer(&mut self.view, ending_of(failed)))
            }
        }
    }

    /// One run: the view is lent to it and taken back.
    fn run(&mut self, call: &Call, mount: Mount) -> (RunEnding, Vec<ZnodePath>) {
        let input = call.input(&mount, &self.view);
        let placeholder = View::new(self.base.clone());
        let view = std::mem::replace(&mut self.view, placeholder);
        let report = self.runner.run(input, RunTree::new(view, mount));
        self.view = report.tree.view;
        self.log
            .extend(report.log.into_iter().map(|line| RecipeLine {
                mount: call.request.mount.clone(),
                operation: call.request.operation.clone(),
                line,
            }));
        (report.ending, report.tree.created)
    }

    /// Runs timers and marked calls until none is due or the budget is used up.
    fn settle(&mut self) {
        if self.marked || self.due <= self.time {
            self.settle_within_budget();
            self.look_ahead();
        }
    }

    /// What is due next, so that a request that concerns no timer and no parked call pays nothing for them.
    fn look_ahead(&mut self) {
        let never = Timestamp(u64::MAX);
        let lease = self.first_lease(never).map(|(moment, _)| moment);
        let alarm = self.first_alarm(never).map(|(moment, _)| moment);
        self.due = lease.into_iter().chain(alarm).min().unwrap_or(never);
        self.marked = !self.marks(1).is_empty();
    }

    fn settle_within_budget(&mut self) {
        let mut runs: BTreeMap<CallId, u32> = BTreeMap::new();
        for _ in 0..self.bounds.wakes_at_once {
            if let Some((_, path)) = self.first_lease(self.time) {
                self.begin();
                znode::delete_node(&mut self.view, &path);
                self.finish(None, SessionId::NONE, None, None);
            } else if let Some((_, id)) = self.first_alarm(self.time) {
                self.ring(id);
            } else {
                let waiting = |id: &CallId| runs.get(id) != Some(&u32::MAX);
                let next = self.marks(runs.len() + 1).into_iter().find(waiting);
                let Some(id) = next else { return };
                let count = runs.entry(id).or_default();
                *count += 1;
                let ready = if *count > self.bounds.runs_in_a_row {
                    self.end_restless(id);
                    true
                } else {
                    self.wake(id)
                };
                if !ready {
                    // Its mark stays; it is not tried again before the next batch.
                    runs.insert(id, u32::MAX);
                }
            }
        }
    }

    /// A parked call's deadline has passed, or a moment that it waits for has come.
    fn ring(&mut self, id: CallId) {
        self.begin();
        if let Some(parked) = self.view.parked(id) {
            if parked
                .deadline
                .is_some_and(|deadline| deadline <= self.time)
            {
                call::end_without_result(&mut self.view, &parked, Ending::TimedOut);
            } else {
                self.view.change(Change::Mark(id));
            }
        }
        self.finish(None, id.session, Some(id), None);
    }

    /// Runs a marked call again; false if its recipe is not ready here.
    fn wake(&mut self, id: CallId) -> bool {
        let found = self.view.parked(id).and_then(|parked| {
            let mount = self.view.mount(&parked.mount)?;
            Some((parked, mount))
        });
        // An unmount ends a mount's parked calls before the mount goes, so this is not to be expected.
        let Some((parked, mount)) = found else {
            return false;
        };
        let start = self.begin();
        let call = Call::woken(parked.clone());
        let (ending, created) = self.run(&call, mount);
        match ending {
            RunEnding::NotReady => {
                self.view.roll_back(start);
                self.counter -= 1;
                return false;
            }
            RunEnding::Returned(result) => {
                call.answer(&mut self.view, Ending::Returned(result));
            }
            RunEnding::Parked { memo, watches } => {
                if let Err(breach) = call.park(&mut self.view, memo, &watches, &created) {
                    self.view.roll_back(start);
                    call::end_without_result(&mut self.view, &parked, Ending::Trapped(breach));
                }
            }
            failed => {
                self.view.roll_back(start);
                call::end_without_result(&mut self.view, &parked, ending_of(failed));
            }
        }
        self.finish(None, id.session, Some(id), None);
        true
    }

    /// A call that wakes itself, or is woken by another that it wakes, without end.
    fn end_restless(&mut self, id: CallId) {
        self.begin();
        if let Some(parked) = self.view.parked(id) {
            let message = format!(
                "it was woken {} times behind one request: does it watch what its own wakes change, or a moment that has passed?",
                self.bounds.runs_in_a_row
            );
            let ending = Ending::Exceeded {
                bound: "runs-in-a-row".into(),
                message,
            };
            call::end_without_result(&mut self.view, &parked, ending);
        }
        self.finish(None, id.session, Some(id), None);
    }

    /// Ends the parked calls of a mount, in steps: whoever asked may not unmount, but has said so to nobody else yet.
    fn end_parked_calls(&mut self, path: &ZnodePath) -> u32 {
        let mut ended = 0;
        loop {
            let calls = mount::parked_calls(&self.view, path, self.bounds.unmount_step);
            if calls.is_empty() {
                return ended;
            }
            ended += calls.len() as u32;
            self.begin();
            for id in calls {
                if let Some(parked) = self.view.parked(id) {
                    call::end_without_result(&mut self.view, &parked, Ending::Unmounted);
                }
            }
            self.finish(None, SessionId::NONE, None, None);
        }
    }

    /// The next transaction's number and moment.
    fn begin(&mut self) -> Progress {
        self.counter = self
            .counter
            .checked_add(1)
            .expect("the driver minds the room");
        self.view.begin(Moment {
            zxid: Zxid::new(self.epoch, self.counter),
            time: self.time,
        });
        self.view.progress()
    }

    fn finish(
        &mut self,
        origin: Option<Origin>,
        session: SessionId,
        own: Option<CallId>,
        outcome: Option<Outcome>,
    ) {
        let changes = self.view.finish(own);
        for change in &changes {
            match change {
                Change::Mark(_) => self.marked = true,
                Change::CreateNode {
                    lifetime: Lifetime::Until(moment),
                    ..
                }
                | Change::SetLifetime {
                    lifetime: Lifetime::Until(moment),
                    ..
                } => {
                    self.due = self.due.min(*moment);
                }
                Change::Park(parked) => {
                    let moments = parked.watches.iter().filter_map(|watch| match watch {
                        Watch::Time(moment) => Some(*moment),
                        _ => None,
                    });
                    self.due = moments
                        .chain(parked.deadline)
                        .fold(self.due, Timestamp::min);
                }
                _ => {}
            }
        }
        self.bytes += 64 + changes.iter().map(change_bytes).sum::<usize>();
        self.transactions.push(Transaction {
            time: self.time,
            origin,
            session,
            changes,
            outcome,
        });
    }

    fn marks(&self, limit: usize) -> Vec<CallId> {
        let least = CallId {
            session: SessionId::NONE,
            key: 0,
        };
        let from = IndexKey::Mark(Zxid::ZERO, least);
        let keys = self
            .view
            .indexed(from, |key| matches!(key, IndexKey::Mark(..)), limit);
        let call = |key| match key {
            IndexKey::Mark(_, call) => Some(call),
            _ => None,
        };
        keys.into_iter().filter_map(call).collect()
    }

    fn first_lease(&self, until: Timestamp) -> Option<(Timestamp, ZnodePath)> {
        let from = IndexKey::Lease(Timestamp(0), ZnodePath::root());
        let due = |key: &IndexKey| matches!(key, IndexKey::Lease(moment, _) if *moment <= until);
        match self.view.indexed(from, due, 1).pop()? {
            IndexKey::Lease(moment, path) => Some((moment, path)),
            _ => None,
        }
    }

    fn first_alarm(&self, until: Timestamp) -> Option<(Timestamp, CallId)> {
        let least = CallId {
            session: SessionId::NONE,
            key: 0,
        };
        let from = IndexKey::Alarm(Timestamp(0), least);
        let due = |key: &IndexKey| matches!(key, IndexKey::Alarm(moment, _) if *moment <= until);
        match self.view.indexed(from, due, 1).pop()? {
            IndexKey::Alarm(moment, call) => Some((moment, call)),
            _ => None,
        }
    }
}

/// What the caller is told of a run that committed nothing.
fn ending_of(failed: RunEnding) -> Ending {
    match failed {
        RunEnding::Failed(error) => Ending::Failed(error),
        RunEnding::Refused(reason) => Ending::Refused(reason),
        RunEnding::Trapped(message) => Ending::Trapped(message),
        RunEnding::Exceeded { bound, message } => Ending::Exceeded {
            bound: bound.to_owned(),
            message,
        },
        // A woken call whose arguments no longer fit its recipe.
        RunEnding::BadCall(message) => Ending::Trapped(message),
        RunEnding::Returned(_) | RunEnding::Parked { .. } | RunEnding::NotReady => {
            Ending::Trapped("the run ended well but was not committed".into())
        }
    }
}

/// About how many bytes a change has in the log: what is unbounded in it, and a little.
fn change_bytes(change: &Change) -> usize {
    let payload = match change {
        Change::CreateNode { path, data, .. } | Change::SetData { path, data, .. } => {
            path.as_str().len() + data.len()
        }
        Change::DeleteNode { path } | Change::TouchParent { path, .. } => path.as_str().len(),
        Change::Park(call) => call.arguments.len() + call.memo.len() + 64 * call.watches.len(),
        Change::PutAnswer { answer, .. } => match &answer.ending {
            Ending::Returned(text)
            | Ending::Failed(text)
            | Ending::Refused(text)
            | Ending::Trapped(text) => text.len(),
            _ => 0,
        },
        Change::PutComponent { component, .. } => component.len(),
        _ => 0,
    };
    32 + payload
}
