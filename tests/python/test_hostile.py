"""Bytes that no client should send: the server answers an error or closes, and goes on serving.

What it does was compared with a ZooKeeper 3.8 that was sent the same bytes, and is the same, unless a
comment says otherwise.
"""

import random
import socket
import struct
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from harness import wire as w
from harness.waiting import DEADLINE_S
from harness.wire import Closed, Wire

pytestmark = pytest.mark.timeout(60)

CLOSED = "closed"
AUTH_FAILED = -115


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


@pytest.mark.parametrize(
    "op",
    [w.CREATE, w.CREATE2, w.DELETE, w.SET_DATA, w.SET_ACL, w.MULTI]
    + [w.EXISTS, w.GET_DATA, w.GET_CHILDREN, w.GET_CHILDREN2, w.GET_ACL, w.SYNC, w.SET_WATCHES],
)
def test_a_truncated_request_gets_a_marshalling_error_and_the_connection_lives(wire, op):
    connection = wire()
    assert outcome(connection, connection.send(op, b"\0\0")) == w.MARSHALLING
    assert connection.exists("/") is not None


@pytest.mark.parametrize("op", [0, 10, 99, 12345, -1, -2, -77, 9999, 0x7FFFFFFF])
def test_an_unknown_operation_is_unimplemented_and_ends_the_connection(wire, op):
    connection = wire()
    reply = connection.request(op, b"whatever")
    assert (reply.zxid, reply.err, reply.body) == (-1, w.UNIMPLEMENTED, b"")
    with pytest.raises(Closed):
        connection.read_any()


@pytest.mark.quorate
def test_what_is_owed_is_answered_before_an_unknown_operation(wire, base):
    """ZooKeeper answers the unknown operation at once, and what is owed is lost or not."""
    connection = wire()
    burst = connection.frame(w.CREATE, w.create_body(f"{base}/a"))
    burst += connection.frame(w.EXISTS, w.path_watch(f"{base}/a"))
    burst += connection.frame(4711, b"whatever")
    burst += connection.frame(w.CREATE, w.create_body(f"{base}/b"))
    connection.send_raw(burst)
    answers = [(reply.xid, reply.err) for reply in (connection.receive() for _ in range(3))]
    assert answers == [(1, w.OK), (2, w.OK), (3, w.UNIMPLEMENTED)]
    with pytest.raises(Closed):
        connection.read_any()
    assert wire().children(base) == ["a"]


@pytest.mark.quorate
@pytest.mark.parametrize("op", [w.CHECK, 17, 18, 20, 21, 22, 102, 103, 104, 106, 107, -10])
def test_an_operation_of_zookeepers_that_is_not_served_leaves_the_connection_open(wire, op):
    """ZooKeeper serves them, so there is nothing to compare; a client can do without."""
    connection = wire()
    assert outcome(connection, connection.send(op, b"whatever")) == w.UNIMPLEMENTED
    assert connection.exists("/") is not None


def test_a_broken_auth_closes_without_an_answer(wire):
    connection = wire()
    connection.send(w.AUTH, b"\0\0", xid=w.XID_AUTH)
    with pytest.raises(Closed):
        connection.read_any()


@pytest.mark.parametrize("scheme", ["world", "nonsense", ""])
def test_an_auth_scheme_that_proves_nothing_fails_and_closes(wire, scheme):
    connection = wire()
    body = struct.pack("!i", 0) + w.string(scheme) + w.buffer(b"u:p")
    assert outcome(connection, connection.send(w.AUTH, body, xid=w.XID_AUTH)) == AUTH_FAILED
    with pytest.raises(Closed):
        connection.read_any()


@pytest.mark.quorate
def test_an_identity_of_a_megabyte_fails_and_closes(server, wire, base):
    """ZooKeeper takes it. Every identity goes along with every write, and into each ACL that says auth."""
    before = resident_bytes(server)
    for _ in range(4):
        connection = wire()
        body = struct.pack("!i", 0) + w.string("digest") + w.buffer(b"u" * 1_000_000 + b":p")
        assert outcome(connection, connection.send(w.AUTH, body, xid=w.XID_AUTH)) == AUTH_FAILED
        connection.wait_closed()
    assert resident_bytes(server) - before < 100_000_000


@pytest.mark.quorate
def test_what_auth_is_written_out_to_is_bounded(server, wire, base):
    """ZooKeeper has no bound but its memory."""
    connection = wire()
    for i in range(4):
        body = struct.pack("!i", 0) + w.string("digest") + w.buffer(b"%d" % i + b"u" * 900 + b":p")
        assert outcome(connection, connection.send(w.AUTH, body, xid=w.XID_AUTH)) == w.OK
    rules = [(permissions, "auth", "") for permissions in range(1, 17)]
    body = w.create_body(f"{base}/a", acl=rules)
    assert outcome(connection, connection.send(w.CREATE, body)) == w.OK
    parts = [(w.CREATE, w.create_body(f"{base}/{i}", acl=rules)) for i in range(2000)]
    results = w.Reader(connection.request(w.MULTI, w.multi_body(parts)).body).multi()
    assert w.INVALID_ACL in [error for _, error in results]
    assert wire().children(base) == ["a"]


@pytest.mark.parametrize(
    "body, error",
    [
        # A path longer than the frame, a negative length that is not null, vectors of a billion and two.
        (struct.pack("!i", 2**31 - 1) + b"/a", w.MARSHALLING),
        (struct.pack("!i", -2) + b"/a", w.MARSHALLING),
        (w.string("/hostile") + w.buffer(b"") + struct.pack("!i", 2**31 - 1), w.MARSHALLING),
        (w.string("/hostile") + struct.pack("!i", 2**30) + b"x", w.MARSHALLING),
    ],
)
def test_lying_lengths_in_a_create(wire, body, error):
    connection = wire()
    assert outcome(connection, connection.send(w.CREATE, body)) == error


def test_a_path_that_is_no_utf8(wire):
    connection = wire()
    body = w.buffer(b"/\xff\xfe\xfd") + w.create_body("", b"")[4:]
    # Java reads U+FFFD there, which no path may have.
    assert outcome(connection, connection.send(w.CREATE, body)) == w.BAD_ARGUMENTS
    assert all(name.isprintable() for name in wire().children("/"))


@pytest.mark.quorate
def test_a_null_path(wire):
    connection = wire()
    body = w.string(None) + w.create_body("", b"")[4:]
    # ZooKeeper answers MarshallingError to a create and BadArguments to a setData: null is empty here.
    assert outcome(connection, connection.send(w.CREATE, body)) == w.BAD_ARGUMENTS


@pytest.mark.parametrize(
    "op, body", [(w.GET_DATA, w.path_watch("/")), (w.CLOSE, b""), (4711, b""), (w.SYNC, w.string("/"))]
)
def test_a_multi_of_what_cannot_be_in_one(wire, base, op, body):
    connection = wire()
    request = w.multi_body([(w.CREATE, w.create_body(f"{base}/x")), (op, body)])
    assert outcome(connection, connection.send(w.MULTI, request)) == w.MARSHALLING
    assert wire().children(base) == []


def test_a_multi_without_an_end(wire, base):
    connection = wire()
    body = w.multi_body([(w.CREATE, w.create_body(f"{base}/x"))])[:-9]
    assert outcome(connection, connection.send(w.MULTI, body)) == w.MARSHALLING
    assert wire().children(base) == []


def test_bytes_behind_a_request_do_no_harm(wire, base):
    connection = wire()
    xid = connection.send(w.EXISTS, w.path_watch(base) + b"trailing")
    assert outcome(connection, xid) == w.OK


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


@pytest.mark.quorate
@pytest.mark.parametrize("write_first", [False, True])
def test_a_client_that_sends_and_never_reads_does_not_fill_the_memory(server, wire, base, write_first):
    """The server stops reading from it."""
    zk = wire()
    zk.create(f"{base}/big", b"x" * 1_000_000)
    before = resident_bytes(server)
    connection = wire()
    frame = b""
    if write_first:
        # Slow enough that many reads gather behind it.
        checks = [(w.CHECK, w.path_version(f"{base}/big"))] * 20_000
        frame += connection.frame(w.MULTI, w.multi_body(checks))
    frame += b"".join(connection.frame(w.GET_DATA, w.path_watch(f"{base}/big")) for _ in range(1000))
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
    assert zk.exists(base) is not None
    assert resident_bytes(server) - before < 100_000_000
    connection.drop()


def test_a_client_that_reads_gets_every_large_answer_behind_a_write(wire, base):
    connection = wire()
    connection.create(f"{base}/big", b"x" * 1_000_000)
    burst = connection.frame(w.SET_DATA, w.set_body(f"{base}/big", b"y" * 1_000_000))
    burst += b"".join(connection.frame(w.GET_DATA, w.path_watch(f"{base}/big")) for _ in range(100))
    first = connection.last_xid - 100
    connection.send_raw(burst)
    assert connection.receive(first).err == w.OK
    for xid in range(first + 1, first + 101):
        reply = connection.receive(xid)
        assert (reply.err, reply.body[4:5], len(reply.body)) == (w.OK, b"y", 4 + 1_000_000 + 68)


@pytest.mark.quorate
def test_http_answers_that_nobody_reads_are_bounded(server, wire, base):
    # A byte that JSON writes as six.
    wire().create(f"{base}/big", b"\x01" * 1_000_000)
    before = resident_bytes(server)
    address = urlsplit(server.http.base)
    opened = []
    for _ in range(100):
        one = socket.create_connection((address.hostname, address.port), timeout=10)
        one.sendall(b"GET /v1/tree%s/big HTTP/1.1\r\nHost: x\r\n\r\n" % base.encode())
        opened.append(one)
    statuses = [one.recv(12) for one in opened]
    assert set(statuses) == {b"HTTP/1.1 200", b"HTTP/1.1 503"}
    assert resident_bytes(server) - before < 200_000_000
    for one in opened:
        one.close()


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
