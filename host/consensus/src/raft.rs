//! openraft, as this crate uses it: its types with ours filled in.

use std::collections::BTreeSet;

use openraft::OptionalSend;
use openraft::impls::{Vote as RaftVote, leader_id_std};
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::peer::acquaintances::DirectoryId;
use crate::proposal::Reply;
use crate::state_machine::Verdict;

/// What raft knows of a member, beside its number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Where its peers reach it, `host:port`; empty on an ensemble of one that has no peer port.
    pub(crate) address: String,
    /// Where its clients reach it, `host:port`, as it says itself; empty until it has.
    pub(crate) client: String,
    /// By which data it is known: those that it had when its peers first met it. None until then.
    pub(crate) directory: Option<DirectoryId>,
}

impl Member {
    /// One that is known by its address only.
    pub(crate) fn new(address: String) -> Member {
        Member {
            address,
            ..Member::default()
        }
    }
}

/// Our types. A log id is (term, index): standard raft's one leader per term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Command;
    type R = Verdict;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = LogEntry;
    type Responder<T>
        = Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type AsyncRuntime = openraft_rt_tokio::TokioRuntime;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type TermId = <leader_id_std::LeaderId<u64, u64> as RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<TermId>;
pub(crate) type Vote = RaftVote<leader_id_std::LeaderId<u64, u64>>;
pub(crate) type Payload = openraft::EntryPayload<Command, u64, Member>;
pub(crate) type LogEntry = openraft::Entry<TermId, Payload>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = openraft::StoredMembership<TermId, u64, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<TermId, u64, Member>;

/// What openraft calls a committed leader: in standard raft, its term.
pub(crate) fn term_id(term: u64) -> TermId {
    leader_id_std::LeaderId::new(term, 0).to_committed()
}

/// The log id of `index` in `term`.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(term_id(term), index)
}

/// A membership as it stands on disk. openraft's own form may change from one alpha to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipRecord {
    /// One set of voters, or two while it is being changed.
    voters: Vec<BTreeSet<u64>>,
    /// Every member, learners included.
    members: Vec<(u64, Member)>,
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> MembershipRecord {
        MembershipRecord {
            voters: membership.get_joint_config().clone(),
            members: membership
                .nodes()
                .map(|(id, member)| (*id, member.clone()))
                .collect(),
        }
    }
}

impl MembershipRecord {
    /// Back to openraft's form; an error when a voter is not a member.
    pub(crate) fn membership(self) -> Result<Membership, String> {
        if self.voters.is_empty() && self.members.is_empty() {
            return Ok(Membership::default());
        }
        let members: std::collections::BTreeMap<u64, Member> = self.members.into_iter().collect();
        Membership::new(self.voters, members).map_err(|error| error.to_string())
    }
}
