"""What a side accepts in a message: said in its hello, so that nobody sends what would be cut.

The hello leaves before anybody is known, so it carries two sets of limits: those for strangers, and
those for trusted peers. Which of them apply is told later, to whoever asks (see `control`).
"""

from functools import lru_cache
from typing import Any, NamedTuple

from .._frames import Frames
from ..options import Limits

__all__ = ["Terms", "Unsettled", "accepted", "decode", "encode", "excess"]

#: Names of the limits behind `Terms`, for a stranger and for a trusted peer.
NAMES = (
    ("Limits.message and Limits.untrusted_memory", "Limits.frames", "Limits.untrusted_header"),
    ("Limits.message", "Limits.frames", "Limits.message"),
)
#: The first byte of an envelope's head, a frame in front of the message's own.
MARK = b"\xc1"
#: How many limits there are; a later version may add some behind them, which are ignored.
NUMBERS = 3
#: No limit can be larger; larger numbers in a hello stand for this.
MOST = (1 << 63) - 1


class Unsettled(Exception):  # noqa: N818 - nothing is wrong
    """Whether a message may be sent is not known yet; see `Channel.settled`."""


class Terms(NamedTuple):
    """The most bytes of a message, frames of it, and bytes of its frame 0."""

    message: int
    frames: int
    header: int
    #: Whether they are for trusted peers.
    trusted: bool = False

    @property
    def short(self) -> int:
        """A message of fewer bytes, its lengths included, exceeds none of these."""
        return min(self.message, 8 * self.frames, self.header)


@lru_cache(64)
def accepted(limits: Limits) -> tuple[Terms, Terms]:
    """Return what is accepted from a stranger, and from a trusted peer."""
    message = MOST if limits.message is None else _whole(limits.message)
    frames = _whole(limits.frames)
    strangers = min(message, _whole(limits.untrusted_memory))
    header = min(strangers, _whole(limits.untrusted_header))
    return Terms(strangers, frames, header), Terms(message, frames, message, trusted=True)


def _whole(limit: float) -> int:
    """Return a limit, which may be a float or infinite, as the hello can say it."""
    return int(min(max(limit, 0), MOST))


def encode(terms: tuple[Terms, Terms]) -> list[list[int]]:
    """Return both as they stand in the hello."""
    return [[one.message, one.frames, one.header] for one in terms]


def decode(value: Any) -> tuple[Terms, Terms]:
    """Undo `encode`; ValueError says what is wrong with the peer's.

    >>> decode([[1000, 10, 500], [2000, 10, 2000]])[1]
    Terms(message=2000, frames=10, header=2000, trusted=True)
    """
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"limits {value!r:.60} in the hello, expected two lists")
    for one in value:
        if not (isinstance(one, list | tuple) and len(one) >= NUMBERS):
            raise ValueError(f"limits {one!r:.60} in the hello, expected {NUMBERS} numbers")
        if not all(type(number) is int and number >= 0 for number in one[:NUMBERS]):
            raise ValueError(f"limits {one!r:.60} in the hello, expected numbers, 0 or more")
    return _interned(*(min(number, MOST) for one in value for number in one[:NUMBERS]))


@lru_cache(64)
def _interned(m: int, f: int, h: int, *others: int) -> tuple[Terms, Terms]:
    """Return the same objects for the same numbers: most peers say the same."""
    message, frames, header = others
    return Terms(m, f, h), Terms(message, frames, header, trusted=True)


def excess(terms: Terms, frames: Frames) -> str | None:
    """Return what is too much about a message by the terms of its reader, None if nothing is."""
    names = NAMES[terms.trusted]
    us = "" if terms.trusted else " from this side, which it does not trust"
    count = len(frames)
    enveloped = count > 1 and frames[0][:1] == MARK
    if count - enveloped > terms.frames:
        return (
            f"{count - enveloped} frames, and the peer accepts at most {terms.frames}{us}: raise "
            f"{names[1]} there"
        )
    nbytes = sum(memoryview(frame).nbytes for frame in frames)
    if nbytes > terms.message:
        return (
            f"{nbytes} bytes, and the peer accepts at most {terms.message}{us}: raise {names[0]} "
            f"there"
        )
    header = memoryview(frames[enveloped]).nbytes
    if header > terms.header:
        return (
            f"{header} bytes beside its arrays and other buffers, and the peer accepts at most "
            f"{terms.header}{us}: raise {names[2]} there"
        )
    return None
