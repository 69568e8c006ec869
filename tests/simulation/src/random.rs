//! The process's randomness, from the seed: whoever asks the system for random bytes is given these.
//!
//! Hash maps, the runtimes' schedulers, elections, nonces and passwords all begin with `getrandom`, so one
//! definition of it makes a run repeatable. A process runs one seed, since counters of the standard library
//! and of tokio go on from one to the next.
#![allow(
    unsafe_code,
    reason = "a symbol of the C library is replaced, which takes pointers"
)]

use std::sync::atomic::{AtomicU64, Ordering};

/// Where the sequence of this process is.
static STATE: AtomicU64 = AtomicU64::new(0);

/// The sequence begins anew, at `seed`.
pub fn begin(seed: u64) {
    STATE.store(seed.wrapping_mul(0x2545_f491_4f6c_dd1d), Ordering::SeqCst);
}

/// SplitMix64.
fn next() -> u64 {
    let step = 0x9e37_79b9_7f4a_7c15;
    let mut mixed = STATE.fetch_add(step, Ordering::SeqCst).wrapping_add(step);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// In place of the C library's: fills `buffer` and never fails.
///
/// # Safety
/// `buffer` must be good for `length` bytes, as for getrandom(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller's promise.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for piece in buffer.chunks_mut(8) {
        let bytes = next().to_le_bytes();
        piece.copy_from_slice(&bytes[..piece.len()]);
    }
    length as isize
}
