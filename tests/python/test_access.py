"""Access control lists, as ZooKeeper enforces them: writes, reads, events, masked hashes, and who passes them all."""

import os
import struct
import subprocess
from typing import Callable, List, Sequence, Tuple

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    InvalidACLError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
)
from kazoo.security import (
    ANYONE_ID_UNSAFE,
    CREATOR_ALL_ACL,
    OPEN_ACL_UNSAFE,
    READ_ACL_UNSAFE,
    ACL,
    Permissions,
    make_acl,
    make_digest_acl,
    make_digest_acl_credential,
)

from harness import wire as w
from harness.servers import QuorateServer
from harness.wire import Wire

pytestmark = pytest.mark.timeout(120)

#: ZooKeeper's own example: the digest of super:test.
SUPER_DIGEST = "super:D/InIHSb7yEEbrWz8b9l71RjZJU="
ANNA = make_digest_acl_credential("anna", "secret")

#: (permission, what needs it of a znode with a child "old")
NEEDS: List[Tuple[int, Callable[[KazooClient, str], object]]] = [
    (Permissions.CREATE, lambda client, path: client.create(f"{path}/new")),
    (Permissions.CREATE, lambda client, path: client.create(f"{path}/new-", sequence=True)),
    (Permissions.CREATE, lambda client, path: client.create(f"{path}/mine", ephemeral=True)),
    (Permissions.DELETE, lambda client, path: client.delete(f"{path}/old")),
    (Permissions.WRITE, lambda client, path: client.set(path, b"x")),
    (Permissions.ADMIN, lambda client, path: client.set_acls(path, OPEN_ACL_UNSAFE)),
    (Permissions.READ, lambda client, path: client.get(path)),
    (Permissions.READ, lambda client, path: client.get_children(path)),
    (Permissions.READ, lambda client, path: client.get_children(path, include_data=True)),
]


def only(permission: int) -> List[ACL]:
    """To anna that permission, to everybody all others."""
    return [ACL(permission, ANYONE_ID_UNSAFE._replace(scheme="digest", id=ANNA)), others(permission)]


def others(permission: int) -> ACL:
    return ACL(Permissions.ALL & ~permission, ANYONE_ID_UNSAFE)


def anna(kazoo: Callable[..., KazooClient]) -> KazooClient:
    return kazoo(auth_data=[("digest", "anna:secret")])


def prove(client: Wire, auth: bytes = b"anna:secret", scheme: str = "digest") -> int:
    body = struct.pack("!i", 0) + w.string(scheme) + w.buffer(auth)
    return client.receive(client.send(w.AUTH, body, xid=w.XID_AUTH)).err


def set_acl(client: Wire, path: str, entries: Sequence[Tuple[int, str, str]], version: int = -1) -> int:
    body = w.string(path) + w.acls(entries) + struct.pack("!i", version)
    return client.request(w.SET_ACL, body).err


CLOSED = [(31, "digest", ANNA), (30, "world", "anyone")]
OPEN = [(31, "world", "anyone")]


@pytest.mark.parametrize("number", range(len(NEEDS)))
def test_each_operation_takes_its_permission(kazoo, base, number):
    permission, operate = NEEDS[number]
    stranger, friend = kazoo(), anna(kazoo)
    stranger.create(f"{base}/old")
    stranger.set_acls(base, only(permission))
    with pytest.raises(NoAuthError):
        operate(stranger, base)
    assert stranger.exists(base), "exists takes nothing"
    for other, allowed in NEEDS:
        if other != permission and other in (Permissions.READ, Permissions.WRITE):
            allowed(stranger, base)
    operate(friend, base)


def test_checks_come_in_zookeepers_order(wire, base):
    owner, stranger = wire(), wire()
    assert prove(owner) == w.OK
    owner.create(f"{base}/child")
    assert set_acl(owner, f"{base}/child", [(31, "digest", ANNA)]) == w.OK
    assert set_acl(owner, base, [(31, "digest", ANNA), (1, "world", "anyone")]) == w.OK
    version = w.path_version
    for op, body, of_stranger, of_owner in (
        (w.CREATE, w.create_body(f"{base}/gone/x"), w.NO_NODE, w.NO_NODE),
        (w.CREATE, w.create_body(f"{base}/child"), w.NO_AUTH, w.NODE_EXISTS),
        (w.CREATE, w.create_body(f"{base}/child", acl=[]), w.INVALID_ACL, w.INVALID_ACL),
        (w.DELETE, version(f"{base}/gone/x"), w.NO_NODE, w.NO_NODE),
        (w.DELETE, version(f"{base}/gone"), w.NO_AUTH, w.NO_NODE),
        (w.DELETE, version(f"{base}/child", 7), w.NO_AUTH, w.BAD_VERSION),
        (w.SET_DATA, w.set_body(f"{base}/gone", b""), w.NO_NODE, w.NO_NODE),
        (w.SET_DATA, w.set_body(base, b"", 7), w.NO_AUTH, w.BAD_VERSION),
        (w.SET_DATA, w.set_body(f"{base}/child", b"", 7), w.NO_AUTH, w.BAD_VERSION),
        (w.GET_DATA, w.path_watch(f"{base}/gone"), w.NO_NODE, w.NO_NODE),
        (w.GET_DATA, w.path_watch(f"{base}/child", True), w.NO_AUTH, w.OK),
        (w.GET_CHILDREN, w.path_watch(f"{base}/child"), w.NO_AUTH, w.OK),
        (w.GET_CHILDREN2, w.path_watch(f"{base}/child"), w.NO_AUTH, w.OK),
        (w.GET_ACL, w.string(f"{base}/child"), w.NO_AUTH, w.OK),
        (w.EXISTS, w.path_watch(f"{base}/child"), w.OK, w.OK),
        (w.SYNC, w.string(f"{base}/child"), w.OK, w.OK),
        (w.DELETE, version("/"), w.BAD_ARGUMENTS, w.BAD_ARGUMENTS),
    ):
        assert stranger.request(op, body).err == of_stranger, (op, body)
        assert owner.request(op, body).err == of_owner, (op, body)
    for path, acl_version, of_stranger, of_owner in (
        (f"{base}/gone", -1, w.NO_NODE, w.NO_NODE),
        (base, 7, w.NO_AUTH, w.BAD_VERSION),
    ):
        assert set_acl(stranger, path, OPEN, acl_version) == of_stranger
        assert set_acl(owner, path, OPEN, acl_version) == of_owner
    # The stranger's refused read has set no watch.
    owner.set(f"{base}/child", b"x")
    stranger.ping()
    assert stranger.events == [] and owner.wait_event().path == f"{base}/child"


def test_a_part_of_a_multi_that_is_not_allowed_fails_it(kazoo, base):
    stranger, friend = kazoo(), anna(kazoo)
    friend.set_acls(base, [*CREATOR_ALL_ACL, *READ_ACL_UNSAFE])
    open_path = stranger.create(f"/open-{base[1:]}")
    for client, results in (
        (stranger, [RolledBackError, RolledBackError, NoAuthError, RolledBackError]),
        (friend, None),
    ):
        transaction = client.transaction()
        transaction.create(f"{open_path}/a")
        transaction.check(base, 0)
        transaction.set_data(base, b"x")
        transaction.create(f"{base}/b")
        done = transaction.commit()
        if results is None:
            assert not any(isinstance(result, Exception) for result in done), done
        else:
            failed_as_zookeeper_does = [type(result) for result in done]
            assert failed_as_zookeeper_does[:3] == results[:3], done
            assert not client.exists(f"{open_path}/a")
    friend.set_acls(base, make_list(Permissions.ALL, 0))
    transaction = stranger.transaction()
    transaction.check(base, -1)
    assert isinstance(transaction.commit()[0], NoAuthError), "a check takes READ"


def make_list(of_anna: int, of_everybody: int) -> List[ACL]:
    return [
        ACL(of_anna, ANYONE_ID_UNSAFE._replace(scheme="digest", id=ANNA)),
        *([ACL(of_everybody, ANYONE_ID_UNSAFE)] if of_everybody else []),
    ]


def test_hashes_are_shown_to_who_may_set_the_list(kazoo, base):
    stranger, friend = kazoo(), anna(kazoo)
    local = make_acl("ip", "10.0.0.0/8", read=True)
    friend.set_acls(base, [make_digest_acl("anna", "secret", all=True), local, *READ_ACL_UNSAFE])
    shown = [acl.id.id for acl in stranger.get_acls(base)[0]]
    assert shown == ["anna:x", "10.0.0.0/8", "anyone"]
    assert [acl.id.id for acl in friend.get_acls(base)[0]] == [ANNA, "10.0.0.0/8", "anyone"]
    # Who may set it, and not read, sees it too.
    friend.set_acls(base, make_list(Permissions.READ, Permissions.ADMIN))
    assert [acl.id.id for acl in stranger.get_acls(base)[0]] == [ANNA, "anyone"]


def test_auth_stands_for_who_the_creator_is(kazoo, base):
    stranger, friend = kazoo(), kazoo()
    with pytest.raises(InvalidACLError):
        friend.create(f"{base}/mine", acl=CREATOR_ALL_ACL)
    friend.add_auth("digest", "anna:secret")
    friend.create(f"{base}/mine", b"secret", acl=CREATOR_ALL_ACL)
    assert friend.get(f"{base}/mine")[0] == b"secret"
    with pytest.raises(NoAuthError):
        stranger.get(f"{base}/mine")
    stranger.add_auth("digest", "anna:wrong")
    with pytest.raises(NoAuthError):
        stranger.set(f"{base}/mine", b"")
    stranger.add_auth("digest", "anna:secret")
    stranger.set(f"{base}/mine", b"by another connection of hers")


def test_an_address_may_be_let_in(kazoo, base):
    client = kazoo()
    for who, allowed in (
        ("127.0.0.1", True),
        ("127.0.0.0/8", True),
        ("127.0.0.2", False),
        ("10.0.0.0/8", False),
        ("0.0.0.0/0", True),
    ):
        path = f"{base}/{who.replace('/', '-')}"
        client.create(path, acl=[make_acl("ip", who, all=True)])
        if allowed:
            client.get(path)
        else:
            with pytest.raises(NoAuthError):
                client.get(path)


def test_what_ends_by_itself_is_not_asked(kazoo, wire, base):
    owner = wire()
    assert prove(owner) == w.OK
    owner.create(f"{base}/mine", flags=w.EPHEMERAL)
    assert set_acl(owner, f"{base}/mine", [(1, "digest", ANNA)]) == w.OK
    assert set_acl(owner, base, [(1, "digest", ANNA)]) == w.OK
    assert owner.delete(f"{base}/mine") == w.NO_AUTH
    owner.close_session()
    assert kazoo().exists(f"{base}/mine") is None


def test_watches_are_set_again_for_whoever(wire, base):
    """As in ZooKeeper, setWatches asks no list: exists tells as much."""
    owner, stranger = wire(), wire()
    owner.create(f"{base}/a")
    since = owner.exists(f"{base}/a").czxid
    assert prove(owner) == w.OK
    assert set_acl(owner, f"{base}/a", [(31, "digest", ANNA)]) == w.OK
    owner.set(f"{base}/a", b"x")
    body = w.set_watches_body(since, data=[f"{base}/a"])
    assert stranger.receive(stranger.send(w.SET_WATCHES, body, xid=w.XID_SET_WATCHES)).err == w.OK
    assert stranger.wait_event().type == w.NODE_DATA_CHANGED


@pytest.mark.quorate
def test_events_are_kept_from_who_may_not_read(wire, base):
    """As since ZooKeeper 3.8.4 and 3.9.2 (CVE-2024-23944): Debian's is older."""
    owner, stranger, friend = wire(), wire(), wire()
    assert prove(owner) == w.OK
    path = f"{base}/a"

    def watched_by_both() -> None:
        assert set_acl(owner, base, OPEN) == w.OK
        if owner.exists(path) is None:
            owner.create(path)
        assert set_acl(owner, path, OPEN) == w.OK
        for client in (stranger, friend):
            client.get(path, watch=True)
            client.children(base, watch=True)

    watched_by_both()
    # What is proved after the watch was set counts.
    assert prove(friend) == w.OK
    assert set_acl(owner, path, CLOSED) == w.OK
    owner.set(path, b"1")
    assert friend.wait_event(1).type == w.NODE_DATA_CHANGED
    stranger.ping()
    assert stranger.events == []

    # The watch has fired all the same; a deleted znode counts as it was, its parent as it is.
    watched_by_both()
    assert set_acl(owner, path, CLOSED) == w.OK
    assert owner.delete(path) == w.OK
    told = {friend.wait_event(2).path, friend.wait_event(3).path}
    assert told == {path, base}
    assert stranger.wait_event(1).path == base
    stranger.ping()
    assert [event.path for event in stranger.events] == [base]

    # Of a new one its own list counts, and the closed parent's for the parent.
    for client in (stranger, friend):
        assert client.exists(path, watch=True) is None
        client.children(base, watch=True)
    assert set_acl(owner, base, CLOSED) == w.OK
    owner.create(path)
    assert friend.wait_event(5).path == base
    assert stranger.wait_event(2).type == w.NODE_CREATED
    stranger.ping()
    assert len(stranger.events) == 2


@pytest.mark.quorate
def test_events_count_the_list_of_the_server_that_tells_them(ensemble):
    """Every server asks for itself, also one that follows."""
    leader = ensemble.leader()
    follower = ensemble.others(leader)[0]
    owner, stranger = Wire(leader.address), Wire(follower.address)
    assert prove(owner) == w.OK
    owner.create("/a")
    stranger.request(w.SYNC, w.string("/"))
    stranger.get("/a", watch=True)
    assert set_acl(owner, "/a", CLOSED) == w.OK
    owner.set("/a", b"x")
    stranger.request(w.SYNC, w.string("/"))
    assert stranger.events == []
    reply = stranger.request(w.GET_DATA, w.path_watch("/a"))
    assert reply.err == w.NO_AUTH
    assert stranger.request(w.DELETE, w.path_version("/a")).err == w.OK, "that takes DELETE on /"


@pytest.mark.quorate
def test_http_reads_what_its_address_may(server, kazoo, base):
    client = kazoo()
    client.create(f"{base}/here", b"data", acl=[make_acl("ip", "127.0.0.0/8", read=True)])
    client.create(f"{base}/elsewhere", b"data", acl=[make_digest_acl("anna", "secret", all=True)])
    assert server.http.get(f"/v1/tree{base}/here").body["data"] == "data"
    refused = server.http.get(f"/v1/tree{base}/elsewhere")
    assert (refused.status, refused.body["error"]["code"]) == (403, "no-auth")
    message = refused.body["error"]["message"]
    assert f"READ on {base}/elsewhere" in message and "anna" not in message


@pytest.mark.quorate
def test_below_an_open_mount_lists_decide_and_recipes_are_not_asked(server, kazoo, wire, mounted):
    path = mounted("counter", sealed=False)
    stranger, friend = kazoo(), anna(kazoo)
    friend.create(f"{path}/plain", acl=CREATOR_ALL_ACL)
    with pytest.raises(NoAuthError):
        stranger.set(f"{path}/plain", b"x")
    friend.set_acls(path, make_list(Permissions.ALL, Permissions.READ))
    with pytest.raises(NoAuthError):
        stranger.create(f"{path}/another")
    assert wire().call(1, path, "add", '["c",1]') == (w.RETURNED, "1")
    assert stranger.get_children(path) == ["c", "plain"]


@pytest.fixture
def super_server(tmp_path):
    prepared = QuorateServer(tmp_path / "server")
    yield prepared
    prepared.kill()


@pytest.mark.quorate
def test_the_super_user_passes_every_list_but_no_seal(super_server):
    super_server.options += ["--super-digest", SUPER_DIGEST]
    super_server.start()
    closed = [make_digest_acl("anna", "secret", read=True)]
    with Clients(super_server) as start:
        client, root = start(), start(auth_data=[("digest", "super:test")])
        client.create("/closed", b"data", acl=closed)
        for operate in (
            lambda user: user.get("/closed"),
            lambda user: user.set("/closed", b"x"),
            lambda user: user.create("/closed/a"),
            lambda user: user.delete("/closed/a"),
            lambda user: user.set_acls("/closed", OPEN_ACL_UNSAFE),
        ):
            with pytest.raises(NoAuthError):
                operate(client)
            operate(root)
        # An auth entry stands for the digest, and not for the super user.
        root.create("/own", acl=CREATOR_ALL_ACL)
        assert [acl.id.id for acl in root.get_acls("/own")[0]] == [SUPER_DIGEST]
        super_server.http.mount("/sealed", "counter")
        with pytest.raises(NoAuthError):
            root.create("/sealed/a")


class Clients:
    """Starts clients of a server, and stops them all."""

    def __init__(self, server: QuorateServer) -> None:
        self.server = server
        self.started: List[KazooClient] = []

    def __enter__(self) -> Callable[..., KazooClient]:
        def start(**options) -> KazooClient:
            client = KazooClient(hosts=self.server.hosts, timeout=20, **options)
            self.started.append(client)
            client.start(timeout=30)
            return client

        return start

    def __exit__(self, *_) -> None:
        for client in self.started:
            client.stop()
            client.close()


@pytest.mark.quorate
@pytest.mark.parametrize("how", ["flag", "zoo.cfg", "toml"])
def test_lists_may_be_skipped(super_server, tmp_path, how):
    config = tmp_path / ("zoo.cfg" if how == "zoo.cfg" else "quorate.toml")
    if how == "flag":
        super_server.options.append("--skip-acl")
    else:
        config.write_text("skipACL=yes\n" if how == "zoo.cfg" else "skip_acl = true\n")
        super_server.options += ["--config", str(config)]
    super_server.start()
    with Clients(super_server) as start:
        client = start()
        client.create("/closed", b"data", acl=[make_digest_acl("anna", "secret", all=True)])
        client.set("/closed", b"x")
        assert client.get_acls("/closed")[0][0].id.id == ANNA
        assert super_server.http.get("/v1/tree/closed").status == 200
        # The lists themselves are still checked for form.
        with pytest.raises(InvalidACLError):
            client.create("/mine", acl=CREATOR_ALL_ACL)
        for error, operate in (
            (NodeExistsError, lambda: client.create("/closed")),
            (NoNodeError, lambda: client.delete("/closed/a")),
            (BadVersionError, lambda: client.set("/closed", b"", version=9)),
        ):
            with pytest.raises(error):
                operate()


@pytest.mark.quorate
def test_a_super_digest_that_is_none_is_refused_at_the_start(super_server, tmp_path):
    config = tmp_path / "zoo.cfg"
    config.write_text("DigestAuthenticationProvider.superDigest=super:test\n")
    for options in (["--super-digest", "super:test"], ["--config", str(config)]):
        super_server.options = options
        done = subprocess.run(super_server.command(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and "USER:HASH" in done.stderr, done


@pytest.mark.quorate
def test_the_command_line_proves_who_it_is(server, kazoo, base):
    kazoo().create(f"{base}/closed", b"data", acl=[make_digest_acl("anna", "secret", all=True)])

    def quorate(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QUORATE_")}
        return subprocess.run(
            server.command_line(*arguments, "get", f"{base}/closed"),
            env={**kept, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert quorate("--auth", "digest:anna:secret").stdout == "data"
    assert quorate(QUORATE_AUTH="digest:anna:secret").stdout == "data"
    for wrong in ([], ["--auth", "digest:anna:other"]):
        refused = quorate(*wrong)
        assert refused.returncode == 1 and "access control list" in refused.stderr, refused
    unknown = quorate("--auth", "kerberos:anna:secret")
    assert unknown.returncode == 1 and '"kerberos"' in unknown.stderr, unknown
    malformed = quorate("--auth", "secret")
    assert malformed.returncode == 2 and "digest:USER:PASSWORD" in malformed.stderr, malformed
