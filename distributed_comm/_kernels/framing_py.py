"""Length-prefixed messages, the framing of Dask's tcp comms: the specification.

All integers are unsigned 64-bit little-endian::

    F | N | L[0] … L[N-1] | frame 0 … frame N-1

N frames of L[i] bytes each; F counts what follows it up to the end of some frame,
the "first block" that a receiver may read into one allocation. These functions are
coarse (one call a chunk or a message, never a field) and know no connection.
"""

import re
from itertools import accumulate
from struct import Struct, pack_into

from ..frames import Buffer, Frames

__all__ = ["CONTROL", "LARGE", "inspect", "marked", "pack", "scan", "unpack"]

#: The type byte of a control message: frame 0 is a msgpack "ext 8" of this (negative,
#: so reserved) type, which no packer produces from an object.
CONTROL = 0xBC
#: The bytes of the longest one; a longer frame is none, whatever it begins with.
CONTROL_SIZE = 3 + 255

#: Frames below this are copied together with their neighbours when they are sent, and
#: through a common block when they are received.
LARGE = 64 * 1024

PRELUDE = Struct("<QQ")

#: What `scan` can be asked to allow.
MOST_LEVELS = 1024
#: What decoding may take in memory: so many bytes for each of msgpack, and so many besides.
MULTIPLE = 96
AMPLE = 64 * 1024


def pack(frames: Frames) -> list[bytes | memoryview]:
    """Return the bytes of one message as few buffers, the first of them with the prelude.

    Frames below LARGE are copied together; a longer one is passed on as a view of its
    own memory. The frames are contiguous; ValueError where there are none.
    """
    count = len(frames)
    if not count:
        raise ValueError("a message has at least one frame")
    views = [_flat(frame) for frame in frames]
    lengths = [view.nbytes for view in views]
    head = bytearray(16 + 8 * count)
    pack_into(f"<{count + 2}Q", head, 0, _first_block(frames, lengths), count, *lengths)
    buffers: list[bytes | memoryview] = []
    run = head
    for view, length in zip(views, lengths, strict=True):
        if length < LARGE:
            run += view
        else:
            if run:
                buffers.append(bytes(run))
                run = bytearray()
            buffers.append(view)
    if run:
        buffers.append(bytes(run))
    return buffers


def _flat(frame: Buffer) -> memoryview:
    """Return a view of single bytes, which a writer can slice by what was sent."""
    view = memoryview(frame)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _first_block(frames: Frames, lengths: list[int]) -> int:
    """Return F as Dask chooses it, so that two arrays never share a receiver's memory.

    Memory that no bytes object owns joins the block unless more than a twentieth of it
    (and 2 kB) stands before it, and so do further parts of it; other memory ends the block.
    """
    total = 8 * (1 + len(frames))
    before = 0
    joined: object = None
    for frame, length in zip(frames, lengths, strict=True):
        owner = frame.obj if isinstance(frame, memoryview) else frame
        if not isinstance(owner, bytes):
            if joined is None:
                if before > max(2048, length // 20):
                    break
                joined = owner
            elif joined is not owner:
                break
        before += length
    return total + before


def unpack(
    data: Buffer, start: int, end: int, max_message: int, max_frames: int, max_count: int
) -> tuple[list[Frames], int]:
    """Copy the whole messages out of ``data[start:end]``; return them and where they end.

    Frame 0 of each is bytes, the others are memory of their own that may be written.
    Stops without a word after ``max_count`` messages, and before a message that is
    incomplete, a control message, or not allowed: `inspect` tells which.
    """
    messages: list[Frames] = []
    view = memoryview(data)
    while len(messages) < max_count:
        try:
            lengths = inspect(view, start, end, max_message, max_frames)
        except ValueError:
            break
        if lengths is None:
            break
        offset = start + 16 + 8 * len(lengths)
        stop = offset + sum(lengths)
        if stop > end or _is_control(view, offset, lengths):
            break
        frames: Frames = [bytes(view[offset : offset + lengths[0]])]
        offset += lengths[0]
        for length in lengths[1:]:
            frames.append(bytearray(view[offset : offset + length]))
            offset += length
        messages.append(frames)
        start = stop
    return messages, start


def _is_control(view: memoryview, offset: int, lengths: list[int]) -> bool:
    return (
        len(lengths) == 1
        and 3 <= lengths[0] <= CONTROL_SIZE
        and view[offset] == 0xC7
        and view[offset + 2] == CONTROL
    )


def inspect(
    data: Buffer, start: int, end: int, max_message: int, max_frames: int
) -> list[int] | None:
    """Return the frame lengths of the message at ``start``, or None before all have come.

    Raises ValueError as soon as the bytes at hand cannot begin a message within the
    limits: ``max_message`` bytes in all frames, ``max_frames`` frames.
    """
    if end - start < 16:
        return None
    block, count = PRELUDE.unpack_from(data, start)
    if count == 0:
        raise ValueError("a message of no frames")
    if count > max_frames:
        raise ValueError(f"a message of {count} frames exceeds the limit of {max_frames}")
    header = 8 * (1 + count)
    if block < header:
        raise ValueError(f"a first block of {block} bytes, expected {header} for {count} lengths")
    if block - header > max_message:
        raise ValueError(
            f"a message of at least {block - header} bytes exceeds the limit of {max_message}"
        )
    if end - start < 8 + header:
        return None
    lengths = list(Struct(f"<{count}Q").unpack_from(data, start + 16))
    total = sum(lengths)
    if total > max_message:
        raise ValueError(f"a message of {total} bytes exceeds the limit of {max_message}")
    if block - header not in accumulate(lengths, initial=0):
        raise ValueError(f"a first block of {block} bytes that ends inside a frame")
    return lengths


# ---------------------------------------------------------------------------
# msgpack, looked at before msgpack is asked

# first byte -> (bytes of the length or value that follow, what it begins)
_SCALAR, _BYTES, _ARRAY, _MAP, _EXT = range(5)
_SIZED = {
    0xC4: (1, _BYTES), 0xC5: (2, _BYTES), 0xC6: (4, _BYTES),
    0xC7: (1, _EXT), 0xC8: (2, _EXT), 0xC9: (4, _EXT),
    0xD9: (1, _BYTES), 0xDA: (2, _BYTES), 0xDB: (4, _BYTES),
    0xDC: (2, _ARRAY), 0xDD: (4, _ARRAY),
    0xDE: (2, _MAP), 0xDF: (4, _MAP),
}  # fmt: skip
_FIXED = {
    0xC0: 0, 0xC2: 0, 0xC3: 0,
    0xCA: 4, 0xCB: 8,
    0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,
    0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
    0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip


_find_marker = re.compile(b"__(?:Serialized|Pickled|Set|Enum)__").search


def marked(data: Buffer) -> bool:
    """Return whether one of the names occurs that a map in frame 0 is marked with.

    >>> marked(b"a msgpack string __Set__"), marked(b"__init__")
    (True, False)
    """
    return _find_marker(data) is not None


def scan(data: Buffer, max_depth: int) -> None:
    """Check that ``data`` is one msgpack object that is safe to decode.

    Raises ValueError for a truncated object, bytes after it, more than ``max_depth``
    containers around an item, containers that together declare more items than bytes
    are left (msgpack allocates for every declared item at each level), or an object
    that takes more memory than MULTIPLE times its bytes, and AMPLE.
    """
    if not 0 <= max_depth <= MOST_LEVELS:
        raise ValueError(f"a depth of {max_depth}, expected from 0 to {MOST_LEVELS}")
    view = memoryview(data)
    end = len(view)
    offset = 0
    pending = 1  # items that were declared and have not been seen, at all levels
    levels: list[int] = []  # items left in each container around this one
    cost = 0  # bytes of memory
    while pending:
        if offset >= end:
            raise ValueError("truncated msgpack")
        first = view[offset]
        kind, length, offset = _step(view, offset)
        pending -= 1
        cost += _cost(first, kind, length, view[offset : offset + 1])
        while levels and not levels[-1]:
            levels.pop()
        if levels:
            levels[-1] -= 1
        if kind in {_ARRAY, _MAP}:
            items = length * (2 if kind == _MAP else 1)
            pending += items
            if pending > end - offset:
                raise ValueError("msgpack declares more items than bytes are left")
            if items:
                levels.append(items)
            if len(levels) > max_depth:
                raise ValueError(f"msgpack nested deeper than {max_depth} levels")
        else:
            offset += length
            if offset > end:
                raise ValueError("truncated msgpack")
    if offset != end:
        raise ValueError(f"{end - offset} bytes after the msgpack object")
    _check_cost(cost, end)


def _check_cost(cost: int, size: int) -> None:
    if cost > MULTIPLE * size + AMPLE:
        raise ValueError(f"msgpack of {size} bytes that would take about {cost} in memory")


def _cost(first: int, kind: int, length: int, key: memoryview) -> int:
    """Return what CPython allocates for an item, measured, and rounded up.

    An array is a list or a tuple. A dict whose keys are all str is smaller, and the first of
    them tells. Small integers and the empty str and bytes are there already.
    """
    if kind == _ARRAY:
        return 56 + 16 * length
    if kind == _MAP:
        if length > 5:
            return 96 * length
        if not length:
            return 64
        return 184 if key and (0xA0 <= key[0] < 0xC0 or 0xD9 <= key[0] <= 0xDB) else 224
    if length:
        return 56 + 4 * length
    return 32 if first >= 0xE0 else 0


def _step(view: memoryview, offset: int) -> tuple[int, int, int]:
    """Return what the item at ``offset`` is, its length or items, and where its body starts."""
    first = view[offset]
    offset += 1
    if first < 0x80 or first >= 0xE0:
        return _SCALAR, 0, offset
    if first < 0x90:
        return _MAP, first & 0x0F, offset
    if first < 0xA0:
        return _ARRAY, first & 0x0F, offset
    if first < 0xC0:
        return _BYTES, first & 0x1F, offset
    if first in _FIXED:
        return _SCALAR, _FIXED[first], offset
    if first not in _SIZED:
        raise ValueError("0xc1 is not msgpack")
    width, kind = _SIZED[first]
    if offset + width > len(view):
        raise ValueError("truncated msgpack")
    length = int.from_bytes(view[offset : offset + width], "big")
    return kind, length + (kind == _EXT), offset + width
