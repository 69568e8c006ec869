//! Takes HTTP connections, within bounds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::sending::{MAX_BUFFER_BYTES, Watched};
use super::{Http, Peer};
use crate::receive::places::{Bounds, Place, Places};

/// How many connections there may be; long polls hold theirs.
const MAX_CONNECTIONS: usize = 4096;

/// How many of one address: a quarter, so that no single one takes all the places. Proxies have some.
const MAX_CONNECTIONS_PER_ADDRESS: usize = 1024;

/// How long a request's head may take, and a connection be idle.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long requests may go on once the server stops.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);

/// How long to wait after accepting failed, which is mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves HTTP on `listener` until `stop` is true.
pub async fn serve(listener: TcpListener, http: Arc<Http>, mut stop: watch::Receiver<bool>) {
    let routes = http.routes();
    let places = Arc::new(Places::default());
    let bounds = Bounds {
        total: MAX_CONNECTIONS,
        per_address: MAX_CONNECTIONS_PER_ADDRESS,
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let Some(place) = Place::take(&places, bounds, address.ip()) else {
                    http.edge.metrics.connections_refused.inc();
                    tracing::warn!(%address, "refused an HTTP connection: there are too many");
                    continue;
                };
                let (routes, stop) = (routes.clone(), stop.clone());
                tokio::spawn(async move {
                    converse(stream, address, routes, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept HTTP connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    address: SocketAddr,
    routes: Router,
    mut stop: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "cannot set TCP_NODELAY");
    }
    let peer = Peer(address.ip());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        routes.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(Watched::new(stream)), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(FAREWELL_DEADLINE, connection)
                .await
                .unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "an HTTP connection broke");
    }
}
