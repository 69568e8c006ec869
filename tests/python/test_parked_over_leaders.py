"""Parked calls while the leader is killed, while it hangs, and while every server is killed: nothing of them is lost.

Each check is a generator: it sets up what waits, yields, and looks at what became of it. All of them go through one
strike together.
"""

import json
import struct
import threading
import time
from typing import Iterator, List, Tuple

import pytest

from harness import wire as w
from harness.ensemble import Ensemble, Member
from harness.http import HttpSession
from harness.load import connect, has_compiled, mount_when_pushed, sync
from harness.waiting import DEADLINE_S, until
from harness.wire import BAD_CALL, CANCELLED, EXCEEDED, PARKED, RETURNED, Closed, Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(200)]

#: No session ends by itself while servers are struck, however busy the machine is.
SESSION_MS = 60_000


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory) -> Iterator[Ensemble]:
    running = Ensemble(tmp_path_factory.mktemp("parked")).start()
    for path, recipe in (("/locks", "fair-lock"), ("/counters", "counter")):
        mount_when_pushed(running.servers[0], path, recipe)
    yield running
    running.kill()


class Struck:
    """The ensemble, its leader, which is struck, and two others that clients are connected to."""

    def __init__(self, ensemble: Ensemble, how: str) -> None:
        self.ensemble, self.how = ensemble, how
        self.leader = ensemble.leader()
        self.here, self.there = ensemble.others(self.leader)

    def path(self, name: str) -> str:
        """A name of this strike's own."""
        return f"{name}-{self.how.replace(' ', '-')}"

    def strike(self) -> None:
        if self.how == "killed":
            self.leader.kill()
        elif self.how == "stopped":
            self.leader.pause()
        else:
            self.ensemble.kill()
            for server in self.ensemble.servers:
                server.start_only()
            for server in self.ensemble.servers:
                until(server.serves, f"server {server.number} serves again:\n{server.log[-2000:]}")
        if self.how != "all killed":
            self.ensemble.leader(of=[self.here, self.there])

    def heal(self) -> None:
        if self.how == "killed":
            self.leader.start_only()
        elif self.how == "stopped":
            self.leader.go_on()
        for server in self.ensemble.servers:
            until(server.serves, f"server {server.number} serves:\n{server.log[-2000:]}")
            until(lambda server=server: has_compiled(server), "it is ready to lead")

    def go_on(self, client: Wire, server: Member) -> Wire:
        """The session's connection after the strike: the same, unless its server was killed too."""
        if self.how != "all killed":
            return client
        return moved(client, server)

    def wait_on(self, client: Wire, server: Member, key: int, mount: str, name: str) -> Wire:
        """The same for a session that waits for a lock: only over a new connection it has to ask again."""
        again = self.go_on(client, server)
        if again is not client:
            assert acquire(again, key, mount, name)[0] == PARKED
        return again


def moved(client: Wire, to: Member) -> Wire:
    client.drop()
    again = connect(to, SESSION_MS, session=client.session, password=client.password)
    assert again.session == client.session
    return again


def acquire(client: Wire, key: int, mount: str, name: str, **more) -> Tuple[int, str]:
    return client.call(key, mount, "acquire", json.dumps([name]), **more)


def release(client: Wire, key: int, mount: str, name: str) -> None:
    """A new leader may not have the recipe compiled yet, and says so."""
    until(
        lambda: client.call(key, mount, "release", json.dumps([name]))[0] == RETURNED,
        "the lock is released",
    )


def holding(server: Member, mount: str, name: str) -> Wire:
    client = connect(server, SESSION_MS)
    until(lambda: acquire(client, 1, mount, name)[0] == RETURNED, "the lock is had")
    return client


def waiting(server: Member, mount: str, name: str, key: int = 1, **more) -> Wire:
    client = connect(server, SESSION_MS)
    assert acquire(client, key, mount, name, **more)[0] == PARKED
    return client


def tickets(client: Wire, mount: str, name: str) -> List[str]:
    sync(client)
    return client.children(f"{mount}/{name}")


def token(result: str) -> int:
    return json.loads(result)["token"]


def late_token(client: Wire) -> int:
    key, status, result = client.wait_event(len(client.events) + 1).answer
    assert status == RETURNED, (key, status, result)
    return token(result)


def c4_order(struck: Struck):
    """Calls keep their place in the line, their memo with their ticket, and wake in their order."""
    name, servers = struck.path("order"), [struck.there, struck.here, struck.there]
    holder = holding(struck.here, "/locks", name)
    waiters = [waiting(server, "/locks", name) for server in servers]
    line = tickets(holder, "/locks", name)
    assert len(line) == 4
    yield
    holder = struck.go_on(holder, struck.here)
    waiters = [struck.wait_on(one, at, 1, "/locks", name) for one, at in zip(waiters, servers)]
    assert tickets(holder, "/locks", name) == line, "nobody has stood in line anew"
    last = 0
    for number, waiter in enumerate(waiters):
        assert all(one.nothing_to_read() for one in waiters[number:])
        release(holder, 2, "/locks", name)
        last, before = late_token(waiter), last
        assert last > before
        holder = waiter
    assert tickets(holder, "/locks", name) == line[-1:]


class Clock(threading.Thread):
    """Writes all the time, and keeps what time it was in the tree at which transaction."""

    def __init__(self, server: Member, path: str) -> None:
        super().__init__(daemon=True)
        self.server, self.path = server, path
        self.moments: List[Tuple[int, int]] = []
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.is_set():
            try:
                client = connect(self.server, SESSION_MS)
                if client.exists(self.path) is None:
                    client.create(self.path)
                while not self.ending.is_set():
                    stat = client.set(self.path, b"")
                    self.moments.append((stat.mzxid, stat.mtime))
                    time.sleep(0.002)
            except (OSError, Closed, struct.error, AssertionError):
                # Its server is away for a moment.
                time.sleep(0.05)


def answer_of(session: HttpSession, key: int, name: str, timeout_ms: int):
    """The call's answer, once it is there."""

    def ended():
        try:
            answer = session.call(key, "/locks", "acquire", [name], timeout_ms=timeout_ms)
        except OSError:
            return None
        return answer.body if answer.status == 200 else None

    return until(ended, f"call {key} has its answer")


def c3_deadline(struck: Struck):
    """A deadline ends its call when it is due by the tree's clock, to the transaction, whoever leads then."""
    name, timeouts = struck.path("deadline"), {1: 1_500, 2: 3_500}
    holder = holding(struck.here, "/locks", name)
    session = struck.here.http.session(timeout_ms=SESSION_MS)
    for key, timeout_ms in timeouts.items():
        parked = session.call(key, "/locks", "acquire", [name], wait_ms=0, timeout_ms=timeout_ms)
        assert parked.status == 202, parked
    listed = struck.here.http.get("/v1/calls?mount=/locks").body["calls"]
    deadlines = {call["key"]: call["deadline"] for call in listed if call["arguments"] == [name]}
    assert 2 in deadlines, "on a very slow machine the first has passed already"
    clock = Clock(struck.there, "/" + struck.path("clock"))
    clock.start()
    yield
    for key, deadline in deadlines.items():
        answer = answer_of(session, key, name, timeouts[key])
        assert answer["status"] == "timed-out", answer
        zxid = answer["zxid"]
        until(lambda: any(later > zxid for later, _ in clock.moments), "the clock goes on")
        too_late = [moment for moment in clock.moments if moment[0] < zxid and moment[1] > deadline]
        too_early = [moment for moment in clock.moments if moment[0] > zxid and moment[1] < deadline]
        assert not too_late and not too_early, (zxid, deadline, too_late[:3], too_early[:3])
    clock.ending.set()
    clock.join(DEADLINE_S)
    assert len(tickets(struck.go_on(holder, struck.here), "/locks", name)) == 1, "what they had created is gone"


def c3_cancellation(struck: Struck):
    """A call is cancelled, and what it had created goes with it; the next one moves up."""
    name = struck.path("cancelled")
    holder = holding(struck.here, "/locks", name)
    given_up, behind = waiting(struck.there, "/locks", name, key=5), waiting(struck.here, "/locks", name)
    by_operator = waiting(struck.there, "/locks", name, key=6)
    line = tickets(holder, "/locks", name)
    yield
    holder = struck.go_on(holder, struck.here)
    behind = struck.wait_on(behind, struck.here, 1, "/locks", name)
    given_up = struck.go_on(given_up, struck.there)
    for _ in range(2):
        # Cancelled again it has its answer already.
        reply = w.Reader(given_up.request(w.CANCEL, struct.pack("!q", 5)).body)
        assert reply.int() == CANCELLED
    assert acquire(given_up, 5, "/locks", name)[0] == CANCELLED
    cancelled = struck.there.http.request("DELETE", f"/v1/calls/{by_operator.session}/6")
    assert (cancelled.status, cancelled.body["status"]) == (200, "cancelled"), cancelled
    assert tickets(holder, "/locks", name) == [line[0], line[2]]
    release(holder, 2, "/locks", name)
    late_token(behind)
    assert tickets(holder, "/locks", name) == [line[2]]


def c1_attachment(struck: Struck):
    """Whoever asks again with its key, at whichever server, waits on, or has the answer that came meanwhile."""
    name, other = struck.path("again"), struck.path("absent")
    holders = [holding(struck.here, "/locks", one) for one in (name, other)]
    waiter, absent = waiting(struck.there, "/locks", name), waiting(struck.there, "/locks", other)
    absent.drop()
    yield
    holders = [struck.go_on(holder, struck.here) for holder in holders]
    waiter = moved(waiter, struck.here)
    assert acquire(waiter, 1, "/locks", name)[0] == PARKED
    assert acquire(waiter, 1, "/locks", other)[0] == BAD_CALL, "the key is another call's"
    for holder, one in zip(holders, (name, other)):
        release(holder, 2, "/locks", one)
    first = late_token(waiter)
    status, result = acquire(moved(waiter, struck.there), 1, "/locks", name)
    assert (status, token(result)) == (RETURNED, first)
    status, result = acquire(moved(absent, struck.here), 1, "/locks", other)
    assert status == RETURNED and token(result) > 0


def c1_answers(struck: Struck):
    """An answer is given again until it is acknowledged, and its call is executed once."""
    counter = struck.path("answers")
    add = lambda client, key, by=1: client.call(key, "/counters", "add", json.dumps([counter, by]))
    client = connect(struck.here, SESSION_MS)
    until(lambda: add(client, 7) == (RETURNED, "1"), "it counts")
    assert add(client, 8) == (RETURNED, "2")
    yield
    client = moved(client, struck.there)
    for _ in range(2):
        assert add(client, 7) == (RETURNED, "1")
    assert add(client, 7, by=2)[0] == BAD_CALL
    assert client.request(w.ACKNOWLEDGE, w.acknowledge_body(7)).err == w.OK
    client = moved(client, struck.here)
    assert add(client, 7)[0] == BAD_CALL
    assert add(client, 8) == (RETURNED, "2")
    assert client.get(f"/counters/{counter}")[0] == b"2"


def parked(server: Member, mount: str) -> List[dict]:
    return server.http.get(f"/v1/calls?mount={mount}").body["calls"]


def c4_marks(struck: Struck):
    """A call whose run is due, and cannot run yet, is run by a later leader: the oldest first, not the first marked."""
    mount, http = "/" + struck.path("marks"), struck.here.http
    http.mount(mount, "fair-lock")
    holders = {name: holding(struck.here, mount, name) for name in "xy"}
    older, younger = waiting(struck.there, mount, "y"), waiting(struck.here, mount, "x")
    change = lambda **bounds: http.request("PATCH", f"/v1/mounts{mount}", {"bounds": bounds})
    assert change(fuel=1, failures=1).status == 200
    caller = connect(struck.here, SESSION_MS)
    assert caller.call(1, mount, "holder", '["x"]')[0] == EXCEEDED
    assert change(fuel=None, failures=None).status == 200
    for name in "xy":
        holders[name].close_session()
    until(lambda: [call["marked"] for call in parked(struck.here, mount)] == [True, True], "both are marked")
    yield
    older = struck.wait_on(older, struck.there, 1, mount, "y")
    younger = struck.wait_on(younger, struck.here, 1, mount, "x")
    assert [call["marked"] for call in parked(struck.here, mount)] == [True, True]
    assert older.nothing_to_read() and younger.nothing_to_read()
    assert http.request("POST", f"/v1/resume{mount}").status == 200
    assert late_token(older) < late_token(younger)
    assert older.events[-1].zxid < younger.events[-1].zxid


def c2_bounds(struck: Struck):
    """As many calls wait at the mount, and in the session, as before; more are refused, by the bound's name."""
    mount, http = "/" + struck.path("bounds"), struck.here.http
    http.mount(mount, "fair-lock", bounds={"parked-calls": 2})
    holder = holding(struck.here, mount, "x")
    first, _ = (waiting(struck.there, mount, "x") for _ in range(2))
    full = connect(struck.here, SESSION_MS)
    for key in range(1, 1001):
        full.send(w.CALL, w.call_body(key, "/counters", "get", '["x"]'))
    answered = [w.Reader(full.receive().body).int() for _ in range(1000)]
    assert answered == [RETURNED] * 1000
    yield
    more = connect(struck.here, SESSION_MS)
    refused = until(lambda: when_ready(acquire(more, 1, mount, "x")), "it is answered")
    assert refused[0] == BAD_CALL and "parked-calls" in refused[1], refused
    full = struck.go_on(full, struck.here)
    get = lambda key, **more: full.call(key, "/counters", "get", '["x"]', **more)
    refused = get(1001)
    assert refused[0] == BAD_CALL and "calls-per-session" in refused[1] and "acknowledge" in refused[1], refused
    assert get(1) == (RETURNED, "0"), "none was thrown away"
    assert get(1001, acknowledged=1) == (RETURNED, "0")
    first = struck.go_on(first, struck.there)
    assert w.Reader(first.request(w.CANCEL, struct.pack("!q", 1)).body).int() == CANCELLED
    assert acquire(more, 1, mount, "x")[0] == PARKED
    assert len(tickets(struck.go_on(holder, struck.here), mount, "x")) == 3


def when_ready(answer: Tuple[int, str]):
    return None if answer[0] == w.NOT_READY else answer


def c3_session(struck: Struck):
    """A session that ends takes its calls along, with what they had created."""
    name = struck.path("silent")
    holder = holding(struck.here, "/locks", name)
    silent = connect(struck.there, timeout_ms=3_000)
    assert acquire(silent, 1, "/locks", name)[0] == PARKED
    last = waiting(struck.here, "/locks", name)
    line = tickets(holder, "/locks", name)
    silent.drop()
    yield
    holder = struck.go_on(holder, struck.here)
    last = struck.wait_on(last, struck.here, 1, "/locks", name)
    until(lambda: tickets(holder, "/locks", name) == [line[0], line[2]], "the silent one's ticket goes")
    release(holder, 2, "/locks", name)
    late_token(last)


CHECKS = [
    c4_order,
    c3_deadline,
    c3_cancellation,
    c1_attachment,
    c1_answers,
    c4_marks,
    c2_bounds,
    c3_session,
]


@pytest.mark.parametrize("how", ["killed", "stopped", "all killed"])
def test_parked_calls_and_answers_are_as_they_were(ensemble, how):
    for server in ensemble.servers:
        until(lambda server=server: has_compiled(server), "the recipes are ready everywhere")
    struck = Struck(ensemble, how)
    # The deadlines' time runs, so they come last, and are looked at when the others have been.
    checks = sorted(CHECKS, key=lambda check: check is c3_deadline)
    running = [check(struck) for check in checks]
    for check in running:
        next(check)
    struck.strike()
    try:
        for check in running:
            assert next(check, "ended") == "ended"
    finally:
        struck.heal()
