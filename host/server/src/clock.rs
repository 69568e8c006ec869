//! The one place that reads clocks. Everywhere else time is an argument.
//!
//! The ensemble has one time (rule E3), which its leader makes: it goes forward with the leader's monotonic
//! clock, and is drawn slowly towards the median of the voters' clocks. The other servers' clocks are set
//! by it, so that whoever leads next goes on with it.
#![allow(
    clippy::disallowed_methods,
    reason = "this file is the exception that the rule names"
)]

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use quorate_model::id::{ServerId, Timestamp};
use tokio::sync::Notify;

/// How far one correction moves the clock, in milliseconds: with a correction every [`CORRECT_EVERY`]
/// clocks that jump are followed at one percent, so that leases neither all end nor freeze (rule E3).
const MAX_CORRECTION_MS: i64 = 10;

/// Between two corrections.
pub const CORRECT_EVERY: Duration = Duration::from_secs(1);

/// For so long another server's word about its clock counts, in milliseconds: some tens of reports.
const FRESH_MS: u64 = 3000;

/// A machine's clocks: the system's, or those of a simulated machine.
pub trait Hands: Debug + Send + Sync {
    /// Since some moment; never goes back.
    fn monotonic(&self) -> Duration;

    /// Milliseconds since 1970, as the machine believes; may jump.
    fn wall_ms(&self) -> i64;
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemHands(Instant);

impl SystemHands {
    /// Counts from now.
    pub fn start() -> Arc<SystemHands> {
        Arc::new(SystemHands(Instant::now()))
    }
}

impl Hands for SystemHands {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        since.as_millis() as i64
    }
}

/// The ensemble's time, as this server has it.
#[derive(Debug)]
pub struct Clock {
    hands: Arc<dyn Hands>,
    started: Duration,
    started_at_ms: i64,
    correction_ms: AtomicI64,
    /// Whether this has been the ensemble's time since the start.
    known: AtomicBool,
    reported: Mutex<HashMap<ServerId, Reported>>,
    /// Rung by every report.
    arrived: Notify,
}

/// What another server has said of its machine's clock.
#[derive(Clone, Copy, Debug)]
struct Reported {
    /// How far that clock was ahead of our monotonic time.
    offset_ms: i64,
    /// When, in our monotonic time.
    at_ms: u64,
}

impl Clock {
    /// Begins with the machine's time.
    pub fn start(hands: Arc<dyn Hands>) -> Clock {
        Clock {
            started: hands.monotonic(),
            started_at_ms: hands.wall_ms(),
            correction_ms: AtomicI64::new(0),
            known: AtomicBool::new(false),
            reported: Mutex::default(),
            arrived: Notify::new(),
            hands,
        }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        let correction = self.correction_ms.load(Ordering::Relaxed);
        let at = self.uncorrected_ms().saturating_add(correction);
        Timestamp(at.max(0) as u64)
    }

    fn uncorrected_ms(&self) -> i64 {
        self.started_at_ms + self.monotonic_ms() as i64
    }

    /// Sees to it that now is not before `time`: of a leader whose clock is behind the last transaction's,
    /// time goes on from there, and comes back slowly (rule E3).
    pub fn not_before(&self, time: Timestamp) {
        let behind = time.0.saturating_sub(self.now().0);
        self.correction_ms
            .fetch_add(behind as i64, Ordering::Relaxed);
    }

    /// The time since the start, whatever the system's time does.
    pub fn monotonic(&self) -> Duration {
        self.hands.monotonic().saturating_sub(self.started)
    }

    /// The same in milliseconds.
    pub fn monotonic_ms(&self) -> u64 {
        self.monotonic().as_millis() as u64
    }

    /// What the machine's clock says, in milliseconds since 1970: what a server reports to its leader.
    pub fn machine_ms(&self) -> i64 {
        self.hands.wall_ms()
    }

    /// `server` has just said what its machine's clock says.
    pub fn heard(&self, server: ServerId, machine_ms: i64) {
        let at_ms = self.monotonic_ms();
        let offset_ms = machine_ms.saturating_sub(at_ms as i64);
        let reported = Reported { offset_ms, at_ms };
        self.reported.lock().insert(server, reported);
        self.arrived.notify_waiters();
    }

    /// The leader has just said what time it is. Only for a server that does not lead: nobody reads its time.
    pub fn follow(&self, now: Timestamp) {
        // A peer may say anything.
        let now = i64::try_from(now.0).unwrap_or(i64::MAX);
        let correction = now.saturating_sub(self.uncorrected_ms());
        self.correction_ms.store(correction, Ordering::Relaxed);
        self.known.store(true, Ordering::Relaxed);
    }

    /// Whether this has been the ensemble's time since the start: a leader then goes on with it.
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Returns when every one of `voters` has said what its clock says; `here` is this server.
    pub async fn all_heard(&self, here: ServerId, voters: &BTreeSet<ServerId>) {
        loop {
            let arrived = self.arrived.notified();
            if self.machines_ms(here, voters).len() == voters.len() {
                return;
            }
            arrived.await;
        }
    }

    /// The first leader's time is the median of what is known of the voters' clocks, at once.
    pub fn begin(&self, here: ServerId, voters: &BTreeSet<ServerId>) {
        if let Some(median) = self.median_ms(here, voters) {
            let correction = median.saturating_sub(self.uncorrected_ms());
            self.correction_ms.store(correction, Ordering::Relaxed);
        }
        self.known.store(true, Ordering::Relaxed);
    }

    /// A leader's time moves a little towards the median of its voters' clocks, if it knows a quorum's. Call it
    /// every [`CORRECT_EVERY`].
    pub fn correct(&self, here: ServerId, voters: &BTreeSet<ServerId>) {
        if let Some(median) = self.median_ms(here, voters) {
            let ahead = (self.now().0 as i64).saturating_sub(median);
            let step = ahead.clamp(-MAX_CORRECTION_MS, MAX_CORRECTION_MS);
            self.correction_ms.fetch_sub(step, Ordering::Relaxed);
        }
    }

    /// None if less than a quorum's clocks are known.
    fn median_ms(&self, here: ServerId, voters: &BTreeSet<ServerId>) -> Option<i64> {
        let machines = self.machines_ms(here, voters);
        let quorum = voters.len() / 2 + 1;
        (machines.len() >= quorum).then(|| median(machines, self.now().0 as i64))
    }

    /// What the clocks of the voters say now, as far as they have said so lately.
    fn machines_ms(&self, here: ServerId, voters: &BTreeSet<ServerId>) -> Vec<i64> {
        let now_ms = self.monotonic_ms();
        let reported = self.reported.lock();
        let machine = |voter: &ServerId| {
            if *voter == here {
                return Some(self.hands.wall_ms());
            }
            let reported = reported.get(voter)?;
            let fresh = now_ms.saturating_sub(reported.at_ms) < FRESH_MS;
            fresh.then(|| reported.offset_ms.saturating_add(now_ms as i64))
        };
        voters.iter().filter_map(machine).collect()
    }
}

/// The one in the middle; of two, the one nearer to `now`: which of them is right cannot be known, and time had
/// better not move then. There is at least one.
fn median(mut machines: Vec<i64>, now: i64) -> i64 {
    machines.sort_unstable();
    let (low, high) = (
        machines[(machines.len() - 1) / 2],
        machines[machines.len() / 2],
    );
    if now.abs_diff(high) < now.abs_diff(low) {
        high
    } else {
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const TRUE_MS: i64 = 1_800_000_000_000;

    /// A machine whose clocks are moved by hand.
    #[derive(Debug)]
    struct TestHands {
        monotonic_ms: AtomicI64,
        wall_ms: AtomicI64,
    }

    impl Hands for TestHands {
        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.monotonic_ms.load(Ordering::Relaxed) as u64)
        }
        fn wall_ms(&self) -> i64 {
            self.wall_ms.load(Ordering::Relaxed)
        }
    }

    /// Three voters. Server 1 leads; the others report to it and follow its time.
    struct Ensemble {
        voters: BTreeSet<ServerId>,
        machines: Vec<Arc<TestHands>>,
        clocks: Vec<Clock>,
    }

    const LEADER: ServerId = ServerId(1);

    impl Ensemble {
        /// Whose machines' clocks are wrong by so much.
        fn of(wrong_ms: &[i64]) -> Ensemble {
            let machine = |wrong_ms: &i64| {
                Arc::new(TestHands {
                    monotonic_ms: AtomicI64::new(wrong_ms.rem_euclid(1000)),
                    wall_ms: AtomicI64::new(TRUE_MS + wrong_ms),
                })
            };
            let machines: Vec<_> = wrong_ms.iter().map(machine).collect();
            Ensemble {
                voters: (1..=wrong_ms.len() as u64).map(ServerId).collect(),
                clocks: machines
                    .iter()
                    .map(|machine| Clock::start(machine.clone()))
                    .collect(),
                machines,
            }
        }

        fn pass(&self, ms: i64) {
            for machine in &self.machines {
                machine.monotonic_ms.fetch_add(ms, Ordering::Relaxed);
                machine.wall_ms.fetch_add(ms, Ordering::Relaxed);
            }
        }

        fn jump(&self, server: usize, ms: i64) {
            self.machines[server - 1]
                .wall_ms
                .fetch_add(ms, Ordering::Relaxed);
        }

        fn report(&self, server: usize) {
            let machine_ms = self.clocks[server - 1].machine_ms();
            self.clocks[0].heard(ServerId(server as u64), machine_ms);
        }

        /// The first leader of a new ensemble.
        fn begin(self) -> Ensemble {
            (2..=self.clocks.len()).for_each(|server| self.report(server));
            self.clocks[0].begin(LEADER, &self.voters);
            self
        }

        /// Of each second: the reports of these servers, and a correction.
        fn seconds(&self, count: i64, reporting: &[usize]) {
            for _ in 0..count {
                self.pass(1000);
                reporting.iter().for_each(|server| self.report(*server));
                self.clocks[0].correct(LEADER, &self.voters);
            }
        }

        /// The leader's time since the beginning.
        fn now_ms(&self) -> i64 {
            self.clocks[0].now().0 as i64 - TRUE_MS
        }
    }

    #[test]
    fn e3_the_median_is_one_of_the_clocks_and_the_nearer_of_two() {
        assert_eq!(median(vec![7], 0), 7);
        assert_eq!(median(vec![HOUR_MS, 3, -HOUR_MS], 0), 3);
        assert_eq!(median(vec![HOUR_MS, 3], 0), 3);
        assert_eq!(median(vec![-HOUR_MS, 3], 0), 3);
        assert_eq!(median(vec![9, HOUR_MS, 3, 1], 8), 9);
        assert_eq!(median(vec![9, HOUR_MS, 3, 1], 4), 3);
    }

    #[test]
    fn e3_one_voters_wrong_clock_moves_nothing() {
        for wrong_ms in [HOUR_MS, -HOUR_MS] {
            let ensemble = Ensemble::of(&[0, wrong_ms, 2]).begin();
            assert!((0..=2).contains(&ensemble.now_ms()));
            ensemble.seconds(1000, &[2, 3]);
            assert!((0..=2).contains(&(ensemble.now_ms() - 1_000_000)));
            // The other one is away: one clock stands against one.
            ensemble.seconds(1000, &[2]);
            assert!((0..=2).contains(&(ensemble.now_ms() - 2_000_000)));
        }
    }

    #[test]
    fn e3_a_leaders_own_wrong_clock_is_not_the_ensembles_time() {
        for wrong_ms in [HOUR_MS, -HOUR_MS] {
            let ensemble = Ensemble::of(&[wrong_ms, 0, 2]).begin();
            assert!((0..=2).contains(&ensemble.now_ms()), "at once");
            ensemble.seconds(100, &[2, 3]);
            assert!((0..=2).contains(&(ensemble.now_ms() - 100_000)));
        }
    }

    #[test]
    fn e3_a_clock_that_jumps_neither_fires_nor_freezes_anything() {
        for jump_ms in [HOUR_MS, -HOUR_MS] {
            for jumping in 1..=3 {
                let ensemble = Ensemble::of(&[0, 0, 0]).begin();
                ensemble.seconds(10, &[2, 3]);
                ensemble.jump(jumping, jump_ms);
                ensemble.seconds(100, &[2, 3]);
                assert_eq!(ensemble.now_ms(), 110_000, "server {jumping}");
            }
        }
    }

    #[test]
    fn e3_when_most_clocks_jump_they_are_followed_slowly() {
        for (jump_ms, moved_ms) in [(HOUR_MS, 1000), (-HOUR_MS, -1000), (250, 250)] {
            let ensemble = Ensemble::of(&[0, 0, 0]).begin();
            ensemble.jump(1, jump_ms);
            ensemble.jump(2, jump_ms);
            ensemble.seconds(100, &[2, 3]);
            assert_eq!(ensemble.now_ms(), 100_000 + moved_ms);
        }
    }

    #[test]
    fn e3_without_a_quorums_clocks_time_goes_on_by_itself() {
        let ensemble = Ensemble::of(&[0, 0, 0]).begin();
        ensemble.jump(1, HOUR_MS);
        ensemble.pass(FRESH_MS as i64);
        let before = ensemble.now_ms();
        ensemble.seconds(100, &[]);
        assert_eq!(
            ensemble.now_ms(),
            before + 100_000,
            "old reports do not count"
        );
        // A report of one that does not vote does not help.
        ensemble.clocks[0].heard(ServerId(9), TRUE_MS + HOUR_MS);
        ensemble.clocks[0].correct(LEADER, &ensemble.voters);
        assert_eq!(ensemble.now_ms(), before + 100_000);
    }

    #[test]
    fn e3_the_next_leader_goes_on_with_the_ensembles_time() {
        let ensemble = Ensemble::of(&[0, HOUR_MS, 0]).begin();
        let next = &ensemble.clocks[1];
        assert!(!next.is_known());
        next.follow(ensemble.clocks[0].now());
        assert!(next.is_known(), "it does not wait for the others");
        ensemble.pass(5000);
        assert_eq!(next.now(), ensemble.clocks[0].now());
        // It knows nobody else's clock at first.
        next.correct(ServerId(2), &ensemble.voters);
        assert_eq!(next.now(), ensemble.clocks[0].now());
    }

    #[test]
    fn e3_a_server_that_is_alone_follows_its_machine_slowly() {
        let ensemble = Ensemble::of(&[0]).begin();
        ensemble.jump(1, 60_000);
        ensemble.seconds(1, &[]);
        assert_eq!(ensemble.now_ms(), 1000 + MAX_CORRECTION_MS);
        ensemble.jump(1, -120_000);
        ensemble.seconds(1, &[]);
        assert_eq!(ensemble.now_ms(), 2000);
    }

    #[test]
    fn e3_time_goes_on_from_the_last_transaction_and_does_not_stand_still() {
        let ensemble = Ensemble::of(&[0, 0, 0]).begin();
        let clock = &ensemble.clocks[0];
        let later = clock.now().plus(HOUR_MS as u64);
        clock.not_before(later);
        assert!(clock.now() >= later);
        ensemble.seconds(1, &[2, 3]);
        let slowed = later.plus(1000 - MAX_CORRECTION_MS as u64);
        assert_eq!(clock.now(), slowed, "and comes back slowly");
    }

    #[tokio::test]
    async fn e3_the_first_leader_waits_for_every_voters_clock() {
        let ensemble = Ensemble::of(&[HOUR_MS, 0, 0]);
        let clock = &ensemble.clocks[0];
        let report = async {
            for server in [2, 3] {
                tokio::task::yield_now().await;
                ensemble.report(server);
            }
        };
        tokio::join!(clock.all_heard(LEADER, &ensemble.voters), report);
        assert!(!clock.is_known());
        clock.begin(LEADER, &ensemble.voters);
        assert!(clock.is_known());
        assert_eq!(ensemble.now_ms(), 0);
    }
}
