"""Any ZooKeeper client calls a recipe by reading a path (rule C8): kazoo, zkCli, the C client, and raw bytes."""

import json
import os
import subprocess
import threading

import pytest
from kazoo.exceptions import APIError, BadArgumentsError, NoNodeError
from kazoo.protocol.states import EventType

from harness import wire as w
from harness.proxy import Proxy
from harness.servers import REPOSITORY
from harness.waiting import DEADLINE_S
from harness.wire import Closed, Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]

ZKCLI = "/usr/share/zookeeper/bin/zkCli.sh"


@pytest.fixture(scope="module")
def mounted(server):
    server.http.mount("/read", "counter")
    server.http.mount("/queue-up", "fair-lock")
    return server


@pytest.fixture
def kazoo_of(mounted, kazoo):
    """Clients of the server where recipes are mounted."""
    return kazoo


def value(data: bytes):
    return json.loads(data)


def test_c8_a_call_that_only_reads_needs_no_key(kazoo_of):
    client = kazoo_of()
    data, stat = client.get('/read/get("c8")')
    assert value(data) == 0
    assert stat.dataLength == len(data)
    assert value(client.get('/read/add("c8", 5)@1')[0]) == 5
    assert value(client.get('/read/get("c8")')[0]) == 5
    # Its znode can be read beside it.
    assert value(client.get("/read/c8")[0]) == 5
    with pytest.raises(BadArgumentsError):
        client.get('/read/add("c8", 5)')
    assert value(client.get('/read/get("c8")')[0]) == 5, "nothing of it was kept"


def test_c8_a_key_makes_it_the_same_call_until_it_is_acknowledged(kazoo_of):
    client = kazoo_of()
    path = '/read/add("once", 1)@7'
    for _ in range(3):
        assert value(client.get(path)[0]) == 1
    with pytest.raises(BadArgumentsError):
        client.get('/read/add("once", 2)@7')
    client.delete(path)
    with pytest.raises(BadArgumentsError):
        client.get(path)
    assert value(client.get('/read/get("once")')[0]) == 1
    # The same key of another session is another call.
    assert value(kazoo_of().get(path)[0]) == 2


def test_c8_deleting_a_path_forgets_that_answer_and_no_other(kazoo_of):
    client = kazoo_of()
    for key in (1, 2, 3):
        assert value(client.get(f'/read/add("each-{key}", {key})@{key}')[0]) == key
    client.delete('/read/add("each-2", 2)@2')
    for key in (1, 3):
        assert value(client.get(f'/read/add("each-{key}", {key})@{key}')[0]) == key
    with pytest.raises(BadArgumentsError):
        client.get('/read/add("each-2", 2)@2')


def test_c8_an_answer_is_read_and_its_path_deleted_when_the_recipe_has_gone(kazoo_of, mounted):
    mounted.http.mount("/going", "fair-lock")
    holder, waiter = kazoo_of(), kazoo_of()
    held, waiting = '/going/acquire("x")@1', '/going/acquire("x")@2'
    granted = holder.get(held)[0]
    gone = threading.Event()
    assert waiter.get(waiting, watch=lambda event: gone.set())[0] == b"parked"
    assert mounted.http.request("DELETE", "/v1/mounts/going").status == 200
    assert gone.wait(DEADLINE_S)
    assert holder.get(held)[0] == granted
    with pytest.raises(APIError):
        waiter.get(waiting)
    for client, path in ((holder, held), (waiter, waiting)):
        client.delete(path)
        with pytest.raises(NoNodeError):
            client.get(path)


def test_c8_what_does_not_fit_is_an_error_and_a_znode_is_a_znode(kazoo_of, mounted):
    client = kazoo_of()
    for path in ("/read/no-such()", '/read/add("a")', "/read/add(3, 4)@1", '/read/add("a", 1@1'):
        with pytest.raises((BadArgumentsError, NoNodeError)):
            client.get(path)
    with pytest.raises(APIError):
        client.get('/read/add("a", 9223372036854775807)@2') and client.get('/read/add("a", 1)@3')
    # A counter of that name: its znode is there, and is read.
    assert value(client.get('/read/add("odd(1)", 3)@4')[0]) == 3
    assert client.get("/read/odd(1)")[0] == b"3"
    # Where nothing is mounted, a path is a path.
    client.create("/plain(1)@2", b"data")
    assert client.get("/plain(1)@2")[0] == b"data"
    client.delete("/plain(1)@2")
    # The reason follows the header, for clients that look.
    connection = Wire(mounted.address)
    reply = connection.request(w.GET_DATA, w.path_watch('/read/add("c8", 5)'))
    assert reply.err == -8
    assert b"needs a key" in reply.body and b'/read/add("c8", 5)@1' in reply.body
    connection.close_session()


def test_c8_a_call_that_waits_says_so_and_a_watch_tells_of_its_answer(kazoo_of):
    holder, waiter = kazoo_of(), kazoo_of()
    assert value(holder.get('/queue-up/acquire("x")@1')[0])["token"] > 0
    fired, events = threading.Event(), []

    def watch(event):
        events.append(event)
        fired.set()

    path = '/queue-up/acquire("x")@1'
    assert waiter.get(path, watch=watch)[0] == b"parked"
    assert waiter.get(path)[0] == b"parked"
    with pytest.raises(BadArgumentsError):
        waiter.delete(path)
    with pytest.raises(NoNodeError):
        waiter.delete('/queue-up/acquire("y")@1')
    assert value(holder.get('/queue-up/holder("x")')[0])["session"] == holder.client_id[0]
    holder.get('/queue-up/release("x")@2')
    assert fired.wait(DEADLINE_S)
    assert [(event.type, event.path) for event in events] == [(EventType.CHANGED, path)]
    assert value(waiter.get(path)[0])["token"] > 0
    assert value(holder.get('/queue-up/holder("x")')[0])["session"] == waiter.client_id[0]


@pytest.mark.parametrize("answered_meanwhile", [False, True])
def test_c8_a_watch_is_set_again_after_a_reconnect(mounted, answered_meanwhile):
    name = f"again-{answered_meanwhile}"
    holder, waiter = Wire(mounted.address), Wire(mounted.address, timeout_ms=60_000)
    path = f'/queue-up/acquire("{name}")@1'
    read = lambda connection, watch: connection.request(w.GET_DATA, w.path_watch(path, watch))
    assert read(holder, False).err == w.OK
    parked = read(waiter, True)
    assert parked.err == w.OK and b"parked" in parked.body
    session, password = waiter.session, waiter.password
    waiter.drop()
    if answered_meanwhile:
        holder.close_session()
    again = Wire(mounted.address, session=session, password=password, timeout_ms=60_000)
    again.send(w.SET_WATCHES, w.set_watches_body(parked.zxid, data=[path]), xid=w.XID_SET_WATCHES)
    assert again.receive(w.XID_SET_WATCHES).err == w.OK
    assert len(again.events) == int(answered_meanwhile)
    if not answered_meanwhile:
        holder.close_session()
    event = again.wait_event()
    assert (event.type, event.path) == (w.NODE_DATA_CHANGED, path)
    assert b"token" in read(again, False).body
    again.close_session()


def test_c8_c9_who_asked_in_both_forms_is_told_in_both(mounted):
    """By the opcode, whose arguments may be WAVE too, and by the path: one call, an event and a watch."""
    holder, waiter = Wire(mounted.address), Wire(mounted.address)
    path = '/queue-up/acquire("both")@1'
    holder.get(path)
    asked = lambda: waiter.call(1, "/queue-up", "acquire", '("both")')
    assert asked()[0] == w.PARKED
    assert waiter.get(path, watch=True)[0] == b"parked"
    assert asked()[0] == w.PARKED
    holder.close_session()
    waiter.wait_event(2)
    event, late = waiter.events
    assert (event.type, event.path, event.answer) == (w.NODE_DATA_CHANGED, path, None)
    key, status, result = late.answer
    assert (key, status, late.zxid) == (1, w.RETURNED, event.zxid)
    assert value(waiter.get(path)[0]) == json.loads(result)
    waiter.close_session()


def test_c8_cutting_the_connection_at_every_byte_of_the_read_and_of_its_answer(mounted):
    """Read again with its key over another connection, a call is the one call: as with the opcode."""
    # All keys and results have as many digits, so that each is cut everywhere.
    Wire(mounted.address).get('/read/add("cut", 1000)@1')
    proxy = Proxy(mounted.address)
    zk = Wire(proxy.address)
    session, password = zk.session, zk.password
    up_start, down_start = len(proxy.sent[0]), len(proxy.received[0])
    assert value(zk.get('/read/add("cut", 1)@1001')[0]) == 1001
    up, down = len(proxy.sent[0]), len(proxy.received[0])
    key, lost = 1001, 0
    cuts = [("cut_up", cut) for cut in range(up_start + 1, up + 1)]
    for direction, cut in cuts + [("cut_down", cut) for cut in range(down_start + 1, down + 1)]:
        key += 1
        path = f'/read/add("cut", 1)@{key}'
        zk.drop()
        setattr(proxy, direction, cut)
        zk = Wire(proxy.address, session=session, password=password)
        try:
            zk.get(path)
        except (Closed, OSError):
            lost += 1
        zk.drop()
        zk = Wire(proxy.address, session=session, password=password)
        assert value(zk.get(path)[0]) == key, (direction, cut)
        assert zk.delete(path) == w.OK
    assert lost == len(cuts) + down - down_start - 1, "every exchange was cut, but the last: behind its answer"
    assert value(zk.get('/read/get("cut")')[0]) == key
    zk.close_session()
    proxy.close()


def test_c8_with_zkcli(mounted):
    def zkcli(*words: str) -> str:
        environment = {**os.environ, "CLIENT_JVMFLAGS": "-Xmx64m", "JVMFLAGS": ""}
        command = [ZKCLI, "-server", mounted.hosts, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    assert "\n3\n" in zkcli("get", '/read/add("zkcli", 3)@1')
    assert "\n3\n" in zkcli("get", '/read/get("zkcli")')
    assert "Arguments are not valid" in zkcli("get", '/read/add("zkcli", 3)')


def test_c8_with_the_c_client(mounted, kazoo_of, tmp_path):
    program = tmp_path / "get"
    source = REPOSITORY / "tests/clients/get.c"
    build = ["gcc", "-Wall", "-Werror", "-DTHREADED", "-o", str(program), str(source), "-lzookeeper_mt"]
    subprocess.run(build, check=True, stdin=subprocess.DEVNULL)

    def get(*paths: str) -> subprocess.Popen:
        command = [str(program), mounted.hosts, *paths]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    plain = get('/read/add("c", 4)@1', '/read/add("c", 4)@1', '/read/get("c")', '/read/add("c", 4)')
    assert plain.communicate(timeout=60)[0].splitlines() == ["4", "4", "4", "bad arguments"]

    holder = kazoo_of()
    holder.get('/queue-up/acquire("c")@1')
    waits = get('+/queue-up/acquire("c")@1')
    assert waits.stdout.readline() == "parked\n"
    holder.get('/queue-up/release("c")@2')
    assert "token" in waits.communicate(timeout=60)[0]
    assert waits.returncode == 0
