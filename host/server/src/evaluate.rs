//! Evaluate: the leader's one thread. It takes what has arrived, has it evaluated against the overlay,
//! and hands a batch on while the one before is being written.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use quorate_consensus::{Consensus, Leadership};
use quorate_model::id::{CallId, Incarnation, Origin, ServerId, SessionId, Timestamp, Zxid};
use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::request::{Operation, Request};
use quorate_model::run::{LogLevel, Runner};
use quorate_model::write_set::{Entry, EpochStart};
use quorate_tree::{Bounds, Evaluator, RecipeLine, RunTree, SharedState, State};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::apply::Opened;
use crate::clock::Clock;
use crate::expiry::{Expiry, Touches};
use crate::metrics::Metrics;
use crate::propose::{EpochLost, Proposer};
use crate::route::{Numbered, Router, Waiter};

/// How many requests go into one entry: enough for group commit to pay, few enough that applying it
/// holds the state's lock for some milliseconds only.
const BATCH_REQUESTS: usize = 2048;

/// How many bytes one entry has, but for one larger transaction, which goes alone (rule S6).
const BATCH_BYTES: usize = 2 << 20;

/// A request that was lost with so many epochs is evaluated in an entry of its own (rule S5).
const ALONE_AFTER: u32 = 2;

/// One that was lost with so many is refused: it seems to be what ends them (rule S5).
const REFUSED_AFTER: u32 = 3;

/// An epoch with less room for transactions than this is followed by a new one, so that zxids never run out.
const MIN_ROOM: u32 = 1 << 20;

/// After an epoch could not be opened.
const RETRY: Duration = Duration::from_millis(50);

/// Between two looks at the clock while there is no session at all, in milliseconds.
const IDLE_TICK_MS: u64 = 60_000;

/// While a marked call waits for its recipe to be compiled.
const RECIPE_PATIENCE: Duration = Duration::from_millis(10);

/// The leader's thread, with all that it needs.
pub struct Leader<R> {
    /// Where proposals go.
    pub consensus: Consensus,
    /// Where requests come from.
    pub router: Router,
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
    /// Which epoch was opened last, and by whose nonce.
    pub opened: watch::Receiver<Opened>,
    /// To wait for consensus with.
    pub runtime: Handle,
    /// Unique to this start of the server, together with the epoch.
    pub nonce: u64,
}

impl<R: Runner<RunTree> + Clone> Leader<R> {
    /// Leads whenever this server is to, until consensus has stopped.
    pub fn run(mut self) {
        let mut leadership = self.consensus.leadership();
        loop {
            let leading = self
                .runtime
                .block_on(leadership.wait_for(|now| now.leading));
            let Ok(term) = leading.map(|now| now.term) else {
                return;
            };
            match self.open_epoch(term) {
                Ok(EpochStart { epoch, suspect, .. }) => {
                    tracing::info!(epoch, term, "leading");
                    let why = self.lead(term, suspect, &leadership);
                    tracing::info!(epoch, term, "the epoch has ended: {why}");
                }
                Err(EpochLost(why)) => {
                    tracing::warn!(term, "no epoch could be opened: {why}");
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    /// Opens an epoch from exactly the state that every leader before has left (rule E1).
    fn open_epoch(&mut self, term: u64) -> Result<EpochStart, EpochLost> {
        let lost = |error: &dyn std::fmt::Display| EpochLost(error.to_string());
        self.runtime
            .block_on(self.consensus.ready_to_lead(term))
            .map_err(|error| lost(&error))?;
        let (epoch, time, suspect) = {
            let state = self.state.read();
            let suspect = state.first_marked(|digest| self.runner.ready(digest));
            (state.epoch() + 1, state.last_time(), suspect)
        };
        let start = EpochStart {
            epoch,
            leader: self.router.server(),
            incarnation: self.router.incarnation(),
            nonce: self.nonce,
            time: self.clock.now().max(time),
            suspect,
        };
        let mut proposer = Proposer::new(
            self.consensus.clone(),
            self.router.clone(),
            self.runtime.clone(),
            term,
        );
        proposer.propose(Entry::EpochStart(start.clone()), Zxid::new(epoch, 0))?;
        proposer.wait()?;
        let opened = *self.opened.borrow_and_update();
        if opened
            != (Opened {
                epoch,
                nonce: self.nonce,
            })
        {
            return Err(EpochLost(format!(
                "epoch {epoch} was opened by another server"
            )));
        }
        Ok(start)
    }

    /// Evaluates and proposes until the epoch is lost; says why it is.
    fn lead(
        &self,
        term: u64,
        suspect: Option<CallId>,
        leadership: &watch::Receiver<Leadership>,
    ) -> String {
        let mut proposer = Proposer::new(
            self.consensus.clone(),
            self.router.clone(),
            self.runtime.clone(),
            term,
        );
        let mut evaluator =
            Evaluator::new(self.state.clone(), self.runner.clone(), Bounds::default());
        let mut expiry = Expiry::default();
        expiry.begin(&self.touches, &self.state.read());
        let mut streams = Streams::default();
        let mut next_tick_ms = 0;
        if let Some(suspect) = suspect {
            let now = self.clock.now();
            let run = barrier(|| evaluator.run_suspect(suspect, now));
            if let Err(EpochLost(why)) =
                run.and_then(|()| self.flush(&mut evaluator, &mut proposer))
            {
                return why;
            }
        }
        loop {
            match proposer.poll() {
                Ok(Some(zxid)) => evaluator.applied(zxid),
                Ok(None) => {}
                Err(EpochLost(why)) => return why,
            }
            if !is_leading(&leadership.borrow(), term) {
                return "the lead was lost".into();
            }
            if evaluator.room() < MIN_ROOM {
                return "its transactions are numbered out".into();
            }
            let monotonic_ms = self.clock.monotonic_ms();
            if monotonic_ms >= next_tick_ms {
                self.expire(&mut expiry, monotonic_ms);
                let next = expiry.next_tick_ms(&self.touches).unwrap_or(IDLE_TICK_MS);
                next_tick_ms = monotonic_ms + next;
            }
            let limit = if proposer.has_room() {
                BATCH_REQUESTS
            } else {
                0
            };
            let mut patience = Duration::from_millis(next_tick_ms - monotonic_ms);
            if proposer.has_room() {
                if evaluator.has_wakes() {
                    patience = patience.min(RECIPE_PATIENCE);
                }
                let due = evaluator.next_due().0.saturating_sub(self.clock.now().0);
                patience = patience.min(Duration::from_millis(due));
            }
            let taken = self.router.take(limit, patience);
            if !proposer.has_room() {
                continue;
            }
            let now = self.clock.now();
            let done = self.evaluate(&mut evaluator, &mut proposer, &mut streams, taken, now);
            if let Err(EpochLost(why)) = done {
                return why;
            }
            for (session, timeout_ms) in self.touches.take_opened() {
                expiry.opened(&self.touches, session, timeout_ms);
                next_tick_ms = next_tick_ms.min(monotonic_ms);
            }
        }
    }

    /// One round: timers and left-over wakes first, then the requests.
    fn evaluate(
        &self,
        evaluator: &mut Evaluator<R>,
        proposer: &mut Proposer,
        streams: &mut Streams,
        requests: Vec<Numbered>,
        now: Timestamp,
    ) -> Result<(), EpochLost> {
        if evaluator.has_wakes() || evaluator.next_due() <= now {
            barrier(|| evaluator.tick(now))?;
        }
        for numbered in requests {
            if !streams.admit(numbered.origin) {
                continue;
            }
            let alone = numbered.lost_epochs >= ALONE_AFTER;
            if alone {
                self.flush(evaluator, proposer)?;
            }
            let origin = Some(numbered.origin);
            self.metrics.evaluated.inc();
            if numbered.lost_epochs >= REFUSED_AFTER {
                let times = numbered.lost_epochs;
                let refusal =
                    Refusal::Defect(format!("{times} epochs ended while it was evaluated"));
                evaluator.refuse(&numbered.request, origin, refusal);
            } else {
                let request = &numbered.request;
                barrier(|| match alone {
                    true => evaluator.evaluate_alone(request, origin, now),
                    false => evaluator.evaluate(request, origin, now),
                })?;
            }
            if alone || evaluator.batch_bytes() >= BATCH_BYTES {
                self.flush(evaluator, proposer)?;
            }
        }
        self.flush(evaluator, proposer)
    }

    /// Proposes what was evaluated, waiting for room if need be.
    fn flush(
        &self,
        evaluator: &mut Evaluator<R>,
        proposer: &mut Proposer,
    ) -> Result<(), EpochLost> {
        evaluator.take_log().iter().for_each(tell);
        let bytes = evaluator.batch_bytes() as u64;
        let Some(batch) = evaluator.take_batch() else {
            return Ok(());
        };
        while !proposer.has_room() {
            if let Some(zxid) = proposer.wait()? {
                evaluator.applied(zxid);
            }
        }
        let transactions = batch.transactions.iter();
        let refused = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Refused(_)));
        let refused = transactions
            .filter(|transaction| refused(&transaction.outcome))
            .count();
        self.metrics.refused.inc_by(refused as u64);
        self.metrics.entries.inc();
        self.metrics.entry_bytes.inc_by(bytes);
        self.metrics
            .entry_transactions
            .observe(batch.transactions.len() as f64);
        let last = batch.first_counter + (batch.transactions.len() as u32 - 1);
        let zxid = Zxid::new(batch.epoch, last);
        proposer.propose(Entry::Transactions(batch), zxid)
    }

    /// Asks for the end of sessions whose clients are silent.
    fn expire(&self, expiry: &mut Expiry, monotonic_ms: u64) {
        let silent = expiry.tick(&self.touches, monotonic_ms, &self.state.read());
        for session in silent {
            tracing::debug!(%session, "the session's client was silent for its timeout");
            self.metrics.expired.inc();
            let operation = Operation::ExpireSession;
            let request = Request {
                session,
                owner: None,
                identities: Vec::new(),
                operation,
            };
            if self.router.submit(request, Box::new(NobodyWaits)).is_err() {
                tracing::warn!(%session, "its end has to wait: too much is in flight");
            }
        }
    }
}

fn is_leading(leadership: &Leadership, term: u64) -> bool {
    leadership.leading && leadership.term == term
}

/// The panic barrier of rule S5: evaluation that panics ends the epoch, not the server, and whatever
/// was evaluated and not proposed yet is sent again.
fn barrier(evaluate: impl FnOnce()) -> Result<(), EpochLost> {
    catch_unwind(AssertUnwindSafe(evaluate)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
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

/// The requests seen in this epoch: each server's numbers are consecutive from the first on (rule S1).
#[derive(Default)]
struct Streams(HashMap<(ServerId, Incarnation), u64>);

impl Streams {
    /// Whether it is the next one. A lower number was evaluated already; a gap is refused.
    fn admit(&mut self, origin: Origin) -> bool {
        let next = self
            .0
            .entry((origin.server, origin.incarnation))
            .or_insert(origin.number);
        if *next != origin.number {
            return false;
        }
        *next += 1;
        true
    }
}

/// For requests of the leader's own.
struct NobodyWaits;

impl Waiter for NobodyWaits {
    fn alive(&self) -> bool {
        // A session that is to end is found silent again in the next epoch.
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
        identities: Vec::new(),
        operation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_within_an_epoch_only_the_next_number_is_evaluated() {
        let mut streams = Streams::default();
        let origin = |incarnation, number| Origin {
            server: ServerId(1),
            incarnation: Incarnation(incarnation),
            number,
        };
        assert!(
            streams.admit(origin(1, 7)),
            "the first states where the stream starts"
        );
        assert!(streams.admit(origin(1, 8)));
        assert!(!streams.admit(origin(1, 8)), "evaluated already");
        assert!(!streams.admit(origin(1, 10)), "a gap");
        assert!(streams.admit(origin(2, 1)), "another start of the server");
        assert!(streams.admit(origin(1, 9)));
    }

    #[test]
    fn s5_a_panic_ends_the_epoch_and_not_the_server() {
        let lost = barrier(|| panic!("query of {}", "death"));
        assert!(lost.is_err_and(|EpochLost(why)| why.contains("query of death")));
    }
}
