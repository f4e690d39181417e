"""What waits to be sent: the fewest system calls, and no memory of a caller's kept.

Strategy: the socket is ours (we dialled or accepted it), so bytes go into it directly, and
the transport is only asked to tell when a full socket takes bytes again. The first message of
a loop turn goes out at once; small ones that follow in the same turn are copied together and
leave at its end, or at 64 KiB. Large buffers are sent from where they are. Because the
transport never holds them, a caller whose write was cancelled gets its memory back: the rest is
copied here.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from .._frames import Frames
from .._loops.loop_state import NOWHERE, LoopState
from .._wire.budget import Budget
from .._wire.connection import Connection
from .._wire.states import OPEN
from .byte_stream import GATHERS, Buffer, ByteStream
from .misuse import misused
from .pace import CREDIT, TOLL

__all__ = ["JOIN", "SendQueue", "Sending", "is_borrowed"]

#: Small buffers are copied together up to this; a longer queue is sent without waiting
#: for the end of the turn.
JOIN = 64 * 1024
#: Bytes that one connection sends before the others of the loop get their turn.
TURN_BYTES = 1024 * 1024
#: Bytes that a full stream is given, to find out when it takes more.
PARK = 16 * 1024
#: Buffers of one system call.
GATHER = 16

#: The queue of a connection that has nothing queued: one for all, and never added to. A deque of
#: its own takes 760 bytes, an eighth of an idle comm.
EMPTY: deque[Buffer] = deque()
#: The waiting writers of a connection that never had one, likewise never added to.
NO_WAITERS: dict[asyncio.Future[None], int] = {}


class Sending(Protocol):
    """What a queue needs of its connection."""

    #: Whether the next writer has to wait for `SendQueue.drained`.
    full: bool

    @property
    def high_water(self) -> int:
        """Unsent bytes above which it has to."""

    @property
    def ends(self) -> str:
        """Both addresses, for errors."""

    def check(self, frames: Frames) -> None:
        """Compare a message with what the peer accepts: MessageError, or Unsettled."""

    def send_failed(self, exc: OSError) -> None:
        """Act on a stream that takes no more bytes."""

    def soon(self, function: Callable[[], None]) -> None:
        """Call a function in the loop's next turn; a stranger's is metered."""

    def overdraw(self, why: str) -> None:
        """Cut a peer that leaves more unread than there is room for, and raise CommClosedError."""


class Ended:
    """The owner of the queue of a connection that has ended."""

    ends = ""
    full = False
    high_water = 0

    def check(self, frames: Frames) -> None:
        pass

    def send_failed(self, exc: OSError) -> None:
        pass

    def soon(self, function: Callable[[], None]) -> None:
        pass

    def overdraw(self, why: str) -> None:
        pass


def is_borrowed(buffer: Buffer) -> bool:
    """Whether a queued buffer is memory that its owner, a caller of write, may change."""
    return isinstance(buffer, memoryview) and not isinstance(buffer.obj, bytes)


class SendQueue:
    """Sends what it is given, in order, into a stream."""

    __slots__ = (
        "_borrowed", "_connection", "_credit", "_gone", "_loop", "_owner", "_parked", "_posted",
        "_queue", "_scheduled", "_send", "_short", "_spent", "_stream", "_switch", "_tail",
        "_waiters", "brim", "count", "fresh", "taken", "unsent",
    )  # fmt: skip

    #: What a full stream is given at a time.
    park = PARK

    def __init__(
        self, state: LoopState, stream: ByteStream, connection: Connection, owner: Sending
    ) -> None:
        self._loop = state.loop
        self._switch = state.switch  # says whether the loop is running here
        self._stream = stream
        self._send = stream.send
        self._connection = connection
        self._owner = owner
        # A message costs its bytes and a toll; these count messages and bytes at once.
        self._credit = CREDIT  # what may be spent until the next pause
        self._spent = 0  # what was spent until the last one
        self._short = JOIN  # bytes of a message that need not be compared with the peer's limits
        self._queue = EMPTY
        self._tail: bytearray | None = None  # the queue's last entry, if it is ours to extend
        self._parked = 0  # bytes that the stream keeps until it is not full
        self._scheduled = False  # a flush is due at the end of this turn
        self._gone = 0  # bytes of the queue's first entry that were sent, if that keeps them
        self._borrowed = 0  # buffers of the queue whose memory is a caller's
        # writers, and how many bytes have to be taken before each goes on
        self._waiters = NO_WAITERS
        self._posted = 0  # bytes that were given to `post`, or dropped from messages
        #: Unsent bytes from which on small messages are not just added.
        self.brim = JOIN
        #: Whether nothing is queued and nothing was sent in this turn of the loop: then the next
        #: bytes leave at once. The inbox sets it, because an event of the socket begins a turn.
        self.fresh = True
        #: Bytes that the stream has not taken.
        self.unsent = 0
        #: Bytes that it has taken, of those that were queued.
        self.taken = 0
        #: Messages that were sent, or queued.
        self.count = 0

    # -- messages ------------------------------------------------------------------

    def send(self, frames: Frames) -> int:
        """Send a message, now or with others of its turn, as `Channel.send` does."""
        if not self._switch.runs():
            raise misused(self._connection, self._switch)
        connection = self._connection
        if connection.state is not OPEN:
            raise connection.closed_error()
        buffers = connection.encode(frames)
        first = buffers[0]
        nbytes = len(first)
        if self.fresh and len(buffers) == 1 and nbytes < self._short:
            # `_put` and `flush` would do the same; this is nearly every message's way
            self.fresh = False
            try:
                sent = self._send(first)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                self._owner.send_failed(exc)
                sent = nbytes
            if sent != nbytes:
                self._keep_rest(first, sent)
        elif (
            self._tail is not None
            and len(buffers) == 1
            and nbytes < self._short
            and len(self._tail) < JOIN
        ):
            # again what `_put` would do: a short message behind others of its turn
            self._tail += first
            self.unsent += nbytes
            if self.unsent >= self.brim:
                self._fill(first)
        elif self._is_to_queue(frames, buffers):
            nbytes = self._put(buffers)
        else:
            return self.send(frames)
        self.count += 1
        self._credit = credit = self._credit - nbytes - TOLL
        if credit < 0:  # as always after a message with a large frame
            self._owner.full = True
        return nbytes

    def _is_to_queue(self, frames: Frames, buffers: list[bytes | memoryview]) -> bool:
        """Check a message, and count it; False if it goes another way after all."""
        if not self._short:  # the first one
            self._introduce()
            return False
        nbytes = sum(map(len, buffers))
        if len(buffers) > 1 or nbytes >= self._short:
            self._owner.check(frames)
        return self._admit(nbytes)  # if not, there was room once the queue was flushed

    def expect_terms(self) -> None:
        """Say what else this side accepts in front of the first message: the peer hears it."""
        self._short = 0

    def _introduce(self) -> None:
        """Say what else this side accepts, and note what the peer is sure to accept."""
        connection = self._connection
        verdict = connection.verdict()
        if verdict:
            self.put_ahead(verdict)
        terms = connection.terms
        self._short = JOIN if terms is None else max(1, min(JOIN, *(t.short for t in terms)))

    @property
    def bytes_sent(self) -> int:
        """Bytes that the stream has taken, of messages and of all else."""
        spent = self._spent + CREDIT - self._credit
        return spent - TOLL * self.count + self._posted - self.unsent

    def _admit(self, nbytes: int) -> bool:  # noqa: ARG002 - for a stranger's
        """Count a message before it is queued; False if it can be sent now."""
        return True

    def _fill(self, last: bytes | memoryview) -> None:  # noqa: ARG002 - for a stranger's
        """Act on a brim that was reached, by this message."""
        self.flush()

    def _keep_rest(self, message: bytes | memoryview, sent: int) -> None:
        """Queue what the stream did not take of a message; the queue was empty."""
        self._queue = deque([memoryview(message)[sent:]])
        self.unsent = len(message) - sent
        self._gone = sent
        self._take_rest()
        self.flush()

    def _take_rest(self) -> None:
        """Act on a message that was not counted, and has to wait."""

    # -- strangers' messages, which are counted; see `charge` --------------------------

    #: Whether what is unsent is counted …
    charged = False
    #: … and whether the peer has taken nothing of it for too long.
    stalled = False

    def charge(self, budget: Budget) -> None:
        """Take the memory for what is unsent from the budget of strangers, from now on."""
        raise NotImplementedError

    def reserve(self, nbytes: int) -> None:
        """Raise a MessageError if a message of so many bytes would not be queued."""

    def promise(self, nbytes: int) -> None:
        """Count a message that is about to be encoded; a negative number ends that."""

    def count_ahead(self) -> str | None:
        """Count what the stream has taken of a message that was not queued; return a refusal."""
        return None

    def is_stuck(self, beats: float) -> bool:  # noqa: ARG002
        """Return, at each beat, whether the peer has taken nothing for so many, and should have."""
        return False

    # -- what is no message ----------------------------------------------------------

    def post(self, buffers: list[bytes | memoryview]) -> None:
        """Send what is no message of the user's, behind what is queued."""
        self._posted += self._put(buffers)
        self.flush()

    def put_off(self, buffers: list[bytes | memoryview]) -> None:
        """Queue such bytes without sending them; the next flush does."""
        self._scheduled = True
        self._posted += self._put(buffers)

    def put_ahead(self, buffers: list[bytes | memoryview]) -> None:
        """Queue such bytes in front of a message that follows at once, and may take them along."""
        if not self.unsent:  # a queue of its own would take a kilobyte
            data = b"".join(buffers)
            sent = self._stream.send_ahead(data)
            self._posted += sent
            buffers = [data[sent:]] if sent < len(data) else []
        if buffers:
            self._posted += self._put(buffers)

    def offer(self) -> None:
        """Give the stream what it takes of the front of the queue, and leave the rest."""
        try:
            sent = self._transmit()
        except OSError:  # full, or gone: for a flush to find out
            return
        self._remove(sent)
        self._count_sent(sent)

    # -- the queue -------------------------------------------------------------------

    def _put(self, buffers: list[bytes | memoryview]) -> int:
        """Queue buffers, small ones copied together; a lot is sent without delay."""
        self.fresh = False
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
        self.unsent += total
        if self.unsent >= JOIN:
            self.flush()
        elif not self._scheduled and not self._parked:
            self._scheduled = True
            self._loop.call_soon(self.flush)
        return total

    def flush(self) -> None:
        """Send until the queue is empty, the stream full, or the turn's share used up."""
        self._scheduled = False
        share = TURN_BYTES
        while self._queue and not self._parked:
            if share <= 0:
                self._scheduled = True
                self._owner.soon(self.flush)
                return
            try:
                sent = self._transmit()
            except BlockingIOError:
                self._park()
            except OSError as exc:
                self._owner.send_failed(exc)
                return
            else:
                share -= sent
                self._remove(sent)
                self._count_sent(sent)
        self.fresh = not self.unsent

    def _transmit(self) -> int:
        """Offer the stream the front of the queue; return how many bytes it took."""
        queue = self._queue
        if len(queue) == 1 or not GATHERS:
            return self._send(queue[0])
        return self._stream.send_many([queue[i] for i in range(min(len(queue), GATHER))])

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

    def _count_sent(self, nbytes: int) -> None:
        """Count bytes as sent and wake the writers that waited for them."""
        self.unsent -= nbytes
        self.taken += nbytes
        for waiter, target in self._waiters.items():
            if self.taken >= target and not waiter.done():
                waiter.set_result(None)

    def _park(self) -> None:
        """Hand a full stream a few bytes, copied: it says when it has taken them."""
        piece = bytes(memoryview(self._queue[0])[: self.park])
        self._remove(len(piece))
        self._parked = len(piece)
        if not self._stream.park(piece):
            self._unpark()

    def _unpark(self) -> None:
        nbytes, self._parked = self._parked, 0
        self._count_sent(nbytes)

    def resume(self) -> None:
        """Go on, since the stream is not full any more."""
        self._unpark()
        self.flush()

    # -- waiting -----------------------------------------------------------------------

    async def drained(self, high: int, low: int) -> None:
        """Wait until nothing of a caller's is queued, and no more than ``low`` if it was ``high``.

        Returns early when the connection ends. Cancelled, it leaves no buffer of a caller in the
        queue.
        """
        self._spent += CREDIT - self._credit
        self._credit = CREDIT
        high, low = self._water(high, low)
        if self._borrowed:
            await self.sent(0)
        elif self.unsent > high:
            await self.sent(low)
        else:
            await asyncio.sleep(0)

    async def sent(self, allowance: int = 0) -> None:
        """Wait until all but so many bytes of what is queued now are sent, as `drained` does."""
        if self.unsent <= allowance:
            return
        waiter = self._loop.create_future()
        if self._waiters is NO_WAITERS:
            self._waiters = {}
        self._waiters[waiter] = self.taken + self.unsent - allowance
        try:
            await waiter
        except BaseException:  # cancelled, or its coroutine closed
            self._copy()
            raise
        finally:
            del self._waiters[waiter]

    def _water(self, high: int, low: int) -> tuple[int, int]:
        """Return the bounds of `drained`."""
        return high, low

    @property
    def is_awaited(self) -> bool:
        """Whether a writer waits."""
        return bool(self._waiters)

    def _copy(self) -> None:
        """Leave no memory of a caller in the queue."""
        queue = self._queue
        if not self._borrowed:
            return
        self._borrowed = 0
        if is_borrowed(queue[0]):
            self._gone = 0
        self._queue = deque(bytes(buffer) if is_borrowed(buffer) else buffer for buffer in queue)

    def disown(self) -> None:
        """Leave what is queued to the process that this one was forked from."""
        self._switch = NOWHERE

    def drop(self) -> None:
        """Forget what is queued and let every writer go: nothing is sent any more."""
        self._queue = EMPTY
        self._borrowed = 0
        self._tail = None
        self._parked = 0
        self.fresh = False
        self._posted -= self.unsent
        self.unsent = self._gone = 0
        for waiter in self._waiters:
            if not waiter.done() and not self._loop.is_closed():
                waiter.set_result(None)

    def part(self) -> None:
        """Let go of the connection, which would be a cycle: it has ended."""
        self._owner = Ended()
