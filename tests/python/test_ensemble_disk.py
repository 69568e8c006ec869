"""The disk of one server of three: full, or damaged. The others go on, it says why, and comes back as documented."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from harness import wire as w
from harness.ensemble import Ensemble, Member
from harness.load import Load, all_agree, cluster, connect, give_lead
from harness.servers import file_size_limit
from harness.waiting import until
from harness.wire import Closed

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(120)]

MEBIBYTE = 1 << 20
#: Of each server's disk in the tests of full ones.
DISK_BYTES = 160 * MEBIBYTE
#: What a full one has left when writing goes on.
LEFT_BYTES = 2 * MEBIBYTE


def as_root(*command: str) -> bool:
    whole = [*([] if os.geteuid() == 0 else ["sudo", "-n"]), *command]
    return subprocess.run(whole, capture_output=True).returncode == 0


@pytest.fixture
def on_small_disks(tmp_path) -> Iterator[Ensemble]:
    ensemble = Ensemble(tmp_path)
    mounted = []
    try:
        for server in ensemble.servers:
            disk = server.directory / "disk"
            disk.mkdir()
            size = f"size={DISK_BYTES},mode=777"
            if as_root("mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)):
                mounted.append(disk)
                server.data_dir = disk / "data"
        yield ensemble.start()
    finally:
        ensemble.close()
        for disk in mounted:
            assert as_root("umount", str(disk))


@pytest.mark.parametrize("whose", ["follower", "leader"])
def test_a_full_disk_of_one_server_stops_no_other(on_small_disks, whose):
    ensemble = on_small_disks
    leader = ensemble.leader()
    full = leader if whose == "leader" else ensemble.others(leader)[0]
    others = ensemble.others(full)
    filler = full.data_dir.parent / "filler"
    if full.data_dir.parent.is_mount():
        load = Load(others)
        free = os.statvfs(full.data_dir)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - LEFT_BYTES)
    else:
        # Without the right to mount, a limit on the size of files has to do.
        full.kill()
        full.start(limit=file_size_limit(segments(full)[-1].stat().st_size + LEFT_BYTES))
        if whose == "leader":
            all_agree(ensemble)
            give_lead(others[0], full.number)
        load = Load(others)
    writer = connect(others[0])
    written = 0
    while "writes have stopped" not in full.log:
        # Far more than it has room for would mean that it does not write.
        assert written < 40, f"its disk is full and it says nothing:\n{full.log[-2000:]}"
        writer.create(f"/large-{written}", b"x" * 500_000)
        written += 1
    load.progress()
    assert re.search("writes have stopped: .*(space|too large)", full.log, re.I), full.log[-2000:]
    assert "panicked" not in full.log
    check_takes_no_writes(full)
    assert ensemble.leader(of=others)
    load.progress()
    full.kill()
    filler.unlink(missing_ok=True)
    full.start()
    load.progress()
    load.end()
    back = connect(full)
    back.create("/written-at-the-one-that-was-full")
    all_agree(ensemble)


def check_takes_no_writes(server: Member) -> None:
    try:
        client = connect(server, timeout_ms=4000)
        client.socket.settimeout(5)
        if client.session:
            assert client.request(w.CREATE, w.create_body("/late")).err != w.OK
    except (Closed, OSError):
        pass


def segments(server: Member) -> list:
    return sorted((server.data_dir / "raft" / "log").glob("*.log"))


def snapshot(server: Member) -> Path:
    (found,) = (server.data_dir / "raft" / "snapshots").glob("*.snapshot")
    return found


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def flip_a_byte_of_the_log(server: Member) -> str:
    segment = segments(server)[-1]
    flip(segment, segment.stat().st_size // 2)
    return r"the log is damaged: .*\.log at byte \d+"


def remove_the_first_segment(server: Member) -> str:
    segments(server)[0].unlink()
    return "the log is damaged"


def remove_the_last_segment(server: Member) -> str:
    segments(server)[-1].unlink()
    return "the log is damaged"


def flip_a_byte_of_the_snapshot(server: Member) -> str:
    path = snapshot(server)
    flip(path, path.stat().st_size // 2)
    return r"the snapshot .*\.snapshot is damaged: the checksum of frame \d+ is wrong"


def cut_the_snapshot(server: Member) -> str:
    path = snapshot(server)
    os.truncate(path, path.stat().st_size - 100)
    return r"the snapshot .*\.snapshot is damaged"


def remove_the_snapshot(server: Member) -> str:
    snapshot(server).unlink()
    return "damaged"


DAMAGES = [
    flip_a_byte_of_the_log,
    remove_the_first_segment,
    remove_the_last_segment,
    flip_a_byte_of_the_snapshot,
    cut_the_snapshot,
    remove_the_snapshot,
]


def test_a_damaged_disk_is_told_and_the_server_joins_anew(ensemble, tmp_path):
    client = connect(ensemble.servers[0])
    client.create("/large")
    follower = ensemble.others(ensemble.leader())[0]
    # Beyond the 128 MiB of log after which a snapshot is taken; files of the log end at 64 MiB.
    for number in range(150):
        client.set("/large", b"%03d" % number * 330_000)
    until(lambda: list((follower.data_dir / "raft" / "snapshots").glob("*.snapshot")), "a snapshot is taken")
    client.create("/behind-the-snapshot")
    follower.kill()
    whole = follower.directory / "whole"
    follower.data_dir.rename(whole)
    for damage in DAMAGES:
        shutil.copytree(whole, follower.data_dir)
        words = damage(follower)
        before = len(follower.log)
        follower.start_only()
        status = until(lambda: ended(follower), f"it refuses to start after {damage.__name__}:\n{follower.log[before:]}")
        said = follower.log[before:]
        follower.process = None
        assert status == 1 and "panicked" not in said, (damage.__name__, status, said)
        assert re.search(words, said), (damage.__name__, said)
        assert "remove it and let this server join anew" in said, (damage.__name__, said)
        shutil.rmtree(follower.data_dir)
    # What the message says to do, as docs/ensemble.md has it.
    load = Load(ensemble.others(follower))
    new = ensemble.joining(tmp_path)
    try:
        leader = ensemble.leader(of=ensemble.others(follower))
        cluster(leader, "remove", str(follower.number))
        new.start_only()
        cluster(leader, "add", str(new.number), new.peer)
        until(lambda: new.mode() == "observer", f"it follows:\n{new.log[-2000:]}")
        cluster(leader, "promote", str(new.number))
        load.progress()
        load.end()
        ensemble.servers[ensemble.servers.index(follower)] = new
        all_agree(ensemble)
        assert [m["server"] for m in cluster(leader, "status")["members"] if m["votes"]] == sorted(
            server.number for server in ensemble.servers
        )
    finally:
        new.kill()


def ended(server: Member):
    status = server.process.poll()
    return None if status is None else status or "with 0"


def test_a_torn_tail_is_cut_off_and_the_server_is_a_member_again(ensemble):
    client = connect(ensemble.servers[0])
    for number in range(20):
        client.create(f"/kept-{number}", b"x" * 1000)
    for server in ensemble.servers:
        server.kill()
        segment = segments(server)[-1]
        # Half a record, as a crash leaves it: an earlier one once more, cut short.
        with segment.open("ab") as file:
            file.write(segment.read_bytes()[-700:-200])
        server.start()
        assert "were never acknowledged and are cut off" in server.log
        again = connect(server)
        until(lambda: len(again.children("/")) >= 20, "it has caught up")
        again.close_session()
    all_agree(ensemble)


def test_a_follower_whose_disk_lost_acknowledged_records_ends_no_other(ensemble):
    """Such a loss at the very end looks like a torn tail. The leader sends it again, and does not rely on its word."""
    leader = ensemble.leader()
    follower, other = ensemble.others(leader)
    load = Load([leader, other])
    follower.kill()
    segment = segments(follower)[-1]
    os.truncate(segment, segment.stat().st_size - 2000)
    follower.start()
    load.progress()
    load.end()
    assert leader.process.poll() is None and other.process.poll() is None
    all_agree(ensemble)
