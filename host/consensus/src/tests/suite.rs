//! openraft's own test suite for stores.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::tally::Tally;
use crate::disk::RealDisk;
use crate::health::HealthNote;
use crate::log::recover;
use crate::log::store::LogStore;
use crate::machine::{Machine, SnapshotBounds, Upkeep};
use crate::raft::Types;
use crate::snapshot::SnapshotStore;

struct Builder;

/// What a store needs while it is tested. The log's writer ends with it.
struct Guard {
    log: LogStore,
    _dir: tempfile::TempDir,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.log.close();
    }
}

impl StoreBuilder<Types, LogStore, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, Machine), StorageError<Types>> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (log_dir, snapshots) = (dir.path().join("log"), dir.path().join("snapshots"));
        std::fs::create_dir(&log_dir).expect("made");
        std::fs::create_dir(&snapshots).expect("made");
        let health = HealthNote::new();
        let index = recover::create(&log_dir, 1, &RealDisk).expect("created");
        // Small files and no cache, so that the suite also rolls files and reads from them.
        let log = LogStore::start(
            index,
            &log_dir,
            1,
            512,
            0,
            Arc::new(RealDisk),
            health.clone(),
        );
        let log = log.expect("started");
        let store = SnapshotStore::open(&snapshots).expect("opened");
        let upkeep = Upkeep::new(store, Arc::new(RealDisk), health);
        let bounds = SnapshotBounds {
            bytes: u64::MAX,
            entries: u64::MAX,
        };
        let machine = Machine::recover(Arc::new(Tally::default()), bounds, upkeep);
        let guard = Guard {
            log: log.clone(),
            _dir: dir,
        };
        Ok((guard, log, machine.expect("recovered")))
    }
}

#[tokio::test]
async fn the_stores_pass_openrafts_suite() {
    Suite::test_all(Builder)
        .await
        .expect("every test of the suite");
}
