"""A server as an object: any attribute is a function of it."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Protocol

from .calls import abandon, envelop, is_error, unpack_error
from .core import Comm
from .errors import CommClosedError

__all__ = ["Comms", "Method", "Remote"]


#: Keys of a call that are not the function's arguments.
RESERVED = {"op", "reply", "serializers", "deserializers"}


class Comms(Protocol):
    """Where calls get their comms."""

    serializers: Iterable[str] | None
    deserializers: Iterable[str] | None

    @property
    def take(self) -> Callable[[str], Comm | None]:
        """Returns one that is idle, None where there is none."""

    @property
    def reuse(self) -> Callable[[str, Comm], None]:
        """Takes one back, open or closed."""

    @property
    def reuse_sound(self) -> Callable[[str, Comm], None]:
        """Takes one back that has just carried a reply."""

    async def connect(self, addr: str) -> Comm:
        """Return one, when it can be had."""

    def reason(self, comm: Comm) -> str | None:
        """Return why one in use was given up, None where it was not."""


class Remote:
    """Calls the functions of the server at an address, over the comms of a pool.

    A call takes keyword arguments only and returns, or raises, what the function did. Three
    are not the function's: ``reply=False`` waits for no reply, ``serializers=`` and
    ``deserializers=`` name the families that may be used. ``remote.op.stream(...)`` iterates
    over the messages of a function that sends many. An op that begins with an underscore, or
    has the name of an attribute here, is left to `send_recv`.
    """

    def __init__(
        self,
        pool: Comms,
        address: str,
        serializers: Iterable[str] | None = None,
        deserializers: Iterable[str] | None = None,
    ) -> None:
        self.address = address
        self._pool = pool
        self._serializers = serializers or pool.serializers
        self._deserializers = deserializers or pool.deserializers

    def __getattr__(self, op: str) -> "Method":
        if op.startswith("_"):
            raise AttributeError(op)
        method = Method(op, self.address, self._pool, self._serializers, self._deserializers)
        self.__dict__[op] = method  # so that it is looked for only once
        return method

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.address}>"


class Method:
    """One op of a server: a call of it is a coroutine."""

    __slots__ = ("_address", "_deserializers", "_op", "_pool", "_serializers")

    def __init__(
        self,
        op: str,
        address: str,
        pool: Comms,
        serializers: Iterable[str] | None,
        deserializers: Iterable[str] | None,
    ) -> None:
        self._op = op
        self._address = address
        self._pool = pool
        self._serializers = serializers
        self._deserializers = deserializers

    # What `send_recv` does, once more: another coroutine in between took 2,000 instructions.
    async def __call__(self, /, *values: Any, **message: Any) -> Any:
        serializers, deserializers = self._serializers, self._deserializers
        reply = True
        if serializers or deserializers or values or not message.keys().isdisjoint(RESERVED):
            self._check(values, message)
            reply = message.get("reply", True)
            serializers = message.pop("serializers", serializers)
            deserializers = message.pop("deserializers", deserializers)
            envelop(message, reply, serializers, deserializers)
        else:
            message["reply"] = True
        message["op"] = self._op
        pool, address = self._pool, self._address
        comm, written, response = None, False, None
        try:
            comm = pool.take(address) or await pool.connect(address)
            rest = comm.send(message, serializers)
            if rest is not None:
                await rest
            written = True
            if reply:
                response = await comm.read(deserializers or serializers)
        except BaseException as exc:
            if isinstance(exc, CommClosedError):
                self._note(exc, comm)
            if comm is not None:
                abandon(comm, exc, written)
                pool.reuse(address, comm)
            raise
        if "close" in message:
            try:
                if message["close"]:
                    await comm.close()
            finally:  # cancelled, too: its room in the pool is somebody else's now
                pool.reuse(address, comm)
        else:
            pool.reuse_sound(address, comm)
        if type(response) is dict and is_error(response):
            raise unpack_error(response, comm)
        return response

    def _note(self, exc: CommClosedError, comm: Comm | None) -> None:
        """Say of which call this is the end, and why the pool gave the comm up, if it did."""
        reason = self._pool.reason(comm) if comm is not None else None
        why = f": {reason}" if reason else ""
        exc.add_note(f"while calling {self._op!r} of {self._address}{why}")

    def _check(self, values: tuple[Any, ...], message: dict[str, Any]) -> None:
        """Refuse what would not reach the function; TypeError."""
        if values:
            shown = f"{self._op}({', '.join(map(repr, values)):.60})"
            raise TypeError(f"{shown}: a call takes its arguments by name, as in x=1")
        if "op" in message:
            raise TypeError(f"{self._op}(op=…): a call's own op is {self._op!r}, and no argument")

    async def stream(self, /, *values: Any, **message: Any) -> AsyncIterator[Any]:
        """Iterate over the messages of a stream, on a comm of its own, until the server ends it.

        What a function returns that sends no stream is the only item.
        """
        self._check(values, message)
        serializers = message.pop("serializers", self._serializers)
        families = message.pop("deserializers", self._deserializers) or serializers
        if families is not None:
            message["serializers"] = tuple(families)
        comm = await self._pool.connect(self._address)
        try:
            await comm.write({**message, "op": self._op, "close": True}, serializers)
            while True:
                try:
                    item = await comm.read(families)
                except CommClosedError as exc:
                    if exc.clean:
                        break
                    self._note(exc, comm)
                    raise
                if is_error(item):
                    raise unpack_error(item, comm)
                yield item
        finally:
            comm.abort()  # what comes after is nobody's
            self._pool.reuse(self._address, comm)
