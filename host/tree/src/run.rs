//! A run's hands: what it does to the tree, and, if that is wanted, what it was told.

use bytes::Bytes;
use quorate_model::id::SessionId;
use quorate_model::path::{RelativePath, ZnodePath};
use quorate_model::recipe::Mount;
use quorate_model::recording::{Question, Reply, Step};
use quorate_model::run::{Breach, Child, Range, TreeAccess, TreeError};
use quorate_model::trial::MAX_RECORDING_BYTES;
use quorate_model::znode::{Lifetime, Node, Stat};

use crate::mount_tree::MountTree;
use crate::view::View;

/// The evaluator lends it to a run and takes it back.
pub struct RunTree {
    pub(crate) below: MountTree,
    is_trial: bool,
    recorder: Option<Recorder>,
}

impl RunTree {
    pub(crate) fn new(view: View, mount: Mount, session: SessionId) -> RunTree {
        RunTree {
            below: MountTree::new(view, mount, session),
            is_trial: false,
            recorder: None,
        }
    }

    /// The same for a run of which nothing is kept, but for what it was told, if that is to be recorded.
    pub(crate) fn on_trial(mut self, record: bool) -> RunTree {
        self.is_trial = true;
        self.recorder = record.then(Recorder::default);
        self
    }

    /// What it was asked, and what it answered; none if that was not recorded, or is too long.
    pub(crate) fn take_steps(&mut self) -> Option<Vec<Step>> {
        let recorder = self.recorder.take()?;
        recorder.fits().then_some(recorder.steps)
    }

    /// Where the recipe is mounted.
    pub fn mount(&self) -> &ZnodePath {
        &self.below.mount.path
    }

    /// Bytes of paths and data that the run has written so far, those that it has undone itself included.
    pub fn written_bytes(&self) -> u64 {
        self.below.written_bytes
    }

    /// Whether nothing of the run is kept.
    pub fn is_trial(&self) -> bool {
        self.is_trial
    }

    /// Takes down a question, unless there is too much already.
    fn asked(&mut self, ask: impl FnOnce() -> Question, answer: impl FnOnce() -> Reply) {
        if let Some(recorder) = self.recorder.as_mut().filter(|recorder| recorder.fits()) {
            recorder.take(Step {
                ask: ask(),
                answer: answer(),
            });
        }
    }

    fn done(&mut self, ask: impl FnOnce() -> Question, done: &Result<(), TreeError>) {
        self.asked(ask, || match done {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Refused(error.clone()),
        });
    }
}

#[derive(Default)]
struct Recorder {
    steps: Vec<Step>,
    bytes: usize,
}

impl Recorder {
    fn take(&mut self, step: Step) {
        self.bytes += step.bytes();
        match self.fits() {
            true => self.steps.push(step),
            false => self.steps = Vec::new(),
        }
    }

    fn fits(&self) -> bool {
        self.bytes <= MAX_RECORDING_BYTES
    }
}

/// A breach ends the run, and is its last answer.
fn answered<T>(result: &Result<T, Breach>, reply: impl FnOnce(&T) -> Reply) -> Reply {
    match result {
        Ok(value) => reply(value),
        Err(breach) => Reply::Refused(breach.clone().into()),
    }
}

impl TreeAccess for RunTree {
    fn get(&mut self, path: &RelativePath) -> Result<Option<Node>, Breach> {
        let node = self.below.get(path);
        self.asked(
            || Question::Get(path.clone()),
            || answered(&node, |node| Reply::Node(node.clone())),
        );
        node
    }

    fn exists(&mut self, path: &RelativePath) -> Result<Option<Stat>, Breach> {
        let stat = self.below.exists(path);
        self.asked(
            || Question::Exists(path.clone()),
            || answered(&stat, |stat| Reply::Stat(*stat)),
        );
        stat
    }

    fn children(&mut self, path: &RelativePath, range: &Range) -> Result<Vec<String>, Breach> {
        let names = self.below.children(path, range);
        self.asked(
            || Question::Children(path.clone(), range.clone()),
            || answered(&names, |names| Reply::Names(names.clone())),
        );
        names
    }

    fn entries(&mut self, path: &RelativePath, range: &Range) -> Result<Vec<Child>, Breach> {
        let entries = self.below.entries(path, range);
        self.asked(
            || Question::Entries(path.clone(), range.clone()),
            || answered(&entries, |entries| Reply::Entries(entries.clone())),
        );
        entries
    }

    fn missing_parents(&mut self, path: &RelativePath) -> Result<usize, Breach> {
        let count = self.below.missing_parents(path);
        self.asked(
            || Question::MissingParents(path.clone()),
            || answered(&count, |count| Reply::Count(*count as u64)),
        );
        count
    }

    fn create(
        &mut self,
        path: &RelativePath,
        data: Bytes,
        lifetime: Lifetime,
    ) -> Result<(), TreeError> {
        let created = self.below.create(path, data.clone(), lifetime);
        let ask = || Question::Create {
            path: path.clone(),
            data,
            lifetime,
        };
        self.done(ask, &created);
        created
    }

    fn create_sequential(
        &mut self,
        parent: &RelativePath,
        prefix: &str,
        data: Bytes,
        lifetime: Lifetime,
    ) -> Result<String, TreeError> {
        let name = self
            .below
            .create_sequential(parent, prefix, data.clone(), lifetime);
        let ask = || Question::CreateSequential {
            parent: parent.clone(),
            prefix: prefix.to_owned(),
            data,
            lifetime,
        };
        self.asked(ask, || match &name {
            Ok(name) => Reply::Name(name.clone()),
            Err(error) => Reply::Refused(error.clone()),
        });
        name
    }

    fn set(&mut self, path: &RelativePath, data: Bytes) -> Result<(), TreeError> {
        let set = self.below.set(path, data.clone());
        let ask = || Question::Set {
            path: path.clone(),
            data,
        };
        self.done(ask, &set);
        set
    }

    fn set_lifetime(&mut self, path: &RelativePath, lifetime: Lifetime) -> Result<(), TreeError> {
        let set = self.below.set_lifetime(path, lifetime);
        let ask = || Question::SetLifetime {
            path: path.clone(),
            lifetime,
        };
        self.done(ask, &set);
        set
    }

    fn delete(&mut self, path: &RelativePath) -> Result<(), TreeError> {
        let deleted = self.below.delete(path);
        self.done(|| Question::Delete(path.clone()), &deleted);
        deleted
    }
}
