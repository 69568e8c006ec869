//! Failures while it runs: never acknowledged, told, and nothing waits for ever.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::tally::{BOMB, SERVER, Server, Tally, timed_entry};
use crate::disk::{Disk, RealDisk};
use crate::{Config, Consensus, Health, Resolution, Tcp};

/// A disk that is full when told to be.
#[derive(Default)]
struct FullDisk(AtomicBool);

impl Disk for FullDisk {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        RealDisk.write(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        RealDisk.sync(file)
    }
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Arc::new(FullDisk::default());
    let tally = Arc::new(Tally::default());
    let config = Config::new(dir.path(), SERVER);
    let consensus = Consensus::open_on(
        config,
        tally.clone(),
        Arc::new(Tcp::new(None)),
        disk.clone(),
    )
    .await
    .expect("opened");
    let mut server = Server::lead(consensus, tally).await;
    server.write(10).await;
    let acknowledged = server.tally.applied();

    disk.0.store(true, Ordering::SeqCst);
    assert_eq!(server.propose().await.await, Resolution::Unknown);
    let mut health = server.consensus.health();
    let health = health
        .wait_for(|health| *health != Health::Running)
        .await
        .expect("watched")
        .clone();
    assert!(matches!(&health, Health::Failed(why) if why.contains("cannot write the log")));
    assert_eq!(server.tally.applied(), acknowledged);
    let mut leadership = server.consensus.leadership();
    leadership
        .wait_for(|now| !now.leading)
        .await
        .expect("it ends by itself");
    server.consensus.shutdown().await;

    let again = Server::start(dir.path()).await;
    assert_eq!(again.tally.applied()[..acknowledged.len()], acknowledged);
    again.consensus.shutdown().await;
}

#[tokio::test]
async fn a_panic_in_apply_stops_consensus_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start(dir.path()).await;
    server.write(1).await;
    let bomb = timed_entry(server.epoch, 2, BOMB);
    let proposal = server
        .consensus
        .propose(server.term, bomb)
        .await
        .expect("queued");
    assert_eq!(proposal.await, Resolution::Unknown);
    let mut health = server.consensus.health();
    let health = health
        .wait_for(|health| *health != Health::Running)
        .await
        .expect("watched")
        .clone();
    assert!(
        matches!(&health, Health::Failed(why) if why.contains("told to")),
        "{health:?}"
    );
    server.consensus.shutdown().await;
}
