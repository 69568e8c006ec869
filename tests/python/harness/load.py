"""Clients of an ensemble: those that keep it busy and judge it, and what all servers must agree on afterwards."""

import json
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Dict, List

from harness import wire as w
from harness.ensemble import Ensemble, Member
from harness.waiting import DEADLINE_S, until
from harness.wire import RETURNED, Wire

SESSION_MS = 20_000
#: Longer than any pause, and shorter than a client's patience. How long pauses are, tests/bench/failover judges.
PAUSE_S = 5.0


def connect(server: Member, timeout_ms: int = SESSION_MS, **more) -> Wire:
    return Wire(server.address, timeout_ms=timeout_ms, **more)


def sync(client: Wire, path: str = "/") -> None:
    assert client.request(w.SYNC, w.string(path)).err == w.OK


class Writer(threading.Thread):
    """Writes and calls one after the other on one connection; any error ends it and is kept."""

    def __init__(self, server: Member, number: int, counter: str = "shared") -> None:
        super().__init__(daemon=True)
        self.server = server
        self.arguments = json.dumps([counter, 1])
        self.client = connect(server)
        self.path = f"/writer-{number}"
        self.client.create(self.path, b"0")
        self.acknowledged = 0
        self.added: List[int] = []
        self.longest = 0.0
        self.error: BaseException | None = None
        self.ending = threading.Event()

    def run(self) -> None:
        try:
            last = time.monotonic()
            key = 0
            while not self.ending.is_set():
                self.client.set(self.path, b"%d" % (self.acknowledged + 1))
                self.acknowledged += 1
                key += 1
                status, result = self.client.call(
                    key, "/counters", "add", self.arguments, acknowledged=key - 1
                )
                assert status == RETURNED, (status, result)
                self.added.append(int(json.loads(result)))
                now = time.monotonic()
                self.longest = max(self.longest, now - last)
                last = now
        except BaseException as error:  # kept for the main thread
            self.error = error

    def take_longest(self) -> float:
        longest, self.longest = self.longest, 0.0
        return longest


class Load:
    """Writers on some servers, all of which must survive: nobody sees an error, each call is executed once."""

    def __init__(
        self, servers: List[Member], count: int = 4, first: int = 0, counter: str = "shared"
    ) -> None:
        servers[0].http.mount("/counters", "counter")
        # Whoever leads next is to have it compiled too: that takes a while where many servers share a machine.
        until(lambda: all(has_compiled(server) for server in servers), "the recipe is ready everywhere")
        self.writers = [
            Writer(servers[n % len(servers)], first + n, counter) for n in range(count)
        ]
        for writer in self.writers:
            writer.start()
        self.progress()

    def progress(self, timeout_s: float = DEADLINE_S) -> None:
        """Waits until every writer has been answered again, a few times."""
        before = {writer: len(writer.added) for writer in self.writers}
        until(
            lambda: all(w.error or len(w.added) > before[w] + 3 for w in self.writers),
            "all write",
            timeout_s,
        )
        self.check()

    def check(self) -> None:
        for writer in self.writers:
            error = writer.error
            assert error is None, f"a client of server {writer.server.number}, which survives, saw {error!r}"

    def take_longest(self) -> float:
        """The longest that any of them has waited since this was asked last."""
        return max(writer.take_longest() for writer in self.writers)

    def end(self) -> None:
        for writer in self.writers:
            writer.ending.set()
        for writer in self.writers:
            writer.join(DEADLINE_S)
            assert not writer.is_alive(), "a writer is not answered"
        self.check()
        added = sorted(value for writer in self.writers for value in writer.added)
        assert added == list(range(1, len(added) + 1)), "each call was executed once"
        client = self.writers[0].client
        sync(client)
        for writer in self.writers:
            assert client.get(writer.path)[0] == b"%d" % writer.acknowledged


def has_compiled(server: Member) -> bool:
    numbers = dict(re.findall(r"^quorate_(compiled_total|compiling) (\d+)$", server.http.get("/metrics").body, re.M))
    return int(numbers["compiled_total"]) > 0 and numbers["compiling"] == "0"


def mount_when_pushed(server: Member, path: str, recipe: str, **more) -> None:
    """Mounts a standard recipe; the first leader of a new ensemble pushes those once it leads."""
    pushed = lambda: server.http.get(f"/v1/recipes/{recipe}").status == 200
    until(pushed, f"there is a recipe {recipe}")
    server.http.mount(path, recipe, **more)


def image(server: Member) -> Dict[str, tuple]:
    """All znodes as a server has them, with their stats; of their data the hash."""
    client = connect(server)
    sync(client)
    found, paths = {}, ["/"]
    while paths:
        path = paths.pop()
        data, stat = client.get(path)
        found[path] = (hash(data), stat)
        paths += [f"{path.rstrip('/')}/{name}" for name in client.children(path)]
    client.close_session()
    return found


def all_agree(ensemble: Ensemble) -> None:
    """All servers have the same state. Nobody may be writing."""
    first, *rest = ensemble.servers
    wanted = image(first)
    for server in rest:
        found = image(server)
        differing = [path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path)]
        assert not differing, f"servers {first.number} and {server.number} differ: {differing[:5]}"


def memory_bytes(server: Member, field: str = "VmRSS") -> int:
    """What a server's process holds; with VmHWM the most that it ever held."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.M)
    assert found, status
    return int(found.group(1)) << 10


def cluster(server: Member, *arguments: str) -> dict:
    done = _cluster(server, *arguments)
    assert done.returncode == 0, (arguments, done.stderr)
    return json.loads(done.stdout)


def give_lead(asked: Member, to: int) -> None:
    """Hands the lead to server ``to``. On a busy machine another may be elected meanwhile: then it is handed on."""

    def given() -> bool:
        done = _cluster(asked, "transfer-leader", str(to))
        assert done.returncode == 0 or "was elected instead" in done.stderr, done.stderr
        return done.returncode == 0

    until(given, f"server {to} leads")


def _cluster(server: Member, *arguments: str) -> subprocess.CompletedProcess:
    command = server.command_line("--json", "cluster", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=60)
