//! Assemble: one server's stages put together, on whatever machine it is given, real or simulated.

use std::sync::Arc;

use anyhow::anyhow;
use parking_lot::RwLock;
use quorate_consensus::{Config, Consensus, Disk, Health, StateMachine, Transport};
use quorate_model::id::Incarnation;
use quorate_sandbox::Sandbox;
use quorate_tree::{RunTree, SharedState, State};
use tokio::sync::watch;

use crate::activity::Exporter;
use crate::apply::{Applier, Opened};
use crate::clock::{CORRECT_EVERY, Clock, Hands};
use crate::essential::Essential;
use crate::evaluate::Leader;
use crate::expiry::Touches;
use crate::local_sessions;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::mode::Mode;
use crate::notify::Watches;
use crate::read_only::{self, NO_QUORUM_AFTER_MS, ReadOnly};
use crate::readiness::{self, Readiness};
use crate::receive::{Edge, Limits};
use crate::recipes::Recipes;
use crate::route::{Acceptor, Asker, Forwarder, Inbox, Router};
use crate::silence::{self, Silence};
use crate::version::{self, Versions};
use crate::waiting::Waiting;

/// Given the server's state machine, what consensus is to apply to: a simulation looks on there.
pub type Apply = Box<dyn FnOnce(Arc<dyn StateMachine>) -> Arc<dyn StateMachine> + Send>;

/// What a server runs on.
pub struct Machine {
    /// Its clocks.
    pub hands: Arc<dyn Hands>,
    /// Its network, as far as other servers are concerned; none for a server that is alone.
    pub transport: Option<Arc<dyn Transport>>,
    /// Its disk.
    pub disk: Arc<dyn Disk>,
    /// Where its recipes run.
    pub sandbox: Arc<Sandbox<RunTree>>,
    /// Unique to this start of the server; not 0.
    pub nonce: u64,
    /// What consensus applies to.
    pub applies_to: Apply,
    /// What ends if an essential task panics.
    pub essential: Essential,
}

/// One server without its listeners.
pub struct Server {
    /// Requests go in here.
    pub router: Router,
    /// What is applied.
    pub state: SharedState,
    /// Who is told what.
    pub watches: Arc<Watches>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is compiled.
    pub recipes: Recipes,
    /// Its log, its peers, its lead.
    pub consensus: Consensus,
    /// Changes the servers of its ensemble.
    pub members: Members,
    /// Whether reads are all that it answers.
    pub read_only: Arc<ReadOnly>,
    /// Why it does not serve yet, if whoever assembles it has it wait.
    pub waiting: Arc<Waiting>,
    /// What ends if a task panics without which it only seems to serve.
    pub essential: Essential,
    several: bool,
    silence: Arc<Silence>,
    clock: Arc<Clock>,
    nonce: u64,
    opened: watch::Receiver<Opened>,
    serves: watch::Receiver<bool>,
}

impl Server {
    /// Recovers a server from its data directory, joins it to its ensemble, and begins all tasks but two, which want
    /// threads of their own: [`Recipes::compile_forever`], and the leader's, which is given.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub async fn open(
        config: Config,
        machine: Machine,
    ) -> anyhow::Result<(Server, Leader<Recipes>)> {
        let Machine {
            hands,
            transport,
            disk,
            sandbox,
            nonce,
            applies_to,
            essential,
        } = machine;
        let server = config.server;
        let clock = Arc::new(Clock::start(hands));
        let state = Arc::new(RwLock::new(State::new()));
        let touches = Arc::new(Touches::default());
        // A later start has a later time; two cannot have the same, as the data directory is locked meanwhile.
        let incarnation = Incarnation(clock.now().0);
        let router = Router::new(server, incarnation, touches.clone());
        let metrics = Arc::new(Metrics::new());
        let watches = Watches::new(&state.read(), metrics.clone());
        let recipes = Recipes::new(sandbox, metrics.clone(), clock.clone());
        metrics.collect(Box::new(Exporter {
            activity: recipes.activity(),
            state: state.clone(),
        }));
        let applier = Arc::new(Applier::new(
            state.clone(),
            router.clone(),
            watches.clone(),
            touches.clone(),
            recipes.clone(),
            metrics.clone(),
            essential.clone(),
        ));
        let (opened, digests) = (applier.opened(), applier.digests());
        let several = transport.is_some();
        let transport = transport.unwrap_or_else(|| Arc::new(quorate_consensus::Tcp::new(None)));
        let consensus = Consensus::open_on(config, applies_to(applier), transport, disk).await?;

        let inbox = Arc::new(Inbox::default());
        let leader = Leader {
            consensus: consensus.clone(),
            router: router.clone(),
            inbox: inbox.clone(),
            state: state.clone(),
            runner: recipes.clone(),
            clock: clock.clone(),
            touches: touches.clone(),
            metrics: metrics.clone(),
            activity: recipes.activity(),
            opened: opened.clone(),
            compiled: recipes.compiled(),
            nonce,
            essential: essential.clone(),
        };
        let asker = Asker::new(consensus.clone(), router.barriers().clone(), server);
        essential.spawn("barriers", asker.run());
        let members = Members::new(consensus.clone(), router.clone(), several);
        let (serving, serves) = watch::channel(false);
        let silence = Arc::new(match several {
            true => Silence::new(clock.clone()),
            false => Silence::alone(clock.clone()),
        });
        let versions = Arc::new(Versions::default());
        let readiness = Arc::new(Readiness::default());
        if several {
            let forwarder = Forwarder {
                consensus: consensus.clone(),
                router: router.clone(),
                touches: touches.clone(),
                silence: silence.clone(),
                digests: digests.clone(),
                opened: opened.clone(),
                state: state.clone(),
                recipes: recipes.clone(),
                clock: clock.clone(),
                serving,
                patience: Arc::default(),
            };
            essential.spawn("forward", forwarder.clone().forward());
            essential.spawn("report", forwarder.report());
            let acceptor = Acceptor {
                consensus: consensus.clone(),
                inbox,
                touches,
                members: members.clone(),
                digests,
                clock: clock.clone(),
                versions: versions.clone(),
                readiness: readiness.clone(),
                metrics: metrics.clone(),
                recipes: recipes.clone(),
                state: state.clone(),
            };
            essential.spawn("accept", acceptor.run());
            let keeper = readiness::Keeper {
                readiness,
                consensus: consensus.clone(),
                state: state.clone(),
                recipes: recipes.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
            };
            essential.spawn("readiness", keeper.run());
            let (consensus, silence) = (consensus.clone(), silence.clone());
            let keep = silence::keep(silence, consensus, watches.clone());
            essential.spawn("silence", keep);
        }
        let raiser = version::Raiser {
            versions,
            consensus: consensus.clone(),
            router: router.clone(),
            state: state.clone(),
            clock: clock.clone(),
            opened: opened.clone(),
            nonce,
            asked: None,
        };
        essential.spawn("version", raiser.run());
        essential.spawn("clock", correct_clock(clock.clone(), consensus.clone()));
        let health = tell_health(
            consensus.clone(),
            router.clone(),
            watches.clone(),
            essential.clone(),
        );
        essential.spawn("health", health);
        let server = Server {
            router,
            state,
            watches,
            metrics,
            recipes,
            consensus,
            members,
            read_only: Arc::default(),
            waiting: Arc::default(),
            essential,
            several,
            silence,
            clock,
            nonce,
            opened,
            serves,
        };
        Ok((server, leader))
    }

    /// Waits until this start of the server has opened an epoch, or a leader takes its requests: only then is
    /// all that was acknowledged before applied here. And until a quorum was heard of, without which nobody is served.
    ///
    /// # Errors
    /// If consensus fails or stops before.
    pub async fn begun(&self) -> anyhow::Result<()> {
        let (mut opened, mut serves) = (self.opened.clone(), self.serves.clone());
        tokio::select! {
            Ok(_) = opened.wait_for(|opened| opened.nonce == self.nonce) => {}
            Ok(_) = serves.wait_for(|serves| *serves) => {}
            why = self.failure() => return Err(why),
        }
        tokio::select! {
            () = self.silence.begun() => Ok(()),
            why = self.failure() => Err(why),
        }
    }

    /// Why consensus has failed, once it has.
    async fn failure(&self) -> anyhow::Error {
        let mut health = self.consensus.health();
        let failed = health.wait_for(|health| matches!(health, Health::Failed(_)));
        match failed.await.as_deref() {
            Ok(Health::Failed(why)) => anyhow!("the server cannot begin: {why}"),
            _ => anyhow!("the server stops before it has begun"),
        }
    }

    /// What makes this server, one of several, read-only as long as it has no quorum.
    pub fn read_only_keeper(&self) -> read_only::Keeper {
        read_only::Keeper {
            read_only: self.read_only.clone(),
            silence: self.silence.clone(),
            watches: self.watches.clone(),
            clock: self.clock.clone(),
            opened: self.opened.clone(),
            nonce: self.nonce,
            serves: self.serves.clone(),
            health: self.consensus.health(),
        }
    }

    /// What the stages that face clients share.
    pub fn edge(&self, limits: Limits) -> Arc<Edge> {
        let (consensus, server) = (self.consensus.clone(), self.router.server());
        let quorum_age_ms = {
            let (several, silence) = (self.several, self.silence.clone());
            let clock = self.clock.clone();
            move || match several {
                true => silence.for_ms(clock.monotonic_ms()),
                // A server that is alone is its own quorum.
                false => 0,
            }
        };
        Arc::new(Edge {
            router: self.router.clone(),
            state: self.state.clone(),
            watches: self.watches.clone(),
            metrics: self.metrics.clone(),
            limits,
            members: Some(self.members.clone()),
            activity: self.recipes.activity(),
            read_only: self.read_only.clone(),
            silence: self.silence.clone(),
            waiting: self.waiting.clone(),
            local: local_sessions::Table::new(quorum_age_ms.clone()),
            room: Default::default(),
            quorum_age_ms: Box::new(quorum_age_ms.clone()),
            mode: Box::new({
                let (read_only, state) = (self.read_only.clone(), self.state.clone());
                let waiting = self.waiting.clone();
                move || {
                    let failed = matches!(*consensus.health().borrow(), Health::Failed(_));
                    if failed || state.read().is_vacant() {
                        Mode::NotServing
                    } else if read_only.is() {
                        Mode::ReadOnly
                    } else if waiting.is() || quorum_age_ms() >= NO_QUORUM_AFTER_MS {
                        Mode::NotServing
                    } else {
                        Mode::of(&consensus, server)
                    }
                }
            }),
        })
    }
}

async fn correct_clock(clock: Arc<Clock>, consensus: Consensus) {
    let mut health = consensus.health();
    let mut every = tokio::time::interval(CORRECT_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => {
                if consensus.leadership().borrow().leading {
                    let members = consensus.members();
                    clock.correct(consensus.server(), &members.borrow().voters);
                }
            }
            _ = health.wait_for(|health| *health == Health::Stopped) => return,
        }
    }
}

/// When consensus has failed, nothing more is acknowledged: whoever waits is told so, and clients of
/// ZooKeeper's protocol are disconnected.
async fn tell_health(
    consensus: Consensus,
    router: Router,
    watches: Arc<Watches>,
    essential: Essential,
) {
    let mut health = consensus.health();
    while health.changed().await.is_ok() {
        let now = health.borrow_and_update().clone();
        match &now {
            Health::Failed(why) => {
                if consensus.has_panicked() {
                    essential.end("consensus", why);
                }
                tracing::error!("writes have stopped: {why}");
                router.stop(&format!("writes have stopped: {why}"));
                watches.close_all("writes have stopped");
            }
            Health::Impaired(why) => tracing::warn!("consensus is impaired: {why}"),
            Health::Running | Health::Stopped => {}
        }
    }
}
