"""A server that comes with other data than its ensemble knows it by: lost, of an older ensemble, of another one."""

import shutil
from typing import Callable, List

import pytest

from harness.ensemble import Ensemble, Member
from harness.load import Load, all_agree, cluster, connect, give_lead, sync
from harness.waiting import until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(170)]

#: What a server says of one that comes with other data.
REFUSAL = "join under a new id"


@pytest.fixture
def founded(tmp_path) -> Callable[[str], Ensemble]:
    ensembles: List[Ensemble] = []

    def found(name: str) -> Ensemble:
        ensembles.append(Ensemble(tmp_path / name).start())
        wait_until_known(ensembles[-1])
        return ensembles[-1]

    yield found
    for ensemble in ensembles:
        ensemble.close()


def wait_until_known(ensemble: Ensemble) -> None:
    """Every server knows every other by its data: with that it knows where its clients are."""
    for server in ensemble.servers:
        until(
            lambda: all(member["client_address"] for member in cluster(server, "status")["members"]),
            f"server {server.number} knows the others",
        )


def says(server: Member, words: str) -> bool:
    return words in server.log


def test_a_voter_that_lost_its_data_undoes_nothing_that_was_acknowledged(founded):
    ensemble = founded("lost")
    leader = ensemble.leader()
    lost, behind = ensemble.others(leader)
    behind.kill()
    client = connect(leader)
    for number in range(50):
        client.create(f"/acknowledged-{number}")
    leader.kill()
    lost.kill()
    shutil.rmtree(lost.data_dir)
    for server in (lost, behind):
        server.start_only()
    until(lambda: says(behind, REFUSAL), "the one that was behind refuses it")
    until(lambda: says(lost, REFUSAL), "and it is told why")
    leader.start_only()
    for server in (leader, behind):
        until(server.serves, f"server {server.number} serves:\n{server.log[-2000:]}")
    again = connect(behind)
    sync(again)
    assert len([name for name in again.children("/") if name.startswith("acknowledged-")]) == 50
    assert not lost.serves()
    # What the message says to do.
    lost.kill()
    shutil.rmtree(lost.data_dir)
    new = ensemble.joining(ensemble.servers[0].directory.parent)
    try:
        new.start_only()
        cluster(behind, "replace", str(lost.number), str(new.number), new.peer)
        ensemble.servers[ensemble.servers.index(lost)] = new
        all_agree(ensemble)
    finally:
        new.kill()


def test_a_server_with_the_data_of_another_ensemble_disturbs_nobody(founded):
    other = founded("other")
    for number in range(3, 0, -1):  # Its term is to be higher than the ensemble's.
        give_lead(other.servers[0], number)
        give_lead(other.servers[0], number % 3 + 1)
    client = connect(other.servers[2])
    for number in range(100):
        client.create(f"/of-another-{number}")
    other.kill()
    ensemble = founded("one")
    foreign = ensemble.servers[2]
    if ensemble.leader() is foreign:
        give_lead(foreign, 1)
    load = Load(ensemble.servers[:2])
    foreign.kill()
    own = foreign.directory / "own"
    foreign.data_dir.rename(own)
    shutil.copytree(other.servers[2].data_dir, foreign.data_dir)
    term = cluster(ensemble.servers[0], "status")["term"]
    foreign.start_only()
    until(lambda: any(says(server, REFUSAL) for server in ensemble.servers), "it is refused")
    load.progress()
    load.progress()
    assert cluster(ensemble.servers[0], "status")["term"] == term, "nobody has stood for election"
    assert not foreign.serves()
    # Nothing has come of it: with its own data it is a member as before.
    foreign.kill()
    shutil.rmtree(foreign.data_dir)
    own.rename(foreign.data_dir)
    foreign.start_only()
    until(foreign.serves, f"it serves again:\n{foreign.log[-2000:]}")
    load.end()
    all_agree(ensemble)


def test_an_ensemble_that_was_founded_anew_refuses_a_server_of_the_old_one(founded):
    ensemble = founded("anew")
    first, second, old = ensemble.servers
    for number in (2, 1, 2, 3):  # The old one's term is to be higher.
        give_lead(first, number)
    connect(old).create("/of-the-old-one")
    ensemble.kill()
    for server in (first, second):
        shutil.rmtree(server.data_dir)
        server.start_only()
    for server in (first, second):
        until(server.serves, f"server {server.number} serves:\n{server.log[-2000:]}")
    load = Load([first, second])
    old.start_only()
    until(lambda: says(old, REFUSAL), "it does not take them for those that it knows")
    load.progress()
    load.progress()
    load.end()
    for server in (first, second):
        assert not server.ended() and connect(server).exists("/of-the-old-one") is None
    assert not old.serves()
