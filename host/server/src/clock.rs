//! The one place that reads clocks. Everywhere else time is an argument.
#![allow(
    clippy::disallowed_methods,
    reason = "this file is the exception that the rule names"
)]

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quorate_model::id::Timestamp;

/// How far one correction moves the clock, in milliseconds: with a correction every [`CORRECT_EVERY`]
/// a wrong system clock is followed at one percent, so that leases neither all end nor freeze (rule E3).
const MAX_CORRECTION_MS: i64 = 10;

/// Between two corrections.
pub const CORRECT_EVERY: Duration = Duration::from_secs(1);

/// A machine's clocks: the system's, or those of a simulated machine.
pub trait Hands: Debug + Send + Sync {
    /// Since some moment; never goes back.
    fn monotonic(&self) -> Duration;

    /// Milliseconds since 1970, as the machine believes; may jump.
    fn wall_ms(&self) -> i64;
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemHands(Instant);

impl SystemHands {
    /// Counts from now.
    pub fn start() -> Arc<SystemHands> {
        Arc::new(SystemHands(Instant::now()))
    }
}

impl Hands for SystemHands {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        since.as_millis() as i64
    }
}

/// Wall time that goes forward with the monotonic clock and follows the machine's slowly.
#[derive(Debug)]
pub struct Clock {
    hands: Arc<dyn Hands>,
    started: Duration,
    started_at_ms: i64,
    correction_ms: AtomicI64,
}

impl Clock {
    /// Begins with the machine's time.
    pub fn start(hands: Arc<dyn Hands>) -> Clock {
        Clock {
            started: hands.monotonic(),
            started_at_ms: hands.wall_ms(),
            correction_ms: AtomicI64::new(0),
            hands,
        }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        let at = self.started_at_ms
            + self.monotonic_ms() as i64
            + self.correction_ms.load(Ordering::Relaxed);
        Timestamp(at.max(0) as u64)
    }

    /// Sees to it that now is not before `time`: of a leader whose clock is behind the last transaction's,
    /// time goes on from there, and comes back to the system's slowly (rule E3).
    pub fn not_before(&self, time: Timestamp) {
        let behind = time.0.saturating_sub(self.now().0);
        self.correction_ms
            .fetch_add(behind as i64, Ordering::Relaxed);
    }

    /// Milliseconds since the start, whatever the system's time does.
    pub fn monotonic_ms(&self) -> u64 {
        self.hands
            .monotonic()
            .saturating_sub(self.started)
            .as_millis() as u64
    }

    /// Moves a little towards the system's time. Call it every [`CORRECT_EVERY`].
    pub fn correct(&self) {
        let ahead = self.now().0 as i64 - self.hands.wall_ms();
        let step = ahead.clamp(-MAX_CORRECTION_MS, MAX_CORRECTION_MS);
        self.correction_ms.fetch_sub(step, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e3_time_goes_on_from_the_last_transaction_and_does_not_stand_still() {
        let clock = Clock::start(SystemHands::start());
        let later = clock.now().plus(3_600_000);
        clock.not_before(later);
        assert!(clock.now() >= later);
        clock.correct();
        assert!(clock.now().0 + 1000 > later.0, "and comes back slowly");
    }

    #[test]
    fn follows_the_system_slowly() {
        let clock = Clock::start(SystemHands::start());
        clock.correction_ms.store(60_000, Ordering::Relaxed);
        clock.correct();
        assert_eq!(
            clock.correction_ms.load(Ordering::Relaxed),
            60_000 - MAX_CORRECTION_MS
        );
        clock.correction_ms.store(-60_000, Ordering::Relaxed);
        clock.correct();
        assert_eq!(
            clock.correction_ms.load(Ordering::Relaxed),
            -60_000 + MAX_CORRECTION_MS
        );
    }
}
