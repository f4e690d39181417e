"""The two ends of a connection inside one process: inboxes, and those who wait at them.

Strategy: a writer appends to the other end's inbox and wakes the reader there. The
ends may belong to loops of two threads, and there is no lock: an inbox is a deque, whose
appending and taking are atomic; of every other attribute only one thread is the writer;
and what crosses between threads follows one rule. *A side that is about to wait says so, then
looks again; a side with news leaves it, then looks whether the other waits.* One of the two sees
the other.

Between two tasks of one loop nearly every message takes the plain way, `_kernels.mailbox`.
Whatever that refuses is done here: another loop, a full inbox, the end, an error.
"""

import asyncio
from contextlib import suppress
from threading import get_ident
from typing import Any, NamedTuple

from .._kernels import mailbox as kernel
from .._loops import forks
from .._loops.loop_state import state_of
from .._loops.ownership import owner
from ..errors import CommClosedError, LocalProtocolError

__all__ = ["ABORTED", "CLOSED", "HIGH_WATER", "Departure", "End"]

#: Unread messages above which a write waits …
HIGH_WATER = kernel.HIGH_WATER
#: … until so many are left. Messages, since nobody knows their bytes; of 1 KiB each they
#: would be what waits on a byte transport.
LOW_WATER = HIGH_WATER // 4


class Departure(NamedTuple):
    """How one end left: what that is called at this end, and at the other."""

    here: str
    there: str
    clean: bool
    readable: bool = False  # what had come can still be read here


CLOSED = Departure("closed by this side", "closed by the peer", clean=True)
ABORTED = Departure("aborted by this side", "the connection was lost: aborted by the peer", False)
FORKED = Departure("it belongs to the process that this was forked from", "", clean=False)
LOST = Departure("the event loop was closed", "the connection was lost: its loop closed", False)


class End:
    """One end, used while its loop runs; only `notify` and `leave` may be called from any.

    The two ends refer to each other, and never to their comms.
    """

    __slots__ = (
        "__weakref__", "address", "box", "credit", "dropped", "far", "left", "loop", "peer",
        "ringing", "state", "writers",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: int, address: str) -> None:
        self.loop = loop
        self.state = state_of(loop)
        self.address = address
        self.box = kernel.Mailbox(self.state.switch, thread)
        self.peer: End  # these two come with `join`
        self.far: bool  # the peer belongs to another loop
        self.writers: list[asyncio.Future[None]] = []
        self.left: Departure | None = None
        self.ringing = False  # `wake` is on its way to our loop
        self.credit = kernel.PAUSE  # messages of a far peer that are read until the next pause
        self.dropped = 0  # unread messages that this end has left behind
        forks.watch(self)

    def join(self, peer: "End") -> None:
        """Make a connection of two ends."""
        self.peer, peer.peer = peer, self
        self.box.peer, peer.box.peer = peer.box, self.box
        self.far = peer.far = self.loop is not peer.loop
        self.box.plain = peer.box.plain = not self.far

    # -- messages --------------------------------------------------------------------

    async def read(self) -> Any:
        """Return the next message where it is not plain to take it."""
        box, inbox = self.box, self.box.inbox
        self.expect_here()
        if box.reading:
            raise self.misused()
        if self.far:  # a near writer gives way, and has to run before there is more
            self.credit -= 1
            if self.credit < 0:
                await self._give_way()
        while self._is_deaf() or not inbox:
            box.reading = True
            try:
                # before the inbox: what the peer wrote before it left is there by then
                if self.over() and (self._is_deaf() or not inbox):
                    raise self.closed_error()
                if not inbox:
                    await box
            finally:
                box.reading = box.waiting = False
        message = inbox.popleft()
        if self.peer.writers and len(inbox) <= LOW_WATER:
            self.peer.notify()
        return message

    async def write(self, message: Any) -> None:
        """Hand the peer a message where it is not plain to post it."""
        box, peer = self.box, self.peer
        self.expect_here()
        if self.over():
            raise self.closed_error()
        peer.box.inbox.append(message)
        box.sent += 1
        if peer.box.reading:
            peer.notify()
        if box.sent > box.pause_at or len(peer.box.inbox) > HIGH_WATER:
            await self._drain()

    def received(self) -> int:
        """Return how many messages were read."""
        return self.peer.box.sent - len(self.box.inbox) - self.dropped

    # -- the end of the connection -------------------------------------------------

    def over(self) -> Departure | None:
        """Return how the connection ended, None while it is open."""
        peer = self.peer
        if self.far and peer.left is None and peer.loop.is_closed():
            peer.left = LOST  # by us, because no code of its own will run any more
        return self.left or peer.left

    def leave(self, how: Departure) -> None:
        """End the connection, unless this end has left already."""
        box = self.box
        if box.thread == forks.ELSEWHERE:
            return
        if self.left is not None:
            if self.left.readable and not how.readable:
                self.left = self.left._replace(readable=False)
                self.notify()
            return
        first = self.peer.left
        self.left = how if first is None else how._replace(here=first.there, clean=first.clean)
        box.plain = self.peer.box.plain = False
        if get_ident() == box.thread:
            self._clear()
        self.notify()
        self.peer.notify()

    def _is_deaf(self) -> bool:
        """Whether this end has left, and reads nothing more."""
        return self.left is not None and not self.left.readable

    def _clear(self) -> None:
        """Forget what nobody will read any more."""
        if self._is_deaf():
            self.dropped += len(self.box.inbox)
            self.box.inbox.clear()

    def _forked(self) -> None:
        """Disown the connection: its loops are the parent's."""
        self.box.thread = forks.ELSEWHERE
        self.box.plain = False
        self.left = self.left or FORKED

    def closed_error(self) -> CommClosedError:
        """Return why the connection is over, as an exception."""
        how = self.over()
        assert how is not None
        why = how.there if self.left is None else how.here
        return CommClosedError(f"{why}: {self.address} -> {self.peer.address}", clean=how.clean)

    def expect_here(self) -> None:
        """Raise LocalProtocolError unless this is used where it belongs."""
        if self.box.thread == forks.ELSEWHERE or not self.box.switch.runs():
            raise self.misused()

    def misused(self) -> LocalProtocolError:
        """Return the error for a call that is wrong here: from another thread, say."""
        ends = f"{self.address} -> {self.peer.address}"
        if self.box.thread == forks.ELSEWHERE or not self.box.switch.runs():
            whose = None if self.box.thread == forks.ELSEWHERE else self.loop
            return LocalProtocolError(f"{ends} belongs to {owner(whose)}")
        return LocalProtocolError(f"another task is reading from {ends}")

    # -- waiting -------------------------------------------------------------------

    def notify(self) -> None:
        """Have those who wait at this end look again."""
        if get_ident() == self.box.thread:
            self.wake()
        elif not self.ringing:  # else they have not looked yet, and will see this, too
            self.ringing = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits there
                self.loop.call_soon_threadsafe(self.wake)

    def wake(self) -> None:
        """Have those who wait look again; in this end's thread."""
        self.ringing = False  # first: who comes with news from here on has to ring again
        if self.loop.is_closed():
            return
        self._clear()
        self.box.wake()
        if self.writers and (len(self.peer.box.inbox) <= LOW_WATER or self.over() is not None):
            for writer in self.writers:
                if not writer.done():
                    writer.set_result(None)

    async def _give_way(self) -> None:
        """Let others run, without letting another reader in."""
        self.credit = kernel.PAUSE
        self.box.reading = True
        try:
            await asyncio.sleep(0)
        finally:
            self.box.reading = False

    async def _drain(self) -> None:
        """Give way, and wait while the peer has too much unread. Raises CommClosedError."""
        box, unread = self.peer.box, self.peer.box.inbox
        self.box.pause_at = self.box.sent + kernel.PAUSE
        if len(unread) <= HIGH_WATER:
            await asyncio.sleep(0)
        else:
            writer = self.loop.create_future()
            self.writers.append(writer)
            box.crowded = True
            try:
                if len(unread) > LOW_WATER and self.over() is None:
                    await writer
            finally:
                self.writers.remove(writer)
                box.crowded = bool(self.writers)
        if self.over() is not None:
            raise self.closed_error()
