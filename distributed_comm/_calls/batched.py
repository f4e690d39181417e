"""BatchedSend: many small messages as few large ones, mostly one an interval."""

import asyncio
import logging
from collections import deque
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Any, Self

from .._loops.tasks import start
from .._serialize.size_estimate import estimate
from ..core import Comm
from ..errors import CommClosedError, LocalProtocolError

__all__ = ["BatchedSend"]

#: Seconds in the units that an interval may be given in; a number is in ms, as Dask's.
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
#: How often over a limit may be sent by who does not wait.
SLACK = 10
#: Bytes from which on a batch is sent without waiting for others.
BATCH = 1024 * 1024


class BatchedSend:
    """Sends what it is given as lists, on a comm that nobody else writes to.

    >>> async def report(comm):
    ...     async with BatchedSend("10 ms") as batched:
    ...         batched.start(comm)
    ...         for number in range(100_000):
    ...             await batched.send({"op": "report", "number": number})

    The peer reads lists: `Server.handle_stream` takes them apart. A list has about 1 MiB at most
    (64 KiB for a peer that does not trust this side), or one message that is longer. It is sent
    one interval after the last one, or as soon as there is so much. `send` returns at once; who
    awaits what it returns waits while more than ``limit`` messages, or ``limit_bytes``, are unsent.
    Bytes are estimated.

    Whatever was not delivered is an error of the next `send`, or of `close`: a connection that was
    lost, and messages that cannot be sent, which are left out alone.
    """

    def __init__(
        self,
        interval: float | str,
        loop: object = None,  # noqa: ARG002 - Dask's signature
        serializers: Iterable[str] | None = None,
        *,
        limit: int = 10_000,
        limit_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self.interval: float = parse_interval(interval)
        self.serializers = serializers
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.comm: Comm | None = None
        self.message_count: int = 0
        self.batch_count: int = 0
        self.byte_count: int = 0
        self._buffer: deque[Any] = deque()
        self._sizes: deque[int] = deque()  # about how many bytes each of them has
        self._batch = BATCH  # bytes of a list; less, if the receiver takes less
        self._unsent = self._unsent_bytes = 0  # in the buffer, and in the batch on its way
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()  # there is something to send …
        self._plenty = asyncio.Event()  # … or so much that no interval is waited for
        self._room = asyncio.Event()
        self._room.set()
        self._ending = False
        self._failure: Exception | None = None  # of what was not delivered, until it was raised
        self._left_out = 0  # messages that this is about
        self._end = ""  # why nothing more is sent
        self._told = False  # somebody has got that as an error
        self._aborted = False

    def start(self, comm: Comm) -> None:
        """Send on this comm from now on, first what was given before."""
        if self._task is not None:
            raise LocalProtocolError(f"{self!r} was started already")
        self.comm = comm
        self._task = start(self._send_batches(comm))

    def closed(self) -> bool:
        """Whether nothing more will be sent."""
        return self._ending or (self.comm is not None and self.comm.closed())

    # -- giving messages -------------------------------------------------------------------

    def send(self, *msgs: Any) -> "Room":
        """Have messages sent; await what this returns if there may be many.

        Raises an error, once, if something that was given before was not delivered; then none of
        these messages is taken. CommClosedError if they would not be sent any more, and
        LocalProtocolError ten times above a limit.
        """
        if self._failure is not None:
            self._raise_failure()
        if self.closed():
            self._told = True  # `close` need not say so again
            raise self._closed_error()
        if len(msgs) == 1:  # nearly always, and quicker
            nbytes = estimate(msgs[0])
            sizes: tuple[int, ...] = (nbytes,)
        else:
            sizes = tuple(map(estimate, msgs))
            nbytes = sum(sizes)
        unsent = self._unsent + len(sizes)
        unsent_bytes = self._unsent_bytes + nbytes
        if unsent > self.limit or unsent_bytes > self.limit_bytes:
            self._check(unsent, unsent_bytes, len(sizes))
            self._room.clear()
        if not self._buffer:
            self._news.set()
        self._unsent = unsent
        self._unsent_bytes = unsent_bytes
        self._buffer += msgs
        self._sizes += sizes
        self.message_count += len(sizes)
        if unsent_bytes >= self._batch:
            self._plenty.set()
        return Room(self)

    def _check(self, unsent: int, unsent_bytes: int, added: int) -> None:
        """Raise LocalProtocolError if these are more than may be kept for who never waits."""
        if unsent > SLACK * self.limit:
            raise LocalProtocolError(
                f"{self._unsent} messages are unsent, and {added} more exceed {SLACK} times the "
                f"limit of {self.limit}: await send()"
            )
        if unsent > 1 and unsent_bytes > SLACK * self.limit_bytes:
            raise LocalProtocolError(
                f"about {self._unsent_bytes} bytes are unsent, and {added} more messages exceed "
                f"{SLACK} times the limit_bytes of {self.limit_bytes}: await send()"
            )

    @property
    def waiting(self) -> int:
        """How many messages are unsent."""
        return self._unsent

    @property
    def waiting_bytes(self) -> int:
        """About how many bytes are unsent."""
        return self._unsent_bytes

    @property
    def full(self) -> bool:
        """Whether more is unsent than the limits."""
        return self._unsent > self.limit or self._unsent_bytes > self.limit_bytes

    async def drain(self) -> None:
        """Wait until no more than the limits are unsent. Raises CommClosedError."""
        while self.full:  # others may have sent since there was room
            if not self.closed():
                self._room.clear()
                await self._room.wait()
            if self.closed() and self.waiting:
                raise self._closed_error()

    # -- sending them ----------------------------------------------------------------------

    async def _send_batches(self, comm: Comm) -> None:
        try:
            while self._buffer or not self._ending:
                if not self._buffer:
                    self._news.clear()
                    await self._news.wait()
                    continue
                batch, nbytes = self._take_batch(comm)
                await self._write(comm, batch)
                self._unsent -= len(batch)
                self._unsent_bytes -= nbytes
                del batch
                if not self.full:
                    self._room.set()
                if self._unsent_bytes < self._batch and not self._ending:
                    await self._pause()
        except OSError as exc:
            comm.log.line(logging.INFO, "%s ends: %s", self, exc)
            self._end = f": {exc}"
            self._fail(self._closed_error(), exc)
            comm.abort()
        except BaseException as exc:  # cancelled, for example by the end of the loop
            self._end = f": {exc!r}"
            raise
        finally:
            self._ending = True
            self._room.set()

    async def _pause(self) -> None:
        """Wait for an interval, unless there is plenty to send."""
        self._plenty.clear()
        handle = asyncio.get_running_loop().call_later(self.interval, self._plenty.set)
        try:
            await self._plenty.wait()
        finally:
            handle.cancel()

    def _take_batch(self, comm: Comm) -> tuple[list[Any], int]:
        """Take as many messages as one list may have; return them, and their bytes."""
        self._batch = most = min(BATCH, comm.at_once)
        batch: list[Any] = []
        nbytes = 0
        buffer, sizes = self._buffer, self._sizes
        while buffer and (not batch or nbytes + sizes[0] <= most):
            batch.append(buffer.popleft())
            nbytes += sizes.popleft()
        return batch, nbytes

    async def _write(self, comm: Comm, batch: list[Any]) -> None:
        """Write a batch; if that cannot be sent, its halves, and so on to a single message."""
        self.batch_count += 1
        try:
            self.byte_count += await comm.write(batch, self.serializers)
            return
        except (TypeError, ValueError) as exc:
            if len(batch) == 1:
                comm.log.line(logging.ERROR, "%s leaves out a message: %s", self, exc)
                self._left_out += 1
                self._fail(exc)
                return
        half = len(batch) // 2
        await self._write(comm, batch[:half])
        await self._write(comm, batch[half:])

    # -- what was not delivered ------------------------------------------------------------

    def _fail(self, error: Exception, cause: Exception | None = None) -> None:
        """Keep an error for the next `send` or `close`; the end of the connection counts most."""
        error.__cause__ = cause or error.__cause__
        if self._failure is None or cause is not None:
            self._failure = error

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        count, self._left_out = self._left_out, 0
        self._told = self._told or isinstance(failure, CommClosedError)
        if failure is None:
            return
        if count:
            failure.add_note(f"{self!r} has left out {count} messages; this was the first error")
        raise failure

    def _closed_error(self) -> CommClosedError:
        unsent = f"; {self.waiting} were not sent" if self.waiting else ""
        loss = None if self.comm is None else self.comm.loss
        why = self._end or (f": {loss}" if loss is not None else "")
        if not why and self.comm is not None and self.comm.closed() and not self._ending:
            why = ": closed by the peer"
        return CommClosedError(f"{self!r} sends no more{unsent}{why}")

    # -- the end ---------------------------------------------------------------------------

    async def close(self, timeout: float | None = None) -> None:
        """Send what is unsent, and close the comm; abort it if that takes too long.

        Raises an error if something was not delivered, as far as that is known: messages that
        could not be sent, or a connection that the peer has not closed in order.
        """
        self._ending = True
        self._news.set()
        self._plenty.set()
        if self._task is None or self.comm is None:
            self._room.set()
            if self._unsent and not self._aborted and not self._told:
                self._told = True
                why = f"{self!r} was never started; {self._unsent} were not sent"
                self._failure = CommClosedError(why)
            self._raise_failure()
            return
        try:
            async with asyncio.timeout(timeout):
                await asyncio.wait({self._task})
                if not self._task.cancelled():
                    self._task.result()
                await self.comm.close()
        finally:
            loss = self.comm.loss
            self._drop()
        if self._failure is None and not self._aborted and not self._told:
            self._told = True
            if self._unsent:
                self._failure = self._closed_error()
            elif loss is not None:
                self._failure = CommClosedError(f"{self!r}: what was sent last may be lost: {loss}")
        self._raise_failure()

    def abort(self) -> None:
        """Drop what is unsent, and close the comm at once."""
        self._aborted = True
        self._failure = None
        self._drop()

    def _drop(self) -> None:
        self._ending = True
        self._room.set()
        if self._task is not None:
            self._task.cancel()
        if self.comm is not None:
            self.comm.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except Exception:
            if error is None:  # else that one is raised
                raise

    def __repr__(self) -> str:
        state = "closed" if self.closed() else "open"
        return f"<BatchedSend {self.waiting} unsent, {state}>"


class Room:
    """What `send` returns: to be awaited or not."""

    __slots__ = ("_batched",)

    def __init__(self, batched: BatchedSend) -> None:
        self._batched = batched

    def __await__(self) -> Generator[Any, None, None]:
        if self._batched.full:
            yield from self._batched.drain().__await__()


def parse_interval(interval: float | str) -> float:
    """Return the seconds of an interval; a number is in milliseconds.

    >>> parse_interval("10 ms"), parse_interval(2), parse_interval("1s")
    (0.01, 0.002, 1.0)
    """
    if not isinstance(interval, str):
        return interval * UNITS["ms"]
    number = interval.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = interval[len(number) :].strip() or "ms"
    if unit not in UNITS:
        raise ValueError(f"the interval {interval!r}, expected a number and one of {[*UNITS]}")
    return float(number) * UNITS[unit]
