"""The rationing half of sending: what a stranger leaves unread is taken from a shared budget.

A handler's reply to a stranger waits here until it is read, and nobody makes it read. So what
is queued for an accepted peer that is not trusted is counted before it is queued. A message
that does not fit is refused, and the connection goes on; if there is not even room to say so,
the peer is cut. What a dialler sends was its own program's choice, and is not counted.
"""

import socket
from abc import abstractmethod
from threading import get_ident

from .._frames import Frames
from .._wire.states import OPEN
from ..errors import MessageError
from .ration import UNCOUNTED
from .sender import JOIN, Sender, is_borrowed

__all__ = ["Rationer"]

#: What is left of a buffer is copied, and the buffer freed, once so many times as much was sent. To
#: copy more would cost every long message; until then all of it counts.
LITTLE = 63


class Rationer(Sender):
    """Counts what is queued for a stranger; for everybody else `_ration` is None."""

    __slots__ = ()

    @abstractmethod
    def abort(self, why: str = "aborted by this side") -> None:
        """Close at once."""

    def afford(self, frames: Frames) -> None:
        self._check(frames)
        if self._ration is None or get_ident() != self._thread:  # as `send` will find, too
            return
        nbytes = sum(memoryview(frame).nbytes for frame in frames)
        if nbytes >= JOIN or not self._fresh:
            self._afford(nbytes + 8 * (len(frames) + 2))

    def promise(self, nbytes: int) -> None:
        if self._ration is None or get_ident() != self._thread:
            return
        if nbytes > 0:
            self._afford(nbytes)
        self._ration.promised += nbytes
        self._weigh()

    def _afford(self, nbytes: int) -> bool:
        assert self._ration is not None
        refusal = self._take(nbytes)
        if refusal is not None:
            self._flush()  # what waits for the end of the turn
            if self._connection.state is not OPEN:
                raise self._connection.closed_error()
            if self._fresh and nbytes < JOIN:
                return False
            refusal = self._take(nbytes)
        if refusal is None:
            return True
        if nbytes <= UNCOUNTED:
            if self._kept() - self._ration.held > UNCOUNTED:
                self._overdraw(refusal)
            self.full = True  # so that its writer waits until even this is sent
            return True
        ends = f"{self.local_address} -> {self.peer_address}"
        raise MessageError(
            f"a message of {nbytes} bytes does not fit into the memory for what untrusted "
            f"peers have not read: {refusal} ({ends})"
        )

    def _take(self, nbytes: int) -> str | None:
        """Count so many bytes beside what is kept; return why that cannot be.

        As text: an exception in a frame that it came through would keep the message alive.
        """
        assert self._ration is not None
        waiting = self._kept() + nbytes
        try:
            self._ration.take(waiting)
        except ValueError as exc:
            return str(exc)
        if waiting > self._ration.water(self._limits.high_water):
            self.full = True
        self._set_brim()
        return None

    def _afford_rest(self) -> None:
        refusal = self._take(0)
        if refusal is not None:
            self._charged += self._queued + self._gone  # what was sent, and what is dropped
            self._overdraw(refusal)

    def _fill(self, last: bytes | memoryview) -> None:
        if self._ration is None:
            self._flush()
            return
        nbytes = len(last)
        assert self._tail is not None
        del self._tail[-nbytes:]  # for it may be refused
        self._queued -= nbytes
        fits = self._afford(nbytes)
        self._enqueue([last])
        if not fits:
            self._flush()
            self._afford_rest()

    def _overdraw(self, why: str) -> None:
        """Cut a peer that leaves more unread than there is room for."""
        self.abort(why)
        raise self._connection.closed_error()

    def _weigh(self) -> None:
        assert self._ration is not None
        if self._gone > JOIN and self._gone > LITTLE * len(self._queue[0]):
            self._borrowed -= is_borrowed(self._queue[0])
            self._queue[0] = bytes(self._queue[0])  # what it was a part of is memory, too
            self._gone = 0
        self._ration.settle(self._kept())
        self._set_brim()

    def _set_brim(self) -> None:
        """Let so many bytes more be queued before they are counted."""
        assert self._ration is not None
        more = self._ration.held + UNCOUNTED - self._kept()
        self._brim = min(JOIN, self._queued + more)

    def _kept(self) -> int:
        """Return the memory of what is unsent; a long buffer is there until its last byte is."""
        assert self._ration is not None
        return self._queued + self._gone + self._ration.promised + self._ahead()

    def _ahead(self) -> int:
        """Return what a layer below has taken, and the system has not."""
        return 0 if isinstance(self._sock, socket.socket) else self._sock.ahead

    def count_ahead(self) -> None:
        """Count what a layer below has taken of a message that was not queued before."""
        if self._ration is None or self._queued:
            return
        refusal = self._take(0)
        if refusal is not None:
            self.abort(refusal)
