//! Serve: one server from its data directory to its listeners, and down again.

use std::convert::Infallible;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use parking_lot::RwLock;
use quorate_consensus::{Config, Consensus, FirstMember, Health, Tcp};
use quorate_model::id::{Incarnation, ServerId};
use quorate_model::outcome::Outcome;
use quorate_model::request::Operation;
use quorate_tree::{SharedState, State};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::apply::{Applier, Opened};
use crate::clock::{CORRECT_EVERY, Clock, SystemHands};
use crate::evaluate::{Leader, administration};
use crate::expiry::Touches;
use crate::http::Http;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::mode::Mode;
use crate::notify::Watches;
use crate::receive::{Edge, Limits};
use crate::recipes::Recipes;
use crate::route::{Acceptor, Forwarder, Inbox, Router};
use crate::silence::{self, Silence};
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
    /// Its place in an ensemble; none for a server that is alone.
    pub ensemble: Option<Ensemble>,
}

/// A server's place in an ensemble of several.
#[derive(Clone, Debug)]
pub struct Ensemble {
    /// Which server this is.
    pub server: ServerId,
    /// Where it listens for the others, `host:port`.
    pub listen: String,
    /// The members at the first start, this one included, the same on each.
    pub members: Vec<FirstMember>,
    /// At its first start it waits to be added by the others.
    pub join: bool,
}

/// Where a server that is ready is found.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// ZooKeeper's protocol.
    pub zookeeper: SocketAddr,
    /// HTTP.
    pub http: SocketAddr,
}

/// A server that is alone.
const ALONE: ServerId = ServerId(1);

/// Between two words to an operator whose server waits to begin.
const STILL_WAITING: Duration = Duration::from_secs(10);

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

    let server = settings
        .ensemble
        .as_ref()
        .map_or(ALONE, |ensemble| ensemble.server);

    let clock = Arc::new(Clock::start(SystemHands::start()));
    let state = Arc::new(RwLock::new(State::new()));
    let touches = Arc::new(Touches::default());
    // A later start has a later time; two cannot have the same, as the data directory is locked meanwhile.
    let incarnation = Incarnation(clock.now().0);
    let router = Router::new(server, incarnation, touches.clone());
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
    let mut config = Config::new(settings.data_dir.join("raft"), server);
    let consensus = match &settings.ensemble {
        None => Consensus::open(config, applier.clone()).await?,
        Some(ensemble) => {
            let peers = bind(&ensemble.listen, "--peer-listen").await?;
            let own = ensemble
                .members
                .iter()
                .find(|member| member.server == server);
            config.address = own.map_or_else(|| ensemble.listen.clone(), |own| own.address.clone());
            config.members = ensemble.members.clone();
            config.join = ensemble.join;
            let transport = Arc::new(Tcp::new(Some(peers)));
            Consensus::open_with_peers(config, applier.clone(), transport).await?
        }
    };

    std::thread::Builder::new().name("compile".into()).spawn({
        let recipes = recipes.clone();
        move || recipes.compile_forever()
    })?;
    let (opened, nonce) = (applier.opened(), random()?);
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
        opened: opened.clone(),
        compiled: recipes.compiled(),
        nonce,
    };
    let leader = std::thread::Builder::new().name("evaluate".into()).spawn({
        let runtime = tokio::runtime::Handle::current();
        move || runtime.block_on(leader.run())
    })?;
    let members = Members::new(
        consensus.clone(),
        router.clone(),
        settings.ensemble.is_some(),
    );
    let (serving, serves) = watch::channel(false);
    if settings.ensemble.is_some() {
        let silence = Arc::new(Silence::default());
        let forwarder = Forwarder {
            consensus: consensus.clone(),
            router: router.clone(),
            touches: touches.clone(),
            silence: silence.clone(),
            opened: opened.clone(),
            clock: clock.clone(),
            serving,
        };
        tokio::spawn(forwarder.clone().forward());
        tokio::spawn(forwarder.report());
        let acceptor = Acceptor {
            consensus: consensus.clone(),
            inbox,
            touches,
            members: members.clone(),
        };
        tokio::spawn(acceptor.run());
        tokio::spawn(members.clone().keep_published(state.clone()));
        let host = settings
            .listen
            .rsplit_once(':')
            .map_or("", |(host, _)| host);
        let client = format!("{host}:{}", addresses.zookeeper.port());
        tokio::spawn(members.clone().announce(client));
        let (consensus, state) = (consensus.clone(), state.clone());
        let (watches, clock) = (watches.clone(), clock.clone());
        tokio::spawn(silence::keep(silence, consensus, state, watches, clock));
    }

    let (stopping, stopped) = watch::channel(false);
    tokio::spawn(correct_clock(clock, stopped.clone()));
    tokio::spawn(tell_health(
        consensus.clone(),
        router.clone(),
        watches.clone(),
    ));
    let mut stop = std::pin::pin!(stop);
    let begun = tokio::select! {
        begun = await_begin(&consensus, opened, nonce, serves) => {
            begun?;
            true
        }
        never = turn_away(&zookeeper, &http) => match never {},
        () = &mut stop => false,
    };
    if begun {
        let keep = keep_standard_recipes(
            consensus.clone(),
            router.clone(),
            state.clone(),
            recipes.clone(),
        );
        if consensus.leadership().borrow().leading {
            push_standard_recipes(&router, &state, &recipes).await?;
        }
        let keep = tokio::spawn(keep);
        let edge = Arc::new(Edge {
            router: router.clone(),
            state,
            watches,
            metrics,
            limits: settings.limits,
            members: Some(members),
            mode: Box::new({
                let consensus = consensus.clone();
                move || Mode::of(&consensus, server)
            }),
        });
        let health = consensus.health();
        let http_service = Http::new(
            edge.clone(),
            Arc::new(recipes),
            Some(consensus.clone()),
            move || is_well(&health.borrow()),
        );
        let zookeeper = tokio::spawn(receive::serve(zookeeper, edge, stopped.clone()));
        let http = tokio::spawn(http::serve(http, http_service, stopped));
        ready(addresses);

        stop.await;
        stopping.send_replace(true);
        router.stop("the server is stopping");
        keep.abort();
        zookeeper.await?;
        http.await?;
    }
    consensus.shutdown().await;
    // Its lead is over with consensus.
    tokio::task::spawn_blocking(move || leader.join())
        .await?
        .ok();
    Ok(())
}

/// Waits until this start of the server has opened an epoch, or a leader takes its requests: only then is
/// all that was acknowledged before applied here.
async fn await_begin(
    consensus: &Consensus,
    mut opened: watch::Receiver<Opened>,
    nonce: u64,
    mut serves: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut health = consensus.health();
    loop {
        tokio::select! {
            Ok(_) = opened.wait_for(|opened| opened.nonce == nonce) => return Ok(()),
            Ok(_) = serves.wait_for(|serves| *serves) => return Ok(()),
            failed = health.wait_for(|health| matches!(health, Health::Failed(_))) => {
                match failed.as_deref() {
                    Ok(Health::Failed(why)) => bail!("the server cannot begin: {why}"),
                    _ => bail!("the server stops before it has begun"),
                }
            }
            () = tokio::time::sleep(STILL_WAITING) => {
                let members = consensus.members().borrow().clone();
                let voters = members.voters.len();
                tracing::warn!("waiting for {} of {voters} voters to agree on a leader", voters / 2 + 1);
            }
        }
    }
}

/// Closes the connections of clients as long as the server has not begun, so that they try another.
async fn turn_away(zookeeper: &TcpListener, http: &TcpListener) -> Infallible {
    loop {
        let (Ok(_) | Err(_)) = tokio::select! {
            client = zookeeper.accept() => client,
            client = http.accept() => client,
        };
    }
}

/// Keeps the standard recipes whenever this server begins to lead, until consensus has stopped.
async fn keep_standard_recipes(
    consensus: Consensus,
    router: Router,
    state: SharedState,
    recipes: Recipes,
) {
    let mut leadership = consensus.leadership();
    while leadership.wait_for(|now| now.leading).await.is_ok() {
        if let Err(error) = push_standard_recipes(&router, &state, &recipes).await {
            tracing::warn!("the standard recipes are not all there: {error:#}");
        }
        if leadership.wait_for(|now| !now.leading).await.is_err() {
            return;
        }
    }
}

async fn bind(address: &str, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AddrInUse => "is another server running there? ",
            _ => "it has to be an address of this machine. ",
        };
        anyhow::Error::new(error).context(format!(
            "cannot listen on {address}: {advice}Choose another with {flag}"
        ))
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
    state: &SharedState,
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
    // 0 stands for nobody's, see `Applier::install`.
    Ok(u64::from_le_bytes(bytes).max(1))
}
