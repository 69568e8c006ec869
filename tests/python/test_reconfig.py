"""The servers of an ensemble as ZooKeeper's clients see and change them: /zookeeper/config and reconfig (rule W6)."""

import struct
import subprocess
from typing import Iterator, List, Tuple

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadArgumentsError,
    BadVersionError,
    NewConfigNoQuorumError,
    NoAuthError,
    ReconfigInProcessError,
    UnimplementedError,
)
from kazoo.security import READ_ACL_UNSAFE, make_digest_acl

from harness import wire as w
from harness.ensemble import Ensemble, Member
from harness.load import cluster, connect, give_lead
from harness.waiting import until
from harness.wire import Closed, Wire
from test_ensemble import heard_ms

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(300)]

CONFIG = "/zookeeper/config"
RECONFIG, RECONFIG_DISABLED = 16, -123
#: ZooKeeper's own example: the digest of super:test.
SUPER_DIGEST = "super:D/InIHSb7yEEbrWz8b9l71RjZJU="
#: Any version.
ANY = b"\xff" * 8
#: No membership has it.
NO_VERSION = 0x7FFF_FFFF


@pytest.fixture
def ensemble(tmp_path) -> Iterator[Ensemble]:
    running = Ensemble(tmp_path)
    for server in running.servers:
        server.options += ["--reconfig-enabled", "--super-digest", SUPER_DIGEST]
    running.start()
    yield running
    running.kill()


@pytest.fixture
def clients(ensemble) -> Iterator[List[KazooClient]]:
    """One of each server, the super user's: who else may change the servers says the list of /zookeeper/config."""
    started = []
    for server in ensemble.servers:
        client = KazooClient(hosts=server.hosts, timeout=20, auth_data=[("digest", "super:test")])
        client.start(timeout=30)
        started.append(client)
    yield started
    for client in started:
        client.stop()
        client.close()


def line(server: Member, role: str = "participant") -> str:
    host, port = server.peer.split(":")
    return f"server.{server.number}={host}:{port}:{port}:{role};{server.hosts}"


def parsed(data: bytes) -> Tuple[List[str], int]:
    *lines, version = data.decode().split("\n")
    return lines, int(version.removeprefix("version="), 16)


def configuration(client: KazooClient) -> Tuple[List[str], int]:
    client.sync(CONFIG)
    return parsed(client.get(CONFIG)[0])


def settled(client: KazooClient, servers: List[Member]) -> int:
    """Waits until the configuration names these voters, each with its clients' address; gives its version."""
    lines = [line(server) for server in servers]

    def names_them():
        try:
            found, version = configuration(client)
        except ValueError:  # Nothing is said yet.
            return None
        return version if found == lines else None

    return until(names_them, f"{CONFIG} says {lines}, not {client.get(CONFIG)[0]!r}")


def test_w6_every_server_says_who_the_servers_are_and_where_clients_reach_them(ensemble, clients):
    for client in clients:
        settled(client, ensemble.servers)
    anybody = KazooClient(hosts=ensemble.servers[0].hosts, timeout=20)
    anybody.start(timeout=30)
    assert anybody.get(CONFIG)[0]
    for client, operations in (
        (anybody, ("set", "create", "set_acls")),
        # Its data are the ensemble's own.
        (clients[0], ("set", "create")),
    ):
        refused = {
            "set": lambda: client.set(CONFIG, b"mine"),
            "create": lambda: client.create(CONFIG + "/below"),
            "set_acls": lambda: client.set_acls(CONFIG, client.get_acls("/")[0]),
        }
        for operation in operations:
            with pytest.raises(NoAuthError):
                refused[operation]()
    anybody.stop()
    anybody.close()
    with pytest.raises(BadArgumentsError):
        clients[0].delete(CONFIG)
    assert [acl.perms for acl in clients[0].get_acls(CONFIG)[0]] == [1]


def test_w6_a_fourth_joins_and_another_leaves_asked_of_a_follower(ensemble, clients, tmp_path):
    leader = ensemble.leader()
    follower, other = ensemble.others(leader)
    client = clients[follower.number - 1]
    before = settled(client, ensemble.servers)
    events = []
    clients[leader.number - 1].get(CONFIG, watch=events.append)
    new = ensemble.joining(tmp_path)
    try:
        new.start_only()
        data, stat = client.reconfig(joining=line(new), leaving=None, new_members=None, from_config=before)
        lines, joined = parsed(data)
        four = sorted([*ensemble.servers, new], key=lambda server: server.number)
        assert lines == [line(server) for server in four]
        assert joined > before and client.get(CONFIG) == (data, stat)
        until(lambda: events, "the watch fires")
        assert events[0].type == "CHANGED" and events[0].path == CONFIG
        until(lambda: new.mode() == "follower", "it votes")
        with pytest.raises(BadVersionError):
            client.reconfig(joining=None, leaving=str(other.number), new_members=None, from_config=before)

        data, _ = client.reconfig(
            joining=None, leaving=str(other.number), new_members=None, from_config=joined
        )
        left = [server for server in four if server is not other]
        assert parsed(data)[0] == [line(server) for server in left]
        other.stop()
        with_new = KazooClient(hosts=new.hosts, timeout=20)
        with_new.start(timeout=30)
        for each in (client, clients[leader.number - 1], with_new):
            settled(each, left)
        # The leader goes: it hands the lead over, and whoever leads then removes it.
        data, _ = client.reconfig(
            joining=None, leaving=str(leader.number), new_members=None, from_config=-1
        )
        leader.stop()
        assert parsed(data)[0] == [line(server) for server in left if server is not leader]
        client.create("/written-afterwards")
        with_new.sync("/")
        assert with_new.exists("/written-afterwards")
        with_new.stop()
        with_new.close()
    finally:
        new.kill()


def test_w6_all_members_named_anew_and_a_voter_becomes_an_observer(ensemble, clients):
    leader = ensemble.leader()
    demoted = ensemble.others(leader)[0]
    client = clients[leader.number - 1]
    settled(client, ensemble.servers)
    roles = [line(s, "observer" if s is demoted else "participant") for s in ensemble.servers]
    data, _ = client.reconfig(joining=None, leaving=None, new_members=",".join(roles), from_config=-1)
    assert parsed(data)[0] == roles
    until(lambda: demoted.mode() == "observer", "it observes")
    everybody = ",".join(line(server) for server in ensemble.servers)
    clients[demoted.number - 1].reconfig(
        joining=everybody, leaving=None, new_members=None, from_config=-1
    )
    until(lambda: demoted.mode() == "follower", "it votes again")
    settled(client, ensemble.servers)


def test_w6_who_may_write_the_configuration_may_change_the_servers(ensemble, clients):
    leader = ensemble.leader()
    demoted = ensemble.others(leader)[0]
    root = clients[0]
    version = settled(root, ensemble.servers)
    anna = KazooClient(hosts=demoted.hosts, timeout=20, auth_data=[("digest", "anna:secret")])
    anna.start(timeout=30)
    try:
        change = (line(demoted, "observer"), None, None)
        with pytest.raises(NoAuthError):
            anna.reconfig(*change, from_config=-1)
        # Before anything else that depends on the ensemble.
        with pytest.raises(NoAuthError):
            anna.reconfig(*change, from_config=version + 1)
        assert configuration(root)[1] == version
        root.set_acls(CONFIG, [make_digest_acl("anna", "secret", write=True), *READ_ACL_UNSAFE])
        anna.reconfig(*change, from_config=-1)
        until(lambda: demoted.mode() == "observer", "it observes")
    finally:
        anna.stop()
        anna.close()


def test_w6_what_is_no_change_or_would_lose_the_quorum_is_refused(ensemble, clients):
    leader = ensemble.leader()
    follower, other = ensemble.others(leader)
    client = clients[follower.number - 1]
    settled(client, ensemble.servers)
    everybody = ",".join(str(server.number) for server in ensemble.servers)
    for joining, leaving, new_members in (
        ("server.4=nowhere", None, None),
        ("server.4=127.0.0.1:1:1", None, "server.4=127.0.0.1:1:1"),
        (None, everybody, None),
        (f"server.4={leader.peer}:1", None, None),
    ):
        with pytest.raises(BadArgumentsError):
            client.reconfig(joining, leaving, new_members, from_config=-1)
    other.kill()
    until(lambda: heard_ms(leader, other) > 1000, "the leader misses the killed one")
    version = configuration(client)[1]
    with pytest.raises(NewConfigNoQuorumError):
        client.reconfig(None, str(follower.number), None, from_config=-1)
    assert configuration(client)[1] == version
    client.reconfig(None, str(other.number), None, from_config=-1)


def another_is_under_way(client) -> bool:
    try:
        client.reconfig(None, "2", None, from_config=NO_VERSION)
    except BadVersionError:
        return False
    except ReconfigInProcessError:
        return True
    raise AssertionError("the members are at no such version")


def test_w5_pings_overtake_what_waits_behind_a_reconfig_and_another_is_refused(ensemble, clients, tmp_path):
    leader = ensemble.leader()
    settled(clients[0], ensemble.servers)
    new = ensemble.joining(tmp_path)
    client = connect(leader)
    auth = struct.pack("!i", 0) + w.string("digest") + w.buffer(b"super:test")
    assert client.receive(client.send(w.AUTH, auth, xid=w.XID_AUTH)).err == w.OK
    # Nobody is there yet, so the leader waits for it.
    reconfig = client.send(RECONFIG, w.string(line(new)) + w.string("") + w.string("") + ANY)
    create = client.send(w.CREATE, w.create_body("/behind"))
    try:
        until(lambda: another_is_under_way(clients[0]), "the change is under way")
        client.ping()
        with pytest.raises(ReconfigInProcessError):
            clients[0].reconfig(None, "2", None, from_config=-1)
        assert clients[leader.number - 1].exists("/behind") is None
        new.start_only()
        first, second = client.receive(reconfig), client.receive(create)
        assert (first.err, second.err) == (w.OK, w.OK)
        assert clients[leader.number - 1].exists("/behind")
        settled(clients[0], [*ensemble.servers, new])
    finally:
        new.kill()


def test_w6_reconfig_is_disabled_unless_it_is_asked_for(server):
    client = Wire(server.address)
    body = w.string("server.4=a:1:1") + w.string("") + w.string("") + ANY
    assert client.request(RECONFIG, body).err == RECONFIG_DISABLED
    data, stat = client.get(CONFIG)
    assert (data, stat.version) == (b"", 0), "a server that is alone has no configuration"


def test_a_server_that_is_alone_has_nobody_to_reconfigure(tmp_path):
    from harness.servers import QuorateServer

    alone = QuorateServer(tmp_path / "alone")
    alone.options.append("--reconfig-enabled")
    alone.start()
    try:
        client = KazooClient(hosts=alone.hosts)
        client.start()
        with pytest.raises(UnimplementedError):
            client.reconfig(None, "1", None, from_config=-1)
        client.stop()
        client.close()
    finally:
        alone.kill()


def test_a_server_is_replaced_by_one_command_even_the_leader(ensemble, tmp_path):
    old = ensemble.leader()
    asked = ensemble.others(old)[0]
    new = ensemble.joining(tmp_path)
    try:
        new.start_only()
        arguments = ("replace", str(old.number), str(new.number), new.peer)
        for _ in range(2):  # The second time there is nothing to do.
            members = cluster(asked, *arguments)["members"]
            wanted = {server.number for server in ensemble.others(old)} | {new.number}
            assert {member["server"] for member in members} == wanted
            assert all(member["votes"] for member in members)
        old.stop()
        connect(new).create("/written-at-the-new-one")
    finally:
        new.kill()


def test_any_server_takes_a_change_of_the_members(ensemble, tmp_path):
    leader = ensemble.leader()
    follower, other = ensemble.others(leader)
    new = ensemble.joining(tmp_path)
    try:
        new.start_only()
        added = cluster(follower, "add", str(new.number), new.peer)
        assert [member["server"] for member in added["members"]] == [1, 2, 3, 4]
        until(lambda: new.mode() == "observer", "it follows")
        cluster(new, "promote", str(new.number))
        give_lead(follower, new.number)
        until(lambda: new.mode() == "leader", "it leads")
        removed = cluster(other, "remove", str(new.number))
        assert [member["server"] for member in removed["members"]] == [1, 2, 3]
        refused = subprocess.run(
            other.command_line("cluster", "promote", "9"), capture_output=True, text=True
        )
        assert refused.returncode == 1 and "add it first" in refused.stderr
    finally:
        new.kill()


def test_w4_a_server_that_was_removed_while_it_was_away_lets_its_clients_go(ensemble):
    leader = ensemble.leader()
    away = ensemble.others(leader)[0]
    client = Wire(away.address, timeout_ms=6000)
    away.pause()
    try:
        cluster(leader, "remove", str(away.number))
    finally:
        away.go_on()

    def is_closed() -> bool:
        try:
            client.exists("/")
        except Closed:
            return True
        return False

    until(is_closed, "its client is disconnected, rather than shown what is ever older")


def test_w4_what_waits_at_a_server_that_was_removed_ends_with_a_disconnect(ensemble):
    leader = ensemble.leader()
    away = ensemble.others(leader)[0]
    writer, syncing = (Wire(away.address, timeout_ms=6000) for _ in range(2))
    away.pause()
    try:
        # They lie in its sockets: what is read after the removal can only be asked of who does not know it any more.
        writer.send(w.CREATE, w.create_body("/of-nobody"))
        syncing.send(w.SYNC, w.string("/"))
        cluster(leader, "remove", str(away.number))
    finally:
        away.go_on()
    for waiting in (writer, syncing):
        with pytest.raises(Closed):
            waiting.receive()
    assert connect(leader).exists("/of-nobody") is None, "it was neither told nor done"
    # Its session goes on where the ensemble is.
    moved = connect(leader, session=writer.session, password=writer.password)
    assert moved.session == writer.session
