"""What snapshots of a large state cost: writes that wait meanwhile, a restart, a member that receives one.

Clients set small znodes again and again, while another writes so much that snapshots become due. Whether one is
being taken is seen in the data directory. Every write's time is put to the writes beside a snapshot or to those
without one; nothing else differs between the two. A write waits for the disk, which waits for whatever it likes; so a
process of its own reads all the while: a read waits for nothing but the server.
"""

import argparse
import asyncio
import gc
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import List, NamedTuple

from harness import wire as w
from harness.async_wire import AsyncWire
from harness.ensemble import Ensemble, Member
from harness.load import cluster, connect, memory_bytes, sync
from harness.waiting import until
from harness.wire import Wire

DATA_BYTES = 100
#: Of one multi while the tree is filled, and how many multis are under way.
CREATES, UNDER_WAY = 200, 32
#: What makes snapshots due: so much is written, in pieces of so much.
BALLAST_BYTES, BALLAST_PER_S = 100_000, 16 << 20
#: Between two looks at the data directory and at the event loop itself.
LOOK_S = 0.002
PATIENCE_S = 300.0
MEBIBYTE = 1 << 20


class Span(NamedTuple):
    """Of a request or of a snapshot, on the machine's monotonic clock."""

    begin: float
    end: float

    def touches(self, other: "Span") -> bool:
        return other.begin < self.end and self.begin < other.end

    @property
    def took_ms(self) -> float:
        return 1000 * (self.end - self.begin)


async def fill(address, znodes: int) -> float:
    """Gives the seconds that it took."""
    begin = time.monotonic()
    client = await AsyncWire.connect(address)
    for name in ("/many", "/hot"):
        await client.request(w.CREATE, w.create_body(name))
    waiting: List[asyncio.Future] = []
    for start in range(0, znodes, CREATES):
        if start % 1000 == 0:
            # Children of one znode each, a thousand by a thousand.
            waiting.append(client.send(w.CREATE, w.create_body(f"/many/{start // 1000}")))
        parts = [
            (w.CREATE, w.create_body(f"/many/{n // 1000}/{n}", b"x" * DATA_BYTES))
            for n in range(start, min(start + CREATES, znodes))
        ]
        waiting.append(client.send(w.MULTI, w.multi_body(parts)))
        while len(waiting) > UNDER_WAY:
            assert (await waiting.pop(0)).err == w.OK
    for future in waiting:
        assert (await future).err == w.OK
    client.drop()
    return time.monotonic() - begin


def being_taken(server: Member) -> bool:
    return any(path.suffix == ".partial" for path in (server.data_dir / "raft" / "snapshots").iterdir())


class Watching:
    """When snapshots were taken, and how late the event loop itself was."""

    def __init__(self, server: Member) -> None:
        self.server = server
        self.snapshots: List[Span] = []
        self.lag = 0.0

    async def run(self) -> None:
        begun = None
        while True:
            before = time.monotonic()
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            self.lag = max(self.lag, now - before - LOOK_S)
            if being_taken(self.server):
                begun = begun or before
            elif begun:
                self.snapshots.append(Span(begun, now))
                begun = None


async def write_small(client: AsyncWire, number: int, writes: List[Span]) -> None:
    path = f"/hot/{number}"
    await client.request(w.CREATE, w.create_body(path))
    body = w.set_body(path, b"x" * DATA_BYTES)
    while True:
        begin = time.monotonic()
        assert (await client.request(w.SET_DATA, body)).err == w.OK
        writes.append(Span(begin, time.monotonic()))
        # Steady, not as much as there can be: what is measured is waiting for a snapshot, not for one another.
        await asyncio.sleep(0.002)


async def write_ballast(client: AsyncWire) -> None:
    path = "/hot/ballast"
    await client.request(w.CREATE, w.create_body(path))
    body = w.set_body(path, b"x" * BALLAST_BYTES)
    while True:
        begin = time.monotonic()
        assert (await client.request(w.SET_DATA, body)).err == w.OK
        await asyncio.sleep(max(0.0, begin + BALLAST_BYTES / BALLAST_PER_S - time.monotonic()))


def read_until_told(address, done) -> None:
    """In a process of its own; gives its reads, and how late it was itself at most, through ``done``."""
    gc.disable()
    client = Wire(address)
    reads, lag = [], 0.0
    while not done.poll():
        begin = time.monotonic()
        client.exists("/hot")
        end = time.monotonic()
        reads.append(Span(begin, end))
        time.sleep(LOOK_S)
        lag = max(lag, time.monotonic() - end - LOOK_S)
    done.send((reads, lag))


def print_times(what: str, some: List[Span], snapshots: List[Span]) -> None:
    beside = [span for span in some if any(snapshot.touches(span) for snapshot in snapshots)]
    without = set(some) - set(beside)
    print(f"| {what} | number | median | p99 | p99.9 | most |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, spans in (("without a snapshot", without), ("beside a snapshot", beside)):
        times = sorted(span.took_ms for span in spans)
        at = lambda share: times[min(len(times) - 1, int(share * len(times)))]
        print(
            f"| {name} | {len(times):,} | {at(0.5):.2f} ms | {at(0.99):.2f} ms | {at(0.999):.2f} ms"
            f" | {times[-1]:.1f} ms |"
        )
    for snapshot in snapshots:
        worst = max((span for span in beside if snapshot.touches(span)), key=lambda span: span.took_ms)
        print(
            f"  a snapshot of {snapshot.took_ms / 1000:.2f} s: the longest took"
            f" {worst.took_ms:.1f} ms, begun {worst.begin - snapshot.begin:.2f} s after it"
        )
    for span in sorted(without, key=lambda span: -span.took_ms)[:3]:
        since = [span.begin - snapshot.end for snapshot in snapshots if snapshot.end < span.begin]
        print(
            f"  without: {span.took_ms:.1f} ms"
            + (f", begun {since[-1]:.2f} s after a snapshot's end" if since else "")
        )


async def measure(server: Member, clients: int, snapshots: int) -> None:
    here, there = multiprocessing.Pipe()
    reader = multiprocessing.Process(target=read_until_told, args=(server.address, there))
    reader.start()
    watching = Watching(server)
    writes: List[Span] = []
    opened = [await AsyncWire.connect(server.address) for _ in range(clients + 1)]
    tasks = [asyncio.create_task(watching.run()), asyncio.create_task(write_ballast(opened[0]))]
    tasks += [
        asyncio.create_task(write_small(client, number, writes))
        for number, client in enumerate(opened[1:])
    ]
    # A first one may have been under way already, and is not counted.
    deadline = time.monotonic() + PATIENCE_S
    while len(watching.snapshots) <= snapshots:
        await asyncio.sleep(0.05)
        for task in tasks:
            if task.done():
                task.result()
        if time.monotonic() > deadline:
            print(f"only {len(watching.snapshots)} snapshots within {PATIENCE_S:.0f} s")
            break
    for task in tasks:
        task.cancel()
    here.send("enough")
    reads, reader_lag = here.recv()
    reader.join()
    first, *spans = watching.snapshots
    took = sum(span.end - span.begin for span in spans)
    print(f"{len(spans)} snapshots, {took / len(spans):.2f} s each; {clients} clients, one write under way each")
    for what, some, lag in (("writes", writes, watching.lag), ("reads", reads, reader_lag)):
        print_times(what, [span for span in some if span.begin > first.end], spans)
        print(f"the program that measured the {what} was late itself by {1000 * lag:.1f} ms at most")
    for client in opened:
        client.drop()


def mebibytes(size: int) -> str:
    return f"{size / MEBIBYTE:,.0f} MiB"


def measure_restart(server: Member) -> None:
    print(f"memory before a restart: {mebibytes(memory_bytes(server))}")
    server.kill()
    begin = time.monotonic()
    server.start_only()
    until(server.serves, "it serves again", PATIENCE_S)
    ready = time.monotonic() - begin
    most = memory_bytes(server, "VmHWM")
    print(f"ready {ready:.2f} s after a restart; memory {mebibytes(memory_bytes(server))}, at most {mebibytes(most)}")


def forget_most_memory(server: Member) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def measure_joining(ensemble: Ensemble, directory: Path) -> None:
    leader = ensemble.servers[0]
    new = ensemble.joining(directory)
    ensemble.servers.append(new)
    new.start_only()
    begin = time.monotonic()
    cluster(leader, "add", str(new.number), new.peer)
    until(lambda: new.mode() == "observer", "the new one follows", PATIENCE_S)
    print(
        f"a new member follows after {time.monotonic() - begin:.2f} s;"
        f" memory {mebibytes(memory_bytes(new))}, at most {mebibytes(memory_bytes(new, 'VmHWM'))}"
    )
    # Once more with the whole state there already, and more written meanwhile than the log keeps.
    new.pause()
    client = connect(leader)
    first = min((leader.data_dir / "raft" / "log").iterdir())
    while first.exists():
        for _ in range(50):
            client.set("/hot/ballast", b"x" * 1_000_000)
    time.sleep(1.0)
    steady = memory_bytes(new)
    forget_most_memory(new)
    new.go_on()
    installed = new.log.count("installing a received snapshot")
    until(lambda: new.log.count("installing a received snapshot") > installed, "a snapshot is sent", PATIENCE_S)

    def follows() -> bool:
        try:
            again = connect(new, last_zxid=client.last_zxid)
            sync(again)
            return True
        except Exception:
            return False

    until(follows, "it follows again", PATIENCE_S)
    print(
        f"one that had the state and receives another: memory {mebibytes(steady)} before,"
        f" at most {mebibytes(memory_bytes(new, 'VmHWM'))}, {mebibytes(memory_bytes(new))} afterwards"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--znodes", type=int, default=1_000_000)
    parser.add_argument("--snapshots", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    # Its pauses would be taken for the server's.
    gc.disable()
    ensemble = Ensemble(options.directory, voters=1).start()
    server = ensemble.servers[0]
    try:
        seconds = asyncio.run(fill(server.address, options.znodes))
        print(f"{options.znodes:,} znodes of {DATA_BYTES} bytes made in {seconds:.0f} s", flush=True)
        asyncio.run(measure(server, options.clients, options.snapshots))
        sys.stdout.flush()
        measure_restart(server)
        measure_joining(ensemble, options.directory)
        load = os.getloadavg()
        print(f"{os.cpu_count()} processors; load average at the end {load[0]:.1f}, {load[1]:.1f}, {load[2]:.1f}")
    finally:
        ensemble.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
