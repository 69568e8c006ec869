//! The call being run: who makes it, when, and the two ways to end it early.

use crate::bindings::quorate::recipe::call as abi;

pub use abi::Identity;

/// The caller's session; in a guard the writer's; 0 in a standing run.
pub fn session() -> u64 {
    abi::session()
}

/// Who the caller has proved to be, as in ZooKeeper's access control lists.
pub fn identities() -> Vec<Identity> {
    abi::identities()
}

/// The moment of this run, in milliseconds since the Unix epoch.
pub fn now() -> u64 {
    abi::now()
}

/// The moment of this call's first run, in milliseconds since the Unix epoch: deadlines count from here.
pub fn started() -> u64 {
    abi::started()
}

/// The transaction being built. It grows strictly and never comes again.
pub fn transaction() -> u64 {
    abi::transaction()
}

/// What the previous run handed to [`park`], as text; none in the first run.
///
/// # Panics
///
/// If it is not text: then use [`memo_bytes`].
#[track_caller]
pub fn memo() -> Option<String> {
    memo_bytes().map(|memo| String::from_utf8(memo).expect("the memo is text"))
}

/// What the previous run handed to [`park`]; none in the first run.
pub fn memo_bytes() -> Option<Vec<u8>> {
    abi::memo()
}

/// Ends the run and keeps its writes. The call waits for one of the watches that were set, and then runs
/// again from its start, with `memo`. To park without a watch breaks a rule and traps.
pub fn park(memo: impl AsRef<[u8]>) -> ! {
    abi::park(memo.as_ref());
    unreachable!("park does not return")
}

/// Ends the run and drops its writes. The caller gets the reason.
pub fn refuse(reason: &str) -> ! {
    abi::refuse(reason);
    unreachable!("refuse does not return")
}
