//! How this server's consensus is, for the operator.

use std::sync::Arc;

use tokio::sync::watch;

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
pub(crate) struct HealthNote(Arc<watch::Sender<Health>>);

impl HealthNote {
    pub(crate) fn new() -> HealthNote {
        HealthNote(Arc::new(watch::Sender::new(Health::Running)))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Health> {
        self.0.subscribe()
    }

    pub(crate) fn failed(&self, reason: String) {
        self.note(
            |health| !matches!(health, Health::Failed(_) | Health::Stopped),
            || {
                tracing::error!("consensus has failed: {reason}");
                Health::Failed(reason)
            },
        );
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
        self.0.send_if_modified(|health| {
            if !may(health) {
                return false;
            }
            *health = new();
            true
        });
    }
}
