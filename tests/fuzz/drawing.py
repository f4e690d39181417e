"""Numbers and bytes out of a fuzzer's input, so that mutating it mutates what is made of it."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

#: How often a frame is repeated: once in most cases, or until it is a long one.
REPEATS = (*[1] * 14, 40, 600)
#: Bits of the longest chunk.
CHUNKS = (3, 6, 12, 17)


class Draws:
    """Takes from the front of the input; behind its end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def take(self, size: int) -> bytes:
        """Return so many bytes, or those that are left."""
        start = self._offset
        self._offset = start + size
        return self._data[start : start + size]

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def number(self, limit: int) -> int:
        """Return a number from 0 on, below the limit."""
        size = ((limit - 1).bit_length() + 7) // 8
        return int.from_bytes(self.take(size), "little") % limit

    def choice(self, options: Sequence[T]) -> T:
        return options[self.number(len(options))]

    def piece(self) -> bytes:
        """Return up to 255 bytes, or these over and over."""
        repeats = self.choice(REPEATS)
        return self.take(self.number(256)) * repeats

    def frames(self) -> list[bytes]:
        """Return the frames of a message."""
        return [self.piece() for _ in range(1 + self.number(4))]

    def chunks(self) -> list[int]:
        """Return in what turn of chunks a stream comes."""
        return [1 + self.number(1 << self.choice(CHUNKS)) for _ in range(1 + self.number(3))]


def seed(*parts: int | bytes) -> bytes:
    """Return an input: single bytes, and pieces as they are."""
    return b"".join(bytes([part]) if isinstance(part, int) else part for part in parts)


def seed_frames(frames: Sequence[bytes]) -> bytes:
    """Return what `Draws.frames` makes these of, each of at most 255 bytes."""
    return seed(len(frames) - 1, *(seed(0, len(frame), frame) for frame in frames))
