"""The two ends of a connection inside one process: inboxes, and who waits at them.

Strategy: whoever writes appends to the other end's inbox and wakes who waits there. The
ends may belong to loops of two threads, and there is no lock: an inbox is a deque, whose
appending and taking are atomic; of every other attribute only one thread is the writer;
and what crosses between threads follows one rule. *Who waits first says so, then looks
again; who has news first leaves it, then looks who waits.* One of the two sees the other.
"""

import asyncio
from collections import deque
from contextlib import suppress
from threading import get_ident
from typing import Any, NamedTuple

from ..errors import CommClosedError, LocalProtocolError
from . import forks

__all__ = ["ABORTED", "CLOSED", "HIGH_WATER", "LOW_WATER", "End"]

#: Unread messages above which a write waits …
HIGH_WATER = 1_000
#: … until so many are left. Messages, since nobody knows their bytes; of 1 KiB each they
#: would be what waits on a byte transport.
LOW_WATER = 250
#: Messages after which a task that never has to wait gives way to others.
CREDIT = 1_000


class Departure(NamedTuple):
    """How one end left: what that is called at this end, and at the other."""

    here: str
    there: str
    clean: bool


CLOSED = Departure("closed by this side", "closed by the peer", clean=True)
ABORTED = Departure("aborted by this side", "the connection was lost: aborted by the peer", False)
LOST = Departure("the event loop was closed", "the connection was lost: its loop closed", False)


class End:
    """One end, used from one thread; only `notify` and `leave` may be called from any.

    The two ends refer to each other, and never to their comms.
    """

    __slots__ = (
        "__weakref__", "address", "credit", "far", "inbox", "left", "loop", "peer", "reader",
        "received", "ringing", "sent", "thread", "writers",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: int, address: str) -> None:
        self.loop = loop
        self.thread = thread
        self.address = address
        self.peer: End  # these two come with `join`
        self.far: bool  # the peer belongs to another loop
        self.inbox: deque[Any] = deque()
        self.reader: asyncio.Future[None] | None = None
        self.writers: list[asyncio.Future[None]] = []
        self.left: Departure | None = None
        self.ringing = False  # `wake` is on its way to our loop
        self.credit = CREDIT
        self.received = 0
        self.sent = 0
        forks.watch(self)

    def join(self, peer: "End") -> None:
        """Make a connection of two ends."""
        self.peer, peer.peer = peer, self
        self.far = peer.far = self.loop is not peer.loop

    # -- the end of the connection -------------------------------------------------

    def over(self) -> Departure | None:
        """Return how the connection ended, None while it is open."""
        peer = self.peer
        if self.far and peer.left is None and peer.loop.is_closed():
            peer.left = LOST  # by us, for no code of its own will run any more
        return self.left or peer.left

    def leave(self, how: Departure) -> None:
        """End the connection, unless this end has left already."""
        if self.left is not None or self.thread == forks.ELSEWHERE:
            return
        first = self.peer.left
        self.left = how if first is None else how._replace(here=first.there, clean=first.clean)
        if get_ident() == self.thread:
            self.inbox.clear()
        self.notify()
        self.peer.notify()

    def forked(self) -> None:
        """Disown the connection: its loops are the parent's."""
        self.thread = forks.ELSEWHERE

    def closed_error(self) -> CommClosedError:
        """Return why the connection is over, as an exception."""
        how = self.over()
        assert how is not None
        why = how.there if self.left is None else how.here
        return CommClosedError(f"{why}: {self.address} -> {self.peer.address}", clean=how.clean)

    def misused(self) -> LocalProtocolError:
        """Return the error for a call that is wrong here: from another thread, say."""
        ends = f"{self.address} -> {self.peer.address}"
        if self.thread == forks.ELSEWHERE:
            return LocalProtocolError(f"{ends} belongs to the process that this was forked from")
        if get_ident() != self.thread:
            return LocalProtocolError(f"{ends} belongs to another thread")
        return LocalProtocolError(f"another task is reading from {ends}")

    # -- waiting -------------------------------------------------------------------

    def notify(self) -> None:
        """Have those who wait at this end look again."""
        if get_ident() == self.thread:
            self.wake()
        elif not self.ringing:  # else they have not looked yet, and will see this, too
            self.ringing = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits there
                self.loop.call_soon_threadsafe(self.wake)

    def wake(self) -> None:
        """Do so in this end's thread."""
        self.ringing = False  # first: who comes with news from here on has to ring again
        if self.loop.is_closed():
            return
        if self.reader is not None and not self.reader.done():
            self.reader.set_result(None)
        if self.writers and (len(self.peer.inbox) <= LOW_WATER or self.over() is not None):
            for writer in self.writers:
                if not writer.done():
                    writer.set_result(None)

    async def give_way(self) -> None:
        """Let others run, without letting another reader in."""
        self.credit = CREDIT
        self.reader = self.loop.create_future()
        self.reader.set_result(None)
        try:
            await asyncio.sleep(0)
        finally:
            self.reader = None

    async def drain(self) -> None:
        """Give way, and wait while the peer has too much unread. Raises CommClosedError."""
        self.credit = CREDIT
        unread = self.peer.inbox
        if len(unread) <= HIGH_WATER:
            await asyncio.sleep(0)
        else:
            writer = self.loop.create_future()
            self.writers.append(writer)
            try:
                if len(unread) > LOW_WATER and self.over() is None:
                    await writer
            finally:
                self.writers.remove(writer)
        if self.over() is not None:
            raise self.closed_error()
