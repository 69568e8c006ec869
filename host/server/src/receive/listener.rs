//! Takes connections, within bounds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_model::id::Owner;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::places::{Bounds, Place, Places};
use super::{Edge, Limits, connection};
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
            Ok((stream, address)) => match Place::take(&places, bounds(&edge.limits), address.ip())
            {
                Some(place) => {
                    tokio::spawn(take(stream, address, edge.clone(), place));
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

fn bounds(limits: &Limits) -> Bounds {
    Bounds {
        total: limits.max_connections,
        per_address: match limits.max_connections_per_address {
            0 => usize::MAX,
            limit => limit,
        },
    }
}

async fn take(stream: TcpStream, address: SocketAddr, edge: Arc<Edge>, place: Place) {
    // Answers are written whole, so nothing is gained by holding them back for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "cannot set TCP_NODELAY");
    }
    let (reader, writer) = stream.into_split();
    converse(reader, writer, address, &edge).await;
    drop(place);
}

/// Serves one client, to its end.
pub async fn converse(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    address: SocketAddr,
    edge: &Arc<Edge>,
) {
    let owner = Owner {
        server: edge.router.server(),
        incarnation: edge.router.incarnation(),
        connection: edge.router.next_connection(),
    };
    let connection = Connection::open(owner, address, edge);
    edge.metrics.connections.inc();
    let end = connection::serve(reader, writer, connection.clone(), edge).await;
    connection.finish();
    edge.metrics.connections.dec();
    tracing::debug!(%address, ?end, "closed a connection");
}
