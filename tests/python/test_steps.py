"""Unmounting and upgrading with thousands of parked calls: in steps, with others' requests in between (rule S6)."""

import asyncio
import json
import struct
import threading
import urllib.request
from collections import Counter
from typing import Callable, List, Tuple

import pytest

from harness import wire as w
from harness.async_wire import AsyncWire
from harness.http import Answer, Http
from harness.waiting import DEADLINE_S

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(180)]

#: Less than the bound of one session, which its answers count in too.
CALLS_PER_SESSION = 900
SESSIONS = 4
CALLS = SESSIONS * CALLS_PER_SESSION
#: Nobody pings for these sessions.
SESSION_MS = 60_000
#: Bounds::mount_step.
STEP = 100


@pytest.fixture
def http(own_server) -> Http:
    return own_server.http


async def within_deadline(awaited):
    return await asyncio.wait_for(awaited, 2 * DEADLINE_S)


async def park(address: Tuple[str, int], calls: int, mount: str = "/locks") -> AsyncWire:
    """A session whose calls wait, all for one lock; keys from 1 on."""
    client = await AsyncWire.connect(address, SESSION_MS)
    body = (w.call_body(key, mount, "acquire", '["door"]') for key in range(1, calls + 1))
    replies = await within_deadline(asyncio.gather(*(client.send(w.CALL, one) for one in body)))
    for reply in replies:
        assert (reply.err, struct.unpack_from("!i", reply.body)[0]) == (w.OK, w.PARKED), reply
    return client


async def holder(address: Tuple[str, int]) -> AsyncWire:
    client = await AsyncWire.connect(address, SESSION_MS)
    reply = await within_deadline(client.send(w.CALL, w.call_body(1, "/locks", "acquire", '["door"]')))
    assert struct.unpack_from("!i", reply.body)[0] == w.RETURNED, reply
    return client


async def endings(clients: List[AsyncWire]) -> List[Tuple[int, int]]:
    """(zxid, status) of the late answers to all calls of these."""
    found = []
    for client in clients:
        keys = set()
        for _ in range(CALLS_PER_SESSION):
            event = await within_deadline(client.event())
            assert event.type == w.ANSWER
            key, status, _ = event.answer
            keys.add(key)
            found.append((event.zxid, status))
        assert keys == set(range(1, CALLS_PER_SESSION + 1)), "each has one answer"
    return found


def in_threads(number: int, ask: Callable[[], Answer]) -> Callable[[], List[Answer]]:
    """Asks so often at once; gives what waits for the answers."""
    answers: List[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(number)]
    for thread in threads:
        thread.start()

    def joined() -> List[Answer]:
        for thread in threads:
            thread.join(2 * DEADLINE_S)
        return answers

    return joined


def other(component: bytes) -> bytes:
    """The same code under another digest: an empty custom section more."""
    return component + b"\x00\x06\x05other"


def component(http: Http, mount: str) -> Tuple[str, bytes]:
    """What is mounted there, with its digest."""
    digest = http.get(f"/v1/mounts{mount}").body["digest"]
    with urllib.request.urlopen(f"{http.base}/v1/components/{digest}") as answer:
        return digest, answer.read()


async def write_until(done: asyncio.Event, address: Tuple[str, int], zxids: List[int]) -> None:
    """Another client, whose writes go on, some always under way."""
    client = await AsyncWire.connect(address, SESSION_MS)
    await client.request(w.CREATE, w.create_body("/others", b""))
    number = 0
    under_way: List[asyncio.Future] = []
    while not done.is_set():
        while len(under_way) < 4:
            number += 1
            under_way.append(client.send(w.SET_DATA, w.set_body("/others", b"%d" % number)))
        reply = await within_deadline(under_way.pop(0))
        assert reply.err == w.OK
        zxids.append(reply.zxid)
    client.drop()


def test_s6_others_write_between_the_steps_of_an_unmount_that_two_ask_for(own_server, http):
    async def scenario() -> None:
        http.mount("/locks", "fair-lock")
        first = await holder(own_server.address)
        clients = [await park(own_server.address, CALLS_PER_SESSION) for _ in range(SESSIONS)]
        writes: List[int] = []
        done = asyncio.Event()
        writer = asyncio.ensure_future(write_until(done, own_server.address, writes))
        joined = in_threads(2, lambda: http.request("DELETE", "/v1/mounts/locks"))
        ended = await endings(clients)
        answers = await asyncio.to_thread(joined)
        done.set()
        await writer

        assert {status for _, status in ended} == {w.UNMOUNTED}
        steps = Counter(zxid for zxid, _ in ended)
        assert max(steps.values()) <= STEP
        ends = sorted(steps)
        between = [zxid for zxid in writes if ends[0] < zxid < ends[-1]]
        assert len(between) >= 3, f"{len(ends)} steps, and {len(between)} writes between"
        # Whoever has the last step knows how many there were. The other may have come when all was done.
        told = [answer.body["ended_calls"] for answer in answers if answer.status == 200]
        assert told and max(told) == CALLS, answers
        late = [answer for answer in answers if answer.status != 200]
        assert all(answer.body["error"]["code"] == "not-mounted" for answer in late), answers
        assert http.request("DELETE", "/v1/mounts/locks").status == 404
        door = http.get("/v1/tree/locks/door").body
        assert len(door["children"]) == 1, "what they created has gone, but not what the holder holds"
        for client in [first, *clients]:
            client.drop()

    asyncio.run(scenario())


def test_c10_an_upgrade_while_calls_park_takes_all_of_them_along_and_counts_exactly(own_server, http):
    async def scenario() -> None:
        http.mount("/locks", "fair-lock")
        first = await holder(own_server.address)
        digest, code = component(http, "/locks")
        pushed = http.request("PUT", "/v1/recipes/mine", other(code))
        assert pushed.status == 201, pushed
        clients = [await park(own_server.address, CALLS_PER_SESSION) for _ in range(SESSIONS)]
        writes: List[int] = []
        done = asyncio.Event()
        writer = asyncio.ensure_future(write_until(done, own_server.address, writes))
        upgrade = {"recipe": "mine", "upgrade": True}
        joined = in_threads(1, lambda: http.request("PUT", "/v1/mounts/locks", upgrade))
        clients.append(await park(own_server.address, CALLS_PER_SESSION))
        (upgraded,) = await asyncio.to_thread(joined)
        assert upgraded.status == 201, upgraded
        assert upgraded.body["ready"] and upgraded.body["digest"] == pushed.body["digest"] != digest
        assert CALLS <= upgraded.body["followed_calls"] <= CALLS + CALLS_PER_SESSION
        assert upgraded.body["ended_calls"] == 0
        shown = http.get("/v1/mounts/locks").body
        assert shown["parked_calls"] == CALLS + CALLS_PER_SESSION, "none is lost, and none has run out of turn"
        assert not shown["upgrade"]["following"]

        # Each has its ticket still: the oldest is the next.
        await within_deadline(first.request(w.CALL, w.call_body(2, "/locks", "release", '["door"]')))
        event = await within_deadline(clients[0].event())
        assert (event.answer[0], event.answer[1]) == (1, w.RETURNED)

        # What does not fit ends, as many as was said beforehand; this recipe was never mounted, nor compiled.
        upgrade = {"recipe": "id-generator", "upgrade": True}
        check = http.request("PUT", "/v1/mounts/locks", {**upgrade, "check": True}).body
        waiting = CALLS + CALLS_PER_SESSION - 1
        assert (check["parked_calls"], check["ending_calls"]) == (waiting, waiting)
        before = len(writes)
        joined = in_threads(1, lambda: http.request("PUT", "/v1/mounts/locks", upgrade))
        (upgraded,) = await asyncio.to_thread(joined)
        done.set()
        await writer
        assert len(writes) > before
        assert upgraded.status == 201, upgraded
        counts = (upgraded.body["followed_calls"], upgraded.body["ended_calls"])
        assert counts == (waiting, waiting)
        assert http.get("/v1/mounts/locks").body["parked_calls"] == 0
        steps: Counter = Counter()
        for client in clients:
            for _ in range(CALLS_PER_SESSION - (client is clients[0])):
                event = await within_deadline(client.event())
                assert event.answer[1] == w.UNMOUNTED, json.dumps(event.answer)
                steps[event.zxid] += 1
            client.drop()
        assert max(steps.values()) <= STEP and sum(steps.values()) == waiting
        first.drop()

    asyncio.run(scenario())


def test_c6_an_upgrade_asked_of_a_follower_is_compiled_where_calls_run_before_it_swaps(ensemble):
    leader = ensemble.leader()
    asked = ensemble.others(leader)[0].http
    mounted = asked.mount("/jobs", "fair-lock")
    assert mounted.body["ready"]
    session = asked.session()
    assert session.call(1, "/jobs", "acquire", ["x"]).body["status"] == "returned"
    # Standard recipes that were never mounted are compiled nowhere.
    upgraded = asked.request("PUT", "/v1/mounts/jobs", {"recipe": "counter", "upgrade": True})
    assert (upgraded.status, upgraded.body["ready"]) == (201, True), upgraded
    assert session.call(2, "/jobs", "add", ["y", 5]).body["status"] == "returned"


def test_s6_an_unmount_goes_on_when_the_leader_dies_and_when_whoever_drives_it_does(ensemble):
    leader = ensemble.leader()
    asked, other = ensemble.others(leader)
    other.http.mount("/locks", "fair-lock")

    async def scenario() -> None:
        first = await holder(other.address)
        clients = [await park(other.address, CALLS_PER_SESSION) for _ in range(2)]
        joined = in_threads(1, lambda: asked.http.request("DELETE", "/v1/mounts/locks"))
        begun = await within_deadline(clients[0].event())
        assert begun.answer[1] == w.UNMOUNTED
        clients[0].events.put_nowait(begun)
        leader.kill()
        ended = await endings(clients)
        assert {status for _, status in ended} == {w.UNMOUNTED}
        (answer,) = await asyncio.to_thread(joined)
        assert (answer.status, answer.body["ended_calls"]) == (200, 2 * CALLS_PER_SESSION), answer
        leader.start()

        # Now whoever was asked dies; whoever is asked next goes on, if there is something left.
        other.http.mount("/locks", "fair-lock")
        for client in clients:
            client.drop()
        clients = [await park(other.address, CALLS_PER_SESSION) for _ in range(2)]

        def given_up() -> None:
            try:
                asked.http.request("DELETE", "/v1/mounts/locks")
            except OSError:
                pass

        joined = in_threads(1, given_up)
        begun = await within_deadline(clients[0].event())
        clients[0].events.put_nowait(begun)
        asked.kill()
        answer = await asyncio.to_thread(other.http.request, "DELETE", "/v1/mounts/locks")
        assert answer.status == 404 or answer.body["ended_calls"] == 2 * CALLS_PER_SESSION, answer
        ended = await endings(clients)
        assert {status for _, status in ended} == {w.UNMOUNTED}
        await asyncio.to_thread(joined)
        for client in [first, *clients]:
            client.drop()

    asyncio.run(scenario())
