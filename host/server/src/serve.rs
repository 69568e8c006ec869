//! Serve: one server from its data directory to its listeners, and down again.

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use quorate_consensus::{Config, FirstMember, Health, RealDisk, Tcp, Transport};
use quorate_model::id::ServerId;
use quorate_model::outcome::Outcome;
use quorate_sandbox::Compiler;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::clock::SystemHands;
use crate::essential::Essential;
use crate::evaluate::administration;
use crate::http::Http;
use crate::receive::Limits;
use crate::server::{Machine, Server};
use crate::waiting::Inquiry;
use crate::{http, receive, recipes, upload};

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
    /// Compiles recipes in processes of their own; none to compile in this one, which nothing bounds.
    pub compiler: Option<Compiler>,
    /// Whether a server of several answers reads while it has no quorum.
    pub read_only_mode: bool,
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

impl Ensemble {
    /// Where the others reach this server: as the members say, or where it listens.
    fn address(&self) -> &str {
        let own = self.members.iter().find(|one| one.server == self.server);
        own.map_or(&self.listen, |own| &own.address)
    }
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

    let mut config = Config::new(settings.data_dir.join("raft"), server);
    let mut transport: Option<Arc<dyn Transport>> = None;
    if let Some(ensemble) = &settings.ensemble {
        let peers = bind(&ensemble.listen, "--peer-listen").await?;
        config.address = ensemble.address().to_owned();
        config.members = ensemble.members.clone();
        config.join = ensemble.join;
        transport = Some(Arc::new(Tcp::new(Some(peers))));
    }
    let machine = Machine {
        hands: SystemHands::start(),
        transport,
        disk: Arc::new(RealDisk),
        sandbox: Arc::new(recipes::sandbox(
            settings.data_dir.join("compiled"),
            settings.compiler,
        )?),
        nonce: random()?,
        applies_to: Box::new(|machine| machine),
        essential: Essential::process(),
    };
    let (server, leader) = Server::open(config, machine).await?;
    let server = Arc::new(server);
    let essential = &server.essential;
    std::thread::Builder::new().name("compile".into()).spawn({
        let (recipes, essential) = (server.recipes.clone(), essential.clone());
        move || essential.run("compile", || recipes.compile_forever())
    })?;
    let leader = std::thread::Builder::new().name("evaluate".into()).spawn({
        let runtime = tokio::runtime::Handle::current();
        move || runtime.block_on(leader.run())
    })?;
    server.waiting.begin("it has just been started");
    if let Some(ensemble) = &settings.ensemble {
        let members = server.members.clone();
        let published = members.clone().keep_published(server.state.clone());
        essential.spawn("publish", published);
        let host = settings
            .listen
            .rsplit_once(':')
            .map_or("", |(host, _)| host);
        let client = format!("{host}:{}", addresses.zookeeper.port());
        essential.spawn("announce", members.announce(client.clone()));
        let inquiry = Inquiry {
            waiting: server.waiting.clone(),
            consensus: server.consensus.clone(),
            address: ensemble.address().to_owned(),
            client,
        };
        essential.spawn("inquiry", inquiry.run());
    }

    if settings.read_only_mode && settings.ensemble.is_some() {
        essential.spawn("read-only", server.read_only_keeper().run());
    }
    // Whoever looks after the server is answered from here on; clients are turned away until it serves.
    let (stopping, stopped) = watch::channel(false);
    let edge = server.edge(settings.limits);
    let health = server.consensus.health();
    let http_service = Http::new(
        edge.clone(),
        Arc::new(server.recipes.clone()),
        Some(server.consensus.clone()),
        move || is_well(&health.borrow()),
    );
    let zookeeper = receive::serve(zookeeper, edge, stopped.clone());
    let zookeeper = essential.spawn("receive", zookeeper);
    let http = essential.spawn("http", http::serve(http, http_service, stopped));

    let mut beginning = essential.spawn("begin", begin(server.clone()));
    let mut stop = std::pin::pin!(stop);
    let begun = tokio::select! {
        begun = &mut beginning => begun?.map(|()| true),
        () = server.read_only.entered() => Ok(true),
        () = &mut stop => Ok(false),
    };
    let keep = match begun {
        Ok(true) => {
            let keep = keep_standard_recipes(server.clone());
            let keep = essential.spawn("standard recipes", keep);
            ready(addresses);
            stop.await;
            Some(keep)
        }
        Ok(false) | Err(_) => None,
    };
    stopping.send_replace(true);
    server.router.stop("the server is stopping");
    beginning.abort();
    if let Some(keep) = keep {
        keep.abort();
    }
    zookeeper.await?;
    http.await?;
    server.consensus.shutdown().await;
    // Its lead is over with consensus.
    tokio::task::spawn_blocking(move || leader.join())
        .await?
        .ok();
    begun.map(drop)
}

/// Waits until the server has begun; one that leads keeps the standard recipes first. Then it serves.
async fn begin(server: Arc<Server>) -> anyhow::Result<()> {
    server.begun().await?;
    let leads = server.consensus.leadership().borrow().leading;
    let kept = match leads {
        true => push_standard_recipes(&server).await,
        false => Ok(()),
    };
    server.waiting.end();
    kept
}

/// Keeps the standard recipes whenever this server begins to lead, until consensus has stopped.
async fn keep_standard_recipes(server: Arc<Server>) {
    let mut leadership = server.consensus.leadership();
    while leadership.wait_for(|now| now.leading).await.is_ok() {
        if let Err(error) = push_standard_recipes(&server).await {
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

fn is_well(health: &Health) -> Result<(), String> {
    match health {
        Health::Running | Health::Impaired(_) => Ok(()),
        Health::Failed(why) => Err(format!("writes have stopped: {why}")),
        Health::Stopped => Err("the server is stopping".into()),
    }
}

/// Keeps the standard recipes under their names, so that they can be mounted without any file. A name
/// that an operator has given to another component is left alone.
async fn push_standard_recipes(server: &Server) -> anyhow::Result<()> {
    for standard in quorate_recipes::all() {
        if server.state.read().recipe(standard.name).is_some() {
            continue;
        }
        let upload = bytes::Bytes::from_static(standard.wasm);
        let recipes = server.recipes.clone();
        // Not compiled yet, but when it is mounted: all at once would keep every server busy for seconds.
        let checked = tokio::task::spawn_blocking(move || recipes.component_of(&upload));
        let checked = checked
            .await?
            .map_err(anyhow::Error::msg)
            .with_context(|| {
                format!(
                    "the standard recipe {} does not pass the check",
                    standard.name
                )
            })?;
        let router = &server.router;
        let kept = upload::keep(router, standard.name, &checked, administration).await;
        let (_, outcome) = kept?;
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
