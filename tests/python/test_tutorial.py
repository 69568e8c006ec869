"""What README.md and docs/recipes.md show, run to the letter: their commands, their code, and what they say is printed."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple

import pytest

from harness.servers import REPOSITORY, QuorateServer, binary
from harness.waiting import until

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(400)]


class Block(NamedTuple):
    #: `sh` for an indented one, else the language behind the fence.
    language: str
    text: str

    @property
    def commands(self) -> List[str]:
        """All lines, or what stands behind `$` if there is such."""
        lines = [line for line in self.text.splitlines() if line]
        typed = [line[2:] for line in lines if line.startswith("$ ")]
        return typed or lines

    @property
    def printed(self) -> List[str]:
        """What is said to be printed, if there is a `$`."""
        lines = self.text.splitlines()
        if not any(line.startswith("$ ") for line in lines):
            return []
        return [line for line in lines if not line.startswith("$ ")]


def blocks(text: str) -> List[Block]:
    """The code blocks of a page in Markdown, in order."""
    found: List[Block] = []
    fence = None
    indented: List[str] = []
    for line in [*text.splitlines(), "end"]:
        if fence is not None:
            if line.startswith("```"):
                found.append(fence)
                fence = None
            else:
                fence = fence._replace(text=fence.text + line + "\n")
            continue
        if line.startswith("    ") or (indented and not line):
            indented.append(line[4:])
            continue
        if indented:
            found.append(Block("sh", "\n".join(indented).strip("\n") + "\n"))
            indented = []
        if line.startswith("```"):
            fence = Block(line[3:], "")
    return found


def section(page: str, title: str) -> str:
    """From a heading to the next one of its level or above."""
    level = title.split(" ")[0]
    end = "|".join("#" * depth for depth in range(1, len(level) + 1))
    found = re.search(rf"^{re.escape(title)}$(.*?)(?=^(?:{end}) |\Z)", page, re.S | re.M)
    assert found, title
    return found.group(1)


def environment(server: QuorateServer) -> Dict[str, str]:
    """As a user has it whose server is this one."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CARGO_TARGET_DIR", "RUSTUP_TOOLCHAIN")
    }
    return {
        **kept,
        "QUORATE_SERVER": server.hosts,
        "QUORATE_HTTP": "%s:%d" % server.http_address,
        "BINARY": str(binary()),
        # What the workspace is built of is here already.
        "CARGO_NET_OFFLINE": "true",
    }


#: Whatever a page calls `quorate` is the binary under test.
PRELUDE = 'set -euo pipefail\nquorate() { "$BINARY" "$@"; }\n'

#: Between the outputs of a script's parts.
MARK = "=== next part ==="


def bash(parts: List[str], directory: Path, env: Dict[str, str]) -> List[str]:
    """Runs the parts one after the other in one shell; gives what each prints on standard output."""
    script = PRELUDE + f"\necho '{MARK}'\n".join(parts)
    done = subprocess.run(
        ["bash", "-c", script], cwd=directory, env=env, capture_output=True, text=True, timeout=380
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout.split(MARK + "\n")


def pattern(lines: List[str], *, numbers: bool = False) -> str:
    """What matches the lines; digests differ from build to build, tokens and sessions from server to server."""
    escaped = re.escape("\n".join(lines).strip())
    escaped = escaped.replace("DIGEST", "[0-9a-f]{12}").replace("NUMBER", "[0-9]+")
    return re.sub(r"(0x)?[0-9a-f]{6,}", r"(0x)?[0-9a-f]+", escaped) if numbers else escaped


def readme() -> str:
    return (REPOSITORY / "README.md").read_text()


def test_the_tutorial_to_the_letter(own_server, tmp_path):
    page = (REPOSITORY / "docs" / "recipes.md").read_text()
    start, *rest = blocks(page.split("## What a run is")[0])
    # The server is there already.
    assert start.commands[0] == "cargo build -p quorate"
    assert start.commands[1].startswith("target/debug/quorate serve ")

    (tmp_path / "quorate").symlink_to(REPOSITORY)
    shared = binary().resolve().parent.parent / "tutorial"
    shared.mkdir(exist_ok=True)
    parts = ["cd quorate\n"]
    for block in rest:
        if block.language == "sh":
            lines = block.commands
            if "cd turnstile" in lines:
                at = lines.index("cd turnstile") + 1
                # Where what it is built of is built once.
                lines[at:at] = [f"ln -s '{shared}' target"]
            if any(line.startswith("VIOLATED") for line in block.printed):
                assert lines[-1] == "quorate recipe explore"
                lines[-1] += " 2> /dev/null || test $? = 1"
            # Those in the background belong to their block.
            parts.append("\n".join([*lines, "wait"]))
        else:
            parts.append("cat " + {"toml": "explore.toml", "rust": "src/lib.rs"}[block.language])
    printed = bash(parts, tmp_path, environment(own_server))[1:]

    assert len(printed) == len(rest)
    compared = 0
    for block, said in zip(rest, printed):
        if block.language != "sh":
            assert said == block.text
            compared += 1
        if block.printed:
            assert re.fullmatch(pattern(block.printed), said.strip()), f"{block.text}\n---\n{said}"
            compared += 1
    assert compared >= 9, "the page has lost its outputs"


def test_readme_and_the_tutorial_show_the_same_recipe():
    def shown(page: str) -> str:
        return next(block.text for block in blocks(page) if block.language == "rust")

    assert shown(readme()) == shown((REPOSITORY / "docs" / "recipes.md").read_text())


def test_the_first_lines_of_readme_print_what_they_show(own_server, tmp_path):
    shown = blocks(readme())[0]
    mount, call = shown.commands
    lines = shown.printed
    expected = pattern(lines, numbers=True)
    # The second one holds the lock until Ctrl-C.
    script = PRELUDE + f'{mount}\nexec "$BINARY" {call.removeprefix("quorate ")}\n'
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment(own_server),
        stdout=(tmp_path / "said").open("w"),
        stderr=subprocess.STDOUT,
    )
    said = until(
        lambda: (text := (tmp_path / "said").read_text()).endswith("lets go\n") and text,
        "the lock is held",
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert re.fullmatch(expected, said.strip()), f"{expected}\n---\n{said}"


def test_kazoo_and_the_command_line_in_any_order_and_twice(own_server, tmp_path):
    python = next(block.text for block in blocks(readme()) if block.language == "python")
    assert "localhost:2181" in python
    script = tmp_path / "kazoo_block.py"
    script.write_text(python.replace("localhost:2181", own_server.hosts))
    commands = blocks(section(readme(), "### From the command line"))[0].commands

    def from_kazoo():
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "initial_config_data" in done.stdout

    def from_the_command_line():
        for line in commands:
            words, _, comment = line.partition("#")
            words = words.split()
            assert words[0] == "quorate"
            run_one(words[1:], "until Ctrl-C" in comment)

    def run_one(words: List[str], until_interrupted: bool):
        process = subprocess.Popen(
            [str(binary()), *words],
            env=environment(own_server),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if until_interrupted:
            assert process.stdout.readline()
            process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, f"{words}: {complaint}"

    for way in (from_kazoo, from_the_command_line, from_the_command_line, from_kazoo):
        way()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_as_readme_shows_it(own_server, tmp_path):
    commands = blocks(section(readme(), "### With curl"))[0].text
    assert "localhost:2180" in commands
    commands = commands.replace("localhost:2180", "%s:%d" % own_server.http_address)
    for _ in range(2):
        (said,) = bash([commands], tmp_path, environment(own_server))
        assert '"status":"returned"' in said, said


def test_the_lock_example_finds_its_server_in_the_environment(own_server):
    own_server.http.mount("/locks", "fair-lock")
    done = subprocess.run(
        [str(binary().with_name("lock"))],
        env=environment(own_server),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "granted with token" in done.stdout and "done" in done.stdout
