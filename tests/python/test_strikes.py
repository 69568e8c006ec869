"""Who may be struck under load without a client of the others seeing it: followers, observers, leaders that change."""

import random
import subprocess
import threading
import time
from typing import Iterator, List

import pytest

from harness import wire as w
from harness.ensemble import Ensemble, Member
from harness.load import PAUSE_S, Load, all_agree, cluster, connect, give_lead, sync
from harness.waiting import until
from harness.wire import PARKED, RETURNED

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(170)]


@pytest.fixture
def observed(tmp_path) -> Iterator[Ensemble]:
    """Three voters and an observer."""
    running = Ensemble(tmp_path, observers=1).start()
    until(lambda: running.servers[3].mode() == "observer", "the fourth server observes")
    yield running
    running.kill()


def voters(ensemble: Ensemble) -> List[int]:
    members = cluster(ensemble.leader(), "status")["members"]
    return [member["server"] for member in members if member["votes"]]


def check_all_serve(ensemble: Ensemble) -> None:
    for server in ensemble.servers:
        until(server.serves, f"server {server.number} serves:\n{server.log[-2000:]}")
    all_agree(ensemble)


@pytest.mark.parametrize("strike", ["kill", "pause"])
def test_a_follower_that_is_struck_again_and_again_stops_nobody(ensemble, request, strike):
    leader = ensemble.leader()
    struck, other = ensemble.others(leader)
    load = Load([leader, other])
    for _ in range(max(3, request.config.getoption("--failover-rounds"))):
        load.take_longest()
        getattr(struck, strike)()
        load.progress()
        if strike == "kill":
            struck.start_only()
        else:
            # Paused for longer than a leader may be silent: it stands for election when it goes on.
            begin = time.monotonic()
            until(lambda: time.monotonic() - begin > 1.5, "time has passed")
            struck.go_on()
        until(lambda: struck.mode() == "follower", "it follows again")
        load.progress()
        assert load.take_longest() < PAUSE_S
    assert ensemble.leader() is leader, "who was away takes no lead from the one that the others hear"
    load.end()
    check_all_serve(ensemble)


def test_clients_of_an_observer_see_leaders_come_and_go_as_a_pause(observed):
    observer = observed.servers[3]
    load = Load([observer], count=3)
    watcher, holder, waiting = (connect(observer) for _ in range(3))
    observer.http.mount("/locks", "fair-lock")
    until(lambda: holder.call(1, "/locks", "acquire", '["l"]')[0] == RETURNED, "the lock is taken")
    assert waiting.call(1, "/locks", "acquire", '["l"]')[0] == PARKED
    holder.create("/watched")
    sync(watcher)
    watcher.get("/watched", watch=True)
    for strike, heal in ((Member.kill, Member.start_only), (Member.pause, Member.go_on)):
        leader = observed.leader(of=observed.servers[:3])
        strike(leader)
        load.progress()
        heal(leader)
        until(lambda: leader.mode() == "follower", "it follows the new one")
        assert observer.mode() == "observer"
    holder.set("/watched", b"new")
    event = watcher.wait_event()
    assert (event.type, event.path) == (w.NODE_DATA_CHANGED, "/watched")
    assert holder.call(2, "/locks", "release", '["l"]')[0] == RETURNED
    assert waiting.wait_event().answer[1] == RETURNED
    load.end()
    check_all_serve(observed)


@pytest.mark.parametrize("strike", ["kill", "pause"])
def test_an_observer_that_is_struck_stops_nobody(observed, strike):
    observer, leader = observed.servers[3], observed.leader(of=observed.servers[:3])
    load = Load(observed.servers[:3], count=3)
    getattr(observer, strike)()
    load.progress()
    assert load.take_longest() < PAUSE_S
    if strike == "kill":
        observer.start_only()
    else:
        observer.go_on()
    until(lambda: observer.mode() == "observer", "it is back")
    assert observed.leader(of=observed.servers[:3]) is leader
    load.end()
    check_all_serve(observed)


def test_the_lead_goes_round_under_load(ensemble):
    """A hand-over is asked for, so it takes place, whatever is being written."""
    load = Load(ensemble.servers, count=6)
    ballast = [connect(server) for server in ensemble.servers]
    for number, client in enumerate(ballast):
        client.create(f"/ballast-{number}")
    for _ in range(2):
        for server in ensemble.servers:
            # Much is under way when it happens: who takes the lead has to have it all first.
            sent = [
                (client, client.send(w.SET_DATA, w.set_body(f"/ballast-{number}", b"x" * 50_000)))
                for number, client in enumerate(ballast)
                for _ in range(20)
            ]
            give_lead(server, server.number)
            assert ensemble.leader() is server
            for client, xid in sent:
                assert client.receive(xid).err == w.OK
            load.progress()
    load.end()
    check_all_serve(ensemble)


def test_a_leader_killed_in_the_middle_of_a_change_of_members_leaves_the_old_or_the_new(ensemble, tmp_path):
    """Never neither, and the change can be asked for again."""
    rng = random.Random()
    fourth = ensemble.joining(tmp_path)
    fourth.start_only()
    ensemble.servers.append(fourth)
    first = ensemble.servers[:3]
    outcomes = []
    try:
        cluster(first[0], "add", "4", fourth.peer)
        until(lambda: fourth.mode() == "observer", "the fourth follows")
        for round_ in range(6):
            leader = ensemble.leader(of=first)
            survivors = [server for server in first if server is not leader]
            load = Load(survivors, count=2, first=10 * round_, counter=f"round-{round_}")
            before = voters(ensemble)
            change = ["remove", "4"] if 4 in before else ["promote", "4"]
            if change[0] == "promote":
                cluster(survivors[0], "add", "4", fourth.peer)
            asked = threading.Thread(
                target=subprocess.run,
                args=(leader.command_line("cluster", *change),),
                kwargs={"capture_output": True, "timeout": 60},
            )
            asked.start()
            time.sleep(rng.uniform(0, 0.06))  # Where in the change it dies is left to chance.
            leader.kill()
            asked.join()
            load.progress()
            new = ensemble.leader(of=survivors + ([fourth] if fourth.mode() else []))
            members = cluster(new, "status")["members"]
            now = [member["server"] for member in members if member["votes"]]
            assert now in ([1, 2, 3], [1, 2, 3, 4]), now
            outcomes.append(now != before)
            leader.start_only()
            until(leader.serves, f"server {leader.number} is back:\n{leader.log[-2000:]}")
            load.progress()
            load.end()
        print(f"the change was made before the leader died: {outcomes}")
        # Whatever became of them, it can be asked for now.
        cluster(first[0], "add", "4", fourth.peer)
        cluster(first[0], "promote", "4")
        assert voters(ensemble) == [1, 2, 3, 4]
        check_all_serve(ensemble)
    finally:
        fourth.kill()
