"""The tasks that wait for a comm: in which order, and how often each was passed over.

Each step takes the same time, however many wait: a thousand callers that give up together, or a
comm that comes back for one address while all others are waited for, must not stop the loop.
"""

import asyncio
from collections import OrderedDict

from ..core import Comm

__all__ = ["MOST_PASSES", "Waiter", "Waiters"]

#: How often a waiter is passed over in favour of those whose address a comm came back for.
MOST_PASSES = 16


class Waiter:
    """A task that may neither take a comm nor open one; the future's None means: open one."""

    __slots__ = ("address", "future", "newer", "older", "passed", "queued")

    def __init__(self, address: str, future: "asyncio.Future[Comm | None]") -> None:
        self.address = address
        self.future = future
        self.queued = False
        self.older: Waiter | None = None
        self.newer: Waiter | None = None
        self.passed = 0  # part of a sum, see `Waiters`

    def answer(self, comm: Comm | None) -> None:
        """End the wait, unless its loop was closed: then nobody waits."""
        if not self.future.get_loop().is_closed():
            self.future.set_result(comm)


class Waiters:
    """A queue in the order of arrival, and one for each address.

    A waiter that is served out of turn passes over all older ones. Each was passed over as often
    as its own ``passed`` and those of all younger waiters add up to. So one addition, at the
    youngest of those that were passed over, counts for all of them.
    """

    __slots__ = ("_newest", "_oldest", "_passed", "lines")

    def __init__(self) -> None:
        self._oldest: Waiter | None = None
        self._newest: Waiter | None = None
        #: By address; empty when nobody waits.
        self.lines: dict[str, OrderedDict[Waiter, None]] = {}
        self._passed = 0  # how often the oldest was passed over: the sum of all

    def __bool__(self) -> bool:
        return bool(self.lines)

    def append(self, waiter: Waiter) -> None:
        waiter.queued = True
        waiter.older = self._newest
        if self._newest is None:
            self._oldest = waiter
        else:
            self._newest.newer = waiter
        self._newest = waiter
        self.lines.setdefault(waiter.address, OrderedDict())[waiter] = None

    def remove(self, waiter: Waiter) -> bool:
        """Take a waiter out; return whether it was waiting."""
        if not waiter.queued:
            return False
        waiter.queued = False
        older, newer = waiter.older, waiter.newer
        waiter.older = waiter.newer = None
        if older is None:
            self._oldest = newer
            self._passed -= waiter.passed
        else:
            older.newer = newer
            older.passed += waiter.passed
        if newer is None:
            self._newest = older
        else:
            newer.older = older
        line = self.lines[waiter.address]
        del line[waiter]
        if not line:
            del self.lines[waiter.address]
        return True

    def take_oldest(self) -> Waiter | None:
        """Take out the oldest waiter; None if there is none."""
        oldest = self._find_oldest()
        if oldest is not None:
            self.remove(oldest)
        return oldest

    def take_for(self, address: str) -> Waiter | None:
        """Take out the waiter that is served when a comm to this address has come back.

        It is the oldest for this address, unless there is none or another was passed over too often
        already. Then it is the oldest of all.
        """
        oldest = self._find_oldest()
        if oldest is None or self._passed >= MOST_PASSES:
            return self.take_oldest()
        chosen = self._find_first(address) or oldest
        older = chosen.older
        self.remove(chosen)
        if older is not None:
            older.passed += 1
            self._passed += 1
        return chosen

    def _find_oldest(self) -> Waiter | None:
        """Return the oldest waiter, and forget those before it that have given up."""
        while (waiter := self._oldest) is not None and waiter.future.done():
            self.remove(waiter)
        return self._oldest

    def _find_first(self, address: str) -> Waiter | None:
        while (line := self.lines.get(address)) is not None:
            waiter = next(iter(line))
            if not waiter.future.done():
                return waiter
            self.remove(waiter)
        return None
