"""A server that answers calls as a test tells it, to see what the Python SDK makes of that."""

import socket
import struct
import threading
from typing import Callable, List, NamedTuple, Optional, Tuple

from harness import wire as w
from harness.wire import Reader


class Asked(NamedTuple):
    """A call, cancel or acknowledge as it came, and over which connection (from 1)."""

    connection: int
    op: int
    key: int
    mount: str = ""
    operation: str = ""
    arguments: str = ""
    timeout_ms: int = 0
    #: The mark, and the awaited keys.
    acknowledged: Tuple[int, Tuple[int, ...]] = (0, ())


class Connection:
    """One client's connection, as the script sees it."""

    def __init__(self, number: int, end: socket.socket) -> None:
        self.number, self.end = number, end
        self._sending = threading.Lock()

    def send(self, body: bytes) -> None:
        with self._sending:
            self.end.sendall(struct.pack("!i", len(body)) + body)

    def reply(self, xid: int, body: bytes = b"", err: int = 0) -> None:
        self.send(struct.pack("!iqi", xid, 1, err) + body)

    def answer(self, xid: int, status: int, result: str = "") -> None:
        self.reply(xid, struct.pack("!i", status) + w.string(result))

    def late_answer(self, mount: str, key: int, status: int, result: str = "") -> None:
        event = struct.pack("!ii", w.ANSWER, 3) + w.string(mount)
        self.reply(w.XID_EVENT, event + struct.pack("!qi", key, status) + w.string(result))

    def watch_event(self, kind: int, path: str) -> None:
        self.reply(w.XID_EVENT, struct.pack("!ii", kind, 3) + w.string(path))

    def drop(self) -> None:
        try:
            self.end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


#: Gets the connection, the request's xid, and what was asked.
Script = Callable[[Connection, int, Asked], None]


class ScriptedServer:
    """Grants every session, answers pings, and leaves calls to the script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: List[Asked] = []
        self.connections: List[Connection] = []
        self.expire = False
        #: If set, every other request is refused with it, as a guard does.
        self.refusal: Optional[str] = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.hosts = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()
        for connection in self.connections:
            connection.drop()

    def _accept(self) -> None:
        while True:
            try:
                end, _ = self.listener.accept()
            except OSError:
                return
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(len(self.connections) + 1, end)
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        stream = connection.end.makefile("rb")

        def frame() -> Optional[Reader]:
            head = stream.read(4)
            return Reader(stream.read(*struct.unpack("!i", head))) if len(head) == 4 else None

        try:
            hello = frame()
            if hello is None:
                return
            _, _, timeout_ms, session = hello.unpack("iqiq")
            if self.expire and session:
                self.expire = False
                timeout_ms = session = 0
            else:
                session = session or 100 + connection.number
            connection.send(struct.pack("!iiq", 0, timeout_ms, session) + w.buffer(b"p" * 16) + b"\0")
            while (request := frame()) is not None:
                self._request(connection, request)
        except (OSError, struct.error):
            pass
        finally:
            connection.drop()

    def _request(self, connection: Connection, request: Reader) -> None:
        xid, op = request.unpack("ii")
        if op == w.PING:
            connection.reply(w.XID_PING)
        elif op == w.CLOSE:
            connection.reply(xid)
            connection.drop()
        elif op in (w.CALL, w.CANCEL, w.ACKNOWLEDGE):
            key = 0 if op == w.ACKNOWLEDGE else request.long()
            asked = Asked(connection.number, op, key)
            if op == w.CALL:
                texts = [request.string() or "" for _ in range(3)]
                asked = Asked(connection.number, op, key, *texts, request.long())
            if op != w.CANCEL:
                mark, number = request.unpack("qi")
                asked = asked._replace(acknowledged=(mark, request.unpack(f"{number}q")))
            assert request.at_end()
            self.asked.append(asked)
            self.script(connection, xid, asked)
        elif self.refusal is not None:
            connection.reply(xid, w.string(self.refusal), err=w.NO_AUTH)
        else:
            connection.reply(xid, err=w.NO_NODE)
