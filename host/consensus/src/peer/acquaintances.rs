//! Acquaintances: by which data directory each member is known, and which members were reached.
//!
//! A server that has lost its data has forgotten what it acknowledged and whom it voted for. Under its old id it could
//! elect a leader that lacks what is acknowledged. So every data directory has a number, made with it, which both ends
//! of a connection say; once it stands in the membership, a server that comes with another is refused. The same keeps
//! apart two ensembles, and an ensemble and the disk of one that was there before it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// A data directory's number: random, made with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DirectoryId(pub(crate) u64);

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Servers that are no members and have said which data they have: those that are about to be added, or were removed.
const STRANGERS: usize = 64;

/// What a server knows of its peers beside their addresses.
pub(crate) struct Acquaintances {
    server: u64,
    /// Of this server's own data.
    pub(crate) directory: DirectoryId,
    known: Mutex<Known>,
    /// Something was said that is not in the membership yet.
    pub(crate) more: Notify,
}

#[derive(Default)]
struct Known {
    /// As the membership says; none of a member that it does not know by its data yet. Nothing at all before the
    /// membership was read.
    members: Option<BTreeMap<u64, Option<DirectoryId>>>,
    /// What servers have said that are not known so yet.
    said: BTreeMap<u64, DirectoryId>,
    /// Whom a connection was made to.
    reached: BTreeSet<u64>,
}

impl Acquaintances {
    /// Of a server that has a membership to read, or none yet.
    pub(crate) fn new(server: u64, directory: DirectoryId, has_membership: bool) -> Acquaintances {
        let known = Known {
            members: (!has_membership).then(BTreeMap::new),
            ..Known::default()
        };
        Acquaintances {
            server,
            directory,
            known: Mutex::new(known),
            more: Notify::new(),
        }
    }

    /// Who the members are.
    pub(crate) fn learn(&self, members: BTreeMap<u64, Option<DirectoryId>>) {
        let mut known = self.known.lock();
        let is_known = |server: &u64| members.get(server).is_some_and(Option::is_some);
        known.said.retain(|server, _| !is_known(server));
        known.reached.retain(|server| members.contains_key(server));
        known.members = Some(members);
    }

    /// A server has said which data it has; an error is why it is to be refused.
    pub(crate) fn meet(&self, server: u64, directory: DirectoryId) -> Result<(), String> {
        let mut known = self.known.lock();
        let Some(members) = &known.members else {
            return Err(format!("server {} is only starting", self.server));
        };
        match members.get(&server) {
            Some(Some(before)) if *before == directory => Ok(()),
            Some(Some(before)) => Err(format!(
                "server {} knows server {server} by the data {before}, and it comes with {directory}: its data were \
                 lost or replaced, or it is of another ensemble. Under its old id it could undo what was \
                 acknowledged: let it join under a new id, and remove the old one",
                self.server
            )),
            None if known.said.len() >= STRANGERS => Ok(()),
            // It may be a member soon, and not connect again.
            Some(None) | None => {
                known.said.insert(server, directory);
                self.more.notify_one();
                Ok(())
            }
        }
    }

    /// The member that is known by these data.
    pub(crate) fn whose(&self, directory: DirectoryId) -> Option<u64> {
        if directory == self.directory {
            return Some(self.server);
        }
        let known = self.known.lock();
        let mut members = known.members.iter().flatten();
        members.find_map(|(server, of)| (*of == Some(directory)).then_some(*server))
    }

    /// What a server has said that the membership does not have.
    pub(crate) fn said(&self, server: u64) -> Option<DirectoryId> {
        match server == self.server {
            true => Some(self.directory),
            false => self.known.lock().said.get(&server).copied(),
        }
    }

    /// A connection to a server was made.
    pub(crate) fn reached(&self, server: u64) {
        self.known.lock().reached.insert(server);
    }

    /// Whether a connection to a server was made since this was asked last.
    pub(crate) fn take_reached(&self, server: u64) -> bool {
        self.known.lock().reached.remove(&server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: DirectoryId = DirectoryId(1);
    const NEW: DirectoryId = DirectoryId(2);

    fn knowing(members: &[(u64, Option<DirectoryId>)]) -> Acquaintances {
        let known = Acquaintances::new(9, DirectoryId(9), true);
        known.learn(members.iter().copied().collect());
        known
    }

    #[test]
    fn who_comes_with_other_data_than_before_is_refused() {
        let known = knowing(&[(1, Some(OLD)), (2, None)]);
        assert_eq!(known.meet(1, OLD), Ok(()));
        let why = known.meet(1, NEW).unwrap_err();
        assert!(why.contains("join under a new id"), "{why}");
        assert_eq!(known.meet(3, NEW), Ok(()), "it may be added");
        known.learn([(1, Some(OLD)), (3, None)].into());
        assert_eq!(known.said(3), Some(NEW));
    }

    #[test]
    fn what_a_member_says_first_is_kept_until_the_membership_has_it() {
        let known = knowing(&[(2, None)]);
        assert_eq!(known.meet(2, OLD), Ok(()));
        assert_eq!(known.said(2), Some(OLD));
        known.learn([(2, Some(OLD))].into());
        assert_eq!(known.said(2), None);
        assert!(known.meet(2, NEW).is_err());
        assert_eq!(known.said(9), Some(DirectoryId(9)), "its own it knows");
    }

    #[test]
    fn data_are_of_one_member() {
        let known = knowing(&[(1, Some(OLD)), (2, None)]);
        assert_eq!(known.whose(OLD), Some(1));
        assert_eq!(known.whose(NEW), None);
        assert_eq!(known.whose(DirectoryId(9)), Some(9), "its own");
    }

    #[test]
    fn strangers_are_remembered_within_a_bound() {
        let known = knowing(&[(2, None)]);
        for server in 100..1000 {
            assert_eq!(known.meet(server, NEW), Ok(()));
        }
        assert_eq!(known.meet(2, OLD), Ok(()));
        assert_eq!(known.said(2), Some(OLD), "a member has its place");
        assert_eq!(known.known.lock().said.len(), STRANGERS + 1);
    }

    #[test]
    fn before_it_has_read_who_the_members_are_nobody_is_met() {
        let known = Acquaintances::new(9, DirectoryId(9), true);
        assert!(known.meet(1, OLD).unwrap_err().contains("starting"));
        let new = Acquaintances::new(9, DirectoryId(9), false);
        assert_eq!(new.meet(1, OLD), Ok(()), "it has no members yet");
    }

    #[test]
    fn a_server_counts_as_reached_once_for_each_time() {
        let known = knowing(&[(1, None)]);
        assert!(!known.take_reached(1));
        known.reached(1);
        assert!(known.take_reached(1));
        assert!(!known.take_reached(1));
    }
}
