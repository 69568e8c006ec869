//! Who leads, as this server knows it, and the task that watches over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{Instant as _, ServerState};
use quorate_model::id::ServerId;
use tokio::sync::watch;

use crate::consensus::Raft;
use crate::health::{Health, HealthNote};
use crate::proposal::InFlight;
use crate::raft::Types;

type ServerMetrics = WatchReceiverOf<Types, RaftServerMetrics<Types>>;

/// So often per lease a leader of several looks whether it still holds.
const LOOKS_PER_LEASE: u32 = 4;

/// Who leads, as this server knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term that this server is in.
    pub term: u64,
    /// Who leads in it, if that is known.
    pub leader: Option<ServerId>,
    /// Whether this server leads in it, and a quorum has confirmed that lately.
    pub leading: bool,
}

/// Watches over the lead until openraft stops.
pub(crate) struct Watch {
    pub(crate) raft: Raft,
    pub(crate) server: u64,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) health: HealthNote,
    /// Set when this server is being shut down.
    pub(crate) stopping: Arc<AtomicBool>,
    /// For so long a leader may rely on its last word from a quorum.
    pub(crate) lease: Duration,
}

impl Watch {
    pub(crate) async fn run(self) {
        let mut metrics = self.raft.server_metrics();
        let mut acks = self.raft.data_metrics();
        let mut health = self.health.watch();
        loop {
            let (sole_voter, state) = self.look(&metrics);
            let idle = matches!(state, ServerState::Follower | ServerState::Learner);
            if sole_voter && idle && self.raft.trigger().elect(false).await.is_err() {
                break;
            }
            let led = state == ServerState::Leader && !sole_voter;
            let unconfirmed = led && !self.leadership.borrow().leading;
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { break },
                // A new leader leads from a quorum's first word on, not from the next look.
                changed = acks.changed(), if unconfirmed => if changed.is_err() { break },
                // Whatever failed, openraft may not know of it yet, and proposals must not wait for it to.
                _ = health.wait_for(|health| matches!(health, Health::Failed(_))) => break,
                // A leader that is cut off stays the leader in its own eyes, and no metric changes.
                () = tokio::time::sleep(self.lease / LOOKS_PER_LEASE), if led => {}
            }
        }
        let term = self.leadership.borrow().term;
        self.publish(Leadership {
            term,
            leader: None,
            leading: false,
        });
        let ended = self.raft.metrics().borrow_watched().running_state.clone();
        match ended {
            Err(Fatal::Stopped) if self.stopping.load(Ordering::SeqCst) => self.health.stopped(),
            Err(fatal) => self
                .health
                .failed(format!("consensus stopped by itself: {fatal}")),
            // The core went without a word, which is a panic; unless something had failed before.
            Ok(()) => self
                .health
                .panicked("the core of consensus has panicked".into()),
        }
    }

    /// Publishes what the metrics say; whether this server is the only voter, and its role.
    fn look(&self, metrics: &ServerMetrics) -> (bool, ServerState) {
        let seen = metrics.borrow_watched().clone();
        let membership = seen.membership_config.membership();
        let sole_voter = membership.voter_ids().eq([self.server]);
        let alone = sole_voter && membership.learner_ids().next().is_none();
        // Ticks drive heartbeats and elections, of which an ensemble of one has neither.
        self.raft.runtime_config().tick(!alone);
        let led = seen.state == ServerState::Leader && seen.vote.committed;
        self.publish(Leadership {
            term: seen.vote.leader_id.term,
            leader: seen.current_leader.map(ServerId),
            leading: led && (sole_voter || self.lease_holds()),
        });
        (sole_voter, seen.state)
    }

    fn lease_holds(&self) -> bool {
        let acked = self.raft.data_metrics().borrow_watched().last_quorum_acked;
        acked.is_some_and(|acked| acked.elapsed() < self.lease)
    }

    fn publish(&self, new: Leadership) {
        self.in_flight.lead(new.leading.then_some(new.term));
        self.leadership.send_if_modified(|current| {
            let changed = *current != new;
            *current = new;
            changed
        });
    }
}
