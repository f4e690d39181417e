"""Bytes into a framing or a connection, as an event loop would bring them."""

import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pickle import PickleBuffer
from typing import Any, TypeVar

from distributed_comm._frames import Frames

T = TypeVar("T")

#: The receive block of all connections in the tests, as that of a loop.
SCRATCH = memoryview(bytearray(100 * 1024))
JUNK = b"\xee" * len(SCRATCH)

#: A chunk that is as long as the receiver allows.
FULL = 1 << 62


def feed(receiver: Any, data: bytes, sizes: Iterable[int] = (FULL,)) -> list[Frames]:
    """Receive all of ``data`` in chunks of at most these sizes, in turn; return the messages.

    During `receive` the buffer is held as asyncio holds it, by its view, and as uvloop
    does, by an export of that view. Afterwards another connection uses the scratch.
    """
    messages: list[Frames] = []
    rest = memoryview(data)
    turn = cycle(sizes)
    while rest:
        view = receiver.get_buffer()
        assert isinstance(view, memoryview)
        assert view.nbytes > 0
        size = min(next(turn), len(view), len(rest))
        view[:size] = rest[:size]
        rest = rest[size:]
        exported = PickleBuffer(view)
        messages += receiver.receive(size)
        exported.release()
        del view
        SCRATCH[:] = JUNK
    return messages


@contextmanager
def peak_of_memory() -> Iterator[list[int]]:
    """Append to the list, at the end, the most bytes that were allocated at once meanwhile."""
    found: list[int] = []
    tracemalloc.start()
    try:
        yield found
        found.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def within(bound: int, attempt: Callable[[], T]) -> T:
    """Check that an attempt takes at most so many bytes at once; return what it returns.

    It may have a second try: names that msgpack reads go into a table of the interpreter's,
    which takes megabytes when it happens to grow, though not twice.
    """
    for _ in range(2):
        with peak_of_memory() as peak:
            result = attempt()
        if peak[0] <= bound:
            return result
    raise AssertionError(f"{peak[0]} bytes at once, expected {bound} at most")
