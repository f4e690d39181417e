"""The systems that are measured, a module each, and what they have in common.

To add a system, write a module with the names of `System` and add it to `MODULES`.
"""

import importlib
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar, cast

T = TypeVar("T")

MODULES = {
    "distributed_comm": "ours",
    "busy_poll": "ours_busy_poll",
    "socket": "blocking_sockets",
    "uvloop": "uvloop_protocol",
    "dask": "dask_comm",
    "dask_asyncio": "dask_asyncio",
    "grpc": "grpc_aio",
}
FLOOR = "socket"
BARE = "uvloop"
USUAL = ("distributed_comm", FLOOR, BARE)

TRANSPORTS = ("tcp", "tls", "unix", "inproc")
IN_ONE_PROCESS = frozenset({"inproc"})
"""Of the transports, those whose client is its own server."""


class Comm(Protocol):
    """One connection, as a workload sees it; every method raises OSError once it is closed.

    `write` and `read` are what is timed, so a system binds its own here without a layer.
    `tell` and `told` move the two numbers that open and end a batch, which not every system
    could send as a message.
    """

    async def tell(self, count: int, size: int) -> None: ...
    async def told(self) -> tuple[int, int]: ...
    @property
    def write(self) -> Callable[[Any], Awaitable[object]]: ...
    @property
    def read(self) -> Callable[[], Awaitable[Any]]: ...
    @property
    def close(self) -> Callable[[], Awaitable[object]]: ...


class Caller(Protocol):
    """One client of a server that adds two numbers; any number of calls may overlap."""

    @property
    def add(self) -> Callable[..., Awaitable[int]]: ...
    @property
    def close(self) -> Callable[[], Awaitable[object]]: ...


Handler = Callable[[Comm], Coroutine[Any, Any, None]]


class System(Protocol):
    """What a system's module provides; `KINDS` are the kinds of workload that it can run.

    ``small`` is small messages, ``bulk`` arrays; for ``call`` the server adds numbers, without
    asking ``serve``, and `connect` returns a `Caller`. An address is a text that only the
    system's own `connect` reads.
    """

    TRANSPORTS: frozenset[str]
    KINDS: frozenset[str]

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the event loop that suits this system best."""

    def item(self, size: int | None) -> Any:
        """What `Comm.write` takes to send an array of ``size`` bytes; None: the small message."""

    def nbytes(self, item: Any) -> int:
        """The size of the array in an item that `Comm.read` returned."""

    def listen(self, transport: str, kind: str, serve: Handler) -> AbstractAsyncContextManager[str]:
        """Serve every connection until the context ends; its value is the address."""

    async def connect(self, address: str, kind: str) -> Any:
        """Return a `Comm`, or a `Caller`."""


class ObjectComm:
    """A comm of a library whose messages are objects: the two numbers are one of them."""

    def __init__(self, comm: Any) -> None:
        self.write = comm.write
        self.read = comm.read
        self.close = comm.close

    async def tell(self, count: int, size: int) -> None:
        await self.write({"count": count, "size": size})

    async def told(self) -> tuple[int, int]:
        told = await self.read()
        return told["count"], told["size"]


def add(x: int, y: int) -> int:
    """What every server of the kind ``call`` does."""
    return x + y


def load(name: str) -> System:
    """Import the module of one system, and with it the library that it measures."""
    return cast("System", importlib.import_module(f"{__name__}.{MODULES[name]}"))
