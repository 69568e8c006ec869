//! Restarts: what was applied is applied again, in order, and soon.

use std::fs;
use std::path::Path;

use super::tally::{Server, entry};
use crate::{Health, ProposeError, Resolution};

#[tokio::test]
async fn a_restart_recovers_everything() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut expected = Vec::new();
    for restart in 0..4 {
        let mut server = Server::start(dir.path()).await;
        let applied = server.tally.applied();
        assert_eq!(applied[..expected.len()], expected, "restart {restart}");
        server.write(100).await;
        expected = server.tally.applied();
        assert_eq!(expected.len(), (restart + 1) * 101);
        server.consensus.shutdown().await;
        assert_eq!(*server.consensus.health().borrow(), Health::Stopped);
    }
}

/// Copies a data directory as a power cut would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copied");
        }
    }
}

#[tokio::test]
async fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let (running, cut) = (dir.path().join("running"), dir.path().join("cut"));
    let mut server = Server::start(&running).await;
    server.write(50).await;
    let acknowledged = server.tally.applied();
    let unacknowledged = server.propose().await;
    copy(&running, &cut);
    let after = Server::start(&cut).await;
    assert_eq!(after.tally.applied()[..acknowledged.len()], acknowledged);
    after.consensus.shutdown().await;
    assert_eq!(unacknowledged.await, Resolution::Applied);
    server.consensus.shutdown().await;
}

#[tokio::test]
async fn proposals_resolve_in_order_and_a_gap_is_a_no_op() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start(dir.path()).await;
    let mut proposals = Vec::new();
    for _ in 0..500 {
        proposals.push(server.propose().await);
    }
    // One past the next, which no state may take, and everything behind it.
    let gap = server
        .consensus
        .propose(server.term, entry(server.epoch, 502))
        .await
        .expect("queued");
    let last = proposals.pop().expect("500");
    assert_eq!(last.await, Resolution::Applied);
    for proposal in proposals {
        // Those before are resolved by now.
        assert_eq!(now(proposal), Some(Resolution::Applied));
    }
    assert_eq!(gap.await, Resolution::NoOp);
    assert_eq!(server.tally.applied().len(), 501);
    server.consensus.shutdown().await;
}

fn now(proposal: crate::Proposal) -> Option<Resolution> {
    use futures_util::FutureExt;
    tokio::task::unconstrained(proposal).now_or_never()
}

#[tokio::test]
async fn nothing_is_proposed_in_another_term_or_after_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path()).await;
    let other = server.consensus.propose(server.term + 1, entry(1, 1)).await;
    assert!(
        matches!(other, Err(ProposeError::NotLeading(_))),
        "{other:?}"
    );
    assert!(
        server
            .consensus
            .ready_to_lead(server.term + 1)
            .await
            .is_err()
    );
    server.consensus.shutdown().await;
    let late = server.consensus.propose(server.term, entry(1, 1)).await;
    assert!(matches!(late, Err(ProposeError::NotLeading(_))), "{late:?}");
    assert!(!server.consensus.leadership().borrow().leading);
}

#[tokio::test]
async fn shutdown_resolves_what_is_in_flight() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start(dir.path()).await;
    let mut proposals = Vec::new();
    for _ in 0..50 {
        proposals.push(server.propose().await);
    }
    server.consensus.shutdown().await;
    for proposal in proposals {
        let resolution = now(proposal).expect("nothing waits for ever");
        assert!(matches!(
            resolution,
            Resolution::Applied | Resolution::Unknown
        ));
    }
}
