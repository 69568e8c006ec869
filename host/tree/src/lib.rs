//! The replicated state and everything that is decided about it. Pure: no I/O, no async, no clock.
//!
//! Read in this order: the tables of the committed [`State`], and its digest; [`apply`](State::apply), which alone
//! changes it; the overlay of what the leader has evaluated and not yet seen applied; the operations,
//! which say what should change; the [`Evaluator`], which makes transactions of requests; snapshots.

mod nodes;
mod table;

mod state;

mod digest;

mod apply;

mod overlay;
mod view;

mod operations;

mod mount_tree;
mod run;

mod evaluate;

mod snapshot;

pub use apply::{Diverged, Verdict};
pub use digest::Digest;
pub use evaluate::{
    Bounds, Difference, Evaluator, FailedRun, Observed, RecipeLine, ShadowRun, Side,
};
pub use operations::call::{CREATED_BYTES_PER_CALL, CREATED_PER_CALL};
pub use operations::configuration::configuration_version;
pub use run::RunTree;
pub use snapshot::SnapshotError;
pub use state::{Counts, Session, SharedState, State, Znode};

#[cfg(test)]
mod properties;
#[cfg(test)]
mod rules;
