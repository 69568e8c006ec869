//! Members: changes of the ensemble's servers, asked of any server and made by the one that leads.

mod line;
mod publish;
mod reconfig;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quorate_consensus::{Consensus, MembersChange, ReconfigureError};
use quorate_model::id::ServerId;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::route::{self, Router};

pub(crate) use line::ServerLine;
pub(crate) use reconfig::change as reconfig_change;

/// How long somebody who leads is looked for: longer than an election takes.
const LEADER: Duration = Duration::from_secs(15);

/// Between two looks for somebody who leads, when the last one did not.
const RETRY: Duration = Duration::from_millis(50);

/// How long the leader has for a change: longer than its own bounds for all steps of one.
const CHANGE: Duration = Duration::from_secs(90);

/// How long `/zookeeper/config` may take to follow a change.
const PUBLISH: Duration = Duration::from_secs(10);

/// A change of the servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A server is added, and does not vote yet.
    Add {
        /// Its id.
        server: ServerId,
        /// Where the others reach it.
        address: String,
    },
    /// A server that follows votes from now on.
    Promote(ServerId),
    /// A server is a member no more.
    Remove(ServerId),
    /// A voter leads from now on.
    Lead(ServerId),
    /// Several at once.
    Several(MembersChange),
    /// A server says where its clients reach it.
    Client {
        /// Its id.
        server: ServerId,
        /// `host:port`.
        client: String,
    },
}

/// A change was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The index of the log entry that says who the members are; `/zookeeper/config` is at it, or later.
    pub index: u64,
    /// Who they are.
    pub members: BTreeSet<ServerId>,
}

/// The way to change the members, from this server.
#[derive(Clone)]
pub struct Members(Arc<Inner>);

struct Inner {
    consensus: Consensus,
    router: Router,
    ensemble: bool,
}

impl Members {
    /// `ensemble` is whether this server is one of an ensemble, if only of itself; else there is nothing to change.
    pub fn new(consensus: Consensus, router: Router, ensemble: bool) -> Members {
        Members(Arc::new(Inner {
            consensus,
            router,
            ensemble,
        }))
    }

    /// Whether this server is one of an ensemble.
    pub fn is_ensemble(&self) -> bool {
        self.0.ensemble
    }

    /// Has a change made by whichever server leads.
    ///
    /// # Errors
    /// [`ReconfigureError`]; not leading only if nobody does for long.
    pub async fn change(&self, change: Change) -> Result<Changed, ReconfigureError> {
        let mut leadership = self.0.consensus.leadership();
        let deadline = Instant::now() + LEADER;
        loop {
            let led = leadership.wait_for(|now| now.leader.is_some());
            let nobody = ReconfigureError::NotLeading { leader: None };
            let leader = match timeout_at(deadline, led).await {
                Ok(Ok(now)) => now.leader,
                Ok(Err(_)) | Err(_) => return Err(nobody),
            };
            let leader = leader.ok_or(nobody)?;
            let done = match leader == self.0.router.server() {
                true => self.execute(change.clone()).await,
                false => self.forward(leader, &change).await,
            };
            match done {
                // Nothing was done, so another may be asked.
                Err(ReconfigureError::NotLeading { .. }) if Instant::now() < deadline => {
                    sleep(RETRY).await;
                }
                done => return done,
            }
        }
    }

    /// Makes a change, if this server leads.
    pub(crate) async fn execute(&self, change: Change) -> Result<Changed, ReconfigureError> {
        let consensus = &self.0.consensus;
        let mut index = None;
        match change {
            Change::Add { server, address } => consensus.add(server, address).await?,
            Change::Promote(server) => consensus.promote(server).await?,
            // It hands the lead over first, which a change of several does.
            Change::Remove(server) if server == self.0.router.server() => {
                let leaving = BTreeSet::from([server]);
                let change = MembersChange {
                    leaving,
                    ..MembersChange::default()
                };
                index = Some(consensus.reconfigure(change).await?);
            }
            Change::Remove(server) => consensus.remove(server).await?,
            Change::Several(change) => index = Some(consensus.reconfigure(change).await?),
            Change::Lead(server) => {
                consensus.transfer_leader(server).await?;
                return Ok(Changed::default());
            }
            Change::Client { server, client } => {
                consensus.announce_client(server, client)?;
                // One that was removed while it was away learns so by asking.
                if !consensus.members().borrow().addresses.contains_key(&server) {
                    let why = format!("server {server} is no member");
                    return Err(ReconfigureError::Refused(why));
                }
                return Ok(Changed::default());
            }
        }
        let unknown = |_| {
            let why = "the members were changed, and /zookeeper/config does not say so yet";
            ReconfigureError::Unknown(why.into())
        };
        timeout(PUBLISH, self.publish_from(index))
            .await
            .map_err(unknown)?
    }

    async fn forward(&self, to: ServerId, change: &Change) -> Result<Changed, ReconfigureError> {
        let not_reached = ReconfigureError::NotLeading { leader: None };
        let stream = self
            .0
            .consensus
            .connect(to)
            .await
            .map_err(|_| not_reached)?;
        let asked = timeout(CHANGE, route::ask_for_change(stream, change.clone())).await;
        let unknown = |why: &str| {
            let why = format!("server {to}, which leads, was asked and has not answered: {why}");
            Err(ReconfigureError::Unknown(why))
        };
        match asked {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => unknown(&format!("{error:#}")),
            Err(_) => unknown("it took too long"),
        }
    }

    /// Waits a moment until this server knows of a change, unless it is no member any more.
    pub async fn known_here(&self, changed: &Changed) {
        let mut members = self.0.consensus.members();
        let known = members.wait_for(|now| now.index >= Some(changed.index));
        if changed.members.contains(&self.0.router.server()) {
            // Whoever asked is told in any case: it is done.
            let _ = timeout(PUBLISH, known).await;
        }
    }
}
