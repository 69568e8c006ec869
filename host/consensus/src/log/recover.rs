//! Reading the log at a start: what was acknowledged is all there, and a torn tail is cut off.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::Index;
use super::record::{self, HEAD_BYTES, HEADER_BYTES, Kind, START_BYTES, Start};
use crate::disk::Disk;
use crate::error::OpenError;

/// The file name of the segment whose first byte has this position.
pub(crate) fn segment_name(base: u64) -> String {
    format!("{base:020}.log")
}

/// Makes the first segment of a new log.
pub(crate) fn create(dir: &Path, server: u64, disk: &dyn Disk) -> Result<Index, OpenError> {
    let mut index = Index::default();
    begin_segment(
        dir,
        0,
        Start {
            server,
            vote: None,
            purged: None,
        },
        &mut index,
        disk,
    )?;
    Ok(index)
}

/// Reads the log. Cuts off a tail that was never acknowledged, and changes nothing otherwise.
pub(crate) fn recover(dir: &Path, server: u64, disk: &dyn Disk) -> Result<Index, OpenError> {
    let segments = segments(dir)?;
    let mut index = Index::default();
    let mut synced = 0;
    if segments.is_empty() {
        return Err(damaged(dir, 0, "there is no log file"));
    }
    for (number, (base, path)) in segments.iter().enumerate() {
        let (base, is_last) = (*base, number + 1 == segments.len());
        if number == 0 {
            index.end = base;
        } else if index.end != base {
            let found = format!(
                "the log ends at {}, and the next file begins at {base}",
                index.end
            );
            return Err(damaged(path, 0, found));
        }
        index.add_segment(base, path.clone());
        let bytes = fs::read(path).map_err(OpenError::io("read", path))?;
        let scan = scan(path, base, &bytes, server, &mut index)?;
        synced = synced.max(scan.synced);
        let Some(what) = scan.broken else {
            let file = open(path, is_last)?;
            index.segment_made(base, file);
            continue;
        };
        let offset = index.end - base;
        if !is_last {
            return Err(damaged(path, offset, what));
        }
        if let Some(later) = acknowledged_behind(&bytes, base, offset) {
            let found = format!("{what}, and the record at byte {later} says that it was on disk");
            return Err(damaged(path, offset, found));
        }
        let has_start = offset >= (HEAD_BYTES + HEADER_BYTES + START_BYTES) as u64;
        if !has_start && segments.len() == 1 {
            return Err(damaged(path, offset, what));
        }
        let file = open(path, true)?;
        cut(path, &file, offset, bytes.len() as u64, what)?;
        if has_start {
            index.segment_made(base, file);
        } else {
            let start = Start {
                server,
                vote: index.vote,
                purged: index.purged,
            };
            index.end = base;
            begin_segment(dir, base, start, &mut index, disk)?;
            synced = index.end;
        }
    }
    index
        .check_whole()
        .map_err(|found| damaged(dir, 0, found))?;
    rewrite_tail(&index, synced, disk)?;
    index.durable = index.end;
    Ok(index)
}

/// The segments, oldest first.
fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir).map_err(OpenError::io("read", dir))? {
        let path = entry.map_err(OpenError::io("read", dir))?.path();
        let base = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".log"))
            .filter(|digits| digits.len() == 20)
            .and_then(|digits| digits.parse::<u64>().ok())
            .ok_or_else(|| OpenError::Foreign {
                path: path.clone(),
                found: "its name is not that of a log file".into(),
            })?;
        segments.push((base, path));
    }
    segments.sort();
    Ok(segments)
}

struct Scan {
    /// The highest position that a record says was on disk.
    synced: u64,
    /// Why the scan stopped before the file's end, at `index.end`.
    broken: Option<&'static str>,
}

/// Reads a segment's records into the index, up to its end or to the first record that is not whole.
fn scan(
    path: &Path,
    base: u64,
    bytes: &[u8],
    server: u64,
    index: &mut Index,
) -> Result<Scan, OpenError> {
    let mut scan = Scan {
        synced: 0,
        broken: None,
    };
    let head = record::head();
    if let Some(found) = bytes.get(..HEAD_BYTES)
        && found[..8] == head[..8]
        && found != head
        && found[12..] == [0; 4]
    {
        let found = u32::from_le_bytes([found[8], found[9], found[10], found[11]]);
        let reads = record::SEGMENT_VERSION;
        return Err(OpenError::Version {
            path: path.to_owned(),
            found,
            reads,
        });
    }
    if !bytes.starts_with(&head) {
        scan.broken = Some("it does not begin as a log file does");
        return Ok(scan);
    }
    let mut at = HEAD_BYTES;
    while at < bytes.len() {
        let position = base + at as u64;
        let whole = record::header(&bytes[at..], position)
            .and_then(|header| Ok((header, header.body(&bytes[at..])?)));
        let (header, body) = match whole {
            Ok(whole) => whole,
            Err(what) => {
                scan.broken = Some(what);
                break;
            }
        };
        let first = at == HEAD_BYTES;
        if first != (header.kind == Kind::Start) {
            return Err(damaged(
                path,
                at as u64,
                "a record is not where its kind belongs",
            ));
        }
        take(path, position, header.kind, body, server, index)
            .map_err(|found| damaged_or(found, path, at as u64))?;
        scan.synced = scan.synced.max(header.synced);
        at += HEADER_BYTES + header.length;
        index.end = base + at as u64;
    }
    if at == HEAD_BYTES && scan.broken.is_none() {
        scan.broken = Some("its first record is missing");
    }
    Ok(scan)
}

enum Wrong {
    Content(String),
    Server(OpenError),
}

fn damaged_or(wrong: Wrong, path: &Path, offset: u64) -> OpenError {
    match wrong {
        Wrong::Content(found) => damaged(path, offset, found),
        Wrong::Server(error) => error,
    }
}

/// Takes what a record says.
fn take(
    path: &Path,
    position: u64,
    kind: Kind,
    body: &[u8],
    server: u64,
    index: &mut Index,
) -> Result<(), Wrong> {
    let malformed = || Wrong::Content(format!("a whole record of kind {kind:?} is malformed"));
    match kind {
        Kind::Start => {
            let start = Start::decode(body).ok_or_else(malformed)?;
            if start.server != server {
                return Err(Wrong::Server(OpenError::OtherServer {
                    path: path.to_owned(),
                    found: quorate_model::id::ServerId(start.server),
                    expected: quorate_model::id::ServerId(server),
                }));
            }
            index.vote = start.vote;
            if let Some(purged) = start.purged {
                index.purge(purged);
            }
        }
        Kind::Vote => index.vote = record::decode_vote(body).ok_or_else(malformed)?,
        Kind::Entry => {
            let (id, _) = record::decode_entry_prefix(body).ok_or_else(malformed)?;
            // Entries up to the purged one may still stand in old files, from before the purge.
            if index.purged.is_none_or(|purged| id.index > purged.index) {
                index
                    .push(id, position, body.len() as u32, None)
                    .map_err(Wrong::Content)?;
            }
        }
        Kind::Truncate => index.truncate_after(record::decode_log_id(body).ok_or_else(malformed)?),
        Kind::Purge => {
            let upto = record::decode_log_id(body)
                .flatten()
                .ok_or_else(malformed)?;
            index.purge(upto);
        }
        Kind::Close => {}
    }
    Ok(())
}

/// Whether a record behind `offset` says that what is at `offset` was on disk, and where.
fn acknowledged_behind(bytes: &[u8], base: u64, offset: u64) -> Option<usize> {
    let broken = base + offset;
    (offset as usize + 1..bytes.len()).find(|at| {
        record::header(&bytes[*at..], base + *at as u64).is_ok_and(|header| header.synced > broken)
    })
}

fn open(path: &Path, writable: bool) -> Result<Arc<File>, OpenError> {
    let file = OpenOptions::new().read(true).write(writable).open(path);
    file.map(Arc::new).map_err(OpenError::io("open", path))
}

fn cut(path: &Path, file: &File, length: u64, was: u64, what: &str) -> Result<(), OpenError> {
    tracing::warn!(
        file = %path.display(),
        "the log's last {} bytes were never acknowledged and are cut off: {what}",
        was - length,
    );
    file.set_len(length)
        .and_then(|()| file.sync_all())
        .map_err(OpenError::io("cut", path))
}

/// Makes the file that begins at `base`, with its first record, durably.
pub(crate) fn begin_segment(
    dir: &Path,
    base: u64,
    start: Start,
    index: &mut Index,
    disk: &dyn Disk,
) -> Result<(), OpenError> {
    let path = dir.join(segment_name(base));
    let made = make_segment(&path, base, &start.encode(), disk);
    let (file, end) = made.map_err(OpenError::io("make", &path))?;
    index.add_segment(base, path);
    index.segment_made(base, file);
    index.end = end;
    index.durable = end;
    Ok(())
}

/// Makes a segment's file, durably, and gives it with the position behind its first record.
pub(crate) fn make_segment(
    path: &Path,
    base: u64,
    start: &[u8; START_BYTES],
    disk: &dyn Disk,
) -> std::io::Result<(Arc<File>, u64)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let mut bytes = record::head().to_vec();
    record::encode(
        &mut bytes,
        base + HEAD_BYTES as u64,
        base,
        Kind::Start,
        &[start],
    );
    disk.write(&file, &bytes, 0)?;
    disk.sync(&file)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))?;
    Ok((Arc::new(file), base + bytes.len() as u64))
}

/// Returns when what was made, renamed and removed in the directory will survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes once more what no record says was on disk. After a failed sync the kernel may hold such
/// bytes as clean without having written them; they are about to be relied on, so they are made dirty
/// again and synced.
fn rewrite_tail(index: &Index, synced: u64, disk: &dyn Disk) -> Result<(), OpenError> {
    let Some((base, segment)) = index.last_segment() else {
        return Ok(());
    };
    let (Some(file), path) = (&segment.file, &segment.path) else {
        return Ok(());
    };
    let from = synced.max(base) - base;
    let mut tail = vec![0; (index.end - base - from) as usize];
    std::os::unix::fs::FileExt::read_exact_at(file.as_ref(), &mut tail, from)
        .and_then(|()| disk.write(file, &tail, from))
        .and_then(|()| disk.sync(file))
        .map_err(OpenError::io("write", path))
}

fn damaged(path: &Path, offset: u64, found: impl Into<String>) -> OpenError {
    OpenError::LogDamaged {
        path: path.to_owned(),
        offset,
        found: found.into(),
    }
}
