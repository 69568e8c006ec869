//! The thread that writes the log. What is queued while it syncs goes out with its next sync.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::record::{self, Kind, START_BYTES};
use super::recover::{make_segment, segment_name, sync_dir};
use super::store::Shared;
use crate::raft::{LogId, Types};

/// Encoded records are written out beyond this many bytes, within one sync, so that the buffer stays small.
const BUFFER_BYTES: usize = 4 << 20;

/// What the writer is asked to do, in order.
pub(crate) enum Op {
    /// Write an entry's record.
    Entry { id: LogId, kind: u8, payload: Bytes },
    /// Write another record.
    Record { kind: Kind, body: Vec<u8> },
    /// Close the file, and begin the next one.
    Roll { start: [u8; START_BYTES] },
    /// Tell openraft when all before is on disk.
    Flushed(IOFlushed<Types>),
    /// Tell whoever waits when all before is on disk.
    Synced(oneshot::Sender<io::Result<()>>),
    /// Remove files that hold nothing needed any more, when all before is on disk.
    Remove(Vec<PathBuf>),
}

/// The writer's own view of where it is.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    dir: PathBuf,
    file: Arc<std::fs::File>,
    /// The position of the file's first byte.
    base: u64,
    /// Where the next record goes; all before it is written, or in the buffer.
    end: u64,
    /// Everything before is on disk.
    synced: u64,
    buffer: Vec<u8>,
    /// The files that were removed last may still be going.
    removing: Option<JoinHandle<()>>,
}

impl Writer {
    /// A writer that goes on at the end of `file`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        dir: &Path,
        file: Arc<std::fs::File>,
        base: u64,
        end: u64,
    ) -> Writer {
        Writer {
            shared,
            dir: dir.to_owned(),
            file,
            base,
            end,
            synced: end,
            buffer: Vec::new(),
            removing: None,
        }
    }

    /// Writes until the log is closed or a write fails.
    pub(crate) fn run(mut self) {
        let shared = self.shared.clone();
        if catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
            shared.panicked();
        }
        self.await_removal();
    }

    /// The same without a thread: on a simulated disk, each turn takes the time that the disk says.
    pub(crate) async fn run_as_task(mut self) {
        let shared = self.shared.clone();
        while let Some(time) = shared.disk().pace() {
            shared.queued().await;
            tokio::time::sleep(time).await;
            if !self.turn(shared.take_ops()) {
                return;
            }
        }
    }

    fn work(&mut self) {
        while let Some(ops) = self.shared.await_ops() {
            if !self.turn(ops) {
                return;
            }
        }
        if let Err(error) = self.close() {
            tracing::warn!("the log was not closed in order: {error}");
        }
    }

    /// Writes, syncs, and says so; whether the log can be written further.
    fn turn(&mut self, mut ops: Vec<Op>) -> bool {
        if let Err(error) = self.write(&ops) {
            let reason = format!(
                "cannot write the log in {}: {error}; nothing more is acknowledged",
                self.dir.display()
            );
            self.shared.fail(&reason);
            ops.extend(self.shared.take_ops());
            for op in ops {
                report(op, || Err(io::Error::new(error.kind(), reason.clone())));
            }
            return false;
        }
        self.shared.synced(self.end);
        self.finish(ops);
        true
    }

    /// Writes and syncs what the ops ask for.
    fn write(&mut self, ops: &[Op]) -> io::Result<()> {
        for op in ops.iter() {
            match op {
                Op::Entry { id, kind, payload } => {
                    let (end, synced) = (self.end, self.synced);
                    let id = record::log_id_bytes(*id);
                    self.put(end, synced, Kind::Entry, &[&id, &[*kind], payload])?;
                }
                Op::Record { kind, body } => {
                    let (end, synced) = (self.end, self.synced);
                    self.put(end, synced, *kind, &[body])?;
                }
                Op::Roll { start } => self.roll(start)?,
                Op::Flushed(_) | Op::Synced(_) | Op::Remove(_) => {}
            }
        }
        self.sync()
    }

    fn put(&mut self, at: u64, synced: u64, kind: Kind, parts: &[&[u8]]) -> io::Result<()> {
        let before = self.buffer.len();
        record::encode(&mut self.buffer, at, synced, kind, parts);
        self.end += (self.buffer.len() - before) as u64;
        if self.buffer.len() >= BUFFER_BYTES {
            self.write_out()
        } else {
            Ok(())
        }
    }

    fn write_out(&mut self) -> io::Result<()> {
        let offset = self.end - self.buffer.len() as u64 - self.base;
        self.shared.disk().write(&self.file, &self.buffer, offset)?;
        self.buffer.clear();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.end == self.synced {
            return Ok(());
        }
        self.write_out()?;
        self.shared.disk().sync(&self.file)?;
        self.synced = self.end;
        self.buffer.shrink_to(BUFFER_BYTES);
        Ok(())
    }

    /// The file is on disk before the next one begins, so damage in any but the last is never a torn tail.
    fn roll(&mut self, start: &[u8; START_BYTES]) -> io::Result<()> {
        self.sync()?;
        let path = self.dir.join(segment_name(self.end));
        self.base = self.end;
        (self.file, self.end) = make_segment(&path, self.base, start, self.shared.disk())?;
        self.synced = self.end;
        self.shared.segment_made(self.base, self.file.clone());
        Ok(())
    }

    /// Everything is on disk: says so to whoever waits.
    fn finish(&mut self, ops: Vec<Op>) {
        // openraft takes a later completion for all earlier ones, and each one it takes costs it a
        // turn, so of the completions of one sync only the last is given.
        let mut last = None;
        for op in ops {
            match op {
                Op::Flushed(flushed @ IOFlushed::Notify(_)) => last = Some(flushed),
                Op::Remove(paths) => self.remove(paths),
                op => report(op, || Ok(())),
            }
        }
        if let Some(last) = last {
            last.io_completed(Ok(()));
        }
    }

    /// Removes files beside the writing: a large file takes the system tens of milliseconds.
    fn remove(&mut self, paths: Vec<PathBuf>) {
        // Oldest first, or a start would find a gap.
        self.await_removal();
        if self.shared.disk().pace().is_none() {
            let thread = std::thread::Builder::new().name("log-removal".into());
            let (paths, dir) = (paths.clone(), self.dir.clone());
            if let Ok(removing) = thread.spawn(move || remove_files(&paths, &dir)) {
                self.removing = Some(removing);
                return;
            }
        }
        remove_files(&paths, &self.dir);
    }

    fn await_removal(&mut self) {
        if let Some(removing) = self.removing.take()
            && removing.join().is_err()
        {
            tracing::warn!("removing files of the log panicked");
        }
    }

    /// Says that all is on disk, so that at the next start damage anywhere is known for what it is.
    fn close(&mut self) -> io::Result<()> {
        let end = self.end;
        self.put(end, end, Kind::Close, &[])?;
        self.sync()
    }
}

/// A file that stays is no harm: the next start reads it and finds it obsolete again.
fn remove_files(paths: &[PathBuf], dir: &Path) {
    for path in paths {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!("cannot remove the log file {}: {error}", path.display());
        }
    }
    if let Err(error) = sync_dir(dir) {
        tracing::warn!("cannot sync {}: {error}", dir.display());
    }
}

fn report(op: Op, result: impl FnOnce() -> io::Result<()>) {
    match op {
        Op::Flushed(flushed) => flushed.io_completed(result()),
        // Whoever no longer waits does not need it.
        Op::Synced(waiting) => drop(waiting.send(result())),
        Op::Entry { .. } | Op::Record { .. } | Op::Roll { .. } | Op::Remove(_) => {}
    }
}
