//! Who the members are, and the task that keeps it so: publishes it, adds a new ensemble's learners, ends what a dead leader began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{ChangeMembers, ServerState};
use quorate_model::id::ServerId;
use tokio::sync::{Mutex, watch};
use tokio::time::sleep;

use crate::consensus::Raft;
use crate::peer::network::Peers;
use crate::raft::Member;

/// After a change that this task made has failed, it is tried again behind this pause.
const PAUSE: Duration = Duration::from_millis(200);

/// The members of the ensemble, as this server's log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Those that vote. While that is being changed: those that voted before, and those that will.
    pub voters: BTreeSet<ServerId>,
    /// Those that follow and do not vote.
    pub learners: BTreeSet<ServerId>,
    /// Where the peers of each member reach it, `host:port`.
    pub addresses: BTreeMap<ServerId, String>,
    /// Whether a change is under way: not yet committed, or between its two steps.
    pub changing: bool,
    /// The index of the log entry that says all this; `None` on a server that waits to be added.
    pub index: Option<u64>,
}

/// Keeps the membership until consensus stops.
pub(crate) struct Keeper {
    pub(crate) server: u64,
    pub(crate) raft: Raft,
    pub(crate) peers: Arc<Peers>,
    pub(crate) members: watch::Sender<Members>,
    /// Where this server's peers are to reach it; empty for nowhere.
    pub(crate) address: String,
    /// A new ensemble's learners.
    pub(crate) learners: BTreeMap<u64, Member>,
    /// Held by whoever changes the membership.
    pub(crate) changing: Arc<Mutex<()>>,
}

/// What this task has to change.
enum Task {
    Nothing,
    /// This server is the only member, and was so far known by another address, or by none.
    SetAddress,
    AddLearners,
    EndChange,
}

impl Keeper {
    pub(crate) async fn run(self) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let task = self.look();
            let done = match task {
                Task::Nothing => true,
                Task::SetAddress => {
                    let _changing = self.changing.lock().await;
                    let address = self.address.clone();
                    let this = BTreeMap::from([(self.server, Member { address })]);
                    // It may have changed while the lock was waited for.
                    !matches!(self.look(), Task::SetAddress)
                        || self
                            .raft
                            .change_membership(ChangeMembers::SetNodes(this), true)
                            .await
                            .is_ok()
                }
                Task::AddLearners => {
                    let _changing = self.changing.lock().await;
                    let learners = ChangeMembers::AddNodes(self.learners.clone());
                    !matches!(self.look(), Task::AddLearners)
                        || self.raft.change_membership(learners, true).await.is_ok()
                }
                Task::EndChange => {
                    let _changing = self.changing.lock().await;
                    let none = ChangeMembers::AddVoterIds(BTreeSet::new());
                    // What is removed was named in the first step, and is gone with its end.
                    !matches!(self.look(), Task::EndChange)
                        || self.raft.change_membership(none, false).await.is_ok()
                }
            };
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return },
                () = sleep(PAUSE), if !done => {}
            }
        }
    }

    /// Publishes who the members are; what is to be done about it here.
    fn look(&self) -> Task {
        let metrics = self.raft.server_metrics();
        let seen = metrics.borrow_watched();
        let membership = seen.membership_config.membership();
        let joint = membership.get_joint_config().len() > 1;
        let (at, committed) = (
            *seen.membership_config.log_id(),
            *seen.committed_membership_config.log_id(),
        );
        let now = Members {
            voters: membership.voter_ids().map(ServerId).collect(),
            learners: membership.learner_ids().map(ServerId).collect(),
            addresses: membership
                .nodes()
                .map(|(id, member)| (ServerId(*id), member.address.clone()))
                .collect(),
            changing: joint || at != committed,
            index: at.map(|at| at.index),
        };
        if at.is_some() {
            self.peers
                .retain(|id| id == self.server || membership.get_node(&id).is_some());
        }
        let leads = seen.state == ServerState::Leader && seen.vote.committed;
        let task = if !leads || at != committed {
            Task::Nothing
        } else if joint {
            Task::EndChange
        } else if !self.address.is_empty()
            && now.addresses.len() == 1
            && now.addresses.get(&ServerId(self.server)) != Some(&self.address)
        {
            Task::SetAddress
        } else if !self.learners.is_empty() && now.index == Some(0) {
            // Nothing was changed since the ensemble was founded. All at once, so that it stays at that.
            Task::AddLearners
        } else {
            Task::Nothing
        };
        self.members.send_if_modified(|members| {
            let changed = *members != now;
            *members = now;
            changed
        });
        task
    }
}
