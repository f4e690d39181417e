"""The answer to one request: the function that it names is called, and the reply sent.

Strategy: a handler that is a plain function is called and answered right where its request
arrived. Whatever has to wait (a coroutine, a stream, a peer that does not read its replies)
is returned, as something to be awaited.
"""

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import aclosing
from inspect import isawaitable
from time import perf_counter as clock
from typing import Any

from .calls import Status, pack_error
from .core import Comm
from .errors import CommClosedError, RemoteError
from .operations import Operation, drive

__all__ = ["Answering", "Work"]

logger = logging.getLogger("distributed_comm")

#: Types of results that are nothing to be awaited; looking them up is all a plain one costs.
PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict, set})
#: A name of its own: before Python 3.12 looking up an enum's member takes a failed lookup.
DONT_REPLY = Status.dont_reply
#: What stands for the key ``reply`` where it is missing: true, but nobody asked.
ASSUMED = "assumed"
#: What ends the loop wherever it is raised; its caller is told first.
FATAL = (KeyboardInterrupt, SystemExit)

Work = Coroutine[Any, Any, None]


class Answering:
    """The half of a `Serving` that answers; `op` names the call under way."""

    __slots__ = ("_deaf", "_find", "_streaming", "_verdict", "_wanted", "comm", "op", "task")

    def __init__(self, comm: Comm, find: Callable[[Any], Operation]) -> None:
        self.comm = comm
        self.op: str | None = None
        self.task: asyncio.Task[None] | None = None  # what answers a request that has to wait
        self._find = find
        self._streaming = False  # it is sending the items of a stream …
        self._wanted = False  # … or something that waits for the reply of its call
        self._deaf = False  # the last request has come: what follows is dropped
        self._verdict: RemoteError | None = None  # why the server ended the call under way

    @abstractmethod
    def _stop_pushing(self) -> None:
        """Leave what comes next in the inbox, until the task is done."""

    @abstractmethod
    def _push_again(self) -> None:
        """Have what comes pushed again."""

    @abstractmethod
    def _end(self) -> None:
        """Take note that the connection has ended."""

    # -- requests ----------------------------------------------------------------------

    def _take(self, message: Any, error: Exception | None) -> Work | None:
        """Answer a request; return what of that has to be awaited."""
        if error is not None or type(message) is not dict:
            if error is not None or not isinstance(message, dict):
                return self._reject(message, error)
            message = dict(message)
        op = message.pop("op", None)
        reply = message.pop("reply", ASSUMED)
        close = message.pop("close", None)
        serializers = message.pop("serializers", None)
        try:
            operation = self._find(op)
            if reply is not True and reply is not ASSUMED:
                reply = bool(reply)
            close = op == "close" if close is None else bool(close)
        except Exception as exc:  # what came has a truth, or an equality, that fails
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
        except BaseException as exc:
            return self._failed(operation, exc, message, reply, close)
        if type(result) not in PLAIN and _has_to_wait(result):
            return self._begin(operation, result, reply, close, serializers)
        self.op = None
        operation.count(clock() - started)
        if close or not reply or result is DONT_REPLY:
            return self._close(result if reply else DONT_REPLY, serializers) if close else None
        return self._reply(result, serializers)

    def _reject(self, message: Any, error: Exception | None) -> Work | None:
        """Deal with what is no request, or comes too late for one."""
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
        logger.warning("refused a request from %s: %.500s", self.comm.peer_address, error)
        BaseException.with_traceback(error, None)  # where it was noticed is of no interest
        packed = pack_error(error, self.comm.trusted)
        return self._answer(packed, _is_true(reply, True), _is_true(close, False))

    def _failed(
        self,
        operation: Operation,
        exc: BaseException,
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
        work = self._answer(self._failure(operation, exc), reply, close)
        _raise_if_fatal(exc)
        return work

    def _failure(self, operation: Operation, exc: BaseException) -> dict[str, Any]:
        """Take note that a handler raised; return the reply."""
        operation.errors += 1
        if isinstance(exc, asyncio.CancelledError):
            return pack_error(RemoteError(f"{operation.op}: cancelled at the server"), False)
        try:
            if exc.__traceback__ is not None:  # without the line that called it
                BaseException.with_traceback(exc, exc.__traceback__.tb_next)
            logger.error("the handler of %r failed", operation.op, exc_info=exc)
            return pack_error(exc, self.comm.trusted)
        except BaseException:  # its own methods fail, too
            error = RemoteError(f"{operation.op}: {type(exc).__name__}, which cannot be shown")
            logger.error("the handler of %r failed: %s", operation.op, error)
            return pack_error(error, False)

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
        except BaseException as exc:
            work = self._reply(self._unsendable(exc), None)
            _raise_if_fatal(exc)
            return work
        return None if rest is None else self._write(rest)

    async def _write(self, writing: Awaitable[Any]) -> None:
        """Wait for a reply to be written; one that cannot be is an error at the caller."""
        try:
            await writing
        except OSError:
            raise
        except BaseException as exc:
            if self._is_for_us(exc):
                raise
            await self.comm.write(self._unsendable(exc))
            _raise_if_fatal(exc)

    def _unsendable(self, exc: BaseException) -> dict[str, Any]:
        """Take note that a reply cannot be serialized; return the one that says so."""
        try:
            logger.warning("a reply to %s cannot be sent: %.500s", self.comm.peer_address, exc)
            if isinstance(exc, Exception):
                return pack_error(exc, self.comm.trusted)
            error = RemoteError(f"the reply cannot be sent: {exc!r}")
        except BaseException:  # its own methods fail, too
            error = RemoteError(f"the reply cannot be sent: {type(exc).__name__}")
        return pack_error(error, False)

    async def _close(self, result: Any, serializers: Any) -> None:
        """Send a last reply; the task that awaits this closes the comm."""
        self._deaf = True
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
            self._streaming = True
            self._push_again()  # what comes is dropped, but for the end
        elif operation.takes_comm:
            self._stop_pushing()  # the handler may read
        if isinstance(result, Generator):
            result = drive(result)
        return self._finish(operation, result, reply, close, serializers)

    async def _finish(
        self, operation: Operation, work: Awaitable[Any], reply: Any, close: Any, serializers: Any
    ) -> None:
        started = clock()
        self._wanted = bool(reply) or self._streaming
        fatal: BaseException | None = None
        try:
            result = await work
        except BaseException as exc:
            if self._is_for_us(exc):
                raise
            if isinstance(exc, CommClosedError) and self.comm.closed():
                return
            if isinstance(exc, asyncio.CancelledError) and self._verdict is not None:
                operation.errors += 1
                result = pack_error(self._verdict, False)
            else:
                result = self._failure(operation, exc)
            serializers, reply = None, self._wanted
            fatal = exc if isinstance(exc, FATAL) else None
        finally:
            operation.count(clock() - started)
            self._streaming = False
            self.op = None
        if reply and result is not DONT_REPLY:
            await self._write(self.comm.write(result, serializers))
        self._wanted = False
        if fatal is not None:
            await asyncio.sleep(0)  # what was written leaves at the latest with this turn's end
            raise fatal
        if close:
            self._deaf = True

    def _is_for_us(self, exc: BaseException) -> bool:
        """Whether this task was ended, and not just what it called."""
        if isinstance(exc, GeneratorExit):  # closed with its loop, when it can await no more
            return asyncio._get_running_loop() is None or asyncio.current_task() is not self.task
        if not isinstance(exc, asyncio.CancelledError) or self._verdict is not None:
            return False
        return self.task is not None and self.task.cancelling() > 0

    async def _stream(self, items: AsyncGenerator[Any, None], serializers: Any) -> None:
        """Send each item; the connection is then closed, which is how a stream ends."""
        async with aclosing(items):
            try:
                async for item in items:
                    await self.comm.write(item, serializers)
            finally:
                self._streaming = False  # what the generator does at its end is not cut


def _has_to_wait(result: Any) -> bool:
    return isawaitable(result) or isinstance(result, AsyncGenerator | Generator)


def _is_a_stream(op: str) -> TypeError:
    return TypeError(
        f"{op} answers with a stream: iterate over `rpc.{op}.stream(...)`, or write the request "
        f"without the key 'reply' on a comm of its own"
    )


def _is_true(value: Any, otherwise: bool) -> bool:
    """Return the truth of a value that may have none, such as an array."""
    try:
        return bool(value)
    except Exception:
        return otherwise


def _raise_if_fatal(exc: BaseException) -> None:
    """End the loop, from a callback of its own: uvloop would only log it in one of its own."""
    if isinstance(exc, FATAL):
        asyncio.get_running_loop().call_soon(_raise, exc)


def _raise(exc: BaseException) -> None:
    raise exc
