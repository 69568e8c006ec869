//! Session expiry: the leader ends the sessions of clients that it has not heard of.
//!
//! It counts a time of its own, which goes forward by capped steps, so that a process that was
//! stopped for a while does not end everybody's session when it goes on (rule E3).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use quorate_model::id::{Owner, SessionId};
use quorate_tree::State;

/// Between two ticks, in milliseconds, when a session is soon to be looked at, and when none is. A tick
/// moves the time on and looks at the sessions that are due.
const TICK_MS: (u64, u64) = (100, 400);

/// The most that one tick counts, in milliseconds.
const MAX_TICK_MS: u64 = 500;

/// Instead of when a session's client was last heard of: its end is asked for, and no touch puts that off any more.
const ENDING: u64 = u64::MAX;

/// The same at a server that does not lead, of a session that is new: its first touch is reported at once.
const UNTOUCHED: u64 = u64::MAX - 1;

/// When each session's client was last heard of, in the expiry's own milliseconds.
#[derive(Debug, Default)]
pub struct Touches {
    now_ms: AtomicU64,
    /// When the next tick is due. A sign of life counts from there on, so that none counts too little.
    next_ms: AtomicU64,
    last: RwLock<HashMap<SessionId, AtomicU64>>,
    /// Whether this server leads, and counts.
    leading: AtomicBool,
    /// While it leads: sessions that it has not begun to look at, with their timeouts in milliseconds.
    opened: Mutex<Vec<(SessionId, u32)>>,
    /// While another server leads: sessions whose clients were heard of since the last report that it has counted.
    touched: Mutex<Touched>,
}

#[derive(Debug, Default)]
struct Touched {
    /// At most those that are there.
    sessions: HashSet<SessionId>,
    /// How many reports were made: the next one has the number behind it.
    reports: u64,
}

/// Touches on their way to the leader. Those that it does not count are reported again.
pub(crate) struct Reported<'a> {
    touches: &'a Touches,
    number: u64,
    sessions: HashSet<SessionId>,
}

impl Reported<'_> {
    /// Of this server's reports, which.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whose.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        self.sessions.iter().copied().collect()
    }

    /// The leader has counted them, but for some; gives those that it has.
    pub(crate) fn counted(mut self, but: &[SessionId]) -> Vec<SessionId> {
        let again = but.iter().filter(|session| self.sessions.contains(session));
        let again: HashSet<_> = again.copied().collect();
        let sessions = std::mem::replace(&mut self.sessions, again);
        let counted = sessions.difference(&self.sessions);
        counted.copied().collect()
    }
}

impl Drop for Reported<'_> {
    fn drop(&mut self) {
        let last = self.touches.last.read();
        let there = self.sessions.drain().filter(|id| last.contains_key(id));
        self.touches.touched.lock().sessions.extend(there);
    }
}

impl Touches {
    /// A sign of life. Says whether it counts already, as this server leads: then the session does not end before
    /// its timeout has passed from now on. Unknown sessions are ignored.
    pub fn touch(&self, session: SessionId) -> bool {
        let sessions = self.last.read();
        let Some(last) = sessions.get(&session) else {
            return false;
        };
        let (next, leading) = (self.next_ms(), self.leading.load(Ordering::Relaxed));
        let touched = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
            (last != ENDING || !leading).then_some(next)
        });
        if !leading && touched != Ok(next) {
            self.touched.lock().sessions.insert(session);
        }
        leading && touched.is_ok()
    }

    /// A sign of life, of which the report of that number is the first to tell, if one is made before a leader counts
    /// it here. None if the session is unknown.
    pub(crate) fn touch_and_report(&self, session: SessionId) -> Option<u64> {
        self.touch(session);
        let sessions = self.last.read();
        sessions.contains_key(&session).then(|| {
            let mut touched = self.touched.lock();
            touched.sessions.insert(session);
            touched.reports + 1
        })
    }

    /// Whether this server leads, and no end of that session is asked for: it has its full timeout from its last touch,
    /// or from where the lead began.
    pub(crate) fn counts(&self, session: SessionId) -> bool {
        self.leading.load(Ordering::Relaxed) && self.last(session).is_some_and(|at| at != ENDING)
    }

    /// Another server's word of a sign of life. Says whether it counts: only here, and only if this server leads.
    pub(crate) fn count(&self, session: SessionId) -> bool {
        self.leading.load(Ordering::Relaxed) && self.touch(session)
    }

    /// The sessions touched since the last call, and `others`, for a report to the leader.
    pub(crate) fn report(&self, others: impl IntoIterator<Item = SessionId>) -> Reported<'_> {
        self.next_ms.fetch_add(1, Ordering::Relaxed);
        let (mut sessions, number) = {
            let mut touched = self.touched.lock();
            touched.reports += 1;
            (std::mem::take(&mut touched.sessions), touched.reports)
        };
        sessions.extend(others);
        Reported {
            touches: self,
            number,
            sessions,
        }
    }

    /// The session does not end after all.
    pub(crate) fn spare(&self, session: SessionId) {
        if let Some(last) = self.last.read().get(&session) {
            last.store(self.next_ms(), Ordering::Relaxed);
        }
    }

    /// Its end is asked for, unless it was touched after `last`.
    fn end(&self, session: SessionId, last: u64) -> bool {
        let sessions = self.last.read();
        let relaxed = Ordering::Relaxed;
        let end = |of: &AtomicU64| of.compare_exchange(last, ENDING, relaxed, relaxed);
        sessions
            .get(&session)
            .map(end)
            .is_some_and(|end| end.is_ok())
    }

    /// A session is there from now on, or has another timeout.
    pub(crate) fn open(&self, session: SessionId, timeout_ms: u32) {
        let leading = self.leading.load(Ordering::Relaxed);
        let last = if leading { self.next_ms() } else { UNTOUCHED };
        self.last.write().insert(session, AtomicU64::new(last));
        if leading {
            self.opened.lock().push((session, timeout_ms));
        }
    }

    /// The sessions opened since the last call.
    pub(crate) fn take_opened(&self) -> Vec<(SessionId, u32)> {
        std::mem::take(&mut self.opened.lock())
    }

    /// A session has ended.
    pub(crate) fn remove(&self, session: SessionId) {
        self.last.write().remove(&session);
    }

    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    fn next_ms(&self) -> u64 {
        self.next_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn last(&self, session: SessionId) -> Option<u64> {
        self.last
            .read()
            .get(&session)
            .map(|last| last.load(Ordering::Relaxed))
    }
}

/// Which session is looked at when. Each is looked at about once per timeout, however many there are.
#[derive(Debug, Default)]
pub struct Expiry {
    looks: BTreeMap<u64, Vec<SessionId>>,
    /// When each session is looked at next: a look at another time is an old one.
    next: HashMap<SessionId, u64>,
    last_tick_ms: Option<u64>,
}

impl Expiry {
    /// A leader begins: every session has its full timeout from now.
    pub fn begin(&mut self, touches: &Touches, state: &State) {
        self.looks.clear();
        self.next.clear();
        touches.leading.store(true, Ordering::Relaxed);
        touches.take_opened();
        touches.touched.lock().sessions.clear();
        let now = touches.now_ms();
        touches.next_ms.store(now, Ordering::Relaxed);
        *touches.last.write() = state
            .sessions()
            .map(|(session, _)| (session, AtomicU64::new(now)))
            .collect();
        for (session, value) in state.sessions() {
            self.look_at(now + u64::from(value.timeout_ms), session);
        }
    }

    /// It does not lead any more.
    pub fn end(touches: &Touches) {
        touches.leading.store(false, Ordering::Relaxed);
        touches.take_opened();
    }

    /// A session was opened, or has another timeout.
    pub fn opened(&mut self, touches: &Touches, session: SessionId, timeout_ms: u32) {
        self.look_at(touches.next_ms() + u64::from(timeout_ms), session);
    }

    /// Moves the time on to `monotonic_ms`, and gives the sessions whose clients were silent for too long, with
    /// their owners. No touch of these counts any more.
    pub fn tick(
        &mut self,
        touches: &Touches,
        monotonic_ms: u64,
        state: &State,
    ) -> Vec<(SessionId, Option<Owner>)> {
        let before = self
            .last_tick_ms
            .replace(monotonic_ms)
            .unwrap_or(monotonic_ms);
        // A tick that comes late counts no further than it was announced: touches since the last one count from
        // there on (rule W4: their sessions' servers rely on it).
        let announced = touches.next_ms().saturating_sub(touches.now_ms());
        let step = monotonic_ms.saturating_sub(before);
        let step = step.min(announced).min(MAX_TICK_MS);
        let now = touches.now_ms.fetch_add(step, Ordering::Relaxed) + step;
        let later = self.looks.split_off(&(now + 1));
        let due = std::mem::replace(&mut self.looks, later);
        let mut silent = Vec::new();
        let due = due
            .into_iter()
            .flat_map(|(at, sessions)| sessions.into_iter().map(move |session| (at, session)));
        for (at, session) in due {
            if self.next.get(&session) != Some(&at) {
                continue;
            }
            self.next.remove(&session);
            let (Some(value), Some(last)) = (state.session(session), touches.last(session)) else {
                continue;
            };
            let end = last.saturating_add(u64::from(value.timeout_ms));
            if end > now && last != ENDING {
                self.look_at(end, session);
                continue;
            }
            if touches.end(session, last) {
                silent.push((session, value.owner));
            }
            // Touched this moment, or its end is asked for: should that come to nothing, it is asked for again.
            self.look_at(now + u64::from(value.timeout_ms), session);
        }
        let next = match self.looks.first_key_value() {
            Some((look, _)) => (look.saturating_sub(now) / 2).clamp(TICK_MS.0, TICK_MS.1),
            None => {
                // Time stands still until there is a session again.
                self.last_tick_ms = None;
                0
            }
        };
        touches.next_ms.store(now + next, Ordering::Relaxed);
        silent
    }

    /// How long until the next tick, in milliseconds; none while there is no session.
    pub fn next_tick_ms(&self, touches: &Touches) -> Option<u64> {
        self.last_tick_ms
            .map(|_| touches.next_ms() - touches.now_ms())
    }

    fn look_at(&mut self, at_ms: u64, session: SessionId) {
        self.looks.entry(at_ms).or_default().push(session);
        self.next.insert(session, at_ms);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use quorate_model::id::{Incarnation, ServerId, Timestamp};
    use quorate_model::request::Password;
    use quorate_model::write_set::{Batch, Change, Entry, EpochStart, Transaction};

    use super::*;

    /// A state with one session of 1,000 ms.
    pub(crate) fn state() -> (State, SessionId) {
        let mut state = State::new();
        let start = EpochStart {
            epoch: 1,
            leader: ServerId(1),
            incarnation: Incarnation(1),
            nonce: 1,
            time: Timestamp(1),
            suspect: None,
        };
        state
            .apply(&Entry::EpochStart(start), |_, _, _| {})
            .unwrap();
        let open = Change::OpenSession {
            password: Password([0; 16]),
            timeout_ms: 1000,
            owner: None,
        };
        let transaction = Transaction {
            time: Timestamp(1),
            origin: None,
            session: SessionId::NONE,
            changes: vec![open],
            outcome: None,
        };
        let batch = Batch {
            epoch: 1,
            first_counter: 1,
            transactions: vec![transaction],
        };
        state
            .apply(&Entry::Transactions(batch), |_, _, _| {})
            .unwrap();
        let session = SessionId(state.last_zxid().0);
        (state, session)
    }

    fn ticks(expiry: &mut Expiry, touches: &Touches, state: &State, to: u64) -> Vec<SessionId> {
        let from = expiry.last_tick_ms.unwrap_or(0);
        (from..=to)
            .step_by(100)
            .flat_map(|at| expiry.tick(touches, at, state))
            .map(|(session, _)| session)
            .collect()
    }

    #[test]
    fn a_silent_session_ends_and_a_touched_one_does_not() {
        let (state, session) = state();
        let (touches, mut expiry) = (Touches::default(), Expiry::default());
        expiry.begin(&touches, &state);
        assert_eq!(ticks(&mut expiry, &touches, &state, 900), []);
        touches.touch(session);
        // It was heard of between two ticks, so it counts from the later one.
        assert_eq!(ticks(&mut expiry, &touches, &state, 1900), []);
        assert_eq!(ticks(&mut expiry, &touches, &state, 2000), [session]);
    }

    #[test]
    fn time_stands_still_while_there_is_no_session() {
        let (state, session) = state();
        let (touches, mut expiry) = (Touches::default(), Expiry::default());
        expiry.begin(&touches, &State::new());
        assert_eq!(expiry.tick(&touches, 0, &State::new()), []);
        assert_eq!(expiry.next_tick_ms(&touches), None);
        touches.open(session, 1000);
        expiry.opened(&touches, session, 1000);
        assert_eq!(expiry.tick(&touches, 60_000, &state), []);
        assert_eq!(
            expiry.next_tick_ms(&touches),
            Some(400),
            "the minute before does not count"
        );
    }

    #[test]
    fn a_shorter_timeout_holds_at_once_and_a_session_is_looked_at_once() {
        let (state, session) = state();
        let (touches, mut expiry) = (Touches::default(), Expiry::default());
        expiry.begin(&touches, &state);
        for _ in 0..3 {
            expiry.opened(&touches, session, 500);
        }
        assert_eq!(
            ticks(&mut expiry, &touches, &state, 900),
            [],
            "its timeout is 1,000 ms"
        );
        let looks: usize = expiry.looks.values().map(Vec::len).sum();
        assert_eq!(
            looks,
            1 + 1,
            "the next look, and the one that the first timeout asked for"
        );
    }

    /// What a follower reports, of which the leader counts all.
    fn reported(touches: &Touches) -> Vec<SessionId> {
        touches.report([]).counted(&[])
    }

    #[test]
    fn w5_a_follower_reports_each_touched_session_once() {
        let (_, session) = state();
        let touches = Touches::default();
        touches.open(session, 1000);
        reported(&touches);
        touches.touch(session);
        touches.touch(session);
        touches.touch(SessionId(99));
        assert_eq!(
            reported(&touches),
            [session],
            "and none that it does not know"
        );
        assert_eq!(reported(&touches), []);
        touches.touch(session);
        assert_eq!(reported(&touches), [session]);
    }

    #[test]
    fn w5_touches_that_no_leader_has_counted_are_reported_again() {
        let touches = Touches::default();
        let (one, two, ended) = (SessionId(1), SessionId(2), SessionId(3));
        for session in [one, two, ended] {
            touches.open(session, 1000);
            touches.touch(session);
        }
        let lost = touches.report([]);
        touches.remove(ended);
        drop(lost);
        let again = touches.report([SessionId(98)]);
        assert!(
            [one, two]
                .iter()
                .all(|session| again.sessions().contains(session))
        );
        let not_counted = [two, SessionId(98), SessionId(99)];
        assert_eq!(again.counted(&not_counted), [one]);
        assert_eq!(reported(&touches), [two]);
        assert_eq!(reported(&touches), []);
    }

    #[test]
    fn w4_no_touch_counts_once_a_sessions_end_is_asked_for() {
        let (state, session) = state();
        let (touches, mut expiry) = (Touches::default(), Expiry::default());
        assert!(!touches.count(session), "it does not lead");
        expiry.begin(&touches, &state);
        assert!(touches.count(session) && touches.touch(session));
        assert!(!touches.count(SessionId(99)), "it may have ended");
        assert_eq!(ticks(&mut expiry, &touches, &state, 1000), [session]);
        assert!(!touches.count(session) && !touches.touch(session));
        touches.spare(session);
        assert!(touches.count(session));
        assert_eq!(ticks(&mut expiry, &touches, &state, 1900), []);
        assert_eq!(ticks(&mut expiry, &touches, &state, 3000), [session]);
        Expiry::end(&touches);
        reported(&touches);
        assert!(!touches.touch(session));
        assert_eq!(
            reported(&touches),
            [session],
            "another leader may let it live"
        );
    }

    #[test]
    fn w4_a_late_tick_ends_no_session_before_its_timeout() {
        let (state, session) = state();
        let (touches, mut expiry) = (Touches::default(), Expiry::default());
        expiry.begin(&touches, &state);
        assert_eq!(expiry.tick(&touches, 0, &state), []);
        // At 499 ms, where a tick was announced for 400.
        touches.touch(session);
        assert_eq!(expiry.tick(&touches, 500, &state), []);
        assert_eq!(ticks(&mut expiry, &touches, &state, 1499), []);
        assert_eq!(ticks(&mut expiry, &touches, &state, 1600), [session]);
    }

    #[test]
    fn e3_a_process_that_was_stopped_does_not_expire_everyone() {
        let (state, _) = state();
        let (touches, mut expiry) = (Touches::default(), Expiry::default());
        expiry.begin(&touches, &state);
        assert_eq!(expiry.tick(&touches, 0, &state), []);
        assert_eq!(
            expiry.tick(&touches, 60_000, &state),
            [],
            "a minute counts as half a second"
        );
    }

    #[test]
    fn a_new_leader_gives_every_session_its_full_timeout() {
        let (state, session) = state();
        let (touches, mut expiry) = (Touches::default(), Expiry::default());
        expiry.begin(&touches, &state);
        ticks(&mut expiry, &touches, &state, 900);
        expiry.begin(&touches, &state);
        assert_eq!(ticks(&mut expiry, &touches, &state, 1800), []);
        assert_eq!(ticks(&mut expiry, &touches, &state, 2000), [session]);
    }
}
