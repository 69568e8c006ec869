"""Cut and slow links between servers: the majority goes on, nobody lies, and after healing all agree."""

import statistics
import threading
import time
from typing import Iterator, List, Tuple

import pytest

from harness import wire as w
from harness.ensemble import Ensemble, Member
from harness.load import PAUSE_S, Load, all_agree, connect, sync
from harness.waiting import until
from harness.wire import Closed, Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]

#: Of a client that is to be disconnected in time.
TIMEOUT_MS = 3000
#: Of a client that is to keep its connection: a server lets go of it after two thirds, without a quorum.
LONG_TIMEOUT_MS = 9000


@pytest.fixture
def ensemble(tmp_path) -> Iterator[Ensemble]:
    running = Ensemble(tmp_path, linked=True).start()
    yield running
    running.close()


def between(some: List[Member], others: List[Member]) -> List[Tuple[int, int]]:
    return [(one.number, other.number) for one in some for other in others if one is not other]


def both_ways(some: List[Member], others: List[Member]) -> List[Tuple[int, int]]:
    return between(some, others) + between(others, some)


class Pinging(threading.Thread):
    """A client that reads and pings until it is disconnected, and remembers when it was answered last."""

    def __init__(self, server: Member, timeout_ms: int = TIMEOUT_MS) -> None:
        super().__init__(daemon=True)
        self.client = connect(server, timeout_ms)
        self.client.create(f"/pinging-{server.number}", flags=w.EPHEMERAL)
        self.closed = threading.Event()
        self.last = time.monotonic()
        self.start()

    def run(self) -> None:
        try:
            while True:
                self.client.exists("/")
                self.client.ping()
                self.last = time.monotonic()
                time.sleep(0.02)
        except (Closed, OSError):
            self.closed.set()

    def moved_to(self, server: Member) -> Wire:
        """The same session, at another server."""
        old = self.client
        return connect(
            server, TIMEOUT_MS, session=old.session, password=old.password, last_zxid=old.last_zxid
        )


def check_disconnected_in_time(client: Pinging, cut_at: float) -> None:
    """Before its session can have ended elsewhere."""
    left_s = TIMEOUT_MS / 1000 - (time.monotonic() - cut_at)
    assert client.closed.wait(left_s), "it goes on answering"


def caught_up(server: Member) -> bool:
    try:
        client = connect(server)
        sync(client)
        client.close_session()
        return True
    except (Closed, OSError):
        return False


def check_healed(ensemble: Ensemble) -> None:
    ensemble.links.heal()
    for server in ensemble.servers:
        until(lambda: caught_up(server), f"server {server.number} serves again")
    all_agree(ensemble)


def test_w4_a_leader_that_is_cut_off_is_replaced_goes_silent_and_follows_after_healing(ensemble):
    old = ensemble.leader()
    others = ensemble.others(old)
    load = Load(others)
    client, writer = Pinging(old), connect(old)
    writer.create("/at-the-old-leader", b"before")
    load.take_longest()
    ensemble.links.cut(both_ways([old], others))
    cut_at = time.monotonic()
    # Sent to a leader that cannot know yet, and can never commit it.
    xid = writer.send(w.SET_DATA, w.set_body("/at-the-old-leader", b"of one server alone"))
    load.progress()
    new = ensemble.leader(of=others)
    assert load.take_longest() < PAUSE_S, "a leader that is cut off is as one that hangs"
    check_disconnected_in_time(client, cut_at)
    moved = client.moved_to(new)
    assert moved.session == client.client.session, "its session has not ended meanwhile"
    sync(moved)
    assert moved.exists(f"/pinging-{old.number}") is not None
    assert moved.get("/at-the-old-leader")[0] == b"before"
    load.progress()
    ensemble.links.heal()
    until(lambda: old.mode() == "follower", "the old leader follows")
    # Its client is still there (the timeout is long) and its server sends the write to the new leader: once.
    assert writer.receive(xid).err == w.OK
    data, stat = writer.get("/at-the-old-leader")
    assert (data, stat.version) == (b"of one server alone", 1)
    load.progress()
    load.end()
    check_healed(ensemble)


@pytest.mark.parametrize("direction", ["both", "to the follower", "to the leader"])
def test_a_cut_between_leader_and_one_follower_stops_no_writes_elsewhere(ensemble, direction):
    leader = ensemble.leader()
    lonely, other = ensemble.others(leader)
    load = Load([leader, other])
    client = Pinging(lonely)
    load.take_longest()
    cuts = {
        "both": both_ways([leader], [lonely]),
        "to the follower": between([leader], [lonely]),
        "to the leader": between([lonely], [leader]),
    }
    ensemble.links.cut(cuts[direction])
    cut_at = time.monotonic()
    # It hears nothing of a leader, and does not take the lead from the one that the third server hears.
    check_disconnected_in_time(client, cut_at)
    load.progress()
    assert load.take_longest() < PAUSE_S
    assert ensemble.leader(of=[leader, other])
    load.end()
    check_healed(ensemble)


def test_a_leader_that_nobody_hears_is_replaced(ensemble):
    """It hears the others' silence only: what it sends is lost."""
    old = ensemble.leader()
    others = ensemble.others(old)
    load = Load(others)
    load.take_longest()
    ensemble.links.cut(between([old], others))
    load.progress()
    assert load.take_longest() < PAUSE_S
    assert ensemble.leader(of=others)
    load.end()
    check_healed(ensemble)


def test_a_leader_that_hears_nobody_is_replaced(ensemble):
    """Its heartbeats arrive, but no answer does: it cannot know that it has a quorum."""
    old = ensemble.leader()
    others = ensemble.others(old)
    load = Load(others)
    load.take_longest()
    ensemble.links.cut(between(others, [old]))
    load.progress()
    assert load.take_longest() < PAUSE_S
    assert ensemble.leader(of=others)
    load.end()
    check_healed(ensemble)


def test_w4_a_leader_without_a_quorum_for_a_moment_harms_no_session(ensemble):
    """A report of live sessions that comes in that moment is answered too, or the next ones would never be sent."""
    leader = ensemble.leader()
    followers = ensemble.others(leader)
    clients = [Pinging(server, LONG_TIMEOUT_MS) for server in ensemble.servers]
    for _ in range(3):
        ensemble.links.cut(between(followers, [leader]))
        # Its lease ends at the latest 0.6 s after the last word from a quorum, and then it says so.
        until(lambda: leader.mode() != "leader", "the leader misses its quorum")
        ensemble.links.heal()
        ensemble.leader()
    # Longer than a server that hears of no quorum would have kept its clients.
    begin = time.monotonic()
    while time.monotonic() - begin < LONG_TIMEOUT_MS * 2 / 3 / 1000 + 0.2:
        time.sleep(0.05)
        for client, server in zip(clients, ensemble.servers):
            assert not client.closed.is_set(), f"the client of server {server.number} was disconnected"
    check_healed(ensemble)


def test_a_follower_off_and_back_catches_up_and_its_clients_have_gone_elsewhere(ensemble):
    leader = ensemble.leader()
    away, other = ensemble.others(leader)
    load = Load([leader, other])
    client = Pinging(away)
    ensemble.links.cut(both_ways([away], [leader, other]))
    cut_at = time.monotonic()
    check_disconnected_in_time(client, cut_at)
    moved = client.moved_to(other)
    assert moved.session == client.client.session
    sync(moved)
    assert moved.exists(f"/pinging-{away.number}") is not None
    load.progress()
    assert ensemble.leader() is leader, "a follower's absence changes no leader"
    ensemble.links.heal()
    until(lambda: caught_up(away), "it is back")
    back = connect(away, last_zxid=moved.last_zxid)
    back.create("/written-at-the-one-that-was-away")
    moved.close_session()
    sync(back)
    assert back.exists(f"/pinging-{away.number}") is None
    load.progress()
    assert ensemble.leader() is leader, "nor does its return"
    load.end()
    check_healed(ensemble)


def test_a_slow_link_slows_only_who_is_behind_it(ensemble):
    leader = ensemble.leader()
    slow, other = ensemble.others(leader)
    delay_s = 0.15
    ensemble.links.slow(both_ways([slow], [leader, other]), delay_s)
    load = Load([leader, other])
    client = connect(slow)
    for number in range(5):
        begin = time.monotonic()
        client.create(f"/over-the-slow-link-{number}")
        assert time.monotonic() - begin > 2 * delay_s, "there and back"
        client.exists("/")
    load.progress()
    quick, times = connect(other), []
    for number in range(20):
        begin = time.monotonic()
        quick.create(f"/of-the-majority-{number}")
        times.append(time.monotonic() - begin)
    assert statistics.median(times) < delay_s, "the majority does not wait for the slow one"
    assert ensemble.leader() is leader
    load.end()
    check_healed(ensemble)
