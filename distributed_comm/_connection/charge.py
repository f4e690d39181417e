"""What one stranger has of the memory for all strangers: what it sent, and what it left unread.

A handler's reply to a stranger waits here until it is read, and nobody makes it read. So what
is queued for an accepted peer that is not trusted is counted before it is queued, and given back
as the socket takes it. A message that does not fit is refused, and the connection goes on; if
there is not even room to say so, the peer is cut. A dialler's messages were its own program's
choice, and are not counted. The first few kilobytes are not counted either, so that a short answer
reaches everybody even if others have used up the budget.
"""

from .._loops.loop_state import LoopState
from .._wire.budget import ALLOWANCE, OVERHEAD, Budget
from .._wire.connection import Connection
from .._wire.states import OPEN
from ..errors import MessageError
from .byte_stream import ByteStream
from .send_queue import JOIN, PARK, Sending, SendQueue, is_borrowed

__all__ = ["UNCOUNTED", "ChargedSendQueue", "UnreadCharge"]

#: Bytes that a full stream is given, copied, at a time; for a trusted peer it gets more.
SIP = 512
#: Unsent bytes of each connection that are not counted, beside that copy and one message that is
#: no longer than this.
UNCOUNTED = (ALLOWANCE - SIP) // 2

#: A writer waits once its unsent bytes exceed one part in so many of what is left, so that a
#: thousand peers that do not read still leave room for others. By default the first of them
#: have 1 MiB each, as trusted ones do.
FRACTION = 256
#: Bytes that are held in advance if much is left, so that not each small message is counted.
ADVANCE = 16 * 1024
#: Once so many times the rest of a buffer was sent, the rest is copied and the buffer freed. To
#: copy more would cost every long message; until then all of it counts.
LITTLE = 63


class UnreadCharge:
    """How much of the budget the unread messages of one connection hold."""

    __slots__ = ("_budget", "_parts", "held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0
        self._parts = 0  # messages and frames that wait

    def add(self, unread: int, parts: int) -> int:
        """Hold ``unread`` bytes in all, with so many more messages and frames; return the sum.

        ValueError if that is too much.
        """
        self._parts += parts
        total = unread + OVERHEAD * self._parts
        if total > max(self.held, ALLOWANCE):
            self._budget.change(total - self.held)
            self.held = total
        return total

    def release(self) -> None:
        """Give all of it back."""
        if self.held:
            self._budget.change(-self.held)
        self.held = self._parts = 0

    def __del__(self) -> None:
        """Give back what messages hold that nobody has read, or will."""
        self.release()


class ChargedSendQueue(SendQueue):
    """The queue of an accepted connection: its bytes are counted once `charge` was called."""

    __slots__ = ("_budget", "_promised", "_seen", "_still", "charged", "held", "stalled")

    def __init__(
        self, state: LoopState, stream: ByteStream, connection: Connection, owner: Sending
    ) -> None:
        super().__init__(state, stream, connection, owner)
        self._budget: Budget | None = None  # of all strangers, if the peer is one …
        self.held = 0  # … and how much of it this one has
        self._promised = 0  # bytes of messages that are being encoded
        self._seen: object = None  # how far the peer was at the last beat, if anything waited …
        self._still = 0  # … and for how many it has been there
        self.charged = False
        self.stalled = False

    @property
    def park(self) -> int:  # type: ignore[override]
        return PARK if self._budget is None else SIP

    def charge(self, budget: Budget) -> None:
        self._budget = budget
        self.charged = True
        self.brim = 0

    # -- before a message is queued ------------------------------------------------

    def reserve(self, nbytes: int) -> None:
        if self._budget is not None and not self._goes_at_once(nbytes):
            self._admit(nbytes)

    def promise(self, nbytes: int) -> None:
        if nbytes > 0:
            self._admit(nbytes)
        self._promised += nbytes
        self._weigh()

    def _admit(self, nbytes: int) -> bool:
        if self._budget is None:
            return True
        refusal = self._take(nbytes)
        if refusal is not None:
            self.flush()  # what waits for the end of the turn; it raises nothing …
            if self._connection.state is not OPEN:  # … but may find the connection gone
                raise self._connection.closed_error()
            if self._goes_at_once(nbytes):
                return False
            refusal = self._take(nbytes)
        if refusal is None:
            return True
        if nbytes <= UNCOUNTED:
            if self._kept() - self.held > UNCOUNTED:
                self._owner.overdraw(refusal)
            self._owner.full = True  # so that its writer waits until even this is sent
            return True
        raise MessageError(
            f"a message of {nbytes} bytes does not fit into the memory for what untrusted "
            f"peers have not read: {refusal} ({self._owner.ends})"
        )

    def _goes_at_once(self, nbytes: int) -> bool:
        """Return whether `send` would not queue a message of so many bytes."""
        return self.fresh and nbytes < (self._short or JOIN)

    def _take(self, nbytes: int) -> str | None:
        """Count so many bytes beside what is kept; return why that cannot be.

        As text: an exception in a frame that it came through would keep the message alive.
        """
        budget = self._budget
        assert budget is not None
        waiting = self._kept() + nbytes
        if waiting > self.held + UNCOUNTED:
            held = waiting + min(ADVANCE, budget.left // FRACTION)
            try:
                budget.change(held - self.held)
            except ValueError as exc:
                return str(exc)
            self.held = held
        high, _ = self._water(self._owner.high_water, 0)
        if waiting > high:
            self._owner.full = True
        self._set_brim()
        return None

    def _water(self, high: int, low: int) -> tuple[int, int]:
        if self._budget is not None:  # the less is left, the sooner a writer waits
            high = min(high, max(UNCOUNTED // 2, self._budget.left // FRACTION))
            low = min(low, high // 4)
        return high, low

    def _fill(self, last: bytes | memoryview) -> None:
        if self._budget is None:
            self.flush()
            return
        nbytes = len(last)
        assert self._tail is not None
        del self._tail[-nbytes:]  # it may be refused
        self.unsent -= nbytes
        fits = self._admit(nbytes)
        self._put([last])
        if not fits:
            self.flush()
            self._take_rest()

    def _take_rest(self) -> None:
        if self._budget is None:
            return
        refusal = self._take(0)
        if refusal is not None:
            self._posted += self.unsent + self._gone  # what was sent, and what is dropped
            self._owner.overdraw(refusal)

    def count_ahead(self) -> str | None:
        if self._budget is None or self.unsent:
            return None
        return self._take(0)

    # -- what is kept --------------------------------------------------------------

    def _count_sent(self, nbytes: int) -> None:
        super()._count_sent(nbytes)
        self._weigh()

    def _copy(self) -> None:
        super()._copy()
        self._weigh()

    def drop(self) -> None:
        super().drop()
        self._give_back(self._promised)

    def _weigh(self) -> None:
        """Count what the peer has taken as free."""
        if self._budget is None:
            return
        if self._gone > JOIN and self._gone > LITTLE * len(self._queue[0]):
            self._borrowed -= is_borrowed(self._queue[0])
            self._queue[0] = bytes(self._queue[0])  # what it was a part of is memory, too
            self._gone = 0
        self._give_back(self._kept())
        self._set_brim()

    def _give_back(self, kept: int) -> None:
        """Give back what is held of the budget beyond so many bytes."""
        if self._budget is not None and kept < self.held:
            self._budget.change(kept - self.held)
            self.held = kept

    def _set_brim(self) -> None:
        """Let so many bytes more be queued before they are counted."""
        more = self.held + UNCOUNTED - self._kept()
        self.brim = min(JOIN, self.unsent + more)

    def _kept(self) -> int:
        """Return the memory of what is unsent; a long buffer is there until its last byte is."""
        return self.unsent + self._gone + self._promised + self._stream.ahead

    # -- a peer that does not read -------------------------------------------------

    def is_stuck(self, beats: float) -> bool:
        # If that is little, and no writer waits with it, the stranger only counts as `stalled`.
        if self._budget is None:
            return False
        progress = self._progress() if self.unsent else None  # nobody has to take anything
        self._still = self._still + 1 if progress == self._seen else 0
        self._seen = progress
        self.stalled = progress is not None and self._still >= beats
        return self.stalled and (self.held > 0 or self.is_awaited)

    def _progress(self) -> tuple[int, ...]:
        """Return how far the peer is with what was sent to it.

        All of these change as it reads, but for one that reads a few bytes now and then the last
        alone: a full socket takes more only when a good part of it is free.
        """
        stream = self._stream
        return self.taken, stream.parked, stream.ahead, stream.unacknowledged

    def __del__(self) -> None:
        self._give_back(0)
