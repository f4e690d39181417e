"""The heartbeat: all connections of a loop are looked at every few seconds, by one timer.

A timer for each of them would cost 700 bytes an idle connection, beside 5,800 for all the rest,
and would wake the process for every one of them.
"""

from asyncio import AbstractEventLoop
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from .deadlines import Deadline

__all__ = ["Heartbeat", "Watchful"]

#: Connections that are looked at in one turn of the loop.
BATCH = 100


class Watchful(Protocol):
    """A member of a heartbeat."""

    def look(self) -> None:
        """Look after something; the loop reports exceptions."""


class Heartbeat:
    """Looks at its members once in so many seconds, each time behind a look at the sockets.

    ``home`` is kept as long as there are members, and for one beat more.
    """

    __slots__ = ("__weakref__", "_deadline", "_home", "_loop", "_members", "beat")

    def __init__(self, loop: AbstractEventLoop, beat: float, home: object) -> None:
        self._loop = loop
        self._home = home
        self.beat = beat
        self._members: set[Watchful] = set()
        self._deadline: Deadline | None = None  # while there are members

    def join(self, member: Watchful) -> None:
        """Look at it from now on, for the first time within a beat."""
        self._members.add(member)
        if self._deadline is None:
            self._deadline = Deadline(self._loop, self.beat, self._go)

    def leave(self, member: Watchful) -> None:
        """Look at it no more; it may have left already."""
        self._members.discard(member)

    def _go(self) -> None:
        if not self._members:  # not in `leave`: each of many short connections would pay
            self._deadline = None
            return
        assert self._deadline is not None
        self._deadline.restart(self.beat)
        self._look(iter(list(self._members)))

    def _look(self, rest: Iterator[Watchful]) -> None:
        batch = list(islice(rest, BATCH))
        if len(batch) == BATCH:
            self._loop.call_soon(self._look, rest)
        for member in batch:
            if member in self._members:
                member.look()
