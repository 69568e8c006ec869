"""The author's way without a server: `quorate recipe new`, `check`, `test` and `explore`, as built."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import List

import pytest

from harness.servers import REPOSITORY, binary

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(400)]

COMPONENT = "target/wasm32-unknown-unknown/release/turnstile.wasm"
BUILD = ["cargo", "build", "--release", "--target", "wasm32-unknown-unknown"]


class Project:
    """A folder to call the command line in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, command: List[str]) -> subprocess.CompletedProcess:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in ("CARGO_TARGET_DIR", "RUSTUP_TOOLCHAIN") and not name.startswith("QUORATE_")
        }
        # Nothing here needs a network, or a server.
        env = {**kept, "CARGO_NET_OFFLINE": "true", "QUORATE_HTTP": "127.0.0.1:1"}
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=380)

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess:
        done = self.run([str(binary()), *arguments])
        assert "panicked" not in done.stderr, done.stderr
        return done

    def works(self, *arguments: str) -> str:
        done = self("recipe", *arguments)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def fails(self, *arguments: str) -> subprocess.CompletedProcess:
        done = self("recipe", *arguments)
        assert done.returncode == 1, f"{done.stdout}\n{done.stderr}"
        return done

    def build(self) -> None:
        done = self.run(BUILD)
        assert done.returncode == 0, done.stderr

    def source(self, text: str) -> None:
        (self.folder / "src" / "lib.rs").write_text(text)

    def write(self, path: str, text: str) -> None:
        (self.folder / path).write_text(text)

    def read(self, path: str) -> str:
        return (self.folder / path).read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Project:
    """What `recipe new turnstile` makes, built."""
    folder = tmp_path_factory.mktemp("author")
    said = Project(folder).works("new", "turnstile")
    assert said.startswith("made turnstile: the recipe is in src/lib.rs.")
    # What all such projects are built of is built once.
    shared = binary().resolve().parent.parent / "tutorial"
    shared.mkdir(exist_ok=True)
    (folder / "turnstile" / "target").symlink_to(shared)
    project = Project(folder / "turnstile")
    project.build()
    return project


@pytest.fixture
def project(made, tmp_path) -> Project:
    """A copy of it, to change; its component is built."""
    copy = tmp_path / "turnstile"
    shutil.copytree(made.folder, copy, symlinks=True, ignore=shutil.ignore_patterns("target"))
    # With all that was built, so that only what changes is built again.
    shutil.copytree(made.folder / "target", copy / "target")
    return Project(copy)


def test_a_new_project_builds_and_passes_all_that_comes_with_it(made):
    page = made.works("check", COMPONENT)
    assert page.startswith(f"{COMPONENT}: a server takes it, ")
    assert "\npass(name: string) -> u64\n    Lets one more through; says how many that makes.\n" in page
    assert made.works("test") == "scenarios/turnstile.txt: passed, 11 commands\n"
    said = made.works("explore", "--runs", "200")
    assert said.startswith("200 runs, ") and "checked: grows, stuck, trap, endless\n" in said
    # The versions of what it stands on are those that came with it: cargo added the project alone.
    assert 'name = "turnstile"' in made.read("Cargo.lock")
    assert "serde" not in made.read("quorate/Cargo.toml")


def test_programs_get_documents(made):
    checked = json.loads(made("--json", "recipe", "check", COMPONENT).stdout)
    assert checked["status"] == "good" and checked["name"] == "turnstile"
    assert [operation["name"] for operation in checked["operations"]] == ["pass", "wait-for"]
    tested = json.loads(made("--json", "recipe", "test").stdout)
    assert tested["status"] == "passed" and tested["differences"] == []
    explored = json.loads(made("--json", "recipe", "explore", "--runs", "50").stdout)
    assert explored["runs"] == 50 and explored["found"] is None


def test_new_says_what_is_wrong(tmp_path):
    here = Project(tmp_path)
    assert "cannot be a recipe's name: words of small letters" in here.fails("new", "Fair_Lock").stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    assert "not empty" in here.fails("new", "full").stderr
    assert "nor a checkout" in here.fails("new", "mine", "--sdk", str(tmp_path)).stderr
    assert not (tmp_path / "mine").exists()
    here.works("new", "mine", "--directory", "elsewhere", "--sdk", str(REPOSITORY))
    path = here.read("elsewhere/Cargo.toml").split('quorate-recipe = { path = "')[1].split('"')[0]
    assert (tmp_path / "elsewhere" / path).resolve() == (REPOSITORY / "sdk/rust").resolve()


def test_check_says_what_the_server_says(tmp_path, server):
    here = Project(tmp_path)
    (tmp_path / "bad.wasm").write_bytes(b"no WebAssembly")
    alone = here.fails("check", "bad.wasm").stderr
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUORATE_")}
    pushed = subprocess.run(
        server.command_line("recipe", "push", str(tmp_path / "bad.wasm")),
        env=kept,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert pushed.returncode == 1 and alone == pushed.stderr
    document = json.loads(here("--json", "recipe", "check", "bad.wasm").stderr)
    assert document["error"]["code"] == "bad-recipe"


def test_a_scenario_that_goes_otherwise_is_shown_and_blessed(project):
    scenario = "scenarios/turnstile.txt"
    right = project.read(scenario)
    project.write(scenario, right.replace("= 2\n  b@1 = 2\n", "= 3\n  b@1 = 2\n"))
    failed = project.fails("test")
    assert failed.stdout == (
        f"{scenario}: failed, 11 commands\n"
        "line 22:\n"
        "    > a: call /turnstile pass north\n"
        "  - = 3\n"
        "  + = 2\n"
        "      b@1 = 2\n"
    )
    assert "--bless writes it down" in failed.stderr
    assert "blessed" in project.works("test", "--bless")
    assert project.read(scenario) == right
    assert project.works("test", scenario) == f"{scenario}: passed, 11 commands\n"


def test_scenarios_teach_what_can_be_written(project):
    def said(*lines: str) -> str:
        project.write("scenarios/turnstile.txt", "\n".join(lines) + "\n")
        return project.fails("test").stdout

    assert "there is no command \"jump\"; there are\n    session NAME" in said("> jump")
    assert "it is written `pass MILLISECONDS`" in said("> pass soon")
    assert "there is no session a: write `> session a` first" in said("> a: close")
    assert "neither a command (>), nor a comment (#)" in said("hello")
    message = said("> mount /a no-such-recipe")
    assert "no_such_recipe.wasm" in message and "cargo build --release" in message
    session = ["> session a", "> crash a"]
    assert "a has crashed: open another session" in said(*session, "> a: close")


def test_a_component_that_is_older_than_its_source_is_noted(project):
    project.source(project.read("src/lib.rs") + "\n// changed\n")
    done = project("recipe", "test")
    assert done.returncode == 0
    assert done.stderr.startswith("note: src/lib.rs is newer than ")
    # A file that is named is taken as it is.
    done = project("recipe", "test", "--recipe", COMPONENT)
    assert (done.returncode, done.stderr) == (0, "")


def test_failures_of_all_kinds_are_made_up(project):
    project.write(
        "scenarios/turnstile.txt",
        """\
> mount /locks fair-lock
mounted

> session a
session opened

> session b
session opened

> a: call /locks try-acquire door
= {"token":4294967302,"holds":1}

> b: call /locks acquire door
parked

# The client is gone: its session ends when its timeout has passed.
> crash a
crashed: its session ends in 10000 ms

> restart

> pass 9999

> pass 1
  a: its session ended
  b@1 = {"token":4294967303,"holds":1}

> tree /locks
/locks
  door (container)
    ticket-0000000000000001 (of b)
""",
    )
    assert "passed" in project.works("test")


def test_the_scenario_in_the_documentation_goes_as_written(project):
    page = (REPOSITORY / "docs/testing-recipes.md").read_text()
    scenario = page.split("## Scenarios")[1].split("```")[1].lstrip("\n")
    assert scenario.startswith("> mount /locks fair-lock\n")
    project.write("scenarios/turnstile.txt", scenario)
    assert "passed" in project.works("test")


def test_explore_finds_the_missed_wake_by_the_shortest_schedule(project):
    broken = project.read("src/lib.rs").replace("watch::node(&name)", 'watch::node("elsewhere")')
    assert "elsewhere" in broken
    project.source(broken)
    project.build()
    done = project.fails("explore", "--keep", "scenarios/found.txt")
    assert "VIOLATED stuck: " in done.stderr
    assert "has 2 steps" in done.stdout
    found = project.read("scenarios/found.txt")
    assert found in done.stdout
    commands = [line for line in found.splitlines() if line.startswith(">")]
    assert commands[:2] == ["> mount /turnstile turnstile", "> check /turnstile ../explore.toml"]
    calls = sorted(line.split("call /turnstile ")[1] for line in commands if "call" in line)
    assert calls == ["pass north", "wait-for north 1"], found
    # The same seed finds the same; the schedule replays as a test; and that fails once the recipe is mended.
    again = project.fails("explore")
    assert again.stderr == done.stderr
    assert "passed" in project.works("test", "scenarios/found.txt")
    project.source(broken.replace('watch::node("elsewhere")', "watch::node(&name)"))
    project.build()
    mended = project.fails("test", "scenarios/found.txt").stdout
    assert "  - VIOLATED stuck: " in mended
    assert "blessed" in project.works("test", "--bless", "scenarios/found.txt")
    assert "\nVIOLATED" not in project.read("scenarios/found.txt")
    project.works("explore")


def test_explore_finds_the_bug_in_a_broken_lock(project):
    manifest = project.read("Cargo.toml")
    project.write("Cargo.toml", manifest.replace('name = "turnstile"', 'name = "eager-lock"'))
    project.source((REPOSITORY / "tests/recipes/eager_lock.rs").read_text())
    project.write("explore.toml", (REPOSITORY / "tests/recipes/eager-lock.toml").read_text())
    project.build()
    done = project("--json", "recipe", "explore")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)["found"]
    assert found["property"] == "holds"
    # One holds it, one waits, one waits behind that; the one between gives up.
    assert found["steps"] == 4, found["scenario"]
    calls = [line for line in found["scenario"].splitlines() if "call /locks" in line]
    assert len(calls) == 3 and all(call.endswith("acquire north") for call in calls), found["scenario"]


def test_explore_says_what_is_wrong_with_the_properties(project):
    assert "there is no file other.toml" in project.fails("explore", "other.toml").stderr
    good = project.read("explore.toml")

    def said(before: str, after: str) -> str:
        assert before in good
        project.write("explore.toml", good.replace(before, after))
        return project.fails("explore").stderr

    assert "unknown field `cals`" in said("calls =", "cals =")
    assert "wait-for takes 2 arguments" in said("wait-for <north|south> <1..3>", "wait-for north")
    assert "<north> is no choice" in said("wait-for <north|south>", "wait-for <north>")
    assert "pass has no parameter \"nam\"; it has name" in said('by = "name"', 'by = "nam"')
    assert "there is no operation \"go\"" in said('result = "pass"', 'result = "go"')
