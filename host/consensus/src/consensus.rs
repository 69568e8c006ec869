//! One server's consensus: opened on a data directory, led, proposed to, shut down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftDataMetrics;
use openraft::raft::linearizable_read::Linearizer;
use openraft::{Instant as _, ReadPolicy};
use parking_lot::Mutex;
use quorate_model::id::ServerId;
use quorate_model::write_set::Entry;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::command::Command;
use crate::config::Config;
use crate::directory::Directory;
use crate::disk::{self, Disk, RealDisk};
use crate::error::{NotLeading, OpenError, ProposeError, ReconfigureError, Stopped};
use crate::failover::{ENDED, Failover};
use crate::health::{Health, HealthNote};
use crate::leadership::{Leadership, Watch};
use crate::log::recover;
use crate::log::store::LogStore;
use crate::machine::{Machine, SnapshotBounds, Upkeep};
use crate::members::{Announced, Keeper, Members};
use crate::peer::accept::{Acceptor, Streams};
use crate::peer::acquaintances::Acquaintances;
use crate::peer::dial::ConnectError;
use crate::peer::hello::Purpose;
use crate::peer::network::{Network, Peers};
use crate::peer::stream::PeerStream;
use crate::peer::transfer::Receiver;
use crate::peer::transport::{Tcp, Transport};
use crate::proposal::{InFlight, MAX_IN_FLIGHT, Proposal};
use crate::raft::{Member, Types, term_id};
use crate::reconfigure::{MembersChange, Reconfiguration};
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
    transport: Arc<dyn Transport>,
    peers: Arc<Peers>,
    streams: Arc<Streams>,
    members: watch::Receiver<Members>,
    announced: Arc<Announced>,
    reconfiguration: Reconfiguration,
    /// The task over the lead, which is the last to end.
    watch: Mutex<Option<JoinHandle<()>>>,
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
    /// On the leader: how the other members follow.
    pub followers: BTreeMap<ServerId, Follower>,
}

/// How a member follows, as the leader knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Follower {
    /// The index of the last entry that it is known to have.
    pub matched_index: Option<u64>,
    /// How long ago it was last heard of, in milliseconds; `None` for never.
    pub heard_ms: Option<u64>,
}

impl Consensus {
    /// Opens the consensus of a server that nobody reaches: an ensemble of one.
    /// [`Consensus::open_with_peers`] says the rest.
    pub async fn open(
        config: Config,
        machine: Arc<dyn StateMachine>,
    ) -> Result<Consensus, OpenError> {
        Consensus::open_with_peers(config, machine, Arc::new(Tcp::new(None))).await
    }

    /// Creates or recovers this server's consensus: reads the newest snapshot into `machine`, checks the
    /// log, and starts openraft, which applies the log as soon as a leader is known. At its first start a
    /// server founds the ensemble that `config` describes, or waits to be added to one. Peers are
    /// reached, and accepted, through `transport`: for TCP, [`Tcp`] with the peer port's listener. Must be
    /// called within a tokio runtime with time and I/O enabled.
    pub async fn open_with_peers(
        config: Config,
        machine: Arc<dyn StateMachine>,
        transport: Arc<dyn Transport>,
    ) -> Result<Consensus, OpenError> {
        Consensus::open_on(config, machine, transport, Arc::new(RealDisk)).await
    }

    /// The same, on a disk of the caller's choice.
    pub async fn open_on(
        config: Config,
        machine: Arc<dyn StateMachine>,
        transport: Arc<dyn Transport>,
        disk: Arc<dyn Disk>,
    ) -> Result<Consensus, OpenError> {
        let health = HealthNote::new();
        let raft_config = raft_config(&config)?;
        let founders = config.founders().map_err(OpenError::Config)?;
        let (recovered, config) = {
            let (health, on) = (health.clone(), disk.clone());
            // Reading a large state takes seconds, in which others want this thread.
            let recovery = disk::wait_for(disk.as_ref(), move || {
                Ok((Recovered::read(&config, machine, on, health)?, config))
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
            acquaintances,
        } = recovered;

        let fatal = |error: &dyn std::fmt::Display| OpenError::Raft(error.to_string());
        let id = config.server.0;
        let acquaintances = Arc::new(acquaintances);
        let peers = Peers::new(id, acquaintances.clone(), transport.clone(), disk.clone());
        let network = Network(peers.clone());
        let raft = Raft::new(id, raft_config, network, log.clone(), machine).await;
        let raft = raft.map_err(|error| fatal(&error))?;
        let members = |votes: bool| -> BTreeMap<u64, Member> {
            let chosen = founders.iter().filter(|member| member.votes == votes);
            // The founders have to agree on all of it, and know the rest each only of itself.
            chosen
                .map(|chosen| (chosen.server.0, Member::new(chosen.address.clone())))
                .collect()
        };
        let (voters, learners) = (members(true), members(false));
        let founds = !config.join && voters.contains_key(&id);
        if founds && !raft.is_initialized().await.map_err(|error| fatal(&error))? {
            raft.initialize(voters)
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
        let changing = Arc::new(tokio::sync::Mutex::new(()));
        let (members_sender, members) = watch::channel(Members::default());
        let announced = Arc::new(Announced::default());
        let keeper = Keeper {
            server: id,
            raft: raft.clone(),
            peers: peers.clone(),
            acquaintances: acquaintances.clone(),
            members: members_sender,
            address: config.address.clone(),
            learners: if config.join {
                BTreeMap::new()
            } else {
                learners
            },
            announced: announced.clone(),
            changing: changing.clone(),
        };
        let (ended_sender, ended) = mpsc::channel(ENDED);
        let failover = Failover {
            server: id,
            raft: raft.clone(),
            peers: peers.clone(),
            acquaintances: acquaintances.clone(),
            ended,
        };
        let streams = Arc::new(Streams::default());
        let acceptor = Acceptor {
            server: id,
            transport: transport.clone(),
            raft: raft.clone(),
            receiver: Receiver::new(raft.clone(), upkeep.clone()),
            streams: streams.clone(),
            ended: ended_sender,
            health: health.clone(),
            acquaintances: acquaintances.clone(),
        };
        let tasks = vec![
            health.spawn("upkeep", keep),
            health.spawn("members", keeper.run()),
            health.spawn("failover", failover.run()),
            health.spawn("peers", acceptor.run()),
        ];
        let watch = health.spawn("leadership", watch.run());
        Ok(Consensus(Arc::new(Inner {
            server: config.server,
            in_flight,
            leadership,
            health,
            log,
            upkeep,
            stopping,
            transport,
            peers: peers.clone(),
            streams,
            members,
            announced,
            reconfiguration: Reconfiguration {
                server: id,
                raft: raft.clone(),
                acquaintances: acquaintances.clone(),
                peers,
                changing,
                election: Duration::from_millis(config.election_ms.1),
            },
            raft,
            watch: Mutex::new(Some(watch)),
            tasks: Mutex::new(tasks),
            directory: Mutex::new(Some(directory)),
        })))
    }

    /// Which server this is.
    pub fn server(&self) -> ServerId {
        self.0.server
    }

    /// Who leads, and every change of it.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// How long ago a quorum last confirmed that this server leads; `None` while it does not lead.
    pub fn quorum_age(&self) -> Option<Duration> {
        if !self.0.leadership.borrow().leading {
            return None;
        }
        let server = self.0.raft.server_metrics();
        let server = server.borrow_watched();
        let membership = server.membership_config.membership();
        if membership.voter_ids().eq([self.0.server.0]) {
            return Some(Duration::ZERO);
        }
        let acked = self
            .0
            .raft
            .data_metrics()
            .borrow_watched()
            .last_quorum_acked;
        acked.map(|acked| acked.elapsed())
    }

    /// How consensus is, and every change of it.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.health.watch()
    }

    /// Whether it has failed by a panic of one of its tasks, which is a defect of ours and no state of the machine's.
    pub fn has_panicked(&self) -> bool {
        self.0.health.has_panicked()
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
            ready = self.confirmed() => ready.map_err(|reason| NotLeading { term, reason }),
        }
    }

    /// On the leader: the index that a server's state must have reached to serve a linearizable read that
    /// was asked for before this call, here or on any other server. A quorum has confirmed, after this was
    /// called, that this server leads. Losing the lead ends the wait. [`Consensus::applied`] waits for the index.
    pub async fn read_index(&self) -> Result<u64, NotLeading> {
        let mut leadership = self.leadership();
        let term = leadership.borrow().term;
        tokio::select! {
            biased;
            _ = leadership.wait_for(|now| !now.leading || now.term != term) => {
                Err(NotLeading { term, reason: "another server may lead".into() })
            }
            asked = self.ask_quorum() => match asked {
                Ok(linearizer) => Ok(linearizer.read_log_id().index()),
                Err(reason) => Err(NotLeading { term, reason }),
            }
        }
    }

    /// Returns when the entry at `index`, and so all before it, is applied here.
    pub async fn applied(&self, index: u64) -> Result<(), Stopped> {
        let applied = self.0.raft.wait(None);
        let applied = applied.applied_index_at_least(Some(index), "read").await;
        applied.map(|_| ()).map_err(|_| Stopped)
    }

    async fn ask_quorum(&self) -> Result<Linearizer<Types>, String> {
        let linearizer = self.0.raft.get_read_linearizer(ReadPolicy::ReadIndex).await;
        let linearizer = linearizer.map_err(|error| error.to_string())?;
        if *linearizer.node_id() != self.0.server.0 {
            return Err(format!("server {} leads", linearizer.node_id()));
        }
        Ok(linearizer)
    }

    async fn confirmed(&self) -> Result<(), String> {
        let linearizer = self.ask_quorum().await?;
        let ready = linearizer.await_ready(&self.0.raft).await;
        ready.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Who the members are, as this server's log says, and every change of it.
    pub fn members(&self) -> watch::Receiver<Members> {
        self.0.members.clone()
    }

    /// Whether the membership says by which data that server is known: from then on it is refused with others. For tests.
    #[cfg(test)]
    pub(crate) fn knows_directory(&self, server: ServerId) -> bool {
        let metrics = self.0.raft.server_metrics();
        let seen = metrics.borrow_watched();
        let member = seen
            .committed_membership_config
            .membership()
            .get_node(&server.0);
        member.is_some_and(|member| member.directory.is_some())
    }

    /// Dials a member as raft does.
    #[cfg(test)]
    pub(crate) async fn meets(&self, server: ServerId) -> Result<(), ConnectError> {
        let address = self.0.members.borrow().addresses[&server].clone();
        let peers = &self.0.peers;
        let dialer = peers.dialer(server.0, &address, Purpose::Control);
        dialer.dial().await.map(drop)
    }

    /// Adds a member as a learner, at `address`, `host:port`. That server is started with
    /// [`Config::join`](crate::Config::join). Adding a member that is there at that address does nothing. As with every
    /// change: only on the leader, and when this returns well, a quorum has it.
    pub async fn add(&self, server: ServerId, address: String) -> Result<(), ReconfigureError> {
        let reconfiguration = self.0.reconfiguration.clone();
        reconfiguration.add(server.0, address).await
    }

    /// Lets a learner vote, through joint consensus. Refused unless it answers and lacks no more than
    /// [`CAUGHT_UP_ENTRIES`](crate::CAUGHT_UP_ENTRIES), and when too few of the voters would be there.
    pub async fn promote(&self, server: ServerId) -> Result<(), ReconfigureError> {
        self.0.reconfiguration.clone().promote(server.0).await
    }

    /// Removes a member, a voter through joint consensus. Refused for the last voter, for the leader, and when too
    /// few of the voters would be there. The removed server is not told, and is best stopped: it goes on
    /// asking for votes that it does not get.
    pub async fn remove(&self, server: ServerId) -> Result<(), ReconfigureError> {
        self.0.reconfiguration.clone().remove(server.0).await
    }

    /// Hands the lead over to a voter that has caught up; returns when that server leads.
    pub async fn transfer_leader(&self, to: ServerId) -> Result<(), ReconfigureError> {
        self.0.reconfiguration.clone().transfer_leader(to.0).await
    }

    /// Makes several changes of the members at once: waits until those that are to vote have caught up, within
    /// bounds, then changes all voters in one joint consensus. Gives the index of the entry that says who the
    /// members are now. If this leader is to leave, it hands the lead over, and another server is to be asked.
    pub async fn reconfigure(&self, change: MembersChange) -> Result<u64, ReconfigureError> {
        self.0.reconfiguration.clone().reconfigure(change).await
    }

    /// On the leader: a member says where clients reach it, `host:port`. [`Members::clients`] has it once it
    /// is committed; until then it may be forgotten, and is to be said again.
    pub fn announce_client(
        &self,
        server: ServerId,
        client: String,
    ) -> Result<(), ReconfigureError> {
        let leadership = self.0.leadership.borrow();
        if !leadership.leading {
            let leader = leadership.leader.filter(|leader| *leader != self.0.server);
            return Err(ReconfigureError::NotLeading { leader });
        }
        if self.0.members.borrow().addresses.contains_key(&server) {
            self.0.announced.client(server.0, client);
        }
        Ok(())
    }

    /// Connects to another member, for what servers say to each other. It comes out there at [`Consensus::accept_streams`].
    pub async fn connect(&self, server: ServerId) -> Result<PeerStream, ConnectError> {
        let address = self.0.members.borrow().addresses.get(&server).cloned();
        let address = address.ok_or(ConnectError::UnknownServer(server))?;
        let dialer = self.0.peers.dialer(server.0, &address, Purpose::Server);
        Ok(PeerStream::new(dialer.dial().await?, None))
    }

    /// From now on, takes the streams that other servers open to this one: who opened it, and the stream. Until
    /// this is called, and while the channel is full or its receiver is dropped, they are refused. The last call counts.
    /// The server's number is what the peer says of itself.
    pub fn accept_streams(&self) -> mpsc::Receiver<(ServerId, PeerStream)> {
        self.0.streams.open()
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
            followers: followers(&data),
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

    /// Stops this server's consensus for good, as when it fails by itself: it votes, leads and follows no more, and
    /// its health says why. The directory stays locked until [`Consensus::shutdown`]. Does not wait.
    pub fn fail(&self, reason: String) {
        self.0.health.failed(reason);
        self.0.upkeep.cancel_snapshot();
        self.0.end_tasks();
        let raft = self.0.raft.clone();
        // It fails only when the core is gone, which is what is wanted.
        tokio::spawn(async move { raft.shutdown().await.ok() });
    }

    /// Stops: what was queued for the log is written, and the directory can be opened again when this returns.
    pub async fn shutdown(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        self.0.upkeep.cancel_snapshot();
        // Before the core stops, so that peers that see it go find nobody here.
        self.0.transport.close();
        // It fails only when the core is gone, which is what is wanted.
        let _ = self.0.raft.shutdown().await;
        self.0.end_tasks();
        let watch = self.0.watch.lock().take();
        if let Some(watch) = watch {
            // It ends with the core, and says how that ended.
            let _ = watch.await;
        }
        let log = self.0.log.clone();
        let _ = disk::wait_for(self.0.upkeep.disk.as_ref(), move || log.close()).await;
        self.0.health.stopped();
        self.0.directory.lock().take();
    }
}

impl Inner {
    /// Ends everything but the core and the watch over it. Connections from peers end with it.
    fn end_tasks(&self) {
        self.transport.close();
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        self.peers.retain(|_| false);
    }
}

impl Drop for Inner {
    /// Without a shutdown the log is closed all the same, so that the directory is free again.
    fn drop(&mut self) {
        self.end_tasks();
        if let Some(watch) = self.watch.lock().take() {
            watch.abort();
        }
        self.upkeep.cancel_snapshot();
        self.log.close();
    }
}

/// What a leader knows of the others.
fn followers(data: &RaftDataMetrics<Types>) -> BTreeMap<ServerId, Follower> {
    let (Some(matched), Some(heard)) = (&data.replication, &data.heartbeat) else {
        return BTreeMap::new();
    };
    let follower = |(server, matched): (&u64, &Option<crate::raft::LogId>)| {
        let heard = heard.get(server).copied().flatten();
        let follower = Follower {
            matched_index: matched.map(|id| id.index),
            heard_ms: heard.map(|heard| heard.elapsed().as_millis() as u64),
        };
        (ServerId(*server), follower)
    };
    matched.iter().map(follower).collect()
}

/// What was on disk, read.
struct Recovered {
    directory: Directory,
    log: LogStore,
    machine: Machine,
    upkeep: Arc<Upkeep>,
    acquaintances: Acquaintances,
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
        let (index, id) = match directory.id {
            None => {
                let index = recover::create(&log_dir, config.server.0, disk.as_ref())?;
                (index, directory.found()?)
            }
            Some(id) => {
                let index = recover::recover(&log_dir, config.server.0, disk.as_ref())?;
                (index, id)
            }
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
        let upkeep = Upkeep::new(snapshots, disk.clone(), health.clone());
        let bounds = SnapshotBounds {
            bytes: config.snapshot_after_bytes,
            entries: config.snapshot_after_entries,
        };
        let machine = Machine::recover(machine, bounds, upkeep.clone())?;
        let has_membership = index.last().is_some() || reached.is_some();
        let acquaintances = Acquaintances::new(config.server.0, id, has_membership);
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
            acquaintances,
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
        // A member whose disk has lost what it said to have synced is no reason for the leader to fail. One whose data
        // are gone as a whole is refused before (`peer::acquaintances`).
        allow_log_reversion: Some(true),
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
