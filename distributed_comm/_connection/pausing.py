"""The pausing half of a connection: reading stops while too much of it is unread.

What waits unread takes memory. That of a stranger is taken from the budget that all strangers
of a listener share, but for a little, and who would exceed it is cut. It stays charged behind
the end of the connection, for so do the messages.
"""

from asyncio import AbstractEventLoop
from socket import socket

from .._frames import Frames
from .._loops.turns import Turn  # noqa: TC001 - a block for one import says less
from .._transports.ip_sockets import has_left
from .._wire.budget import ALLOWANCE, OVERHEAD, Budget
from .._wire.connection import Connection
from ..options import CommOptions
from .rationing import Rationer

__all__ = ["Pauser"]


class Pauser(Rationer):
    """Stops reading from the socket, and goes on."""

    __slots__ = (
        "_budget", "_crowded", "_delivered", "_held", "_parts", "_paused", "_received", "_turn",
        "_unasked",
    )  # fmt: skip

    def __init__(
        self, loop: AbstractEventLoop, sock: socket, connection: Connection, options: CommOptions
    ) -> None:
        super().__init__(loop, sock, connection, options.limits)
        self._paused = False  # nothing is read from the socket
        self._received = 0  # bytes …
        self._delivered = 0  # … and how many of them when the inbox was last empty
        self._unasked = options.limits.undelivered  # unread bytes above which `_crowd` is called
        self._crowded = False  # it was, and the inbox has not been empty since
        self._budget: Budget | None = None  # of a stranger …
        self._held = 0  # … how much of it waits unread here …
        self._parts = 0  # … and in how many messages and frames
        self._turn: Turn | None = None  # of who is not known to be trusted; it also stops reading

    def _crowd(self, messages: list[Frames]) -> None:
        """Take note that these have come, and that more waits unread than may unasked."""
        self._crowded = True
        unread = self._received - self._delivered
        budget = self._budget
        if budget is not None:
            self._parts += len(messages) + sum(map(len, messages))
            unread += OVERHEAD * self._parts
        if unread > self._limits.undelivered:
            self._pause()
        if budget is not None:
            self._hold(budget, unread)

    def _relax(self) -> None:
        """Take note that nothing waits unread."""
        self._crowded = False
        self._let_go()
        self._resume()

    def _pause(self) -> None:
        """Stop reading, unless the peer has left: then little can come, and the end."""
        if not self._paused and not has_left(self._sock):
            self._paused = True
            self._transport.pause_reading()

    def _flush_later(self) -> None:
        if self._turn is None:
            super()._flush_later()
        else:
            self._loop.call_soon(self._turn.meter, self._flush)

    def _resume(self) -> None:
        """Read from the socket again."""
        if self._paused:
            self._paused = False
            if self._turn is None or not self._turn.waiting:
                self._transport.resume_reading()

    def is_paused(self) -> bool:
        """Return whether more waits unread than may."""
        return self._paused

    def _ended_unread(self) -> bool:
        """Return whether the peer has left behind what is not read."""
        if not self._paused and (self._turn is None or not self._turn.waiting):
            return False
        return self._sock.fileno() < 0 or has_left(self._sock)  # without a number: with its loop

    def _hold(self, budget: Budget, nbytes: int) -> None:
        """Have so many bytes in all of the budget of strangers, or cut this one."""
        if nbytes > max(self._held, ALLOWANCE):
            try:
                budget.change(nbytes - self._held)
            except ValueError as exc:
                self.dismiss(str(exc), unread=False)
            else:
                self._held = nbytes

    def _let_go(self) -> None:
        if self._budget is not None:
            self._budget.change(-self._held)
            self._held = self._parts = 0

    def __del__(self) -> None:
        """Give back what was held for messages that nobody has read, or will, on either side."""
        if getattr(self, "_held", 0):
            self._let_go()
        ration = getattr(self, "_ration", None)
        if ration is not None:
            ration.settle(0)
