"""What a server says that was started and does not serve yet: without a quorum, removed, not added."""

import re
import subprocess
from typing import Optional

import pytest

from harness.ensemble import Ensemble, Member
from harness.load import cluster
from harness.waiting import DEADLINE_S, until
from harness.wire import Closed, Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(240)]

NOT_SERVING = "This ZooKeeper instance is not currently serving requests\n"


def answers(server: Member) -> bool:
    try:
        return server.four_letter_word("ruok", timeout_s=0.5) == "imok"
    except OSError:
        return False


def start_waiting(server: Member) -> None:
    server.start_only()
    until(lambda: answers(server), "it answers ruok")


def reason(server: Member, said: str) -> str:
    """Why it does not serve, once it says that."""

    def found() -> Optional[str]:
        assert not server.ended(), server.log[-2000:]
        why = server.failure()
        return why if said in why else None

    return until(found, f"/health says {said!r}")


def is_ready(server: Member) -> bool:
    return "ready: " in server.log


def test_a_server_without_a_quorum_answers_who_looks_after_it_and_turns_clients_away(tmp_path):
    ensemble = Ensemble(tmp_path)
    first, second, third = ensemble.servers
    try:
        start_waiting(first)
        assert first.four_letter_word("srvr") == NOT_SERVING
        assert first.four_letter_word("mntr") == NOT_SERVING
        assert first.four_letter_word("isro") == "null"
        why = reason(first, "waiting for 2 of 3 voters")
        why = reason(first, f"server 2 at {second.peer} cannot be connected to")
        assert f"server 3 at {third.peer} cannot be connected to" in why
        until(lambda: why in first.log, "the log says the same")

        metrics = first.http.get("/metrics")
        assert metrics.status == 200
        assert 'quorate_mode{mode="not-serving"} 1' in metrics.body
        assert "quorate_takes_writes 0" in metrics.body
        assert "quorate_znodes" not in metrics.body, "it does not know them"
        shown = first.http.get("/v1/cluster").body
        assert shown["mode"] == "not-serving" and shown["leader"] is None
        assert "waiting for 2 of 3" in shown["waiting"] and shown["state_zxid"] is None
        status = subprocess.run(
            first.command_line("cluster", "status"),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert status.returncode == 0, status
        assert "it does not serve yet: waiting for 2 of 3" in status.stdout

        for method, path in (("GET", "/v1/tree"), ("GET", "/v1/mounts"), ("POST", "/v1/sessions"), ("POST", "/v1/cluster/leader")):
            refused = first.http.request(method, path, {} if method == "POST" else None)
            assert refused.status == 503, (path, refused)
            assert refused.body["error"]["code"] == "unavailable"
            assert "waiting for 2 of 3" in refused.body["error"]["message"]
        with pytest.raises((Closed, OSError)):
            Wire(first.address, timeout_ms=4000)
        assert not is_ready(first)

        second.start_only()
        for server in (first, second):
            until(server.serves, f"server {server.number} serves")
        until(lambda: is_ready(first), "it says that it is ready")
        assert first.http.get("/health").status == 200
        assert first.http.get("/v1/cluster").body["waiting"] is None
        client = Wire(first.address, timeout_ms=4000)
        client.create("/made")

        # The same with data on its disk.
        for server in (first, second):
            server.kill()
        start_waiting(second)
        reason(second, "waiting for 2 of 3 voters")
        assert second.http.get("/v1/tree/made").status == 503
        assert second.stop() == 0, "it is stopped as any other"
    finally:
        ensemble.kill()


def test_a_server_that_was_removed_while_it_was_away_says_so_and_what_to_do(tmp_path):
    ensemble = Ensemble(tmp_path).start()
    try:
        leader = ensemble.leader()
        away = ensemble.others(leader)[0]
        away.kill()
        cluster(leader, "remove", str(away.number))
        start_waiting(away)
        why = reason(away, "this server is no member of its ensemble any more")
        assert f"`quorate cluster add {away.number} {away.peer}`" in why
        until(lambda: why in away.log, "the log says so too")
        # It does as it is told.
        cluster(leader, "add", str(away.number), away.peer)
        until(away.serves, "it serves")
        assert "any more" not in away.failure()
    finally:
        ensemble.kill()


def test_a_server_that_waits_to_be_added_says_how(tmp_path):
    ensemble = Ensemble(tmp_path, voters=1).start()
    new = ensemble.joining(tmp_path)
    try:
        start_waiting(new)
        reason(new, f"`quorate cluster add {new.number} {new.peer}`")
        [founder] = ensemble.servers
        cluster(founder, "add", str(new.number), new.peer)
        until(new.serves, "it serves")
    finally:
        new.kill()
        ensemble.kill()


def test_no_server_is_added_whose_id_is_0(tmp_path):
    ensemble = Ensemble(tmp_path, voters=1).start()
    [server] = ensemble.servers
    try:
        refused = server.http.request("POST", "/v1/cluster/members", {"server": 0, "address": "127.0.0.1:9"})
        assert refused.status == 400 and "1 or more" in refused.body["error"]["message"]
        path = f"/v1/cluster/members/{server.number}/replace"
        refused = server.http.request("POST", path, {"server": 0, "address": "127.0.0.1:9"})
        assert refused.status == 400
        done = subprocess.run(
            server.command_line("cluster", "add", "0", "127.0.0.1:9"),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode != 0 and re.search(r"\b1\.\.", done.stderr), done
        assert len(server.http.get("/v1/cluster").body["members"]) == 1
    finally:
        ensemble.kill()
