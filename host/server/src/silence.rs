//! Silence: a server that is cut off from the quorum says nothing more to its clients (rule W4).
//!
//! So no client believes that it holds a lock which the majority has passed on: its server has closed its
//! connection before its session can end elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_consensus::Consensus;
use quorate_tree::SharedState;

use crate::clock::Clock;
use crate::notify::Watches;
use crate::respond::Kind;

/// How often the sessions' time is looked at: within it, a client may be answered later than the rule says.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// When this server last had word of a leader with a quorum, in its own monotonic milliseconds.
#[derive(Debug, Default)]
pub struct Silence {
    heard_ms: AtomicU64,
}

impl Silence {
    /// A quorum was there at `at_ms` or later, and the leader that it confirmed hears this server.
    pub fn heard(&self, at_ms: u64) {
        self.heard_ms.fetch_max(at_ms, Ordering::Relaxed);
    }

    /// How long ago that was.
    pub(crate) fn for_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_ms.load(Ordering::Relaxed))
    }
}

/// No session has so short a timeout that its two thirds are less, in milliseconds.
const LEAST_MS: u64 = 300;

/// Whether nobody with a session of that timeout is to be served after such a silence.
pub(crate) fn is_too_long(silent_ms: u64, timeout_ms: u32) -> bool {
    silent_ms >= LEAST_MS && silent_ms * 3 >= u64::from(timeout_ms) * 2
}

/// Closes the connections of sessions for whose timeout's two thirds nothing was heard of a quorum; never ends.
pub async fn keep(
    silence: Arc<Silence>,
    consensus: Consensus,
    state: SharedState,
    watches: Arc<Watches>,
    clock: Arc<Clock>,
) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    loop {
        every.tick().await;
        let now_ms = clock.monotonic_ms();
        // A leader that is cut off goes on believing that it leads until its lease ends.
        if let Some(age) = consensus.quorum_age() {
            silence.heard(now_ms.saturating_sub(age.as_millis() as u64));
        }
        let silent_ms = silence.for_ms(now_ms);
        if silent_ms >= LEAST_MS {
            close_silent(silent_ms, &state, &watches);
        }
    }
}

fn close_silent(silent_ms: u64, state: &SharedState, watches: &Watches) {
    let connections = watches.connections();
    let state = state.read();
    for connection in connections {
        let timeout_ms = match connection.kind() {
            Kind::Local { timeout_ms } => Some(timeout_ms),
            _ => connection
                .session()
                .and_then(|id| Some(state.session(id)?.timeout_ms)),
        };
        if timeout_ms.is_some_and(|timeout_ms| is_too_long(silent_ms, timeout_ms)) {
            connection.close("the server is cut off from the quorum");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_word_does_not_take_back_a_later_one() {
        let silence = Silence::default();
        silence.heard(500);
        silence.heard(300);
        assert_eq!(silence.for_ms(700), 200);
        assert_eq!(silence.for_ms(100), 0);
    }
}
