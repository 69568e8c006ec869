"""Every operation of every standard recipe on a real server: over a ZooKeeper connection, over HTTP and on the command line.

Those that may wait are made to, over the connection and over HTTP.
"""

import importlib
import inspect
import itertools
import json
import pkgutil
import re
import shlex
import subprocess
from typing import Any, List, NamedTuple, Tuple

import kazoo.recipe
import pytest
from quorate import CallRefused, Recipes

from harness.http import Answer
from harness.servers import REPOSITORY
from harness.waiting import DEADLINE_S, until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(180)]

#: Stands for a number that differs from run to run.
SOME = "some number"

#: Of a call's result on the command line: the same as in the session of the others.
SAME = object()


class Refused(NamedTuple):
    """The call is refused, with these words."""

    words: str


class Got(NamedTuple):
    """Of an argument: this field of the last result that has it; without a field, the last result."""

    field: str


class Call(NamedTuple):
    operation: str
    arguments: List[Any]
    result: Any
    #: What comes of it where each call has a session of its own, which ends with it.
    alone: Any = SAME


def member(name: str, **more: Any) -> dict:
    return {"name": name, "data": "10.0.0.1", "session": SOME, **more}


def instance(id: str, address: str, tags: List[Any], expires: Any) -> dict:
    return {"id": id, "address": address, "tags": tags, "expires": expires}


TERM = {"token": SOME}
NORTH = [{"key": "zone", "value": "north"}]
ALL_THREE = {"version": SOME, "owned": [0, 1, 2], "to-release": []}
LEADERSHIP = {"candidate": "me", "session": SOME, "token": SOME}
NOT_MINE = Refused("this session")

#: With each recipe all of its operations, in one session: calls in order, with their results.
SCRIPTS = {
    "barrier": [
        Call("set", ["gate"], True),
        Call("is-set", ["gate"], True),
        Call("remove", ["gate"], True),
        Call("wait", ["gate"], None),
    ],
    "config": [
        Call("set-schema", ["web", '{"required": ["port"]}'], None),
        Call("get-schema", ["web"], '{"required": ["port"]}'),
        Call("put", ["web", '{"port": 80}'], 1),
        Call("put", ["web", '{"host": 80}'], Refused("does not fit")),
        Call("put-if", ["web", '{"port": 81}', 1], 2),
        Call("put-if", ["web", '{"port": 82}', 1], None),
        Call("rollback", ["web", 1], 3),
        Call("get", ["web"], {"version": 3, "document": '{"port": 80}', "put-at": SOME}),
        Call("get-version", ["web", 2], {"version": 2, "document": '{"port": 81}', "put-at": SOME}),
        Call("versions", ["web"], [3, 2, 1]),
        Call("documents", [], ["web"]),
        Call("documents-after", [None, 10], {"names": ["web"], "next": None}),
        Call("wait-for-change", ["web", 2], {"version": 3, "document": '{"port": 80}', "put-at": SOME}),
        Call("remove", ["web"], True),
    ],
    "counter": [
        Call("add", ["visits", 5], 5),
        Call("add", ["visits", -2], 3),
        Call("compare-and-set", ["visits", 3, 7], True),
        Call("compare-and-set", ["visits", 3, 8], False),
        Call("get", ["visits"], 7),
    ],
    "countdown-latch": [
        Call("start", ["imports", 2], True),
        Call("count", ["imports"], 2),
        Call("count-down", ["imports", 2], 0),
        Call("wait", ["imports"], None),
        Call("remove", ["imports"], True),
    ],
    "double-barrier": [
        Call("enter", ["shuffle", 1], None),
        Call("members", ["shuffle"], 1, alone=0),
        Call("leave", ["shuffle"], None, alone=NOT_MINE),
    ],
    "election": [
        Call("enter", ["primary", "me", 1], TERM),
        Call("has-leadership", ["primary"], TERM, alone=None),
        Call("await-leadership", ["primary"], TERM, alone=NOT_MINE),
        Call("leader", ["primary"], LEADERSHIP, alone=None),
        Call("observe", ["primary", 1], LEADERSHIP, alone=None),
        Call("candidates", ["primary"], []),
        Call("candidates-after", ["primary", None, 10], {"candidates": [], "next": None}),
        Call("resign", ["primary"], True, alone=False),
        Call("campaign", ["primary", "me"], TERM),
        Call("campaign-ranked", ["primary", "me", 5], TERM),
    ],
    "fair-lock": [
        Call("acquire", ["door"], {"token": SOME, "holds": 1}),
        Call("try-acquire", ["door"], {"token": SOME, "holds": 2}, alone={"token": SOME, "holds": 1}),
        Call("acquire-within", ["door", 100], {"token": SOME, "holds": 3}, alone={"token": SOME, "holds": 1}),
        Call("holder", ["door"], {"session": SOME, "token": SOME, "holds": 3}, alone=None),
        Call("request-release", ["door"], True, alone=False),
        Call("release-requested", ["door"], True, alone=NOT_MINE),
        Call("wait-for-request", ["door"], True, alone=NOT_MINE),
        Call("release", ["door"], 2, alone=NOT_MINE),
    ],
    "id-generator": [
        Call("next", ["orders"], 1),
        Call("reserve", ["orders", 10], {"first": 2, "count": 10}),
        Call("next", ["orders"], 12),
        Call("skip-to", ["orders", 50], True),
        Call("next", ["orders"], 50),
        Call("claim-slot", ["workers", 4], 0),
        Call("release-slot", ["workers"], True, alone=False),
    ],
    "lease": [
        Call("acquire", ["report", "me", 60_000], {"token": SOME, "expires": SOME}),
        Call("try-acquire", ["report", "me", 60_000], None),
        Call("renew", ["report", Got("token"), 60_000], {"token": SOME, "expires": SOME}),
        Call("holder", ["report"], {"owner": "me", "token": SOME, "expires": SOME}),
        Call("release", ["report", Got("token")], True),
    ],
    "membership": [
        Call("join", ["web", "web-1", "10.0.0.1"], None),
        Call(
            "members",
            ["web"],
            {"version": SOME, "members": [member("web-1")]},
            alone={"version": 0, "members": []},
        ),
        Call(
            "wait-for-change",
            ["web", 1],
            {"version": SOME, "members": [member("web-1")]},
            alone={"version": 0, "members": []},
        ),
        Call(
            "members-after",
            ["web", None, 10],
            {"version": SOME, "members": [member("web-1")], "next": None},
            alone={"version": 0, "members": [], "next": None},
        ),
        Call("wait-for-version", ["web", 1], SOME, alone=0),
        Call("leave", ["web", "web-1"], True, alone=False),
    ],
    "multi-lock": [
        Call("acquire", [["left", "right"]], {"token": SOME}),
        Call("holder", ["left"], {"session": SOME, "token": SOME}, alone=None),
        Call("release", [["right", "left"]], None, alone=NOT_MINE),
        Call("try-acquire", [["left"]], {"token": SOME}),
    ],
    "partitioner": [
        Call("join", ["orders", "me", 3], ALL_THREE),
        Call("show", ["orders", "me"], ALL_THREE, alone=NOT_MINE),
        Call("wait-for-change", ["orders", "me", 1], ALL_THREE, alone=NOT_MINE),
        # It was not asked to give it up, and keeps it.
        Call("release", ["orders", "me", [0]], ALL_THREE, alone=NOT_MINE),
        Call("owners", ["orders"], ["me", "me", "me"], alone=[]),
        Call("leave", ["orders", "me"], None, alone=NOT_MINE),
    ],
    "queue": [
        Call("offer-with", ["mail", "second", 200, 0], SOME),
        Call("offer", ["mail", "first"], SOME),
        Call("size", ["mail"], {"items": 2, "delayed": 0, "claimed": 0, "waiting": 0}),
        Call("take", ["mail"], {"id": SOME, "content": "first"}),
        Call("claim", ["mail"], {"id": SOME, "content": "second"}),
        Call("give-back", ["mail", Got("id")], None, alone=NOT_MINE),
        Call("try-claim", ["mail"], {"id": SOME, "content": "second"}),
        Call("confirm", ["mail", Got("id")], None, alone=NOT_MINE),
        Call("poll", ["mail"], None, alone={"id": SOME, "content": "second"}),
    ],
    "rate-limiter": [
        Call("configure", ["mail", 2, 1, 1_000_000_000], None),
        Call("take", ["mail", 2], None),
        Call("try-take", ["mail", 1], {"retry-after": SOME}),
        Call("peek", ["mail"], {"tokens": 0, "capacity": 2, "refill": 1, "period-ms": 1_000_000_000}),
        Call("remove", ["mail"], True),
    ],
    "read-write-lock": [
        Call("acquire-read", ["prices"], {"token": SOME}),
        Call("try-acquire-read", ["prices"], {"token": SOME}),
        Call("try-acquire-write", ["prices"], None, alone={"token": SOME}),
        Call("holders", ["prices"], [{"session": SOME, "token": SOME, "writes": False}] * 2, alone=[]),
        Call("release", ["prices", Got("token")], None, alone=NOT_MINE),
        Call(
            "holders-after",
            ["prices", None, 10],
            {"holders": [{"session": SOME, "token": SOME, "writes": False}], "next": None},
            alone={"holders": [], "next": None},
        ),
        Call("acquire-write", ["costs"], {"token": SOME}),
        Call("downgrade", ["costs", Got("token")], {"token": SOME}, alone=NOT_MINE),
    ],
    "registry": [
        Call("register", ["web", "web-1", "10.0.0.1:80", NORTH], None),
        Call("register-for", ["web", "web-2", "10.0.0.2:80", [], 60_000], None),
        Call("renew", ["web", "web-2", 60_000], True),
        Call("resolve", ["web", [{"key": "zone", "value": "south"}]], {"version": SOME, "instances": []}),
        Call(
            "wait-for-change",
            ["web", [], 1],
            {
                "version": SOME,
                "instances": [
                    instance("web-1", "10.0.0.1:80", NORTH, None),
                    instance("web-2", "10.0.0.2:80", [], SOME),
                ],
            },
            alone={"version": SOME, "instances": [instance("web-2", "10.0.0.2:80", [], SOME)]},
        ),
        Call("services", [], ["web"]),
        Call("services-after", ["a", 1], {"names": ["web"], "next": None}),
        Call(
            "resolve-after",
            ["web", [], "web-1", 10],
            {"version": SOME, "instances": [instance("web-2", "10.0.0.2:80", [], SOME)], "next": None},
        ),
        Call("wait-for-version", ["web", 1], SOME),
        Call("deregister", ["web", "web-2"], True),
    ],
    "scheduler": [
        Call("define", ["report", "every 1s"], None),
        Call("next", ["report"], {"due": SOME, "again": False}),
        Call("done", ["report", Got("due")], None, alone=NOT_MINE),
        Call(
            "show",
            ["report"],
            {"schedule": "every 1s", "due": SOME, "running": 0},
            alone={"schedule": "every 1s", "due": SOME, "running": 1},
        ),
        Call("jobs", [], ["report"]),
        Call("jobs-after", ["report", 10], {"names": [], "next": None}),
        Call("remove", ["report"], True),
    ],
    "semaphore": [
        Call("set-permits", ["presses", 3], None),
        Call("acquire", ["presses", 2], {"token": SOME}),
        Call("try-acquire", ["presses", 2], None, alone={"token": SOME}),
        Call("usage", ["presses"], {"permits": 3, "held": 2, "waiting": 0}, alone={"permits": 3, "held": 0, "waiting": 0}),
        Call("release", ["presses", Got("token")], None, alone=NOT_MINE),
        Call("remove", ["presses"], True),
    ],
    "shared-value": [
        Call("set", ["colour", "blue"], SOME),
        Call("get", ["colour"], {"value": "blue", "version": SOME}),
        Call("compare-and-set", ["colour", Got("version"), "red"], SOME),
        Call("wait-for-change", ["colour", None], {"value": "red", "version": SOME}),
        Call("remove", ["colour"], True),
    ],
}

#: A call by one of two sessions, `a` and `b`.
By = Tuple[str, str, List[Any]]


class Wait(NamedTuple):
    """A call of `b` that waits: what comes before it, what it is, what of `a` wakes it, and its result."""

    before: List[By]
    operation: str
    arguments: List[Any]
    then: List[By]
    result: Any


#: The operations that may wait, each made to.
WAITS = {
    "barrier": [Wait([("a", "set", ["gate"])], "wait", ["gate"], [("a", "remove", ["gate"])], None)],
    "config": [
        Wait([], "wait-for-change", ["web", 0], [("a", "put", ["web", "{}"])], {"version": 1, "document": "{}", "put-at": SOME})
    ],
    "countdown-latch": [
        Wait([("a", "start", ["imports", 1])], "wait", ["imports"], [("a", "count-down", ["imports", 1])], None)
    ],
    "double-barrier": [
        Wait([], "enter", ["one", 2], [("a", "enter", ["one", 2])], None),
        Wait(
            [("a", "enter", ["two", 2]), ("b", "enter", ["two", 2])],
            "leave",
            ["two"],
            [("a", "leave", ["two"])],
            None,
        ),
    ],
    "election": [
        Wait([("a", "campaign", ["one", "a"])], "campaign", ["one", "b"], [("a", "resign", ["one"])], TERM),
        Wait([("a", "campaign", ["two", "a"])], "campaign-ranked", ["two", "b", 3], [("a", "resign", ["two"])], TERM),
        Wait(
            [("a", "campaign", ["three", "a"]), ("b", "enter", ["three", "b", 0])],
            "await-leadership",
            ["three"],
            [("a", "resign", ["three"])],
            TERM,
        ),
        Wait([], "observe", ["four", None], [("a", "campaign", ["four", "me"])], LEADERSHIP),
    ],
    "fair-lock": [
        Wait([("a", "acquire", ["one"])], "acquire", ["one"], [("a", "release", ["one"])], {"token": SOME, "holds": 1}),
        Wait(
            [("a", "acquire", ["two"])],
            "acquire-within",
            ["two", 3_600_000],
            [("a", "release", ["two"])],
            {"token": SOME, "holds": 1},
        ),
        Wait([("b", "acquire", ["three"])], "wait-for-request", ["three"], [("a", "request-release", ["three"])], True),
    ],
    "lease": [
        Wait(
            [("a", "acquire", ["report", "a", 3_600_000])],
            "acquire",
            ["report", "b", 3_600_000],
            [("a", "release", ["report", Got("token")])],
            {"token": SOME, "expires": SOME},
        )
    ],
    "membership": [
        Wait(
            [],
            "wait-for-change",
            ["web", 0],
            [("a", "join", ["web", "web-1", "10.0.0.1"])],
            {"version": SOME, "members": [member("web-1")]},
        ),
        Wait([], "wait-for-version", ["api", 0], [("a", "join", ["api", "api-1", "10.0.0.1"])], SOME),
    ],
    "multi-lock": [
        Wait(
            [("a", "acquire", [["left"]])],
            "acquire",
            [["left", "right"]],
            [("a", "release", [["left"]])],
            {"token": SOME},
        )
    ],
    "partitioner": [
        Wait(
            [("b", "join", ["orders", "b", 2])],
            "wait-for-change",
            ["orders", "b", Got("version")],
            [("a", "join", ["orders", "a", 2])],
            {"version": SOME, "owned": [0, 1], "to-release": [SOME]},
        )
    ],
    "queue": [
        Wait([], "take", ["one"], [("a", "offer", ["one", "x"])], {"id": SOME, "content": "x"}),
        Wait([], "claim", ["two"], [("a", "offer", ["two", "x"])], {"id": SOME, "content": "x"}),
    ],
    "rate-limiter": [
        Wait(
            [("a", "configure", ["mail", 2, 1, 1_000_000_000]), ("a", "take", ["mail", 2])],
            "take",
            ["mail", 1],
            [("a", "configure", ["mail", 2, 2, 1])],
            None,
        )
    ],
    "read-write-lock": [
        Wait(
            [("a", "acquire-write", ["one"])],
            "acquire-read",
            ["one"],
            [("a", "release", ["one", Got("token")])],
            {"token": SOME},
        ),
        Wait(
            [("a", "acquire-read", ["two"])],
            "acquire-write",
            ["two"],
            [("a", "release", ["two", Got("token")])],
            {"token": SOME},
        ),
    ],
    "registry": [
        Wait(
            [],
            "wait-for-change",
            ["web", [], 0],
            [("a", "register", ["web", "web-1", "10.0.0.1:80", NORTH])],
            {"version": SOME, "instances": [instance("web-1", "10.0.0.1:80", NORTH, None)]},
        ),
        Wait([], "wait-for-version", ["api", 0], [("a", "register", ["api", "api-1", "10.0.0.1:80", NORTH])], SOME),
    ],
    "scheduler": [
        Wait(
            [("a", "define", ["report", "every 1d"])],
            "next",
            ["report"],
            [("a", "define", ["report", "every 1s"])],
            {"due": SOME, "again": False},
        )
    ],
    "semaphore": [
        Wait(
            [("a", "set-permits", ["presses", 1]), ("a", "acquire", ["presses", 1])],
            "acquire",
            ["presses", 1],
            [("a", "release", ["presses", Got("token")])],
            {"token": SOME},
        )
    ],
    "shared-value": [
        Wait(
            [],
            "wait-for-change",
            ["colour", None],
            [("a", "set", ["colour", "red"])],
            {"value": "red", "version": SOME},
        )
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


class Given:
    """What a session was given, for later arguments."""

    def __init__(self) -> None:
        self.results: List[Any] = []

    def fill(self, arguments: List[Any]) -> List[Any]:
        return [self.find(it.field) if isinstance(it, Got) else it for it in arguments]

    def find(self, field: str) -> Any:
        fields = (it[field] for it in reversed(self.results) if isinstance(it, dict) and field in it)
        return next(fields)

    def see(self, call: Any, expected: Any, result: Any) -> None:
        """What a call came to: a result, or a refusal."""
        if isinstance(expected, Refused):
            assert isinstance(result, Refused) and expected.words in result.words, (call, result)
        else:
            assert not isinstance(result, Refused) and fits(result, expected), (call, result)
            self.results.append(result)


def test_the_table_has_every_operation_of_every_standard_recipe(server):
    there = {folder.name for folder in (REPOSITORY / "recipes").iterdir() if (folder / "Cargo.toml").exists()}
    assert set(SCRIPTS) == there - {"embed"}
    for recipe, script in SCRIPTS.items():
        operations = server.http.get(f"/v1/recipes/{recipe}").body["operations"]
        assert {call.operation for call in script} == {one["name"] for one in operations}, recipe


@pytest.mark.parametrize("recipe", SCRIPTS)
def test_over_a_zookeeper_connection(recipe, kazoo, mounted):
    mount = mounted(recipe)
    recipes = Recipes(kazoo())
    given = Given()
    for call in SCRIPTS[recipe]:
        try:
            result = recipes.call(mount, call.operation, *given.fill(call.arguments))
        except CallRefused as refused:
            result = Refused(str(refused))
        given.see(call, call.result, result)


@pytest.mark.parametrize("recipe", SCRIPTS)
def test_over_http(recipe, server, mounted):
    mount = mounted(recipe)
    session = server.http.session()
    given = Given()
    for key, call in enumerate(SCRIPTS[recipe], start=1):
        answer = session.call(key, mount, call.operation, given.fill(call.arguments))
        given.see(call, call.result, over_http(answer))
    assert session.close().status == 200


def over_http(answer: Answer) -> Any:
    assert answer.status == 200, answer
    if answer.body["status"] == "refused":
        return Refused(answer.body["error"])
    assert answer.body["status"] == "returned", answer
    return answer.body["result"]


@pytest.mark.parametrize("recipe", SCRIPTS)
def test_on_the_command_line(recipe, server, mounted):
    """Each command has a session of its own."""
    mount = mounted(recipe)
    given = Given()
    for call in SCRIPTS[recipe]:
        arguments = json.dumps(given.fill(call.arguments))
        command = server.command_line("--json", "call", mount, call.operation, arguments)
        said = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
        result = json.loads(said.stdout)["result"] if said.returncode == 0 else Refused(said.stderr)
        given.see(call, call.result if call.alone is SAME else call.alone, result)


WAITING = [pytest.param(recipe, wait, id=f"{recipe}-{wait.operation}") for recipe in WAITS for wait in WAITS[recipe]]


@pytest.mark.parametrize("recipe, wait", WAITING)
def test_an_operation_waits_over_http(recipe, wait, server, mounted):
    mount = mounted(recipe)
    sessions = {"a": server.http.session(), "b": server.http.session()}
    given = {"a": Given(), "b": Given()}
    keys = itertools.count(1)

    def act(calls: List[By]) -> None:
        for who, operation, arguments in calls:
            # Some of them wait themselves, for the other one.
            answer = sessions[who].call(next(keys), mount, operation, given[who].fill(arguments), wait_ms=0)
            if answer.status != 202:
                given[who].results.append(over_http(answer))

    act(wait.before)
    call = (next(keys), mount, wait.operation, given["b"].fill(wait.arguments))
    waiting = sessions["b"].call(*call, wait_ms=0)
    assert (waiting.status, waiting.body["status"]) == (202, "parked"), waiting
    act(wait.then)
    given["b"].see(wait, wait.result, over_http(sessions["b"].call(*call, wait_ms=10_000)))
    for session in sessions.values():
        session.close()


@pytest.mark.parametrize("recipe, wait", WAITING)
def test_an_operation_waits_over_a_zookeeper_connection(recipe, wait, kazoo, mounted):
    mount = mounted(recipe)
    recipes = {"a": Recipes(kazoo()), "b": Recipes(kazoo())}
    given = {"a": Given(), "b": Given()}

    def begin(who: str, operation: str, arguments: List[Any]) -> Any:
        call = recipes[who].call_async(mount, operation, *given[who].fill(arguments))
        until(lambda: call.parked or call.ready(), f"{operation} is answered")
        if not call.parked:
            given[who].results.append(call.get(timeout=DEADLINE_S))
        return call

    for by in wait.before:
        begin(*by)
    call = begin("b", wait.operation, wait.arguments)
    assert call.parked and not call.ready()
    for by in wait.then:
        begin(*by)
    given["b"].see(wait, wait.result, call.get(timeout=DEADLINE_S))


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


def test_the_page_has_every_recipe_of_kazoo():
    """Also those that have no counterpart."""
    parts = {"PartitionState", "TreeNode", "TreeEvent", "NodeData"}
    page = (REPOSITORY / "docs" / "library.md").read_text().split("\n| kazoo | here |")[1]
    for module in pkgutil.iter_modules(kazoo.recipe.__path__):
        path = f"kazoo.recipe.{module.name}"
        for name, one in inspect.getmembers(importlib.import_module(path), inspect.isclass):
            if one.__module__ == path and not name.startswith(("_", "Base")) and name not in parts:
                assert re.search(rf"\b{name}\b", page), name
