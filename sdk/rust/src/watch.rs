//! What wakes the call once it is parked: changes after this run. All watches are gone when the next run
//! starts. A path need not exist.

use crate::bindings::quorate::recipe::watch as abi;

/// The znode is created or deleted, or its data are set.
pub fn node(path: &str) {
    abi::node(path);
}

/// A child of it is created or deleted.
pub fn children(path: &str) {
    abi::children(path);
}

/// It, or anything below it, is created, deleted or set.
pub fn subtree(path: &str) {
    abi::subtree(path);
}

/// The moment comes, in milliseconds since the Unix epoch; one that has passed comes at once.
pub fn time(at: u64) {
    abi::time(at);
}
