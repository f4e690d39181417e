"""One connection that a server answers: its requests one by one, in order.

Strategy: messages are pushed, so a request arrives in the callback that received its bytes,
and a handler that is a plain function is called and answered right there, without a task
switch. Whatever has to wait (a coroutine, a stream, a peer that does not read its replies)
becomes a task. While that runs the next request is held and those behind it stay in the
comm's inbox, which is bounded: who does not read replies has no requests read.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from contextlib import aclosing
from inspect import isawaitable
from time import perf_counter as clock
from typing import Any, Protocol

from .calls import Status, pack_error
from .core import Comm
from .errors import CommClosedError, RemoteError
from .operations import Operation, drive

__all__ = ["Serving"]

logger = logging.getLogger("distributed_comm")

#: Types of results that are nothing to be awaited; looking them up is all a plain one costs.
PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict, set})
#: A name of its own: before Python 3.12 looking up an enum's member takes a failed lookup.
DONT_REPLY = Status.dont_reply
#: What stands for the key ``reply`` where it is missing: true, but nobody asked.
ASSUMED = "assumed"
#: Seconds that a handler has for its end once it was cancelled.
PATIENCE = 5.0

Work = Coroutine[Any, Any, None]


class Owner(Protocol):
    """What a connection asks of its server."""

    def find(self, op: Any) -> Operation:
        """Return the operation, or raise a ValueError that says why not."""

    def forget(self, serving: "Serving") -> None:
        """Take note that the connection has ended and no call runs on it."""


class Serving:
    """One connection; `op` names the call under way, `task` answers one that has to wait."""

    __slots__ = (
        "_held", "_leaving", "_owner", "_pump", "_pushes", "_stopped", "_streaming", "_verdict",
        "comm", "op", "task",
    )  # fmt: skip

    def __init__(self, owner: Owner, comm: Comm) -> None:
        self.comm = comm
        self.op: str | None = None
        self._owner = owner
        self.task: asyncio.Task[None] | None = None  # what answers a request that has to wait
        self._streaming = False  # it is sending the items of a stream
        self._held: tuple[Any, Exception | None] | None = None  # the request behind it
        self._leaving = False  # the server closes: no more requests
        self._verdict: RemoteError | None = None  # why the server ended the call under way
        self._pushes = True
        self._stopped = False  # for the time of a call
        self._pump: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Answer requests from now on."""
        try:
            self.comm.push(self._receive)
        except NotImplementedError:
            self._pushes = False
            self._pump = asyncio.create_task(self._read())

    # -- requests ----------------------------------------------------------------------

    def _receive(self, message: Any, error: Exception | None) -> None:
        """Take what the comm pushes."""
        if self._leaving and not isinstance(error, CommClosedError):
            return
        if self.task is not None:
            if isinstance(error, CommClosedError):
                self._end()
            else:
                self._held = message, error
                self._stop_pushing()
            return
        work = self._take(message, error)
        if work is not None:
            self.task = asyncio.create_task(self._work(work))

    def _stop_pushing(self) -> None:
        """Leave what comes next in the inbox, until the task is done."""
        if self._pushes:
            self._stopped = True
            self.comm.push(None)

    async def _read(self) -> None:
        """Push what can only be read."""
        error: Exception | None = None
        while not isinstance(error, OSError) and not self._leaving:
            message = error = None
            try:
                message = await self.comm.read()
            except (OSError, TypeError, ValueError) as exc:
                error = exc
            if isinstance(message, dict):
                message = dict(message)  # it may be the caller's own, by reference
            self._receive(message, error)
            if self.task is not None:
                await asyncio.wait({self.task})

    async def _work(self, work: Work | None) -> None:
        """Answer this request, and those that were held meanwhile."""
        try:
            while work is not None:
                await work
                held, self._held = self._held, None
                work = None if held is None or self._leaving else self._take(*held)
            if self._leaving:
                await self.comm.close()
        except OSError:  # the connection has ended
            self.comm.abort()
        except BaseException:  # the loop ends
            self.comm.abort()
            raise
        finally:
            self.task = self.op = None
            self._go_on()

    def _go_on(self) -> None:
        """Have requests pushed again, or end where none can come."""
        if self._stopped and not self._leaving:
            self._stopped = False
            self.comm.push(self._receive)
        if self.task is None and self.comm.closed():
            self._end()

    def _take(self, message: Any, error: Exception | None) -> Work | None:
        """Answer a request; return what of that has to be awaited."""
        if error is not None or type(message) is not dict:
            return self._reject(message, error)
        op = message.pop("op", None)
        reply = message.pop("reply", ASSUMED)
        close = message.pop("close", op == "close")
        serializers = message.pop("serializers", None)
        try:
            operation = self._owner.find(op)
        except ValueError as exc:
            return self._refuse(exc, reply, close)
        if serializers is not None and operation.takes_serializers:
            message["serializers"] = serializers
        self.op = op
        started = clock()
        try:
            if operation.takes_comm:
                result = operation.function(self.comm, **message)
            else:
                result = operation.function(**message)
        except Exception as exc:
            return self._failed(operation, exc, message, reply, close)
        if type(result) not in PLAIN and _has_to_wait(result):
            return self._begin(operation, result, reply, close, serializers)
        self.op = None
        operation.count(clock() - started)
        if close or not reply or result is DONT_REPLY:
            return self._close(result if reply else DONT_REPLY, serializers) if close else None
        return self._reply(result, serializers)

    def _reject(self, message: Any, error: Exception | None) -> Work | None:
        """Deal with what is no request."""
        if isinstance(error, OSError):
            self._end()
            return None
        if error is None:
            kind = type(message).__name__
            error = TypeError(f"a request is a dict with the key 'op', not a {kind}")
        elif not isinstance(message, dict):
            # Nobody knows whether it wanted a reply: the next one must not be taken for it.
            return self._refuse(error, close=True)
        else:
            return self._refuse(error, message.get("reply", True), message.get("close", False))
        return self._refuse(error)

    def _refuse(self, error: Exception, reply: Any = True, close: Any = False) -> Work | None:
        """Answer a request that cannot be met."""
        logger.warning("refused a request from %s: %s", self.comm.peer_address, error)
        error.__traceback__ = None  # where this library noticed is of no interest
        return self._answer(pack_error(error, self.comm.trusted), reply, close)

    def _failed(
        self,
        operation: Operation,
        exc: Exception,
        arguments: dict[str, Any],
        reply: Any,
        close: Any,
    ) -> Work | None:
        """Answer a request whose handler could not be called, or raised at once."""
        self.op = None
        misfit = operation.misfit(self.comm, arguments) if isinstance(exc, TypeError) else None
        if misfit is not None:
            return self._refuse(misfit, reply, close)
        operation.count(0.0)
        return self._answer(self._failure(operation, exc), reply, close)

    def _failure(self, operation: Operation, exc: Exception) -> dict[str, Any]:
        """Take note that a handler raised; return the reply."""
        operation.errors += 1
        if exc.__traceback__ is not None:
            exc.__traceback__ = exc.__traceback__.tb_next  # without the line that called it
        logger.error("the handler of %r failed", operation.op, exc_info=exc)
        return pack_error(exc, self.comm.trusted)

    def _answer(self, result: Any, reply: Any, close: Any) -> Work | None:
        if close:
            return self._close(result if reply else DONT_REPLY, None)
        return self._reply(result, None) if reply else None

    # -- replies -----------------------------------------------------------------------

    def _reply(self, result: Any, serializers: Any) -> Work | None:
        """Send a reply; return what has to be awaited before the next request."""
        try:
            rest = self.comm.send(result, serializers)
        except OSError:  # the connection has ended, as its receiver will hear
            return None
        except Exception as exc:
            return self._reply(self._unsendable(exc), None)
        return None if rest is None else self._write(rest)

    async def _write(self, writing: Awaitable[Any]) -> None:
        """Wait for a reply to be written; one that cannot be is an error at the caller."""
        try:
            await writing
        except OSError:
            raise
        except Exception as exc:
            await self.comm.write(self._unsendable(exc))

    def _unsendable(self, exc: Exception) -> dict[str, Any]:
        logger.warning("a reply to %s cannot be sent: %s", self.comm.peer_address, exc)
        return pack_error(exc, self.comm.trusted)

    async def _close(self, result: Any, serializers: Any) -> None:
        """Send a last reply; the task that awaits this closes the comm."""
        self._leaving = True
        if result is not DONT_REPLY:
            await self._write(self.comm.write(result, serializers))

    # -- calls that wait ---------------------------------------------------------------

    def _begin(
        self, operation: Operation, result: Any, reply: Any, close: Any, serializers: Any
    ) -> Work | None:
        """Go on with a call that did not return at once."""
        if isinstance(result, AsyncGenerator):
            if reply is not ASSUMED:  # whoever asks for one reply would take the next items
                self.op = None  # for the replies of its next calls
                return self._refuse(_is_a_stream(operation.op), reply, close)
            result = self._stream(result, serializers)
            reply, close = False, True
        elif operation.takes_comm:
            self._stop_pushing()  # the handler may read
        if isinstance(result, Generator):
            result = drive(result)
        return self._finish(operation, result, reply, close, serializers)

    async def _finish(
        self, operation: Operation, work: Awaitable[Any], reply: Any, close: Any, serializers: Any
    ) -> None:
        started = clock()
        try:
            result = await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._verdict is None and task is not None and task.cancelling():
                raise  # the loop ends, or nobody reads the stream any more
            error = self._verdict or RemoteError(f"{operation.op}: cancelled at the server")
            result, serializers = pack_error(error, False), None
            reply = reply or self._streaming
            operation.errors += 1
        except Exception as exc:
            if isinstance(exc, CommClosedError) and self.comm.closed():
                return
            result, serializers = self._failure(operation, exc), None
            reply = reply or self._streaming
        finally:
            operation.count(clock() - started)
            self._streaming = False
            self.op = None
        if reply and result is not DONT_REPLY:
            await self._write(self.comm.write(result, serializers))
        if close:
            self._leaving = True

    async def _stream(self, items: AsyncGenerator[Any, None], serializers: Any) -> None:
        """Send each item; the connection is then closed, which is how a stream ends."""
        self._streaming = True
        async with aclosing(items):
            async for item in items:
                await self.comm.write(item, serializers)

    # -- the end -----------------------------------------------------------------------

    def _end(self) -> None:
        """Take note that the connection has ended."""
        if self.task is None:
            self.comm.abort()
            self._owner.forget(self)
        elif self._streaming:  # anything else may finish what it does
            self.task.cancel()

    def leave_after_this(self) -> None:
        """Answer no request after the one under way, and close then."""
        self._leaving = True

    async def leave(self, deadline: float, why: str) -> None:
        """Answer no more requests, wait for the one under way until the deadline, and close."""
        self._leaving = True
        task = self.task
        if task is not None:
            await asyncio.wait({task}, timeout=max(0.0, deadline - clock()))
            if not task.done():
                self._verdict = RemoteError(why)
                task.cancel()
                await asyncio.wait({task}, timeout=PATIENCE)
        if self._pump is not None:
            self._pump.cancel()
        await self.comm.close()
        self._end()


def _has_to_wait(result: Any) -> bool:
    return isawaitable(result) or isinstance(result, AsyncGenerator | Generator)


def _is_a_stream(op: str) -> TypeError:
    return TypeError(
        f"{op} answers with a stream: iterate over `rpc.{op}.stream(...)`, or write the request "
        f"without the key 'reply' on a comm of its own"
    )
