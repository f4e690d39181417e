"""A server as an object: any attribute is a function of it."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Protocol

from .calls import abandon, envelop, is_error, unpack_error
from .core import Comm
from .errors import CommClosedError

__all__ = ["Comms", "Method", "Remote"]


#: Keys of a call that are not the function's arguments.
RESERVED = {"reply", "serializers", "deserializers"}


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
    async def __call__(self, /, **message: Any) -> Any:
        message["op"] = self._op
        serializers, deserializers = self._serializers, self._deserializers
        reply = True
        if serializers or deserializers or not message.keys().isdisjoint(RESERVED):
            reply = message.get("reply", True)
            serializers = message.pop("serializers", serializers)
            deserializers = message.pop("deserializers", deserializers)
            envelop(message, reply, serializers, deserializers)
        else:
            message["reply"] = True
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
            if comm is not None:
                abandon(comm, exc, written)
                pool.reuse(address, comm)
            if isinstance(exc, CommClosedError):
                exc.add_note(f"while calling {self._op!r} of {address}")
            raise
        if "close" in message:
            if message["close"]:
                await comm.close()
            pool.reuse(address, comm)
        else:
            pool.reuse_sound(address, comm)
        if type(response) is dict and is_error(response):
            raise unpack_error(response, comm)
        return response

    async def stream(self, /, **message: Any) -> AsyncIterator[Any]:
        """Iterate over the messages of a stream, on a comm of its own, until the server ends it.

        What a function returns that sends no stream is the only item.
        """
        comm = await self._pool.connect(self._address)
        try:
            await comm.write({**message, "op": self._op, "close": True})
            async for item in comm:
                if is_error(item):
                    raise unpack_error(item, comm)
                yield item
        finally:
            comm.abort()  # what comes after is nobody's
            self._pool.reuse(self._address, comm)
