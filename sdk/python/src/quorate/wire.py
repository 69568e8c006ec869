"""The three requests that Quorate adds to ZooKeeper's protocol, in the shape that kazoo sends.

Integers are big-endian; a string is its length in bytes (4 bytes) and its UTF-8.
"""

import struct
from typing import NamedTuple, Optional, Tuple

#: The most awaited keys that a server takes in an acknowledgement.
MAX_AWAITED = 1000

#: The longest request that a server takes, in bytes: it closes the connection of a longer one.
_MAX_REQUEST_BYTES = 0xFFFFF + 64 * 1024
#: What stands in a call's request beside what was given: xid, type, key, and an acknowledgement at its longest.
_BESIDE_BYTES = 4 + 4 + 8 + (8 + 4 + 8 * MAX_AWAITED)
#: The longest result of :func:`given` that can be sent.
MAX_GIVEN_BYTES = _MAX_REQUEST_BYTES - _BESIDE_BYTES

CALL = 700
CANCEL = 701
ACKNOWLEDGE = 702
#: The type in a watch event that carries a late answer.
ANSWER_EVENT = 700

RETURNED = 0
PARKED = 1
FAILED = 2
REFUSED = 3
TRAPPED = 4
EXCEEDED = 5
CANCELLED = 6
TIMED_OUT = 7
UNMOUNTED = 8
BAD_CALL = 9
NOT_READY = 10

_INT = struct.Struct("!i")
_LONG = struct.Struct("!q")
_TWO_INTS = struct.Struct("!ii")


def _bytes(encoded: bytes) -> bytes:
    return _INT.pack(len(encoded)) + encoded


def _read_string(data: bytes, offset: int) -> Tuple[str, int]:
    (length,) = _INT.unpack_from(data, offset)
    offset += _INT.size
    if length <= 0:  # ZooKeeper writes a null string as -1.
        return "", offset
    return data[offset : offset + length].decode("utf-8"), offset + length


class Answer(NamedTuple):
    """A status, and what belongs to it: a JSON result, a JSON error, or a message."""

    status: int
    result: str

    @classmethod
    def read(cls, data: bytes, offset: int) -> "Answer":
        (status,) = _INT.unpack_from(data, offset)
        result, _ = _read_string(data, offset + _INT.size)
        return cls(status, result)


def given(mount: bytes, operation: bytes, arguments: bytes, timeout_ms: int) -> bytes:
    """What a call is besides its key. ``arguments`` is a JSON array or object, ``timeout_ms`` 0 for none."""
    return _bytes(mount) + _bytes(operation) + _bytes(arguments) + _LONG.pack(timeout_ms)


class Acknowledgement(NamedTuple):
    """The answers of all keys up to ``mark`` have been seen, but for those of ``awaited``, which ascend."""

    mark: int = 0
    awaited: Tuple[int, ...] = ()

    def serialize(self) -> bytes:
        keys = b"".join(map(_LONG.pack, self.awaited))
        return _LONG.pack(self.mark) + _INT.pack(len(self.awaited)) + keys


class CallRequest(NamedTuple):
    """Run an operation.

    It is sent on the connection's thread, where an exception would end the client. So all that its
    caller chose is checked and encoded before, in ``given`` (see the function of that name).
    """

    key: int
    mount: str
    operation: str
    given: bytes
    acknowledged: Acknowledgement = Acknowledgement()

    type = CALL

    def serialize(self) -> bytes:
        return _LONG.pack(self.key) + self.given + self.acknowledged.serialize()

    @classmethod
    def deserialize(cls, data: bytes, offset: int) -> Answer:
        return Answer.read(data, offset)


class CancelRequest(NamedTuple):
    """End a parked call; answers with the result if there is one already."""

    key: int

    type = CANCEL

    def serialize(self) -> bytes:
        return _LONG.pack(self.key)

    @classmethod
    def deserialize(cls, data: bytes, offset: int) -> Answer:
        return Answer.read(data, offset)


class AcknowledgeRequest(NamedTuple):
    """Forget the answers that have been seen."""

    acknowledged: Acknowledgement

    type = ACKNOWLEDGE

    def serialize(self) -> bytes:
        return self.acknowledged.serialize()

    @classmethod
    def deserialize(cls, data: bytes, offset: int) -> bool:
        return True


def read_reason(data: bytes, offset: int) -> Optional[str]:
    """What stands behind the header of a failure: why it was refused, for people. Mostly nothing."""
    if len(data) < offset + _INT.size:
        return None
    reason, end = _read_string(data, offset)
    return reason if reason and end == len(data) else None


class LateAnswer(NamedTuple):
    """The event that ends a parked call."""

    mount: str
    key: int
    answer: Answer


def read_late_answer(data: bytes, offset: int) -> Optional[LateAnswer]:
    """Reads the body of a watch event; none if it is one of ZooKeeper's own."""
    kind, _state = _TWO_INTS.unpack_from(data, offset)
    if kind != ANSWER_EVENT:
        return None
    mount, offset = _read_string(data, offset + _TWO_INTS.size)
    (key,) = _LONG.unpack_from(data, offset)
    return LateAnswer(mount, key, Answer.read(data, offset + _LONG.size))
