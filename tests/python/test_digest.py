"""A server whose state differs from the others' says so and stops; the others go on."""

from typing import Iterator

import pytest

from harness import wire as w
from harness.ensemble import Ensemble, Member
from harness.falsify import falsify
from harness.waiting import until
from harness.wire import Closed, Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(300)]

RIGHT, WRONG = b"the state of all", b"another server's"


@pytest.fixture
def ensemble(tmp_path) -> Iterator[Ensemble]:
    running = Ensemble(tmp_path).start()
    client = Wire(running.servers[0].address, timeout_ms=20_000)
    client.create("/state", RIGHT)
    for server in running.servers:
        assert Wire(server.address, timeout_ms=20_000).request(w.SYNC, w.string("/")).err == w.OK
    yield running
    running.kill()


def check_it_has_stopped(server: Member, was_serving: bool) -> None:
    until(lambda: "remove its data directory" in server.log, f"it says so; its log:\n{server.log}")
    assert "differs from" in server.log and "at zxid 0x" in server.log
    until(lambda: server.ended() or server.failure(), "it is not well, or did not begin at all")
    if was_serving:
        assert "differs from" in server.failure()
        read = server.http.request("GET", "/v1/tree/state")
        assert read.status == 503 and "differs from" in read.body["error"]["message"], read
    with pytest.raises((Closed, OSError)):
        Wire(server.address, timeout_ms=4000).get("/state")


def check_the_others_go_on(servers, data: bytes) -> None:
    clients = [Wire(server.address, timeout_ms=20_000) for server in servers]
    for number, client in enumerate(clients):
        assert client.request(w.SYNC, w.string("/")).err == w.OK
        assert client.get("/state")[0] == data
        client.create(f"/after-{number}")
        assert client.exists("/after-0") is not None
    assert all(server.process.poll() is None for server in servers)
    assert not any("remove its data directory" in server.log for server in servers)


def test_a_follower_whose_state_is_wrong_stops_and_the_others_go_on(ensemble):
    leader = ensemble.leader()
    wrong, other = ensemble.others(leader)
    wrong.stop()
    falsify(wrong, RIGHT, WRONG)
    wrong.start_only()
    check_it_has_stopped(wrong, was_serving=False)
    check_the_others_go_on([leader, other], RIGHT)
    compared = leader.four_letter_word("mntr"), other.four_letter_word("mntr")
    digests = [dict(line.split("\t") for line in text.splitlines()) for text in compared]
    assert digests[0]["zk_last_zxid"] != digests[1]["zk_last_zxid"] or (
        digests[0]["zk_state_digest"] == digests[1]["zk_state_digest"]
    )


def test_the_majority_is_believed_whoever_leads(ensemble):
    alone = ensemble.leader()
    others = ensemble.others(alone)
    for server in others:
        server.stop()
        falsify(server, RIGHT, WRONG)
    for server in others:
        server.start_only()
    check_it_has_stopped(alone, was_serving=True)
    for server in others:
        until(server.serves, f"server {server.number} serves; its log:\n{server.log[-2000:]}")
    check_the_others_go_on(others, WRONG)
