//! Changing who the members are and who leads, while everything runs. On the leader only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftMetrics;
use openraft::{ChangeMembers, Instant as _, ServerState};
use quorate_model::id::ServerId;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::consensus::Raft;
use crate::error::ReconfigureError;
use crate::peer::acquaintances::Acquaintances;
use crate::peer::dial::ConnectError;
use crate::peer::hello::Purpose;
use crate::peer::network::Peers;
use crate::raft::{Member, Membership, Types};

mod several;

pub use several::{MembersChange, NewMember};

/// A learner whose log ends no more than this before the leader's is caught up: the rest takes moments.
pub const CAUGHT_UP_ENTRIES: u64 = 4096;

/// A change is waited for so long. It takes two round trips, so something is wrong by then.
pub(crate) const CHANGE: Duration = Duration::from_secs(10);

/// Changes the membership, one change at a time.
#[derive(Clone)]
pub(crate) struct Reconfiguration {
    pub(crate) server: u64,
    pub(crate) raft: Raft,
    pub(crate) acquaintances: Arc<Acquaintances>,
    pub(crate) peers: Arc<Peers>,
    /// Held by whoever changes the membership.
    pub(crate) changing: Arc<Mutex<()>>,
    /// The longest time in which a follower stands for election by itself. A member that was not heard of
    /// for so long counts as gone.
    pub(crate) election: Duration,
}

/// A server that is to join and not to vote may only just have been started, so that nobody listens at its address: it is
/// dialed for so long. Whatever answers ends that.
const INTRODUCTION: Duration = Duration::from_secs(4);

/// Between two looks at what members are there, and how far they are.
const LOOK: Duration = Duration::from_millis(50);

type Change = ChangeMembers<u64, Member>;

fn refused<T>(why: String) -> Result<T, ReconfigureError> {
    Err(ReconfigureError::Refused(why))
}

/// Also said of what may be there in a moment, so that a leader looks again ([`Reconfiguration::heard_of_all`]).
fn not_there<T>(why: String) -> Result<T, ReconfigureError> {
    Err(ReconfigureError::NoQuorum(why))
}

impl Reconfiguration {
    pub(crate) async fn add(self, server: u64, address: String) -> Result<(), ReconfigureError> {
        let at = address.clone();
        let decide = move |now: &RaftMetrics<Types>| {
            check_address(&address)?;
            let membership = now.membership_config.membership();
            if let Some(member) = membership.get_node(&server) {
                if member.address == address {
                    return Ok(None);
                }
                let known = &member.address;
                return refused(format!(
                    "server {server} is a member already, at {known}; remove it before it is added at {address}"
                ));
            }
            if let Some((other, _)) = membership
                .nodes()
                .find(|(_, member)| member.address == address)
            {
                return refused(format!("{address} is the address of server {other}"));
            }
            check_reachable(membership)?;
            let learner = BTreeMap::from([(server, Member::new(address.clone()))]);
            Ok(Some(ChangeMembers::AddNodes(learner)))
        };
        if self.heard_of_all(&decide).await?.is_some() {
            self.introduce(server, &at, INTRODUCTION).await?;
        }
        self.change(decide).await
    }

    /// An error unless a server of that id answers at that address, which may become a member. What answers there may be
    /// another one, by a wrong address, or one of another ensemble: it would be sent the log as if it were ours.
    async fn introduce(
        &self,
        server: u64,
        address: &str,
        patience: Duration,
    ) -> Result<(), ReconfigureError> {
        let dialer = self.peers.dialer(server, address, Purpose::Control);
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let met = match dialer.meet().await {
                Err(ConnectError::Dial { .. } | ConnectError::Lost { .. })
                    if tokio::time::Instant::now() < deadline =>
                {
                    sleep(LOOK).await;
                    continue;
                }
                met => met,
            };
            let directory = match met {
                Ok(directory) => directory,
                Err(ConnectError::Dial { source, .. }) => {
                    return not_there(format!(
                        "nobody answers at {address}: start server {server} there first, with --join ({source})"
                    ));
                }
                Err(error) => {
                    return refused(format!(
                        "what answers at {address} cannot join as server {server}: {error}"
                    ));
                }
            };
            return match self.acquaintances.whose(directory) {
                Some(other) if other != server => refused(format!(
                    "server {server} at {address} comes with the data of server {other}: no two servers may \
                     have one's; start it with a data directory of its own, and --join"
                )),
                _ => Ok(()),
            };
        }
    }

    pub(crate) async fn promote(self, server: u64) -> Result<(), ReconfigureError> {
        let election = self.election;
        self.change(move |now| {
            let voters = voters(now);
            if voters.contains(&server) {
                return Ok(None);
            }
            if now
                .membership_config
                .membership()
                .get_node(&server)
                .is_none()
            {
                return refused(format!("server {server} is no member; add it first"));
            }
            let mut after = voters;
            after.insert(server);
            if !alive(now, server, election) {
                return not_there(format!(
                    "server {server} does not answer; start it, then promote it"
                ));
            }
            if let Some(behind) = behind(now, server) {
                return not_there(format!(
                    "server {server} {behind}; promote it when it has caught up"
                ));
            }
            check_quorum(now, &after, election)?;
            Ok(Some(ChangeMembers::AddVoterIds(BTreeSet::from([server]))))
        })
        .await
    }

    pub(crate) async fn remove(self, server: u64) -> Result<(), ReconfigureError> {
        let (me, election) = (self.server, self.election);
        self.change(move |now| {
            if now.membership_config.membership().get_node(&server).is_none() {
                return refused(format!("server {server} is no member"));
            }
            let mut after = voters(now);
            if !after.remove(&server) {
                return Ok(Some(ChangeMembers::RemoveNodes(BTreeSet::from([server]))));
            }
            if after.is_empty() {
                return refused(format!("server {server} is the last voter; promote another first"));
            }
            if server == me {
                return refused(format!(
                    "server {server} leads; transfer the lead to another server, then remove it there"
                ));
            }
            check_quorum(now, &after, election)?;
            Ok(Some(ChangeMembers::RemoveVoters(BTreeSet::from([server]))))
        })
        .await
    }

    pub(crate) async fn transfer_leader(self, to: u64) -> Result<(), ReconfigureError> {
        let _changing = self.changing.lock().await;
        let now = self.heard_of_all(|now| self.check_heir(now, to).map(|()| now.clone()));
        self.hand_over(now.await?, to).await
    }

    /// An error when that server cannot take the lead.
    fn check_heir(&self, now: &RaftMetrics<Types>, to: u64) -> Result<(), ReconfigureError> {
        if to == self.server {
            return Ok(());
        }
        if !voters(now).contains(&to) {
            return refused(format!("server {to} is no voter, so it cannot lead"));
        }
        if !alive(now, to, self.election) {
            return not_there(format!("server {to} does not answer"));
        }
        if let Some(behind) = behind(now, to) {
            return not_there(format!("server {to} {behind}; wait until it has caught up"));
        }
        Ok(())
    }

    /// The lock is held by whoever calls.
    async fn hand_over(&self, now: RaftMetrics<Types>, to: u64) -> Result<(), ReconfigureError> {
        self.check_heir(&now, to)?;
        if to == self.server {
            return Ok(());
        }
        let stopped = |_| ReconfigureError::Unknown("consensus has stopped".into());
        self.raft
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(stopped)?;
        let patience = Some(self.election + CHANGE);
        let led = self.raft.wait(patience);
        let led = led.metrics(
            |seen| {
                seen.vote.leader_id.term > now.vote.leader_id.term && seen.current_leader.is_some()
            },
            "another leader",
        );
        match led.await {
            Ok(seen) if seen.current_leader == Some(to) => Ok(()),
            Ok(seen) => {
                let leader = seen.current_leader.unwrap_or_default();
                Err(ReconfigureError::Unknown(format!(
                    "server {leader} was elected instead"
                )))
            }
            Err(_) => Err(ReconfigureError::Unknown(format!(
                "server {to} has not taken the lead"
            ))),
        }
    }

    /// Makes a change, in both of its steps, when it is decided that there is one to make.
    async fn change<F>(self, decide: F) -> Result<(), ReconfigureError>
    where
        F: Fn(&RaftMetrics<Types>) -> Result<Option<Change>, ReconfigureError> + Send + 'static,
    {
        to_its_end(async move {
            let _changing = self.changing.lock().await;
            match self.heard_of_all(decide).await? {
                None => Ok(()),
                Some(change) => self.make(change, false).await.map(drop),
            }
        })
        .await
    }

    /// Hands a change to raft; gives the index of the entry that ends it. `retain` keeps a voter that is none
    /// afterwards as a member.
    async fn make(&self, change: Change, retain: bool) -> Result<u64, ReconfigureError> {
        match timeout(CHANGE, self.raft.change_membership(change, retain)).await {
            Ok(Ok(done)) => Ok(done.log_id.index),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(ReconfigureError::Unknown(format!(
                "the change is not done after {CHANGE:?}; a quorum does not answer"
            ))),
        }
    }

    /// What is decided of a leader's metrics. It may not have heard yet of all that are there, if it has only begun or a
    /// member has only joined; so it waits for as long as a member may be silent before it says that too few of them are.
    async fn heard_of_all<T>(
        &self,
        decide: impl Fn(&RaftMetrics<Types>) -> Result<T, ReconfigureError>,
    ) -> Result<T, ReconfigureError> {
        let deadline = tokio::time::Instant::now() + self.election;
        loop {
            match decide(&self.leading()?) {
                Err(ReconfigureError::NoQuorum(_)) if tokio::time::Instant::now() < deadline => {
                    sleep(LOOK).await;
                }
                decided => return decided,
            }
        }
    }

    /// The metrics of a leader.
    fn leading(&self) -> Result<RaftMetrics<Types>, ReconfigureError> {
        let now = self.raft.metrics().borrow_watched().clone();
        if now.state != ServerState::Leader || !now.vote.committed {
            let leader = now.current_leader.filter(|leader| *leader != self.server);
            return Err(ReconfigureError::NotLeading {
                leader: leader.map(ServerId),
            });
        }
        Ok(now)
    }
}

/// Does it in a task of its own, so that it is not left half-done by a caller that gives up.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, ReconfigureError>> + Send + 'static,
) -> Result<T, ReconfigureError> {
    let interrupted = |_| {
        Err(ReconfigureError::Unknown(
            "the change was interrupted".into(),
        ))
    };
    tokio::spawn(change).await.unwrap_or_else(interrupted)
}

/// Entries of the change may be in the next leader's log: that one must not be asked as if nothing was done.
fn lead_lost() -> ReconfigureError {
    let why = "the lead was lost while the members were changed: see who they are now";
    ReconfigureError::Unknown(why.into())
}

/// What became of a change that was handed to raft by a server that led.
fn failed(
    error: &openraft::errors::RaftError<Types, openraft::errors::ClientWriteError<Types>>,
) -> ReconfigureError {
    use openraft::errors::{ClientWriteError, RaftError};
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => lead_lost(),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            ReconfigureError::Refused(error.to_string())
        }
        error => ReconfigureError::Unknown(error.to_string()),
    }
}

fn voters(now: &RaftMetrics<Types>) -> BTreeSet<u64> {
    now.membership_config.membership().voter_ids().collect()
}

/// Whether the leader has heard of a member lately.
fn alive(now: &RaftMetrics<Types>, server: u64, election: Duration) -> bool {
    let heard = now
        .heartbeat
        .as_ref()
        .and_then(|heard| heard.get(&server))
        .copied()
        .flatten();
    server == now.id || heard.is_some_and(|heard| heard.elapsed() < election)
}

/// What a member lacks, if that is too much.
fn behind(now: &RaftMetrics<Types>, server: u64) -> Option<String> {
    let matched = now
        .replication
        .as_ref()
        .and_then(|matched| matched.get(&server))
        .copied()
        .flatten();
    let Some(matched) = matched else {
        return Some("has nothing of the log yet".into());
    };
    let last = now.last_log_index.unwrap_or_default();
    let lacks = last.saturating_sub(matched.index);
    let enough = CAUGHT_UP_ENTRIES;
    (lacks > enough).then(|| format!("is {lacks} entries behind, more than {enough}"))
}

/// An error when those that join could not reach a member.
fn check_reachable(membership: &Membership) -> Result<(), ReconfigureError> {
    match membership
        .nodes()
        .find(|(_, member)| member.address.is_empty())
    {
        None => Ok(()),
        Some((hidden, _)) => refused(format!(
            "server {hidden} has no address at which others could reach it; start it with one"
        )),
    }
}

fn check_address(address: &str) -> Result<(), ReconfigureError> {
    let valid = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    match valid {
        true => Ok(()),
        false => refused(format!("{address:?} is no address: host:port is wanted")),
    }
}

/// An error when most of the voters after a change would be gone, so that nothing more could be written.
fn check_quorum(
    now: &RaftMetrics<Types>,
    after: &BTreeSet<u64>,
    election: Duration,
) -> Result<(), ReconfigureError> {
    let (here, gone): (Vec<u64>, Vec<u64>) = after
        .iter()
        .partition(|server| alive(now, **server, election));
    let quorum = after.len() / 2 + 1;
    if here.len() >= quorum {
        return Ok(());
    }
    Err(ReconfigureError::NoQuorum(format!(
        "that would lose the quorum: of the voters {after:?}, {gone:?} do not answer, and {quorum} are needed"
    )))
}
