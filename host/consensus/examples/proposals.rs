//! Prints how many proposals of 200 bytes a single node takes per second, at windows of 1, 16 and 256.
//!
//! `cargo run --release -p quorate-consensus --example proposals`

#![allow(
    clippy::disallowed_methods,
    reason = "it measures, so it needs a clock; nothing replicated depends on it"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_consensus::{Chunks, Config, Consensus, InstallError, StateMachine, Verdict};
use quorate_model::id::{ServerId, SessionId, Timestamp};
use quorate_model::path::ZnodePath;
use quorate_model::write_set::{Batch, Change, Entry, Transaction};

/// How long each window is measured.
const DURATION: Duration = Duration::from_secs(3);

/// A state of nothing, so that only consensus is measured.
struct Nothing;

impl StateMachine for Nothing {
    fn apply(&self, _: &Entry) -> Verdict {
        Verdict::Applied
    }
    fn begin_snapshot(&self) {}
    fn snapshot_chunk(&self) -> Option<Vec<u8>> {
        None
    }
    fn abandon_snapshot(&self) {}
    fn install(&self, _: &mut Chunks<'_>) -> Result<(), InstallError> {
        Ok(())
    }
}

fn entry(counter: u32, path: &ZnodePath) -> Entry {
    let data = Bytes::from(vec![b'x'; 170]);
    Entry::Transactions(Batch {
        epoch: 1,
        first_counter: counter,
        transactions: vec![Transaction {
            time: Timestamp(1_700_000_000_000),
            origin: None,
            session: SessionId::NONE,
            changes: vec![Change::SetData {
                path: path.clone(),
                data,
                version: 1,
            }],
            outcome: None,
        }],
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir_in(".")?;
    let path: ZnodePath = ZnodePath::parse("/a/znode")?;
    let config = Config::new(dir.path().join("data"), ServerId(1));
    let began = Instant::now();
    let consensus = Consensus::open(config, Arc::new(Nothing)).await?;
    let term = consensus
        .leadership()
        .wait_for(|now| now.leading)
        .await?
        .term;
    consensus.ready_to_lead(term).await?;
    println!("leading after {:?}", began.elapsed());
    for window in [1, 16, 256] {
        let (began, mut done) = (Instant::now(), 0_u32);
        let mut in_flight = VecDeque::new();
        while began.elapsed() < DURATION {
            while in_flight.len() < window {
                in_flight.push_back(consensus.propose(term, entry(done, &path)).await?);
            }
            if let Some(proposal) = in_flight.pop_front() {
                proposal.await;
                done += 1;
            }
        }
        let rate = f64::from(done) / began.elapsed().as_secs_f64();
        println!("window {window}: {rate:.0} proposals/s");
    }
    consensus.shutdown().await;
    Ok(())
}
