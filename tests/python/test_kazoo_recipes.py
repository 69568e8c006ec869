"""kazoo's own recipes, client-side as everywhere, with contending clients: they must not notice whose server it is."""

import threading
import time

import pytest
from kazoo.client import KazooState
from kazoo.exceptions import BadVersionError, CancelledError, LockTimeout, NodeExistsError
from kazoo.recipe.queue import LockingQueue

from harness.waiting import DEADLINE_S, until

pytestmark = pytest.mark.timeout(120)


def together(*functions):
    """Runs functions at once, each on a thread; the first exception comes out."""
    failures, threads = [], []

    def run(function):
        try:
            function()
        except BaseException as failure:
            failures.append(failure)

    for function in functions:
        threads.append(threading.Thread(target=run, args=(function,), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "not done in time"
    if failures:
        raise failures[0]


def test_lock_is_exclusive_among_contending_clients(kazoo, base):
    inside, entries = [], []

    def contend(client, name):
        def run():
            for _ in range(5):
                with client.Lock(f"{base}/lock", name):
                    inside.append(name)
                    assert inside == [name]
                    entries.append(name)
                    inside.remove(name)

        return run

    names = [f"client-{i}" for i in range(5)]
    together(*[contend(kazoo(), name) for name in names])
    assert sorted(entries) == sorted(names * 5)


def test_lock_passes_on_when_its_holder_closes(kazoo, base):
    holder, waiter = kazoo(), kazoo()
    assert holder.Lock(f"{base}/lock", "holder").acquire()
    lock = waiter.Lock(f"{base}/lock", "waiter")
    assert not lock.acquire(blocking=False)
    with pytest.raises(LockTimeout):
        lock.acquire(timeout=0.2)
    granted = threading.Event()
    thread = threading.Thread(target=lambda: lock.acquire() and granted.set(), daemon=True)
    thread.start()
    until(lambda: len(lock.contenders()) == 2, "the waiter stands in line")
    assert lock.contenders() == ["holder", "waiter"]
    holder.stop()
    assert granted.wait(DEADLINE_S)
    lock.release()


def test_lock_survives_a_lost_connection_of_its_holder(kazoo, base, server, proxy):
    holder = kazoo(hosts=proxy.hosts)
    lock = holder.Lock(f"{base}/lock", "holder")
    lock.acquire()
    suspended, back = threading.Event(), threading.Event()

    def listen(state):
        if state == KazooState.SUSPENDED:
            suspended.set()
        elif state == KazooState.CONNECTED and suspended.is_set():
            back.set()

    holder.add_listener(listen)
    proxy.cut()
    assert suspended.wait(DEADLINE_S) and back.wait(DEADLINE_S)
    other = kazoo().Lock(f"{base}/lock", "other")
    assert not other.acquire(blocking=False)
    lock.release()
    assert other.acquire(timeout=DEADLINE_S)


def test_read_locks_are_shared_and_write_locks_are_not(kazoo, base):
    one, two, three = kazoo(), kazoo(), kazoo()
    readers = [one.ReadLock(f"{base}/rw", "1"), two.ReadLock(f"{base}/rw", "2")]
    assert all(reader.acquire(timeout=DEADLINE_S) for reader in readers)
    writer = three.WriteLock(f"{base}/rw", "3")
    assert not writer.acquire(blocking=False)
    for reader in readers:
        reader.release()
    assert writer.acquire(timeout=DEADLINE_S)
    assert not one.ReadLock(f"{base}/rw", "1").acquire(blocking=False)
    writer.release()


def test_semaphore_admits_as_many_as_it_says(kazoo, base):
    inside, most = [], []

    def contend(client):
        def run():
            for _ in range(3):
                with client.Semaphore(f"{base}/semaphore", max_leases=2):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()

        return run

    together(*[contend(kazoo()) for _ in range(4)])
    assert len(most) == 12
    assert max(most) <= 2


def test_election_has_one_leader_at_a_time_and_a_successor(kazoo, base):
    first, second = kazoo(), kazoo()
    leading, reigns = [], []
    resign = threading.Event()

    def lead(name, event):
        leading.append(name)
        reigns.append(list(leading))
        if event is not None:
            assert event.wait(DEADLINE_S)
        leading.remove(name)

    one, two = first.Election(f"{base}/election", "one"), second.Election(f"{base}/election", "two")
    first_thread = threading.Thread(target=one.run, args=(lead, "one", resign), daemon=True)
    first_thread.start()
    until(lambda: leading == ["one"], "the first leads")
    second_thread = threading.Thread(target=two.run, args=(lead, "two", None), daemon=True)
    second_thread.start()
    until(lambda: two.contenders() == ["one", "two"], "the second stands in line")
    assert leading == ["one"]
    resign.set()
    for thread in (first_thread, second_thread):
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert reigns == [["one"], ["two"]]


def test_election_can_be_cancelled(kazoo, base):
    holder, candidate = kazoo(), kazoo()
    holder.Lock(f"{base}/election", "holder").acquire()
    election = candidate.Election(f"{base}/election", "candidate")
    ended = []

    def run():
        try:
            election.run(lambda: None)
        except CancelledError:
            pass
        ended.append(True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until(lambda: len(election.contenders()) == 2, "the candidate stands in line")
    election.cancel()
    thread.join(DEADLINE_S)
    assert ended


def test_counter_adds_up_under_contention(kazoo, base):
    def count(client):
        def run():
            counter = client.Counter(f"{base}/counter")
            for _ in range(10):
                while True:
                    try:
                        counter += 1
                        break
                    except BadVersionError:
                        continue

        return run

    clients = [kazoo() for _ in range(4)]
    clients[0].Counter(f"{base}/counter").value  # So that it is there before they contend.
    together(*[count(client) for client in clients])
    assert kazoo().Counter(f"{base}/counter").value == 40


def test_queue_gives_each_item_to_one_consumer_in_order_of_priority(kazoo, base):
    producer = kazoo().Queue(f"{base}/queue")
    producer.put(b"last", priority=200)
    producer.put(b"first", priority=1)
    assert len(producer) == 2
    assert producer.get() == b"first"
    assert producer.get() == b"last"
    assert producer.get() is None

    items = [b"%d" % i for i in range(40)]
    for item in items:
        producer.put(item)
    taken = []

    def consume(client):
        def run():
            queue = client.Queue(f"{base}/queue")
            while (item := queue.get()) is not None:
                taken.append(item)

        return run

    together(*[consume(kazoo()) for _ in range(3)])
    assert sorted(taken) == sorted(items)


def test_locking_queue_gives_an_item_back_if_its_consumer_dies(kazoo, base):
    producer = LockingQueue(kazoo(), f"{base}/queue")
    producer.put_all([b"a", b"b"])
    dying_client, living_client = kazoo(), kazoo()
    dying, living = LockingQueue(dying_client, f"{base}/queue"), LockingQueue(living_client, f"{base}/queue")
    assert dying.get(timeout=DEADLINE_S) == b"a"
    assert living.get(timeout=DEADLINE_S) == b"b"
    assert living.consume()
    dying_client.stop()
    assert living.get(timeout=DEADLINE_S) == b"a"
    assert living.consume()
    assert len(living) == 0


def test_barrier_holds_everyone_until_it_is_removed(kazoo, base):
    owner = kazoo().Barrier(f"{base}/barrier")
    owner.create()
    passed, waiting = [], threading.Barrier(4)

    def wait(client):
        def run():
            barrier = client.Barrier(f"{base}/barrier")
            assert not barrier.wait(timeout=0.05)
            waiting.wait(DEADLINE_S)
            assert barrier.wait(timeout=DEADLINE_S)
            passed.append(1)

        return run

    def lift():
        waiting.wait(DEADLINE_S)
        assert passed == []
        assert owner.remove()

    together(lift, *[wait(kazoo()) for _ in range(3)])
    assert len(passed) == 3
    assert not owner.remove()


def test_double_barrier_lets_all_in_and_all_out_together(kazoo, base):
    count = 4
    inside = []

    def run_one(client):
        def run():
            barrier = client.DoubleBarrier(f"{base}/double", count)
            barrier.enter()
            inside.append(1)
            until(lambda: len(inside) == count, "all are inside")
            barrier.leave()
            assert len(inside) == count

        return run

    together(*[run_one(kazoo()) for _ in range(count)])


def test_party_knows_its_members_and_who_has_gone(kazoo, base):
    one, two = kazoo(), kazoo()
    first, second = one.Party(f"{base}/party", "one"), two.ShallowParty(f"{base}/shallow", "two")
    first.join()
    second.join()
    others = two.Party(f"{base}/party", "two")
    others.join()
    assert sorted(first) == ["one", "two"]
    assert len(first) == 2
    assert list(second) == ["two"]
    two.stop()
    assert list(first) == ["one"]
    first.leave()
    assert len(first) == 0


def test_nonblocking_lease_is_exclusive(kazoo, base):
    from datetime import timedelta

    one, two = kazoo(), kazoo()
    assert one.NonBlockingLease(f"{base}/lease", timedelta(seconds=60), identifier="one")
    assert not two.NonBlockingLease(f"{base}/lease", timedelta(seconds=60), identifier="two")


def test_partitioner_shares_out_a_set(kazoo, base):
    clients = [kazoo(), kazoo()]
    shares, barrier = {}, threading.Barrier(2)

    def run_one(client, name):
        def run():
            partitioner = client.SetPartitioner(
                f"{base}/partition", set=("a", "b", "c", "d"), time_boundary=0.5, identifier=name
            )
            deadline = time.monotonic() + DEADLINE_S
            while time.monotonic() < deadline:
                if partitioner.release:
                    partitioner.release_set()
                elif partitioner.acquired:
                    shares[name] = set(partitioner)
                    if len(shares) == 2 and set.union(*shares.values()) == set("abcd"):
                        break
                    time.sleep(0.01)
                elif partitioner.allocating:
                    partitioner.wait_for_acquire(0.5)
            barrier.wait(DEADLINE_S)
            partitioner.finish()

        return run

    together(*[run_one(client, f"p{i}") for i, client in enumerate(clients)])
    assert set.union(*shares.values()) == set("abcd")
    assert set.intersection(*shares.values()) == set()


def test_data_watch_and_children_watch_follow_a_znode(kazoo, base):
    watcher, writer = kazoo(), kazoo()
    data_seen, children_seen = [], []
    watcher.DataWatch(f"{base}/config", lambda data, stat: data_seen.append(data) or None)
    watcher.ChildrenWatch(base, lambda children: children_seen.append(sorted(children)) or None)
    writer.create(f"{base}/config", b"0")
    until(lambda: data_seen[-1:] == [b"0"], "the watch sees the znode")
    for i in range(1, 20):
        writer.set(f"{base}/config", b"%d" % i)
        until(lambda: data_seen[-1] == b"%d" % i, "the watch sees the change")
    writer.create(f"{base}/more")
    until(lambda: children_seen[-1] == ["config", "more"], "the watch sees the child")
    writer.delete(f"{base}/config")
    until(lambda: data_seen[-1] is None, "the watch sees the deletion")
    assert data_seen[0] is None


def test_tree_cache_follows_a_tree(kazoo, base):
    from kazoo.recipe.cache import TreeCache

    watcher, writer = kazoo(), kazoo()
    cache = TreeCache(watcher, base)
    cache.start()
    writer.create(f"{base}/a/b", b"deep", makepath=True)
    until(lambda: (cache.get_data(f"{base}/a/b") or (None, b""))[1] == b"deep", "it is in the cache")
    writer.set(f"{base}/a/b", b"changed")
    until(lambda: cache.get_data(f"{base}/a/b")[1] == b"changed", "the change is in the cache")
    writer.delete(f"{base}/a", recursive=True)
    until(lambda: cache.get_data(f"{base}/a") is None, "the deletion is in the cache")
    cache.close()


def test_transactions(kazoo, base):
    zk = kazoo()
    transaction = zk.transaction()
    transaction.create(f"{base}/a", b"1")
    transaction.check(base, 0)
    transaction.set_data(f"{base}/a", b"2")
    path, checked, stat = transaction.commit()
    assert (path, checked, stat.version) == (f"{base}/a", True, 1)
    failing = zk.transaction()
    failing.create(f"{base}/b")
    failing.create(f"{base}/a")
    results = failing.commit()
    assert isinstance(results[1], NodeExistsError)
    assert zk.exists(f"{base}/b") is None


def test_chroot(kazoo, base, server):
    inside = kazoo(hosts=server.hosts + base)
    inside.create("/a", b"x")
    assert inside.get("/a")[0] == b"x"
    assert kazoo().get(f"{base}/a")[0] == b"x"


def test_a_client_restarts(kazoo, base):
    zk = kazoo()
    zk.create(f"{base}/e", ephemeral=True)
    first = zk.client_id
    zk.restart()
    assert zk.client_id != first
    assert zk.exists(f"{base}/e") is None
