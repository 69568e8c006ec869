//! A server of the ensemble: the real one, on a simulated machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate::essential::Essential;
use quorate::local_sessions::Setting;
use quorate::members::{Change, Changed, Members};
use quorate::receive::{self, Limits};
use quorate::route::Router;
use quorate::server::{Machine, Server};
use quorate_consensus::{
    Chunks, Components, Config, FirstMember, InstallError, OpenError, ReconfigureError,
    StateMachine, Verdict,
};
use quorate_model::id::ServerId;
use quorate_model::recipe::{Component, RecipeDigest};
use quorate_model::write_set::Entry;
use quorate_sandbox::Sandbox;
use quorate_tree::{RunTree, SharedState};
use tokio::sync::{mpsc, oneshot, watch};
use turmoil::net::TcpListener;

use crate::ledger::Ledger;
use crate::machine::{SimulatedDisk, SimulatedHands, SimulatedTransport};

/// Where every server listens for the others.
const PEER_PORT: u16 = 2888;

/// Where it listens for clients.
pub const CLIENT_PORT: u16 = 2181;

/// What one machine has that outlives its server.
pub struct Host {
    /// Which server runs here.
    pub server: ServerId,
    /// Its clocks.
    pub hands: Arc<SimulatedHands>,
    /// Its disk.
    pub disk: Arc<SimulatedDisk>,
    /// Its data directory.
    pub directory: PathBuf,
    /// The servers that found the ensemble.
    pub members: Vec<FirstMember>,
    /// All servers of the simulation share one engine.
    pub sandbox: Arc<Sandbox<RunTree>>,
    /// What was applied where.
    pub ledger: Arc<Ledger>,
    /// Whether sessions that are opened here are local ones, until they need more.
    pub local_sessions: bool,
    /// The server that runs here now.
    pub running: Mutex<Option<Running>>,
    /// Whether it has found its files damaged when it started.
    pub damaged: AtomicBool,
    /// Why an essential task has panicked here, if one has: a process would have ended.
    pub panicked: Mutex<Option<String>>,
    /// Random numbers for its starts.
    pub random: Mutex<fastrand::Rng>,
}

/// A server that runs.
pub struct Running {
    /// What it has applied.
    pub state: SharedState,
    /// The entrance for requests.
    pub router: Router,
    /// The entrance for changes of the members, which are made in the server's own tasks.
    pub changes: mpsc::Sender<AskedChange>,
    /// Who the members are, as its log says.
    pub members: watch::Receiver<quorate_consensus::Members>,
}

/// A change, and where its end is told.
pub type AskedChange = (Change, oneshot::Sender<Result<Changed, ReconfigureError>>);

/// A server's name on the network.
pub fn name(server: u64) -> String {
    format!("s{server}")
}

/// Where a server is reached by the others.
pub fn peer_address(server: u64) -> String {
    format!("s{server}:{PEER_PORT}")
}

/// Runs the server, until the machine crashes.
pub async fn run(host: Arc<Host>) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", PEER_PORT)).await?;
    let mut config = Config::new(&host.directory, host.server);
    config.address = peer_address(host.server.0);
    config.members = host.members.clone();
    // Small, so that files end, snapshots are taken and logs are cut off within seconds.
    config.segment_bytes = 16 << 10;
    config.cache_bytes = 8 << 10;
    config.snapshot_after_bytes = 48 << 10;
    config.keep_log_bytes = 24 << 10;
    let (ledger, server_id) = (host.ledger.clone(), host.server);
    let machine = Machine {
        hands: host.hands.clone(),
        transport: Some(Arc::new(SimulatedTransport::new(listener))),
        disk: host.disk.handle(),
        sandbox: host.sandbox.clone(),
        nonce: host.random.lock().u64(1..),
        applies_to: Box::new(move |inner| {
            Arc::new(Watched {
                server: server_id,
                inner,
                ledger,
            })
        }),
        essential: Essential::new({
            let host = host.clone();
            move |why| *host.panicked.lock() = Some(why.to_owned())
        }),
    };
    let (server, leader) = match Server::open(config, machine).await {
        Ok(opened) => opened,
        Err(error) => {
            let opening = error.downcast_ref();
            let damaged = matches!(
                opening,
                Some(OpenError::LogDamaged { .. } | OpenError::SnapshotDamaged { .. })
            );
            host.damaged.store(damaged, Ordering::SeqCst);
            return Err(error.into());
        }
    };
    let (changes, asked) = mpsc::channel(1);
    *host.running.lock() = Some(Running {
        state: server.state.clone(),
        router: server.router.clone(),
        changes,
        members: server.consensus.members(),
    });
    tokio::task::spawn_local(change(server.members.clone(), asked));
    tokio::task::spawn_local(leader.run());
    let recipes = server.recipes.clone();
    let essential = server.essential.clone();
    tokio::task::spawn_local(async move {
        let mut every = tokio::time::interval(Duration::from_millis(10));
        loop {
            every.tick().await;
            essential.run("compile", || recipes.compile_wanted());
        }
    });
    if server.begun().await.is_err() {
        // Its disk has failed under it.
        return std::future::pending().await;
    }
    let limits = Limits {
        min_session_timeout_ms: 500,
        local_sessions: match host.local_sessions {
            true => Setting::Upgrading,
            false => Setting::Off,
        },
        ..Limits::default()
    };
    let edge = server.edge(limits);
    let clients = TcpListener::bind(("0.0.0.0", CLIENT_PORT)).await?;
    loop {
        let (stream, address) = clients.accept().await?;
        let (edge, essential) = (edge.clone(), server.essential.clone());
        tokio::task::spawn_local(async move {
            let (reader, writer) = stream.into_split();
            let conversation = receive::converse(reader, writer, address, &edge);
            // A process goes on without it; a defect it is all the same.
            essential.watch("connection", conversation).await;
        });
    }
}

/// Has changes of the members made, one after the other.
async fn change(members: Members, mut asked: mpsc::Receiver<AskedChange>) {
    while let Some((change, told)) = asked.recv().await {
        // Whoever asked may have given up.
        let _ = told.send(members.change(change).await);
    }
}

/// Looks on while entries are applied.
struct Watched {
    server: ServerId,
    inner: Arc<dyn StateMachine>,
    ledger: Arc<Ledger>,
}

impl StateMachine for Watched {
    fn apply(&self, entry: &Entry) -> Verdict {
        let Some(entry) = self.ledger.as_applied(self.server, entry) else {
            return Verdict::NoOp;
        };
        let verdict = self.inner.apply(&entry);
        if verdict == Verdict::Applied {
            self.ledger.applied(self.server, &entry);
        }
        verdict
    }

    fn begin_snapshot(&self) -> Vec<(RecipeDigest, Component)> {
        self.inner.begin_snapshot()
    }

    fn snapshot_chunk(&self) -> Option<Vec<u8>> {
        self.inner.snapshot_chunk()
    }

    fn abandon_snapshot(&self) {
        self.inner.abandon_snapshot();
    }

    fn install(
        &self,
        components: &mut Components<'_>,
        chunks: &mut Chunks<'_>,
    ) -> Result<(), InstallError> {
        self.ledger.installed(self.server);
        self.inner.install(components, chunks)
    }
}
