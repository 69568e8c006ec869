//! How sockets to peers are opened and accepted: the one place where TLS or a simulated network comes in.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A connection's two halves, as bytes.
pub struct Socket {
    /// What the peer sends.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What it is sent. Dropping both halves closes the connection.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

/// A socket that is being opened. Dropping it gives up.
pub type Opening<'a> = Pin<Box<dyn Future<Output = io::Result<Socket>> + Send + 'a>>;

/// How this server reaches its peers and is reached by them.
pub trait Transport: Send + Sync + 'static {
    /// Connects to `address`, `host:port`. [`io::ErrorKind::ConnectionRefused`] says that the host is there
    /// and no process of it listens: a leader of which that is said is taken for dead at once.
    fn dial<'a>(&'a self, address: &'a str) -> Opening<'a>;

    /// The next connection that a peer opened. Never ready where nothing is listened on. Only one
    /// call at a time; dropping it loses no connection.
    fn accept(&self) -> Opening<'_>;

    /// Listens no more, from now on: peers that dial are refused.
    fn close(&self);
}

/// Plain TCP.
pub struct Tcp {
    listener: Mutex<Option<Arc<TcpListener>>>,
}

impl Tcp {
    /// Accepts from `listener`; from nobody, if there is none.
    pub fn new(listener: Option<TcpListener>) -> Tcp {
        Tcp {
            listener: Mutex::new(listener.map(Arc::new)),
        }
    }
}

impl Transport for Tcp {
    fn dial<'a>(&'a self, address: &'a str) -> Opening<'a> {
        Box::pin(async move { socket(TcpStream::connect(address).await?) })
    }

    fn accept(&self) -> Opening<'_> {
        let listener = self.listener.lock().clone();
        Box::pin(async move {
            match listener {
                Some(listener) => socket(listener.accept().await?.0),
                None => std::future::pending().await,
            }
        })
    }

    fn close(&self) {
        self.listener.lock().take();
    }
}

/// Frames are written whole, so nothing is gained by the kernel's waiting for more.
fn socket(stream: TcpStream) -> io::Result<Socket> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    Ok(Socket {
        reader: Box::new(reader),
        writer: Box::new(writer),
    })
}
