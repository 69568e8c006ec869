//! A network in memory, whose links can be cut and whose servers can die.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::{Opening, Socket, Transport};

/// Bytes that are under way on a link.
const PIPE_BYTES: usize = 64 << 10;

/// The network. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Mesh(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    listeners: BTreeMap<String, mpsc::Sender<Socket>>,
    /// Whether bytes pass between two addresses.
    links: BTreeMap<(String, String), watch::Sender<bool>>,
    dead: BTreeSet<String>,
    pumps: Vec<(String, String, AbortHandle)>,
}

impl State {
    fn link(&mut self, a: &str, b: &str) -> &watch::Sender<bool> {
        let (a, b) = (a.min(b), a.max(b));
        let link = self.links.entry((a.to_owned(), b.to_owned()));
        link.or_insert_with(|| watch::Sender::new(true))
    }
}

impl Mesh {
    /// A server's end of it, which listens.
    pub(super) fn end(&self, address: &str) -> Arc<End> {
        let (sender, accepted) = mpsc::channel(64);
        let mut state = self.0.lock();
        state.dead.remove(address);
        state.listeners.insert(address.to_owned(), sender);
        Arc::new(End {
            mesh: self.clone(),
            address: address.to_owned(),
            accepted: tokio::sync::Mutex::new(accepted),
        })
    }

    /// Lets bytes pass between two servers, or lets them wait.
    pub(super) fn set_link(&self, a: &str, b: &str, open: bool) {
        self.0.lock().link(a, b).send_replace(open);
    }

    /// Ends a server's connections, and refuses all that are dialed to it, as the system does for a process that was killed.
    pub(super) fn kill(&self, address: &str) {
        let mut state = self.0.lock();
        state.dead.insert(address.to_owned());
        state.listeners.remove(address);
        state.pumps.retain(|(a, b, pump)| {
            let concerned = a == address || b == address;
            if concerned {
                pump.abort();
            }
            !concerned && !pump.is_finished()
        });
    }
}

/// One server's end of the network.
pub(super) struct End {
    mesh: Mesh,
    address: String,
    accepted: tokio::sync::Mutex<mpsc::Receiver<Socket>>,
}

impl Transport for End {
    fn dial<'a>(&'a self, address: &'a str) -> Opening<'a> {
        Box::pin(async move {
            let mut open = self.mesh.0.lock().link(&self.address, address).subscribe();
            open.wait_for(|open| *open)
                .await
                .map_err(io::Error::other)?;
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let listener = {
                let state = self.mesh.0.lock();
                if state.dead.contains(&self.address) {
                    return Err(refused());
                }
                state.listeners.get(address).cloned().ok_or_else(refused)?
            };
            let ((near, near_end), (far, far_end)) = (duplex(PIPE_BYTES), duplex(PIPE_BYTES));
            let ((near_in, near_out), (far_in, far_out)) = (split(near_end), split(far_end));
            for (from, to) in [(near_in, far_out), (far_in, near_out)] {
                let pump = tokio::spawn(pump(from, to, open.clone())).abort_handle();
                let ends = (self.address.clone(), address.to_owned(), pump);
                self.mesh.0.lock().pumps.push(ends);
            }
            listener.send(socket(far)).await.map_err(|_| refused())?;
            Ok(socket(near))
        })
    }

    fn accept(&self) -> Opening<'_> {
        Box::pin(async move {
            match self.accepted.lock().await.recv().await {
                Some(socket) => Ok(socket),
                None => std::future::pending().await,
            }
        })
    }

    fn close(&self) {
        self.mesh.0.lock().listeners.remove(&self.address);
    }
}

fn socket(stream: DuplexStream) -> Socket {
    let (reader, writer) = split(stream);
    Socket {
        reader: Box::new(reader),
        writer: Box::new(writer),
    }
}

/// Carries bytes one way, while the link is open.
async fn pump(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut open: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        if open.wait_for(|open| *open).await.is_err() {
            return;
        }
        if read == 0 {
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
