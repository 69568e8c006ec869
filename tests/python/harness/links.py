"""The network between an ensemble's servers: TCP proxies whose links a test cuts and slows, each direction by itself.

Every server listens for its peers behind a proxy, and the peers know the proxy's address only. Who dials stands in
the first frame of a connection, the peers' hello. A direction that is cut is a black hole, as a broken network is:
bytes and the ends of connections wait at the proxy, and nobody is told.
"""

import asyncio
import struct
import threading
from typing import Dict, Iterable, Tuple

#: Frame length, "quorpeer", version, format, from, to, data directory, purpose.
HELLO = struct.Struct("!I8sIIQQQB")

#: What a proxy takes from a sender before its receiver takes it: beyond, the sender's own buffers fill.
PIECE_BYTES = 64 << 10
PIECES = 64

#: How long a control from the test's thread may take to be in force.
CONTROL_S = 10.0


class Direction:
    """What goes from one server to another. Touched by the proxies' thread only."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.delay_s = 0.0
        #: Bytes passed so far.
        self.passed = 0


class Links:
    """The links of servers that listen at ``behind`` (number to port) and are known by ``before``."""

    def __init__(self, before: Dict[int, int], behind: Dict[int, int]) -> None:
        self.behind = behind
        self.directions: Dict[Tuple[int, int], Direction] = {}
        self.loop = asyncio.new_event_loop()
        self.tasks: set = set()
        self.listeners: list = []
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        for server, port in before.items():
            self._do(self._listen(server, port))

    def cut(self, pairs: Iterable[Tuple[int, int]]) -> None:
        """Nothing passes from the first to the second of each pair any more."""
        self._do(self._set(pairs, lambda direction: direction.open.clear()))

    def heal(self) -> None:
        """Everything passes again, at once, and first what has waited."""
        self._do(self._set(list(self.directions), heal))

    def slow(self, pairs: Iterable[Tuple[int, int]], delay_s: float) -> None:
        """What passes from the first to the second of each pair arrives so much later."""

        def set_delay(direction: Direction) -> None:
            direction.delay_s = delay_s

        self._do(self._set(pairs, set_delay))

    def passed(self, origin: int, to: int) -> int:
        """The bytes that have passed from one server to another."""
        return self.directions[(origin, to)].passed if (origin, to) in self.directions else 0

    def close(self) -> None:
        self._do(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(CONTROL_S)
        self.loop.close()

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(CONTROL_S)

    async def _set(self, pairs, change) -> None:
        for pair in pairs:
            change(self._direction(*pair))

    def _direction(self, origin: int, to: int) -> Direction:
        return self.directions.setdefault((origin, to), Direction())

    async def _listen(self, server: int, port: int) -> None:
        async def accepted(reader, writer) -> None:
            task = asyncio.current_task()
            self.tasks.add(task)
            try:
                await self._pass(server, reader, writer)
            except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                # Cancelled by the end of all: asyncio would log a task that says so.
                pass
            finally:
                writer.transport.abort()
                self.tasks.discard(task)

        self.listeners.append(await asyncio.start_server(accepted, "127.0.0.1", port))

    async def _end(self) -> None:
        for listener in self.listeners:
            listener.close()
        ending = list(self.tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _pass(self, to: int, reader, writer) -> None:
        hello = await reader.readexactly(HELLO.size)
        origin = HELLO.unpack(hello)[4]
        there, back = self._direction(origin, to), self._direction(to, origin)
        # A handshake takes both directions.
        await there.open.wait()
        await back.open.wait()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.behind[to])
        far_writer.write(hello)
        ways = [
            asyncio.ensure_future(carry(reader, far_writer, there)),
            asyncio.ensure_future(carry(far_reader, writer, back)),
        ]
        try:
            # One that is cut does not tell the other side that its end is gone.
            await asyncio.gather(*ways)
        finally:
            for way in ways:
                way.cancel()
            far_writer.transport.abort()


def heal(direction: Direction) -> None:
    direction.open.set()
    direction.delay_s = 0.0


async def carry(reader, writer, direction: Direction) -> None:
    """Carries bytes one way to their end, which is passed on like them."""
    under_way: asyncio.Queue = asyncio.Queue(PIECES)

    async def take() -> None:
        while True:
            try:
                piece = await reader.read(PIECE_BYTES)
            except OSError:
                piece = b""
            await under_way.put((asyncio.get_running_loop().time(), piece))
            if not piece:
                return

    taking = asyncio.ensure_future(take())
    try:
        while True:
            at, piece = await under_way.get()
            late = at + direction.delay_s - asyncio.get_running_loop().time()
            if late > 0:
                await asyncio.sleep(late)
            await direction.open.wait()
            if not piece:
                # Either end of these connections closes whole, never half.
                raise ConnectionResetError
            direction.passed += len(piece)
            writer.write(piece)
            await writer.drain()
    finally:
        taking.cancel()
