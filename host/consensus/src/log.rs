//! The log: durable, checksummed, and one sync for all that came while the one before was running.
//!
//! A segmented log of our own. `raft-log` was examined: it takes a damaged length in the middle of its last
//! file for a cut-off end, and cuts off acknowledged entries there without a word; and it refuses to
//! start on a torn tail that is not zeros, which a power cut leaves. [`record`] says how this one tells
//! the two apart.

pub(crate) mod record;

pub(crate) mod index;

pub(crate) mod recover;

pub(crate) mod store;
pub(crate) mod writer;

mod reader;
