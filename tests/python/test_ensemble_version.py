"""Rule S7: the ensemble's version is raised by itself, once every member is there and reads it."""

from typing import Dict, Iterator

import pytest

from harness.ensemble import Ensemble, Member
from harness.load import cluster, connect
from harness.waiting import until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(170)]


@pytest.fixture
def ensemble(tmp_path) -> Iterator[Ensemble]:
    stopped = Ensemble(tmp_path)
    yield stopped
    stopped.close()


def facts(server: Member) -> Dict[str, str]:
    return dict(line.split("\t") for line in server.four_letter_word("mntr").splitlines())


def version(server: Member) -> int:
    return int(facts(server)["zk_ensemble_version"])


def test_s7_the_version_is_raised_when_the_last_member_is_there(ensemble):
    first, last = ensemble.servers[:2], ensemble.servers[2]
    for server in first:
        server.start_only()
    for server in first:
        until(server.serves, f"server {server.number} serves:\n{server.log[-2000:]}")
    # A new leader has looked at least once when a session has ended of silence, which takes longer than
    # the time between two looks.
    leader = ensemble.leader(first)
    silent = connect(leader, 2000)
    until(lambda: facts(leader)["zk_global_sessions"] == "0", "the silent session ends")
    silent.wait_closed()
    assert [version(server) for server in first] == [0, 0], ensemble.log
    last.start_only()
    for server in ensemble.servers:
        until(
            lambda: server.serves() and version(server) == 1,
            f"server {server.number} is at version 1:\n{ensemble.log}",
        )
    assert cluster(last, "status")["ensemble_version"] == 1
    assert "quorate_ensemble_version 1\n" in last.http.get("/metrics").body
    # It is in the log: no start forgets it, and nobody needs to be there for it.
    ensemble.kill()
    for server in first:
        server.start_only()
    for server in first:
        until(lambda: server.serves() and version(server) == 1, f"server {server.number} knows it still")
