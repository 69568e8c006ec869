//! What of the log is in memory: where every entry stands, and the newest entries themselves.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::record::HEADER_BYTES;
use crate::raft::{LogId, Payload, Vote, log_id};

/// Where an entry stands.
#[derive(Debug)]
struct Slot {
    term: u64,
    /// Of its record.
    position: u64,
    /// Of its record's body.
    length: u32,
    /// Kept while it is not on disk, and beyond that while there is room.
    payload: Option<Payload>,
}

impl Slot {
    fn record_bytes(&self) -> usize {
        HEADER_BYTES + self.length as usize
    }

    fn end(&self) -> u64 {
        self.position + self.record_bytes() as u64
    }
}

/// A file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    /// None until the writer has made it; nothing is read from it before.
    pub(crate) file: Option<Arc<File>>,
    /// The highest index that an entry in it ever had.
    last_index: Option<u64>,
}

/// An entry that was looked up.
pub(crate) enum Found {
    /// In memory.
    Here(LogId, Payload),
    /// On disk.
    OnDisk(Place),
}

/// Where to read an entry.
pub(crate) struct Place {
    pub(crate) log_id: LogId,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    /// Of its record, in the file.
    pub(crate) offset: u64,
    /// Of its record, in the log.
    pub(crate) position: u64,
    pub(crate) length: usize,
}

/// The log as it will be when all that was queued is written.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<LogId>,
    /// The index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// The first so many slots have no payload in memory, the others have.
    evicted: usize,
    cached_bytes: usize,
    /// By the position of their first byte.
    segments: BTreeMap<u64, Segment>,
    /// Where the next record goes.
    pub(crate) end: u64,
    /// Everything before is on disk.
    pub(crate) durable: u64,
}

impl Index {
    /// The last entry, or the last purged one when there is none.
    pub(crate) fn last(&self) -> Option<LogId> {
        match self.slots.back() {
            Some(slot) => Some(log_id(slot.term, self.first + self.slots.len() as u64 - 1)),
            None => self.purged,
        }
    }

    /// An entry's log id.
    pub(crate) fn log_id(&self, index: u64) -> Option<LogId> {
        let slot = self
            .slots
            .get(usize::try_from(index.checked_sub(self.first)?).ok()?)?;
        Some(log_id(slot.term, index))
    }

    /// The indices of the entries that are there.
    pub(crate) fn range(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.slots.len() as u64
    }

    /// Takes an entry whose record stands at `position`; an error when a hole would be before it.
    pub(crate) fn push(
        &mut self,
        id: LogId,
        position: u64,
        length: u32,
        payload: Option<Payload>,
    ) -> Result<(), String> {
        let next = self.range().end;
        if self.slots.is_empty() {
            self.first = id.index;
        } else if id.index != next {
            return Err(format!("entry {id} stands where entry {next} belongs"));
        }
        let slot = Slot {
            term: id.leader_id.term,
            position,
            length,
            payload,
        };
        match &slot.payload {
            Some(_) => self.cached_bytes += slot.record_bytes(),
            // Only recovery pushes entries without their payload, and before all others.
            None => self.evicted += 1,
        }
        self.slots.push_back(slot);
        if let Some((_, segment)) = self.segments.range_mut(..=position).next_back() {
            segment.last_index = segment.last_index.max(Some(id.index));
        }
        Ok(())
    }

    /// An error when entries are missing between the purged ones and the first that is there.
    pub(crate) fn check_whole(&self) -> Result<(), String> {
        let expected = self.purged.map_or(0, |purged| purged.index + 1);
        if !self.slots.is_empty() && self.first != expected {
            return Err(format!(
                "entries {expected} to {} are missing",
                self.first - 1
            ));
        }
        Ok(())
    }

    /// Forgets the entries behind `keep`.
    pub(crate) fn truncate_after(&mut self, keep: Option<LogId>) {
        let first_gone = keep.map_or(0, |keep| keep.index + 1);
        while self.slots.len() as u64 + self.first > first_gone {
            let Some(slot) = self.slots.pop_back() else {
                break;
            };
            if slot.payload.is_some() {
                self.cached_bytes -= slot.record_bytes();
            }
        }
        self.evicted = self.evicted.min(self.slots.len());
    }

    /// Forgets the entries up to `upto`.
    pub(crate) fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        while self.first <= upto.index {
            let Some(slot) = self.slots.pop_front() else {
                break;
            };
            self.first += 1;
            if slot.payload.is_some() {
                self.cached_bytes -= slot.record_bytes();
            } else {
                self.evicted -= 1;
            }
        }
        self.purged = Some(upto);
    }

    /// Everything up to `position` is on disk: payloads beyond `cache_bytes` may go from memory.
    pub(crate) fn synced(&mut self, position: u64, cache_bytes: usize) {
        self.durable = position;
        while self.cached_bytes > cache_bytes {
            let Some(slot) = self.slots.get_mut(self.evicted) else {
                break;
            };
            if slot.end() > position {
                break;
            }
            slot.payload = None;
            self.cached_bytes -= slot.record_bytes();
            self.evicted += 1;
        }
    }

    /// Where the entries of `range` are, the first ones of about `bytes` in all, at least one if any is there.
    pub(crate) fn find(&self, range: std::ops::Range<u64>, bytes: usize) -> Vec<Found> {
        let range = range.start.max(self.first)..range.end.min(self.range().end);
        let mut found = Vec::new();
        let mut found_bytes = 0;
        for index in range {
            let slot = &self.slots[(index - self.first) as usize];
            if found_bytes > 0 && found_bytes + slot.record_bytes() > bytes {
                break;
            }
            found_bytes += slot.record_bytes();
            let id = log_id(slot.term, index);
            if let Some(payload) = &slot.payload {
                found.push(Found::Here(id, payload.clone()));
                continue;
            }
            // A payload leaves memory only after its record is on disk, so the file is there.
            let Some((base, segment)) = self.segments.range(..=slot.position).next_back() else {
                break;
            };
            let Some(file) = segment.file.clone() else {
                break;
            };
            found.push(Found::OnDisk(Place {
                log_id: id,
                path: segment.path.clone(),
                file,
                offset: slot.position - base,
                position: slot.position,
                length: slot.length as usize,
            }));
        }
        found
    }

    /// A new file begins at `base`.
    pub(crate) fn add_segment(&mut self, base: u64, path: PathBuf) {
        self.segments.insert(
            base,
            Segment {
                path,
                file: None,
                last_index: None,
            },
        );
    }

    /// The file that begins at `base` was made.
    pub(crate) fn segment_made(&mut self, base: u64, file: Arc<File>) {
        if let Some(segment) = self.segments.get_mut(&base) {
            segment.file = Some(file);
        }
    }

    /// The newest file.
    pub(crate) fn last_segment(&self) -> Option<(u64, &Segment)> {
        self.segments
            .last_key_value()
            .map(|(base, segment)| (*base, segment))
    }

    /// Forgets the oldest files that hold nothing which is still needed, and gives their paths.
    pub(crate) fn take_obsolete(&mut self) -> Vec<PathBuf> {
        let purged = self.purged.map(|purged| purged.index);
        let mut obsolete = Vec::new();
        while self.segments.len() > 1
            && let Some(oldest) = self.segments.first_entry()
            && oldest.get().file.is_some()
            && oldest.get().last_index <= purged
        {
            obsolete.push(oldest.remove().path);
        }
        obsolete
    }

    /// Bytes of the log's files.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.end
            - self
                .segments
                .first_key_value()
                .map_or(self.end, |(base, _)| *base)
    }

    /// The highest index such that the entries behind it, up to `upto`, take at most `bytes`.
    pub(crate) fn index_with_bytes_behind(&self, upto: u64, bytes: u64) -> Option<u64> {
        let last = self
            .slots
            .get(usize::try_from(upto.checked_sub(self.first)?).ok()?)?;
        let kept = self
            .slots
            .partition_point(|slot| last.end() - slot.position.min(last.end()) > bytes);
        (self.first + kept as u64).checked_sub(1)
    }
}
