//! A tree in memory that stands in for the real one: one mount, no replication, changes applied at once.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_model::acl::Identity;
use quorate_model::bound::MountBounds;
use quorate_model::id::{SessionId, Timestamp, Zxid};
use quorate_model::path::RelativePath;
use quorate_model::recipe::RecipeDigest;
use quorate_model::run::{
    Breach, Child, Invocation, Range, RunEnding, RunInput, RunReport, RunWatch, Runner as _,
    TreeAccess, TreeError,
};
use quorate_model::znode::{Lifetime, Node, Stat};
use quorate_sandbox::Sandbox;

/// Znodes by path; `""` is the mount.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MemoryTree {
    pub(crate) nodes: BTreeMap<String, (Bytes, Lifetime, Zxid)>,
    pub(crate) sessions: BTreeSet<u64>,
    /// No session may own more.
    pub(crate) full: bool,
    pub(crate) next_sequence: u64,
    pub(crate) zxid: u64,
}

impl MemoryTree {
    pub(crate) fn new() -> MemoryTree {
        let mut tree = MemoryTree {
            sessions: (1..=9).collect(),
            zxid: 100,
            ..MemoryTree::default()
        };
        let mount = (Bytes::new(), Lifetime::Persistent, Zxid(1));
        tree.nodes.insert(String::new(), mount);
        tree
    }

    pub(crate) fn paths(&self) -> Vec<&str> {
        self.nodes.keys().map(|path| &**path).collect()
    }

    pub(crate) fn text(&self, path: &str) -> &str {
        std::str::from_utf8(&self.nodes[path].0).unwrap()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let prefix = match path {
            "" => String::new(),
            path => format!("{path}/"),
        };
        let below = self
            .nodes
            .keys()
            .filter_map(|path| path.strip_prefix(&*prefix));
        let direct = below.filter(|name| !name.is_empty() && !name.contains('/'));
        direct.map(str::to_owned).collect()
    }

    fn stat(&self, path: &str) -> Option<Stat> {
        let (data, lifetime, created) = self.nodes.get(path)?;
        Some(Stat {
            created: *created,
            modified: *created,
            children_modified: *created,
            created_at: Timestamp(7),
            modified_at: Timestamp(8),
            version: 0,
            children_version: 0,
            acl_version: 0,
            lifetime: *lifetime,
            data_length: u32::try_from(data.len()).unwrap(),
            children: u32::try_from(self.names(path).len()).unwrap(),
        })
    }

    fn node(&self, path: &str) -> Option<Node> {
        Some(Node {
            data: self.nodes.get(path)?.0.clone(),
            stat: self.stat(path)?,
        })
    }

    fn parent(path: &str) -> &str {
        path.rsplit_once('/').map_or("", |(parent, _)| parent)
    }

    fn insert(&mut self, path: &str, data: Bytes, lifetime: Lifetime) -> Result<(), TreeError> {
        if self.nodes.contains_key(path) {
            return Err(TreeError::NodeExists);
        }
        if let Lifetime::Session(session) = lifetime
            && !self.sessions.contains(&session.0)
        {
            return Err(TreeError::NoSession);
        }
        if let Lifetime::Session(_) = lifetime
            && self.full
        {
            return Err(TreeError::SessionFull("it owns enough".into()));
        }
        let parent = MemoryTree::parent(path).to_owned();
        match self.nodes.get(&parent) {
            Some((_, lifetime, _)) if !lifetime.allows_children() => {
                return Err(Breach(format!("{parent} cannot have children")).into());
            }
            Some(_) => {}
            None => self.insert(&parent, Bytes::new(), Lifetime::Container)?,
        }
        let node = (data, lifetime, Zxid(self.zxid));
        self.nodes.insert(path.to_owned(), node);
        Ok(())
    }

    pub(crate) fn remove(&mut self, path: &str) {
        self.nodes.remove(path);
        let parent = MemoryTree::parent(path).to_owned();
        let is_container = self
            .nodes
            .get(&parent)
            .is_some_and(|node| node.1 == Lifetime::Container);
        if is_container && self.names(&parent).is_empty() {
            self.remove(&parent);
        }
    }
}

impl TreeAccess for MemoryTree {
    fn get(&mut self, path: &RelativePath) -> Result<Option<Node>, Breach> {
        Ok(self.node(path.as_str()))
    }

    fn exists(&mut self, path: &RelativePath) -> Result<Option<Stat>, Breach> {
        Ok(self.stat(path.as_str()))
    }

    fn children(&mut self, path: &RelativePath, range: &Range) -> Result<Vec<String>, Breach> {
        let mut names = self.names(path.as_str());
        names.retain(|name| {
            range.after.as_ref().is_none_or(|after| name > after)
                && range.before.as_ref().is_none_or(|before| name < before)
        });
        if range.descending {
            names.reverse();
        }
        names.truncate(range.limit as usize);
        Ok(names)
    }

    fn entries(&mut self, path: &RelativePath, range: &Range) -> Result<Vec<Child>, Breach> {
        let names = self.children(path, range)?;
        let of = |name: &String| match path.as_str() {
            "" => self.node(name),
            path => self.node(&format!("{path}/{name}")),
        };
        let nodes: Vec<_> = names.iter().filter_map(of).collect();
        let children = names.into_iter().zip(nodes);
        Ok(children.map(|(name, node)| Child { name, node }).collect())
    }

    fn missing_parents(&mut self, path: &RelativePath) -> Result<usize, Breach> {
        let mut above = MemoryTree::parent(path.as_str());
        let mut missing = 0;
        while !above.is_empty() && !self.nodes.contains_key(above) {
            missing += 1;
            above = MemoryTree::parent(above);
        }
        Ok(missing)
    }

    fn create(
        &mut self,
        path: &RelativePath,
        data: Bytes,
        lifetime: Lifetime,
    ) -> Result<(), TreeError> {
        self.insert(path.as_str(), data, lifetime)
    }

    fn create_sequential(
        &mut self,
        parent: &RelativePath,
        prefix: &str,
        data: Bytes,
        lifetime: Lifetime,
    ) -> Result<String, TreeError> {
        let name = format!("{prefix}{:016}", self.next_sequence);
        let path = match parent.as_str() {
            "" => name.clone(),
            parent => format!("{parent}/{name}"),
        };
        self.insert(&path, data, lifetime)?;
        self.next_sequence += 1;
        Ok(name)
    }

    fn set(&mut self, path: &RelativePath, data: Bytes) -> Result<(), TreeError> {
        let node = self.nodes.get_mut(path.as_str());
        node.ok_or(TreeError::NoNode)?.0 = data;
        Ok(())
    }

    fn set_lifetime(&mut self, path: &RelativePath, lifetime: Lifetime) -> Result<(), TreeError> {
        let node = self.nodes.get_mut(path.as_str());
        node.ok_or(TreeError::NoNode)?.1 = lifetime;
        Ok(())
    }

    fn delete(&mut self, path: &RelativePath) -> Result<(), TreeError> {
        if !self.nodes.contains_key(path.as_str()) {
            return Err(TreeError::NoNode);
        }
        if !self.names(path.as_str()).is_empty() {
            return Err(TreeError::NotEmpty);
        }
        self.remove(path.as_str());
        Ok(())
    }
}

/// One mount with a recipe: commits what runs that end well wrote, as the evaluator would.
pub(crate) struct Mounted<'a> {
    pub(crate) sandbox: &'a Sandbox<MemoryTree>,
    pub(crate) digest: RecipeDigest,
    pub(crate) tree: MemoryTree,
    pub(crate) log: Vec<String>,
    pub(crate) fuel: u64,
}

impl<'a> Mounted<'a> {
    /// Checks the upload, makes it ready, mounts it on an empty tree.
    pub(crate) fn new(sandbox: &'a Sandbox<MemoryTree>, upload: &[u8]) -> Mounted<'a> {
        let prepared = sandbox.prepare(upload).unwrap();
        sandbox
            .make_ready(prepared.digest, &prepared.component)
            .unwrap();
        Mounted {
            sandbox,
            digest: prepared.digest,
            tree: MemoryTree::new(),
            log: Vec::new(),
            fuel: 0,
        }
    }

    pub(crate) fn call(&mut self, session: u64, operation: &str, arguments: &str) -> RunEnding {
        self.run(session, operation, arguments, None)
    }

    /// One run; `memo` is what the one before parked with.
    pub(crate) fn run(
        &mut self,
        session: u64,
        operation: &str,
        arguments: &str,
        memo: Option<Bytes>,
    ) -> RunEnding {
        self.tree.zxid += 1;
        let input = input(
            self.digest,
            session,
            operation,
            arguments,
            memo,
            self.tree.zxid,
        );
        let report: RunReport<MemoryTree> = self.sandbox.run(input, self.tree.clone());
        self.fuel = report.fuel;
        self.log = report.log.into_iter().map(|line| line.message).collect();
        if matches!(
            report.ending,
            RunEnding::Returned(_) | RunEnding::Parked { .. }
        ) {
            self.tree = report.tree;
        }
        report.ending
    }
}

pub(crate) fn input(
    digest: RecipeDigest,
    session: u64,
    operation: &str,
    arguments: &str,
    memo: Option<Bytes>,
    zxid: u64,
) -> RunInput {
    RunInput {
        digest,
        invocation: Invocation::Operation {
            name: operation.into(),
            arguments: arguments.into(),
        },
        session: SessionId(session),
        identities: vec![Identity {
            scheme: "ip".into(),
            id: "127.0.0.1".into(),
        }],
        now: Timestamp(1_000 + zxid),
        started: Timestamp(1_000),
        transaction: Zxid(zxid),
        memo,
        bounds: MountBounds::default(),
    }
}

pub(crate) fn returned(result: &str) -> RunEnding {
    RunEnding::Returned(result.into())
}

/// The memo and the paths watched of a run that must have parked.
pub(crate) fn parked(ending: RunEnding) -> (Bytes, Vec<String>) {
    match ending {
        RunEnding::Parked { memo, watches } => {
            let path = |watch| match watch {
                RunWatch::Node(path) => format!("node {}", path.as_str()),
                RunWatch::Children(path) => format!("children {}", path.as_str()),
                RunWatch::Subtree(path) => format!("subtree {}", path.as_str()),
                RunWatch::Time(at) => format!("time {}", at.0),
            };
            (memo, watches.into_iter().map(path).collect())
        }
        other => panic!("it did not park: {other:?}"),
    }
}
