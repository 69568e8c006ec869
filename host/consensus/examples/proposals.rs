//! Prints how many proposals of 200 bytes an ensemble takes per second, at windows of 1, 16, 256 and 1024.
//!
//! `cargo run --release -p quorate-consensus --example proposals [SERVERS]`; without a number, of one server.
//! Several are in one process, and talk over loopback.

#![allow(
    clippy::disallowed_methods,
    reason = "it measures, so it needs a clock; nothing replicated depends on it"
)]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_consensus::{
    Chunks, Components, Config, Consensus, FirstMember, InstallError, StateMachine, Tcp, Verdict,
};
use quorate_model::id::{ServerId, SessionId, Timestamp};
use quorate_model::path::ZnodePath;
use quorate_model::recipe::{Component, RecipeDigest};
use quorate_model::write_set::{Batch, Change, Entry, Transaction};
use tokio::net::TcpListener;

/// How long each window is measured.
const DURATION: Duration = Duration::from_secs(3);

/// A state of nothing, so that only consensus is measured.
struct Nothing;

impl StateMachine for Nothing {
    fn apply(&self, _: &Entry) -> Verdict {
        Verdict::Applied
    }
    fn begin_snapshot(&self) -> Vec<(RecipeDigest, Component)> {
        Vec::new()
    }
    fn snapshot_chunk(&self) -> Option<Vec<u8>> {
        None
    }
    fn abandon_snapshot(&self) {}
    fn install(&self, _: &mut Components<'_>, _: &mut Chunks<'_>) -> Result<(), InstallError> {
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

/// Opens so many servers.
async fn open(dir: &Path, servers: u64) -> Result<Vec<Consensus>, Box<dyn std::error::Error>> {
    let (mut listeners, mut members) = (Vec::new(), Vec::new());
    for server in 1..=servers {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        members.push(FirstMember {
            server: ServerId(server),
            address: listener.local_addr()?.to_string(),
            votes: true,
        });
        listeners.push(listener);
    }
    let mut opened = Vec::new();
    for (member, listener) in members.iter().zip(listeners) {
        let mut config = Config::new(dir.join(member.server.0.to_string()), member.server);
        config.members = members.clone();
        let transport = Arc::new(Tcp::new(Some(listener)));
        opened.push(Consensus::open_with_peers(config, Arc::new(Nothing), transport).await?);
    }
    Ok(opened)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let servers: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(1), |servers| servers.parse())?;
    let dir = tempfile::tempdir_in(".")?;
    let path: ZnodePath = ZnodePath::parse("/a/znode")?;
    let began = Instant::now();
    let opened = open(dir.path(), servers).await?;
    let leading = opened.iter().map(|consensus| {
        let mut leadership = consensus.leadership();
        Box::pin(async move {
            let led = leadership.wait_for(|now| now.leading).await;
            led.map(|now| (consensus.clone(), now.term))
        })
    });
    let (led, ..) = futures_util::future::select_all(leading).await;
    let (consensus, term) = led?;
    consensus.ready_to_lead(term).await?;
    println!("{servers} servers; leading after {:?}", began.elapsed());
    for window in [1, 16, 256, 1024] {
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
    for consensus in opened {
        consensus.shutdown().await;
    }
    Ok(())
}
