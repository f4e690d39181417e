"""Polling: a loop looks at its sockets for a while instead of sleeping.

Between two processes of one host most of a short exchange goes into waking the one that
sleeps. A loop that has something to do in its next turn does not sleep, so that is all it is
given. It takes a core meanwhile, so where that is not asked for (`CommOptions.busy_poll`) a
loop polls only for the steps of a handshake, and only if there is another core for the peer.
"""

import asyncio
import os
from time import perf_counter as clock  # uvloop's own clock has milliseconds
from weakref import WeakKeyDictionary

__all__ = ["Poller", "poller_of"]

#: Seconds for which a step of a handshake is waited for: some times what it takes.
STEP = 200e-6


class Poller:
    """Keeps one loop awake."""

    __slots__ = ("__weakref__", "_loop", "_shares", "_until", "awake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._shares = (os.cpu_count() or 1) > 1
        self.awake = False  #: Whether it is kept from sleeping now.
        self._until = 0.0

    def poll(self, seconds: float) -> None:
        """Keep the loop from sleeping for so many seconds from now."""
        self._until = max(self._until, clock() + seconds)
        if not self.awake:
            self.awake = True
            self._loop.call_soon(self._turn)

    def poll_for_step(self) -> None:
        """Do so for the next step of a handshake with a peer of this host."""
        if self._shares:
            self.poll(STEP)

    def _turn(self) -> None:
        if clock() < self._until:
            self._loop.call_soon(self._turn)
        else:
            self.awake = False


_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, Poller] = WeakKeyDictionary()


def poller_of(loop: asyncio.AbstractEventLoop) -> Poller:
    """Return what keeps a loop awake."""
    poller = _pollers.get(loop)
    if poller is None:
        poller = _pollers[loop] = Poller(loop)
    return poller
