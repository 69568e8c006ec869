"""A follower that is slow or away: the leader's memory stays bounded, writes go on, and it catches up."""

import threading
import time
from typing import Iterator, List

import pytest

from harness import wire as w
from harness.ensemble import Ensemble, Member
from harness.load import Load, all_agree, connect, memory_bytes, sync
from harness.waiting import until
from harness.wire import Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]

MEBIBYTE = 1 << 20
VALUE_BYTES = 500_000
#: A server's memory beyond what it holds at first and the state itself, whatever is written meanwhile: 16 MiB of
#: the log's newest entries, 4 MiB for each request to a peer, 64 MiB that may wait for a snapshot's writer, a
#: client's pending writes, and as much again for the allocator.
BOUND_BYTES = 160 * MEBIBYTE


@pytest.fixture
def linked(tmp_path) -> Iterator[Ensemble]:
    running = Ensemble(tmp_path, linked=True).start()
    yield running
    running.close()


def write(client: Wire, mebibytes: int, nodes: int = 8) -> None:
    """Writes so much over some znodes, which are made if need be, a few requests at a time."""
    for number in range(nodes):
        client.request(w.CREATE, w.create_body(f"/large-{number}"))
    count = mebibytes * MEBIBYTE // VALUE_BYTES
    for start in range(0, count, 4):
        for number in range(start, start + 4):
            body = w.set_body(f"/large-{number % nodes}", b"%08d" % number * (VALUE_BYTES // 8))
            client.send(w.SET_DATA, body)
        for _ in range(4):
            assert client.receive().err == w.OK


def caught_up(server: Member, client: Wire) -> None:
    """Waits until a server has what ``client`` has seen."""

    def has_it() -> bool:
        try:
            again = connect(server, last_zxid=client.last_zxid)
            again.close_session()
            return True
        except Exception:
            return False

    until(has_it, f"server {server.number} catches up:\n{server.log[-2000:]}", timeout_s=60)


class MostMemory(threading.Thread):
    """The most that a server holds while this looks."""

    def __init__(self, server: Member) -> None:
        super().__init__(daemon=True)
        self.server, self.first = server, memory_bytes(server)
        self.most = self.first
        self.ending = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ending.wait(0.02):
            self.most = max(self.most, memory_bytes(self.server))

    def grown(self) -> int:
        self.ending.set()
        self.join()
        return self.most - self.first


def first_log_file(server: Member) -> str:
    return min(path.name for path in (server.data_dir / "raft" / "log").glob("*.log"))


@pytest.mark.parametrize("by", ["log", "snapshot"])
def test_a_follower_that_stops_for_a_while_costs_the_leader_no_memory(ensemble, by):
    leader = ensemble.leader()
    slow, other = ensemble.others(leader)
    load = Load([leader, other])
    client = connect(leader)
    memory = MostMemory(leader)
    slow.pause()
    beginning = first_log_file(leader)
    mebibytes = 40 if by == "log" else 200
    write(client, mebibytes)
    if by == "snapshot":
        # The log is kept up to a bound, and no longer: beyond it the one that is away needs a snapshot. What is on its
        # way to that one holds it up for some seconds, in which a fast disk takes a lot.
        def is_cut_off() -> bool:
            client.set("/large-0", b"%08d" % mebibytes * (VALUE_BYTES // 8))
            return first_log_file(leader) != beginning

        until(is_cut_off, "the beginning of the log goes")
    load.progress()
    slow.go_on()
    # It has the writes that go on to catch up with, too.
    caught_up(slow, client)
    load.progress()
    load.end()
    grown = memory.grown()
    state = 8 * VALUE_BYTES
    print(f"{mebibytes} MiB written beside a stopped follower: the leader grew by {grown / MEBIBYTE:.0f} MiB")
    assert grown < BOUND_BYTES + state
    installed = "installing a received snapshot" in slow.log
    assert installed == (by == "snapshot"), slow.log[-2000:]
    assert ensemble.leader() is leader
    all_agree(ensemble)


def received(server: Member) -> List[int]:
    """The sizes of the files that a snapshot is being received into."""
    sizes = []
    for path in (server.data_dir / "raft" / "snapshots").glob("received-*.partial"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            pass
    return sizes


@pytest.mark.parametrize("whose", ["receiver", "leader"])
def test_a_transfer_that_is_broken_in_the_middle_begins_anew(linked, whose):
    leader = linked.leader()
    away, other = linked.others(leader)
    away.kill()
    client = connect(other)
    # A state of 100 MiB, so that there is a middle; with a log long enough that its beginning is gone.
    write(client, 220, nodes=200)
    load = Load([other])
    pairs = [(leader.number, away.number)]
    linked.links.slow(pairs, delay_s=0.05)
    away.start_only()
    until(lambda: any(size > 10 * MEBIBYTE for size in received(away)), "a snapshot is being received")
    linked.links.cut(pairs)
    assert all(size < 90 * MEBIBYTE for size in received(away)), "it is too late"
    struck = away if whose == "receiver" else leader
    struck.kill()
    linked.links.heal()
    struck.start_only()
    load.progress()
    for server in (away, leader):
        until(server.serves, f"server {server.number} serves:\n{server.log[-2000:]}")
        caught_up(server, client)
    load.progress()
    load.end()
    assert away.log.count("installing a received snapshot") == 1
    assert received(away) == [], "nothing is left of the broken one"
    all_agree(linked)
