"""Calls of Quorate's recipes over kazoo: see :class:`Recipes`."""

from quorate.calls import Call
from quorate.errors import (
    BadCall,
    CallCancelled,
    CallError,
    CallExceeded,
    CallFailed,
    CallRefused,
    CallTimedOut,
    CallTrapped,
    CallUnmounted,
    NotReady,
)
from quorate.recipes import Mount, Recipes

__all__ = [
    "BadCall",
    "Call",
    "CallCancelled",
    "CallError",
    "CallExceeded",
    "CallFailed",
    "CallRefused",
    "CallTimedOut",
    "CallTrapped",
    "CallUnmounted",
    "Mount",
    "NotReady",
    "Recipes",
]
