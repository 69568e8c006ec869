"""Large components in an ensemble: kept once by each server, also by one that came later, and run by whoever leads."""

import pytest

from harness import component
from harness.ensemble import Ensemble
from harness.load import cluster, connect, give_lead
from harness.waiting import until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(300)]

#: Beyond the 128 MiB of log after which a snapshot is taken.
WRITES = 150


def test_a_component_is_carried_by_snapshots_and_every_leader_runs_it(tmp_path):
    ensemble = Ensemble(tmp_path).start()
    new = ensemble.joining(tmp_path)
    try:
        leader = ensemble.leader()
        follower = ensemble.others(leader)[0]
        upload = component.large(44, 12 << 20)
        pushed = follower.http.request("PUT", "/v1/recipes/large", upload)
        assert pushed.status == 201, pushed
        follower.http.mount("/large", "large")
        client = connect(leader)
        client.create("/written")
        for _ in range(WRITES):
            client.set("/written", b"x" * 1_000_000)
        files = {}
        for server in ensemble.servers:
            snapshots = server.data_dir / "raft" / "snapshots"
            until(lambda: list(snapshots.glob("*.snapshot")), "a snapshot is taken")
            [snapshot] = snapshots.glob("*.snapshot")
            assert snapshot.stat().st_size < len(upload), "the component is not in it"
            kept = [path for path in snapshots.glob("*.component") if path.stat().st_size > 12 << 20]
            assert [path.read_bytes() == upload for path in kept] == [True]
            files[server] = kept[0].stat().st_ino

        # One that joins gets it beside the snapshot.
        new.start_only()
        cluster(leader, "add", str(new.number), new.peer)
        until(lambda: new.mode() == "observer", f"it follows:\n{new.log[-2000:]}")
        snapshots = new.data_dir / "raft" / "snapshots"
        received = [path for path in snapshots.glob("*.component") if path.stat().st_size > 12 << 20]
        assert [path.read_bytes() == upload for path in received] == [True]
        cluster(leader, "promote", str(new.number))
        ensemble.servers.append(new)

        session = follower.http.session(timeout_ms=40_000)
        for key, server in enumerate(ensemble.servers, 1):
            give_lead(ensemble.leader(), server.number)
            until(lambda: server.mode() == "leader", f"server {server.number} leads")
            answer = session.call(key, "/large", "get", [])
            assert answer.body.get("result") == 44, (server.number, answer)

        # The next snapshot needs it too, and does not write it again.
        client = connect(ensemble.leader())
        server = ensemble.servers[0]
        snapshots = server.data_dir / "raft" / "snapshots"
        [before] = snapshots.glob("*.snapshot")
        for _ in range(WRITES):
            client.set("/written", b"y" * 1_000_000)
        until(lambda: not before.exists(), "another snapshot is taken")
        kept = {path.stat().st_ino for path in snapshots.glob("*.component")}
        assert files[server] in kept
        # Restarted, it has the state of the snapshot, component and all.
        server.kill()
        server.start()
        give_lead(ensemble.leader(), server.number)
        until(lambda: server.mode() == "leader", f"server {server.number} leads again")
        assert session.call(9, "/large", "get", []).body.get("result") == 44
    finally:
        new.kill()
        ensemble.kill()
