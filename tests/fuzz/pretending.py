"""A connection to a stranger without a network: messages that have come, and what is sent."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from distributed_comm._comm import ChannelComm
from distributed_comm._frames import Frames
from distributed_comm.core import Channel
from distributed_comm.errors import CommClosedError
from distributed_comm.options import Limits

from .comparing import exact

__all__ = ["Pretended", "comm_over", "loop_runner", "short_logs"]

T = TypeVar("T")

#: Characters of a line in the log.
LONGEST_LINE = 2500


class Pretended(Channel):
    """What a stranger has sent, in order, and then the clean end of its connection."""

    local_address, peer_address = "pretended://here", "pretended://there"
    pickle_protocol = 5
    full = False

    def __init__(self, messages: Sequence[Sequence[bytes]], *, ours: bool) -> None:
        self.typed = self.enveloped = ours
        self.sent: list[Frames] = []
        self._messages = deque(messages)
        self._receiver: Callable[[Frames | None], None] | None = None
        self._ready: Callable[[], bool] | None = None
        self._wanted = asyncio.Event()  # a receiver is there, or nothing will be received
        self._closed = False

    async def read(self) -> Frames:
        if not self._messages:
            raise CommClosedError("the peer has closed", clean=True)
        return self._next()

    def _next(self) -> Frames:
        """Return a message as a connection does: frame 0 is bytes, the others are writable."""
        frames = [*self._messages.popleft()]
        own = 2 if frames[0][:1] == b"\xc1" else 1
        return [*frames[:own], *map(exact, frames[own:])]

    def push(
        self,
        receiver: Callable[[Frames | None], None] | None,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        self._receiver = receiver
        self._ready = ready
        if receiver is not None or self._closed:
            self._wanted.set()
        else:
            self._wanted.clear()

    async def deliver(self) -> None:
        """Hand all messages to whoever they are pushed to, when it takes one; then the end."""
        while self._messages and not self._closed:
            if self._receiver is not None and self._ready is not None and not self._ready():
                self.push(None)
            if self._receiver is not None:
                self._receiver(self._next())
            else:
                await self._wanted.wait()  # a task or a thread is at work
        await self._wanted.wait()
        self._closed = True
        if self._receiver is not None:
            self._receiver(None)

    def send(self, frames: Frames) -> int:
        self.sent.append([*map(bytes, frames)])
        return sum(map(len, frames))

    async def drain(self) -> None:
        pass

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._closed = True
        self._wanted.set()

    def closed(self) -> bool:
        return self._closed

    def stats(self) -> dict[str, int]:
        return {}


def comm_over(channel: Channel) -> ChannelComm:
    """Return the comm to a peer that nothing is known of."""
    return ChannelComm(channel, trusted=False, deserialize=True, limits=Limits())


@cache
def loop_runner() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Return what runs a coroutine, on the same loop each time."""
    return asyncio.Runner().run


@contextmanager
def short_logs() -> Iterator[None]:
    """Check that what is logged meanwhile is short, on one line, and nothing a terminal acts on."""
    logger = logging.getLogger("distributed_comm")
    wrong: list[str] = []

    class Checking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                text = record.getMessage()
                if record.exc_info and record.exc_info[1]:
                    text += str(record.exc_info[1])
            except Exception as exc:
                text = f"\n cannot be formatted: {exc!r}"
            if len(text) > LONGEST_LINE or not text.isprintable():
                wrong.append(f"{len(text)} characters: {text[:300]!r}")

    handler, propagate = Checking(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
    assert not wrong, f"in the log, {wrong[0]}"
