"""What each operation of ZooKeeper's protocol answers: results, stats and error codes."""

import struct

import pytest

from harness import wire as w
from harness.wire import Reader

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def zk(wire):
    return wire()


def test_create_get_and_the_stat_of_a_new_znode(zk, base):
    reply = zk.request(w.CREATE, w.create_body(f"{base}/a", b"data"))
    assert reply.err == w.OK
    reader = Reader(reply.body)
    assert reader.string() == f"{base}/a"
    assert reader.at_end()
    data, stat = zk.get(f"{base}/a")
    assert data == b"data"
    assert stat.czxid == stat.mzxid == stat.pzxid == reply.zxid
    assert stat.ctime == stat.mtime > 1_600_000_000_000
    assert (stat.version, stat.cversion, stat.aversion) == (0, 0, 0)
    assert (stat.ephemeral_owner, stat.data_length, stat.num_children) == (0, 4, 0)


def test_create2_answers_with_the_stat(zk, base):
    reply = zk.request(w.CREATE2, w.create_body(f"{base}/a", b"abc"))
    assert reply.err == w.OK
    reader = Reader(reply.body)
    assert reader.string() == f"{base}/a"
    stat = reader.stat()
    assert reader.at_end()
    assert stat == zk.exists(f"{base}/a")
    assert stat.czxid == reply.zxid


@pytest.mark.quorate
def test_null_data_are_empty_data(zk, base):
    """ZooKeeper gives null back as null. Here a znode has data or has none; its Stat is the same in both."""
    zk.create(f"{base}/null", None)
    zk.create(f"{base}/empty", b"")
    for name in ("null", "empty"):
        data, stat = zk.get(f"{base}/{name}")
        assert (data, stat.data_length) == (b"", 0)
    zk.set(f"{base}/empty", None)
    assert zk.get(f"{base}/empty")[0] == b""


@pytest.mark.parametrize("op", [w.CREATE, w.CREATE2])
def test_create_errors(zk, base, op):
    zk.create(f"{base}/there")
    zk.create(f"{base}/mine", flags=w.EPHEMERAL)

    def error(path, **more):
        return zk.request(op, w.create_body(path, **more)).err

    assert error(f"{base}/there") == w.NODE_EXISTS
    assert error(f"{base}/no/such") == w.NO_NODE
    assert error(f"{base}/mine/child") == w.NO_CHILDREN_FOR_EPHEMERALS
    assert error("/") == w.NODE_EXISTS
    assert error(f"{base}/acl", acl=[]) == w.INVALID_ACL
    assert error(f"{base}/flags", flags=99) == w.BAD_ARGUMENTS
    assert zk.children(base) == ["mine", "there"]


@pytest.mark.parametrize(
    "path",
    ["", "relative", "/.", "/..", "/nul\0", "/bell\x07", "/private\uf8ff", "/high\ufff0", "/\U0001f600"],
)
def test_bad_paths_are_refused_and_the_connection_lives(zk, base, path):
    assert zk.request(w.CREATE, w.create_body(path)).err == w.BAD_ARGUMENTS
    assert zk.exists(base) is not None


@pytest.mark.parametrize("path", ["relative", "/end/", "//", "/a//b", "/a/../b"])
@pytest.mark.parametrize("op", [w.EXISTS, w.GET_DATA, w.GET_CHILDREN, w.GET_CHILDREN2, w.GET_ACL])
def test_there_is_nothing_at_a_bad_path(zk, op, path):
    # Compared with ZooKeeper 3.8, which does not check the paths of reads.
    assert zk.request(op, w.path_watch(path, True)).err == w.NO_NODE


def test_a_nul_is_a_bad_argument_to_exists_alone(zk):
    # Compared with ZooKeeper 3.8, odd as it is.
    assert zk.request(w.EXISTS, w.path_watch("/nul\0")).err == w.BAD_ARGUMENTS
    assert zk.request(w.GET_DATA, w.path_watch("/nul\0")).err == w.NO_NODE


def test_an_empty_path_reads_the_root(zk):
    assert zk.children("") == zk.children("/")


def test_a_bad_path_does_not_lose_the_other_watches(zk, base):
    watches = w.set_watches_body(zk.last_zxid, ["bad", base], [f"{base}/none", "//"], ["bad", base])
    zk.send(w.SET_WATCHES, watches, xid=w.XID_SET_WATCHES)
    assert zk.receive(w.XID_SET_WATCHES).err == w.OK
    zk.create(f"{base}/none")
    events = [(event.type, event.path) for event in zk.events]
    assert (w.NODE_CREATED, f"{base}/none") in events
    assert (w.NODE_CHILDREN_CHANGED, base) in events


@pytest.mark.parametrize("path", ["/end/", "/a//b", "/a/./b", "/a/../b"])
def test_bad_paths_whose_parent_is_missing(zk, base, path):
    # ZooKeeper looks for the parent first.
    assert zk.request(w.CREATE, w.create_body(path)).err in (w.BAD_ARGUMENTS, w.NO_NODE)
    assert zk.exists(base) is not None


@pytest.mark.parametrize("path", ["/dots...", "/...", "/.hidden", "/ü-日本", "/with space", "/a=b&c?d#e%20"])
def test_unusual_paths_are_fine(zk, base, path):
    assert zk.create(base + path) == base + path
    assert zk.children(base) == [path[1:]]


def test_set_counts_versions_and_refuses_the_wrong_one(zk, base):
    zk.create(f"{base}/a", b"0")
    first = zk.set(f"{base}/a", b"one", 0)
    assert (first.version, first.data_length) == (1, 3)
    assert first.mzxid == zk.last_zxid > first.czxid
    assert zk.set(f"{base}/a", b"two").version == 2
    assert zk.request(w.SET_DATA, w.set_body(f"{base}/a", b"x", 1)).err == w.BAD_VERSION
    assert zk.request(w.SET_DATA, w.set_body(f"{base}/none", b"x")).err == w.NO_NODE
    data, stat = zk.get(f"{base}/a")
    assert (data, stat.version) == (b"two", 2)
    assert stat.pzxid == stat.czxid


def test_delete_checks_version_and_children(zk, base):
    zk.create(f"{base}/a")
    zk.create(f"{base}/a/b")
    assert zk.delete(f"{base}/a") == w.NOT_EMPTY
    assert zk.delete(f"{base}/a/b", 7) == w.BAD_VERSION
    assert zk.delete(f"{base}/a/b", 0) == w.OK
    assert zk.delete(f"{base}/a/b") == w.NO_NODE
    assert zk.delete(f"{base}/a") == w.OK
    assert zk.exists(f"{base}/a") is None


def test_the_root_cannot_be_deleted(zk):
    assert zk.delete("/") == w.BAD_ARGUMENTS
    assert zk.exists("/") is not None


def test_a_parents_stat_follows_its_children(zk, base):
    before = zk.exists(base)
    zk.create(f"{base}/a")
    created = zk.exists(base)
    assert created.num_children == 1
    assert created.cversion == before.cversion + 1
    assert created.pzxid == zk.exists(f"{base}/a").czxid
    assert created.mzxid == before.mzxid
    assert zk.delete(f"{base}/a") == w.OK
    deleted = zk.exists(base)
    assert deleted.num_children == 0
    assert deleted.cversion == created.cversion + 1
    assert deleted.pzxid > created.pzxid


def test_sequential_names_count_the_parents_changes(zk, base):
    names = [zk.create(f"{base}/n-", flags=w.SEQUENTIAL) for _ in range(3)]
    assert names == [f"{base}/n-{i:010}" for i in range(3)]
    assert zk.delete(names[1]) == w.OK
    # Deleting gives no number back. How far the next one is ahead is ZooKeeper's cversion arithmetic.
    following = zk.create(f"{base}/n-", flags=w.SEQUENTIAL)
    assert following == f"{base}/n-{3:010}"
    assert zk.create(f"{base}/", flags=w.SEQUENTIAL) == f"{base}/{4:010}"
    # A plain child takes a number too.
    zk.create(f"{base}/plain")
    assert zk.create(f"{base}/n-", flags=w.SEQUENTIAL) == f"{base}/n-{6:010}"


def test_sequential_with_create2_and_ephemeral(zk, base):
    reply = zk.request(w.CREATE2, w.create_body(f"{base}/e-", b"", w.EPHEMERAL_SEQUENTIAL))
    reader = Reader(reply.body)
    assert reader.string() == f"{base}/e-{0:010}"
    assert reader.stat().ephemeral_owner == zk.session


def test_exists_of_nothing_is_no_node(zk, base):
    assert zk.request(w.EXISTS, w.path_watch(f"{base}/none")).err == w.NO_NODE
    assert zk.request(w.GET_DATA, w.path_watch(f"{base}/none")).err == w.NO_NODE
    assert zk.request(w.GET_CHILDREN, w.path_watch(f"{base}/none")).err == w.NO_NODE
    assert zk.request(w.GET_CHILDREN2, w.path_watch(f"{base}/none")).err == w.NO_NODE


def test_get_children_and_children2(zk, base):
    for name in ("c", "a", "b"):
        zk.create(f"{base}/{name}")
    assert zk.children(base) == ["a", "b", "c"]
    reader = Reader(zk.request(w.GET_CHILDREN2, w.path_watch(base)).body)
    assert sorted(reader.strings()) == ["a", "b", "c"]
    assert reader.stat() == zk.exists(base)
    assert reader.at_end()


def test_sync_answers_with_its_path(zk, base):
    reply = zk.request(w.SYNC, w.string(base))
    assert reply.err == w.OK
    assert Reader(reply.body).string() == base


def test_acls_are_stored_and_returned(zk, base):
    reader = Reader(zk.request(w.GET_ACL, w.string(base)).body)
    assert reader.acls() == w.OPEN_ACL
    assert reader.stat() == zk.exists(base)

    # Whoever may not administer a znode is shown no digests, so anyone may here.
    rules = [(31, "world", "anyone"), (1, "digest", "user:hash=")]
    reply = zk.request(w.SET_ACL, w.string(base) + w.acls(rules) + struct.pack("!i", 0))
    assert reply.err == w.OK
    stat = Reader(reply.body).stat()
    assert (stat.aversion, stat.version) == (1, 0)
    assert Reader(zk.request(w.GET_ACL, w.string(base)).body).acls() == rules


def test_acl_errors(zk, base):
    def error(path, rules, version=-1):
        return zk.request(w.SET_ACL, w.string(path) + w.acls(rules) + struct.pack("!i", version)).err

    assert error(base, w.OPEN_ACL, 5) == w.BAD_VERSION
    assert error(base, []) == w.INVALID_ACL
    assert error(base, [(31, "nonsense", "x")]) == w.INVALID_ACL
    assert error(f"{base}/none", w.OPEN_ACL) == w.NO_NODE
    assert zk.request(w.GET_ACL, w.string(f"{base}/none")).err == w.NO_NODE
    assert zk.exists(base).aversion == 0


def test_every_response_carries_the_last_zxid_and_errors_take_one(zk, base):
    zk.create(f"{base}/a")
    after_create = zk.last_zxid
    assert zk.request(w.EXISTS, w.path_watch(base)).zxid == after_create
    refused = zk.request(w.CREATE, w.create_body(f"{base}/a"))
    assert (refused.err, refused.zxid) == (w.NODE_EXISTS, after_create + 1)
    assert refused.body == b""
    assert zk.set(base, b"").mzxid == after_create + 2


def test_pipelined_requests_are_answered_in_order_and_reads_see_the_writes_before_them(zk, base):
    zk.create(f"{base}/a", b"0")
    count = 500
    burst, expected = b"", []
    for i in range(1, count + 1):
        burst += zk.frame(w.SET_DATA, w.set_body(f"{base}/a", b"%d" % i))
        burst += zk.frame(w.GET_DATA, w.path_watch(f"{base}/a"))
        burst += zk.frame(w.EXISTS, w.path_watch(f"{base}/none"))
        expected.append(i)
    first = zk.last_xid - 3 * count + 1
    zk.send_raw(burst)
    for i in expected:
        xid = first + 3 * (i - 1)
        assert Reader(zk.receive(xid).body).stat().version == i
        read = Reader(zk.receive(xid + 1).body)
        assert read.buffer() == b"%d" % i, "a read stands between its session's writes"
        assert read.stat().version == i
        assert zk.receive(xid + 2).err == w.NO_NODE


def test_a_request_may_come_in_pieces(zk, base):
    frame = zk.frame(w.CREATE, w.create_body(f"{base}/pieces", b"x" * 50))
    for offset in range(len(frame)):
        zk.send_raw(frame[offset : offset + 1])
    assert zk.receive(zk.last_xid).err == w.OK


def test_a_ping_has_its_own_xid_whatever_was_asked_with(zk):
    # Compared with ZooKeeper 3.8.
    zk.send(w.PING, b"", xid=7)
    reply = zk.read_any()
    assert (reply.xid, reply.err) == (w.XID_PING, w.OK)


@pytest.mark.parametrize("identity", ["a:", ":", "::", "a", "a:b:c"])
def test_a_digest_has_a_user_and_a_hash(zk, base, identity):
    # Compared with ZooKeeper 3.8: parts as Java splits them, without the empty ones at the end.
    body = w.create_body(f"{base}/x", acl=[(31, "digest", identity)])
    assert zk.request(w.CREATE, body).err == w.INVALID_ACL


def test_a_multi_tells_the_first_error(zk, base):
    # Compared with ZooKeeper 3.8: a part that makes no sense comes after those before it.
    def errors(*parts):
        reader = Reader(zk.request(w.MULTI, w.multi_body(parts)).body)
        results = reader.multi()
        assert [kind for kind, _ in results] == [w.ERROR] * len(parts)
        return [error for _, error in results]

    bad = (w.CREATE, w.create_body("bad"))
    create = (w.CREATE, w.create_body(f"{base}/m"))
    assert errors((w.CHECK, w.path_version(base, 9)), bad) == [-103, -2]
    assert errors(create, create, bad) == [0, -110, -2]
    assert errors(create, bad, create) == [0, -8, -2]
    assert errors(bad) == [-8]
    assert zk.children(base) == []


def test_a_ping_does_not_wait(zk):
    zk.ping()
    assert zk.pings == 1


def test_data_up_to_a_megabyte(zk, base):
    data = bytes(range(256)) * 4000
    zk.create(f"{base}/big", data)
    read, stat = zk.get(f"{base}/big")
    assert read == data
    assert stat.data_length == len(data)


def test_a_container_is_made_by_its_own_operation(zk, base):
    create_container = 19
    reply = zk.request(create_container, w.create_body(f"{base}/c", b"", w.CONTAINER))
    assert reply.err == w.OK
    reader = Reader(reply.body)
    assert reader.string() == f"{base}/c"
    # Compared with ZooKeeper 3.8: its mark for containers stays on its disk.
    assert reader.stat().ephemeral_owner == 0
    assert zk.exists(f"{base}/c").ephemeral_owner == 0
    assert zk.create(f"{base}/c/child") == f"{base}/c/child"


def test_the_tree_of_a_new_server_has_the_zookeeper_znode(zk):
    assert "zookeeper" in zk.children("/")
    assert zk.exists("/zookeeper") is not None
