//! Who the members are, and the task that keeps it so: publishes it, adds a new ensemble's learners, ends what a dead leader began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{ChangeMembers, ServerState};
use quorate_model::id::ServerId;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{sleep, timeout};

use crate::consensus::Raft;
use crate::peer::acquaintances::Acquaintances;
use crate::peer::network::Peers;
use crate::raft::{Member, Membership};
use crate::reconfigure::CHANGE;

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
    /// Where clients reach each member, `host:port`; empty for one that has not said so yet.
    pub clients: BTreeMap<ServerId, String>,
    /// Whether a change is under way: not yet committed, or between its two steps.
    pub changing: bool,
    /// The index of the log entry that says all this; `None` on a server that waits to be added.
    pub index: Option<u64>,
}

/// What servers have said of themselves to the leader, until it stands in the membership.
#[derive(Default)]
pub(crate) struct Announced {
    /// Where clients reach each.
    clients: parking_lot::Mutex<BTreeMap<u64, String>>,
    more: Notify,
}

impl Announced {
    /// A member says where its clients reach it.
    pub(crate) fn client(&self, server: u64, client: String) {
        self.clients.lock().insert(server, client);
        self.more.notify_one();
    }
}

/// Keeps the membership until consensus stops.
pub(crate) struct Keeper {
    pub(crate) server: u64,
    pub(crate) raft: Raft,
    pub(crate) peers: Arc<Peers>,
    pub(crate) acquaintances: Arc<Acquaintances>,
    pub(crate) members: watch::Sender<Members>,
    /// Where this server's peers are to reach it; empty for nowhere.
    pub(crate) address: String,
    /// A new ensemble's learners.
    pub(crate) learners: BTreeMap<u64, Member>,
    pub(crate) announced: Arc<Announced>,
    /// Held by whoever changes the membership.
    pub(crate) changing: Arc<Mutex<()>>,
}

/// A change that this task has to make.
struct Task {
    change: ChangeMembers<u64, Member>,
    /// Whether a voter that is none afterwards stays a member.
    retain: bool,
}

impl Keeper {
    pub(crate) async fn run(self) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let done = match self.look() {
                None => true,
                // Whoever else changes the membership may take long, and what it does is to be published meanwhile.
                Some(_) => match self.changing.try_lock() {
                    Err(_) => false,
                    // It may have changed before the lock was taken.
                    Ok(_changing) => match self.look() {
                        None => true,
                        Some(Task { change, retain }) => {
                            // Without a quorum it is not done, and others would wait for the lock.
                            let made = self.raft.change_membership(change, retain);
                            matches!(timeout(CHANGE, made).await, Ok(Ok(_)))
                        }
                    },
                },
            };
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return },
                () = self.announced.more.notified() => {}
                () = self.acquaintances.more.notified() => {}
                () = sleep(PAUSE), if !done => {}
            }
        }
    }

    /// Publishes who the members are; what is to be done about it here.
    fn look(&self) -> Option<Task> {
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
            clients: membership
                .nodes()
                .map(|(id, member)| (ServerId(*id), member.client.clone()))
                .collect(),
            changing: joint || at != committed,
            index: at.map(|at| at.index),
        };
        if at.is_some() {
            let known = membership.nodes();
            let known = known.map(|(id, member)| (*id, member.directory));
            self.acquaintances.learn(known.collect());
            self.peers
                .retain(|id| id == self.server || membership.get_node(&id).is_some());
        }
        let leads = seen.state == ServerState::Leader && seen.vote.committed;
        let task = (leads && at == committed)
            .then(|| self.task(membership, &now))
            .flatten();
        self.members.send_if_modified(|members| {
            let changed = *members != now;
            *members = now;
            changed
        });
        task
    }

    /// What a leader has to do about a membership that is committed.
    fn task(&self, membership: &Membership, now: &Members) -> Option<Task> {
        let task = |change, retain| Some(Task { change, retain });
        if membership.get_joint_config().len() > 1 {
            // What is removed was named in the first step, and is gone with its end.
            return task(ChangeMembers::AddVoterIds(BTreeSet::new()), false);
        }
        let own = membership.get_node(&self.server);
        let alone = now.addresses.len() == 1;
        if let Some(own) = own.filter(|own| alone && own.address != self.address)
            && !self.address.is_empty()
        {
            // This server is the only member, and was so far known by another address, or by none.
            let this = Member {
                address: self.address.clone(),
                ..own.clone()
            };
            let this = BTreeMap::from([(self.server, this)]);
            return task(ChangeMembers::SetNodes(this), true);
        }
        if !self.learners.is_empty() && now.index == Some(0) {
            // Nothing was changed since the ensemble was founded. All at once, so that it stays at that.
            return task(ChangeMembers::AddNodes(self.learners.clone()), true);
        }
        let mut clients = self.announced.clients.lock();
        clients.retain(|server, client| {
            let member = membership.get_node(server);
            member.is_some_and(|member| member.client != *client)
        });
        let said = membership.nodes().filter_map(|(server, member)| {
            let mut known = member.clone();
            // One that is alone is met by nobody.
            if !alone {
                known.directory = known.directory.or_else(|| self.acquaintances.said(*server));
            }
            // Both in one change, where there are both to make.
            if let Some(client) = clients.get(server)
                && (alone || known.directory.is_some())
            {
                known.client.clone_from(client);
            }
            (known != *member).then_some((*server, known))
        });
        let said: BTreeMap<u64, Member> = said.collect();
        match said.is_empty() {
            true => None,
            false => task(ChangeMembers::SetNodes(said), true),
        }
    }
}
