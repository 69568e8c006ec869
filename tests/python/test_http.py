"""The HTTP API, with nothing but the standard library's client: calls, administration, reading the tree."""

import json
import threading
import time

import pytest

from harness import wire as w
from harness.waiting import until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]


@pytest.fixture
def http(server):
    return server.http


@pytest.fixture
def session(http):
    """Opens sessions; all are closed afterwards."""
    opened = []

    def start(**options):
        opened.append(http.session(**options))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def error(answer) -> str:
    assert set(answer.body) == {"error"}, answer
    assert answer.body["error"]["message"]
    return answer.body["error"]["code"]


def test_health(http):
    answer = http.get("/health")
    assert (answer.status, answer.body["status"]) == (200, "ok")


def test_metrics_are_prometheus_text(http, session, mounted):
    counters = mounted("counter")
    one = session()
    one.call(1, counters, "add", ["c", 1])
    text = http.get("/metrics").body
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) > 10
    for line in lines:
        name, _, number = line.rpartition(" ")
        assert name.startswith("quorate_"), line
        float(number)


def test_a_session_opens_lives_and_closes(http, session):
    one = session(timeout_ms=5000)
    assert one.timeout_ms == 5000
    assert one.keep_alive().status == 200
    assert one.close().status == 200
    assert one.keep_alive().status == 410
    assert error(one.keep_alive()) == "session-expired"


def test_a_call_returns_its_result(session, mounted):
    locks = mounted("fair-lock")
    one = session()
    answer = one.call(1, locks, "acquire", ["inventory"])
    assert answer.status == 200
    assert answer.body["status"] == "returned"
    assert answer.body["result"]["holds"] == 1
    assert answer.body["zxid"] >= answer.body["result"]["token"]
    by_name = one.call(2, locks, "release", {"name": "inventory"})
    assert by_name.body["result"] == 0


def test_a_parked_call_is_asked_for_again_until_its_answer_is_there(session, mounted):
    locks = mounted("fair-lock")
    holder, waiter = session(), session()
    holder.call(1, locks, "acquire", ["x"])
    begin = time.monotonic()
    parked = waiter.call(1, locks, "acquire", ["x"], wait_ms=200)
    assert (parked.status, parked.body["status"]) == (202, "parked")
    assert time.monotonic() - begin >= 0.2
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(waiter.call(1, locks, "acquire", ["x"], wait_ms=30_000))
    )
    thread.start()
    holder.call(2, locks, "release", ["x"])
    thread.join(30)
    assert (answers[0].status, answers[0].body["status"]) == (200, "returned")
    again = waiter.call(1, locks, "acquire", ["x"])
    assert again.body["result"] == answers[0].body["result"]


def test_a_repeated_key_is_executed_once(http, session, mounted):
    counters = mounted("counter")
    one = session()
    results = [one.call(1, counters, "add", ["c", 5]).body["result"] for _ in range(4)]
    assert results == [5] * 4
    assert error(one.call(1, counters, "add", ["c", 6])) == "key-reused"
    assert one.acknowledge(1).status == 200
    assert error(one.call(1, counters, "add", ["c", 5])) == "acknowledged"
    assert one.call(2, counters, "get", ["c"]).body["result"] == 5
    assert http.get(f"/v1/tree{counters}/c").body["data"] == "5"


def test_concurrent_repetitions_are_executed_once(session, mounted):
    counters = mounted("counter")
    one = session()
    results = []

    def run():
        for key in range(1, 21):
            results.append((key, one.call(key, counters, "add", ["c", 1]).body["result"]))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 80
    assert len(set(results)) == 20
    assert one.call(100, counters, "get", ["c"]).body["result"] == 20


def test_refused_cancelled_and_timed_out(session, mounted):
    locks = mounted("fair-lock")
    holder, waiter = session(), session()
    refused = waiter.call(1, locks, "release", ["x"])
    assert (refused.status, refused.body["status"]) == (200, "refused")
    assert refused.body["error"]
    holder.call(1, locks, "acquire", ["x"])
    waiter.call(2, locks, "acquire", ["x"], wait_ms=0)
    assert waiter.cancel(2).body["status"] == "cancelled"
    assert waiter.call(2, locks, "acquire", ["x"]).body["status"] == "cancelled"
    late = waiter.call(3, locks, "acquire", ["x"], timeout_ms=200)
    assert late.body["status"] == "timed-out"
    done = holder.cancel(1)
    assert done.body["status"] == "returned", "cancelling too late gives the result"
    assert error(holder.cancel(99)) == "no-call"


def test_the_end_of_a_session_hands_its_lock_over(session, mounted):
    locks = mounted("fair-lock")
    holder, waiter = session(timeout_ms=1500), session()
    holder.call(1, locks, "acquire", ["x"])
    waiter.call(1, locks, "acquire", ["x"], wait_ms=0)
    begin = time.monotonic()
    answer = waiter.call(1, locks, "acquire", ["x"], wait_ms=15_000)
    assert answer.body["status"] == "returned"
    assert time.monotonic() - begin < 10
    assert error(holder.keep_alive()) == "session-expired"


def test_a_long_poll_alone_does_not_keep_its_session(session, mounted):
    """Else a client that is gone would be kept alive by its last request."""
    locks = mounted("fair-lock")
    holder, waiter = session(), session(timeout_ms=1500)
    holder.call(1, locks, "acquire", ["x"])
    begin = time.monotonic()
    answer = waiter.call(1, locks, "acquire", ["x"], wait_ms=60_000)
    assert time.monotonic() - begin < 10
    assert answer.status in (202, 410)


def test_http_and_zookeeper_clients_stand_in_one_line(session, mounted, wire):
    locks = mounted("fair-lock")
    over_http, zk = session(), wire()
    first = over_http.call(1, locks, "acquire", ["x"]).body["result"]
    assert zk.call(1, locks, "acquire", '["x"]')[0] == w.PARKED
    assert over_http.call(2, locks, "release", ["x"]).body["result"] == 0
    key, status, result = zk.wait_event().answer
    assert (key, status) == (1, w.RETURNED)
    assert json.loads(result)["token"] > first["token"]
    parked = over_http.call(3, locks, "acquire", ["x"], wait_ms=0)
    assert parked.status == 202
    zk.close_session()
    assert over_http.call(3, locks, "acquire", ["x"]).body["status"] == "returned"


def test_bad_calls_are_refused_by_name(session, mounted):
    locks = mounted("fair-lock")
    one = session()
    assert error(one.call(1, "/nothing", "acquire", ["x"])) == "not-mounted"
    assert error(one.call(1, locks, "nonsense", [])) == "bad-call"
    for arguments in ([], [7], ["x", "y"], {"name": "x", "colour": "red"}, {"colour": "red"}):
        answer = one.call(1, locks, "acquire", arguments)
        assert error(answer) == "bad-call", arguments
    assert "name" in one.call(1, locks, "acquire", []).body["error"]["message"]
    # Nothing of that used the key up.
    assert one.call(1, locks, "acquire", ["x"]).body["status"] == "returned"


@pytest.mark.parametrize(
    "method, path, body",
    [
        ("POST", "/v1/sessions", b"{not json"),
        ("POST", "/v1/sessions", b'{"timeout_ms":"long"}'),
        ("POST", "/v1/sessions", b'{"timeout":5}'),
        ("PUT", "/v1/mounts/x", b"[]"),
        ("PUT", "/v1/mounts/x//y", b'{"recipe":"counter"}'),
        ("PUT", "/v1/recipes/UPPER", b""),
        ("GET", "/v1/tree/a//b", None),
        ("GET", "/v1/tree/?limit=many", None),
        ("GET", "/v1/tree/%ff", None),
        ("GET", "/v1/tree/?bogus=1", None),
        ("PUT", "/v1/mounts/x", b'{"recipe":"counter","parameters":[12345678901234567890123]}'),
        ("PUT", "/v1/sessions/nonsense/calls/x", b'{"mount":"/m","operation":"o","arguments":[]}'),
    ],
)
def test_bad_requests_are_answered_with_400_or_so(http, method, path, body):
    answer = http.request(method, path, body)
    assert 400 <= answer.status < 500, answer
    assert error(answer)


def test_twelve_requests_for_one_call_wait_or_are_told_at_once(session, mounted):
    locks = mounted("fair-lock")
    holder, waiter = session(), session()
    holder.call(1, locks, "acquire", ["x"])
    waiter.call(1, locks, "acquire", ["x"], wait_ms=0)
    answers = []

    def poll():
        begin = time.monotonic()
        answer = waiter.call(1, locks, "acquire", ["x"], wait_ms=1000)
        answers.append((answer.status, time.monotonic() - begin))

    threads = [threading.Thread(target=poll) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {status for status, _ in answers} <= {202, 429}
    assert all(took >= 1 for status, took in answers if status == 202), "nobody is sent away early"
    assert [status for status, _ in answers].count(202) >= 8


def test_what_is_not_there_is_404(http):
    assert error(http.get("/v1/tree/no/such")) == "no-node"
    assert error(http.get("/v1/recipes/no-such")) == "no-recipe"
    assert error(http.get("/v1/mounts/no/such")) == "not-mounted"
    assert http.get("/nonsense").status == 404
    assert http.request("DELETE", "/health").status == 405


def test_a_guessed_token_is_no_session(http, session):
    token = session().token
    changed = token[:-2] + ("aa" if token[-2:] != "aa" else "bb")
    answer = http.request("POST", f"/v1/sessions/{changed}/keep-alive")
    assert answer.status in (400, 410)


def test_a_session_of_the_zookeeper_protocol_is_none_of_https(http, wire):
    zk = wire()
    for token in (f"{zk.session:x}", f"{zk.session:x}-{zk.password.hex()}"):
        assert http.request("POST", f"/v1/sessions/{token}/keep-alive").status in (400, 410)


def test_the_tree(http, wire, base):
    zk = wire()
    zk.create(f"{base}/text", "grüß".encode())
    zk.create(f"{base}/bytes", b"\xff\xfe")
    zk.create(f"{base}/e", flags=w.EPHEMERAL)
    top = http.get(f"/v1/tree{base}").body
    assert top["path"] == base
    assert sorted(top["children"]) == ["bytes", "e", "text"]
    assert http.get(f"/v1/tree{base}/text").body["data"] == "grüß"
    assert http.get(f"/v1/tree{base}/bytes").body["data_base64"] == "//4="
    stat = http.get(f"/v1/tree{base}/e").body["stat"]
    assert stat["lifetime"] == {"session": hex(zk.session)}
    assert base[1:] in http.get("/v1/tree/").body["children"]


def test_recipes_are_listed_and_shown_with_their_documentation(http):
    names = [recipe["name"] for recipe in http.get("/v1/recipes").body["recipes"]]
    assert {"fair-lock", "counter", "election"} <= set(names)
    shown = http.get("/v1/recipes/fair-lock").body
    operations = {operation["name"]: operation for operation in shown["operations"]}
    assert {"acquire", "try-acquire", "release", "holder"} <= set(operations)
    acquire = operations["acquire"]
    assert acquire["parameters"] == [{"name": "name", "type": "string"}]
    assert "first come first served" in acquire["documentation"]


def test_mounts(http, wire, base):
    path = f"{base}/locks"
    made = http.request("PUT", f"/v1/mounts{path}", {"recipe": "fair-lock", "parameters": {"a": 1}})
    assert made.status in (200, 201)
    assert wire().get(path)[0] == b'{"a":1}'
    assert path in [mount["path"] for mount in http.get("/v1/mounts").body["mounts"]]
    shown = http.get(f"/v1/mounts{path}").body
    assert (shown["recipe"], shown["sealed"]) == ("fair-lock", True)
    assert error(http.request("PUT", f"/v1/mounts{path}/below", {"recipe": "counter"})) == "mounts-nest"
    assert error(http.request("PUT", f"/v1/mounts{base}", {"recipe": "counter"})) == "mounts-nest"
    assert error(http.request("PUT", f"/v1/mounts{base}/x", {"recipe": "nonsense"})) == "no-recipe"
    assert error(http.request("DELETE", "/v1/recipes/fair-lock")) == "recipe-in-use"
    assert http.request("DELETE", f"/v1/mounts{path}").status == 200
    assert error(http.get(f"/v1/mounts{path}")) == "not-mounted"
    assert error(http.request("DELETE", f"/v1/mounts{path}")) == "not-mounted"


def test_an_open_mount_lets_others_write(http, wire, base):
    path = f"{base}/open"
    http.request("PUT", f"/v1/mounts{path}", {"recipe": "counter", "sealed": False})
    assert wire().create(f"{path}/c", b"41") == f"{path}/c"
    one = http.session()
    assert one.call(1, path, "add", ["c", 1]).body["result"] == 42
    one.close()


def test_a_mount_survives_a_restart(own_server):
    own_server.http.mount("/counters", "counter")
    one = own_server.http.session()
    assert one.call(1, "/counters", "add", ["c", 3]).body["result"] == 3
    own_server.restart()

    def answered():
        answer = one.call(2, "/counters", "add", ["c", 4])
        return answer.body if answer.status == 200 else None

    assert until(answered, "the recipe is ready")["result"] == 7


@pytest.mark.parametrize(
    "upload, words",
    [
        (b"", ["WebAssembly"]),
        (b"#!/bin/sh\necho no\n", ["WebAssembly"]),
        (b"\0asm\1\0\0\0", ["core module"]),
        (b"\0asm\x0d\0\1\0", ["operation"]),
        (b"\0asm\x0d\0\1\0garbage", []),
    ],
)
def test_an_upload_that_is_no_recipe_is_refused_with_a_reason(http, upload, words):
    answer = http.request("PUT", "/v1/recipes/wrong", upload)
    assert 400 <= answer.status < 500, answer
    message = answer.body["error"]["message"]
    assert all(word in message for word in words), message
    assert http.get("/v1/recipes/wrong").status == 404


def test_an_upload_that_is_too_large_is_refused(http):
    try:
        answer = http.request("PUT", "/v1/recipes/large", b"\0asm" + b"x" * 40_000_000)
    except OSError:
        return  # The server may close before it has read it all.
    assert answer.status == 413
