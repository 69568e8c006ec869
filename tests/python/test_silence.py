"""A lock has passed on: whoever held it before is told so, or nothing, however its server was cut off (rule W4).

Everything is ordered by this process: the next holder's answer is here before the old one's read is sent.
"""

import time
from typing import Iterator, List

import pytest

from harness import wire as w
from harness.ensemble import Ensemble
from harness.load import connect, sync
from harness.waiting import until
from harness.wire import Closed, Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(180)]

TIMEOUT_MS = 3000
#: Of whoever takes the lock next.
LONG_TIMEOUT_MS = 30_000
#: At a server that is stopped: enough that an answer which is not looked at before it is sent is found.
HOLDERS = 60


@pytest.fixture
def ensemble(tmp_path) -> Iterator[Ensemble]:
    running = Ensemble(tmp_path, linked=True).start()
    yield running
    running.close()


def take_when_free(client: Wire, path: str) -> None:
    until(lambda: client.exists(path) is None, f"the session that holds {path} ends")
    client.create(path, b"new", w.EPHEMERAL)


def answer(client: Wire, xid: int) -> object:
    """To a read: its data, its error, or that the client was disconnected."""
    try:
        reply = client.receive(xid)
    except (Closed, OSError):
        return "closed"
    return w.Reader(reply.body).buffer() if reply.err == w.OK else reply.err


def test_w4_a_quiet_client_whose_server_is_cut_off_is_not_told_of_its_old_lock(ensemble):
    """Its last touch that the leader knows of is old, while reports without one go on until the cut."""
    leader = ensemble.leader()
    cut_off, other = ensemble.others(leader)
    old, new = connect(cut_off, TIMEOUT_MS), connect(other, LONG_TIMEOUT_MS)
    old.create("/lock", b"old", w.EPHEMERAL)
    sync(new)
    assert new.exists("/lock") is not None
    # Most of its timeout, which it may; it is heard of again where the leader is not told of it any more.
    time.sleep(TIMEOUT_MS * 0.75 / 1000)
    rest = [leader, other]
    pairs = [(cut_off.number, to.number) for to in rest]
    ensemble.links.cut(pairs + [(to, origin) for origin, to in pairs])
    old.send(w.PING, xid=w.XID_PING)
    take_when_free(new, "/lock")
    answers: List[object] = []
    try:
        while True:
            answers.append(answer(old, old.send(w.GET_DATA, w.path_watch("/lock"))))
            if answers[-1] == "closed":
                break
    except (Closed, OSError):
        pass
    assert b"old" not in answers


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_w4_a_server_that_stood_still_answers_no_read_with_an_old_lock(ensemble, who):
    leader = ensemble.leader()
    one, another = ensemble.others(leader)
    stopped, serving = (leader, one) if who == "leader" else (one, another)
    new = connect(serving, LONG_TIMEOUT_MS)
    holders = [connect(stopped, TIMEOUT_MS) for _ in range(HOLDERS)]
    for number, holder in enumerate(holders):
        holder.create(f"/lock-{number}", b"old", w.EPHEMERAL)
    sync(new)
    stopped.pause()
    try:
        for number in range(HOLDERS):
            take_when_free(new, f"/lock-{number}")
        xids = [
            holder.send(w.GET_DATA, w.path_watch(f"/lock-{number}"))
            for number, holder in enumerate(holders)
        ]
    finally:
        stopped.go_on()
    answers = [answer(holder, xid) for holder, xid in zip(holders, xids)]
    assert answers.count(b"old") == 0


def test_w4_a_client_that_is_quiet_for_most_of_its_timeout_keeps_its_connection(ensemble):
    clients = [connect(server, TIMEOUT_MS) for server in ensemble.servers]
    for number, client in enumerate(clients):
        client.create(f"/kept-{number}", flags=w.EPHEMERAL)
    for _ in range(2):
        begin = time.monotonic()
        for client in clients:
            client.ping()
        time.sleep(TIMEOUT_MS * 0.7 / 1000)
        try:
            for number, client in enumerate(clients):
                client.ping()
                assert client.exists(f"/kept-{number}") is not None
        except (Closed, OSError):
            # Its server gives it nine tenths of its timeout; a machine that is too busy takes longer than that.
            took_ms = 1000 * (time.monotonic() - begin)
            assert took_ms > TIMEOUT_MS * 0.85, f"disconnected within {took_ms:.0f} ms"
            pytest.skip("the machine is too busy to tell")
