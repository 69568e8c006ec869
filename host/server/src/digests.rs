//! Digests: the servers compare their states, and one whose state is wrong stops.
//!
//! Every server notes its state's digest behind each entry. A follower's report to the leader carries its
//! newest one, and the leader looks up its own of the same transaction. Who is believed when they differ is
//! decided in [`judge`].

use std::collections::{BTreeSet, HashMap, VecDeque};

use parking_lot::Mutex;
use quorate_model::id::{ServerId, Zxid};
use quorate_tree::Digest;
use serde::{Deserialize, Serialize};

/// So many entries' digests are kept: some seconds of a busy ensemble. A server that is further behind is
/// compared when it has caught up.
const KEPT: usize = 4096;

/// For so long after the first difference the leader waits for the other voters' word, in milliseconds: ten
/// reports. Who has said nothing by then is not there.
const PATIENCE_MS: u64 = 1000;

/// The digest of the state behind an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// The entry's last transaction.
    pub(crate) zxid: Zxid,
    pub(crate) digest: Digest,
}

/// What this server knows of digests: its own and, while it leads, what became of the others'.
#[derive(Debug, Default)]
pub struct Digests {
    own: Mutex<VecDeque<Point>>,
    reign: Mutex<Reign>,
}

/// What the leader of one term has found.
#[derive(Debug, Default)]
struct Reign {
    term: u64,
    /// Each server's last comparison: at which transaction, and whether it agreed.
    last: HashMap<ServerId, (Zxid, bool)>,
    /// The first difference that still stands, and when it was found.
    difference: Option<(Zxid, u64)>,
}

/// Who compares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Here<'a> {
    /// The leader.
    pub(crate) server: ServerId,
    /// In which it leads.
    pub(crate) term: u64,
    /// Of the ensemble, the leader among them.
    pub(crate) voters: &'a BTreeSet<ServerId>,
    /// Its monotonic time.
    pub(crate) now_ms: u64,
}

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The leader does not know its own digest of that transaction, not yet or not any more.
    Unknown,
    /// The digests are the same.
    Agrees,
    /// They are not, and it is not clear yet whose state is wrong.
    Undecided,
    /// That server's state is wrong: it is to stop.
    Wrong,
    /// The leader's is: it stops, and nobody else.
    LeaderWrong,
}

/// Whose state counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Believed {
    NotYetClear,
    Leader,
    Others,
}

/// Who is believed when `differing` of the voters differ from the leader, and `unknown` ones have not been
/// compared since. The leader is a voter that agrees with itself. If more than half of the voters differ from
/// it, its state is wrong. Otherwise it is believed, also when it stands one against one: clients have been
/// answered from its state, and what it has evaluated is what everybody has applied.
fn judge(voters: usize, differing: usize, unknown: usize, waited: bool) -> Believed {
    if differing * 2 > voters {
        Believed::Others
    } else if (differing + unknown) * 2 > voters && !waited {
        Believed::NotYetClear
    } else {
        Believed::Leader
    }
}

impl Digests {
    /// An entry was applied.
    pub(crate) fn note(&self, point: Point) {
        let mut own = self.own.lock();
        if own.len() == KEPT {
            own.pop_front();
        }
        own.push_back(point);
    }

    /// The state was replaced by this one.
    pub(crate) fn restart(&self, point: Point) {
        let mut own = self.own.lock();
        own.clear();
        own.push_back(point);
    }

    /// Of the last entry applied; none before the first.
    pub(crate) fn newest(&self) -> Option<Point> {
        self.own.lock().back().copied()
    }

    fn at(&self, zxid: Zxid) -> Option<Digest> {
        let own = self.own.lock();
        let found = own.binary_search_by_key(&zxid, |point| point.zxid).ok()?;
        Some(own[found].digest)
    }

    /// A server's stream to the leader has ended: until it reports again, nothing is known of it.
    pub(crate) fn forget(&self, server: ServerId) {
        self.reign.lock().last.remove(&server);
    }

    /// The leader compares what `server` has reported.
    pub(crate) fn compare(&self, here: Here<'_>, server: ServerId, reported: Point) -> Finding {
        let Some(own) = self.at(reported.zxid) else {
            return Finding::Unknown;
        };
        let agrees = own == reported.digest;
        let mut reign = self.reign.lock();
        if reign.term != here.term {
            *reign = Reign {
                term: here.term,
                ..Reign::default()
            };
        }
        reign.last.insert(server, (reported.zxid, agrees));
        match (reign.believed(here, reported.zxid), agrees) {
            (Believed::Others, _) => Finding::LeaderWrong,
            (_, true) => Finding::Agrees,
            (Believed::NotYetClear, false) => Finding::Undecided,
            (Believed::Leader, false) => Finding::Wrong,
        }
    }
}

impl Reign {
    fn believed(&mut self, here: Here<'_>, zxid: Zxid) -> Believed {
        if self.last.values().all(|(_, agrees)| *agrees) {
            self.difference = None;
            return Believed::Leader;
        }
        let (since, found_ms) = *self.difference.get_or_insert((zxid, here.now_ms));
        let others = here.voters.iter().filter(|voter| **voter != here.server);
        let (mut differing, mut unknown) = (0, 0);
        for voter in others {
            match self.last.get(voter) {
                Some((_, false)) => differing += 1,
                // The leader's state may have been right then.
                Some((at, true)) if *at < since => unknown += 1,
                Some((_, true)) => {}
                None => unknown += 1,
            }
        }
        let waited = here.now_ms.saturating_sub(found_ms) >= PATIENCE_MS;
        judge(here.voters.len(), differing, unknown, waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_the_voters_is_believed_and_else_the_leader() {
        for (voters, differing, unknown, believed) in [
            (1, 0, 0, Believed::Leader),
            (2, 1, 0, Believed::Leader),
            (3, 1, 0, Believed::Leader),
            (3, 2, 0, Believed::Others),
            (3, 1, 1, Believed::NotYetClear),
            (4, 2, 0, Believed::Leader),
            (4, 3, 0, Believed::Others),
            (5, 2, 0, Believed::Leader),
            (5, 1, 1, Believed::Leader),
            (5, 1, 2, Believed::NotYetClear),
            (5, 3, 1, Believed::Others),
            // Only an observer differs.
            (3, 0, 2, Believed::NotYetClear),
            (3, 0, 1, Believed::Leader),
        ] {
            let found = judge(voters, differing, unknown, false);
            assert_eq!(found, believed, "{voters} {differing} {unknown}");
            if believed == Believed::NotYetClear {
                let waited = judge(voters, differing, unknown, true);
                assert_eq!(waited, Believed::Leader, "{voters} {differing} {unknown}");
            }
        }
    }

    struct Ensemble {
        leader: Digests,
        voters: BTreeSet<ServerId>,
        now_ms: u64,
    }

    fn point(counter: u32, digest: u64) -> Point {
        Point {
            zxid: Zxid::new(1, counter),
            digest: Digest(digest),
        }
    }

    impl Ensemble {
        /// The leader is server 1; its digest behind transaction N is N.
        fn of(voters: u64) -> Ensemble {
            let leader = Digests::default();
            (1..=10).for_each(|counter| leader.note(point(counter, u64::from(counter))));
            Ensemble {
                leader,
                voters: (1..=voters).map(ServerId).collect(),
                now_ms: 0,
            }
        }

        fn report(&self, server: u64, reported: Point) -> Finding {
            let here = Here {
                server: ServerId(1),
                term: 1,
                voters: &self.voters,
                now_ms: self.now_ms,
            };
            self.leader.compare(here, ServerId(server), reported)
        }
    }

    #[test]
    fn a_server_that_differs_is_told_so_once_the_others_have_agreed() {
        let ensemble = Ensemble::of(3);
        assert_eq!(ensemble.report(2, point(3, 3)), Finding::Agrees);
        assert_eq!(ensemble.report(3, point(4, 77)), Finding::Undecided);
        assert_eq!(ensemble.report(2, point(3, 3)), Finding::Agrees);
        assert_eq!(
            ensemble.report(3, point(5, 78)),
            Finding::Undecided,
            "server 2 has said nothing of transaction 4"
        );
        assert_eq!(ensemble.report(2, point(5, 5)), Finding::Agrees);
        assert_eq!(ensemble.report(3, point(5, 78)), Finding::Wrong);
        assert_eq!(
            ensemble.report(4, point(5, 79)),
            Finding::Wrong,
            "an observer"
        );
    }

    #[test]
    fn a_leader_from_which_most_voters_differ_stops_and_tells_nobody_else_to() {
        let ensemble = Ensemble::of(3);
        assert_eq!(ensemble.report(3, point(4, 77)), Finding::Undecided);
        assert_eq!(ensemble.report(2, point(4, 77)), Finding::LeaderWrong);
        let ensemble = Ensemble::of(5);
        for server in [2, 3] {
            assert_eq!(ensemble.report(server, point(4, 77)), Finding::Undecided);
        }
        assert_eq!(ensemble.report(5, point(4, 4)), Finding::Agrees);
        assert_eq!(ensemble.report(4, point(4, 77)), Finding::LeaderWrong);
    }

    #[test]
    fn what_a_server_said_before_its_stream_ended_does_not_count() {
        let ensemble = Ensemble::of(3);
        for server in [2, 3] {
            assert_eq!(ensemble.report(server, point(4, 4)), Finding::Agrees);
            ensemble.leader.forget(ServerId(server));
        }
        assert_eq!(ensemble.report(3, point(4, 77)), Finding::Undecided);
        assert_eq!(ensemble.report(2, point(4, 77)), Finding::LeaderWrong);
    }

    #[test]
    fn who_is_not_there_is_waited_for_and_not_for_ever() {
        let mut ensemble = Ensemble::of(3);
        assert_eq!(ensemble.report(3, point(4, 77)), Finding::Undecided);
        ensemble.now_ms = PATIENCE_MS - 1;
        assert_eq!(ensemble.report(3, point(4, 77)), Finding::Undecided);
        ensemble.now_ms = PATIENCE_MS;
        assert_eq!(ensemble.report(3, point(4, 77)), Finding::Wrong);
    }

    #[test]
    fn transactions_of_which_the_leader_has_no_digest_say_nothing() {
        let ensemble = Ensemble::of(3);
        assert_eq!(ensemble.report(3, point(11, 0)), Finding::Unknown);
        let kept = u32::try_from(KEPT).unwrap();
        (11..kept + 2).for_each(|counter| ensemble.leader.note(point(counter, 0)));
        assert_eq!(ensemble.report(3, point(1, 0)), Finding::Unknown);
        assert_eq!(ensemble.report(2, point(2, 2)), Finding::Agrees);
        ensemble.leader.restart(point(9999, 5));
        assert_eq!(ensemble.report(2, point(2, 2)), Finding::Unknown);
        assert_eq!(ensemble.leader.newest(), Some(point(9999, 5)));
    }

    #[test]
    fn another_term_begins_anew_and_a_mended_server_agrees() {
        let ensemble = Ensemble::of(2);
        assert_eq!(ensemble.report(2, point(4, 77)), Finding::Wrong);
        assert_eq!(ensemble.report(2, point(5, 5)), Finding::Agrees);
        assert_eq!(ensemble.leader.reign.lock().difference, None);
        assert_eq!(ensemble.report(2, point(4, 77)), Finding::Wrong);
        let voters = [1, 2, 3].map(ServerId).into();
        let here = Here {
            server: ServerId(1),
            term: 2,
            voters: &voters,
            now_ms: 0,
        };
        let found = ensemble.leader.compare(here, ServerId(3), point(4, 77));
        assert_eq!(found, Finding::Undecided, "server 2 counts no more");
    }
}
