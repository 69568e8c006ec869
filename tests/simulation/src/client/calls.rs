//! Calls: several at once, each repeated with its key, at whichever server, until it has its answer.

use std::collections::{BTreeMap, BTreeSet};

use quorate_model::id::{CallId, SessionId, Zxid};
use quorate_wire::{
    Acknowledgement, CallRequest, CallResponse, CallStatus, RequestBody, ResponseBody,
};
use serde_json::Value;
use tokio::time::Instant;

use super::{Client, Lost, RETRY, SILENCE};

/// What is to be called.
#[derive(Clone, Debug)]
pub struct Call {
    /// Where.
    pub mount: &'static str,
    /// What.
    pub operation: &'static str,
    /// An array of the arguments.
    pub arguments: Value,
    /// When to give up, in milliseconds; 0 for never.
    pub timeout_ms: u64,
}

impl Call {
    /// One that is never given up.
    pub fn new(mount: &'static str, operation: &'static str, arguments: Value) -> Call {
        Call {
            mount,
            operation,
            arguments,
            timeout_ms: 0,
        }
    }
}

/// A call that has ended for its client.
#[derive(Clone, Debug)]
pub struct Called {
    /// Its session and key.
    pub id: CallId,
    /// What was called.
    pub call: Call,
    /// What was told, as of when; none if the session has ended, and the call may or may not have been done.
    pub told: Option<(Zxid, CallResponse)>,
}

impl Called {
    /// The result as JSON, if the operation has returned.
    pub fn returned(&self) -> Option<Value> {
        let (_, response) = self.told.as_ref()?;
        let returned = response.status == CallStatus::Returned;
        returned.then(|| serde_json::from_str(&response.result).unwrap_or_default())
    }

    /// What became of it, if that was told.
    pub fn status(&self) -> Option<CallStatus> {
        self.told.as_ref().map(|(_, response)| response.status)
    }
}

/// Calls that are under way.
#[derive(Default)]
struct Open {
    /// By key: those that have no answer yet.
    unanswered: BTreeMap<u64, CallRequest>,
    /// Those of them of which the server that there is a connection to says that they wait.
    parked: BTreeSet<u64>,
    answers: BTreeMap<u64, (Zxid, CallResponse)>,
}

impl Open {
    fn answered(&mut self, key: u64, zxid: Zxid, response: CallResponse) {
        if self.unanswered.remove(&key).is_some() {
            self.parked.remove(&key);
            self.answers.insert(key, (zxid, response));
        }
    }
}

impl Client {
    /// Calls all of these at once, and repeats them with their keys, at whichever server, until each has its answer or
    /// the session has ended. Nothing if it had ended before they were sent.
    pub async fn call_all(&mut self, calls: Vec<Call>) -> Vec<Called> {
        if self.connected().await.is_err() {
            return Vec::new();
        }
        let session = SessionId(self.session());
        // As the client libraries do, what was answered before is acknowledged by the next calls.
        let acknowledged = Acknowledgement {
            mark: self.key,
            awaited: Vec::new(),
        };
        let mut open = Open::default();
        let mut called = Vec::new();
        for call in calls {
            self.key += 1;
            let request = CallRequest {
                key: self.key,
                mount: call.mount.into(),
                operation: call.operation.into(),
                arguments: call.arguments.to_string(),
                timeout_ms: call.timeout_ms,
                acknowledged: acknowledged.clone(),
            };
            open.unanswered.insert(self.key, request);
            let key = self.key;
            called.push(Called {
                id: CallId { session, key },
                call,
                told: None,
            });
        }
        while !open.unanswered.is_empty() {
            match self.go_on(&mut open).await {
                Ok(()) => {}
                Err(Lost::Session) => break,
                Err(Lost::Connection) => {
                    self.hang_up();
                    open.parked.clear();
                    if self.connected().await.is_err() {
                        break;
                    }
                }
            }
        }
        for called in &mut called {
            called.told = open.answers.remove(&called.id.key);
        }
        called
    }

    /// Calls one thing, likewise.
    pub async fn call(&mut self, call: Call) -> Option<Called> {
        self.call_all(vec![call]).await.pop()
    }

    /// Sends what this connection has not sent, or awaits the next answer.
    async fn go_on(&mut self, open: &mut Open) -> Result<(), Lost> {
        let unsent = open.unanswered.values();
        let unsent: Vec<CallRequest> = unsent
            .filter(|request| !open.parked.contains(&request.key))
            .cloned()
            .collect();
        if unsent.is_empty() {
            let frame = self.frame(Instant::now() + SILENCE).await?;
            self.header(&frame)?;
        } else {
            let bodies = unsent.iter().cloned().map(RequestBody::Call).collect();
            let (answers, ended) = self.ask_all(bodies).await;
            let mut not_ready = false;
            for (request, answer) in unsent.iter().zip(answers) {
                match answer.body {
                    ResponseBody::Call(response) if answer.error == 0 => match response.status {
                        CallStatus::NotReady => not_ready = true,
                        CallStatus::Parked => drop(open.parked.insert(request.key)),
                        _ => open.answered(request.key, answer.zxid, response),
                    },
                    // The session goes on over another connection, or such.
                    _ => return Err(Lost::Connection),
                }
            }
            ended?;
            if not_ready {
                tokio::time::sleep(RETRY).await;
            }
        }
        while let Some((key, (zxid, response))) = self.late.pop_first() {
            open.answered(key, zxid, response);
        }
        Ok(())
    }
}
