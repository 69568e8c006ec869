//! The log's files: torn tails are cut off, damage is told, files come and go.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader};

use super::tally;
use crate::OpenError;
use crate::command::Command;
use crate::disk::{Disk, RealDisk};
use crate::health::HealthNote;
use crate::log::recover;
use crate::log::store::LogStore;
use crate::raft::{LogEntry, Types, Vote, log_id};

/// A log in a directory of its own.
struct Log {
    store: LogStore,
    dir: PathBuf,
    health: HealthNote,
}

impl Log {
    fn create(dir: &Path) -> Log {
        Log::with(
            recover::create(dir, 1, &RealDisk).expect("created"),
            dir,
            1 << 20,
            1 << 20,
        )
    }

    fn recover(dir: &Path) -> Result<Log, OpenError> {
        Ok(Log::with(
            recover::recover(dir, 1, &RealDisk)?,
            dir,
            1 << 20,
            1 << 20,
        ))
    }

    fn with(
        index: crate::log::index::Index,
        dir: &Path,
        segment_bytes: u64,
        cache_bytes: usize,
    ) -> Log {
        Log::on(index, dir, segment_bytes, cache_bytes, Arc::new(RealDisk))
    }

    fn on(
        index: crate::log::index::Index,
        dir: &Path,
        segment_bytes: u64,
        cache_bytes: usize,
        disk: Arc<dyn Disk>,
    ) -> Log {
        let health = HealthNote::new();
        let store = LogStore::start(
            index,
            dir,
            1,
            segment_bytes,
            cache_bytes,
            disk,
            health.clone(),
        );
        Log {
            store: store.expect("started"),
            dir: dir.to_owned(),
            health,
        }
    }

    async fn append(&mut self, indices: std::ops::Range<u64>) -> std::io::Result<()> {
        let (sender, receiver) = Types::oneshot();
        let entries: Vec<LogEntry> = indices.map(log_entry).collect();
        self.store
            .append(entries, IOFlushed::signal(sender))
            .await?;
        receiver.await.expect("it is always told")
    }

    async fn read(&self, indices: std::ops::Range<u64>) -> Vec<LogEntry> {
        self.store
            .reader()
            .try_get_log_entries(indices)
            .await
            .expect("readable")
    }

    fn files(&self) -> Vec<PathBuf> {
        files(&self.dir)
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .expect("a directory")
        .map(|file| file.expect("a file").path())
        .collect();
    files.sort();
    files
}

fn log_entry(index: u64) -> LogEntry {
    let entry = tally::entry(1, index as u32);
    let command = Command::new(entry).expect("small");
    LogEntry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(command),
    }
}

/// A log with entries 0 to 9, each in a sync of its own, that was never closed; gives its only file's
/// bytes and where the last record begins.
async fn torn_log(dir: &Path) -> (PathBuf, Vec<u8>, usize) {
    let mut log = Log::create(dir);
    log.append(0..9).await.expect("written");
    let file = log.files().remove(0);
    let before = fs::metadata(&file).expect("there").len() as usize;
    log.append(9..10).await.expect("written");
    let bytes = fs::read(&file).expect("readable");
    log.store.close();
    (file, bytes, before)
}

#[tokio::test]
async fn a_tail_cut_off_anywhere_in_the_last_record_recovers() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, bytes, before) = torn_log(dir.path()).await;
    for length in before..=bytes.len() {
        fs::write(&file, &bytes[..length]).expect("written");
        let mut log = Log::recover(dir.path()).expect("a torn tail does not stop a start");
        let expected = if length == bytes.len() { 10 } else { 9 };
        assert_eq!(
            log.read(0..100).await.len(),
            expected,
            "cut to {length} bytes"
        );
        // And it goes on from there.
        log.append(expected as u64..11).await.expect("written");
        log.store.close();
        let log = Log::recover(dir.path()).expect("whole");
        let expected: Vec<LogEntry> = (0..11).map(log_entry).collect();
        assert_eq!(log.read(0..100).await, expected);
        log.store.close();
    }
}

#[tokio::test]
async fn a_tail_of_zeros_or_of_anything_recovers() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, bytes, before) = torn_log(dir.path()).await;
    let zeros = vec![0; 5000];
    let noise: Vec<u8> = (0..5000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    // Pages reach the disk in any order: the record's end may be there without its beginning.
    let headless = [&vec![0; 10][..], &bytes[before + 10..]].concat();
    for tail in [zeros, noise, headless] {
        fs::write(&file, [&bytes[..before], &tail].concat()).expect("written");
        let log = Log::recover(dir.path()).expect("a torn tail does not stop a start");
        assert_eq!(log.read(0..100).await.len(), 9);
        log.store.close();
    }
}

#[tokio::test]
async fn a_byte_flipped_in_what_was_acknowledged_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, bytes, before) = torn_log(dir.path()).await;
    // The last write may be torn; what stands before it was on disk, as the last record says.
    for at in 0..before {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x40;
        fs::write(&file, &bytes).expect("written");
        let error = match Log::recover(dir.path()) {
            Err(error) => error,
            Ok(_) => panic!("byte {at} of {before} was flipped, and the log was taken"),
        };
        match error {
            OpenError::LogDamaged { path, .. } | OpenError::Version { path, .. } => {
                assert_eq!(path, file);
            }
            error => panic!("byte {at}: {error}"),
        }
        assert_eq!(
            fs::read(&file).expect("readable"),
            bytes,
            "nothing was changed"
        );
    }
}

#[tokio::test]
async fn after_a_close_in_order_damage_to_the_last_entry_is_told_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, _, before) = torn_log(dir.path()).await;
    let mut bytes = fs::read(&file).expect("closed by now");
    bytes[before + 30] ^= 1;
    fs::write(&file, &bytes).expect("written");
    assert!(matches!(
        Log::recover(dir.path()),
        Err(OpenError::LogDamaged { .. })
    ));
}

#[tokio::test]
async fn files_are_rolled_read_purged_and_recovered() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = recover::create(dir.path(), 1, &RealDisk).expect("created");
    let mut log = Log::with(index, dir.path(), 400, 0);
    let vote = Vote::new_committed(1, 1);
    log.store.save_vote(&vote).await.expect("saved");
    for index in 0..50 {
        log.append(index..index + 1).await.expect("written");
    }
    let all: Vec<LogEntry> = (0..50).map(log_entry).collect();
    assert_eq!(
        log.read(0..50).await,
        all,
        "read from disk, as nothing is cached"
    );
    assert!(log.files().len() > 5);

    log.store.purge(log_id(1, 39)).await.expect("purged");
    log.append(50..51).await.expect("written");
    log.store
        .truncate_after(Some(log_id(1, 44)))
        .await
        .expect("truncated");
    log.append(45..46).await.expect("written");
    log.store.close();
    // They are removed beside the writing, and all gone when the log is closed.
    assert!(log.files().len() < 8, "{:?}", log.files());

    let index = recover::recover(dir.path(), 1, &RealDisk).expect("recovered");
    let mut log = Log::with(index, dir.path(), 400, 0);
    assert_eq!(log.read(0..100).await, all[40..46]);
    let state = log.store.get_log_state().await.expect("known");
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 39)));
    assert_eq!(state.last_log_id, Some(log_id(1, 45)));
    assert_eq!(
        log.store.reader().read_vote().await.expect("known"),
        Some(vote)
    );

    // Everything goes, as when a snapshot was installed that is ahead of the log.
    log.store.purge(log_id(3, 200)).await.expect("purged");
    log.append(201..203).await.expect("written");
    log.store.close();
    let log = Log::recover(dir.path()).expect("recovered");
    assert_eq!(log.read(0..1000).await.len(), 2);
    assert_eq!(
        log.store.reader().read_vote().await.expect("known"),
        Some(vote)
    );
    log.store.close();
}

#[tokio::test]
async fn a_missing_file_and_damage_in_an_older_one_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = recover::create(dir.path(), 1, &RealDisk).expect("created");
    let mut log = Log::with(index, dir.path(), 400, 0);
    for index in 0..30 {
        log.append(index..index + 1).await.expect("written");
    }
    log.store.close();
    let files = log.files();
    let (old, bytes) = (&files[1], fs::read(&files[1]).expect("readable"));

    fs::write(old, &bytes[..bytes.len() - 1]).expect("written");
    assert!(matches!(
        Log::recover(dir.path()),
        Err(OpenError::LogDamaged { .. })
    ));
    fs::remove_file(old).expect("removed");
    assert!(matches!(
        Log::recover(dir.path()),
        Err(OpenError::LogDamaged { .. })
    ));
    fs::write(old, &bytes).expect("written");
    // A crash between making a file and writing its first record.
    let last = files.last().expect("several");
    fs::write(last, b"").expect("written");
    let log = Log::recover(dir.path()).expect("nothing in it was acknowledged");
    log.store.close();
    for file in &files {
        fs::remove_file(file).expect("removed");
    }
    assert!(matches!(
        Log::recover(dir.path()),
        Err(OpenError::LogDamaged { .. })
    ));
}

#[tokio::test]
async fn a_segment_of_another_release_or_server_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, bytes, _) = torn_log(dir.path()).await;
    let mut newer = bytes.clone();
    newer[8] = 9;
    fs::write(&file, &newer).expect("written");
    let error = Log::recover(dir.path()).err().expect("refused").to_string();
    assert!(
        error.contains("version 9") && error.contains("reads version 2"),
        "{error}"
    );
    fs::write(&file, &bytes).expect("written");
    let error = recover::recover(dir.path(), 2, &RealDisk).expect_err("refused");
    assert!(matches!(error, OpenError::OtherServer { .. }), "{error}");
}

/// A disk whose syncs fail when told to.
#[derive(Default)]
struct FailingDisk {
    fail_sync: std::sync::atomic::AtomicBool,
    fail_write: std::sync::atomic::AtomicBool,
    syncs: std::sync::atomic::AtomicU64,
}

impl Disk for FailingDisk {
    fn write(&self, file: &fs::File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        if self.fail_write.load(std::sync::atomic::Ordering::SeqCst) {
            // A full disk takes what still fits.
            RealDisk.write(file, &bytes[..bytes.len() / 2], offset)?;
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        RealDisk.write(file, bytes, offset)
    }

    fn sync(&self, file: &fs::File) -> std::io::Result<()> {
        self.syncs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if self.fail_sync.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(std::io::Error::other("the disk is gone"));
        }
        RealDisk.sync(file)
    }
}

#[tokio::test]
async fn after_a_failed_write_or_sync_nothing_is_acknowledged() {
    for fail_write in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Arc::new(FailingDisk::default());
        let index = recover::create(dir.path(), 1, disk.as_ref()).expect("created");
        let mut log = Log::on(index, dir.path(), 1 << 20, 1 << 20, disk.clone());
        log.append(0..3).await.expect("written");
        let failing = if fail_write {
            &disk.fail_write
        } else {
            &disk.fail_sync
        };
        failing.store(true, std::sync::atomic::Ordering::SeqCst);
        log.append(3..4).await.expect_err("not acknowledged");
        // The disk is well again, but what failed may or may not be on it, so nothing goes behind it.
        failing.store(false, std::sync::atomic::Ordering::SeqCst);
        log.append(4..5).await.expect_err("not acknowledged");
        log.store
            .save_vote(&Vote::new(2, 1))
            .await
            .expect_err("not acknowledged");
        let health = log.health.watch().borrow().clone();
        assert!(
            matches!(&health, crate::Health::Failed(why) if why.contains("cannot write the log"))
        );
        log.store.close();
        let log = Log::recover(dir.path()).expect("recovered");
        assert_eq!(log.read(0..3).await.len(), 3);
        log.store.close();
    }
}

#[tokio::test]
async fn what_comes_during_a_sync_shares_the_next_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Arc::new(FailingDisk::default());
    let index = recover::create(dir.path(), 1, disk.as_ref()).expect("created");
    let mut log = Log::on(index, dir.path(), 1 << 20, 1 << 20, disk.clone());
    let mut told = Vec::new();
    for index in 0..1000 {
        let (sender, receiver) = Types::oneshot();
        log.store
            .append([log_entry(index)], IOFlushed::signal(sender))
            .await
            .expect("queued");
        told.push(receiver);
    }
    for told in told {
        told.await.expect("told").expect("written");
    }
    let syncs = disk.syncs.load(std::sync::atomic::Ordering::SeqCst);
    assert!(syncs < 900, "{syncs} syncs for 1000 appends");
    log.store.close();
}
