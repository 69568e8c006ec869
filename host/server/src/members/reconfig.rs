//! ZooKeeper's reconfig: its request read, and answered in its turn when it is done.

use std::collections::BTreeSet;
use std::sync::Arc;

use quorate_consensus::{MembersChange, NewMember, ReconfigureError};
use quorate_model::id::ServerId;
use quorate_model::outcome::Outcome;
use quorate_model::request::Request;
use quorate_wire::{ErrorCode, Reconfig};

use super::{Change, Members, ServerLine};
use crate::respond::Connection;
use crate::route::Waiter;

/// As many servers as one request may name: far more than an ensemble has.
const MAX_SERVERS: usize = 1000;

/// What a request asks for, as ZooKeeper's `PrepRequestProcessor` reads it; an error is for people.
pub(crate) fn change(request: &Reconfig) -> Result<MembersChange, String> {
    let incremental = !(request.joining.is_empty() && request.leaving.is_empty());
    if incremental != request.new_members.is_empty() {
        return Err("either servers that join and leave are named, or all of the new ones".into());
    }
    let joining = match incremental {
        true => &request.joining,
        false => &request.new_members,
    };
    let joining: Vec<NewMember> = parts(joining)
        .map(|line| ServerLine::parse(line).map(NewMember::from))
        .collect::<Result<_, String>>()?;
    let leaving: BTreeSet<ServerId> = parts(&request.leaving)
        .map(|id| id.parse().map(ServerId))
        .collect::<Result<_, _>>()
        .map_err(|_| format!("{:?} is no list of ids", request.leaving))?;
    if joining.len() + leaving.len() > MAX_SERVERS {
        return Err(format!("more than {MAX_SERVERS} servers are named"));
    }
    Ok(MembersChange {
        joining,
        leaving,
        others_leave: !incremental,
        // A negative one is any, of which clients send -1.
        from: u64::try_from(request.from_config).ok(),
    })
}

/// ZooKeeper takes new lines for commas, as they stand between the lines of a file.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split([',', '\n']).map(str::trim);
    parts.filter(|part| !part.is_empty())
}

impl From<ServerLine> for NewMember {
    fn from(line: ServerLine) -> NewMember {
        NewMember {
            server: line.server,
            address: line.address,
            client: line.client.unwrap_or_default(),
            votes: line.votes,
        }
    }
}

impl Members {
    /// Makes the change that a client asked for over `connection`, which takes no other request of it meanwhile.
    /// `ask` is of the client's session: it is sent before, so that what the client asked before is done and the
    /// session is known to be its own, and behind, with `waiter`, so that the answer is of a state that has it all.
    pub(crate) async fn reconfigure(
        self,
        change: MembersChange,
        ask: Request,
        connection: Arc<Connection>,
        waiter: Box<dyn Waiter>,
    ) {
        match self.0.router.ask(ask.clone()).await {
            Ok((_, Outcome::Configuration)) => match self.change(Change::Several(change)).await {
                Ok(changed) if changed.members.contains(&self.0.router.server()) => {}
                Ok(_) => {
                    return connection.close("the server is no member of the ensemble any more");
                }
                Err(error) => {
                    tracing::info!("a client's reconfiguration was not made: {error}");
                    match code(&error) {
                        Some(code) => connection.fail_reconfig(code),
                        // As ZooKeeper's clients are told that nobody knows: by ConnectionLoss.
                        None => {
                            return connection.close("what became of its reconfig is not known");
                        }
                    }
                }
            },
            // It is refused once more, and that is the answer.
            Ok(_) => {}
            Err(_) => return connection.close("its reconfig was abandoned"),
        }
        if self.0.router.submit(ask, waiter).is_err() {
            connection.close("the server has too many requests");
        }
    }
}

/// What a ZooKeeper client is told; none if it is not known what became of it.
fn code(error: &ReconfigureError) -> Option<ErrorCode> {
    match error {
        ReconfigureError::Refused(_) => Some(ErrorCode::BadArguments),
        ReconfigureError::NoQuorum(_) => Some(ErrorCode::NewConfigNoQuorum),
        ReconfigureError::InProgress => Some(ErrorCode::ReconfigInProgress),
        ReconfigureError::Version { .. } => Some(ErrorCode::BadVersion),
        ReconfigureError::NotLeading { .. } => Some(ErrorCode::OperationTimeout),
        ReconfigureError::Unknown(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(joining: &str, leaving: &str, new_members: &str) -> Reconfig {
        Reconfig {
            joining: joining.into(),
            leaving: leaving.into(),
            new_members: new_members.into(),
            from_config: -1,
        }
    }

    #[test]
    fn servers_join_and_leave_or_all_are_named_anew() {
        let some = change(&request(
            "server.4=d:1:2;2181,server.5=e:1:2:observer",
            "1, 2",
            "",
        ));
        let some = some.unwrap();
        let votes: Vec<bool> = some.joining.iter().map(|new| new.votes).collect();
        assert_eq!(votes, [true, false]);
        assert_eq!(some.joining[0].client, "0.0.0.0:2181");
        assert_eq!(some.leaving, [1, 2].map(ServerId).into());
        assert_eq!((some.others_leave, some.from), (false, None));
        let all = change(&request("", "", "server.1=a:1:2\nserver.2=b:1:2\n")).unwrap();
        assert_eq!((all.joining.len(), all.others_leave), (2, true));
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for (joining, leaving, new_members, said) in [
            ("", "", "", "either"),
            ("", "1", "server.1=a:1:2", "either"),
            ("server.4=d", "", "", "server.ID="),
            ("", "one", "", "no list of ids"),
            ("", "", "version=1", "server.ID="),
        ] {
            let refused = change(&request(joining, leaving, new_members)).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
    }
}
