//! Apply: committed entries change the state, and behind each transaction its events and its answer go out.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLockWriteGuard};
use quorate_consensus::{Chunks, Components, InstallError, StateMachine, Verdict};
use quorate_model::id::{Incarnation, SessionId, Zxid};
use quorate_model::recipe::{Component, Mount, Recipe, RecipeDigest};
use quorate_model::write_set::{Change, Entry, Transaction};
use quorate_tree::{Diverged, SharedState, SnapshotError, State};
use tokio::sync::watch;

use crate::activity::Activity;
use crate::digests::{Digests, Point};
use crate::essential::Essential;
use crate::expiry::Touches;
use crate::metrics::Metrics;
use crate::notify::Watches;
use crate::recipes::Recipes;
use crate::route::Router;

/// How many bytes of a snapshot may wait for its writer before applying waits for it too (rule N2).
const MAX_SNAPSHOT_BACKLOG: usize = 64 << 20;

/// Below so many waiting bytes of a snapshot its writer rests after each chunk: lock, processor and disk are the
/// clients' first.
const CALM_SNAPSHOT_BACKLOG: usize = 8 << 20;

/// For so long. A million znodes of 100 bytes are about 1,400 chunks.
const SNAPSHOT_REST: Duration = Duration::from_micros(500);

/// The epoch that was opened last, and by whose nonce (rule E1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Which.
    pub epoch: u32,
    /// Its leader's.
    pub nonce: u64,
}

/// The state machine that consensus applies entries to.
pub struct Applier {
    state: SharedState,
    router: Router,
    watches: Arc<Watches>,
    touches: Arc<Touches>,
    recipes: Recipes,
    activity: Arc<Activity>,
    metrics: Arc<Metrics>,
    essential: Essential,
    opened: watch::Sender<Opened>,
    digests: Arc<Digests>,
    snapshot_written: Condvar,
    /// Only there for the condition variable.
    snapshot_lock: Mutex<()>,
}

impl Applier {
    /// Applies to `state`, and tells the others.
    pub fn new(
        state: SharedState,
        router: Router,
        watches: Arc<Watches>,
        touches: Arc<Touches>,
        recipes: Recipes,
        metrics: Arc<Metrics>,
        essential: Essential,
    ) -> Applier {
        Applier {
            state,
            router,
            watches,
            touches,
            activity: recipes.activity(),
            recipes,
            metrics,
            essential,
            opened: watch::Sender::new(Opened::default()),
            digests: Arc::default(),
            snapshot_written: Condvar::new(),
            snapshot_lock: Mutex::new(()),
        }
    }

    /// The epoch that was opened last.
    pub fn opened(&self) -> watch::Receiver<Opened> {
        self.opened.subscribe()
    }

    /// Of the state, behind each entry.
    pub fn digests(&self) -> Arc<Digests> {
        self.digests.clone()
    }

    /// Waits while the snapshot's writer is too far behind: it has priority over new writes.
    fn give_way_to_snapshot(&self) {
        let mut lock = self.snapshot_lock.lock();
        while self.state.read().snapshot_backlog() > MAX_SNAPSHOT_BACKLOG {
            self.snapshot_written.wait(&mut lock);
        }
    }

    /// What is kept per session and per recipe beside the state.
    fn follow(&self, state: &State, zxid: Zxid, transaction: &Transaction) {
        if transaction.origin.is_some() {
            // Its client has waited for this (rule W5).
            self.touches.touch(transaction.session);
        }
        for change in &transaction.changes {
            match change {
                Change::OpenSession { timeout_ms, .. } => {
                    self.touches.open(SessionId(zxid.0), *timeout_ms);
                }
                Change::MoveSession {
                    session,
                    timeout_ms,
                    ..
                }
                | Change::UpgradeSession {
                    session,
                    timeout_ms,
                    ..
                } => self.touches.open(*session, *timeout_ms),
                Change::CloseSession { session } => self.touches.remove(*session),
                Change::RemoveMount { path } => self.activity.retain(|mount| mount != path),
                Change::RemoveComponent { digest } => self.recipes.forget(digest),
                // Every server compiles what is mounted, so that whoever leads next is ready for it, and what somebody
                // has pushed, which will be.
                Change::PutMount(mount) => {
                    for digest in mount.components() {
                        self.prepare(state, &digest);
                    }
                }
                Change::PutRecipe(recipe) if !is_standard(recipe) => {
                    self.prepare(state, &recipe.current.digest);
                }
                _ => {}
            }
        }
    }
}

impl Applier {
    fn prepare(&self, state: &State, digest: &RecipeDigest) {
        if let Some(component) = state.component(digest) {
            self.recipes.prepare(*digest, component.clone());
        }
    }

    fn apply_entry(&self, entry: &Entry) -> Result<Verdict, Diverged> {
        self.give_way_to_snapshot();
        let mut state = self.state.write();
        let before = |state: &State, zxid, transaction: &Transaction| {
            self.router.precede(transaction.origin, state);
            self.watches.address(state, zxid, transaction)
        };
        let applied = |state: &State, zxid, transaction: &Transaction, mail| {
            self.metrics.applied.inc();
            self.follow(state, zxid, transaction);
            self.activity.settle(zxid);
            self.watches.notify(zxid, mail);
            if let (Some(origin), Some(outcome)) = (transaction.origin, &transaction.outcome) {
                self.router.settle(origin, state, zxid, outcome);
            }
        };
        let applied = state.apply_around(entry, before, applied)?;
        let point = point(&state);
        drop(state);
        if applied == quorate_tree::Verdict::NoOp {
            return Ok(Verdict::NoOp);
        }
        self.digests.note(point);
        if let Entry::EpochStart(start) = entry {
            self.activity.epoch_opened(start.epoch);
            self.watches.advance(Zxid::new(start.epoch, 0));
            self.router.epoch_opened(start.epoch);
            self.opened.send_replace(Opened {
                epoch: start.epoch,
                nonce: start.nonce,
            });
        }
        Ok(Verdict::Applied)
    }
}

/// Whether it has the name of a standard recipe: of these a server has many, and most are never mounted.
fn is_standard(recipe: &Recipe) -> bool {
    quorate_recipes::find(&recipe.name).is_some()
}

impl StateMachine for Applier {
    fn apply(&self, entry: &Entry) -> Verdict {
        let applied = self.essential.run("apply", || self.apply_entry(entry));
        // The state of this server is wrong, also after another start. Consensus stops on it, and so does serving.
        applied.unwrap_or_else(|diverged| panic!("{diverged}"))
    }

    fn begin_snapshot(&self) -> Vec<(RecipeDigest, Component)> {
        self.state.write().begin_snapshot()
    }

    fn snapshot_chunk(&self) -> Option<Vec<u8>> {
        let mut state = self.state.write();
        let chunk = state.snapshot_chunk();
        // To whoever waits for it: otherwise this thread, which runs, would take it again and again before them.
        let calm = chunk.is_some() && state.snapshot_backlog() < CALM_SNAPSHOT_BACKLOG;
        RwLockWriteGuard::unlock_fair(state);
        {
            let _lock = self.snapshot_lock.lock();
            self.snapshot_written.notify_all();
        }
        if calm {
            std::thread::sleep(SNAPSHOT_REST);
        }
        chunk
    }

    fn abandon_snapshot(&self) {
        self.state.write().abandon_snapshot();
        let _lock = self.snapshot_lock.lock();
        self.snapshot_written.notify_all();
    }

    fn install(
        &self,
        components: &mut Components<'_>,
        chunks: &mut Chunks<'_>,
    ) -> Result<(), InstallError> {
        // There is never room for both. The file is whole, or nobody would have come so far; and a server that
        // cannot read it stops.
        let old = std::mem::replace(&mut *self.state.write(), State::vacant());
        // Rule S3: whoever was connected has missed answers and events. Who comes now finds nothing to read.
        let reason = "the server has installed a snapshot";
        self.watches.close_all(reason);
        for (session, _) in old.sessions() {
            self.touches.remove(session);
        }
        drop(old);
        let chunks = chunks.map(|chunk| chunk.map_err(Broken::from));
        let components = components.map(|component| component.map_err(Broken::from));
        let loaded = State::load(components, chunks).map_err(|broken| broken.0)?;
        for (session, value) in loaded.sessions() {
            self.touches.open(session, value.timeout_ms);
        }
        self.activity.epoch_opened(loaded.epoch());
        self.activity.retain(|mount| loaded.mount(mount).is_some());
        let mounted = loaded.mounts().flat_map(Mount::components);
        let pushed = loaded.recipes().filter(|recipe| !is_standard(recipe));
        for digest in mounted.chain(pushed.map(|recipe| recipe.current.digest)) {
            self.prepare(&loaded, &digest);
        }
        let zxid = loaded.last_zxid();
        self.digests.restart(point(&loaded));
        *self.state.write() = loaded;
        self.watches.advance(zxid);
        let incarnation = Incarnation(self.router.incarnation().0 + 1);
        self.router.restart(incarnation, zxid.epoch(), reason);
        // The start of its epoch may be in the snapshot, and never be applied here. Nobody's nonce is 0.
        self.opened.send_replace(Opened {
            epoch: zxid.epoch(),
            nonce: 0,
        });
        Ok(())
    }
}

fn point(state: &State) -> Point {
    Point {
        zxid: state.last_zxid(),
        digest: state.digest(),
    }
}

/// A chunk that could not be read, or makes no sense.
struct Broken(InstallError);

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Broken {
        Broken(InstallError::Read(error))
    }
}

impl From<SnapshotError> for Broken {
    fn from(error: SnapshotError) -> Broken {
        Broken(InstallError::Content(error.to_string()))
    }
}

#[cfg(test)]
mod tests;
