"""The end of a connection: closing it in order, and cutting it.

Who closes sends what is queued and a goodbye, ends its half, and discards what still comes
until the peer has ended, too: so nothing that was written is lost to a reset.
"""

import logging
import socket
from asyncio import AbstractEventLoop, Future
from collections.abc import Coroutine
from contextlib import suppress
from threading import get_ident
from typing import Any

from .._logs import of_trusted
from .._loops import forks
from .._loops.deadlines import Deadline
from .._loops.owners import NOWHERE
from .._loops.tasks import start
from .._transports.ip_sockets import drop, has_news, shut
from .._wire.connection import Connection
from .._wire.states import CLOSED, HANDSHAKE, LEAVING, OPEN
from ..errors import CommClosedError
from ..options import CommOptions
from .reader import Reader

__all__ = ["Leaver"]

FORKED = "it belongs to the process that this was forked from"


class Leaver(Reader):
    """Closes, or aborts, in each state and from each thread."""

    __slots__ = ("_leavers",)

    def __init__(
        self,
        loop: AbstractEventLoop,
        sock: socket.socket,
        connection: Connection,
        options: CommOptions,
    ) -> None:
        super().__init__(loop, sock, connection, options)
        self._leavers: list[Future[None]] | None = None  # who wait for the end

    async def close(self) -> None:
        self.expect_here()
        await self._part(self._connection.close())

    def refuse(self, why: str) -> Coroutine[Any, Any, None]:
        """Let the peer not come in, at once; what is returned tells it so, and closes."""
        return self._part(self._connection.refuse(why))

    def dismiss(self, why: str, *, unread: bool = True, logged: bool = False) -> None:
        if get_ident() != self._thread:
            self.abort(why)
            return
        self._connection.cut(why)
        if not unread:
            self._inbox.clear()
            self._let_go()
        self._say_last_words(logged=logged)

    def _say_last_words(self, *, logged: bool = False) -> None:
        """Log why the peer was cut, tell it, and close; what it had sent before can be read."""
        connection = self._connection
        words, connection.last_words = connection.last_words, None
        if words is None:  # it had ended before
            self.abort()
            return
        if not logged:
            log = self.log or of_trusted()
            log.line(logging.WARNING, "cut a connection: %s", connection.closed_error())
        self._wake()
        if words:
            self._post(words)  # at once: if anybody else closes, that comes behind it
            start(self._part([], unread=True), self._loop)
        else:
            self._abort_transport()

    async def _part(self, last_words: list[bytes | memoryview], *, unread: bool = False) -> None:
        """Close, with these bytes behind what is queued; bounded in time.

        With ``unread``, what has arrived can still be read.
        """
        if self._connection.state is not LEAVING:
            self.abort()
            return
        deadline = Deadline(self._loop, self._timeouts.close, self.abort)
        try:
            await self._leave(last_words, unread=unread)
        except OSError:  # the socket has just gone
            self.abort()
        except BaseException:
            self.abort()
            raise
        finally:
            deadline.cancel()

    async def _leave(self, goodbye: list[bytes | memoryview], *, unread: bool) -> None:
        """Send what is queued and the goodbye, then discard until the peer's end."""
        if unread:
            self._resume()
        else:
            self._inbox.clear()
            self._wake()
            if self._crowded:
                self._relax()
        ended = self._loop.create_future()
        if self._leavers is None:
            self._leavers = [ended]
            plain = isinstance(self._sock, socket.socket)  # with no layer above it
            if goodbye:
                self._post(self.send_ahead(goodbye) if plain and not self._queued else goodbye)
            await self._all_but(0)
            if not self._transport.is_closing():
                if plain:
                    self._sock.shutdown(socket.SHUT_WR)  # in this turn, where uvloop takes another
                else:
                    self._transport.write_eof()
        else:
            self._leavers.append(ended)
        await ended

    def abort(self, why: str = "aborted by this side") -> None:
        if self._thread == forks.ELSEWHERE:
            return
        if get_ident() == self._thread or self._loop.is_closed():
            if self._connection.state is OPEN and (self._inbox or has_news(self._sock)):
                self._confess()
            self._inbox.clear()
            self._cut(why)
        else:
            self._loop.call_soon_threadsafe(self.abort, why)

    def _confess(self) -> None:
        """Tell a peer that its messages will not be read, if that can be done without waiting.

        If it is just closing, it would take our end for one in order.
        """
        reason = self._connection.reason("aborted, with messages that nobody had read")
        if reason and not self._queued:
            with suppress(OSError):
                self._sock.send(b"".join(reason))

    def forked(self) -> None:
        """Disown the connection: its socket and its loop's selector are the parent's."""
        self._thread = forks.ELSEWHERE
        self._switch = NOWHERE
        self._unwatch()
        self._reading = True  # so that a read looks no further
        self._connection.lose(FORKED)
        forks.let_go(self._plain_socket())

    def _plain_socket(self) -> socket.socket:
        """Return the socket itself, below any layer."""
        sock: Any = self._sock
        return sock if isinstance(sock, socket.socket) else sock.sock

    def fail(self, why: str, cause: BaseException | None, kind: type[CommClosedError]) -> None:
        """End the connection for what a layer below has found out."""
        self._connection.lose(why, cause, kind)
        self._cut(why)

    def _send_failed(self, exc: OSError) -> None:
        """Stop sending; what had arrived stays readable, and reading finds the end."""
        self._connection.stop_sending(exc)
        self._drop()
        if self._connection.state is CLOSED:
            self._abort_transport()

    def _cut(self, why: str) -> None:
        self._end(why)
        self._abort_transport()

    def _end(self, why: str, cause: BaseException | None = None) -> None:
        """Take note that the connection is gone, and wake whoever waits for something."""
        if not self._inbox:
            self._let_go()
        self._connection.lose(why, cause)
        self._unwatch()
        self._drop()
        if not self._loop.is_closed():  # else nobody waits any more
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the transport is about to close the socket."""
        shut(self._sock)
        self._end(f"the connection was lost: {exc}" if exc else "closed", exc)

    def _release_leavers(self) -> None:
        for leaver in self._leavers or ():
            if not leaver.done():
                leaver.set_result(None)

    def _abort_transport(self) -> None:
        if self._loop.is_closed():  # nobody would close the socket any more
            drop(self._sock)
            return
        shut(self._sock)  # now, whether or not the loop has another turn
        if hasattr(self, "_transport"):  # else connection_made does it
            self._transport.abort()

    def closed(self) -> bool:
        if self._connection.state is OPEN:  # the end may wait behind what nobody reads
            return (self._paused or self._turn is not None) and self._ended_unread()
        return self._connection.state is not HANDSHAKE

    def is_fresh(self) -> bool:
        if self._inbox or self._connection.state is not OPEN or not self._waiter.is_fresh():
            return False
        return not (self._paused or self._turn is not None) or not self._ended_unread()

    def closed_error(self) -> CommClosedError:
        """Return why the connection is closed, as an exception."""
        return self._connection.closed_error()
