//! Recordings: a run with all that it was told, so that it can be run again elsewhere, bit for bit.
//!
//! A run learns nothing but its input and the answers of its tree, so these two are a recording: what it asked, in
//! order, and what it was answered. [`Replay`] gives the same answers again, and ends a run that asks otherwise.

use std::borrow::Cow;
use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::path::{RelativePath, ZnodePath};
use crate::run::{
    Breach, Child, Invocation, LogLine, Range, RunEnding, RunInput, TreeAccess, TreeError,
};
use crate::znode::{Lifetime, Node, Stat};

/// A run, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// Where the recipe is mounted.
    pub mount: ZnodePath,
    /// The recipe's name there.
    pub recipe: String,
    /// What the run was given besides the tree.
    pub input: RunInput,
    /// What it asked of the tree, in order.
    pub steps: Vec<Step>,
    /// What it came to.
    pub ran: Ran,
}

/// What a run came to, but for what it wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// How it ended.
    pub ending: RunEnding,
    /// What it used of its fuel.
    pub fuel: u64,
    /// The lines that it wrote.
    pub log: Vec<LogLine>,
}

/// One question to the tree, and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Step {
    /// What was asked.
    pub ask: Question,
    /// What was answered.
    pub answer: Reply,
}

impl Recording {
    /// About how many bytes it has.
    pub fn bytes(&self) -> usize {
        let of_node = |node: &Option<Node>| node.as_ref().map_or(0, |node| 100 + node.data.len());
        let invocation = match &self.input.invocation {
            Invocation::Operation { name, arguments } => name.len() + arguments.len(),
            Invocation::Standing => 0,
            Invocation::Guard(changes) => changes
                .iter()
                .map(|it| it.path.as_str().len() + of_node(&it.before) + of_node(&it.after))
                .sum(),
        };
        let memo = self.input.memo.as_ref().map_or(0, Bytes::len);
        let steps: usize = self.steps.iter().map(Step::bytes).sum();
        1000 + invocation + memo + steps + self.ran.bytes()
    }
}

impl Ran {
    /// About how many bytes it has.
    pub fn bytes(&self) -> usize {
        let lines = self.log.iter().map(|line| 16 + line.message.len());
        self.ending.bytes() + lines.sum::<usize>()
    }
}

impl Step {
    /// About how many bytes it has.
    pub fn bytes(&self) -> usize {
        let of_range = |range: &Range| {
            let ends = [&range.after, &range.before];
            ends.into_iter().flatten().map(String::len).sum::<usize>()
        };
        let asked = match &self.ask {
            Question::Create { path, data, .. } | Question::Set { path, data } => {
                path.as_str().len() + data.len()
            }
            Question::CreateSequential {
                parent,
                prefix,
                data,
                ..
            } => parent.as_str().len() + prefix.len() + data.len(),
            Question::Children(path, range) | Question::Entries(path, range) => {
                path.as_str().len() + of_range(range)
            }
            Question::Get(path)
            | Question::Exists(path)
            | Question::MissingParents(path)
            | Question::SetLifetime { path, .. }
            | Question::Delete(path) => path.as_str().len(),
        };
        let answered = match &self.answer {
            Reply::Node(Some(node)) => node.data.len(),
            Reply::Names(names) => names.iter().map(|name| name.len() + 16).sum(),
            Reply::Entries(children) => children
                .iter()
                .map(|child| child.name.len() + child.node.data.len() + 100)
                .sum(),
            _ => 0,
        };
        150 + asked + answered
    }
}

/// What [`TreeAccess`] can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "they are the methods of `TreeAccess`")]
pub enum Question {
    Get(RelativePath),
    Exists(RelativePath),
    Children(RelativePath, Range),
    Entries(RelativePath, Range),
    MissingParents(RelativePath),
    Create {
        path: RelativePath,
        #[serde(with = "crate::readable")]
        data: Bytes,
        lifetime: Lifetime,
    },
    CreateSequential {
        parent: RelativePath,
        prefix: String,
        #[serde(with = "crate::readable")]
        data: Bytes,
        lifetime: Lifetime,
    },
    Set {
        path: RelativePath,
        #[serde(with = "crate::readable")]
        data: Bytes,
    },
    SetLifetime {
        path: RelativePath,
        lifetime: Lifetime,
    },
    Delete(RelativePath),
}

/// What it can answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To `get`.
    Node(Option<Node>),
    /// To `exists`.
    Stat(Option<Stat>),
    /// To `children`.
    Names(Vec<String>),
    /// To `entries`.
    Entries(Vec<Child>),
    /// To `missing-parents`.
    Count(u64),
    /// To `create-sequential`.
    Name(String),
    /// It was done.
    Done,
    /// It was refused.
    Refused(TreeError),
}

/// A tree that answers what was recorded, and nothing else.
#[derive(Debug)]
pub struct Replay {
    steps: VecDeque<Step>,
    asked: usize,
    strayed: Option<String>,
}

impl Replay {
    /// These, in order.
    pub fn new(steps: Vec<Step>) -> Replay {
        Replay {
            steps: steps.into(),
            asked: 0,
            strayed: None,
        }
    }

    /// Where the run asked something else than the recorded one, or ended before it, for people. It is none of the
    /// recorded run then.
    pub fn strayed(&self) -> Option<Cow<'_, str>> {
        if let Some(strayed) = &self.strayed {
            return Some(Cow::Borrowed(strayed));
        }
        let next = self.steps.front()?;
        Some(Cow::Owned(format!(
            "after {} questions to the tree the recorded run asked {:?}, and this one has ended",
            self.asked, next.ask
        )))
    }

    fn ask(&mut self, question: Question) -> Result<Reply, Breach> {
        self.asked += 1;
        let recorded = match self.steps.pop_front() {
            Some(step) if step.ask == question => return Ok(step.answer),
            Some(step) => format!("the recorded run asked {:?}", step.ask),
            None => "the recorded run asked no more".to_owned(),
        };
        let strayed = format!(
            "question {} to the tree is {question:?}, where {recorded}",
            self.asked
        );
        self.strayed.get_or_insert_with(|| strayed.clone());
        Err(Breach(strayed))
    }

    fn done(&mut self, question: Question) -> Result<(), TreeError> {
        match self.ask(question)? {
            Reply::Done => Ok(()),
            Reply::Refused(error) => Err(error),
            other => Err(no_answer(&other).into()),
        }
    }
}

/// Whoever wrote the file by hand is told.
fn no_answer(reply: &Reply) -> Breach {
    match reply {
        Reply::Refused(error) => Breach(error.to_string()),
        other => Breach(format!(
            "the recording is damaged: {other:?} answers another question"
        )),
    }
}

impl TreeAccess for Replay {
    fn get(&mut self, path: &RelativePath) -> Result<Option<Node>, Breach> {
        match self.ask(Question::Get(path.clone()))? {
            Reply::Node(node) => Ok(node),
            other => Err(no_answer(&other)),
        }
    }

    fn exists(&mut self, path: &RelativePath) -> Result<Option<Stat>, Breach> {
        match self.ask(Question::Exists(path.clone()))? {
            Reply::Stat(stat) => Ok(stat),
            other => Err(no_answer(&other)),
        }
    }

    fn children(&mut self, path: &RelativePath, range: &Range) -> Result<Vec<String>, Breach> {
        match self.ask(Question::Children(path.clone(), range.clone()))? {
            Reply::Names(names) => Ok(names),
            other => Err(no_answer(&other)),
        }
    }

    fn entries(&mut self, path: &RelativePath, range: &Range) -> Result<Vec<Child>, Breach> {
        match self.ask(Question::Entries(path.clone(), range.clone()))? {
            Reply::Entries(children) => Ok(children),
            other => Err(no_answer(&other)),
        }
    }

    fn missing_parents(&mut self, path: &RelativePath) -> Result<usize, Breach> {
        match self.ask(Question::MissingParents(path.clone()))? {
            Reply::Count(count) => Ok(usize::try_from(count).unwrap_or(usize::MAX)),
            other => Err(no_answer(&other)),
        }
    }

    fn create(
        &mut self,
        path: &RelativePath,
        data: Bytes,
        lifetime: Lifetime,
    ) -> Result<(), TreeError> {
        self.done(Question::Create {
            path: path.clone(),
            data,
            lifetime,
        })
    }

    fn create_sequential(
        &mut self,
        parent: &RelativePath,
        prefix: &str,
        data: Bytes,
        lifetime: Lifetime,
    ) -> Result<String, TreeError> {
        let question = Question::CreateSequential {
            parent: parent.clone(),
            prefix: prefix.to_owned(),
            data,
            lifetime,
        };
        match self.ask(question)? {
            Reply::Name(name) => Ok(name),
            Reply::Refused(error) => Err(error),
            other => Err(no_answer(&other).into()),
        }
    }

    fn set(&mut self, path: &RelativePath, data: Bytes) -> Result<(), TreeError> {
        self.done(Question::Set {
            path: path.clone(),
            data,
        })
    }

    fn set_lifetime(&mut self, path: &RelativePath, lifetime: Lifetime) -> Result<(), TreeError> {
        self.done(Question::SetLifetime {
            path: path.clone(),
            lifetime,
        })
    }

    fn delete(&mut self, path: &RelativePath) -> Result<(), TreeError> {
        self.done(Question::Delete(path.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelativePath {
        RelativePath::parse(text).unwrap()
    }

    fn steps() -> Vec<Step> {
        let step = |ask, answer| Step { ask, answer };
        vec![
            step(Question::Get(path("a")), Reply::Node(None)),
            step(
                Question::Create {
                    path: path("a"),
                    data: Bytes::from_static(b"\xff\0"),
                    lifetime: Lifetime::Persistent,
                },
                Reply::Refused(TreeError::NodeExists),
            ),
        ]
    }

    #[test]
    fn a_replay_answers_what_was_recorded_and_says_where_a_run_strays() {
        let mut replay = Replay::new(steps());
        assert_eq!(replay.get(&path("a")), Ok(None));
        let ended_early = replay.strayed().expect("a question is left").into_owned();
        assert!(ended_early.contains("has ended"), "{ended_early}");
        let data = Bytes::from_static(b"\xff\0");
        let created = replay.create(&path("a"), data, Lifetime::Persistent);
        assert_eq!(created, Err(TreeError::NodeExists));
        assert_eq!(replay.strayed(), None);
        assert!(replay.delete(&path("a")).is_err());
        assert!(replay.strayed().expect("it asked on").contains("no more"));

        let mut other = Replay::new(steps());
        assert!(other.get(&path("b")).is_err());
        assert!(other.strayed().expect("it strayed").contains("question 1"));
    }

    #[test]
    fn all_that_a_recipe_may_make_long_counts() {
        let long = "x".repeat(10_000);
        let range = Range {
            after: Some(long.clone()),
            before: Some(long.clone()),
            ..Range::default()
        };
        let step = |ask| Step {
            ask,
            answer: Reply::Done,
        };
        assert!(step(Question::Children(path("a"), range.clone())).bytes() > 20_000);
        assert!(step(Question::Entries(path("a"), range)).bytes() > 20_000);
        let sequential = Question::CreateSequential {
            parent: path("a"),
            prefix: long,
            data: Bytes::from(vec![0; 10_000]),
            lifetime: Lifetime::Persistent,
        };
        assert!(step(sequential).bytes() > 20_000);
    }

    #[test]
    fn steps_are_the_same_as_json_and_as_bytes() {
        let json = serde_json::to_string(&steps()).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Step>>(&json).unwrap(), steps());
        let bytes = postcard::to_stdvec(&steps()).unwrap();
        assert_eq!(postcard::from_bytes::<Vec<Step>>(&bytes).unwrap(), steps());
    }
}
