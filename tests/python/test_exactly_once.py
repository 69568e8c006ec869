"""One key, one execution: repeated, over cut connections, and across a restart of the server."""

import json
import random
import socket
import time

import pytest
from quorate import Recipes

from harness import wire as w
from harness.proxy import Proxy, frames
from harness.waiting import DEADLINE_S, until
from harness.wire import Closed, Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(170)]


@pytest.fixture
def counters(mounted):
    return mounted("counter")


def add(zk: Wire, mount: str, key: int, amount: int = 1, **more):
    return zk.call(key, mount, "add", f'["c",{amount}]', **more)


def value(zk: Wire, mount: str, key: int) -> int:
    status, result = zk.call(key, mount, "get", '["c"]')
    assert status == w.RETURNED, (status, result)
    return int(result)


def test_a_repeated_key_is_executed_once(wire, counters):
    zk = wire()
    assert [add(zk, counters, 1) for _ in range(5)] == [(w.RETURNED, "1")] * 5
    assert add(zk, counters, 2) == (w.RETURNED, "2")
    assert add(zk, counters, 1) == (w.RETURNED, "1"), "the kept answer, not a new one"
    assert value(zk, counters, 3) == 2


def test_a_repetition_may_space_its_arguments_differently(wire, counters):
    zk = wire()
    assert zk.call(1, counters, "add", '["c",1]') == (w.RETURNED, "1")
    assert zk.call(1, counters, "add", ' [ "c" , 1 ] ') == (w.RETURNED, "1")
    assert value(zk, counters, 2) == 1


def test_keys_belong_to_their_session(wire, counters):
    one, two = wire(), wire()
    assert add(one, counters, 1) == (w.RETURNED, "1")
    assert add(two, counters, 1) == (w.RETURNED, "2")


def test_keys_may_come_in_any_order(wire, counters):
    zk = wire()
    for key in (7, 3, 900_000_000_000, 5):
        assert add(zk, counters, key)[0] == w.RETURNED
    assert value(zk, counters, 1) == 4


def test_a_key_with_other_arguments_is_refused(wire, counters):
    zk = wire()
    add(zk, counters, 1)
    status, message = add(zk, counters, 1, amount=2)
    assert status == w.BAD_CALL
    assert "1" in message
    assert zk.call(1, counters, "get", '["c"]')[0] == w.BAD_CALL
    assert value(zk, counters, 2) == 1


def test_an_acknowledged_key_never_runs_again(wire, counters):
    zk = wire()
    for key in (1, 2, 3):
        add(zk, counters, key)
    assert add(zk, counters, 4, acknowledged=2) == (w.RETURNED, "4")
    assert add(zk, counters, 1)[0] == w.BAD_CALL
    assert add(zk, counters, 2)[0] == w.BAD_CALL
    assert add(zk, counters, 3) == (w.RETURNED, "3")
    assert zk.request(w.ACKNOWLEDGE, w.acknowledge_body(3)).err == w.OK
    assert add(zk, counters, 3)[0] == w.BAD_CALL
    assert value(zk, counters, 5) == 4


def test_c1_what_is_awaited_is_kept_and_what_is_passed_over_is_refused(wire, counters):
    zk = wire()
    for key in (1, 2, 3):
        add(zk, counters, key)
    assert add(zk, counters, 6, acknowledged=5, awaited=[2]) == (w.RETURNED, "4")
    assert add(zk, counters, 2) == (w.RETURNED, "2")
    for key in (1, 3, 4, 5):
        assert add(zk, counters, key)[0] == w.BAD_CALL
    # One that was sent before brings nothing back, and takes nothing away.
    assert zk.request(w.ACKNOWLEDGE, w.acknowledge_body(3, [2, 3])).err == w.OK
    assert add(zk, counters, 3)[0] == w.BAD_CALL
    assert add(zk, counters, 2) == (w.RETURNED, "2")
    assert zk.request(w.ACKNOWLEDGE, w.acknowledge_body(5)).err == w.OK
    assert add(zk, counters, 2)[0] == w.BAD_CALL
    assert value(zk, counters, 7) == 4


@pytest.mark.parametrize(
    "mark, awaited",
    [(3, [4]), (3, [0]), (3, [2, 1]), (3, [2, 2]), (2000, range(1, 1002))],
    ids=["above", "zero", "order", "twice", "many"],
)
def test_c1_a_bad_acknowledgement_is_refused_and_nothing_is_done(server, wire, counters, mark, awaited):
    zk = wire()
    status, message = add(zk, counters, 2001, acknowledged=mark, awaited=awaited)
    assert status == w.BAD_CALL and "await" in message
    assert zk.request(w.ACKNOWLEDGE, w.acknowledge_body(mark, awaited)).err == w.BAD_ARGUMENTS
    assert value(zk, counters, 1) == 0
    over_http = server.http.session()
    for answer in (
        over_http.call(2001, counters, "add", ["c", 1], acknowledge=mark, awaited=awaited),
        over_http.acknowledge(mark, awaited),
    ):
        assert answer.status == 400 and "await" in answer.body["error"]["message"]
    assert over_http.call(1, counters, "get", ["c"]).body["result"] == 0
    over_http.close()


def test_c1_a_session_whose_call_waits_makes_thousands_of_others(kazoo, mounted, counters):
    """Through the SDK, whose business the acknowledgements are. A server keeps a thousand calls of a session."""
    locks = mounted("fair-lock")
    holder, waiter = Recipes(kazoo()), Recipes(kazoo())
    holder.call(locks, "acquire", "x")
    waiting = waiter.call_async(locks, "acquire", "x")
    until(lambda: waiting.parked, "it waits")
    for _ in range(50):
        calls = [waiter.call_async(counters, "add", "c", 1) for _ in range(100)]
        for call in calls:
            call.get(timeout=DEADLINE_S)
    assert waiter.call(counters, "get", "c") == 5_000
    assert waiting.parked
    holder.call(locks, "release", "x")
    assert waiting.get(timeout=DEADLINE_S)["token"] > 0


def test_c1_a_session_whose_call_waits_makes_thousands_of_others_over_http(server, mounted, counters):
    locks = mounted("fair-lock")
    holder, waiter = server.http.session(), server.http.session()
    holder.call(1, locks, "acquire", ["x"])
    ask = lambda **more: waiter.call(1, locks, "acquire", ["x"], wait_ms=0, **more)
    assert ask().body["status"] == "parked"
    for key in range(2, 1_502):
        answer = waiter.call(key, counters, "add", ["c", 1], acknowledge=key - 1, awaited=[1])
        assert (answer.status, answer.body["result"]) == (200, key - 1)
    holder.call(2, locks, "release", ["x"])
    granted = ask(acknowledge=1_501, awaited=[1])
    assert granted.body["status"] == "returned"
    assert ask().body == granted.body, "it is kept"
    assert waiter.acknowledge(1_501).status == 200
    assert ask().body["error"]["code"] == "acknowledged"
    for one in (holder, waiter):
        one.close()


@pytest.mark.parametrize("key", [0, -1, -(2**63)])
def test_a_key_is_at_least_one(wire, counters, key):
    zk = wire()
    reply = zk.request(w.CALL, w.call_body(key, counters, "add", '["c",1]'))
    assert reply.err == w.MARSHALLING or w.Reader(reply.body).int() == w.BAD_CALL
    assert value(zk, counters, 1) == 0


def test_a_refusal_is_an_answer_that_is_kept(wire, mounted):
    locks = mounted("fair-lock")
    zk = wire()
    first = zk.call(1, locks, "release", '["x"]')
    assert first[0] == w.REFUSED
    zk.call(2, locks, "acquire", '["x"]')
    assert zk.call(1, locks, "release", '["x"]') == first
    assert json.loads(zk.call(3, locks, "holder", '["x"]')[1]) is not None


def test_answers_that_nobody_acknowledges_are_bounded_and_never_evicted(wire, counters):
    zk = wire()
    answered = 0
    bound = 100_000
    for start in range(1, bound, 500):
        for key in range(start, start + 500):
            zk.send(w.CALL, w.call_body(key, counters, "add", '["c",1]'))
        statuses = [w.Reader(zk.receive().body).int() for _ in range(500)]
        answered += statuses.count(w.RETURNED)
        if w.BAD_CALL in statuses:
            break
    else:
        raise AssertionError(f"{bound} answers are kept for one session: where is the bound?")
    status, message = add(zk, counters, answered + 1)
    assert status == w.BAD_CALL
    assert "acknowledge" in message
    assert add(zk, counters, 1) == (w.RETURNED, "1")
    assert add(zk, counters, answered + 2, acknowledged=answered) == (w.RETURNED, str(answered + 1))


def test_cutting_the_connection_after_every_byte_of_a_call(server, wire, counters, capsys):
    """Towards the server: it gets any part of the request. Towards the client: any part of the answer."""
    proxy = Proxy(server.address)
    watcher = wire()
    zk = Wire(proxy.address, timeout_ms=30_000)
    session, password = zk.session, zk.password
    up_start, down_start = len(proxy.sent[0]), len(proxy.received[0])
    add(zk, counters, 1, amount=1)
    up_end, down_end = len(proxy.sent[0]), len(proxy.received[0])
    assert up_end > up_start + 40 and down_end > down_start + 24

    keys = 1
    rounds = [("cut_up", cut) for cut in range(up_start + 1, up_end + 1)]
    rounds += [("cut_down", cut) for cut in range(down_start + 1, down_end + 1)]
    for direction, cut in rounds:
        keys += 1
        zk.drop()
        setattr(proxy, direction, cut)
        zk = Wire(proxy.address, session=session, password=password, timeout_ms=30_000)
        assert zk.session == session
        try:
            zk.send(w.CALL, w.call_body(keys, counters, "add", '["c",1]'))
            zk.receive()
            assert (direction, cut) == ("cut_down", down_end), "the connection should have been cut"
        except (Closed, OSError):
            pass
        zk.drop()
        zk = Wire(proxy.address, session=session, password=password, timeout_ms=30_000)
        assert add(zk, counters, keys, acknowledged=keys - 1) == (w.RETURNED, str(keys))
    assert value(watcher, counters, 1) == keys
    with capsys.disabled():
        print(f"\n{len(rounds)} cuts, {keys} keys, counter at {keys}")
    zk.drop()
    proxy.close()


def test_kazoo_counts_right_over_a_connection_that_breaks_all_the_time(server, kazoo, counters):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    proxy = Proxy(server.address)
    zk = kazoo(hosts=proxy.hosts, timeout=30.0)
    recipes = Recipes(zk)
    results, cut_within = [], 0
    for _ in range(20):
        calls = [recipes.call_async(counters, "add", "c", 1) for _ in range(10)]
        # At once, and again while kazoo reconnects; then it is let through, however busy the machine is.
        for pause in (0, rng.uniform(0, 0.01), rng.uniform(0, 0.05))[: rng.randint(1, 3)]:
            time.sleep(pause)
            cut_within += not all(call.ready() for call in calls)
            proxy.cut()
        results += [call.get(timeout=60) for call in calls]
    assert results == list(range(1, 201))
    assert cut_within > 5
    proxy.close()


def test_a_repeated_key_is_executed_once_across_a_restart(own_server):
    own_server.http.mount("/counters", "counter")
    zk = Wire(own_server.address, timeout_ms=30_000)
    for key in range(1, 6):
        assert add(zk, "/counters", key) == (w.RETURNED, str(key))
    zk.send(w.CALL, w.call_body(6, "/counters", "add", '["c",1]'))
    own_server.restart()
    zk = Wire(own_server.address, session=zk.session, password=zk.password, timeout_ms=30_000)

    def repeated():
        answer = add(zk, "/counters", 6)
        return answer if answer[0] != w.NOT_READY else None

    assert until(repeated, "the recipe is ready") == (w.RETURNED, "6")
    assert add(zk, "/counters", 3) == (w.RETURNED, "3")
    assert value(zk, "/counters", 7) == 6
    zk.close_session()


def test_an_acknowledgement_holds_across_a_restart(own_server):
    own_server.http.mount("/counters", "counter")
    zk = Wire(own_server.address, timeout_ms=30_000)
    add(zk, "/counters", 1)
    add(zk, "/counters", 2, acknowledged=1)
    own_server.restart()
    zk = Wire(own_server.address, session=zk.session, password=zk.password, timeout_ms=30_000)
    until(lambda: zk.call(3, "/counters", "get", '["c"]')[0] != w.NOT_READY, "the recipe is ready")
    assert add(zk, "/counters", 1)[0] == w.BAD_CALL
    assert add(zk, "/counters", 2) == (w.RETURNED, "2")


def test_a_parked_call_waits_on_across_a_restart(own_server, own_kazoo):
    own_server.http.mount("/locks", "fair-lock")
    holder, waiter, last = (Recipes(own_kazoo(timeout=30.0)) for _ in range(3))
    grant = holder.call("/locks", "acquire", "x")
    waiting = waiter.call_async("/locks", "acquire", "x")
    until(lambda: waiting.parked, "it is parked")
    lasting = last.call_async("/locks", "acquire", "x")
    until(lambda: lasting.parked, "it is parked")
    own_server.restart()
    assert holder.call("/locks", "holder", "x")["token"] == grant["token"]
    assert not waiting.ready()
    assert holder.call("/locks", "release", "x") == 0
    assert waiting.get(timeout=DEADLINE_S)["token"] > grant["token"]
    assert not lasting.ready()
    waiter.call("/locks", "release", "x")
    assert lasting.get(timeout=DEADLINE_S)


def http_request(path: str, body: dict) -> bytes:
    """As `curl` would send it; the connection is not used again."""
    text = json.dumps(body).encode()
    head = (
        f"PUT {path} HTTP/1.1\r\nHost: quorate\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text


def http_exchange(address, request: bytes):
    """The answer's status and body; none if the connection was cut before all of it was here."""
    answer = b""
    try:
        with socket.create_connection(address, timeout=DEADLINE_S) as connection:
            connection.sendall(request)
            while piece := connection.recv(65536):
                answer += piece
    except OSError:
        pass
    head, end, text = answer.partition(b"\r\n\r\n")
    if not end:
        return None
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    if not lengths or len(text) < int(lengths[0].split(b":")[1]):
        return None
    return int(head.split()[1]), json.loads(text)


def cuts_of(proxy: Proxy):
    """Where to cut: before and after every byte of what the proxy's last connection has passed on."""
    up, down = len(proxy.sent[-1]), len(proxy.received[-1])
    return [("cut_up", cut) for cut in range(1, up + 1)] + [
        ("cut_down", cut) for cut in range(1, down + 1)
    ]


def test_cutting_the_connection_after_every_byte_of_a_call_over_http(server, counters, capsys):
    address = tuple(server.http_address)
    proxy = Proxy(address)
    session = server.http.session()

    def call(key: int):
        body = {
            "mount": counters,
            "operation": "add",
            "arguments": ["c", 1],
            "acknowledge": {"mark": max(0, key - 2)},
        }
        return http_request(f"{session.path}/calls/{key}", body)

    # As long as the longest of them, so that every one is cut everywhere.
    assert http_exchange(proxy.address, call(1))[0] == 200
    keys, lost = 1, 0
    for direction, cut in cuts_of(proxy):
        keys += 1
        setattr(proxy, direction, cut)
        lost += http_exchange(proxy.address, call(keys)) is None
        status, body = http_exchange(address, call(keys))
        assert (status, body["status"], body["result"]) == (200, "returned", keys), (direction, cut)
    assert lost >= keys - 20, "nearly every exchange was cut"
    assert session.call(keys + 1, counters, "get", ["c"]).body["result"] == keys
    with capsys.disabled():
        print(f"\n{keys} keys over HTTP, {lost} answers lost, counter at {keys}")
    proxy.close()
    session.close()


def around_bounds(data: bytes) -> list:
    """From the handshake's end on: every byte near the end of a frame, and every third elsewhere."""
    ends = [0]
    for frame in frames(data):
        ends.append(ends[-1] + 4 + len(frame))
    near = {end + distance for end in ends for distance in range(-3, 6)}
    return [cut for cut in range(ends[1], len(data) + 1) if cut in near or cut % 3 == 0]


def test_cutting_the_connection_around_a_late_answer(server, wire, mounted, capsys):
    """A lock that is handed over while the waiter's connection breaks: before its call is parked, between the parked
    answer and the event, within the event and behind it. The waiter asks again with its key and has the one grant."""
    locks = mounted("fair-lock")
    proxy = Proxy(server.address)
    holder = wire()
    waiter = Wire(proxy.address, timeout_ms=30_000)
    session, password = waiter.session, waiter.password
    keys = {"holder": 0, "waiter": 0}

    def ask(zk: Wire, who: str, operation: str, acknowledged: int = 0):
        keys[who] += 1
        status, result = zk.call(
            keys[who], locks, operation, '["x"]', acknowledged=acknowledged or keys[who] - 1
        )
        assert status == w.RETURNED, (who, operation, result)
        return json.loads(result)

    def again() -> Wire:
        return Wire(proxy.address, session=session, password=password, timeout_ms=30_000)

    def round_of(direction=None, cut=None):
        """The holder has the lock, the waiter waits for it, over a connection that is cut; then it is handed over."""
        nonlocal waiter
        held = ask(holder, "holder", "acquire")
        keys["waiter"] += 1
        key = keys["waiter"]
        body = w.call_body(key, locks, "acquire", '["x"]', acknowledged=key - 1)
        waiter.drop()
        if direction:
            setattr(proxy, direction, cut)
        early = None
        try:
            waiter = again()
            waiter.send(w.CALL, body)
            reply = w.Reader(waiter.receive().body)
            assert reply.int() == w.PARKED
        except (Closed, OSError):
            # Cut before it was known to wait: it asks again before the lock is free, so that it waits all the same.
            waiter.drop()
            waiter = again()
            assert waiter.call(key, locks, "acquire", '["x"]', acknowledged=key - 1)[0] == w.PARKED
            early = True
        ask(holder, "holder", "release")
        late = None
        try:
            event = waiter.wait_event().answer
            assert event[0] == key and event[1] == w.RETURNED
            late = json.loads(event[2])
        except (Closed, OSError):
            pass
        # Whether or not the event came: asked again over another connection, it is the same grant.
        waiter.drop()
        waiter = again()
        status, result = waiter.call(key, locks, "acquire", '["x"]', acknowledged=key - 1)
        assert status == w.RETURNED, (direction, cut, status, result)
        grant = json.loads(result)
        assert late in (None, grant), (direction, cut)
        assert grant["token"] > held["token"] and grant["holds"] == 1
        ask(waiter, "waiter", "release")
        assert ask(holder, "holder", "holder") is None, "it was granted once, so one release frees it"
        return early, late

    assert round_of()[1] is not None
    until(lambda: len(proxy.received) >= 2, "the round's connection is there")
    sent, received = bytes(proxy.sent[1]), bytes(proxy.received[1])
    rounds = [("cut_up", cut) for cut in around_bounds(sent)]
    rounds += [("cut_down", cut) for cut in around_bounds(received)]
    seen = [round_of(direction, cut) for direction, cut in rounds]
    assert any(early for early, _ in seen), "cut before it was known to wait"
    assert any(not early and not late for early, late in seen), "cut between the parking and the event's end"
    assert any(not early and late for early, late in seen), "cut behind the event"
    with capsys.disabled():
        print(f"\n{len(rounds)} cuts around a late answer")
    waiter.drop()
    proxy.close()


def test_cutting_the_connection_of_kazoo_within_calls(server, kazoo, mounted, capsys):
    """The SDK by itself: nobody repeats anything, and every call is executed once. The lock's answer comes late."""
    counters, locks = mounted("counter"), mounted("fair-lock")
    proxy = Proxy(server.address)
    other, zk = Recipes(kazoo(timeout=30.0)), kazoo(hosts=proxy.hosts, timeout=30.0)
    recipes = Recipes(zk)
    added = 0
    # From within the handshake to behind the last answer; other tests cut at every byte, kazoo takes its time.
    for direction, first in [("cut_up", 40), ("cut_down", 32)]:
        for cut in range(first, first + 240, 20):
            held = other.call(locks, "acquire", "x")
            waiting = recipes.call_async(locks, "acquire", "x")
            setattr(proxy, direction, cut)
            proxy.cut()
            added += 1
            assert recipes.call(counters, "add", "c", 1) == added, (direction, cut)
            assert other.call(locks, "release", "x") == 0
            grant = waiting.get(timeout=DEADLINE_S)
            assert grant["token"] > held["token"] and grant["holds"] == 1
            assert recipes.call(locks, "release", "x") == 0
    assert other.call(counters, "get", "c") == added
    with capsys.disabled():
        print(f"\n{added} adds and as many late answers over kazoo, {len(proxy.sent)} connections")
    proxy.close()
