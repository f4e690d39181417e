"""One connection that a server answers: its requests one by one, in order.

Strategy: messages are pushed, so a request arrives in the callback that received its bytes,
and is mostly answered there (see `dispatch`), without a task switch. A request that has to wait
becomes a task. While that runs the next request is held and those behind it stay in the comm's
inbox, which is bounded: a peer that does not read replies has no requests read. Behind the
request for a stream none will be answered: messages are dropped, so that its reader's end is
heard.

When the server closes, what has been received is answered, and what comes later is refused.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .._envelope import ERROR
from .._loops.loop_state import state_of
from .._loops.tasks import start
from ..core import Comm
from ..errors import CommClosedError, RemoteError
from .dispatch import Answering, Work
from .operations import Call, Operations
from .remote_errors import pack_error

__all__ = ["LAST_WORDS", "Serving"]

#: As a comm pushes it: a message, why it could not be decoded, and the Call of its head.
Message = tuple[Any, Exception | None, Call | None]

#: Seconds at least for the answer of a handler that ended the server, or that does not end itself.
LAST_WORDS = 0.1
#: Seconds for which the requests that are on their way to a closing server are refused.
LINGER = 0.02


class Serving(Answering):
    """One connection; `call` is the one under way, `task` answers one that has to wait.

    ``forget(self)`` is called once the connection has ended and no call runs on it.
    """

    __slots__ = (
        "_admit", "_due", "_ends_at", "_expired", "_forget", "_held", "_limit", "_pump",
        "_stopped", "_why",
    )  # fmt: skip

    def __init__(
        self, comm: Comm, operations: Operations, forget: Callable[["Serving"], None]
    ) -> None:
        super().__init__(comm, operations)
        self._forget = forget
        if not self._trusted:
            comm.ask_before_evicting(self._is_in_use)
        self._admit = operations.admit[self._trusted]
        self._held: Message | None = None  # the request behind the task's
        self._stopped = False  # nothing is pushed for the time of a call
        self._pump: asyncio.Task[None] | None = None  # what reads a comm that pushes nothing
        self._due = 0  # requests that had come when the server closed
        self._why = ""
        self._expired: asyncio.Future[None] | None = None  # done when calls have to end
        self._ends_at: float | None = None  # when everything has to, by the loop's clock
        self._limit: asyncio.Timeout | None = None  # which sees to that

    def start(self) -> None:
        """Answer requests from now on."""
        try:
            self._push()
        except NotImplementedError:
            self._pump = start(self._read())

    def _push(self) -> None:
        """Have requests pushed."""
        if not self._trusted:
            self.comm.ready = self._is_ready
        if self.comm.enveloped:
            self.comm.push(self._receive, self._admit)
        else:
            self.comm.push(self._receive)

    def _is_in_use(self) -> bool:
        """Whether a call or a stream is open, be it one whose handler has returned NO_REPLY."""
        return self.task is not None or self.call is not None or self._own.awaited

    # -- requests ----------------------------------------------------------------------

    def _receive(self, message: Any, error: Exception | None, call: Call | None = None) -> None:
        """Take what the comm pushes."""
        if self.task is not None:
            self._receive_meanwhile(message, error, call)
            return
        if self._leaving:
            work = self._take_last(message, error, call)
        else:
            work = self._take(message, error, call)
        if work is not None:
            answering = self._work(work)
            if not self._trusted:
                answering = state_of(asyncio.get_running_loop()).turns.metered(answering)
            self.task = start(answering)

    def _is_ready(self) -> bool:
        """Whether a request of a stranger need not wait; if not, it waits undecoded."""
        if self.task is None or self._streaming or self._deaf:
            return True
        self._stopped = True
        return False

    def _receive_meanwhile(self, message: Any, error: Exception | None, call: Call | None) -> None:
        """Keep the request that came while a task runs, unless it will not be answered."""
        if isinstance(error, CommClosedError):
            self._end()
        elif not self._streaming and not self._deaf:
            self._held = message, error, call
            self._stop_pushing()

    def _stop_pushing(self) -> None:
        if self._pump is None and not self._stopped:
            self._stopped = True
            self.comm.push(None)

    def _push_again(self) -> None:
        if self._stopped:
            self._stopped = False
            self._push()

    async def _read(self) -> None:
        """Push what can only be read; in a stream, too, for the end."""
        error: Exception | None = None
        try:
            while not isinstance(error, OSError):
                head = message = error = None
                try:
                    head, message, error = await self.comm.read_enveloped(None, self._admit)
                except (OSError, TypeError, ValueError) as exc:
                    error = exc
                self._receive(message, error, None if head is None else self._admit(head))
                if self.task is not None and not self._streaming:
                    await asyncio.wait({self.task})
        except Exception as exc:
            comm = self.comm
            comm.log.failure("nothing more can be read from %s", comm.peer_address, exc=exc)
            self.comm.abort()
            self._end()

    async def _work(self, work: Work | None) -> None:
        """Answer this request, and those that were held meanwhile."""
        try:
            while work is not None:
                await work
                held, self._held = self._held, None
                if held is None or self._deaf:
                    break
                work = self._take_held(*held)
            if self._deaf:
                await self.comm.close()
        except OSError:  # the connection has ended
            self.comm.abort()
        except BaseException:  # the loop ends
            self.comm.abort()
            raise
        finally:
            self.task = self.call = None
            self._go_on()

    def _take_held(self, message: Any, error: Exception | None, call: Call | None) -> Work | None:
        """Answer a request that had to wait; whether it is allowed is decided now."""
        if call is not None and call.head is not None and call.refusal is None:
            call = self._admit(call.head)
        if self._leaving:
            return self._take_last(message, error, call)
        return self._take(message, error, call)

    def _go_on(self) -> None:
        """Have requests pushed again, or end where none can come."""
        if not self._deaf:
            self._push_again()
        if self.task is None and self.comm.closed():
            self._end()

    def _end(self) -> None:
        """Take note that the connection has ended."""
        if not self._trusted:
            self.comm.ready = None
        if self.task is None:
            self.comm.abort()
            self.expire()
            self._forget(self)
        elif self._streaming:  # anything else may finish what it does
            # Not at once: a task that has not begun would not even clean up.
            asyncio.get_running_loop().call_soon(self._cut_stream)

    def _cut_stream(self) -> None:
        """End a stream, unless it ends already, and cleans up."""
        if self._streaming and self.task is not None:
            self._streaming = False
            self.task.cancel()

    # -- the server closes ---------------------------------------------------------------

    def stop(self, why: str, *, answering: bool = True) -> None:
        """Answer what has been received, or not even that, and refuse what comes now."""
        self._why = why
        self._leaving = True
        self._expired = asyncio.get_running_loop().create_future()
        if answering:
            self._due = self.comm.unread() + (self._held is not None)

    def expire(self, why: str = "") -> None:
        """End the call under way, and refuse whatever has not begun."""
        if self._expired is not None and not self._expired.done():
            self._verdict = RemoteError(self._why + why)
            self._expired.set_result(None)

    def _take_last(self, message: Any, error: Exception | None, call: Call | None) -> Work | None:
        """Answer a request that had been received; refuse one that came later."""
        if call is None and (isinstance(error, OSError) or not isinstance(message, dict)):
            return self._take(message, error, None)
        if self._due and self._expired is not None and not self._expired.done():
            self._due -= 1
            return self._take(message, error, call)
        late = RemoteError(f"{self._why} before this call began")
        if call is None:
            call, _ = self._operations.read(message, late, self._trusted)
        return self._refuse(call, late)

    def end_by(self, when: float) -> None:
        """Have `leave` return at this time of the loop's clock."""
        self._ends_at = when
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(when)

    async def leave(self) -> None:
        """Wait, once stopped, until all is answered, and a little for what comes; then close."""
        try:
            async with asyncio.timeout_at(self._ends_at) as self._limit:
                await self._answer_rest()
                await self.comm.close()
        except TimeoutError:
            await self._give_up()
        finally:
            self._limit = None
            if self._pump is not None:
                self._pump.cancel()
            self.comm.abort()
            self._end()

    async def _answer_rest(self) -> None:
        assert self._expired is not None
        before = None
        while self.task is not None or before != self._due or self._has_to_wait():
            if self.task is None:
                before = self._due
                await self._linger(self._expired)
                continue
            await asyncio.wait({self.task, self._expired}, return_when=asyncio.FIRST_COMPLETED)
            if self._expired.done():
                await self._cut_short()
        if self._pump is not None:
            self._pump.cancel()

    def _has_to_wait(self) -> bool:
        """Whether a request that has come is not answered yet because it is the turn of others."""
        assert self._expired is not None
        return bool(self._due and self.comm.unread()) and not self._expired.done()

    async def _linger(self, expired: "asyncio.Future[None]") -> None:
        """Give what is on its way the time to come: it is refused, with an error that says why."""
        for _ in range(2):  # what this machine has already
            await asyncio.sleep(0)
        await asyncio.wait({expired}, timeout=LINGER)

    async def _cut_short(self) -> None:
        """Cancel the handler that runs, and wait for what is under way."""
        await asyncio.sleep(0)  # cancelled before its first step, a task would not even clean up
        if self.task is not None:
            if self.call is not None:  # else it is just writing
                self._own.cut()
                self.task.cancel()
            await asyncio.wait({self.task})

    async def _give_up(self) -> None:
        """Wait for nothing any more; but tell the caller of a handler that does not end."""
        if self.task is not None and self.call is None:
            self.task.cancel()  # it is just writing, to somebody who does not read
        elif self.call is not None and self._wanted and self._verdict is not None:
            self._own.give_up()
            error = pack_error(self._verdict, False, ends=True)
            rest = self._post(self.call, self._own.head_for(self.call, ERROR), error)
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    if rest is not None:
                        await rest
                    await self.comm.close()
