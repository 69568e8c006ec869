//! What the standard recipes promise, held under random schedules of calls, cancellations, expiries, deadlines,
//! time and changes of the leader; and what their calls cost.
//!
//! A failure prints its seed: `QUORATE_SEED=7 cargo test -p quorate-tests --test library fair_lock` runs it alone.

mod barriers;
mod bounds;
mod costs;
mod groups;
mod locks;
mod nasty;
mod queues;
mod values;

use quorate_tests::random::{Asked, CallId, SessionId};

/// Calls that wait, in the order in which they were made.
#[derive(Default)]
struct Waiting(Vec<Asked>);

impl Waiting {
    fn push(&mut self, asked: &Asked) {
        self.0.push(asked.clone());
    }

    fn remove(&mut self, call: CallId) {
        self.0.retain(|asked| asked.id != call);
    }

    fn end_session(&mut self, session: SessionId) {
        self.0.retain(|asked| asked.id.session != session);
    }

    /// The first with this name, which is the first argument.
    fn first(&self, name: &str) -> Option<&Asked> {
        self.0.iter().find(|asked| asked.text(0) == name)
    }

    /// All with this name.
    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Asked> {
        self.0.iter().filter(move |asked| asked.text(0) == name)
    }
}

/// Fails with a message written as for `format!` unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}
pub(crate) use ensure;
