//! The log as openraft sees it: appended to in memory at once, on disk a moment later.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use super::index::Index;
use super::reader::LogReader;
use super::record::{self, ENTRY_PREFIX_BYTES, HEAD_BYTES, HEADER_BYTES, Kind, START_BYTES, Start};
use super::recover::segment_name;
use super::writer::{Op, Writer};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::health::HealthNote;
use crate::raft::{LogEntry, LogId, MembershipRecord, Payload, Types, Vote};

/// Bytes of records that may wait for the writer. At the bound `append` waits, and so does openraft.
const QUEUE_BYTES: usize = 64 << 20;

/// The kinds of payload in an entry's record.
pub(crate) const BLANK: u8 = 0;
pub(crate) const NORMAL: u8 = 1;
pub(crate) const MEMBERSHIP: u8 = 2;

/// What the store, its readers and its writer share.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Rung for the writer when there is something to do.
    work: Condvar,
    /// The same, for a writer that is a task.
    queued: Notify,
    /// Rung for `append` when the writer has taken what was queued.
    space: Notify,
    disk: Arc<dyn Disk>,
    cache_bytes: usize,
    health: HealthNote,
}

struct State {
    index: Index,
    ops: Vec<Op>,
    queued_bytes: usize,
    closed: bool,
    /// Why nothing more can be written.
    failed: Option<String>,
}

impl Shared {
    /// Runs `read` on the index.
    pub(crate) fn index<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        read(&self.state.lock().index)
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    /// Waits for what is queued; none once the log is closed and all of it was taken.
    pub(crate) fn await_ops(&self) -> Option<Vec<Op>> {
        let mut state = self.state.lock();
        while state.ops.is_empty() {
            if state.closed || state.failed.is_some() {
                return None;
            }
            self.work.wait(&mut state);
        }
        Some(self.take(state))
    }

    /// What is queued now.
    pub(crate) fn take_ops(&self) -> Vec<Op> {
        self.take(self.state.lock())
    }

    fn take(&self, mut state: MutexGuard<'_, State>) -> Vec<Op> {
        state.queued_bytes = 0;
        let ops = std::mem::take(&mut state.ops);
        drop(state);
        self.space.notify_waiters();
        ops
    }

    /// Waits until something may be queued, for a writer that has no thread.
    pub(crate) async fn queued(&self) {
        self.queued.notified().await;
    }

    /// The writer has written and synced everything up to `position`.
    pub(crate) fn synced(&self, position: u64) {
        self.state.lock().index.synced(position, self.cache_bytes);
    }

    /// The writer has made the file that begins at `base`.
    pub(crate) fn segment_made(&self, base: u64, file: Arc<std::fs::File>) {
        self.state.lock().index.segment_made(base, file);
    }

    /// The writer gives up.
    pub(crate) fn fail(&self, reason: &str) {
        self.state.lock().failed = Some(reason.to_owned());
        self.health.failed(reason.to_owned());
        self.space.notify_waiters();
    }

    /// The writer has panicked.
    pub(crate) fn panicked(&self) {
        self.health.panicked("the log's writer has panicked".into());
        self.fail("the log's writer has panicked");
    }
}

impl State {
    /// An error once a write has failed: a later write could succeed, and would have a hole before it.
    fn writable(&self) -> io::Result<()> {
        match &self.failed {
            Some(reason) => Err(io::Error::other(reason.clone())),
            None if self.closed => Err(io::Error::other("the log is closed")),
            None => Ok(()),
        }
    }
}

/// The writer at work. It is told to end when the last store goes.
struct AtWork {
    shared: Arc<Shared>,
    writer: Mutex<Option<WriterHandle>>,
}

enum WriterHandle {
    Thread(JoinHandle<()>),
    /// On a simulated disk.
    Task(AbortHandle),
}

impl AtWork {
    /// Ends the writer: a thread when everything queued is on disk, a task where it stands.
    fn end(&self) {
        self.shared.state.lock().closed = true;
        self.shared.work.notify_all();
        let panicked = match self.writer.lock().take() {
            Some(WriterHandle::Thread(thread)) => thread.join().is_err(),
            Some(WriterHandle::Task(task)) => {
                task.abort();
                false
            }
            None => false,
        };
        if panicked {
            self.shared.panicked();
        }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.end();
    }
}

/// The log. Cheap to clone; [`LogStore::close`] ends it for all clones.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    dir: PathBuf,
    server: u64,
    segment_bytes: u64,
    writer: Arc<AtWork>,
}

impl LogStore {
    /// Goes on with what was recovered or created in `dir`.
    pub(crate) fn start(
        index: Index,
        dir: &Path,
        server: u64,
        segment_bytes: u64,
        cache_bytes: usize,
        disk: Arc<dyn Disk>,
        health: HealthNote,
    ) -> Result<LogStore, OpenError> {
        let end = index.end;
        let last = index
            .last_segment()
            .and_then(|(base, last)| Some((base, last.file.clone()?)));
        let Some((base, file)) = last else {
            return Err(OpenError::LogDamaged {
                path: dir.to_owned(),
                offset: 0,
                found: "there is no log file".into(),
            });
        };
        let state = State {
            index,
            ops: Vec::new(),
            queued_bytes: 0,
            closed: false,
            failed: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            queued: Notify::new(),
            space: Notify::new(),
            disk,
            cache_bytes,
            health,
        });
        let writer = Writer::new(shared.clone(), dir, file, base, end);
        let writer = if shared.disk.pace().is_some() {
            WriterHandle::Task(tokio::spawn(writer.run_as_task()).abort_handle())
        } else {
            let thread = std::thread::Builder::new().name("quorate-log".into());
            let thread = thread.spawn(|| writer.run());
            WriterHandle::Thread(thread.map_err(OpenError::io("start a thread for", dir))?)
        };
        let writer = Arc::new(AtWork {
            shared: shared.clone(),
            writer: Mutex::new(Some(writer)),
        });
        Ok(LogStore {
            shared,
            dir: dir.to_owned(),
            server,
            segment_bytes,
            writer,
        })
    }

    /// Writes what is queued, and says in the log that it was closed in order. Blocks meanwhile.
    pub(crate) fn close(&self) {
        self.writer.end();
    }

    /// A reader.
    pub(crate) fn reader(&self) -> LogReader {
        LogReader::new(self.shared.clone())
    }

    /// Bytes of the log's files.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.shared.index(Index::file_bytes)
    }

    /// The index up to which the log can be purged so that about `bytes` stay behind `upto`.
    pub(crate) fn purge_point(&self, upto: u64, bytes: u64) -> Option<u64> {
        self.shared
            .index(|index| index.index_with_bytes_behind(upto, bytes))
    }

    /// Queues ops, under the lock that also changes the index.
    fn enqueue(&self, queue: impl FnOnce(&mut State) -> Result<(), String>) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.writable()?;
        queue(&mut state).map_err(io::Error::other)?;
        drop(state);
        self.shared.work.notify_one();
        self.shared.queued.notify_one();
        Ok(())
    }

    /// Gives a record of `body_bytes` its place, in a new file if the last one is full.
    fn place(&self, state: &mut State, body_bytes: usize) -> u64 {
        let base = state.index.last_segment().map_or(0, |(base, _)| base);
        if state.index.end - base >= self.segment_bytes {
            let base = state.index.end;
            let start = Start {
                server: self.server,
                vote: state.index.vote,
                purged: state.index.purged,
            };
            state.ops.push(Op::Roll {
                start: start.encode(),
            });
            state
                .index
                .add_segment(base, self.dir.join(segment_name(base)));
            state.index.end = base + (HEAD_BYTES + HEADER_BYTES + START_BYTES) as u64;
        }
        let position = state.index.end;
        state.index.end += (HEADER_BYTES + body_bytes) as u64;
        state.queued_bytes += HEADER_BYTES + body_bytes;
        position
    }

    fn put(&self, state: &mut State, kind: Kind, body: Vec<u8>) {
        self.place(state, body.len());
        state.ops.push(Op::Record { kind, body });
    }

    /// Waits until the writer has room.
    async fn room(&self) {
        loop {
            let taken = self.shared.space.notified();
            let full = {
                let state = self.shared.state.lock();
                state.queued_bytes >= QUEUE_BYTES && state.failed.is_none()
            };
            if !full {
                return;
            }
            taken.await;
        }
    }
}

/// An entry's payload as it stands in its record.
fn payload_bytes(payload: &Payload) -> Result<(u8, Bytes), String> {
    Ok(match payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(command) => (NORMAL, command.bytes()),
        EntryPayload::Membership(membership) => {
            let record = MembershipRecord::from(membership);
            let bytes = postcard::to_stdvec(&record).map_err(|error| error.to_string())?;
            (MEMBERSHIP, bytes.into())
        }
    })
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        Ok(self.shared.index(|index| LogState {
            last_purged_log_id: index.purged,
            last_log_id: index.last(),
        }))
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (synced, waiting) = oneshot::channel();
        self.enqueue(|state| {
            state.index.vote = Some(*vote);
            self.put(state, Kind::Vote, record::vote_bytes(Some(vote)).to_vec());
            state.ops.push(Op::Synced(synced));
            Ok(())
        })?;
        waiting
            .await
            .map_err(|_| io::Error::other("the log's writer has stopped"))?
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.room().await;
        self.enqueue(|state| {
            for entry in entries {
                let (kind, payload) = payload_bytes(&entry.payload)?;
                let length = ENTRY_PREFIX_BYTES + payload.len();
                let position = self.place(state, length);
                let id = entry.log_id;
                state
                    .index
                    .push(id, position, length as u32, Some(entry.payload))?;
                state.ops.push(Op::Entry { id, kind, payload });
            }
            state.ops.push(Op::Flushed(flushed));
            Ok(())
        })
    }

    async fn truncate_after(&mut self, keep: Option<LogId>) -> Result<(), io::Error> {
        self.enqueue(|state| {
            state.index.truncate_after(keep);
            let body = keep.map_or(Vec::new(), |keep| record::log_id_bytes(keep).to_vec());
            self.put(state, Kind::Truncate, body);
            Ok(())
        })
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.enqueue(|state| {
            state.index.purge(upto);
            self.put(state, Kind::Purge, record::log_id_bytes(upto).to_vec());
            let obsolete = state.index.take_obsolete();
            if !obsolete.is_empty() {
                state.ops.push(Op::Remove(obsolete));
            }
            Ok(())
        })
    }
}
