"""Guards, standing operations, upgrades, suspension and settings of mounts, from the outside."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from kazoo.exceptions import NoAuthError
from quorate import Recipes

from harness.http import Http
from harness.servers import REPOSITORY, binary
from harness.waiting import until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(400)]

BUILD = ["cargo", "build", "--release", "--target", "wasm32-unknown-unknown"]


@pytest.fixture(scope="module")
def inbox(tmp_path_factory) -> bytes:
    """The recipe of tests/recipes/inbox.rs, built as an author would."""
    folder = tmp_path_factory.mktemp("inbox")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CARGO_TARGET_DIR", "RUSTUP_TOOLCHAIN") and not name.startswith("QUORATE_")
    }
    env = {**kept, "CARGO_NET_OFFLINE": "true"}

    def run(command, where) -> None:
        done = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True, timeout=380)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    run([str(binary().resolve()), "recipe", "new", "inbox"], folder)
    # What all such projects are built of is built once.
    shared = binary().resolve().parent.parent / "tutorial"
    shared.mkdir(exist_ok=True)
    project = folder / "inbox"
    (project / "target").symlink_to(shared)
    (project / "src" / "lib.rs").write_text((REPOSITORY / "tests/recipes/inbox.rs").read_text())
    run(BUILD, project)
    return (project / "target/wasm32-unknown-unknown/release/inbox.wasm").read_bytes()


def other(component: bytes) -> bytes:
    """The same code under another digest: an empty custom section more."""
    return component + b"\x00\x06\x05other"


@pytest.fixture
def http(server) -> Http:
    return server.http


def push(http: Http, name: str, component: bytes) -> dict:
    answer = http.request("PUT", f"/v1/recipes/{name}", component)
    assert answer.status == 201, answer
    return answer.body


def shown(http: Http, path: str) -> dict:
    return http.get(f"/v1/mounts{path}").body


def data(http: Http, path: str):
    answer = http.get(f"/v1/tree{path}")
    return answer.body["data"] if answer.status == 200 else None


def command(server, *arguments: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUORATE_")}
    done = subprocess.run(
        server.command_line(*arguments), env=kept, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_c7_a_guard_refuses_with_its_reason_and_keeps_an_index(http, server, kazoo, base, inbox):
    pushed = push(http, "inbox", inbox)
    assert pushed["guard"] and pushed["standing"] and pushed["version"] == "1.0.0"
    http.mount(base, "inbox", sealed=False)
    client = kazoo()
    client.create(f"{base}/plain", b"hello")
    assert data(http, f"{base}/index") == "5"
    for write in [
        lambda: client.create(f"{base}/empty", b""),
        lambda: client.set(f"{base}/plain", b"changed"),
        lambda: client.create(f"{base}/bad", b"bomb"),
    ]:
        with pytest.raises(NoAuthError):
            write()
    # With the SDK, which is over the same client, the reason is in the exception.
    Recipes(client)
    with pytest.raises(NoAuthError, match="was sent already") as refused:
        client.set(f"{base}/plain", b"changed")
    assert refused.value.reason.startswith(f"the guard of {base} refuses it: ")
    with pytest.raises(NoAuthError, match="explodes"):
        client.create_async(f"{base}/bad", b"bomb").get(timeout=30)
    assert client.get(f"{base}/plain")[0] == b"hello"
    transaction = client.transaction()
    transaction.create(f"{base}/one", b"1")
    transaction.create(f"{base}/two", b"")
    results = transaction.commit()
    assert any(isinstance(result, NoAuthError) for result in results), results
    assert client.exists(f"{base}/one") is None
    transaction = client.transaction()
    transaction.create(f"{base}/one", b"1")
    transaction.create(f"{base}/two", b"22")
    transaction.commit()
    assert data(http, f"{base}/index") == "5 1 2"
    client.delete(f"{base}/plain")
    assert "was sent already" in server.log and "explodes" in server.log


def test_c10_a_standing_operation_runs_without_being_called(http, kazoo, base, inbox):
    push(http, "inbox", inbox)
    http.mount(base, "inbox", sealed=False)
    until(lambda: data(http, f"{base}/sent") == "0", "it runs behind its mount")
    client = kazoo()
    client.create(f"{base}/in", b"letters")
    for letter in range(3):
        client.create(f"{base}/in/{letter}", b"x")
    until(lambda: data(http, f"{base}/sent") == "3", "it has taken them")
    assert client.get_children(f"{base}/in") == []
    assert shown(http, base)["standing"]["watches"] == 1


def test_c10_an_upgrade_keeps_the_tree_and_the_calls_that_wait(http, server, base, inbox):
    first = push(http, "inbox", inbox)["digest"]
    http.mount(base, "inbox", sealed=False, bounds={"log-lines": 7})
    session = http.session()
    assert session.call(1, base, "wait-for", [1], wait_ms=0).status == 202
    pushed = push(http, "inbox", other(inbox))
    assert {"path": base, "digest": first} in pushed["outdated_mounts"]
    upgrade = {"recipe": "inbox", "upgrade": True}
    check = http.request("PUT", f"/v1/mounts{base}", {**upgrade, "check": True}).body
    assert (check["digest"], check["parked_calls"], check["ending_calls"]) == (first, 1, 0)
    upgraded = http.request("PUT", f"/v1/mounts{base}", upgrade).body
    assert (upgraded["digest"], upgraded["followed_calls"], upgraded["ended_calls"]) == (pushed["digest"], 1, 0)
    assert (upgraded["set"], upgraded["sealed"]) == ({"log-lines": 7}, False)
    # One component of the name is in use, the other is not.
    in_use = http.request("DELETE", f"/v1/recipes/inbox/{pushed['digest']}")
    assert (in_use.status, in_use.body["error"]["code"]) == (409, "recipe-in-use")
    # Rolled back on the command line, by the first digits.
    said = command(server, "mount", base, "inbox", "--upgrade", "--digest", first[:10])
    assert "calls that go on: 1, that ended: 0" in said
    assert shown(http, base)["digest"] == first
    # To another recipe: the call that waits does not fit it.
    said = command(server, "mount", base, "counter", "--upgrade", "--check")
    assert "1 calls wait, 1 of them would end" in said
    command(server, "mount", base, "counter", "--upgrade")
    ended = session.call(1, base, "wait-for", [1], wait_ms=0)
    assert ended.body["status"] == "unmounted" and "upgraded" in ended.body["error"]
    assert shown(http, base)["standing"] is None


def test_c4_a_recipe_that_keeps_failing_is_suspended_until_it_is_resumed(http, server, base, inbox):
    push(http, "inbox", inbox)
    http.mount(base, "inbox", bounds={"failures": 3})
    session = http.session()
    for key in range(1, 4):
        assert session.call(key, base, "fail", []).body["status"] == "trapped"
    refused = session.call(4, base, "sent", [])
    assert (refused.status, refused.body["error"]["code"]) == (503, "suspended")
    assert f"quorate resume {base}" in refused.body["error"]["message"]
    assert "as asked" in shown(http, base)["suspended"]
    assert "suspended: bound failures: 3 runs" in command(server, "mounts")
    assert "quorate_suspensions_total" in http.get("/metrics").body
    assert "runs again" in command(server, "resume", base)
    assert "was not suspended" in command(server, "resume", base)
    assert session.call(4, base, "sent", []).body["result"] == 0


def test_settings_of_a_mount(http, server, base, inbox):
    push(http, "inbox", inbox)
    http.mount(base, "inbox")
    command(server, "mount", base, "--set", "fuel=1000", "--callers", "ip:10.0.0.0/8", "--open")
    document = json.loads(command(server, "--json", "mounts", base))
    assert (document["bounds"]["fuel"], document["bounds"]["log-lines"]) == (1000, 100)
    assert (document["sealed"], document["callers"]) == (False, ["ip:10.0.0.0/8"])
    session = http.session()
    refused = session.call(1, base, "sent", [])
    assert (refused.status, refused.body["error"]["code"]) == (403, "no-auth")
    command(server, "mount", base, "--callers", "world:anyone")
    exceeded = session.call(1, base, "sent", []).body
    assert (exceeded["status"], exceeded["bound"]) == ("exceeded", "fuel")
    command(server, "mount", base, "--set", "fuel=")
    assert session.call(2, base, "sent", []).body["status"] == "returned"
    wrong = http.request("PATCH", f"/v1/mounts{base}", {"bounds": {"fuel": 10**12}})
    assert (wrong.status, wrong.body["error"]["code"]) == (400, "bad-arguments")
    assert 'bound="fuel"' in http.get("/metrics").body
