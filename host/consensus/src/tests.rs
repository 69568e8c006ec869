//! Tests of the whole crate, on real files.

mod mesh;
mod tally;

mod directory;
mod ensemble;
mod faults;
mod log;
mod model;
mod peers;
mod restart;
mod snapshots;
mod suite;
