//! The ensemble's version: raise it (rule S7).

use quorate_model::outcome::{Outcome, Refusal};
use quorate_model::write_set::{Change, ENSEMBLE_VERSION};

use crate::apply::Records as _;
use crate::view::View;

/// Raises it; refused if it is that high already, or would be higher than this build reads.
pub(crate) fn raise(view: &mut View, version: u32) -> Result<Outcome, Refusal> {
    let now = view.version();
    if version <= now || version > ENSEMBLE_VERSION {
        return Err(Refusal::BadArguments(format!(
            "version {version} is none to raise the ensemble to: it is at {now}, and this build reads up to {ENSEMBLE_VERSION}"
        )));
    }
    view.change(Change::RaiseVersion { version });
    Ok(Outcome::VersionRaised)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::RwLock;
    use quorate_model::id::{SessionId, Timestamp, Zxid};
    use quorate_model::write_set::{Batch, Entry, TooNew, Transaction};

    use super::*;
    use crate::apply::Moment;
    use crate::snapshot::SnapshotError;
    use crate::state::State;

    fn raised(version: u32) -> Entry {
        let transaction = Transaction {
            time: Timestamp(1),
            origin: None,
            session: SessionId::NONE,
            changes: vec![Change::RaiseVersion { version }],
            outcome: None,
        };
        Entry::Transactions(Batch {
            epoch: 0,
            first_counter: 1,
            transactions: vec![transaction],
        })
    }

    fn reload(state: &mut State) -> Result<State, SnapshotError> {
        let components = state.begin_snapshot().into_iter().map(Ok);
        let chunks = std::iter::from_fn(|| state.snapshot_chunk()).map(Ok);
        State::load(components, chunks)
    }

    #[test]
    fn s7_the_version_is_part_of_the_state_its_digest_and_its_snapshots() {
        let mut state = State::new();
        assert_eq!(state.version(), 0);
        state.apply(&raised(1), |_, _, _| {}).unwrap();
        assert_eq!(state.version(), 1);
        assert_eq!(reload(&mut state).unwrap().version(), 1);
        let digest = state.digest();
        state.version = 0;
        assert_ne!(state.digest(), digest);
    }

    #[test]
    fn s7_what_is_beyond_this_build_is_refused() {
        let beyond = ENSEMBLE_VERSION + 1;
        let why = format!(
            "the ensemble is at version {beyond}, this build reads up to {ENSEMBLE_VERSION}: start a newer build"
        );
        let stopped = State::new().apply(&raised(beyond), |_, _, _| {});
        assert_eq!(stopped.unwrap_err().reason, why);
        let mut state = State::new();
        state.version = beyond;
        let refused = reload(&mut state).err().unwrap();
        assert_eq!(refused, SnapshotError::TooNew(TooNew(beyond)));
        assert_eq!(refused.to_string(), why);
    }

    #[test]
    fn s7_the_version_is_never_lowered() {
        let mut state = State::new();
        state.version = 1;
        assert!(state.apply(&raised(1), |_, _, _| {}).is_err());

        let mut view = View::new(Arc::new(RwLock::new(State::new())));
        view.begin(Moment {
            zxid: Zxid(1),
            time: Timestamp(1),
        });
        for (version, fits) in [(0, false), (ENSEMBLE_VERSION + 1, false), (1, true)] {
            assert_eq!(raise(&mut view, version).is_ok(), fits, "{version}");
        }
        assert!(
            raise(&mut view, 1).is_err(),
            "it is about to be there already"
        );
        assert_eq!(view.finish(None), [Change::RaiseVersion { version: 1 }]);
    }
}
