//! What is asked of the leader.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::acl::{Acl, Identity};
use crate::call::{Acknowledgement, CallRequest};
use crate::id::{CallId, Owner, SessionId, Zxid};
use crate::outcome::Outcome;
use crate::path::{PathError, ZnodePath};
use crate::recipe::{Component, Exports, MountSettings, RecipeDigest};
use crate::trial::TrialRequest;

/// Proves to a server that a client may go on with a session: random bytes, chosen when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Password(pub [u8; 16]);

/// A request that changes the state, or has to stand in line with those that do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Who asks; [`SessionId::NONE`] to open a session and for administration.
    pub session: SessionId,
    /// Over which connection. None over HTTP, whose sessions have no owner (rule W3), and of a local session,
    /// whose owner only its server knows.
    pub owner: Option<Owner>,
    /// Who the client has proved to be.
    pub identities: Arc<Vec<Identity>>,
    /// What is asked.
    pub operation: Operation,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Open a session. Its owner is the request's. If the request names a session, it is a local one, which
    /// becomes a global one with the same id.
    OpenSession {
        /// Negotiated already.
        timeout_ms: u32,
        /// Chosen by the server.
        password: Password,
    },
    /// Go on with the request's session over the request's connection.
    AttachSession {
        /// Must be the session's.
        password: Password,
        /// Negotiated anew.
        timeout_ms: u32,
    },
    /// End the request's session, and its ephemeral znodes with it.
    CloseSession,
    /// The leader has not heard of the request's session for its timeout.
    ExpireSession,
    /// Create, delete or set one znode.
    Znode(ZnodeOperation),
    /// All or nothing.
    Multi(Vec<ZnodeOperation>),
    /// Run an operation of a recipe.
    Call(CallRequest),
    /// Run an operation that only reads: it is repeated at will, and has no key (rule C8).
    Query(CallRequest),
    /// Run an operation of a recipe, and keep nothing of it: show what it would do.
    Try(TrialRequest),
    /// End a parked call without a result; with one, give it.
    Cancel {
        /// The call's.
        key: u64,
    },
    /// The same for a call of whatever session: an operator's.
    CancelCall(CallId),
    /// The client has seen these answers.
    Acknowledge(Acknowledgement),
    /// The client has seen this one answer, and says nothing of others: what deleting a call's path means (rule C8).
    /// No call is made any more with this key, nor with a lower one that is not known.
    AcknowledgeOne {
        /// Of the call.
        key: u64,
    },
    /// A piece of a component that has passed the upload check. Answered with how many bytes are there: if the piece
    /// is not the next one, nothing is done, and whoever uploads goes on from there.
    UploadPiece {
        /// Of the whole component: whoever uploads the same one goes on with this upload.
        digest: RecipeDigest,
        /// Of the whole component.
        bytes: u64,
        /// How many of them stand before the piece.
        offset: u64,
        /// At most [`MAX_PIECE_BYTES`](crate::recipe::MAX_PIECE_BYTES).
        piece: Bytes,
    },
    /// Keep a component, which was uploaded or is kept already, under a name.
    PushRecipe {
        /// What operators will call it.
        name: String,
        /// Of the component.
        digest: RecipeDigest,
        /// The version of its WIT package, if that has one.
        version: Option<String>,
        /// What it exports beside its operations.
        exports: Exports,
    },
    /// Forget a recipe, or one component of it, that is not mounted.
    RemoveRecipe {
        /// Its name.
        name: String,
        /// Which component; none for all of them, and the name.
        digest: Option<RecipeDigest>,
    },
    /// Bind a recipe to a znode, which is created if need be.
    Mount {
        /// Where.
        path: ZnodePath,
        /// Which recipe, by name.
        recipe: String,
        /// Which component; none for the one that has the name now.
        digest: Option<RecipeDigest>,
        /// How.
        settings: MountSettings,
        /// Whether another component that is mounted there gives way; its tree and its parked calls stay. The calls
        /// follow by [`Operation::FollowUpgrade`].
        upgrade: bool,
    },
    /// The next of the parked calls follow an upgrade: a bounded number of them (rule S6).
    FollowUpgrade {
        /// Where.
        path: ZnodePath,
        /// Which upgrade: the transaction that swapped the component.
        swapped: Zxid,
    },
    /// Change how a recipe is mounted.
    SetMount {
        /// Where.
        path: ZnodePath,
        /// What is to change.
        settings: MountSettings,
    },
    /// Let a suspended recipe run again.
    Resume {
        /// Where.
        path: ZnodePath,
    },
    /// Begin to unbind it: from now on nothing runs there. It is unbound by [`Operation::ContinueUnmount`]; the znodes
    /// stay.
    BeginUnmount {
        /// Where.
        path: ZnodePath,
    },
    /// End the next of the parked calls of a mount that is being unmounted, a bounded number of them; with the last,
    /// unbind it (rule S6).
    ContinueUnmount {
        /// Where.
        path: ZnodePath,
        /// Which mount: the transaction that made it.
        mounted: Zxid,
    },
    /// Changes nothing: answered, in its place among its session's requests, with `/zookeeper/config`. Refused to who
    /// may not change the servers.
    ReadConfiguration,
    /// The members have changed, and `/zookeeper/config` is to say so (rule W6).
    Configure {
        /// One line per member, as ZooKeeper writes it.
        members: String,
        /// The index of the log entry that says so. It only grows.
        version: u64,
    },
    /// The leader has found that every member reads this version (rule S7).
    RaiseVersion {
        /// Higher than the ensemble's.
        version: u32,
    },
}

impl Operation {
    /// What whoever asked this has to ask next, for as long as there is something: what concerns all parked calls of a
    /// mount goes in steps, each a request of its own, so that others' go in between (rule S6).
    pub fn next_step(&self, outcome: &Outcome) -> Option<Operation> {
        match (self, outcome) {
            (
                Operation::BeginUnmount { path } | Operation::ContinueUnmount { path, .. },
                Outcome::Unmounting { mounted, .. },
            ) => Some(Operation::ContinueUnmount {
                path: path.clone(),
                mounted: *mounted,
            }),
            (
                Operation::Mount { path, .. },
                Outcome::Mounted {
                    following: Some(swapped),
                    ..
                },
            ) => Some(Operation::FollowUpgrade {
                path: path.clone(),
                swapped: *swapped,
            }),
            (Operation::FollowUpgrade { .. }, Outcome::Followed { done: false, .. }) => {
                Some(self.clone())
            }
            _ => None,
        }
    }

    /// What uploads a component and keeps it under a name, in order, if nobody else does so meanwhile.
    pub fn upload(
        name: &str,
        component: &Bytes,
        version: Option<String>,
        exports: Exports,
    ) -> Vec<Operation> {
        let cut = Component::cut(component);
        let (digest, bytes) = (cut.digest(), cut.bytes());
        let mut offset = 0;
        let mut operations = Vec::new();
        for piece in cut.pieces() {
            operations.push(Operation::UploadPiece {
                digest,
                bytes,
                offset,
                piece: piece.clone(),
            });
            offset += piece.len() as u64;
        }
        operations.push(Operation::PushRecipe {
            name: name.to_owned(),
            digest,
            version,
            exports,
        });
        operations
    }
}

/// One change to one znode, or a condition on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ZnodeOperation {
    /// Create a znode.
    Create {
        /// Where; for a sequential one, what its name begins with.
        path: CreatePath,
        /// Its data.
        data: Bytes,
        /// Its access control list.
        acl: Acl,
        /// How long it lives.
        lifetime: CreateLifetime,
        /// Whether the answer shows the stat (create2).
        with_stat: bool,
    },
    /// Delete a znode without children.
    Delete {
        /// Which.
        path: ZnodePath,
        /// Its expected version; -1 for any.
        version: i32,
    },
    /// Replace a znode's data.
    Set {
        /// Which.
        path: ZnodePath,
        /// The new data.
        data: Bytes,
        /// Its expected version; -1 for any.
        version: i32,
    },
    /// Replace a znode's access control list.
    SetAcl {
        /// Which.
        path: ZnodePath,
        /// The new one.
        acl: Acl,
        /// Its expected ACL version; -1 for any.
        version: i32,
    },
    /// Change nothing, but fail unless the znode is there in that version. Only in a multi.
    Check {
        /// Which.
        path: ZnodePath,
        /// Its expected version; -1 for any.
        version: i32,
    },
}

/// Where to create a znode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CreatePath {
    /// There.
    Exactly(ZnodePath),
    /// `prefix` and the parent's children version, ten digits: ZooKeeper's sequential.
    Sequential {
        /// The parent.
        parent: ZnodePath,
        /// What the name begins with; may be empty.
        prefix: String,
    },
}

impl CreatePath {
    /// Reads a path from the wire as ZooKeeper does: a sequential one may end in `/`.
    pub fn parse(text: &str, sequential: bool) -> Result<CreatePath, PathError> {
        if !sequential {
            return ZnodePath::parse(text).map(CreatePath::Exactly);
        }
        let probe = ZnodePath::parse(&format!("{text}1"))?;
        let (_, prefix) = text.rsplit_once('/').unwrap_or(("", text));
        let parent = probe.parent().unwrap_or_else(ZnodePath::root);
        Ok(CreatePath::Sequential {
            parent,
            prefix: prefix.to_owned(),
        })
    }
}

/// How long a znode lives that a ZooKeeper client creates: the session is the request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CreateLifetime {
    /// Until it is deleted.
    Persistent,
    /// Until the request's session ends.
    Ephemeral,
    /// Until its last child is deleted.
    Container,
}
