//! Readiness: a leader whose recipes are not compiled hands over to a server whose are (rule C6).
//!
//! Every report of a server says whether all that is mounted in its state is compiled there. Only the leader runs
//! recipes, so only its readiness matters to callers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_consensus::{Consensus, Health};
use quorate_model::id::{ServerId, Zxid};
use quorate_model::run::Runner;
use quorate_tree::{RunTree, SharedState, State};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::recipes::Recipes;

/// Between two looks of a leader at itself.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// For so long, in milliseconds, a leader may lack a recipe: most are compiled within it, and a pause of all requests is
/// worse than one of some calls.
const PATIENCE_MS: u64 = 5_000;

/// The same of one that has not been ready since it began to lead. Less than it waits before it opens its epoch, so that
/// it can hand over before it has refused a call.
const NEW_PATIENCE_MS: u64 = 400;

/// From one hand-over to the next of the same server, in milliseconds, whatever became of it: while recipes come and go
/// faster than they are compiled, the lead stays.
const HAND_OVER_EVERY_MS: u64 = 30_000;

/// A server that has not reported for so long, in milliseconds, is away: some reports.
const RECENT_MS: u64 = 1_000;

/// Whether every recipe that is mounted in `state`, and not being unmounted, can be run here.
pub(crate) fn is_ready(state: &State, runner: &impl Runner<RunTree>) -> bool {
    let mut mounts = state.mounts();
    mounts.all(|mount| mount.unmounting.is_some() || runner.ready(&mount.digest))
}

/// What a server has said of its recipes.
#[derive(Clone, Copy, Debug)]
struct Report {
    /// Its state's last transaction, if all that is mounted there is ready.
    ready_at: Option<Zxid>,
    /// When it said so, in milliseconds of this server's monotonic time.
    at_ms: u64,
}

/// Who is ready, as far as the other servers have said so here.
#[derive(Debug, Default)]
pub struct Readiness {
    /// Of every server that has ever reported to this one: as many as the ensemble has had members.
    reports: Mutex<BTreeMap<ServerId, Report>>,
}

impl Readiness {
    /// A server has reported.
    pub(crate) fn heard(&self, server: ServerId, ready_at: Option<Zxid>, at_ms: u64) {
        let report = Report { ready_at, at_ms };
        self.reports.lock().insert(server, report);
    }

    /// The voters that can run all that was mounted at `zxid`.
    fn ready_since(&self, zxid: Zxid, voters: &BTreeSet<ServerId>, now_ms: u64) -> Vec<ServerId> {
        let reports = self.reports.lock();
        let ready = reports.iter().filter(|(server, report)| {
            voters.contains(server)
                && now_ms.saturating_sub(report.at_ms) < RECENT_MS
                && report.ready_at.is_some_and(|at| at >= zxid)
        });
        ready.map(|(server, _)| *server).collect()
    }
}

/// What a leader sees of itself.
struct Here {
    ready: bool,
    zxid: Zxid,
    now_ms: u64,
}

/// Decides when the lead goes to another server.
#[derive(Debug, Default)]
struct Handover {
    /// Whether this server has been ready since it began to lead.
    was_ready: bool,
    /// Since when it leads without being ready; and where its state was at the last look.
    unready: Option<(u64, Zxid)>,
    /// When it was last to go, and to whom.
    last: Option<(u64, ServerId)>,
}

impl Handover {
    /// To whom the lead is to go now; called at every look, of a leader and of others.
    fn decide(
        &mut self,
        here: Option<&Here>,
        voters: &BTreeSet<ServerId>,
        reports: &Readiness,
    ) -> Option<ServerId> {
        let Some(here) = here.filter(|here| !here.ready) else {
            self.was_ready = here.is_some();
            self.unready = None;
            return None;
        };
        let patience_ms = match self.was_ready {
            true => PATIENCE_MS,
            false => NEW_PATIENCE_MS,
        };
        let (since_ms, before) = self.unready.unwrap_or((here.now_ms, here.zxid));
        self.unready = Some((since_ms, here.zxid));
        let lately = |(at_ms, _)| here.now_ms.saturating_sub(at_ms) < HAND_OVER_EVERY_MS;
        if here.now_ms.saturating_sub(since_ms) < patience_ms || self.last.is_some_and(lately) {
            return None;
        }
        // Who has caught up with the last look is not far behind; how far is raft's to see.
        let ready = reports.ready_since(before, voters, here.now_ms);
        // Another one than the last time: that may have come to nothing.
        let last = self.last.map(|(_, server)| server);
        let next = ready.iter().find(|server| Some(**server) > last);
        let to = *next.or(ready.first())?;
        self.last = Some((here.now_ms, to));
        Some(to)
    }
}

/// The task that looks, and hands the lead over.
pub(crate) struct Keeper {
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) consensus: Consensus,
    pub(crate) state: SharedState,
    pub(crate) recipes: Recipes,
    pub(crate) clock: Arc<Clock>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Keeper {
    /// Looks again and again, until consensus has stopped.
    pub(crate) async fn run(self) {
        let mut health = self.consensus.health();
        let mut handover = Handover::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = health.wait_for(|health| *health == Health::Stopped) => return,
            }
            self.look(&mut handover).await;
        }
    }

    async fn look(&self, handover: &mut Handover) {
        let leads = self.consensus.leadership().borrow().leading;
        let here = leads.then(|| {
            let state = self.state.read();
            Here {
                ready: is_ready(&state, &self.recipes),
                zxid: state.last_zxid(),
                now_ms: self.clock.monotonic_ms(),
            }
        });
        let mut voters = self.consensus.members().borrow().voters.clone();
        voters.remove(&self.consensus.server());
        let Some(to) = handover.decide(here.as_ref(), &voters, &self.readiness) else {
            return;
        };
        match self.consensus.transfer_leader(to).await {
            Ok(()) => {
                self.metrics.handed_over.inc();
                tracing::info!(%to, "not all mounted recipes are compiled here: handed the lead over to a server where they are");
            }
            Err(error) => {
                tracing::warn!(%to, "not all mounted recipes are compiled here, and the lead could not be handed over: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use quorate_consensus::{Config, FirstMember, RealDisk, Tcp};
    use quorate_model::outcome::Outcome;
    use quorate_model::path::ZnodePath;
    use quorate_model::recipe::MountSettings;
    use quorate_model::request::Operation;
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock::SystemHands;
    use crate::evaluate::administration;
    use crate::recipes::sandbox;
    use crate::server::{Machine, Server};
    use crate::upload;

    /// Looks of server 1 at these times; the others report right before each, those of them that are ready at `at`.
    struct Play {
        handover: Handover,
        reports: Readiness,
        voters: BTreeSet<ServerId>,
    }

    impl Play {
        fn new() -> Play {
            Play {
                handover: Handover::default(),
                reports: Readiness::default(),
                voters: [2, 3].map(ServerId).into(),
            }
        }

        fn reported(&self, server: u64, ready_at: Option<u64>, now_ms: u64) {
            let server = ServerId(server);
            self.reports.heard(server, ready_at.map(Zxid), now_ms);
        }

        /// A look of a server that leads, has been ready since it began to, and is so no more.
        fn begin(&mut self, now_ms: u64) {
            self.look(true, 10, now_ms);
            assert_eq!(self.look(false, 10, now_ms), None);
        }

        fn look(&mut self, ready: bool, zxid: u64, now_ms: u64) -> Option<u64> {
            let here = Here {
                ready,
                zxid: Zxid(zxid),
                now_ms,
            };
            let to = self
                .handover
                .decide(Some(&here), &self.voters, &self.reports);
            to.map(|server| server.0)
        }
    }

    #[test]
    fn c6_a_leader_that_stays_unready_hands_over_to_a_ready_voter() {
        for (is_new, patience_ms) in [(false, PATIENCE_MS), (true, NEW_PATIENCE_MS)] {
            let mut play = Play::new();
            match is_new {
                true => assert_eq!(play.look(false, 10, 0), None),
                false => play.begin(0),
            }
            play.reported(2, None, patience_ms);
            play.reported(3, Some(10), patience_ms);
            play.reported(4, Some(10), patience_ms);
            assert_eq!(play.look(false, 10, patience_ms - 1), None, "not yet");
            assert_eq!(play.look(false, 10, patience_ms), Some(3));
        }
    }

    #[test]
    fn c6_a_leader_that_becomes_ready_or_is_none_begins_to_count_anew() {
        for ready in [true, false] {
            let mut play = Play::new();
            play.begin(0);
            let patience_ms = if ready {
                assert_eq!(play.look(true, 10, 1_000), None);
                PATIENCE_MS
            } else {
                let decided = play.handover.decide(None, &play.voters, &play.reports);
                assert_eq!(decided, None, "it does not lead");
                NEW_PATIENCE_MS
            };
            play.look(false, 10, 1_100);
            let enough_ms = 1_100 + patience_ms;
            play.reported(2, Some(10), enough_ms);
            assert_eq!(play.look(false, 10, enough_ms - 1), None);
            assert_eq!(play.look(false, 10, enough_ms), Some(2));
        }
    }

    #[test]
    fn c6_with_nobody_ready_caught_up_and_there_the_lead_stays() {
        let mut play = Play::new();
        play.begin(0);
        let now_ms = PATIENCE_MS;
        assert_eq!(play.look(false, 20, now_ms), None, "nobody has reported");
        play.reported(2, None, now_ms);
        play.reported(3, Some(19), now_ms);
        assert_eq!(play.look(false, 25, now_ms), None, "it is behind");
        play.reported(3, Some(25), now_ms - RECENT_MS);
        assert_eq!(play.look(false, 25, now_ms), None, "it is away");
        play.reported(4, Some(25), now_ms);
        assert_eq!(play.look(false, 25, now_ms), None, "4 is no voter");
        play.reported(3, Some(25), now_ms);
        assert_eq!(play.look(false, 30, now_ms), Some(3));
    }

    #[test]
    fn c6_the_lead_goes_over_once_in_a_while_and_then_to_another() {
        let mut play = Play::new();
        play.begin(0);
        let mut gone = Vec::new();
        for now_ms in (0..2 * HAND_OVER_EVERY_MS + 10_000).step_by(250) {
            play.reported(2, Some(10), now_ms);
            play.reported(3, Some(10), now_ms);
            gone.extend(play.look(false, 10, now_ms).map(|to| (now_ms, to)));
        }
        let then = [0, 1, 2].map(|times| PATIENCE_MS + times * HAND_OVER_EVERY_MS);
        assert_eq!(gone, [(then[0], 2), (then[1], 3), (then[2], 2)]);
    }

    /// How long anything may take, on a busy machine.
    const DEADLINE: Duration = Duration::from_secs(60);

    /// A server of three, in this process; what it is to compile is compiled only if `compiles`.
    async fn start(
        id: u64,
        listener: TcpListener,
        members: &[FirstMember],
        directory: &Path,
        compiles: bool,
    ) -> Server {
        let data = directory.join(id.to_string());
        let mut config = Config::new(data.join("raft"), ServerId(id));
        config.address = listener.local_addr().unwrap().to_string();
        config.members = members.to_vec();
        let machine = Machine {
            hands: SystemHands::start(),
            transport: Some(Arc::new(Tcp::new(Some(listener)))),
            disk: Arc::new(RealDisk),
            sandbox: Arc::new(sandbox(data.join("compiled"), None).unwrap()),
            nonce: id,
            applies_to: Box::new(|machine| machine),
            essential: crate::essential::Essential::nothing(),
        };
        let (server, leader) = Server::open(config, machine).await.unwrap();
        let runtime = tokio::runtime::Handle::current();
        std::thread::spawn(move || runtime.block_on(leader.run()));
        if compiles {
            let recipes = server.recipes.clone();
            std::thread::spawn(move || recipes.compile_forever());
        }
        server
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn c6_a_server_that_does_not_compile_gives_the_lead_to_one_that_does() {
        let directory = tempfile::tempdir().unwrap();
        let mut listeners = Vec::new();
        let mut members = Vec::new();
        for id in 1..=3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            members.push(FirstMember {
                server: ServerId(id),
                address: listener.local_addr().unwrap().to_string(),
                votes: true,
            });
            listeners.push(listener);
        }
        let mut servers = Vec::new();
        for (id, listener) in (1..).zip(listeners) {
            servers.push(start(id, listener, &members, directory.path(), id != 1).await);
        }
        let [slow, second, third] = &servers[..] else {
            panic!("there are three");
        };
        let test = async {
            for server in &servers {
                server.begun().await.unwrap();
            }
            let standard = quorate_recipes::find("counter").unwrap();
            let checked = second
                .recipes
                .component_of(&Bytes::from_static(standard.wasm))
                .unwrap();
            let kept = upload::keep(&slow.router, "counter", &checked, administration).await;
            assert!(matches!(kept.unwrap().1, Outcome::Pushed(_)));
            let mount = Operation::Mount {
                path: ZnodePath::parse("/counters").unwrap(),
                recipe: "counter".into(),
                digest: None,
                settings: MountSettings::default(),
                upgrade: false,
            };
            let (_, mounted) = slow.router.ask(administration(mount)).await.unwrap();
            assert!(matches!(mounted, Outcome::Mounted { .. }), "{mounted:?}");
            // The lead is given to the one that is not ready: by hand, if it has not been elected.
            let mut leadership = slow.consensus.leadership();
            while !leadership.borrow().leading {
                for server in [second, third] {
                    // The one that does not lead refuses, and whoever leads may have begun a moment ago.
                    let _ = server.consensus.transfer_leader(ServerId(1)).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let next = leadership.wait_for(|now| !now.leading && now.leader.is_some());
            let next = next.await.unwrap().leader;
            assert!(
                next == Some(ServerId(2)) || next == Some(ServerId(3)),
                "{next:?}"
            );
            while slow.metrics.handed_over.get() == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, test).await.unwrap();
        for server in &servers {
            server.consensus.shutdown().await;
        }
    }
}
