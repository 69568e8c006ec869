//! Evaluate: the leader's one task. It takes what has arrived, has it evaluated against the overlay,
//! and hands a batch on while the one before is being written.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use quorate_consensus::{Consensus, Leadership};
use quorate_model::id::{CallId, SessionId, Zxid};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::request::{Operation, Request};
use quorate_model::run::{LogLevel, Runner};
use quorate_model::write_set::{Change, Entry, EpochStart, Transaction};
use quorate_tree::{Bounds, Evaluator, RecipeLine, RunTree, SharedState, State};
use tokio::sync::{Notify, watch};

use crate::activity::Activity;
use crate::apply::Opened;
use crate::clock::Clock;
use crate::essential::{Essential, panic_text};
use crate::expiry::{Expiry, Touches};
use crate::metrics::Metrics;
use crate::propose::{EpochLost, Proposer};
use crate::readiness::is_ready;
use crate::route::{Inbox, Numbered, Router, Waiter};

/// How many requests go into one entry: enough for group commit to pay, few enough that applying it
/// holds the state's lock for some milliseconds only.
const BATCH_REQUESTS: usize = 2048;

/// How many bytes one entry has, but for one larger transaction, which goes alone (rule S6).
const BATCH_BYTES: usize = 2 << 20;

/// A request that was lost with so many epochs is evaluated in an entry of its own (rule S5).
pub(crate) const ALONE_AFTER: u32 = 2;

/// One that was lost with so many is refused: it seems to be what ends them (rule S5).
const REFUSED_AFTER: u32 = 3;

/// An epoch with less room for transactions than this is followed by a new one, so that zxids never run out.
const MIN_ROOM: u32 = 1 << 20;

/// After an epoch could not be opened.
const RETRY: Duration = Duration::from_millis(50);

/// Between two looks at the clock while there is no session at all, in milliseconds.
const IDLE_TICK_MS: u64 = 60_000;

/// How long an entry's requests are evaluated before what there is goes out (rule C5). Wakes have a share of their
/// own in each entry, [`Bounds::wake_fuel`]; requests keep their order (S1), so it is among wakes that mounts take turns.
const EVALUATE: Duration = Duration::from_millis(20);

/// How long a new leader waits for mounted recipes to be compiled, before it takes requests. Before it is over, one that
/// is not ready hands over to a server that is (`readiness`). With an election it is less than the second in which writes
/// go on after a leader's death.
const READY_PATIENCE: Duration = Duration::from_millis(600);

/// How long the first leader waits for the voters' clocks (rule E3): some reports.
const CLOCKS_PATIENCE: Duration = Duration::from_secs(1);

/// While a marked call waits for its recipe to be compiled.
const RECIPE_PATIENCE: Duration = Duration::from_millis(10);

/// The leader's task, with all that it needs. It runs recipes, so it wants a thread of its own.
pub struct Leader<R> {
    /// Where proposals go.
    pub consensus: Consensus,
    /// Where this server's requests come from.
    pub router: Router,
    /// Where the other servers' requests come from.
    pub inbox: Arc<Inbox>,
    /// What is applied.
    pub state: SharedState,
    /// Runs recipes.
    pub runner: R,
    /// Time.
    pub clock: Arc<Clock>,
    /// Signs of life.
    pub touches: Arc<Touches>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What recipes do here.
    pub activity: Arc<Activity>,
    /// Which epoch was opened last, and by whose nonce.
    pub opened: watch::Receiver<Opened>,
    /// Another recipe is compiled.
    pub compiled: Arc<Notify>,
    /// Unique to this start of the server, together with the epoch.
    pub nonce: u64,
    /// What ends if it panics outside the evaluation of a request.
    pub essential: Essential,
}

impl<R: Runner<RunTree> + Clone> Leader<R> {
    /// Leads whenever this server is to, until consensus has stopped.
    pub async fn run(self) {
        let essential = self.essential.clone();
        essential.watch("leader", self.lead_when_asked()).await;
    }

    async fn lead_when_asked(mut self) {
        let mut leadership = self.consensus.leadership();
        loop {
            let leading = leadership.wait_for(|now| now.leading).await;
            let Ok(term) = leading.map(|now| now.term) else {
                return;
            };
            match self.open_epoch(term).await {
                Ok(EpochStart { epoch, suspect, .. }) => {
                    tracing::info!(epoch, term, "leading");
                    self.inbox.open(epoch);
                    let Err(EpochLost(why)) = self.lead(term, suspect, &mut leadership).await;
                    self.inbox.close();
                    Expiry::end(&self.touches);
                    tracing::info!(epoch, term, "the epoch has ended: {why}");
                }
                Err(EpochLost(why)) => {
                    tracing::warn!(term, "no epoch could be opened: {why}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Opens an epoch from exactly the state that every leader before has left (rule E1).
    async fn open_epoch(&mut self, term: u64) -> Result<EpochStart, EpochLost> {
        let ready = self.consensus.ready_to_lead(term).await;
        ready.map_err(|error| EpochLost(error.to_string()))?;
        // A pause, so that calls are not refused as not ready (rule C6); one that takes longer is.
        let _ = tokio::time::timeout(READY_PATIENCE, self.recipes_ready()).await;
        self.settle_clock().await;
        let (epoch, time, suspect) = {
            let state = self.state.read();
            let suspect = state.first_marked(|digest| self.runner.ready(digest));
            (state.epoch() + 1, state.last_time(), suspect)
        };
        self.clock.not_before(time);
        let start = EpochStart {
            epoch,
            leader: self.router.server(),
            incarnation: self.router.incarnation(),
            nonce: self.nonce,
            time: self.clock.now(),
            suspect,
        };
        let mut proposer = Proposer::new(self.consensus.clone(), term);
        let first = Zxid::new(epoch, 0);
        proposer
            .propose(Entry::EpochStart(start.clone()), first)
            .await?;
        proposer.next().await?;
        let opened = *self.opened.borrow_and_update();
        let ours = Opened {
            epoch,
            nonce: self.nonce,
        };
        if opened != ours {
            return Err(EpochLost(format!(
                "epoch {epoch} was opened by another server"
            )));
        }
        Ok(start)
    }

    /// A leader that has not followed another since its start asks the voters what time it is (rule E3).
    async fn settle_clock(&self) {
        if self.clock.is_known() {
            return;
        }
        let here = self.consensus.server();
        // Not the published members: they may not be there yet.
        let voters = self.consensus.status().voters.into_iter().collect();
        // Of those that are away a quorum does not need to know.
        let _ = tokio::time::timeout(CLOCKS_PATIENCE, self.clock.all_heard(here, &voters)).await;
        self.clock.begin(here, &voters);
    }

    /// Waits until every mounted recipe is compiled here.
    async fn recipes_ready(&self) {
        loop {
            let compiled = self.compiled.notified();
            let all = {
                let state = self.state.read();
                is_ready(&state, &self.runner)
            };
            if all {
                return;
            }
            compiled.await;
        }
    }

    /// Evaluates and proposes until the epoch is lost; says why it is.
    async fn lead(
        &self,
        term: u64,
        suspect: Option<CallId>,
        leadership: &mut watch::Receiver<Leadership>,
    ) -> Result<Never, EpochLost> {
        let mut proposer = Proposer::new(self.consensus.clone(), term);
        let mut evaluator =
            Evaluator::new(self.state.clone(), self.runner.clone(), Bounds::default());
        let mut expiry = Expiry::default();
        expiry.begin(&self.touches, &self.state.read());
        let mut next_tick_ms = 0;
        if let Some(suspect) = suspect {
            let now = self.clock.now();
            barrier(|| evaluator.run_suspect(suspect, now))?;
            self.flush(&mut evaluator, &mut proposer).await?;
        }
        let mut more = false;
        loop {
            if evaluator.room() < MIN_ROOM {
                return Err(EpochLost("its transactions are numbered out".into()));
            }
            let monotonic_ms = self.clock.monotonic_ms();
            if monotonic_ms >= next_tick_ms {
                self.expire(&mut expiry, monotonic_ms);
                let next = expiry.next_tick_ms(&self.touches).unwrap_or(IDLE_TICK_MS);
                next_tick_ms = monotonic_ms + next;
            }
            let mut patience = Duration::from_millis(next_tick_ms - monotonic_ms);
            if proposer.has_room() {
                if evaluator.has_wakes() {
                    patience = patience.min(RECIPE_PATIENCE);
                }
                let due = evaluator.next_due().0.saturating_sub(self.clock.now().0);
                patience = patience.min(Duration::from_millis(due));
            }
            let room = proposer.has_room();
            tokio::select! {
                biased;
                _ = leadership.wait_for(|now| !(now.leading && now.term == term)) => {
                    return Err(EpochLost("the lead was lost".into()));
                }
                applied = proposer.next() => evaluator.applied(applied?),
                () = std::future::ready(()), if room && more => {}
                () = self.router.arrived(), if room => {}
                () = self.inbox.arrived(), if room => {}
                () = self.compiled.notified() => {}
                () = tokio::time::sleep(patience) => {}
            }
            if proposer.has_room() {
                let requests = self.take();
                more = requests.len() >= BATCH_REQUESTS;
                self.evaluate(&mut evaluator, &mut proposer, requests)
                    .await?;
                more |= evaluator.has_left_over();
            }
            for (session, timeout_ms) in self.touches.take_opened() {
                expiry.opened(&self.touches, session, timeout_ms);
                next_tick_ms = next_tick_ms.min(monotonic_ms);
            }
        }
    }

    /// What has arrived, for one batch; other servers' requests have half of it, if there are so many.
    fn take(&self) -> Vec<Numbered> {
        let mut requests = self.inbox.take(BATCH_REQUESTS / 2);
        requests.extend(self.router.take(BATCH_REQUESTS - requests.len()).1);
        requests
    }

    /// One round: timers and left-over wakes first, then the requests.
    async fn evaluate(
        &self,
        evaluator: &mut Evaluator<R>,
        proposer: &mut Proposer,
        requests: Vec<Numbered>,
    ) -> Result<(), EpochLost> {
        let now = self.clock.now();
        if evaluator.has_wakes() || evaluator.next_due() <= now {
            barrier(|| evaluator.tick(now))?;
            // What is due comes before any request, however much it is (rule E3).
            while evaluator.next_due() <= now {
                self.flush(evaluator, proposer).await?;
                barrier(|| evaluator.tick_timers(now))?;
            }
        }
        let mut requests_took = Duration::ZERO;
        for numbered in requests {
            let alone = numbered.lost_epochs >= ALONE_AFTER;
            if alone {
                self.flush(evaluator, proposer).await?;
            }
            let origin = Some(numbered.origin);
            self.metrics.evaluated.inc();
            if numbered.lost_epochs >= REFUSED_AFTER {
                let times = numbered.lost_epochs;
                let refusal =
                    Refusal::Defect(format!("{times} epochs ended while it was evaluated"));
                evaluator.refuse(&numbered.request, origin, refusal);
            } else {
                let begun = self.clock.monotonic();
                barrier(|| evaluator.evaluate_alone(&numbered.request, origin, now))?;
                requests_took += self.clock.monotonic().saturating_sub(begun);
                if !alone {
                    barrier(|| evaluator.tick(now))?;
                }
            }
            if alone || evaluator.batch_bytes() >= BATCH_BYTES || requests_took >= EVALUATE {
                self.flush(evaluator, proposer).await?;
                requests_took = Duration::ZERO;
                if evaluator.has_left_over() {
                    barrier(|| evaluator.tick(now))?;
                }
            }
        }
        self.flush(evaluator, proposer).await
    }

    /// Proposes what was evaluated, waiting for room if need be.
    async fn flush(
        &self,
        evaluator: &mut Evaluator<R>,
        proposer: &mut Proposer,
    ) -> Result<(), EpochLost> {
        evaluator.take_log().iter().for_each(tell);
        for observed in evaluator.take_observed() {
            self.activity.observe(observed);
        }
        loop {
            let before = evaluator.batch_bytes();
            let Some(batch) = evaluator.take_batch(BATCH_BYTES) else {
                return Ok(());
            };
            while !proposer.has_room() {
                evaluator.applied(proposer.next().await?);
            }
            for transaction in &batch.transactions {
                self.observe(transaction);
            }
            self.metrics.entries.inc();
            let bytes = before - evaluator.batch_bytes();
            self.metrics.entry_bytes.inc_by(bytes as u64);
            self.metrics
                .entry_transactions
                .observe(batch.transactions.len() as f64);
            let last = batch.first_counter + (batch.transactions.len() as u32 - 1);
            let zxid = Zxid::new(batch.epoch, last);
            proposer.propose(Entry::Transactions(batch), zxid).await?;
        }
    }

    /// What operators are to know of a transaction: refusals, and mounts that are suspended.
    fn observe(&self, transaction: &Transaction) {
        self.metrics.count_transaction(transaction);
        if let Some(Outcome::Refused(refusal)) = &transaction.outcome {
            self.metrics.refused.inc();
            let refused = refusal.reason();
            if let Refusal::GuardRefused { .. } | Refusal::GuardFailed { .. } = refused {
                let session = transaction.session;
                tracing::info!(target: "recipe", %session, "a write is refused: {refused}");
            }
        }
        for change in &transaction.changes {
            if let Change::Suspend { mount, reason } = change {
                match reason {
                    Some(reason) => {
                        self.metrics.suspensions.inc();
                        tracing::warn!(target: "recipe", %mount, "suspended: {reason}");
                    }
                    None => tracing::info!(target: "recipe", %mount, "resumed"),
                }
            }
        }
    }

    /// Asks for the end of sessions whose clients are silent.
    fn expire(&self, expiry: &mut Expiry, monotonic_ms: u64) {
        let silent = expiry.tick(&self.touches, monotonic_ms, &self.state.read());
        if silent.is_empty() {
            return;
        }
        let waiting = self.router.sessions_in_flight();
        for (session, owner) in silent {
            if waiting.contains(&session) {
                // A queued request is a sign of life (rule W5).
                self.touches.spare(session);
                continue;
            }
            tracing::debug!(%session, "the session's client was silent for its timeout");
            self.metrics.expired.inc();
            let operation = Operation::ExpireSession;
            let request = Request {
                session,
                // It lives on if it moves before this is evaluated: then it has its full timeout (rule W4).
                owner,
                identities: Arc::default(),
                operation,
            };
            if self.router.submit(request, Box::new(NobodyWaits)).is_err() {
                self.touches.spare(session);
                tracing::warn!(%session, "its end has to wait: too much is in flight");
            }
        }
    }
}

/// An epoch goes on until it is lost.
enum Never {}

/// The panic barrier of rule S5: evaluation that panics ends the epoch, not the server, and whatever
/// was evaluated and not proposed yet is sent again.
fn barrier(evaluate: impl FnOnce()) -> Result<(), EpochLost> {
    catch_unwind(AssertUnwindSafe(evaluate)).map_err(|panic| {
        let said = panic_text(panic.as_ref());
        EpochLost(format!("evaluation panicked: {said}"))
    })
}

fn tell(line: &RecipeLine) {
    let RecipeLine {
        mount,
        operation,
        line,
    } = line;
    let message = line.message.as_str();
    match line.level {
        LogLevel::Debug => tracing::debug!(target: "recipe", %mount, operation, "{message}"),
        LogLevel::Info => tracing::info!(target: "recipe", %mount, operation, "{message}"),
        LogLevel::Warn => tracing::warn!(target: "recipe", %mount, operation, "{message}"),
        LogLevel::Error => tracing::error!(target: "recipe", %mount, operation, "{message}"),
    }
}

/// For requests of the leader's own.
pub(crate) struct NobodyWaits;

impl Waiter for NobodyWaits {
    fn alive(&self) -> bool {
        // What the leader asked for, the next one asks for again if it still is to be.
        false
    }
    fn settle(self: Box<Self>, _: &State, _: Zxid, _: &Outcome) {}
    fn abandon(self: Box<Self>, _: &str) {}
}

/// A request of no session, for administration and for the server's own start.
pub fn administration(operation: Operation) -> Request {
    Request {
        session: SessionId::NONE,
        owner: None,
        identities: Arc::default(),
        operation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s5_a_panic_ends_the_epoch_and_not_the_server() {
        let lost = barrier(|| panic!("query of {}", "death"));
        assert!(lost.is_err_and(|EpochLost(why)| why.contains("query of death")));
    }
}
