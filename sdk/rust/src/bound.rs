//! Bounds on what a caller may have kept: each with a name, which stands in the refusal.
//!
//! A run has bounds of its own, and what lists all that was kept runs into them one day: then it fails for everybody.
//! Who stores too much is refused instead, and told what.

use crate::call;

/// Refuses a text of more than `most` bytes; `bound` is the bound's name, such as `member-bytes`.
pub fn require_bytes(bound: &str, text: &str, most: usize) {
    require_most(bound, text.len() as u64, most as u64);
}

/// Refuses a number above `most`: bytes, items, whatever the bound of that name counts.
pub fn require_most(bound: &str, count: u64, most: u64) {
    if count > most {
        reached(bound, &format!("{count}, and {most} is the most"));
    }
}

/// Refuses since a bound is reached; `why` says by what, and what to do about it.
pub fn reached(bound: &str, why: &str) -> ! {
    call::refuse(&format!("beyond the bound {bound}: {why}"))
}
