//! Publish: `/zookeeper/config` follows the membership (rule W6), and each server says where its clients reach it.

use std::time::Duration;

use quorate_consensus::ReconfigureError;
use quorate_model::id::ServerId;
use quorate_model::path::ZnodePath;
use quorate_model::request::Operation;
use quorate_tree::{SharedState, configuration_version};
use tokio::time::sleep;

use super::{Change, Changed, Members, ServerLine};
use crate::evaluate::administration;

/// After something was said that is not known to have been heard.
const AGAIN: Duration = Duration::from_secs(1);

/// `/zookeeper/config` without its version: a line for each server.
fn lines(members: &quorate_consensus::Members) -> String {
    let line = |server: &ServerId| {
        let client = members.clients.get(server);
        let line = ServerLine {
            server: *server,
            address: members.addresses.get(server).cloned().unwrap_or_default(),
            votes: members.voters.contains(server),
            client: client.filter(|client| !client.is_empty()).cloned(),
        };
        line.to_string()
    };
    let lines: Vec<String> = members.addresses.keys().map(line).collect();
    lines.join("\n")
}

impl Members {
    /// Keeps `/zookeeper/config` as the membership is whenever this server leads, until consensus has stopped.
    pub async fn keep_published(self, state: SharedState) {
        let mut leadership = self.0.consensus.leadership();
        let mut members = self.0.consensus.members();
        while leadership.wait_for(|now| now.leading).await.is_ok() {
            let now = members.borrow_and_update().clone();
            let said = {
                let node = state.read().node(&ZnodePath::configuration());
                node.and_then(|node| configuration_version(&node.data))
            };
            if !now.changing && now.index.is_some() && said < now.index {
                if let Err(error) = self.publish(&now).await {
                    tracing::warn!("/zookeeper/config does not follow the members yet: {error}");
                }
                // Also when it was refused, for whatever reason: it is not asked for without a pause.
                sleep(AGAIN).await;
                continue;
            }
            let ended = tokio::select! {
                changed = members.changed() => changed.is_err(),
                lost = leadership.wait_for(|now| !now.leading) => lost.is_err(),
            };
            if ended {
                return;
            }
        }
    }

    /// On the leader, behind a change that ended at `index`, if that is known: sets `/zookeeper/config`.
    pub(super) async fn publish_from(
        &self,
        index: Option<u64>,
    ) -> Result<Changed, ReconfigureError> {
        let mut members = self.0.consensus.members();
        let settled = members
            .wait_for(|now| !now.changing && now.index >= index)
            .await;
        let stopped = |_| ReconfigureError::Unknown("consensus has stopped".into());
        let now = settled.map_err(stopped)?.clone();
        if self.is_ensemble() {
            self.publish(&now).await?;
        }
        Ok(Changed {
            index: now.index.unwrap_or_default(),
            members: now.addresses.into_keys().collect(),
        })
    }

    async fn publish(&self, members: &quorate_consensus::Members) -> Result<(), ReconfigureError> {
        let configure = Operation::Configure {
            members: lines(members),
            version: members.index.unwrap_or_default(),
        };
        // If it is refused, it is at a later version already, and another task has set it.
        let asked = self.0.router.ask(administration(configure)).await;
        asked
            .map(|_| ())
            .map_err(|error| ReconfigureError::Unknown(error.to_string()))
    }

    /// Has this server known with `client` as where its clients reach it, until consensus has stopped.
    pub async fn announce(self, client: String) {
        let server = self.0.router.server();
        let mut members = self.0.consensus.members();
        loop {
            let otherwise = members.wait_for(|now| {
                let known = now.clients.get(&server);
                !now.changing && known.is_some_and(|known| *known != client)
            });
            if otherwise.await.is_err() {
                return;
            }
            let client = client.clone();
            if let Err(error) = self.change(Change::Client { server, client }).await {
                tracing::debug!(
                    "the leader does not know yet where clients reach this server: {error}"
                );
            }
            sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w6_the_configuration_is_written_as_zookeeper_writes_it() {
        let members = quorate_consensus::Members {
            voters: [1, 2].map(ServerId).into(),
            learners: [3].map(ServerId).into(),
            addresses: [(1, "a:1"), (2, "b:1"), (3, "c:1")]
                .map(|(id, at)| (ServerId(id), at.to_owned()))
                .into(),
            clients: [(1, "a:2181"), (2, ""), (3, "0.0.0.0:2181")]
                .map(|(id, at)| (ServerId(id), at.to_owned()))
                .into(),
            ..quorate_consensus::Members::default()
        };
        assert_eq!(
            lines(&members),
            "server.1=a:1:1:participant;a:2181\n\
             server.2=b:1:1:participant\n\
             server.3=c:1:1:observer;0.0.0.0:2181"
        );
    }
}
