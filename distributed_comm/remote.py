"""A server as an object: any attribute is a function of it."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol

from .calls import FAILED, request, unpack_error
from .core import Comm
from .errors import CommClosedError

__all__ = ["Comms", "Method", "Remote"]


class Comms(Protocol):
    """Where calls get their comms."""

    serializers: Iterable[str] | None
    deserializers: Iterable[str] | None

    def take(self, addr: str) -> Comm | None:
        """Return one that is idle, None where there is none."""

    async def connect(self, addr: str) -> Comm:
        """Return one, when it can be had."""

    def reuse(self, addr: str, comm: Comm) -> None:
        """Take it back."""


class Remote:
    """Calls the functions of the server at an address, over the comms of a pool.

    A call takes keyword arguments only and returns, or raises, what the function did. Three
    are not the function's: ``reply=False`` waits for no reply, ``serializers=`` and
    ``deserializers=`` name the families that may be used. ``remote.op.stream(...)`` iterates
    over the messages of a function that sends many.
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

    async def __call__(self, /, **message: Any) -> Any:
        serializers = message.pop("serializers", self._serializers)
        deserializers = message.pop("deserializers", self._deserializers)
        message["op"] = self._op
        message.setdefault("reply", True)
        pool = self._pool
        try:
            comm = pool.take(self._address) or await pool.connect(self._address)
            try:
                return await request(comm, message, serializers, deserializers)
            finally:
                pool.reuse(self._address, comm)
        except CommClosedError as exc:
            exc.add_note(f"while calling {self._op!r} of {self._address}")
            raise

    async def stream(self, /, **message: Any) -> AsyncIterator[Any]:
        """Iterate over the messages of a stream, on a comm of its own, until the server ends it."""
        comm = await self._pool.connect(self._address)
        try:
            await comm.write({**message, "op": self._op})
            async for item in comm:
                if isinstance(item, dict) and item.get("status") == FAILED:
                    raise unpack_error(item, comm)
                yield item
        finally:
            comm.abort()  # what comes after is nobody's
            self._pool.reuse(self._address, comm)
