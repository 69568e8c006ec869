//! A machine's clocks: the wall clock is off by what the plan of faults says.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use quorate::clock::Hands;

/// When the simulated world begins, in milliseconds since 1970.
const BEGINNING_MS: i64 = 1_700_000_000_000;

/// One machine's clocks.
#[derive(Debug, Default)]
pub struct SimulatedHands {
    skew_ms: AtomicI64,
}

impl SimulatedHands {
    /// A clock that is ahead by so many milliseconds.
    pub fn ahead(skew_ms: i64) -> Arc<SimulatedHands> {
        Arc::new(SimulatedHands {
            skew_ms: AtomicI64::new(skew_ms),
        })
    }

    /// The wall clock jumps.
    pub fn jump(&self, by_ms: i64) {
        self.skew_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Hands for SimulatedHands {
    fn monotonic(&self) -> Duration {
        // None only while a machine is being taken down, when nobody looks.
        turmoil::sim_elapsed().unwrap_or_default()
    }

    fn wall_ms(&self) -> i64 {
        let elapsed = self.monotonic().as_millis() as i64;
        BEGINNING_MS + elapsed + self.skew_ms.load(Ordering::Relaxed)
    }
}
