"""Deadlines that let the loop look at its sockets once more before anybody is cut.

Whatever blocks a loop past a deadline also keeps it from reading, so what was waited for may
lie in the socket when the deadline is noticed. And a loop may act on what is due before it
looks at its sockets: uvloop does, asyncio does not.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

__all__ = ["Deadline", "timeout_at"]

#: Turns of the loop that a deadline is late. In two of them every loop looks at its sockets;
#: one that was accepted just before has to be attached to the loop in the others.
TURNS = 4


class Deadline:
    """Calls back once, after so many seconds and a look at the sockets."""

    __slots__ = ("_callback", "_handle", "_loop", "_turns")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, delay: float, callback: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.Handle
        self.restart(delay)

    def restart(self, delay: float) -> None:
        """Call back again, or later, after so many seconds from now."""
        self._turns = TURNS
        self._handle = self._loop.call_later(delay, self._turn)

    def cancel(self) -> None:
        """Do not call back."""
        self._handle.cancel()

    def _turn(self) -> None:
        if self._turns:
            self._turns -= 1
            self._handle = self._loop.call_soon(self._turn)
        else:
            self._callback()


@asynccontextmanager
async def timeout_at(when: float) -> AsyncIterator[None]:
    """Do what `asyncio.timeout_at` does, after a look at the sockets."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        deadline = Deadline(loop, when - loop.time(), lambda: limit.reschedule(loop.time()))
        try:
            yield
        finally:
            deadline.cancel()
