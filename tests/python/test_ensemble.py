"""Three servers as one: any of them serves, and nobody notices the death of another."""

import json
import statistics
import struct
import subprocess
import time
from typing import List

import pytest

from harness import wire as w
from harness.ensemble import Ensemble, Member
from harness.load import Writer, cluster, connect, give_lead, sync
from harness.waiting import until
from harness.wire import PARKED, RETURNED, Closed

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(300)]


def test_any_server_reads_and_writes(ensemble):
    clients = [connect(server) for server in ensemble.servers]
    assert sorted(server.mode() for server in ensemble.servers) == ["follower", "follower", "leader"]
    for number, client in enumerate(clients):
        client.create(f"/of-{number}", b"%d" % number)
        assert client.get(f"/of-{number}")[0] == b"%d" % number, "a session sees its own writes at once"
    for client in clients:
        sync(client)
        assert {f"of-{number}" for number in range(3)} <= set(client.children("/"))
    assert len({client.session for client in clients}) == 3


def test_a_watch_at_one_server_is_told_of_a_write_at_another(ensemble):
    watcher, writer = connect(ensemble.servers[0]), connect(ensemble.servers[1])
    writer.create("/watched", b"old")
    sync(watcher)
    watcher.get("/watched", watch=True)
    writer.set("/watched", b"new")
    event = watcher.wait_event()
    assert (event.type, event.path) == (w.NODE_DATA_CHANGED, "/watched")
    assert watcher.get("/watched")[0] == b"new"


def test_a_session_moves_between_servers_with_its_password(ensemble):
    first = connect(ensemble.servers[0])
    first.create("/mine", flags=w.EPHEMERAL)
    second = connect(
        ensemble.servers[1],
        session=first.session,
        password=first.password,
        last_zxid=first.last_zxid,
    )
    assert second.session == first.session
    assert second.get("/mine")[1].ephemeral_owner == first.session
    first.wait_closed()
    second.close_session()
    third = connect(ensemble.servers[2])
    sync(third)
    assert third.exists("/mine") is None


def test_a_session_of_http_is_known_at_every_server_at_once(ensemble):
    ensemble.servers[0].http.mount("/counters", "counter")
    for number in range(20):
        first, second = ensemble.servers[number % 3], ensemble.servers[(number + 1) % 3]
        session = first.http.session()
        session.http = second.http
        answer = session.call(1, "/counters", "add", ["c", 1])
        assert (answer.status, answer.body["result"]) == (200, number + 1), answer


def test_w5_any_traffic_at_a_follower_keeps_a_session_alive_and_silence_ends_it(ensemble):
    leader = ensemble.leader()
    follower = ensemble.others(leader)[0]
    timeout_ms = 1000
    reader, silent = connect(follower, timeout_ms), connect(follower, timeout_ms)
    reader.create("/reader", flags=w.EPHEMERAL)
    silent.create("/silent", flags=w.EPHEMERAL)
    observer = connect(leader)
    begin = time.monotonic()
    while observer.exists("/silent") is not None:
        reader.exists("/")
        time.sleep(0.05)
        assert time.monotonic() - begin < 20, "the silent session does not end"
    assert observer.exists("/reader") is not None
    reader.ping()


def rounds_of(ensemble: Ensemble, strike, heal, rounds: int) -> List[float]:
    """Strikes the leader again and again under load; gives how long each stopped the survivors' writes."""
    ensemble.servers[0].http.mount("/counters", "counter")
    # All writers' servers survive: each round strikes a leader, and its own writers are let go before.
    pauses = []
    total = 0
    for _ in range(rounds):
        leader = ensemble.leader()
        survivors = ensemble.others(leader)
        writers = [Writer(survivors[number % 2], number + 100 * len(pauses)) for number in range(6)]
        for writer in writers:
            writer.start()
        until(lambda: all(len(writer.added) > 5 for writer in writers), "all write")
        for writer in writers:
            writer.take_longest()
        before = {writer: len(writer.added) for writer in writers}
        strike(leader)
        until(
            lambda: all(writer.error or len(writer.added) > before[writer] + 3 for writer in writers),
            "all write again",
        )
        for writer in writers:
            writer.ending.set()
        for writer in writers:
            writer.join(30)
            assert writer.error is None, f"a client of a surviving server saw {writer.error!r}\n{ensemble.log}"
        pauses.append(max(writer.longest for writer in writers))
        added = sorted(value for writer in writers for value in writer.added)
        assert added == list(range(total + 1, total + 1 + len(added))), "each call was executed once"
        total += len(added)
        check = connect(survivors[0])
        sync(check)
        for writer in writers:
            assert check.get(writer.path)[0] == b"%d" % writer.acknowledged
            writer.client.close_session()
        check.close_session()
        heal(leader)
        until(lambda: leader.mode() is not None, f"server {leader.number} is back:\n{leader.log[-2000:]}")
    return pauses


def test_a_killed_leader_is_a_pause_and_no_error(ensemble, request):
    rounds = request.config.getoption("--failover-rounds")
    pauses = rounds_of(ensemble, strike=Member.kill, heal=Member.start_only, rounds=rounds)
    print(f"pauses after kill -9, in ms: {[round(1000 * pause) for pause in pauses]}")
    print(f"median {1000 * statistics.median(pauses):.0f} ms, most {1000 * max(pauses):.0f} ms")


def test_a_leader_that_hangs_is_a_pause_and_no_error(ensemble, request):
    rounds = max(1, request.config.getoption("--failover-rounds") // 2)
    pauses = rounds_of(ensemble, strike=Member.pause, heal=Member.go_on, rounds=rounds)
    print(f"pauses after SIGSTOP, in ms: {[round(1000 * pause) for pause in pauses]}")
    print(f"median {1000 * statistics.median(pauses):.0f} ms, most {1000 * max(pauses):.0f} ms")


def test_parked_calls_survive_a_leader_change_with_their_order(ensemble):
    ensemble.servers[0].http.mount("/locks", "fair-lock")
    leader = ensemble.leader()
    survivors = ensemble.others(leader)
    holder, second, third = (connect(survivors[number % 2]) for number in range(3))
    assert holder.call(1, "/locks", "acquire", '["l"]')[0] == RETURNED
    for waiting in (second, third):
        assert waiting.call(1, "/locks", "acquire", '["l"]')[0] == PARKED
    leader.kill()
    assert holder.call(2, "/locks", "release", '["l"]')[0] == RETURNED
    first_token = json.loads(second.wait_event().answer[2])["token"]
    assert third.nothing_to_read()
    assert second.call(2, "/locks", "release", '["l"]')[0] == RETURNED
    assert json.loads(third.wait_event().answer[2])["token"] > first_token


def test_a_call_repeated_at_another_server_is_executed_once(ensemble):
    ensemble.servers[0].http.mount("/counters", "counter")
    leader = ensemble.leader()
    other = ensemble.others(leader)[0]
    client = connect(leader)
    client.create("/marker")
    client.send(w.CALL, w.call_body(7, "/counters", "add", '["c",1]'))
    leader.kill()
    moved = connect(other, session=client.session, password=client.password)
    assert moved.session == client.session
    assert moved.call(7, "/counters", "add", '["c",1]') == (RETURNED, "1")
    assert moved.call(8, "/counters", "get", '["c"]') == (RETURNED, "1")


def test_w4_a_server_that_is_cut_off_goes_silent_before_its_sessions_end(ensemble):
    leader = ensemble.leader()
    cut_off, other = ensemble.others(leader)
    timeout_ms = 3000
    client = connect(cut_off, timeout_ms)
    begin = time.monotonic()
    leader.pause()
    other.pause()
    try:
        while True:
            client.ping()
            time.sleep(0.05)
            assert time.monotonic() - begin < 10, "it goes on answering"
    except (Closed, OSError):
        pass
    elapsed_ms = 1000 * (time.monotonic() - begin)
    leader.go_on()
    other.go_on()
    assert elapsed_ms < timeout_ms, f"closed after {elapsed_ms:.0f} ms"


def test_a_server_that_was_away_catches_up(ensemble):
    leader = ensemble.leader()
    away, other = ensemble.others(leader)
    client = connect(leader)
    client.create("/before")
    away.kill()
    for number in range(200):
        client.create(f"/while-{number}", b"x" * 1000)
    away.start()
    back = connect(away, last_zxid=0)
    sync(back)
    assert len([name for name in back.children("/") if name.startswith("while-")]) == 200
    assert other.mode() == "follower"


def test_a_follower_that_restarts_from_a_snapshot_serves_again(ensemble):
    """The start of the epoch stands in the snapshot, so it is never applied again."""
    leader = ensemble.leader()
    follower = ensemble.others(leader)[0]
    client = connect(leader)
    client.create("/large")
    # Beyond the 128 MiB of log after which a snapshot is taken.
    for _ in range(150):
        client.set("/large", b"x" * 1_000_000)
    snapshots = follower.data_dir / "raft" / "snapshots"
    until(lambda: list(snapshots.glob("*.snapshot")), "the follower takes a snapshot")
    follower.kill()
    follower.start()
    back = connect(follower)
    back.create("/written-through-it")
    assert len(back.get("/large")[0]) == 1_000_000


def test_a_client_that_has_seen_more_than_a_server_is_not_accepted_there(ensemble):
    with pytest.raises((Closed, struct.error)):
        connect(ensemble.servers[0], last_zxid=1 << 60)


def test_all_servers_killed_and_started_in_any_order_have_lost_nothing(ensemble):
    client = connect(ensemble.servers[0])
    for number in range(50):
        client.create(f"/kept-{number}")
    ensemble.kill()
    for server in reversed(ensemble.servers):
        server.start_only()
    for server in ensemble.servers:
        until(server.serves, f"server {server.number} serves:\n{server.log[-2000:]}")
        again = connect(server)
        sync(again)
        assert len([name for name in again.children("/") if name.startswith("kept-")]) == 50


def test_an_observer_serves_and_does_not_vote(tmp_path):
    ensemble = Ensemble(tmp_path, voters=1, observers=1).start()
    try:
        leader, observer = ensemble.servers
        until(lambda: observer.mode() == "observer", "the second server observes")
        client = connect(observer)
        client.create("/from-the-observer")
        assert connect(leader).exists("/from-the-observer") is not None
        observer.kill()
        connect(leader).create("/without-it")
    finally:
        ensemble.kill()


def test_every_member_is_replaced_under_load_and_no_client_of_a_survivor_sees_it(tmp_path):
    ensemble = Ensemble(tmp_path).start()
    replacements = []
    try:
        ensemble.servers[0].http.mount("/counters", "counter")
        for old in list(ensemble.servers):
            new = ensemble.joining(tmp_path)
            replacements.append(new)
            new.start_only()
            leader = ensemble.leader()
            cluster(leader, "add", str(new.number), new.peer)
            until(lambda: new.mode() == "observer", f"server {new.number} follows:\n{new.log[-2000:]}")
            ensemble.servers.append(new)
            cluster(leader, "promote", str(new.number))
            survivors = [server for server in ensemble.servers if server is not old]
            writers = [Writer(server, 100 * new.number + number) for number, server in enumerate(survivors)]
            for writer in writers:
                writer.start()
            until(lambda: all(len(writer.added) > 5 for writer in writers), "all write")
            if leader is old:
                give_lead(leader, new.number)
                leader = until(lambda: new if new.mode() == "leader" else None, "the new one leads")
            cluster(leader, "remove", str(old.number))
            old.stop()
            ensemble.servers.remove(old)
            before = {writer: len(writer.added) for writer in writers}
            until(
                lambda: all(w.error or len(w.added) > before[w] + 3 for w in writers), "all write again"
            )
            for writer in writers:
                writer.ending.set()
                writer.join(30)
                assert writer.error is None, f"{writer.error!r}\n{ensemble.log}"
        members = cluster(ensemble.leader(), "status")["members"]
        assert [member["server"] for member in members] == [4, 5, 6]
        assert all(member["votes"] for member in members)
    finally:
        ensemble.kill()
        for server in replacements:
            server.kill()


def test_what_would_lose_the_quorum_is_refused_wherever_it_is_asked(ensemble):
    leader = ensemble.leader()
    follower, other = ensemble.others(leader)
    other.kill()
    until(lambda: heard_ms(leader, other) > 1000, "the leader misses the killed one")
    for asked in (leader, follower):
        refused = subprocess.run(
            asked.command_line("cluster", "remove", str(follower.number)), capture_output=True, text=True
        )
        assert refused.returncode == 1 and "quorum" in refused.stderr, refused


def heard_ms(leader: Member, of: Member) -> int:
    members = cluster(leader, "status")["members"]
    return next(member["heard_ms"] or 0 for member in members if member["server"] == of.number)


def test_garbage_at_the_peer_port_harms_nobody(ensemble):
    import socket

    client = connect(ensemble.servers[0])
    client.create("/steady")
    for server in ensemble.servers:
        host, port = server.peer.rsplit(":", 1)
        for junk in (b"\xff" * 4096, b"GET / HTTP/1.1\r\n\r\n", b"\0" * 10, b""):
            with socket.create_connection((host, int(port)), timeout=10) as peer:
                peer.sendall(junk)
    client.set("/steady", b"still")
    assert all(server.process.poll() is None for server in ensemble.servers)
