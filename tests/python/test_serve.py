"""`quorate serve` as an operator sees it: one line when it is ready, clear errors, no two on one directory."""

import subprocess

import pytest

from harness.servers import QuorateServer, binary
from harness.waiting import until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(60)]


def test_it_says_in_one_line_that_it_is_ready_and_where(own_server):
    def ready():
        return [line for line in own_server.log.splitlines() if "ready" in line.lower()]

    lines = until(ready, "the line that says so")
    assert len(lines) == 1
    assert own_server.hosts in lines[0]
    assert "%s:%d" % own_server.http_address in lines[0]


def test_sigterm_ends_it_cleanly(own_server):
    assert own_server.stop() == 0


def failing(*arguments, directory) -> str:
    done = subprocess.run(
        [str(binary()), *arguments], capture_output=True, text=True, timeout=40, cwd=directory
    )
    assert done.returncode != 0
    assert "panicked" not in done.stderr
    return done.stderr


def test_a_port_that_is_taken_is_told(own_server, tmp_path):
    message = failing(
        "serve",
        *("--data-dir", str(tmp_path / "other")),
        *("--listen", own_server.hosts),
        *("--http", "127.0.0.1:0"),
        directory=tmp_path,
    )
    assert own_server.hosts in message


def test_a_directory_that_is_in_use_is_told(own_server, tmp_path):
    message = failing(
        "serve",
        *("--data-dir", str(own_server.data_dir)),
        *("--listen", "127.0.0.1:0"),
        *("--http", "127.0.0.1:0"),
        directory=tmp_path,
    )
    assert str(own_server.data_dir) in message


def test_a_file_of_another_format_is_refused_and_left_alone(tmp_path):
    server = QuorateServer(tmp_path / "server")
    server.start()
    server.kill()
    changed = {}
    for path in sorted(server.data_dir.rglob("*")):
        if path.is_file() and path.stat().st_size > 16:
            changed[path] = b"\xee" * 16 + path.read_bytes()[16:]
            path.write_bytes(changed[path])
    assert changed
    message = failing(
        "serve",
        *("--data-dir", str(server.data_dir)),
        *("--listen", server.hosts),
        *("--http", "%s:%d" % server.http_address),
        directory=tmp_path,
    )
    assert str(server.data_dir) in message
    for path, data in changed.items():
        assert path.read_bytes() == data
