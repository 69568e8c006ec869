"""The fixtures: which server is under test, clients of it, and where its log is when a test fails."""

import functools
import itertools
import logging
import os
import subprocess
from pathlib import Path
from typing import Callable, Iterator

import pytest
from kazoo.client import KazooClient

from harness.ensemble import Ensemble
from harness.proxy import Proxy
from harness.servers import REPOSITORY, QuorateServer, Server, ZookeeperServer, binary
from harness.wire import Wire

logging.getLogger("kazoo").setLevel(logging.ERROR)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--against",
        choices=["quorate", "zookeeper"],
        default="quorate",
        help="the server under test; zookeeper (Debian's package) checks the compatibility tests themselves",
    )
    parser.addoption(
        "--crash-rounds", type=int, default=20, help="how often the crash test kills the server"
    )
    parser.addoption(
        "--failover-rounds", type=int, default=3, help="how often the ensemble's leader is struck"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quorate: needs what only Quorate has")


def pytest_collection_modifyitems(config: pytest.Config, items: list) -> None:
    if config.getoption("--against") == "zookeeper":
        kept = [item for item in items if item.get_closest_marker("quorate") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.fixture(scope="session")
def server_kind(request: pytest.FixtureRequest) -> Callable[[Path], Server]:
    against = request.config.getoption("--against")
    return QuorateServer if against == "quorate" else ZookeeperServer


@pytest.fixture
def ensemble(tmp_path: Path) -> Iterator[Ensemble]:
    """Three servers of the test's own. A file whose tests want others has a fixture of that name itself."""
    running = Ensemble(tmp_path).start()
    yield running
    running.close()


@pytest.fixture(scope="session")
def server(server_kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that tests share. They keep to paths of their own: see ``base``."""
    running = server_kind(tmp_path_factory.mktemp("server")).start()
    yield running
    alive = running.process is not None and running.process.poll() is None
    running.kill()
    assert alive, f"the shared server died:\n{running.log[-4000:]}"


@pytest.fixture(scope="session")
def wasm() -> Callable[[str], bytes]:
    """Builds a recipe of tests/, as its author would."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", binary().parents[1]))

    @functools.cache
    def build(name: str) -> bytes:
        build = ["cargo", "build", "--locked", "-p", name, "--profile", "recipe"]
        build += ["--target", "wasm32-unknown-unknown", "--target-dir", str(target)]
        subprocess.run(build, cwd=REPOSITORY, check=True, stdin=subprocess.DEVNULL)
        return (target / "wasm32-unknown-unknown" / "recipe" / f"{name}.wasm").read_bytes()

    return build


@pytest.fixture(scope="session")
def hostile_wasm(wasm: Callable[[str], bytes]) -> bytes:
    """tests/hostile, the recipe that means ill."""
    return wasm("hostile")


@pytest.fixture
def own_server(server_kind, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, started, which it may kill and restart."""
    running = server_kind(tmp_path / "server").start()
    yield running
    running.kill()


@pytest.fixture
def fresh_server(server_kind, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, not started."""
    prepared = server_kind(tmp_path / "server")
    yield prepared
    prepared.kill()


@pytest.fixture
def wire(server: Server) -> Iterator[Callable[..., Wire]]:
    """Opens raw connections to the shared server; all are closed afterwards."""
    opened = []

    def connect(**options) -> Wire:
        connection = Wire(server.address, **options)
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.drop()


@pytest.fixture
def kazoo(server: Server) -> Iterator[Callable[..., KazooClient]]:
    """Starts kazoo clients of the shared server; all are stopped afterwards."""
    yield from kazoo_clients(lambda: server)


@pytest.fixture
def own_kazoo(own_server: Server) -> Iterator[Callable[..., KazooClient]]:
    """Starts kazoo clients of the test's own server."""
    yield from kazoo_clients(lambda: own_server)


def kazoo_clients(server: Callable[[], Server]) -> Iterator[Callable[..., KazooClient]]:
    started = []

    def start(**options) -> KazooClient:
        options.setdefault("hosts", server().hosts)
        options.setdefault("timeout", 10.0)
        client = KazooClient(**options)
        started.append(client)
        client.start(timeout=30)
        return client

    yield start
    for client in started:
        client.stop()
        client.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy before the shared server."""
    running = Proxy(server.address)
    yield running
    running.close()


_numbers = itertools.count(1)


@pytest.fixture
def base(server: Server) -> Iterator[str]:
    """A fresh persistent znode for this test alone, without children."""
    path = f"/test-{next(_numbers)}"
    connection = Wire(server.address)
    connection.create(path)
    connection.close_session()
    yield path


@pytest.fixture
def mounted(server: Server) -> Callable[[str], str]:
    """Mounts a standard recipe at a path of this test's own and gives the path."""

    def mount(recipe: str, **more) -> str:
        path = f"/mount-{next(_numbers)}"
        server.http.mount(path, recipe, **more)
        return path

    return mount


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """A failed test shows the end of its server's log."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for name in ("ensemble", "own_server", "fresh_server", "server"):
            running = getattr(item, "funcargs", {}).get(name)
            if running is not None and running.log:
                report.sections.append((f"log of {name}", running.log[-3000:]))
