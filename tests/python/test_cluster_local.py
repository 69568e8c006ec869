"""`quorate cluster local`, as a user tries it: three servers with one command, and none of them left after Ctrl-C."""

import os
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Dict, Iterator, List

import pytest
from kazoo.client import KazooClient

from harness.servers import binary, free_port
from harness.waiting import DEADLINE_S, until
from test_cli import environment

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]

SERVERS = 3
#: Beyond the first server's HTTP port: HTTP, ZooKeeper's protocol and peers of each.
PORTS = [10 * server + offset for server in range(SERVERS) for offset in (0, 1, 8)]

READY = re.compile(r"server (\d+), process (\d+), ")


def free_block() -> int:
    """A port from which on all that the command takes are free."""
    while True:
        first = free_port()
        try:
            for offset in PORTS:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue


class Local:
    """The command in a session of its own, as in a terminal."""

    def __init__(self, directory: Path, port: int) -> None:
        self.process = subprocess.Popen(
            [str(binary()), "cluster", "local", str(directory / "local"), "--port", str(port)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.port = port
        self.said: List[str] = []
        #: By the server's id.
        self.processes: Dict[int, int] = {}
        timer = threading.Timer(DEADLINE_S, self.process.kill)
        timer.start()
        for line in self.process.stdout:
            self.said.append(line)
            found = READY.match(line)
            if found:
                self.processes[int(found.group(1))] = int(found.group(2))
            if "Ctrl-C stops all" in line:
                break
        timer.cancel()
        assert sorted(self.processes) == [1, 2, 3], self.said

    def hosts(self, server: int) -> str:
        return f"127.0.0.1:{self.port + 10 * (server - 1) + 1}"

    def quorate(self, *arguments: str) -> str:
        """The command line, at the first server's ports."""
        http = f"127.0.0.1:{self.port}"
        command = [str(binary()), "--server", self.hosts(1), "--http", http, *arguments]
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=DEADLINE_S
        )
        assert done.returncode == 0, done
        return done.stdout

    def end(self, by: str) -> None:
        """Ctrl-C in a terminal is told to all of its processes; `kill` tells the one."""
        if by == "Ctrl-C":
            os.killpg(self.process.pid, signal.SIGINT)
        else:
            self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=DEADLINE_S)
        self.said += out.splitlines(keepends=True)

    def left(self) -> List[int]:
        """The servers whose processes are still there."""
        return [server for server, pid in self.processes.items() if is_running(pid)]

    def kill(self) -> None:
        for pid in self.processes.values():
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def is_running(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    # Of one that has ended and that nobody has waited for it is empty; another's has no such word.
    return b"serve" in command


@pytest.fixture
def start(tmp_path) -> Iterator:
    started: List[Local] = []
    port = free_block()

    def begin() -> Local:
        started.append(Local(tmp_path, port))
        return started[-1]

    yield begin
    for local in started:
        local.kill()


@pytest.mark.parametrize("by", ["Ctrl-C", "SIGTERM"])
def test_a_local_ensemble_serves_until_it_is_ended_and_is_there_again_the_next_time(start, by):
    first = start()
    clients = []
    try:
        for server in range(1, SERVERS + 1):
            client = KazooClient(hosts=first.hosts(server), timeout=20)
            clients.append(client)
            client.start(timeout=30)
            client.create(f"/of-{server}", b"%d" % server)
        for client in clients:
            client.sync("/")
            assert {f"of-{server}" for server in range(1, SERVERS + 1)} <= set(client.get_children("/"))
    finally:
        for client in clients:
            client.stop()
            client.close()
    assert first.quorate("ls", "/").split()[:3] == ["of-1", "of-2", "of-3"]
    status = first.quorate("cluster", "status")
    assert len(re.findall(r"^ +\d .*127\.0\.0\.1:", status, re.M)) == SERVERS, status

    first.end(by)
    assert first.process.returncode == 0, first.said
    until(lambda: not first.left(), "no server is left")

    second = start()
    assert second.quorate("get", "/of-2") == "2"
    second.end(by)
    until(lambda: not second.left(), "no server is left")


def test_a_local_ensemble_goes_on_when_its_leader_is_killed(start):
    local = start()
    local.quorate("create", "/before", "x")
    leader = int(re.search(r"server (\d) leads", local.quorate("cluster", "status")).group(1))
    os.kill(local.processes[leader], signal.SIGKILL)
    other = next(server for server in local.processes if server != leader)
    client = KazooClient(hosts=local.hosts(other), timeout=20)
    client.start(timeout=30)
    try:
        assert client.get("/before")[0] == b"x"
        client.create("/after")
    finally:
        client.stop()
        client.close()
    local.end("Ctrl-C")
    assert any(f"server {leader} has ended" in line for line in local.said), local.said
    until(lambda: not local.left(), "no server is left")


def test_a_port_that_is_taken_is_told_with_what_this_command_can_do_about_it(tmp_path):
    port = free_block()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port + 1))
        other.listen()
        done = subprocess.run(
            [str(binary()), "cluster", "local", str(tmp_path / "local"), "--port", str(port)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
    assert done.returncode != 0
    assert f"server 1 has not started: cannot listen on 127.0.0.1:{port + 1}" in done.stderr, done
    assert "here --port chooses other ports" in done.stderr, done
