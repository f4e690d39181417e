"""What a crowd has to know of a connection: whether it is idle; and how it is closed at once.

Nothing is done for a trusted peer. A stranger's connection notes when a message, or a part of one,
comes; everything else is found out when somebody has to go.
"""

import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress

from .._transports.ip_sockets import has_news
from .._wire.connection import Connection
from .._wire.states import OPEN
from ..options import CommOptions
from .eviction import Place
from .leaver import Leaver

__all__ = ["Evictable"]


class Evictable(Leaver):
    """A connection that may be closed because others need its place."""

    __slots__ = ("place",)

    def __init__(
        self,
        loop: AbstractEventLoop,
        sock: socket.socket,
        connection: Connection,
        options: CommOptions,
    ) -> None:
        super().__init__(loop, sock, connection, options)
        self.place: Place | None = None  # in a crowd, unless the peer is trusted

    def ask_before_evicting(self, in_use: Callable[[], bool]) -> None:
        if self.place is not None:
            self.place.in_use = in_use

    def listen_in(self, place: Place) -> None:
        """Have what comes pass the place in the crowd from now on."""
        self._connection.receive_through(place)

    def is_idle(self) -> bool:
        """Return whether nothing is under way here.

        Something is if bytes wait to be read, here or in the system, or to be sent to a peer that
        takes them, or if nobody waits for the next message, because then somebody is busy with
        the last one.
        """
        stalled = self._ration is not None and self._ration.stalled
        if (self._queued and not stalled) or has_news(self._sock):
            return False
        if self._connection.state is not OPEN:  # it is ending
            return True
        return not self._inbox and (self._reading or self._receiver is not None)

    def has_news(self) -> bool:
        """Return whether bytes lie in the system that our loop has not had the time to read."""
        return has_news(self._sock)

    @property
    def surplus(self) -> int:
        """How many more messages were sent than received: it grows where they are published."""
        return self._messages_sent - self._messages_received

    def evict(self, why: str) -> None:
        """Close at once; say why, and goodbye, if that can be done without waiting."""
        connection = self._connection
        if connection.state is OPEN and not self._queued:
            with suppress(OSError):
                self._sock.send(b"".join(connection.reason(why) + connection.goodbye()))
        self._inbox.clear()  # not `abort`: what that says to the peer may not follow a goodbye
        self._cut(why)
