//! A leader whose process is gone is noticed at once, not after a timeout.
//!
//! When a connection from the leader ends, its address is dialed. If nobody listens there any more, its process
//! is gone, and this server stands for election: first the one with the longest log, and the others a little later,
//! should that one fail.
//!
//! This is safe whatever a dial says, as it decides only *when* a server stands. Raft decides who leads: by
//! majority, in a new term, by the log. It does set aside the rule that a voter refuses to elect while it has
//! lately heard of the leader, as raft itself does when a leader hands over (dissertation, 4.2.3); that rule spares
//! a live leader from being disturbed, and nothing here relies on it: `ready_to_lead` and `read_index` ask a quorum.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::RPCError;
use openraft::raft::{TransferLeaderRequest, VoteRequest};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::consensus::Raft;
use crate::peer::acquaintances::Acquaintances;
use crate::peer::dial::ConnectError;
use crate::peer::hello::Purpose;
use crate::peer::network::Peers;
use crate::raft::{LogId, Member, Vote};

/// Ended connections that wait to be looked at.
pub(crate) const ENDED: usize = 16;

/// A connection that is taken and closed at once may be of a process that is just ending: it is dialed again
/// so often, so much later.
const PROBES: u32 = 3;
const PROBE_PAUSE: Duration = Duration::from_millis(10);

/// For so long other voters are asked how far their logs go.
const ASK: Duration = Duration::from_millis(40);

/// Each voter with a better claim gives this one so much more patience: time enough for an election.
const STEP: Duration = Duration::from_millis(75);

/// Stands for election when the leader's process is gone.
pub(crate) struct Failover {
    pub(crate) server: u64,
    pub(crate) raft: Raft,
    pub(crate) peers: Arc<Peers>,
    pub(crate) acquaintances: Arc<Acquaintances>,
    /// Where connections came from that have ended.
    pub(crate) ended: mpsc::Receiver<u64>,
}

/// The lead that may be over.
struct Lead {
    vote: Vote,
    leader: (u64, Member),
    /// The other voters.
    others: Vec<(u64, Member)>,
}

impl Failover {
    pub(crate) async fn run(mut self) {
        while let Some(from) = self.ended.recv().await {
            // A leader that was never reached since this server stood against it is no proof that nobody listens: the
            // address may be wrong, or the way there cut.
            if let Some(lead) = self.lead_of(from)
                && self.is_gone(&lead).await
                && self.acquaintances.take_reached(lead.leader.0)
            {
                self.stand(&lead).await;
            }
        }
    }

    /// The lead of `leader`, if it leads and this server is one of those who elect another.
    fn lead_of(&self, leader: u64) -> Option<Lead> {
        let metrics = self.raft.server_metrics();
        let seen = metrics.borrow_watched();
        let membership = seen.membership_config.membership();
        let votes = |id: u64| membership.voter_ids().any(|voter| voter == id);
        if seen.current_leader != Some(leader)
            || leader == self.server
            || !seen.vote.committed
            || !votes(self.server)
        {
            return None;
        }
        let others = membership
            .nodes()
            .filter(|(id, _)| **id != leader && **id != self.server && votes(**id));
        Some(Lead {
            vote: seen.vote,
            leader: (leader, membership.get_node(&leader)?.clone()),
            others: others.map(|(id, member)| (*id, member.clone())).collect(),
        })
    }

    async fn is_gone(&self, lead: &Lead) -> bool {
        let (leader, member) = &lead.leader;
        let dialer = self
            .peers
            .dialer(*leader, &member.address, Purpose::Control);
        for _ in 0..PROBES {
            match dialer.dial().await {
                Err(error) if error.nobody_listens() => return true,
                Err(ConnectError::Lost { .. }) => sleep(PROBE_PAUSE).await,
                _ => return false,
            }
        }
        false
    }

    /// Stands, behind those with a better claim, unless somebody has by then.
    async fn stand(&self, lead: &Lead) {
        let mine = self.last_log();
        let ahead = self.ahead(lead, mine).await;
        let mut metrics = self.raft.server_metrics();
        let decided = async {
            while metrics.borrow_watched().vote == lead.vote {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = decided => return,
            () = sleep(STEP * ahead) => {}
        }
        tracing::info!(
            "the process of server {}, which led, is gone: standing for election",
            lead.leader.0
        );
        // To itself, in the leader's name; openraft does nothing when the vote is not that leader's any more.
        let request = TransferLeaderRequest::new(lead.vote, self.server, self.last_log());
        match self.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!("standing for election had no effect: {error}"),
            // Consensus has stopped, and says so elsewhere.
            Err(_) => {}
        }
    }

    fn last_log(&self) -> Option<LogId> {
        self.raft.data_metrics().borrow_watched().last_log
    }

    /// How many voters have a better claim: a longer log, or as long a one and a lower number.
    async fn ahead(&self, lead: &Lead, mine: Option<LogId>) -> u32 {
        let claim = |log: Option<LogId>, id: u64| (log, Reverse(id));
        let vote = Vote::new(lead.vote.leader_id.term + 1, self.server);
        let asked = lead.others.iter().map(|(id, member)| async move {
            let peer = self.peers.client(*id, member, Purpose::Control);
            match peer.probe(VoteRequest::new(vote, mine), ASK).await {
                Ok(response) => claim(response.last_log_id, *id) > claim(mine, self.server),
                // Slow, but there: as if its log were as long.
                Err(RPCError::Timeout(_)) => *id < self.server,
                // It cannot stand any more than it can be elected by.
                Err(_) => false,
            }
        });
        join_all(asked).await.into_iter().map(u32::from).sum()
    }
}
