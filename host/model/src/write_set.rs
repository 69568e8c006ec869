//! Write-sets: what a request changes, and the only thing that is replicated.
//!
//! Changes are physical: they say what becomes of a record, not what was asked for. So a server that
//! applies them needs no rule of ZooKeeper's or of ours, and servers of different versions cannot
//! come to different states over a difference in evaluation.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acl::Acl;
use crate::call::{Answer, ParkedCall};
use crate::id::{CallId, Incarnation, Origin, Owner, ServerId, SessionId, Timestamp};
use crate::outcome::Outcome;
use crate::path::ZnodePath;
use crate::recipe::{Mount, Recipe, RecipeDigest, Upgrade, Upload};
use crate::request::Password;
use crate::znode::Lifetime;

/// The version of [`Entry`]'s and the snapshot's form, the only one that this build writes and reads (rule S7).
///
/// It goes up when what is there already gets another form: servers before and after that cannot be mixed,
/// and the peers' hello says so. What is only added goes by [`ENSEMBLE_VERSION`].
pub const FORMAT_VERSION: u32 = 8;

/// The newest version of the changes that this build can apply (rule S7). The state keeps the version that its
/// ensemble is at: the leader raises it once every member reads more, and nothing lowers it.
///
/// Whoever adds something that another server is to read, a [`Change`] (at the end, since postcard counts the variants),
/// a kind of record in the snapshot, or an operation, an outcome or a refusal that goes from server to server:
/// raise this by one, say below which version brought it, and let it out only while the *applied* state is at that
/// version or above. An entry that has it then always stands behind the one that raised the version, and a build that cannot
/// read it has stopped there.
///
/// Versions: 1, everything that [`FORMAT_VERSION`] 8 began with.
pub const ENSEMBLE_VERSION: u32 = 1;

/// The ensemble is at a version that this build does not read: it may neither serve nor vote on what it cannot apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the ensemble is at version {0}, this build reads up to {ENSEMBLE_VERSION}: start a newer build"
)]
pub struct TooNew(pub u32);

/// What one raft entry carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A leader begins. It applies only if `epoch` is the current one plus one (rule E1).
    EpochStart(EpochStart),
    /// What a leader evaluated while the previous entry was being written.
    Transactions(Batch),
}

/// The first entry of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStart {
    /// The epoch that it opens.
    pub epoch: u32,
    /// Who leads it.
    pub leader: ServerId,
    /// The leader's start.
    pub incarnation: Incarnation,
    /// Chosen by the leader: it opens only on applying its own.
    pub nonce: u64,
    /// The moment, never before the last committed one.
    pub time: Timestamp,
    /// The marked call that its leader runs before anything else, alone, since epochs may be ending over it (rule S5).
    pub suspect: Option<CallId>,
}

/// Transactions with consecutive zxids. It applies only if its first is the next one, else it is a no-op everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The epoch that it was evaluated in.
    pub epoch: u32,
    /// The counter of its first transaction.
    pub first_counter: u32,
    /// At least one.
    pub transactions: Vec<Transaction>,
}

/// What one request, one wake or one timer changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Its moment.
    pub time: Timestamp,
    /// The request that it answers; none for a wake and a timer.
    pub origin: Option<Origin>,
    /// Whose request it was; [`SessionId::NONE`] for none.
    pub session: SessionId,
    /// In order.
    pub changes: Vec<Change>,
    /// What the origin is told.
    pub outcome: Option<Outcome>,
}

/// What becomes of one record. Zxid and moment are the transaction's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A znode comes to be. Its parent's stat changes by a [`Change::TouchParent`] of its own.
    CreateNode {
        /// Where nothing is yet.
        path: ZnodePath,
        /// Its data.
        #[serde(with = "crate::readable")]
        data: Bytes,
        /// Its access control list.
        acl: Acl,
        /// How long it lives.
        lifetime: Lifetime,
    },
    /// A znode without children goes.
    DeleteNode {
        /// Which.
        path: ZnodePath,
    },
    /// A child was created or deleted.
    TouchParent {
        /// Whose.
        path: ZnodePath,
        /// The children version afterwards.
        children_version: i32,
    },
    /// A znode's data are replaced.
    SetData {
        /// Which.
        path: ZnodePath,
        /// The new data.
        #[serde(with = "crate::readable")]
        data: Bytes,
        /// The version afterwards.
        version: i32,
    },
    /// A znode's access control list is replaced.
    SetAcl {
        /// Which.
        path: ZnodePath,
        /// The new one.
        acl: Acl,
        /// The ACL version afterwards.
        acl_version: i32,
    },
    /// A lease is renewed, or a znode handed to another session.
    SetLifetime {
        /// Which.
        path: ZnodePath,
        /// The new one.
        lifetime: Lifetime,
    },
    /// A session is opened. Its id is the transaction's zxid.
    OpenSession {
        /// Its password.
        password: Password,
        /// Its timeout.
        timeout_ms: u32,
        /// The connection that owns it; none for a session of HTTP.
        owner: Option<Owner>,
    },
    /// A session goes on over another connection.
    MoveSession {
        /// Which.
        session: SessionId,
        /// The connection that owns it now.
        owner: Option<Owner>,
        /// Its timeout, negotiated anew.
        timeout_ms: u32,
    },
    /// A session ends, and the answers kept in it are forgotten. Its znodes and parked calls go by changes of their own, before.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// A call is parked, or parked again.
    Park(Box<ParkedCall>),
    /// A parked call is no more.
    Unpark(CallId),
    /// A watch of a parked call has fired: its run is due.
    Mark(CallId),
    /// A call has its answer.
    PutAnswer {
        /// Which call.
        call: CallId,
        /// Kept until it is acknowledged.
        answer: Answer,
    },
    /// A client has seen answers: they are forgotten, and of the keys up to the mark those that are not known
    /// are refused from now on.
    Acknowledge {
        /// Whose.
        session: SessionId,
        /// The session's mark afterwards, not lower than before.
        mark: u64,
        /// The keys whose answers go, ascending.
        forgotten: Vec<u64>,
    },
    /// The next piece of a component has come.
    PutPiece {
        /// The upload afterwards.
        upload: Upload,
        /// The piece.
        piece: Bytes,
    },
    /// An unfinished upload is forgotten.
    DropUpload {
        /// Of the whole component.
        digest: RecipeDigest,
    },
    /// An upload is whole, and is a component that is kept from now on.
    KeepComponent {
        /// Which.
        digest: RecipeDigest,
    },
    /// A component is forgotten: no name and no mount has it any more.
    RemoveComponent {
        /// Which.
        digest: RecipeDigest,
    },
    /// A name points to a component.
    PutRecipe(Recipe),
    /// A name is forgotten.
    RemoveRecipe {
        /// Which.
        name: String,
    },
    /// A recipe is mounted, or the mount changes.
    PutMount(Mount),
    /// The mount's next sequence number.
    SetSequence {
        /// Which mount.
        mount: ZnodePath,
        /// The number that is given next.
        next: u64,
    },
    /// How many runs in a row have failed at a mount.
    CountFailures {
        /// Which mount.
        mount: ZnodePath,
        /// The number afterwards.
        failures: u32,
    },
    /// A mount is suspended, or resumed; either way its failures are counted anew.
    Suspend {
        /// Which mount.
        mount: ZnodePath,
        /// Why; none to resume it.
        reason: Option<String>,
    },
    /// It is unmounted.
    RemoveMount {
        /// Where.
        path: ZnodePath,
    },
    /// Every member reads this version ([`ENSEMBLE_VERSION`]): what it brought may be used from now on.
    RaiseVersion {
        /// The version afterwards, higher than before.
        version: u32,
    },
    /// A session that was local to a server becomes a global one.
    UpgradeSession {
        /// Which.
        session: SessionId,
        /// Its password.
        password: Password,
        /// Its timeout.
        timeout_ms: u32,
        /// The connection that owns it.
        owner: Owner,
    },
    /// A mount is being unmounted, and has come so far.
    SetUnmounting {
        /// Which mount.
        mount: ZnodePath,
        /// How many parked calls that has ended, all in all.
        ended_calls: u64,
    },
    /// Parked calls of a mount have followed its upgrade.
    SetUpgrade {
        /// Which mount.
        mount: ZnodePath,
        /// The upgrade afterwards.
        upgrade: Upgrade,
    },
}
