//! Frames on a socket: four bytes of length, big-endian, then so many bytes.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};

use super::transport::Socket;

const HEADER_BYTES: usize = 4;

/// So much room is made at a time for what a peer sends, at least and at most: a length that is only
/// claimed costs no memory.
const READ_BYTES: std::ops::RangeInclusive<usize> = 8 << 10..=1 << 20;

/// Small frames are gathered up to so many bytes before they go to the socket.
const WRITE_BYTES: usize = 16 << 10;

/// The frames of a socket, both ways.
pub(crate) struct Link {
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
}

impl Link {
    /// Frames of up to `max` bytes.
    pub(crate) fn new(socket: Socket, max: usize) -> Link {
        Link {
            reader: FrameReader {
                reader: socket.reader,
                buffer: BytesMut::new(),
                max,
            },
            writer: FrameWriter {
                writer: BufWriter::with_capacity(WRITE_BYTES, socket.writer),
                max,
                broken: false,
            },
        }
    }

    /// From now on frames may have up to `max` bytes.
    pub(crate) fn set_max(&mut self, max: usize) {
        self.reader.max = max;
        self.writer.max = max;
    }
}

/// The frames that a peer sends.
pub(crate) struct FrameReader {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    max: usize,
}

impl FrameReader {
    /// The next frame; `None` when the peer has ended the connection between two frames. Dropping the
    /// future loses nothing. After an error or the end there is nothing more.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            let missing = match self.missing() {
                Ok(0) => {
                    let length = self.buffer.get_u32() as usize;
                    return Some(Ok(self.buffer.split_to(length).freeze()));
                }
                Ok(missing) => missing,
                Err(error) => return Some(Err(error)),
            };
            let (least, most) = (*READ_BYTES.start(), *READ_BYTES.end());
            if self.buffer.capacity() - self.buffer.len() < missing.min(least) {
                self.buffer.reserve(missing.clamp(least, most));
            }
            match self.reader.read_buf(&mut self.buffer).await {
                Ok(0) if self.buffer.is_empty() => return None,
                Ok(0) => {
                    let error = "the connection ended within a frame";
                    return Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)));
                }
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// How many bytes of the next frame are not here yet, as far as is known.
    fn missing(&self) -> io::Result<usize> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(HEADER_BYTES - self.buffer.len());
        };
        let length = u32::from_be_bytes(*header) as usize;
        if length > self.max {
            return Err(too_large(length, self.max));
        }
        Ok((HEADER_BYTES + length).saturating_sub(self.buffer.len()))
    }
}

/// The frames that a peer is sent.
pub(crate) struct FrameWriter {
    writer: BufWriter<Box<dyn AsyncWrite + Send + Unpin>>,
    max: usize,
    /// A frame was begun and not ended, so the peer would take the next one for its rest.
    broken: bool,
}

impl FrameWriter {
    /// Writes a frame, which leaves with the next `flush` at the latest. After dropping the future, and
    /// after an error, the connection is of no use.
    pub(crate) async fn feed(&mut self, frame: &[u8]) -> io::Result<()> {
        if frame.len() > self.max {
            return Err(too_large(frame.len(), self.max));
        }
        if std::mem::replace(&mut self.broken, true) {
            let error = "a frame before this one was not sent whole";
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, error));
        }
        self.writer.write_u32(frame.len() as u32).await?;
        self.writer.write_all(frame).await?;
        self.broken = false;
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.writer.flush().await
    }

    pub(crate) async fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.feed(frame).await?;
        self.flush().await
    }
}

fn too_large(length: usize, max: usize) -> io::Error {
    let error = format!("a frame of {length} bytes, where at most {max} are allowed");
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn link(bytes: Vec<u8>, max: usize) -> Link {
        let socket = Socket {
            reader: Box::new(std::io::Cursor::new(bytes)),
            writer: Box::new(tokio::io::sink()),
        };
        Link::new(socket, max)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(future)
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..20),
            pipe in 1..5000_usize,
        ) {
            run(async {
                let (near, far) = tokio::io::duplex(pipe);
                let max = 3000;
                let (near, far) = (tokio::io::split(near), tokio::io::split(far));
                let boxed = |(reader, writer)| {
                    let (reader, writer): (tokio::io::ReadHalf<_>, tokio::io::WriteHalf<_>) = (reader, writer);
                    Link::new(Socket { reader: Box::new(reader), writer: Box::new(writer) }, max)
                };
                let (mut near, mut far): (Link, Link) = (boxed(near), boxed(far));
                let sent = async {
                    for frame in &frames {
                        near.writer.feed(frame).await.expect("taken");
                    }
                    near.writer.flush().await.expect("flushed");
                    drop(near);
                };
                let got = async {
                    let mut got = Vec::new();
                    while let Some(frame) = far.reader.next().await {
                        got.push(frame.expect("whole").to_vec());
                    }
                    got
                };
                let ((), got) = tokio::join!(sent, got);
                prop_assert_eq!(got, frames);
                Ok(())
            })?;
        }

        #[test]
        fn any_bytes_end_in_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            run(async {
                let length = bytes.len();
                let mut link = link(bytes, 1000);
                let mut total = 0;
                while let Some(Ok(frame)) = link.reader.next().await {
                    prop_assert!(frame.len() <= 1000);
                    total += frame.len() + HEADER_BYTES;
                }
                prop_assert!(total <= length);
                Ok(())
            })?;
        }
    }

    #[test]
    fn a_claimed_length_costs_no_memory() {
        run(async {
            let max = 1 << 30;
            let mut link = link((max as u32).to_be_bytes().to_vec(), max);
            assert!(matches!(link.reader.next().await, Some(Err(_))));
            assert!(link.reader.buffer.capacity() <= 2 * READ_BYTES.end());
        });
    }
}
