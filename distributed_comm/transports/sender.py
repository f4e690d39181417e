"""The send queue of one connection: the least system calls, and no borrowed memory.

Strategy: the socket is ours (we dialled or accepted it), so bytes go into it directly and
the transport is only asked to tell when a full socket takes bytes again. The first
message of a loop turn goes out at once; small ones that follow in the same turn are
copied together and leave at its end, or at 64 KiB. Large buffers are sent from where they
are. Because the transport never holds them, a caller whose write was cancelled gets its
memory back: the rest is copied here.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable

__all__ = ["Sender"]

#: Small buffers are copied together up to this; a longer queue is sent without waiting
#: for the end of the turn.
JOIN = 64 * 1024
#: Bytes that one connection sends before the others of the loop get their turn.
SHARE = 1024 * 1024
#: What the transport is given to find out when a full socket takes bytes again.
PARK = 16 * 1024
#: Buffers of one system call.
GATHER = 16
GATHERS = hasattr(socket.socket, "sendmsg")


class Sender:
    """Sends buffers in order; ``fail`` is called once with the error of a broken socket."""

    __slots__ = (
        "_accepted", "_fail", "_loop", "_parked", "_queue", "_scheduled", "_sock", "_tail",
        "_transport", "_waiters", "fresh", "queued",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        transport: asyncio.Transport,
        fail: Callable[[OSError], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._transport = transport
        self._fail = fail
        self._queue: deque[bytearray | bytes | memoryview] = deque()
        self._tail: bytearray | None = None  # the queue's last entry, if it is ours to extend
        self._parked = 0  # bytes that the transport holds
        self._scheduled = False  # a flush is due at the end of this turn
        self._accepted = 0  # bytes in all, sent or queued
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        #: Nothing is queued and nothing was sent in this turn: the next bytes may leave
        #: at once. The owner sets it when the socket was read, for that began a turn.
        self.fresh = True
        #: Bytes that the socket has not taken.
        self.queued = 0

    def send(self, buffers: list[bytes | memoryview]) -> int:
        """Send or queue buffers, views of long ones as they are; return their bytes."""
        first = buffers[0]
        nbytes = len(first)
        if self.fresh and len(buffers) == 1:
            self.fresh = False
            self._accepted += nbytes
            try:
                sent = self._sock.send(first)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                self._fail(exc)
                return nbytes
            if sent < nbytes:
                self._queue.append(memoryview(first)[sent:])
                self.queued = nbytes - sent
                self.flush()
            return nbytes
        self.fresh = False
        total = 0
        for buffer in buffers:
            total += len(buffer)
            self._enqueue(buffer)
        self._accepted += total
        self.queued += total
        if total >= JOIN or self.queued >= JOIN:
            self.flush()
        elif not self._scheduled and not self._parked:
            self._scheduled = True
            self._loop.call_soon(self.flush)
        return total

    def _enqueue(self, buffer: bytes | memoryview) -> None:
        """Append a buffer to the queue, a small one to its last entry."""
        if len(buffer) >= JOIN:
            self._queue.append(buffer)
            self._tail = None
        elif self._tail is None or len(self._tail) >= JOIN:
            self._tail = bytearray(buffer)
            self._queue.append(self._tail)
        else:
            self._tail += buffer

    def flush(self) -> None:
        """Send until the queue is empty, the socket full, or the turn's share used up."""
        self._scheduled = False
        share = SHARE
        while self._queue and not self._parked:
            if share <= 0:
                self._scheduled = True
                self._loop.call_soon(self.flush)
                return
            try:
                sent = self._transmit()
            except BlockingIOError:
                self._park()
            except OSError as exc:
                self._fail(exc)
                return
            else:
                share -= sent
                self._remove(sent)
                self._settle(sent)
        self.fresh = not self.queued

    def _transmit(self) -> int:
        queue = self._queue
        if len(queue) == 1 or not GATHERS:
            return self._sock.send(queue[0])
        return self._sock.sendmsg([queue[i] for i in range(min(len(queue), GATHER))])

    def _remove(self, nbytes: int) -> None:
        """Take bytes from the front of the queue."""
        queue = self._queue
        while nbytes:
            head = queue[0]
            if nbytes < len(head):
                if isinstance(head, bytearray):
                    del head[:nbytes]
                else:
                    queue[0] = memoryview(head)[nbytes:]
                break
            nbytes -= len(head)
            queue.popleft()
        if not queue:
            self._tail = None

    def _settle(self, nbytes: int) -> None:
        """Count bytes as sent and wake the writers that waited for them."""
        self.queued -= nbytes
        sent = self._accepted - self.queued
        for target, waiter in self._waiters:
            if sent >= target and not waiter.done():
                waiter.set_result(None)

    def _park(self) -> None:
        """Hand the transport a few bytes, copied; `resume` comes when it has sent them."""
        piece = bytes(memoryview(self._queue[0])[:PARK])
        self._remove(len(piece))
        self._parked = len(piece)
        self._transport.write(piece)
        if not self._transport.get_write_buffer_size():  # sent on the spot: no call comes
            self._unpark()

    def _unpark(self) -> None:
        nbytes, self._parked = self._parked, 0
        self._settle(nbytes)

    def resume(self) -> None:
        """The transport has sent what it held."""
        self._unpark()
        self.flush()

    async def drain(self, allowance: int) -> None:
        """Wait until all but ``allowance`` bytes of what was accepted so far is sent.

        Returns early when the connection fails. Cancelled, it leaves no buffer of a
        caller in the queue.
        """
        target = self._accepted - allowance
        if self._accepted - self.queued >= target:
            return
        waiter = self._loop.create_future()
        self._waiters.append((target, waiter))
        try:
            await waiter
        except asyncio.CancelledError:
            self._queue = deque(
                bytes(entry) if isinstance(entry, memoryview) else entry for entry in self._queue
            )
            raise
        finally:
            self._waiters = [entry for entry in self._waiters if entry[1] is not waiter]

    def drop(self) -> None:
        """Forget what is queued and let every writer go: the connection is gone."""
        self._queue.clear()
        self._tail = None
        self._parked = 0
        self.fresh = False
        self._settle(self.queued)
