"""ConnectionPool: comms to any number of addresses, bounded, opened when needed and reused.

Who calls takes a comm, or opens one, and brings it back when the reply has come. A call that
was cancelled, or lost its connection, brings back a comm that is closed, which nobody is
given again. `checkout` decides which caller gets which.

A pool belongs to one event loop at a time, as its comms do. In another loop, or in a child of its
process, it begins anew with an empty plan, and comms of the old one do not count any more. While
the old loop still uses the pool, that is refused.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

from .._addressing import unparse_host_port
from .._endpoints import connect
from .._loops import forks
from .._loops.loop_state import NOWHERE, state_of
from .._loops.ownership import owner
from .._loops.tasks import start
from ..core import Comm
from ..errors import CommClosedError, LocalProtocolError
from .checkout import Plan
from .proxy import Remote
from .remote_errors import Status
from .waiters import Waiter

__all__ = ["Address", "ConnectionPool", "address_of"]

Address = str | tuple[str, int]


def address_of(addr: Address | None, ip: str | None, port: int | None, scheme: str = "tcp") -> str:
    """Return the URI of a server that was named in one of three ways; no ip is this machine."""
    if addr is None:
        if ip is None:
            raise TypeError("an rpc needs an address: arg, addr=, ip= and port=, or comm=")
        addr = ip, port or 0
    if not isinstance(addr, str):
        try:
            host, port = addr
        except (TypeError, ValueError):
            raise TypeError(
                f"{addr!r:.60} is no address: expected a URI, or (host, port)"
            ) from None
        addr = unparse_host_port(host or "127.0.0.1", port)
    return addr if "://" in addr else f"{scheme}://{addr}"


class ConnectionPool:
    """At most ``limit`` comms, to any number of addresses, opened when needed and reused.

    ``pool(address)`` is like an `rpc`, whose comms are the pool's. Who finds the pool full, and no
    comm idle, waits until one comes back. ``timeout`` and ``arguments`` are those of `connect`.

    A pool may be used in one event loop after another, and in a process that was forked later: it
    forgets its comms then, and dials anew. While another loop uses it, calls raise a
    LocalProtocolError.

    >>> pool = ConnectionPool(limit=100)
    >>> a, b = pool("tcp://127.0.0.1:8000"), pool(("127.0.0.1", 8001))
    """

    def __init__(
        self,
        limit: int = 512,
        deserialize: bool = True,
        serializers: Iterable[str] | None = None,
        deserializers: Iterable[str] | None = None,
        connection_args: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        **arguments: Any,
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit={limit}, expected at least 1")
        self.status: Status = Status.running
        self.serializers = serializers
        self.deserializers = deserializers
        self._arguments = {
            **arguments,
            "connection_args": connection_args,
            "deserialize": deserialize,
            "timeout": timeout,
        }
        self.limit = limit
        self._reasons: WeakKeyDictionary[Comm, str] = WeakKeyDictionary()
        self._inherited: object = None  # what the parent of this process had
        self._begin(None)
        forks.watch(self)

    def __call__(
        self, addr: Address | None = None, ip: str | None = None, port: int | None = None
    ) -> Remote:
        """Return an object whose attributes are the functions of the server there."""
        return Remote(self, address_of(addr, ip, port))

    # -- whose it is -------------------------------------------------------------------------

    def _begin(self, loop: asyncio.AbstractEventLoop | None) -> Plan:
        """Belong to this loop, with no comm."""
        switch = NOWHERE if loop is None else state_of(loop).switch
        self._loop = loop
        self._plan = plan = Plan(self.limit, self._discard, switch.runs)
        #: ``_take(addr)`` returns an idle comm, None if there is none; ``_reuse_sound(addr, comm)``
        #: takes back one that has just carried a reply. Attributes, because each call uses both.
        self._take = plan.take
        self._reuse_sound = plan.put_back_sound
        self._acquiring: dict[str, set[Acquisition]] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        return plan

    def _settle(self) -> Plan:
        """Return the plan of the running loop, and forget that of another.

        LocalProtocolError while the other is in use. Without a running loop, the plan is what it
        was, if its loop is not closed.
        """
        loop, home = asyncio._get_running_loop(), self._loop
        if loop is not None and home is None:  # the same plan, whose methods somebody may have
            self._loop, self._plan.here = loop, state_of(loop).switch.runs
        if loop is home or home is None:
            return self._plan
        closed = home.is_closed()
        if not closed:
            if home.is_running() or (loop is not None and (self.active or self._acquiring)):
                raise LocalProtocolError(
                    f"{self!r} belongs to {owner(home)} and uses it; another needs its own"
                )
            if loop is None:
                return self._plan
        comms = list(self._plan.members)
        plan = self._begin(loop)
        for comm in comms:
            comm.abort()
        return plan

    def _forked(self) -> None:
        """Begin anew in the child, and keep what the parent had: its end would disturb that."""
        self._inherited = self._inherited, self._plan, self._acquiring, self._tasks
        self._begin(None)

    # -- figures -----------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """How many comms are in use."""
        return len(self._plan.members) - sum(map(len, self._plan.idle.values()))

    @property
    def open(self) -> int:
        """How many comms there are, in use or idle."""
        return len(self._plan.members)

    # -- comms -----------------------------------------------------------------------------

    async def connect(self, addr: str, timeout: float | None = None) -> Comm:
        """Return a comm to an address, reused or new; `reuse` it in the end.

        Raises what `connect` raises, and CommClosedError when the pool is closed.
        """
        if self.status is not Status.running:
            raise CommClosedError(f"{self!r} is closed, and opens no comm to {addr}")
        plan = self._settle()
        comm = plan.take(addr)
        if comm is not None:
            return comm
        acquisition, acquiring = Acquisition(), self._acquiring
        acquiring.setdefault(addr, set()).add(acquisition)
        try:
            with acquisition:
                if not plan.may_open():
                    comm = await self._wait(plan, addr)
                return comm or await self._open(plan, addr, timeout)
        finally:
            acquiring[addr].discard(acquisition)
            if not acquiring[addr]:
                del acquiring[addr]

    # In these two the plan is that of the caller: the pool may have another by the time that the
    # coroutine of a loop which was closed is collected.

    async def _wait(self, plan: Plan, addr: str) -> Comm | None:
        """Wait for a comm that comes back, or, which is None, for room to open one."""
        waiter = Waiter(addr, asyncio.get_running_loop().create_future())
        plan.waiters.append(waiter)
        try:
            comm = await waiter.future
        except BaseException:
            waited = plan.waiters.remove(waiter)
            if not waited and waiter.future.done() and not waiter.future.cancelled():
                comm = waiter.future.result()  # it came too late
                if comm is None:
                    plan.make_room()
                else:
                    plan.put_back(addr, comm)
            raise
        if comm is not None and (comm.closed() or comm.unread()):  # since it was handed over
            plan.vacate(comm)
            return None
        return comm

    async def _open(self, plan: Plan, addr: str, timeout: float | None) -> Comm:
        """Open a comm for which the plan has room."""
        try:
            comm = await self._dial(addr, timeout)
        except BaseException:
            plan.make_room()
            raise
        plan.opened(addr, comm)
        return comm

    async def _dial(self, addr: str, timeout: float | None) -> Comm:
        arguments = self._arguments if timeout is None else {**self._arguments, "timeout": timeout}
        return await connect(addr, **arguments)

    def reuse(self, addr: str, comm: Comm) -> None:
        """Take back a comm that `connect` returned, open or closed, for others to use."""
        self._plan.put_back(addr, comm)

    def collect(self) -> None:
        """Close the comms that nobody uses."""
        self._settle().collect()

    def remove(self, addr: str, *, reason: str = "Address removed.") -> None:
        """Close all comms to an address, those in use too, and give up opening more.

        Calls under way get a CommClosedError that says the reason.
        """
        self._give_up(addr, reason)

    def _drop(self, addr: str | None = None, reason: str = "") -> "list[asyncio.Future[Any]]":
        """Give up every comm to an address, or all: the idle, the busy, those being opened.

        Returns what may be awaited until they are closed.
        """
        self._give_up(addr, reason)
        return list(self._tasks)

    def _give_up(self, addr: str | None, reason: str) -> None:
        plan = self._settle()
        name = repr(self)  # once, for it counts the comms
        addresses = list(self._acquiring) if addr is None else [addr]
        for address in addresses:  # first, for what follows makes room
            for acquisition in self._acquiring.get(address, ()):
                acquisition.give_up(f"{name} gave up {address}: {reason}")
        plan.collect(addr)
        for comm in plan.disown(addr):
            self._reasons[comm] = reason
            comm.abort()

    def _reason(self, comm: Comm) -> str | None:
        """Return why a comm that was in use has been given up, None where it has not."""
        return self._reasons.get(comm)

    def _discard(self, comm: Comm) -> None:
        """Close a comm that the plan has given up, without waiting for it."""
        if comm.unread():
            text = "%s sent a message that nobody had asked for; that connection is closed"
            comm.log.line(logging.WARNING, text, comm.peer_address)
        if comm.closed() or not self._plan.here():  # no other loop can close it in order
            comm.abort()
        else:
            task = start(comm.close())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def start(self) -> None:
        """Do nothing: a pool opens what it needs. Dask's has to be started."""

    async def close(self) -> None:
        """Close every comm, and end every call under way with a CommClosedError."""
        self._settle()
        self.status = Status.closed
        self._give_up(None, "the pool was closed")
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.open} open, {self.active} in use, of {self.limit}>"


class Acquisition:
    """A comm that is waited for or being opened, by the task that is inside of ``with``.

    `give_up` cancels it, which is a CommClosedError there. Who else cancels the task, before
    or after, gets what they asked for.
    """

    __slots__ = ("_cancelling", "_task", "_why")

    def __init__(self) -> None:
        self._why: str | None = None
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0

    def give_up(self, why: str) -> None:
        if self._why is None and self._task is not None:
            self._why = why
            self._task.cancel()

    def __enter__(self) -> None:
        return

    def __exit__(
        self, _: type[BaseException] | None, exc: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._why is None or self._task is None:
            return
        if self._task.uncancel() <= self._cancelling and isinstance(exc, asyncio.CancelledError):
            raise CommClosedError(self._why) from exc
