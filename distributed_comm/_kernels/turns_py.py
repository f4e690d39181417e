"""The hot half of `_loops.turns`: clocks around what strangers cause, and what it costs.

Times are those of the thread's processor. The twin reads that clock without a call.
"""

from collections import OrderedDict
from collections.abc import Callable, Coroutine
from time import monotonic
from time import thread_time as processor
from typing import Any

__all__ = ["Account", "Gauge", "Presence", "Steps", "Tally", "charge"]

#: Seconds that an event takes before the transport asks for a buffer.
EVENT = 2e-6
#: Bytes that are read at once while the account is closed; so much may wait without being counted.
SIP = 4 * 1024
#: Work that takes more seconds is heavy: a little of it keeps all others waiting.
HEAVY = 2e-3
#: After an event of so many bytes, libuv may read again in the same turn of the loop.
WHOLE = 64 * 1024


class Tally:
    """What strangers use of one loop."""

    __slots__ = ("began", "inside", "look", "spent", "turned")

    def __init__(self) -> None:
        self.inside = False  # a stranger's work is under way …
        self.began = 0.0  # … since then
        self.spent = 0.0  # seconds
        self.look = 0  # the number of the last look at the connections that wait
        self.turned = False  # a connection has had two events since, so the loop has turned

    def count_look(self) -> None:
        """Take note of a look."""
        self.look += 1
        self.turned = False


class Account:
    """What one kind of strangers' work owes, in seconds; it closes above the limit.

    That may be raised for light work, and is the least one again once work was heavy.
    """

    __slots__ = ("closed", "debt", "least", "limit")

    def __init__(self, limit: float) -> None:
        self.limit = self.least = limit
        self.debt = 0.0
        self.closed = False


def charge(tally: Tally, account: Account, seconds: float) -> bool:
    """Have an account owe so much more; return whether it closed for that."""
    tally.spent += seconds
    account.debt += seconds
    if seconds > HEAVY:
        account.limit = account.least
        tally.turned = False
    if account.debt <= account.limit or account.closed:
        return False
    account.closed = True
    return True


class Gauge:
    """Stands between a transport and a protocol, and charges what the bytes cause."""

    __slots__ = ("_get_buffer", "_look", "_partial", "_receive", "charged", "lane", "left", "tally")

    def __init__(self, tally: Tally, lane: Account) -> None:
        self.tally = tally
        self.lane: Any = lane
        self._look = -1  # the last one before the last event …
        self._partial = False  # … and whether that read all that there was
        self.charged = 0.0  # seconds, in all
        self.left = False  # nothing is charged any more

    def stand_above(self, below: Any) -> None:
        """Hand on to this protocol."""
        self._get_buffer: Callable[[int], memoryview] = below.get_buffer
        self._receive: Callable[[int], None] = below.buffer_updated

    def get_buffer(self, sizehint: int) -> memoryview:
        # From here on, for memory may have to be made, and then the transport receives.
        self.tally.began = processor()
        view = self._get_buffer(sizehint)
        return view[:SIP] if self.lane.closed else view

    def buffer_updated(self, nbytes: int) -> None:
        tally, lane = self.tally, self.lane
        if lane.closed:
            self.hold_back()
        tally.turned = tally.turned or (self._look == tally.look and self._partial)
        self._look = tally.look
        self._partial = nbytes < WHOLE
        tally.inside = True
        try:
            self._receive(nbytes)
        finally:
            tally.inside = False
            if not self.left:
                seconds = processor() - tally.began + EVENT
                self.charged += seconds
                if charge(tally, lane, seconds):
                    self.has_closed(lane)
        if self.lane.closed:
            self.wait()

    def hold_back(self) -> None:
        """Have messages wait that come while the account is closed."""
        raise NotImplementedError

    def has_closed(self, lane: Any) -> None:
        """Act on the closing of an account."""
        raise NotImplementedError

    def wait(self) -> None:
        """Go on only when the account is open again."""
        raise NotImplementedError


class Steps:
    """A coroutine that works for a stranger; each of its steps is charged."""

    __slots__ = ("_closed", "_lane", "_send", "_tally", "_work")

    def __init__(
        self,
        work: Coroutine[Any, Any, Any],
        tally: Tally,
        lane: Account,
        closed: Callable[[], None],
    ) -> None:
        self._work = work
        self._send = work.send
        self._tally = tally
        self._lane = lane
        self._closed = closed

    def __await__(self) -> "Steps":
        return self

    def __iter__(self) -> "Steps":
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        return self._step(self._send, value)

    def throw(self, *exc: Any) -> Any:
        try:
            return self._step(self._throw, exc)
        finally:
            del exc  # which refers to this frame

    def close(self) -> None:
        self._work.close()

    def _throw(self, exc: Any) -> Any:
        try:
            return self._work.throw(*exc)
        finally:
            del exc

    def _step(self, step: Callable[[Any], Any], value: Any) -> Any:
        tally = self._tally
        if tally.inside:
            return step(value)
        tally.inside = True
        tally.began = processor()
        try:
            return step(value)
        finally:
            del value
            tally.inside = False
            if charge(tally, self._lane, processor() - tally.began):
                self._closed()


class Presence:
    """Whether a stranger says anything: what comes moves it to the end of a queue."""

    __slots__ = ("framing", "queue", "since")

    def __init__(self) -> None:
        self.framing: Any = None
        self.queue: OrderedDict[Any, Any] | None = None
        self.since = monotonic()

    def receive(self, nbytes: int) -> list[list[Any]]:
        """Take note of messages, or a part of one.

        Control messages do not count: our own pings would have everybody look busy.
        """
        messages: list[list[Any]] = self.framing.receive(nbytes)
        if messages or self.framing.mid_message:
            self.stir()
        return messages

    def stir(self) -> None:
        """Go to the end."""
        if self.queue is not None:
            self.since = monotonic()
            self.queue.move_to_end(self)
