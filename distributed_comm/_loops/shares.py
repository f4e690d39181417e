"""Shares of a loop: how much of it strangers may take while trusted peers call.

Strategy: what strangers use of the loop's processor time is a debt. Each second that the loop
works for others pays off a share of a second. An idle second pays off far less while trusted
peers call without pause, because a client that waits for answers leaves the loop idle in
between, and strangers that filled these gaps would still be most of what it does. Once no
trusted peer was heard for a while, strangers may have everything.

There are two lanes, so that a flood of messages keeps nobody from coming in. A lane closes when
its debt exceeds its quantum, and opens when that is paid. Nothing here knows a clock or a loop.
"""

from collections import deque
from math import inf
from typing import Protocol

from .._kernels import turns as kernel

__all__ = ["DEAF", "IDLE", "IDLE_GREETINGS", "QUANTUM", "Ear", "Lane", "Shares", "Waiting"]

#: What strangers' messages may take for each second of others, and …
MESSAGES = 0.25
#: … what connections may take until it is known who the peer is. Both are less than a third
#: of a busy loop.
HANDSHAKES = 0.2
#: What messages may take for each second that the loop is idle between the calls of trusted peers.
#: A client on another machine may leave it idle for nine tenths of the time, and still gets half.
IDLE = 0.02
#: The same for connections, which are the only way in for trusted peers, too. With less, one that
#: dials over TLS among a hundred strangers waits for seconds.
IDLE_GREETINGS = 0.1
#: Seconds of debt at which a lane closes. Others wait for so long, and for one message more.
QUANTUM = 0.005
#: The same if no trusted peer calls and the work is light, because a look at the sockets has its
#: price. Messages that came together are interrupted at the quantum all the same.
LEISURE = 0.05
#: The same for handshakes. If no trusted peer calls, the lanes alternate by these quanta.
GREETINGS = 0.02
#: Idle seconds without a trusted peer's message after which none is taken to call any more …
LATELY = 0.05
#: … and seconds in all, because the program itself may keep the loop busy.
LONG = 1.0
#: Bounds, in seconds, for when to look next whether a debt is paid.
SOONEST, LATEST = 0.002, 0.02


class Waiting(Protocol):
    """What waits for a lane to open."""

    def go_on(self) -> None:
        """Do what had to wait."""


class Ear:
    """Whether trusted peers were heard; setting it is all that their messages pay."""

    __slots__ = ("heard",)

    def __init__(self) -> None:
        self.heard = False


#: That of strangers: nobody looks at it.
DEAF = Ear()


class Lane(kernel.Account):
    """One kind of strangers' work: what it owes, and who waits until that is paid."""

    __slots__ = ("_idle", "_share", "queue")

    def __init__(self, share: float, limit: float = QUANTUM, idle: float = IDLE) -> None:
        super().__init__(limit)
        self._share = share
        self._idle = idle
        self.queue: deque[Waiting] = deque()

    def pay(self, others: float, idle: float) -> None:
        """Pay off what so many seconds of others, and idle ones, are worth."""
        self.limit = self.least
        self.debt = max(0.0, self.debt - self._share * others - self._idle * idle)
        self.closed = self.debt > (0.0 if self.closed else self.limit)

    def forgive(self) -> None:
        """Owe nothing, and have more time until the next look."""
        self.limit = max(self.least, LEISURE)
        self.debt = 0.0
        self.closed = False

    def is_over(self) -> bool:
        """Return whether what comes next has to wait: several together go on only for a quantum."""
        return self.closed or self.debt > self.least

    def soonest(self) -> float:
        """Return the seconds until the debt may be paid, if all of them are others'."""
        return self.debt / self._share


class Shares:
    """The lanes of one loop; times are those of its thread's processor, and of a clock."""

    __slots__ = (
        "_clock", "_processor", "_quiet", "_silent", "contended", "ear", "handshakes", "messages",
        "own", "tally",
    )  # fmt: skip

    def __init__(self, processor: float, clock: float) -> None:
        self._processor, self._clock = processor, clock  # when it was settled last …
        self.tally = kernel.Tally()  # … and what strangers have used since
        self._quiet = self._silent = inf  # idle seconds, and all, since a trusted peer was heard
        self.ear = Ear()
        self.contended = False  # trusted peers call
        self.messages = Lane(MESSAGES)
        self.handshakes = Lane(HANDSHAKES, GREETINGS, IDLE_GREETINGS)
        #: Of connections that this side dials, which is its own work.
        self.own = Lane(1.0, inf)

    def charge(self, lane: Lane, seconds: float) -> bool:
        """Have a lane owe so much more; return whether it closed for that."""
        return kernel.charge(self.tally, lane, seconds)

    def refund(self, lane: Lane, seconds: float) -> None:
        """Take back what was charged for one that has proved to be no stranger."""
        self.tally.spent -= seconds
        lane.debt = max(0.0, lane.debt - seconds)

    def settle(self, processor: float, clock: float) -> None:
        """Compare what was used with what strangers have used of it; open what may be open."""
        used, passed = processor - self._processor, clock - self._clock
        others, idle = max(0.0, used - self.tally.spent), max(0.0, passed - used)
        self._processor, self._clock, self.tally.spent = processor, clock, 0.0
        if self.ear.heard:
            self.ear.heard = False
            self._quiet = self._silent = 0.0
        else:
            self._quiet += idle
            self._silent += max(0.0, passed)
        self.contended = self._quiet < LATELY and self._silent < LONG
        for lane in (self.handshakes, self.messages):
            if self.contended:
                lane.pay(others, idle)
            else:
                lane.forgive()

    def next_look(self) -> float:
        """Return the seconds until it is worth settling again."""
        closed = [lane for lane in (self.handshakes, self.messages) if lane.closed]
        soonest = min((lane.soonest() for lane in closed), default=0.0)
        return min(max(soonest, SOONEST), LATEST)
