"""kill -9 of all servers of an ensemble under load, and their start in any order: nothing acknowledged is lost."""

import json
import random
import threading
import time
from typing import Iterator

import pytest

from harness import wire as w
from harness.ensemble import Ensemble
from harness.load import all_agree, connect
from harness.remembering import Writer
from harness.waiting import until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(170)]


@pytest.fixture
def ensemble(tmp_path) -> Iterator[Ensemble]:
    running = Ensemble(tmp_path).start()
    yield running
    running.close()


def test_all_servers_killed_under_load_and_started_in_any_order(ensemble, request):
    rounds = max(3, request.config.getoption("--failover-rounds"))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    ensemble.servers[0].http.mount("/counters", "counter")
    connect(ensemble.servers[0]).create("/crash")
    writers = [Writer(ensemble.servers[number % 3], number, with_calls=True) for number in range(6)]
    for _ in range(rounds):
        before = [writer.acknowledgements() for writer in writers]
        threads = [
            threading.Thread(
                target=writer.write_until_killed, args=(random.Random(rng.random()),), daemon=True
            )
            for writer in writers
        ]
        for thread in threads:
            thread.start()
        until(
            lambda: all(one.acknowledgements() > had for one, had in zip(writers, before)),
            "every writer has written",
        )
        # Not to be right, but to hit another moment each time.
        time.sleep(rng.uniform(0, 0.2))
        for server in rng.sample(ensemble.servers, 3):
            server.kill()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        for server in rng.sample(ensemble.servers, 3):
            server.start_only()
            time.sleep(rng.uniform(0, 0.1))
        for server in ensemble.servers:
            until(server.serves, f"server {server.number} serves:\n{server.log[-2000:]}")
        for writer in writers:
            writer.server = rng.choice(ensemble.servers)
            writer.reconnect()
            writer.repeat_unknown_calls()
            writer.check()
    calls = sum(len(writer.results) for writer in writers)
    status, result = writers[0].wire.call(10**9, "/counters", "get", '["c"]')
    assert status == w.RETURNED
    assert json.loads(result) == calls == sum(one.next_key - 1 for one in writers)
    every = sorted(value for writer in writers for value in writer.results.values())
    assert every == list(range(1, calls + 1)), "each call saw the counter at a value of its own"
    all_agree(ensemble)
