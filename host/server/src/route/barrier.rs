//! Barriers: reads that see all that was acknowledged anywhere before they were sent.
//!
//! A barrier stands for a question to the leader: which entry is the last that may have been acknowledged?
//! It is passed once that entry is applied here. All that raise one while a question is under way share the
//! next question, since the leader may have answered the one before already.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use parking_lot::Mutex;
use quorate_consensus::{Consensus, PeerReceiver, PeerSender};
use quorate_model::id::ServerId;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::message::{FromLeader, ToLeader, decode, encode};
use crate::respond::Connection;

/// How long a leader may take to answer before it is asked anew over another connection: longer than a
/// leader takes to notice that it has lost the quorum.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// After the question could not be asked, or was not answered.
const RETRY: Duration = Duration::from_millis(20);

/// The number of a question to the leader. What waits at one is answered in the order of the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Barrier(u64);

impl Barrier {
    /// Of what does not wait.
    pub const NONE: Barrier = Barrier(0);

    /// No question is later.
    pub const LAST: Barrier = Barrier(u64::MAX);
}

/// This server's barriers.
pub struct Barriers {
    next: Mutex<Next>,
    /// The last that was passed, by its number.
    passed: AtomicU64,
    /// The same, for whoever waits without a connection.
    told: watch::Sender<Barrier>,
    /// The next question is to be asked.
    raised: Notify,
    /// How many requests wait behind a barrier, and are not answered yet.
    held: AtomicUsize,
}

/// The question that is not asked yet.
struct Next {
    barrier: Barrier,
    /// Who is to be woken when it is answered; each connection once, so hardly more than there are.
    connections: Vec<Arc<Connection>>,
}

impl Default for Barriers {
    fn default() -> Barriers {
        Barriers {
            next: Mutex::new(Next {
                barrier: Barrier(1),
                connections: Vec::new(),
            }),
            passed: AtomicU64::new(0),
            told: watch::Sender::new(Barrier::NONE),
            raised: Notify::new(),
            held: AtomicUsize::new(0),
        }
    }
}

impl Barriers {
    /// A barrier for what `connection` asks now; it is woken when that is passed.
    pub fn raise(&self, connection: &Arc<Connection>) -> Barrier {
        let mut next = self.next.lock();
        let barrier = next.barrier;
        if connection.raises(barrier) {
            if next.connections.len() == next.connections.capacity() {
                // While nobody leads, those that have gone must not add up.
                next.connections.retain(|waits| waits.closed().is_none());
            }
            next.connections.push(connection.clone());
        }
        drop(next);
        self.raised.notify_one();
        barrier
    }

    /// Returns when everything is applied here that was acknowledged anywhere before this call.
    pub async fn pass_one(&self) {
        let barrier = self.next.lock().barrier;
        self.raised.notify_one();
        let mut told = self.told.subscribe();
        // It does not fail: the sender is our own.
        let _ = told.wait_for(|passed| *passed >= barrier).await;
    }

    /// The last that was passed.
    pub fn passed(&self) -> Barrier {
        Barrier(self.passed.load(Ordering::Acquire))
    }

    /// So many more requests wait behind a barrier.
    pub(crate) fn hold(&self, count: usize) {
        self.held.fetch_add(count, Ordering::Relaxed);
    }

    /// So many wait no more.
    pub(crate) fn release(&self, count: usize) {
        self.held.fetch_sub(count, Ordering::Relaxed);
    }

    /// Whether any request waits behind a barrier.
    pub(crate) fn hold_any(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
    }

    /// Waits until there may be a question to ask.
    pub(crate) async fn raised(&self) {
        self.raised.notified().await;
    }

    /// The question is being asked: whoever comes later shares another.
    pub(crate) fn ask(&self) -> Question {
        let mut next = self.next.lock();
        let barrier = next.barrier;
        next.barrier.0 += 1;
        Question {
            barrier,
            connections: std::mem::take(&mut next.connections),
        }
    }

    /// What the leader has answered is applied here.
    pub(crate) fn pass(&self, question: Question) {
        self.passed.store(question.barrier.0, Ordering::Release);
        self.told.send_replace(question.barrier);
        for connection in question.connections {
            connection.wake();
        }
    }
}

/// A question that is under way.
pub(crate) struct Question {
    barrier: Barrier,
    connections: Vec<Arc<Connection>>,
}

/// Asks whoever leads.
pub struct Asker {
    consensus: Consensus,
    barriers: Arc<Barriers>,
    here: ServerId,
    /// To the leader that answered last.
    stream: Option<(ServerId, PeerSender, PeerReceiver)>,
}

impl Asker {
    /// For the barriers of the server `here`.
    pub fn new(consensus: Consensus, barriers: Arc<Barriers>, here: ServerId) -> Asker {
        Asker {
            consensus,
            barriers,
            here,
            stream: None,
        }
    }

    /// Asks one question at a time, until consensus has stopped.
    pub async fn run(mut self) {
        loop {
            self.barriers.raised().await;
            let question = self.barriers.ask();
            let Some(index) = self.index().await else {
                return;
            };
            if self.consensus.applied(index).await.is_err() {
                return;
            }
            self.barriers.pass(question);
        }
    }

    /// What some leader answers, however often that takes; none when consensus has stopped.
    async fn index(&mut self) -> Option<u64> {
        let mut leadership = self.consensus.leadership();
        loop {
            let known = leadership.wait_for(|now| now.leader.is_some()).await;
            let leader = known.ok()?.leader?;
            let asked = timeout(ANSWER_DEADLINE, self.index_of(leader));
            let answer = tokio::select! {
                answer = asked => answer.unwrap_or_else(|_| Err(anyhow::anyhow!("it took too long"))),
                another = leadership.wait_for(|now| now.leader != Some(leader)) => {
                    another.ok()?;
                    continue;
                }
            };
            match answer {
                Ok(index) => return Some(index),
                Err(error) => tracing::debug!(%leader, "no read index: {error:#}"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn index_of(&mut self, leader: ServerId) -> anyhow::Result<u64> {
        if leader == self.here {
            return Ok(self.consensus.read_index().await?);
        }
        // It is put back only after a whole answer: one that is broken off is of no use any more.
        let stream = self.stream.take().filter(|(of, ..)| *of == leader);
        let (mut sender, mut receiver) = match stream {
            Some((_, sender, receiver)) => (sender, receiver),
            None => self.consensus.connect(leader).await?.split(),
        };
        sender.send(encode(&ToLeader::ReadIndex)?).await?;
        let frame = receiver.next().await;
        let frame = frame.context("the leader has closed the stream")??;
        let FromLeader::ReadIndex { index } = decode(&frame)? else {
            bail!("the leader says something else");
        };
        self.stream = Some((leader, sender, receiver));
        Ok(index)
    }
}
