"""Deadlines that let the loop look at its sockets once more before anybody is cut.

Whatever blocks a loop past a deadline also keeps it from reading, so what was waited for may
lie in the socket when the deadline is noticed. And a loop may act on what is due before it
looks at its sockets: uvloop does, asyncio does not.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType

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


class timeout_at:  # noqa: N801 - named as asyncio's
    """Do what `asyncio.timeout_at` does, after a look at the sockets: ``with timeout_at(when):``.

    TimeoutError if the body was cancelled for it and by nobody else; notes that the body has added
    to the cancellation are its text. It awaits nothing, so
    it is a context manager like any other, at a third of the price.
    """

    __slots__ = ("_cancelling", "_deadline", "_expired", "_task", "_when")

    def __init__(self, when: float) -> None:
        self._when = when
        self._expired = False

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()  # requests that are not ours
        self._deadline = Deadline(loop, self._when - loop.time(), self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    def __exit__(
        self, _: type[BaseException] | None, exc: BaseException | None, __: TracebackType | None
    ) -> None:
        self._deadline.cancel()
        del self._deadline  # a cycle, on which the task and its result would hang
        if not self._expired:
            return
        if self._task.uncancel() <= self._cancelling and isinstance(exc, asyncio.CancelledError):
            raise TimeoutError(*getattr(exc, "__notes__", ())) from exc
