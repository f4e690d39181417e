"""Closing in order: the side that closes sends what is queued and a goodbye, and ends its half.

Then it waits. Bytes that still come are discarded until the peer has ended, too, so nothing that
was written is lost to a reset.
"""

from asyncio import AbstractEventLoop, Future
from typing import Protocol

from .._loops.deadlines import Deadline
from .byte_stream import ByteStream
from .send_queue import SendQueue

__all__ = ["GracefulClose"]


class Ending(Protocol):
    """What a graceful close needs of its connection."""

    def abort(self) -> None:
        """Close at once."""


class GracefulClose:
    """The end of one connection, for all who wait for it."""

    __slots__ = ("_connection", "_loop", "_out", "_seconds", "_stream", "_waiters")

    def __init__(
        self,
        connection: Ending,
        loop: AbstractEventLoop,
        stream: ByteStream,
        out: SendQueue,
        seconds: float,
    ) -> None:
        self._connection = connection
        self._loop = loop
        self._stream = stream
        self._out = out
        self._seconds = seconds
        self._waiters: list[Future[None]] = []

    async def run(self, last_words: list[bytes | memoryview]) -> None:
        """Send these bytes behind what is queued, end our half, and wait for the peer's end.

        It takes ``seconds`` at most; then, or if it is cancelled, the connection is aborted.
        A second call only waits.
        """
        deadline = Deadline(self._loop, self._seconds, self._connection.abort)
        try:
            await self._end(last_words)
        except OSError:  # the socket has just gone
            self._connection.abort()
        except BaseException:
            self._connection.abort()
            raise
        finally:
            deadline.cancel()

    async def _end(self, last_words: list[bytes | memoryview]) -> None:
        ended = self._loop.create_future()
        first = not self._waiters
        self._waiters.append(ended)
        if first:
            if last_words:
                if self._out.unsent:
                    self._out.post(last_words)
                else:  # with the end that follows
                    self._out.put_ahead(last_words)
                    self._out.flush()
            await self._out.sent()
            if not self._stream.is_closing():
                self._stream.end()
        await ended

    def done(self) -> None:
        """Wake all callers of `run`: the connection is gone."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
