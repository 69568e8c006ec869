//! One run of an operation: what the sandbox is given, what it may do to the tree, how it ends.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acl::Identity;
use crate::bound::{EPHEMERAL_BYTES, MountBounds};
use crate::id::{SessionId, Timestamp, Zxid};
use crate::path::RelativePath;
use crate::recipe::RecipeDigest;
use crate::znode::{Lifetime, Node, Stat};

/// The tree below a mount as one run sees and changes it: `quorate:recipe/tree`.
///
/// The run reads its own writes. Nothing is visible to others before the run ends well; if it does
/// not, whoever made the transaction takes back what it did.
pub trait TreeAccess: Send + 'static {
    /// A znode's data and stat.
    fn get(&mut self, path: &RelativePath) -> Result<Option<Node>, Breach>;
    /// The same without the data.
    fn exists(&mut self, path: &RelativePath) -> Result<Option<Stat>, Breach>;
    /// The names of some children; none if there is no such znode.
    fn children(&mut self, path: &RelativePath, range: &Range) -> Result<Vec<String>, Breach>;
    /// The same with data and stat.
    fn entries(&mut self, path: &RelativePath, range: &Range) -> Result<Vec<Child>, Breach>;
    /// How many of a path's parents are missing: creating it creates them.
    fn missing_parents(&mut self, path: &RelativePath) -> Result<usize, Breach>;
    /// Missing parents are created as containers.
    fn create(
        &mut self,
        path: &RelativePath,
        data: Bytes,
        lifetime: Lifetime,
    ) -> Result<(), TreeError>;
    /// Names the child `prefix` and the mount's next number, sixteen digits; gives the name.
    fn create_sequential(
        &mut self,
        parent: &RelativePath,
        prefix: &str,
        data: Bytes,
        lifetime: Lifetime,
    ) -> Result<String, TreeError>;
    /// Replaces the data.
    fn set(&mut self, path: &RelativePath, data: Bytes) -> Result<(), TreeError>;
    /// Renews a lease, hands a znode to another session. Wakes nobody.
    fn set_lifetime(&mut self, path: &RelativePath, lifetime: Lifetime) -> Result<(), TreeError>;
    /// Deletes a znode without children, and containers that this leaves empty.
    fn delete(&mut self, path: &RelativePath) -> Result<(), TreeError>;
}

/// A recipe broke a rule of the ABI: the run ends as a trap with this message.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{0}")]
pub struct Breach(pub String);

/// What a recipe may want to handle, and what ends its run.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum TreeError {
    /// There is no such znode.
    #[error("no-node")]
    NoNode,
    /// It exists already.
    #[error("node-exists")]
    NodeExists,
    /// It has children.
    #[error("not-empty")]
    NotEmpty,
    /// The session that was to own the znode has ended.
    #[error("no-session")]
    NoSession,
    /// Everything else ends the run.
    #[error(transparent)]
    Breach(#[from] Breach),
    /// The session that was to own the znode owns as much as it may: what it has made, and no fault of the recipe. It ends
    /// the run as well.
    #[error("{0}")]
    SessionFull(String),
}

/// Some children in the byte order of their names. The bounds are exclusive and need not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Those that stand after it.
    pub after: Option<String>,
    /// Those that stand before it.
    pub before: Option<String>,
    /// Start from the last.
    pub descending: bool,
    /// At most so many.
    pub limit: u32,
}

/// One of a znode's children.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// Its data and stat.
    pub node: Node,
}

/// What a run is given besides the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInput {
    /// Which component runs.
    pub digest: RecipeDigest,
    /// What of it.
    pub invocation: Invocation,
    /// The caller's session; in a guard the writer's; [`SessionId::NONE`] in a standing run.
    pub session: SessionId,
    /// Who the caller has proved to be.
    pub identities: Vec<Identity>,
    /// The moment of this run.
    pub now: Timestamp,
    /// The moment of this call's first run.
    pub started: Timestamp,
    /// The transaction being built.
    pub transaction: Zxid,
    /// What the previous run handed to `park`.
    #[serde(with = "crate::readable::option")]
    pub memo: Option<Bytes>,
    /// Where the run's bounds differ from the defaults.
    pub bounds: MountBounds,
}

/// Which of a component's exports runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Invocation {
    /// An operation, for its caller.
    Operation {
        /// `operation`, or `interface.operation` where two interfaces export the same name.
        name: String,
        /// A JSON array of the arguments in order, or an object of them by name.
        arguments: String,
    },
    /// `quorate:recipe/standing.run`.
    Standing,
    /// `quorate:recipe/guard.admit`, about one request's changes. It cannot park.
    Guard(Vec<GuardedChange>),
}

impl Invocation {
    /// For the operator's eyes.
    pub fn name(&self) -> &str {
        match self {
            Invocation::Operation { name, .. } => name,
            Invocation::Standing => "standing",
            Invocation::Guard(_) => "guard",
        }
    }
}

/// What a request does to one znode below the mount of a guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardedChange {
    /// Which.
    pub path: RelativePath,
    /// As it was; none if it was not there.
    pub before: Option<Node>,
    /// As it is now; none if it is gone.
    pub after: Option<Node>,
}

/// What a run asks to be woken by, relative to the mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunWatch {
    /// The znode is created or deleted, or its data are set.
    Node(RelativePath),
    /// A child of it is created or deleted.
    Children(RelativePath),
    /// It, or anything below it, is created, deleted or set.
    Subtree(RelativePath),
    /// The moment comes.
    Time(Timestamp),
}

/// How a run ended. Only the first two commit what it wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunEnding {
    /// The result as JSON.
    Returned(String),
    /// It waits.
    Parked {
        /// For its next run.
        #[serde(with = "crate::readable")]
        memo: Bytes,
        /// At least one.
        watches: Vec<RunWatch>,
    },
    /// The operation's result was `err`; the error as JSON.
    Failed(String),
    /// It called `refuse`.
    Refused(String),
    /// It trapped, or broke a rule.
    Trapped(String),
    /// It exceeded a bound.
    Exceeded {
        /// The bound's name.
        bound: Cow<'static, str>,
        /// For people.
        message: String,
    },
    /// Nothing ran: there is no such operation, or the arguments do not fit it. For people.
    BadCall(String),
    /// Nothing ran: the component is not compiled here yet.
    NotReady,
}

impl RunEnding {
    /// It exceeded the bound of this name.
    pub fn exceeded(bound: &'static str, message: String) -> RunEnding {
        RunEnding::Exceeded {
            bound: bound.into(),
            message,
        }
    }
}

impl RunEnding {
    /// Whether it is the recipe's failure (rule C4). A refusal is none, nor is the bound on what a session owns: who fills
    /// their own session must not have a mount suspended for the others.
    pub fn is_failure(&self) -> bool {
        match self {
            RunEnding::Trapped(_) => true,
            RunEnding::Exceeded { bound, .. } => bound != EPHEMERAL_BYTES,
            _ => false,
        }
    }

    /// About how many bytes it has.
    pub fn bytes(&self) -> usize {
        match self {
            RunEnding::Returned(text)
            | RunEnding::Failed(text)
            | RunEnding::Refused(text)
            | RunEnding::Trapped(text)
            | RunEnding::BadCall(text)
            | RunEnding::Exceeded { message: text, .. } => text.len(),
            RunEnding::Parked { memo, watches } => {
                let of_watch = |watch: &RunWatch| match watch {
                    RunWatch::Node(path) | RunWatch::Children(path) | RunWatch::Subtree(path) => {
                        16 + path.as_str().len()
                    }
                    RunWatch::Time(_) => 16,
                };
                memo.len() + watches.iter().map(of_watch).sum::<usize>()
            }
            RunEnding::NotReady => 0,
        }
    }
}

impl fmt::Display for RunEnding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunEnding::Returned(result) => write!(f, "returned {result}"),
            RunEnding::Parked { watches, .. } => {
                write!(f, "parked, with {} watches", watches.len())
            }
            RunEnding::Failed(error) => write!(f, "failed with {error}"),
            RunEnding::Refused(reason) => write!(f, "refused: {reason}"),
            RunEnding::Trapped(message) => write!(f, "trapped: {message}"),
            RunEnding::Exceeded { bound, message } => {
                write!(f, "bound {bound} exceeded: {message}")
            }
            RunEnding::BadCall(message) => write!(f, "does not fit: {message}"),
            RunEnding::NotReady => f.write_str("the recipe is not compiled here yet"),
        }
    }
}

/// A run that has ended.
#[derive(Debug)]
pub struct RunReport<T> {
    /// What it was given to work on, with what it wrote.
    pub tree: T,
    /// How it ended.
    pub ending: RunEnding,
    /// What it used of its fuel.
    pub fuel: u64,
    /// Lines for the operator.
    pub log: Vec<LogLine>,
}

/// A line that a recipe wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// How loud.
    pub level: LogLevel,
    /// The line.
    pub message: String,
}

/// How loud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LogLevel {
    /// For the author.
    Debug,
    /// For the curious operator.
    Info,
    /// For the operator.
    Warn,
    /// For the operator, now.
    Error,
}

/// Runs operations: the sandbox, and a test's double.
pub trait Runner<T: TreeAccess> {
    /// One run, from its start to one of its endings. Never panics over what the component does.
    fn run(&self, input: RunInput, tree: T) -> RunReport<T>;

    /// Whether a component is compiled here; if not, a run of it ends as [`RunEnding::NotReady`].
    fn ready(&self, digest: &RecipeDigest) -> bool;

    /// Whether a component that is ready has an operation and takes these arguments. Never panics over what the
    /// component says of itself.
    ///
    /// # Errors
    /// Why it does not, for people: a run of it would end as [`RunEnding::BadCall`].
    fn fits(&self, digest: &RecipeDigest, operation: &str, arguments: &str) -> Result<(), String>;
}
