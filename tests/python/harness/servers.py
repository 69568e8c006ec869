"""Starts the server under test: Quorate's, or Debian's ZooKeeper to check the tests themselves."""

import os
import random
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Callable, List, Optional, Tuple

from harness.http import Http
from harness.waiting import DEADLINE_S, until

REPOSITORY = Path(__file__).resolve().parents[3]


#: Each holds the name of a port that was given out, for as long as this process lives.
_taken: List[socket.socket] = []


def free_port() -> int:
    """A port that nobody listens on now, and that no test, here or in another process, is given again.

    Not one of those that the system gives to clients: a client that tries such a port before the
    server listens may be given the very same one, and is then connected to itself.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0quorate-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            name.close()
            continue
        _taken.append(name)
        return port


def binary() -> Path:
    """The server: $QUORATE_BINARY, or what `cargo build -p quorate` makes."""
    named = os.environ.get("QUORATE_BINARY")
    if named:
        return Path(named)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return target / "debug" / "quorate"


class Server:
    """A server process and where it listens."""

    name: str

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.address: Tuple[str, int] = ("127.0.0.1", free_port())
        self.log_path = directory / "server.log"
        self.process: Optional[subprocess.Popen] = None

    @property
    def hosts(self) -> str:
        """As kazoo takes it."""
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def command(self) -> List[str]:
        raise NotImplementedError

    def start(self, limit: Optional[Callable[[], None]] = None) -> "Server":
        """Starts it and waits until it serves. ``limit`` runs in the child before the server does."""
        self.start_only(limit)
        until(self.serves, f"{self.name} serves; its log:\n{self.log[-2000:]}")
        return self

    def start_only(self, limit: Optional[Callable[[], None]] = None) -> None:
        """Starts it and does not wait."""
        assert self.process is None
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                preexec_fn=limit,
            )

    def serves(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.log[-4000:]}")
        # `ruok` is answered before requests are: only a mode says that it serves.
        # ZooKeeper loses a word that comes too early, hence the short timeout.
        try:
            return "Mode:" in self.four_letter_word("srvr", timeout_s=0.5)
        except OSError:
            return False

    def four_letter_word(self, word: str, timeout_s: float = DEADLINE_S) -> str:
        """The answer to one of ZooKeeper's administrative words."""
        with socket.create_connection(self.address, timeout=timeout_s) as connection:
            connection.sendall(word.encode())
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            return answer.decode()

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(DEADLINE_S)
            self.process = None

    def pause(self) -> None:
        """SIGSTOP; every thread stands when this returns, which is later than the signal was sent."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        until(self._stands, "the server stands")

    def _stands(self) -> bool:
        assert self.process is not None
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        try:
            # The state stands behind the name, which is in brackets.
            return all(thread.read_text().rsplit(")", 1)[1].split()[0] == "T" for thread in threads)
        except OSError:
            # A thread has ended meanwhile.
            return False

    def go_on(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; gives the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(DEADLINE_S)
        self.process = None
        return status

    def restart(self) -> float:
        """kill -9 and start; gives the seconds from start to serving."""
        self.kill()
        begin = time.monotonic()
        self.start()
        return time.monotonic() - begin


class QuorateServer(Server):
    """`quorate serve` on free ports."""

    name = "quorate"

    def __init__(self, directory: Path, data_dir: Optional[Path] = None) -> None:
        super().__init__(directory)
        self.http_address = ("127.0.0.1", free_port())
        self.data_dir = data_dir or directory / "data"
        # Short sessions, so that expiry is quick to test.
        self.options = ["--min-session-timeout-ms", "500", "--max-session-timeout-ms", "60000"]

    @property
    def http(self) -> Http:
        return Http(f"http://{self.http_address[0]}:{self.http_address[1]}")

    def command(self) -> List[str]:
        return [
            str(binary()),
            "serve",
            "--data-dir",
            str(self.data_dir),
            "--listen",
            self.hosts,
            "--http",
            f"{self.http_address[0]}:{self.http_address[1]}",
            *self.options,
        ]

    def command_line(self, *arguments: str) -> List[str]:
        """The command line's arguments to talk to this server."""
        http = f"{self.http_address[0]}:{self.http_address[1]}"
        return [str(binary()), "--server", self.hosts, "--http", http, *arguments]


class ZookeeperServer(Server):
    """ZooKeeper from Debian's package `zookeeper`, standalone, fsync on."""

    name = "zookeeper"
    jar = Path("/usr/share/java/zookeeper.jar")

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.configuration = directory / "zoo.cfg"
        self.configuration.write_text(
            "tickTime=250\n"  # Sessions from half a second on, so that expiry is quick to test.
            "maxSessionTimeout=60000\n"
            f"dataDir={directory / 'data'}\n"
            f"clientPort={self.address[1]}\n"
            "clientPortAddress=127.0.0.1\n"
            "admin.enableServer=false\n"
            "4lw.commands.whitelist=*\n"
            "maxClientCnxns=0\n"
        )

    def command(self) -> List[str]:
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        return ["java", "-Xmx512m", "-cp", f"/etc/zookeeper/conf:{self.jar}", main, str(self.configuration)]


def file_size_limit(size: int) -> Callable[[], None]:
    """For ``Server.start``: no file of the child may grow beyond ``size`` bytes."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit
