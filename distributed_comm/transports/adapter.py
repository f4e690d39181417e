"""Between an asyncio transport and `wire.connection`: one connection as a Channel.

Received bytes become messages in the callback that brought them and wait in the inbox
until they are read; above a limit reading from the socket pauses. Nothing in between
suspends, so a cancelled read finds its message still there.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any, cast

from ..core import Buffer, Channel
from ..errors import CommClosedError, LocalProtocolError
from ..options import CommOptions
from ..wire.connection import Connection, State
from ..wire.framing import Message
from . import forks
from .sender import JOIN, Sender

__all__ = ["Adapter"]

#: A task that finds its messages waiting gives way to others once every 64 KiB or 1,000
#: messages: each costs its bytes and 65 more of this.
CREDIT = 64 * 1024
TOLL = 65


class Adapter(asyncio.BufferedProtocol, Channel):
    """One connection over a socket of ours.

    ``opened(adapter)`` is called when the handshake is done, if it succeeds, and
    ``lost(adapter)`` in any case when the connection is gone.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        connection: Connection,
        options: CommOptions,
        opened: Callable[["Adapter"], None],
        lost: Callable[["Adapter"], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._connection = connection
        self._options = options
        self._opened: Callable[[Adapter], None] | None = opened  # until it was called
        self._lost = lost
        forks.watch()
        self._thread = get_ident()
        self._generation = forks.generation
        self._inbox: deque[Message] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._paused = False
        self._credit = CREDIT
        self._received = 0  # bytes …
        self._delivered = 0  # … and how many of them when the inbox was last empty
        self._sent = 0
        self._messages_received = 0
        self._messages_sent = 0
        self._ended: asyncio.Future[None] | None = None  # made by whoever waits for the end
        self.get_buffer = connection.get_buffer  # type: ignore[method-assign]
        self.pickle_protocol = 5  # until the peer's hello
        self.local_address = connection.local
        self.peer_address = connection.peer

    # -- callbacks of the transport ----------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(0)
        self._transport = transport
        self._sender = Sender(self._loop, self._sock, transport, self._send_failed)
        self._sent += self._sender.send(self._connection.hello())

    def buffer_updated(self, nbytes: int) -> None:
        connection, sender = self._connection, self._sender
        messages = connection.receive(nbytes)
        self._received += nbytes
        sender.fresh = not sender.queued
        if connection.state is not State.OPEN or self._opened is not None:
            self._transition(messages)
        elif messages:
            self._deliver(messages)

    def _deliver(self, messages: list[Message]) -> None:
        inbox, reader = self._inbox, self._reader
        inbox.extend(messages)
        self._messages_received += len(messages)
        taken = 0
        if reader is not None:
            taken = 1
            if not reader.done():
                reader.set_result(None)
        if (
            self._received - self._delivered > self._options.limits.undelivered
            and len(inbox) > taken
            and not self._paused
        ):
            self._paused = True
            self._transport.pause_reading()

    def _transition(self, messages: list[Message]) -> None:
        """Deliver messages where the state has just changed, or is not open."""
        state = self._connection.state
        if self._opened is not None and state is State.OPEN:
            opened, self._opened = self._opened, None
            assert self._connection.remote is not None
            self.pickle_protocol = self._connection.remote.pickle_protocol
            opened(self)
        if messages and state is not State.LEAVING:
            self._deliver(messages)
        if state is State.CLOSED:
            self._wake()
            self._transport.abort()

    def eof_received(self) -> bool:
        self._connection.end()
        self._wake()
        if self._sender.queued:  # no peer reads on after it has ended
            self._transport.abort()
        return False

    def resume_writing(self) -> None:
        self._sender.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.lose(f"the connection was lost: {exc}" if exc else "closed", exc)
        self._sender.drop()
        self._wake()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        self._lost(self)

    def _send_failed(self, exc: OSError) -> None:
        """Stop sending; what had arrived stays readable, and reading finds the end."""
        self._connection.stop_sending(exc)
        self._sender.drop()
        if self._connection.state is State.CLOSED:
            self._transport.abort()

    def _wake(self) -> None:
        """Let a reader that waits see that the state has changed."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # -- the Channel ---------------------------------------------------------------

    async def read(self) -> list[Buffer]:
        if get_ident() != self._thread or forks.generation != self._generation:
            raise self._not_ours()
        if self._reader is not None:
            raise LocalProtocolError(f"another task is reading from {self.peer_address}")
        inbox = self._inbox
        if inbox and self._credit <= 0:
            self._credit = CREDIT
            await asyncio.sleep(0)
        while not inbox:
            if self._connection.state is not State.OPEN:
                raise self._connection.closed_error()
            self._credit = CREDIT
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        message = inbox.popleft()
        self._credit -= TOLL + (len(message[0]) if len(message) == 1 else sum(map(len, message)))
        if not inbox:
            self._delivered = self._received
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
        return message

    async def write(self, frames: list[Buffer]) -> int:
        if get_ident() != self._thread or forks.generation != self._generation:
            raise self._not_ours()
        sender = self._sender
        buffers = self._connection.encode(frames)
        nbytes = sender.send(buffers)
        self._sent += nbytes
        self._messages_sent += 1
        limits = self._options.limits
        if len(buffers) > 1 or len(buffers[0]) >= JOIN:
            await self._drained(0)  # the caller's memory is in the queue
        elif sender.queued > limits.high_water:
            await self._drained(limits.low_water)
        else:
            self._credit -= TOLL + nbytes
            if self._credit <= 0:
                self._credit = CREDIT
                await asyncio.sleep(0)
        return nbytes

    async def _drained(self, allowance: int) -> None:
        self._credit = CREDIT
        await self._sender.drain(allowance)
        if self._connection.state is not State.OPEN:
            raise self._connection.closed_error()

    async def close(self) -> None:
        if get_ident() != self._thread or forks.generation != self._generation:
            raise self._not_ours()
        goodbye = self._connection.close()
        try:
            if self._connection.state is State.LEAVING:
                async with asyncio.timeout(self._options.timeouts.close):
                    await self._leave(goodbye)
        except TimeoutError:
            pass
        finally:
            self.abort()

    async def _leave(self, goodbye: list[bytes | memoryview]) -> None:
        """Send what is queued and the goodbye, then discard until the peer's end."""
        self._inbox.clear()
        self._wake()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._ended is None:
            self._ended = self._loop.create_future()
            if goodbye:
                self._sender.send(goodbye)
            await self._sender.drain(0)
            if not self._transport.is_closing():
                self._transport.write_eof()
        await asyncio.shield(self._ended)

    def abort(self, why: str = "aborted by this side") -> None:
        if forks.generation != self._generation:
            return  # the transport, and the loop's selector with it, are the parent's
        if get_ident() == self._thread:
            self._connection.lose(why)
            self._sender.drop()
            self._wake()
            self._transport.abort()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.abort, why)

    def closed(self) -> bool:
        return self._connection.state not in {State.OPEN, State.HANDSHAKE}

    def closed_error(self) -> CommClosedError:
        """Return why the connection is closed, as an exception."""
        return self._connection.closed_error()

    def stats(self) -> dict[str, int]:
        return {
            "bytes_received": self._received,
            "bytes_sent": self._sent,
            "messages_received": self._messages_received,
            "messages_sent": self._messages_sent,
        }

    @property
    def same_host(self) -> bool:
        return self._connection.local.rpartition(":")[0] == self._connection.peer.rpartition(":")[0]

    @property
    def extra_info(self) -> dict[str, Any]:
        remote = self._connection.remote
        return {"peer": remote}

    def _not_ours(self) -> LocalProtocolError:
        where = "process" if self._generation != forks.generation else "thread"
        return LocalProtocolError(
            f"{self.local_address} -> {self.peer_address} belongs to another {where}"
        )
