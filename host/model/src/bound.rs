//! The bounds that can be set per mount, each with its name, its default and the most that the server allows.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What the end of a session would delete, in bytes of paths: the bound that a run meets over what its caller's session, or
/// another one, owns already.
pub const EPHEMERAL_BYTES: &str = "ephemeral-bytes-per-session";

/// A bound that a mount can be given a value of its own for. `docs/recipes.md` has the table of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Bound {
    /// Fuel of one run: about one unit for each WebAssembly instruction.
    Fuel,
    /// Milliseconds that one run may take by the wall.
    WallClock,
    /// Bytes of one run's linear memories.
    Memory,
    /// Calls of the interface `tree` in one run.
    TreeOperations,
    /// Bytes of paths and data that one run writes.
    WriteSet,
    /// Bytes of the result as JSON.
    Result,
    /// Lines that one run writes to the log.
    LogLines,
    /// Calls that are parked at the mount.
    ParkedCalls,
    /// About how many bytes those take.
    ParkedBytes,
    /// Runs of parked calls per second; more suspend the mount (rule C4).
    WakesPerSecond,
    /// How many parked calls may wake one another in a row; more suspend the mount (rule C4).
    ChainDepth,
    /// So many failed runs in a row (traps and exceeded bounds) suspend the mount; 0 for never.
    Failures,
}

impl Bound {
    /// All of them.
    pub const ALL: [Bound; 12] = [
        Bound::Fuel,
        Bound::WallClock,
        Bound::Memory,
        Bound::TreeOperations,
        Bound::WriteSet,
        Bound::Result,
        Bound::LogLines,
        Bound::ParkedCalls,
        Bound::ParkedBytes,
        Bound::WakesPerSecond,
        Bound::ChainDepth,
        Bound::Failures,
    ];

    /// What operators, refusals and metrics call it.
    pub const fn name(self) -> &'static str {
        match self {
            Bound::Fuel => "fuel",
            Bound::WallClock => "wall-clock",
            Bound::Memory => "memory-bytes",
            Bound::TreeOperations => "tree-operations",
            Bound::WriteSet => "write-set-bytes",
            Bound::Result => "result-bytes",
            Bound::LogLines => "log-lines",
            Bound::ParkedCalls => "parked-calls",
            Bound::ParkedBytes => "parked-bytes",
            Bound::WakesPerSecond => "wakes-per-second",
            Bound::ChainDepth => "chain-depth",
            Bound::Failures => "failures",
        }
    }

    /// The bound of that name.
    pub fn find(name: &str) -> Option<Bound> {
        Bound::ALL.into_iter().find(|bound| bound.name() == name)
    }

    /// What holds where the mount says nothing.
    pub const fn default_value(self) -> u64 {
        match self {
            Bound::Fuel => 20_000_000,
            Bound::WallClock => 1_000,
            Bound::Memory => 64 << 20,
            Bound::TreeOperations => 10_000,
            Bound::WriteSet => 1 << 20,
            Bound::Result => 1 << 20,
            Bound::LogLines => 100,
            Bound::ParkedCalls => 100_000,
            Bound::ParkedBytes => 256 << 20,
            Bound::WakesPerSecond => 100_000,
            // As many as may get their turn one after another out of one cause.
            Bound::ChainDepth => 10_000,
            Bound::Failures => 100,
        }
    }

    /// The most that a mount may have: the server's own bound.
    pub const fn maximum(self) -> u64 {
        match self {
            Bound::Fuel => 500_000_000,
            // While it runs the leader evaluates nothing else.
            Bound::WallClock => 2_000,
            Bound::Memory => 256 << 20,
            Bound::TreeOperations => 100_000,
            Bound::WriteSet => 8 << 20,
            Bound::Result => 4 << 20,
            Bound::LogLines => 1_000,
            Bound::ParkedCalls => 1_000_000,
            Bound::ParkedBytes => 1 << 30,
            Bound::WakesPerSecond => 1_000_000,
            Bound::ChainDepth => 100_000,
            Bound::Failures => 1_000_000,
        }
    }

    /// Why a mount is suspended that has gone beyond this bound, for people.
    pub fn suspension(self, why: &str) -> String {
        format!("{SUSPENSION}{}: {why}", self.name())
    }

    /// The bound that a mount was suspended for.
    pub fn that_suspended(reason: &str) -> Option<Bound> {
        let (name, _) = reason.strip_prefix(SUSPENSION)?.split_once(':')?;
        Bound::find(name)
    }

    /// The least that a mount may have.
    pub const fn minimum(self) -> u64 {
        match self {
            Bound::Failures => 0,
            _ => 1,
        }
    }
}

/// What the reason of a suspension begins with, before the bound's name.
const SUSPENSION: &str = "bound ";

/// The values that a mount has of its own. Cloning is cheap: every run is given them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MountBounds(Arc<BTreeMap<Bound, u64>>);

impl MountBounds {
    /// The mount's own value, if it has one.
    pub fn own(&self, bound: Bound) -> Option<u64> {
        self.0.get(&bound).copied()
    }

    /// What holds for the mount.
    pub fn of(&self, bound: Bound) -> u64 {
        self.own(bound).unwrap_or_else(|| bound.default_value())
    }

    /// The same, but for one bound; none for its default.
    pub fn with(&self, bound: Bound, value: Option<u64>) -> MountBounds {
        let mut bounds = BTreeMap::clone(&self.0);
        match value {
            Some(value) => bounds.insert(bound, value),
            None => bounds.remove(&bound),
        };
        MountBounds(Arc::new(bounds))
    }

    /// The mount's own values.
    pub fn iter(&self) -> impl Iterator<Item = (Bound, u64)> {
        self.0.iter().map(|(&bound, &value)| (bound, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_what_is_allowed_and_names_are_found() {
        for bound in Bound::ALL {
            let allowed = bound.minimum()..=bound.maximum();
            assert!(allowed.contains(&bound.default_value()), "{bound:?}");
            assert_eq!(Bound::find(bound.name()), Some(bound));
        }
        assert_eq!(Bound::find("no-such-bound"), None);
    }

    #[test]
    fn a_suspension_says_its_bound() {
        for bound in Bound::ALL {
            let reason = bound.suspension("as it is: too much");
            assert!(reason.ends_with(": as it is: too much"), "{reason}");
            assert_eq!(Bound::that_suspended(&reason), Some(bound));
        }
        assert_eq!(Bound::that_suspended("bound of leather: nice"), None);
    }

    #[test]
    fn a_value_is_set_and_reset() {
        let bounds = MountBounds::default();
        assert_eq!(bounds.of(Bound::LogLines), 100);
        let few = bounds.with(Bound::LogLines, Some(3));
        assert_eq!(
            (few.of(Bound::LogLines), few.of(Bound::Fuel)),
            (3, 20_000_000)
        );
        assert_eq!(few.with(Bound::LogLines, None), bounds);
    }
}
