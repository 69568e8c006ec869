"""What a program uses: :class:`Recipes` over a kazoo client, and :class:`Mount` for one mount of it."""

from typing import Any, Callable, Optional

from kazoo.client import KazooClient

from quorate import check
from quorate.calls import Call, Calls


class Recipes:
    """Calls of recipes over a kazoo client, which goes on working as before.

    ::

        zk = KazooClient(hosts="127.0.0.1:2181")
        zk.start()
        recipes = Recipes(zk)
        grant = recipes.call("/locks", "acquire", "inventory", timeout=30)
        ...
        recipes.call("/locks", "release", "inventory")

    A call is executed exactly once: each has a key, and when the connection was lost it is asked
    for again with the same key, in the same session. It ends with its result, with a
    :class:`~quorate.CallError`, or with the session (``SessionExpiredError``, or
    ``ConnectionClosedError`` once the client is stopped).

    From now on, an exception of the client's own requests says why they were refused, where the server says so:
    a recipe's guard does. It is the exception's text, and its attribute ``reason``::

        zk.set("/config/web", b"{}")    # NoAuthError: the guard of /config refuses it: ...

    Like everything of kazoo that waits, ``call`` must not be used in a watch function or a state
    listener; ``call_async`` may.
    """

    def __init__(self, client: KazooClient) -> None:
        self._client = client
        self._calls = Calls.of(client)

    def call(
        self,
        mount: str,
        operation: str,
        *arguments: Any,
        timeout: Optional[float] = None,
        **named: Any,
    ) -> Any:
        """Runs an operation, waits for its result and gives it, as :mod:`json` reads it.

        Arguments are given by position or by name, not both. ``timeout`` is in seconds and kept
        by the server: after it, the call is over (:class:`~quorate.CallTimedOut`). An operation
        with a parameter called ``timeout`` takes it by position. If the waiting is interrupted,
        the call is cancelled.

        What cannot be sent raises ``TypeError`` or ``ValueError`` at once, which names the
        parameter; nothing is sent, and the client goes on.
        """
        call = self.call_async(mount, operation, *arguments, timeout=timeout, **named)
        try:
            return call.get()
        except BaseException:
            if not call.ready():
                call.cancel_async()
            raise

    def call_async(
        self,
        mount: str,
        operation: str,
        *arguments: Any,
        timeout: Optional[float] = None,
        **named: Any,
    ) -> Call:
        """The same, but gives a :class:`~quorate.Call` at once."""
        if arguments and named:
            raise TypeError("give the arguments by position or by name, not both")
        path, given = check.call(
            self._client.chroot, mount, operation, named or arguments, timeout
        )
        return self._calls.start(path, operation, given)

    def cancel(self, call: Call) -> None:
        """Same as ``call.cancel()``."""
        check.kind("call", call, Call, "what call_async gives")
        call.cancel()

    def acknowledge(self) -> None:
        """Lets the server forget the answers that have been seen. Every call does that too."""
        self._calls.acknowledge()

    def at(self, mount: str) -> "Mount":
        """One mount, with its operations as methods."""
        check.mount(self._client.chroot, mount)
        return Mount(self, mount)


class Mount:
    """A mount's operations as methods: ``recipes.at("/locks").try_acquire("inventory")``.

    An underscore in a method's name stands for the hyphen in the operation's.
    """

    def __init__(self, recipes: Recipes, path: str) -> None:
        self._recipes = recipes
        self._path = path

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        operation = name.replace("_", "-")

        def method(*arguments: Any, timeout: Optional[float] = None, **named: Any) -> Any:
            return self._recipes.call(
                self._path, operation, *arguments, timeout=timeout, **named
            )

        return method
