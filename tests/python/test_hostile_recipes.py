"""Recipes and uploads that mean ill, against a real server.

After each of them an honest mount beside it has counted on, the tree outside the hostile mount is as it was, the bound
that was reached is counted by its name, and at no moment has the server taken more memory than is stated here.
"""

import itertools
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict

import pytest

from harness import component, wire as w
from harness.http import Http
from harness.servers import QuorateServer
from harness.waiting import until
from harness.wire import Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(300)]

#: What a server may take at most at any moment while it is attacked, itself and what it keeps included. A run may have
#: 64 MiB, four uploads of up to 32 MiB are held and checked at once, and what this suite makes it keep is below 100 MB.
MEMORY_BYTES = 500_000_000


@pytest.fixture(scope="module")
def attacked(hostile_wasm, tmp_path_factory):
    """A server with a hostile mount at /hostile, an honest one at /honest, and /outside."""
    server = QuorateServer(tmp_path_factory.mktemp("attacked"))
    server.options += ["--compile-seconds", "2"]
    server.start()
    pushed = server.http.request("PUT", "/v1/recipes/hostile", hostile_wasm)
    assert pushed.status == 201, pushed
    server.http.mount("/hostile", "hostile", bounds={"failures": 0, "chain-depth": 5_000, "wakes-per-second": 1_000_000})
    server.http.mount("/honest", "counter")
    connection = Wire(server.address)
    connection.create("/outside", b"as it was")
    connection.create("/outside/child", b"as it was")
    connection.create("/written")
    connection.close_session()
    yield server
    alive = server.process is not None and server.process.poll() is None
    server.kill()
    assert alive, f"the server died:\n{server.log[-4000:]}"


COUNTERS = itertools.count(1)


class Honest:
    """Counts at the honest mount, and sees that nothing is missing."""

    def __init__(self, server: QuorateServer) -> None:
        self.counter = f"counter-{next(COUNTERS)}"
        self.counted = 0
        self.begin(server)

    def begin(self, server: QuorateServer) -> None:
        """Goes on with another session: one that nobody uses lives for 40 s at most."""
        self.session = server.http.session(timeout_ms=40_000)
        self.keys = itertools.count(1)

    def count(self) -> None:
        key = next(self.keys)
        answer = self.session.call(key, "/honest", "add", [self.counter, 1], acknowledge=key - 1)
        self.counted += 1
        assert answer.status == 200, answer
        assert answer.body["status"] == "returned" and answer.body["result"] == self.counted, answer


@pytest.fixture(autouse=True)
def nothing_else_is_touched(attacked):
    """What holds after each test."""
    honest = Honest(attacked)
    honest.count()
    process = Path(f"/proc/{attacked.process.pid}")
    # From here on the most that it takes is counted anew.
    (process / "clear_refs").write_text("5")
    yield
    honest.begin(attacked)
    honest.count()
    most = re.search(r"^VmHWM:\s*(\d+) kB$", (process / "status").read_text(), re.M)
    assert int(most.group(1)) * 1024 < MEMORY_BYTES, most.group(0)
    connection = Wire(attacked.address)
    for path in ("/outside", "/outside/child"):
        stat = connection.exists(path)
        assert (stat.version, stat.cversion) == (0, 1 if path == "/outside" else 0)
    assert sorted(connection.children("/")) == ["honest", "hostile", "outside", "written", "zookeeper"]
    assert connection.children("/outside") == ["child"]
    connection.close_session()
    honest.session.close()
    assert attacked.http.get("/health").status == 200


@pytest.mark.parametrize(
    "operation, arguments, bound, said",
    [
        ("spin", [], "fuel", "fuel"),
        ("grow", [], "memory-bytes", "memory"),
        ("deepen", [0], "stack-bytes", "stack"),
        ("ask", [], "tree-operations", "called the tree more than 10000 times"),
        ("write", [], "write-set-bytes", "wrote more than"),
        ("nest", [], "depth", "1000 names"),
        ("give", [2_000_000], "result-bytes", "result"),
        ("talk", [10], "log-lines", "100 lines"),
        ("talk", [10_000], "log-bytes", "logged more than 65536 bytes"),
        ("watch-for-ever", [], "watches", "1000 watches"),
        ("remember", [100_000], "memo-bytes", "memo"),
        ("half", [], None, "on purpose"),
        ("put", ["../outside"], None, ".."),
        ("put", ["/outside"], None, "/outside"),
        ("put", ["a/../../outside"], None, ".."),
        ("put", ["./x"], None, "."),
        ("put", ["a//b"], None, "a//b"),
        ("put", ["x\0"], None, ""),
        ("put", [""], None, "mount itself"),
        ("read", ["../outside"], None, ".."),
        ("remove", ["../outside/child"], None, ".."),
        ("remove", [""], None, "mount itself"),
    ],
)
def test_a_run_that_goes_against_a_bound_has_no_effect(attacked, operation, arguments, bound, said):
    connection = Wire(attacked.address)
    before = connection.exists("/hostile")
    counted = bounds_reached(attacked.http)
    status = "exceeded" if bound else "trapped"
    session = attacked.http.session()
    for key in range(1, 6):
        answer = session.call(key, "/hostile", operation, arguments)
        assert answer.status == 200, answer
        assert answer.body["status"] == status, answer
        assert said in answer.body["error"], answer
    # A run that is well, or the mount would be suspended after a hundred of these.
    assert session.call(6, "/hostile", "read", ["x"]).body["status"] == "returned"
    session.close()
    assert bounds_reached(attacked.http) == {**counted, **({bound: counted[bound] + 5} if bound else {})}
    after = connection.exists("/hostile")
    assert (after.num_children, after.cversion) == (before.num_children, before.cversion)
    connection.close_session()


def test_c4_calls_that_wake_themselves_and_each_other_for_ever_are_suspended(attacked):
    """A mount sees nothing of another one, so it is calls of one mount that can wake each other."""
    session = attacked.http.session(timeout_ms=60_000)
    parked = []
    for key in range(1, 41):
        if key <= 20:
            call = ("restless", [])
        else:
            call = ("wake", [f"ring-{key}", f"ring-{key ^ 1}"])
        answer = session.call(key, "/hostile", *call, wait_ms=0)
        if answer.status == 202:
            parked.append(key)
        else:
            # Those before have come so far already.
            assert (answer.status, answer.body["error"]["code"]) == (503, "suspended"), answer
    assert parked
    honest = Honest(attacked)
    connection = Wire(attacked.address)
    number = 0
    while metric(attacked.http, "mounts_suspended") == 0:
        # Behind each honest call stand hundreds of theirs; it is answered all the same.
        honest.count()
        connection.create(f"/written/{number}")
        connection.delete(f"/written/{number}")
        number += 1
    reached = bounds_reached(attacked.http)
    assert reached["chain-depth"] + reached["wakes-per-second"] > 0
    for _ in range(20):
        honest.count()
    for key in parked:
        answer = session.cancel(key)
        assert (answer.status, answer.body["status"]) == (200, "cancelled"), answer
    assert metric(attacked.http, "parked_calls") == 0
    assert attacked.http.request("POST", "/v1/resume/hostile").status == 200
    assert session.call(50, "/hostile", "touch", []).body["status"] == "returned"
    connection.close_session()
    honest.session.close()
    session.close()


def test_calls_that_watch_everything_hold_nobody_up(attacked):
    session = attacked.http.session(timeout_ms=60_000)
    watchers = range(1, 501)
    for key in watchers:
        answer = session.call(key, "/hostile", "watch-everything", [], wait_ms=0)
        assert answer.status == 202, answer
    honest = Honest(attacked)
    woken = metric(attacked.http, "wakes_total")
    for key in range(1001, 1011):
        # One change, and five hundred runs behind it.
        assert session.call(key, "/hostile", "touch", []).body["status"] == "returned"
        honest.count()
    until(
        lambda: metric(attacked.http, "wakes_total") - woken >= 500,
        "each of them is woken",
    )
    assert metric(attacked.http, "parked_calls") == len(watchers)
    honest.session.close()
    session.close()
    until(lambda: metric(attacked.http, "parked_calls") == 0, "they end with their session")


def test_what_many_sessions_make_it_hold_at_once_is_bounded(attacked):
    """Bombs of memory, large answers that nobody acknowledges, large memos, watches on everything; all at once."""

    def attack(_: int) -> None:
        session = attacked.http.session(timeout_ms=60_000)
        keys = itertools.count(1)
        for _ in range(12):
            # 5 MB of them are kept, since a failed run takes its answer's place.
            assert session.call(next(keys), "/hostile", "give", [400_000]).body["status"] == "returned"
            for operation, arguments in (("grow", []), ("write", []), ("give", [2_000_000])):
                assert session.call(next(keys), "/hostile", operation, arguments).body["status"] == "exceeded"
        for operation, arguments in (("remember", [60_000]), ("watch-everything", [])) * 20:
            assert session.call(next(keys), "/hostile", operation, arguments, wait_ms=0).status == 202
        session.close()

    honest = Honest(attacked)
    with ThreadPoolExecutor(8) as pool:
        attacks = [pool.submit(attack, number) for number in range(8)]
        while not all(one.done() for one in attacks):
            honest.count()
        for one in attacks:
            one.result()
    honest.session.close()
    until(lambda: metric(attacked.http, "parked_calls") == 0, "they end with their sessions")
    assert metric(attacked.http, "mounts_suspended") == 0


def test_one_module_that_is_instantiated_many_times(attacked):
    """Each instance has what the module has, so 60 of them have 60 memories: more than a run may."""
    answer = attacked.http.request("PUT", "/v1/recipes/many", component.instances(60))
    assert answer.status == 422, answer
    assert "memor" in answer.body["error"]["message"], answer


def test_a_component_that_takes_too_long_to_compile_is_refused_and_nobody_waits(attacked):
    # It has 140 kB, and takes half a minute.
    upload = component.slow(functions=1, steps=8000)
    failures = metric(attacked.http, "compile_failures_total")
    answers = []
    pusher = threading.Thread(
        target=lambda: answers.append(attacked.http.request("PUT", "/v1/recipes/slow", upload))
    )
    pusher.start()
    honest = Honest(attacked)
    answered_meanwhile = 0
    while pusher.is_alive():
        before = metric(attacked.http, "compiling")
        honest.count()
        # The same compilation before and after: the call was answered while it was under way.
        answered_meanwhile += before == 1 == metric(attacked.http, "compiling")
    pusher.join()
    [answer] = answers
    assert answer.status == 422, answer
    assert "compile-cpu-seconds" in answer.body["error"]["message"], answer
    assert metric(attacked.http, "compile_failures_total") == failures + 1
    assert bounds_reached(attacked.http)["compile-cpu-seconds"] == 1
    assert answered_meanwhile > 0
    assert attacked.http.get("/v1/recipes/slow").status == 404
    honest.session.close()


def test_a_component_that_takes_too_much_memory_to_compile_is_refused(tmp_path):
    server = QuorateServer(tmp_path / "server")
    # The standard recipes are small enough.
    server.options += ["--compile-memory-mib", "256"]
    server.start()
    try:
        body = component.slow(functions=1, steps=16_000)
        answer = server.http.request("PUT", "/v1/recipes/large", body)
        assert answer.status == 422, answer
        assert "compile-memory-bytes" in answer.body["error"]["message"], answer
        assert bounds_reached(server.http)["compile-memory-bytes"] == 1
        fine = server.http.request("PUT", "/v1/recipes/fine", component.large(7, 10))
        assert fine.status == 201, fine
    finally:
        server.kill()


@pytest.mark.parametrize(
    "upload, bound",
    [
        (lambda: component.segments(10_001), "segments"),
        (lambda: component.component(component.core_module([component.number(1)] * 100_001)), "functions"),
        (lambda: component.slow(functions=1, steps=200_000), "function-bytes"),
        (lambda: component.instances(65), "modules"),
    ],
)
def test_an_upload_beyond_a_bound_is_refused_with_what_to_do(attacked, upload, bound):
    compiled = metric(attacked.http, "compiled_total")
    counted = bounds_reached(attacked.http)
    answer = attacked.http.request("PUT", "/v1/recipes/bad", upload())
    assert answer.status == 422, answer
    message = answer.body["error"]["message"]
    assert f"the bound {bound}:" in message and "is the most: " in message, message
    assert metric(attacked.http, "compiled_total") == compiled
    assert bounds_reached(attacked.http) == {**counted, bound: counted[bound] + 1}


def test_thousands_of_uploads_that_break_off_or_are_no_recipes(attacked):
    address = attacked.http_address
    half = component.large(1, 4 << 20)[: 2 << 20]

    def break_off(_: int) -> None:
        with socket.create_connection(address, timeout=60) as connection:
            head = f"PUT /v1/recipes/half HTTP/1.1\r\nHost: x\r\nContent-Length: {4 << 20}\r\n\r\n"
            connection.sendall(head.encode() + half)

    def nonsense(number: int) -> int:
        body = b"\0asm" + number.to_bytes(4, "little") * 1000
        return attacked.http.request("PUT", "/v1/recipes/nonsense", body).status

    honest = Honest(attacked)
    with ThreadPoolExecutor(8) as pool:
        broken = [pool.submit(break_off, number) for number in range(100)]
        statuses = [pool.submit(nonsense, number) for number in range(3000)]
        while not all(one.done() for one in broken + statuses):
            honest.count()
        assert {one.result() for one in statuses} <= {422, 503}
        for one in broken:
            one.result()
    honest.session.close()
    assert metric(attacked.http, "uploads") == 0


def test_a_large_component_is_uploaded_between_other_writes(attacked):
    upload = component.large(42, 30 << 20)
    assert len(upload) < 32 << 20
    stop = threading.Event()
    written = []

    def write() -> None:
        connection = Wire(attacked.address)
        while not stop.is_set():
            reply = connection.request(w.SET_DATA, w.set_body("/written", b"x"))
            assert reply.err == w.OK
            written.append(reply.zxid)
        connection.close_session()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        answer = attacked.http.request("PUT", "/v1/recipes/large", upload)
    finally:
        stop.set()
        writer.join()
    assert answer.status == 201, answer
    # 120 pieces are 120 transactions. The writes stand between them, not before and behind.
    gaps = [later - earlier for earlier, later in zip(written, written[1:])]
    between = sum(gap > 1 for gap in gaps)
    assert between > 30, (between, len(written))

    # It is kept once, and given another name without being sent again.
    names = {"digest": answer.body["digest"]}
    before = metric(attacked.http, "component_bytes")
    again = attacked.http.request("POST", "/v1/recipes/large-too", names)
    assert again.status == 201, again
    assert metric(attacked.http, "component_bytes") == before
    attacked.http.mount("/large", "large")
    session = attacked.http.session()
    assert session.call(1, "/large", "get", []).body["result"] == 42
    session.close()
    assert attacked.http.request("DELETE", "/v1/mounts/large").status == 200
    for name in ("large", "large-too"):
        assert attacked.http.request("DELETE", f"/v1/recipes/{name}").status == 200
    assert metric(attacked.http, "component_bytes") == before - len(upload)
    connection = Wire(attacked.address)
    connection.delete("/large")
    connection.close_session()


def test_an_upload_beyond_the_largest_is_not_read(attacked):
    answer = attacked.http.request("PUT", "/v1/recipes/huge", component.large(1, 33 << 20))
    assert answer.status == 413, answer


def test_a_large_component_survives_a_restart(own_server):
    upload = component.large(43, 9 << 20)
    assert own_server.http.request("PUT", "/v1/recipes/large", upload).status == 201
    own_server.http.mount("/large", "large")
    own_server.restart()
    session = own_server.http.session()
    until(lambda: session.call(1, "/large", "get", []).status != 503, "it is compiled")
    assert session.call(1, "/large", "get", []).body["result"] == 43


def bounds_reached(http: Http) -> Dict[str, int]:
    """How often each bound was reached, by its name."""
    text = http.get("/metrics").body
    found = re.findall(r'^quorate_bounds_reached_total\{bound="(.+)"\} (\d+)$', text, re.M)
    return {bound: int(times) for bound, times in found}


def metric(http: Http, name: str) -> int:
    text = http.get("/metrics").body
    found = re.search(rf"^quorate_{name} (\S+)$", text, re.M)
    assert found, name
    return int(float(found.group(1)))
