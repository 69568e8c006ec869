//! Reading entries: from memory while they are there, else from disk, never more than a bound at a time.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds, RangeInclusive};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};

use super::index::{Found, Place};
use super::record::{self, ENTRY_PREFIX_BYTES, HEADER_BYTES};
use super::store::{BLANK, MEMBERSHIP, NORMAL, Shared};
use crate::command::Command;
use crate::raft::{LogEntry, LogId, MembershipRecord, Types, Vote};

/// How much is read at a time, in bytes of records; one larger entry goes alone.
const READ_BYTES: usize = 2 << 20;

/// Reads the log.
#[derive(Clone)]
pub(crate) struct LogReader {
    shared: Arc<Shared>,
}

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> LogReader {
        LogReader { shared }
    }

    /// The first entries of `range`, of about `bytes` in all.
    fn read(&self, range: Range<u64>, bytes: usize) -> io::Result<Vec<LogEntry>> {
        let found = self.shared.index(|index| index.find(range, bytes));
        found.into_iter().map(entry).collect()
    }
}

fn entry(found: Found) -> io::Result<LogEntry> {
    match found {
        Found::Here(log_id, payload) => Ok(LogEntry { log_id, payload }),
        Found::OnDisk(place) => read(&place).map_err(|error| {
            let at = format!("{} at byte {}", place.path.display(), place.offset);
            io::Error::new(
                error.kind(),
                format!("cannot read entry {} of {at}: {error}", place.log_id),
            )
        }),
    }
}

fn read(place: &Place) -> io::Result<LogEntry> {
    let damaged = |found: &str| io::Error::new(io::ErrorKind::InvalidData, found);
    let mut bytes = vec![0; HEADER_BYTES + place.length];
    place.file.read_exact_at(&mut bytes, place.offset)?;
    let header = record::header(&bytes, place.position).map_err(damaged)?;
    let body = header.body(&bytes).map_err(damaged)?;
    let (log_id, kind) = record::decode_entry_prefix(body)
        .filter(|(log_id, _)| *log_id == place.log_id)
        .ok_or_else(|| damaged("another entry stands here"))?;
    let body = Bytes::from(bytes).slice(HEADER_BYTES + ENTRY_PREFIX_BYTES..);
    let payload = match kind {
        BLANK => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Command::from_bytes(body)),
        MEMBERSHIP => {
            let record = postcard::from_bytes::<MembershipRecord>(&body);
            let membership = record
                .map_err(|error| error.to_string())
                .and_then(|r| r.membership());
            EntryPayload::Membership(membership.map_err(|found| damaged(&found))?)
        }
        _ => return Err(damaged("its kind of payload is unknown")),
    };
    Ok(LogEntry { log_id, payload })
}

/// A range as openraft gives it, as a half-open one.
fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<Types> for LogReader {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<LogEntry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(half_open(&range), usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, io::Error> {
        self.read(start..end, READ_BYTES)
    }

    /// A bound at a time, as the first range that is applied after a start may be the whole log.
    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = Result<LogEntry, io::Error>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let from = (self.clone(), half_open(&range), VecDeque::new());
        stream::try_unfold(from, |(reader, mut range, mut ready)| async move {
            if ready.is_empty() {
                ready = VecDeque::from(reader.read(range.clone(), READ_BYTES)?);
            }
            let next: Option<LogEntry> = ready.pop_front();
            Ok(next.map(|entry| {
                range.start = entry.log_id.index + 1;
                (entry, (reader, range, ready))
            }))
        })
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.index(|index| index.vote))
    }

    /// The last log id of every leader, as openraft's suite has it; its documentation says the first.
    /// From memory: openraft's own search would read entries.
    async fn get_key_log_ids(
        &mut self,
        range: RangeInclusive<LogId>,
    ) -> Result<Vec<LogId>, io::Error> {
        let (first, last) = range.into_inner();
        Ok(self.shared.index(|index| {
            let mut key: Vec<LogId> = Vec::new();
            for id in (first.index..=last.index).filter_map(|at| index.log_id(at)) {
                match key.last_mut() {
                    Some(last) if last.leader_id == id.leader_id => *last = id,
                    _ => key.push(id),
                }
            }
            key
        }))
    }
}
