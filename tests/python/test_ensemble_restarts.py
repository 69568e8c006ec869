"""kill -9 of all servers of an ensemble under load, and their start in any order: nothing acknowledged is lost."""

import random
import time

import pytest

from harness.load import all_agree, connect
from harness.remembering import Writer, check_each_call_ran_once, kill_under_load
from harness.waiting import until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(170)]


def test_all_servers_killed_under_load_and_started_in_any_order(ensemble, request):
    rounds = max(3, request.config.getoption("--failover-rounds"))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    ensemble.servers[0].http.mount("/counters", "counter")
    connect(ensemble.servers[0]).create("/crash")
    writers = [Writer(ensemble.servers[number % 3], number, with_calls=True) for number in range(6)]
    for _ in range(rounds):
        kill_under_load(writers, rng, rng.sample(ensemble.servers, 3))
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
    check_each_call_ran_once(writers)
    all_agree(ensemble)
