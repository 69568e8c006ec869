"""Calls by reading a path (rule C8) in an ensemble: at followers, over leader changes, in local and read-only sessions."""

import json
import struct
from typing import Iterator

import pytest

from harness import wire as w
from harness.ensemble import Ensemble, Member
from harness.load import connect, has_compiled, mount_when_pushed
from harness.waiting import until
from harness.wire import Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]

SESSION_MS = 60_000

EPHEMERAL_ON_LOCAL_SESSION, NOT_READ_ONLY = -120, -119


def mount_all(ensemble: Ensemble) -> None:
    first = ensemble.servers[0]
    mount_when_pushed(first, "/counters", "counter")
    mount_when_pushed(first, "/open", "counter", sealed=False)
    mount_when_pushed(first, "/locks", "fair-lock")
    for server in ensemble.servers:
        until(lambda server=server: has_compiled(server), "the recipes are ready everywhere")


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory) -> Iterator[Ensemble]:
    running = Ensemble(tmp_path_factory.mktemp("paths")).start()
    mount_all(running)
    yield running
    running.kill()


@pytest.fixture
def follower(ensemble) -> Member:
    return ensemble.others(ensemble.leader())[0]


def read(client: Wire, path: str, watch: bool = False) -> w.Reply:
    return client.request(w.GET_DATA, w.path_watch(path, watch))


def value(client: Wire, path: str):
    """What the call gives."""
    reply = read(client, path)
    assert reply.err == w.OK, reply
    return json.loads(w.Reader(reply.body).buffer())


def is_parked(client: Wire, path: str, watch: bool = False) -> bool:
    reply = read(client, path, watch)
    return reply.err == w.OK and w.Reader(reply.body).buffer() == b"parked"


def moved(client: Wire, to: Member) -> Wire:
    client.drop()
    again = connect(to, SESSION_MS, session=client.session, password=client.password, last_zxid=client.last_zxid)
    assert again.session == client.session
    return again


def set_watches(client: Wire, since: int, *paths: str) -> None:
    client.send(w.SET_WATCHES, w.set_watches_body(since, data=paths), xid=w.XID_SET_WATCHES)
    assert client.receive(w.XID_SET_WATCHES).err == w.OK


def test_c8_at_a_follower_it_is_the_same_call_as_anywhere(ensemble, follower):
    client = connect(follower, SESSION_MS)
    assert value(client, '/counters/add("follower", 2)@1') == 2
    assert value(client, '/counters/get("follower")') == 2
    assert read(client, '/counters/add("follower", 2)').err == w.BAD_ARGUMENTS
    client = moved(client, ensemble.leader())
    assert value(client, '/counters/add("follower", 2)@1') == 2, "the same key: the same answer"
    assert read(client, '/counters/add("follower", 3)@1').err == w.BAD_ARGUMENTS
    assert client.delete('/counters/add("follower", 2)@1') == w.OK
    client = moved(client, follower)
    assert read(client, '/counters/add("follower", 2)@1').err == w.BAD_ARGUMENTS
    assert value(client, '/counters/get("follower")') == 2


def test_w1_calls_by_path_keep_their_place_among_the_sessions_requests(ensemble, follower):
    client = connect(follower, SESSION_MS)
    client.create("/open/place", b"0")
    requests, wanted = [], []
    for number in range(1, 51):
        # All of it stands in the connection before the first is answered.
        add = f'/open/add("place", 1)@{number}'
        requests += [
            (w.SET_DATA, w.set_body("/open/place", b"%d" % (10 * number))),
            (w.GET_DATA, w.path_watch('/open/get("place")')),
            (w.GET_DATA, w.path_watch("/open/place")),
            (w.GET_DATA, w.path_watch(add)),
            (w.GET_DATA, w.path_watch("/open/place")),
        ]
        wanted += [None, 10 * number, 10 * number, 10 * number + 1, 10 * number + 1]
    first = client.last_xid + 1
    client.send_raw(b"".join(client.frame(op, body) for op, body in requests))
    zxid = 0
    for xid, number in enumerate(wanted, first):
        reply = client.receive(xid)
        assert reply.err == w.OK and reply.zxid >= zxid
        zxid = reply.zxid
        if number is not None:
            assert json.loads(w.Reader(reply.body).buffer()) == number


def test_c8_the_watch_tells_after_the_leader_was_killed(ensemble):
    leader = ensemble.leader()
    here, there = ensemble.others(leader)
    paths = [f'/locks/acquire("{name}")@1' for name in ("stays", "moves", "had-it", "mean-time")]
    holders = [connect(here, SESSION_MS) for _ in paths]
    waiters = [connect(server, SESSION_MS) for server in (there, leader, leader, leader)]
    for path, holder, waiter in zip(paths, holders, waiters):
        assert value(holder, path)["holds"] == 1
        assert is_parked(waiter, path, watch=True)
    # It has its answer, and is told, before the leader goes.
    holders[2].close_session()
    assert waiters[2].wait_event().path == paths[2]
    seen = [waiter.last_zxid for waiter in waiters]
    seen[2] = waiters[2].events[0].zxid
    leader.kill()
    try:
        holders[3].close_session()
        stays, *others = waiters
        moves, had_it, mean_time = (moved(waiter, here) for waiter in others)
        for client, since, path in zip((moves, had_it, mean_time), seen[1:], paths[1:]):
            set_watches(client, since, path)
        # The connection that stayed has its watch; what was answered meanwhile is told at once, and nothing twice.
        told = lambda client: [(event.type, event.path) for event in client.events]
        assert told(mean_time) == [(w.NODE_DATA_CHANGED, paths[3])]
        assert told(had_it) == told(moves) == told(stays) == []
        for client, path in ((stays, paths[0]), (moves, paths[1])):
            assert is_parked(client, path), "read without a watch, the watch stays"
            holders[paths.index(path)].close_session()
            event = client.wait_event()
            assert (event.type, event.path) == (w.NODE_DATA_CHANGED, path)
        for client, path in zip((stays, moves, had_it, mean_time), paths):
            assert value(client, path)["holds"] == 1
            assert len(client.events) <= 1
    finally:
        leader.start()


def report(server: Member, word: str) -> str:
    return dict(line.split("\t") for line in server.four_letter_word("mntr").splitlines())[word]


def test_c8_in_local_sessions_and_at_a_read_only_server(tmp_path):
    """A local session is nobody's to the state, so it makes no call with a key; without one it asks as any other."""
    ensemble = Ensemble(tmp_path)
    local, upgrading, last = ensemble.servers
    local.options += ["--local-sessions"]
    upgrading.options += ["--local-sessions", "--local-sessions-upgrading"]
    last.options += ["--read-only-mode"]
    ensemble.start()
    try:
        mount_all(ensemble)
        client = connect(local, SESSION_MS)
        assert value(client, '/counters/get("local")') == 0
        refused = read(client, '/counters/add("local", 1)@1')
        assert refused.err == EPHEMERAL_ON_LOCAL_SESSION and b"local" in refused.body, refused
        assert client.delete('/counters/add("local", 1)@1') == w.NO_NODE
        assert value(client, '/counters/get("local")') == 0

        client = connect(upgrading, SESSION_MS)
        assert value(client, '/counters/get("local")') == 0
        assert report(upgrading, "zk_local_sessions") == "1", "a call without a key needs no other session"
        assert value(client, '/counters/add("local", 1)@1') == 1
        assert report(upgrading, "zk_local_sessions") == "0"
        client = moved(client, last)
        assert value(client, '/counters/add("local", 1)@1') == 1

        for server in (local, upgrading):
            server.kill()
        until(lambda: last.four_letter_word("isro") == "ro", "it is read-only")
        client = read_only(last)
        assert client.get("/counters/local")[0] == b"1"
        # The leader would have to run it: that is no znode that is not there.
        for path in ('/counters/get("local")', '/counters/add("local", 1)@2'):
            assert read(client, path).err == NOT_READ_ONLY, path
        assert client.request(w.DELETE, w.path_version('/counters/add("local", 1)@1')).err == NOT_READ_ONLY
        assert read(client, '/nothing/get("local")').err == w.NO_NODE
    finally:
        ensemble.kill()


def read_only(server: Member) -> Wire:
    """A client that accepts a read-only server: the last byte of its handshake says so."""
    client = Wire(server.address, handshake=False)
    client.send_frame(struct.pack("!iqiq", 0, 0, SESSION_MS, 0) + w.buffer(b"\0" * 16) + b"\1")
    reader = w.Reader(client.read_frame())
    _, client.timeout_ms, client.session = reader.unpack("iiq")
    assert client.timeout_ms > 0
    return client
