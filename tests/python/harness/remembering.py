"""A client that writes without waiting and remembers what it was told, to check it after servers were killed."""

import json
import random
import threading
import time
from typing import Dict, List, Optional, Tuple

from harness import wire as w
from harness.waiting import until
from harness.wire import Closed, Reader, Wire

#: Requests that a writer has under way at once.
WINDOW = 8
SESSION_MS = 60_000


class Writer:
    """A client that writes as fast as it can and remembers what the server said."""

    def __init__(self, server, number: int, with_calls: bool) -> None:
        self.server, self.number, self.with_calls = server, number, with_calls
        self.path = f"/crash/writer-{number}"
        self.created: List[int] = []
        self.next_node = 0
        self.sets_sent = self.sets_acknowledged = 0
        self.pairs_sent = 0
        self.pairs: List[int] = []
        self.next_key = 1
        #: Calls that were sent and not answered: asked for again after the restart.
        self.unknown: List[int] = []
        self.results: Dict[int, int] = {}
        self.ephemeral: Optional[str] = None
        self.wire = Wire(server.address, timeout_ms=SESSION_MS)
        self.wire.create(self.path, b"0")
        self.wire.create(f"{self.path}/mine", flags=w.EPHEMERAL)

    def reconnect(self) -> None:
        old = self.wire
        old.drop()
        self.wire = Wire(
            self.server.address,
            timeout_ms=SESSION_MS,
            session=old.session,
            password=old.password,
            last_zxid=old.last_zxid,
        )
        assert self.wire.session == old.session, "the session did not survive the restart"

    def call(self, key: int) -> bytes:
        return w.call_body(key, "/counters", "add", '["c",1]', acknowledged=self.seen())

    def seen(self) -> int:
        return min(self.unknown, default=self.next_key) - 1

    def request(self, rng: random.Random) -> Tuple[str, int, int, bytes]:
        kind = rng.choice(["create", "set", "multi", "call" if self.with_calls else "create"])
        if kind == "create":
            number, self.next_node = self.next_node, self.next_node + 1
            return kind, number, w.CREATE, w.create_body(f"{self.path}/n{number}", b"%d" % number)
        if kind == "set":
            self.sets_sent += 1
            return kind, self.sets_sent, w.SET_DATA, w.set_body(self.path, b"%d" % self.sets_sent)
        if kind == "multi":
            number, self.pairs_sent = self.pairs_sent, self.pairs_sent + 1
            parts = [
                (w.CREATE, w.create_body(f"{self.path}/pair{number}{side}")) for side in "ab"
            ]
            return kind, number, w.MULTI, w.multi_body(parts)
        key, self.next_key = self.next_key, self.next_key + 1
        self.unknown.append(key)
        return kind, key, w.CALL, self.call(key)

    def acknowledged(self, kind: str, number: int, reply) -> None:
        assert reply.err == w.OK, (kind, number, reply)
        if kind == "create":
            self.created.append(number)
        elif kind == "set":
            self.sets_acknowledged = number
        elif kind == "multi":
            assert w.ERROR not in [op for op, _ in Reader(reply.body).multi()]
            self.pairs.append(number)
        else:
            self.answered(number, reply)

    def answered(self, key: int, reply) -> bool:
        reader = Reader(reply.body)
        status, result = reader.int(), reader.string()
        if status == w.NOT_READY:
            return False
        assert status == w.RETURNED, (key, status, result)
        assert self.results.setdefault(key, int(result)) == int(result)
        self.unknown.remove(key)
        return True

    def write_until_killed(self, rng: random.Random) -> None:
        waiting: Dict[int, Tuple[str, int]] = {}
        try:
            while True:
                while len(waiting) < WINDOW:
                    kind, number, op, body = self.request(rng)
                    waiting[self.wire.send(op, body)] = (kind, number)
                reply = self.wire.receive(min(waiting))
                kind, number = waiting.pop(reply.xid)
                self.acknowledged(kind, number, reply)
        except (Closed, OSError):
            return

    def repeat_unknown_calls(self) -> None:
        for key in sorted(self.unknown):
            until(
                lambda: self.answered(key, self.wire.request(w.CALL, self.call(key))),
                "the recipe is ready",
            )

    def check(self) -> None:
        names = set(self.wire.children(self.path))
        assert "mine" in names, "the ephemeral of a living session is gone"
        lost = [number for number in self.created if f"n{number}" not in names]
        assert lost == [], f"acknowledged creates are gone: {lost[:10]}"
        extra = [name for name in names if name[0] == "n" and int(name[1:]) >= self.next_node]
        assert extra == []
        for number in range(self.pairs_sent):
            halves = [f"pair{number}{side}" in names for side in "ab"]
            assert halves[0] == halves[1], "half a multi"
            assert halves[0] or number not in self.pairs, "an acknowledged multi is gone"
        data, stat = self.wire.get(self.path)
        assert self.sets_acknowledged <= int(data) <= self.sets_sent
        self.sets_acknowledged = self.sets_sent = int(data)
        for number in self.created[-3:]:
            assert self.wire.get(f"{self.path}/n{number}")[0] == b"%d" % number

    def acknowledgements(self) -> int:
        return len(self.created) + self.sets_acknowledged + len(self.pairs) + len(self.results)


def kill_under_load(writers: list, rng: random.Random, servers: list) -> None:
    """Has all write, and kills the servers, in this order, once each has been answered."""
    before = [writer.acknowledgements() for writer in writers]
    threads = [
        threading.Thread(
            target=writer.write_until_killed, args=(random.Random(rng.random()),), daemon=True
        )
        for writer in writers
    ]
    for thread in threads:
        thread.start()
    until(
        lambda: all(one.acknowledgements() > had for one, had in zip(writers, before)),
        "every writer has written",
    )
    # Not to be right, but to hit another moment each time.
    time.sleep(rng.uniform(0, 0.2))
    for server in servers:
        server.kill()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def check_each_call_ran_once(writers: list) -> None:
    calls = sum(len(writer.results) for writer in writers)
    status, result = writers[0].wire.call(10**9, "/counters", "get", '["c"]')
    assert status == w.RETURNED
    assert json.loads(result) == calls == sum(one.next_key - 1 for one in writers)
    every = sorted(value for writer in writers for value in writer.results.values())
    assert every == list(range(1, calls + 1)), "each call saw the counter at a value of its own"
