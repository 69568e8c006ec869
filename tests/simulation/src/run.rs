//! One run: an ensemble and its clients, faults for a while, then peace, then the checker.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::mem::discriminant;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use quorate_consensus::FirstMember;
use quorate_model::call::Ending;
use quorate_model::id::ServerId;
use quorate_model::path::ZnodePath;
use quorate_sandbox::{RunLimits, Sandbox, SandboxConfig};
use quorate_tree::{RunTree, State};

use crate::check::ephemerals::EPHEMERALS;
use crate::check::members::Configuration;
use crate::check::{self, Kind, Violation};
use crate::client::Client;
use crate::faults::Faults;
use crate::history::History;
use crate::ledger::Ledger;
use crate::machine::{SimulatedDisk, SimulatedHands};
use crate::members::{Move, Mover, Moves};
use crate::mounts::{self, Operator, Recipes};
use crate::server::{self, Host, name, peer_address};
use crate::workload::{self, Program, Role};

/// Once nothing breaks any more, everything has to be well again within this time.
const PEACE: Duration = Duration::from_secs(40);

/// The servers that vote when the ensemble is founded.
const VOTERS: u64 = 3;

/// In one of so many seeds the members change. It has a fourth server, or two more, which observe at first.
const MEMBERS_EVERY: u64 = 2;

/// The most servers that only observe at first.
const OBSERVERS: u64 = 2;

/// In one of so many seeds every second server has local sessions.
const LOCAL_EVERY: u64 = 3;

/// Who the clients are.
const ROLES: [Role; 20] = [
    Role::Registers,
    Role::Registers,
    Role::Registers,
    Role::Pipeline,
    Role::Counts,
    Role::Counts,
    Role::Locks,
    Role::Locks,
    Role::Queues,
    Role::Queues,
    Role::Leases,
    Role::Leases,
    Role::Mounted,
    Role::Mounted,
    Role::Pairs,
    Role::Pairs,
    Role::Watches,
    Role::Watches,
    Role::Ephemerals,
    Role::Ephemerals,
];

/// What is wrong with the build on purpose, so that the checker has something to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Defect {
    /// Entries apply whatever was before them.
    Unguarded,
    /// Disks say that they have synced, and have not.
    LyingDisks,
}

impl Defect {
    /// What proves that it was found. Whatever else is broken because of it is not counted.
    pub fn proofs(self) -> &'static [Kind] {
        match self {
            Defect::Unguarded => &[Kind::NotLinearizable, Kind::Twice, Kind::OutOfOrder],
            Defect::LyingDisks => &[Kind::Damaged, Kind::Lost],
        }
    }
}

/// What one run came to.
pub struct Report {
    /// What must not be; none if all is well.
    pub violations: Vec<Violation>,
    /// Equal for runs that were the same in everything that counts.
    pub trace: u64,
    /// What was there how often, by name.
    pub counts: Vec<(&'static str, u64)>,
    /// How long it took, in the simulation's own time.
    pub time: Duration,
}

/// What the seeds in which the members change are called among the counts.
pub const MEMBERS_CHANGE: &str = "with changes of members";

/// What a change of the members is called among the counts.
pub fn name_of(asked: Move) -> &'static str {
    match asked {
        Move::Add => "added",
        Move::Promote => "promoted",
        Move::Demote => "demoted",
        Move::Remove => "removed",
        Move::Lead => "given the lead",
    }
}

/// Runs one seed for `time` of faults, in `directory`. In a thread of its own, since what a thread asked of
/// hash maps before decides how later ones are ordered.
pub fn run(
    seed: u64,
    time: Duration,
    defect: Option<Defect>,
    directory: &Path,
    engine: &Engine,
) -> anyhow::Result<Report> {
    let mut random = fastrand::Rng::with_seed(seed);
    let ledger = Arc::new(Ledger::new(defect == Some(Defect::Unguarded)));
    let history = History::default();
    let mut sim = turmoil::Builder::new()
        .rng_seed(random.u64(..))
        .simulation_duration(time + 2 * PEACE)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::ZERO)
        .max_message_latency(Duration::from_millis(4))
        .tcp_capacity(4096)
        .enable_random_order()
        .build();

    let members_change = seed.is_multiple_of(MEMBERS_EVERY);
    let servers = match members_change {
        true => VOTERS + random.u64(1..=OBSERVERS),
        false => VOTERS,
    };
    let local = seed.is_multiple_of(LOCAL_EVERY).then(|| random.u64(..2));
    let has_local_sessions = |server: u64| local == Some(server % 2);
    let members: Vec<FirstMember> = (1..=servers)
        .map(|server| FirstMember {
            server: ServerId(server),
            address: peer_address(server),
            votes: server <= VOTERS,
        })
        .collect();
    let hosts: Vec<Arc<Host>> = (1..=servers)
        .map(|server| {
            Arc::new(Host {
                server: ServerId(server),
                local_sessions: has_local_sessions(server),
                hands: SimulatedHands::ahead(random.i64(-60_000..60_000)),
                disk: SimulatedDisk::new(random.u64(..), defect == Some(Defect::LyingDisks)),
                directory: directory.join(name(server)),
                members: members.clone(),
                sandbox: engine.sandbox.clone(),
                ledger: ledger.clone(),
                running: Mutex::default(),
                damaged: AtomicBool::new(false),
                panicked: Mutex::default(),
                random: Mutex::new(random.fork()),
            })
        })
        .collect();
    for host in &hosts {
        let host = host.clone();
        sim.host(name(host.server.0), move || server::run(host.clone()));
    }
    let mounted = Arc::new(AtomicBool::new(false));
    let recipes = engine.recipes.clone();
    let operator = Operator::new(random.u64(..), hosts.clone(), recipes, time);
    sim.client("operator", operator.run(mounted.clone()));
    let moves = Moves::default();
    if members_change {
        let mover = Mover::new(random.u64(..), hosts.clone(), time, moves.clone());
        sim.client("mover", mover.run());
    }
    let mut clients = Vec::new();
    for (id, role) in (1..).zip(ROLES) {
        // The order in a pipeline holds in a session and in those that come when it has ended, and nobody
        // else knows when a local one has.
        let at =
            (1..=servers).filter(|server| role != Role::Pipeline || !has_local_sessions(*server));
        let client = Client::new(at.collect(), random.u64(..));
        let program = Program::new((id, role), client, history.clone(), time, mounted.clone());
        let client = format!("c{id}");
        sim.client(client.as_str(), program.run());
        clients.push(client);
    }

    let all: Vec<(u64, u64)> = (1..=servers).map(|one| (one, random.u64(..))).collect();
    sim.client("last", workload::serve_at_last(all, time));

    let mut faults = Faults::new(random.u64(..), hosts.clone(), clients);
    let mut violations = Vec::new();
    let mut ended = false;
    while sim.elapsed() < time + PEACE && violations.is_empty() {
        if sim.elapsed() < time {
            faults.step(&mut sim);
        } else {
            faults.end(&mut sim);
        }
        match sim.step() {
            Ok(all) => ended = all,
            Err(error) => {
                let damaged = hosts.iter().any(|host| host.damaged.load(Ordering::SeqCst));
                let (kind, who) = match damaged {
                    true => (Kind::Damaged, "a server does not start again"),
                    false => (Kind::Failed, "a server or a client has failed"),
                };
                violations.push(Violation::new(kind, format!("{who}: {error}")));
            }
        }
        violations.extend(hosts.iter().filter_map(|host| {
            let why = host.panicked.lock().take()?;
            let what = format!("server {}: {why}", host.server);
            Some(Violation::new(Kind::Failed, what))
        }));
        if ended && same(&hosts) {
            break;
        }
    }
    if violations.is_empty() {
        if !ended {
            violations.push(Violation::new(
                Kind::Stuck,
                format!("clients still wait {PEACE:?} after everything was mended"),
            ));
        }
        violations.extend(differences(&hosts));
        violations.extend(check::violations(&history, &ledger));
        violations.extend(check::members::violations(&moves.made(), &ledger));
        if ended && members_change {
            violations.extend(other_members(&hosts, &moves));
        }
    }
    let operations = history.operations();
    let unknown = operations.iter().filter(|one| one.told.is_none()).count();
    let watches = history.watches();
    let events = watches.iter().filter(|(_, watch)| watch.event.is_some());
    let events = events.count();
    let ephemerals = operations.iter();
    let ephemerals = ephemerals.filter(|one| one.register.starts_with(EPHEMERALS));
    let ephemerals = ephemerals.count();
    let calls = history.calls();
    let endings = ledger.endings();
    let ended_by = |one: &Ending| {
        let same = |other: &&Ending| discriminant(*other) == discriminant(one);
        endings.iter().filter(same).count() as u64
    };
    let mut counts = vec![
        ("transactions", ledger.transactions().len() as u64),
        ("operations", operations.len() as u64),
        ("of them unknown", unknown as u64),
        ("calls", calls.len() as u64),
        ("calls that waited", ledger.waited() as u64),
        ("calls that timed out", ended_by(&Ending::TimedOut)),
        ("calls unmounted", ended_by(&Ending::Unmounted)),
        ("calls outdated", ended_by(&Ending::Outdated(String::new()))),
        ("holds", history.holds().len() as u64),
        ("watch events", events as u64),
        ("ephemerals", ephemerals as u64),
        ("crashes", faults.crashes),
        ("cuts", faults.cuts),
        ("cuts of clients", faults.client_cuts),
        ("other faults", faults.others),
        ("servers", servers),
        ("upgraded sessions", ledger.upgraded_sessions() as u64),
    ];
    if members_change {
        counts.push((MEMBERS_CHANGE, 1));
        let made = moves.counts().into_iter();
        counts.extend(made.map(|(asked, count)| (name_of(asked), count)));
    }
    let mut trace = DefaultHasher::new();
    format!(
        "{:?}{operations:?}{calls:?}{:?}{watches:?}{:?}",
        ledger.transactions(),
        history.holds(),
        history.glimpses()
    )
    .hash(&mut trace);
    Ok(Report {
        violations,
        trace: trace.finish(),
        counts,
        time: sim.elapsed(),
    })
}

/// What runs recipes on all servers, and the recipes.
pub struct Engine {
    sandbox: Arc<Sandbox<RunTree>>,
    recipes: Arc<Recipes>,
}

/// One engine for all servers, with the recipes compiled, or found in `cache`. A run has no deadline by the wall
/// there, which no simulation can repeat.
///
/// # Errors
/// The engine does not start, or a recipe does not compile.
pub fn engine(cache: &Path) -> anyhow::Result<Engine> {
    let config = SandboxConfig {
        run: RunLimits {
            wall_clock: Duration::from_secs(3600),
            ..RunLimits::default()
        },
        cache_directory: Some(cache.to_owned()),
        concurrent_runs: 1,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::new(config).context("the sandbox does not start")?;
    let recipes = mounts::recipes(&sandbox)?;
    for recipe in recipes.values() {
        sandbox.make_ready(recipe.digest, &recipe.component)?;
    }
    Ok(Engine {
        sandbox: Arc::new(sandbox),
        recipes: Arc::new(recipes),
    })
}

/// Whether all servers have applied the same.
fn same(hosts: &[Arc<Host>]) -> bool {
    let zxids = hosts.iter().map(|host| {
        let running = host.running.lock();
        let running = running.as_ref();
        running.map(|running| running.state.read().last_zxid())
    });
    let zxids: Vec<_> = zxids.collect();
    zxids[0].is_some() && zxids.iter().all(|zxid| *zxid == zxids[0])
}

/// In what the servers' states differ.
fn differences(hosts: &[Arc<Host>]) -> Vec<Violation> {
    if !same(hosts) {
        return vec![Violation::new(
            Kind::Stuck,
            format!("the servers have not come together {PEACE:?} after everything was mended"),
        )];
    }
    let mut found = Vec::new();
    let mut first: Option<BTreeMap<String, String>> = None;
    for host in hosts {
        let running = host.running.lock();
        let Some(running) = running.as_ref() else {
            continue;
        };
        let records = records(&running.state.read());
        let first = first.get_or_insert_with(|| records.clone());
        let keys = first.keys().chain(records.keys());
        let differ = keys.filter(|key| first.get(*key) != records.get(*key));
        found.extend(differ.map(|key| {
            let what = format!(
                "server {} differs from server 1 in {key}: {:?} instead of {:?}",
                host.server,
                records.get(key),
                first.get(key)
            );
            Violation::new(Kind::Diverged, what)
        }));
    }
    found
}

/// Which servers take others for the members than were asked for at last.
fn other_members(hosts: &[Arc<Host>], moves: &Moves) -> Vec<Violation> {
    let voters = moves.voters().unwrap_or_default();
    let all = hosts.iter().map(|host| host.server);
    let learners = all.filter(|server| !voters.contains(server)).collect();
    let wanted = Configuration { voters, learners };
    let mut found = Vec::new();
    for host in hosts {
        let running = host.running.lock();
        let Some(running) = running.as_ref() else {
            continue;
        };
        let members = running.members.borrow().clone();
        let in_log = Configuration {
            voters: members.voters,
            learners: members.learners,
        };
        let node = running.state.read().node(&ZnodePath::configuration());
        let published = node.and_then(|node| Configuration::parse(&node.data));
        if members.changing || in_log != wanted || published.as_ref() != Some(&wanted) {
            let what = format!(
                "{wanted:?} was acknowledged; server {} has {in_log:?} in its log, and publishes {published:?}",
                host.server
            );
            found.push(Violation::new(Kind::Members, what));
        }
    }
    found
}

/// Everything in a state, by name.
fn records(state: &State) -> BTreeMap<String, String> {
    let mut records = BTreeMap::new();
    let mut paths = vec![ZnodePath::root()];
    while let Some(path) = paths.pop() {
        let children = state.children(&path).unwrap_or_default();
        let node = (state.node(&path), state.acl(&path), state.stat(&path));
        records.insert(format!("znode {path}"), format!("{node:?} {children:?}"));
        let below = children.iter().filter_map(|child| path.child(child).ok());
        paths.extend(below);
    }
    for (session, value) in state.sessions() {
        records.insert(format!("session {session}"), format!("{value:?}"));
    }
    for call in state.parked_calls() {
        records.insert(format!("parked call {:?}", call.id), format!("{call:?}"));
    }
    for mount in state.mounts() {
        records.insert(format!("mount {}", mount.path), format!("{mount:?}"));
    }
    let whole = (
        state.counts(),
        state.last_time(),
        state.epoch(),
        state.digest(),
    );
    records.insert("the whole".into(), format!("{whole:?}"));
    records
}
