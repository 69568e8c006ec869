//! Watchers: reads that set watches, and reads that must not be ahead of them.

use std::collections::BTreeSet;

use quorate_model::id::Zxid;
use quorate_wire::{RequestBody, ResponseBody};

use super::{NO_NODE, Program, REGISTERS};
use crate::check::ephemerals::EPHEMERALS;
use crate::client::Answer;
use crate::history::{Glimpse, Seen};

/// One in so many times it moves to another server.
const MOVES_EVERY: u8 = 12;

impl Program {
    /// Reads something, and watches it unless it does so already.
    pub(super) async fn watch(&mut self) {
        if self.client.random().u8(..MOVES_EVERY) == 0 {
            self.client.hang_up();
        }
        let random = self.client.random();
        let (path, exists) = match random.u64(..=REGISTERS) {
            REGISTERS => (EPHEMERALS.to_owned(), false),
            register => (format!("/r{register}"), random.bool()),
        };
        let watch = !self.client.watches().watches(&path);
        let body = match (path == EPHEMERALS, exists) {
            (true, _) => RequestBody::GetChildren { path, watch },
            (false, true) => RequestBody::Exists { path, watch },
            (false, false) => RequestBody::GetData { path, watch },
        };
        // Two reads in one go: what the second shows must not be ahead of the first's events.
        let again = match &body {
            RequestBody::Exists { path, .. } | RequestBody::GetData { path, .. } => {
                RequestBody::Exists {
                    path: path.clone(),
                    watch: false,
                }
            }
            _ => RequestBody::Ping,
        };
        let bodies = match again {
            RequestBody::Ping => vec![body],
            again => vec![body, again],
        };
        self.glimpse(bodies).await;
    }

    /// Reads, and writes down what is seen.
    async fn glimpse(&mut self, bodies: Vec<RequestBody>) {
        let paths: Vec<String> = bodies.iter().filter_map(path_of).collect();
        let (answers, _) = self.client.ask_all(bodies).await;
        for (path, answer) in paths.into_iter().zip(answers) {
            if let Some(seen) = seen(&answer) {
                let zxid = answer.zxid;
                let client = self.id;
                self.history.glimpse(Glimpse {
                    client,
                    path,
                    zxid,
                    seen,
                });
            }
        }
        self.note_watches();
    }

    /// Is told of everything that has happened, so that every watch of what has changed has fired.
    pub(super) async fn end_watching(&mut self) {
        loop {
            let path = EPHEMERALS.to_owned();
            let sync = RequestBody::Sync { path };
            if matches!(self.client.ask(sync).await, Ok(answer) if answer.error == 0) {
                break;
            }
            self.client.hang_up();
        }
        self.client.forget_session();
        self.note_watches();
    }

    fn note_watches(&mut self) {
        let (ended, strays) = self.client.watches().take();
        for watch in ended {
            self.history.watch(self.id, watch);
        }
        for (zxid, event) in strays {
            let what = format!(
                "client {}: nobody watched what {event:?} at {zxid} says",
                self.id
            );
            self.history.complain(what);
        }
    }
}

fn path_of(body: &RequestBody) -> Option<String> {
    match body {
        RequestBody::Exists { path, .. }
        | RequestBody::GetData { path, .. }
        | RequestBody::GetChildren { path, .. } => Some(path.clone()),
        _ => None,
    }
}

/// What an answer to a read shows; none if it shows nothing.
pub(super) fn seen(answer: &Answer) -> Option<Seen> {
    let written = |stat: &quorate_wire::Stat| Zxid(stat.mzxid.cast_unsigned());
    Some(match (answer.error, &answer.body) {
        (NO_NODE, _) => Seen::Written(None),
        (0, ResponseBody::Data { stat, .. } | ResponseBody::Stat(stat)) => {
            Seen::Written(Some(written(stat)))
        }
        (0, ResponseBody::Children(names)) => {
            Seen::Children(names.iter().cloned().collect::<BTreeSet<String>>())
        }
        _ => return None,
    })
}
