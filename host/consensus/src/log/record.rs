//! The log's form on disk: a segment's head, and records behind it. All integers little-endian.
//!
//! A *position* is a byte's place in the log as if all segments were one file; a segment's file name is
//! the position of its first byte. A segment begins with a head of [`HEAD_BYTES`], then a record of kind
//! `Start`. A record:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | length of the body |
//! | 4 | kind |
//! | 5..13 | the position up to which the log was on disk when this record was written |
//! | 13..17 | CRC-32 of the body |
//! | 17..21 | CRC-32 of the record's position and of bytes 0..17 |
//! | 21.. | body |
//!
//! The third field is what tells a torn tail from damage. Bytes that were never acknowledged have no
//! record behind them that says they were on disk; bytes that were acknowledged, except those of the
//! very last write, have. So the former may be cut off, and the latter must not be.

use crate::raft::{LogId, Vote, log_id};

/// The format version of a segment that this build writes, and the only one it reads.
pub(crate) const SEGMENT_VERSION: u32 = 2;

/// The first bytes of a segment.
pub(crate) const MAGIC: [u8; 8] = *b"quorlog\n";

/// The magic, the version, and four zero bytes.
pub(crate) const HEAD_BYTES: usize = 16;

/// What stands before a record's body.
pub(crate) const HEADER_BYTES: usize = 21;

/// The largest body: an entry of the largest size with its own few bytes. A larger length is damage.
pub(crate) const MAX_BODY_BYTES: usize = crate::command::MAX_ENTRY_BYTES + 64;

/// Of an entry's body, before its payload: term, index, kind of payload.
pub(crate) const ENTRY_PREFIX_BYTES: usize = 17;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The first of a segment: whose log it is, and what of it stands before this segment.
    Start = 1,
    /// Whom this server voted for.
    Vote = 2,
    /// An entry.
    Entry = 3,
    /// Entries behind a log id are no more.
    Truncate = 4,
    /// Entries up to a log id are no more.
    Purge = 5,
    /// The server was stopped in order; everything before is on disk.
    Close = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Start,
            2 => Kind::Vote,
            3 => Kind::Entry,
            4 => Kind::Truncate,
            5 => Kind::Purge,
            6 => Kind::Close,
            _ => return None,
        })
    }
}

/// The head of a segment.
pub(crate) fn head() -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
    head
}

/// Appends a record whose body is `parts` one after the other; `position` is where it begins.
pub(crate) fn encode(out: &mut Vec<u8>, position: u64, synced: u64, kind: Kind, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut body = crc32fast::Hasher::new();
    parts.iter().for_each(|part| body.update(part));
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(&(length as u32).to_le_bytes());
    header[4] = kind as u8;
    header[5..13].copy_from_slice(&synced.to_le_bytes());
    header[13..17].copy_from_slice(&body.finalize().to_le_bytes());
    let sum = header_sum(position, &header);
    header[17..21].copy_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(&header);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn header_sum(position: u64, header: &[u8; HEADER_BYTES]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&position.to_le_bytes());
    sum.update(&header[..17]);
    sum.finalize()
}

/// A record's header, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) length: usize,
    pub(crate) kind: Kind,
    pub(crate) synced: u64,
    body_sum: u32,
}

/// Reads the header at the beginning of `bytes`, which stand at `position`.
pub(crate) fn header(bytes: &[u8], position: u64) -> Result<Header, &'static str> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or("a record's header is cut off")?;
    let length = u32_at(header, 0) as usize;
    let synced = u64_at(header, 5);
    // These three are cheap, and reject nearly every byte of a damaged stretch before its sum is taken.
    let kind = Kind::from_byte(header[4]).ok_or("no record begins here")?;
    if length > MAX_BODY_BYTES || synced > position {
        return Err("no record begins here");
    }
    if header_sum(position, header) != u32_at(header, 17) {
        return Err("the checksum of a record's header is wrong");
    }
    Ok(Header {
        length,
        kind,
        synced,
        body_sum: u32_at(header, 13),
    })
}

impl Header {
    /// The body of the record that begins `bytes`, if it is whole.
    pub(crate) fn body<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], &'static str> {
        let body = bytes
            .get(HEADER_BYTES..HEADER_BYTES + self.length)
            .ok_or("a record's body is cut off")?;
        if crc32fast::hash(body) != self.body_sum {
            return Err("the checksum of a record's body is wrong");
        }
        Ok(body)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Bodies of fixed length.
pub(crate) const START_BYTES: usize = 8 + VOTE_BYTES + 1 + LOG_ID_BYTES;
const VOTE_BYTES: usize = 18;
const LOG_ID_BYTES: usize = 16;

/// What a segment's first record says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Start {
    /// Whose log this is.
    pub(crate) server: u64,
    /// The vote at the beginning of this segment.
    pub(crate) vote: Option<Vote>,
    /// The last purged log id at the beginning of this segment.
    pub(crate) purged: Option<LogId>,
}

impl Start {
    pub(crate) fn encode(&self) -> [u8; START_BYTES] {
        let mut body = [0; START_BYTES];
        body[..8].copy_from_slice(&self.server.to_le_bytes());
        body[8..26].copy_from_slice(&vote_bytes(self.vote.as_ref()));
        body[26] = u8::from(self.purged.is_some());
        body[27..43].copy_from_slice(&log_id_bytes(self.purged.unwrap_or(log_id(0, 0))));
        body
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Start> {
        let body: &[u8; START_BYTES] = body.try_into().ok()?;
        Some(Start {
            server: u64_at(body, 0),
            vote: decode_vote(&body[8..26])?,
            purged: (body[26] == 1).then(|| read_log_id(&body[27..])),
        })
    }
}

/// A vote: 1, whether it is a leader's, term, for whom. All zeros for none.
pub(crate) fn vote_bytes(vote: Option<&Vote>) -> [u8; VOTE_BYTES] {
    let mut body = [0; VOTE_BYTES];
    if let Some(vote) = vote {
        body[0] = 1;
        body[1] = u8::from(vote.committed);
        body[2..10].copy_from_slice(&vote.leader_id.term.to_le_bytes());
        body[10..18].copy_from_slice(&vote.leader_id.voted_for.to_le_bytes());
    }
    body
}

/// A vote, which may be none.
pub(crate) fn decode_vote(body: &[u8]) -> Option<Option<Vote>> {
    let body: &[u8; VOTE_BYTES] = body.try_into().ok()?;
    let (term, node) = (u64_at(body, 2), u64_at(body, 10));
    Some(match (body[0], body[1]) {
        (0, _) => None,
        (_, 0) => Some(Vote::new(term, node)),
        _ => Some(Vote::new_committed(term, node)),
    })
}

/// A log id: term, index.
pub(crate) fn log_id_bytes(id: LogId) -> [u8; LOG_ID_BYTES] {
    let mut body = [0; LOG_ID_BYTES];
    body[..8].copy_from_slice(&id.leader_id.term.to_le_bytes());
    body[8..].copy_from_slice(&id.index.to_le_bytes());
    body
}

/// A log id that may be none, which is no bytes.
pub(crate) fn decode_log_id(body: &[u8]) -> Option<Option<LogId>> {
    match body.len() {
        0 => Some(None),
        LOG_ID_BYTES => Some(Some(read_log_id(body))),
        _ => None,
    }
}

fn read_log_id(body: &[u8]) -> LogId {
    log_id(u64_at(body, 0), u64_at(body, 8))
}

/// The log id and the kind of payload at the beginning of an entry's body.
pub(crate) fn decode_entry_prefix(body: &[u8]) -> Option<(LogId, u8)> {
    let prefix: &[u8; ENTRY_PREFIX_BYTES] = body.first_chunk()?;
    Some((read_log_id(prefix), prefix[16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 100, 40, Kind::Entry, &[b"one", b"", b"two"]);
        let header = header(&bytes, 100).expect("whole");
        assert_eq!(
            (header.kind, header.synced, header.length),
            (Kind::Entry, 40, 6)
        );
        assert_eq!(header.body(&bytes), Ok(&b"onetwo"[..]));
    }

    #[test]
    fn every_flipped_bit_and_every_other_place_is_noticed() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 100, 40, Kind::Vote, &[b"a vote"]);
        let whole = |bytes: &[u8], at| header(bytes, at).and_then(|h| h.body(bytes).map(|_| ()));
        assert_eq!(whole(&bytes, 100), Ok(()));
        assert!(whole(&bytes, 101).is_err());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(whole(&bytes, 100).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..bytes.len() {
            assert!(whole(&bytes[..length], 100).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_start_is_read_back() {
        for start in [
            Start {
                server: 7,
                vote: None,
                purged: None,
            },
            Start {
                server: 7,
                vote: Some(Vote::new(3, 7)),
                purged: Some(log_id(2, 9)),
            },
            Start {
                server: 7,
                vote: Some(Vote::new_committed(3, 8)),
                purged: Some(log_id(0, 0)),
            },
        ] {
            assert_eq!(Start::decode(&start.encode()), Some(start));
        }
    }
}
