"""Shadows and replays of all kinds of runs, asked of a server that does not lead, with a recipe that says what it does.

What a leader has observed goes with its lead. So there is one server that can lead, and another that follows it.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Iterator, List

import pytest

from harness import wire as w
from harness.ensemble import Ensemble, Member
from harness.load import connect
from harness.servers import REPOSITORY, binary
from harness.waiting import until
from harness.wire import NO_AUTH, PARKED, RETURNED, TRAPPED
from test_cli import CommandLine

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(500)]

SESSION_MS = 60_000


@pytest.fixture(scope="module")
def diaries() -> List[bytes]:
    """tests/diary, built as its author would, and another version of it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", binary().parents[1]))
    build = ["cargo", "build", "--locked", "-p", "diary", "--profile", "recipe"]
    build += ["--target", "wasm32-unknown-unknown", "--target-dir", str(target)]
    built = []
    for features in ([], ["--features", "red"]):
        subprocess.run([*build, *features], cwd=REPOSITORY, check=True, stdin=subprocess.DEVNULL)
        built.append((target / "wasm32-unknown-unknown" / "recipe" / "diary.wasm").read_bytes())
    return built


@pytest.fixture(scope="module")
def ensemble(diaries, tmp_path_factory) -> Iterator[Ensemble]:
    running = Ensemble(tmp_path_factory.mktemp("trials"), voters=1, observers=1).start()
    for ink, component in zip(("blue", "red"), diaries):
        answer = running.servers[0].http.request("PUT", f"/v1/recipes/{ink}", component)
        assert answer.status == 201, answer
    yield running
    running.kill()


@pytest.fixture
def follower(ensemble) -> Member:
    return ensemble.servers[1]


@pytest.fixture
def quorate(follower) -> CommandLine:
    return CommandLine(follower)


def mounted(server: Member, path: str) -> None:
    """At an open mount, whose standing run has come to its end once."""
    server.http.mount(path, "blue", sealed=False)
    until(lambda: data(server, f"{path}/counted") == "blue 0", "it runs behind its mount")


def data(server: Member, path: str):
    answer = server.http.get(f"/v1/tree{path}")
    return answer.body["data"] if answer.status == 200 else None


def call(client: w.Wire, key: int, mount: str, operation: str, *arguments: str):
    return client.call(key, mount, operation, json.dumps(arguments))


def shadow_of(server: Member, mount: str) -> dict:
    mounts = server.http.get("/v1/activity").body["mounts"]
    return next(one["shadow"] for one in mounts if one["mount"] == mount)


def written(side: dict) -> List[tuple]:
    """Paths and data of what a run would have written."""
    changes = [change.get("set-data") or change.get("create-node") for change in side["changes"]]
    return [(change["path"], change["data"]) for change in changes if change]


def test_a_shadow_of_woken_and_standing_runs_shows_what_it_would_have_written(follower, quorate):
    mounted(follower, "/shadowed")
    client = connect(follower, SESSION_MS)
    client.create("/shadowed/pages")
    quorate.works("mount", "/shadowed", "--shadow", "red")
    keys = iter(range(1, 1000))

    def compared():
        # A first run writes nothing that has a colour.
        assert call(client, next(keys), "/shadowed", "note", "first", "x") == (RETURNED, "null")
        return shadow_of(follower, "/shadowed")

    shadow = until(compared, "the shadow is compiled where the leader is")
    assert shadow["differing"] == 0, shadow
    runs = shadow["runs"]

    assert call(client, 1000, "/shadowed", "wait-for", "later")[0] == PARKED
    assert shadow_of(follower, "/shadowed")["differing"] == 0, "it has only parked"
    assert call(client, 1001, "/shadowed", "note", "later", "now")[0] == RETURNED
    assert client.wait_event().answer == (1000, RETURNED, '"now"')
    shadow = shadow_of(follower, "/shadowed")
    assert (shadow["runs"], shadow["differing"]) == (runs + 3, 1)
    [woken] = shadow["last"]
    assert woken["operation"] == "wait-for"
    assert woken["mounted"]["ending"] == woken["shadow"]["ending"] == 'returned "now"'
    read = "/shadowed/read"
    assert (written(woken["mounted"]), written(woken["shadow"])) == ([(read, "blue later")], [(read, "red later")])
    assert data(follower, read) == "blue later", "nothing of the shadow is kept"

    client.create("/shadowed/pages/1")
    shadow = until(
        lambda: (found := shadow_of(follower, "/shadowed"))["differing"] == 2 and found, "the standing run is compared"
    )
    standing = shadow["last"][0]
    assert standing["operation"] == "standing"
    counted = "/shadowed/counted"
    assert (written(standing["mounted"]), written(standing["shadow"])) == ([(counted, "blue 1")], [(counted, "red 1")])
    until(lambda: data(follower, counted) == "blue 1", "what is mounted counts")
    said = f"its shadow did something else in 2 of {shadow['runs']} runs"
    assert said in quorate.works("recipe", "top", "--once").out
    quorate.works("mount", "/shadowed", "--no-shadow")
    assert shadow_of(follower, "/shadowed") is None
    client.close_session()


def replays(quorate: CommandLine, file, *options: str) -> dict:
    """What the replay of a recording comes to; it must be what was recorded, to the letter."""
    recording = json.loads(file.read_text())
    replayed = quorate.works("--json", "recipe", "replay", str(file), *options).document
    assert replayed["same"] and not replayed["differences"] and replayed["strayed"] is None, replayed
    for part in ("ending", "fuel", "log"):
        assert replayed[part] == recording["ran"][part], part
    said = quorate.works("recipe", "replay", str(file), *options).out
    assert said.endswith("\nas recorded\n"), said
    for line in replayed["log"]:
        assert f"{line['level'].upper():<5} {line['message']}\n" in said
    return recording


def failed(quorate: CommandLine, mount: str, tmp_path):
    """The first recorded failure at a mount, and its file. A standing run is tried again, and fails again."""

    def listed():
        failures = [one for one in quorate.works("--json", "recipe", "failures").documents if one]
        return [one for one in failures if one["mount"] == mount]

    *_, failure = until(listed, "its failure is recorded")
    file = tmp_path / "failure.json"
    file.write_text(quorate.works("recipe", "failures", str(failure["zxid"])).out)
    return failure, file


def lines_of(follower: Member, mount: str, zxid: int) -> List[dict]:
    """What the failed run itself wrote: the recording is of the same run once more."""
    lines = follower.http.get(f"/v1/activity/lines?mount={mount}").body["lines"]
    return [{"level": line["level"], "message": line["message"]} for line in lines if line["zxid"] == zxid]


def check_failure(follower, quorate, tmp_path, diaries, mount: str, operation: str, panicked: str) -> dict:
    failure, file = failed(quorate, mount, tmp_path)
    assert failure["operation"] == operation and panicked in failure["error"], failure
    component = tmp_path / "blue.wasm"
    component.write_bytes(diaries[0])
    recording = replays(quorate, file)
    assert replays(quorate, file, "--component", str(component)) == recording
    log = [{"level": line["level"].lower(), "message": line["message"]} for line in recording["ran"]["log"]]
    assert any(panicked in line["message"] for line in log), log
    told = lines_of(follower, mount, failure["zxid"])
    assert told[: len(log)] == log, (told, log)
    return recording


def test_a_guards_run_is_replayed_to_the_letter(follower, quorate, tmp_path, diaries):
    mounted(follower, "/guarded")
    client = connect(follower, SESSION_MS)
    client.create("/guarded/page", b"text")
    reply = client.request(w.SET_DATA, w.set_body("/guarded/page", b"fire"))
    assert reply.err == NO_AUTH and b"burns" in reply.body, reply
    recording = check_failure(follower, quorate, tmp_path, diaries, "/guarded", "guard", "page burns")
    [change] = recording["input"]["invocation"]["Guard"]
    assert (change["before"]["data"], change["after"]["data"]) == ("text", "fire")
    # Another version asks something else from the same state, and is told where it strays.
    other = tmp_path / "red.wasm"
    other.write_bytes(diaries[1])
    replayed = quorate("--json", "recipe", "replay", str(tmp_path / "failure.json"), "--component", str(other))
    assert not replayed.document["same"] and "red page" in replayed.document["strayed"], replayed
    client.close_session()


def test_a_standing_run_is_replayed_to_the_letter(follower, quorate, tmp_path, diaries):
    mounted(follower, "/stands")
    client = connect(follower, SESSION_MS)
    client.create("/stands/pages")
    client.create("/stands/pages/1")
    until(lambda: data(follower, "/stands/counted") == "blue 1", "it has counted")
    [waits] = quorate.works("--json", "call", "list", "--mount", "/stands").documents
    file = tmp_path / "standing.json"
    key = [str(waits["session"]), str(waits["key"])]
    quorate.works("call", "dry-run", *key, "--record", str(file))
    recording = replays(quorate, file)
    assert recording["input"]["memo"] == "1" and recording["input"]["invocation"] == "Standing"
    client.create("/stands/pages/torn")
    recording = check_failure(follower, quorate, tmp_path, diaries, "/stands", "standing", "a page is torn")
    assert recording["input"]["memo"] == "1"
    client.close_session()


def test_a_woken_run_is_replayed_to_the_letter(follower, quorate, tmp_path, diaries):
    mounted(follower, "/woken")
    client = connect(follower, SESSION_MS)
    assert call(client, 1, "/woken", "trap-after", "x")[0] == PARKED
    file = tmp_path / "waits.json"
    quorate.works("call", "dry-run", str(client.session), "1", "--record", str(file))
    recording = replays(quorate, file)
    assert list(recording["ran"]["ending"]) == ["Parked"] and recording["ran"]["log"]
    assert call(client, 2, "/woken", "note", "x", "text")[0] == RETURNED
    key, status, _ = client.wait_event().answer
    assert (key, status) == (1, TRAPPED)
    recording = check_failure(follower, quorate, tmp_path, diaries, "/woken", "trap-after", "x is too much to read")
    assert recording["input"]["memo"].startswith("waiting in transaction ")
    assert recording["input"]["started"] <= recording["input"]["now"]
    assert data(follower, "/woken/read") is None
    client.close_session()
