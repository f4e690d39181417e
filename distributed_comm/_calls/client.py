"""rpc: calls to one server, over comms of its own."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Self

from .._loops.loop_state import NOWHERE
from ..core import Comm
from ..errors import CommClosedError
from .checkout import Plan
from .pool import Address, ConnectionPool, address_of
from .proxy import Remote
from .remote_errors import Status

__all__ = ["rpc"]


class rpc(Remote):  # noqa: N801 - the name that Dask gave it
    """Calls the functions of a server: ``await rpc("127.0.0.1:8000").add(x=10, y=20)``.

    The server is an address, a pair of host and port, ``ip=`` and ``port=``, or at the other
    end of an open ``comm=`` (or ``stream=``), which is then the only one. Otherwise calls that
    overlap have a comm each, at most ``limit``. ``timeout`` is for connecting, in seconds;
    it and ``arguments``, such as ``trusted=``, are those of `connect`.

    What a call takes and returns is said at `Remote`.
    """

    _scheme = "tcp"

    def __init__(
        self,
        arg: Address | None = None,
        comm: Comm | None = None,
        deserialize: bool = True,
        timeout: float | None = None,
        connection_args: Mapping[str, Any] | None = None,
        serializers: Iterable[str] | None = None,
        deserializers: Iterable[str] | None = None,
        *,
        stream: Comm | None = None,
        ip: str | None = None,
        port: int | None = None,
        addr: Address | None = None,
        limit: int = 512,
        **arguments: Any,
    ) -> None:
        comm = comm or stream
        self._own: ConnectionPool
        if comm is not None:
            address, self._own = comm.peer_address, _OneComm(comm)
        else:
            address = address_of(arg if arg is not None else addr, ip, port, self._scheme)
            self._own = ConnectionPool(
                limit, deserialize, timeout=timeout, connection_args=connection_args, **arguments
            )
        super().__init__(self._own, address, serializers, deserializers)
        self.status: Status = Status.running

    def close_comms(self) -> "list[asyncio.Future[Any]]":
        """Close the comms, also those of calls under way; later calls open new ones.

        Returns what may be awaited.
        """
        return self._own._drop(reason="its rpc was told to close its comms")

    close_streams = close_comms

    async def close_rpc(self) -> None:
        """Close the comms; there can be no more calls."""
        self.status = Status.closed
        await self._own.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close_rpc()

    def __repr__(self) -> str:
        return f"<rpc to {self.address}, {self._own.open} comms>"


class _OneComm(ConnectionPool):
    """The pool of an rpc that was given its only comm."""

    def __init__(self, comm: Comm) -> None:
        self._comm = comm
        super().__init__(limit=1)

    def _begin(self, loop: asyncio.AbstractEventLoop | None) -> Plan:
        plan = super()._begin(loop)
        plan.count = 1
        plan.opened(self._comm.peer_address, self._comm)
        if loop is not None:  # not before: nobody is to be given it twice
            plan.put_back(self._comm.peer_address, self._comm)
        return plan

    def _settle(self) -> Plan:
        """Stay where the comm belongs; it says so itself if this is elsewhere."""
        loop = asyncio._get_running_loop()
        if loop is not None and loop is not self._loop:
            self._comm.expect_here()
            self._begin(loop)
        return self._plan

    def _forked(self) -> None:
        """Let nobody use the comm, which remains the parent's."""
        self._loop = None
        self._plan.here = NOWHERE.runs

    async def _dial(self, addr: str, timeout: float | None) -> Comm:  # noqa: ARG002
        raise CommClosedError(f"the comm to {addr} that this rpc was given is closed")
