//! The values that every other crate speaks: paths, ids, requests, outcomes and write-sets.
//!
//! No I/O, no async, no clock, and no dependency on another crate of ours.

pub mod id;
pub mod path;

pub mod acl;
pub mod znode;

pub mod bound;
pub mod call;
pub mod recipe;

pub mod outcome;
pub mod request;

pub mod write_set;

mod readable;
pub mod recording;
pub mod run;
pub mod trial;
