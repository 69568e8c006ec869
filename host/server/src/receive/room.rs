//! Room for all connections together: for large requests, and for answers that clients are slow to read.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::notify::Watches;
use crate::respond::{Drain, MAX_UNSENT_BYTES_OF_ALL, PAUSE_UNSENT_BYTES_OF_ALL};

/// A frame above this size is not read before it has its share of the room. Pings and most reads and writes are
/// below; what they take is bounded for each connection, and they wait for nothing that is large.
pub(crate) const LARGE_FRAME_BYTES: usize = 4096;

/// How many bytes of large frames of all connections may be read or wait for the leader: sixty of the largest, far
/// above what one entry takes.
pub(crate) const MAX_LARGE_BYTES: usize = 64 << 20;

/// How often a connection that waits for room looks, and tells of its client.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a connection has had something unsent, at the least, before it may be closed for others' sake: it
/// takes as long to tell who reads from who does not.
const SLOW_AFTER: Duration = Duration::from_millis(500);

/// What connections share that have much to do.
pub struct Room {
    large: Arc<Semaphore>,
    /// When those who do not read were last looked for in vain.
    looked: Mutex<Option<Instant>>,
}

/// The bytes of a large frame, as part of [`MAX_LARGE_BYTES`]; given back when dropped.
pub(crate) type Share = OwnedSemaphorePermit;

/// A share that there is no room for yet: first come, first served.
pub(crate) type Waiting = Pin<Box<dyn Future<Output = Share> + Send + Sync>>;

/// What a request takes of its server: its bytes, and its share if it is large, for as long as it is held.
pub struct Size {
    pub(crate) bytes: usize,
    _share: Option<Share>,
}

impl Size {
    pub(crate) fn new(bytes: usize, share: Option<Share>) -> Size {
        Size {
            bytes,
            _share: share,
        }
    }
}

impl From<usize> for Size {
    fn from(bytes: usize) -> Size {
        Size::new(bytes, None)
    }
}

impl Default for Room {
    fn default() -> Room {
        Room {
            large: Arc::new(Semaphore::new(MAX_LARGE_BYTES)),
            looked: Mutex::new(None),
        }
    }
}

impl Room {
    /// A share of so many bytes, which are no more than a frame may have; or to be waited for.
    pub(crate) fn take(&self, bytes: usize) -> Result<Share, Waiting> {
        let count = u32::try_from(bytes.min(MAX_LARGE_BYTES)).unwrap_or(u32::MAX);
        let large = self.large.clone();
        large.clone().try_acquire_many_owned(count).map_err(|_| {
            let waiting: Waiting = Box::pin(async move {
                let share = large.acquire_many_owned(count).await;
                share.expect("nobody closes the semaphore")
            });
            waiting
        })
    }

    /// While more is unsent than may be: closes the connections that drain slowest.
    pub(crate) fn relieve(&self, watches: &Watches, metrics: &Metrics) {
        if metrics.unsent_bytes.get() < MAX_UNSENT_BYTES_OF_ALL {
            return;
        }
        // Whoever comes while another looks finds what that has left.
        let Some(mut looked) = self.looked.try_lock() else {
            return;
        };
        if looked.is_some_and(|then| then.elapsed() < LOOK_EVERY) {
            return;
        }
        let mut slowest: Vec<_> = watches
            .connections()
            .into_iter()
            .filter_map(|connection| Some((connection.drain()?, connection)))
            .filter(|(drain, _)| drain.age >= SLOW_AFTER)
            .collect();
        slowest.sort_unstable_by_key(|(Drain { bytes_a_second, .. }, _)| *bytes_a_second);
        for (drain, connection) in slowest {
            if metrics.unsent_bytes.get() <= PAUSE_UNSENT_BYTES_OF_ALL {
                break;
            }
            tracing::info!(
                address = %connection.address(),
                bytes_a_second = drain.bytes_a_second,
                "closed a connection: more is unsent than may be, and it reads slowest"
            );
            metrics.connections_stuck.inc();
            connection.close("it reads slowest, and too much is unsent");
        }
        let relieved = metrics.unsent_bytes.get() < MAX_UNSENT_BYTES_OF_ALL;
        *looked = (!relieved).then(Instant::now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestServer;

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowest_is_closed_when_too_much_is_unsent() {
        let server = TestServer::new();
        let (edge, event) = (&server.edge, vec![0; 26 << 20]);
        let connections: Vec<_> = (0..5).map(|_| server.open_session()).collect();
        let open = || {
            let open = connections.iter().map(|one| one.closed().is_none());
            open.collect::<Vec<_>>()
        };
        let relieve = || edge.room.relieve(&edge.watches, &edge.metrics);
        for connection in &connections[..4] {
            connection.tell(&event);
        }
        tokio::time::advance(SLOW_AFTER / 2).await;
        // The last of them has read least, but not for long.
        connections[4].tell(&event);
        for (connection, bytes) in connections.iter().zip([2_000, 1_000, 9_000, 3_000]) {
            connection.drained(bytes);
        }
        relieve();
        assert_eq!(open(), [true; 5], "it is too early to tell");
        tokio::time::advance(SLOW_AFTER / 2).await;
        relieve();
        assert_eq!(open(), [false, false, true, false, true]);
        assert_eq!(edge.metrics.connections_stuck.get(), 3);
        assert_eq!(edge.metrics.unsent_bytes.get(), 2 * event.len() as i64);
    }

    /// Of what does not fit, and has taken its place among those that wait.
    async fn waiting(room: &Room, bytes: usize) -> Waiting {
        let Err(mut large) = room.take(bytes) else {
            panic!("there is none");
        };
        let given = tokio::time::timeout(Duration::ZERO, &mut large).await;
        assert!(given.is_err());
        large
    }

    #[tokio::test]
    async fn room_for_large_requests_is_given_in_the_order_of_asking() {
        let room = Room::default();
        let Ok(most) = room.take(MAX_LARGE_BYTES - 10) else {
            panic!("there is room");
        };
        let large = waiting(&room, 1000).await;
        assert!(room.take(10).is_err(), "it does not overtake the large one");
        drop(most);
        drop(large.await);
        assert!(room.take(MAX_LARGE_BYTES).is_ok(), "all is given back");
    }

    #[tokio::test]
    async fn who_gives_up_waiting_gives_up_its_part() {
        let room = Room::default();
        let most = room.take(MAX_LARGE_BYTES - 10);
        let large = waiting(&room, 1000).await;
        drop(large);
        assert!(room.take(10).is_ok());
        drop(most);
        assert!(room.take(MAX_LARGE_BYTES).is_ok());
    }
}
