"""What a program gives, checked and encoded at the call: what is wrong raises there, and names the parameter.

Sending is the connection's thread's, and an exception there would end the connection of the whole client.
"""

import json
import threading
from numbers import Real
from typing import Any, Mapping, Optional, Sequence, Tuple, Union

from kazoo.protocol.paths import _prefix_root

from quorate import wire

#: The longest timeout of a call, in seconds: a server has 64 bits for its milliseconds.
MAX_TIMEOUT_S = (2**63 - 1) // 1000

#: The longest that Python waits at once, in seconds.
MAX_WAITING_S = threading.TIMEOUT_MAX

#: Positional arguments, or named ones.
Arguments = Union[Sequence[Any], Mapping[str, Any]]


def call(
    chroot: str,
    mount_given: str,
    operation: str,
    arguments: Arguments,
    timeout: Optional[float],
) -> Tuple[str, bytes]:
    """The mount's path, and all of the call but its key as it is sent."""
    path = mount(chroot, mount_given)
    given = wire.given(
        path.encode(),
        _text("operation", operation),
        _json(arguments),
        _timeout_ms(timeout),
    )
    if len(given) > wire.MAX_GIVEN_BYTES:
        raise ValueError(
            f"mount, operation and arguments take {len(given)} bytes, "
            f"and {wire.MAX_GIVEN_BYTES} at most fit in a request"
        )
    return path, given


def mount(chroot: str, given: str) -> str:
    """The mount's path as the server knows it."""
    _text("mount", given)
    try:
        return _prefix_root(chroot, given)
    except ValueError as error:
        raise ValueError(f"mount: {error}, not {given!r}") from None


def waiting(timeout: Optional[float]) -> Optional[float]:
    """How long to wait in this process, in seconds; none for ever."""
    if timeout is None:
        return None
    _seconds(timeout)
    if not timeout <= MAX_WAITING_S:
        raise ValueError(
            f"timeout is {MAX_WAITING_S:.0f} seconds at most, or None to wait for ever"
        )
    return max(0.0, float(timeout))


def kind(name: str, given: Any, wanted: type, what: str) -> None:
    """Raises a ``TypeError`` that says what the parameter called ``name`` is, if it is not that."""
    if not isinstance(given, wanted):
        raise TypeError(f"{name} is {what}, not {type(given).__name__}")


def function(name: str, given: Any) -> None:
    """The same of a function that is called with the call."""
    if not callable(given):
        raise TypeError(f"{name} is called with the call, and {type(given).__name__} cannot be")


def _text(name: str, given: str) -> bytes:
    kind(name, given, str, "a str")
    try:
        return given.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is no Unicode text: {error}") from None


def _seconds(timeout: float) -> None:
    # A bool is a number to Python, and a mistake here.
    if isinstance(timeout, bool) or not isinstance(timeout, Real):
        raise TypeError(
            f"timeout is a number of seconds, or None for none, not {type(timeout).__name__}"
        )


def _timeout_ms(timeout: Optional[float]) -> int:
    """0 for none."""
    if timeout is None:
        return 0
    _seconds(timeout)
    if not 0 < timeout <= MAX_TIMEOUT_S:
        raise ValueError(
            f"timeout is more than 0 and at most {MAX_TIMEOUT_S} seconds, or None to wait for ever"
        )
    return max(1, round(timeout * 1000))


def _json(arguments: Arguments) -> bytes:
    if isinstance(arguments, Mapping):
        named = [
            _argument("the name of an argument", name) + b":" + _argument(f"argument {name}", given)
            for name, given in arguments.items()
        ]
        return b"{" + b",".join(named) + b"}"
    listed = [_argument(f"argument {number}", given) for number, given in enumerate(arguments, 1)]
    return b"[" + b",".join(listed) + b"]"


def _argument(name: str, given: Any) -> bytes:
    try:
        # Escapes would hide what is no text, and the server could name no argument.
        text = json.dumps(given, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise TypeError(f"{name} is what json can write: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is what json can write: {error}") from None
    return _text(name, text)
