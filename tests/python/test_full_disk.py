"""A disk that is full: writes stop with a clear error, and nothing that was acknowledged is lost."""

import re
import subprocess
from pathlib import Path

import pytest

from harness import wire as w
from harness.servers import QuorateServer, file_size_limit
from harness.wire import Closed, Wire

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(170)]

MEBIBYTE = 1024 * 1024


def mount_tmpfs(at: Path, size: int) -> bool:
    at.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)]
    return subprocess.run(command, capture_output=True).returncode == 0


def fill(server) -> list:
    """Writes until the server does not take it any more; gives what it acknowledged."""
    acknowledged = []
    try:
        zk = Wire(server.address, timeout_ms=4000)
        zk.socket.settimeout(15)
        for number in range(10_000):
            reply = zk.request(w.CREATE, w.create_body(f"/full/n{number}", b"x" * 100_000))
            if reply.err != w.OK:
                return acknowledged
            acknowledged.append(number)
    except (Closed, OSError):
        return acknowledged
    raise AssertionError("a gigabyte was taken: the disk is not full")


def check_stopped_with_a_clear_error(server, words: str) -> None:
    assert re.search(words, server.log, re.I), f"the log does not say why:\n{server.log[-3000:]}"
    assert "panicked" not in server.log
    # Whether it goes on answering reads or has ended, it must not take a write.
    try:
        zk = Wire(server.address, timeout_ms=4000)
        zk.socket.settimeout(5)
        if zk.timeout_ms:
            reply = zk.request(w.CREATE, w.create_body("/full/late", b"x" * 100_000))
            assert reply.err != w.OK
    except (Closed, OSError):
        pass


def check_everything_is_back(server, acknowledged: list) -> None:
    zk = Wire(server.address)
    names = set(zk.children("/full"))
    lost = [number for number in acknowledged if f"n{number}" not in names]
    assert lost == []
    assert zk.get(f"/full/n{acknowledged[-1]}")[0] == b"x" * 100_000
    zk.create("/full/after", b"writes go on")
    server.restart()
    zk = Wire(server.address)
    assert "after" in zk.children("/full")


def prepare(server) -> None:
    zk = Wire(server.address)
    zk.create("/full")
    zk.close_session()


def test_a_full_file_system(tmp_path):
    disk = tmp_path / "disk"
    if not mount_tmpfs(disk, 48 * MEBIBYTE):
        # Without the right to mount, a limit on the size of files has to do.
        full_by_limit(tmp_path)
        return
    server = QuorateServer(tmp_path / "server", data_dir=disk / "data")
    try:
        filler = disk / "filler"
        filler.write_bytes(b"\0" * 32 * MEBIBYTE)
        server.start()
        prepare(server)
        acknowledged = fill(server)
        assert acknowledged
        check_stopped_with_a_clear_error(server, "space|disk|storage full")
        server.kill()
        filler.unlink()
        server.start()
        check_everything_is_back(server, acknowledged)
    finally:
        server.kill()
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_may_not_grow(tmp_path):
    full_by_limit(tmp_path)


def full_by_limit(tmp_path) -> None:
    server = QuorateServer(tmp_path / "server")
    try:
        server.start()
        prepare(server)
        server.kill()
        server.start(limit=file_size_limit(8 * MEBIBYTE))
        acknowledged = fill(server)
        assert acknowledged
        check_stopped_with_a_clear_error(server, "file too large|space|disk|limit")
        server.kill()
        server.start()
        check_everything_is_back(server, acknowledged)
    finally:
        server.kill()
