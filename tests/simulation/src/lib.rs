//! An ensemble on simulated machines: real servers, and clients, faults from a seed, and a checker.
//!
//! What is real: the server from its sockets inward, consensus, log and snapshots, the sandbox and the recipes. What is
//! simulated: time, the network (turmoil), what of a file survives a crash, and how long a disk takes.
//! All of it runs in one thread, so a seed gives the same run each time.

pub mod run;

pub mod client;
pub mod faults;
pub mod members;
pub mod mounts;
pub mod server;
pub mod workload;

pub mod machine;
pub mod random;

pub mod check;
pub mod history;
pub mod ledger;
