//! Takes connections, within bounds.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use quorate_model::id::Owner;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Edge, connection};
use crate::respond::Connection;

/// How long to wait after accepting failed, which is mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves ZooKeeper's protocol on `listener` until `stop` is true; then closes all connections.
pub async fn serve(listener: TcpListener, edge: Arc<Edge>, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Places::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, address)) => match Place::take(&places, &edge, address.ip()) {
                Some(place) => {
                    tokio::spawn(converse(stream, address, edge.clone(), place));
                }
                None => {
                    edge.metrics.connections_refused.inc();
                    tracing::warn!(%address, "refused a connection: there are too many");
                }
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    edge.watches.close_all("the server stops");
}

async fn converse(stream: TcpStream, address: SocketAddr, edge: Arc<Edge>, place: Place) {
    // Answers are written whole, so nothing is gained by holding them back for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "cannot set TCP_NODELAY");
    }
    let owner = Owner {
        server: edge.router.server(),
        incarnation: edge.router.incarnation(),
        connection: edge.router.next_connection(),
    };
    let connection = Connection::open(owner, address, edge.watches.clone(), edge.metrics.clone());
    edge.metrics.connections.inc();
    let (reader, writer) = stream.into_split();
    let end = connection::serve(reader, writer, connection.clone(), &edge).await;
    connection.finish();
    edge.metrics.connections.dec();
    tracing::debug!(%address, ?end, "closed a connection");
    drop(place);
}

/// How many connections there are, in all and by address.
#[derive(Default)]
struct Places {
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    total: usize,
    of_address: HashMap<IpAddr, usize>,
}

/// One connection's place; given back when dropped.
struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Place {
    fn take(places: &Arc<Places>, edge: &Edge, address: IpAddr) -> Option<Place> {
        let limits = &edge.limits;
        let per_address = match limits.max_connections_per_address {
            0 => usize::MAX,
            limit => limit,
        };
        let mut taken = places.taken.lock();
        let of_address = taken.of_address.get(&address).copied().unwrap_or(0);
        if taken.total >= limits.max_connections || of_address >= per_address {
            return None;
        }
        taken.total += 1;
        taken.of_address.insert(address, of_address + 1);
        Some(Place {
            places: places.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.total -= 1;
        if let Some(of_address) = taken.of_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.of_address.remove(&self.address);
            }
        }
    }
}
