"""The command line, as built: what each command prints for people and for programs, and what it says to mistakes."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from typing import Iterator, List

import pytest

from harness.servers import QuorateServer, Server, binary
from harness.waiting import DEADLINE_S, until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(60)]

#: The least that a WebAssembly component can be: no imports, no exports. A server refuses it.
EMPTY_COMPONENT = b"\0asm\x0d\0\1\0"

#: What Ctrl-C may take, by the promise of a second and what a busy machine adds.
AT_ONCE_S = 3.0


class Said:
    """What a command came to."""

    def __init__(self, done: subprocess.CompletedProcess) -> None:
        self.status, self.out, self.err = done.returncode, done.stdout, done.stderr

    def __repr__(self) -> str:
        return f"status {self.status}\n{self.out}\n{self.err}"

    @property
    def documents(self) -> list:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> dict:
        (document,) = self.documents
        return document

    @property
    def error(self) -> dict:
        return json.loads(self.err)["error"]


class CommandLine:
    def __init__(self, server: QuorateServer) -> None:
        self.server = server
        self.started: List[subprocess.Popen] = []

    def command(self, *arguments: str) -> List[str]:
        return self.server.command_line(*arguments)

    def __call__(self, *arguments: str, data: str = "") -> Said:
        return plain(self.command(*arguments), data)

    def works(self, *arguments: str, data: str = "") -> Said:
        said = self(*arguments, data=data)
        assert said.status == 0, said
        return said

    def fails(self, *arguments: str, status: int = 1) -> Said:
        said = self(*arguments)
        assert said.status == status, said
        assert said.out == "" and "panicked" not in said.err, said
        return said

    def start(self, *arguments: str) -> subprocess.Popen:
        """A command that goes on, its outputs as pipes."""
        process = subprocess.Popen(
            self.command(*arguments),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process


def environment(**more: str) -> dict:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUORATE_")}
    return {**kept, **more}


def plain(command: List[str], data: str = "", **variables: str) -> Said:
    return Said(
        subprocess.run(
            command,
            input=data,
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
    )


def command_line(server: Server) -> Iterator[CommandLine]:
    line = CommandLine(server)
    yield line
    for process in line.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def quorate(server) -> Iterator[CommandLine]:
    """The command line against the shared server."""
    yield from command_line(server)


@pytest.fixture
def own_quorate(own_server) -> Iterator[CommandLine]:
    """The command line against a server that the test may stop."""
    yield from command_line(own_server)


def interrupt(process: subprocess.Popen) -> Said:
    """Ctrl-C, which ends a command at once."""
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert time.monotonic() - begin < AT_ONCE_S, err
    return Said(subprocess.CompletedProcess([], process.returncode, out, err))


def line(process: subprocess.Popen, wanted: str) -> str:
    """Reads standard error up to the line that has `wanted`."""
    timer = threading.Timer(DEADLINE_S, process.kill)
    timer.start()
    try:
        for said in process.stderr:
            if wanted in said:
                return said
    finally:
        timer.cancel()
    raise AssertionError(f"it did not say {wanted!r}")


# Znodes.


def test_znodes(quorate, base):
    path = f"{base}/a/b"
    assert "--parents creates it" in quorate.fails("create", path, "x").err
    assert quorate.works("create", path, "x", "--parents").out == f"{path}\n"
    assert quorate.fails("create", path).err == f"quorate: {path} exists already\n"
    assert quorate.works("get", path).out == "x", "into a pipe the data go as they are"
    assert quorate.works("set", path, "y").out == f"set {path} (version 1)\n"
    assert "its version is another" in quorate.fails("set", path, "z", "--version", "0").err
    quorate.works("set", path, "-", data="from\nstdin\n")
    assert quorate.works("get", path).out == "from\nstdin\n"
    assert quorate.works("ls", f"{base}/a").out == "b\n"
    assert quorate.works("ls", path).out == ""
    stat = quorate.works("stat", path).out
    assert "version = 2\n" in stat and re.search(r"czxid = 0x[0-9a-f]+\n", stat)
    assert "--recursive" in quorate.fails("delete", f"{base}/a").err
    assert quorate.works("delete", "-r", f"{base}/a").out == f"deleted {base}/a and 1 below it\n"
    assert quorate.fails("get", path).err == f"quorate: there is no znode {path}\n"


def test_znodes_for_programs(quorate, base):
    path = f"{base}/a"
    assert quorate.works("--json", "create", path, "x").document == {"path": path}
    got = quorate.works("--json", "get", path).document
    assert got["data"] == "x" and got["stat"]["version"] == 0
    assert quorate.works("--json", "set", path, "y").document["stat"]["version"] == 1
    assert quorate.works("--json", "ls", base).document == {"path": base, "children": ["a"]}
    assert quorate.works("--json", "stat", path).document["dataLength"] == 1
    assert quorate.works("--json", "delete", path).document == {"deleted": path, "znodes": 1}
    assert quorate.fails("--json", "get", path).error["code"] == "no-node"
    numbered = quorate.works("--json", "create", "-s", f"{base}/n-").document["path"]
    assert re.fullmatch(rf"{base}/n-\d{{10}}", numbered)


def test_an_ephemeral_znode_lives_until_ctrl_c(quorate, base):
    held = quorate.start("create", "-e", f"{base}/e", "here")
    assert held.stdout.readline() == f"{base}/e\n"
    assert "Ctrl-C lets go" in line(held, "holding")
    assert quorate.works("get", f"{base}/e").out == "here"
    assert interrupt(held).status == 0
    assert "there is no znode" in quorate.fails("get", f"{base}/e").err


def test_a_watch_prints_each_change_until_ctrl_c(quorate, base):
    path = f"{base}/w"
    watch = quorate.start("watch", path)
    assert watch.stdout.readline() == f"{path}: there is no such znode\n"
    quorate.works("create", path, "x")
    assert watch.stdout.readline() == f"{path} (version 0): x\n"
    quorate.works("set", path, "y")
    assert watch.stdout.readline() == f"{path} (version 1): y\n"
    assert interrupt(watch).status == 0
    watch = quorate.start("--json", "watch", "--children", base)
    assert json.loads(watch.stdout.readline())["children"] == ["w"]
    assert interrupt(watch).status == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("ls", "x"),
        ("get", "x"),
        ("create", "x"),
        ("delete", "x"),
        ("stat", "x"),
        ("watch", "x"),
        ("mount", "x", "counter"),
        ("unmount", "x"),
        ("call", "x", "get", "a"),
    ],
)
def test_a_path_without_a_slash_is_refused_everywhere(quorate, arguments):
    said = quorate.fails("--json", *arguments)
    assert said.error == {"code": "bad-path", "message": 'invalid path "x": it must start with /'}


def test_the_root_stays(quorate):
    assert "cannot be deleted" in quorate.fails("delete", "/", status=2).err
    assert "cannot be deleted" in quorate.fails("delete", "-r", "/", status=2).err
    assert "/ cannot be a mount" in quorate.fails("mount", "/", "counter", status=2).err


# Recipes and mounts.


def test_recipes_are_listed_by_name_with_what_is_mounted(own_quorate):
    quorate = own_quorate
    names = [document["name"] for document in quorate.works("--json", "recipe", "list").documents]
    assert {"counter", "election", "fair-lock"} <= set(names) and names == sorted(names)
    assert quorate.works("mount", "/c", "counter").out.startswith("mounted counter at /c\n")
    assert quorate.works("--json", "mount", "/l", "fair-lock").document["sealed"] is True

    def listed() -> dict:
        return {line.split()[0]: line for line in quorate.works("recipe", "list").out.splitlines()}

    assert listed()["counter"].endswith("  mounted at /c")
    assert listed()["election"].endswith("  not mounted")

    # The same component under two names is mounted under one.
    lock, counter = built_recipe("fair_lock"), built_recipe("counter")
    said = quorate.works("--json", "recipe", "push", lock, "--name", "line").document
    assert said["replaced"] is None and said["mounts"] == []
    line_digest = said["digest"]
    said = quorate.works("recipe", "push", lock, "--name", "waiting").out
    assert said.startswith(f"pushed waiting ({line_digest[:12]}): acquire, ")
    assert said.endswith("\nmount it: quorate mount /waiting waiting\n")
    quorate.works("mount", "/q", "waiting")
    assert listed()["line"].endswith("  not mounted")
    assert listed()["waiting"].endswith("  mounted at /q")

    # Over a name that is taken, and again.
    said = quorate.works("recipe", "push", counter, "--name", "waiting").out.splitlines()
    replaced = re.match(f"pushed waiting: it was {line_digest[:12]}, and is ([0-9a-f]{{12}}) now: add, ", said[0])
    assert replaced and replaced[1] != line_digest[:12]
    assert said[1].startswith("/q keeps the old one")
    assert said[1].endswith(": quorate mount /q waiting --upgrade")
    assert listed()["waiting"].endswith(f"  mounted at /q (as {line_digest[:12]} still)")
    said = quorate.works("--json", "recipe", "push", counter, "--name", "waiting").document
    assert said["replaced"] == said["digest"] != line_digest
    assert [mount["digest"] for mount in said["mounts"]] == [line_digest]

    # Moving the mount takes what the help and the message say.
    assert "unmount it first" in quorate.fails("mount", "/q", "waiting").err
    assert quorate.works("unmount", "/q").out == "unmounted /q\n"
    quorate.works("mount", "/q", "waiting")
    assert listed()["waiting"].endswith("  mounted at /q")
    for command in (["mount", "--help"], ["recipe", "push", "--help"]):
        help_text = " ".join(plain([str(binary()), *command]).out.split())
        assert "Mounts keep the component" in help_text or "with --upgrade it goes on" in help_text
    quorate.works("unmount", "/q")

    mounts = quorate.works("mounts").out.splitlines()
    assert [line.split()[:2] for line in mounts] == [["/c", "counter"], ["/l", "fair-lock"]]
    assert quorate.works("--json", "mounts").documents[1]["path"] == "/l"
    assert "unmount it first" in quorate.fails("recipe", "remove", "fair-lock").err
    assert quorate.works("recipe", "remove", "line").out == "removed line\n"


def built_recipe(name: str) -> str:
    """The file of a standard recipe, as the build of the server has made it."""
    found = binary().resolve().parent.glob(f"build/quorate-recipes-*/out/recipes/*/recipe/{name}.wasm")
    return str(max(found, key=lambda file: file.stat().st_mtime))


def test_a_recipe_is_shown_with_its_operations(quorate):
    said = quorate.works("recipe", "show", "counter").out
    assert re.match(r"counter \([0-9a-f]{12}\)\n", said)
    assert "\nadd(name: string, amount: s64) -> s64\n" in said
    document = quorate.works("--json", "recipe", "show", "counter").document
    assert document["operations"][0]["parameters"][1] == {"name": "amount", "type": "s64"}


def test_mistakes_with_recipes_say_what_to_do(quorate, tmp_path):
    for arguments in (("recipe", "show", "none"), ("mount", "/none", "none")):
        said = quorate.fails(*arguments).err
        assert 'there is no recipe called "none"' in said and "`quorate recipe list`" in said
    said = quorate.fails("--json", "unmount", "/none").error
    assert said["code"] == "not-mounted" and "`quorate mounts`" in said["hint"]
    said = quorate.fails("mount", "/none", "counter", "--parameters", "{", status=2).err
    assert "--parameters takes JSON" in said
    assert "cannot read" in quorate.fails("recipe", "push", str(tmp_path / "none.wasm")).err
    (tmp_path / "empty.wasm").write_bytes(EMPTY_COMPONENT)
    assert quorate.fails("--json", "recipe", "push", str(tmp_path / "empty.wasm")).error["code"] == "bad-recipe"


def test_below_a_sealed_mount_only_the_recipe_writes(quorate, mounted):
    counters = mounted("counter")
    said = quorate.fails("set", f"{counters}/x", "1").err
    assert f"{counters}, where recipe counter is mounted, sealed" in said and "permission" not in said
    assert f"`quorate unmount {counters}`" in quorate.fails("delete", counters).err
    opened = mounted("counter", sealed=False)
    quorate.works("create", f"{opened}/x", "1")
    said = quorate.fails("delete", "--recursive", opened).err
    assert "1 znode was deleted before that" in said and f"`quorate unmount {opened}`" in said


# Calls.


def test_calls_take_words_and_json(quorate, mounted):
    counters = mounted("counter")
    assert quorate.works("call", counters, "add", "x", "41").out == "41\n"
    assert quorate.works("call", counters, "add", '{"name": "x", "amount": 1}').out == "42\n"
    assert quorate.works("call", counters, "add", '["x", -2]').out == "40\n"
    document = quorate.works("--json", "call", counters, "get", "x").document
    assert document["result"] == 40
    assert int(document["session"], 16) == document["session_number"]


@pytest.mark.parametrize("bad", ['{"name":', "[1", '"open', "18446744073709551616"])
def test_an_argument_that_is_no_json_but_begins_so_is_refused(quorate, mounted, bad):
    said = quorate.fails("call", mounted("counter"), "get", bad, status=2).err
    assert bad in said and "write" in said


def test_calls_that_do_not_fit_say_how_to_write_them(quorate, mounted):
    counters = mounted("counter")
    said = quorate.fails("call", counters, "get", "5").err
    assert "argument `name`: expected string, got number" in said
    assert "write '\"5\"'" in said
    assert quorate.works("call", counters, "get", '"5"').out == "0\n"
    said = quorate.fails("--json", "call", "/nothing-here", "get", "x").error
    assert said["code"] == "bad-call" and "`quorate mount /nothing-here RECIPE`" in said["hint"]
    assert "`quorate recipe show NAME`" in quorate.fails("call", counters, "none").err


def test_a_grant_goes_with_the_command_unless_it_is_held(quorate, mounted):
    locks = mounted("fair-lock")
    said = quorate.works("call", locks, "acquire", "a")
    assert json.loads(said.out)["holds"] == 1
    assert "has ended" in said.err and "--hold keeps it" in said.err
    assert quorate.works("call", locks, "holder", "a").out == "null\n"

    held = quorate.start("call", locks, "acquire", "a", "--hold")
    noted = line(held, "holding")
    numbers = re.fullmatch(r"holding session (0x[0-9a-f]+) \(as a number (\d+)\): Ctrl-C lets go\n", noted)
    assert numbers, noted
    said = quorate.works("call", locks, "holder", "a")
    assert said.err == "", "to hear of a grant is to have none"
    holder = json.loads(said.out)
    assert holder["session"] == int(numbers[2]) == int(numbers[1], 16)
    waits = quorate.start("call", locks, "acquire", "a")
    line(waits, "waiting for the answer")
    said = interrupt(waits)
    assert (said.status, said.err) == (1, "quorate: interrupted: the call was given up\n")
    timed_out = quorate.fails("--json", "call", locks, "acquire", "a", "--timeout", "0.1")
    assert json.loads(timed_out.err.splitlines()[-1])["error"]["code"] == "timed-out"
    assert interrupt(held).status == 0
    assert quorate.works("call", locks, "holder", "a").out == "null\n"


def test_holding_ends_plainly_when_the_server_is_gone(own_quorate):
    quorate = own_quorate
    quorate.server.http.mount("/locks", "fair-lock")
    held = quorate.start("call", "/locks", "acquire", "a", "--hold", "--session-timeout", "0.5")
    line(held, "holding")
    quorate.server.kill()
    out, err = held.communicate(timeout=DEADLINE_S)
    assert held.returncode == 1
    assert "quorate: the session has ended (no server was reached for its timeout of 0.5 s)" in err
    assert err.endswith("is no longer held\n")


def test_holding_ends_plainly_when_the_server_was_stopped_too_long(own_quorate):
    quorate = own_quorate
    quorate.server.http.mount("/locks", "fair-lock")
    held = quorate.start("--json", "call", "/locks", "acquire", "a", "--hold", "--session-timeout", "0.5")
    line(held, '"holding"')
    # A stopped command is silent for longer than its session lives.
    held.send_signal(signal.SIGSTOP)
    until(
        lambda: quorate.works("call", "/locks", "holder", "a").out == "null\n", "the session has ended"
    )
    held.send_signal(signal.SIGCONT)
    out, err = held.communicate(timeout=DEADLINE_S)
    assert held.returncode == 1
    error = json.loads(err.splitlines()[-1])["error"]
    assert error["code"] == "session-expired"
    assert error["message"].startswith("the session has ended (the server had not heard of it for its timeout")


@pytest.fixture
def stopped(own_quorate) -> Iterator[CommandLine]:
    """The command line; call `.server.pause()` to freeze its server."""
    yield own_quorate
    own_quorate.server.go_on()


def test_ctrl_c_ends_commands_at_once_when_the_server_does_not_answer(stopped):
    quorate = stopped
    quorate.server.http.mount("/locks", "fair-lock")
    held = quorate.start("call", "/locks", "acquire", "a", "--hold")
    line(held, "holding")
    waits = quorate.start("call", "/locks", "acquire", "a")
    line(waits, "waiting")
    watches = quorate.start("watch", "/locks")
    assert watches.stdout.readline()
    quorate.server.pause()
    mounts = quorate.start("mount", "/other", "counter")
    # The kernel takes the connection; then the command waits for the answer.
    until(lambda: connected(mounts, quorate.server.http_address[1]), "mount has sent its request")
    # First, since it has a deadline of its own.
    said = interrupt(mounts)
    assert said.status == 1 and "nobody knows whether it was done" in said.err
    said = interrupt(held)
    assert said.status == 1 and "not known whether the session has ended" in said.err
    said = interrupt(waits)
    assert said.status == 1 and "not known whether the call was executed" in said.err
    assert interrupt(watches).status == 0


def connected(process: subprocess.Popen, port: int) -> bool:
    """Whether the process has a connection to the port, on which nothing waits to be sent."""
    sockets = set()
    for fd in os.listdir(f"/proc/{process.pid}/fd"):
        try:
            sockets.add(os.readlink(f"/proc/{process.pid}/fd/{fd}"))
        except FileNotFoundError:  # it has just been closed
            pass
    with open("/proc/net/tcp") as table:
        for row in list(table)[1:]:
            fields = row.split()
            remote_port = int(fields[2].split(":")[1], 16)
            if remote_port == port and fields[3] == "01" and f"socket:[{fields[9]}]" in sockets:
                return True
    return False


def test_http_commands_have_a_deadline(stopped):
    stopped.server.pause()
    begin = time.monotonic()
    said = stopped.fails("mounts")
    assert 4 < time.monotonic() - begin < 5 + AT_ONCE_S
    assert "did not answer within 5 s" in said.err and "serve" not in said.err
    assert "\n" not in said.err.strip()


# Servers, and the command line as such.


def test_no_server_is_told_with_what_to_do(quorate, tmp_path):
    nowhere = ["--server", "127.0.0.1:1", "--http", "127.0.0.1:1"]
    for command in (["ls"], ["mounts"]):
        said = plain([str(binary()), *nowhere, *command])
        assert said.status == 1 and "start one with `quorate serve`" in said.err, said
        said = plain([str(binary()), "--json", *nowhere, *command])
        assert said.error["code"] == "no-server"


def test_a_port_that_the_command_does_not_use_is_refused(server):
    http = "%s:%d" % server.http_address
    said = plain([str(binary()), "mounts", "--server", server.hosts])
    assert said.status == 2 and "give --http" in said.err
    said = plain([str(binary()), "ls", "--http", http])
    assert said.status == 2 and "give --server" in said.err
    # What is exported is meant for all commands.
    both = {"QUORATE_SERVER": server.hosts, "QUORATE_HTTP": http}
    for command in (["mounts"], ["ls"]):
        assert plain([str(binary()), *command], **both).status == 0
    assert plain([str(binary()), "ls"], QUORATE_SERVER=server.hosts).status == 0


#: Wherever there is room, should a server start against all expectation.
ANYWHERE = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")


def refused_serve(*arguments: str, status: int = 1) -> str:
    said = plain([str(binary()), "serve", *arguments])
    assert said.status == status and said.out == "", said
    return said.err


def test_serve_refuses_what_makes_no_sense(tmp_path):
    data_dir = ("--data-dir", str(tmp_path / "data"))
    said = refused_serve(*data_dir, "--listen", "foo", status=2)
    assert "--listen takes HOST:PORT" in said and '"foo"' in said
    said = refused_serve(*data_dir, *ANYWHERE, "--server", "h:1", status=2)
    assert "--server is for clients" in said
    config = tmp_path / "quorate.toml"
    config.write_text('data_directory = "x"\n')
    said = refused_serve(*ANYWHERE, "--config", str(config), status=2)
    assert str(config) in said and "data_dir" in said
    assert not (tmp_path / "data").exists()


def test_serve_refuses_a_data_directory_that_is_none(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    said = refused_serve("--data-dir", str(file), *ANYWHERE)
    assert f"the data directory {file} is a file" in said
    said = refused_serve("--data-dir", str(tmp_path), *ANYWHERE)
    assert 'holds what is not Quorate\'s, such as "file"' in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"], "nothing was written"
    said = refused_serve("--data-dir", "/proc/quorate", *ANYWHERE)
    assert "cannot create the data directory /proc/quorate" in said


def test_help_and_completion():
    said = plain([str(binary()), "--help"])
    assert said.status == 0 and "quorate call /locks acquire inventory --hold" in said.out
    assert plain([str(binary()), "call", "--help"]).out.count("--key") == 0
    assert "complete" in plain([str(binary()), "completion", "bash"]).out
    assert plain([str(binary()), "nonsense"]).status == 2
