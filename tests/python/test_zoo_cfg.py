"""Servers that are configured by ZooKeeper's own files, as they are: an ensemble of three, and what is said of a file."""

import subprocess
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from harness.servers import QuorateServer, binary, free_port
from harness.waiting import DEADLINE_S, until
from harness.wire import Closed, Wire

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


class SingleServer(QuorateServer):
    """Knows nothing but a file, whatever its name, and where its HTTP port is to be."""

    def __init__(self, directory: Path, lines: str, name: str = "zoo.cfg") -> None:
        super().__init__(directory)
        self.config = directory / name
        self.config.write_text(f"dataDir={directory / 'data'}\n{lines}")

    def command(self) -> list:
        http = f"{self.http_address[0]}:{self.http_address[1]}"
        return [str(binary()), "serve", "--config", str(self.config), "--http", http]

    def refusal(self) -> str:
        done = subprocess.run(self.command(), capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode != 0, done
        return done.stderr


def test_what_has_no_effect_is_named_and_the_whitelist_and_the_limit_are_kept(tmp_path):
    port = free_port()
    server = SingleServer(
        tmp_path,
        f"clientPort={port}\nclientPortAddress=::1\ndataLogDir=/fast/disk\n4lw.commands.whitelist=ruok\n"
        "admin.enableServer=false\ninitLimit=10\nsyncLimit=5\nstandaloneEnabled=false\nauthProvider.1=x\n",
        name="zookeeper.properties",
    )
    server.address = ("::1", port)
    server.start()
    clients = []
    try:
        for said in (
            "dataLogDir has no effect: the log goes into dataDir",
            "admin.enableServer has no effect",
            "authProvider.1 has no meaning here",
        ):
            assert said in server.log
        for quiet in ("initLimit", "syncLimit", "standaloneEnabled"):
            assert quiet not in server.log
        assert server.four_letter_word("ruok") == "imok"
        assert "whitelist" in server.four_letter_word("mntr")
        # ZooKeeper's default for connections of one address.
        with pytest.raises((Closed, OSError)):
            while len(clients) < 70:
                clients.append(Wire(server.address))
        # The words' connections may just be ending.
        assert 57 <= len(clients) <= 60
    finally:
        for client in clients:
            client.socket.close()
        server.kill()


@pytest.mark.parametrize(
    "name, lines, said",
    [
        ("zoo.cfg", "clientPort=1\nserver.0=a:1:2\n", "line 3: no server has the id 0 here"),
        ("zk.conf", "clientPort=1\ngroup.1=1:2:3\n", "line 3: hierarchical quorums are not supported"),
        ("kafka.properties", "clientPort=fast\n", "line 2: not a port: clientPort=fast"),
        ("zoo.cfg", "clientPort=1\nclientPortAddress=a:b\n", "line 3: not an address"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_key(tmp_path, name, lines, said):
    message = SingleServer(tmp_path, lines, name).refusal()
    assert said in message and str(tmp_path / name) in message, message
    assert "--listen" not in message
