//! Evaluate: requests, wakes and timers become transactions. On the leader only, one at a time.
//!
//! Pure: the time is an argument, recipes run behind [`Runner`], and what comes out is a batch for
//! one raft entry. The driver (a server's leader, a scenario, a simulation) says when.

use std::collections::{HashMap, VecDeque};

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
use crate::operations::{configuration, mount, multi, recipe, session, version, znode};
use crate::run::RunTree;
use crate::state::{IndexKey, SharedState, answer_bytes, parked_bytes};
use crate::view::{Progress, View};

/// How much evaluation keeps, and does at once.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Answers kept and calls parked in one session (rule C2).
    pub calls_per_session: u32,
    /// About how many bytes those take.
    pub call_bytes_per_session: u64,
    /// Calls parked at one mount.
    pub parked_calls_per_mount: u64,
    /// About how many bytes those take.
    pub parked_bytes_per_mount: u64,
    /// Answers kept and calls parked in all.
    pub calls: u64,
    /// About how many bytes those take.
    pub call_bytes: u64,
    /// Bytes of a call's arguments.
    pub arguments_bytes: usize,
    /// Wakes and timers evaluated behind one request; what is left over goes first in the next entry (rule C4).
    pub wakes_at_once: u32,
    /// Bytes of write-sets beyond which no more of them are evaluated behind a request.
    pub wake_bytes: usize,
    /// Fuel beyond which no more of them are (rule C5).
    pub wake_fuel: u64,
    /// Runs of one parked call within 20 ms; then its mark waits, so that a call that wakes itself
    /// neither ends nor holds up others.
    pub runs_at_once: u32,
    /// Parked calls that one transaction of an unmount ends (rule S6).
    pub unmount_step: usize,
    /// A parked call over whose run so many epochs ended is ended (rule S5).
    pub lost_epochs: u32,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            calls_per_session: 1000,
            call_bytes_per_session: 16 << 20,
            parked_calls_per_mount: 100_000,
            parked_bytes_per_mount: 256 << 20,
            calls: 1_000_000,
            call_bytes: 1 << 30,
            arguments_bytes: 256 << 10,
            wakes_at_once: 1000,
            wake_bytes: 2 << 20,
            wake_fuel: 200_000_000,
            runs_at_once: 64,
            unmount_step: 100,
            lost_epochs: 3,
        }
    }
}

/// The first of all call ids, for the beginning of a range.
const LEAST_CALL: CallId = CallId {
    session: SessionId::NONE,
    key: 0,
};

/// How many marks are looked at together.
const MARKS_AT_ONCE: usize = 64;

/// The stretch of time over which the runs of one parked call are counted, in milliseconds.
const PACE_MS: u64 = 20;

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
    /// Whether the last budget was used up before everything was done that is due.
    left_over: bool,
    /// The stretch of time that is counted in, and the woken calls' runs in it.
    paced: (u64, HashMap<CallId, u32>),
    first_counter: u32,
    /// With about how many bytes each takes in the log.
    transactions: VecDeque<(Transaction, usize)>,
    bytes: usize,
    /// What the runs since the last settling have used.
    fuel: u64,
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
            left_over: false,
            paced: (0, HashMap::new()),
            first_counter: last.counter().wrapping_add(1),
            transactions: VecDeque::new(),
            bytes: 0,
            fuel: 0,
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

    /// What was evaluated and not taken yet, for one raft entry of about `most` bytes; one larger
    /// transaction goes alone (rule S6). None if there is nothing.
    pub fn take_batch(&mut self, most: usize) -> Option<Batch> {
        let mut transactions = Vec::new();
        let mut taken = 0;
        while let Some((transaction, bytes)) = self
            .transactions
            .pop_front_if(|(_, bytes)| taken == 0 || taken + *bytes <= most)
        {
            taken += bytes;
            transactions.push(transaction);
        }
        if transactions.is_empty() {
            return None;
        }
        self.bytes -= taken;
        let first_counter = self.first_counter;
        self.first_counter += transactions.len() as u32;
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

    /// Whether more of that could be done at once: the last budget was used up.
    pub fn has_left_over(&self) -> bool {
        self.left_over
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
        // What its first run writes does not wake a call either.
        let own = match &request.operation {
            Operation::Call(call) => Some(CallId {
                session: request.session,
                key: call.key,
            }),
            _ => None,
        };
        self.finish(origin, request.session, own, Some(outcome));
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
            } => match id {
                SessionId::NONE => Ok(session::open(view, owner, *password, *timeout_ms)),
                local => session::upgrade(view, local, owner, *password, *timeout_ms),
            },
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
            Operation::Configure { members, version } => {
                configuration::set(view, members, *version)
            }
            Operation::ReadConfiguration => {
                session::expect_writer(view, request)?;
                Ok(Outcome::Configuration)
            }
            Operation::RaiseVersion { version } => version::raise(view, *version),
            Operation::CloseSession => {
                session::expect_owner(view, id, owner)?;
                session::close(view, id);
                Ok(Outcome::SessionClosed)
            }
            Operation::Znode(operation) => {
                session::expect_writer(view, request)?;
                znode::execute(view, id, operation).map(Outcome::Znode)
            }
            Operation::Multi(operations) => {
                session::expect_writer(view, request)?;
                multi::execute(view, id, operations)
            }
            Operation::Acknowledge { .. } | Operation::Cancel { .. } | Operation::Call(_)
                if session::is_local(request) =>
            {
                Err(Refusal::LocalSession)
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
            identities: Vec::clone(&request.identities),
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
        self.fuel = self.fuel.saturating_add(report.fuel);
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
            self.left_over = !self.settle_within_budget();
            self.look_ahead();
        } else {
            self.left_over = false;
        }
    }

    /// What is due next, so that a request that concerns no timer and no parked call pays nothing for them.
    fn look_ahead(&mut self) {
        let never = Timestamp(u64::MAX);
        let lease = self.first_lease(never).map(|(moment, _)| moment);
        let alarm = self.first_alarm(never).map(|(moment, _)| moment);
        self.due = lease.into_iter().chain(alarm).min().unwrap_or(never);
        let any_mark = IndexKey::Mark(Zxid::ZERO, LEAST_CALL);
        let is_mark = |key: &IndexKey| matches!(key, IndexKey::Mark(..));
        self.marked = !self.view.indexed(any_mark, is_mark, 1).is_empty();
    }

    /// Whether everything was done that can be done now.
    fn settle_within_budget(&mut self) -> bool {
        self.fuel = 0;
        // Where the marks begin that were not put off.
        let mut from = IndexKey::Mark(Zxid::ZERO, LEAST_CALL);
        for _ in 0..self.bounds.wakes_at_once {
            if self.bytes >= self.bounds.wake_bytes || self.fuel >= self.bounds.wake_fuel {
                return false;
            }
            if let Some((_, path)) = self.first_lease(self.time) {
                self.begin();
                znode::delete_node(&mut self.view, &path);
                self.finish(None, SessionId::NONE, None, None);
            } else if let Some((_, id)) = self.first_alarm(self.time) {
                self.ring(id);
            } else {
                let Some(id) = self.next_mark(&mut from) else {
                    return true;
                };
                self.wake(id);
            }
        }
        false
    }

    /// The oldest marked call from `from` on that can be run now; `from` is moved behind those that cannot.
    fn next_mark(&mut self, from: &mut IndexKey) -> Option<CallId> {
        loop {
            let marks = self.view.indexed(
                from.clone(),
                |key| matches!(key, IndexKey::Mark(..)),
                MARKS_AT_ONCE,
            );
            if marks.is_empty() {
                return None;
            }
            for key in marks {
                let IndexKey::Mark(age, id) = key else {
                    return None;
                };
                if self.may_run(id) {
                    return Some(id);
                }
                let behind = CallId {
                    key: id.key.saturating_add(1),
                    ..id
                };
                *from = IndexKey::Mark(age, behind);
            }
        }
    }

    /// Whether a marked call's recipe is ready here (rule C6), and its pace allows another run (rule C4).
    fn may_run(&mut self, id: CallId) -> bool {
        let mount = self
            .view
            .parked(id)
            .and_then(|parked| Records::mount(&self.view, &parked.mount));
        if !mount.is_some_and(|mount| self.runner.ready(&mount.digest)) {
            return false;
        }
        let stretch = self.time.0 / PACE_MS;
        if self.paced.0 != stretch {
            self.paced = (stretch, HashMap::new());
        }
        let runs = self.paced.1.entry(id).or_default();
        *runs += 1;
        *runs <= self.bounds.runs_at_once
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

    /// Runs a marked call again.
    fn wake(&mut self, id: CallId) {
        let found = self.view.parked(id).and_then(|parked| {
            let mount = Records::mount(&self.view, &parked.mount)?;
            Some((parked, mount))
        });
        // An unmount ends a mount's parked calls before the mount goes, so this is not to be expected.
        let Some((parked, mount)) = found else {
            return;
        };
        let start = self.begin();
        let call = Call::woken(parked.clone());
        let (ending, created) = self.run(&call, mount);
        match ending {
            RunEnding::NotReady => {
                // It was ready a moment ago. Its mark stays.
                self.view.roll_back(start);
                self.counter -= 1;
                return;
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
        let outcome_bytes = outcome.as_ref().map_or(0, outcome_bytes);
        let bytes = 64 + outcome_bytes + changes.iter().map(change_bytes).sum::<usize>();
        self.bytes += bytes;
        let transaction = Transaction {
            time: self.time,
            origin,
            session,
            changes,
            outcome,
        };
        self.transactions.push_back((transaction, bytes));
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
        let from = IndexKey::Alarm(Timestamp(0), LEAST_CALL);
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
        Change::CreateNode {
            path, data, acl, ..
        } => path.as_str().len() + data.len() + acl.bytes(),
        Change::SetData { path, data, .. } => path.as_str().len() + data.len(),
        Change::SetAcl { path, acl, .. } => path.as_str().len() + acl.bytes(),
        Change::DeleteNode { path }
        | Change::TouchParent { path, .. }
        | Change::SetLifetime { path, .. } => path.as_str().len(),
        Change::Park(call) => parked_bytes(call) as usize,
        Change::PutAnswer { answer, .. } => answer_bytes(answer) as usize,
        Change::PutComponent { component, .. } => component.len(),
        _ => 0,
    };
    32 + payload
}

/// About how many bytes an outcome has in the log.
fn outcome_bytes(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Answered(answer) => answer_bytes(answer) as usize,
        Outcome::Multi(parts) => 128 * parts.len(),
        _ => 128,
    }
}
