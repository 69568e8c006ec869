"""What operators see of recipes: counts, the calls that wait, and an end to one."""

import json

import pytest
from kazoo.client import KazooClient
from quorate import CallCancelled, Recipes

from harness.ensemble import Ensemble
from harness.waiting import DEADLINE_S, until
from test_cli import CommandLine

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]


@pytest.fixture
def kazoo_of():
    started = []

    def start(server):
        client = KazooClient(hosts=server.hosts, timeout=10)
        client.start(timeout=30)
        started.append(client)
        return client

    yield start
    for client in started:
        client.stop()
        client.close()


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    running = Ensemble(tmp_path_factory.mktemp("activity")).start()
    yield running
    running.kill()


def test_every_server_tells_what_recipes_do_at_the_leader(ensemble, kazoo_of):
    leader = ensemble.leader()
    leader.http.mount("/counters", "counter")
    client = kazoo_of(ensemble.others(leader)[0])
    for _ in range(3):
        Recipes(client).call("/counters", "add", "visits", 2)
    for server in ensemble.servers:
        [mount] = CommandLine(server).works("recipe", "top", "--once", "--json").document["mounts"]
        [operation] = mount["operations"]
        assert (mount["mount"], mount["parked"], operation["operation"]) == ("/counters", 0, "add")
        assert (operation["calls"], operation["runs"]) == (3, 3)
        assert operation["endings"] == {"returned": 3}
        assert operation["fuel"] > 0 and operation["written_bytes"] > 0
    text = CommandLine(leader).works("recipe", "top", "--once").out
    assert text.splitlines()[1].split()[:4] == ["/counters", "add", "3", "3"]
    metrics = leader.http.request("GET", "/metrics").body
    assert 'quorate_recipe_runs_total{mount="/counters",operation="add",ending="returned"} 3' in metrics


def test_calls_that_wait_are_listed_and_cancelled(ensemble, kazoo_of):
    leader = ensemble.leader()
    leader.http.mount("/locks", "fair-lock")
    holder, waiter = kazoo_of(leader), kazoo_of(ensemble.others(leader)[0])
    Recipes(holder).call("/locks", "acquire", "x")
    waits = Recipes(waiter).call_async("/locks", "acquire", "x")
    asked = CommandLine(ensemble.others(leader)[1])

    def listed():
        return [call for call in asked.works("call", "list", "--json").documents if call]

    [call] = until(listed, "the call is parked everywhere")
    assert (call["mount"], call["operation"], call["arguments"]) == ("/locks", "acquire", ["x"])
    assert call["session"] == waiter.client_id[0]
    assert list(call["waits_for"][0]) == ["node"]
    assert "/locks acquire" in asked.works("call", "list", "--mount", "/locks").out
    assert asked.works("call", "list", "--mount", "/counters").out == "no call waits\n"

    assert asked.works("call", "cancel", str(call["session"]), str(call["key"])).out == "cancelled\n"
    with pytest.raises(CallCancelled):
        waits.get(timeout=20)
    assert asked.fails("call", "cancel", str(call["session"]), "77").err


def test_what_recipes_write_is_followed_at_any_server(ensemble, hostile_wasm):
    leader = ensemble.leader()
    assert leader.http.request("PUT", "/v1/recipes/hostile", hostile_wasm).status == 201
    leader.http.mount("/talks", "hostile")
    asked = CommandLine(ensemble.others(leader)[0])
    assert asked.works("recipe", "logs", "--mount", "/talks").out == ""
    follower = asked.start("--json", "recipe", "logs", "-f", "--mount", "/talks")
    try:
        session = leader.http.session()
        # It writes a hundred lines, and one more ends it.
        assert session.call(1, "/talks", "talk", [3]).body["bound"] == "log-lines"
        lines = [json.loads(follower.stdout.readline()) for _ in range(100)]
    finally:
        follower.terminate()
        follower.communicate(timeout=DEADLINE_S)
    for line in lines:
        assert (line["mount"], line["operation"], line["message"]) == ("/talks", "talk", "xxx")
    [text, *_] = asked.works("recipe", "logs", "--mount", "/talks").out.splitlines()
    assert text.endswith(" INFO  /talks talk: xxx"), text
    session.close()
