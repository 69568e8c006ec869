"""Kills and stops the leader of three servers under load, and says what the clients of the others saw.

The same clients, over ZooKeeper's protocol, for Quorate and for ZooKeeper, half of which set znodes of their own
again and again and half of which take and release locks, all on the two servers that are not struck. On
ConnectionLoss a client connects again with its session, as a client library does. A pause is the longest time
between two answers that any writing client saw around the strike.

What must hold is checked: no acknowledged write is lost, none is executed twice, no two clients hold one lock, and
with Quorate no client loses its connection and the pauses are as short as promised.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional

from harness import wire as w
from harness.async_wire import AsyncWire
from harness.ensemble import Ensemble, Member
from harness.servers import Server, ZookeeperServer, free_port
from harness.waiting import until
from harness.wire import Closed, Reader, Wire

SESSION_MS = 30_000
LOCKS = 4
#: Before what is measured begins.
STEADY_S = 1.0
#: How long everything may take to go on after a strike, and to be whole again.
RECOVERY_S = 120.0

#: What Quorate promises, in ms: the median after a kill, the most after a kill, the most after a stop.
KILL_MEDIAN_MS, KILL_MOST_MS, STOP_MOST_MS = 300, 1000, 2000


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


class Wrong(Exception):
    """Something that must hold does not."""


class Client:
    """A client of one server that survives; connects again when it loses its connection, and counts that."""

    def __init__(self, server: Server, number: int) -> None:
        self.server, self.number = server, number
        self.wire: Optional[AsyncWire] = None
        self.answers, self.lost, self.longest = 0, 0, 0.0
        self.last = 0.0
        self.ending = False

    async def connect(self) -> None:
        """Connects with the session that it has, if it has one, as often as it takes."""
        old = self.wire
        more = {}
        if old is not None:
            more = {"session": old.session, "password": old.password, "last_zxid": old.last_zxid}
        deadline = time.monotonic() + RECOVERY_S
        while True:
            try:
                self.wire = await AsyncWire.connect(self.server.address, SESSION_MS, **more)
                if old is not None and self.wire.session != old.session:
                    raise Wrong(f"the session of client {self.number} has ended")
                return
            except (Closed, OSError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.01)

    async def prepare(self) -> None:
        await self.connect()

    def answered(self) -> None:
        now = time.monotonic()
        if self.last:
            self.longest = max(self.longest, now - self.last)
        self.last = now
        self.answers += 1

    async def run(self) -> None:
        while not self.ending:
            try:
                await self.turn()
            except (Closed, OSError):
                self.lost += 1
                await self.connect()

    async def turn(self) -> None:
        raise NotImplementedError


class Writer(Client):
    """Sets its znode to 1, 2, 3…"""

    async def prepare(self) -> None:
        await super().prepare()
        self.path = f"/client-{self.number}"
        reply = await self.wire.request(w.CREATE, w.create_body(self.path))
        if reply.err != w.OK:
            raise Wrong(f"{self.path} cannot be created: {reply}")
        self.sent = self.acknowledged = self.last_acknowledged = 0

    async def turn(self) -> None:
        self.sent += 1
        value = self.sent
        reply = await self.wire.request(w.SET_DATA, w.set_body(self.path, b"%0128d" % value))
        if reply.err != w.OK:
            raise Wrong(f"a write was answered with {reply.err}")
        self.acknowledged += 1
        self.last_acknowledged = value
        self.answered()

    def check(self, reader: Wire) -> None:
        """The znode's version counts how many sets were executed."""
        data, stat = reader.get(self.path)
        if int(data or b"0") < self.last_acknowledged:
            raise Wrong(f"{self.path}: {self.last_acknowledged} was acknowledged, {int(data or b'0')} is there")
        if not self.acknowledged <= stat.version <= self.acknowledged + self.lost:
            raise Wrong(
                f"{self.path}: {self.acknowledged} acknowledged writes, {self.lost} unknown ones,"
                f" {stat.version} executed"
            )


class Lock:
    """Who holds a lock, as the clients themselves see it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.holder: Optional[int] = None
        self.token = 0
        self.taken = 0

    def take(self, client: int, token: int) -> None:
        if self.holder is not None:
            raise Wrong(f"{self.name} is held by {self.holder}, and {client} holds it too")
        if token <= self.token:
            raise Wrong(f"{self.name}: token {token} came after {self.token}")
        self.holder, self.token = client, token
        self.taken += 1

    def give_back(self) -> None:
        self.holder = None


class Locker(Client):
    """Takes and releases a lock, over and over."""

    def __init__(self, server: Server, number: int, lock: Lock) -> None:
        super().__init__(server, number)
        self.lock = lock
        self.holding = self.releasing = False

    async def turn(self) -> None:
        if not self.holding:
            self.lock.take(self.number, await self.acquire())
            self.holding = True
        if not self.releasing:
            # Held for as long as one request takes, a lost connection or not.
            await self.wire.request(w.EXISTS, w.path_watch("/"))
            self.lock.give_back()
            self.releasing = True
        await self.release()
        self.holding = self.releasing = False
        self.answered()

    async def acquire(self) -> int:
        """Gives the token."""
        raise NotImplementedError

    async def release(self) -> None:
        raise NotImplementedError


class CallingLocker(Locker):
    """By calls of `fair-lock`. A call that was not answered is repeated with its key."""

    key = 1

    async def acquire(self) -> int:
        return int(json.loads(await self.call("acquire"))["token"])

    async def release(self) -> None:
        await self.call("release")

    async def call(self, operation: str) -> str:
        body = w.call_body(
            self.key, "/locks", operation, json.dumps([self.lock.name]), acknowledged=self.key - 1
        )
        reply = await self.wire.request(w.CALL, body)
        reader = Reader(reply.body)
        if reply.err != w.OK:
            raise Wrong(f"a call was answered with {reply.err}")
        status, result = reader.int(), reader.string() or ""
        while status == w.PARKED:
            answer = (await self.wire.event()).answer
            if answer and answer[0] == self.key:
                _, status, result = answer
        if status != w.RETURNED:
            raise Wrong(f"{operation} was answered with {status}: {result}")
        self.key += 1
        return result


class TicketLocker(Locker):
    """By tickets, as ZooKeeper's documentation has it and kazoo does: one's own is found again by a prefix."""

    async def acquire(self) -> int:
        base = f"/locks/{self.lock.name}"
        prefix = f"{self.number:08d}-"
        if not any(name.startswith(prefix) for name in await self.tickets(base)):
            body = w.create_body(f"{base}/{prefix}", flags=w.EPHEMERAL_SEQUENTIAL)
            if (reply := await self.wire.request(w.CREATE, body)).err != w.OK:
                raise Wrong(f"a ticket was answered with {reply.err}")
        while True:
            names = await self.tickets(base)
            own = next(at for at, name in enumerate(names) if name.startswith(prefix))
            if own == 0:
                break
            ahead = w.path_watch(f"{base}/{names[own - 1]}", True)
            if (await self.wire.request(w.EXISTS, ahead)).err == w.OK:
                await self.wire.event()
        self.ticket = f"{base}/{names[0]}"
        return int(names[0][len(prefix) :]) + 1

    async def release(self) -> None:
        reply = await self.wire.request(w.DELETE, w.path_version(self.ticket))
        if reply.err not in (w.OK, w.NO_NODE):
            raise Wrong(f"a release was answered with {reply.err}")

    async def tickets(self, base: str) -> List[str]:
        """In the order of their numbers."""
        reply = await self.wire.request(w.GET_CHILDREN, w.path_watch(base))
        names = [name or "" for name in Reader(reply.body).strings()]
        return sorted(names, key=lambda name: name.rsplit("-", 1)[1])


class Round(NamedTuple):
    pause_ms: float
    lost: int


class Run:
    """All rounds of one system."""

    def __init__(self, name: str, ensemble, locker: type, clients: int) -> None:
        self.name, self.ensemble, self.locker, self.clients = name, ensemble, locker, clients
        self.made = 0
        self.locks = [Lock(f"lock-{number}") for number in range(LOCKS)]
        self.writers: List[Writer] = []

    async def start(self) -> None:
        await asyncio.to_thread(self.ensemble.start)
        first = self.ensemble.servers[0]
        if isinstance(first, Member):
            await asyncio.to_thread(first.http.mount, "/locks", "fair-lock")
            return
        wire = Wire(first.address)
        wire.create("/locks")
        for lock in self.locks:
            wire.create(f"/locks/{lock.name}")
        wire.close_session()

    async def round(self, strike: Callable, heal: Callable) -> Round:
        servers = self.ensemble.servers
        leader = await asyncio.to_thread(
            until, lambda: leader_of(servers), f"{self.name}: somebody leads", RECOVERY_S
        )
        survivors = [server for server in servers if server is not leader]
        clients: List[Client] = []
        for number in range(self.clients):
            self.made += 1
            server = survivors[number // 2 % 2]
            if number % 2:
                clients.append(self.locker(server, self.made, self.locks[number // 2 % LOCKS]))
            else:
                clients.append(Writer(server, self.made))
        for client in clients:
            await client.prepare()
        running = [asyncio.create_task(client.run()) for client in clients]
        try:
            await asyncio.sleep(STEADY_S)
            for client in clients:
                client.longest = 0.0
            before = {client: client.answers for client in clients}
            await asyncio.to_thread(strike, leader)
            deadline = time.monotonic() + RECOVERY_S
            while not all(client.answers > before[client] + 5 for client in clients):
                for task in running:
                    if task.done():
                        task.result()
                if time.monotonic() > deadline:
                    raise Wrong("not all clients are answered again")
                await asyncio.sleep(0.005)
            for client in clients:
                client.ending = True
            await asyncio.wait_for(asyncio.gather(*running), RECOVERY_S)
        finally:
            for task in running:
                task.cancel()
        writers = [client for client in clients if isinstance(client, Writer)]
        self.writers += writers
        reader = await asyncio.to_thread(connect, survivors[0])
        for writer in writers:
            writer.check(reader)
        reader.close_session()
        for client in clients:
            await client.wire.request(w.CLOSE)
            client.wire.drop()
        await asyncio.to_thread(heal, leader)
        serves = lambda: mode(leader) is not None
        await asyncio.to_thread(until, serves, f"{self.name}: the struck server is back", RECOVERY_S)
        pause_ms = 1000 * max(writer.longest for writer in writers)
        return Round(pause_ms, sum(client.lost for client in clients))

    async def rounds(self, how: str, strike: Callable, heal: Callable, count: int) -> List[Round]:
        done = [await self.round(strike, heal) for _ in range(count)]
        pauses = [one.pause_ms for one in done]
        print(
            f"| {self.name} | {how}, {count} times | {statistics.median(pauses):,.0f} ms"
            f" | {max(pauses):,.0f} ms | {statistics.median(one.lost for one in done):.0f} |",
            flush=True,
        )
        return done

    def is_whole(self, server: Server) -> bool:
        reader = connect(server)
        if reader is None:
            return False
        try:
            for writer in self.writers:
                writer.check(reader)
            reader.close_session()
            return True
        except (Closed, OSError):
            return False

    def check_everywhere(self) -> str:
        """What was acknowledged in any round is at each server at the end."""
        for server in self.ensemble.servers:
            # A server that was struck a moment ago may turn a client away once more.
            until(lambda: self.is_whole(server), "a server is back", RECOVERY_S)
        acknowledged = sum(writer.acknowledged for writer in self.writers)
        taken = sum(lock.taken for lock in self.locks)
        return (
            f"{self.name}: {acknowledged:,} acknowledged writes, all there on each server, none executed twice;"
            f" locks taken {taken:,} times, never by two at once, tokens in order"
        )


def connect(server: Server) -> Optional[Wire]:
    try:
        reader = Wire(server.address, timeout_ms=SESSION_MS)
        reader.socket.settimeout(5)
        return reader if reader.request(w.SYNC, w.string("/")).err == w.OK else None
    except (Closed, OSError):
        return None


def stop(server: Server) -> None:
    server.process.send_signal(19)  # SIGSTOP


def go_on(server: Server) -> None:
    server.process.send_signal(18)  # SIGCONT


def promises_broken(kills: List[Round], stops: List[Round], any_pause: bool) -> List[str]:
    broken = []
    if any(one.lost for one in kills + stops):
        broken.append("a client of a surviving server lost its connection")
    if any_pause:
        return broken
    if kills and statistics.median(one.pause_ms for one in kills) > KILL_MEDIAN_MS:
        broken.append(f"the median pause after a kill is above {KILL_MEDIAN_MS} ms")
    if any(one.pause_ms > KILL_MOST_MS for one in kills):
        broken.append(f"a pause after a kill is above {KILL_MOST_MS} ms")
    if any(one.pause_ms > STOP_MOST_MS for one in stops):
        broken.append(f"a pause after a stop is above {STOP_MOST_MS} ms")
    return broken


async def measure(options, directory: Path) -> int:
    systems: Dict[str, tuple] = {
        "Quorate": (Ensemble, CallingLocker),
        "ZooKeeper": (ZookeeperEnsemble, TicketLocker),
    }
    said, failed = [], []
    print("| | strike | pause, median | pause, most | lost connections per strike |")
    print("| --- | --- | ---: | ---: | ---: |", flush=True)
    for name, (make, locker) in systems.items():
        if options.only and name.lower() != options.only:
            continue
        run = Run(name, make(directory / name), locker, options.clients)
        try:
            await run.start()
            kills = await run.rounds("kill -9", Server.kill, Server.start_only, options.kills)
            stops = await run.rounds("SIGSTOP", stop, go_on, options.stops)
            said.append(await asyncio.to_thread(run.check_everywhere))
            if name == "Quorate":
                failed += promises_broken(kills, stops, options.any_pause)
                all_kills = ", ".join(f"{one.pause_ms:.0f}" for one in kills)
                all_stops = ", ".join(f"{one.pause_ms:.0f}" for one in stops)
                said.append(f"its pauses in ms, after kills: {all_kills}; after stops: {all_stops}")
        except Wrong as wrong:
            failed.append(f"{name}: {wrong}")
        finally:
            run.ensemble.kill()
    print()
    for line in said:
        print(line)
    load = os.getloadavg()
    print(f"{os.cpu_count()} processors; load average at the end {load[0]:.1f}, {load[1]:.1f}, {load[2]:.1f}")
    for line in failed:
        print(f"FAILED: {line}")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--only", choices=["quorate", "zookeeper"])
    parser.add_argument("--any-pause", action="store_true", help="do not judge how long pauses are")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(measure(options, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
