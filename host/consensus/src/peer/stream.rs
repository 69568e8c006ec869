//! A connection between two servers, for what the servers themselves have to say.

use std::io;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::frame::{FrameReader, FrameWriter, Link};

/// The largest frame between servers, in bytes: an entry or an upload of the largest size, and room for
/// what is said about it.
pub const MAX_FRAME_BYTES: usize = 72 << 20;

/// A connection to another server: frames both ways, in order, of up to [`MAX_FRAME_BYTES`]. It is
/// closed when both halves are dropped.
pub struct PeerStream {
    sender: PeerSender,
    receiver: PeerReceiver,
}

/// The sending half of a [`PeerStream`].
pub struct PeerSender(FrameWriter);

/// The receiving half of a [`PeerStream`].
pub struct PeerReceiver {
    reader: FrameReader,
    /// Of an accepted one: its share of the connections that peers may have open here.
    _share: Option<OwnedSemaphorePermit>,
}

impl PeerStream {
    pub(crate) fn new(link: Link, share: Option<OwnedSemaphorePermit>) -> PeerStream {
        PeerStream {
            sender: PeerSender(link.writer),
            receiver: PeerReceiver {
                reader: link.reader,
                _share: share,
            },
        }
    }

    /// Its two halves, for two tasks.
    pub fn split(self) -> (PeerSender, PeerReceiver) {
        (self.sender, self.receiver)
    }
}

impl PeerSender {
    /// Sends a frame. Waits while the peer does not read, so the caller bounds how long. After an
    /// error, or when the future is dropped before its end, the stream is of no use any more.
    pub async fn send(&mut self, frame: Bytes) -> io::Result<()> {
        self.0.send(&frame).await
    }

    /// Writes a frame like [`PeerSender::send`], but lets it wait for a [`PeerSender::flush`], so that many small
    /// ones leave together.
    pub async fn feed(&mut self, frame: Bytes) -> io::Result<()> {
        self.0.feed(&frame).await
    }

    /// Sends what was fed.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await
    }
}

impl PeerReceiver {
    /// The next frame; `None` when the peer has closed the stream between two frames. Dropping the
    /// future loses nothing. A frame may share memory with its neighbours: copy what is kept for long.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.reader.next().await
    }
}
