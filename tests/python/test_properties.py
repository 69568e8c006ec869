"""What `quorate recipe explore` finds: recipes with a bug each (tests/broken), against what they promise."""

import json
import subprocess
from typing import Callable

import pytest

from harness.servers import binary

pytestmark = [pytest.mark.quorate, pytest.mark.timeout(300)]

#: The property that does not hold, and a file of properties: what clients do, and what must hold.
BUGS = {
    "a barrier that was set again holds who waited for the one before": (
        "gates",
        """
        calls = ["set gate", "remove gate", "wait gate"]
        [[gates]]
        shut = "set"
        open = "remove"
        pass = "wait"
        by = "name"
        """,
    ),
    "a latch that opens at one": (
        "gates",
        """
        calls = ["start gate <1..3>", "count-down gate", "pass gate"]
        [[gates]]
        shut = "start"
        open = "count-down"
        open-at = 0
        pass = "pass"
        by = "name"
        """,
    ),
    "a writer beside a reader": (
        "holds",
        """
        calls = ["read <north|south>", "write <north|south>", "release <north|south> <got .>"]
        [[holds]]
        take = ["read", "write"]
        whole = "write"
        give = "release"
        by = "name"
        most = 1000
        token = "."
        """,
    ),
    "a double barrier that who is first leaves alone": (
        "meets",
        """
        calls = ["enter <north|south> 2", "leave <north|south>"]
        [[meets]]
        enter = "enter"
        size = "size"
        leave = "leave"
        by = "name"
        """,
    ),
    "a partition that moves before its owner has let go": (
        "shares",
        """
        calls = ["join orders <one|two|three>"]
        [[shares]]
        told = "join"
        member = "member"
        by = "name"
        """,
    ),
    "a rate limiter that counts by periods": (
        "paces",
        """
        calls = ["take mail"]
        [[paces]]
        take = "take"
        by = "name"
        most = 5
        refill = 5
        period-ms = 150
        """,
    ),
    "a counter that each session has for itself": (
        "grows",
        """
        calls = ["add <north|south> <1..5>"]
        [[grows]]
        result = "add"
        by = "name"
        step-by = "amount"
        """,
    ),
    "a name that a member takes from another": (
        "holds",
        """
        calls = ["register web <one|two>"]
        [[holds]]
        take = "register"
        by = "member"
        reentrant = true
        """,
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_found(bug, wasm: Callable[[str], bytes], tmp_path):
    broken, properties = BUGS[bug]
    (tmp_path / "broken.wasm").write_bytes(wasm("broken"))
    (tmp_path / "explore.toml").write_text('mount = "/broken"\n' + properties)
    explore = [str(binary()), "--json", "recipe", "explore", "--recipe", "broken.wasm", "--runs", "2000", "--seconds", "200"]
    done = subprocess.run(explore, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done
    found = json.loads(done.stdout)["found"]
    assert found["property"] == broken, found
    # Short enough to be read.
    assert len([line for line in found["scenario"].splitlines() if line.startswith(">")]) <= 20, found
