"""Frame 0, looked at before msgpack is asked: the specification.

Frame 0 of a message is msgpack, and a peer wrote it. `scan` says whether it can be decoded
without taking more memory than its size allows, `marked` and `tagged` whether what was
decoded may have to be replaced. None of them builds an object.
"""

import re

from ..frames import Buffer

__all__ = ["marked", "scan", "tagged"]

#: What `scan` can be asked to allow.
MOST_LEVELS = 1024
#: What decoding may take in memory: so many bytes for each of msgpack, and so many besides.
MULTIPLE = 96
AMPLE = 64 * 1024

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

_find_tag = re.compile(b"\xc7\x00\xbd").search
_find_marker = re.compile(b"__(?:Serialized|Pickled|Set|Enum)__").search


def marked(data: Buffer) -> bool:
    """Return whether one of the names occurs that a map in frame 0 is marked with.

    >>> marked(b"a msgpack string __Set__"), marked(b"__init__")
    (True, False)
    """
    return _find_marker(data) is not None


def tagged(data: Buffer) -> bool:
    """Return whether the bytes of a tag occur, a msgpack "ext 8" of no bytes and the type 0xBD.

    >>> tagged(bytes.fromhex("93 c7 00 bd 01 02")), tagged(b"\\xc7\\x01\\xbd")
    (True, False)
    """
    return _find_tag(data) is not None


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
