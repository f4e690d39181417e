"""The answer to one request: the function that it names is called, and the reply sent.

Strategy: a handler that is a plain function is called and answered right where its request
arrived. Whatever has to wait (a coroutine, a stream, a peer that does not read its replies)
is returned, as something to be awaited.

Results and exceptions of a handler are data, whatever their type: the head of the envelope says
whether a message is a reply, an error, an item or the end of a stream. A request that came
without an envelope is answered without one, as Dask would. Exceptions are checked by their type
and not by isinstance(), which they can override.
"""

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from contextlib import aclosing
from inspect import isawaitable
from time import perf_counter as clock
from typing import Any

from .._envelope import END, ERROR, EXTRA, ITEM, ITEMS, NO_REPLY, NOTHING, REPLY
from ..core import Comm
from ..errors import LocalProtocolError, RemoteError
from .handler_errors import failed, unsendable
from .handler_messages import OwnMessages
from .operations import EITHER, Call, Operation, Operations, drive
from .remote_errors import Status, pack_error, seems_error, told_briefly

__all__ = ["Answering", "Work"]

#: Types of results that are nothing to be awaited; looking them up is all a plain one costs.
PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict, set})
#: A name of its own: before Python 3.12 looking up an enum's member takes a failed lookup.
DONT_REPLY = Status.dont_reply
#: What ends the loop wherever it is raised; its caller is told first.
FATAL = (KeyboardInterrupt, SystemExit)

Work = Coroutine[Any, Any, None]


class Answering:
    """The half of a `Serving` that answers; `call` is the one under way."""

    __slots__ = (
        "_deaf", "_leaving", "_loop", "_operations", "_own", "_streaming", "_trusted", "_verdict",
        "_wanted", "call", "comm", "task",
    )  # fmt: skip

    def __init__(self, comm: Comm, operations: Operations) -> None:
        self.comm = comm
        self.call: Call | None = None
        self.task: asyncio.Task[None] | None = None  # what answers a request that has to wait
        self._loop = asyncio.get_running_loop()  # which a forked child cannot ask for
        self._operations = operations
        self._trusted = bool(comm.trusted)
        self._own = OwnMessages(comm)
        self._streaming = False  # it is sending the items of a stream …
        self._wanted = False  # … or something that waits for the reply of its call
        self._deaf = False  # the last request has come: what follows is dropped
        self._leaving = False  # the server closes: what comes is refused
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

    def _take(self, message: Any, error: Exception | None, call: Call | None) -> Work | None:
        """Answer a request; return what of that has to be awaited."""
        if call is None:
            if isinstance(error, OSError):
                self._end()
                return None
            call, message = self._operations.read(message, error, self._trusted)
        refusal = error if call.refusal is None else call.refusal
        if refusal is not None:
            return self._refuse(call, refusal)
        if type(message) is not dict and not isinstance(message, dict):
            kind = type(message).__name__
            return self._refuse(call, TypeError(f"the arguments are a {kind}, expected a dict"))
        operation = call.operation
        if call.families is not None and operation.takes_serializers:
            message = {"serializers": call.families, **message}
        if operation.takes_comm or self._own.marked:
            self._own.begin(call)
        self.call = call
        raised = None
        started = clock()
        try:
            if operation.takes_comm:
                result = operation.function(self.comm, **message)
            else:
                result = operation.function(**message)
        except BaseException as exc:
            raised = exc
        if raised is not None:  # not above: whatever was raised there would search its contexts
            try:
                return self._failed(call, raised, message)
            finally:
                raised = None  # its traceback has this frame
        if type(result) not in PLAIN and _has_to_wait(result):
            return self._begin(call, result)
        self.call = None
        operation.count(clock() - started)
        return self._reply(call, result) if call.direct else self._conclude(call, result)

    def _conclude(self, call: Call, result: Any) -> Work | None:
        """Send a reply if one is wanted, and then close the connection if that was asked for."""
        if call.wants == NOTHING or _is_no_reply(call.operation, result):
            ends = call.wants == ITEMS and call.head is not None
            self._own.left_open = not ends and call.wants != NOTHING
            work = self._post(call, END, None) if ends else None
        else:
            work = self._reply(call, result, self._own.head_for(call, REPLY))
        return self._close(work) if call.close else work

    def _refuse(self, call: Call, error: Exception) -> Work | None:
        """Answer a request that cannot be met."""
        comm = self.comm
        comm.log.line(logging.WARNING, "refused a request from %s: %s", comm.peer_address, error)
        BaseException.with_traceback(error, None)  # where it was noticed is of no interest
        return self._fail(call, pack_error(error, self._trusted))

    def _failed(self, call: Call, exc: BaseException, arguments: dict[str, Any]) -> Work | None:
        """Answer a request whose handler could not be called, or raised at once."""
        self.call = None
        if _ends_child(exc):
            self._loop.set_exception_handler(_ignore)
            self._loop.call_soon(_raise, exc)
            return None
        operation = call.operation
        misfit = None
        if issubclass(type(exc), TypeError):
            misfit = operation.misfit(self.comm, arguments)
        if misfit is not None:
            return self._refuse(call, misfit)
        operation.count(0.0)
        error = failed(operation, exc, self.comm, self._trusted)
        if issubclass(type(exc), FATAL):
            error["ends"] = True
        work = self._fail(call, error, self._own.head_for(call, ERROR))
        _raise_if_fatal(exc)
        return work

    # -- replies -----------------------------------------------------------------------

    def _reply(self, call: Call, result: Any, head: bytes = REPLY) -> Work | None:
        """Send a reply; return what has to be awaited before the next request."""
        try:
            if call.head is not None:
                rest = self.comm.send(result, call.families, head)
            else:
                rest = self._send_plain(call, result)
        except BaseException as exc:
            if self._is_lost(exc):
                return None
            raised = exc
        else:
            return None if rest is None else self._write(call, rest, head)
        try:
            return self._instead(call, raised, head)
        finally:
            del raised  # its traceback has this frame

    def _instead(self, call: Call, exc: BaseException, head: bytes) -> Work | None:
        """Send the error that a reply could not be sent."""
        work = self._post(call, _error_for(head), unsendable(exc, self.comm, self._trusted))
        _raise_if_fatal(exc)
        return work

    def _send_plain(self, call: Call, result: Any) -> Awaitable[Any] | None:
        """Send a reply or an item without a head; replace one that Dask would take for an error."""
        if not self.comm.enveloped and seems_error(result):
            op = call.operation.op
            error = RemoteError(f"{op}: its result looks like an error, but is not one")
            comm = self.comm
            text = "%s; %s was sent this text instead"
            comm.log.line(logging.WARNING, text, error, comm.peer_address)
            result = pack_error(error, False)
        return self._send_bare(result, call.families)

    def _send_bare(self, message: Any, families: Any = None) -> Awaitable[Any] | None:
        """Send a message without a head: not even with that of a handler's own."""
        if self.comm.enveloped:
            return self.comm.send(message, families, b"")
        return self.comm.send(message, families)

    def _fail(self, call: Call, error: dict[str, Any], head: bytes = ERROR) -> Work | None:
        """Send an error if the caller waits for one, and then close if that was asked for."""
        if call.close or self._leaving:
            error["ends"] = True
        work = None if call.wants == NOTHING else self._post(call, head, error)
        return self._close(work) if call.close else work

    def _post(self, call: Call, head: bytes, message: Any, *, last: bool = False) -> Work | None:
        """Send a message of our own; no head if the call has none.

        If it cannot be sent (it may be too long for the peer, or for what waits unsent), a short
        text is sent instead; if even that cannot, with ``last``, the connection ends. So no error
        is answered by another without end.
        """
        try:
            if call.head is not None:
                rest = self.comm.send(message, None, head)
            else:
                rest = self._send_bare(message)
        except OSError:  # the connection has ended, as its receiver will hear
            return None
        except Exception as exc:
            if self.comm.closed():  # as is, in a child, the connection of its parent
                return None
            return self._post_instead(call, head, message, last, exc)
        return None if rest is None else self._write_own(call, rest, head, message, last)

    def _post_instead(
        self, call: Call, head: bytes, message: Any, last: bool, exc: Exception
    ) -> Work | None:
        log, peer = self.comm.log, self.comm.peer_address
        if not last:
            log.line(logging.WARNING, "an error cannot be told to %s as it is: %s", peer, exc)
            return self._post(call, _error_for(head), told_briefly(message), last=True)
        log.line(logging.ERROR, "gave up %s, which cannot even be told of an error: %s", peer, exc)
        self.comm.abort()
        return None

    async def _write_own(
        self, call: Call, writing: Awaitable[Any], head: bytes, message: Any, last: bool
    ) -> None:
        """Wait for a message of our own to be written."""
        try:
            await writing
        except OSError:
            raise
        except Exception as exc:
            work = self._post_instead(call, head, message, last, exc)
            if work is not None:
                await work

    async def _write(self, call: Call, writing: Awaitable[Any], head: bytes) -> None:
        """Wait for a reply to be written; one that cannot be is an error at the caller."""
        try:
            await writing
        except BaseException as exc:
            if self._is_lost(exc) or self._is_for_us(exc):
                raise
            raised = exc
        else:
            return
        try:
            work = self._instead(call, raised, head)
        finally:
            del raised  # its traceback has this frame
        if work is not None:
            await work

    def _is_lost(self, exc: BaseException) -> bool:
        """Whether a message could not be sent because the connection has ended."""
        lost = issubclass(type(exc), OSError | LocalProtocolError)
        return lost and self.comm.closed()

    def _close(self, work: Work | None) -> Work:
        """Drop further requests; the task that awaits the returned work closes the comm."""
        self._deaf = True
        return _nothing() if work is None else work

    # -- calls that wait ---------------------------------------------------------------

    def _begin(self, call: Call, result: Any) -> Work | None:
        """Go on with a call that did not return at once."""
        operation, streams = call.operation, isinstance(result, AsyncGenerator)
        if streams:
            if call.wants not in (ITEMS, EITHER):  # further items would pass for later replies
                self.call = None
                return self._refuse(call, _is_a_stream(operation.op))
            self._streaming = True
            self._push_again()  # what comes is dropped, but for the end
            result = self._stream(call, result)
        elif operation.takes_comm:
            self._stop_pushing()  # the handler may read
        if isinstance(result, Generator):
            result = drive(result)
        return self._finish(call, result, streams)

    async def _finish(self, call: Call, work: Awaitable[Any], streams: bool) -> None:
        """Wait for a handler, and send its result or its exception."""
        operation = call.operation
        started = clock()
        self._wanted = call.wants != NOTHING
        heads = self._own.enter(call, streams=streams)
        raised = None
        result: Any = None
        try:
            result = await work
        except BaseException as exc:
            if self._is_for_us(exc):
                raise
            if _ends_child(exc):
                # The task would be said to have failed, when the process ends.
                self._loop.set_exception_handler(_ignore)
                raise
            raised = exc
        finally:
            operation.count(clock() - started)
            heads.leave()
            self._streaming = False
            self.call = None
        if heads.closes and not streams:
            result = NO_REPLY  # it has ended its stream
        if raised is None and self._verdict is not None and self._may_be_cut(call, streams, result):
            raised = asyncio.CancelledError()  # which it has swallowed
        if raised is not None:
            rest = self._fail_late(call, raised)
        elif streams:
            rest = None if call.head is None else self._post(call, END, None)
        else:
            rest = self._conclude(call, result)
        if rest is not None:
            await rest
        self._wanted = False
        if issubclass(type(raised), FATAL):
            await asyncio.sleep(0)  # what was written leaves at the latest with this turn's end
            raise raised  # type: ignore[misc]
        if streams or heads.closes:
            self._deaf = True

    def _may_be_cut(self, call: Call, streams: bool, result: Any) -> bool:
        """Whether what has returned is a stream that the end of the server may have cut."""
        by_hand = call.head is not None and call.wants == ITEMS
        return streams or (by_hand and _is_no_reply(call.operation, result))

    def _fail_late(self, call: Call, exc: BaseException) -> Work | None:
        """Send the exception of a handler that had to wait."""
        operation = call.operation
        if issubclass(type(exc), asyncio.CancelledError) and self._verdict is not None:
            operation.errors += 1
            error = pack_error(self._verdict, False)
        else:
            error = failed(operation, exc, self.comm, self._trusted)
        return self._fail(call, error, self._own.head_for(call, ERROR))

    def _is_for_us(self, exc: BaseException) -> bool:
        """Whether this task was ended, and not just what it called."""
        if issubclass(type(exc), GeneratorExit):  # closed with its loop, when it can await no more
            return asyncio._get_running_loop() is None or asyncio.current_task() is not self.task
        if not issubclass(type(exc), asyncio.CancelledError) or self._verdict is not None:
            return False
        return self.task is not None and self.task.cancelling() > 0

    async def _stream(self, call: Call, items: AsyncGenerator[Any, None]) -> None:
        """Send each item, until there are no more or nobody is there to read them."""
        async with aclosing(items):
            try:
                async for item in items:
                    try:
                        if call.head is not None:
                            rest = self.comm.send(item, call.families, ITEM)
                        else:
                            rest = self._send_plain(call, item)
                        if rest is not None:
                            await rest
                    except OSError as exc:
                        if self._is_lost(exc):
                            break
                        raise
            finally:
                self._streaming = False  # what the generator does at its end is not cut


def _has_to_wait(result: Any) -> bool:
    try:
        return isawaitable(result) or isinstance(result, AsyncGenerator | Generator)
    except Exception:  # an object whose ``__class__`` raises, for example
        return False


def _is_no_reply(operation: Operation, result: Any) -> bool:
    """Whether a result says that the handler, which has the connection, has replied itself."""
    return operation.takes_comm and (result is NO_REPLY or result is DONT_REPLY)


def _error_for(head: bytes) -> bytes:
    """Return the head of an error that replaces a message with this head."""
    return EXTRA if head == EXTRA else ERROR


def _is_a_stream(op: str) -> TypeError:
    return TypeError(
        f"{op} answers with a stream: iterate over `rpc.{op}.stream(...)`, or write the request "
        f"without the key 'reply' on a comm of its own"
    )


async def _nothing() -> None:
    pass


def _ends_child(exc: BaseException) -> bool:
    """Whether a handler has forked, and ends the child: no loop runs there, nor has it a caller."""
    return issubclass(type(exc), FATAL) and asyncio._get_running_loop() is None


def _ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    pass


def _raise_if_fatal(exc: BaseException) -> None:
    """End the loop, from a callback of its own: uvloop would only log it in one of its own."""
    if issubclass(type(exc), FATAL):
        asyncio.get_running_loop().call_soon(_raise, exc)


def _raise(exc: BaseException) -> None:
    raise exc
