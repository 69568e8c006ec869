//! Changes of the members while things break: the fourth server observes, votes, and is none of them in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate::members::{Change, Changed};
use quorate_model::id::ServerId;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::server::{Host, peer_address};

/// How long a change is waited for, before another server is asked for one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Before another try.
const RETRY: Duration = Duration::from_millis(100);

/// Whoever moves the members.
pub struct Mover {
    random: fastrand::Rng,
    hosts: Vec<Arc<Host>>,
    /// When it stops, since the beginning.
    until: Duration,
    /// How many changes were made, as far as it was told.
    changes: Arc<AtomicU64>,
}

impl Mover {
    /// One that asks these servers.
    pub fn new(
        seed: u64,
        hosts: Vec<Arc<Host>>,
        until: Duration,
        changes: Arc<AtomicU64>,
    ) -> Mover {
        Mover {
            random: fastrand::Rng::with_seed(seed),
            hosts,
            until,
            changes,
        }
    }

    /// Changes the members until it is time to stop; then all servers are to be members again.
    pub async fn run(mut self) -> turmoil::Result {
        while turmoil::sim_elapsed().unwrap_or_default() < self.until {
            let pause = self.random.u64(200..4000);
            sleep(Duration::from_millis(pause)).await;
            // The first three always vote: what breaks already costs the quorum often enough.
            let change = match self.random.u8(..10) {
                0..3 => Change::Promote(self.last()),
                3..6 => Change::Remove(self.last()),
                6..9 => self.add_last(),
                _ => Change::Lead(ServerId(self.random.u64(1..=self.hosts.len() as u64))),
            };
            self.ask(change).await;
        }
        loop {
            let add = self.add_last();
            match self.ask(add).await {
                Some(changed) if changed.members.contains(&self.last()) => return Ok(()),
                _ => sleep(RETRY).await,
            }
        }
    }

    fn last(&self) -> ServerId {
        ServerId(self.hosts.len() as u64)
    }

    fn add_last(&self) -> Change {
        Change::Add {
            server: self.last(),
            address: peer_address(self.last().0),
        }
    }

    /// Asks one of the servers; none if it was refused, or it is not known what became of it.
    async fn ask(&mut self, change: Change) -> Option<Changed> {
        let host = &self.hosts[self.random.usize(..self.hosts.len())];
        let changes = host.running.lock().as_ref()?.changes.clone();
        let (tell, told) = oneshot::channel();
        tracing::info!("server {} is asked for {change:?}", host.server);
        let asked = async {
            changes.send((change, tell)).await.ok()?;
            told.await.ok()
        };
        let done = timeout(PATIENCE, asked).await.ok()??;
        tracing::info!("it came to {done:?}");
        let changed = done.ok()?;
        self.changes.fetch_add(1, Ordering::SeqCst);
        Some(changed)
    }
}
