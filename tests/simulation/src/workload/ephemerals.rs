//! Ephemerals: clients create them, move to other servers, end their sessions, or die.

use std::time::Duration;

use bytes::Bytes;
use quorate_model::acl::Acl;
use quorate_wire::{Create, CreateMode, RequestBody};

use super::watches::seen;
use super::{Program, told};
use crate::check::ephemerals::EPHEMERALS;
use crate::history::{Ask, Glimpse, Operation, Seen};

/// Between two looks at whether a dead session's ephemerals have gone.
const LOOK: Duration = Duration::from_millis(200);

impl Program {
    /// Creates an ephemeral; then something happens to it, or to its session.
    pub(super) async fn ephemeral(&mut self, number: u64) {
        let path = format!("{EPHEMERALS}/{}-{number}", self.id);
        if self.client.connected().await.is_err() {
            return;
        }
        let data = format!("{}-{number}", self.id);
        let create = RequestBody::Create(Create {
            path: path.clone(),
            data: Bytes::copy_from_slice(data.as_bytes()),
            acl: Acl::open(),
            flags: CreateMode::Ephemeral.flags(),
        });
        let ask = Ask::Create(data);
        let asked = self.history.event();
        let answer = self.client.ask(create).await;
        let told = answer.ok().and_then(|answer| told(&ask, &answer));
        if told.is_none() {
            self.client.hang_up();
        }
        self.ephemerals.push(path.clone());
        self.history.operation(Operation {
            client: self.id,
            register: path.clone(),
            ask,
            asked,
            told: told.map(|told| (self.history.event(), told)),
        });
        match self.client.random().u8(..16) {
            0 => self.client.forget_session(),
            1 => {
                // It is not known whether the session has ended, and nobody goes on with it.
                let _ = self.client.ask(RequestBody::CloseSession).await;
                self.client.forget_session();
            }
            2..7 => {
                let version = -1;
                let path = path.clone();
                let delete = RequestBody::Delete { path, version };
                if self.client.ask(delete).await.is_err() {
                    self.client.hang_up();
                }
            }
            7..10 => self.client.hang_up(),
            _ => {}
        }
        self.look_at(&path).await;
    }

    /// Whether an ephemeral is there; none if that was not told.
    async fn look_at(&mut self, path: &str) -> Option<bool> {
        let exists = RequestBody::Exists {
            path: path.to_owned(),
            watch: false,
        };
        let answer = self.client.ask(exists).await.ok()?;
        let seen = seen(&answer)?;
        let there = seen != Seen::Written(None);
        self.history.glimpse(Glimpse {
            client: self.id,
            path: path.to_owned(),
            zxid: answer.zxid,
            seen,
        });
        Some(there)
    }

    /// Dies, and waits until all that it has created has gone with its sessions.
    pub(super) async fn end_ephemerals(&mut self) {
        self.client.forget_session();
        for path in std::mem::take(&mut self.ephemerals) {
            while self.look_at(&path).await != Some(false) {
                self.client.idle(LOOK).await;
            }
        }
    }
}
