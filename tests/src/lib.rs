//! Scenarios: scripts in the words of the command line, run against the tree and the sandbox without
//! I/O, with the output that they are expected to have. And random schedules of calls, in [`random`].

pub mod random;
mod scenario;

pub use scenario::run;
