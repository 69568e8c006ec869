"""Three servers that are configured by ZooKeeper's own files, as they are."""

from pathlib import Path

import pytest
from kazoo.client import KazooClient

from harness.servers import QuorateServer, binary, free_port
from harness.waiting import DEADLINE_S, until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]


class ConfiguredServer(QuorateServer):
    """Knows nothing but its zoo.cfg, and where its HTTP port is to be."""

    def __init__(self, directory: Path, number: int, members: str) -> None:
        super().__init__(directory)
        data = directory / "data"
        data.mkdir()
        (data / "myid").write_text(f"{number}\n")
        self.config = directory / "zoo.cfg"
        self.config.write_text(
            "# As ZooKeeper's documentation has it.\n"
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\n"
            f"dataDir={data}\nclientPort={self.address[1]}\nclientPortAddress=127.0.0.1\n"
            f"{members}jute.maxbuffer=4194304\nsnapCuont=100000\n"
        )

    def command(self) -> list:
        http = f"{self.http_address[0]}:{self.http_address[1]}"
        return [str(binary()), "serve", "--config", str(self.config), "--http", http]


def test_an_ensemble_of_zoo_cfg_files(tmp_path):
    members = "".join(f"server.{n}=127.0.0.1:{free_port()}:{free_port()}\n" for n in (1, 2, 3))
    servers = [ConfiguredServer(tmp_path / f"server-{n}", n, members) for n in (1, 2, 3)]
    for server in servers:
        server.start_only()
    try:
        for server in servers:
            until(server.serves, f"it serves:\n{server.log[-2000:]}")
            # What it does not know it names.
            assert "snapCuont" in server.log
        client = KazooClient(hosts=",".join(server.hosts for server in servers), timeout=10)
        client.start(timeout=DEADLINE_S)
        client.create("/made", b"by any")
        config, _ = client.get("/zookeeper/config")
        assert config.decode().count("participant") == 3
        # The one that leads goes, and is not missed.
        leads = lambda server: "Mode: leader" in server.four_letter_word("srvr")
        [leader] = [server for server in servers if leads(server)]
        leader.kill()
        client.retry(client.set, "/made", b"by the others")
        leader.start()
        client.stop()
        client.close()
        client = KazooClient(hosts=leader.hosts, timeout=10)
        client.start(timeout=DEADLINE_S)
        client.sync("/made")
        assert client.get("/made")[0] == b"by the others"
        client.stop()
        client.close()
    finally:
        for server in servers:
            server.kill()
