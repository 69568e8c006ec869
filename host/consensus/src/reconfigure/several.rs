//! Several changes of the members at once, with one change of the voters: what ZooKeeper calls a reconfiguration.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::metrics::RaftMetrics;
use quorate_model::id::ServerId;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{
    INTRODUCTION, LOOK, Reconfiguration, alive, behind, check_address, check_quorum,
    check_reachable, lead_lost, refused, to_its_end, voters,
};
use crate::error::ReconfigureError;
use crate::raft::{Member, Types};

/// A new voter has so long to be there, and as long to catch up. One that needs more is added as an observer first.
const CATCH_UP: Duration = Duration::from_secs(30);

/// Changes of the members that are made together, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersChange {
    /// Members from now on. One that is a member already votes from now on, or does not any more.
    pub joining: Vec<NewMember>,
    /// No members from now on; whoever is none now is left aside.
    pub leaving: BTreeSet<ServerId>,
    /// Whoever is not in `joining` leaves.
    pub others_leave: bool,
    /// What [`Members::index`](crate::Members::index) must be; none for any.
    pub from: Option<u64>,
}

/// A server that is to be a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMember {
    /// Who it is.
    pub server: ServerId,
    /// Where its peers reach it, `host:port`.
    pub address: String,
    /// Where its clients reach it, `host:port`; may be empty, as it will say so itself.
    pub client: String,
    /// Whether it votes.
    pub votes: bool,
}

/// What a change comes to.
struct Plan {
    /// Members that are none yet.
    new: BTreeMap<u64, Member>,
    /// All that vote afterwards.
    voters: BTreeSet<u64>,
    /// Members that are none afterwards.
    gone: BTreeSet<u64>,
}

impl Reconfiguration {
    pub(crate) async fn reconfigure(self, change: MembersChange) -> Result<u64, ReconfigureError> {
        to_its_end(async move {
            let changing = self.changing.clone();
            let _changing = changing
                .try_lock()
                .map_err(|_| ReconfigureError::InProgress)?;
            self.change_several(&change).await
        })
        .await
    }

    async fn change_several(&self, change: &MembersChange) -> Result<u64, ReconfigureError> {
        let now = self.leading()?;
        let at = now.membership_config.log_id().map(|at| at.index);
        if now.membership_config.membership().get_joint_config().len() > 1 {
            return Err(ReconfigureError::InProgress);
        }
        let mut index = at.unwrap_or_default();
        if let Some(expected) = change.from.filter(|from| *from != index) {
            let actual = index;
            return Err(ReconfigureError::Version { expected, actual });
        }
        let plan = plan(&now, change)?;
        self.heard_of_all(|now| self.check_survivors(now, &plan))
            .await?;
        if !plan.voters.contains(&self.server) {
            return self.leave_the_lead(&now, &plan).await;
        }

        for (server, member) in &plan.new {
            let patience = match plan.voters.contains(server) {
                true => CATCH_UP,
                false => INTRODUCTION,
            };
            self.introduce(*server, &member.address, patience).await?;
        }
        // That may have taken a while.
        self.leading()?;
        if !plan.new.is_empty() {
            index = self
                .make(ChangeMembers::AddNodes(plan.new.clone()), true)
                .await?;
        }
        if let Err(error) = self.caught_up(&plan).await {
            let added: BTreeSet<u64> = plan.new.keys().copied().collect();
            if !added.is_empty() {
                self.make(ChangeMembers::RemoveNodes(added), true).await?;
            }
            return Err(error);
        }
        let met = self.met(&plan.new).await;
        if !met.is_empty() {
            index = self.make(ChangeMembers::SetNodes(met), true).await?;
        }
        let begun = !plan.new.is_empty();
        let now = self.leading().map_err(|error| match begun {
            true => lead_lost(),
            false => error,
        })?;
        let before = voters(&now);
        let mut gone = plan.gone;
        if before != plan.voters {
            let stays = |server: &u64| !plan.voters.contains(server) && !gone.contains(server);
            let retain = before.iter().any(stays);
            index = self
                .make(ChangeMembers::ReplaceAllVoters(plan.voters), retain)
                .await?;
            gone.retain(|server| retain || !before.contains(server));
        }
        if !gone.is_empty() {
            index = self.make(ChangeMembers::RemoveNodes(gone), true).await?;
        }
        Ok(index)
    }

    /// The new members with their data, as far as they are there: who they are is to be settled when this change is done.
    async fn met(&self, new: &BTreeMap<u64, Member>) -> BTreeMap<u64, Member> {
        let deadline = Instant::now() + self.election;
        loop {
            let met = new.iter().filter_map(|(server, member)| {
                let directory = self.acquaintances.said(*server);
                let member = Member {
                    directory: Some(directory?),
                    ..member.clone()
                };
                Some((*server, member))
            });
            let met: BTreeMap<u64, Member> = met.collect();
            if met.len() == new.len() || Instant::now() >= deadline {
                return met;
            }
            sleep(LOOK).await;
        }
    }

    /// Of the voters that are members already, enough have to be there; the new ones are looked at when they are added.
    fn check_survivors(
        &self,
        now: &RaftMetrics<Types>,
        plan: &Plan,
    ) -> Result<(), ReconfigureError> {
        let before = voters(now);
        let gone = |server: &&u64| before.contains(server) && !alive(now, **server, self.election);
        let gone = plan.voters.iter().filter(gone).count();
        let quorum = plan.voters.len() / 2 + 1;
        match plan.voters.len() - gone >= quorum {
            true => Ok(()),
            false => check_quorum(now, &plan.voters, self.election),
        }
    }

    /// This leader does not vote afterwards, so a voter that does takes the lead and is asked then.
    async fn leave_the_lead(
        &self,
        now: &RaftMetrics<Types>,
        plan: &Plan,
    ) -> Result<u64, ReconfigureError> {
        let heirs: BTreeSet<u64> = voters(now).intersection(&plan.voters).copied().collect();
        for heir in heirs {
            // Not leading any more, perhaps, since another one was elected than the heir before.
            let now = self.leading()?;
            if self.hand_over(now, heir).await.is_ok() {
                let leader = Some(ServerId(heir));
                return Err(ReconfigureError::NotLeading { leader });
            }
        }
        Err(ReconfigureError::NoQuorum(format!(
            "server {} leads and is to leave, and none of the voters that stay can take the lead; \
             let another one vote and have caught up first",
            self.server
        )))
    }

    /// Waits until those that are to vote and do not yet are there and have caught up.
    async fn caught_up(&self, plan: &Plan) -> Result<(), ReconfigureError> {
        let deadline = Instant::now() + CATCH_UP;
        loop {
            let now = self.leading()?;
            let new: Vec<u64> = plan.voters.difference(&voters(&now)).copied().collect();
            let late = |server: &&u64| {
                !alive(&now, **server, self.election) || behind(&now, **server).is_some()
            };
            let late: Vec<u64> = new.iter().filter(late).copied().collect();
            if late.is_empty() {
                return check_quorum(&now, &plan.voters, self.election);
            }
            if Instant::now() > deadline {
                return Err(ReconfigureError::NoQuorum(format!(
                    "the servers {late:?} have not caught up within {CATCH_UP:?}; are they started, \
                     with --join? If they need longer, add them as observers first"
                )));
            }
            sleep(LOOK).await;
        }
    }
}

fn plan(now: &RaftMetrics<Types>, change: &MembersChange) -> Result<Plan, ReconfigureError> {
    let membership = now.membership_config.membership();
    let mut plan = Plan {
        new: BTreeMap::new(),
        voters: voters(now),
        gone: BTreeSet::new(),
    };
    let joining: BTreeSet<u64> = change.joining.iter().map(|new| new.server.0).collect();
    for (id, _) in membership.nodes() {
        let leaves = change.leaving.contains(&ServerId(*id));
        if leaves || (change.others_leave && !joining.contains(id)) {
            plan.gone.insert(*id);
            plan.voters.remove(id);
        }
    }
    let mut addresses: BTreeMap<&str, u64> = membership
        .nodes()
        .map(|(id, member)| (member.address.as_str(), *id))
        .collect();
    for new in &change.joining {
        let id = new.server.0;
        check_address(&new.address)?;
        if plan.gone.contains(&id) || change.leaving.contains(&new.server) {
            return refused(format!("server {id} is to join and to leave"));
        }
        if let Some(known) = membership
            .get_node(&id)
            .filter(|known| known.address != new.address)
        {
            return refused(format!(
                "server {id} is a member at {}; remove it before it is added at {}",
                known.address, new.address
            ));
        }
        let other = addresses
            .insert(&new.address, id)
            .filter(|other| *other != id);
        if let Some(other) = other {
            return refused(format!("{} is the address of server {other}", new.address));
        }
        if membership.get_node(&id).is_none() {
            let member = Member {
                client: new.client.clone(),
                ..Member::new(new.address.clone())
            };
            if plan.new.insert(id, member).is_some() {
                return refused(format!("server {id} stands twice among those that join"));
            }
        }
        match new.votes {
            true => plan.voters.insert(id),
            false => plan.voters.remove(&id),
        };
    }
    check_reachable(membership)?;
    if plan.voters.is_empty() {
        return refused("at least one server has to vote".into());
    }
    Ok(plan)
}
