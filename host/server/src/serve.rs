//! Serve: one server from its data directory to its listeners, and down again.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use parking_lot::RwLock;
use quorate_consensus::{Config, Consensus, Health};
use quorate_model::id::{Incarnation, ServerId};
use quorate_model::outcome::Outcome;
use quorate_model::request::Operation;
use quorate_tree::State;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::apply::Applier;
use crate::clock::{CORRECT_EVERY, Clock};
use crate::evaluate::{Leader, administration};
use crate::expiry::Touches;
use crate::http::Http;
use crate::metrics::Metrics;
use crate::notify::Watches;
use crate::receive::{Edge, Limits};
use crate::recipes::Recipes;
use crate::route::Router;
use crate::{http, receive};

/// What an operator decides about one server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where everything that lasts is kept.
    pub data_dir: PathBuf,
    /// Where ZooKeeper's protocol is served, `host:port`.
    pub listen: String,
    /// Where HTTP is served, `host:port`.
    pub http: String,
    /// What clients may do.
    pub limits: Limits,
}

/// Where a server that is ready is found.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// ZooKeeper's protocol.
    pub zookeeper: SocketAddr,
    /// HTTP.
    pub http: SocketAddr,
}

/// One node: the ensemble's only member.
const SERVER: ServerId = ServerId(1);

/// How long a server has to become the leader of its own log, which it has read by then.
const LEAD_PATIENCE: Duration = Duration::from_secs(60);

/// Serves until `stop` is done; tells `ready` where, once requests are answered.
///
/// # Errors
/// Whatever keeps it from starting. What happens later is told by `/health` and in the log.
pub async fn serve(
    settings: Settings,
    ready: impl FnOnce(Ready),
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    // The listeners first: an address in use is the commonest mistake, and the cheapest to tell.
    let zookeeper = bind(&settings.listen, "--listen").await?;
    let http = bind(&settings.http, "--http").await?;
    let addresses = Ready {
        zookeeper: zookeeper.local_addr()?,
        http: http.local_addr()?,
    };

    let clock = Arc::new(Clock::start());
    let state = Arc::new(RwLock::new(State::new()));
    let touches = Arc::new(Touches::default());
    // A later start has a later time; two cannot have the same, as the data directory is locked meanwhile.
    let incarnation = Incarnation(clock.now().0);
    let router = Router::new(SERVER, incarnation, touches.clone());
    let metrics = Arc::new(Metrics::new());
    let watches = Watches::new(&state.read(), metrics.clone());
    let recipes = Recipes::new(settings.data_dir.join("compiled"), metrics.clone())?;
    let applier = Arc::new(Applier::new(
        state.clone(),
        router.clone(),
        watches.clone(),
        touches.clone(),
        recipes.clone(),
        metrics.clone(),
    ));
    let config = Config::new(settings.data_dir.join("raft"), SERVER);
    let consensus = Consensus::open(config, applier.clone()).await?;

    std::thread::Builder::new().name("compile".into()).spawn({
        let (recipes, router) = (recipes.clone(), router.clone());
        move || recipes.compile_forever(&router)
    })?;
    let mut opened = applier.opened();
    let leader = Leader {
        consensus: consensus.clone(),
        router: router.clone(),
        state: state.clone(),
        runner: recipes.clone(),
        clock: clock.clone(),
        touches,
        metrics: metrics.clone(),
        opened: applier.opened(),
        runtime: tokio::runtime::Handle::current(),
        nonce: random()?,
    };
    let leader = std::thread::Builder::new()
        .name("evaluate".into())
        .spawn(move || leader.run())?;

    let (stopping, stopped) = watch::channel(false);
    tokio::spawn(correct_clock(clock, stopped.clone()));
    tokio::spawn(tell_health(
        consensus.clone(),
        router.clone(),
        watches.clone(),
    ));
    let leading = tokio::time::timeout(LEAD_PATIENCE, opened.changed()).await;
    if leading.is_err() {
        bail!(
            "this server did not become the leader of its log: {:?}",
            *consensus.health().borrow()
        );
    }
    push_standard_recipes(&router, &state, &recipes).await?;

    let edge = Arc::new(Edge {
        router: router.clone(),
        state,
        watches,
        metrics,
        limits: settings.limits,
    });
    let health = consensus.health();
    let http_service = Http::new(edge.clone(), Arc::new(recipes), move || {
        is_well(&health.borrow())
    });
    let zookeeper = tokio::spawn(receive::serve(zookeeper, edge, stopped.clone()));
    let http = tokio::spawn(http::serve(http, http_service, stopped));
    ready(addresses);

    stop.await;
    stopping.send_replace(true);
    router.stop("the server is stopping");
    zookeeper.await?;
    http.await?;
    consensus.shutdown().await;
    // Its lead is over with consensus.
    tokio::task::spawn_blocking(move || leader.join())
        .await?
        .ok();
    Ok(())
}

async fn bind(address: &str, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another server running there? Choose another with {flag}")
    })
}

async fn correct_clock(clock: Arc<Clock>, mut stopped: watch::Receiver<bool>) {
    let mut every = tokio::time::interval(CORRECT_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => clock.correct(),
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

/// When consensus has failed, nothing more is acknowledged: whoever waits is told so, and clients of
/// ZooKeeper's protocol are disconnected.
async fn tell_health(consensus: Consensus, router: Router, watches: Arc<Watches>) {
    let mut health = consensus.health();
    while health.changed().await.is_ok() {
        let now = health.borrow_and_update().clone();
        match &now {
            Health::Failed(why) => {
                tracing::error!("writes have stopped: {why}");
                router.stop(&format!("writes have stopped: {why}"));
                watches.close_all("writes have stopped");
            }
            Health::Impaired(why) => tracing::warn!("consensus is impaired: {why}"),
            Health::Running | Health::Stopped => {}
        }
    }
}

fn is_well(health: &Health) -> Result<(), String> {
    match health {
        Health::Running | Health::Impaired(_) => Ok(()),
        Health::Failed(why) => Err(format!("writes have stopped: {why}")),
        Health::Stopped => Err("the server is stopping".into()),
    }
}

/// Keeps the standard recipes under their names, so that they can be mounted without any file. A name
/// that an operator has given to another component is left alone.
async fn push_standard_recipes(
    router: &Router,
    state: &quorate_tree::SharedState,
    recipes: &Recipes,
) -> anyhow::Result<()> {
    for standard in quorate_recipes::all() {
        if state.read().recipe(standard.name).is_some() {
            continue;
        }
        let upload = bytes::Bytes::from_static(standard.wasm);
        let recipes = recipes.clone();
        let checked =
            tokio::task::spawn_blocking(move || http::RecipeCheck::prepare(&recipes, upload));
        let checked = checked
            .await?
            .map_err(anyhow::Error::msg)
            .with_context(|| {
                format!(
                    "the standard recipe {} does not pass the check",
                    standard.name
                )
            })?;
        let push = Operation::PushRecipe {
            name: standard.name.to_owned(),
            component: checked.component,
        };
        let (_, outcome) = router.ask(administration(push)).await?;
        if let Outcome::Refused(refusal) = outcome {
            bail!(
                "the standard recipe {} was refused: {refusal}",
                standard.name
            );
        }
    }
    Ok(())
}

fn random() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).context("the system has no random numbers")?;
    Ok(u64::from_le_bytes(bytes))
}
