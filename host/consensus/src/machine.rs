//! The state machine as openraft sees it: ours, and beside it what raft itself must remember.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use quorate_model::recipe::{Component, RecipeDigest};
use tokio::sync::Notify;

use crate::command::Command;
use crate::disk::{self, Disk};
use crate::error::OpenError;
use crate::health::HealthNote;
use crate::raft::{LogId, SnapshotMeta, StoredMembership, Types};
use crate::snapshot::{SnapshotFile, SnapshotStore, Writing};
use crate::state_machine::{InstallError, StateMachine, Verdict};

/// When a snapshot is due.
#[derive(Clone, Copy)]
pub(crate) struct SnapshotBounds {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// What the state machine, its snapshots' builders and the upkeep task share.
pub(crate) struct Upkeep {
    pub(crate) snapshots: SnapshotStore,
    pub(crate) disk: Arc<dyn Disk>,
    /// Rung when a snapshot is due, and when one was built.
    pub(crate) due: Notify,
    /// Set while a snapshot is due and none has been begun.
    pub(crate) wanted: AtomicBool,
    /// Entries applied since this server started.
    pub(crate) applied_entries: AtomicU64,
    /// The index behind the last applied entry; 0 for none.
    pub(crate) applied_end: AtomicU64,
    health: HealthNote,
    /// The snapshot that is being built gives up when this is set.
    cancel: Mutex<Arc<AtomicBool>>,
}

impl Upkeep {
    pub(crate) fn new(
        snapshots: SnapshotStore,
        disk: Arc<dyn Disk>,
        health: HealthNote,
    ) -> Arc<Upkeep> {
        Arc::new(Upkeep {
            snapshots,
            disk,
            due: Notify::new(),
            wanted: AtomicBool::new(false),
            applied_entries: AtomicU64::new(0),
            applied_end: AtomicU64::new(0),
            health,
            cancel: Mutex::default(),
        })
    }

    /// Makes the snapshot that is being built, if any, give up.
    pub(crate) fn cancel_snapshot(&self) {
        self.cancel.lock().store(true, Ordering::SeqCst);
    }
}

/// openraft's state machine.
pub(crate) struct Machine {
    inner: Arc<dyn StateMachine>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    bounds: SnapshotBounds,
    /// Applied since the last snapshot was begun.
    bytes_since: u64,
    entries_since: u64,
    upkeep: Arc<Upkeep>,
}

impl Machine {
    /// A machine in the state of the newest snapshot, if there is one.
    pub(crate) fn recover(
        inner: Arc<dyn StateMachine>,
        bounds: SnapshotBounds,
        upkeep: Arc<Upkeep>,
    ) -> Result<Machine, OpenError> {
        let mut machine = Machine {
            inner,
            last_applied: None,
            membership: StoredMembership::default(),
            bounds,
            bytes_since: 0,
            entries_since: 0,
            upkeep,
        };
        if let Some(file) = machine.upkeep.snapshots.current() {
            let installed = install(machine.inner.as_ref(), &machine.upkeep.snapshots, &file);
            installed.map_err(|error| match error {
                InstallError::Read(error) => OpenError::SnapshotDamaged {
                    path: file.path.clone(),
                    found: error.to_string(),
                },
                source => OpenError::Install {
                    path: file.path.clone(),
                    source,
                },
            })?;
            machine.set_applied(file.meta.last_log_id);
            machine.membership = file.meta.last_membership;
        }
        Ok(machine)
    }

    fn apply_command(&mut self, id: LogId, command: &Command) -> io::Result<Verdict> {
        let entry = command
            .take_entry()
            .map_err(|error| self.fail(id, &error.to_string()))?;
        let applied = catch_unwind(AssertUnwindSafe(|| self.inner.apply(&entry)));
        let verdict = applied.map_err(|panic| self.fail(id, panic_text(panic.as_ref())))?;
        self.bytes_since += command.len() as u64;
        Ok(verdict)
    }

    fn set_applied(&mut self, id: Option<LogId>) {
        self.last_applied = id;
        let end = id.map_or(0, |id| id.index + 1);
        self.upkeep.applied_end.store(end, Ordering::Relaxed);
    }

    fn fail(&self, id: LogId, what: &str) -> io::Error {
        let reason = format!("cannot apply entry {id}: {what}");
        self.upkeep.health.failed(reason.clone());
        io::Error::other(reason)
    }

    /// Asks for a snapshot when enough was applied since the last one.
    fn consider_snapshot(&self) {
        let last_bytes = self.upkeep.snapshots.current_bytes();
        let due = self.bytes_since > self.bounds.bytes.max(last_bytes)
            || self.entries_since > self.bounds.entries;
        if due && !self.upkeep.wanted.swap(true, Ordering::Relaxed) {
            self.upkeep.due.notify_one();
        }
    }
}

/// What a panic says.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it panicked")
}

fn install(
    inner: &dyn StateMachine,
    snapshots: &SnapshotStore,
    file: &SnapshotFile,
) -> Result<(), InstallError> {
    let needed = file.needed().iter();
    let mut components = needed.map(|needed| {
        let component = snapshots.components.read(needed)?;
        Ok((needed.digest, component))
    });
    let mut chunks = file.chunks()?;
    inner.install(&mut components, &mut chunks)?;
    // The state may know its own end; the file's end must have been reached and be whole all the same.
    match chunks.next() {
        None => Ok(()),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(_)) => Err(InstallError::Content(
            "the state did not take all of its chunks".into(),
        )),
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let verdict = match &entry.payload {
                EntryPayload::Blank => Verdict::NoOp,
                EntryPayload::Normal(command) => self.apply_command(entry.log_id, command)?,
                EntryPayload::Membership(membership) => {
                    let at = Some(entry.log_id);
                    self.membership = StoredMembership::new(at, membership.clone());
                    Verdict::NoOp
                }
            };
            self.set_applied(Some(entry.log_id));
            self.entries_since += 1;
            self.upkeep.applied_entries.fetch_add(1, Ordering::Relaxed);
            if let Some(responder) = responder {
                responder.send(verdict);
            }
            // The stream is ready as long as entries are; others want this thread too.
            tokio::task::consume_budget().await;
        }
        self.consider_snapshot();
        Ok(())
    }

    /// Called between applies, which makes the instant that the snapshot is of.
    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let cancelled = Arc::new(AtomicBool::new(false));
        *self.upkeep.cancel.lock() = cancelled.clone();
        self.upkeep.wanted.store(false, Ordering::Relaxed);
        self.bytes_since = 0;
        self.entries_since = 0;
        let components = self.inner.begin_snapshot();
        SnapshotBuilder(Some(Build {
            components,
            inner: self.inner.clone(),
            meta: SnapshotMeta {
                last_log_id: self.last_applied,
                last_membership: self.membership.clone(),
            },
            cancelled,
            upkeep: self.upkeep.clone(),
            writing: None,
        }))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        file: SnapshotFile,
    ) -> Result<(), io::Error> {
        self.upkeep.cancel_snapshot();
        self.inner.abandon_snapshot();
        let (inner, upkeep) = (self.inner.clone(), self.upkeep.clone());
        let installed = disk::wait_for(self.upkeep.disk.as_ref(), move || {
            install(inner.as_ref(), &upkeep.snapshots, &file).map_err(io::Error::other)?;
            upkeep.snapshots.adopt(&file)
        });
        if let Err(error) = installed.await.flatten() {
            self.upkeep
                .health
                .failed(format!("cannot install a snapshot: {error}"));
            return Err(error);
        }
        self.set_applied(meta.last_log_id);
        self.membership = meta.last_membership.clone();
        self.bytes_since = 0;
        self.entries_since = 0;
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<
        Option<Snapshot<crate::raft::TermId, u64, crate::raft::Member, SnapshotFile>>,
        io::Error,
    > {
        let current = self.upkeep.snapshots.current();
        Ok(current.map(|file| Snapshot {
            meta: file.meta.clone(),
            snapshot: file,
        }))
    }
}

/// Writes the snapshot that was begun, beside the applies that go on.
pub(crate) struct SnapshotBuilder(Option<Build>);

struct Build {
    /// Given to what is being written, with the first step.
    components: Vec<(RecipeDigest, Component)>,
    inner: Arc<dyn StateMachine>,
    meta: SnapshotMeta,
    cancelled: Arc<AtomicBool>,
    upkeep: Arc<Upkeep>,
    /// None before the first step.
    writing: Option<Writing>,
}

impl Build {
    /// Writes one chunk, or one component; at the end, gives the snapshot that is on disk. Blocks meanwhile.
    fn step(&mut self) -> io::Result<Option<SnapshotFile>> {
        let snapshots = &self.upkeep.snapshots;
        let mut writing = match self.writing.take() {
            Some(writing) => writing,
            None => snapshots.begin(self.meta.clone(), std::mem::take(&mut self.components))?,
        };
        let chunk = self.inner.snapshot_chunk();
        // Asked afterwards, as an abandoned snapshot also ends with none.
        if self.cancelled.load(Ordering::SeqCst) {
            return Err(io::Error::new(
                io::ErrorKind::Interrupted,
                "the snapshot was cancelled",
            ));
        }
        match chunk {
            Some(chunk) => {
                writing.chunk(&chunk)?;
                self.writing = Some(writing);
                Ok(None)
            }
            None if snapshots.write_component(&mut writing)? => {
                self.writing = Some(writing);
                Ok(None)
            }
            None => snapshots.finish(writing).map(Some),
        }
    }

    /// Writes all of it, beside the caller's thread.
    async fn write(mut self) -> io::Result<SnapshotFile> {
        let disk = self.upkeep.disk.clone();
        loop {
            let step = disk::wait_for(disk.as_ref(), move || (self.step(), self));
            let (written, build) = step.await?;
            if let Some(file) = written? {
                return Ok(file);
            }
            self = build;
        }
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.upkeep.due.notify_one();
    }
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    /// openraft stops for good when this fails, which a full disk for snapshots is no reason for: the log
    /// still holds everything. So a failure is told to the operator, and openraft is given a snapshot of
    /// nothing, which it leaves aside.
    async fn build_snapshot(
        &mut self,
    ) -> Result<Snapshot<crate::raft::TermId, u64, crate::raft::Member, SnapshotFile>, io::Error>
    {
        let nothing = || Snapshot {
            meta: SnapshotMeta::default(),
            snapshot: SnapshotFile::default(),
        };
        let Some(build) = self.0.take() else {
            return Ok(nothing());
        };
        let (cancelled, upkeep) = (build.cancelled.clone(), build.upkeep.clone());
        let inner = build.inner.clone();
        match build.write().await {
            Ok(file) => {
                upkeep.health.mended();
                Ok(Snapshot {
                    meta: file.meta.clone(),
                    snapshot: file,
                })
            }
            Err(_) if cancelled.load(Ordering::SeqCst) => {
                // Who applies must not wait for a writer that has gone.
                inner.abandon_snapshot();
                Ok(nothing())
            }
            Err(error) => {
                inner.abandon_snapshot();
                upkeep.health.impaired(format!(
                    "cannot take a snapshot: {error}; the log grows until this is mended"
                ));
                Ok(nothing())
            }
        }
    }
}
