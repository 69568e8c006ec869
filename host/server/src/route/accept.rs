//! Accept: the leader's side of the other servers' streams.

use std::sync::Arc;

use quorate_consensus::{Consensus, PeerReceiver, PeerStream};
use quorate_model::id::{Incarnation, ServerId, Zxid};

use quorate_tree::SharedState;

use super::Inbox;
use super::inbox::NotTaken;
use super::message::{FromLeader, Lead, ToLeader, decode, encode};
use crate::clock::Clock;
use crate::digests::{Digests, Finding, Here, Point};
use crate::expiry::Touches;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::recipes::Recipes;
use crate::version::Versions;

/// What streams of other servers are served with.
#[derive(Clone)]
pub struct Acceptor {
    /// Where they come from, and whether this server leads.
    pub consensus: Consensus,
    /// Where their requests go.
    pub inbox: Arc<Inbox>,
    /// Where word of their sessions' clients goes.
    pub touches: Arc<Touches>,
    /// What changes the members.
    pub members: Members,
    /// Of this server's state, to which theirs are compared.
    pub digests: Arc<Digests>,
    /// Hears what theirs say.
    pub clock: Arc<Clock>,
    /// Hears what they read.
    pub versions: Arc<Versions>,
    /// Hears what is compiled there.
    pub readiness: Arc<Readiness>,
    /// Where comparisons are counted.
    pub metrics: Arc<Metrics>,
    /// What runs here.
    pub recipes: Recipes,
    /// What is applied here.
    pub state: SharedState,
}

/// What comes of it, unless the other end closes its side first: it has given up, or gone.
async fn while_open<T>(
    receiver: &mut PeerReceiver,
    answer: impl Future<Output = T>,
) -> anyhow::Result<Option<T>> {
    tokio::select! {
        answer = answer => Ok(Some(answer)),
        frame = receiver.next() => match frame {
            None => Ok(None),
            Some(frame) => {
                frame?;
                anyhow::bail!("it asks on before it was answered")
            }
        },
    }
}

impl Acceptor {
    /// Serves all streams, until consensus has stopped.
    pub async fn run(self) {
        let mut streams = self.consensus.accept_streams();
        while let Some((server, stream)) = streams.recv().await {
            let acceptor = self.clone();
            tokio::spawn(async move {
                if let Err(error) = acceptor.serve(server, stream).await {
                    tracing::debug!(%server, "a server's stream has ended: {error:#}");
                }
                acceptor.digests.forget(server);
            });
        }
    }

    async fn serve(&self, server: ServerId, stream: PeerStream) -> anyhow::Result<()> {
        let (mut sender, mut receiver) = stream.split();
        // What the other server says next, when it did not wait for an answer.
        let mut said = None;
        loop {
            let frame = match said.take() {
                Some(frame) => frame,
                None => match receiver.next().await {
                    Some(frame) => frame?,
                    None => return Ok(()),
                },
            };
            match decode::<ToLeader>(&frame)? {
                ToLeader::Begin {
                    epoch,
                    incarnation,
                    first,
                } => tokio::select! {
                    next = self.begin(server, epoch, incarnation, first) => {
                        let expect = FromLeader::Expect { epoch, next: next? };
                        sender.send(encode(&expect)?).await?;
                    }
                    // It has gone, or on to another epoch.
                    frame = receiver.next() => match frame {
                        Some(frame) => said = Some(frame?),
                        None => return Ok(()),
                    },
                },
                ToLeader::Requests { epoch, requests } => {
                    anyhow::ensure!(self.is_member(server), "it is no member any more");
                    for numbered in requests {
                        let of = numbered.origin.server;
                        anyhow::ensure!(of == server, "it sends a request of server {of}");
                        match self.inbox.push(epoch, numbered).await {
                            Ok(()) => {}
                            // Its successor makes the other server begin again.
                            Err(NotTaken::Epoch(_)) => break,
                            Err(error) => return Err(error.into()),
                        }
                    }
                }
                ToLeader::Change(change) => {
                    let changed = self.members.execute(change);
                    // It goes on in a task of its own, whoever waits for it.
                    let Some(changed) = while_open(&mut receiver, changed).await? else {
                        return Ok(());
                    };
                    sender.send(encode(&FromLeader::Changed(changed))?).await?;
                }
                ToLeader::Look(look) => {
                    let activity = self.recipes.activity();
                    let seen = activity.look(look);
                    let Some(seen) = while_open(&mut receiver, seen).await? else {
                        return Ok(());
                    };
                    sender.send(encode(&FromLeader::Seen(seen))?).await?;
                }
                ToLeader::AwaitRecipe(digest) => {
                    let component = || self.state.read().component(&digest).cloned();
                    let ready = self.recipes.is_ready_soon(&digest, component);
                    let Some(ready) = while_open(&mut receiver, ready).await? else {
                        return Ok(());
                    };
                    sender.send(encode(&FromLeader::Recipe { ready })?).await?;
                }
                ToLeader::ReadIndex => {
                    let read_index = async {
                        self.admitted(server).await?;
                        anyhow::Ok(self.consensus.read_index().await?)
                    };
                    // Without a quorum the stream ends, and whoever leads then is asked.
                    let Some(index) = while_open(&mut receiver, read_index).await? else {
                        return Ok(());
                    };
                    let index = FromLeader::ReadIndex { index: index? };
                    sender.send(encode(&index)?).await?;
                }
                ToLeader::Touched {
                    report,
                    sessions,
                    state,
                    machine_ms,
                    reads,
                    ready_at,
                } => {
                    // One that was removed and goes on keeps no session alive: what it has of it may never end there.
                    let is_member = self.is_member(server);
                    let mut not_counted = Vec::new();
                    if is_member {
                        self.clock.heard(server, machine_ms);
                        let now_ms = self.clock.monotonic_ms();
                        self.versions.heard(server, reads, now_ms);
                        self.readiness.heard(server, ready_at, now_ms);
                        not_counted = sessions;
                        not_counted.retain(|session| !self.touches.count(*session));
                    }
                    // Always answered: the next report waits for it, and a quorum may be there by then.
                    // Who is no member hears of no quorum: what it has may be ever so old.
                    let age = self.consensus.quorum_age();
                    let lead = match age.filter(|_| is_member) {
                        None => None,
                        Some(age) => Some(Lead {
                            quorum_age_ms: age.as_millis() as u64,
                            not_counted,
                            wrong_at: self.wrong_at(server, state)?,
                            now: self.clock.now(),
                        }),
                    };
                    let heard = FromLeader::Heard { report, lead };
                    sender.send(encode(&heard)?).await?;
                }
            }
        }
    }

    fn is_member(&self, server: ServerId) -> bool {
        let members = self.consensus.members();
        members.borrow().addresses.contains_key(&server)
    }

    /// Waits until it is a member. One that was removed, and has not heard of it, asks for ever.
    async fn admitted(&self, server: ServerId) -> anyhow::Result<()> {
        let mut members = self.consensus.members();
        let admitted = members.wait_for(|now| now.addresses.contains_key(&server));
        admitted.await?;
        Ok(())
    }

    /// Compares another server's state with this leader's; where it is wrong. Stops this server if its own is.
    fn wrong_at(&self, server: ServerId, state: Option<Point>) -> anyhow::Result<Option<Zxid>> {
        let Some(state) = state else {
            return Ok(None);
        };
        let voters = self.consensus.members().borrow().voters.clone();
        let here = Here {
            server: self.consensus.server(),
            term: self.consensus.leadership().borrow().term,
            voters: &voters,
            now_ms: self.clock.monotonic_ms(),
        };
        let found = self.digests.compare(here, server, state);
        if found != Finding::Unknown {
            self.metrics.digests_compared.inc();
        }
        let zxid = state.zxid;
        match found {
            Finding::Unknown | Finding::Agrees => return Ok(None),
            Finding::Undecided | Finding::Wrong => self.metrics.digests_differing.inc(),
            Finding::LeaderWrong => {
                let reason = format!(
                    "the state of this server, which led, differs from most voters' at zxid {zxid}: \
                     remove its data directory and let it join again under a new id"
                );
                self.consensus.fail(reason.clone());
                anyhow::bail!(reason);
            }
        };
        if found == Finding::Undecided {
            tracing::warn!(%server, %zxid, "a server's state differs; it is not clear yet whose is wrong");
            return Ok(None);
        }
        tracing::error!(%server, %zxid, "a server's state differs from this leader's: it is told to stop");
        Ok(Some(zxid))
    }

    /// Waits until this server leads in `epoch`; gives the number of the request that is expected.
    async fn begin(
        &self,
        server: ServerId,
        epoch: u32,
        incarnation: Incarnation,
        first: u64,
    ) -> anyhow::Result<u64> {
        self.admitted(server).await?;
        let mut epochs = self.inbox.epoch();
        loop {
            if let Ok(next) = self.inbox.begin(epoch, server, incarnation, first) {
                return Ok(next);
            }
            epochs.changed().await?;
        }
    }
}
