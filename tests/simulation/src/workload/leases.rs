//! Leases: clients take them, and then renew them, give them back, let them end, or die, which ends none.

use std::time::Duration;

use quorate_wire::CallStatus;
use serde_json::json;

use super::Program;
use crate::client::calls::Call;

/// Where the leases are.
const LEASES: &str = "/leases";

impl Program {
    /// Takes a lease, and does something with it.
    pub(super) async fn lease(&mut self) {
        let random = self.client.random();
        let name = format!("lease{}", random.u8(..2));
        let duration_ms = random.u64(50..1500);
        let (operation, timeout_ms) = match random.u8(..8) {
            0 => ("try-acquire", 0),
            1..4 => ("acquire", random.u64(1..3000)),
            _ => ("acquire", 0),
        };
        let acquire = Call {
            timeout_ms,
            ..Call::new(LEASES, operation, json!([name, "me", duration_ms]))
        };
        let Some(acquired) = self.call(acquire).await else {
            return;
        };
        let lease = match acquired.status() {
            None | Some(CallStatus::TimedOut) => return,
            _ => acquired.returned(),
        };
        let Some(lease) = lease else {
            return self.complain(&acquired);
        };
        let Some(token) = lease["token"].as_u64() else {
            return;
        };
        loop {
            let pause = Duration::from_millis(self.client.random().u64(0..duration_ms));
            self.client.idle(pause).await;
            let call = match self.client.random().u8(..8) {
                0 => return self.client.forget_session(),
                1 => return,
                2..5 => Call::new(LEASES, "release", json!([name, token])),
                _ => Call::new(LEASES, "renew", json!([name, token, duration_ms])),
            };
            let Some(called) = self.call(call).await else {
                continue;
            };
            let going_on = match (called.call.operation, called.returned()) {
                (_, None) if called.told.is_none() => true,
                (_, None) => return self.complain(&called),
                ("renew", Some(renewed)) => !renewed.is_null(),
                (_, Some(_)) => false,
            };
            if !going_on {
                return;
            }
        }
    }
}
