//! Silence: a server that is cut off from the quorum says nothing more to its clients (rule W4).
//!
//! So no client believes that it holds a lock which the majority has passed on: its server has closed its
//! connection before its session can end elsewhere. Two things have to be fresh: word of a leader with a quorum,
//! and of each session a touch that such a leader has acknowledged, since only that put off the session's end.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_consensus::Consensus;
use quorate_model::id::SessionId;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::expiry::Touches;
use crate::notify::Watches;

/// How often the sessions' time is looked at. A connection that has something to send looks at it itself.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// No session has so short a timeout that its two thirds are less, in milliseconds.
const LEAST_MS: u64 = 300;

/// The part of a session's timeout that it is not served before its end: two machines' clocks do not go at quite
/// the same rate, and an answer takes a moment to be sent.
const MARGIN_PART: u64 = 10;

/// The least and the most that this is, in milliseconds: clocks differ by much less than a hundredth, and a
/// client that is quiet for long is not to be disconnected long before its session would end.
const MARGIN_MS: std::ops::RangeInclusive<u64> = 50..=500;

/// Why a connection is closed.
pub(crate) const CUT_OFF: &str = "the server is cut off from the quorum";

/// Until when a connection's session is served, in its server's monotonic milliseconds.
#[derive(Debug)]
pub(crate) struct Lease {
    timeout_ms: u32,
    until_ms: AtomicU64,
}

impl Lease {
    /// Of a session that was there, and had its full timeout, at `at_ms` or later.
    fn global(timeout_ms: u32, at_ms: u64) -> Lease {
        Lease {
            timeout_ms,
            until_ms: AtomicU64::new(end_ms(timeout_ms, at_ms)),
        }
    }

    /// Of a session that can end nowhere else.
    fn local(timeout_ms: u32) -> Lease {
        Lease {
            timeout_ms,
            until_ms: AtomicU64::new(u64::MAX),
        }
    }

    /// Whoever ends sessions has counted a touch of it at `at_ms` or later, so it does not end before its timeout
    /// has passed since then.
    fn extend(&self, at_ms: u64) {
        let until_ms = end_ms(self.timeout_ms, at_ms);
        self.until_ms.fetch_max(until_ms, Ordering::Relaxed);
    }

    fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.until_ms.load(Ordering::Relaxed)
    }
}

/// Until when a session is served that had its full timeout at `at_ms`.
fn end_ms(timeout_ms: u32, at_ms: u64) -> u64 {
    let timeout_ms = u64::from(timeout_ms);
    let margin_ms = (timeout_ms / MARGIN_PART).clamp(*MARGIN_MS.start(), *MARGIN_MS.end());
    at_ms.saturating_add(timeout_ms.saturating_sub(margin_ms))
}

/// What this server knows of the quorum, and until when its clients may be served.
#[derive(Debug)]
pub struct Silence {
    clock: Arc<Clock>,
    /// A server that is alone is its own quorum.
    alone: bool,
    /// When this server last had word of a leader with a quorum.
    heard_ms: AtomicU64,
    /// When a quorum last confirmed that this server itself leads.
    led_ms: AtomicU64,
    /// The last epoch whose leader took this server's requests, and when it began to.
    stream: Mutex<(u32, u64)>,
    /// The sessions that are connected here. One entry per connection at most.
    sessions: Mutex<HashMap<SessionId, Connected>>,
    /// The sessions of HTTP whose keep-alives wait to be counted. One entry per request that waits at most.
    kept_alive: Mutex<HashMap<SessionId, KeptAlive>>,
    /// Rung at every word of a quorum, and when touches were counted.
    word: Notify,
}

/// Of a session whose keep-alives wait.
#[derive(Debug, Default)]
struct KeptAlive {
    /// How many of them.
    waiting: usize,
    /// The last report that told of the session and was counted.
    counted: u64,
}

#[derive(Debug)]
struct Connected {
    connection: u64,
    lease: Arc<Lease>,
}

impl Silence {
    /// Of one of several servers that has heard of no quorum yet.
    pub fn new(clock: Arc<Clock>) -> Silence {
        Silence {
            clock,
            alone: false,
            heard_ms: AtomicU64::new(0),
            led_ms: AtomicU64::new(0),
            stream: Mutex::default(),
            sessions: Mutex::default(),
            kept_alive: Mutex::default(),
            word: Notify::new(),
        }
    }

    /// Of the only server, which is never silent.
    pub fn alone(clock: Arc<Clock>) -> Silence {
        Silence {
            alone: true,
            ..Silence::new(clock)
        }
    }

    /// A quorum was there at `at_ms` or later, and the leader that it confirmed hears this server.
    pub fn heard(&self, at_ms: u64) {
        self.heard_ms.fetch_max(at_ms, Ordering::Relaxed);
        self.word.notify_waiters();
    }

    /// A quorum has confirmed at `at_ms` or later that this server leads.
    fn led(&self, at_ms: u64) {
        self.led_ms.fetch_max(at_ms, Ordering::Relaxed);
        self.heard(at_ms);
    }

    /// How long ago a quorum was last heard of.
    pub(crate) fn for_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_ms.load(Ordering::Relaxed))
    }

    /// A leader whom a quorum confirmed at `at_ms` or later has counted touches of these sessions after that, which the
    /// report of that number told.
    pub(crate) fn touches_counted(&self, sessions: &[SessionId], report: u64, at_ms: u64) {
        let connected = self.sessions.lock();
        let mut kept_alive = self.kept_alive.lock();
        for session in sessions {
            if let Some(connected) = connected.get(session) {
                connected.lease.extend(at_ms);
            }
            if let Some(kept_alive) = kept_alive.get_mut(session) {
                kept_alive.counted = kept_alive.counted.max(report);
            }
        }
        drop(kept_alive);
        self.word.notify_waiters();
    }

    /// A sign of life of a session that no connection has: returns once whoever ends sessions has counted it, or the
    /// session is gone. Until then it may end elsewhere as if its client had been silent.
    pub(crate) async fn keep_alive(&self, touches: &Touches, session: SessionId) {
        if self.alone {
            touches.touch(session);
            return;
        }
        let awaited = Awaited::of(self, session);
        let asked_ms = self.now_ms();
        let Some(report) = touches.touch_and_report(session) else {
            return;
        };
        loop {
            let mut word = pin!(self.word.notified());
            word.as_mut().enable();
            // A leader counts by itself, and may have been replaced already unless a quorum has confirmed it since.
            let here = touches.counts(session) && self.led_ms.load(Ordering::Relaxed) >= asked_ms;
            if here || awaited.counted() >= report || touches.last(session).is_none() {
                return;
            }
            word.await;
        }
    }

    /// Returns once a quorum was heard of.
    pub(crate) async fn begun(&self) {
        loop {
            let mut word = pin!(self.word.notified());
            word.as_mut().enable();
            if self.alone || self.heard_ms.load(Ordering::Relaxed) > 0 {
                return;
            }
            word.await;
        }
    }

    /// Whether the last word of a quorum was so long ago.
    pub(crate) fn is_silent_for(&self, limit_ms: u64) -> bool {
        !self.alone && self.for_ms(self.now_ms()) >= limit_ms
    }

    /// Returns once that is so.
    pub(crate) async fn silent_for(&self, limit_ms: u64) {
        if self.alone {
            return std::future::pending().await;
        }
        while let left_ms @ 1.. = limit_ms.saturating_sub(self.for_ms(self.now_ms())) {
            tokio::time::sleep(Duration::from_millis(left_ms)).await;
        }
    }

    /// This server, which leads, has counted a touch. Whoever leads after it gives the session its full timeout,
    /// and cannot have begun before a quorum last confirmed this one.
    pub(crate) fn touch_counted_here(&self, lease: &Lease) {
        lease.extend(self.led_ms.load(Ordering::Relaxed));
    }

    /// The leader of `epoch` takes this server's requests from now on: nothing that it sends was evaluated in that
    /// epoch before.
    pub(crate) fn stream_begins(&self, epoch: u32) {
        let now_ms = self.now_ms();
        let mut stream = self.stream.lock();
        if stream.0 < epoch {
            *stream = (epoch, now_ms);
        }
    }

    /// What a connection goes by whose request of `asked_ms` was answered in `epoch` with a session.
    pub(crate) fn lease(
        &self,
        session: SessionId,
        connection: u64,
        timeout_ms: u32,
        (asked_ms, epoch): (u64, u32),
    ) -> Arc<Lease> {
        let stream = *self.stream.lock();
        let begun_ms = if stream.0 == epoch { stream.1 } else { 0 };
        let lease = Lease::global(timeout_ms, asked_ms.max(begun_ms));
        self.register(session, connection, lease)
    }

    /// The same of a session that only this server knows.
    pub(crate) fn local_lease(
        &self,
        session: SessionId,
        connection: u64,
        timeout_ms: u32,
    ) -> Arc<Lease> {
        self.register(session, connection, Lease::local(timeout_ms))
    }

    /// Such a session's becoming a global one is asked for now.
    pub(crate) fn upgrade(&self, lease: &Lease) {
        let until_ms = end_ms(lease.timeout_ms, self.now_ms());
        lease.until_ms.store(until_ms, Ordering::Relaxed);
    }

    fn register(&self, session: SessionId, connection: u64, lease: Lease) -> Arc<Lease> {
        let lease = Arc::new(lease);
        let connected = Connected {
            connection,
            lease: lease.clone(),
        };
        self.sessions.lock().insert(session, connected);
        lease
    }

    /// A connection has ended.
    pub(crate) fn forget(&self, session: SessionId, connection: u64) {
        let mut sessions = self.sessions.lock();
        let connected = sessions.get(&session);
        if connected.is_some_and(|connected| connected.connection == connection) {
            sessions.remove(&session);
        }
    }

    /// Whether a session with that lease may be answered at this moment.
    pub(crate) fn serves(&self, lease: &Lease) -> bool {
        self.serves_at(lease, self.now_ms())
    }

    fn serves_at(&self, lease: &Lease, now_ms: u64) -> bool {
        let silent = is_too_long(self.for_ms(now_ms), lease.timeout_ms);
        self.alone || !(silent || lease.is_over(now_ms))
    }

    /// The connections whose sessions are not to be served any more.
    fn silenced(&self, now_ms: u64) -> Vec<u64> {
        let sessions = self.sessions.lock();
        let silenced = sessions
            .values()
            .filter(|connected| !self.serves_at(&connected.lease, now_ms));
        silenced.map(|connected| connected.connection).collect()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.monotonic_ms()
    }
}

/// Whether nobody with a session of that timeout is to be served after such a silence.
pub(crate) fn is_too_long(silent_ms: u64, timeout_ms: u32) -> bool {
    silent_ms >= limit_ms(timeout_ms)
}

/// The silence, in milliseconds, after which nobody with a session of that timeout is served.
pub(crate) fn limit_ms(timeout_ms: u32) -> u64 {
    (u64::from(timeout_ms) * 2).div_ceil(3).max(LEAST_MS)
}

/// A keep-alive that waits to be counted.
struct Awaited<'a> {
    silence: &'a Silence,
    session: SessionId,
}

impl<'a> Awaited<'a> {
    fn of(silence: &'a Silence, session: SessionId) -> Awaited<'a> {
        silence
            .kept_alive
            .lock()
            .entry(session)
            .or_default()
            .waiting += 1;
        Awaited { silence, session }
    }

    /// The last report that told of its session and was counted.
    fn counted(&self) -> u64 {
        let kept_alive = self.silence.kept_alive.lock();
        kept_alive.get(&self.session).map_or(0, |kept| kept.counted)
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut kept_alive = self.silence.kept_alive.lock();
        if let Some(kept) = kept_alive.get_mut(&self.session) {
            kept.waiting -= 1;
            if kept.waiting == 0 {
                kept_alive.remove(&self.session);
            }
        }
    }
}

/// Closes the connections of sessions that are not to be served any more; never ends.
pub async fn keep(silence: Arc<Silence>, consensus: Consensus, watches: Arc<Watches>) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    loop {
        every.tick().await;
        let now_ms = silence.now_ms();
        // A leader that is cut off goes on believing that it leads until its lease ends.
        if let Some(age) = consensus.quorum_age() {
            silence.led(now_ms.saturating_sub(age.as_millis() as u64));
        }
        for connection in silence.silenced(now_ms) {
            watches.close(connection, CUT_OFF);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
