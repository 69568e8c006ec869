"""A client of ZooKeeper's protocol that sends what it is told, right or wrong, and shows what comes back.

It shares no code with kazoo or with the server, so that it can judge both. Field layouts are those of
ZooKeeper's `zookeeper.jute`.
"""

import select
import socket
import struct
from typing import List, NamedTuple, Optional, Sequence, Tuple

from harness.waiting import DEADLINE_S

# Operations.
CREATE, DELETE, EXISTS, GET_DATA, SET_DATA, GET_ACL, SET_ACL, GET_CHILDREN = range(1, 9)
SYNC, PING, GET_CHILDREN2, CHECK, MULTI, CREATE2 = 9, 11, 12, 13, 14, 15
AUTH, SET_WATCHES = 100, 101
CALL, CANCEL, ACKNOWLEDGE = 700, 701, 702
CLOSE = -11
ERROR = -1

# Reserved transaction numbers of frames.
XID_EVENT, XID_PING, XID_AUTH, XID_SET_WATCHES = -1, -2, -4, -8

# Error codes.
OK = 0
MARSHALLING, UNIMPLEMENTED, BAD_ARGUMENTS = -5, -6, -8
RUNTIME_INCONSISTENCY = -2
NO_NODE, NO_AUTH, BAD_VERSION = -101, -102, -103
NO_CHILDREN_FOR_EPHEMERALS, NODE_EXISTS, NOT_EMPTY = -108, -110, -111
SESSION_EXPIRED, INVALID_ACL, SESSION_MOVED = -112, -114, -118

# Create flags.
PERSISTENT, EPHEMERAL, SEQUENTIAL, EPHEMERAL_SEQUENTIAL, CONTAINER = range(5)

# Watch events.
NODE_CREATED, NODE_DELETED, NODE_DATA_CHANGED, NODE_CHILDREN_CHANGED = range(1, 5)
ANSWER = 700

# Statuses of a call.
(
    RETURNED,
    PARKED,
    FAILED,
    REFUSED,
    TRAPPED,
    EXCEEDED,
    CANCELLED,
    TIMED_OUT,
    UNMOUNTED,
    BAD_CALL,
    NOT_READY,
) = range(11)

OPEN_ACL = [(31, "world", "anyone")]


class Stat(NamedTuple):
    czxid: int
    mzxid: int
    ctime: int
    mtime: int
    version: int
    cversion: int
    aversion: int
    ephemeral_owner: int
    data_length: int
    num_children: int
    pzxid: int


class Event(NamedTuple):
    type: int
    path: str
    #: (key, status, result), if it is the late answer to a call.
    answer: Optional[Tuple[int, int, str]] = None
    zxid: int = -1


class Reply(NamedTuple):
    xid: int
    zxid: int
    err: int
    body: bytes


class Closed(Exception):
    """The server closed the connection."""


def string(text: Optional[str]) -> bytes:
    if text is None:
        return struct.pack("!i", -1)
    return buffer(text.encode())


def buffer(data: Optional[bytes]) -> bytes:
    if data is None:
        return struct.pack("!i", -1)
    return struct.pack("!i", len(data)) + data


def acls(entries: Sequence[Tuple[int, str, str]]) -> bytes:
    return struct.pack("!i", len(entries)) + b"".join(
        struct.pack("!i", perms) + string(scheme) + string(identity)
        for perms, scheme, identity in entries
    )


def create_body(
    path: str,
    data: Optional[bytes] = b"",
    flags: int = PERSISTENT,
    acl: Sequence[Tuple[int, str, str]] = OPEN_ACL,
) -> bytes:
    return string(path) + buffer(data) + acls(acl) + struct.pack("!i", flags)


def path_version(path: str, version: int = -1) -> bytes:
    return string(path) + struct.pack("!i", version)


def path_watch(path: str, watch: bool = False) -> bytes:
    return string(path) + bytes([watch])


def set_body(path: str, data: Optional[bytes], version: int = -1) -> bytes:
    return string(path) + buffer(data) + struct.pack("!i", version)


def multi_body(operations: Sequence[Tuple[int, bytes]]) -> bytes:
    parts = [struct.pack("!iBi", op, 0, -1) + body for op, body in operations]
    return b"".join(parts) + struct.pack("!iBi", -1, 1, -1)


def set_watches_body(
    zxid: int,
    data: Sequence[str] = (),
    exist: Sequence[str] = (),
    child: Sequence[str] = (),
) -> bytes:
    def strings(texts: Sequence[str]) -> bytes:
        return struct.pack("!i", len(texts)) + b"".join(map(string, texts))

    return struct.pack("!q", zxid) + strings(data) + strings(exist) + strings(child)


def call_body(
    key: int,
    mount: str,
    operation: str,
    arguments: str,
    timeout_ms: int = 0,
    acknowledged: int = 0,
    awaited: Sequence[int] = (),
) -> bytes:
    return (
        struct.pack("!q", key)
        + string(mount)
        + string(operation)
        + string(arguments)
        + struct.pack("!q", timeout_ms)
        + acknowledge_body(acknowledged, awaited)
    )


def acknowledge_body(mark: int, awaited: Sequence[int] = ()) -> bytes:
    return struct.pack(f"!qi{len(awaited)}q", mark, len(awaited), *awaited)


class Reader:
    """Takes a body apart from front to back."""

    def __init__(self, data: bytes) -> None:
        self.data, self.offset = data, 0

    def unpack(self, form: str) -> tuple:
        values = struct.unpack_from("!" + form, self.data, self.offset)
        self.offset += struct.calcsize("!" + form)
        return values

    def int(self) -> int:
        return self.unpack("i")[0]

    def long(self) -> int:
        return self.unpack("q")[0]

    def buffer(self) -> Optional[bytes]:
        length = self.int()
        if length < 0:
            return None
        data = self.data[self.offset : self.offset + length]
        assert len(data) == length, "truncated buffer"
        self.offset += length
        return data

    def string(self) -> Optional[str]:
        data = self.buffer()
        return None if data is None else data.decode()

    def strings(self) -> List[Optional[str]]:
        return [self.string() for _ in range(self.int())]

    def stat(self) -> Stat:
        return Stat(*self.unpack("qqqqiiiqiiq"))

    def acls(self) -> List[Tuple[int, Optional[str], Optional[str]]]:
        return [(self.int(), self.string(), self.string()) for _ in range(self.int())]

    def at_end(self) -> bool:
        return self.offset == len(self.data)

    def multi(self) -> List[tuple]:
        """(op, result) pairs; a failed part is (ERROR, code)."""
        results = []
        while True:
            op, done, err = self.unpack("iBi")
            if done:
                return results
            if op == CREATE:
                results.append((op, self.string()))
            elif op == CREATE2:
                results.append((op, (self.string(), self.stat())))
            elif op == SET_DATA:
                results.append((op, self.stat()))
            elif op == ERROR:
                results.append((op, self.int()))
            else:
                results.append((op, None))


class Wire:
    """One connection. Responses come in order; events and ping replies are collected aside."""

    def __init__(
        self,
        address: Tuple[str, int],
        timeout_ms: int = 30_000,
        session: int = 0,
        password: bytes = b"\0" * 16,
        last_zxid: int = 0,
        handshake: bool = True,
    ) -> None:
        self.socket = socket.create_connection(address, timeout=DEADLINE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.events: List[Event] = []
        self.pings = 0
        #: Replies and events in the order in which they came: ("event", Event) or ("reply", xid).
        self.order: List[tuple] = []
        self.last_xid = 0
        self.last_zxid = last_zxid
        if handshake:
            body = struct.pack("!iqiq", 0, last_zxid, timeout_ms, session) + buffer(password) + b"\0"
            self.send_frame(body)
            reader = Reader(self.read_frame())
            _, self.timeout_ms, self.session = reader.unpack("iiq")
            self.password = reader.buffer() or b""

    def send_raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_frame(self, body: bytes) -> None:
        self.send_raw(struct.pack("!i", len(body)) + body)

    def frame(self, op: int, body: bytes = b"", xid: Optional[int] = None) -> bytes:
        if xid is None:
            self.last_xid += 1
            xid = self.last_xid
        payload = struct.pack("!ii", xid, op) + body
        return struct.pack("!i", len(payload)) + payload

    def send(self, op: int, body: bytes = b"", xid: Optional[int] = None) -> int:
        """Sends a request and gives its xid."""
        self.send_raw(self.frame(op, body, xid))
        return self.last_xid if xid is None else xid

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            try:
                piece = self.socket.recv(length - len(data))
            except ConnectionError as error:
                raise Closed from error
            if not piece:
                raise Closed
            data += piece
        return data

    def read_frame(self) -> bytes:
        (length,) = struct.unpack("!i", self._read(4))
        return self._read(length)

    def read_any(self) -> Reply:
        """The next frame, whatever it is. Events are also put into ``events``."""
        frame = self.read_frame()
        reader = Reader(frame)
        xid, zxid, err = reader.unpack("iqi")
        reply = Reply(xid, zxid, err, frame[reader.offset :])
        if xid == XID_EVENT:
            kind, _state = reader.unpack("ii")
            path = reader.string() or ""
            answer = None
            if kind == ANSWER:
                answer = (reader.long(), reader.int(), reader.string() or "")
            event = Event(kind, path, answer, zxid)
            self.events.append(event)
            self.order.append(("event", event))
        elif xid == XID_PING:
            self.pings += 1
            self.order.append(("ping", xid))
        else:
            if zxid > 0:
                self.last_zxid = zxid
            self.order.append(("reply", xid))
        return reply

    def receive(self, xid: Optional[int] = None) -> Reply:
        """The next response, which must be the one to ``xid`` if that is given."""
        while True:
            reply = self.read_any()
            if reply.xid in (XID_EVENT, XID_PING):
                continue
            assert xid is None or reply.xid == xid, f"expected {xid}, got {reply}"
            return reply

    def request(self, op: int, body: bytes = b"") -> Reply:
        return self.receive(self.send(op, body))

    def wait_event(self, wanted: int = 1) -> Event:
        """Reads until ``wanted`` events are there, in all, and gives the last of them."""
        while len(self.events) < wanted:
            self.read_any()
        return self.events[wanted - 1]

    def ping(self) -> None:
        before = self.pings
        self.send(PING, xid=XID_PING)
        while self.pings == before:
            self.read_any()

    def nothing_to_read(self) -> bool:
        return not select.select([self.socket], [], [], 0)[0]

    def wait_closed(self) -> None:
        """Reads until the server closes the connection; whatever comes before is dropped."""
        try:
            while True:
                self._read(1)
        except Closed:
            return

    # The operations, as a test wants to say them. Each gives (err, value).

    def create(self, path: str, data: Optional[bytes] = b"", flags: int = PERSISTENT) -> str:
        reply = self.request(CREATE, create_body(path, data, flags))
        assert reply.err == OK, reply
        return Reader(reply.body).string() or ""

    def exists(self, path: str, watch: bool = False) -> Optional[Stat]:
        reply = self.request(EXISTS, path_watch(path, watch))
        if reply.err == NO_NODE:
            return None
        assert reply.err == OK, reply
        return Reader(reply.body).stat()

    def get(self, path: str, watch: bool = False) -> Tuple[Optional[bytes], Stat]:
        reply = self.request(GET_DATA, path_watch(path, watch))
        assert reply.err == OK, reply
        reader = Reader(reply.body)
        return reader.buffer(), reader.stat()

    def set(self, path: str, data: bytes, version: int = -1) -> Stat:
        reply = self.request(SET_DATA, set_body(path, data, version))
        assert reply.err == OK, reply
        return Reader(reply.body).stat()

    def children(self, path: str, watch: bool = False) -> List[str]:
        reply = self.request(GET_CHILDREN, path_watch(path, watch))
        assert reply.err == OK, reply
        return sorted(name or "" for name in Reader(reply.body).strings())

    def delete(self, path: str, version: int = -1) -> int:
        return self.request(DELETE, path_version(path, version)).err

    def multi(self, operations: Sequence[Tuple[int, bytes]]) -> List[tuple]:
        reply = self.request(MULTI, multi_body(operations))
        reader = Reader(reply.body)
        results = reader.multi()
        assert reader.at_end()
        return results

    def call(self, *arguments, **named) -> Tuple[int, str]:
        """(status, result) of the response; see :func:`call_body`."""
        reply = self.request(CALL, call_body(*arguments, **named))
        assert reply.err == OK, reply
        reader = Reader(reply.body)
        status, result = reader.int(), reader.string() or ""
        assert reader.at_end()
        return status, result

    def close_session(self) -> None:
        reply = self.request(CLOSE)
        assert reply.err == OK, reply
        self.wait_closed()
        self.socket.close()

    def drop(self) -> None:
        """Closes the connection without a word: the session lives on until it expires."""
        self.socket.close()
