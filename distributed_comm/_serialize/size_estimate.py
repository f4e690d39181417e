"""About how many bytes an object takes on the wire, without encoding it.

At most LOOKS parts of an object are looked at, and of a long list some that are spread over it, so
that the answer is quick whatever the object is. It is right for bytes, texts and arrays, wherever
they are, and right within a few times for all else.
"""

from collections.abc import Iterable
from itertools import islice
from sys import getsizeof
from typing import Any

__all__ = ["estimate"]

#: Parts of one object that are looked at …
LOOKS = 1_000
#: … those of one list, dict or set among them, and how deep.
SAMPLES, DEPTH = 64, 8
#: Bytes of a number.
NUMBER = 9
NUMBERS = frozenset({int, float, bool, type(None)})
#: Bytes around a text or a list, and around an array or another object.
AROUND, HEADER = 5, 100


def estimate(obj: Any) -> int:
    """Return about how many bytes a message takes.

    >>> estimate(b"x" * 1000), estimate([1, 2]), estimate({"x": 1.5})
    (1005, 23, 20)
    """
    if type(obj) is dict and len(obj) <= SAMPLES:  # as most messages are, and of plain values
        total = AROUND
        for key, value in obj.items():
            kind = type(value)
            if kind in NUMBERS:
                total += NUMBER
            elif kind is str and value.isascii():
                total += len(value) + AROUND
            else:
                break
            total += len(key) + AROUND if type(key) is str else NUMBER
        else:
            return total
    return _Estimate().add(obj, DEPTH)


class _Estimate:
    """One object, of which so many parts may still be looked at."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = LOOKS

    def add(self, obj: Any, depth: int) -> int:
        """Return what an object takes, whose parts are looked at ``depth`` levels deep."""
        self.left -= 1
        kind = type(obj)
        if kind in NUMBERS:
            return NUMBER
        if kind is str:
            return AROUND + (len(obj) if obj.isascii() else 3 * len(obj))
        if kind is bytes or kind is bytearray:
            return AROUND + len(obj)
        if depth == 0 or self.left < 0:
            return HEADER
        if kind is dict:
            return self._add_all(obj.values(), len(obj), depth) + self._add_all(
                obj, len(obj), depth
            )
        if kind is list or kind is tuple:
            step = len(obj) // SAMPLES + 1
            return self._add_all(obj[::step] if step > 1 else obj, len(obj), depth)
        if kind is set or kind is frozenset:
            return self._add_all(obj, len(obj), depth)
        try:
            return HEADER + self._add_other(obj, depth)
        except Exception:  # of its own methods
            return HEADER

    def _add_all(self, items: Iterable[Any], count: int, depth: int) -> int:
        """Return what so many items take, of which some are looked at."""
        total = looked = 0
        for item in items if count <= SAMPLES else islice(items, SAMPLES):
            total += self.add(item, depth - 1)
            looked += 1
            if self.left < 0:
                break
        return AROUND + (total if looked == count else total * count // max(looked, 1))

    def _add_other(self, obj: Any, depth: int) -> int:
        """Return what an array takes, or any object by its attributes."""
        nbytes = getattr(obj, "nbytes", None)
        if type(nbytes) is int and nbytes >= 0:
            return nbytes
        frames = getattr(obj, "frames", None)  # of an object that is passed on unopened
        if type(frames) is list or type(frames) is tuple:
            return self.add(frames, depth)
        held = getattr(obj, "__dict__", None)
        if type(held) is dict and held:
            return max(self.add(held, depth), getsizeof(obj))  # pandas knows better itself
        data = getattr(obj, "data", None)  # of a wrapper
        return getsizeof(obj) if data is None else self.add(data, depth)
