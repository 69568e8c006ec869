"""Bytes that no client should send: the server answers an error or closes, and goes on serving."""

import random
import socket
import struct
from pathlib import Path

import pytest

from harness import wire as w
from harness.waiting import DEADLINE_S
from harness.wire import Closed, Wire

pytestmark = pytest.mark.timeout(60)

CLOSED = "closed"


def outcome(connection: Wire, xid: int):
    """The error of the response to ``xid``, or CLOSED."""
    try:
        return connection.receive(xid).err
    except (Closed, ConnectionError):
        return CLOSED


@pytest.fixture(autouse=True)
def still_serves(server):
    yield
    connection = Wire(server.address)
    assert connection.exists("/") is not None
    connection.close_session()


@pytest.mark.parametrize("length", [-1, -(2**31), 2**31 - 1, 16 * 1024 * 1024])
def test_an_impossible_frame_length_closes_the_connection(server, wire, length):
    for established in (False, True):
        connection = wire(handshake=established)
        connection.send_raw(struct.pack("!i", length))
        connection.wait_closed()


def test_an_oversized_frame_is_not_read(server, wire):
    connection = wire()
    connection.socket.settimeout(1)  # Whoever does not read makes the sender wait.
    try:
        connection.send_raw(struct.pack("!i", 64 * 1024 * 1024))
        for _ in range(64):
            connection.send_raw(b"x" * 1024 * 1024)
    except OSError:
        pass
    connection.socket.settimeout(DEADLINE_S)
    connection.wait_closed()


def test_data_beyond_a_packet_are_refused(wire, base):
    connection = wire()
    try:
        xid = connection.send(w.CREATE, w.create_body(f"{base}/big", b"x" * 3 * 1024 * 1024))
        assert outcome(connection, xid) == CLOSED
    except ConnectionError:
        pass
    assert wire().children(base) == []


@pytest.mark.parametrize("size", [0, 1, 4, 7])
def test_a_request_shorter_than_its_header_closes_the_connection(wire, size):
    connection = wire()
    connection.send_frame(b"\0" * size)
    connection.wait_closed()


@pytest.mark.parametrize("op", [w.CREATE, w.CREATE2, w.DELETE, w.SET_DATA, w.SET_ACL, w.MULTI])
def test_a_truncated_write_gets_a_marshalling_error(wire, op):
    connection = wire()
    assert outcome(connection, connection.send(op, b"\0\0")) in (w.MARSHALLING, CLOSED)


@pytest.mark.parametrize(
    "op", [w.EXISTS, w.GET_DATA, w.GET_CHILDREN, w.GET_CHILDREN2, w.GET_ACL, w.SYNC, w.SET_WATCHES]
)
def test_a_truncated_read_gets_a_marshalling_error(wire, op):
    connection = wire()
    assert outcome(connection, connection.send(op, b"\0\0")) in (w.MARSHALLING, CLOSED)


@pytest.mark.parametrize("op", [12345, -77, 9999, 0x7FFFFFFF])
def test_an_unknown_operation_is_unimplemented(wire, op):
    connection = wire()
    assert outcome(connection, connection.send(op, b"whatever")) in (w.UNIMPLEMENTED, CLOSED)


@pytest.mark.parametrize(
    "body",
    [
        # A path longer than the frame, a negative length that is not null, a vector of two billion.
        struct.pack("!i", 2**31 - 1) + b"/a",
        struct.pack("!i", -2) + b"/a",
        w.string("/hostile") + w.buffer(b"") + struct.pack("!i", 2**31 - 1),
        w.string("/hostile") + struct.pack("!i", 2**30) + b"x",
    ],
)
def test_lying_lengths_in_a_create(wire, body):
    connection = wire()
    accepted = (w.MARSHALLING, w.BAD_ARGUMENTS, w.INVALID_ACL, CLOSED)
    assert outcome(connection, connection.send(w.CREATE, body)) in accepted


def test_a_path_that_is_no_utf8(wire):
    connection = wire()
    body = w.buffer(b"/\xff\xfe\xfd") + w.create_body("", b"")[4:]
    assert outcome(connection, connection.send(w.CREATE, body)) in (w.BAD_ARGUMENTS, w.MARSHALLING, CLOSED)
    assert all(name.isprintable() for name in wire().children("/"))


def test_a_null_path(wire):
    connection = wire()
    body = w.string(None) + w.create_body("", b"")[4:]
    accepted = (w.BAD_ARGUMENTS, w.MARSHALLING, CLOSED)
    assert outcome(connection, connection.send(w.CREATE, body)) in accepted


def test_a_multi_of_what_cannot_be_in_one(wire, base):
    for op, body in [
        (w.MULTI, w.multi_body([])),
        (w.GET_DATA, w.path_watch(base)),
        (w.CLOSE, b""),
        (4711, b""),
    ]:
        connection = wire()
        request = w.multi_body([(w.CREATE, w.create_body(f"{base}/x")), (op, body)])
        try:
            reply = connection.request(w.MULTI, request)
        except Closed:
            continue
        if reply.err == w.OK:
            assert [kind for kind, _ in w.Reader(reply.body).multi()] == [w.ERROR, w.ERROR]
    assert wire().children(base) == []


def test_a_multi_without_an_end(wire, base):
    connection = wire()
    body = w.multi_body([(w.CREATE, w.create_body(f"{base}/x"))])[:-9]
    assert outcome(connection, connection.send(w.MULTI, body)) in (w.MARSHALLING, CLOSED)
    assert wire().children(base) == []


def test_bytes_behind_a_request_do_no_harm(wire, base):
    connection = wire()
    xid = connection.send(w.EXISTS, w.path_watch(base) + b"trailing")
    assert outcome(connection, xid) in (w.OK, w.MARSHALLING, CLOSED)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32,
        b"abcd",
        b"\0\0\0\0",
        struct.pack("!i", 44) + b"\xff" * 44,
        struct.pack("!i", 10) + b"\0" * 10,
    ],
)
def test_a_first_frame_that_is_no_handshake(server, garbage):
    connection = Wire(server.address, handshake=False)
    try:
        connection.send_raw(garbage)
        connection.socket.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # Closed already.
    connection.wait_closed()
    connection.drop()


def test_random_frames(server):
    """Of many shapes: valid headers with random bodies, and random bytes altogether."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    ops = [*range(-2, 25), *range(99, 108), *range(499, 509), *range(699, 704), -10, -11]
    for _ in range(300):
        connection = Wire(server.address, timeout_ms=4000)
        try:
            for _ in range(rng.randrange(1, 6)):
                body = rng.randbytes(rng.randrange(0, 60))
                if rng.random() < 0.5:
                    body = w.string("/r") + body
                if rng.random() < 0.9:
                    body = struct.pack("!ii", rng.randrange(1, 9), rng.choice(ops)) + body
                connection.send_frame(body)
            connection.socket.shutdown(socket.SHUT_WR)
            connection.wait_closed()
        except OSError:
            pass
        finally:
            connection.drop()


def test_a_client_that_sends_and_never_reads_does_not_fill_the_memory(server, wire, base):
    """Either the server stops reading from it, or it closes the connection."""
    zk = wire()
    zk.create(f"{base}/big", b"x" * 1_000_000)
    before = resident_bytes(server)
    connection = wire()
    frame = b"".join(connection.frame(w.GET_DATA, w.path_watch(f"{base}/big")) for _ in range(1000))
    connection.socket.settimeout(2)
    asked = 0
    try:
        for _ in range(20):
            connection.send_raw(frame)
            asked += 1000
    except OSError:
        pass
    assert asked > 0
    # 20,000 answers of a megabyte were asked for: 20 GB.
    assert resident_bytes(server) - before < 500_000_000
    connection.drop()


def test_many_idle_connections(server, base):
    opened = [socket.create_connection(server.address, timeout=10) for _ in range(200)]
    connection = Wire(server.address)
    assert connection.exists(base) is not None
    connection.close_session()
    for one in opened:
        one.close()


def resident_bytes(server) -> int:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * 4096
