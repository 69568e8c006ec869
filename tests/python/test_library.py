"""Every standard recipe on a real server: over a ZooKeeper connection, over HTTP and on the command line."""

import json
import re
import shlex
import subprocess
from typing import Any, List, NamedTuple

import pytest
from quorate import Recipes

from harness.servers import REPOSITORY
from harness.waiting import DEADLINE_S

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]

#: Stands for a number that differs from run to run.
SOME = "some number"


class Call(NamedTuple):
    operation: str
    arguments: List[Any]
    result: Any


#: One meaningful thing with each recipe, in one session: calls in order, with their results.
SCRIPTS = {
    "barrier": [
        Call("set", ["gate"], True),
        Call("is-set", ["gate"], True),
        Call("remove", ["gate"], True),
        Call("wait", ["gate"], None),
    ],
    "config": [
        Call("set-schema", ["web", '{"required": ["port"]}'], None),
        Call("put", ["web", '{"port": 80}'], 1),
        Call("put", ["web", '{"port": 81}'], 2),
        Call("rollback", ["web", 1], 3),
        Call("get", ["web"], {"version": 3, "document": '{"port": 80}', "put-at": SOME}),
    ],
    "counter": [Call("add", ["visits", 5], 5), Call("add", ["visits", -2], 3), Call("get", ["visits"], 3)],
    "countdown-latch": [
        Call("start", ["imports", 2], True),
        Call("count-down", ["imports", 2], 0),
        Call("wait", ["imports"], None),
    ],
    "double-barrier": [
        Call("enter", ["shuffle", 1], None),
        Call("members", ["shuffle"], 1),
        Call("leave", ["shuffle"], None),
    ],
    "election": [
        Call("enter", ["primary", "me", 1], {"token": SOME}),
        Call("leader", ["primary"], {"candidate": "me", "session": SOME, "token": SOME}),
        Call("resign", ["primary"], True),
        Call("campaign", ["primary", "me"], {"token": SOME}),
    ],
    "fair-lock": [
        Call("acquire", ["door"], {"token": SOME, "holds": 1}),
        Call("acquire-within", ["door", 100], {"token": SOME, "holds": 2}),
        Call("request-release", ["door"], True),
        Call("release-requested", ["door"], True),
        Call("release", ["door"], 1),
    ],
    "id-generator": [
        Call("next", ["orders"], 1),
        Call("reserve", ["orders", 10], {"first": 2, "count": 10}),
        Call("next", ["orders"], 12),
        Call("claim-slot", ["workers", 4], 0),
    ],
    "lease": [
        Call("acquire", ["report", "me", 60_000], {"token": SOME, "expires": SOME}),
        Call("try-acquire", ["report", "me", 60_000], None),
        Call("holder", ["report"], {"owner": "me", "token": SOME, "expires": SOME}),
    ],
    "membership": [
        Call("join", ["web", "web-1", "10.0.0.1"], None),
        Call(
            "wait-for-change",
            ["web", 0],
            {"version": SOME, "members": [{"name": "web-1", "data": "10.0.0.1", "session": SOME}]},
        ),
        Call("leave", ["web", "web-1"], True),
    ],
    "multi-lock": [
        Call("acquire", [["left", "right"]], {"token": SOME}),
        Call("holder", ["left"], {"session": SOME, "token": SOME}),
        Call("release", [["right", "left"]], None),
        Call("holder", ["left"], None),
    ],
    "partitioner": [
        Call("join", ["orders", "me", 3], {"version": SOME, "owned": [0, 1, 2], "to-release": []}),
        Call("owners", ["orders"], ["me", "me", "me"]),
    ],
    "queue": [
        Call("offer-with", ["mail", "second", 200, 0], SOME),
        Call("offer", ["mail", "first"], SOME),
        Call("take", ["mail"], {"id": SOME, "content": "first"}),
        Call("claim", ["mail"], {"id": SOME, "content": "second"}),
        Call("size", ["mail"], {"items": 1, "delayed": 0, "claimed": 1, "waiting": 0}),
    ],
    "rate-limiter": [
        Call("configure", ["mail", 2, 1, 1_000_000], None),
        Call("take", ["mail", 2], None),
        Call("try-take", ["mail", 1], {"retry-after": SOME}),
    ],
    "read-write-lock": [
        Call("acquire-read", ["prices"], {"token": SOME}),
        Call("try-acquire-read", ["prices"], {"token": SOME}),
        Call("try-acquire-write", ["prices"], None),
    ],
    "registry": [
        Call("register", ["web", "web-1", "10.0.0.1:80", [{"key": "zone", "value": "north"}]], None),
        Call("resolve", ["web", [{"key": "zone", "value": "south"}]], {"version": SOME, "instances": []}),
        Call("services", [], ["web"]),
    ],
    "scheduler": [
        Call("define", ["report", "every 1s"], None),
        Call("next", ["report"], {"due": SOME, "again": False}),
        Call("show", ["report"], {"schedule": "every 1s", "due": SOME, "running": 1}),
    ],
    "semaphore": [
        Call("set-permits", ["presses", 3], None),
        Call("acquire", ["presses", 2], {"token": SOME}),
        Call("try-acquire", ["presses", 2], None),
        Call("usage", ["presses"], {"permits": 3, "held": 2, "waiting": 0}),
    ],
    "shared-value": [
        Call("compare-and-set", ["colour", None, "red"], SOME),
        Call("wait-for-change", ["colour", None], {"value": "red", "version": SOME}),
        Call("remove", ["colour"], True),
    ],
}


def fits(value: Any, expected: Any) -> bool:
    """Whether a result is the expected one, whatever its numbers that differ from run to run are."""
    if expected == SOME:
        return isinstance(value, int) or bool(re.fullmatch(r"\d{3}-\d{16}", str(value)))
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(fits(value[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(fits, value, expected))
    return value == expected


def test_the_table_has_every_standard_recipe(server):
    there = {folder.name for folder in (REPOSITORY / "recipes").iterdir() if (folder / "Cargo.toml").exists()}
    assert set(SCRIPTS) == there - {"embed"}
    known = server.http.get("/v1/recipes").body["recipes"]
    assert set(SCRIPTS) <= {recipe["name"] for recipe in known}


@pytest.mark.parametrize("recipe", SCRIPTS)
def test_over_a_zookeeper_connection(recipe, kazoo, mounted):
    mount = mounted(recipe)
    recipes = Recipes(kazoo())
    for call in SCRIPTS[recipe]:
        result = recipes.call(mount, call.operation, *call.arguments)
        assert fits(result, call.result), (call, result)


@pytest.mark.parametrize("recipe", SCRIPTS)
def test_over_http(recipe, server, mounted):
    mount = mounted(recipe)
    session = server.http.session()
    for key, call in enumerate(SCRIPTS[recipe], start=1):
        answer = session.call(key, mount, call.operation, call.arguments)
        assert answer.status == 200, (call, answer)
        assert answer.body["status"] == "returned", (call, answer)
        assert fits(answer.body["result"], call.result), (call, answer)
    assert session.close().status == 200


@pytest.mark.parametrize("recipe", SCRIPTS)
def test_on_the_command_line(recipe, server, mounted):
    """The first call alone: the command's session ends with it."""
    mount = mounted(recipe)
    call = SCRIPTS[recipe][0]
    command = server.command_line("--json", "call", mount, call.operation, json.dumps(call.arguments))
    said = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert said.returncode == 0, said
    assert fits(json.loads(said.stdout)["result"], call.result), said.stdout


def test_the_page_shows_every_operation(server):
    """docs/library.md has an example of each, with as many arguments as it takes."""
    page = (REPOSITORY / "docs" / "library.md").read_text()
    for recipe in SCRIPTS:
        section = page.split(f"\n## {recipe}\n")[1].split("\n## ")[0]
        shown = {}
        for line in re.findall(r"^    quorate call (.*)$", section, re.M):
            words = [word for word in shlex.split(line, comments=True) if not word.startswith("--")]
            mount, operation, *arguments = words
            whole = len(arguments) == 1 and arguments[0].startswith("[[")
            shown[operation] = len(json.loads(arguments[0])) if whole else len(arguments)
        operations = server.http.get(f"/v1/recipes/{recipe}").body["operations"]
        assert shown == {one["name"]: len(one["parameters"]) for one in operations}, recipe
