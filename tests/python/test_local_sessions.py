"""Local sessions: known to one server, so that they cost no transaction."""

from typing import Iterator

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import EphemeralOnLocalSessionError
from quorate import BadCall, Recipes

from harness.ensemble import Ensemble, Member
from harness.waiting import until
from harness.wire import Closed, Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]


def started(directory, options) -> Ensemble:
    ensemble = Ensemble(directory)
    for server in ensemble.servers:
        server.options += options
    return ensemble.start()


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory) -> Iterator[Ensemble]:
    running = started(tmp_path_factory.mktemp("local"), ["--local-sessions"])
    yield running
    running.kill()


@pytest.fixture
def upgrading(tmp_path) -> Iterator[Ensemble]:
    running = started(tmp_path, ["--local-sessions", "--local-sessions-upgrading"])
    yield running
    running.kill()


def kazoo_client(*servers: Member) -> KazooClient:
    client = KazooClient(hosts=",".join(server.hosts for server in servers), timeout=10)
    client.start(timeout=30)
    return client


def report(server: Member, word: str) -> dict:
    lines = server.four_letter_word("mntr").splitlines()
    return dict(line.split("\t") for line in lines)[word]


def again(server: Member, client: Wire, timeout_ms: int = 10_000, **more) -> Wire:
    return Wire(
        server.address,
        timeout_ms=timeout_ms,
        session=client.session,
        password=client.password,
        last_zxid=client.last_zxid,
        **more,
    )


def test_a_local_session_costs_no_transaction(ensemble):
    follower = ensemble.others(ensemble.leader())[0]
    before = int(report(follower, "zk_last_zxid"), 16)
    for _ in range(20):
        client = kazoo_client(follower)
        assert client.get_children("/")
        assert report(follower, "zk_local_sessions") == "1"
        client.stop()
        client.close()
        assert report(follower, "zk_local_sessions") == "0"
    # Global ones would take two each; the ensemble, which has just begun, may still write who its members are.
    assert int(report(follower, "zk_last_zxid"), 16) - before < 20


def test_it_writes_and_watches_but_gets_no_ephemeral(ensemble):
    ensemble.servers[0].http.mount("/counters", "counter")
    one, other = (kazoo_client(server) for server in ensemble.servers[1:])
    seen = []
    one.create("/plain", b"1")
    other.sync("/")
    other.get("/plain", watch=seen.append)
    one.set("/plain", b"2")
    until(lambda: seen, "the watch fires")
    with pytest.raises(EphemeralOnLocalSessionError):
        one.create("/ephemeral", ephemeral=True)
    transaction = one.transaction()
    transaction.create("/part")
    transaction.create("/part/ephemeral", ephemeral=True)
    _, refused = transaction.commit()
    assert isinstance(refused, EphemeralOnLocalSessionError)
    assert one.exists("/part") is None
    with pytest.raises(BadCall, match="local to its server"):
        Recipes(one).call("/counters", "add", "hits", 1)
    assert one.get("/plain")[0] == b"2"
    for client in (one, other):
        client.stop()
        client.close()


def test_it_goes_on_at_its_server_only(ensemble):
    server, other = ensemble.others(ensemble.leader())
    first = Wire(server.address, timeout_ms=10_000)
    first.socket.close()
    elsewhere = again(other, first)
    assert (elsewhere.timeout_ms, elsewhere.session) == (0, 0)
    second = again(server, first)
    assert second.session == first.session
    assert second.exists("/") is not None
    third = again(server, first)
    second.wait_closed()
    third.create("/third")
    third.close_session()
    assert again(server, first).timeout_ms == 0


def test_it_ends_when_its_client_is_silent(ensemble):
    server = ensemble.servers[0]
    client = Wire(server.address, timeout_ms=1000)
    assert client.timeout_ms == 1000
    client.wait_closed()
    assert again(server, client).timeout_ms == 0


def test_a_restarted_server_has_forgotten_it(tmp_path):
    ensemble = started(tmp_path, ["--local-sessions"])
    try:
        server = ensemble.others(ensemble.leader())[0]
        client = Wire(server.address, timeout_ms=30_000)
        server.restart()
        assert again(server, client).timeout_ms == 0
    finally:
        ensemble.kill()


def test_w4_a_server_without_a_quorum_serves_no_local_session(tmp_path):
    ensemble = started(tmp_path, ["--local-sessions"])
    try:
        last, *killed = ensemble.servers
        client = Wire(last.address, timeout_ms=4000)
        for server in killed:
            server.kill()
        with pytest.raises(Closed):
            while True:
                client.ping()
                client.exists("/")
        with pytest.raises(Closed):
            again(last, client, timeout_ms=4000)
    finally:
        ensemble.kill()


def test_an_upgraded_session_has_ephemerals_and_calls_and_moves(upgrading):
    server, other = upgrading.others(upgrading.leader())
    server.http.mount("/locks", "fair-lock")
    client = kazoo_client(server, other)
    session = client.client_id[0]
    assert report(upgrading.leader(), "zk_global_sessions") == "0"
    client.create("/e", ephemeral=True)
    assert client.exists("/e").ephemeralOwner == session
    for member in upgrading.servers:
        until(lambda m=member: report(m, "zk_global_sessions") == "1", "it is global")
        assert report(member, "zk_local_sessions") == "0"
    grant = Recipes(client).call("/locks", "acquire", "x")
    assert grant["holds"] == 1
    (server if client._connection._socket.getpeername()[1] == server.address[1] else other).kill()
    until(lambda: client.connected and client.client_id[0] == session, "it goes on elsewhere")
    assert client.retry(client.exists, "/e").ephemeralOwner == session
    client.stop()
    client.close()
    watcher = kazoo_client(upgrading.leader())
    assert watcher.exists("/e") is None
    watcher.stop()
    watcher.close()


def test_a_call_upgrades_its_session(upgrading):
    server = upgrading.others(upgrading.leader())[0]
    server.http.mount("/locks", "fair-lock")
    client = kazoo_client(server)
    grant = Recipes(client).call("/locks", "acquire", "x")
    assert grant["holds"] == 1
    assert report(server, "zk_global_sessions") == "1"
    client.stop()
    client.close()
