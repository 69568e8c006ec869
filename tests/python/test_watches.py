"""One-shot watches: what fires them, that they fire once, and that an event precedes any later read."""

import pytest

from harness import wire as w
from harness.waiting import until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def zk(wire):
    return wire()


@pytest.fixture
def other(wire):
    return wire()


def settled(connection):
    """Events so far: whatever happened before now has arrived once a sync behind it is answered."""
    connection.request(w.SYNC, w.string("/"))
    return [(event.type, event.path) for event in connection.events]


def test_a_data_watch_fires_once_on_set(zk, other, base):
    zk.get(base, watch=True)
    other.set(base, b"1")
    other.set(base, b"2")
    assert settled(zk) == [(w.NODE_DATA_CHANGED, base)]


def test_a_data_watch_fires_on_delete(zk, other, base):
    zk.create(f"{base}/a")
    zk.get(f"{base}/a", watch=True)
    other.delete(f"{base}/a")
    assert settled(zk) == [(w.NODE_DELETED, f"{base}/a")]


def test_an_exists_watch_on_nothing_fires_on_create(zk, other, base):
    assert zk.exists(f"{base}/a", watch=True) is None
    other.create(f"{base}/a")
    other.set(f"{base}/a", b"")
    assert settled(zk) == [(w.NODE_CREATED, f"{base}/a")]


def test_an_exists_watch_on_a_znode_fires_on_set(zk, other, base):
    zk.exists(base, watch=True)
    other.set(base, b"")
    assert settled(zk) == [(w.NODE_DATA_CHANGED, base)]


def test_a_failed_get_leaves_no_watch(zk, other, base):
    assert zk.request(w.GET_DATA, w.path_watch(f"{base}/a", True)).err == w.NO_NODE
    other.create(f"{base}/a")
    assert settled(zk) == []


def test_a_child_watch_fires_on_create_and_on_delete_of_a_child(zk, other, base):
    zk.children(base, watch=True)
    other.create(f"{base}/a")
    assert settled(zk) == [(w.NODE_CHILDREN_CHANGED, base)]
    zk.children(base, watch=True)
    other.set(f"{base}/a", b"no news for a child watch")
    other.set(base, b"nor is this")
    other.delete(f"{base}/a")
    assert settled(zk) == [(w.NODE_CHILDREN_CHANGED, base)] * 2


def test_a_child_watch_fires_on_delete_of_the_znode(zk, other, base):
    zk.create(f"{base}/a")
    zk.children(f"{base}/a", watch=True)
    other.delete(f"{base}/a")
    assert settled(zk) == [(w.NODE_DELETED, f"{base}/a")]


def test_data_and_child_watch_of_one_znode_give_one_event_on_delete(zk, other, base):
    zk.create(f"{base}/a")
    zk.get(f"{base}/a", watch=True)
    zk.children(f"{base}/a", watch=True)
    other.delete(f"{base}/a")
    assert settled(zk) == [(w.NODE_DELETED, f"{base}/a")]


def test_watching_twice_fires_once(zk, other, base):
    for _ in range(3):
        zk.get(base, watch=True)
    other.set(base, b"")
    assert settled(zk) == [(w.NODE_DATA_CHANGED, base)]


def test_the_end_of_a_session_fires_watches_on_its_ephemerals(zk, other, base):
    other.create(f"{base}/e", flags=w.EPHEMERAL)
    zk.exists(f"{base}/e", watch=True)
    zk.children(base, watch=True)
    other.close_session()
    assert sorted(settled(zk)) == [
        (w.NODE_DELETED, f"{base}/e"),
        (w.NODE_CHILDREN_CHANGED, base),
    ]


def test_ones_own_change_fires_ones_own_watch_before_its_response(zk, base):
    zk.get(base, watch=True)
    zk.order.clear()
    zk.set(base, b"x")
    kinds = [kind for kind, _ in zk.order]
    assert kinds == ["event", "reply"]


def test_a_refused_write_fires_nothing(zk, other, base):
    zk.get(base, watch=True)
    other.request(w.SET_DATA, w.set_body(base, b"", 77))
    assert settled(zk) == []


def test_the_event_comes_before_any_response_that_shows_the_change(zk, other, base):
    """The watcher reads in a loop: whichever read shows the new data, the event stands before it."""
    zk.create(f"{base}/a", b"0")
    for i in range(1, 101):
        zk.events.clear()
        zk.get(f"{base}/a", watch=True)
        writing = other.send(w.SET_DATA, w.set_body(f"{base}/a", b"%d" % i))

        def changed():
            data, _ = zk.get(f"{base}/a")
            if data == b"%d" % i:
                assert [event.path for event in zk.events] == [f"{base}/a"]
                return True
            assert not zk.events or data == b"%d" % i
            return False

        until(changed, "the read shows the write")
        other.receive(writing)


def test_set_watches_after_a_reconnect_tells_what_was_missed(zk, other, base, wire):
    zk.create(f"{base}/changed")
    zk.create(f"{base}/same")
    zk.create(f"{base}/deleted")
    zk.create(f"{base}/parent")
    zk.create(f"{base}/still")
    seen = zk.last_zxid
    zk.drop()
    other.set(f"{base}/changed", b"new")
    other.delete(f"{base}/deleted")
    other.create(f"{base}/created")
    other.create(f"{base}/parent/child")

    again = wire(session=zk.session, password=zk.password, last_zxid=seen)
    assert again.session == zk.session
    body = w.set_watches_body(
        seen,
        data=[f"{base}/changed", f"{base}/same", f"{base}/deleted"],
        exist=[f"{base}/created", f"{base}/later"],
        child=[f"{base}/parent", f"{base}/still"],
    )
    again.send(w.SET_WATCHES, body, xid=w.XID_SET_WATCHES)
    reply = again.receive(w.XID_SET_WATCHES)
    assert (reply.err, reply.body) == (w.OK, b"")
    assert sorted((event.type, event.path) for event in again.events) == sorted(
        [
            (w.NODE_DATA_CHANGED, f"{base}/changed"),
            (w.NODE_DELETED, f"{base}/deleted"),
            (w.NODE_CREATED, f"{base}/created"),
            (w.NODE_CHILDREN_CHANGED, f"{base}/parent"),
        ]
    )
    # The others are set.
    again.events.clear()
    other.set(f"{base}/same", b"")
    other.create(f"{base}/later")
    other.create(f"{base}/still/child")
    assert settled(again) == [
        (w.NODE_DATA_CHANGED, f"{base}/same"),
        (w.NODE_CREATED, f"{base}/later"),
        (w.NODE_CHILDREN_CHANGED, f"{base}/still"),
    ]


def test_a_watch_goes_with_its_connection(zk, other, base, wire):
    zk.get(base, watch=True)
    zk.drop()
    other.set(base, b"x")
    again = wire(session=zk.session, password=zk.password)
    assert settled(again) == []


def test_many_watchers_of_one_znode_all_hear(base, wire):
    watchers = [wire() for _ in range(50)]
    for watcher in watchers:
        watcher.get(base, watch=True)
    wire().set(base, b"x")
    for watcher in watchers:
        event = watcher.wait_event()
        assert (event.type, event.path) == (w.NODE_DATA_CHANGED, base)
