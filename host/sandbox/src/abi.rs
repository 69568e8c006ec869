//! The types of `quorate:recipe` as they cross into the recipe and out of it: `wit/recipe.wit` says what each
//! means.

use quorate_model::acl::Identity;
use quorate_model::bound::EPHEMERAL_BYTES;
use quorate_model::id::{SessionId, Timestamp};
use quorate_model::run::{self, LogLevel, RunEnding, TreeError};
use quorate_model::znode;
use wasmtime::component::{ComponentType, Lift, Lower};

#[derive(Clone, Copy, ComponentType, Lift, Lower)]
#[component(variant)]
pub(crate) enum Lifetime {
    #[component(name = "persistent")]
    Persistent,
    #[component(name = "container")]
    Container,
    #[component(name = "session")]
    Session(u64),
    #[component(name = "until")]
    Until(u64),
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Stat {
    created: u64,
    modified: u64,
    #[component(name = "children-modified")]
    children_modified: u64,
    #[component(name = "created-at")]
    created_at: u64,
    #[component(name = "modified-at")]
    modified_at: u64,
    version: i32,
    children: u32,
    lifetime: Lifetime,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Node {
    data: Vec<u8>,
    stat: Stat,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum Error {
    #[component(name = "no-node")]
    NoNode,
    #[component(name = "node-exists")]
    NodeExists,
    #[component(name = "not-empty")]
    NotEmpty,
    #[component(name = "no-session")]
    NoSession,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct Range {
    after: Option<String>,
    before: Option<String>,
    descending: bool,
    limit: u32,
}

impl Range {
    /// What its two ends have, which are texts of the recipe's.
    pub(crate) fn bytes(&self) -> usize {
        let ends = [&self.after, &self.before];
        ends.into_iter().flatten().map(String::len).sum()
    }
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Child {
    name: String,
    data: Vec<u8>,
    stat: Stat,
}

/// What a guard is asked about.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Change {
    path: String,
    before: Option<Node>,
    after: Option<Node>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct CallerIdentity {
    scheme: String,
    id: String,
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "made by lifting only")]
pub(crate) enum Level {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

impl From<Lifetime> for znode::Lifetime {
    fn from(lifetime: Lifetime) -> znode::Lifetime {
        match lifetime {
            Lifetime::Persistent => znode::Lifetime::Persistent,
            Lifetime::Container => znode::Lifetime::Container,
            Lifetime::Session(session) => znode::Lifetime::Session(SessionId(session)),
            Lifetime::Until(moment) => znode::Lifetime::Until(Timestamp(moment)),
        }
    }
}

impl From<znode::Lifetime> for Lifetime {
    fn from(lifetime: znode::Lifetime) -> Lifetime {
        match lifetime {
            znode::Lifetime::Persistent => Lifetime::Persistent,
            znode::Lifetime::Container => Lifetime::Container,
            znode::Lifetime::Session(session) => Lifetime::Session(session.0),
            znode::Lifetime::Until(moment) => Lifetime::Until(moment.0),
        }
    }
}

impl From<znode::Stat> for Stat {
    fn from(stat: znode::Stat) -> Stat {
        Stat {
            created: stat.created.0,
            modified: stat.modified.0,
            children_modified: stat.children_modified.0,
            created_at: stat.created_at.0,
            modified_at: stat.modified_at.0,
            version: stat.version,
            children: stat.children,
            lifetime: stat.lifetime.into(),
        }
    }
}

impl From<znode::Node> for Node {
    fn from(node: znode::Node) -> Node {
        Node {
            data: node.data.into(),
            stat: node.stat.into(),
        }
    }
}

impl From<&run::GuardedChange> for Change {
    fn from(change: &run::GuardedChange) -> Change {
        Change {
            path: change.path.as_str().to_owned(),
            before: change.before.clone().map(Node::from),
            after: change.after.clone().map(Node::from),
        }
    }
}

impl From<run::Child> for Child {
    fn from(child: run::Child) -> Child {
        Child {
            name: child.name,
            data: child.node.data.into(),
            stat: child.node.stat.into(),
        }
    }
}

impl From<Range> for run::Range {
    fn from(range: Range) -> run::Range {
        run::Range {
            after: range.after,
            before: range.before,
            descending: range.descending,
            limit: range.limit,
        }
    }
}

impl From<&Identity> for CallerIdentity {
    fn from(identity: &Identity) -> CallerIdentity {
        CallerIdentity {
            scheme: identity.scheme.clone(),
            id: identity.id.clone(),
        }
    }
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> LogLevel {
        match level {
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        }
    }
}

/// What a recipe may handle; the other side is what ends its run.
pub(crate) fn handled<V>(result: Result<V, TreeError>) -> Result<Result<V, Error>, RunEnding> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(TreeError::NoNode) => Ok(Err(Error::NoNode)),
        Err(TreeError::NodeExists) => Ok(Err(Error::NodeExists)),
        Err(TreeError::NotEmpty) => Ok(Err(Error::NotEmpty)),
        Err(TreeError::NoSession) => Ok(Err(Error::NoSession)),
        Err(TreeError::Breach(breach)) => Err(RunEnding::Trapped(breach.0)),
        Err(TreeError::SessionFull(message)) => Err(RunEnding::exceeded(EPHEMERAL_BYTES, message)),
    }
}
