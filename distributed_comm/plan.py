"""Who has which comm: a bounded pool as a plan, which opens and awaits nothing itself.

What changes the pool is a plain function, so no lock is needed: each returns or records what
is to be opened and closed, and `pool.ConnectionPool` does that and the waiting. While
anybody waits, no comm is idle; so a comm that comes back always serves somebody.
"""

import asyncio
from collections import deque

from .core import Comm

__all__ = ["Plan", "Waiter"]

#: How often a waiter is passed over in favour of those whose address a comm came back for.
PATIENCE = 16


class Waiter:
    """Somebody who may neither take a comm nor open one; the future's None means: open one."""

    __slots__ = ("address", "future", "passed")

    def __init__(self, address: str, future: "asyncio.Future[Comm | None]") -> None:
        self.address = address
        self.future = future
        self.passed = 0


class Plan:
    """At most ``limit`` comms that are idle, busy or being opened."""

    __slots__ = ("busy", "count", "idle", "limit", "unwanted", "waiters")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0  # idle, busy and being opened
        self.idle: dict[str, list[Comm]] = {}
        self.busy: dict[Comm, str] = {}
        self.waiters: deque[Waiter] = deque()
        #: Comms that are to be closed; whoever sees any takes them out.
        self.unwanted: list[Comm] = []

    def take(self, address: str) -> Comm | None:
        """Return an idle comm, which is busy from now on."""
        idle = self.idle.get(address)
        while idle:
            comm = idle.pop()
            if not comm.closed():
                self.busy[comm] = address
                return comm
            self.count -= 1
            self.unwanted.append(comm)
        return None

    def may_open(self) -> bool:
        """Whether there is room for one more, which is counted then."""
        if self.count < self.limit:
            self.count += 1
            return True
        for address, idle in self.idle.items():
            if idle:
                self.unwanted.append(idle.pop(0))
                if not idle:
                    del self.idle[address]
                return True
        return False

    def opened(self, address: str, comm: Comm) -> None:
        """Take note of a comm for which `may_open` was asked."""
        self.busy[comm] = address

    def failed(self) -> None:
        """Take note that opening one did not work: its room goes to who waits longest."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.future.done():
                waiter.future.set_result(None)
                return
        self.count -= 1

    def put_back(self, comm: Comm) -> None:
        """Take a busy comm back, to give it to somebody else."""
        address = self.busy.pop(comm, None)
        if address is None:  # not ours, or not any more
            self.unwanted.append(comm)
        elif comm.closed():
            self.unwanted.append(comm)
            self.failed()
        elif self.waiters:
            self._hand_on(address, comm)
        else:
            self.idle.setdefault(address, []).append(comm)

    def _hand_on(self, address: str, comm: Comm) -> None:
        """Give a comm to who waits for its address, or its room to who waits longest."""
        while self.waiters and self.waiters[0].future.done():
            self.waiters.popleft()
        for waiter in self.waiters:
            if waiter.address == address and not waiter.future.done():
                self.waiters.remove(waiter)
                self.busy[comm] = address
                waiter.future.set_result(comm)
                return
            waiter.passed += 1
            if waiter.passed > PATIENCE:
                break
        if self.waiters:
            self.unwanted.append(comm)
            self.failed()
        else:
            self.idle.setdefault(address, []).append(comm)

    def collect(self, address: str | None = None) -> None:
        """Give up the idle comms, of one address or of all."""
        for key in [address] if address is not None else list(self.idle):
            comms = self.idle.pop(key, [])
            self.count -= len(comms)
            self.unwanted += comms

    def disown(self, address: str | None = None) -> list[Comm]:
        """Forget the busy comms, of one address or of all, and return them."""
        comms = [comm for comm, key in self.busy.items() if address in {key, None}]
        for comm in comms:
            del self.busy[comm]
            self.failed()
        return comms
