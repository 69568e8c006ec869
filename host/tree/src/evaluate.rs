//! Evaluate: requests, wakes and timers become transactions. On the leader only, one at a time.
//!
//! Pure: the time is an argument, recipes run behind [`Runner`], and what comes out is a batch for
//! one raft entry. The driver (a server's leader, a scenario, a simulation) says when.

mod guards;
mod mounts;
mod trials;
mod turns;
mod wakes;

pub use trials::{Difference, FailedRun, Observed, ShadowRun, Side};

use std::collections::{HashMap, VecDeque};

use quorate_model::call::{Answer, CallRequest, Ending, MAX_AWAITED, Watch};
use quorate_model::id::{CallId, Origin, SessionId, Timestamp, Zxid};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Mount, RecipeDigest};
use quorate_model::recording::Recording;
use quorate_model::request::{Operation, Request};
use quorate_model::run::{LogLine, RunEnding, RunInput, RunReport, Runner};
use quorate_model::trial::Trial;
use quorate_model::write_set::{Batch, Change, Transaction};
use quorate_model::znode::Lifetime;

use crate::apply::{Moment, Records};
use crate::operations::call::{self, Admission, Call};
use crate::operations::mount::{Counted, LEAST_CALL};
use crate::operations::znode::Proved;
use crate::operations::{configuration, mount, multi, recipe, session, version, znode};
use crate::run::RunTree;
use crate::state::{SharedState, answer_bytes, parked_bytes};
use crate::view::{Progress, View};
use trials::{DryRuns, Recorded};
use wakes::Wakes;

/// How much evaluation keeps, and does at once.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Answers kept and calls parked in one session (rule C2).
    pub calls_per_session: u32,
    /// About how many bytes those take.
    pub call_bytes_per_session: u64,
    /// Answers kept and calls parked in all.
    pub calls: u64,
    /// About how many bytes those take.
    pub call_bytes: u64,
    /// Bytes of a call's arguments.
    pub arguments_bytes: usize,
    /// Znodes of its session's lifetime that all runs of a parked call have created and that are there: what ends it
    /// deletes them in one transaction (rule C3).
    pub created_per_call: usize,
    /// Bytes of their paths.
    pub created_bytes_per_call: usize,
    /// Wakes and timers evaluated for one entry, in front of its requests and behind each; what is left over goes
    /// first in the next entry (rule C4).
    pub wakes_at_once: u32,
    /// Bytes of an entry's write-sets, its requests' included, beyond which no more of them are evaluated for it.
    pub wake_bytes: usize,
    /// Fuel of wakes beyond which no more of them are, so that the requests have their share of each entry (rule C5).
    pub wake_fuel: u64,
    /// Runs of one parked call within 20 ms; then its mark waits, so that a call that wakes itself
    /// neither ends nor holds up others.
    pub runs_at_once: u32,
    /// Fuel of all guards that one request asks (rule C7).
    pub guard_fuel: u64,
    /// Fuel of all dry runs within a second, in which others are refused then (rule C5).
    pub dry_run_fuel: u64,
    /// Parked calls that one request of an unmount ends, or of an upgrade marks (rule S6).
    pub mount_step: usize,
    /// About how many bytes that may change, and look at; one call that has more goes alone.
    pub mount_step_bytes: usize,
    /// A parked call over whose run so many epochs ended is ended (rule S5).
    pub lost_epochs: u32,
    /// Components that are being uploaded (rule C2).
    pub uploads: u64,
    /// How many bytes those will have when they are whole.
    pub upload_bytes: u64,
    /// An upload is dropped when no piece has come for so long, in milliseconds.
    pub upload_patience_ms: u64,
    /// Components that are kept, each once however many names and mounts it has. They are held in memory.
    pub components: u64,
    /// How many bytes those have.
    pub component_bytes: u64,
    /// Names of recipes.
    pub recipes: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            calls_per_session: MAX_AWAITED as u32,
            call_bytes_per_session: 16 << 20,
            calls: 1_000_000,
            call_bytes: 1 << 30,
            arguments_bytes: 256 << 10,
            created_per_call: 1000,
            created_bytes_per_call: 64 << 10,
            wakes_at_once: 1000,
            wake_bytes: 2 << 20,
            // Some 20 ms, which is what an entry's requests have.
            wake_fuel: 20_000_000,
            runs_at_once: 64,
            guard_fuel: 20_000_000,
            // A fifth of each second, and one run more, about.
            dry_run_fuel: 200_000_000,
            mount_step: 100,
            mount_step_bytes: 256 << 10,
            lost_epochs: 3,
            uploads: 8,
            upload_bytes: 128 << 20,
            upload_patience_ms: 60_000,
            components: 1_000,
            component_bytes: 1 << 30,
            recipes: 2_000,
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
    /// The marked calls.
    wakes: Wakes,
    /// Whether the last budget was used up before everything was done that is due.
    left_over: bool,
    /// A guard that has failed over the transaction being built, which is taken back: its mount, and why.
    failed_guard: Option<(Counted, String)>,
    first_counter: u32,
    /// With about how many bytes each takes in the log.
    transactions: VecDeque<(Transaction, usize)>,
    bytes: usize,
    /// What all runs have used.
    fuel: u64,
    /// What timers and wakes have used of the entry that is being made.
    spent: Spent,
    log: Vec<RecipeLine>,
    observed: Vec<Observed>,
    recorded: Recorded,
    dry_runs: DryRuns,
    /// How many runs in a row have failed of a mount's shadow, known by its component; none of those that run well.
    shadow_failures: HashMap<(ZnodePath, RecipeDigest), u64>,
}

/// Of an entry's budget for timers and wakes (rule C5).
#[derive(Default)]
struct Spent {
    steps: u32,
    fuel: u64,
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
        let view = View::new(base.clone());
        let mut evaluator = Evaluator {
            wakes: Wakes::new(view.committed_marks()),
            view,
            base,
            runner,
            bounds,
            epoch: last.epoch(),
            counter: last.counter(),
            time,
            due: Timestamp(0),
            left_over: false,
            failed_guard: None,
            first_counter: last.counter().wrapping_add(1),
            transactions: VecDeque::new(),
            bytes: 0,
            fuel: 0,
            spent: Spent::default(),
            log: Vec::new(),
            observed: Vec::new(),
            recorded: Recorded::default(),
            dry_runs: DryRuns::default(),
            shadow_failures: HashMap::new(),
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
    /// transaction goes alone (rule S6). None if there is nothing. When all is taken, the budget of timers and wakes
    /// is whole again.
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
        if self.transactions.is_empty() {
            self.spent = Spent::default();
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
        self.wakes.any()
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

    /// Does what time alone is to do: what is due at `now` and no call's run. For whoever has used up the budget of
    /// [`Evaluator::tick`] and goes on to requests, which come behind it (rule E3).
    pub fn tick_timers(&mut self, now: Timestamp) {
        self.time = self.time.max(now);
        self.settle_timers();
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
        if id.is_standing() {
            mount::suspend(&mut self.view, &parked.mount, &message);
        } else {
            call::end_without_result(&mut self.view, &parked, Ending::Trapped(message));
        }
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
        let start = self.begin();
        let outcome = match self.decide(request) {
            Ok(outcome) => outcome,
            Err(refusal) => {
                self.view.roll_back(start);
                self.acknowledge_anyway(request);
                if let Some((mount, failure)) = self.failed_guard.take() {
                    mount::count_run(&mut self.view, &mount, Some(&failure));
                }
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
            call::acknowledge(&mut self.view, request.session, &call_request.acknowledged);
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
                match owner {
                    // Whoever asks has silence of that owner in mind.
                    Some(_) => session::expect_owner(view, id, owner)?,
                    None => view.session(id).ok_or(Refusal::SessionExpired)?,
                };
                session::close(view, id);
                Ok(Outcome::SessionClosed)
            }
            Operation::UploadPiece {
                digest,
                bytes,
                offset,
                piece,
            } => {
                let request = recipe::PieceRequest {
                    digest: *digest,
                    bytes: *bytes,
                    offset: *offset,
                    piece,
                };
                recipe::upload(view, &self.bounds, &request)
            }
            Operation::PushRecipe {
                name,
                digest,
                version,
                exports,
            } => {
                let request = recipe::PushRequest {
                    name,
                    digest: *digest,
                    version: version.as_deref(),
                    exports: *exports,
                };
                recipe::push(view, &self.bounds, &request)
            }
            Operation::RemoveRecipe { name, digest } => recipe::remove(view, name, *digest),
            Operation::Mount { .. } => self.mount(&request.operation),
            Operation::SetMount { path, settings } => mount::set(view, path, settings),
            Operation::Resume { path } => mount::resume(view, path),
            Operation::FollowUpgrade { path, swapped } => self.follow_upgrade(path, *swapped),
            Operation::BeginUnmount { path } => mount::begin_unmount(view, path),
            Operation::ContinueUnmount { path, mounted } => self.continue_unmount(path, *mounted),
            Operation::Configure { members, version } => {
                configuration::set(view, members, *version)
            }
            Operation::ReadConfiguration => {
                session::expect_writer(view, request)?;
                configuration::expect_may_change(view, &request.identities)?;
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
                let start = view.progress();
                let proved = Proved::new(&request.identities);
                let writer = proved.writer(id);
                let outcome = znode::execute(view, writer, operation).map(Outcome::Znode)?;
                self.ask_guards(request, start)?;
                Ok(outcome)
            }
            Operation::Multi(operations) => {
                session::expect_writer(view, request)?;
                let start = view.progress();
                let proved = Proved::new(&request.identities);
                let outcome = multi::execute(view, proved.writer(id), operations)?;
                self.ask_guards(request, start)?;
                Ok(outcome)
            }
            Operation::Acknowledge(_)
            | Operation::AcknowledgeOne { .. }
            | Operation::Cancel { .. }
            | Operation::Call(_)
            | Operation::Try(_)
                if session::is_local(request) =>
            {
                Err(Refusal::LocalSession)
            }
            Operation::AcknowledgeOne { key } => {
                session::expect_owner(view, id, owner)?;
                call::acknowledge_one(view, id, *key);
                Ok(Outcome::Acknowledged)
            }
            Operation::Acknowledge(said) => {
                session::expect_owner(view, id, owner)?;
                call::acknowledge(view, id, said);
                Ok(Outcome::Acknowledged)
            }
            Operation::CancelCall(call) => self.cancel(*call),
            Operation::Try(wanted) => self.try_out(request, wanted),
            Operation::Query(query) => {
                session::expect_writer(view, request)?;
                self.query(request, query)
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
                call::acknowledge(view, id, &call_request.acknowledged);
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
        if id.is_standing() {
            return Err(Refusal::BadArguments(format!(
                "it is the standing call of {}, which nobody made: it ends with its mount",
                parked.mount
            )));
        }
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
        let identities = &request.identities;
        let admission = call::admit(
            &self.view,
            &self.bounds,
            id,
            &found,
            identities,
            call_request,
        );
        let mount = match admission? {
            Admission::Known(outcome) => return Ok(outcome),
            Admission::New(mount) => mount,
        };
        let call = Call::first(&self.view, id, identities, call_request);
        let start = self.view.progress();
        let counted = Counted::from(&mount);
        let shadow = self.run_shadow(&call, &mount);
        let (ending, created) = self.run(call.input(&mount, &self.view), mount);
        self.compare_shadow(shadow, start, &ending);
        let ending = match ending {
            RunEnding::BadCall(message) => return Err(bad_call(&message)),
            RunEnding::NotReady => return Err(Refusal::NotReady(call_request.mount.clone())),
            RunEnding::Parked { memo, watches } => {
                match call.park(&mut self.view, &self.bounds, memo, &watches, &created) {
                    Ok(()) => {
                        mount::count_run(&mut self.view, &counted, None);
                        return Ok(Outcome::Parked);
                    }
                    Err(failed) => failed,
                }
            }
            ending => ending,
        };
        if !matches!(ending, RunEnding::Returned(_)) {
            self.view.roll_back(start);
        }
        let failure = failure_of(&ending);
        self.record_failure(&ending, &call_request.mount, |mount, view| {
            call.input(mount, view)
        });
        mount::count_run(&mut self.view, &counted, failure.as_deref());
        Ok(call.answer(&mut self.view, ending_of(ending)))
    }

    /// A call without a key: it may be repeated at will, so it may not write, and not wait (rule C8).
    fn query(&mut self, request: &Request, query: &CallRequest) -> Result<Outcome, Refusal> {
        let identities = &request.identities;
        let mount = call::expect_open(&self.view, &self.bounds, identities, query)?;
        let id = CallId {
            session: request.session,
            ..LEAST_CALL
        };
        let call = Call::first(&self.view, id, identities, query);
        let counted = Counted::from(&mount);
        let start = self.view.progress();
        let shadow = self.run_shadow(&call, &mount);
        let (ending, _) = self.run(call.input(&mount, &self.view), mount);
        self.compare_shadow(shadow, start, &ending);
        let wrote = !self.view.changes_since(start).is_empty();
        self.view.roll_back(start);
        let ending = match ending {
            RunEnding::BadCall(message) => return Err(bad_call(&message)),
            RunEnding::NotReady => return Err(Refusal::NotReady(query.mount.clone())),
            RunEnding::Parked { .. } => return Err(needs_key(query)),
            RunEnding::Returned(_) if wrote => return Err(needs_key(query)),
            ending => ending,
        };
        let failure = failure_of(&ending);
        self.record_failure(&ending, &query.mount, |mount, view| call.input(mount, view));
        mount::count_run(&mut self.view, &counted, failure.as_deref());
        Ok(Outcome::Answered(Answer {
            fingerprint: query.fingerprint(),
            ending: ending_of(ending),
            zxid: self.view.moment().zxid,
        }))
    }

    /// One run.
    fn run(&mut self, input: RunInput, mount: Mount) -> (RunEnding, Vec<ZnodePath>) {
        let (path, operation) = (mount.path.clone(), input.invocation.name().to_owned());
        let report = self.run_on(input, mount, |tree| tree);
        self.log
            .extend(report.log.into_iter().map(|line| RecipeLine {
                mount: path.clone(),
                operation: operation.clone(),
                line,
            }));
        (report.ending, report.tree.below.created)
    }

    /// The view is lent to the run and taken back.
    fn run_on(
        &mut self,
        input: RunInput,
        mount: Mount,
        prepare: impl FnOnce(RunTree) -> RunTree,
    ) -> RunReport<RunTree> {
        let session = input.session;
        let placeholder = View::new(self.base.clone());
        let view = std::mem::replace(&mut self.view, placeholder);
        let tree = prepare(RunTree::new(view, mount, session));
        let mut report = self.runner.run(input, tree);
        std::mem::swap(&mut self.view, &mut report.tree.below.view);
        self.fuel = self.fuel.saturating_add(report.fuel);
        report
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
            self.wakes.follow(&self.view, change, self.time);
            match change {
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
                Change::PutPiece { upload, .. } => self.due = self.due.min(upload.until),
                Change::Park(parked) => {
                    let moments = parked.watches.iter().filter_map(|watch| match watch {
                        Watch::Time(moment) => Some(*moment),
                        _ => None,
                    });
                    self.due = moments
                        .chain(parked.deadline)
                        .chain(parked.retry.map(|retry| retry.at))
                        .fold(self.due, Timestamp::min);
                }
                _ => {}
            }
        }
        let outcome_bytes = outcome.as_ref().map_or(0, outcome_bytes);
        let bytes = 64 + outcome_bytes + changes_bytes(&changes);
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
}

/// What does not fit is shown to its author, and there may be a lot of it.
fn bad_call(message: &str) -> Refusal {
    Refusal::BadCall(message.chars().take(MAX_MESSAGE_CHARACTERS).collect())
}

/// The most characters of a message that a client's own words stand in.
const MAX_MESSAGE_CHARACTERS: usize = 1_000;

fn needs_key(query: &CallRequest) -> Refusal {
    let (mount, operation) = (&query.mount, &query.operation);
    let path = format!("{mount}/{operation}{}", query.arguments);
    Refusal::NeedsKey(path.chars().take(MAX_MESSAGE_CHARACTERS).collect())
}

/// What counts as a failed run (rule C4), for people.
fn failure_of(ending: &RunEnding) -> Option<String> {
    match ending {
        ending if !ending.is_failure() => None,
        RunEnding::Trapped(message) => Some(format!("it trapped: {message}")),
        RunEnding::Exceeded { bound, message } => Some(format!("bound {bound}: {message}")),
        _ => None,
    }
}

/// What the caller is told of a run that has ended the call.
fn ending_of(ended: RunEnding) -> Ending {
    match ended {
        RunEnding::Returned(result) => Ending::Returned(result),
        RunEnding::Failed(error) => Ending::Failed(error),
        RunEnding::Refused(reason) => Ending::Refused(reason),
        RunEnding::Trapped(message) => Ending::Trapped(message),
        RunEnding::Exceeded { bound, message } => Ending::Exceeded {
            bound: bound.into_owned(),
            message,
        },
        // Of a woken call: it was upgraded since.
        RunEnding::BadCall(message) => Ending::Outdated(message),
        RunEnding::Parked { .. } | RunEnding::NotReady => {
            Ending::Trapped("the run did not end the call".into())
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
        Change::PutPiece { piece, .. } => piece.len(),
        Change::Acknowledge { forgotten, .. } => 10 * forgotten.len(),
        _ => 0,
    };
    32 + payload
}

/// About how many bytes an outcome has in the log.
fn outcome_bytes(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Answered(answer) => answer_bytes(answer) as usize,
        Outcome::Multi(parts) => 128 * parts.len(),
        Outcome::Tried(trial) => trial_bytes(trial),
        // What a client wrote may stand in it.
        Outcome::Refused(refusal) => 128 + refusal.to_string().len(),
        _ => 128,
    }
}

fn trial_bytes(trial: &Trial) -> usize {
    let recording = trial.recording.as_ref().map_or(0, Recording::bytes);
    256 + trial.ran.bytes() + changes_bytes(&trial.changes) + recording
}

fn changes_bytes(changes: &[Change]) -> usize {
    changes.iter().map(change_bytes).sum()
}
