//! The mount that changes: clients wait there for locks, and are told so when it goes, or when their calls do not fit it any
//! more.

use std::time::Duration;

use quorate_wire::CallStatus;
use serde_json::json;

use super::Program;
use crate::client::calls::{Call, Called};
use crate::history::Hold;
use crate::mounts::CHANGING;

/// So often a lock is given back at a mount that is not there, before its holder dies.
const TRIES: u32 = 30;

/// How a lock at that mount is called in the history.
const PREFIX: &str = "changing ";

impl Program {
    /// Waits for two locks there at once, and gives back what it gets.
    pub(super) async fn lock_where_mounts_change(&mut self) {
        let random = self.client.random();
        let window = Call::new(CHANGING, "acquire", json!(["window"]));
        // Two clients may each have the lock that the other one waits for.
        let gate = Call {
            timeout_ms: random.u64(1..3000),
            ..Call::new(CHANGING, "acquire", json!(["gate"]))
        };
        let acquired = self.call_all(vec![window, gate]).await;
        let time = Duration::from_millis(self.client.random().u64(0..300));
        self.client.idle(time).await;
        for one in acquired {
            let token = one.returned().and_then(|grant| grant["token"].as_u64());
            let Some(token) = token else {
                if !may_end_so(&one) {
                    self.complain(&one);
                }
                continue;
            };
            let lock = one.call.arguments[0].as_str().unwrap_or_default();
            let released = self.release_where_mounts_change(&one, lock).await;
            self.history.hold(Hold {
                lock: format!("{PREFIX}{lock}"),
                token,
                acquired: one.id,
                released: released.map(|called| called.id),
            });
        }
    }

    /// Gives a lock back, also if the mount is away for a while. None if it died with it.
    async fn release_where_mounts_change(&mut self, held: &Called, lock: &str) -> Option<Called> {
        for _ in 0..TRIES {
            let release = Call::new(CHANGING, "release", json!([lock]));
            let called = self.call(release).await;
            let called = called.filter(|called| called.id.session == held.id.session)?;
            match called.status()? {
                CallStatus::Returned => return Some(called),
                CallStatus::BadCall => self.client.idle(Duration::from_millis(100)).await,
                _ => {
                    self.complain(&called);
                    return Some(called);
                }
            }
        }
        self.client.forget_session();
        None
    }
}

/// Whether a call to a mount that changes may end so without a result.
fn may_end_so(called: &Called) -> bool {
    matches!(
        called.status(),
        None | Some(CallStatus::Unmounted | CallStatus::TimedOut | CallStatus::BadCall)
    )
}
