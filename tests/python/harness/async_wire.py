"""Thousands of clients of ZooKeeper's protocol in one thread: what ``wire`` is for one."""

import asyncio
import socket
import struct
from collections import deque
from typing import Deque, Optional, Tuple

from harness import wire as w
from harness.wire import Closed, Event, Reader, Reply

#: A frame's length.
LENGTH = struct.Struct("!i")


class AsyncWire(asyncio.Protocol):
    """One connection. Requests are answered in their order; events are put into ``events``.

    Whatever waits when the connection ends gets :class:`Closed`.
    """

    def __init__(self) -> None:
        self.events: asyncio.Queue = asyncio.Queue()
        self.closed = False
        self.last_zxid = 0
        self._data = bytearray()
        self._waiting: Deque[asyncio.Future] = deque()
        self._xid = 0
        self._greeted: asyncio.Future = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(
        cls,
        address: Tuple[str, int],
        timeout_ms: int = 30_000,
        session: int = 0,
        password: bytes = b"\0" * 16,
        last_zxid: int = 0,
        receive_bytes: Optional[int] = None,
    ) -> "AsyncWire":
        """Connects, with a session of its own unless one is named. ``receive_bytes`` bounds the socket's buffer."""
        loop = asyncio.get_running_loop()
        plain = socket.socket()
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_bytes is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            await loop.sock_connect(plain, address)
            _, wire = await loop.create_connection(cls, sock=plain)
        except BaseException:
            plain.close()
            raise
        handshake = struct.pack("!iqiq", 0, last_zxid, timeout_ms, session) + w.buffer(password) + b"\0"
        wire.transport.write(LENGTH.pack(len(handshake)) + handshake)
        reader = Reader(await wire._greeted)
        _, wire.timeout_ms, wire.session = reader.unpack("iiq")
        wire.password = reader.buffer() or b""
        wire.last_zxid = last_zxid
        return wire

    def connection_made(self, transport) -> None:
        self.transport = transport

    def connection_lost(self, _error) -> None:
        self.closed = True
        waiting = [self._greeted, *self._waiting]
        for future in waiting:
            if not future.done():
                future.set_exception(Closed())
                # Not everybody who asked still listens.
                future.exception()
        self.events.put_nowait(None)

    def data_received(self, data: bytes) -> None:
        self._data += data
        at = 0
        while len(self._data) - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._data, at)
            if len(self._data) - at - LENGTH.size < length:
                break
            at += LENGTH.size
            self._frame(bytes(self._data[at : at + length]))
            at += length
        del self._data[:at]

    def _frame(self, frame: bytes) -> None:
        if not self._greeted.done():
            self._greeted.set_result(frame)
            return
        reader = Reader(frame)
        xid, zxid, err = reader.unpack("iqi")
        if xid == w.XID_EVENT:
            kind, _state = reader.unpack("ii")
            path = reader.string() or ""
            answer = None
            if kind == w.ANSWER:
                answer = (reader.long(), reader.int(), reader.string() or "")
            self.events.put_nowait(Event(kind, path, answer, zxid))
        elif xid != w.XID_PING:
            if zxid > 0:
                self.last_zxid = zxid
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(Reply(xid, zxid, err, frame[reader.offset :]))

    def send(self, op: int, body: bytes = b"") -> asyncio.Future:
        """Sends a request; gives the future of its reply."""
        if self.closed:
            raise Closed
        self._xid += 1
        payload = struct.pack("!ii", self._xid, op) + body
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self.transport.write(LENGTH.pack(len(payload)) + payload)
        return future

    async def request(self, op: int, body: bytes = b"") -> Reply:
        return await self.send(op, body)

    async def event(self) -> Event:
        event = await self.events.get()
        if event is None:
            raise Closed
        return event

    def drop(self) -> None:
        """Closes the connection without a word."""
        self.transport.abort()
