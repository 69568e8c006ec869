//! Snapshots on disk: written beside the old one, synced, renamed into place; read back chunk by chunk.
//! One that a peer sends is a copy of its file, and is put in place the same way.
//!
//! A file begins with a head of 16 bytes (magic, version, four zero bytes), then come frames, integers
//! little-endian: kind (1), length of the body (4), CRC-32 of the frame's number, kind, length and body
//! (4), body. The first frame says which instant the snapshot is of, and which components it needs
//! ([`crate::components`]); the last one how many chunks there are.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_model::recipe::{Component, RecipeDigest};
use serde::{Deserialize, Serialize};

use crate::components::{ComponentStore, Held, Needed};
use crate::error::OpenError;
use crate::log::recover::sync_dir;
use crate::raft::{LogId, MembershipRecord, SnapshotMeta, StoredMembership, log_id};

/// The format version of a snapshot file that this build writes, and the only one it reads.
pub(crate) const SNAPSHOT_VERSION: u32 = 3;

/// The largest chunk.
pub const MAX_CHUNK_BYTES: usize = 16 << 20;

/// So much is written between two syncs: the log's own syncs wait for what the disk has been given before them.
pub(crate) const SYNC_BYTES: u64 = 1 << 20;

/// So much of an old snapshot is given back to the file system at once.
const REMOVE_BYTES: u64 = 8 << 20;

/// Between two such steps.
const REMOVE_REST: Duration = Duration::from_millis(10);

const MAGIC: [u8; 8] = *b"quorsnap";
const HEAD_BYTES: usize = 16;
const FRAME_BYTES: usize = 9;

const META: u8 = 1;
const CHUNK: u8 = 2;
const END: u8 = 3;

/// The first frame: what raft itself remembers, of the same instant as the state (rule N1).
#[derive(Serialize, Deserialize)]
struct Instant {
    last: Option<(u64, u64)>,
    membership_at: Option<(u64, u64)>,
    membership: MembershipRecord,
    components: Vec<Needed>,
}

impl Instant {
    fn of(meta: &SnapshotMeta, components: Vec<Needed>) -> Instant {
        let pair = |id: &LogId| (id.leader_id.term, id.index);
        Instant {
            last: meta.last_log_id.as_ref().map(pair),
            membership_at: meta.last_membership.log_id().as_ref().map(pair),
            membership: meta.last_membership.membership().into(),
            components,
        }
    }

    fn meta(self) -> Result<(SnapshotMeta, Vec<Needed>), String> {
        let id = |(term, index)| log_id(term, index);
        let membership = self.membership.membership()?;
        let meta = SnapshotMeta {
            last_log_id: self.last.map(id),
            last_membership: StoredMembership::new(self.membership_at.map(id), membership),
        };
        Ok((meta, self.components))
    }
}

/// A whole snapshot on disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct SnapshotFile {
    pub(crate) path: PathBuf,
    pub(crate) meta: SnapshotMeta,
    /// Without its components.
    pub(crate) bytes: u64,
    /// None for the snapshot of nothing.
    pub(crate) components: Option<Arc<Held>>,
    /// Of a received one: the file goes when nobody holds it any more, unless it was put in place.
    _partial: Option<Arc<Partial>>,
    /// Counts who may read the file.
    users: Arc<()>,
}

/// A file that is not a snapshot yet. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Partial(PathBuf);

impl Partial {
    pub(crate) fn new(path: PathBuf) -> Partial {
        Partial(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the file from its start to its end, with all of its checksums, and makes it durable. The components
    /// that it needs must be those that are held.
    pub(crate) fn check(self, components: Arc<Held>) -> io::Result<SnapshotFile> {
        let (chunks, meta, needed) = Chunks::open(&self.0)?;
        for chunk in chunks {
            chunk?;
        }
        if meta.last_log_id.is_none() {
            return Err(damaged("it is of no instant".into()));
        }
        if needed != components.needed() {
            return Err(damaged("it needs other components than was said".into()));
        }
        let file = File::open(&self.0)?;
        file.sync_all()?;
        Ok(SnapshotFile {
            path: self.0.clone(),
            meta,
            bytes: file.metadata()?.len(),
            components: Some(components),
            _partial: Some(Arc::new(self)),
            users: Arc::default(),
        })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // It may have been put in place, or never have been made; a start removes it too.
        let _ = fs::remove_file(&self.0);
    }
}

impl SnapshotFile {
    /// Its chunks, each checked as it is read.
    pub(crate) fn chunks(&self) -> io::Result<Chunks> {
        let (chunks, ..) = Chunks::open(&self.path)?;
        Ok(chunks)
    }

    /// The components that it needs.
    pub(crate) fn needed(&self) -> &[Needed] {
        self.components.as_ref().map_or(&[], |held| held.needed())
    }
}

/// The directory of snapshots.
pub(crate) struct SnapshotStore {
    dir: PathBuf,
    pub(crate) components: Arc<ComponentStore>,
    /// The newest whole one. Locked for a moment only: `apply` asks for it.
    current: Mutex<Option<SnapshotFile>>,
    /// Held while one is put in place, so that two are not at once.
    placing: Mutex<()>,
    /// How many were begun to be received since the start.
    received: AtomicU64,
}

impl SnapshotStore {
    /// Finds the newest snapshot, and removes what was left half-written.
    pub(crate) fn open(dir: &Path) -> Result<SnapshotStore, OpenError> {
        let mut newest: Option<(LogId, PathBuf)> = None;
        for entry in fs::read_dir(dir).map_err(OpenError::io("read", dir))? {
            let path = entry.map_err(OpenError::io("read", dir))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "partial")
            {
                fs::remove_file(&path).map_err(OpenError::io("remove", &path))?;
                continue;
            }
            if ComponentStore::is_component(&path) {
                continue;
            }
            let id = parse_name(&path).ok_or_else(|| OpenError::Foreign {
                path: path.clone(),
                found: "its name is not that of a snapshot".into(),
            })?;
            if newest.as_ref().is_none_or(|(newest, _)| *newest < id) {
                newest = Some((id, path));
            }
        }
        let store = SnapshotStore {
            dir: dir.to_owned(),
            components: ComponentStore::new(dir),
            current: Mutex::default(),
            placing: Mutex::default(),
            received: AtomicU64::new(0),
        };
        if let Some((id, path)) = newest {
            let (meta, needed) = read_meta(&path)?;
            if meta.last_log_id != Some(id) {
                let found = "its name and its content are of different instants".into();
                return Err(OpenError::SnapshotDamaged { path, found });
            }
            let bytes = fs::metadata(&path)
                .map_err(OpenError::io("read", &path))?
                .len();
            *store.current.lock() = Some(SnapshotFile {
                path,
                meta,
                bytes,
                components: Some(Arc::new(store.components.hold(needed))),
                _partial: None,
                users: Arc::default(),
            });
        }
        let swept = store.components.sweep();
        swept.map_err(OpenError::io("tidy up", dir))?;
        Ok(store)
    }

    /// The newest whole snapshot.
    pub(crate) fn current(&self) -> Option<SnapshotFile> {
        self.current.lock().clone()
    }

    /// The newest snapshot's size in bytes; 0 for none.
    pub(crate) fn current_bytes(&self) -> u64 {
        self.current
            .lock()
            .as_ref()
            .map_or(0, |current| current.bytes)
    }

    /// Begins a snapshot of `meta`'s instant, which needs these components.
    pub(crate) fn begin(
        &self,
        meta: SnapshotMeta,
        components: Vec<(RecipeDigest, Component)>,
    ) -> io::Result<Writing> {
        let needed: Vec<Needed> = components.iter().map(Needed::of).collect();
        let held = Arc::new(self.components.hold(needed.clone()));
        let partial = Partial(self.dir.join(format!("{}.partial", name(&meta))));
        let mut out = FrameWriter {
            file: BufWriter::with_capacity(1 << 20, File::create(partial.path())?),
            number: 0,
            bytes: 0,
            synced: 0,
        };
        out.head()?;
        let instant = postcard::to_stdvec(&Instant::of(&meta, needed)).map_err(io::Error::other)?;
        out.frame(META, &instant)?;
        Ok(Writing {
            partial,
            meta,
            out,
            chunks: 0,
            components,
            held,
        })
    }

    /// Makes a snapshot that was written to its end durable, and puts it in place.
    pub(crate) fn finish(&self, mut writing: Writing) -> io::Result<SnapshotFile> {
        while self.write_component(&mut writing)? {}
        writing.out.frame(END, &writing.chunks.to_le_bytes())?;
        writing.out.file.flush()?;
        writing.out.file.get_ref().sync_all()?;
        let partial = writing.partial.path();
        self.place(partial, &writing.meta, writing.out.bytes, &writing.held)
    }

    /// Writes the next component that is not on disk, if there is one. They come behind the chunks: what changes
    /// meanwhile need not wait for them any more.
    pub(crate) fn write_component(&self, writing: &mut Writing) -> io::Result<bool> {
        while let Some((digest, component)) = writing.components.pop() {
            let needed = Needed::of(&(digest, component.clone()));
            if !self.components.has(&needed) {
                self.components.write(&digest, &component)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts a whole and synced file in place, and removes the older ones.
    fn place(
        &self,
        from: &Path,
        meta: &SnapshotMeta,
        bytes: u64,
        components: &Arc<Held>,
    ) -> io::Result<SnapshotFile> {
        let _placing = self.placing.lock();
        if let Some(current) = self.current()
            && current.meta.last_log_id >= meta.last_log_id
        {
            fs::remove_file(from)?;
            return Ok(current);
        }
        let path = self.dir.join(name(meta));
        fs::rename(from, &path)?;
        sync_dir(&self.dir)?;
        let file = SnapshotFile {
            path,
            meta: meta.clone(),
            bytes,
            components: Some(components.clone()),
            _partial: None,
            users: Arc::default(),
        };
        let old = self.current.lock().replace(file.clone());
        // Nobody gets at it any more who has not got it.
        let read = old.filter(|old| Arc::strong_count(&old.users) > 1);
        let read = read.map(|old| old.path);
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path != file.path && parse_name(&path).is_some() {
                match read.as_ref() == Some(&path) {
                    true => fs::remove_file(path)?,
                    false => remove_in_steps(&path)?,
                }
            }
        }
        self.components.sweep()?;
        Ok(file)
    }

    /// A name for a file that is about to be received.
    pub(crate) fn partial(&self) -> Partial {
        let number = self.received.fetch_add(1, Ordering::Relaxed);
        Partial(self.dir.join(format!("received-{number}.partial")))
    }

    /// Takes a snapshot that was received from a peer into the directory, if it is not there already.
    pub(crate) fn adopt(&self, received: &SnapshotFile) -> io::Result<()> {
        if self
            .current()
            .is_some_and(|current| current.path == received.path)
        {
            return Ok(());
        }
        let components = received
            .components
            .as_ref()
            .ok_or_else(|| damaged("it is of no instant".into()))?;
        self.place(&received.path, &received.meta, received.bytes, components)
            .map(|_| ())
    }
}

/// Removes a file that nobody reads. While a large one goes at once, the file system lets every sync wait: for
/// 170 MiB, 40 ms were measured on ext4, and none above the usual in steps.
fn remove_in_steps(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let mut left = file.metadata()?.len();
    while left > REMOVE_BYTES {
        left -= REMOVE_BYTES;
        file.set_len(left)?;
        std::thread::sleep(REMOVE_REST);
    }
    fs::remove_file(path)
}

fn name(meta: &SnapshotMeta) -> String {
    let (term, index) = meta
        .last_log_id
        .map_or((0, 0), |id| (id.leader_id.term, id.index));
    format!("{index:020}-{term:020}.snapshot")
}

fn parse_name(path: &Path) -> Option<LogId> {
    let name = path.file_name()?.to_str()?.strip_suffix(".snapshot")?;
    let (index, term) = name.split_once('-')?;
    if index.len() != 20 || term.len() != 20 {
        return None;
    }
    Some(log_id(term.parse().ok()?, index.parse().ok()?))
}

/// A snapshot that is being written. Dropped before its end, its file is removed.
pub(crate) struct Writing {
    partial: Partial,
    meta: SnapshotMeta,
    out: FrameWriter,
    chunks: u64,
    /// Not looked at yet.
    components: Vec<(RecipeDigest, Component)>,
    held: Arc<Held>,
}

impl Writing {
    /// Writes the next chunk.
    pub(crate) fn chunk(&mut self, chunk: &[u8]) -> io::Result<()> {
        if chunk.is_empty() || chunk.len() > MAX_CHUNK_BYTES {
            let length = chunk.len();
            return Err(io::Error::other(format!(
                "the state gave a chunk of {length} bytes; 1 to {MAX_CHUNK_BYTES} are allowed"
            )));
        }
        self.chunks += 1;
        self.out.frame(CHUNK, chunk)
    }
}

fn head_bytes() -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
    head
}

struct FrameWriter {
    file: BufWriter<File>,
    number: u64,
    bytes: u64,
    synced: u64,
}

impl FrameWriter {
    fn head(&mut self) -> io::Result<()> {
        self.file.write_all(&head_bytes())?;
        self.bytes += HEAD_BYTES as u64;
        Ok(())
    }

    fn frame(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        self.file.write_all(&[kind])?;
        self.file.write_all(&(body.len() as u32).to_le_bytes())?;
        self.file
            .write_all(&frame_sum(self.number, kind, body).to_le_bytes())?;
        self.file.write_all(body)?;
        self.number += 1;
        self.bytes += (FRAME_BYTES + body.len()) as u64;
        if self.bytes - self.synced >= SYNC_BYTES {
            self.file.flush()?;
            self.file.get_ref().sync_data()?;
            self.synced = self.bytes;
        }
        Ok(())
    }
}

fn frame_sum(number: u64, kind: u8, body: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&number.to_le_bytes());
    sum.update(&[kind]);
    sum.update(&(body.len() as u32).to_le_bytes());
    sum.update(body);
    sum.finalize()
}

/// Reads the instant that a snapshot is of, and what it needs.
fn read_meta(path: &Path) -> Result<(SnapshotMeta, Vec<Needed>), OpenError> {
    let damaged = |error: io::Error| OpenError::SnapshotDamaged {
        path: path.to_owned(),
        found: error.to_string(),
    };
    let mut head = [0; HEAD_BYTES];
    let mut file = File::open(path).map_err(OpenError::io("open", path))?;
    file.read_exact(&mut head).map_err(damaged)?;
    let found = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    if head[..8] == MAGIC && found != SNAPSHOT_VERSION && head[12..] == [0; 4] {
        let reads = SNAPSHOT_VERSION;
        return Err(OpenError::Version {
            path: path.to_owned(),
            found,
            reads,
        });
    }
    let (_, meta, needed) = Chunks::open(path).map_err(damaged)?;
    Ok((meta, needed))
}

/// The chunks of a snapshot file.
pub(crate) struct Chunks {
    file: BufReader<File>,
    number: u64,
    ended: bool,
}

impl Chunks {
    fn open(path: &Path) -> io::Result<(Chunks, SnapshotMeta, Vec<Needed>)> {
        let file = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut chunks = Chunks {
            file,
            number: 0,
            ended: false,
        };
        let mut head = [0; HEAD_BYTES];
        chunks.file.read_exact(&mut head)?;
        if head != head_bytes() {
            return Err(damaged("it does not begin as a snapshot does".into()));
        }
        let (kind, body) = chunks.frame()?;
        if kind != META {
            return Err(damaged("it does not say which instant it is of".into()));
        }
        let instant: Instant =
            postcard::from_bytes(&body).map_err(|error| damaged(error.to_string()))?;
        let (meta, needed) = instant.meta().map_err(damaged)?;
        Ok((chunks, meta, needed))
    }

    fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let number = self.number;
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged(format!("it ends within frame {number}")),
            _ => error,
        };
        let mut header = [0; FRAME_BYTES];
        self.file.read_exact(&mut header).map_err(cut)?;
        let [kind, l0, l1, l2, l3, s0, s1, s2, s3] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_CHUNK_BYTES {
            return Err(damaged(format!("frame {number} claims {length} bytes")));
        }
        let mut body = vec![0; length];
        self.file.read_exact(&mut body).map_err(cut)?;
        if frame_sum(number, kind, &body) != u32::from_le_bytes([s0, s1, s2, s3]) {
            return Err(damaged(format!("the checksum of frame {number} is wrong")));
        }
        self.number += 1;
        Ok((kind, body))
    }

    fn step(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.frame()? {
            (CHUNK, body) => Ok(Some(body)),
            (END, body) if body == (self.number - 2).to_le_bytes() => {
                match self.file.read(&mut [0])? {
                    0 => Ok(None),
                    _ => Err(damaged("something stands behind its end".into())),
                }
            }
            (END, _) => Err(damaged("chunks are missing".into())),
            (kind, _) => Err(damaged(format!(
                "it has a frame of the unknown kind {kind}"
            ))),
        }
    }
}

pub(crate) fn damaged(found: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, found)
}

impl Iterator for Chunks {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        if self.ended {
            return None;
        }
        let step = self.step().transpose();
        self.ended = !matches!(step, Some(Ok(_)));
        step
    }
}
