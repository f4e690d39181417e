"""Bytes into a framing or a connection, as an event loop would bring them."""

import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pickle import PickleBuffer
from typing import Any

from distributed_comm.frames import Frames

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
