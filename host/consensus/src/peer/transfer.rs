//! Sending a snapshot to a peer that the log does not reach any more: the bytes of its files, in pieces.
//!
//! A connection carries one transfer. The sender sends the leader's vote, the file's length, and which components
//! the snapshot needs; the receiver says which of them it lacks. The sender sends those, then the file, and waits;
//! the receiver writes all beside its own snapshot, checks the checksums, gives the snapshot to
//! openraft, and answers with its vote. Meanwhile it says from time to time that it is alive. Whatever
//! ends the connection before leaves nothing behind, and a new transfer begins anew.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{NetworkError, RPCError, Unreachable};
use openraft::storage::Snapshot;
use quorate_model::recipe::MAX_COMPONENT_BYTES;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{interval, timeout};

use super::dial::Dialer;
use super::frame::{FrameReader, FrameWriter, Link};
use super::message::{whole, wrong_vote};
use crate::components::Needed;
use crate::consensus::Raft;
use crate::disk::{self, Disk};
use crate::machine::Upkeep;
use crate::raft::{Types, Vote};
use crate::snapshot::SnapshotFile;

/// The bytes of a file in one frame.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// A transfer in which nothing moves for this long is given up.
const STALL: Duration = Duration::from_secs(10);

/// For so long a receiver waits for the sender to take its report and close.
const LINGER: Duration = Duration::from_secs(1);

/// So often a receiver says that it is alive.
const ALIVE: Duration = Duration::from_secs(1);

/// Transfers that a server receives at a time: a new one, beside one whose sender has gone without a word.
const RECEIVED: usize = 2;

/// The first frame.
#[derive(Serialize, Deserialize)]
struct Begin {
    vote: Vote,
    bytes: u64,
    components: Vec<Needed>,
}

/// What a receiver says.
#[derive(Serialize, Deserialize)]
enum Report {
    /// It is at work.
    Alive,
    /// It lacks these of the components, by their places in the list.
    Lacks(Vec<u32>),
    /// It has the snapshot, or wants none of a leader of that vote: this is its own vote.
    Done(Vote),
    /// It could not take it.
    Failed(String),
}

/// Sends a snapshot; the peer's vote when it has installed it, or refuses a leader of the past.
pub(crate) async fn send(
    dialer: &Dialer,
    disk: &dyn Disk,
    vote: Vote,
    snapshot: &SnapshotFile,
) -> Result<Vote, RPCError<Types>> {
    let failed = |what: String| RPCError::from(NetworkError::from_string(what));
    // A newer one may have taken its place; openraft then asks for that.
    let file = open(disk, &snapshot.path).await;
    let file = file.map_err(|error| failed(format!("cannot read the snapshot: {error}")))?;
    let link = dialer.dial().await;
    let link = link.map_err(|error| RPCError::from(Unreachable::from_string(error)))?;
    let Link {
        mut reader,
        mut writer,
    } = link;
    tracing::info!(
        "sending server {} a snapshot of {} bytes",
        dialer.hello.to,
        snapshot.bytes
    );

    let (lacks, lacked) = oneshot::channel::<Vec<u32>>();
    let sending = async {
        let begin = Begin {
            vote,
            bytes: snapshot.bytes,
            components: snapshot.needed().to_vec(),
        };
        let begin = postcard::to_stdvec(&begin).map_err(std::io::Error::other)?;
        writer.send(&begin).await?;
        let lacked = lacked.await.map_err(std::io::Error::other)?;
        for place in lacked {
            let held = snapshot.components.as_ref();
            let found = held.and_then(|held| held.file(place as usize));
            let (needed, path) = found
                .ok_or_else(|| std::io::Error::other("it lacks what the snapshot does not need"))?;
            let file = open(disk, &path).await?;
            send_file(disk, &mut writer, &file, needed.bytes).await?;
        }
        send_file(disk, &mut writer, &file, snapshot.bytes).await?;
        // All is sent. The reports end this.
        std::future::pending::<std::io::Result<()>>().await
    };
    let reports = async {
        let mut lacks = Some(lacks);
        loop {
            let report = match timeout(STALL, reader.next()).await {
                Ok(Some(Ok(report))) => whole::<Report>(&report).map_err(|error| error.to_string()),
                Ok(Some(Err(error))) => Err(error.to_string()),
                Ok(None) => Err("the receiver ended the connection".into()),
                Err(_) => Err(format!("the receiver said nothing for {STALL:?}")),
            };
            match report? {
                Report::Alive => {}
                Report::Lacks(places) => {
                    // The first time only; then there is nobody any more who waits for it.
                    let _ = lacks.take().map(|lacks| lacks.send(places));
                }
                Report::Done(vote) => return Ok(vote),
                Report::Failed(what) => return Err(what),
            }
        }
    };
    tokio::pin!(reports);
    let outcome = tokio::select! {
        // A receiver that wants no more of it has said why before it closed.
        Err(error) = sending => reports.await.map_err(|what: String| format!("{error}; {what}")),
        reported = &mut reports => reported,
    };
    outcome.map_err(|what| {
        tracing::warn!(
            "sending server {} a snapshot failed: {what}",
            dialer.hello.to
        );
        // Not at once again: whatever it was, it cost a file's worth of traffic.
        RPCError::from(Unreachable::from_string(what))
    })
}

async fn open(disk: &dyn Disk, path: &Path) -> std::io::Result<Arc<File>> {
    let path = path.to_owned();
    disk::wait_for(disk, move || File::open(path).map(Arc::new))
        .await
        .flatten()
}

async fn send_file(
    disk: &dyn Disk,
    writer: &mut FrameWriter,
    file: &Arc<File>,
    bytes: u64,
) -> std::io::Result<()> {
    let mut sent = 0;
    while sent < bytes {
        let length = (bytes - sent).min(PIECE_BYTES as u64) as usize;
        let (file, at) = (file.clone(), sent);
        let piece = disk::wait_for(disk, move || {
            let mut piece = vec![0; length];
            file.read_exact_at(&mut piece, at).map(|()| piece)
        });
        timeout(STALL, writer.send(&piece.await.flatten()?)).await??;
        sent += length as u64;
    }
    Ok(())
}

/// Receives snapshots.
#[derive(Clone)]
pub(crate) struct Receiver {
    raft: Raft,
    upkeep: Arc<Upkeep>,
    slots: Arc<Semaphore>,
}

impl Receiver {
    pub(crate) fn new(raft: Raft, upkeep: Arc<Upkeep>) -> Receiver {
        Receiver {
            raft,
            upkeep,
            slots: Arc::new(Semaphore::new(RECEIVED)),
        }
    }

    /// Takes the transfer of a connection, to its end.
    pub(crate) async fn receive(&self, link: Link) {
        let Link {
            mut reader,
            mut writer,
        } = link;
        let mut alive = interval(ALIVE);
        let (lacks, mut lacked) = oneshot::channel();
        let mut waiting = true;
        let report = {
            let mut taking = pin!(self.take(&mut reader, lacks));
            loop {
                tokio::select! {
                    places = &mut lacked, if waiting => {
                        waiting = false;
                        // A transfer that is not wanted says so itself.
                        let Ok(places) = places else { continue };
                        let Ok(frame) = postcard::to_stdvec(&Report::Lacks(places)) else { return };
                        if !matches!(timeout(STALL, writer.send(&frame)).await, Ok(Ok(()))) {
                            return;
                        }
                    }
                    taken = &mut taking => break match taken {
                        Ok(vote) => Report::Done(vote),
                        Err(what) => {
                            tracing::warn!("a snapshot was not taken: {what}");
                            Report::Failed(what)
                        }
                    },
                    _ = alive.tick() => {
                        let Ok(frame) = postcard::to_stdvec(&Report::Alive) else { return };
                        if !matches!(timeout(STALL, writer.send(&frame)).await, Ok(Ok(()))) {
                            return;
                        }
                    }
                }
            }
        };
        if let Ok(frame) = postcard::to_stdvec(&report) {
            let _ = timeout(STALL, writer.send(&frame)).await;
            // Closed with bytes unread, the connection would be reset, and the report lost.
            let unread = async { while let Some(Ok(_)) = reader.next().await {} };
            let _ = timeout(LINGER, unread).await;
        }
    }

    async fn take(
        &self,
        reader: &mut FrameReader,
        lacks: oneshot::Sender<Vec<u32>>,
    ) -> Result<Vote, String> {
        let _slot = self
            .slots
            .try_acquire()
            .map_err(|_| "others are being received")?;
        let Begin {
            vote,
            bytes,
            components,
        } = whole(&next(reader).await?).map_err(|error| error.to_string())?;
        if let Some(wrong) = wrong_vote(&vote).or((!vote.committed).then_some("it is of no leader"))
        {
            return Err(wrong.into());
        }
        let mine = self.vote();
        if mine > vote {
            return Ok(mine);
        }
        let disk = self.upkeep.disk.as_ref();
        let store = &self.upkeep.snapshots.components;
        let held = Arc::new(store.hold(components));
        let lacking: Vec<(u32, Needed)> = (0..)
            .zip(held.needed().iter().copied())
            .filter(|(_, needed)| !store.has(needed))
            .collect();
        // Whoever ends the connection is noticed by the next frame.
        let _ = lacks.send(lacking.iter().map(|(place, _)| *place).collect());
        for (_, needed) in lacking {
            if needed.bytes > MAX_COMPONENT_BYTES as u64 {
                return Err(format!("a component of {} bytes", needed.bytes));
            }
            let partial = store.partial();
            receive_file(disk, reader, partial.path(), needed.bytes).await?;
            let store = store.clone();
            let placed = disk::wait_for(disk, move || store.place_received(&partial, &needed));
            let placed = placed.await.flatten();
            placed.map_err(|error| format!("component {}: {error}", needed.digest))?;
        }
        let partial = self.upkeep.snapshots.partial();
        receive_file(disk, reader, partial.path(), bytes).await?;
        let checked = disk::wait_for(disk, move || partial.check(held)).await;
        let file = checked.map_err(|error| error.to_string())?;
        let file = file.map_err(|error| format!("it is damaged: {error}"))?;
        tracing::info!("installing a received snapshot of {bytes} bytes");
        let snapshot = Snapshot {
            meta: file.meta.clone(),
            snapshot: file,
        };
        // From here on it is openraft's, whatever becomes of the connection. The file goes with the last
        // who holds it, unless it was put in place.
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        installed
            .map(|response| response.vote)
            .map_err(|error| error.to_string())
    }

    fn vote(&self) -> Vote {
        use openraft::async_runtime::watch::WatchReceiver;
        self.raft.server_metrics().borrow_watched().vote
    }
}

async fn receive_file(
    disk: &dyn Disk,
    reader: &mut FrameReader,
    path: &Path,
    bytes: u64,
) -> Result<(), String> {
    let io = |error: std::io::Error| format!("cannot write it: {error}");
    let path = path.to_owned();
    let created = disk::wait_for(disk, move || File::create(path).map(Arc::new));
    let file = created.await.flatten().map_err(io)?;
    let mut left = bytes;
    while left > 0 {
        let piece = next(reader).await?;
        left = left
            .checked_sub(piece.len() as u64)
            .ok_or("it is longer than was said")?;
        let file = file.clone();
        let written = disk::wait_for(disk, move || (&*file).write_all(&piece));
        written.await.flatten().map_err(io)?;
    }
    Ok(())
}

async fn next(reader: &mut FrameReader) -> Result<bytes::Bytes, String> {
    match timeout(STALL, reader.next()).await {
        Ok(Some(Ok(frame))) => Ok(frame),
        Ok(Some(Err(error))) => Err(error.to_string()),
        Ok(None) => Err("the sender ended the connection".into()),
        Err(_) => Err(format!("the sender sent nothing for {STALL:?}")),
    }
}
