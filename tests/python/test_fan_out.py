"""One change that two thousand clients of a follower watch: each is told once, and nobody else pays for it."""

import asyncio
import resource
import time
from typing import Iterator, List

import pytest

from harness import wire as w
from harness.async_wire import AsyncWire
from harness.ensemble import Ensemble
from harness.load import Load, memory_bytes
from harness.waiting import DEADLINE_S
from harness.wire import Closed

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]

WATCHERS = 2000
#: Connections that ask for much, and for the watch, and never read an answer.
DEAF = 40
SETS = 20
#: Of the deaf, whose sessions nobody keeps alive.
DEAF_TIMEOUT_MS = 4000

MEBIBYTE = 1 << 20
LARGE_BYTES = 500_000
#: For each watcher two buffers of 8 KiB and what its session takes; for each of the deaf what may wait unsent;
#: and room for the log's newest entries and the allocator.
FOLLOWER_BYTES = (WATCHERS * 32 << 10) + DEAF * 2 * MEBIBYTE + 96 * MEBIBYTE
#: The leader has nothing of them but their sessions.
LEADER_BYTES = 96 * MEBIBYTE


@pytest.fixture
def ensemble(tmp_path) -> Iterator[Ensemble]:
    # Each connection has an end here and one in the server, which inherits the bound.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    running = Ensemble(tmp_path).start()
    yield running
    running.close()


async def watch(client: AsyncWire) -> bytes:
    reply = await client.request(w.GET_DATA, w.path_watch("/watched", True))
    assert reply.err == w.OK
    return w.Reader(reply.body).buffer() or b""


async def all_of(coroutines) -> list:
    return await asyncio.wait_for(asyncio.gather(*coroutines), DEADLINE_S)


async def fan_out(address) -> float:
    """Gives the longest time from a set to its last event."""
    writer = await AsyncWire.connect(address)
    assert (await writer.request(w.CREATE, w.create_body("/watched", b"0"))).err == w.OK
    assert (await writer.request(w.CREATE, w.create_body("/huge", b"x" * LARGE_BYTES))).err == w.OK
    deaf: List[AsyncWire] = []
    for _ in range(DEAF):
        client = await AsyncWire.connect(address, DEAF_TIMEOUT_MS, receive_bytes=4096)
        client.transport.pause_reading()
        deaf.append(client)
        for path in ("/huge", "/huge", "/huge", "/watched"):
            client.send(w.GET_DATA, w.path_watch(path, True))
    watchers: List[AsyncWire] = []
    for start in range(0, WATCHERS, 200):
        watchers += await all_of(AsyncWire.connect(address) for _ in range(200))
    assert set(await all_of(watch(client) for client in watchers)) == {b"0"}
    longest = 0.0
    for number in range(1, SETS + 1):
        begin = time.monotonic()
        reply = await writer.request(w.SET_DATA, w.set_body("/watched", b"%d" % number))
        events = await all_of(client.event() for client in watchers)
        longest = max(longest, time.monotonic() - begin)
        for event in events:
            assert (event.type, event.path) == (w.NODE_DATA_CHANGED, "/watched")
        assert set(await all_of(watch(client) for client in watchers)) == {b"%d" % number}
        assert all(client.events.empty() for client in watchers), "an event came twice"
    # A watch that nothing has happened to says nothing.
    await all_of(client.request(w.EXISTS, w.path_watch("/")) for client in watchers)
    assert all(client.events.empty() for client in watchers)
    # Those that do not read are closed once their sessions end: nobody has heard of them.
    for client in deaf:
        deadline = time.monotonic() + DEADLINE_S
        client.transport.resume_reading()
        try:
            while True:
                await asyncio.wait_for(client.event(), deadline - time.monotonic())
        except Closed:
            client.drop()
    for client in [*watchers, writer]:
        client.drop()
    return longest


def test_a_huge_fan_out_tells_everyone_once_and_holds_up_nobody(ensemble):
    leader = ensemble.leader()
    follower, other = ensemble.others(leader)
    load = Load([leader, other])
    before = memory_bytes(follower), memory_bytes(leader)
    load.take_longest()
    written = [len(writer.added) for writer in load.writers]
    longest = asyncio.run(fan_out(follower.address))
    meanwhile = [len(writer.added) - before for writer, before in zip(load.writers, written)]
    waited = load.take_longest()
    load.progress()
    load.end()
    grown = [memory_bytes(follower, "VmHWM") - before[0], memory_bytes(leader, "VmHWM") - before[1]]
    print(
        f"{WATCHERS} watchers, {SETS} sets: at most {1000 * longest:.0f} ms from a set to its last event;"
        f" others waited at most {1000 * waited:.0f} ms;"
        f" the follower grew by {grown[0] >> 20} MiB, the leader by {grown[1] >> 20} MiB"
    )
    assert grown[0] < FOLLOWER_BYTES and grown[1] < LEADER_BYTES
    # Each event of each set stood in front of some of them, and they went on all the same.
    assert min(meanwhile) > SETS, meanwhile
