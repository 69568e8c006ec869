"""The standard recipes, called over a ZooKeeper connection by kazoo and the SDK."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from quorate import BadCall, CallCancelled, CallRefused, CallTimedOut, CallUnmounted, Recipes

from harness import wire as w
from harness.proxy import operations
from harness.waiting import DEADLINE_S, until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]


@pytest.fixture
def recipes(kazoo):
    """Starts kazoo clients and gives their recipes."""
    return lambda **options: Recipes(kazoo(**options))


def test_acquire_release_and_holder(recipes, mounted):
    locks = mounted("fair-lock")
    one = recipes()
    grant = one.call(locks, "acquire", "inventory")
    assert grant["holds"] == 1
    assert grant["token"] > 0
    holder = one.call(locks, "holder", "inventory")
    assert holder["token"] == grant["token"]
    assert holder["session"] == one._client.client_id[0]
    assert one.call(locks, "acquire", "inventory") == {"token": grant["token"], "holds": 2}
    assert one.call(locks, "release", "inventory") == 1
    assert one.call(locks, "release", "inventory") == 0
    assert one.call(locks, "holder", "inventory") is None
    with pytest.raises(CallRefused):
        one.call(locks, "release", "inventory")


def test_arguments_by_name(recipes, mounted):
    locks = mounted("fair-lock")
    assert recipes().call(locks, "acquire", name="inventory")["holds"] == 1


def test_an_uncontended_acquire_is_one_request_on_the_wire(recipes, mounted, proxy):
    locks = mounted("fair-lock")
    one = recipes(hosts=proxy.hosts)
    before = operations(proxy.sent[0])
    one.call(locks, "acquire", "inventory")
    assert operations(proxy.sent[0])[len(before) :] == [w.CALL]
    one.call(locks, "release", "inventory")
    assert operations(proxy.sent[0])[len(before) :] == [w.CALL, w.CALL]


def test_a_contended_acquire_is_one_request_too(recipes, mounted, proxy):
    locks = mounted("fair-lock")
    holder, waiter = recipes(), recipes(hosts=proxy.hosts)
    holder.call(locks, "acquire", "inventory")
    before = operations(proxy.sent[0])
    waiting = waiter.call_async(locks, "acquire", "inventory")
    until(lambda: waiting.parked, "it is parked")
    holder.call(locks, "release", "inventory")
    assert waiting.get(timeout=DEADLINE_S)["holds"] == 1
    assert operations(proxy.sent[0])[len(before) :] == [w.CALL]


def test_a_queue_take_that_waits_and_a_counter_add_are_one_request_each(recipes, mounted, proxy):
    queues, counters = mounted("queue"), mounted("counter")
    producer, client = recipes(), recipes(hosts=proxy.hosts)
    before = operations(proxy.sent[0])
    assert client.call(counters, "add", "visits", 3) == 3
    assert operations(proxy.sent[0])[len(before) :] == [w.CALL]
    waiting = client.call_async(queues, "take", "jobs")
    until(lambda: waiting.parked, "it is parked")
    producer.call(queues, "offer", "jobs", "first")
    assert waiting.get(timeout=DEADLINE_S)["content"] == "first"
    assert operations(proxy.sent[0])[len(before) :] == [w.CALL, w.CALL]


def test_the_lock_is_fair_and_its_tokens_grow(recipes, mounted):
    locks = mounted("fair-lock")
    holder = recipes()
    holder.call(locks, "acquire", "inventory")
    waiting = []
    for _ in range(8):
        client = recipes()
        call = client.call_async(locks, "acquire", "inventory")
        until(lambda: call.parked, "it stands in line")
        waiting.append((client, call))
    tokens = []
    for client, call in waiting:
        assert not any(later.ready() for _, later in waiting[len(tokens) :])
        holder.call(locks, "release", "inventory")
        tokens.append(call.get(timeout=DEADLINE_S)["token"])
        holder = client
    assert tokens == sorted(set(tokens))


def test_the_lock_is_exclusive_among_contending_clients(recipes, mounted):
    locks = mounted("fair-lock")
    inside, tokens, failures = [], [], []

    def contend(mine, name):
        try:
            for _ in range(20):
                grant = mine.call(locks, "acquire", "inventory", timeout=60)
                inside.append(name)
                assert inside == [name]
                tokens.append(grant["token"])
                inside.remove(name)
                mine.call(locks, "release", "inventory")
        except BaseException as failure:
            failures.append(failure)

    threads = [
        threading.Thread(target=contend, args=(recipes(), f"client-{i}")) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert failures == []
    assert len(tokens) == 160
    assert tokens == sorted(tokens), "a fencing token never goes back"


def test_the_kill_of_the_holders_process_hands_the_lock_over(recipes, mounted, server, wire, capsys):
    locks = mounted("fair-lock")
    script = Path(__file__).with_name("holder.py")
    process = subprocess.Popen(
        [sys.executable, str(script), server.hosts, locks, "inventory", "2"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = process.stdout.readline().split()
        assert said[:1] == ["held"]
        waiter = recipes()
        waiting = waiter.call_async(locks, "acquire", "inventory")
        until(lambda: waiting.parked, "the other waits")
        watcher = wire()
        (ticket, _) = sorted(watcher.children(f"{locks}/inventory"))
        assert watcher.exists(f"{locks}/inventory/{ticket}", watch=True) is not None
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        event = watcher.wait_event()
        ended = time.monotonic()
        assert event.type == w.NODE_DELETED
        grant = waiting.get(timeout=DEADLINE_S)
        granted = time.monotonic()
        assert grant["token"] > int(said[1])
        with capsys.disabled():
            print(
                f"\nkill -9 of the holder: its session ended after {ended - killed:.2f} s,"
                f" the next was granted {1000 * max(0.0, granted - ended):.1f} ms later"
            )
        assert granted - ended < 1.0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_end_of_a_waiters_session_takes_it_out_of_the_line(recipes, mounted, wire):
    locks = mounted("fair-lock")
    holder, waiter, last = recipes(), recipes(), recipes()
    holder.call(locks, "acquire", "x")
    waiting = waiter.call_async(locks, "acquire", "x")
    until(lambda: waiting.parked, "it is parked")
    lasting = last.call_async(locks, "acquire", "x")
    until(lambda: lasting.parked, "it is parked")
    zk = wire()
    assert len(zk.children(f"{locks}/x")) == 3
    waiter._client.stop()
    until(lambda: len(zk.children(f"{locks}/x")) == 2, "its ticket is gone")
    assert not lasting.ready()
    holder.call(locks, "release", "x")
    assert lasting.get(timeout=DEADLINE_S)["holds"] == 1
    last.call(locks, "release", "x")
    zk.request(w.SYNC, w.string("/"))
    assert zk.exists(f"{locks}/x") is None, "an idle lock leaves nothing behind"


def test_cancelling_takes_a_waiter_out_of_the_line(recipes, mounted, wire):
    locks = mounted("fair-lock")
    holder, waiter = recipes(), recipes()
    holder.call(locks, "acquire", "x")
    waiting = waiter.call_async(locks, "acquire", "x")
    until(lambda: waiting.parked, "it is parked")
    assert waiting.cancel()
    with pytest.raises(CallCancelled):
        waiting.get()
    assert len(wire().children(f"{locks}/x")) == 1
    holder.call(locks, "release", "x")
    assert waiter.call(locks, "try-acquire", "x")["holds"] == 1


def test_a_timeout_takes_a_waiter_out_of_the_line(recipes, mounted, wire):
    locks = mounted("fair-lock")
    holder, waiter = recipes(), recipes()
    holder.call(locks, "acquire", "x")
    begin = time.monotonic()
    with pytest.raises(CallTimedOut):
        waiter.call(locks, "acquire", "x", timeout=0.3)
    assert 0.25 < time.monotonic() - begin < 10
    assert len(wire().children(f"{locks}/x")) == 1
    # One that is granted in time keeps it beyond the timeout.
    holder.call(locks, "release", "x")
    assert waiter.call(locks, "acquire", "x", timeout=0.3)["holds"] == 1


def test_unmounting_ends_parked_calls_and_leaves_the_znodes(recipes, mounted, server):
    locks = mounted("fair-lock")
    holder, waiter = recipes(), recipes()
    holder.call(locks, "acquire", "x")
    waiting = waiter.call_async(locks, "acquire", "x")
    until(lambda: waiting.parked, "it is parked")
    answer = server.http.request("DELETE", f"/v1/mounts{locks}")
    assert answer.status in (200, 204), answer
    with pytest.raises(CallUnmounted):
        waiting.get(timeout=DEADLINE_S)
    with pytest.raises(BadCall):
        waiter.call(locks, "acquire", "x")
    assert waiter._client.exists(f"{locks}/x") is not None


def test_bad_calls_say_what_is_wrong(recipes, mounted):
    locks = mounted("fair-lock")
    one = recipes()

    def message(*arguments, **named):
        with pytest.raises(BadCall) as raised:
            one.call(*arguments, **named)
        return raised.value.message

    assert "/nothing" in message("/nothing", "acquire", "x")
    assert "nonsense" in message(locks, "nonsense")
    assert "name" in message(locks, "acquire")
    assert "name" in message(locks, "acquire", 7)
    assert "colour" in message(locks, "acquire", name="x", colour="red")
    message(locks, "acquire", "x", "y")
    # Nothing of that was executed.
    assert one.call(locks, "holder", "x") is None


def test_a_sealed_mount_is_read_only_for_others(recipes, mounted, wire):
    locks = mounted("fair-lock")
    one = recipes()
    one.call(locks, "acquire", "x")
    zk = wire()
    (ticket,) = zk.children(f"{locks}/x")
    assert zk.delete(f"{locks}/x/{ticket}") == w.NO_AUTH
    assert zk.request(w.CREATE, w.create_body(f"{locks}/y")).err == w.NO_AUTH
    assert zk.request(w.SET_DATA, w.set_body(f"{locks}/x", b"")).err == w.NO_AUTH
    assert zk.multi([(w.CREATE, w.create_body(f"{locks}/y"))]) == [(w.ERROR, w.NO_AUTH)]
    assert one.call(locks, "holder", "x") is not None


def test_counter(recipes, mounted):
    counters = mounted("counter")
    one = recipes()
    assert one.call(counters, "get", "visits") == 0
    assert one.call(counters, "add", "visits", 5) == 5
    assert one.call(counters, "add", "visits", -7) == -2
    assert one.call(counters, "compare-and-set", "visits", -2, 10) is True
    assert one.call(counters, "compare-and-set", "visits", -2, 11) is False
    assert one.call(counters, "get", "visits") == 10
    assert one._client.get(f"{counters}/visits")[0] == b"10"
    one.call(counters, "add", "big", 2**63 - 1)
    with pytest.raises(CallRefused):
        one.call(counters, "add", "big", 1)
    assert one.call(counters, "get", "big") == 2**63 - 1


def test_counter_adds_up_under_contention(recipes, mounted):
    counters = mounted("counter")

    def count(mine):
        pending = [mine.call_async(counters, "add", "visits", 1) for _ in range(100)]
        for call in pending:
            call.get(timeout=DEADLINE_S)

    threads = [threading.Thread(target=count, args=(recipes(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert recipes().call(counters, "get", "visits") == 600


def test_election(recipes, mounted):
    elections = mounted("election")
    one, two, three = recipes(), recipes(), recipes()
    first = one.call(elections, "campaign", "shard-1", "host-a:1")
    leader = three.call(elections, "leader", "shard-1")
    assert (leader["candidate"], leader["token"]) == ("host-a:1", first["token"])
    second = two.call_async(elections, "campaign", "shard-1", "host-b:1")
    until(lambda: second.parked, "it is a candidate")
    assert two.call(elections, "leader", "shard-1")["candidate"] == "host-a:1"
    assert one.call(elections, "resign", "shard-1") is True
    assert second.get(timeout=DEADLINE_S)["token"] > first["token"]
    third = one.call_async(elections, "campaign", "shard-1", "host-a:1")
    until(lambda: third.parked, "it is a candidate again")
    two._client.stop()
    assert third.get(timeout=DEADLINE_S)
    assert three.call(elections, "leader", "shard-1")["candidate"] == "host-a:1"


def test_plain_watches_see_what_recipes_do(recipes, mounted, wire):
    counters = mounted("counter")
    one = recipes()
    one.call(counters, "add", "visits", 1)
    zk = wire()
    zk.get(f"{counters}/visits", watch=True)
    zk.children(counters, watch=True)
    one.call(counters, "add", "visits", 1)
    one.call(counters, "add", "other", 1)
    zk.request(w.SYNC, w.string("/"))
    assert [(event.type, event.path) for event in zk.events] == [
        (w.NODE_DATA_CHANGED, f"{counters}/visits"),
        (w.NODE_CHILDREN_CHANGED, counters),
    ]


def test_a_lost_connection_of_a_waiter_costs_it_nothing(recipes, mounted, proxy):
    locks = mounted("fair-lock")
    holder, waiter = recipes(), recipes(hosts=proxy.hosts)
    holder.call(locks, "acquire", "x")
    waiting = waiter.call_async(locks, "acquire", "x")
    for _ in range(3):
        until(lambda: waiting.parked, "it is parked")
        connections = len(proxy.sent)
        proxy.cut()
        until(lambda: len(proxy.sent) > connections, "it is connected again")
        until(lambda: w.CALL in operations(proxy.sent[-1]), "it asks again")
    last = recipes().call_async(locks, "acquire", "x")
    until(lambda: last.parked, "another stands behind it")
    holder.call(locks, "release", "x")
    assert waiting.get(timeout=DEADLINE_S)["holds"] == 1
    assert not last.ready()


def test_a_release_while_the_waiter_is_away_is_told_on_its_return(recipes, mounted, wire):
    locks = mounted("fair-lock")
    holder = recipes()
    holder.call(locks, "acquire", "x")
    zk = wire()
    assert zk.call(1, locks, "acquire", '["x"]')[0] == w.PARKED
    zk.drop()
    holder.call(locks, "release", "x")
    again = wire(session=zk.session, password=zk.password)
    status, result = again.call(1, locks, "acquire", '["x"]')
    if status == w.PARKED:
        # The lost connection of a call may be noticed after its release: then an event follows.
        status, result = again.wait_event().answer[1:]
    assert status == w.RETURNED
    assert '"holds":1' in result.replace(" ", "")
