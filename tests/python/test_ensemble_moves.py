"""A client takes its session and its watches to another server of the ensemble: it is told of each change once."""

from typing import Iterator

import pytest

from harness import wire as w
from harness.ensemble import Ensemble, Member
from harness.load import connect, sync
from harness.wire import Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory) -> Iterator[Ensemble]:
    running = Ensemble(tmp_path_factory.mktemp("moves")).start()
    yield running
    running.kill()


def moved(client: Wire, to: Member) -> Wire:
    """The same session over a new connection to another server, with what it has seen."""
    again = connect(to, session=client.session, password=client.password, last_zxid=client.last_zxid)
    assert again.session == client.session
    return again


def set_watches(client: Wire, since: int, **watches) -> None:
    body = w.set_watches_body(since, **watches)
    client.send(w.SET_WATCHES, body, xid=w.XID_SET_WATCHES)
    assert client.receive(w.XID_SET_WATCHES).err == w.OK


def events(client: Wire) -> list:
    """Everything that has happened in the ensemble so far has arrived once a sync behind it is answered."""
    sync(client)
    return [(event.type, event.path) for event in client.events]


@pytest.mark.parametrize("server_changed_at", ["the new server", "the old server"])
def test_what_changes_while_a_client_moves_is_told_once(ensemble, server_changed_at):
    old, new, _ = ensemble.servers
    base = f"/moves-{server_changed_at.replace(' ', '-')}"
    # Answered at the new server, a change is applied there before the watches come; else it may come behind them.
    writer = connect(new if server_changed_at == "the new server" else old)
    writer.create(base)
    for name in ("set", "deleted", "parent"):
        writer.create(f"{base}/{name}")
    watcher = connect(old)
    sync(watcher)
    watcher.get(f"{base}/set", watch=True)
    watcher.get(f"{base}/deleted", watch=True)
    assert watcher.exists(f"{base}/created", watch=True) is None
    watcher.children(f"{base}/parent", watch=True)
    watcher.drop()

    writer.set(f"{base}/set", b"new")
    writer.delete(f"{base}/deleted")
    writer.create(f"{base}/created")
    writer.create(f"{base}/parent/child")
    again = moved(watcher, new)
    set_watches(
        again,
        watcher.last_zxid,
        data=[f"{base}/set", f"{base}/deleted"],
        exist=[f"{base}/created"],
        child=[f"{base}/parent"],
    )
    told = [
        (w.NODE_DATA_CHANGED, f"{base}/set"),
        (w.NODE_DELETED, f"{base}/deleted"),
        (w.NODE_CREATED, f"{base}/created"),
        (w.NODE_CHILDREN_CHANGED, f"{base}/parent"),
    ]
    assert sorted(events(again)) == sorted(told)
    # A watch fires once, wherever that was.
    writer.set(f"{base}/set", b"newer")
    writer.set(f"{base}/created", b"newer")
    writer.delete(f"{base}/parent/child")
    assert sorted(events(again)) == sorted(told)


def test_a_watch_of_what_did_not_change_is_alive_at_the_other_server(ensemble):
    old, new, third = ensemble.servers
    base = "/moves-quiet"
    writer = connect(third)
    writer.create(base)
    writer.create(f"{base}/same")
    writer.create(f"{base}/parent")
    watcher = connect(old)
    sync(watcher)
    watcher.get(f"{base}/same", watch=True)
    assert watcher.exists(f"{base}/later", watch=True) is None
    watcher.children(f"{base}/parent", watch=True)
    watcher.drop()

    # Other znodes may change.
    writer.create(f"{base}/other")
    again = moved(watcher, new)
    set_watches(
        again,
        watcher.last_zxid,
        data=[f"{base}/same"],
        exist=[f"{base}/later"],
        child=[f"{base}/parent"],
    )
    assert events(again) == []
    writer.set(f"{base}/same", b"")
    writer.create(f"{base}/later")
    writer.create(f"{base}/parent/child")
    assert events(again) == [
        (w.NODE_DATA_CHANGED, f"{base}/same"),
        (w.NODE_CREATED, f"{base}/later"),
        (w.NODE_CHILDREN_CHANGED, f"{base}/parent"),
    ]


def test_the_watches_of_a_client_whose_server_was_killed_are_set_at_another(ensemble):
    leader = ensemble.leader()
    follower = ensemble.others(leader)[0]
    writer = connect(follower)
    writer.create("/moves-killed", b"0")
    watcher = connect(leader)
    sync(watcher)
    watcher.get("/moves-killed", watch=True)
    leader.kill()
    # The next leader's epoch is a later one than that of the zxid which the client has seen.
    writer.set("/moves-killed", b"1")
    again = moved(watcher, follower)
    set_watches(again, watcher.last_zxid, data=["/moves-killed"])
    assert events(again) == [(w.NODE_DATA_CHANGED, "/moves-killed")]
    leader.start()
