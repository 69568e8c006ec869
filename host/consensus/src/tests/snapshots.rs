//! Snapshots: of one instant, beside the applies, with the log purged behind them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::ensemble::within;
use super::tally::{SERVER, Server, Tally, component};
use crate::{Config, Consensus, Health, OpenError};

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let dir = fs::read_dir(dir.join("snapshots")).expect("a directory");
    dir.map(|file| file.expect("a file").path()).collect()
}

/// Waits until a snapshot of at least so many entries is there, and noted.
async fn snapshot_of(server: &Server, index: u64) {
    // Each turn is one write, so this ends.
    for _ in 0..10_000 {
        if server.consensus.status().snapshot_index >= Some(index) {
            return;
        }
        tokio::task::yield_now().await;
    }
    let mut wait = tokio::time::interval(std::time::Duration::from_millis(1));
    while server.consensus.status().snapshot_index < Some(index) {
        wait.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_of_the_instant_at_which_it_was_begun() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start(dir.path()).await;
    server.write(30).await;
    let then = server.tally.applied();
    let at = server.consensus.status().applied_index.expect("applied");
    let tally = server.tally.clone();
    {
        // No chunk is given before more was applied.
        let held = tally.hold_chunks.lock();
        futures_util::FutureExt::now_or_never(server.consensus.take_snapshot())
            .expect("queued")
            .expect("running");
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(server.write(30));
        });
        drop(held);
    }
    snapshot_of(&server, at).await;
    server.consensus.shutdown().await;

    let path = snapshots(dir.path()).remove(0);
    let store = crate::snapshot::SnapshotStore::open(path.parent().expect("a directory"));
    let file = store.expect("opened").current().expect("one");
    let restored = Tally::default();
    let mut chunks = file.chunks().expect("readable");
    crate::StateMachine::install(&restored, &mut std::iter::empty(), &mut chunks).expect("whole");
    assert_eq!(restored.applied(), then);
    let last = file.meta.last_log_id.expect("of something").index;
    assert_eq!(last, at, "what raft remembers is of the same instant");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_behind_snapshots_and_a_restart_has_both() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = || Config {
        segment_bytes: 2000,
        cache_bytes: 0,
        snapshot_after_bytes: 4000,
        keep_log_bytes: 1000,
        ..Config::new(dir.path(), SERVER)
    };
    let mut server = Server::start_with(config()).await;
    let mut wait = tokio::time::interval(std::time::Duration::from_millis(1));
    let mut written = 0;
    while server.consensus.status().purged_index < Some(500) {
        server.write(50).await;
        written += 50;
        assert!(
            written < 100_000,
            "nothing is purged: {:?}",
            server.consensus.status()
        );
        wait.tick().await;
    }
    let applied = server.tally.applied();
    assert_eq!(*server.consensus.health().borrow(), Health::Running);
    server.consensus.shutdown().await;
    let status = server.consensus.status();
    assert!(status.log_bytes < written * 60, "{status:?}");
    assert!(
        snapshots(dir.path()).len() <= 2,
        "{:?}",
        snapshots(dir.path())
    );

    let again = Server::start_with(config()).await;
    assert_eq!(again.tally.applied()[..applied.len()], applied);
    again.consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_refused_and_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start(dir.path()).await;
    server.write(20).await;
    server.consensus.take_snapshot().await.expect("running");
    snapshot_of(&server, 20).await;
    server.consensus.shutdown().await;
    let path = snapshots(dir.path()).remove(0);
    let bytes = fs::read(&path).expect("readable");

    let refusal = async |bytes: &[u8]| {
        fs::write(&path, bytes).expect("written");
        let machine = Arc::new(Tally::default());
        match Consensus::open(Config::new(dir.path(), SERVER), machine).await {
            Err(error) => error,
            Ok(_) => panic!("a damaged snapshot was taken"),
        }
    };
    for at in (0..bytes.len()).step_by(7) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        let error = refusal(&flipped).await;
        assert!(
            matches!(
                error,
                OpenError::SnapshotDamaged { .. } | OpenError::Version { .. }
            ),
            "byte {at}: {error}"
        );
        assert!(
            error.to_string().contains(&path.display().to_string()),
            "{error}"
        );
    }
    for length in [0, 10, 20, bytes.len() - 20, bytes.len() - 1] {
        let error = refusal(&bytes[..length]).await;
        assert!(
            matches!(error, OpenError::SnapshotDamaged { .. }),
            "cut to {length}: {error}"
        );
    }
    let error = refusal(&[&bytes[..], b"more"].concat()).await;
    assert!(
        matches!(error, OpenError::SnapshotDamaged { .. }),
        "{error}"
    );

    fs::write(&path, &bytes).expect("written");
    // What was left half-written by a crash is nothing.
    fs::write(path.with_extension("snapshot.partial"), b"half").expect("written");
    Server::start(dir.path()).await.consensus.shutdown().await;
    assert_eq!(snapshots(dir.path()), [path]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_the_snapshot_before_it_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = || Config {
        keep_log_bytes: 0,
        ..Config::new(dir.path(), SERVER)
    };
    let mut server = Server::start_with(config()).await;
    server.write(20).await;
    server.consensus.take_snapshot().await.expect("running");
    let mut wait = tokio::time::interval(std::time::Duration::from_millis(1));
    while server.consensus.status().purged_index.is_none() {
        wait.tick().await;
    }
    server.consensus.shutdown().await;
    fs::remove_file(snapshots(dir.path()).remove(0)).expect("removed");
    let refused = Consensus::open(config(), Arc::new(Tally::default())).await;
    let error = refused.err().expect("refused").to_string();
    assert!(error.contains("no snapshot reaches so far"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_cannot_be_written_stops_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start(dir.path()).await;
    server.write(20).await;
    fs::remove_dir(dir.path().join("snapshots")).expect("empty");
    server.consensus.take_snapshot().await.expect("running");
    let mut health = server.consensus.health();
    let why = health
        .wait_for(|health| matches!(health, Health::Impaired(_)))
        .await;
    assert!(format!("{:?}", why.expect("watched")).contains("cannot take a snapshot"));
    server.write(20).await;
    fs::create_dir(dir.path().join("snapshots")).expect("made");
    server.consensus.take_snapshot().await.expect("running");
    health
        .wait_for(|health| *health == Health::Running)
        .await
        .expect("mended");
    server.consensus.shutdown().await;
}

/// The components' files, with what tells a file from another one of the same name.
fn components(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut files: Vec<_> = snapshots(dir)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|it| it == "component"))
        .map(|path| {
            let inode = fs::metadata(&path).expect("there").ino();
            (path, inode)
        })
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_is_written_once_and_goes_with_the_last_snapshot_that_needs_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start(dir.path()).await;
    let (one, two) = (component(1, 600_000), component(2, 5));
    let snapshot = async |server: &mut Server, components: Vec<_>| {
        server.write(5).await;
        *server.tally.components.lock() = components;
        let at = server.consensus.status().applied_index.expect("applied");
        // Raft takes no word for another while it is not through with the last, whose file may be in place already.
        while server.consensus.status().snapshot_index < Some(at) {
            server.consensus.take_snapshot().await.expect("running");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    snapshot(&mut server, vec![one.clone()]).await;
    let first = components(dir.path());
    assert_eq!(first.len(), 1);
    assert_eq!(fs::metadata(&first[0].0).expect("there").len(), 600_000);
    let snapshot_bytes = server.consensus.status().snapshot_bytes;
    assert!(snapshot_bytes < 2000, "{snapshot_bytes}");

    snapshot(&mut server, vec![one.clone(), two.clone()]).await;
    let second = components(dir.path());
    assert_eq!(second.len(), 2);
    assert!(second.contains(&first[0]), "it is not written again");
    server.consensus.shutdown().await;

    // A restart has what the snapshot needs, and removes what none does.
    let stray = dir
        .path()
        .join(format!("snapshots/{}.component", component(9, 9).0));
    fs::write(&stray, b"stray").expect("written");
    let mut server = Server::start(dir.path()).await;
    assert_eq!(*server.tally.components.lock(), [one, two.clone()]);
    assert_eq!(components(dir.path()), second);

    snapshot(&mut server, vec![two.clone()]).await;
    // It goes behind the moment at which the new snapshot is in place.
    within("nobody needs the first any more", async {
        while components(dir.path()).len() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let third = components(dir.path());
    assert_eq!(third.len(), 1);
    assert!(third[0].0.to_string_lossy().contains(&two.0.to_string()));
    server.consensus.shutdown().await;

    fs::write(&third[0].0, b"dama!").expect("written");
    let machine = Arc::new(Tally::default());
    let refused = Consensus::open(Config::new(dir.path(), SERVER), machine).await;
    let error = refused.err().expect("refused").to_string();
    assert!(error.contains("another digest"), "{error}");
    assert!(error.contains(&two.0.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n2_entries_are_applied_while_a_component_is_being_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start(dir.path()).await;
    server.write(5).await;
    let large = component(1, 32 << 20);
    *server.tally.components.lock() = vec![large.clone()];
    let at = server.consensus.status().applied_index.expect("applied");
    server.consensus.take_snapshot().await.expect("running");
    let being_written = || {
        let begun = |path: &PathBuf| path.to_string_lossy().contains("component-");
        snapshots(dir.path()).iter().any(begun)
    };
    // Each turn is one entry that is applied.
    let mut meanwhile = 0;
    while components(dir.path()).is_empty() {
        let before = being_written();
        server.write(1).await;
        meanwhile += u32::from(before && being_written());
    }
    assert!(meanwhile > 0);
    snapshot_of(&server, at).await;
    server.consensus.shutdown().await;
}
