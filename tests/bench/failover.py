"""Kills and stops the leader of three servers under load, and says what the clients of the others saw.

The same clients, over ZooKeeper's protocol, for Quorate and for ZooKeeper: each sets its own znode again and
again on a server that survives, and on ConnectionLoss connects again with its session, as a client library does.
A pause is the longest time between two answers that any of them saw around the strike.
"""

import argparse
import re
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Callable, List, Optional

from harness.ensemble import Ensemble
from harness.servers import Server, ZookeeperServer, free_port
from harness.waiting import until
from harness.wire import Closed, Wire

SESSION_MS = 30_000


def mode(server: Server) -> Optional[str]:
    try:
        found = re.search(r"Mode: (\w+)", server.four_letter_word("srvr", timeout_s=0.5))
    except OSError:
        return None
    return found and found.group(1)


def leader_of(servers: List[Server]) -> Optional[Server]:
    """The leader, once all serve and only one says that it leads."""
    modes = [mode(server) for server in servers]
    if sorted(modes, key=str) != ["follower", "follower", "leader"]:
        return None
    return servers[modes.index("leader")]


class ZookeeperEnsemble:
    """Three servers of Debian's package, with ZooKeeper's usual times."""

    def __init__(self, directory: Path) -> None:
        self.servers: List[ZookeeperServer] = []
        ports = [(free_port(), free_port()) for _ in range(3)]
        lines = "".join(f"server.{n}=127.0.0.1:{a}:{b}\n" for n, (a, b) in enumerate(ports, 1))
        for number in (1, 2, 3):
            server = ZookeeperServer(directory / f"zookeeper-{number}")
            data = server.directory / "data"
            data.mkdir()
            (data / "myid").write_text(f"{number}\n")
            text = server.configuration.read_text().replace("tickTime=250", "tickTime=2000")
            server.configuration.write_text(text + "initLimit=10\nsyncLimit=5\n" + lines)
            self.servers.append(server)

    def start(self) -> None:
        for server in self.servers:
            server.start_only()
        for server in self.servers:
            until(server.serves, "a server of ZooKeeper serves")

    def kill(self) -> None:
        for server in self.servers:
            server.kill()


class Client(threading.Thread):
    """Sets its znode again and again; counts lost connections and the longest gap between answers."""

    def __init__(self, server: Server, number: int) -> None:
        super().__init__(daemon=True)
        self.server, self.path = server, f"/client-{number}"
        # A server that was struck a moment ago may turn a client away once more.
        self.wire = until(self.connect, f"a client connects to {server.address}")
        self.answers, self.lost, self.longest = 0, 0, 0.0
        self.ending = threading.Event()

    def connect(self) -> Optional[Wire]:
        try:
            wire = Wire(self.server.address, timeout_ms=SESSION_MS)
            wire.create(self.path)
            return wire
        except (Closed, OSError):
            return None

    def run(self) -> None:
        last = time.monotonic()
        while not self.ending.is_set():
            try:
                self.wire.set(self.path, b"x" * 128)
            except (Closed, OSError):
                self.lost += 1
                self.reconnect()
                continue
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now
            self.answers += 1

    def reconnect(self) -> None:
        old = self.wire
        while not self.ending.is_set():
            try:
                self.wire = Wire(
                    self.server.address,
                    timeout_ms=SESSION_MS,
                    session=old.session,
                    password=old.password,
                    last_zxid=old.last_zxid,
                )
                return
            except (Closed, OSError):
                time.sleep(0.01)


def measure(name: str, ensemble, how: str, strike: Callable, heal: Callable, rounds: int, clients: int) -> None:
    pauses, lost = [], []
    for round_number in range(rounds):
        leader = until(lambda: leader_of(ensemble.servers), "somebody leads", timeout_s=60)
        survivors = [server for server in ensemble.servers if server is not leader]
        running = [
            Client(survivors[number % 2], 1000 * round_number + 100 * (how != "kill -9") + number)
            for number in range(clients)
        ]
        for client in running:
            client.start()
        time.sleep(1)  # What is measured begins under steady load.
        for client in running:
            client.longest = 0.0
        before = {client: client.answers for client in running}
        strike(leader)
        again = lambda: all(client.answers > before[client] + 5 for client in running)
        until(again, f"{name}: all clients write again", timeout_s=120)
        for client in running:
            client.ending.set()
        for client in running:
            client.join(30)
            client.wire.drop()
        pauses.append(1000 * max(client.longest for client in running))
        lost.append(sum(client.lost for client in running))
        heal(leader)
        until(lambda: mode(leader) is not None, f"{name}: the struck server is back", timeout_s=60)
    print(
        f"| {name} | {how} | {statistics.median(pauses):,.0f} ms | {max(pauses):,.0f} ms "
        f"| {statistics.median(lost):.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--clients", type=int, default=12)
    options = parser.parse_args()
    print("| | strike | pause, median | pause, most | lost connections per strike |")
    print("| --- | --- | ---: | ---: | ---: |", flush=True)

    def send(number: signal.Signals) -> Callable[[Server], None]:
        return lambda server: server.process.send_signal(number)

    with tempfile.TemporaryDirectory() as directory:
        for name, make in (("Quorate", Ensemble), ("ZooKeeper", ZookeeperEnsemble)):
            ensemble = make(Path(directory) / name)
            try:
                ensemble.start()
                kill = (Server.kill, Server.start_only)
                measure(name, ensemble, "kill -9", *kill, options.rounds, options.clients)
                hang = (send(signal.SIGSTOP), send(signal.SIGCONT))
                measure(name, ensemble, "SIGSTOP", *hang, max(1, options.rounds // 2), options.clients)
            finally:
                ensemble.kill()


if __name__ == "__main__":
    main()
