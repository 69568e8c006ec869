//! How this server's consensus is, for the operator.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::machine::panic_text;

/// How this server's consensus is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It runs.
    #[default]
    Running,
    /// It runs, and something beside the log failed, such as a snapshot: the text says what. The log grows until that is mended.
    Impaired(String),
    /// It has stopped for good, and nothing more is acknowledged: the text says why. Start the server anew when that is mended.
    Failed(String),
    /// It was shut down.
    Stopped,
}

/// The one place where health is noted. The first failure stays.
#[derive(Clone)]
pub(crate) struct HealthNote(Arc<Noted>);

struct Noted {
    health: watch::Sender<Health>,
    /// Whether the failure is a panic, and so a defect of ours.
    panicked: AtomicBool,
}

impl HealthNote {
    pub(crate) fn new() -> HealthNote {
        HealthNote(Arc::new(Noted {
            health: watch::Sender::new(Health::Running),
            panicked: AtomicBool::new(false),
        }))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }

    pub(crate) fn failed(&self, reason: String) {
        self.fail(reason, false);
    }

    /// Something without which this server only seems to run has panicked.
    pub(crate) fn panicked(&self, reason: String) {
        self.fail(reason, true);
    }

    fn fail(&self, reason: String, panicked: bool) {
        self.note(
            |health| !matches!(health, Health::Failed(_) | Health::Stopped),
            || {
                tracing::error!("consensus has failed: {reason}");
                self.0.panicked.store(panicked, Ordering::SeqCst);
                Health::Failed(reason)
            },
        );
    }

    /// Whether it has failed by a panic.
    pub(crate) fn has_panicked(&self) -> bool {
        self.0.panicked.load(Ordering::SeqCst)
    }

    /// Runs a task of consensus, and notes it if that panics.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let note = self.clone();
        tokio::spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                let said = panic_text(panic.as_ref());
                note.panicked(format!(
                    "the task {name:?} of consensus has panicked: {said}"
                ));
            }
        })
    }

    pub(crate) fn impaired(&self, reason: String) {
        self.note(
            |health| matches!(health, Health::Running | Health::Impaired(_)),
            || {
                tracing::error!("consensus is impaired: {reason}");
                Health::Impaired(reason)
            },
        );
    }

    pub(crate) fn mended(&self) {
        self.note(
            |health| matches!(health, Health::Impaired(_)),
            || Health::Running,
        );
    }

    pub(crate) fn stopped(&self) {
        self.note(
            |health| !matches!(health, Health::Failed(_) | Health::Stopped),
            || Health::Stopped,
        );
    }

    fn note(&self, may: impl FnOnce(&Health) -> bool, new: impl FnOnce() -> Health) {
        self.0.health.send_if_modified(|health| {
            if !may(health) {
                return false;
            }
            *health = new();
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_a_failure_and_another_failure_is_no_panic() {
        let note = HealthNote::new();
        note.spawn("well", async {}).await.unwrap();
        assert_eq!(*note.watch().borrow(), Health::Running);
        note.spawn("ill", async { panic!("of {}", "it") })
            .await
            .unwrap();
        let health = note.watch().borrow().clone();
        assert!(
            matches!(&health, Health::Failed(why) if why.contains("\"ill\"") && why.ends_with("of it")),
            "{health:?}"
        );
        assert!(note.has_panicked());

        let note = HealthNote::new();
        note.failed("the disk is full".into());
        note.panicked("what follows from it".into());
        assert!(!note.has_panicked(), "the first failure stays");
    }
}
