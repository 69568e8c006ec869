//! Tests of the whole crate, on real files.

mod tally;

mod directory;
mod faults;
mod log;
mod model;
mod restart;
mod snapshots;
mod suite;
