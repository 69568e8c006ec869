"""How a call can end without a result.

Session errors are kazoo's own: ``SessionExpiredError`` if the session ended while the call was
under way, ``ConnectionClosedError`` if the client was stopped.
"""

import json
from typing import Any, Optional

from kazoo.exceptions import KazooException

from quorate import wire


class CallError(KazooException):
    """A call ended without a result. Nothing that its last run wrote was kept.

    ``mount``, ``operation`` and ``key`` say which call it was.
    """

    def __init__(self, message: str, mount: str, operation: str, key: int) -> None:
        super().__init__(f"{operation} at {mount}: {message}")
        self.message = message
        self.mount = mount
        self.operation = operation
        self.key = key


class CallFailed(CallError):
    """The operation returned its ``err``; ``error`` is that value."""

    error: Any = None


class CallRefused(CallError):
    """The recipe refused, for ``message``."""


class CallTrapped(CallError):
    """The recipe trapped or broke a rule of the ABI: a defect of the recipe."""


class CallExceeded(CallError):
    """The run exceeded the bound called ``bound``."""

    bound: str = ""


class CallCancelled(CallError):
    """The call was cancelled while it was parked, or before it reached the server."""


class CallTimedOut(CallError):
    """The call's timeout came before its result. It is over: it will not take effect later."""


class CallUnmounted(CallError):
    """The recipe was unmounted while the call was parked."""


class BadCall(CallError):
    """There is no such mount or operation, the arguments do not fit, or a bound on calls is reached."""


class NotReady(CallError):
    """The recipe was still being compiled after all the repetitions that this module makes."""


_PLAIN = {
    wire.REFUSED: CallRefused,
    wire.TRAPPED: CallTrapped,
    wire.BAD_CALL: BadCall,
    wire.NOT_READY: NotReady,
}
_WITHOUT_TEXT = {
    wire.CANCELLED: (CallCancelled, "cancelled"),
    wire.TIMED_OUT: (CallTimedOut, "timed out"),
    wire.UNMOUNTED: (CallUnmounted, "the recipe was unmounted"),
}


def error_of(answer: "wire.Answer", mount: str, operation: str, key: int) -> Optional[CallError]:
    """The exception that stands for ``answer``; none if the operation returned."""
    if answer.status == wire.RETURNED:
        return None
    if answer.status == wire.FAILED:
        failed = CallFailed(f"failed: {answer.result}", mount, operation, key)
        failed.error = json.loads(answer.result)
        return failed
    if answer.status == wire.EXCEEDED:
        exceeded = CallExceeded(answer.result, mount, operation, key)
        exceeded.bound = answer.result.partition(":")[0]
        return exceeded
    if answer.status in _PLAIN:
        return _PLAIN[answer.status](answer.result, mount, operation, key)
    if answer.status in _WITHOUT_TEXT:
        kind, text = _WITHOUT_TEXT[answer.status]
        return kind(answer.result or text, mount, operation, key)
    return CallError(f"the server gave the unknown status {answer.status}", mount, operation, key)
