//! Waiting: a server that was started and does not serve yet says why, and finds out what it can about it.
//!
//! It asks the other members at their peer ports: who is there, who leads, and whether that one still knows this
//! server, which may have been removed while it was away. Nobody else would tell it so.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use quorate_consensus::{Consensus, Members, ReconfigureError};
use quorate_model::id::ServerId;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::members::Change;
use crate::route;

/// How often the others are asked. Most servers serve before they have asked once.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long one of them has to answer: longer than a connection may take to be made.
const ANSWER: Duration = Duration::from_secs(4);

/// How often the log says the same again.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Why this server does not serve yet. One that nobody has told to wait serves.
#[derive(Debug, Default)]
pub struct Waiting(RwLock<Option<String>>);

impl Waiting {
    /// It does not serve from now on.
    pub fn begin(&self, reason: &str) {
        *self.0.write() = Some(reason.to_owned());
    }

    /// It serves, from now on and for good.
    pub fn end(&self) {
        *self.0.write() = None;
    }

    /// Whether it waits.
    pub fn is(&self) -> bool {
        self.0.read().is_some()
    }

    /// Why it waits, if it does.
    pub fn reason(&self) -> Option<String> {
        self.0.read().clone()
    }

    /// More is known of why. Says no if it waits no more.
    fn learn(&self, reason: &str) -> bool {
        let mut now = self.0.write();
        match &mut *now {
            None => false,
            Some(said) => {
                reason.clone_into(said);
                true
            }
        }
    }
}

/// Finds out why a server of several waits.
#[derive(Clone)]
pub struct Inquiry {
    /// Where it is said.
    pub waiting: Arc<Waiting>,
    /// Knows the members, and connects to them.
    pub consensus: Consensus,
    /// Where the others reach this server, `host:port`.
    pub address: String,
    /// Where clients reach it, `host:port`.
    pub client: String,
}

/// What came of asking a member.
enum Found {
    /// It is not there, or is not who it is taken for.
    NotReached(String),
    /// It is there, and has not said that it leads; perhaps it knows who does.
    Follows(Option<ServerId>),
    /// It leads; and whether this server is a member to it.
    Leads { member: bool },
}

impl Inquiry {
    /// Asks until the server serves.
    pub async fn run(self) {
        let mut members = self.consensus.members();
        // One that was never a member knows of none, and says so below.
        let known = members.wait_for(|now| now.index.is_some());
        if let Ok(Ok(known)) = timeout(ASK_EVERY, known).await {
            let here = self.consensus.server();
            self.waiting
                .learn(&explain(here, &self.address, &known, &[]));
        }
        let (mut said, mut said_at) = (String::new(), Instant::now());
        loop {
            sleep(ASK_EVERY).await;
            let reason = self.reason().await;
            if !self.waiting.learn(&reason) {
                return;
            }
            if reason != said || said_at.elapsed() >= SAY_EVERY {
                tracing::warn!("this server does not serve yet: {reason}");
                (said, said_at) = (reason, Instant::now());
            }
        }
    }

    async fn reason(&self) -> String {
        let here = self.consensus.server();
        let members = self.consensus.members().borrow().clone();
        let leads = self.consensus.leadership().borrow().leading;
        if members.index.is_none() {
            return format!(
                "it is no member of an ensemble yet, and waits to be added: by whoever of --peer leads at the ensemble's \
                 first start, or with --join by `quorate cluster add {here} {}`, asked of a member",
                self.address
            );
        }
        if leads {
            return "this server leads, and is about to serve".into();
        }
        // Also if a leader is known: that may be the one of before its start, which has no word for it any more.
        let mut asked = JoinSet::new();
        for server in members.addresses.keys().copied() {
            let inquiry = self.clone();
            if server != here {
                asked.spawn(async move { (server, inquiry.ask(server).await) });
            }
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(server, _)| *server);
        explain(here, &self.address, &members, &answers)
    }

    /// A member that leads notes where the clients of this one are, or says that it is none.
    async fn ask(&self, server: ServerId) -> Found {
        let change = Change::Client {
            server: self.consensus.server(),
            client: self.client.clone(),
        };
        let asked = async {
            let stream = match self.consensus.connect(server).await {
                Ok(stream) => stream,
                Err(error) => return Found::NotReached(error.to_string()),
            };
            match route::ask_for_change(stream, change).await {
                Ok(Ok(_)) => Found::Leads { member: true },
                Ok(Err(ReconfigureError::Refused(_))) => Found::Leads { member: false },
                Ok(Err(ReconfigureError::NotLeading { leader })) => Found::Follows(leader),
                Ok(Err(_)) | Err(_) => Found::Follows(None),
            }
        };
        let late = || Found::NotReached(format!("server {server} does not answer"));
        timeout(ANSWER, asked).await.unwrap_or_else(|_| late())
    }
}

/// What the answers come to, for people.
fn explain(
    here: ServerId,
    address: &str,
    members: &Members,
    answers: &[(ServerId, Found)],
) -> String {
    let back = format!(
        "stop it, or add it again: `quorate cluster add {here} {address}`, asked of a member"
    );
    for (server, found) in answers {
        match found {
            Found::Leads { member: false } => {
                return format!(
                    "server {server} leads, and this server is no member of its ensemble any more: {back}"
                );
            }
            Found::Leads { member: true } => {
                return format!(
                    "server {server} leads, and this one, a member, has not caught up with it yet; if that lasts, it is not \
                     reached at {address}"
                );
            }
            Found::Follows(_) | Found::NotReached(_) => {}
        }
    }
    if !members.addresses.contains_key(&here) {
        return format!(
            "this server is no member of its ensemble any more, as its log says: {back}"
        );
    }
    let voters = members.voters.len();
    let mut reason = format!(
        "waiting for {} of {voters} voters to agree on a leader",
        voters / 2 + 1
    );
    let stranger = answers.iter().find_map(|(_, found)| match found {
        Found::Follows(Some(leader)) if !members.addresses.contains_key(leader) => Some(leader),
        _ => None,
    });
    if let Some(leader) = stranger {
        reason += &format!(
            "; server {leader} leads the others, which this one does not know: the members were changed while it was \
             away, and it may be none any more. `quorate cluster status` at another server says who they are"
        );
        return reason;
    }
    let lost: Vec<&str> = answers
        .iter()
        .filter_map(|(_, found)| match found {
            Found::NotReached(why) => Some(why.as_str()),
            _ => None,
        })
        .collect();
    if !lost.is_empty() {
        reason += "; ";
        reason += &lost.join("; ");
    }
    if !lost.is_empty() && lost.len() == answers.len() {
        reason += "; if the others run elsewhere, this server was removed from them or has their old addresses: \
                   `quorate cluster status` at one of them says so";
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ids: &[u64]) -> Members {
        Members {
            voters: ids.iter().copied().map(ServerId).collect(),
            addresses: ids
                .iter()
                .map(|id| (ServerId(*id), format!("m{id}:1")))
                .collect(),
            index: Some(1),
            ..Members::default()
        }
    }

    fn said(members: &Members, answers: Vec<(u64, Found)>) -> String {
        let answers: Vec<_> = answers
            .into_iter()
            .map(|(id, found)| (ServerId(id), found))
            .collect();
        explain(ServerId(1), "m1:1", members, &answers)
    }

    #[test]
    fn whoever_is_not_reached_is_named() {
        let lost = || Found::NotReached("server 3 at m3:1 cannot be connected to".into());
        let one = said(
            &members(&[1, 2, 3]),
            vec![(2, Found::Follows(None)), (3, lost())],
        );
        assert!(
            one.starts_with("waiting for 2 of 3 voters to agree"),
            "{one}"
        );
        assert!(
            one.contains("; server 3 at m3:1") && !one.contains("removed"),
            "{one}"
        );
        let all = said(&members(&[1, 3]), vec![(3, lost())]);
        assert!(
            all.starts_with("waiting for 2 of 2") && all.contains("was removed"),
            "{all}"
        );
    }

    #[test]
    fn one_that_was_removed_says_so_and_what_to_do() {
        let leads = vec![
            (2, Found::Follows(None)),
            (3, Found::Leads { member: false }),
        ];
        let told = said(&members(&[1, 2, 3]), leads);
        assert!(
            told.starts_with("server 3 leads, and this server is no member"),
            "{told}"
        );
        assert!(told.contains("`quorate cluster add 1 m1:1`"), "{told}");
        let by_log = said(&members(&[2, 3]), vec![(2, Found::Follows(None))]);
        assert!(by_log.contains("as its log says"), "{by_log}");
        let strange = said(
            &members(&[1, 2]),
            vec![(2, Found::Follows(Some(ServerId(7))))],
        );
        assert!(strange.contains("server 7 leads the others"), "{strange}");
    }

    #[test]
    fn a_server_waits_only_if_it_was_told_to_and_never_again() {
        let waiting = Waiting::default();
        assert!(!waiting.is() && !waiting.learn("too late"));
        waiting.begin("it starts");
        assert!(waiting.learn("nobody is there"));
        assert_eq!(waiting.reason().as_deref(), Some("nobody is there"));
        waiting.end();
        assert!(!waiting.learn("too late") && waiting.reason().is_none());
    }
}
