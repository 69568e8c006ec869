"""Rule S7: the ensemble's version is raised by itself, once every member is there and reads it."""

from typing import Dict, Iterator

import pytest

from harness.ensemble import Ensemble, Member
from harness.falsify import falsify
from harness.load import cluster, connect
from harness.waiting import until

#: The end of the transaction that raises the version to 1: one change, the 26th of its kind, and its outcome.
RAISED_TO_1 = bytes([1, 25, 1, 1, 16])
RAISED_TO_2 = bytes([1, 25, 2, 1, 16])

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(170)]


@pytest.fixture
def ensemble(tmp_path) -> Iterator[Ensemble]:
    stopped = Ensemble(tmp_path)
    yield stopped
    stopped.close()


def facts(server: Member) -> Dict[str, str]:
    """What a server tells of itself once it serves: on a busy machine the lead may just be lost."""
    told = lambda: [line.split("\t") for line in server.four_letter_word("mntr").splitlines() if "\t" in line]
    return dict(until(told, f"server {server.number} serves"))


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


def test_s7_a_build_that_reads_less_stops_and_says_so(ensemble):
    ensemble.start()
    old = ensemble.others(ensemble.leader())[0]
    until(lambda: version(old) == 1, f"it is at version 1:\n{ensemble.log}")
    old.stop()
    falsify(old, RAISED_TO_1, RAISED_TO_2)
    old.start_only()
    refused = "the ensemble is at version 2, this build reads up to 1: start a newer build"
    until(lambda: refused in old.log, f"it says so:\n{old.log}")
    # It may have begun to serve before it came to that entry.
    until(lambda: old.ended() or refused in old.failure(), "it does not begin, or has stopped serving")
    other = next(server for server in ensemble.servers if server is not old)
    connect(other).create("/the-others-go-on")
