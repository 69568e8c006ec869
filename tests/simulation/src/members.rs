//! Changes of the members while things break: any server is added, promoted, demoted and removed, and the lead handed
//! over. In the end all are members, and those vote that were chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate::members::{Change, Changed};
use quorate_consensus::{Members, MembersChange, NewMember, ReconfigureError};
use quorate_model::id::ServerId;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::server::{Host, peer_address};

/// How long a change is waited for, before another server is asked for one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Before another try.
const RETRY: Duration = Duration::from_millis(100);

/// A server asks others for a change for so long, when those that it asked did not lead. So long after it was asked for,
/// a change is made or never.
const FORWARDED: Duration = Duration::from_secs(16);

/// One in so many times any server is asked, else one that is known to be a member.
const ANYBODY_EVERY: u8 = 4;

/// Never fewer vote: what breaks already costs the quorum often enough.
const FEWEST_VOTERS: usize = 2;

/// In the end so many vote, at least.
const FEWEST_VOTERS_AT_LAST: usize = 3;

/// What can be done with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Move {
    /// It becomes a member, and does not vote.
    Add,
    /// It votes from now on.
    Promote,
    /// It stays a member, and does not vote any more.
    Demote,
    /// It is a member no more.
    Remove,
    /// It leads from now on.
    Lead,
}

impl Move {
    /// All of them.
    pub const ALL: [Move; 5] = [
        Move::Add,
        Move::Promote,
        Move::Demote,
        Move::Remove,
        Move::Lead,
    ];

    /// What is asked of the ensemble.
    fn of(self, server: ServerId) -> Change {
        let address = peer_address(server.0);
        match self {
            Move::Add => Change::Add { server, address },
            Move::Promote => Change::Promote(server),
            Move::Remove => Change::Remove(server),
            Move::Lead => Change::Lead(server),
            Move::Demote => Change::Several(MembersChange {
                joining: vec![new_member(server, false)],
                ..MembersChange::default()
            }),
        }
    }
}

fn new_member(server: ServerId, votes: bool) -> NewMember {
    NewMember {
        server,
        address: peer_address(server.0),
        client: String::new(),
        votes,
    }
}

/// A change that was acknowledged.
#[derive(Clone, Debug)]
pub struct Made {
    /// What was asked for.
    pub asked: Move,
    /// With which server.
    pub server: ServerId,
    /// What it came to.
    pub changed: Changed,
    /// Whether nothing that was asked for before, and may be done yet, concerns that server.
    pub certain: bool,
}

/// What became of the members. Cheap to clone.
#[derive(Clone, Default)]
pub struct Moves(Arc<Mutex<MovesInner>>);

#[derive(Default)]
struct MovesInner {
    made: Vec<Made>,
    /// Who is to vote in the end, once that was acknowledged.
    voters: Option<BTreeSet<ServerId>>,
}

impl Moves {
    /// The changes that were acknowledged, but for the last one.
    pub fn made(&self) -> Vec<Made> {
        self.0.lock().made.clone()
    }

    /// Who is to vote in the end, if that was acknowledged.
    pub fn voters(&self) -> Option<BTreeSet<ServerId>> {
        self.0.lock().voters.clone()
    }

    /// How often each thing was done.
    pub fn counts(&self) -> BTreeMap<Move, u64> {
        let mut counts = BTreeMap::from(Move::ALL.map(|one| (one, 0)));
        for made in &self.0.lock().made {
            *counts.entry(made.asked).or_default() += 1;
        }
        counts
    }
}

/// Whoever moves the members.
pub struct Mover {
    random: fastrand::Rng,
    hosts: Vec<Arc<Host>>,
    /// When it stops, since the beginning.
    until: Duration,
    moves: Moves,
    /// Who the members were when a change was last acknowledged. Others need not know who leads.
    known: BTreeSet<ServerId>,
    /// Which servers something was asked for that may be done yet.
    doubtful: BTreeSet<ServerId>,
    /// Whether the last change was refused as too few voters are there.
    lacks_voters: bool,
    /// What was asked for when, and is not known to have ended.
    open: Vec<(
        Instant,
        oneshot::Receiver<Result<Changed, ReconfigureError>>,
    )>,
}

impl Mover {
    /// One that asks these servers.
    pub fn new(seed: u64, hosts: Vec<Arc<Host>>, until: Duration, moves: Moves) -> Mover {
        Mover {
            random: fastrand::Rng::with_seed(seed),
            hosts,
            until,
            moves,
            known: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            lacks_voters: false,
            open: Vec::new(),
        }
    }

    /// Changes the members until it is time to stop. Then what was asked for comes to its end, and at last all servers
    /// are members, and some of them vote.
    pub async fn run(mut self) -> turmoil::Result {
        while turmoil::sim_elapsed().unwrap_or_default() < self.until {
            let pause = self.random.u64(200..3000);
            sleep(Duration::from_millis(pause)).await;
            if let Some((asked, server)) = self.choose() {
                let before = self.doubtful.clone();
                if let Some(changed) = self.ask(server, asked.of(server)).await {
                    self.moves.0.lock().made.push(Made {
                        asked,
                        server,
                        changed,
                        certain: !before.contains(&server),
                    });
                }
            }
        }
        self.settled().await;
        let mut all: Vec<ServerId> = self.hosts.iter().map(|host| host.server).collect();
        self.random.shuffle(&mut all);
        let voters = self.random.usize(FEWEST_VOTERS_AT_LAST..=all.len());
        let with = |voters: usize| {
            Change::Several(MembersChange {
                joining: (0..)
                    .zip(&all)
                    .map(|(place, server)| new_member(*server, place < voters))
                    .collect(),
                ..MembersChange::default()
            })
        };
        while self.ask(all[0], with(voters)).await.is_none() {
            sleep(RETRY).await;
            // Perhaps nobody who votes now is to vote, and so to take the lead: then others have to vote first.
            if self.lacks_voters {
                self.ask(all[0], with(all.len())).await;
                self.settled().await;
            }
        }
        self.moves.0.lock().voters = Some(all.into_iter().take(voters).collect());
        Ok(())
    }

    /// Waits until what was asked for has come to its end.
    async fn settled(&mut self) {
        for (asked, told) in std::mem::take(&mut self.open) {
            // Whether it was made or refused shows in what the members are.
            let _ = timeout_at(asked + FORWARDED, told).await;
        }
    }

    /// Something that makes sense, as far as one of the servers knows.
    fn choose(&mut self) -> Option<(Move, ServerId)> {
        let now: Members = {
            let running = self.hosts[self.random.usize(..self.hosts.len())]
                .running
                .lock();
            running.as_ref()?.members.borrow().clone()
        };
        let spare = now.voters.len() > FEWEST_VOTERS;
        let possible: Vec<(Move, ServerId)> = self
            .hosts
            .iter()
            .flat_map(|host| Move::ALL.map(|asked| (asked, host.server)))
            .filter(|(asked, server)| {
                let votes = now.voters.contains(server);
                let follows = now.learners.contains(server);
                match asked {
                    Move::Add => !votes && !follows,
                    Move::Promote => follows,
                    Move::Demote => votes && spare,
                    Move::Remove => follows || (votes && spare),
                    Move::Lead => votes,
                }
            })
            .collect();
        // Each kind as often as the others, however many servers it may be done with.
        let kinds: BTreeSet<Move> = possible.iter().map(|(asked, _)| *asked).collect();
        let kind = kinds.iter().nth(self.random.usize(..kinds.len().max(1)))?;
        let of_kind: Vec<_> = possible.iter().filter(|(asked, _)| asked == kind).collect();
        Some(*of_kind[self.random.usize(..of_kind.len())])
    }

    /// Who is asked next.
    fn asked(&mut self) -> Arc<Host> {
        let anybody = self.random.u8(..ANYBODY_EVERY) == 0 || self.known.is_empty();
        let known = self.hosts.iter();
        let known: Vec<_> = known
            .filter(|host| anybody || self.known.contains(&host.server))
            .collect();
        known[self.random.usize(..known.len())].clone()
    }

    /// Asks one of the servers; none if it was refused, or it is not known what became of it.
    async fn ask(&mut self, about: ServerId, change: Change) -> Option<Changed> {
        let host = self.asked();
        let changes = host.running.lock().as_ref()?.changes.clone();
        let (tell, mut told) = oneshot::channel();
        tracing::info!("server {} is asked for {change:?}", host.server);
        let begun = Instant::now();
        let asked = async {
            changes.send((change, tell)).await.ok()?;
            (&mut told).await.ok()
        };
        let done = timeout(PATIENCE, asked).await;
        tracing::info!("it came to {done:?}");
        self.lacks_voters = matches!(done, Ok(Some(Err(ReconfigureError::NoQuorum(_)))));
        match done {
            Ok(Some(Ok(changed))) => {
                if !changed.members.is_empty() {
                    self.known = changed.members.clone();
                }
                return Some(changed);
            }
            Ok(Some(Err(error))) if !matches!(error, ReconfigureError::Unknown(_)) => return None,
            Ok(_) => {}
            Err(_) => self.open.push((begun, told)),
        }
        self.doubtful.insert(about);
        None
    }
}
