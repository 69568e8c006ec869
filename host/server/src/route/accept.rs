//! Accept: the leader's side of the other servers' streams.

use std::sync::Arc;

use quorate_consensus::{Consensus, PeerStream};
use quorate_model::id::{Incarnation, ServerId};

use super::Inbox;
use super::inbox::NotTaken;
use super::message::{FromLeader, ToLeader, decode, encode};
use crate::expiry::Touches;
use crate::members::Members;

/// What streams of other servers are served with.
#[derive(Clone)]
pub struct Acceptor {
    /// Where they come from, and whether this server leads.
    pub consensus: Consensus,
    /// Where their requests go.
    pub inbox: Arc<Inbox>,
    /// Where word of their sessions' clients goes.
    pub touches: Arc<Touches>,
    /// What changes the members.
    pub members: Members,
}

impl Acceptor {
    /// Serves all streams, until consensus has stopped.
    pub async fn run(self) {
        let mut streams = self.consensus.accept_streams();
        while let Some((server, stream)) = streams.recv().await {
            let acceptor = self.clone();
            tokio::spawn(async move {
                if let Err(error) = acceptor.serve(server, stream).await {
                    tracing::debug!(%server, "a server's stream has ended: {error:#}");
                }
            });
        }
    }

    async fn serve(&self, server: ServerId, stream: PeerStream) -> anyhow::Result<()> {
        let (mut sender, mut receiver) = stream.split();
        // What the other server says next, when it did not wait for an answer.
        let mut said = None;
        loop {
            let frame = match said.take() {
                Some(frame) => frame,
                None => match receiver.next().await {
                    Some(frame) => frame?,
                    None => return Ok(()),
                },
            };
            match decode::<ToLeader>(&frame)? {
                ToLeader::Begin {
                    epoch,
                    incarnation,
                    first,
                } => tokio::select! {
                    next = self.begin(server, epoch, incarnation, first) => {
                        let expect = FromLeader::Expect { epoch, next: next? };
                        sender.send(encode(&expect)?).await?;
                    }
                    // It has gone, or on to another epoch.
                    frame = receiver.next() => match frame {
                        Some(frame) => said = Some(frame?),
                        None => return Ok(()),
                    },
                },
                ToLeader::Requests { epoch, requests } => {
                    for numbered in requests {
                        let of = numbered.origin.server;
                        anyhow::ensure!(of == server, "it sends a request of server {of}");
                        match self.inbox.push(epoch, numbered).await {
                            Ok(()) => {}
                            // Its successor makes the other server begin again.
                            Err(NotTaken::Epoch(_)) => break,
                            Err(error) => return Err(error.into()),
                        }
                    }
                }
                ToLeader::Change(change) => {
                    let changed = self.members.execute(change).await;
                    sender.send(encode(&FromLeader::Changed(changed))?).await?;
                }
                ToLeader::Touched { report, sessions } => {
                    for session in sessions {
                        self.touches.touch(session);
                    }
                    if self.consensus.leadership().borrow().leading {
                        sender.send(encode(&FromLeader::Heard { report })?).await?;
                    }
                }
            }
        }
    }

    /// Waits until this server leads in `epoch`; gives the number of the request that is expected.
    async fn begin(
        &self,
        server: ServerId,
        epoch: u32,
        incarnation: Incarnation,
        first: u64,
    ) -> anyhow::Result<u64> {
        let mut epochs = self.inbox.epoch();
        loop {
            if let Ok(next) = self.inbox.begin(epoch, server, incarnation, first) {
                return Ok(next);
            }
            epochs.changed().await?;
        }
    }
}
