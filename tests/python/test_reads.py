"""How any server of several serves reads: behind a sync, linearizable by setting, read-only without a quorum."""

import re
import threading
from typing import Iterator, List

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NotReadOnlyCallError
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import KeeperState

from harness import wire as w
from harness.ensemble import Ensemble, Member
from harness.waiting import until
from harness.wire import Closed, Reader, Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(300)]

SESSION_MS = 20_000


def connect(server: Member, timeout_ms: int = SESSION_MS, **more) -> Wire:
    return Wire(server.address, timeout_ms=timeout_ms, **more)


def started(directory, options: List[str]) -> Ensemble:
    ensemble = Ensemble(directory)
    for server in ensemble.servers:
        server.options += options
    return ensemble.start()


@pytest.fixture
def ensemble(tmp_path) -> Iterator[Ensemble]:
    running = started(tmp_path, [])
    yield running
    running.kill()


@pytest.fixture
def linearizable(tmp_path) -> Iterator[Ensemble]:
    running = started(tmp_path, ["--linearizable-reads"])
    yield running
    running.kill()


def sync(client: Wire, path: str = "/") -> w.Reply:
    reply = client.request(w.SYNC, w.string(path))
    assert reply.err == w.OK
    return reply


def zxid(server: Member) -> int:
    found = re.search(r"Zxid: 0x([0-9a-f]+)", server.four_letter_word("srvr"))
    assert found
    return int(found.group(1), 16)


def test_w7_a_sync_sees_what_any_server_acknowledged_and_writes_nothing(ensemble):
    leader = ensemble.leader()
    writer = connect(leader)
    readers = [connect(server) for server in ensemble.servers]
    writer.create("/x", b"0")
    for number in range(1, 101):
        writer.set("/x", b"%d" % number)
        reader = readers[number % 3]
        sync(reader)
        assert reader.get("/x")[0] == b"%d" % number
    before = [zxid(server) for server in ensemble.servers]
    assert len(set(before)) == 1
    for reader in readers:
        for _ in range(100):
            reply = sync(reader, "/no/such")
            assert Reader(reply.body).string() == "/no/such"
            assert reply.zxid == before[0]
    assert [zxid(server) for server in ensemble.servers] == before


def test_w7_syncs_wait_for_the_next_leader(ensemble):
    leader = ensemble.leader()
    survivors = ensemble.others(leader)
    clients = [connect(server) for server in survivors]
    writer = connect(survivors[0])
    writer.create("/x", b"0")
    answered = [0, 0]
    errors: List[BaseException] = []
    ending = threading.Event()

    def go(number: int) -> None:
        try:
            while not ending.is_set():
                sync(clients[number])
                answered[number] += 1
        except BaseException as error:  # kept for the main thread
            errors.append(error)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()

    def more(what: str) -> None:
        before = list(answered)
        until(lambda: errors or all(now > then + 5 for now, then in zip(answered, before)), what)

    more("syncs are answered")
    leader.pause()
    more("they are answered though the leader hangs")
    leader.go_on()
    until(lambda: leader.mode() == "follower", "it follows")
    ensemble.leader().kill()
    alive = next(number for number in range(2) if survivors[number].process)
    before = answered[alive]
    until(lambda: errors or answered[alive] > before + 5, "they are answered though the leader is dead")
    ending.set()
    for thread in threads:
        thread.join(30)
    assert len(errors) <= 1, errors
    writer = connect(survivors[alive])
    writer.set("/x", b"1")
    sync(clients[alive])
    assert clients[alive].get("/x")[0] == b"1"


def test_w7_linearizable_reads_see_what_another_server_acknowledged(linearizable):
    writers = [connect(server) for server in linearizable.servers]
    writers[0].create("/x", b"0")
    readers = [connect(server) for server in linearizable.servers]
    for number in range(1, 301):
        writers[number % 3].set("/x", b"%d" % number)
        for reader in readers:
            assert reader.get("/x")[0] == b"%d" % number
        assert readers[number % 3].exists("/x").version == number
        if number % 50 == 0:
            writers[0].create(f"/x/{number}")
            assert f"{number}" in readers[1].children("/x")
            answer = linearizable.servers[2].http.get("/v1/tree/x")
            assert f"{number}" in answer.body["children"]


def test_w7_linearizable_reads_of_a_server_that_was_away_see_the_newest(linearizable):
    leader = linearizable.leader()
    slow = linearizable.others(leader)[0]
    writer, reader = connect(leader), connect(slow)
    writer.create("/x", b"0")
    for number in range(1, 11):
        slow.pause()
        for part in range(20):
            writer.set("/x", b"%d" % (number * 100 + part))
        asked = reader.send(w.GET_DATA, w.path_watch("/x"))
        slow.go_on()
        reply = Reader(reader.receive(asked).body)
        assert reply.buffer() == b"%d" % (number * 100 + 19)


def kazoo_client(servers: List[Member], read_only: bool) -> KazooClient:
    hosts = ",".join(server.hosts for server in servers)
    return KazooClient(hosts=hosts, timeout=4, read_only=read_only)


def test_read_only_mode_serves_reads_until_the_quorum_is_back(tmp_path):
    ensemble = started(tmp_path, ["--read-only-mode"])
    try:
        writer = connect(ensemble.servers[0])
        writer.create("/x", b"kept")
        last, *killed = ensemble.servers
        sync(connect(last))
        assert last.four_letter_word("isro") == "rw"
        for server in killed:
            server.kill()
        until(lambda: last.four_letter_word("isro") == "ro", "it is read-only")
        assert "zk_server_state\tread-only\n" in last.four_letter_word("mntr")
        assert "Mode: read-only" in last.four_letter_word("srvr")
        assert last.http.get("/v1/tree/x").body["data"] == "kept"
        refused = last.http.request("POST", "/v1/sessions", {})
        assert (refused.status, refused.body["error"]["code"]) == (503, "read-only")
        with pytest.raises(Closed):
            connect(last)

        client = kazoo_client(ensemble.servers, read_only=True)
        states: List[str] = []
        client.add_listener(states.append)
        client.start(timeout=30)
        try:
            assert client.client_state == KeeperState.CONNECTED_RO
            assert client.get("/x")[0] == b"kept"
            assert client.get_children("/") and client.exists("/none") is None
            with pytest.raises(NotReadOnlyCallError):
                client.set("/x", b"lost")
            with pytest.raises(NotReadOnlyCallError):
                client.create("/y")
            read_only_session = client.client_id

            for server in killed:
                server.start_only()
            until(lambda: client.client_state == KeeperState.CONNECTED, "it may write again")
            assert client.client_id != read_only_session
            client.set("/x", b"written")
            assert last.four_letter_word("isro") == "rw"
        finally:
            client.stop()
            client.close()
        # A server that has found no quorum since its start.
        for server in ensemble.servers:
            server.kill()
        last.start_only()
        until(last.serves, "it serves")
        assert "Mode: read-only" in last.four_letter_word("srvr")
        client = kazoo_client([last], read_only=True)
        client.start(timeout=30)
        assert client.client_state == KeeperState.CONNECTED_RO
        assert client.exists("/") is not None
        killed[0].start_only()
        until(lambda: client.client_state == KeeperState.CONNECTED, "it may write again")
        assert client.get("/x")[0] == b"written"
        client.stop()
        client.close()
    finally:
        ensemble.kill()


def test_without_read_only_mode_nobody_is_served_without_a_quorum(ensemble):
    last, *killed = ensemble.servers
    for server in killed:
        server.kill()
    client = kazoo_client([last], read_only=True)
    with pytest.raises(KazooTimeoutError):
        client.start(timeout=6)
    client.stop()
    client.close()
    assert last.four_letter_word("isro") == "null"
