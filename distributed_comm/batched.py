"""BatchedSend: many small messages as few large ones, at most one an interval."""

import asyncio
import logging
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import Any, Self

from .core import Comm
from .errors import CommClosedError, LocalProtocolError

__all__ = ["BatchedSend"]

#: Seconds in the units that an interval may be given in; a number is in ms, as Dask's.
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
#: How often over the limit may be sent by who does not wait.
SLACK = 10


class BatchedSend:
    """Sends what it is given as lists, on a comm that nobody else writes to.

    >>> async def report(comm):
    ...     async with BatchedSend("10 ms") as batched:
    ...         batched.start(comm)
    ...         for number in range(100_000):
    ...             await batched.send({"op": "report", "number": number})

    The peer reads lists: `Server.handle_stream` takes them apart. `send` returns at once; who
    awaits what it returns waits while more than ``limit`` messages are unsent. A message that
    cannot be serialized is left out, alone, and logged.
    """

    def __init__(
        self,
        interval: float | str,
        loop: object = None,  # noqa: ARG002 - Dask's signature
        serializers: Iterable[str] | None = None,
        *,
        limit: int = 10_000,
    ) -> None:
        self.interval = parse_interval(interval)
        self.serializers = serializers
        self.limit = limit
        self.comm: Comm | None = None
        self.message_count = 0
        self.batch_count = 0
        self.byte_count = 0
        self._buffer: list[Any] = []
        self._sending = 0  # messages of the batch that is being written
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._ending = asyncio.Event()

    def start(self, comm: Comm) -> None:
        """Send on this comm from now on, first what was given before."""
        if self._task is not None:
            raise LocalProtocolError(f"{self!r} was started already")
        self.comm = comm
        self._task = asyncio.get_running_loop().create_task(self._send_batches(comm))

    def closed(self) -> bool:
        """Whether nothing more will be sent."""
        return self._ending.is_set() or (self.comm is not None and self.comm.closed())

    def send(self, *msgs: Any) -> "Room":
        """Have messages sent; await what this returns where there may be many.

        Raises CommClosedError where they would not be sent any more, and LocalProtocolError
        ten times above the limit.
        """
        if self.closed():
            raise CommClosedError(f"{self!r} sends no more")
        if self.waiting + len(msgs) > SLACK * self.limit:
            raise LocalProtocolError(
                f"{self.waiting} messages are unsent, {SLACK} times the limit of {self.limit}: "
                f"await send()"
            )
        self._buffer += msgs
        self.message_count += len(msgs)
        self._news.set()
        if self.waiting > self.limit:
            self._room.clear()
        return Room(self)

    @property
    def waiting(self) -> int:
        """How many messages are unsent."""
        return len(self._buffer) + self._sending

    async def drain(self) -> None:
        """Wait until no more than the limit are unsent. Raises CommClosedError."""
        while self.waiting > self.limit:  # others may have sent since there was room
            await self._room.wait()
            if self.closed() and self.waiting:
                raise CommClosedError(f"{self!r} sends no more; {self.waiting} were not sent")

    async def _send_batches(self, comm: Comm) -> None:
        try:
            while not self._ending.is_set() or self._buffer:
                if self._buffer:
                    batch, self._buffer = self._buffer, []
                    self._sending = len(batch)
                    await self._write(comm, batch)
                    self._sending = 0
                    if self.waiting <= self.limit:
                        self._room.set()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self.interval):
                            await self._ending.wait()
                self._news.clear()
                if not self._buffer and not self._ending.is_set():
                    await self._news.wait()
        except OSError as exc:
            comm.log.line(logging.INFO, "%s ends: %s", self, exc)
            comm.abort()
        finally:
            self._ending.set()
            self._room.set()

    async def _write(self, comm: Comm, batch: list[Any]) -> None:
        """Write a batch; where it cannot be serialized, each of its messages that can be."""
        self.batch_count += 1
        try:
            self.byte_count += await comm.write(batch, self.serializers)
        except (TypeError, ValueError) as exc:
            if len(batch) == 1:
                comm.log.line(logging.ERROR, "%s leaves out a message: %s", self, exc)
                return
            for message in batch:
                await self._write(comm, [message])

    async def close(self, timeout: float | None = None) -> None:
        """Send what is unsent, and close the comm; abort it where that takes too long."""
        self._ending.set()
        self._news.set()
        if self._task is None or self.comm is None:
            return
        try:
            async with asyncio.timeout(timeout):
                await asyncio.wait({self._task})
                if not self._task.cancelled():  # by `abort`
                    self._task.result()
                await self.comm.close()
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop what is unsent, and close the comm at once."""
        self._ending.set()
        if self._task is not None:
            self._task.cancel()
        if self.comm is not None:
            self.comm.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed() else "open"
        return f"<BatchedSend {self.waiting} unsent, {state}>"


class Room:
    """What `send` returns: to be awaited or not."""

    __slots__ = ("_batched",)

    def __init__(self, batched: BatchedSend) -> None:
        self._batched = batched

    def __await__(self) -> Generator[Any, None, None]:
        return self._batched.drain().__await__()


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
