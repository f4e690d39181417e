"""Busy polling: after a message a loop looks at its sockets for a while instead of sleeping.

Between two processes most of a small message's time goes into waking the one that sleeps. A
loop that has something to do in its next turn does not sleep, so that is all it is given.
"""

import asyncio
from time import perf_counter as clock  # uvloop's own clock has milliseconds
from weakref import WeakKeyDictionary

from ..frames import Frames
from .adapter import Adapter

__all__ = ["PollingAdapter"]


class Poller:
    """Keeps one loop awake."""

    __slots__ = ("__weakref__", "_awake", "_loop", "_until")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._awake = False
        self._until = 0.0

    def poll(self, seconds: float) -> None:
        """Keep the loop from sleeping for so many seconds from now."""
        self._until = max(self._until, clock() + seconds)
        if not self._awake:
            self._awake = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if clock() < self._until:
            self._loop.call_soon(self._turn)
        else:
            self._awake = False


_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, Poller] = WeakKeyDictionary()


def _poller_of(loop: asyncio.AbstractEventLoop) -> Poller:
    poller = _pollers.get(loop)
    if poller is None:
        poller = _pollers[loop] = Poller(loop)
    return poller


class PollingAdapter(Adapter):
    """An adapter whose loop stays awake for ``CommOptions.busy_poll`` behind each message.

    A class of its own, so that the others pay nothing for it.
    """

    __slots__ = ("_patience", "_poller")

    def poll_for(self, seconds: float) -> None:
        """Say for how long; before anything is sent or received."""
        self._patience = seconds
        self._poller = _poller_of(self._loop)

    def send(self, frames: Frames) -> int:
        self._poller.poll(self._patience)
        return super().send(frames)

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        self._poller.poll(self._patience)
