"""A byte stream in memory: two ends of one loop, with room for so many bytes between them."""

import asyncio
from collections.abc import Sequence

from distributed_comm._connection.byte_stream import Attach, Buffer


class PipeEnd(asyncio.Transport):
    """One end: the `ByteStream` of a connection, and the transport that it is given.

    What the other end has not received waits there, ``room`` bytes at most.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.peer: PipeEnd
        self.inbound = bytearray()  # what the peer has sent
        self.ended = False  # it sends no more
        self.piece = b""
        self.sends = True
        self.closing = self.gone = False
        self._paused = False
        self._due = False
        self._loop: asyncio.AbstractEventLoop
        self._protocol: asyncio.BufferedProtocol | None = None

    async def start(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BufferedProtocol, attach: Attach
    ) -> None:
        self._loop = loop
        self.set_protocol(attach(protocol))
        assert self._protocol is not None
        self._protocol.connection_made(self)
        self._soon()

    def begin(self, transport: asyncio.BaseTransport) -> None:
        assert transport is self

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.BufferedProtocol)
        self._protocol = protocol

    # -- sending -------------------------------------------------------------------

    ahead = 0

    def send(self, data: Buffer) -> int:
        if self.gone or self.peer.gone or not self.sends:
            raise BrokenPipeError("the pipe is closed")
        taken = min(len(data), self.room - len(self.peer.inbound))
        if not taken and len(data):
            raise BlockingIOError
        self.peer.inbound += data[:taken]
        self.peer._soon()
        return taken

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        return self.send(b"".join(buffers))

    def send_ahead(self, data: bytes) -> int:
        return 0

    def park(self, piece: bytes) -> bool:
        self.piece = piece
        return True

    @property
    def parked(self) -> int:
        return len(self.piece)

    unacknowledged = 0

    def is_unacknowledged(self, seconds: float) -> bool:
        return False

    def _unpark(self) -> None:
        """Send the piece as far as there is room; then say so."""
        if self.piece and not self.gone:
            try:
                self.piece = self.piece[self.send(self.piece) :]
            except OSError:
                return
            if not self.piece and self._protocol is not None:
                self._protocol.resume_writing()

    # -- receiving -----------------------------------------------------------------

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._soon()

    pause_reading, resume_reading = pause, resume  # a stranger's turn has the transport do so

    def _soon(self) -> None:
        if not self._due and self._protocol is not None:
            self._due = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._due = False
        if self._paused or self.gone or self._protocol is None:
            return
        if self.inbound:
            if self.take_in(self._protocol):
                self._soon()
        elif self.ended:
            self.ended = False
            self._protocol.eof_received()
            self.closing = True
            self._loop.call_soon(self._lose)

    def take_in(self, protocol: asyncio.BufferedProtocol) -> bool:
        if not self.inbound:
            return False
        view = protocol.get_buffer(-1)
        nbytes = min(len(view), len(self.inbound))
        view[:nbytes] = self.inbound[:nbytes]
        del view, self.inbound[:nbytes]
        protocol.buffer_updated(nbytes)
        self.peer._unpark()
        return True

    def has_news(self) -> bool:
        return bool(self.inbound) or self.ended

    def has_ended(self) -> bool:
        return self.ended

    # -- the end -------------------------------------------------------------------

    def end(self) -> None:
        if self.sends:
            self.sends = False
            self.peer.ended = True
            self.peer._soon()

    shut = end

    def abort(self) -> None:
        self.closing = True
        self.end()
        if self._protocol is not None:
            self._loop.call_soon(self._lose)

    drop = close = abort

    def is_closing(self) -> bool:
        return self.closing

    def _lose(self) -> None:
        if not self.gone:
            self.gone = True
            protocol, self._protocol = self._protocol, None
            self.end()
            if protocol is not None:
                protocol.connection_lost(None)

    def disown(self) -> None:
        pass


def pipe(room: int = 64 * 1024) -> tuple[PipeEnd, PipeEnd]:
    """Return two connected ends."""
    one, other = PipeEnd(room), PipeEnd(room)
    one.peer, other.peer = other, one
    return one, other
