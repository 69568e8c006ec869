"""kill -9 of the server under load, many times: what was acknowledged is there, and a call is executed once."""

import random
import time

import pytest

from harness import wire as w
from harness.remembering import Writer, check_each_call_ran_once, kill_under_load
from harness.waiting import until
from harness.wire import Reader, Wire

pytestmark = pytest.mark.timeout(900)

SESSION_MS = 60_000


def test_kill_9_under_load(own_server, request, capsys):
    rounds = request.config.getoption("--crash-rounds")
    with_calls = request.config.getoption("--against") == "quorate"
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    if with_calls:
        own_server.http.mount("/counters", "counter")
    zk = Wire(own_server.address)
    zk.create("/crash")
    zk.close_session()
    writers = [Writer(own_server, number, with_calls) for number in range(4)]
    restarts = []
    for _ in range(rounds):
        kill_under_load(writers, rng, [own_server])
        begin = time.monotonic()
        own_server.start()
        probe = Wire(own_server.address)
        probe.exists("/crash")
        restarts.append(time.monotonic() - begin)
        probe.close_session()
        for writer in writers:
            writer.reconnect()
            writer.repeat_unknown_calls()
            writer.check()
    total = sum(writer.acknowledgements() for writer in writers)
    if with_calls:
        check_each_call_ran_once(writers)
    with capsys.disabled():
        print(
            f"\n{rounds} kills, {total} acknowledged writes, none lost;"
            f" from start to first read {min(restarts):.2f} to {max(restarts):.2f} s"
        )


def test_a_clean_stop_keeps_everything_too(own_server):
    zk = Wire(own_server.address)
    for i in range(100):
        zk.create(f"/n{i}", b"x")
    own_server.stop()
    own_server.start()
    again = Wire(own_server.address, session=zk.session, password=zk.password)
    assert {f"n{i}" for i in range(100)} <= set(again.children("/"))


def test_a_restart_while_starting(own_server):
    """kill -9 at moments of the start itself."""
    zk = Wire(own_server.address)
    for i in range(200):
        zk.create(f"/n{i}", b"x" * 1000)
    rng = random.Random(7)
    for _ in range(8):
        own_server.kill()
        own_server.start_only()
        time.sleep(rng.uniform(0, 0.3))
    own_server.kill()
    own_server.start()
    again = Wire(own_server.address)
    assert {f"n{i}" for i in range(200)} <= set(again.children("/"))


#: Writes that are sent before the first is answered: few syncs, so that half a gigabyte is soon written.
PIPELINED = 400


@pytest.mark.quorate
@pytest.mark.parametrize("nodes, size", [(40, 500_000), (4000, 5000)])
def test_kill_9_while_snapshots_are_written(own_server, capsys, nodes, size):
    """Half a gigabyte is written over a state of twenty megabytes: the log must be cut behind snapshots."""
    zk = Wire(own_server.address, timeout_ms=SESSION_MS)
    rounds = 25
    zk.create("/big")
    for number in range(nodes):
        zk.create(f"/big/{number}")
    versions = {}
    largest = 0
    for written in range(1, rounds + 1):
        data = b"%d " % written + b"x" * size
        for start in range(0, nodes, PIPELINED):
            window = range(start, min(start + PIPELINED, nodes))
            burst = [zk.frame(w.SET_DATA, w.set_body(f"/big/{number}", data)) for number in window]
            zk.send_raw(b"".join(burst))
            for number in window:
                reply = zk.receive()
                assert reply.err == w.OK
                versions[number] = Reader(reply.body).stat().version
        largest = max(largest, directory_size(own_server.data_dir))
        if written % 6 == 0:
            own_server.restart()
            old, zk = zk, Wire(
                own_server.address, timeout_ms=SESSION_MS, session=zk.session, password=zk.password
            )
            old.drop()
            assert zk.session == old.session
        for number in range(0, nodes, nodes // 8):
            data, stat = zk.get(f"/big/{number}")
            assert data.startswith(b"%d " % written)
            assert stat.version == versions[number]
    total = nodes * size * rounds
    with capsys.disabled():
        print(f"\n{total >> 20} MiB written, the directory had at most {largest >> 20} MiB")
    assert "impaired" not in own_server.log
    assert largest < total * 3 // 4, "the log is not cut"


def directory_size(directory) -> int:
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # the server has just removed it, or given it its name
            pass
    return total


def test_a_restarted_server_is_ready_only_when_all_that_was_acknowledged_is_there(own_server):
    """Its log is long enough to take a while: the first read over HTTP, which waits for nothing, must not see the past."""
    client = Wire(own_server.address, timeout_ms=SESSION_MS)
    client.create("/counted", b"0")
    total = 40_000
    body = [w.set_body("/counted", b"%d" % number) for number in range(1, total + 1)]
    for begin in range(0, total, 500):
        xids = [client.send(w.SET_DATA, each) for each in body[begin : begin + 500]]
        for xid in xids:
            assert client.receive(xid).err == w.OK
    own_server.kill()
    own_server.start_only()

    def first():
        try:
            answer = own_server.http.get("/v1/tree/counted")
        except OSError:
            return None
        # Until it serves it says that, and nothing of the tree.
        return None if answer.status == 503 else answer

    answer = until(first, "the first answer over HTTP")
    assert answer.status == 200 and answer.body["data"] == str(total), answer
