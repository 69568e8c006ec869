//! One server's consensus: opened on a data directory, led, proposed to, shut down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use quorate_model::id::ServerId;
use quorate_model::write_set::Entry;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::command::Command;
use crate::config::Config;
use crate::directory::Directory;
use crate::error::{NotLeading, OpenError, ProposeError};
use crate::health::{Health, HealthNote};
use crate::leadership::{Leadership, Watch};
use crate::log::disk::{Disk, RealDisk};
use crate::log::recover;
use crate::log::store::LogStore;
use crate::machine::{Machine, SnapshotBounds, Upkeep};
use crate::network::Network;
use crate::proposal::{InFlight, MAX_IN_FLIGHT, Proposal};
use crate::raft::{Member, Types, term_id};
use crate::snapshot::SnapshotStore;
use crate::state_machine::StateMachine;

pub(crate) type Raft = openraft::Raft<Types, Machine>;

/// openraft's queue of requests: proposals in flight, and room for what is not a proposal.
const REQUESTS: u64 = MAX_IN_FLIGHT as u64 * 2;

/// Entries in one request to a peer. They are also bounded in bytes, where they are read.
const ENTRIES_PER_REQUEST: u64 = 2048;

/// After a snapshot was built, openraft takes note of it within this time, or its log is purged after the next one.
const SNAPSHOT_NOTED: Duration = Duration::from_secs(10);

/// This server's consensus. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Consensus(Arc<Inner>);

struct Inner {
    server: ServerId,
    raft: Raft,
    in_flight: Arc<InFlight>,
    leadership: watch::Receiver<Leadership>,
    health: HealthNote,
    log: LogStore,
    upkeep: Arc<Upkeep>,
    stopping: Arc<AtomicBool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Held as long as anything may be written in it.
    directory: Mutex<Option<Directory>>,
}

/// Where consensus is, for metrics and people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Who leads.
    pub leadership: Leadership,
    /// Those that vote.
    pub voters: Vec<ServerId>,
    /// The index of the log's last entry.
    pub last_index: Option<u64>,
    /// The index of the last entry that was applied here.
    pub applied_index: Option<u64>,
    /// Entries applied since this server started.
    pub applied_entries: u64,
    /// The index of the last entry that the newest snapshot holds.
    pub snapshot_index: Option<u64>,
    /// The newest snapshot's size in bytes.
    pub snapshot_bytes: u64,
    /// The index of the last entry that was purged from the log.
    pub purged_index: Option<u64>,
    /// The log's size on disk in bytes.
    pub log_bytes: u64,
}

impl Consensus {
    /// Creates or recovers this server's consensus: reads the newest snapshot into `machine`, checks the
    /// log, and starts openraft, which applies the log as soon as a leader is known. At its first start a
    /// server is an ensemble of one. Must be called within a tokio runtime with time enabled.
    pub async fn open(
        config: Config,
        machine: Arc<dyn StateMachine>,
    ) -> Result<Consensus, OpenError> {
        Consensus::open_on(config, machine, Arc::new(RealDisk)).await
    }

    pub(crate) async fn open_on(
        config: Config,
        machine: Arc<dyn StateMachine>,
        disk: Arc<dyn Disk>,
    ) -> Result<Consensus, OpenError> {
        let health = HealthNote::new();
        let raft_config = raft_config(&config)?;
        let (recovered, config) = {
            let health = health.clone();
            // Reading a large state takes seconds, in which others want this thread.
            let recovery = tokio::task::spawn_blocking(move || {
                Ok((Recovered::read(&config, machine, disk, health)?, config))
            });
            recovery
                .await
                .map_err(|error| OpenError::Raft(error.to_string()))??
        };
        let Recovered {
            directory,
            log,
            machine,
            upkeep,
        } = recovered;

        let fatal = |error: &dyn std::fmt::Display| OpenError::Raft(error.to_string());
        let id = config.server.0;
        let raft = Raft::new(id, raft_config, Network, log.clone(), machine).await;
        let raft = raft.map_err(|error| fatal(&error))?;
        if !raft.is_initialized().await.map_err(|error| fatal(&error))? {
            let alone = BTreeMap::from([(
                id,
                Member {
                    address: config.address.clone(),
                },
            )]);
            raft.initialize(alone)
                .await
                .map_err(|error| fatal(&error))?;
        }

        let in_flight = Arc::new(InFlight::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let (leadership_sender, leadership) = watch::channel(Leadership::default());
        let watch = Watch {
            raft: raft.clone(),
            server: id,
            leadership: leadership_sender,
            in_flight: in_flight.clone(),
            health: health.clone(),
            stopping: stopping.clone(),
            lease: Duration::from_millis(config.election_ms.1),
        };
        let keep = keep_up(
            raft.clone(),
            upkeep.clone(),
            log.clone(),
            config.keep_log_bytes,
        );
        let tasks = vec![tokio::spawn(watch.run()), tokio::spawn(keep)];
        Ok(Consensus(Arc::new(Inner {
            server: config.server,
            raft,
            in_flight,
            leadership,
            health,
            log,
            upkeep,
            stopping,
            tasks: Mutex::new(tasks),
            directory: Mutex::new(Some(directory)),
        })))
    }

    /// Who leads, and every change of it.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// How consensus is, and every change of it.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.health.watch()
    }

    /// Returns when this server's state holds everything that any leader before `term` acknowledged:
    /// a quorum has confirmed, after this was called, that this server leads, and what was committed by
    /// then is applied here. Losing the lead ends the wait.
    pub async fn ready_to_lead(&self, term: u64) -> Result<(), NotLeading> {
        let mut leadership = self.leadership();
        tokio::select! {
            biased;
            _ = leadership.wait_for(|now| !now.leading || now.term != term) => {
                Err(NotLeading { term, reason: "another server may lead".into() })
            }
            ready = self.read_index() => ready.map_err(|reason| NotLeading { term, reason }),
        }
    }

    async fn read_index(&self) -> Result<(), String> {
        let raft = &self.0.raft;
        let linearizer = raft.get_read_linearizer(ReadPolicy::ReadIndex).await;
        let linearizer = linearizer.map_err(|error| error.to_string())?;
        if *linearizer.node_id() != self.0.server.0 {
            return Err(format!("server {} leads", linearizer.node_id()));
        }
        linearizer
            .await_ready(raft)
            .await
            .map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Queues an entry for the log, if this server leads in `term`. Entries stand in the log in the
    /// order of the calls, so the calls must come from one task, each awaited before the next; the
    /// [`Proposal`]s are awaited later. The call itself does not wait for the log.
    pub async fn propose(&self, term: u64, entry: Entry) -> Result<Proposal, ProposeError> {
        let command =
            Command::new(entry).map_err(|error| ProposeError::Entry(error.to_string()))?;
        let (proposal, reply) = self.0.in_flight.begin(term)?;
        let write = self
            .0
            .raft
            .write(command)
            .with_leader(term_id(term))
            .responder(reply);
        write.await.map_err(|_| ProposeError::Stopped)?;
        Ok(proposal)
    }

    /// Where consensus is.
    pub fn status(&self) -> Status {
        let data = self.0.raft.data_metrics();
        let data = data.borrow_watched();
        let server = self.0.raft.server_metrics();
        let server = server.borrow_watched();
        let snapshot = self.0.upkeep.snapshots.current();
        let index = |id: &crate::raft::LogId| id.index;
        Status {
            leadership: self.0.leadership.borrow().clone(),
            voters: server
                .membership_config
                .membership()
                .voter_ids()
                .map(ServerId)
                .collect(),
            last_index: data.last_log.as_ref().map(index),
            applied_index: self
                .0
                .upkeep
                .applied_end
                .load(Ordering::Relaxed)
                .checked_sub(1),
            applied_entries: self.0.upkeep.applied_entries.load(Ordering::Relaxed),
            snapshot_index: snapshot
                .as_ref()
                .and_then(|snapshot| snapshot.meta.last_log_id.as_ref().map(index)),
            snapshot_bytes: snapshot.map_or(0, |snapshot| snapshot.bytes),
            purged_index: data.purged.as_ref().map(index),
            log_bytes: self.0.log.file_bytes(),
        }
    }

    /// Asks for a snapshot now. It is taken beside everything else; [`Consensus::status`] shows it when it is there.
    pub async fn take_snapshot(&self) -> Result<(), ProposeError> {
        self.0
            .raft
            .trigger()
            .snapshot()
            .await
            .map_err(|_| ProposeError::Stopped)
    }

    /// Stops: what was queued for the log is written, and the directory can be opened again when this returns.
    pub async fn shutdown(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        self.0.upkeep.cancel_snapshot();
        // It fails only when the core is gone, which is what is wanted.
        let _ = self.0.raft.shutdown().await;
        let tasks = std::mem::take(&mut *self.0.tasks.lock());
        let [watch, keep] = <[_; 2]>::try_from(tasks).map_or([None, None], |tasks| tasks.map(Some));
        if let Some(keep) = keep {
            keep.abort();
        }
        if let Some(watch) = watch {
            // It ends with the core, and says how that ended.
            let _ = watch.await;
        }
        let log = self.0.log.clone();
        let _ = tokio::task::spawn_blocking(move || log.close()).await;
        self.0.health.stopped();
        self.0.directory.lock().take();
    }
}

impl Drop for Inner {
    /// Without a shutdown the log is closed all the same, so that the directory is free again.
    fn drop(&mut self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        self.upkeep.cancel_snapshot();
        self.log.close();
    }
}

/// What was on disk, read.
struct Recovered {
    directory: Directory,
    log: LogStore,
    machine: Machine,
    upkeep: Arc<Upkeep>,
}

impl Recovered {
    fn read(
        config: &Config,
        machine: Arc<dyn StateMachine>,
        disk: Arc<dyn Disk>,
        health: HealthNote,
    ) -> Result<Recovered, OpenError> {
        let mut directory = Directory::open(&config.data_dir, config.server)?;
        let log_dir = directory.log();
        let index = if directory.fresh {
            let index = recover::create(&log_dir, config.server.0, disk.as_ref())?;
            directory.found()?;
            index
        } else {
            recover::recover(&log_dir, config.server.0, disk.as_ref())?
        };
        let snapshots = SnapshotStore::open(&directory.snapshots())?;
        let reached = snapshots
            .current()
            .and_then(|snapshot| snapshot.meta.last_log_id);
        if index.purged.map(|id| id.index) > reached.map(|id| id.index) {
            let purged = index.purged.map_or(0, |id| id.index);
            return Err(OpenError::SnapshotDamaged {
                path: directory.snapshots(),
                found: format!(
                    "the log begins behind entry {purged}, and no snapshot reaches so far"
                ),
            });
        }
        let upkeep = Upkeep::new(snapshots, health.clone());
        let bounds = SnapshotBounds {
            bytes: config.snapshot_after_bytes,
            entries: config.snapshot_after_entries,
        };
        let machine = Machine::recover(machine, bounds, upkeep.clone())?;
        let log = LogStore::start(
            index,
            &log_dir,
            config.server.0,
            config.segment_bytes,
            config.cache_bytes,
            disk,
            health,
        )?;
        Ok(Recovered {
            directory,
            log,
            machine,
            upkeep,
        })
    }
}

fn raft_config(config: &Config) -> Result<Arc<openraft::Config>, OpenError> {
    let raft = openraft::Config {
        cluster_name: "quorate".into(),
        election_timeout_min: config.election_ms.0,
        election_timeout_max: config.election_ms.1,
        heartbeat_interval: config.heartbeat_ms,
        max_payload_entries: ENTRIES_PER_REQUEST,
        // A follower gets a snapshot when the log does not reach back to it, not for lagging.
        replication_lag_threshold: u64::MAX,
        // Snapshots and purges are by bytes, which openraft does not count: `keep_up` asks for them.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        api_channel_size: Some(REQUESTS),
        api_batch_linger_ms: 0,
        broadcast_submitted_on_append: Some(true),
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(2 * config.election_ms.1),
        // A restarted leader would go on in its term with a tail that nobody has confirmed.
        enable_leader_restore: Some(false),
        ..openraft::Config::default()
    };
    raft.validate()
        .map(Arc::new)
        .map_err(|error| OpenError::Config(error.to_string()))
}

/// Takes a snapshot when one is due, and purges the log behind each.
async fn keep_up(raft: Raft, upkeep: Arc<Upkeep>, log: LogStore, keep_log_bytes: u64) {
    let mut purged_behind = None;
    loop {
        upkeep.due.notified().await;
        if upkeep.wanted.load(Ordering::Relaxed) && raft.trigger().snapshot().await.is_err() {
            return;
        }
        let newest = upkeep
            .snapshots
            .current()
            .and_then(|snapshot| snapshot.meta.last_log_id);
        let Some(newest) = newest.filter(|newest| Some(*newest) != purged_behind) else {
            continue;
        };
        // openraft purges only behind a snapshot that it knows of.
        let noted = raft.wait(Some(SNAPSHOT_NOTED));
        if noted
            .metrics(|now| now.snapshot >= Some(newest), "snapshot noted")
            .await
            .is_err()
        {
            continue;
        }
        purged_behind = Some(newest);
        if let Some(upto) = log.purge_point(newest.index, keep_log_bytes)
            && raft.trigger().purge_log(upto).await.is_err()
        {
            return;
        }
    }
}
