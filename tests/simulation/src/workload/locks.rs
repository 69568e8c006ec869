//! Locks: a client takes one and gives it back, or dies with it.

use std::time::Duration;

use serde_json::json;

use super::Program;
use crate::client::calls::Call;
use crate::history::Hold;

impl Program {
    /// Takes a lock for a while.
    pub(super) async fn lock(&mut self) {
        let lock = format!("door{}", self.client.random().u8(..2));
        let acquire = Call::new("/locks", "acquire", json!([lock]));
        let Some(acquired) = self.call(acquire).await else {
            return;
        };
        // If it was not told, and it ever had the lock, that went with the session.
        if acquired.told.is_none() {
            return;
        }
        let token = acquired
            .returned()
            .and_then(|grant| grant["token"].as_u64());
        let Some(token) = token else {
            return self.complain(&acquired);
        };
        let mut hold = Hold {
            lock: lock.clone(),
            token,
            acquired: acquired.id,
            released: None,
        };
        let time = Duration::from_millis(self.client.random().u64(0..300));
        self.client.idle(time).await;
        if self.client.random().u8(..8) == 0 {
            // It dies with the lock.
            self.client.forget_session();
        } else {
            let release = Call::new("/locks", "release", json!([lock]));
            let released = self.call(release).await;
            // In another session the lock has gone with its own.
            if let Some(released) = released.filter(|one| one.id.session == acquired.id.session) {
                hold.released = Some(released.id);
                if released.told.is_some() && released.returned().is_none() {
                    self.complain(&released);
                }
            }
        }
        self.history.hold(hold);
    }
}
