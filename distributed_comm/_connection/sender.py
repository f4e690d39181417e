"""The sending half of a connection: the least system calls, and no borrowed memory.

Strategy: the socket is ours (we dialled or accepted it), so bytes go into it directly and
the transport is only asked to tell when a full socket takes bytes again. The first
message of a loop turn goes out at once; small ones that follow in the same turn are
copied together and leave at its end, or at 64 KiB. Large buffers are sent from where they
are. Because the transport never holds them, a caller whose write was cancelled gets its
memory back: the rest is copied here.
"""

import asyncio
import socket
import sys
from abc import abstractmethod
from collections import deque
from threading import get_ident

from .._frames import Frames
from .._loops.owners import switch_of
from .._wire.budget import Budget
from .._wire.connection import Connection
from .._wire.peer_limits import excess
from .._wire.states import OPEN
from ..core import Channel, Unsettled
from ..errors import LocalProtocolError, MessageError
from ..options import Limits
from .ration import SIP, Ration

__all__ = ["CREDIT", "TOLL", "Sender", "is_borrowed"]

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
#: A task that never has to wait gives way to others once every 64 KiB or 1,000 messages:
#: each message costs its bytes and 65 more of this.
CREDIT = 64 * 1024
TOLL = 65

#: Has the system wait for what is sent next, and put both into one packet.
MSG_MORE = getattr(socket, "MSG_MORE", 0)

#: The queue of whoever has nothing queued: one for all, and never added to. A deque of its
#: own takes 760 bytes, an eighth of an idle comm.
EMPTY: deque[bytearray | bytes | memoryview] = deque()
#: The waiters of a connection that never had one: shared, too, and never added to.
NOBODY: dict[asyncio.Future[None], int] = {}


def is_borrowed(buffer: bytes | bytearray | memoryview) -> bool:
    """Whether a queued buffer is memory that its owner, a caller of write, may change."""
    return isinstance(buffer, memoryview) and not isinstance(buffer.obj, bytes)


class Sender(Channel):
    """Sends what `send` is given, in order, into a socket that `_transport` also reads.

    A half of a class and not one of its own: a call between the two for each message
    would cost as much as all that `send` does beside the system call.
    """

    __slots__ = (
        "_borrowed", "_brim", "_charged", "_connection", "_credit", "_fresh", "_gone", "_limits",
        "_loop", "_messages_sent", "_parked", "_queue", "_queued", "_ration", "_scheduled",
        "_short", "_sock", "_switch", "_tail", "_taken", "_thread", "_transport", "_waiters",
        "full",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        connection: Connection,
        limits: Limits,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._connection = connection
        self._limits = limits
        self._thread = get_ident()
        self._switch = switch_of(loop)  # says whether the loop is running here
        self._transport: asyncio.Transport  # comes with connection_made
        self.full = False
        self._queue = EMPTY
        self._tail: bytearray | None = None  # the queue's last entry, if it is ours to extend
        self._parked = 0  # bytes that the transport holds
        self._scheduled = False  # a flush is due at the end of this turn
        # Nothing is queued and nothing was sent in this turn of the loop: the next bytes
        # may leave at once. Whoever reads from the socket sets it, for that began a turn.
        self._fresh = True
        self._queued = 0  # bytes that the socket has not taken
        self._gone = 0  # bytes of the queue's first entry that it has, if that keeps them
        self._short = JOIN  # bytes of a message that need not be compared with the peer's limits
        self._ration: Ration | None = None  # of a stranger, and the bytes …
        self._brim = JOIN  # … from which on the queue is counted, and flushed
        self._taken = 0  # bytes that it has, of those that were queued
        # A message costs its bytes and a toll; these count messages and bytes at once.
        self._credit = CREDIT  # what may be spent until the next pause
        self._charged = 0  # what was spent until the last one
        self._messages_sent = 0
        self._borrowed = 0  # buffers of the queue whose memory is a caller's
        #: Waiting writers, and how many bytes have to be taken before each goes on.
        self._waiters = NOBODY

    @abstractmethod
    def _send_failed(self, exc: OSError) -> None:
        """Act on a socket that takes no more bytes."""

    @abstractmethod
    def _afford(self, nbytes: int) -> bool:
        """Count a message before it is queued for a stranger.

        Return False if it is to be sent now, as the first of a turn; MessageError if it does
        not fit, CommClosedError if there is not even room to say so.
        """

    @abstractmethod
    def _afford_rest(self) -> None:
        """Count what is left of a stranger's message; cut the peer if that is too much."""

    @abstractmethod
    def _fill(self, last: bytes | memoryview) -> None:
        """Flush a queue that has become long, or count it for a stranger, up to its last buffer."""

    @abstractmethod
    def _weigh(self) -> None:
        """Count what a stranger has taken as free."""

    @abstractmethod
    def _misused(self) -> LocalProtocolError:
        """Return the error for a call that is wrong here: from another thread, say."""

    # -- the Channel ---------------------------------------------------------------

    def send(self, frames: Frames) -> int:
        if not self._switch.runs():
            raise self._misused()
        connection = self._connection
        if connection.state is not OPEN:
            raise connection.closed_error()
        buffers = connection.encode(frames)
        first = buffers[0]
        nbytes = len(first)
        if self._fresh and len(buffers) == 1 and nbytes < self._short:
            # _enqueue and _flush would do the same; this is nearly every message's way
            self._fresh = False
            try:
                sent = self._sock.send(first)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                self._send_failed(exc)
                sent = nbytes
            if sent != nbytes:
                self._queue = deque([memoryview(first)[sent:]])  # it was empty: `_fresh`
                self._queued = nbytes - sent
                self._gone = sent
                if self._ration is not None:
                    self._afford_rest()
                self._flush()
        elif (
            self._tail is not None
            and len(buffers) == 1
            and len(self._tail) < JOIN
            and nbytes < self._short
        ):
            # again what _enqueue would do: a small message behind others of its turn
            self._tail += first
            self._queued += nbytes
            if self._queued >= self._brim:
                self._fill(first)
        elif self._is_to_queue(frames, buffers):
            nbytes = self._enqueue(buffers)
        else:
            return self.send(frames)
        self._messages_sent += 1
        self._credit = credit = self._credit - nbytes - TOLL
        if credit < 0:  # as always after a message with a large frame
            self.full = True
        return nbytes

    def _is_to_queue(self, frames: Frames, buffers: list[bytes | memoryview]) -> bool:
        """Check a message; False if `send` is to be called again, in which it may go at once."""
        if not self._short:  # the first one
            self._introduce()
            return False
        self._check(frames)
        return self._ration is None or self._afford(sum(map(len, buffers)))

    def _introduce(self) -> None:
        """Say, in front of the first message, what else this side accepts."""
        connection = self._connection
        verdict = connection.verdict()
        if verdict and self._fresh and isinstance(self._sock, socket.socket):
            verdict = self.send_ahead(verdict)  # a queue of its own would take a kilobyte
        if verdict:
            self._charged += self._enqueue(verdict)
        if connection.terms is not None:
            self._short = max(1, min(JOIN, *(terms.short for terms in connection.terms)))
        else:
            self._short = JOIN

    def send_ahead(self, buffers: list[bytes | memoryview]) -> list[bytes | memoryview]:
        """Send what leaves with what is sent next; return what is left of it.

        Only for a plain socket with an empty queue. A failure is left for the next send to notice.
        """
        data = b"".join(buffers)
        try:
            sent = self._sock.send(data, MSG_MORE)
        except OSError:
            sent = 0
        self._charged += sent
        return [data[sent:]] if sent < len(data) else []

    def _check(self, frames: Frames) -> None:
        """Compare a message with what the peer accepts: MessageError, or Unsettled."""
        connection = self._connection
        known = connection.terms
        if known is None:
            return
        if len(known) == 2 and self._has_heard():  # it would have said more in front of that
            known = connection.terms = known[:1]
        wrong = [excess(terms, frames) for terms in known]
        if all(wrong):
            ends = f"{self.local_address} -> {self.peer_address}"
            raise MessageError(
                f"a message of {wrong[-1]}, by CommOptions(limits=Limits(…)), or split it; nothing "
                f"was sent ({ends})"
            )
        if any(wrong):
            raise Unsettled

    async def settled(self) -> None:
        connection = self._connection
        if connection.terms is None or len(connection.terms) < 2 or connection.state is not OPEN:
            return
        waiter = self._wait_for(sys.maxsize)  # more than will ever be sent
        connection.settled = self._settled
        self._post(connection.ask())
        try:
            await waiter
        finally:
            del self._waiters[waiter]

    def _settled(self) -> None:
        """Let those go on who wait for the terms of the peer."""
        for waiter, target in self._waiters.items():
            if target == sys.maxsize and not waiter.done():
                waiter.set_result(None)

    @abstractmethod
    def _has_heard(self) -> bool:
        """Return whether a message of the peer has come."""

    async def drain(self) -> None:
        self.full = False
        self._charged += CREDIT - self._credit
        self._credit = CREDIT
        high, low = self._limits.high_water, self._limits.low_water
        if self._ration is not None:
            high = self._ration.water(high)
            low = min(low, high // 4)
        if self._borrowed:
            await self._all_but(0)
        elif self._queued > high:
            await self._all_but(low)
        else:
            await asyncio.sleep(0)
        if self._connection.state is not OPEN:
            raise self._connection.closed_error()

    def ration(self, budget: Budget) -> None:
        """Take the memory for what is unsent from the budget of strangers, from now on."""
        self._ration = Ration(budget)
        self._brim = 0

    # -- the queue -------------------------------------------------------------------

    def _post(self, buffers: list[bytes | memoryview]) -> None:
        """Send what is no message of the user's."""
        self._charged += self._enqueue(buffers)
        self._flush()

    def _enqueue(self, buffers: list[bytes | memoryview]) -> int:
        """Queue buffers, small ones copied together; a lot is sent without delay."""
        self._fresh = False
        if self._queue is EMPTY:
            self._queue = deque()
        queue, total = self._queue, 0
        for buffer in buffers:
            total += len(buffer)
            if len(buffer) >= JOIN:
                queue.append(buffer)
                self._tail = None
                self._borrowed += is_borrowed(buffer)
            elif self._tail is None or len(self._tail) >= JOIN:
                self._tail = bytearray(buffer)
                queue.append(self._tail)
            else:
                self._tail += buffer
        self._queued += total
        if self._queued >= JOIN:
            self._flush()
        elif not self._scheduled and not self._parked:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        return total

    def _flush(self) -> None:
        """Send until the queue is empty, the socket full, or the turn's share used up."""
        self._scheduled = False
        share = SHARE
        while self._queue and not self._parked:
            if share <= 0:
                self._scheduled = True
                self._flush_later()
                return
            try:
                sent = self._transmit()
            except BlockingIOError:
                self._park()
            except OSError as exc:
                self._send_failed(exc)
                return
            else:
                share -= sent
                self._remove(sent)
                self._settle(sent)
        self._fresh = not self._queued

    def _transmit(self) -> int:
        """Offer the socket the front of the queue; return how many bytes it took."""
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
                    self._gone += nbytes
                break
            nbytes -= len(head)
            self._borrowed -= is_borrowed(queue.popleft())
            self._gone = 0
        if not queue:
            self._tail = None
            self._queue = EMPTY

    def _settle(self, nbytes: int) -> None:
        """Count bytes as sent and wake the writers that waited for them."""
        self._queued -= nbytes
        self._taken += nbytes
        if self._ration is not None:
            self._weigh()
        for waiter, target in self._waiters.items():
            if self._taken >= target and not waiter.done():
                waiter.set_result(None)

    def _park(self) -> None:
        """Hand the transport a few bytes, copied; it calls `resume_writing` once sent."""
        size = PARK if self._ration is None else SIP
        piece = bytes(memoryview(self._queue[0])[:size])
        self._remove(len(piece))
        self._parked = len(piece)
        self._transport.write(piece)
        if not self._transport.get_write_buffer_size():  # sent on the spot: no call comes
            self._unpark()

    def _unpark(self) -> None:
        nbytes, self._parked = self._parked, 0
        self._settle(nbytes)

    def resume_writing(self) -> None:
        self._unpark()
        self._flush()

    def _flush_later(self) -> None:
        """Go on in the loop's next turn."""
        self._loop.call_soon(self._flush)

    async def _all_but(self, allowance: int) -> None:
        """Wait until all but so many bytes of what is queued now are sent.

        Returns early when the connection ends. Cancelled, it leaves no buffer of a caller
        in the queue.
        """
        if self._queued <= allowance:
            return
        waiter = self._wait_for(self._taken + self._queued - allowance)
        try:
            await waiter
        except BaseException:  # cancelled, or its coroutine closed
            self._copy()
            raise
        finally:
            del self._waiters[waiter]

    def _wait_for(self, target: int) -> asyncio.Future[None]:
        """Return a future that is set once so many bytes in all are taken; it has to be removed."""
        waiter = self._loop.create_future()
        if self._waiters is NOBODY:
            self._waiters = {}
        self._waiters[waiter] = target
        return waiter

    def _copy(self) -> None:
        """Leave no memory of a caller in the queue."""
        queue = self._queue
        if not self._borrowed:
            return
        self._borrowed = 0
        if is_borrowed(queue[0]):
            self._gone = 0
        self._queue = deque(bytes(buffer) if is_borrowed(buffer) else buffer for buffer in queue)
        if self._ration is not None:
            self._weigh()

    def _bytes_sent(self) -> int:
        """Return how many bytes of messages the socket has taken."""
        charged = self._charged + CREDIT - self._credit
        return charged - TOLL * self._messages_sent - self._queued

    def _drop(self) -> None:
        """Forget what is queued and let every writer go: the connection is gone."""
        self._queue = EMPTY
        self._borrowed = 0
        self._tail = None
        self._parked = 0
        self._fresh = False
        self._charged -= self._queued
        self._queued = self._gone = 0
        if self._ration is not None:
            self._ration.settle(self._ration.promised)
        for waiter in self._waiters:
            if not waiter.done() and not self._loop.is_closed():
                waiter.set_result(None)
