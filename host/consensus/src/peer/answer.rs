//! Answering what peers ask: entries into openraft in a pipeline, votes and heartbeats beside them.

use std::collections::VecDeque;
use std::future::ready;
use std::pin::pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::frame::{FrameReader, FrameWriter, Link};
use super::message::{Request, Response};
use crate::consensus::Raft;
use crate::raft::Types;

/// Requests of one control connection that are answered at a time.
const CONTROL_IN_FLIGHT: usize = 16;

/// Answers that leave together, if they are ready together.
const ANSWERS: usize = 64;

/// What the requests of one connection may take that openraft has and has not answered, in units of
/// [`UNIT_BYTES`]; a larger one goes alone.
const ROOM_UNITS: usize = 64 << 10;

const UNIT_BYTES: usize = 1 << 10;

/// Takes a leader's entries, until the connection ends. It also ends behind the first answer that is an error: what the
/// leader has sent behind that request has no meaning any more, and would be answered out of step.
pub(crate) async fn log(link: Link, raft: &Raft) {
    let Link { reader, writer } = link;
    let held = Arc::new(Mutex::new(VecDeque::new()));
    let (_alive, ended) = oneshot::channel::<()>();
    // openraft reads its input in a task of its own, which must end with this one.
    let input = appends(reader, held.clone()).take_until(ended);
    let answers = raft.stream_append(input).map(move |result| {
        held.lock().pop_front();
        let result = result.ok()?;
        let last = result.is_err();
        Some((Response::Append(result), last))
    });
    write(writer, answers).await;
}

/// Requests that openraft has not answered, by the room that they take.
type Held = Arc<Mutex<VecDeque<OwnedSemaphorePermit>>>;

/// The requests that come in, as long as they are understood and there is room for them.
fn appends(reader: FrameReader, held: Held) -> impl Stream<Item = AppendEntriesRequest<Types>> {
    let room = Arc::new(Semaphore::new(ROOM_UNITS));
    stream::unfold(
        (reader, room, held),
        |(mut reader, room, held)| async move {
            let frame = reader.next().await?.ok()?;
            let units = (frame.len() / UNIT_BYTES + 1).min(ROOM_UNITS) as u32;
            let share = room.clone().acquire_many_owned(units).await.ok()?;
            let request = understood(&frame)?;
            let Request::Append(request) = request else {
                return None;
            };
            held.lock().push_back(share);
            Some((request, (reader, room, held)))
        },
    )
}

/// Answers votes, heartbeats and the like, until the connection ends.
pub(crate) async fn control(link: Link, raft: &Raft) {
    let Link { reader, writer } = link;
    let requests = stream::unfold(reader, |mut reader| async move {
        let frame = reader.next().await?.ok()?;
        Some((understood(&frame)?, reader))
    });
    let answers = requests
        .map(|request| answer(request, raft))
        .buffered(CONTROL_IN_FLIGHT)
        .map(|answer| answer.map(|answer| (answer, false)));
    write(writer, answers).await;
}

fn understood(frame: &[u8]) -> Option<Request> {
    let request = Request::decode(frame);
    if let Err(error) = &request {
        tracing::warn!("a connection from a peer is closed: {error}");
    }
    request.ok()
}

/// The answer; `None` when openraft has stopped.
async fn answer(request: Request, raft: &Raft) -> Option<Response> {
    Some(match request {
        // A heartbeat. By itself, so that its error ends nothing but itself.
        Request::Append(append) => {
            let mut answers = pin!(raft.stream_append(stream::once(ready(append))));
            Response::Append(answers.next().await?.ok()?)
        }
        Request::Vote(vote) => Response::Vote(raft.vote(vote).await.ok()?),
        Request::PreVote(vote) => Response::Vote(raft.pre_vote(vote).await.ok()?),
        Request::Transfer(transfer) => {
            Response::Transfer(raft.handle_transfer_leader(transfer).await.ok()?)
        }
    })
}

/// Writes answers in order, those that are ready together, until there is none, or a last one, or the peer is gone.
async fn write(mut writer: FrameWriter, answers: impl Stream<Item = Option<(Response, bool)>>) {
    let mut batches = pin!(answers.ready_chunks(ANSWERS));
    while let Some(batch) = batches.next().await {
        let mut ended = false;
        for answer in batch {
            let Some((response, last)) = answer else {
                ended = true;
                break;
            };
            let Ok(frame) = response.encode(last) else {
                return;
            };
            if writer.feed(&frame).await.is_err() {
                return;
            }
            ended = last;
            if last {
                break;
            }
        }
        if writer.flush().await.is_err() || ended {
            return;
        }
    }
}
