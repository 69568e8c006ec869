//! The only crate that names openraft: log and snapshots on disk, leadership.
