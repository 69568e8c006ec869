"""Much at once, from many clients: a server makes them wait, its memory stays bounded in all, and nobody sees an error."""

import asyncio
import re
import threading
import time
from typing import List

import pytest

from harness import wire as w
from harness.async_wire import AsyncWire
from harness.ensemble import Member
from harness.load import connect, memory_bytes
from harness.waiting import DEADLINE_S, until
from harness.wire import Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(180)]

MEBIBYTE = 1 << 20
LARGE = b"y" * 1_000_000

WRITERS = 300
#: Nobody pings for them while they wait. Long, since a busy machine takes its time to have a leader again.
WRITER_TIMEOUT_MS = 40_000
#: 64 MiB of large requests, and what log, stream and allocator take of those that go through: of 300 MB sent at once,
#: which took 800 MiB without a bound.
WRITTEN_BYTES = (64 + 336) * MEBIBYTE

#: Connections that each ask for much, and read a trickle of it.
TRICKLERS = 250
ASKED = 24
READERS = 2
#: 128 MiB may be unsent; a connection's buffers are as large again while they grow; and room for the allocator. They
#: ask for 6000 MB.
UNSENT_BYTES = (2 * 128 + 256) * MEBIBYTE


def metric(server: Member, name: str) -> int:
    found = re.search(rf"^quorate_{name} (\d+)$", server.http.get("/metrics").body, re.M)
    assert found, name
    return int(found.group(1))


async def large_writes_while(leader: Member, follower: Member) -> None:
    writers = await asyncio.gather(
        *(AsyncWire.connect(follower.address, WRITER_TIMEOUT_MS) for _ in range(WRITERS))
    )
    for number in range(8):
        await writers[0].request(w.CREATE, w.create_body(f"/large-{number}"))
    leader.pause()
    try:
        replies = [
            writer.send(w.SET_DATA, w.set_body(f"/large-{number % 8}", LARGE))
            for number, writer in enumerate(writers)
        ]
        answered = await asyncio.wait_for(asyncio.gather(*replies, return_exceptions=True), 3 * DEADLINE_S)
    finally:
        leader.go_on()
    wrong = [reply for reply in answered if not isinstance(reply, w.Reply) or reply.err != w.OK]
    assert not wrong, f"{len(wrong)} of {WRITERS} were not answered well: {wrong[:3]}"
    for writer in writers:
        writer.drop()


def test_more_large_writes_than_there_is_room_for_wait_over_a_change_of_leaders(ensemble):
    leader = ensemble.leader()
    follower = ensemble.others(leader)[0]
    before = memory_bytes(follower)
    asyncio.run(large_writes_while(leader, follower))
    grown = memory_bytes(follower, "VmHWM") - before
    waited = metric(follower, "room_waits_total")
    print(f"{WRITERS} large writes, of which {waited} waited: the follower grew by {grown >> 20} MiB")
    assert waited > 0
    assert grown < WRITTEN_BYTES
    # What was waited for is given back.
    client = connect(follower)
    for number in range(100):
        client.set(f"/large-{number % 8}", LARGE)


class Reader(threading.Thread):
    """Reads what is large as fast as it comes, and writes now and then; any error ends it and is kept."""

    def __init__(self, server: Member) -> None:
        super().__init__(daemon=True)
        self.client = connect(server)
        self.path = self.client.create("/reader-", b"", flags=w.SEQUENTIAL)
        self.reads = 0
        self.longest = 0.0
        self.error: BaseException | None = None
        self.ending = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            while not self.ending.is_set():
                begin = time.monotonic()
                assert self.client.get("/large")[0] == LARGE
                self.client.set(self.path, b"%d" % self.reads)
                self.longest = max(self.longest, time.monotonic() - begin)
                self.reads += 1
        except BaseException as error:  # kept for the main thread
            self.error = error


def progress(readers: List[Reader], count: int) -> None:
    before = [reader.reads for reader in readers]
    until(
        lambda: all(one.error or one.reads >= was + count for one, was in zip(readers, before)),
        "all read on",
        timeout_s=2 * DEADLINE_S,
    )
    assert [reader.error for reader in readers] == [None] * len(readers)


def test_clients_that_read_a_trickle_take_a_bounded_memory_and_hold_up_nobody_who_reads(ensemble):
    leader = ensemble.leader()
    client = connect(leader)
    client.create("/large", LARGE)
    readers = [Reader(leader) for _ in range(READERS)]
    progress(readers, 3)
    before = memory_bytes(leader)
    tricklers: List[Wire] = []
    for _ in range(TRICKLERS):
        trickler = connect(leader, timeout_ms=40_000)
        tricklers.append(trickler)
        trickler.send_raw(b"".join(trickler.frame(w.GET_DATA, w.path_watch("/large")) for _ in range(ASKED)))
        trickler.socket.setblocking(False)

    def closed() -> bool:
        """Reads a little everywhere; whether many of those that read no more are closed."""
        for trickler in tricklers:
            try:
                trickler.socket.recv(20_000)
                trickler.socket.send(trickler.frame(w.PING, xid=w.XID_PING))
            except OSError:
                pass
        return metric(leader, "connections_stuck_total") >= TRICKLERS // 5

    until(closed, "those that read slowest are closed", timeout_s=2 * DEADLINE_S)
    progress(readers, 10)
    for reader in readers:
        reader.ending.set()
        reader.join(DEADLINE_S)
        assert not reader.is_alive() and reader.error is None, reader.error
    grown = memory_bytes(leader, "VmHWM") - before
    stuck, unsent = metric(leader, "connections_stuck_total"), metric(leader, "unsent_bytes")
    longest = max(reader.longest for reader in readers)
    print(
        f"{TRICKLERS} clients that read a trickle: {stuck} were closed, {unsent >> 20} MiB are unsent, the leader grew"
        f" by {grown >> 20} MiB; who read waited at most {1000 * longest:.0f} ms"
    )
    assert unsent <= 132 * MEBIBYTE
    assert grown < UNSENT_BYTES
    for trickler in tricklers:
        trickler.socket.close()
    until(lambda: metric(leader, "unsent_bytes") == 0, "nothing is unsent any more")
