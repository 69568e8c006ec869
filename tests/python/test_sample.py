"""The sample that this project began with, as a process of its own."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from harness.servers import Server

SAMPLE = Path(__file__).with_name("sample.py")
PORT = 2181


def port_is_free() -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            return False
        return True


@pytest.fixture
def sample(fresh_server: Server, tmp_path: Path, capsys) -> tuple:
    """(the server, the sample's file): as it stands if its port is free."""
    if port_is_free():
        fresh_server.address = ("127.0.0.1", PORT)
        if hasattr(fresh_server, "configuration"):
            text = fresh_server.configuration.read_text()
            port = next(line for line in text.splitlines() if line.startswith("clientPort="))
            fresh_server.configuration.write_text(text.replace(port, f"clientPort={PORT}"))
        return fresh_server.start(), SAMPLE
    with capsys.disabled():
        print(f"\nport {PORT} is taken: the sample runs with another port in its place")
    fresh_server.start()
    replaced = tmp_path / "sample.py"
    replaced.write_text(SAMPLE.read_text().replace(f"localhost:{PORT}", fresh_server.hosts))
    return fresh_server, replaced


def run(sample: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(sample), *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_sample(sample):
    server, script = sample
    zk = KazooClient(hosts=server.hosts)
    zk.start()
    zk.create("/my_app")
    assert run(script) == "[(b'initial_config_data', 0), (b'updated_config_data', 1)]"
    assert zk.get("/my_app/config")[0] == b"updated_config_data"
    zk.delete("/my_app/config")
    assert run(script, "--delete") == (
        "[(b'initial_config_data', 0), (b'updated_config_data', 1), (None, None)]"
    )
    assert zk.exists("/my_app/config") is None
    zk.stop()
    zk.close()
