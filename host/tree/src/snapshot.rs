//! Snapshots without a pause (rules N1 and N2).
//!
//! The writer walks the tables a chunk at a time while `apply` goes on. Every record carries the
//! number of the last snapshot that covered it. What is about to change and is not covered yet is
//! written out first; what was created since is born covered. Child lists and indexes are not
//! stored: they are rebuilt.
//!
//! A component's bytes are not among the chunks. They never change, so they are kept beside the snapshots, once for
//! all that need them: [`State::begin_snapshot`] gives them.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quorate_model::acl::Acl;
use quorate_model::call::{Answer, ParkedCall};
use quorate_model::id::{CallId, SessionId, Timestamp, Zxid};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Component, Mount, Recipe, RecipeDigest, Upload};
use quorate_model::write_set::{ENSEMBLE_VERSION, FORMAT_VERSION, TooNew};
use quorate_model::znode::{Lifetime, Stat};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::apply::{call_indexes, index_lifetime};
use crate::digest::Digest;
use crate::nodes::Slot;
use crate::state::{IndexKey, Piece, Session, State, answer_bytes};
use crate::table::Kept;

/// How many bytes one chunk has at least, if so much is left: large enough to write in one go,
/// small enough that the state's lock is held for about a millisecond.
const CHUNK_BYTES: usize = 128 << 10;

/// How many records are looked at for one chunk, covered ones included.
const CHUNK_RECORDS: usize = 4096;

/// How many pieces of uploads are.
const PIECES_AT_ONCE: usize = 1;

/// How many records are looked at before the chunk's size is looked at again.
const COVER_AT_ONCE: usize = 256;

/// One record of a snapshot. Order does not matter but for `Head`, first, and `End`, last.
#[derive(Serialize, Deserialize)]
pub(crate) enum Record<'a> {
    Head {
        version: u32,
        epoch: u32,
        counter: u32,
        time: Timestamp,
        sequence_floor: u64,
        ensemble_version: u32,
    },
    Node {
        slot: Slot,
        parent: Slot,
        name: Cow<'a, str>,
        stat: Stat,
        acl: Cow<'a, Acl>,
        data: Bytes,
    },
    Session(SessionId, Session),
    Answer(CallId, Cow<'a, Answer>),
    Parked(Cow<'a, ParkedCall>),
    Upload(Cow<'a, Upload>),
    Piece(RecipeDigest, u32, Bytes),
    /// Its digest, and how many bytes it has.
    Component(RecipeDigest, u64),
    Recipe(Cow<'a, Recipe>),
    Mount(Cow<'a, Mount>),
    End {
        records: u64,
        digest: Digest,
    },
}

impl Kept<SessionId> for Session {
    fn record(&self, id: &SessionId) -> Record<'_> {
        Record::Session(*id, *self)
    }
}

impl Kept<CallId> for Answer {
    fn record(&self, call: &CallId) -> Record<'_> {
        Record::Answer(*call, Cow::Borrowed(self))
    }
}

impl Kept<CallId> for ParkedCall {
    fn record(&self, _: &CallId) -> Record<'_> {
        Record::Parked(Cow::Borrowed(self))
    }
}

impl Kept<RecipeDigest> for Upload {
    fn record(&self, _: &RecipeDigest) -> Record<'_> {
        Record::Upload(Cow::Borrowed(self))
    }
}

impl Kept<(RecipeDigest, u32)> for Piece {
    fn record(&self, (digest, index): &(RecipeDigest, u32)) -> Record<'_> {
        Record::Piece(*digest, *index, self.bytes.clone())
    }

    fn hash(&self, _: &(RecipeDigest, u32)) -> u64 {
        self.hash
    }
}

impl Kept<RecipeDigest> for Component {
    fn record(&self, digest: &RecipeDigest) -> Record<'_> {
        Record::Component(*digest, self.bytes())
    }
}

impl Kept<String> for Recipe {
    fn record(&self, _: &String) -> Record<'_> {
        Record::Recipe(Cow::Borrowed(self))
    }
}

impl Kept<ZnodePath> for Mount {
    fn record(&self, _: &ZnodePath) -> Record<'_> {
        Record::Mount(Cow::Borrowed(self))
    }
}

/// A snapshot being written.
pub(crate) struct Progress {
    /// Chunks not yet taken by the writer.
    ready: VecDeque<Vec<u8>>,
    ready_bytes: usize,
    /// The chunk that the next record goes into.
    buffer: Vec<u8>,
    records: u64,
    digest: Digest,
    walk: Walk,
}

/// What the writer looks at next; everything before is covered.
enum Walk {
    /// First, so that the end of an upload, which takes all of its pieces away, finds them covered.
    Pieces(Option<(RecipeDigest, u32)>),
    Uploads(Option<RecipeDigest>),
    Nodes(Slot),
    Sessions(Option<SessionId>),
    Answers(Option<CallId>),
    Parked(Option<CallId>),
    Components(Option<RecipeDigest>),
    Recipes(Option<String>),
    Mounts(Option<ZnodePath>),
    End,
    Done,
}

/// Why bytes are no snapshot that this build reads.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// It was written by another build, of another form.
    #[error("the snapshot has format version {found}; this build reads version {FORMAT_VERSION}")]
    UnknownVersion {
        /// What stands in it.
        found: u32,
    },
    /// Its ensemble went on to what this build does not read.
    #[error(transparent)]
    TooNew(#[from] TooNew),
    /// It is damaged, or not one.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// It was written from a state that was damaged, in memory or by a defect.
    #[error(
        "the snapshot's state is damaged: its digest is {found}, and its records' is {counted}. Remove the data \
         directory of the server that wrote it, and let that server join again under a new id"
    )]
    StateDamaged {
        /// At its end.
        found: Digest,
        /// Of what it holds.
        counted: Digest,
    },
}

impl State {
    /// Begins a snapshot of exactly this state. One that was being written is given up. Gives the components that
    /// [`State::load`] needs beside the chunks.
    pub fn begin_snapshot(&mut self) -> Vec<(RecipeDigest, Component)> {
        if self.mark == u8::MAX {
            self.mark = 0;
            self.nodes.marks.fill(0);
            self.sessions.reset_marks();
            self.answers.reset_marks();
            self.calls.reset_marks();
            self.uploads.reset_marks();
            self.pieces.reset_marks();
            self.components.reset_marks();
            self.recipes.reset_marks();
            self.mounts.reset_marks();
        }
        self.mark += 1;
        let mut progress = Progress {
            ready: VecDeque::new(),
            ready_bytes: 0,
            buffer: Vec::new(),
            records: 0,
            digest: self.digest(),
            walk: Walk::Pieces(None),
        };
        progress.push(&Record::Head {
            version: FORMAT_VERSION,
            epoch: self.epoch,
            counter: self.counter,
            time: self.time,
            sequence_floor: self.sequence_floor,
            ensemble_version: self.version,
        });
        self.snapshot = Some(progress);
        self.components()
            .map(|(digest, component)| (*digest, component.clone()))
            .collect()
    }

    /// Gives up the snapshot being written.
    pub fn abandon_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// How many bytes of the snapshot wait for the writer: `apply` puts them there when it changes what is not covered.
    pub fn snapshot_backlog(&self) -> usize {
        self.snapshot
            .as_ref()
            .map_or(0, |progress| progress.ready_bytes + progress.buffer.len())
    }

    /// The next whole records of the snapshot; none when it has ended, or none was begun.
    pub fn snapshot_chunk(&mut self) -> Option<Vec<u8>> {
        let mut progress = self.snapshot.take()?;
        let mut looked_at = 0;
        while progress.ready.is_empty() && (looked_at < CHUNK_RECORDS || progress.buffer.is_empty())
        {
            match self.cover(&mut progress, COVER_AT_ONCE) {
                0 => break,
                count => looked_at += count,
            }
        }
        let chunk = match progress.ready.pop_front() {
            Some(chunk) => {
                progress.ready_bytes -= chunk.len();
                chunk
            }
            None if progress.buffer.is_empty() && matches!(progress.walk, Walk::Done) => {
                return None;
            }
            None => std::mem::take(&mut progress.buffer),
        };
        self.snapshot = Some(progress);
        Some(chunk)
    }

    /// Writes out what is not covered of the next few records; gives how many were looked at, 0 at the end.
    fn cover(&mut self, progress: &mut Progress, limit: usize) -> usize {
        let mark = self.mark;
        let mut count = 0;
        macro_rules! cover_table {
            ($table:ident, $after:expr, $limit:expr, $walk:path, $next:expr) => {{
                let mut last = None;
                for (key, value, covered) in self.$table.cover($after.as_ref(), $limit, mark) {
                    if !covered {
                        progress.push(&value.record(key));
                    }
                    last = Some(key.clone());
                    count += 1;
                }
                progress.walk = if last.is_some() { $walk(last) } else { $next };
                count.max(1)
            }};
        }
        match std::mem::replace(&mut progress.walk, Walk::Done) {
            // A few, as they are large.
            Walk::Pieces(after) => {
                let limit = limit.min(PIECES_AT_ONCE);
                cover_table!(pieces, after, limit, Walk::Pieces, Walk::Uploads(None))
            }
            Walk::Uploads(after) => {
                cover_table!(uploads, after, limit, Walk::Uploads, Walk::Nodes(0))
            }
            Walk::Nodes(from) => {
                let to = self
                    .nodes
                    .slot_count()
                    .min(from.saturating_add(limit as Slot));
                for slot in from..to {
                    self.cover_node(progress, slot);
                }
                progress.walk = if to == from {
                    Walk::Sessions(None)
                } else {
                    Walk::Nodes(to)
                };
                (to - from).max(1) as usize
            }
            Walk::Sessions(after) => {
                cover_table!(sessions, after, limit, Walk::Sessions, Walk::Answers(None))
            }
            Walk::Answers(after) => {
                cover_table!(answers, after, limit, Walk::Answers, Walk::Parked(None))
            }
            Walk::Parked(after) => {
                cover_table!(calls, after, limit, Walk::Parked, Walk::Components(None))
            }
            Walk::Components(after) => {
                cover_table!(
                    components,
                    after,
                    limit,
                    Walk::Components,
                    Walk::Recipes(None)
                )
            }
            Walk::Recipes(after) => {
                cover_table!(recipes, after, limit, Walk::Recipes, Walk::Mounts(None))
            }
            Walk::Mounts(after) => cover_table!(mounts, after, limit, Walk::Mounts, Walk::End),
            Walk::End => {
                let (records, digest) = (progress.records, progress.digest);
                progress.push(&Record::End { records, digest });
                0
            }
            Walk::Done => 0,
        }
    }

    fn cover_node(&mut self, progress: &mut Progress, slot: Slot) {
        let covered = std::mem::replace(&mut self.nodes.marks[slot as usize], self.mark);
        if covered == self.mark {
            return;
        }
        let Some((parent, name)) = self.nodes.place(slot) else {
            return;
        };
        let full = self.nodes.full(slot);
        progress.push(&Record::Node {
            slot,
            parent,
            name: Cow::Borrowed(name),
            stat: full.stat,
            acl: Cow::Borrowed(&full.acl),
            data: full.data,
        });
    }

    /// Writes a znode out that is about to change, if the snapshot needs it.
    pub(crate) fn save_node(&mut self, slot: Slot) {
        if let Some(mut progress) = self.snapshot.take() {
            self.cover_node(&mut progress, slot);
            self.snapshot = Some(progress);
        }
    }

    /// Writes another record out that has changed, if the snapshot needs it.
    pub(crate) fn save<K, V: Kept<K>>(&mut self, key: &K, uncovered: Option<&V>) {
        if let (Some(progress), Some(old)) = (&mut self.snapshot, uncovered) {
            progress.push(&old.record(key));
        }
    }

    /// Reads a snapshot: the components that [`State::begin_snapshot`] gave, which have the digests that they are given
    /// with, and chunks as [`State::snapshot_chunk`] gave them, cut anywhere between records.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing is guessed at.
    pub fn load<E: From<SnapshotError>>(
        components: impl IntoIterator<Item = Result<(RecipeDigest, Component), E>>,
        chunks: impl IntoIterator<Item = Result<Vec<u8>, E>>,
    ) -> Result<State, E> {
        let mut state = State::vacant();
        let mut loading = Loading {
            components: components.into_iter().collect::<Result<_, E>>()?,
            ..Loading::default()
        };
        for chunk in chunks {
            let chunk = chunk?;
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                let (record, behind) = postcard::take_from_bytes::<Record<'_>>(rest)
                    .map_err(|_| SnapshotError::Damaged("a record cannot be read"))?;
                rest = behind;
                loading.take(&mut state, record)?;
            }
        }
        loading.finish(&mut state)?;
        Ok(state)
    }
}

impl Progress {
    fn push(&mut self, record: &Record<'_>) {
        self.records += 1;
        let buffer = std::mem::take(&mut self.buffer);
        self.buffer = postcard::to_extend(record, buffer).expect("writing to memory cannot fail");
        if self.buffer.len() >= CHUNK_BYTES {
            self.ready_bytes += self.buffer.len();
            self.ready.push_back(std::mem::take(&mut self.buffer));
        }
    }
}

/// How far reading a snapshot has come.
#[derive(Default)]
struct Loading {
    records: u64,
    /// What its end says.
    digest: Option<Digest>,
    /// Those that no record has named yet.
    components: BTreeMap<RecipeDigest, Component>,
}

/// The highest slot that a snapshot may name: more znodes than memory holds.
const MAX_SLOT: Slot = 1 << 30;

impl Loading {
    fn take(&mut self, state: &mut State, record: Record<'_>) -> Result<(), SnapshotError> {
        if self.digest.is_some() || (self.records == 0) != matches!(record, Record::Head { .. }) {
            return Err(SnapshotError::Damaged("a record is out of place"));
        }
        match record {
            Record::Head {
                version,
                epoch,
                counter,
                time,
                sequence_floor,
                ensemble_version,
            } => {
                if version != FORMAT_VERSION {
                    return Err(SnapshotError::UnknownVersion { found: version });
                }
                (state.epoch, state.counter, state.time) = (epoch, counter, time);
                if ensemble_version > ENSEMBLE_VERSION {
                    return Err(TooNew(ensemble_version).into());
                }
                state.sequence_floor = sequence_floor;
                state.version = ensemble_version;
            }
            Record::Node {
                slot,
                parent,
                name,
                stat,
                acl,
                data,
            } => {
                if slot > MAX_SLOT || state.nodes.is_used(slot) {
                    return Err(SnapshotError::Damaged("a znode's place is wrong"));
                }
                state.nodes.reserve_slot(slot);
                state
                    .nodes
                    .insert_at(slot, parent, &name, &stat, &acl, &data);
            }
            Record::Session(id, session) => {
                state.sessions.put(id, session, 0);
            }
            Record::Answer(call, answer) => {
                state.held.all.add(answer_bytes(&answer));
                state.answers.put(call, answer.into_owned(), 0);
            }
            Record::Parked(call) => {
                state.index.extend(call_indexes(&call));
                state.held.add_parked(&call);
                state.calls.put(call.id, call.into_owned(), 0);
            }
            Record::Upload(upload) => {
                state
                    .index
                    .insert(IndexKey::Upload(upload.until, upload.digest));
                state.uploads.put(upload.digest, upload.into_owned(), 0);
            }
            Record::Piece(digest, index, bytes) => {
                let place = (digest, index);
                let piece = Piece::new(&place, bytes);
                state.pieces.put(place, piece, 0);
            }
            Record::Component(digest, bytes) => {
                let component = self.components.remove(&digest);
                let component = component
                    .filter(|component| component.bytes() == bytes)
                    .ok_or(SnapshotError::Damaged("a component is missing"))?;
                state.components.put(digest, component, 0);
            }
            Record::Recipe(recipe) => {
                state
                    .recipes
                    .put(recipe.name.clone(), recipe.into_owned(), 0);
            }
            Record::Mount(mount) => {
                state.mounts.put(mount.path.clone(), mount.into_owned(), 0);
            }
            Record::End { records, digest } => {
                if records != self.records {
                    return Err(SnapshotError::Damaged("records are missing"));
                }
                self.digest = Some(digest);
            }
        }
        self.records += 1;
        Ok(())
    }

    fn finish(&self, state: &mut State) -> Result<(), SnapshotError> {
        let Some(found) = self.digest else {
            return Err(SnapshotError::Damaged("it ends too early"));
        };
        if !state.nodes.relink() {
            return Err(SnapshotError::Damaged("the tree does not hang together"));
        }
        for slot in 0..state.nodes.slot_count() {
            if !state.nodes.is_used(slot) {
                continue;
            }
            let lifetime = state.nodes.stat(slot).lifetime;
            if matches!(lifetime, Lifetime::Session(_) | Lifetime::Until(_)) {
                let path = state
                    .path_of(slot)
                    .ok_or(SnapshotError::Damaged("a name is wrong"))?;
                state.index.extend(index_lifetime(lifetime, &path));
            }
        }
        let counted = state.digest();
        if counted != found {
            return Err(SnapshotError::StateDamaged { found, counted });
        }
        Ok(())
    }
}

impl State {
    /// The path of the znode in a slot.
    fn path_of(&self, slot: Slot) -> Option<ZnodePath> {
        let mut names = Vec::new();
        let mut at = slot;
        while at != crate::nodes::ROOT {
            let (parent, name) = self.nodes.place(at)?;
            names.push(name);
            at = parent;
        }
        names.reverse();
        ZnodePath::parse(&format!("/{}", names.join("/"))).ok()
    }

    /// Everything as one value that can be compared: for tests of "this state equals that one".
    pub fn image(&self) -> Vec<String> {
        let mut image = vec![format!(
            "{:?} {:?} {} {} {:?}",
            self.last_zxid(),
            self.time,
            self.sequence_floor,
            self.version,
            self.held.all
        )];
        for slot in 0..self.nodes.slot_count() {
            if let Some(path) = self.nodes.place(slot).and_then(|_| self.path_of(slot)) {
                image.push(format!("{path} {:?}", self.nodes.full(slot)));
            }
        }
        image.sort();
        image.extend(self.sessions.range(..).map(|entry| format!("{entry:?}")));
        image.extend(self.answers.range(..).map(|entry| format!("{entry:?}")));
        image.extend(self.calls.range(..).map(|entry| format!("{entry:?}")));
        image.extend(self.uploads.range(..).map(|entry| format!("{entry:?}")));
        image.extend(self.pieces.range(..).map(|entry| format!("{entry:?}")));
        image.extend(self.components.range(..).map(|entry| format!("{entry:?}")));
        image.extend(self.recipes.range(..).map(|entry| format!("{entry:?}")));
        image.extend(self.mounts.range(..).map(|entry| format!("{entry:?}")));
        image.extend(self.index.iter().map(|key| format!("{key:?}")));
        image
    }

    /// The last transaction that stands in a snapshot's first chunk.
    pub fn snapshot_zxid(chunk: &[u8]) -> Option<Zxid> {
        match postcard::take_from_bytes::<Record<'_>>(chunk).ok()?.0 {
            Record::Head { epoch, counter, .. } => Some(Zxid::new(epoch, counter)),
            _ => None,
        }
    }
}
