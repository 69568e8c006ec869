"""Sessions: handshake, going on over another connection, expiry, and what becomes of ephemerals."""

import struct
import time

import pytest

from harness import wire as w
from harness.waiting import until
from harness.wire import Closed, Reader, Wire

pytestmark = pytest.mark.timeout(60)

SHORT_MS = 1500


def test_the_handshake_gives_session_password_and_timeout(wire):
    zk = wire(timeout_ms=8000)
    assert zk.session != 0
    assert len(zk.password) == 16
    assert zk.password != b"\0" * 16
    assert zk.timeout_ms == 8000


def test_the_timeout_is_negotiated_within_bounds(wire):
    assert 0 < wire(timeout_ms=1).timeout_ms <= 10_000
    assert 10_000 <= wire(timeout_ms=100_000_000).timeout_ms < 100_000_000


def test_two_sessions_differ(wire):
    first, second = wire(), wire()
    assert first.session != second.session
    assert first.password != second.password


def test_an_old_client_may_leave_out_read_only(server):
    zk = Wire(server.address, handshake=False)
    zk.send_frame(struct.pack("!iqiq", 0, 0, 10_000, 0) + w.buffer(b"\0" * 16))
    reader = Reader(zk.read_frame())
    _, timeout_ms, session = reader.unpack("iiq")
    assert session != 0 and timeout_ms > 0
    zk.drop()


def test_closing_removes_ephemerals_at_once_and_closes_the_connection(wire, base):
    zk, other = wire(), wire()
    zk.create(f"{base}/e", flags=w.EPHEMERAL)
    zk.create(f"{base}/p")
    assert other.exists(f"{base}/e").ephemeral_owner == zk.session
    zk.close_session()
    other.request(w.SYNC, w.string("/"))
    assert other.children(base) == ["p"]


def test_a_session_goes_on_over_a_new_connection_with_its_password(wire, base):
    zk = wire()
    zk.create(f"{base}/e", flags=w.EPHEMERAL)
    zk.drop()
    again = wire(session=zk.session, password=zk.password)
    assert (again.session, again.password) == (zk.session, zk.password)
    assert again.exists(f"{base}/e").ephemeral_owner == zk.session
    assert again.delete(f"{base}/e") == w.OK


def test_a_wrong_password_is_refused_and_the_session_lives(server, wire, base):
    zk = wire()
    zk.create(f"{base}/e", flags=w.EPHEMERAL)
    thief = Wire(server.address, session=zk.session, password=b"x" * 16)
    assert (thief.session, thief.timeout_ms) == (0, 0)
    thief.wait_closed()
    thief.drop()
    again = wire(session=zk.session, password=zk.password)
    assert again.exists(f"{base}/e").ephemeral_owner == zk.session


@pytest.mark.quorate
def test_a_wrong_password_does_not_disturb_the_connection_there_is(server, wire):
    """ZooKeeper closes the session's connection before it looks at the password."""
    zk = wire()
    thief = Wire(server.address, session=zk.session, password=b"x" * 16)
    assert thief.timeout_ms == 0
    thief.drop()
    assert zk.exists("/") is not None


def test_a_session_that_ended_is_refused(wire, server):
    zk = wire()
    zk.close_session()
    again = Wire(server.address, session=zk.session, password=zk.password)
    assert again.timeout_ms == 0
    again.wait_closed()
    again.drop()


def test_an_old_connection_cannot_write_once_the_session_has_moved(wire, base):
    zk = wire()
    zk.create(f"{base}/before")
    again = wire(session=zk.session, password=zk.password)
    again.create(f"{base}/after")
    # ZooKeeper closes the old connection when the session goes on over a new one; a request that
    # is under way then is refused or gets no answer.
    try:
        assert zk.request(w.CREATE, w.create_body(f"{base}/late")).err == w.SESSION_MOVED
    except (Closed, BrokenPipeError, ConnectionResetError):
        pass
    assert again.children(base) == ["after", "before"]


def test_silence_ends_a_session_and_its_ephemerals(wire, base):
    watcher = wire()
    zk = wire(timeout_ms=SHORT_MS)
    zk.create(f"{base}/e", flags=w.EPHEMERAL)
    watcher.exists(f"{base}/e", watch=True)
    begin = time.monotonic()
    zk.drop()
    event = watcher.wait_event()
    took = time.monotonic() - begin
    assert (event.type, event.path) == (w.NODE_DELETED, f"{base}/e")
    assert took >= zk.timeout_ms / 1000 * 0.9, "not before its timeout"
    assert took <= zk.timeout_ms / 1000 * 2 + 2, "soon after its timeout"


def test_a_silent_connection_is_closed_when_its_session_expires(wire):
    zk = wire(timeout_ms=SHORT_MS)
    zk.wait_closed()
    again = wire(session=zk.session, password=zk.password)
    assert again.timeout_ms == 0


def test_pings_keep_a_session_alive(wire, base):
    zk = wire(timeout_ms=SHORT_MS)
    zk.create(f"{base}/e", flags=w.EPHEMERAL)
    deadline = time.monotonic() + 2.5 * zk.timeout_ms / 1000
    while time.monotonic() < deadline:
        zk.ping()
        time.sleep(zk.timeout_ms / 1000 / 5)
    assert zk.exists(f"{base}/e") is not None


def test_any_traffic_keeps_a_session_alive(wire, base):
    zk = wire(timeout_ms=SHORT_MS)
    zk.create(f"{base}/e", flags=w.EPHEMERAL)
    deadline = time.monotonic() + 2.5 * zk.timeout_ms / 1000
    while time.monotonic() < deadline:
        assert zk.exists(f"{base}/e") is not None
        time.sleep(zk.timeout_ms / 1000 / 5)


def test_a_reconnect_in_time_keeps_the_ephemerals(wire, base):
    zk = wire(timeout_ms=4000)
    zk.create(f"{base}/e", flags=w.EPHEMERAL)
    watcher = wire()
    for _ in range(5):
        zk.drop()
        zk = wire(timeout_ms=4000, session=zk.session, password=zk.password)
        assert zk.timeout_ms == 4000
    assert watcher.exists(f"{base}/e").ephemeral_owner == zk.session


def test_sessions_and_ephemerals_survive_a_restart(own_server):
    zk = Wire(own_server.address, timeout_ms=20_000)
    zk.create("/e", flags=w.EPHEMERAL)
    zk.create("/p", b"kept")
    own_server.restart()
    again = Wire(own_server.address, session=zk.session, password=zk.password, timeout_ms=20_000)
    assert again.session == zk.session
    assert again.exists("/e").ephemeral_owner == zk.session
    assert again.get("/p")[0] == b"kept"
    again.close_session()
    third = Wire(own_server.address)
    assert third.exists("/e") is None


def test_a_session_whose_client_died_with_the_server_expires(own_server):
    zk = Wire(own_server.address, timeout_ms=SHORT_MS)
    zk.create("/e", flags=w.EPHEMERAL)
    own_server.restart()
    watcher = Wire(own_server.address)
    until(lambda: watcher.exists("/e") is None, "the ephemeral is gone")


def test_the_zxid_goes_on_growing_over_a_restart(own_server):
    zk = Wire(own_server.address)
    zk.create("/a")
    before = zk.last_zxid
    own_server.restart()
    again = Wire(own_server.address)
    again.create("/b")
    assert again.last_zxid > before
    assert again.exists("/a").czxid == before


def test_a_client_that_has_seen_the_future_is_turned_away(server):
    """ZooKeeper closes the connection of a client that has seen a later zxid than the server."""
    zk = Wire(server.address, handshake=False)
    future = 1 << 60
    zk.send_frame(struct.pack("!iqiq", 0, future, 10_000, 0) + w.buffer(b"\0" * 16) + b"\0")
    zk.wait_closed()
    zk.drop()
