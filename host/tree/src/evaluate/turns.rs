//! Turns: the mounts' due calls share evaluation (rule C5). Within a mount they keep the order of their age (C4).
//!
//! Each mount has a clock that goes forward by what its runs cost; the one whose clock is behind has the next
//! turn. A mount that comes anew begins where the clocks are, so it neither waits behind what another has piled up
//! nor makes up for the time when it wanted nothing.

use std::collections::{BTreeSet, HashMap};

use quorate_model::id::{CallId, Zxid};
use quorate_model::path::ZnodePath;

/// Of a parked call: the order in which a mount's calls wake.
pub(super) type Mark = (Zxid, CallId);

/// What a run costs beside its fuel, in fuel: an instance is made and dropped.
const RUN_COST: u64 = 10_000;

/// The calls whose turn it is or will be, by mount.
#[derive(Default)]
pub(super) struct Turns {
    /// Of every mount that has had a turn since somebody waited all the time: no more than there are mounts.
    queues: HashMap<ZnodePath, Queue>,
    /// The mounts that wait, with their clock and the oldest call of each.
    order: BTreeSet<(u64, Mark, ZnodePath)>,
    /// The clock of whoever had the last turn, when it had it.
    now: u64,
}

#[derive(Default)]
struct Queue {
    clock: u64,
    calls: BTreeSet<Mark>,
}

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn insert(&mut self, mount: ZnodePath, mark: Mark) {
        self.extend(mount, [mark]);
    }

    pub(super) fn extend(&mut self, mount: ZnodePath, marks: impl IntoIterator<Item = Mark>) {
        if self.order.is_empty() {
            // Nobody waits, so nobody is owed anything.
            self.queues.clear();
            self.now = 0;
        }
        let queue = self.queues.entry(mount.clone()).or_default();
        match queue.calls.first() {
            Some(first) => {
                self.order.remove(&(queue.clock, *first, mount.clone()));
            }
            None => queue.clock = queue.clock.max(self.now),
        }
        queue.calls.extend(marks);
        if let Some(first) = queue.calls.first() {
            self.order.insert((queue.clock, *first, mount));
        }
    }

    /// None of a mount's calls has a turn any more.
    pub(super) fn remove(&mut self, mount: &ZnodePath) {
        let removed = self.queues.remove(mount);
        if let Some(queue) = removed
            && let Some(first) = queue.calls.first()
        {
            self.order.remove(&(queue.clock, *first, mount.clone()));
        }
    }

    /// The oldest call of the mount whose turn it is.
    pub(super) fn pop(&mut self) -> Option<(ZnodePath, Mark)> {
        let (clock, mark, mount) = self.order.pop_first()?;
        self.now = clock;
        let queue = self.queues.get_mut(&mount)?;
        queue.calls.remove(&mark);
        if let Some(first) = queue.calls.first() {
            self.order.insert((clock, *first, mount.clone()));
        }
        Some((mount, mark))
    }

    /// A call of a mount has run, with so much fuel.
    pub(super) fn charge(&mut self, mount: &ZnodePath, fuel: u64) {
        let Some(queue) = self.queues.get_mut(mount) else {
            return;
        };
        let before = queue.clock;
        queue.clock = before.saturating_add(fuel).saturating_add(RUN_COST);
        if let Some(first) = queue.calls.first() {
            self.order.remove(&(before, *first, mount.clone()));
            self.order.insert((queue.clock, *first, mount.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_model::id::SessionId;

    use super::*;

    fn path(name: &str) -> ZnodePath {
        ZnodePath::parse(&format!("/{name}")).unwrap()
    }

    fn mark(age: u64) -> Mark {
        let session = SessionId(1);
        (Zxid(age), CallId { session, key: age })
    }

    /// Takes so many turns; every run costs what its mount's cost.
    fn take(turns: &mut Turns, number: usize, cost: impl Fn(&str) -> u64) -> Vec<(String, u64)> {
        let mut taken = Vec::new();
        for _ in 0..number {
            let Some((mount, (age, _))) = turns.pop() else {
                break;
            };
            turns.charge(&mount, cost(mount.name()));
            taken.push((mount.name().to_owned(), age.0));
        }
        taken
    }

    #[test]
    fn c5_mounts_share_fuel_and_not_the_number_of_runs() {
        let mut turns = Turns::default();
        for age in 0..100 {
            turns.insert(path("dear"), mark(age));
            turns.insert(path("cheap"), mark(100 + age));
        }
        let cost = |mount: &str| if mount == "dear" { 1_000_000 } else { 90_000 };
        let taken = take(&mut turns, 60, cost);
        let dear = taken.iter().filter(|(mount, _)| mount == "dear").count();
        assert!((5..=7).contains(&dear), "{dear} of 60 runs");
        let ages: Vec<u64> = taken
            .iter()
            .filter(|(mount, _)| mount == "cheap")
            .map(|(_, age)| *age)
            .collect();
        assert!(ages.is_sorted(), "C4: {ages:?}");
        assert_eq!(take(&mut turns, 1000, cost).len(), 140, "none is lost");
        assert!(turns.is_empty());
    }

    #[test]
    fn c5_who_comes_anew_is_neither_behind_nor_ahead() {
        let mut turns = Turns::default();
        turns.extend(path("first"), (0..100).map(mark));
        take(&mut turns, 50, |_| 1_000);
        turns.extend(path("second"), (100..200).map(mark));
        let taken = take(&mut turns, 10, |_| 1_000);
        let second = taken.iter().filter(|(mount, _)| mount == "second").count();
        assert_eq!(second, 5, "{taken:?}");
    }

    #[test]
    fn s6_a_mount_that_goes_takes_its_calls_along_and_leaves_the_others() {
        let mut turns = Turns::default();
        turns.extend(path("going"), (0..100).map(mark));
        turns.extend(path("other"), (100..110).map(mark));
        take(&mut turns, 7, |_| 1_000);
        turns.remove(&path("going"));
        let taken = take(&mut turns, 1000, |_| 1_000);
        assert!(taken.iter().all(|(mount, _)| mount == "other"), "{taken:?}");
        assert!(turns.is_empty());
        turns.remove(&path("going"));
    }

    #[test]
    fn c5_who_wakes_itself_again_and_again_gives_up_its_turn_all_the_same() {
        let mut turns = Turns::default();
        turns.insert(path("restless"), mark(0));
        turns.extend(path("other"), (1..10).map(mark));
        let mut others = 0;
        for _ in 0..10 {
            let (mount, mark) = turns.pop().unwrap();
            turns.charge(&mount, 0);
            match mount.name() {
                "restless" => turns.insert(mount, mark),
                _ => others += 1,
            }
        }
        assert_eq!(others, 5);
    }
}
