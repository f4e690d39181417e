"""When serializing is no work for the event loop."""

from typing import Any

__all__ = ["MOST", "Lengthy"]

#: Bytes that are pickled, copied, compressed or opened at once; more is done in a thread.
MOST = 10 * 1024 * 1024


class Lengthy(Exception):  # noqa: N818 - no error: a turn in the way that a message takes
    """A message takes long to encode or to decode, and is to be given to a thread.

    ``opened`` are the objects of it that were opened by then, which must not be again: their
    pickles may do something, or change the memory of the frames. ``nbytes`` is about the
    length of the object that takes so long to encode, as far as that is known.
    """

    def __init__(self, opened: list[Any] | None = None, nbytes: int = 0) -> None:
        self.opened = opened
        self.nbytes = nbytes
