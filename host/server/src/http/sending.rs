//! Answers on their way to clients that may not read: bounded in bytes and in time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse as _, Response};
use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};

use super::problem::Problem;

/// An answer up to this size is not counted: as much stands in a connection's own buffer.
const SMALL_ANSWER_BYTES: usize = 16 << 10;

/// How many bytes of larger answers may wait to be sent, to all clients: ten of the largest, which
/// are a znode's data with each byte escaped.
pub(super) const MAX_ANSWER_BYTES: usize = 64 << 20;

/// How much of a larger answer is given to its connection at once.
const CHUNK_BYTES: usize = 32 << 10;

/// The most that a connection holds of what it sends, and of a request's head.
pub(super) const MAX_BUFFER_BYTES: usize = 64 << 10;

/// In so much time a client takes [`LEAST_BYTES`] of its answer, or the connection is closed.
pub(super) const SEND_DEADLINE: Duration = Duration::from_secs(30);

/// 2 KB a second: slower than any line that is of use.
const LEAST_BYTES: usize = 60_000;

/// Counts an answer as long as it is held; one beyond the bound is dropped, and its client told so.
pub(super) async fn hold(answers: &Arc<Semaphore>, response: Response) -> Response {
    let (head, body) = response.into_parts();
    // All our answers are whole already: this copies nothing.
    let Ok(collected) = body.collect().await else {
        return Problem::internal("an answer broke off").into_response();
    };
    let data = collected.to_bytes();
    if data.len() <= SMALL_ANSWER_BYTES {
        return Response::from_parts(head, Body::from(data));
    }
    let wanted = u32::try_from(data.len()).unwrap_or(u32::MAX);
    match answers.clone().try_acquire_many_owned(wanted) {
        Ok(permit) => {
            let held = Held {
                data,
                _permit: permit,
            };
            Response::from_parts(head, Body::new(held))
        }
        Err(_) => Problem::too_many_answers(data.len()).into_response(),
    }
}

/// A large answer, given out in copies of its parts, so that its memory is counted until the last.
struct Held {
    data: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let length = self.data.len().min(CHUNK_BYTES);
        if length == 0 {
            return Poll::Ready(None);
        }
        let chunk = Bytes::copy_from_slice(&self.data[..length]);
        self.data.advance(length);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.len() as u64)
    }
}

/// A socket whose writing fails if the client takes too little for too long.
pub(super) struct Watched<S> {
    socket: S,
    deadline: Pin<Box<Sleep>>,
    /// What was taken of the answer that waits since the deadline was set; none if nothing waits.
    taken: Option<usize>,
}

impl<S> Watched<S> {
    pub(super) fn new(socket: S) -> Watched<S> {
        Watched {
            socket,
            deadline: Box::pin(sleep_until(Instant::now())),
            taken: None,
        }
    }

    fn watch(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(count)) => {
                if let Some(taken) = &mut self.taken {
                    *taken += count;
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                if self.taken.is_none() {
                    self.wait_anew();
                }
                while self.deadline.as_mut().poll(context).is_ready() {
                    if self.taken < Some(LEAST_BYTES) {
                        let reason = "the client does not read its answer";
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)));
                    }
                    self.wait_anew();
                }
            }
        }
        written
    }

    fn wait_anew(&mut self) {
        self.taken = Some(0);
        self.deadline.as_mut().reset(Instant::now() + SEND_DEADLINE);
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, data);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, data);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// Asked for when all has been written: nothing waits any more.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.socket).poll_flush(context));
        self.taken = None;
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn large() -> Response {
        vec![b'x'; MAX_ANSWER_BYTES / 4].into_response()
    }

    #[tokio::test]
    async fn large_answers_are_counted_until_they_are_sent() {
        let answers = Arc::new(Semaphore::new(MAX_ANSWER_BYTES));
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(hold(&answers, large()).await);
        }
        assert!(held.iter().all(|response| response.status() == 200));
        let refused = hold(&answers, large()).await;
        assert_eq!(refused.status(), 503);
        let small = hold(&answers, "small".into_response()).await;
        assert_eq!(small.status(), 200);
        let sent = held.pop().unwrap().into_body().collect().await.unwrap();
        assert_eq!(sent.to_bytes().len(), MAX_ANSWER_BYTES / 4);
        assert_eq!(hold(&answers, large()).await.status(), 200);
        drop(held);
        assert_eq!(answers.available_permits(), MAX_ANSWER_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_or_next_to_nothing_is_given_up() {
        for bytes_a_second in [0, 100] {
            let (mut client, server) = tokio::io::duplex(1000);
            let mut server = Watched::new(server);
            let begun = Instant::now();
            let reading = async {
                let mut buffer = vec![0; bytes_a_second];
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    client.read_exact(&mut buffer).await.unwrap();
                }
            };
            let written = tokio::select! {
                written = server.write_all(&[0; 1_000_000]) => written,
                () = reading => unreachable!("it reads for ever"),
            };
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(begun.elapsed().as_secs(), SEND_DEADLINE.as_secs());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_slow_gets_its_answer() {
        let (mut client, server) = tokio::io::duplex(1000);
        let mut server = Watched::new(server);
        let reading = async {
            let mut buffer = vec![0; 10_000];
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                client.read_exact(&mut buffer).await.unwrap();
            }
        };
        let data = vec![0; 1_000_000];
        let (written, ()) = tokio::join!(server.write_all(&data), reading);
        written.unwrap();
    }
}
