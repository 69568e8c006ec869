"""HTTP at a server that is cut off from the quorum: it says so, and nothing that may be old (rule W4)."""

import threading
import time
from typing import Iterator, List

import pytest

from harness.ensemble import Ensemble
from harness.http import Answer
from harness.waiting import until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(180)]

#: Of the session whose server is cut off: no less is given.
TIMEOUT_MS = 6000


@pytest.fixture
def ensemble(tmp_path) -> Iterator[Ensemble]:
    running = Ensemble(tmp_path, linked=True).start()
    yield running
    running.close()


def code(answer: Answer) -> str:
    return answer.body["error"]["code"] if answer.status >= 400 else "ok"


def cut(ensemble: Ensemble, server) -> None:
    rest = ensemble.others(server)
    pairs = [(server.number, other.number) for other in rest]
    ensemble.links.cut(pairs + [(to, origin) for origin, to in pairs])


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_w4_a_server_that_is_cut_off_answers_no_quorum_over_http(ensemble, who):
    leader = ensemble.leader()
    cut_off = leader if who == "leader" else ensemble.others(leader)[0]
    ensemble.servers[0].http.mount("/locks", "fair-lock")
    http = cut_off.http
    until(lambda: http.get("/v1/mounts/locks").status == 200, "the mount is there")
    session, waiting = http.session(TIMEOUT_MS), http.session(TIMEOUT_MS)
    assert session.timeout_ms == TIMEOUT_MS
    assert session.call(1, "/locks", "acquire", ["one"]).status == 200
    assert http.request("POST", f"{session.path}/keep-alive").status == 200
    polled: List[Answer] = []
    poll = threading.Thread(
        target=lambda: polled.append(waiting.call(1, "/locks", "acquire", ["one"], wait_ms=60_000))
    )
    poll.start()
    until(lambda: http.get("/v1/calls?limit=1").body["number"] == 1, "one waits for the lock")
    cut(ensemble, cut_off)
    cut_at = time.monotonic()
    # At once, as no leader counts it; and so that whoever holds the lock learns of it before it can pass on.
    keep_alive = http.request("POST", f"{session.path}/keep-alive")
    assert code(keep_alive) == "no-quorum"
    assert time.monotonic() - cut_at < TIMEOUT_MS / 1000
    until(lambda: code(http.get("/v1/tree/locks")) == "no-quorum", "it shows its state no more")
    assert code(http.get("/v1/mounts")) == "no-quorum"
    poll.join(TIMEOUT_MS / 1000)
    assert [code(answer) for answer in polled] == ["no-quorum"]
    assert code(session.call(1, "/locks", "acquire", ["one"])) == "no-quorum"
    assert http.get("/v1/cluster").status == 200 and http.get("/metrics").status == 200
    health = http.get("/health")
    assert health.status == 503 and "no quorum" in health.body["reason"]
    # Elsewhere its session may have ended; here it is known again once the links are whole.
    ensemble.links.heal()
    until(lambda: http.get("/v1/tree/locks").status == 200, "it shows its state again")
    again = http.session(TIMEOUT_MS)
    until(
        lambda: http.request("POST", f"{again.path}/keep-alive").status == 200, "a keep-alive is counted"
    )


def test_w4_a_keep_alive_keeps_its_session_from_ending(ensemble):
    follower = ensemble.others(ensemble.leader())[0]
    session = follower.http.session(TIMEOUT_MS)
    begun = time.monotonic()
    while time.monotonic() - begun < 1.5 * TIMEOUT_MS / 1000:
        assert follower.http.request("POST", f"{session.path}/keep-alive").status == 200
        time.sleep(TIMEOUT_MS / 4000)
    elsewhere = ensemble.leader().http
    assert elsewhere.request("POST", f"{session.path}/keep-alive").status == 200
