"""Polling: a loop looks at its sockets for a while instead of sleeping.

Between two processes of one host most of a short exchange goes into waking the one that
sleeps. A loop that has something to do in its next turn does not sleep, so that is all it is
given. It takes a core meanwhile. So unless that is asked for (`CommOptions.busy_poll`), a loop
polls only for the steps of a handshake, and only while that helps. If the peer waits for this very
core, no step comes while it is polled for; if others compute, this process has to wait itself.
"""

import asyncio
from time import perf_counter as clock  # uvloop's own clock has milliseconds
from time import thread_time as processor_time

__all__ = ["STEP", "Poller"]

#: Seconds for which a step of a handshake is waited for: some times what it takes.
STEP = 200e-6
#: Consecutive useless polls after which no step is polled for …
USELESS = 3
#: … but one in so many, to see whether that has changed.
RETRY = 64
#: The part of a poll for which the processor was somebody else's, above which it is useless.
LOST = 0.2


class Poller:
    """Keeps one loop awake."""

    __slots__ = (
        "__weakref__", "_asked", "_began", "_steps", "_until", "_used", "_useless_polls", "awake",
        "loop",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.awake = False  #: Whether it is kept from sleeping now.
        self._until = 0.0
        self._steps = 0  # of handshakes, since it is awake
        self._began = self._used = 0.0  # when they began, by the clock and by the processor's
        self._useless_polls = 0  # consecutive
        self._asked = 0

    def poll(self, seconds: float) -> None:
        """Keep the loop from sleeping for so many seconds from now."""
        self._until = max(self._until, clock() + seconds)
        if not self.awake:
            self.loop.call_soon(self._turn)
            self.awake = True

    def poll_for_step(self) -> None:
        """Keep the loop awake for the next step of a handshake with a peer of this host."""
        self._asked += 1
        if self._steps or self._useless_polls < USELESS or self._asked % RETRY == 0:
            if not self._steps:
                self._began, self._used = clock(), processor_time()
            self._steps += 1
            self.poll(STEP)

    def _turn(self) -> None:
        if clock() < self._until:
            self.loop.call_soon(self._turn)
            return
        self.awake = False
        if self._steps:
            self._useless_polls = self._useless_polls + 1 if self._was_useless() else 0
            self._steps = 0

    def _was_useless(self) -> bool:
        """Whether no other step came behind the first, or others would have had the core."""
        took = clock() - self._began
        return self._steps == 1 or processor_time() - self._used < (1 - LOST) * took
