//! Links between servers: turmoil's TCP.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_consensus::{Opening, Socket, Transport};
use turmoil::net::{TcpListener, TcpStream};

/// A server's end of the network.
pub struct SimulatedTransport(Mutex<Option<Arc<TcpListener>>>);

impl SimulatedTransport {
    /// Accepts from `listener`.
    pub fn new(listener: TcpListener) -> SimulatedTransport {
        SimulatedTransport(Mutex::new(Some(Arc::new(listener))))
    }
}

impl Transport for SimulatedTransport {
    fn dial<'a>(&'a self, address: &'a str) -> Opening<'a> {
        Box::pin(async move { Ok(socket(TcpStream::connect(address).await?)) })
    }

    fn accept(&self) -> Opening<'_> {
        let listener = self.0.lock().clone();
        Box::pin(async move {
            let closed = || io::Error::other("it listens no more");
            let listener = listener.ok_or_else(closed)?;
            Ok(socket(listener.accept().await?.0))
        })
    }

    fn close(&self) {
        self.0.lock().take();
    }
}

fn socket(stream: TcpStream) -> Socket {
    let (reader, writer) = stream.into_split();
    Socket {
        reader: Box::new(reader),
        writer: Box::new(writer),
    }
}
