//! What the leader says to a request.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acl::permission;
use crate::call::Answer;
use crate::id::{SessionId, Zxid};
use crate::path::ZnodePath;
use crate::recipe::RecipeDigest;
use crate::request::Password;
use crate::trial::Trial;
use crate::znode::Stat;

/// What a request came to. It is part of its transaction, so that the server that holds the client's connection can tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// A session was opened, or goes on over another connection.
    Session {
        /// Which.
        session: SessionId,
        /// Its password.
        password: Password,
        /// Its timeout.
        timeout_ms: u32,
    },
    /// The session has ended.
    SessionClosed,
    /// What one znode operation did.
    Znode(ZnodeOutcome),
    /// What each part of a multi did.
    Multi(Vec<ZnodeOutcome>),
    /// The call has ended, or the query; here is its answer.
    Answered(Answer),
    /// The call is parked. Its answer comes later.
    Parked,
    /// What the call would do.
    Tried(Box<Trial>),
    /// Answers up to the key are forgotten.
    Acknowledged,
    /// The recipe is kept.
    Pushed(RecipeDigest),
    /// The recipe is forgotten.
    Removed,
    /// The recipe is mounted.
    Mounted {
        /// Which component.
        digest: RecipeDigest,
        /// The upgrade that parked calls are still to follow: the transaction that swapped the component.
        following: Option<Zxid>,
    },
    /// Parked calls have followed an upgrade.
    Followed {
        /// How many, all in all: they run on the new component, or have ended.
        followed_calls: u64,
        /// How many of those have ended since they do not fit it.
        ended_calls: u64,
        /// Whether all have.
        done: bool,
    },
    /// How the recipe is mounted was changed.
    MountSet,
    /// The recipe runs again.
    Resumed {
        /// Whether it was suspended; if not, nothing has changed.
        was_suspended: bool,
    },
    /// The recipe is being unmounted.
    Unmounting {
        /// Which mount: the transaction that made it.
        mounted: Zxid,
        /// How many parked calls that has ended so far.
        ended_calls: u64,
    },
    /// The recipe is unmounted.
    Unmounted {
        /// How many parked calls that has ended, all in all.
        ended_calls: u64,
    },
    /// The ensemble is at that version.
    VersionRaised,
    /// Nothing was changed.
    Refused(Refusal),
    /// `/zookeeper/config` is to be shown as it is now.
    Configuration,
    /// So much of the component is there.
    Uploaded {
        /// From its beginning.
        bytes: u64,
    },
}

/// What one znode operation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ZnodeOutcome {
    /// Created, under this path.
    Created {
        /// With its number, if sequential.
        path: ZnodePath,
        /// If it was asked for (create2).
        stat: Option<Stat>,
    },
    /// Deleted.
    Deleted,
    /// Set; the stat afterwards.
    Set(Stat),
    /// The access control list was set; the stat afterwards.
    AclSet(Stat),
    /// It is there in that version.
    Checked,
}

impl Refusal {
    /// Of a multi, why its part was refused.
    pub fn reason(&self) -> &Refusal {
        match self {
            Refusal::Multi { refusal, .. } => refusal.reason(),
            refusal => refusal,
        }
    }
}

impl Refusal {
    /// The access control list of `path` does not give `permission` to who asks.
    ///
    /// Who has it is not said: to see a list takes a permission too.
    pub fn no_permission(path: &ZnodePath, permission: u32) -> Refusal {
        Refusal::NoAuth(format!(
            "it takes {} on {path}, which its access control list does not give to you",
            permission::name(permission)
        ))
    }
}

/// Why nothing was changed. The messages are for people; ZooKeeper's clients see a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Refusal {
    /// ZooKeeper's NoNode, -101.
    #[error("there is no znode {0}")]
    NoNode(ZnodePath),
    /// NodeExists, -110.
    #[error("{0} exists already")]
    NodeExists(ZnodePath),
    /// BadVersion, -103.
    #[error("{path} is at version {actual}, not {expected}")]
    BadVersion {
        /// Which znode.
        path: ZnodePath,
        /// What the request expected.
        expected: i32,
        /// What it is.
        actual: i32,
    },
    /// NotEmpty, -111.
    #[error("{0} has children")]
    NotEmpty(ZnodePath),
    /// NoChildrenForEphemerals, -108.
    #[error("{0} cannot have children: it is ephemeral, or a lease")]
    NoChildrenForEphemerals(ZnodePath),
    /// BadArguments, -8.
    #[error("{0}")]
    BadArguments(String),
    /// InvalidACL, -114.
    #[error("the access control list is empty or has an unknown scheme")]
    InvalidAcl,
    /// NoAuth, -102: no permission, or below a sealed mount.
    #[error("{0}")]
    NoAuth(String),
    /// SessionExpired, -112.
    #[error("the session has ended")]
    SessionExpired,
    /// SessionMoved, -118.
    #[error("the session goes on over another connection")]
    SessionMoved,
    /// One part of a multi failed; nothing of it was done.
    #[error("part {index} of the multi failed: {refusal}")]
    Multi {
        /// Which part, from 0.
        index: u32,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// No recipe is mounted there.
    #[error("nothing is mounted at {0}")]
    NotMounted(ZnodePath),
    /// The mounted recipe has no such operation, or the arguments do not fit it.
    #[error("{0}")]
    BadCall(String),
    /// The key's answer was acknowledged (rule C1).
    #[error(
        "key {key} was acknowledged, or passed over by the acknowledgement of a higher one: no call runs under it any more, so take a higher one"
    )]
    Acknowledged {
        /// The call's key.
        key: u64,
    },
    /// The key is known for another call (rule C1).
    #[error("key {key} was used for another call of this session: choose a new key for a new call")]
    KeyReused {
        /// The call's key.
        key: u64,
    },
    /// There is neither an answer nor a parked call.
    #[error("this session has no call {key}")]
    NoCall {
        /// The call's key.
        key: u64,
    },
    /// A bound of rule C2: nothing is evicted for a new call.
    #[error("bound {bound} reached: {message}")]
    BoundReached {
        /// Its name.
        bound: String,
        /// What to do.
        message: String,
    },
    /// The recipe is not compiled here yet: repeatable (rule C6).
    #[error("the recipe at {0} is not ready yet: try again")]
    NotReady(ZnodePath),
    /// There is no such recipe.
    #[error("there is no recipe called {0:?}")]
    NoRecipe(String),
    /// The recipe is suspended (rule C4).
    #[error(
        "the recipe at {mount} is suspended: {reason}; `quorate resume {mount}` lets it run again"
    )]
    Suspended {
        /// Where.
        mount: ZnodePath,
        /// Since when and why.
        reason: String,
    },
    /// The recipe is being unmounted (rule S6).
    #[error(
        "the recipe at {0} is being unmounted; if nobody goes on with that, `quorate unmount {0}` does"
    )]
    Unmounting(ZnodePath),
    /// The calls that wait follow another upgrade than this one.
    #[error(
        "another upgrade of {0} has come in between, or it was unmounted: `quorate mounts {0}` shows what is there"
    )]
    Overtaken(ZnodePath),
    /// A mount's guard has refused the write (rule C7).
    #[error("the guard of {mount} refuses it: {reason}")]
    GuardRefused {
        /// Whose guard.
        mount: ZnodePath,
        /// In its own words.
        reason: String,
    },
    /// A mount's guard could not be asked, or failed: nothing passes then (rule C7).
    #[error(
        "the guard of {mount}, recipe {recipe}, has failed, so nothing is written there: {reason}"
    )]
    GuardFailed {
        /// Whose guard.
        mount: ZnodePath,
        /// What is mounted there.
        recipe: String,
        /// What happened.
        reason: String,
    },
    /// The recipe is mounted.
    #[error("recipe {name:?} is in use at {mount}: unmount it first")]
    RecipeInUse {
        /// Its name.
        name: String,
        /// Where.
        mount: ZnodePath,
    },
    /// There is a mount there, above, or below.
    #[error("{path} cannot be a mount: {mount} is one, and mounts do not nest")]
    MountsNest {
        /// What was asked for.
        path: ZnodePath,
        /// What is there.
        mount: ZnodePath,
    },
    /// The request made evaluation fail in a way that is a defect of ours; it was not executed (rule S5).
    #[error("the request made the server fail ({0}); it was not executed: please report this")]
    Defect(String),
    /// EphemeralOnLocalSession, -120: only what is replicated can own a znode or a call.
    #[error(
        "the session is local to its server: it has no ephemeral znodes and makes no calls. Connect to a server without local sessions, or one that upgrades them"
    )]
    LocalSession,
    /// The run of a query writes or waits (rule C8).
    #[error(
        "the call writes or waits, so it needs a key, a number of its own, behind it: {0}@1. ZooKeeper's clients repeat reads on their own, and with its key it is executed once"
    )]
    NeedsKey(String),
    /// Nobody has uploaded such a component, or not all of it.
    #[error("there is no component {0}: upload it")]
    NoComponent(RecipeDigest),
}
