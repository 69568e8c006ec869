"""The calls of one kazoo client: their keys, their answers, and what happens when the connection is lost.

kazoo fails every pending request when the connection is lost, and forgets it. A call outlives that:
it stays in ``Calls._outstanding`` until its answer is here, and is asked for again on each new
connection, with its key, so that the server runs it once.
"""

import json
import threading
from typing import Any, Callable, Dict, Optional

from kazoo.client import KazooClient
from kazoo.exceptions import (
    AuthFailedError,
    ConnectionClosedError,
    ConnectionLoss,
    SessionExpiredError,
    SessionMovedError,
)
from kazoo.protocol.states import KazooState, KeeperState

from quorate import check, wire
from quorate.errors import CallCancelled, error_of

#: Where a client keeps its calls: several ``Recipes`` over one client must share the keys.
_ATTRIBUTE = "_quorate_calls"
_ATTACHING = threading.Lock()

_CONNECTED_STATES = (KeeperState.CONNECTED, KeeperState.CONNECTED_RO)

#: A recipe that is still being compiled is asked again after these delays (seconds), then every
#: ``_NOT_READY_DELAY_MAX`` until ``_NOT_READY_ATTEMPTS`` are used up, which is about half a minute.
_NOT_READY_DELAY_FIRST = 0.02
_NOT_READY_DELAY_MAX = 1.0
_NOT_READY_ATTEMPTS = 35


class Call:
    """A call under way, or over."""

    def __init__(self, calls: "Calls", request: wire.CallRequest) -> None:
        self._calls = calls
        self._request = request
        self._result = calls.client.handler.async_result()
        self._parked = False
        self._cancelling = False
        self._attempts = 0
        # Nothing ran under its key, which the server does not know: it gets another when it is sent again.
        self._unready = False

    @property
    def key(self) -> int:
        """Its number, unique in the session. A call whose recipe was not ready gets another."""
        return self._request.key

    @property
    def parked(self) -> bool:
        """Whether the server has said that the call waits."""
        return self._parked and not self.ready()

    def ready(self) -> bool:
        """Whether it has ended."""
        return self._result.ready()

    def get(self, timeout: Optional[float] = None) -> Any:
        """Waits for the end and gives the result, or raises what the call ended with.

        After ``timeout`` seconds it raises the handler's timeout exception; the call goes on. With
        0 or less it does not wait.
        """
        return self._result.get(True, check.waiting(timeout))

    def rawlink(self, function: Callable[["Call"], None]) -> None:
        """Has ``function(call)`` called, on one of kazoo's threads, once the call has ended."""
        check.function("function", function)
        self._result.rawlink(lambda _: function(self))

    def cancel_async(self) -> None:
        """Asks the server to end the call, and does not wait for that."""
        self._calls.cancel(self)

    def cancel(self) -> bool:
        """Ends the call. True if it ended by that; False if it had ended before, and ``get`` gives how."""
        self.cancel_async()
        self._result.wait()
        return isinstance(self._result.exception, CallCancelled)


class _Response:
    """Where kazoo puts the response to one request.

    kazoo's own would hand it to another thread; this one is done at once, on the connection's
    thread, so that the answer to a request is never overtaken by an event behind it.
    """

    def __init__(self, calls: "Calls", call: Call, cancelling: bool) -> None:
        self._calls = calls
        self._call = call
        self._cancelling = cancelling

    def set(self, answer: wire.Answer) -> None:
        self._calls._answered(self._call, self._cancelling, answer)

    def set_exception(self, error: Exception) -> None:
        self._calls._lost(self._call, error)


class _WithReason:
    """In place of the result of a request that was refused with a reason: hands it on with the exception."""

    def __init__(self, result: Any, reason: str) -> None:
        self._result = result
        self._reason = reason

    def set_exception(self, error: Exception) -> None:
        error.args = (self._reason,)
        error.reason = self._reason  # type: ignore[attr-defined]
        self._result.set_exception(error)


class Calls:
    """All calls of one client. Nothing in here blocks."""

    @classmethod
    def of(cls, client: KazooClient) -> "Calls":
        """The client's calls; the first use teaches its connection to read late answers, and why the
        server refused a request."""
        with _ATTACHING:
            calls = client.__dict__.get(_ATTRIBUTE)
            if calls is None:
                calls = client.__dict__[_ATTRIBUTE] = cls(client)
                calls._attach()
            return calls

    def __init__(self, client: KazooClient) -> None:
        self.client = client
        self._lock = client.handler.rlock_object()
        self._last_key = 0
        # By key, in ascending order, because keys are given in that order.
        self._outstanding: Dict[int, Call] = {}
        self._connected = False

    def start(self, mount: str, operation: str, given: bytes) -> Call:
        with self._lock:
            self._last_key += 1
            call = Call(self, wire.CallRequest(self._last_key, mount, operation, given))
            self._outstanding[call.key] = call
            if self._may_send():
                self._send(call)
                return call
            state = self.client.client_state
        if state != KeeperState.CONNECTING and state not in _CONNECTED_STATES:
            self._end(call, error=_session_error(state))
        return call

    def cancel(self, call: Call) -> None:
        with self._lock:
            if call.key not in self._outstanding or call._cancelling:
                return
            call._cancelling = True
            if self._may_send():
                self._send(call)

    def acknowledge(self) -> None:
        with self._lock:
            acknowledged = self._acknowledged()
        if acknowledged.mark and self._may_send():
            self.client._call(
                wire.AcknowledgeRequest(acknowledged), self.client.handler.async_result()
            )

    def _may_send(self) -> bool:
        """Whether a request goes out at once. If not, the listener sends it later: never both."""
        return self._connected and self.client.client_state in _CONNECTED_STATES

    def _acknowledged(self) -> wire.Acknowledgement:
        """Which answers have been seen. The server refuses what is up to the mark and not known there, so the mark
        stays below a call of which it may not know yet; one that waits does not hold it back."""
        awaited = []
        for key, call in self._outstanding.items():
            if call._unready:
                continue
            if not call._parked or len(awaited) == wire.MAX_AWAITED:
                return wire.Acknowledgement(key - 1, tuple(awaited))
            awaited.append(key)
        return wire.Acknowledgement(self._last_key, tuple(awaited))

    def _attach(self) -> None:
        connection = self.client._connection
        read_watch_event = connection._read_watch_event

        def read(buffer: bytes, offset: int) -> None:
            late = wire.read_late_answer(buffer, offset)
            if late is None:
                read_watch_event(buffer, offset)
            else:
                self._late_answer(late)

        read_response = connection._read_response

        def respond(header: Any, buffer: bytes, offset: int) -> Any:
            pending = self.client._pending
            reason = wire.read_reason(buffer, offset) if header.err else None
            if reason is not None and pending and pending[0][1] is not None:
                request, result, xid = pending[0]
                if xid == header.xid:
                    pending[0] = (request, _WithReason(result, reason), xid)
            return read_response(header, buffer, offset)

        # On the instance: other clients of the process are none of our business.
        connection._read_watch_event = read
        connection._read_response = respond
        self.client.add_listener(self._state_changed)
        with self._lock:
            if self.client.connected:
                self._connected = True

    def _state_changed(self, state: KazooState) -> None:
        """Runs on the connection's thread."""
        if state == KazooState.CONNECTED:
            with self._lock:
                self._connected = True
                for call in list(self._outstanding.values()):
                    self._send(call)
            return
        with self._lock:
            self._connected = False
            if state != KazooState.LOST:
                return
            # A new session starts with no calls; its keys simply go on.
            ended = list(self._outstanding.values())
        error = _session_error(self.client.client_state)
        for call in ended:
            self._end(call, error=error)

    def _send(self, call: Call) -> None:
        cancelling = call._cancelling
        request: Any = wire.CancelRequest(call.key)
        if not cancelling:
            if call._unready:
                self._outstanding.pop(call.key)
                self._last_key += 1
                call._request = call._request._replace(key=self._last_key)
                call._unready = False
                self._outstanding[call.key] = call
            request = call._request._replace(acknowledged=self._acknowledged())
        self.client._call(request, _Response(self, call, cancelling))

    def _lost(self, call: Call, error: Exception) -> None:
        # A lost connection ends nothing: the next one asks again.
        if not isinstance(error, (ConnectionLoss, SessionMovedError)):
            self._end(call, error=error)

    def _answered(self, call: Call, cancelling: bool, answer: wire.Answer) -> None:
        if answer.status == wire.PARKED:
            call._parked = True
        elif cancelling and answer.status == wire.BAD_CALL:
            # The server never saw the call, and never will: its connection is gone.
            self._end(call, answer=wire.Answer(wire.CANCELLED, ""))
        elif answer.status == wire.NOT_READY and call._attempts < _NOT_READY_ATTEMPTS:
            if not cancelling:
                call._unready = True
                self._repeat_later(call)
        else:
            self._end(call, answer=answer)

    def _repeat_later(self, call: Call) -> None:
        delay = min(_NOT_READY_DELAY_FIRST * 2**call._attempts, _NOT_READY_DELAY_MAX)
        call._attempts += 1

        def repeat() -> None:
            self.client.handler.sleep_func(delay)
            with self._lock:
                waiting = call.key in self._outstanding and call._unready and not call._cancelling
                if waiting and self._may_send():
                    self._send(call)

        self.client.handler.spawn(repeat)

    def _late_answer(self, late: wire.LateAnswer) -> None:
        """Runs on the connection's thread."""
        with self._lock:
            call = self._outstanding.get(late.key)
        if call is not None:
            self._end(call, answer=late.answer)

    def _end(
        self,
        call: Call,
        answer: Optional[wire.Answer] = None,
        error: Optional[Exception] = None,
    ) -> None:
        with self._lock:
            # The answer may come twice: as an event, and to a repetition.
            if self._outstanding.pop(call.key, None) is None:
                return
        if answer is not None:
            request = call._request
            error = error_of(answer, request.mount, request.operation, call.key)
        if error is not None:
            call._result.set_exception(error)
        else:
            assert answer is not None
            call._result.set(json.loads(answer.result))


def _session_error(state: KeeperState) -> Exception:
    if state == KeeperState.EXPIRED_SESSION:
        return SessionExpiredError()
    if state == KeeperState.AUTH_FAILED:
        return AuthFailedError()
    return ConnectionClosedError("Connection has been closed")
