"""multi: all or nothing, and what it answers when it is nothing."""

import pytest

from harness import wire as w

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def zk(wire):
    return wire()


def test_every_kind_of_part_succeeds_together(zk, base):
    zk.create(f"{base}/set", b"0")
    zk.create(f"{base}/delete")
    results = zk.multi(
        [
            (w.CHECK, w.path_version(f"{base}/set", 0)),
            (w.CREATE, w.create_body(f"{base}/a", b"x")),
            (w.CREATE2, w.create_body(f"{base}/b", b"y")),
            (w.SET_DATA, w.set_body(f"{base}/set", b"1", 0)),
            (w.DELETE, w.path_version(f"{base}/delete", 0)),
        ]
    )
    ops = [op for op, _ in results]
    # ZooKeeper takes a create2 in a multi for a create, and answers it as one; no client minds either way.
    assert ops in (
        [w.CHECK, w.CREATE, w.CREATE, w.SET_DATA, w.DELETE],
        [w.CHECK, w.CREATE, w.CREATE2, w.SET_DATA, w.DELETE],
    )
    assert results[1][1] == f"{base}/a"
    assert results[2][1] in (f"{base}/b", (f"{base}/b", zk.exists(f"{base}/b")))
    assert results[3][1] == zk.exists(f"{base}/set")
    # All of one transaction.
    zxids = {zk.exists(f"{base}/{name}").mzxid for name in ("a", "b", "set")}
    assert len(zxids) == 1
    assert zk.children(base) == ["a", "b", "set"]


def test_parts_see_the_parts_before_them(zk, base):
    results = zk.multi(
        [
            (w.CREATE, w.create_body(f"{base}/a", b"0")),
            (w.CREATE, w.create_body(f"{base}/a/b")),
            (w.SET_DATA, w.set_body(f"{base}/a", b"1", 0)),
            (w.SET_DATA, w.set_body(f"{base}/a", b"2", 1)),
            (w.DELETE, w.path_version(f"{base}/a/b", 0)),
            (w.CREATE, w.create_body(f"{base}/a/s-", flags=w.SEQUENTIAL)),
            (w.CREATE, w.create_body(f"{base}/a/s-", flags=w.SEQUENTIAL)),
        ]
    )
    assert w.ERROR not in [op for op, _ in results]
    assert zk.get(f"{base}/a")[0] == b"2"
    assert len(zk.children(f"{base}/a")) == 2
    numbers = [int(name[1][-10:]) for name in results[5:]]
    assert numbers[1] == numbers[0] + 1


def test_a_failed_part_undoes_everything_and_is_named(zk, base):
    zk.create(f"{base}/there", b"old")
    before = zk.exists(base)
    results = zk.multi(
        [
            (w.CREATE, w.create_body(f"{base}/new")),
            (w.SET_DATA, w.set_body(f"{base}/there", b"new")),
            (w.CREATE, w.create_body(f"{base}/there")),
            (w.DELETE, w.path_version(f"{base}/there")),
        ]
    )
    # Before the failed part 0, itself its error, behind it RuntimeInconsistency.
    assert results == [
        (w.ERROR, w.OK),
        (w.ERROR, w.OK),
        (w.ERROR, w.NODE_EXISTS),
        (w.ERROR, w.RUNTIME_INCONSISTENCY),
    ]
    assert zk.exists(f"{base}/new") is None
    assert zk.get(f"{base}/there")[0] == b"old"
    assert zk.exists(base) == before


@pytest.mark.parametrize(
    "part, error",
    [
        ((w.CHECK, "{}", 9), w.BAD_VERSION),
        ((w.CHECK, "{}/none", -1), w.NO_NODE),
        ((w.DELETE, "{}/none", -1), w.NO_NODE),
        ((w.DELETE, "{}", 9), w.BAD_VERSION),
    ],
)
def test_the_error_of_each_part(zk, base, part, error):
    op, path, version = part
    results = zk.multi(
        [
            (w.CREATE, w.create_body(f"{base}/new")),
            (op, w.path_version(path.format(base), version)),
        ]
    )
    assert results == [(w.ERROR, w.OK), (w.ERROR, error)]
    assert zk.children(base) == []


def test_the_header_of_a_failed_multi_has_no_error(zk, base):
    body = w.multi_body([(w.DELETE, w.path_version(f"{base}/none"))])
    assert zk.request(w.MULTI, body).err == w.OK


def test_an_empty_multi_succeeds(zk):
    assert zk.multi([]) == []


def test_a_multi_fires_each_watch_once(zk, base, wire):
    watcher = wire()
    zk.create(f"{base}/a", b"0")
    watcher.get(f"{base}/a", watch=True)
    watcher.children(base, watch=True)
    zk.multi(
        [
            (w.SET_DATA, w.set_body(f"{base}/a", b"1")),
            (w.SET_DATA, w.set_body(f"{base}/a", b"2")),
            (w.CREATE, w.create_body(f"{base}/b")),
            (w.CREATE, w.create_body(f"{base}/c")),
        ]
    )
    watcher.request(w.SYNC, w.string("/"))
    assert sorted((event.type, event.path) for event in watcher.events) == [
        (w.NODE_DATA_CHANGED, f"{base}/a"),
        (w.NODE_CHILDREN_CHANGED, base),
    ]


def test_ephemerals_in_a_multi_go_with_the_session(zk, base, wire):
    other = wire()
    other.multi([(w.CREATE, w.create_body(f"{base}/e", flags=w.EPHEMERAL))])
    assert zk.exists(f"{base}/e").ephemeral_owner == other.session
    other.close_session()
    assert zk.exists(f"{base}/e") is None
