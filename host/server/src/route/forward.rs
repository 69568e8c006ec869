//! Forward: while another server leads, this server's requests go to it, and word of its sessions' clients.
//!
//! Two connections to the leader: one for requests, one for touches, which never wait behind them (rule W5).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use parking_lot::Mutex;
use quorate_consensus::{Consensus, PeerReceiver, PeerSender, PeerStream, ReconfigureError};
use quorate_model::id::{ServerId, SessionId, Zxid};
use quorate_model::recipe::RecipeDigest;
use quorate_model::write_set::ENSEMBLE_VERSION;
use quorate_tree::SharedState;
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::Router;
use super::message::{FromLeader, ToLeader, decode, encode};
use crate::activity::{Look, Seen};
use crate::apply::Opened;
use crate::clock::Clock;
use crate::digests::Digests;
use crate::expiry::Touches;
use crate::members::{Change, Changed};
use crate::readiness::is_ready;
use crate::recipes::Recipes;
use crate::silence::Silence;

/// How many requests go into one frame.
const FRAME_REQUESTS: usize = 512;

/// About how many bytes of requests go into one frame, but for a single larger one.
const FRAME_BYTES: usize = 1 << 20;

/// Between two reports of touched sessions: a fraction of the shortest timeout that is of any use.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// An answer that took longer, in milliseconds, does not say what time it is: this process may have stood still.
const PROMPT_MS: u64 = 300;

/// A connection over which a report is not answered for so long is given up: it may be dead where others to the
/// leader live.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// A connection over which the oldest request is not answered for so long, or one is not taken, is given up too, for the
/// same reason. Over the next one the leader says which requests it has (rule S1), so nothing is lost where it was only slow.
const REQUEST_STALL: Duration = Duration::from_secs(3);

/// The most that this becomes with a leader that takes connections and answers no request: it has much to do, and what
/// it is sent again costs it more. Not longer, as a connection that is dead in truth takes as long to be given up.
const MAX_REQUEST_STALL: Duration = Duration::from_secs(12);

/// After a connection to the leader could not be made, or has ended.
const RETRY: Duration = Duration::from_millis(20);

/// How often a connection is looked at for what has come of it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// For how long the leader's answer to the oldest request is waited for, and what has come of it so far.
#[derive(Debug)]
pub struct Patience {
    leader: Option<ServerId>,
    time: Duration,
    /// Of what waits; none if nothing does.
    oldest: Option<(u32, u64)>,
    since: Instant,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            leader: None,
            time: REQUEST_STALL,
            oldest: None,
            since: Instant::now(),
        }
    }
}

impl Patience {
    /// A connection to a leader is new. One is not slow because another was.
    fn begin(&mut self, leader: ServerId) {
        if self.leader.replace(leader) != Some(leader) {
            self.time = REQUEST_STALL;
        }
        self.oldest = None;
    }

    /// What waits now; says whether nothing has come of it for too long.
    fn look(&mut self, oldest: Option<(u32, u64)>, now: Instant) -> bool {
        if oldest.is_some() && oldest == self.oldest {
            return now.duration_since(self.since) >= self.time;
        }
        if self.oldest.is_some() {
            // An answer.
            self.time = REQUEST_STALL;
        }
        self.oldest = oldest;
        self.since = now;
        false
    }

    /// A connection is given up over which the leader had begun to take requests: it is there, and may only be slow.
    fn gave_up(&mut self) {
        self.time = (self.time * 2).min(MAX_REQUEST_STALL);
    }
}

/// A follower's side of the way to the leader.
#[derive(Clone)]
pub struct Forwarder {
    /// Says who leads, and connects to it.
    pub consensus: Consensus,
    /// Whose requests are sent.
    pub router: Router,
    /// Whose sessions are reported.
    pub touches: Arc<Touches>,
    /// Is told of every word from a leader with a quorum.
    pub silence: Arc<Silence>,
    /// Of this server's state.
    pub digests: Arc<Digests>,
    /// The last epoch that opened here.
    pub opened: watch::Receiver<Opened>,
    /// What is mounted.
    pub state: SharedState,
    /// What is compiled.
    pub recipes: Recipes,
    /// When; it follows the leader's.
    pub clock: Arc<Clock>,
    /// Set once a leader takes this server's requests: it has applied what that leader began with.
    pub serving: watch::Sender<bool>,
    /// With whoever leads.
    pub patience: Arc<Mutex<Patience>>,
}

impl Forwarder {
    /// Sends this server's requests to whoever leads, until consensus has stopped.
    pub async fn forward(self) {
        self.with_each_leader(Forwarder::send_requests).await;
    }

    /// Reports this server's live sessions to whoever leads, until consensus has stopped.
    pub async fn report(self) {
        self.with_each_leader(Forwarder::send_touches).await;
    }

    async fn with_each_leader(
        self,
        talk: impl AsyncFn(&Forwarder, ServerId) -> anyhow::Result<()>,
    ) {
        let mut leadership = self.consensus.leadership();
        let here = self.router.server();
        loop {
            let other = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != here));
            let Ok(Some(leader)) = other.await.map(|now| now.leader) else {
                return;
            };
            let followed = async {
                let another = leadership.wait_for(|now| now.leader != Some(leader)).await;
                another.is_err()
            };
            tokio::select! {
                ended = talk(&self, leader) => {
                    if let Err(error) = ended {
                        tracing::debug!(%leader, "the connection to the leader has ended: {error:#}");
                    }
                }
                stopped = followed => match stopped {
                    true => return,
                    false => continue,
                },
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn send_requests(&self, leader: ServerId) -> anyhow::Result<()> {
        let stream = self.consensus.connect(leader).await?;
        let (mut sender, mut receiver) = stream.split();
        let mut opened = self.opened.clone();
        self.patience.lock().begin(leader);
        loop {
            opened.borrow_and_update();
            let (epoch, first) = self.router.first();
            let begin = ToLeader::Begin {
                epoch,
                incarnation: self.router.incarnation(),
                first,
            };
            send(&mut sender, &begin, REQUEST_STALL).await?;
            self.stream(epoch, &mut opened, &mut sender, &mut receiver)
                .await?;
        }
    }

    /// Sends the requests of one epoch, until another opens: then the stream begins anew. A frame is always
    /// sent to its end, since half a frame would be the beginning of the next one.
    async fn stream(
        &self,
        epoch: u32,
        opened: &mut watch::Receiver<Opened>,
        sender: &mut PeerSender,
        receiver: &mut PeerReceiver,
    ) -> anyhow::Result<()> {
        let mut expected = false;
        let stalled = self.stalled();
        tokio::pin!(stalled);
        loop {
            tokio::select! {
                biased;
                () = &mut stalled => {
                    let mut patience = self.patience.lock();
                    let time = patience.time;
                    if expected {
                        patience.gave_up();
                    }
                    bail!("no request is answered for {time:?}")
                }
                changed = opened.changed() => return Ok(changed?),
                message = receive(receiver) => {
                    // An answer to the epoch before may still be under way.
                    if let FromLeader::Expect { epoch: of, next } = message?
                        && of == epoch
                    {
                        self.silence.stream_begins(epoch);
                        self.router.resume(epoch, next);
                        expected = true;
                        self.serving.send_replace(true);
                    }
                }
                () = self.router.arrived(), if expected => self.send(epoch, sender).await?,
            }
        }
    }

    /// Sends all that has arrived.
    async fn send(&self, epoch: u32, sender: &mut PeerSender) -> anyhow::Result<()> {
        loop {
            let (of, requests) = self.router.take_bytes(FRAME_REQUESTS, FRAME_BYTES);
            if requests.is_empty() || of != epoch {
                // Those of a later epoch are taken once more when its stream has begun.
                return Ok(());
            }
            let time = self.patience.lock().time;
            let sent = send(sender, &ToLeader::Requests { epoch, requests }, time).await;
            sent.inspect_err(|error| {
                if error.is::<Elapsed>() {
                    self.patience.lock().gave_up();
                }
            })?;
        }
    }

    /// Returns once nothing has come of the oldest request in flight, or of the stream's beginning, for too long.
    async fn stalled(&self) {
        loop {
            let waits = self.router.in_flight() > 0 || !*self.serving.borrow();
            let oldest = waits.then(|| self.router.first());
            if self.patience.lock().look(oldest, Instant::now()) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn ready_at(&self) -> Option<Zxid> {
        let state = self.state.read();
        is_ready(&state, &self.recipes).then(|| state.last_zxid())
    }

    async fn send_touches(&self, leader: ServerId) -> anyhow::Result<()> {
        let stream = self.consensus.connect(leader).await?;
        let (mut sender, mut receiver) = stream.split();
        let mut every = tokio::time::interval(REPORT_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report = 0;
        loop {
            every.tick().await;
            // A queued request is a sign of life, however long it waits.
            let mut in_flight = self.router.sessions_in_flight();
            in_flight.remove(&SessionId::NONE);
            // Touches that are not counted, for whatever reason, are in the next report.
            let reported = self.touches.report(in_flight);
            let sent_ms = self.clock.monotonic_ms();
            report += 1;
            let touched = ToLeader::Touched {
                report,
                sessions: reported.sessions(),
                state: self.digests.newest(),
                machine_ms: self.clock.machine_ms(),
                reads: ENSEMBLE_VERSION,
                ready_at: self.ready_at(),
            };
            let answered = timeout(ANSWER_DEADLINE, async {
                sender.send(encode(&touched)?).await?;
                loop {
                    if let FromLeader::Heard {
                        report: heard,
                        lead,
                    } = receive(&mut receiver).await?
                        && heard == report
                    {
                        return anyhow::Ok(lead);
                    }
                }
            });
            let lead = answered
                .await
                .context("a report is not answered in time")??;
            let Some(lead) = lead else {
                continue;
            };
            let prompt = self.clock.monotonic_ms() - sent_ms < PROMPT_MS;
            if prompt && !self.consensus.leadership().borrow().leading {
                self.clock.follow(lead.now);
            }
            if let Some(zxid) = lead.wrong_at {
                self.consensus.fail(format!(
                    "the state of this server differs from the leader's at zxid {zxid}: \
                     remove its data directory and let it join again under a new id"
                ));
            }
            let at_ms = sent_ms.saturating_sub(lead.quorum_age_ms);
            let number = reported.number();
            let counted = reported.counted(&lead.not_counted);
            self.silence.touches_counted(&counted, number, at_ms);
            self.silence.heard(at_ms);
        }
    }
}

/// Asks the server at the other end, which leads, to change the members.
pub(crate) async fn ask_for_change(
    stream: PeerStream,
    change: Change,
) -> anyhow::Result<Result<Changed, ReconfigureError>> {
    let (mut sender, mut receiver) = stream.split();
    sender.send(encode(&ToLeader::Change(change))?).await?;
    loop {
        if let FromLeader::Changed(changed) = receive(&mut receiver).await? {
            return Ok(changed);
        }
    }
}

/// Asks the server at the other end, which leads, what recipes do.
pub(crate) async fn ask_for_look(stream: PeerStream, look: Look) -> anyhow::Result<Seen> {
    let (mut sender, mut receiver) = stream.split();
    sender.send(encode(&ToLeader::Look(look))?).await?;
    loop {
        if let FromLeader::Seen(seen) = receive(&mut receiver).await? {
            return Ok(seen);
        }
    }
}

/// Asks the server at the other end, which leads, whether a component can be run there, and waits a while for it.
pub(crate) async fn ask_for_recipe(
    stream: PeerStream,
    digest: RecipeDigest,
) -> anyhow::Result<bool> {
    let (mut sender, mut receiver) = stream.split();
    sender.send(encode(&ToLeader::AwaitRecipe(digest))?).await?;
    loop {
        if let FromLeader::Recipe { ready } = receive(&mut receiver).await? {
            return Ok(ready);
        }
    }
}

/// Sends to the leader, unless it takes nothing for so long.
async fn send(
    sender: &mut PeerSender,
    message: &ToLeader,
    patience: Duration,
) -> anyhow::Result<()> {
    let sent = timeout(patience, sender.send(encode(message)?)).await;
    Ok(sent.context("a request is not taken in time")??)
}

async fn receive(receiver: &mut PeerReceiver) -> anyhow::Result<FromLeader> {
    let frame = receiver.next().await;
    let frame = frame.ok_or_else(|| anyhow::anyhow!("the leader has closed it"))??;
    Ok(decode(&frame)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: ServerId = ServerId(1);

    /// After how many seconds a connection on which nothing is answered is given up; it is looked at each second.
    fn given_up_after(patience: &mut Patience, begun: Instant) -> u64 {
        patience.begin(LEADER);
        let look = |second: &u64| {
            let now = begun + Duration::from_secs(*second);
            patience.look(Some((1, 7)), now)
        };
        let after = (0..100).find(look);
        patience.gave_up();
        after.unwrap()
    }

    #[test]
    fn a_leader_that_answers_nothing_is_waited_for_longer_each_time_up_to_a_bound() {
        let (mut patience, begun) = (Patience::default(), Instant::now());
        let waits = [(); 4].map(|()| given_up_after(&mut patience, begun));
        assert_eq!(waits, [3, 6, 12, 12]);
        patience.begin(LEADER);
        assert!(!patience.look(Some((1, 7)), begun));
        assert!(!patience.look(Some((1, 8)), begun), "an answer");
        assert_eq!(given_up_after(&mut patience, begun), 3);
        patience.begin(ServerId(2));
        assert_eq!(patience.time, REQUEST_STALL, "another leader is not slow");
    }

    #[test]
    fn a_backlog_of_which_something_is_answered_now_and_then_is_not_given_up() {
        let (mut patience, begun) = (Patience::default(), Instant::now());
        patience.begin(LEADER);
        for second in 0..100 {
            let now = begun + Duration::from_secs(second);
            assert!(!patience.look(Some((1, second / 3)), now), "{second}");
        }
        assert!(!patience.look(None, begun + Duration::from_secs(200)));
        let later = begun + Duration::from_secs(300);
        assert!(
            !patience.look(Some((1, 99)), later),
            "nothing waited before"
        );
    }
}
