//! The log against a model of it: whatever is done, and wherever it is cut off, it holds what the model does.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader};
use proptest::prelude::*;

use crate::command::Command;
use crate::disk::RealDisk;
use crate::health::HealthNote;
use crate::log::recover;
use crate::log::store::LogStore;
use crate::raft::{LogEntry, LogId, Types, Vote, log_id};

#[derive(Clone, Debug)]
enum Step {
    /// Entries of so many bytes each.
    Append(Vec<usize>),
    /// So many entries go from the end.
    Truncate(usize),
    /// So many entries go from the beginning, or more than there are.
    Purge(u64),
    Vote,
    /// Shut down in order.
    Restart,
    /// A power cut, with this at the end of what was being written.
    PowerCut(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(0..300_usize, 1..6).prop_map(Step::Append),
        2 => (0..6_usize).prop_map(Step::Truncate),
        2 => (0..8_u64).prop_map(Step::Purge),
        1 => Just(Step::Vote),
        1 => Just(Step::Restart),
        2 => prop::collection::vec(any::<u8>(), 0..100).prop_map(Step::PowerCut),
    ]
}

#[derive(Default)]
struct Model {
    term: u64,
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, LogEntry>,
}

impl Model {
    fn next(&self) -> u64 {
        let last = self.entries.last_key_value().map(|(index, _)| *index);
        last.or(self.purged.map(|purged| purged.index))
            .map_or(0, |last| last + 1)
    }

    fn last(&self) -> Option<LogId> {
        self.entries
            .last_key_value()
            .map(|(_, entry)| entry.log_id)
            .or(self.purged)
    }
}

fn start(dir: &Path, fresh: bool, cache_bytes: usize) -> LogStore {
    let index = match fresh {
        true => recover::create(dir, 1, &RealDisk),
        false => recover::recover(dir, 1, &RealDisk),
    };
    let index = index.expect("nothing that was acknowledged is damaged");
    LogStore::start(
        index,
        dir,
        1,
        700,
        cache_bytes,
        Arc::new(RealDisk),
        HealthNote::new(),
    )
    .expect("started")
}

async fn run(steps: Vec<Step>, cache_bytes: usize) {
    let root = tempfile::tempdir().expect("a directory");
    let mut dir = root.path().join("0");
    fs::create_dir(&dir).expect("made");
    let mut store = start(&dir, true, cache_bytes);
    let mut model = Model::default();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Append(sizes) => {
                let mut entries = Vec::new();
                for size in sizes {
                    let id = log_id(model.term, model.next());
                    let bytes = Bytes::from(vec![size as u8; size]);
                    let payload = match size {
                        0 => EntryPayload::Blank,
                        _ => EntryPayload::Normal(Command::from_bytes(bytes)),
                    };
                    let entry = LogEntry {
                        log_id: id,
                        payload,
                    };
                    model.entries.insert(id.index, entry.clone());
                    entries.push(entry);
                }
                let (sender, receiver) = Types::oneshot();
                store
                    .append(entries, IOFlushed::signal(sender))
                    .await
                    .expect("queued");
                receiver.await.expect("told").expect("written");
            }
            Step::Truncate(count) => {
                for _ in 0..count.min(model.entries.len()) {
                    model.entries.pop_last();
                }
                store.truncate_after(model.last()).await.expect("queued");
            }
            Step::Purge(count) => {
                let first = model.next() - model.entries.len() as u64;
                if count == 0 {
                    continue;
                }
                let upto = first + count - 1;
                let upto = log_id(model.term, upto);
                model.purged = Some(upto);
                model.entries.retain(|index, _| *index > upto.index);
                store.purge(upto).await.expect("queued");
            }
            Step::Vote => {
                model.term += 1;
                model.vote = Some(Vote::new_committed(model.term, 1));
                store
                    .save_vote(&Vote::new_committed(model.term, 1))
                    .await
                    .expect("saved");
            }
            Step::Restart => {
                store.close();
                store = start(&dir, false, cache_bytes);
            }
            Step::PowerCut(torn) => {
                // Everything before was acknowledged once this is.
                let vote = model.vote.unwrap_or(Vote::new(0, 1));
                model.vote = Some(vote);
                store.save_vote(&vote).await.expect("saved");
                let cut = root.path().join(format!("{}", number + 1));
                copy(&dir, &cut, &torn);
                store.close();
                dir = cut;
                store = start(&dir, false, cache_bytes);
            }
        }
        let state = store.get_log_state().await.expect("known");
        assert_eq!(state.last_purged_log_id, model.purged);
        assert_eq!(state.last_log_id, model.last());
        let mut reader = store.reader();
        assert_eq!(reader.read_vote().await.expect("known"), model.vote);
        let read = reader.try_get_log_entries(..).await.expect("readable");
        assert_eq!(read, model.entries.values().cloned().collect::<Vec<_>>());
    }
    store.close();
}

/// Copies the log's files, and puts `torn` at the end of the last one.
fn copy(from: &Path, to: &Path, torn: &[u8]) {
    fs::create_dir(to).expect("made");
    let mut files: Vec<_> = fs::read_dir(from)
        .expect("readable")
        .map(|file| file.expect("readable"))
        .collect();
    files.sort_by_key(fs::DirEntry::file_name);
    let mut copied = Vec::new();
    for file in &files {
        let copy = to.join(file.file_name());
        match fs::copy(file.path(), &copy) {
            Ok(_) => copied.push(copy),
            // It is not needed any more, and is removed meanwhile. So were those before it, as the oldest goes first: a
            // power cut leaves no gap either.
            Err(_) => {
                for older in copied.drain(..) {
                    fs::remove_file(older).expect("it was copied");
                }
            }
        }
    }
    let last = to.join(files.last().expect("at least one").file_name());
    let mut last = fs::File::options().append(true).open(last).expect("there");
    last.write_all(torn).expect("written");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_what_its_model_is(
        steps in prop::collection::vec(step(), 1..40),
        cache_bytes in prop_oneof![Just(0), Just(500), Just(1 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(run(steps, cache_bytes));
    }
}
