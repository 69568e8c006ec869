//! Until when whom is served (rule W4), in made-up time.

use super::*;
use crate::clock::Hands;

/// A clock that goes on when it is told to.
#[derive(Debug, Default)]
pub(crate) struct Told(pub(crate) AtomicU64);

impl Hands for Told {
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn wall_ms(&self) -> i64 {
        0
    }
}

const SESSION: SessionId = SessionId(7);
const CONNECTION: u64 = 1;
const TIMEOUT_MS: u32 = 6000;
/// A session that had its full timeout at 0 is served for so long.
const SERVED_MS: u64 = 5500;

struct Server {
    silence: Silence,
    time: Arc<Told>,
}

impl Server {
    fn new() -> Server {
        let time = Arc::new(Told::default());
        let clock = Arc::new(Clock::start(time.clone()));
        Server {
            silence: Silence::new(clock),
            time,
        }
    }

    fn at(&self, now_ms: u64) -> &Silence {
        self.time.0.store(now_ms, Ordering::Relaxed);
        &self.silence
    }

    /// A session that was asked for at `asked_ms`, and opened in epoch 1.
    fn open(&self, asked_ms: u64) -> Arc<Lease> {
        self.silence
            .lease(SESSION, CONNECTION, TIMEOUT_MS, (asked_ms, 1))
    }

    /// A leader with a quorum answers every report up to that time, and none holds a touch.
    fn hear_until(&self, now_ms: u64) {
        self.at(now_ms).heard(now_ms);
    }
}

#[test]
fn an_old_word_does_not_take_back_a_later_one() {
    let server = Server::new();
    server.silence.heard(500);
    server.silence.heard(300);
    assert_eq!(server.silence.for_ms(700), 200);
    assert_eq!(server.silence.for_ms(100), 0);
}

#[test]
fn w4_a_session_is_served_from_its_last_counted_touch_on_whatever_else_was_heard() {
    let server = Server::new();
    let lease = server.open(0);
    server.hear_until(4500);
    // A touch at 4,500 ms never came to the leader, which ends the session at 6,000.
    assert!(server.at(SERVED_MS - 1).serves(&lease));
    assert!(!server.at(SERVED_MS).serves(&lease));
    assert_eq!(server.silence.silenced(SERVED_MS), [CONNECTION]);
    server.hear_until(SERVED_MS);
    assert!(!server.silence.serves(&lease), "such a word is no touch");
    server.silence.touches_counted(&[SessionId(8)], 1, 4600);
    assert!(!server.silence.serves(&lease), "nor is another session's");
    server.silence.touches_counted(&[SESSION], 1, 4600);
    assert!(server.silence.serves(&lease));
    assert!(server.silence.silenced(SERVED_MS).is_empty());
    server.hear_until(4600 + SERVED_MS - 1);
    assert!(server.silence.serves(&lease));
    server.hear_until(4600 + SERVED_MS);
    assert!(!server.silence.serves(&lease));
}

#[test]
fn w4_nobody_is_served_two_thirds_of_a_timeout_after_the_last_word_of_a_quorum() {
    let server = Server::new();
    let lease = server.open(0);
    let local = server.silence.local_lease(SessionId(8), 2, TIMEOUT_MS);
    server.hear_until(100);
    server.silence.touches_counted(&[SESSION], 1, 100);
    assert!(server.at(4099).serves(&lease) && server.silence.serves(&local));
    assert!(!server.at(4100).serves(&lease) && !server.silence.serves(&local));
    server.hear_until(60_000);
    assert!(server.silence.serves(&local), "it can end nowhere else");
    assert!(!server.silence.serves(&lease));
}

#[test]
fn w4_an_old_answer_does_not_take_back_a_later_one() {
    let server = Server::new();
    let lease = server.open(1000);
    server.silence.touches_counted(&[SESSION], 1, 2000);
    server.silence.touches_counted(&[SESSION], 1, 500);
    server.hear_until(2000 + SERVED_MS - 1);
    assert!(server.silence.serves(&lease));
}

#[test]
fn w4_a_session_that_was_asked_for_long_ago_counts_from_where_its_leader_took_requests() {
    let server = Server::new();
    // Asked for at 0; the leader of epoch 1 takes requests from 4,000 ms on.
    server.at(4000).stream_begins(1);
    server.at(5000).stream_begins(1);
    let lease = server.open(0);
    server.hear_until(4000 + SERVED_MS - 1);
    assert!(server.silence.serves(&lease));
    server.hear_until(4000 + SERVED_MS);
    assert!(
        !server.silence.serves(&lease),
        "a stream that begins again says nothing"
    );
    let of_another_epoch = server.silence.lease(SESSION, 2, TIMEOUT_MS, (0, 2));
    assert!(!server.silence.serves(&of_another_epoch));
}

#[test]
fn w4_a_leaders_own_session_counts_from_where_a_quorum_last_confirmed_the_leader() {
    let server = Server::new();
    let lease = server.open(0);
    server.at(3000).led(2900);
    // As a follower, it has heard of another leader meanwhile, who does not know of the touch.
    server.hear_until(5400);
    server.silence.touch_counted_here(&lease);
    server.hear_until(2900 + SERVED_MS - 1);
    assert!(server.silence.serves(&lease));
    server.hear_until(2900 + SERVED_MS);
    assert!(!server.silence.serves(&lease));
}

#[test]
fn w4_a_local_session_that_becomes_global_is_served_as_those_are() {
    let server = Server::new();
    let lease = server.silence.local_lease(SESSION, CONNECTION, TIMEOUT_MS);
    server.hear_until(60_000);
    server.silence.upgrade(&lease);
    server.hear_until(60_000 + SERVED_MS - 1);
    assert!(server.silence.serves(&lease));
    server.hear_until(60_000 + SERVED_MS);
    assert!(!server.silence.serves(&lease));
    server.silence.touches_counted(&[SESSION], 1, 61_000);
    assert!(server.silence.serves(&lease));
}

#[test]
fn w3_a_connection_that_ends_leaves_its_sessions_next_one_alone() {
    let server = Server::new();
    let old = server.open(0);
    let new = server.silence.lease(SESSION, 2, TIMEOUT_MS, (1000, 1));
    server.silence.forget(SESSION, CONNECTION);
    server.silence.touches_counted(&[SESSION], 1, 3000);
    server.hear_until(7000);
    assert!(server.silence.serves(&new) && !server.silence.serves(&old));
    server.silence.forget(SESSION, 2);
    assert!(server.silence.silenced(u64::MAX).is_empty());
}

#[test]
fn a_server_that_is_alone_is_never_silent() {
    let time = Arc::new(Told::default());
    let silence = Silence::alone(Arc::new(Clock::start(time.clone())));
    let lease = silence.lease(SESSION, CONNECTION, TIMEOUT_MS, (0, 1));
    time.0.store(60_000, Ordering::Relaxed);
    assert!(silence.serves(&lease));
}

#[test]
fn the_margin_is_small_for_long_timeouts_and_not_too_small_for_short_ones() {
    assert_eq!(end_ms(450, 0), 400);
    assert_eq!(end_ms(2000, 0), 1800);
    assert_eq!(end_ms(40_000, 10), 39_510);
}

/// A server that follows, and knows of the session.
fn follower() -> (Server, Touches) {
    let (server, touches) = (Server::new(), Touches::default());
    touches.open(SESSION, TIMEOUT_MS);
    (server, touches)
}

/// Whether it is answered without anything that is to come.
fn is_answered(keep_alive: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    keep_alive.poll(&mut context).is_ready()
}

#[test]
fn w4_a_keep_alive_of_no_connection_is_answered_once_a_leader_has_counted_it() {
    let (server, touches) = follower();
    touches.touch(SESSION);
    let before = touches.report([]);
    let mut keep_alive = pin!(server.silence.keep_alive(&touches, SESSION));
    assert!(!is_answered(keep_alive.as_mut()));
    let number = before.number();
    let counted = before.counted(&[]);
    server.silence.touches_counted(&counted, number, 0);
    assert!(
        !is_answered(keep_alive.as_mut()),
        "that report was made before it came"
    );
    server.silence.heard(10);
    assert!(!is_answered(keep_alive.as_mut()), "such a word is no touch");

    let not_counted = touches.report([]);
    let number = not_counted.number();
    assert_eq!(not_counted.sessions(), [SESSION]);
    let counted = not_counted.counted(&[SESSION]);
    server.silence.touches_counted(&counted, number, 20);
    assert!(!is_answered(keep_alive.as_mut()));

    let again = touches.report([]);
    let number = again.number();
    let counted = again.counted(&[]);
    assert_eq!(counted, [SESSION], "it is reported again");
    server.silence.touches_counted(&counted, number, 30);
    assert!(is_answered(keep_alive.as_mut()));
    assert!(
        server.silence.kept_alive.lock().is_empty(),
        "nothing is left of it"
    );
}

#[test]
fn w4_a_leader_answers_a_keep_alive_once_a_quorum_has_confirmed_it_since() {
    let (server, touches) = follower();
    let mut expiry = crate::expiry::Expiry::default();
    server.at(1000).led(900);
    let (state, session) = crate::expiry::tests::state();
    expiry.begin(&touches, &state);
    let mut keep_alive = pin!(server.silence.keep_alive(&touches, session));
    assert!(!is_answered(keep_alive.as_mut()));
    server.silence.led(999);
    assert!(
        !is_answered(keep_alive.as_mut()),
        "it may be replaced by now"
    );
    server.silence.led(1000);
    assert!(is_answered(keep_alive.as_mut()));
}

#[test]
fn w4_a_keep_alive_of_a_session_that_goes_is_answered_and_its_end_is_told() {
    let (server, touches) = follower();
    let mut keep_alive = pin!(server.silence.keep_alive(&touches, SESSION));
    assert!(!is_answered(keep_alive.as_mut()));
    touches.remove(SESSION);
    server.silence.heard(10);
    assert!(is_answered(keep_alive.as_mut()));
    let mut unknown = pin!(server.silence.keep_alive(&touches, SessionId(8)));
    assert!(is_answered(unknown.as_mut()));
}

#[tokio::test(start_paused = true)]
async fn w4_silence_is_told_when_it_has_lasted_so_long() {
    let server = Server::new();
    server.silence.heard(100);
    assert_eq!(limit_ms(TIMEOUT_MS), 4000);
    let mut silent = pin!(server.silence.silent_for(4000));
    assert!(!is_answered(silent.as_mut()));
    server.at(4099).heard(200);
    assert!(!is_answered(silent.as_mut()) && !server.silence.is_silent_for(4000));
    server.at(4200);
    silent.await;
    assert!(server.silence.is_silent_for(4000));
}
