"""Who has which comm: a bounded pool as a plan, which opens and awaits nothing itself.

What changes the pool is a plain function, so no lock is needed: it says what may be opened and
hands over what is to be closed, and `pool.ConnectionPool` does that and the waiting. While
anybody waits, no comm is idle; so a comm that comes back always serves somebody.
"""

import asyncio
from collections import deque
from collections.abc import Callable

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
    """At most ``limit`` comms that are idle, in use or being opened.

    ``discard`` gets each comm that is to be closed.
    """

    __slots__ = ("count", "discard", "idle", "limit", "members", "waiters")

    def __init__(self, limit: int, discard: Callable[[Comm], None]) -> None:
        self.limit = limit
        self.discard = discard
        self.count = 0  # the members, and those that are being opened
        self.members: dict[Comm, str] = {}  # idle or in use, with their addresses
        self.idle: dict[str, list[Comm]] = {}
        self.waiters: deque[Waiter] = deque()

    def take(self, address: str) -> Comm | None:
        """Return an idle comm, None where there is none."""
        idle = self.idle.get(address)
        while idle:
            comm = idle.pop()
            if not comm.closed():
                return comm
            self._give_up(comm)
            self.count -= 1
        return None

    def may_open(self) -> bool:
        """Whether there is room for one more, which is counted then."""
        if self.count < self.limit:
            self.count += 1
            return True
        for address, idle in self.idle.items():
            if idle:
                self._give_up(idle.pop(0))
                if not idle:
                    del self.idle[address]
                return True
        return False

    def opened(self, address: str, comm: Comm) -> None:
        """Take note of a comm for which `may_open` was asked."""
        self.members[comm] = address

    def vacate(self, comm: Comm) -> None:
        """Give up a comm that was closed when its new user looked; the room stays theirs."""
        self._give_up(comm)

    def make_room(self) -> None:
        """Take note that there is one less: its room goes to who waits longest."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.future.done():
                waiter.future.set_result(None)
                return
        self.count -= 1

    def put_back(self, address: str, comm: Comm) -> None:
        """Take back a comm that was in use, to give it to somebody else."""
        if comm.closed() and comm in self.members:
            self._give_up(comm)
            self.make_room()
        else:
            self.put_back_sound(address, comm)

    def put_back_sound(self, address: str, comm: Comm) -> None:
        """Do so with one that has just carried a reply, and is not looked at before its next."""
        if comm not in self.members:
            self.discard(comm)
        elif self.waiters:
            self._hand_on(address, comm)
        elif address in self.idle:
            self.idle[address].append(comm)
        else:
            self.idle[address] = [comm]

    def _hand_on(self, address: str, comm: Comm) -> None:
        """Give a comm to who waits for its address, or its room to who waits longest."""
        if comm.closed():
            self._give_up(comm)
            self.make_room()
            return
        while self.waiters and self.waiters[0].future.done():
            self.waiters.popleft()
        for waiter in self.waiters:
            if waiter.address == address and not waiter.future.done():
                self.waiters.remove(waiter)
                waiter.future.set_result(comm)
                return
            waiter.passed += 1
            if waiter.passed > PATIENCE:
                break
        if self.waiters:
            self._give_up(comm)
            self.make_room()
        else:
            self.idle.setdefault(address, []).append(comm)

    def collect(self, address: str | None = None) -> None:
        """Give up the idle comms, of one address or of all."""
        for key in [address] if address is not None else list(self.idle):
            for comm in self.idle.pop(key, []):
                self._give_up(comm)
                self.count -= 1

    def disown(self, address: str | None = None) -> list[Comm]:
        """Forget the comms of one address or of all, once none is idle, and return them."""
        comms = [comm for comm, key in self.members.items() if address in {key, None}]
        for comm in comms:
            del self.members[comm]
            self.make_room()
        return comms

    def _give_up(self, comm: Comm) -> None:
        del self.members[comm]
        self.discard(comm)
