"""Messages that end with a sentinel, and may contain it all the same: the specification.

Written S, and P for all of it but its last byte. A sender inserts ESCAPE behind every P
of its message and ends the message with S. So a P on the wire is followed by ESCAPE,
which a receiver takes out, or by the last byte of S, which ends the message; by anything
else only where the sender is wrong. This is unambiguous, because

- no proper prefix of P is also a suffix of P, so two P never overlap (a test computes it);
- ESCAPE does not occur in P, so no P contains one, and inserting one makes no new P.

From the first: what is inserted behind a P tears no other P; a message that ends with a
part of S makes no P that begins in it and ends in the S behind it; and taking an ESCAPE
out makes no P either, for that would overlap the P before it. So the P of the message are
those on the wire without the last, each message has one stuffed form, and each stuffed
form is that of one message. It is also why `unstuff` needs no more than a number, how much
of S the last bytes were, to go on with the next chunk without a look at the last one.
"""

import re

from .._frames import Buffer

__all__ = ["ESCAPE", "SENTINEL", "stuff", "unstuff"]

SENTINEL = b"7d629535c4f3a6963f566af7d3e3a2d2"
ESCAPE = b"\0"

#: A last buffer below this is copied together with the sentinel: one buffer is one
#: system call. The number is that of `framing.pack`, which has copied what is shorter.
LARGE = 64 * 1024

_PREFIX = SENTINEL[:-1]
_WHOLE = len(_PREFIX)
_search = re.compile(_PREFIX).search


def stuff(buffers: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return the buffers of one message with what ends it, stuffed where they need it.

    A buffer in which no P ends is passed on as it is.

    >>> stuff([b"so ", b"7d629535c4f3a6963f566af7d3e3a2d2"])[1][30:]
    b'd\\x0027d629535c4f3a6963f566af7d3e3a2d2'
    """
    stuffed: list[bytes | memoryview] = []
    matched = 0
    for buffer in buffers:
        run = bytearray()
        done = 0
        offset, matched = _find(buffer, 0, len(buffer), matched)
        while matched == _WHOLE:
            run += buffer[done:offset]
            run += ESCAPE
            done = offset
            offset, matched = _find(buffer, offset, len(buffer), 0)
        if run:
            run += buffer[done:]
        stuffed.append(bytes(run) if run else buffer)
    last = stuffed.pop() if stuffed else b""
    if len(last) < LARGE:
        stuffed.append(b"".join((last, SENTINEL)))
    else:
        stuffed += last, SENTINEL
    return stuffed


def unstuff(
    data: bytearray | memoryview, start: int, end: int, matched: int
) -> tuple[int, int, int]:
    """Search ``data[start:end]`` for the end of a message and take its escapes out, in place.

    ``matched`` bytes of a sentinel ended the chunk before, 0 where a message begins.
    Returns ``(kept, stop, matched)``: ``data[start:kept]`` is what is left of
    ``data[start:stop]``. The message has ended at ``stop`` if ``matched`` is the length
    of the sentinel, else ``stop`` is ``end``; in both cases the last ``matched`` bytes
    are not yet, or not, of the message. ValueError for a P that anything else follows.
    """
    if not (0 <= start <= end <= len(data) and 0 <= matched <= _WHOLE):
        raise ValueError(f"span {start}:{end} of a buffer of {len(data)} bytes, {matched} matched")
    kept = start
    while True:
        offset, matched = _find(data, start, end, matched)
        size = offset - start
        if kept != start:
            data[kept : kept + size] = data[start:offset]
        kept += size
        if matched < _WHOLE or offset == end:
            return kept, offset, matched
        following = data[offset]
        start = offset + 1
        if following == SENTINEL[_WHOLE]:
            data[kept] = following
            return kept + 1, start, _WHOLE + 1
        if following != ESCAPE[0]:
            raise ValueError(f"byte 0x{following:02x} behind all but the end of a sentinel")
        matched = 0


def _find(data: Buffer, start: int, end: int, matched: int) -> tuple[int, int]:
    """Return where the first P ends and its length, else ``end`` and how much of a P ends there.

    ``matched`` bytes of a P stand before ``start``.
    """
    if matched:
        seam = _PREFIX[:matched] + data[start : min(end, start + _WHOLE - 1)]
        found = seam.find(_PREFIX)
        if found >= 0:
            return start - matched + found + _WHOLE, _WHOLE
    if isinstance(data, memoryview):  # which has no find(), 2.5 times as fast
        match = _search(data, start, end)
        found = match.start() if match else -1
    else:
        found = data.find(_PREFIX, start, end)
    if found >= 0:
        return found + _WHOLE, _WHOLE
    last = max(start, end - _WHOLE + 1)
    tail = (_PREFIX[:matched] if last == start else b"") + data[last:end]
    begin = tail.find(_PREFIX[:1])
    while begin >= 0 and not _PREFIX.startswith(tail[begin:]):
        begin = tail.find(_PREFIX[:1], begin + 1)
    return end, len(tail) - begin if begin >= 0 else 0
