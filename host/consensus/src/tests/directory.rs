//! The data directory: one server's, of this release, and used once at a time.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use quorate_model::id::ServerId;

use super::tally::{SERVER, Server, Tally};
use crate::{Config, Consensus, OpenError};

async fn refusal(dir: &Path, server: ServerId) -> OpenError {
    match Consensus::open(Config::new(dir, server), Arc::new(Tally::default())).await {
        Err(error) => error,
        Ok(_) => panic!("it was opened"),
    }
}

#[tokio::test]
async fn a_directory_serves_one_server_once_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path()).await;
    let error = refusal(dir.path(), SERVER).await;
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    server.consensus.shutdown().await;
    let error = refusal(dir.path(), ServerId(2)).await;
    assert!(matches!(error, OpenError::OtherServer { .. }), "{error}");
    Server::start(dir.path()).await.consensus.shutdown().await;
}

#[tokio::test]
async fn a_dropped_server_frees_its_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start(dir.path()).await;
    server.write(5).await;
    drop(server);
    let server = Server::start(dir.path()).await;
    assert_eq!(server.tally.applied().len(), 1 + 5 + 1);
    server.consensus.shutdown().await;
}

#[tokio::test]
async fn another_release_and_foreign_files_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    Server::start(dir.path()).await.consensus.shutdown().await;
    let manifest = dir.path().join("quorate.json");
    let ours = fs::read_to_string(&manifest).expect("readable");
    fs::write(&manifest, ours.replace("\"format\": 2", "\"format\": 7")).expect("written");
    let error = refusal(dir.path(), SERVER).await.to_string();
    for part in ["quorate.json", "version 7", "reads version 2"] {
        assert!(error.contains(part), "{error}");
    }
    fs::write(&manifest, "hello").expect("written");
    let error = refusal(dir.path(), SERVER).await;
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    // The manifest is what says that the log counts.
    fs::remove_file(&manifest).expect("removed");
    let error = refusal(dir.path(), SERVER).await;
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");

    let foreign = tempfile::tempdir().expect("a directory");
    fs::write(foreign.path().join("thesis.txt"), "years of work").expect("written");
    let error = refusal(foreign.path(), SERVER).await.to_string();
    assert!(error.contains("thesis.txt"), "{error}");
    assert_eq!(
        fs::read_dir(foreign.path()).expect("readable").count(),
        1,
        "it stays as it was"
    );
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_is_made_again() {
    let dir = tempfile::tempdir().expect("a directory");
    for made in ["log", "snapshots"] {
        fs::create_dir(dir.path().join(made)).expect("made");
    }
    fs::write(dir.path().join("log/00000000000000000000.log"), b"quorl").expect("written");
    fs::write(dir.path().join("quorate.json.partial"), b"{").expect("written");
    Server::start(dir.path()).await.consensus.shutdown().await;
}
