//! A lane: one connection to one peer for one purpose, over which requests go in order and answers come back in order.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::dial::Dialer;
use super::frame::{FrameReader, FrameWriter, Link};

/// Requests that wait to be sent. One that finds the queue full waits itself.
const QUEUED: usize = 64;

/// Requests that are sent and not answered.
const UNANSWERED: usize = 256;

/// What requests may take in memory that are queued or not answered, in units of [`UNIT_BYTES`]; a larger request goes alone.
const ROOM_UNITS: usize = 32 << 10;

/// The unit of room, so that large requests fit a semaphore's numbers.
const UNIT_BYTES: usize = 1 << 10;

/// After a dial has failed, requests fail at once for this long.
const REST: Duration = Duration::from_millis(50);

/// The first byte of an answer after which the peer ends the connection.
pub(crate) const LAST: u8 = 1;

/// The first byte of any other answer.
pub(crate) const MORE: u8 = 0;

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// There is no connection: the request was not sent.
    #[error("{0}")]
    Unreachable(Arc<str>),
    /// The connection ended: the peer may have got it.
    #[error("the connection ended before the answer")]
    Lost,
}

/// The way to one peer for one purpose. Dialed when there is something to say.
pub(crate) struct Lane {
    calls: mpsc::Sender<Call>,
    room: Arc<Semaphore>,
    task: AbortHandle,
}

struct Call {
    request: Bytes,
    waiting: Waiting,
}

/// Where an answer goes, and the room that its request takes until then.
struct Waiting {
    answer: oneshot::Sender<Result<Bytes, CallError>>,
    _room: OwnedSemaphorePermit,
}

/// A request's answer, to be waited for. Dropping it changes nothing for others.
pub(crate) struct Answer(oneshot::Receiver<Result<Bytes, CallError>>);

impl Answer {
    pub(crate) async fn wait(self) -> Result<Bytes, CallError> {
        self.0.await.unwrap_or(Err(CallError::Lost))
    }
}

impl Lane {
    /// A lane whose connection is given up when a request is not answered and nothing else is either for `stall`.
    pub(crate) fn new(dialer: Dialer, stall: Duration) -> Lane {
        let (calls, queued) = mpsc::channel(QUEUED);
        Lane {
            calls,
            room: Arc::new(Semaphore::new(ROOM_UNITS)),
            task: tokio::spawn(run(dialer, stall, queued)).abort_handle(),
        }
    }

    /// Queues a request, behind those that were queued before. Waits while there is no room.
    pub(crate) async fn enqueue(&self, request: Bytes) -> Result<Answer, CallError> {
        let units = (request.len() / UNIT_BYTES + 1).min(ROOM_UNITS) as u32;
        let room = self.room.clone().acquire_many_owned(units).await;
        let room = room.map_err(|_| CallError::Lost)?;
        let (answer, waiting) = oneshot::channel();
        let call = Call {
            request,
            waiting: Waiting {
                answer,
                _room: room,
            },
        };
        self.calls.send(call).await.map_err(|_| CallError::Lost)?;
        Ok(Answer(waiting))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(dialer: Dialer, stall: Duration, mut calls: mpsc::Receiver<Call>) {
    let mut reachable = true;
    while let Some(call) = calls.recv().await {
        if call.waiting.answer.is_closed() {
            continue;
        }
        let peer = dialer.hello;
        match dialer.dial().await {
            Ok(link) => {
                if !reachable {
                    tracing::info!("server {} is reached again ({:?})", peer.to, peer.purpose);
                }
                reachable = true;
                let ended = converse(link, stall, call, &mut calls).await;
                tracing::debug!(
                    "the connection to server {} ({:?}) ended: {ended}",
                    peer.to,
                    peer.purpose
                );
            }
            Err(error) => {
                let reason: Arc<str> = error.to_string().into();
                if reachable {
                    tracing::warn!("{reason} ({:?})", peer.purpose);
                }
                reachable = false;
                rest(call, &reason, &mut calls).await;
            }
        }
    }
}

/// Fails what is asked for a while, so that a peer that is gone is not dialed without end.
async fn rest(call: Call, reason: &Arc<str>, calls: &mut mpsc::Receiver<Call>) {
    let fail = |call: Call| {
        // Whoever asked may have given up.
        let _ = call
            .waiting
            .answer
            .send(Err(CallError::Unreachable(reason.clone())));
    };
    fail(call);
    let rested = tokio::time::sleep(REST);
    tokio::pin!(rested);
    loop {
        tokio::select! {
            () = &mut rested => return,
            call = calls.recv() => match call {
                Some(call) => fail(call),
                None => return,
            }
        }
    }
}

/// What was sent and not answered, in the order of the answers.
type Unanswered = Mutex<VecDeque<Waiting>>;

/// Sends requests and takes answers until the connection ends; says why it did. What was not answered by then fails.
async fn converse(
    link: Link,
    stall: Duration,
    first: Call,
    calls: &mut mpsc::Receiver<Call>,
) -> String {
    let unanswered = Unanswered::default();
    let slots = Semaphore::new(UNANSWERED);
    let ended = tokio::select! {
        ended = send(link.writer, first, calls, &unanswered, &slots) => ended,
        ended = take(link.reader, stall, &unanswered, &slots) => ended,
    };
    match ended {
        Ok(()) => "the peer ended it".into(),
        Err(error) => error.to_string(),
    }
}

async fn send(
    mut writer: FrameWriter,
    first: Call,
    calls: &mut mpsc::Receiver<Call>,
    unanswered: &Unanswered,
    slots: &Semaphore,
) -> io::Result<()> {
    let mut next = Some(first);
    while let Some(call) = next {
        // One that nobody waits for any more is not worth the peer's time.
        if !call.waiting.answer.is_closed() {
            if let Ok(slot) = slots.acquire().await {
                slot.forget();
            }
            // Noted first: the answer may be quicker than this task.
            unanswered.lock().push_back(call.waiting);
            writer.feed(&call.request).await?;
        }
        next = match calls.try_recv() {
            Ok(call) => Some(call),
            Err(_) => {
                writer.flush().await?;
                calls.recv().await
            }
        };
    }
    // The lane was dropped, and this task is about to be.
    Ok(())
}

async fn take(
    mut reader: FrameReader,
    stall: Duration,
    unanswered: &Unanswered,
    slots: &Semaphore,
) -> io::Result<()> {
    let broken = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason);
    loop {
        let waited = !unanswered.lock().is_empty();
        let frame = match timeout(stall, reader.next()).await {
            Ok(Some(frame)) => frame?,
            Ok(None) => return Ok(()),
            Err(_) if waited => {
                let error = format!("nothing was answered for {stall:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, error));
            }
            Err(_) => continue,
        };
        let Some(waiting) = unanswered.lock().pop_front() else {
            return Err(broken("an answer came that nothing was asked for"));
        };
        slots.add_permits(1);
        let last = match frame.first() {
            Some(&MORE) => false,
            Some(&LAST) => true,
            _ => return Err(broken("an answer is malformed")),
        };
        let _ = waiting.answer.send(Ok(frame.slice(1..)));
        if last {
            return Ok(());
        }
    }
}
