"""Where a server listens: on any number of addresses, each bound as soon as it is named."""

import asyncio
import os
from abc import abstractmethod
from collections.abc import Awaitable, Generator
from dataclasses import replace
from typing import Any

from .._addressing import unparse_host_port
from .._endpoints import get_address_host_port, listen
from .._loops.ownership import owner
from .._loops.tasks import start
from ..core import Comm, Listener
from ..errors import LocalProtocolError
from ..options import CommOptions
from .remote_errors import Status

__all__ = ["Listening", "limited"]

#: What Dask's ``Security.get_listen_args()`` has.
TLS = ("ssl_context", "require_encryption")


class Listening:
    """The half of a `Server` that has addresses."""

    default_ip = ""
    default_port = 0
    _scheme = "tcp"

    def __init__(
        self, deserialize: bool, arguments: dict[str, Any], contact_host: str | None
    ) -> None:
        self.status: Status = Status.init
        self.deserialize = deserialize
        self._arguments = arguments  # those of `listen` …
        self._contact_host = contact_host  # … but for this one, which `connect` does not know
        self._bound: list[_Bound] = []

    @abstractmethod
    def handle_comm(self, comm: Comm) -> Awaitable[None] | None:
        """Serve a connection."""

    def listen(
        self,
        port_or_addr: int | str | tuple[str, int] | None = None,
        *,
        max_buffer_size: float | None = None,
        contact_host: str | None = None,
        **arguments: Any,
    ) -> Awaitable[Listener]:
        """Listen on a port of every interface, a host and port, or a URI; on several in turn.

        The port is bound when this returns, so `port` is known. Connections are accepted as
        soon as the loop runs on, or, where none runs yet, when the server is awaited; to
        await what is returned waits for that. ``arguments`` override those of the server;
        ``ssl_context`` and ``require_encryption`` may be among them, as in Dask.
        Raises ValueError for a malformed address, OSError for one that cannot be had, and
        RuntimeError once the server was closed.
        """
        if self.status in {Status.closing, Status.closed}:
            raise RuntimeError(f"{self!r} was closed")
        addr = self.default_port if port_or_addr is None else port_or_addr
        if isinstance(addr, int):
            addr = self.default_ip, addr
        if isinstance(addr, tuple):
            addr = unparse_host_port(*addr)
        if "://" not in addr:
            addr = f"{self._scheme}://{addr}"
        given = {**self._arguments, **arguments}
        given["connection_args"] = self._connection_args(given, arguments)
        if max_buffer_size is not None:
            given["options"] = limited(given.get("options"), max_buffer_size)
        given["contact_host"] = contact_host or self._contact_host
        listener = listen(addr, self.handle_comm, self.deserialize, **given)
        listener.bind()
        bound = _Bound(listener)
        self._bound.append(bound)
        if asyncio._get_running_loop() is not None:
            bound.begin()
        return bound

    def _connection_args(self, given: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        """Take those that may also be said by themselves; the server's also are for dialling."""
        taken = dict(self._arguments.get("connection_args") or {})
        taken.pop("server_hostname", None)
        if own.get("security") is not None:
            taken.pop("ssl_context", None)
        taken.update(own.get("connection_args") or {})
        taken.update({name: given.pop(name) for name in TLS if name in own})
        return taken

    @property
    def listeners(self) -> list[Listener]:
        return [bound.listener for bound in self._bound]

    @property
    def listener(self) -> Listener | None:
        """The first listener, None before `listen`."""
        return self._bound[0].listener if self._bound else None

    @property
    def address(self) -> str:
        """Where others reach this server; ValueError before `listen`."""
        return self._listener().contact_address

    @property
    def listen_address(self) -> str:
        """Where it listens, perhaps a wildcard such as ``tcp://0.0.0.0:8000``."""
        return self._listener().listen_address

    @property
    def host(self) -> str:
        return get_address_host_port(self.address)[0]

    @property
    def port(self) -> int:
        return get_address_host_port(self.listen_address)[1]

    def _listener(self) -> Listener:
        if self.listener is None:
            raise ValueError(f"{self!r} has no address: it does not listen")
        return self.listener


class _Bound:
    """What `Server.listen` returns: a listener that is bound, and accepts once awaited."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._start: asyncio.Task[None] | None = None
        self._process = 0  # where that was begun

    def begin(self) -> "asyncio.Task[None]":
        """Start the listener; LocalProtocolError if that was done elsewhere."""
        self.expect_here()
        if self._start is None:
            self._start = start(self.listener.start())
            self._process = os.getpid()
        return self._start

    def owner(self) -> str | None:
        """Name the loop or the process that the listener belongs to, unless it is this one."""
        task = self._start
        if task is None:
            return None
        forked, loop = self._process != os.getpid(), task.get_loop()
        if not task.done() and (forked or loop.is_closed()):  # it has never begun
            self._start = None
            return None
        if forked:
            return owner(None)
        return None if loop is asyncio._get_running_loop() else owner(loop)

    def expect_here(self) -> None:
        whose = self.owner()
        if whose is not None:
            raise LocalProtocolError(f"{self.listener!r} belongs to {whose}: make another here")

    def stop(self) -> None:
        if self._start is not None and not self._start.done():
            self._start.cancel()
        self.listener.stop()

    def __await__(self) -> Generator[Any, Any, Listener]:
        yield from asyncio.shield(self.begin()).__await__()
        return self.listener


def limited(options: CommOptions | None, size: float) -> CommOptions:
    """Return the options with another limit on a message."""
    options = options or CommOptions()
    return replace(options, limits=replace(options.limits, message=int(size)))
