"""The Python SDK by itself: what it sends, and what it makes of every answer, event and lost connection."""

import threading

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import (
    ConnectionClosedError,
    NoAuthError,
    NoNodeError,
    SessionExpiredError,
)
from quorate import (
    BadCall,
    CallCancelled,
    CallError,
    CallExceeded,
    CallFailed,
    CallRefused,
    CallTimedOut,
    CallTrapped,
    CallUnmounted,
    NotReady,
    Recipes,
    calls,
    check,
    wire,
)

from harness import wire as w
from harness.scripted import Asked, ScriptedServer
from harness.waiting import DEADLINE_S, until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def scripted():
    """Starts a server with a script and a kazoo client of it; gives (server, client, recipes)."""
    opened = []

    def start(script, **options):
        server = ScriptedServer(script)
        client = KazooClient(hosts=server.hosts + options.pop("chroot", ""), **options)
        opened.append((server, client))
        client.start_async()
        assert client._live.wait(DEADLINE_S)
        return server, client, Recipes(client)

    yield start
    for server, client in opened:
        client.stop()
        client.close()
        server.close()


def returning(result):
    return lambda connection, xid, asked: connection.answer(xid, w.RETURNED, result)


def test_a_call_is_one_request_and_gives_its_result(scripted):
    server, _, recipes = scripted(returning('{"token":4294967298,"holds":1}'))
    grant = recipes.call("/locks", "acquire", "inventory", timeout=2.5)
    assert grant == {"token": 4294967298, "holds": 1}
    assert server.asked == [Asked(1, w.CALL, 1, "/locks", "acquire", '["inventory"]', 2500)]


def test_arguments_by_position_by_name_and_none(scripted):
    server, _, recipes = scripted(returning("null"))
    assert recipes.call("/m", "f", 1, [2, {"ä": None}], True) is None
    recipes.call("/m", "f", name="x", number=1.5)
    recipes.call("/m", "f")
    assert [asked.arguments for asked in server.asked] == [
        '[1,[2,{"ä":null}],true]',
        '{"name":"x","number":1.5}',
        "[]",
    ]
    with pytest.raises(TypeError):
        recipes.call("/m", "f", 1, name="x")
    with pytest.raises(ValueError):
        recipes.call("/m", "f", timeout=0)


def test_operations_as_methods(scripted):
    server, _, recipes = scripted(returning("[]"))
    recipes.at("/counters").compare_and_set("c", 1, 2, timeout=1)
    asked = server.asked[0]
    assert (asked.mount, asked.operation) == ("/counters", "compare-and-set")
    assert (asked.arguments, asked.timeout_ms) == ('["c",1,2]', 1000)


def test_a_chroot_is_before_the_mount(scripted):
    server, _, recipes = scripted(returning("null"), chroot="/app")
    recipes.call("/locks", "f")
    assert server.asked[0].mount == "/app/locks"


@pytest.mark.parametrize(
    "status, result, error, attributes",
    [
        (w.FAILED, '{"in-use":3}', CallFailed, {"error": {"in-use": 3}}),
        (w.REFUSED, "not yours", CallRefused, {"message": "not yours"}),
        (w.TRAPPED, "unreachable", CallTrapped, {"message": "unreachable"}),
        (w.EXCEEDED, "fuel: more than 10", CallExceeded, {"bound": "fuel"}),
        (w.CANCELLED, "", CallCancelled, {}),
        (w.TIMED_OUT, "", CallTimedOut, {}),
        (w.UNMOUNTED, "", CallUnmounted, {}),
        (w.BAD_CALL, "no operation f", BadCall, {"message": "no operation f"}),
        (99, "", CallError, {}),
    ],
)
def test_every_status_is_an_exception_of_its_own(scripted, status, result, error, attributes):
    _, _, recipes = scripted(lambda connection, xid, asked: connection.answer(xid, status, result))
    with pytest.raises(error) as raised:
        recipes.call("/locks", "f", "x")
    assert (raised.value.mount, raised.value.operation, raised.value.key) == ("/locks", "f", 1)
    for name, value in attributes.items():
        assert getattr(raised.value, name) == value
    assert "f at /locks" in str(raised.value)


def test_c7_a_refused_request_says_why(scripted):
    server, client, _ = scripted(returning("null"))
    with pytest.raises(NoNodeError) as unsaid:
        client.set("/config/web", b"{}")
    assert str(unsaid.value) == "" and not hasattr(unsaid.value, "reason")
    server.refusal = "the guard of /config refuses it: no port, ä"
    for write in [
        lambda: client.create("/config/web", b"{}"),
        lambda: client.set("/config/web", b"{}"),
        lambda: client.delete("/config/web"),
        lambda: client.set_async("/config/web", b"{}").get(timeout=DEADLINE_S),
    ]:
        with pytest.raises(NoAuthError) as refused:
            write()
        assert refused.value.reason == str(refused.value) == server.refusal


def parking(connection, xid, asked):
    connection.answer(xid, w.PARKED)


SURROGATE = "a\ud800"


#: A list in itself.
ENDLESS = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    "error, named, mount, operation, arguments, options",
    [
        (TypeError, "mount", None, "f", (), {}),
        (TypeError, "mount", b"/m", "f", (), {}),
        (ValueError, "mount", "/" + SURROGATE, "f", (), {}),
        (ValueError, "mount", "/m/../n", "f", (), {}),
        (TypeError, "operation", "/m", None, (), {}),
        (TypeError, "operation", "/m", 3, (), {}),
        (TypeError, "operation", "/m", b"holder", (), {}),
        (ValueError, "operation", "/m", SURROGATE, (), {}),
        (TypeError, "timeout", "/m", "f", (), {"timeout": "5"}),
        (TypeError, "timeout", "/m", "f", (), {"timeout": True}),
        (TypeError, "timeout", "/m", "f", (), {"timeout": 1j}),
        (ValueError, "timeout", "/m", "f", (), {"timeout": -1}),
        (ValueError, "timeout", "/m", "f", (), {"timeout": 1e30}),
        (ValueError, "timeout", "/m", "f", (), {"timeout": 10**5000}),
        (ValueError, "timeout", "/m", "f", (), {"timeout": float("inf")}),
        (ValueError, "timeout", "/m", "f", (), {"timeout": float("nan")}),
        (TypeError, "argument 2", "/m", "f", (1, b"x"), {}),
        (TypeError, "argument 1", "/m", "f", ({(1, 2): 3},), {}),
        (ValueError, "argument 1", "/m", "f", ({SURROGATE: 1},), {}),
        (ValueError, "argument 1", "/m", "f", (float("nan"),), {}),
        (ValueError, "argument 1", "/m", "f", (ENDLESS,), {}),
        (TypeError, "argument name", "/m", "f", (), {"name": {1}}),
        (ValueError, "argument name", "/m", "f", (), {"name": SURROGATE}),
        (ValueError, "the name of an argument", "/m", "f", (), {SURROGATE: 1}),
        (TypeError, "by position or by name", "/m", "f", (1,), {"name": 1}),
        (ValueError, "at most", "/m", "f", ("x" * wire.MAX_GIVEN_BYTES,), {}),
    ],
)
def test_what_cannot_be_sent_raises_at_the_call_and_the_client_goes_on(
    scripted, error, named, mount, operation, arguments, options
):
    server, client, recipes = scripted(returning("7"))
    states = []
    client.add_listener(states.append)
    for method in (recipes.call, recipes.call_async):
        with pytest.raises(error, match=named):
            method(mount, operation, *arguments, **options)
    assert recipes.call("/m", "f") == 7
    assert client.exists("/nothing") is None
    # Nothing of it was sent, and it took no key.
    assert [(asked.connection, asked.key) for asked in server.asked] == [(1, 1)]
    assert states == []


def test_what_a_mount_by_itself_cannot_send_raises_too(scripted):
    server, _, recipes = scripted(returning("7"))
    with pytest.raises(TypeError, match="mount"):
        recipes.at(None)
    with pytest.raises(ValueError, match="mount"):
        recipes.at(SURROGATE)
    mount = recipes.at("/m")
    with pytest.raises(TypeError, match="timeout"):
        mount.f(timeout="5")
    with pytest.raises(ValueError, match="operation"):
        getattr(mount, SURROGATE)()
    with pytest.raises(TypeError, match="call"):
        recipes.cancel(1)
    assert mount.f() == 7
    assert len(server.asked) == 1


def test_the_longest_of_everything_is_sent(scripted, monkeypatch):
    monkeypatch.setattr(wire, "MAX_GIVEN_BYTES", 100)
    server, _, recipes = scripted(returning("7"))
    beside = len(wire.given(b"/m", b"f", b'[""]', 0))
    assert recipes.call("/m", "f", "x" * (100 - beside), timeout=check.MAX_TIMEOUT_S) == 7
    assert server.asked[0].timeout_ms == check.MAX_TIMEOUT_S * 1000
    with pytest.raises(ValueError, match="101 bytes"):
        recipes.call("/m", "f", "x" * (101 - beside))
    recipes.call("/m", "f", timeout=float(check.MAX_TIMEOUT_S - 1))
    recipes.call("/m", "f", timeout=1e-9)
    assert server.asked[2].timeout_ms == 1


@pytest.mark.parametrize(
    "error, timeout",
    [
        (TypeError, "5"),
        (TypeError, False),
        (ValueError, 1e30),
        (ValueError, float("inf")),
        (ValueError, float("nan")),
    ],
)
def test_waiting_for_a_time_that_is_none_raises_and_the_call_goes_on(scripted, error, timeout):
    server, client, recipes = scripted(parking)
    waiting = recipes.call_async("/m", "f")
    with pytest.raises(error, match="timeout"):
        waiting.get(timeout=timeout)
    with pytest.raises(TypeError, match="function"):
        waiting.rawlink(None)
    until(lambda: waiting.parked, "it is parked")
    for at_once in (0, -1, -float("inf")):
        with pytest.raises(client.handler.timeout_exception):
            waiting.get(timeout=at_once)
    server.connections[0].late_answer("/m", waiting.key, w.RETURNED, "7")
    assert waiting.get(timeout=DEADLINE_S) == 7


def test_a_parked_call_ends_by_its_event_and_others_go_on_meanwhile(scripted):
    def script(connection, xid, asked):
        if asked.operation == "wait":
            connection.answer(xid, w.PARKED)
        else:
            connection.answer(xid, w.RETURNED, "7")

    server, zk, recipes = scripted(script)
    waiting = recipes.call_async("/m", "wait")
    until(lambda: waiting.parked, "it is parked")
    assert recipes.call("/m", "quick") == 7
    assert zk.exists("/nothing") is None
    assert not waiting.ready()
    linked = threading.Event()
    waiting.rawlink(lambda call: linked.set() if call is waiting else None)
    server.connections[0].late_answer("/m", waiting.key, w.RETURNED, '"granted"')
    assert waiting.get(timeout=DEADLINE_S) == "granted"
    assert linked.wait(DEADLINE_S)
    assert not waiting.parked


def test_an_event_right_behind_the_parked_response(scripted):
    def script(connection, xid, asked):
        connection.answer(xid, w.PARKED)
        connection.late_answer(asked.mount, asked.key, w.REFUSED, "gone")

    _, _, recipes = scripted(script)
    for _ in range(50):
        with pytest.raises(CallRefused):
            recipes.call("/m", "f")


def test_answers_are_acknowledged_with_the_next_call(scripted):
    def script(connection, xid, asked):
        if asked.operation == "wait":
            connection.answer(xid, w.PARKED)
        else:
            connection.answer(xid, w.RETURNED, "null")

    server, _, recipes = scripted(script)
    recipes.call("/m", "f")
    recipes.call("/m", "f")
    waiting = recipes.call_async("/m", "wait")
    until(lambda: waiting.parked, "it is parked")
    recipes.call("/m", "f")
    recipes.call("/m", "f")
    # Key 3 waits: its answer is awaited, and holds nothing back.
    assert [(asked.key, asked.acknowledged) for asked in server.asked] == [
        (1, (0, ())),
        (2, (1, ())),
        (3, (2, ())),
        (4, (3, (3,))),
        (5, (4, (3,))),
    ]
    server.connections[0].late_answer("/m", 3, w.RETURNED, "null")
    waiting.get(timeout=DEADLINE_S)
    recipes.acknowledge()
    all_of_them = Asked(1, w.ACKNOWLEDGE, 0, acknowledged=(5, ()))
    until(lambda: server.asked[-1] == all_of_them, "all are acknowledged")


def test_what_the_server_may_not_know_yet_is_not_passed_over(scripted):
    held = []

    def script(connection, xid, asked):
        status = w.BAD_CALL if asked.operation == "bad" else w.RETURNED
        answer = lambda: connection.answer(xid, status, "null")
        held.append(answer) if asked.operation == "slow" else answer()

    server, _, recipes = scripted(script)
    slow = [recipes.call_async("/m", "slow") for _ in range(3)]
    until(lambda: len(held) == 3, "they are asked for")
    assert [asked.acknowledged for asked in server.asked] == [(0, ())] * 3
    for answer in held:
        answer()
    for call in slow:
        call.get(timeout=DEADLINE_S)
    # Nor is a key held for ever under which nothing ran.
    with pytest.raises(BadCall):
        recipes.call("/m", "bad")
    recipes.call("/m", "f")
    assert [asked.acknowledged for asked in server.asked[3:]] == [(3, ()), (4, ())]


def test_no_more_keys_are_awaited_than_a_server_takes(scripted, monkeypatch):
    monkeypatch.setattr(wire, "MAX_AWAITED", 3)
    server, _, recipes = scripted(parking)
    for number in range(1, 6):
        call = recipes.call_async("/m", "wait")
        until(lambda: call.parked, "it is parked")
    assert [asked.acknowledged for asked in server.asked] == [
        (0, ()),
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (3, (1, 2, 3)),
    ]


def test_a_lost_connection_repeats_the_call_with_its_key(scripted):
    def script(connection, xid, asked):
        if connection.number == 1:
            connection.drop()
        else:
            connection.answer(xid, w.RETURNED, "1")

    server, _, recipes = scripted(script)
    assert recipes.call("/counters", "add", "c", 1) == 1
    first, second = server.asked
    assert first == second._replace(connection=1)


def test_a_parked_call_is_asked_for_again_on_each_connection(scripted):
    server, _, recipes = scripted(parking)
    waiting = recipes.call_async("/locks", "acquire", "x")
    for number in range(1, 4):
        until(lambda: len(server.asked) == number, "it is asked for")
        until(lambda: waiting.parked, "it is parked")
        server.connections[-1].drop()
    until(lambda: len(server.asked) == 4, "it is asked for again")
    assert [asked.acknowledged for asked in server.asked] == [(0, ())] + [(1, (1,))] * 3
    assert {asked._replace(connection=0, acknowledged=(0, ())) for asked in server.asked} == {
        Asked(0, w.CALL, 1, "/locks", "acquire", '["x"]', 0)
    }
    server.connections[-1].late_answer("/locks", 1, w.RETURNED, "5")
    assert waiting.get(timeout=DEADLINE_S) == 5


def test_a_call_made_without_a_connection_waits_for_one(scripted):
    server, zk, recipes = scripted(returning("3"))
    suspended = threading.Event()
    made = []

    def listen(state):
        if state == "SUSPENDED":
            made.append(recipes.call_async("/m", "f"))
            suspended.set()

    zk.add_listener(listen)
    server.connections[0].drop()
    assert suspended.wait(DEADLINE_S)
    assert made[0].get(timeout=DEADLINE_S) == 3


def test_an_expired_session_ends_its_calls(scripted):
    server, _, recipes = scripted(parking)
    waiting = recipes.call_async("/locks", "acquire", "x")
    until(lambda: waiting.parked, "it is parked")
    server.expire = True
    server.connections[0].drop()
    with pytest.raises(SessionExpiredError):
        waiting.get(timeout=DEADLINE_S)
    # The next session's calls go on with the next keys.
    server.script = returning("1")
    until(lambda: len(server.connections) >= 3, "there is a new session")
    until(lambda: recipes._calls._connected, "it is connected")
    assert recipes.call("/m", "f") == 1
    assert server.asked[-1].key == 2


def test_a_stopped_client_ends_its_calls(scripted):
    _, zk, recipes = scripted(parking)
    waiting = recipes.call_async("/locks", "acquire", "x")
    until(lambda: waiting.parked, "it is parked")
    zk.stop()
    with pytest.raises(ConnectionClosedError):
        waiting.get(timeout=DEADLINE_S)
    with pytest.raises(ConnectionClosedError):
        recipes.call("/m", "f")


def test_a_recipe_that_is_not_ready_is_asked_again(scripted, monkeypatch):
    monkeypatch.setattr(calls, "_NOT_READY_DELAY_MAX", 0.01)

    def script(connection, xid, asked):
        ready = len(server.asked) > 3
        connection.answer(xid, w.RETURNED if ready else w.NOT_READY, "9" if ready else "compiling")

    server, _, recipes = scripted(script)
    assert recipes.call("/m", "f") == 9
    # Nothing ran, so that each time it is another call, and the one before holds nothing back.
    assert [(asked.key, asked.acknowledged) for asked in server.asked] == [
        (key, (key - 1, ())) for key in range(1, 5)
    ]

    monkeypatch.setattr(calls, "_NOT_READY_ATTEMPTS", 2)
    server.script = lambda connection, xid, asked: connection.answer(xid, w.NOT_READY, "compiling")
    with pytest.raises(NotReady):
        recipes.call("/m", "f")


def test_cancelling_a_parked_call(scripted):
    def script(connection, xid, asked):
        connection.answer(xid, w.PARKED if asked.op == w.CALL else w.CANCELLED)

    server, _, recipes = scripted(script)
    waiting = recipes.call_async("/locks", "acquire", "x")
    assert waiting.cancel()
    with pytest.raises(CallCancelled):
        waiting.get()
    assert [(asked.op, asked.key) for asked in server.asked] == [(w.CALL, 1), (w.CANCEL, 1)]
    assert waiting.cancel()
    assert len(server.asked) == 2


def test_cancelling_too_late_gives_the_result(scripted):
    def script(connection, xid, asked):
        if asked.op == w.CALL:
            connection.answer(xid, w.PARKED)
        else:
            connection.answer(xid, w.RETURNED, '"granted"')

    _, _, recipes = scripted(script)
    waiting = recipes.call_async("/locks", "acquire", "x")
    assert not waiting.cancel()
    assert waiting.get() == "granted"


def test_a_cancelled_call_is_not_repeated_on_the_next_connection(scripted):
    called = threading.Event()

    def script(connection, xid, asked):
        if connection.number == 1:
            assert called.wait(DEADLINE_S)
            connection.drop()
        else:
            connection.answer(xid, w.BAD_CALL, "this session has no call 1")

    server, zk, recipes = scripted(script)
    made = []

    def listen(state):
        if state == "SUSPENDED":
            made[0].cancel_async()

    zk.add_listener(listen)
    made.append(recipes.call_async("/locks", "acquire", "x"))
    called.set()
    with pytest.raises(CallCancelled):
        made[0].get(timeout=DEADLINE_S)
    assert [(asked.connection, asked.op) for asked in server.asked] == [(1, w.CALL), (2, w.CANCEL)]


def test_an_interrupted_call_is_cancelled(scripted, monkeypatch):
    server, _, recipes = scripted(parking)

    def interrupt(self, timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(calls.Call, "get", interrupt)
    with pytest.raises(KeyboardInterrupt):
        recipes.call("/locks", "acquire", "x")
    until(lambda: [asked.op for asked in server.asked] == [w.CALL, w.CANCEL], "it is cancelled")


def test_several_recipes_over_one_client_share_the_keys(scripted):
    server, zk, recipes = scripted(returning("null"))
    recipes.call("/m", "f")
    Recipes(zk).call("/m", "f")
    assert [asked.key for asked in server.asked] == [1, 2]


def test_calls_from_many_threads_get_their_own_answers(scripted):
    def script(connection, xid, asked):
        connection.answer(xid, w.PARKED)
        connection.late_answer(asked.mount, asked.key, w.RETURNED, asked.arguments)

    _, _, recipes = scripted(script)
    wrong = []

    def run(number):
        for i in range(50):
            if recipes.call("/m", "echo", number, i) != [number, i]:
                wrong.append((number, i))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert wrong == []


def test_events_of_zookeeper_still_reach_their_watches(scripted):
    server, zk, _ = scripted(returning("null"))
    events = []
    assert zk.exists("/a", watch=events.append) is None
    server.connections[0].watch_event(w.NODE_CREATED, "/a")
    until(lambda: events, "the watch fires")
    assert (events[0].type, events[0].path) == ("CREATED", "/a")


def test_other_clients_are_left_alone(scripted):
    scripted(returning("null"))
    other = KazooClient()
    assert "_read_watch_event" not in other._connection.__dict__
