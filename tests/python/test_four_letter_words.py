"""The words that operators send with `nc`: ruok, srvr, stat and mntr."""

import re

import pytest

from harness import wire as w

pytestmark = pytest.mark.timeout(60)


def test_ruok(server):
    assert server.four_letter_word("ruok") == "imok"


def test_srvr(server):
    answer = server.four_letter_word("srvr")
    assert re.search(r"^Zookeeper version: ", answer, re.M)
    assert re.search(r"^Latency min/avg/max: ", answer, re.M)
    assert re.search(r"^Received: \d+$", answer, re.M)
    assert re.search(r"^Sent: \d+$", answer, re.M)
    assert re.search(r"^Connections: \d+$", answer, re.M)
    assert re.search(r"^Outstanding: \d+$", answer, re.M)
    assert re.search(r"^Zxid: 0x[0-9a-f]+$", answer, re.M)
    assert re.search(r"^Mode: (standalone|leader)$", answer, re.M)
    assert re.search(r"^Node count: \d+$", answer, re.M)


def test_stat_lists_the_connections(server, wire):
    zk = wire()
    port = zk.socket.getsockname()[1]
    answer = server.four_letter_word("stat")
    assert re.search(r"^Clients:$", answer, re.M)
    assert re.search(rf"^ /127\.0\.0\.1:{port}\[\d\]\(queued=\d+,recved=\d+,sent=\d+\)$", answer, re.M)
    assert re.search(r"^Mode: ", answer, re.M)


def values(server) -> dict:
    return dict(line.split("\t", 1) for line in server.four_letter_word("mntr").splitlines())


def test_mntr_counts_what_is_there(server, wire, base):
    zk = wire()
    before = values(server)
    for name in (
        "zk_version",
        "zk_server_state",
        "zk_avg_latency",
        "zk_packets_received",
        "zk_packets_sent",
        "zk_num_alive_connections",
        "zk_outstanding_requests",
        "zk_znode_count",
        "zk_watch_count",
        "zk_ephemerals_count",
        "zk_approximate_data_size",
    ):
        assert name in before, name
    assert before["zk_server_state"] in ("standalone", "leader")
    zk.create(f"{base}/e", flags=w.EPHEMERAL)
    zk.get(f"{base}/e", watch=True)
    after = values(server)

    def grown(name: str) -> int:
        return int(float(after[name])) - int(float(before[name]))

    assert grown("zk_znode_count") == 1
    assert grown("zk_ephemerals_count") == 1
    assert grown("zk_watch_count") == 1
    assert grown("zk_packets_received") >= 2


def test_kazoos_own_words(kazoo):
    zk = kazoo()
    assert zk.command(b"ruok") == "imok"
    assert zk.server_version()[0] >= 3
