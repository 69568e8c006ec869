"""Waiting for a condition, with a deadline instead of a sleep that hopes."""

import time
from typing import Callable, TypeVar

T = TypeVar("T")

#: How long anything in these tests may take that should take next to no time. Generous, because it
#: only costs time when something is broken, and the machine may be busy.
DEADLINE_S = 30.0

#: Between two looks at a condition that nobody signals.
POLL_S = 0.005


def until(condition: Callable[[], T], what: str, timeout_s: float = DEADLINE_S) -> T:
    """Looks until ``condition()`` is true, gives what it gave, and fails naming ``what`` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(POLL_S)
