"""A task that waits for messages, run by whoever brings one: the specification.

Waking a task through the loop takes a turn of the loop: a handle, a queue, and between two
tasks of one loop a system call, which is most of what a message costs there. But whoever
awaits a write may be suspended, and others may run: so the write can as well run the reader
right there, until the reader waits for something else, and then go on. So can the callback
that has received a message. asyncio documents what is needed, for those who bring tasks of
their own ("Extending asyncio"): a future is what has certain methods, and the current task is
left and entered by functions.

`Mailbox` is that for two ends of one loop, used while that runs, that nobody has left: the
plain way, and no other.
"""

import sys
from asyncio import AbstractEventLoop, CancelledError, _get_running_loop, current_task
from asyncio.tasks import _enter_task, _leave_task
from collections import deque
from collections.abc import Callable, Generator
from contextvars import Context
from time import monotonic
from typing import Any

__all__ = ["EMPTY", "HIGH_WATER", "NOT_PLAIN", "PAUSE", "Mailbox", "Switch", "Waiter"]

#: What `Mailbox.take` returns instead of a message, which may be anything else.
EMPTY, NOT_PLAIN = object(), object()
#: Unread messages from which on a write is not plain.
HIGH_WATER = 1_000
#: Messages after which a task that never has to wait gives way to others; a message whose
#: reader is run at once counts as TOLL + 1: two tasks that talk give way every 111 of them.
PAUSE = 1_000
TOLL = 8
#: Seconds for which a waiter is fresh.
FRESH = 1.0


class Switch:
    """What the waiters of one loop share: the loop, and whether a task runs inside another.

    One level deep and no deeper: a chain of a thousand tasks is no recursion of a thousand.
    It also tells whether its loop is the one that runs here, which a thread's identity does not:
    one thread may run several loops in turn.
    """

    __slots__ = ("__weakref__", "busy", "loop")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.busy = False

    def runs(self) -> bool:
        """Return whether this loop is running in this thread."""
        return _get_running_loop() is self.loop


class Waiter:
    """Where one task at a time waits, again and again: ``await`` it, and then set ``waiting`` back.

    For a task it is a future, and need not be made anew for each wait.
    """

    __slots__ = (
        "_asyncio_future_blocking", "_cancelled", "_context", "_entered", "_message", "_wakeup",
        "switch", "touched", "waiting",
    )  # fmt: skip

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self.touched = monotonic()  # when something came for whoever waits here
        self.waiting = False
        self._asyncio_future_blocking = False  # asyncio's name for "yielded by an await"
        self._cancelled = False
        self._message: Any = None  # that of a cancellation
        self._wakeup: Callable[[Waiter], object] | None = None
        self._context: Context | None = None
        self._entered = False  # the task has run inside `hand_over`

    def __await__(self) -> Generator["Waiter", None, None]:
        """Wait for `wake` or `hand_over`; RuntimeError where another task does."""
        if self.waiting:
            raise RuntimeError("another task waits here")
        self._cancelled = False
        self._asyncio_future_blocking = True
        yield self

    def wake(self) -> None:
        """Have the loop run the task that waits, if one does, in its next turn."""
        if self.waiting:
            wakeup, context = self._leave()
            self.switch.loop.call_soon(wakeup, self, context=context)

    def touch(self) -> None:
        """Take note that something has come, be it that nobody waits."""
        self.touched = monotonic()

    def is_fresh(self) -> bool:
        """Return whether something has come within the last second, and the loop runs here."""
        return self.switch.runs() and monotonic() - self.touched < FRESH

    def hand_over(self) -> None:
        """Run the task that waits, if one does, until it waits again; then return.

        Called where others may run: from a coroutine that is awaited, or a callback of the
        loop. Inside another call of this kind it does what `wake` does. Raises SystemExit and
        KeyboardInterrupt, where the task did, and nothing else.
        """
        switch = self.switch
        self.touched = monotonic()
        # Who handles an exception would have the reader handle it, too.
        if switch.busy or not self.waiting or sys.exception() is not None:
            self.wake()
            return
        wakeup, context = self._leave()
        task = current_task(switch.loop)
        self._entered = False
        switch.busy = True
        if task is not None:
            _leave_task(switch.loop, task)
        try:
            context.run(self._enter, wakeup)
        except RuntimeError:
            if self._entered:
                raise
            # the context is entered already: the two tasks share it
            switch.loop.call_soon(wakeup, self, context=context)
        finally:
            if task is not None:
                _enter_task(switch.loop, task)
            switch.busy = False

    def _leave(self) -> tuple[Any, Any]:
        """End the wait; return what goes on with the task. Nothing of the task is kept."""
        wakeup, context = self._wakeup, self._context
        self._wakeup = self._context = None
        self.waiting = False
        return wakeup, context

    def _enter(self, wakeup: Callable[["Waiter"], object]) -> None:
        self._entered = True
        wakeup(self)

    # -- what a task asks of a future --------------------------------------------------

    def get_loop(self) -> AbstractEventLoop:
        return self.switch.loop

    def add_done_callback(
        self, callback: Callable[["Waiter"], object], *, context: Context | None = None
    ) -> None:
        self._wakeup = callback
        self._context = context
        self.waiting = True  # not before: a task of another loop gets no further

    def result(self) -> None:
        if self._cancelled:
            message, self._message = self._message, None
            raise CancelledError(*(() if message is None else (message,)))

    def cancel(self, msg: Any = None) -> bool:
        if not self.waiting:
            return False
        self._cancelled = True
        self._message = msg
        self.wake()
        return True


class Mailbox(Waiter):
    """The messages of one end of two, and where its reader waits for more."""

    __slots__ = (
        "crowded", "inbox", "pause_at", "peer", "plain", "reading", "sent", "talks", "thread"
    )  # fmt: skip

    def __init__(self, switch: Switch, thread: int) -> None:
        super().__init__(switch)
        self.thread = thread
        self.peer: Mailbox | None = None
        self.inbox: deque[Any] = deque()
        self.plain = False  # both ends are of this loop, and nobody has left
        self.crowded = False  # somebody waits until more of the inbox is read
        self.reading = False  # a read is under way, and mostly waits
        self.talks = False  # an answer is waited for, or came at once: a write runs its reader
        self.sent = 0  # messages, and …
        self.pause_at = PAUSE  # … how many there will be at the next pause

    def post(self, message: Any) -> bool:
        """Hand the peer a message, and return True; False, with nothing done, if that is not plain.

        Called from a coroutine that is awaited: the reader may run, and answer, meanwhile.
        """
        peer = self.peer
        if not self.plain or self.sent >= self.pause_at or not self.switch.runs():
            return False
        assert peer is not None
        if len(peer.inbox) >= HIGH_WATER:
            return False
        peer.inbox.append(message)
        self.sent += 1
        if peer.waiting:
            if self.talks:
                self.pause_at -= TOLL
                peer.hand_over()
                self.talks = bool(self.inbox)
            else:
                peer.wake()
        return True

    def take(self) -> Any:
        """Return the next message, or NOT_PLAIN, or EMPTY.

        EMPTY: ``reading`` was set; the caller awaits the mailbox, sets it back, and looks again.
        """
        if not self.plain or self.reading or self.crowded or not self.switch.runs():
            return NOT_PLAIN
        if self.inbox:
            return self.inbox.popleft()
        self.talks = self.reading = True
        return EMPTY
