"""A TCP proxy between a client and the server that counts frames and cuts connections where it is told."""

import select
import socket
import struct
import threading
from typing import List, Optional, Tuple


class Proxy:
    """Listens on a free port and passes bytes on, both ways, until told otherwise.

    ``cut_up`` and ``cut_down`` count bytes per connection: after so many from the client (to the
    client), the connection is closed on both sides. Both count from the connection's start. They
    apply to the next connection only.
    """

    def __init__(self, upstream: Tuple[str, int]) -> None:
        self.upstream = upstream
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: Tuple[str, int] = self.listener.getsockname()
        self.cut_up: Optional[int] = None
        self.cut_down: Optional[int] = None
        #: What the clients sent, a bytearray per connection.
        self.sent: List[bytearray] = []
        #: What the server sent.
        self.received: List[bytearray] = []
        #: Set whenever a connection ends.
        self.ended = threading.Event()
        self._open: List[socket.socket] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def hosts(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def _accept(self) -> None:
        while not self._stopping:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.upstream, timeout=5)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sent, received = bytearray(), bytearray()
            self.sent.append(sent)
            self.received.append(received)
            self._open += [client, server]
            limits = (self.cut_up, self.cut_down)
            self.cut_up = self.cut_down = None
            threading.Thread(
                target=self._pump, args=(client, server, sent, received, limits), daemon=True
            ).start()

    def _pump(self, client, server, sent, received, limits) -> None:
        routes = {client: (server, sent, limits[0]), server: (client, received, limits[1])}
        try:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    destination, record, limit = routes[source]
                    piece = source.recv(65536)
                    if not piece:
                        return
                    if limit is not None:
                        piece = piece[: max(0, limit - len(record))]
                    record += piece
                    destination.sendall(piece)
                    if limit is not None and len(record) >= limit:
                        return
        except OSError:
            return
        finally:
            for end in (client, server):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                end.close()
            self.ended.set()

    def cut(self) -> None:
        """Closes every connection there is."""
        for end in self._open:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._open.clear()

    def close(self) -> None:
        self._stopping = True
        self.listener.close()
        self.cut()


def frames(data: bytes) -> List[bytes]:
    """The frames in what one side sent; the first of a connection is the handshake."""
    found, offset = [], 0
    while offset + 4 <= len(data):
        (length,) = struct.unpack_from("!i", data, offset)
        if offset + 4 + length > len(data):
            break
        found.append(bytes(data[offset + 4 : offset + 4 + length]))
        offset += 4 + length
    return found


def operations(data: bytes) -> List[int]:
    """The operation codes of a client's requests, without handshake and pings."""
    codes = [struct.unpack_from("!ii", frame)[1] for frame in frames(data)[1:]]
    return [code for code in codes if code != 11]
