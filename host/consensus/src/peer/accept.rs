//! Accepting connections from peers: how many, for how long without a word, and which task takes each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_model::id::ServerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::acquaintances::Acquaintances;
use super::answer;
use super::hello::{Caller, Purpose};
use super::stream::PeerStream;
use super::transfer::Receiver;
use super::transport::{Socket, Transport};
use crate::consensus::Raft;
use crate::health::{Health, HealthNote};

/// Connections that peers may have open here. At the bound nobody is accepted until one ends; those
/// that say no hello end within moments.
const CONNECTIONS: usize = 256;

/// Streams from other servers that wait to be taken by the server.
const STREAMS: usize = 64;

/// After accepting has failed, it is tried again behind this pause: the system lacks something, such as file numbers.
const PAUSE: Duration = Duration::from_millis(100);

/// Where streams from other servers go.
#[derive(Default)]
pub(crate) struct Streams(Mutex<Option<mpsc::Sender<(ServerId, PeerStream)>>>);

impl Streams {
    /// From now on they come out here.
    pub(crate) fn open(&self) -> mpsc::Receiver<(ServerId, PeerStream)> {
        let (sender, receiver) = mpsc::channel(STREAMS);
        *self.0.lock() = Some(sender);
        receiver
    }

    fn sender(&self) -> Option<mpsc::Sender<(ServerId, PeerStream)>> {
        self.0.lock().clone()
    }
}

/// Accepts until consensus stops.
pub(crate) struct Acceptor {
    pub(crate) server: u64,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) raft: Raft,
    pub(crate) receiver: Receiver,
    pub(crate) streams: Arc<Streams>,
    /// Told who a connection of raft's came from, when it has ended.
    pub(crate) ended: mpsc::Sender<u64>,
    pub(crate) health: HealthNote,
    pub(crate) acquaintances: Arc<Acquaintances>,
}

impl Acceptor {
    pub(crate) async fn run(self) {
        let shares = Arc::new(Semaphore::new(CONNECTIONS));
        let desk = Arc::new(Desk {
            server: self.server,
            raft: self.raft,
            receiver: self.receiver,
            streams: self.streams,
            ended: self.ended,
            acquaintances: self.acquaintances,
            open: Mutex::default(),
            opened: AtomicU64::new(0),
        });
        let mut health = self.health.watch();
        // Dropped with this task, and all connections with it.
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let share = shares.clone().acquire_owned().await;
                (self.transport.accept().await, share)
            };
            let failed = async {
                let over = |health: &Health| matches!(health, Health::Failed(_) | Health::Stopped);
                // Its guard must not be held across what follows.
                health.wait_for(over).await.map(|_| ())
            };
            tokio::select! {
                accepted = accepted => match accepted {
                    (Ok(socket), Ok(share)) => {
                        connections.spawn(desk.clone().take(socket, share));
                    }
                    (Ok(_), Err(_)) => return,
                    (Err(error), _) => {
                        tracing::warn!("cannot accept connections from peers: {error}");
                        sleep(PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                // Others then see at once that nothing leads here.
                _ = failed => {
                    self.transport.close();
                    return;
                }
            }
        }
    }
}

/// Takes connections, each in a task of its own.
struct Desk {
    server: u64,
    raft: Raft,
    receiver: Receiver,
    streams: Arc<Streams>,
    ended: mpsc::Sender<u64>,
    acquaintances: Arc<Acquaintances>,
    /// The newest connection of each peer and purpose. An older one is half-open: its peer has dialed anew.
    open: Mutex<BTreeMap<(u64, Purpose), Open>>,
    /// How many were opened so far.
    opened: AtomicU64,
}

/// Dropped, it ends the connection's task.
struct Open {
    _replaced: oneshot::Sender<()>,
    number: u64,
}

impl Desk {
    async fn take(self: Arc<Self>, socket: Socket, share: OwnedSemaphorePermit) {
        let Some(caller) = Caller::hear(socket, self.server).await else {
            return;
        };
        let hello = caller.hello;
        if let Err(reason) = self.acquaintances.meet(hello.from, hello.directory) {
            tracing::warn!("a connection to the peer port is refused: {reason}");
            return caller.refuse(&reason).await;
        }
        if hello.purpose == Purpose::Server {
            return self.pass_on(caller, share).await;
        }
        let key = (hello.from, hello.purpose);
        let (open, replaced) = oneshot::channel::<()>();
        let number = self.enter(key, open);
        let serving = async {
            let link = caller.welcome(self.acquaintances.directory).await?;
            match hello.purpose {
                Purpose::Log => answer::log(link, &self.raft).await,
                Purpose::Control => answer::control(link, &self.raft).await,
                Purpose::Snapshot => self.receiver.receive(link).await,
                Purpose::Server => {}
            }
            Some(())
        };
        tokio::select! {
            _ = serving => {
                self.leave(key, number);
                // Full, it holds others of that peer, or of one as good.
                let _ = self.ended.try_send(hello.from);
            }
            _ = replaced => {}
        }
    }

    fn enter(&self, key: (u64, Purpose), replaced: oneshot::Sender<()>) -> u64 {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let entry = Open {
            _replaced: replaced,
            number,
        };
        self.open.lock().insert(key, entry);
        number
    }

    fn leave(&self, key: (u64, Purpose), number: u64) {
        let mut open = self.open.lock();
        if open.get(&key).is_some_and(|newest| newest.number == number) {
            open.remove(&key);
        }
    }

    /// Gives a stream to the server, if that takes any.
    async fn pass_on(&self, caller: Caller, share: OwnedSemaphorePermit) {
        let place = self.streams.sender().map(mpsc::Sender::try_reserve_owned);
        let Some(Ok(place)) = place else {
            let reason = format!("server {} takes no streams now", self.server);
            return caller.refuse(&reason).await;
        };
        let from = ServerId(caller.hello.from);
        if let Some(link) = caller.welcome(self.acquaintances.directory).await {
            place.send((from, PeerStream::new(link, Some(share))));
        }
    }
}
