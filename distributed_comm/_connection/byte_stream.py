"""What a connection sends its bytes into: a socket, TLS over one, or anything else that acts so.

Received bytes go the other way: a stream calls an `asyncio.BufferedProtocol`, as asyncio's
transports do, and the connection channel is one. So a stream is anything that does both: a socket
with the loop's own transport, TLS over these, or two ends in memory.

`tests/test_byte_stream.py` holds what each stream has to pass.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from .._loops import forks
from ..errors import CommClosedError
from . import socket_state

__all__ = [
    "GATHERS", "Attach", "Buffer", "ByteStream", "Informed", "OverSocket", "SocketStream",
    "receive",
]  # fmt: skip

#: Whether several buffers can be sent by one system call.
GATHERS = hasattr(socket.socket, "sendmsg")
#: Has the system wait for what is sent next, and put both into one packet.
MSG_MORE = getattr(socket, "MSG_MORE", 0)

Buffer = bytes | bytearray | memoryview
#: Given the protocol below which a transport is made; returns what the transport is to call.
Attach = Callable[[asyncio.BaseProtocol], asyncio.BaseProtocol]


class ByteStream(Protocol):
    """Bytes in order, both ways, between two ends.

    What is taken is copied or gone when the call returns: a stream borrows no memory. None of
    these methods waits, but for `start`.
    """

    async def start(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BufferedProtocol, attach: Attach
    ) -> None:
        """Have ``protocol`` called for what comes; OSError if the connection is gone.

        ``attach`` is called with the protocol that a transport of the loop would call, and
        returns the one that it shall.
        """

    def begin(self, transport: asyncio.BaseTransport) -> None:
        """Take note of what ``connection_made`` was called with."""

    def send(self, data: Buffer, /) -> int:
        """Take some of these bytes and return how many.

        BlockingIOError if it is full, another OSError if it is broken.
        """

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        """Do what `send` does with several buffers, as if they were one."""

    def send_ahead(self, data: bytes) -> int:
        """Take bytes that may wait for those that are sent next; never raises."""

    def park(self, piece: bytes) -> bool:
        """Keep what a full stream did not take; ``protocol.resume_writing`` follows once it has.

        False if it took the piece at once: then nothing follows.
        """

    @property
    def parked(self) -> int:
        """Bytes of that piece that it has not taken."""

    @property
    def ahead(self) -> int:
        """Bytes that it has taken, beside that piece, and the system has not."""

    def take_in(self, protocol: asyncio.BufferedProtocol) -> bool:
        """Receive once, as the loop would if it found something to read; False if nothing came.

        Raises OSError if the connection is gone.
        """

    def pause(self) -> None:
        """Receive nothing for the time being."""

    def resume(self) -> None:
        """Receive again."""

    def end(self) -> None:
        """End our half, behind what was taken; what the peer sends still comes."""

    def shut(self) -> None:
        """End both halves for whoever has a copy of the descriptor; never raises."""

    def abort(self) -> None:
        """Close at once; ``protocol.connection_lost`` follows if it was started."""

    def drop(self) -> None:
        """Close without the loop, which is closed itself, or has never started the stream."""

    def is_closing(self) -> bool:
        """Return whether it is closed, or about to be."""

    def has_news(self) -> bool:
        """Return whether anything has come that was not received: bytes, or the end."""

    def has_ended(self) -> bool:
        """Return whether all that the peer will ever send has come, unreceived bytes included."""

    def is_unacknowledged(self, seconds: float) -> bool:
        """Return whether bytes are under way, and nothing was acknowledged for so long."""

    @property
    def unacknowledged(self) -> int:
        """Bytes that the system keeps for the peer; 0 if it does not tell."""

    def disown(self) -> None:
        """Leave the descriptor to the process that this one was forked from."""


class Informed(Protocol):
    """What a stream may tell the connection above it, beside the calls of a BufferedProtocol.

    A plain socket has nothing to tell; TLS has.
    """

    def identify(self, about: dict[str, Any], *, vouched: bool) -> None:
        """Add what the stream knows of the peer, and whether it vouches for it."""

    def fail(self, why: str, cause: BaseException | None, kind: type[CommClosedError]) -> None:
        """Close at once, because of what the peer did; what has come can be read."""

    def count_ahead(self) -> None:
        """Count `ByteStream.ahead`, which has grown, unless the bytes were queued before."""


class OverSocket:
    """What all streams over a socket, and the transport of its loop, have in common."""

    __slots__ = ("sock", "transport")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.transport: asyncio.Transport | None = None  # until it is started

    async def start(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BufferedProtocol, attach: Attach
    ) -> None:
        try:
            await loop.connect_accepted_socket(lambda: attach(protocol), self.sock)
        except OSError:
            self.drop()
            raise

    def pause(self) -> None:
        if self.transport is not None:
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()

    def is_closing(self) -> bool:
        return self.transport is not None and self.transport.is_closing()

    def shut(self) -> None:
        socket_state.shut(self.sock)

    def drop(self) -> None:
        socket_state.drop(self.sock)

    def disown(self) -> None:
        forks.let_go(self.sock)

    def has_news(self) -> bool:
        return socket_state.has_news(self.sock)

    def has_ended(self) -> bool:
        # without a number it was closed with its loop
        return self.sock.fileno() < 0 or socket_state.has_left(self.sock)

    def is_unacknowledged(self, seconds: float) -> bool:
        return socket_state.is_unacknowledged(self.sock, seconds)

    @property
    def unacknowledged(self) -> int:
        return socket_state.unacknowledged(self.sock)


class SocketStream(OverSocket):
    """A connected socket as it is."""

    __slots__ = ("send",)

    ahead = 0  # what a socket has taken, the system has

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.send = sock.send

    def begin(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(0)

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        return self.sock.sendmsg(buffers) if GATHERS else self.sock.send(buffers[0])

    def send_ahead(self, data: bytes) -> int:
        try:
            return self.sock.send(data, MSG_MORE)
        except OSError:  # the next send finds out
            return 0

    def park(self, piece: bytes) -> bool:
        assert self.transport is not None
        self.transport.write(piece)
        return self.parked > 0

    @property
    def parked(self) -> int:
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def take_in(self, protocol: asyncio.BufferedProtocol) -> bool:
        return receive(self.sock, protocol)

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)  # in this turn; uvloop's transport takes another

    def abort(self) -> None:
        self.shut()  # now, whether or not the loop has another turn
        if self.transport is not None:
            self.transport.abort()


def receive(sock: socket.socket, protocol: asyncio.BufferedProtocol) -> bool:
    """Receive once from a socket into a protocol; False if nothing came."""
    try:
        nbytes = sock.recv_into(protocol.get_buffer(-1))
    except BlockingIOError:
        return False
    if not nbytes:
        protocol.eof_received()
        return False
    protocol.buffer_updated(nbytes)
    return True
