//! Queues: clients offer items, and take, claim, confirm and give them back, by several calls at once of which some wait.

use std::time::Duration;

use quorate_wire::CallStatus;
use serde_json::{Value, json};

use super::Program;
use crate::client::calls::{Call, Called};

/// Where the queues are.
const QUEUES: &str = "/queues";

/// How many there are.
const NAMES: u8 = 2;

/// The most calls at once.
const AT_ONCE: u64 = 3;

impl Program {
    /// Makes some calls to the queues. What it has claimed then it confirms or gives back, or it dies with that.
    pub(super) async fn queue(&mut self, number: u64) {
        let id = self.id;
        let random = self.client.random();
        let calls = (0..random.u64(1..=AT_ONCE)).map(|place| {
            let name = format!("line{}", random.u8(..NAMES));
            let (operation, arguments) = match random.u8(..100) {
                0..40 => ("offer", json!([name, format!("{id}-{number}-{place}")])),
                40..45 => ("poll", json!([name])),
                45..50 => ("try-claim", json!([name])),
                50..80 => ("take", json!([name])),
                _ => ("claim", json!([name])),
            };
            let timeout_ms = match operation {
                "take" | "claim" => random.u64(1..3000),
                _ => 0,
            };
            Call {
                timeout_ms,
                ..Call::new(QUEUES, operation, arguments)
            }
        });
        let calls = calls.collect();
        let called = self.call_all(calls).await;
        let mut claimed = Vec::new();
        for one in called {
            match one.status() {
                None | Some(CallStatus::TimedOut) => {}
                Some(CallStatus::Returned) => claimed.extend(claimed_by(one)),
                Some(_) => self.complain(&one),
            }
        }
        if claimed.is_empty() {
            return;
        }
        let time = Duration::from_millis(self.client.random().u64(0..200));
        self.client.idle(time).await;
        if self.client.random().u8(..8) == 0 {
            return self.client.forget_session();
        }
        let random = self.client.random();
        let calls = claimed.iter().map(|(name, item, _)| {
            let operation = ["confirm", "confirm", "give-back"][random.usize(..3)];
            Call::new(QUEUES, operation, json!([name, item]))
        });
        let calls = calls.collect();
        let called = self.call_all(calls).await;
        for (one, (_, _, by)) in called.iter().zip(&claimed) {
            // In another session the claim has gone with its own.
            let gone = one.id.session != by.id.session && one.status() == Some(CallStatus::Refused);
            if one.told.is_some() && one.returned().is_none() && !gone {
                self.complain(one);
            }
        }
    }
}

/// The queue and the id of what a call has claimed, if it has.
fn claimed_by(called: Called) -> Option<(String, String, Called)> {
    if !called.call.operation.ends_with("claim") {
        return None;
    }
    let item = called.returned()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some((text(&called.call.arguments[0])?, text(&item["id"])?, called))
}
