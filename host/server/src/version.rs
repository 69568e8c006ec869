//! Version: the leader raises the ensemble's version once every member reads more (rule S7).
//!
//! Every report of a follower says which version its build reads. A member that is away holds the raise up:
//! nobody knows which build it comes back with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_consensus::{Consensus, Health};
use quorate_model::id::ServerId;
use quorate_model::request::Operation;
use quorate_model::write_set::ENSEMBLE_VERSION;
use quorate_tree::SharedState;
use tokio::sync::{Notify, watch};

use crate::apply::Opened;
use crate::clock::Clock;
use crate::evaluate::{NobodyWaits, administration};
use crate::route::Router;

/// A member that has not reported for so long, in milliseconds, is away: some tens of reports.
const RECENT_MS: u64 = 3000;

/// Between two looks at whether there is something to raise.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a member has said of its build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Report {
    /// The newest version that it reads.
    reads: u32,
    /// When it said so, in milliseconds of this server's monotonic time.
    at_ms: u64,
}

/// What the other servers read, as far as they have said so here.
#[derive(Debug, Default)]
pub struct Versions {
    /// Of every server that has ever reported to this one: as many as the ensemble has had members.
    reports: Mutex<BTreeMap<ServerId, Report>>,
    /// A server says something new.
    news: Notify,
}

impl Versions {
    /// A server has reported.
    pub(crate) fn heard(&self, server: ServerId, reads: u32, at_ms: u64) {
        let before = self.reports.lock().insert(server, Report { reads, at_ms });
        let known = |report: Report| report.reads == reads && report.is_recent(at_ms);
        if !before.is_some_and(known) {
            self.news.notify_one();
        }
    }

    /// What `leader`, which reads `own`, is to raise the version `now` to; none if a member is away or reads no more.
    fn raise_to(
        &self,
        leader: (ServerId, u32),
        members: &BTreeSet<ServerId>,
        now: u32,
        now_ms: u64,
    ) -> Option<u32> {
        let (here, own) = leader;
        let reports = self.reports.lock();
        let others = members.iter().filter(|member| **member != here);
        let mut least = own;
        for member in others {
            let report = reports.get(member).filter(|one| one.is_recent(now_ms))?;
            least = least.min(report.reads);
        }
        (least > now).then_some(least)
    }
}

impl Report {
    fn is_recent(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.at_ms) < RECENT_MS
    }
}

/// The task that looks, and asks for the raise.
pub(crate) struct Raiser {
    pub(crate) versions: Arc<Versions>,
    pub(crate) consensus: Consensus,
    pub(crate) router: Router,
    pub(crate) state: SharedState,
    pub(crate) clock: Arc<Clock>,
    pub(crate) opened: watch::Receiver<Opened>,
    /// Of this start of the server: it leads in the epoch that was opened with it.
    pub(crate) nonce: u64,
    /// The last request: in which epoch, for which version. It is lost with its epoch only.
    pub(crate) asked: Option<(u32, u32)>,
}

impl Raiser {
    /// Looks whenever this server opens an epoch, a server says something new, and once per second, until
    /// consensus has stopped.
    pub(crate) async fn run(mut self) {
        let mut health = self.consensus.health();
        loop {
            self.look();
            tokio::select! {
                Ok(()) = self.opened.changed() => {}
                () = self.versions.news.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = health.wait_for(|health| *health == Health::Stopped) => return,
            }
        }
    }

    fn look(&mut self) {
        let opened = *self.opened.borrow_and_update();
        let leads = opened.nonce == self.nonce && self.consensus.leadership().borrow().leading;
        let now = self.state.read().version();
        if !leads || now >= ENSEMBLE_VERSION {
            return;
        }
        let members = self.consensus.members().borrow().clone();
        // Which builds those have that are being added is seen when the change is done.
        if members.changing || members.index.is_none() {
            return;
        }
        let members = &members.voters | &members.learners;
        let leader = (self.consensus.server(), ENSEMBLE_VERSION);
        let now_ms = self.clock.monotonic_ms();
        let raised = self.versions.raise_to(leader, &members, now, now_ms);
        let Some(version) = raised.filter(|version| self.asked != Some((opened.epoch, *version)))
        else {
            return;
        };
        tracing::info!(
            version,
            "every member reads this version: the ensemble's is raised to it"
        );
        let request = administration(Operation::RaiseVersion { version });
        match self.router.submit(request, Box::new(NobodyWaits)) {
            Ok(()) => self.asked = Some((opened.epoch, version)),
            Err(_) => tracing::warn!("the raise has to wait: too much is in flight"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 10_000;

    /// Server 1 leads a build that reads `own`; the others have reported what they read, so long ago.
    fn raise(members: &[u64], own: u32, reports: &[(u64, u32, u64)], now: u32) -> Option<u32> {
        let versions = Versions::default();
        for (server, reads, age_ms) in reports {
            versions.heard(ServerId(*server), *reads, NOW_MS - age_ms);
        }
        let members = members.iter().copied().map(ServerId).collect();
        versions.raise_to((ServerId(1), own), &members, now, NOW_MS)
    }

    #[test]
    fn s7_a_server_that_is_alone_raises_at_once() {
        assert_eq!(raise(&[1], 1, &[], 0), Some(1));
        assert_eq!(raise(&[1], 1, &[], 1), None);
    }

    #[test]
    fn s7_the_version_is_raised_to_what_every_member_reads() {
        let all = [(2, 3, 0), (3, 2, 100)];
        assert_eq!(raise(&[1, 2, 3], 4, &all, 1), Some(2));
        assert_eq!(raise(&[1, 2, 3], 4, &all, 2), None, "it is there");
        assert_eq!(raise(&[1, 2, 3], 4, &all, 3), None, "never lowered");
        assert_eq!(raise(&[1, 2], 4, &all, 1), Some(3), "3 is no member");
        assert_eq!(raise(&[1, 2], 1, &all, 1), None, "the leader reads less");
    }

    #[test]
    fn s7_a_member_that_is_away_holds_the_raise_up() {
        assert_eq!(raise(&[1, 2, 3], 2, &[(2, 2, 0)], 1), None);
        let long_ago = [(2, 2, 0), (3, 2, RECENT_MS)];
        assert_eq!(raise(&[1, 2, 3], 2, &long_ago, 1), None);
        let lately = [(2, 2, 0), (3, 2, RECENT_MS - 1)];
        assert_eq!(raise(&[1, 2, 3], 2, &lately, 1), Some(2));
    }

    #[test]
    fn s7_the_last_report_of_a_server_counts() {
        let downgraded = [(2, 2, 50), (2, 1, 0)];
        assert_eq!(raise(&[1, 2], 2, &downgraded, 1), None);
        let upgraded = [(2, 1, 50), (2, 2, 0)];
        assert_eq!(raise(&[1, 2], 2, &upgraded, 1), Some(2));
    }
}
