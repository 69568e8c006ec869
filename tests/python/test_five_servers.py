"""Five servers: two may die, three may not; and whoever comes back in whichever order has lost nothing."""

import random
import subprocess
from typing import Iterator

import pytest

from harness import wire as w
from harness.ensemble import Ensemble
from harness.load import Load, all_agree, cluster, connect, sync
from harness.waiting import until
from harness.wire import Closed

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(170)]

#: Of the sessions that are to be let go: two thirds of it later they are.
SHORT_SESSION_MS = 3000


@pytest.fixture
def ensemble(tmp_path) -> Iterator[Ensemble]:
    running = Ensemble(tmp_path, voters=5).start()
    yield running
    running.kill()


def test_five_servers_survive_the_death_of_two_and_stop_at_that_of_three(ensemble):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    leader = ensemble.leader()
    killed = [leader, rng.choice(ensemble.others(leader))]
    survivors = [server for server in ensemble.servers if server not in killed]
    load = Load(survivors, count=6)
    for server in killed:
        server.kill()
        load.progress()
    load.end()

    third = rng.choice(survivors)
    left = [server for server in survivors if server is not third]
    clients = [connect(server, SHORT_SESSION_MS) for server in left]
    for number, client in enumerate(clients):
        client.create(f"/left-{number}", b"acknowledged")
    third.kill()
    for number, client in enumerate(clients):
        client.send(w.SET_DATA, w.set_body(f"/left-{number}", b"without a quorum"))
    for client in clients:
        with pytest.raises(Closed):
            client.receive()
    for server in left:
        status = until(lambda: not_led(server), f"server {server.number} says that nobody leads")
        assert len(status["members"]) == 5 and status["quorum_age_ms"] >= 2000
        assert "no quorum for" in server.failure()
        said = subprocess.run(server.command_line("cluster", "status"), capture_output=True, text=True)
        assert "not currently serving requests" in server.four_letter_word("srvr")
        assert "hears of no leader: its writes wait" in said.stdout and "no quorum for" in said.stdout, said

    back = [*killed, third]
    rng.shuffle(back)
    for server in back:
        server.start_only()
    for server in ensemble.servers:
        until(server.serves, f"server {server.number} serves:\n{server.log[-2000:]}")
    for server in ensemble.servers:
        client = connect(server)
        sync(client)
        for writer in load.writers:
            assert client.get(writer.path)[0] == b"%d" % writer.acknowledged
        for number in range(len(left)):
            # Nobody was told what became of the other write.
            assert client.get(f"/left-{number}")[0] in (b"acknowledged", b"without a quorum")
        client.create(f"/again-{server.number}")
        assert server.failure() == ""
    all_agree(ensemble)
    added = sum(len(writer.added) for writer in load.writers)
    assert connect(left[0]).call(1, "/counters", "get", '["shared"]') == (w.RETURNED, str(added))


def not_led(server) -> dict | None:
    status = cluster(server, "status")
    return status if status["leader"] is None else None
