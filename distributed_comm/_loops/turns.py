"""Turns: strangers and trusted peers share a loop, and strangers wait once they had their share.

Strategy: between the transport of a stranger and its protocol stands a `Turn`, which looks at
the clock before and after whatever the stranger causes; tasks that work for it are `metered`. A
trusted peer's is taken away when the handshake is done, so it pays nothing. `shares` holds the
policy. When strangers have had their share, each connection stops reading from its socket at its
next event, and messages that have come already wait. The connections go on one by one, first come,
first served, with a look at the sockets in between.

If no trusted peer calls, nobody waits longer than for that look. So whoever dials gets an answer,
however long the messages of all others take.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from time import perf_counter as clock
from time import thread_time as processor
from typing import Any, Protocol, TypeVar, cast

from .._kernels import turns as kernel
from .shares import Lane, Shares, Waiting

__all__ = ["Turn", "Turns"]

#: Seconds that it takes, about, to accept a connection, until it has a turn.
ACCEPTING = 1.5e-4

Result = TypeVar("Result")


class Turns:
    """The turns of one loop."""

    __slots__ = ("__weakref__", "_due", "_tally", "loop", "shares")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.shares = Shares(processor(), clock())
        self._tally = self.shares.tally
        self._due: asyncio.Handle | None = None  # the next look at the shares

    def meter(self, lane: Lane, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function for a stranger."""
        tally = self._tally
        if tally.inside:
            return function(*arguments)
        tally.inside = True
        tally.began = processor()
        try:
            return function(*arguments)
        finally:
            tally.inside = False
            self.charge(lane, processor() - tally.began)

    def is_over(self, lane: Lane) -> bool:
        """Whether what comes next has to wait; what was done until now is charged."""
        tally = self._tally
        if tally.inside:
            now = processor()
            self.charge(lane, now - tally.began)
            tally.began = now
        return lane.is_over()

    def metered(
        self, work: Coroutine[Any, Any, Result], *, handshake: bool = False
    ) -> Coroutine[Any, Any, Result]:
        """Return a coroutine that works for a stranger as one whose steps are charged."""
        lane = self.shares.handshakes if handshake else self.shares.messages
        steps = kernel.Steps(work, self._tally, lane, self.look_soon)
        return cast("Coroutine[Any, Any, Result]", steps)

    @property
    def inside(self) -> bool:
        """Whether a stranger's work is under way."""
        return self._tally.inside

    def charge(self, lane: Lane, seconds: float) -> None:
        """Charge a lane the seconds that a stranger has used."""
        if self.shares.charge(lane, seconds):
            self.look_soon()

    def wait(self, lane: Lane, waiting: Waiting) -> None:
        """Call ``waiting.go_on`` when its turn has come."""
        lane.queue.append(waiting)
        self.look_soon()

    def has_closed(self, lane: Lane) -> None:
        """See to a lane that has closed, unless nobody waits and the loop has turned meanwhile."""
        shares = self.shares
        if self._tally.turned and self._due is None and not (shares.contended or shares.ear.heard):
            self._tally.count_look()
            lane.forgive()
        else:
            self.look_soon()

    def look_soon(self) -> None:
        """Look, in the next turn of the loop, which lanes can open and who may go on."""
        if self._due is None:
            self._due = self.loop.call_soon(self._look)

    def _look(self) -> None:
        """Open the lanes that may be open, and let those go on that wait for them."""
        shares = self.shares
        self._tally.count_look()
        shares.settle(processor(), clock())
        try:
            for lane in (shares.handshakes, shares.messages):
                self._release(lane)
        finally:
            self._due = self._look_again()  # not before: nobody else need ask for it

    def _look_again(self) -> asyncio.Handle | None:
        """Look once more while anybody waits, or will wait."""
        lanes = (self.shares.handshakes, self.shares.messages)
        if any(lane.queue and not lane.closed for lane in lanes):
            return self.loop.call_soon(self._look)
        if not any(lane.closed for lane in lanes):
            return None
        if self.shares.contended:
            return self.loop.call_later(self.shares.next_look(), self._look)
        return self.loop.call_soon(self._look)

    def _release(self, lane: Lane) -> None:
        """Let one go on, or as many as may if no trusted peer calls."""
        for _ in range(1 if self.shares.contended else len(lane.queue)):
            if lane.is_over() or not lane.queue:
                return
            self.meter(lane, lane.queue.popleft().go_on)


class Connected(Protocol):
    """What a Turn asks of the inbox of the connection whose turns they are."""

    def go_on(self) -> None:
        """Hand out messages that have waited."""

    def is_paused(self) -> bool:
        """Whether nothing is to be read, for a reason of its own."""

    def unread(self) -> int:
        """How many messages have come and wait."""

    def hold_back(self) -> None:
        """Keep messages from a reader that come with the next bytes."""


class Turn(kernel.Gauge, asyncio.BufferedProtocol):
    """Stands between the transport and the protocol of a peer that is not known to be trusted."""

    __slots__ = ("_below", "_inbox", "_transport", "_turns", "waiting")

    lane: Lane

    def __init__(self, turns: Turns, inbox: Connected, *, dialled: bool) -> None:
        super().__init__(
            turns.shares.tally, turns.shares.own if dialled else turns.shares.handshakes
        )
        self._turns = turns
        self._inbox: Connected | None = inbox  # until it is trusted, or gone
        self._below: Any = None  # the protocol: the channel, or TLS
        self._transport: asyncio.Transport
        self.waiting = False

    def above(self, below: asyncio.BaseProtocol) -> "Turn":
        """Stand between this protocol and its transport from now on."""
        self._below = below
        self.stand_above(below)
        return self

    # -- callbacks of the transport ------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._turns.meter(self.lane, self._below.connection_made, transport)

    def eof_received(self) -> bool | None:
        result: bool | None = self._turns.meter(self.lane, self._below.eof_received)
        return result

    def connection_lost(self, exc: Exception | None) -> None:
        self._turns.meter(self.lane, self._below.connection_lost, exc)
        if self._inbox is not None and not self._inbox.unread():
            self._inbox = None
            self.left = True

    def pause_writing(self) -> None:
        self._below.pause_writing()

    def resume_writing(self) -> None:
        self._turns.meter(self.lane, self._below.resume_writing)

    # -- what the channel and its inbox ask for ------------------------------------

    def leave(self) -> None:
        """Stand there no longer: the peer is trusted, so its handshake was no stranger's."""
        self._inbox = None
        self.left = True
        shares = self._turns.shares
        accepting = 0.0 if self.lane is shares.own else ACCEPTING
        shares.refund(self.lane, self.charged + accepting)
        self._transport.set_protocol(self._below)
        if self.waiting:
            self._set_reading(True)

    def admit(self) -> None:
        """Count as a stranger's messages what comes from now on."""
        self.lane = self._turns.shares.messages

    def meter(self, function: Callable[[], None]) -> None:
        """Call a function for this stranger."""
        self._turns.meter(self.lane, function)

    def is_over(self) -> bool:
        """Whether the next message has to wait."""
        return self._turns.is_over(self.lane)

    def is_metered(self) -> bool:
        """Whether what runs is metered."""
        return self._turns.inside

    @property
    def contended(self) -> bool:
        """Whether trusted peers call."""
        return self._turns.shares.contended

    @property
    def ear(self) -> Any:
        """Where to say that a trusted peer was heard."""
        return self._turns.shares.ear

    def hold_back(self) -> None:
        if self._inbox is not None:
            self._inbox.hold_back()

    def has_closed(self, lane: Lane) -> None:
        self._turns.has_closed(lane)

    def wait(self) -> None:
        """Read no more, and go on in turn."""
        if self._inbox is not None and not self.waiting:
            self.waiting = True
            self._turns.wait(self.lane, self)
            self._set_reading(False)

    def go_on(self) -> None:
        """Hand out what has waited, and read again."""
        inbox = self._inbox
        self.waiting = False
        if inbox is None:
            return
        inbox.go_on()
        if not self.waiting and not inbox.is_paused():
            self._set_reading(True)

    def _set_reading(self, reading: bool) -> None:
        transport = self._transport
        if not transport.is_closing():
            with suppress(RuntimeError):  # uvloop's: it is closed, and does not say so
                transport.resume_reading() if reading else transport.pause_reading()
