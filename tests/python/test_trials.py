"""Dry runs, shadows, and failed runs that are run again elsewhere."""

import hashlib
import json
import urllib.request

import pytest

from harness.http import Http
from harness.servers import QuorateServer
from test_cli import CommandLine

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def tried(hostile_wasm, tmp_path_factory):
    """A server with counters, locks, and a recipe that means ill, mounted at its name."""
    server = QuorateServer(tmp_path_factory.mktemp("tried"))
    server.start()
    assert server.http.request("PUT", "/v1/recipes/hostile", hostile_wasm).status == 201
    for path, recipe in (("/counters", "counter"), ("/locks", "fair-lock"), ("/hostile", "hostile")):
        server.http.mount(path, recipe)
    yield server
    server.kill()


@pytest.fixture
def quorate(tried) -> CommandLine:
    return CommandLine(tried)


def trial(http: Http, **body) -> dict:
    answer = http.request("POST", "/v1/trials", body)
    assert answer.status == 200, answer
    return answer.body


def test_a_dry_run_shows_what_a_call_would_do_and_does_nothing(tried, quorate):
    session = tried.http.session()
    session.call(1, "/counters", "add", ["dry", 5])
    shown = trial(tried.http, mount="/counters", operation="add", arguments=["dry", 2])
    assert (shown["status"], shown["result"], shown["commits"]) == ("returned", 7, True)
    assert shown["fuel"] > 0
    [change] = [change["set-data"] for change in shown["changes"] if "set-data" in change]
    assert (change["path"], change["data"]) == ("/counters/dry", "7")
    assert session.call(2, "/counters", "get", ["dry"]).body["result"] == 5

    text = quorate.works("call", "/counters", "add", "dry", "2", "--dry-run").out
    assert text.startswith("returned: 7\nfuel: ") and "it would change:" in text, text
    refused = tried.http.request("POST", "/v1/trials", {"mount": "/counters", "operation": "ad"})
    assert (refused.status, refused.body["error"]["code"]) == (400, "bad-call"), refused
    assert "nothing is mounted" in quorate.fails("call", "/nowhere", "add", "--dry-run").err
    session.close()


def test_a_dry_run_has_a_session_and_a_parked_call_can_be_tried(tried, quorate):
    holder, waiter = tried.http.session(), tried.http.session()
    shown = json.loads(quorate.works("--json", "call", "/locks", "acquire", "x", "--dry-run").out)
    assert shown["status"] == "returned", shown
    assert holder.call(1, "/locks", "acquire", ["x"]).body["status"] == "returned"
    shown = json.loads(quorate.works("--json", "call", "/locks", "acquire", "x", "--dry-run").out)
    assert shown["status"] == "parked" and list(shown["waits_for"][0]) == ["node"], shown

    assert waiter.call(1, "/locks", "acquire", ["x"], wait_ms=0).status == 202
    [call] = [call for call in quorate.works("--json", "call", "list", "--mount", "/locks").documents if call]
    shown = quorate.works("call", "dry-run", str(call["session"]), str(call["key"])).out
    assert shown.startswith("parked"), shown
    assert "no call" in quorate.fails("call", "dry-run", str(call["session"]), "77").err
    holder.close()
    assert waiter.call(1, "/locks", "acquire", ["x"]).body["status"] == "returned"
    waiter.close()


def test_what_was_recorded_is_replayed_to_the_letter(tried, quorate, tmp_path, hostile_wasm):
    session = tried.http.session()
    for key, name in enumerate(("a", "b"), 1):
        session.call(key, "/counters", "add", [name, 40])
    file = tmp_path / "call.json"
    quorate.works("call", "/counters", "add", "a", "2", "--dry-run", "--record", str(file))
    replayed = quorate.works("recipe", "replay", str(file)).out
    assert replayed.startswith("returned 42\n") and replayed.endswith("\nas recorded\n"), replayed

    # What the tree said is in the file: another past, another result; and that is told.
    other = tmp_path / "other.json"
    text = file.read_text()
    assert text.count('"40"') == 1, text
    other.write_text(text.replace('"40"', '"50"'))
    done = quorate("recipe", "replay", str(other))
    assert done.status == 1 and "\nas recorded\n" not in done.out, done

    # Another component asks something else.
    wasm = tmp_path / "hostile.wasm"
    wasm.write_bytes(hostile_wasm)
    assert "does not fit" in quorate.fails("recipe", "replay", str(file), "--component", str(wasm)).err
    other.write_text("{}")
    assert "no recording" in quorate.fails("recipe", "replay", str(other)).err
    session.close()


def test_a_run_that_failed_can_be_run_again_elsewhere(tried, quorate, tmp_path, hostile_wasm):
    session = tried.http.session()
    answer = session.call(1, "/hostile", "half", [])
    assert answer.body["status"] == "trapped"
    listed = [it for it in quorate.works("--json", "recipe", "failures").documents if it]
    assert listed[0]["operation"] == "half" and "on purpose" in listed[0]["error"], listed
    assert listed[0]["zxid"] == answer.body["zxid"]
    assert "/hostile half: trapped: " in quorate.works("recipe", "failures").out
    file, wasm = tmp_path / "failure.json", tmp_path / "hostile.wasm"
    file.write_text(quorate.works("recipe", "failures", str(listed[0]["zxid"])).out)
    wasm.write_bytes(hostile_wasm)
    # Without a server: its file is named.
    for options in ([], ["--component", str(wasm)]):
        replayed = quorate.works("recipe", "replay", str(file), *options).out
        assert "ERROR" in replayed and "on purpose" in replayed and "\nas recorded\n" in replayed, replayed
    assert quorate.fails("recipe", "failures", "1").err
    session.close()


def test_a_shadow_is_compared_with_what_is_mounted(tried, quorate, hostile_wasm):
    quorate.works("mount", "/counters", "--shadow", "hostile")
    session = tried.http.session()
    assert session.call(1, "/counters", "add", ["s", 1]).body["result"] == 1
    [counters] = [m for m in tried.http.get("/v1/activity").body["mounts"] if m["mount"] == "/counters"]
    shadow = counters["shadow"]
    assert (shadow["runs"], shadow["differing"]) == (1, 1)
    assert shadow["last"][0]["mounted"]["ending"] == "returned 1"
    assert shadow["last"][0]["shadow"]["ending"].startswith("does not fit")
    metrics = tried.http.get("/metrics").body
    assert 'quorate_shadow_differences_total{mount="/counters"} 1' in metrics
    assert "shadow" in quorate.works("recipe", "top", "--once").out
    in_use = tried.http.request("DELETE", "/v1/recipes/hostile")
    assert in_use.status == 409, in_use

    # The same component beside itself does the same.
    quorate.works("mount", "/counters", "--shadow", "counter")
    for key in range(2, 5):
        session.call(key, "/counters", "add", ["s", 1])
    assert "hostile" not in str(tried.http.get("/v1/mounts/counters").body["shadow"])
    quorate.works("mount", "/counters", "--no-shadow")
    assert tried.http.get("/v1/mounts/counters").body["shadow"] is None
    session.close()


def test_a_component_can_be_had_back(tried):
    shown = tried.http.get("/v1/recipes/hostile").body
    url = f"{tried.http.base}/v1/components/{shown['digest']}"
    with urllib.request.urlopen(url, timeout=30) as response:
        component = response.read()
    assert hashlib.sha256(component).hexdigest() == shown["digest"]
    assert tried.http.get("/v1/components/" + "0" * 64).status == 404
    assert tried.http.get("/v1/components/xyz").status == 400
