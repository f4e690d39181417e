"""The pausing half of a connection: reading stops while too much of it is unread.

What waits unread takes memory. That of a stranger is taken from the budget that all strangers
of a listener share, and who would exceed it is cut.
"""

from abc import abstractmethod
from asyncio import AbstractEventLoop
from socket import socket

from ..options import CommOptions
from ..wire.budget import Budget
from ..wire.connection import Connection
from .sender import Sender
from .sockets import has_left

__all__ = ["Pauser"]


class Pauser(Sender):
    """Stops reading from the socket, and goes on."""

    __slots__ = ("_budget", "_delivered", "_held", "_paused", "_received")

    def __init__(
        self, loop: AbstractEventLoop, sock: socket, connection: Connection, options: CommOptions
    ) -> None:
        super().__init__(loop, sock, connection, options.limits)
        self._paused = False  # nothing is read from the socket
        self._received = 0  # bytes …
        self._delivered = 0  # … and how many of them when the inbox was last empty
        self._budget: Budget | None = None  # of a stranger …
        self._held = 0  # … and how much of it waits unread here

    @abstractmethod
    def abort(self, why: str = "aborted by this side") -> None:
        """Close at once."""

    def _pause(self) -> None:
        """Stop reading, unless the peer has left: then little can come, and the end."""
        if not self._paused and not has_left(self._sock):
            self._paused = True
            self._transport.pause_reading()
            if self._budget is not None:
                self._hold(self._budget, self._received - self._delivered)

    def _resume(self) -> None:
        """Read from the socket again."""
        if self._paused:
            self._paused = False
            self._let_go()
            self._transport.resume_reading()

    def _ended_unread(self) -> bool:
        """Return whether the peer has left behind what is not read."""
        return self._paused and has_left(self._sock)

    def _hold(self, budget: Budget, nbytes: int) -> None:
        """Take what waits unread from the budget of strangers, or cut this one."""
        try:
            budget.change(nbytes)
        except ValueError as exc:
            self.abort(str(exc))
        else:
            self._held += nbytes

    def _let_go(self) -> None:
        if self._budget is not None:
            self._budget.change(-self._held)
            self._held = 0
