//! The panic of an essential task ends the process, which says why in its last line. Each server here is a process of its
//! own: this very program, which is told to run nothing but `a_server_that_panics`.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and waits for another process"
)]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::clock::{Hands, SystemHands};
use quorate::essential::{Essential, PANICKED};
use quorate::evaluate::administration;
use quorate::recipes;
use quorate::route::Waiter;
use quorate::server::{Machine, Server};
use quorate_consensus::{Config, RealDisk};
use quorate_model::call::Acknowledgement;
use quorate_model::id::{ServerId, Zxid};
use quorate_model::outcome::Outcome;
use quorate_model::request::Operation;
use quorate_tree::State;

/// Says to the child where it is to panic.
const PANICS_IN: &str = "QUORATE_TEST_PANICS_IN";

/// How long the child waits for its own end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clocks that the leader's thread cannot read once they are broken.
#[derive(Debug)]
struct BrittleHands {
    hands: Arc<SystemHands>,
    broken: AtomicBool,
}

impl Hands for BrittleHands {
    fn monotonic(&self) -> Duration {
        let leader = std::thread::current().name() == Some("evaluate");
        assert!(
            !(leader && self.broken.load(Ordering::SeqCst)),
            "the clock is broken"
        );
        self.hands.monotonic()
    }

    fn wall_ms(&self) -> i64 {
        self.hands.wall_ms()
    }
}

/// Its telling panics.
struct Panics;

impl Waiter for Panics {
    fn alive(&self) -> bool {
        true
    }
    fn settle(self: Box<Self>, _: &State, _: Zxid, _: &Outcome) {
        panic!("the answer is broken")
    }
    fn abandon(self: Box<Self>, _: &str) {}
}

#[test]
#[ignore = "the child of the tests below, which ends its process"]
fn a_server_that_panics() {
    let panics_in = std::env::var(PANICS_IN).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let config = Config::new(directory.path().join("raft"), ServerId(1));
        let hands = Arc::new(BrittleHands {
            hands: SystemHands::start(),
            broken: AtomicBool::new(false),
        });
        let machine = Machine {
            hands: hands.clone(),
            transport: None,
            disk: Arc::new(RealDisk),
            sandbox: Arc::new(recipes::sandbox(directory.path().join("compiled"), None).unwrap()),
            nonce: 1,
            applies_to: Box::new(|machine| machine),
            essential: Essential::process(),
        };
        let (server, leader) = Server::open(config, machine).await.unwrap();
        let handle = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("evaluate".into())
            .spawn(move || handle.block_on(leader.run()))
            .unwrap();
        server.begun().await.unwrap();
        let request = administration(Operation::Acknowledge(Acknowledgement::up_to(1)));
        match &*panics_in {
            "leader" => {
                hands.broken.store(true, Ordering::SeqCst);
                let _ = tokio::time::timeout(PATIENCE, server.router.ask(request)).await;
            }
            "apply" => {
                server.router.submit(request, Box::new(Panics)).unwrap();
                tokio::time::sleep(PATIENCE).await;
            }
            other => panic!("nothing panics in {other}"),
        }
    });
}

#[track_caller]
fn ends(panics_in: &str, said: &str) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "a_server_that_panics",
            "--nocapture",
        ])
        .env(PANICS_IN, panics_in)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.code(), Some(PANICKED), "{log}");
    let last = log.lines().last().unwrap();
    let why = format!("quorate: the essential task {panics_in:?} has panicked: {said}. ");
    assert!(last.starts_with(&why), "{last}");
}

#[test]
fn a_panic_of_the_leaders_task_ends_the_process() {
    ends("leader", "the clock is broken");
}

#[test]
fn a_panic_of_apply_ends_the_process() {
    ends("apply", "the answer is broken");
}
