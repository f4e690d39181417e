"""Frame 0, looked at before msgpack is asked: the specification.

Frame 0 of a message is msgpack, and a peer wrote it. `scan` says whether it can be decoded
without taking more memory than its size allows, or longer than a peer may ask for, `marked`
and `tagged` whether what is decoded may have to be replaced. None of them builds an object.
"""

import re

from .._frames import Buffer

__all__ = ["MARKED", "SPECIAL", "marked", "scan", "tagged"]

#: What `scan` can be asked to allow.
MOST_LEVELS = 1024
#: What decoding may take in memory: so many bytes for each of msgpack, and so many besides.
MULTIPLE = 96
AMPLE = 64 * 1024
#: What a message may ask for, in steps of about 2 ns: to have its items made, and to have its
#: keys and the items of its sets compared, each with all before it if their hashes were chosen.
#: A fiftieth of a second, in which no other thread of the interpreter runs.
MOST_STEPS = 10_000_000
#: Steps that decoding an item takes, in msgspec or msgpack with hooks, rounded up: a number
#: that CPython has already, any other, an extension, a list or tuple, a dict, …
READY, NUMBER, EXTRA, LIST, DICT = 10, 30, 600, 150, 100
#: … each pair of a dict, and a container in one, which its garbage collector then looks at.
PAIR, TRACKED = 45, 150
#: Text of ASCII, other text, and bytes; and a step for each byte of text that is not ASCII, and
#: for 4 bytes of anything else.
ASCII, TEXT, BYTES = 40, 100, 25
#: Bytes of msgpack that cannot ask for much, unless there are others like them.
BRIEF = 1024
#: Steps that comparing two objects of a family may take …
OBJECT = 2_000
#: … and two extensions, of which msgpack compares some in Python.
EXTENSION = 64

# first byte -> (bytes of the length or value that follow, what it begins)
_SCALAR, _BYTES, _ARRAY, _MAP, _EXT, _SET = range(6)
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

#: What `scan` finds that may have to be replaced: tags and timestamps, or the names in `marked`.
SPECIAL, MARKED = 1, 2
MARKERS = {b"__Serialized__", b"__Pickled__", b"__Set__", b"__Enum__"}
MARKER_LENGTHS = {*map(len, MARKERS)}

_SET_TAGS = {2, 3}
_PLAIN_TAGS = {1, 4, 5}  # a tuple, an enum's member and an integer, of their size

_find_tag = re.compile(b"\xc7\x00\xbd").search
_find_timestamp = re.compile(b"[\x0c\xd6\xd7]\xff").search
_find_marker = re.compile(b"__(?:Serialized|Pickled|Set|Enum)__").search


def marked(data: Buffer) -> bool:
    """Return whether one of the names occurs that a map in frame 0 is marked with.

    >>> marked(b"a msgpack string __Set__"), marked(b"__init__")
    (True, False)
    """
    return _find_marker(data) is not None


def tagged(data: Buffer) -> bool:
    """Return whether the bytes of a tag occur, or a timestamp, an "ext" of the type -1.

    A tag is a msgpack "ext 8" of no bytes and the type 0xBD.

    >>> tagged(bytes.fromhex("93 c7 00 bd 01 02")), tagged(b"\\xc7\\x01\\xbd")
    (True, False)
    >>> tagged(bytes.fromhex("d6 ff 00 00 00 00")), tagged(bytes.fromhex("92 d6 ff"))
    (True, False)
    """
    if _find_tag(data):
        return True
    return _find_timestamp(data) is not None and _holds_timestamp(memoryview(data))


def _holds_timestamp(view: memoryview) -> bool:
    """Walk from item to item, as far as they are msgpack."""
    offset = 0
    while offset < len(view):
        first = view[offset]
        try:
            kind, length, offset = _step(view, offset)
        except ValueError:
            return False
        if kind in {_ARRAY, _MAP}:
            continue
        if offset + length > len(view):
            return False
        if (kind == _EXT or 0xD4 <= first <= 0xD8) and view[offset] == 0xFF:
            return True
        offset += length
    return False


def scan(
    data: Buffer, max_depth: int, spent: int = 0, most: int = MOST_STEPS, little: int = -1
) -> tuple[int, int, int] | None:
    """Check that ``data`` is one msgpack object that is safe to decode; return what that takes.

    That is the steps, added to those that the message has ``spent`` before, about how many bytes
    of memory, and SPECIAL or MARKED or both if something may have to be replaced. Raises
    ValueError for a truncated object, bytes after it, more than ``max_depth`` containers around an
    item, containers that together declare more items than bytes are left (msgpack allocates for
    every declared item at each level), an object that takes more memory than MULTIPLE times its
    bytes, and AMPLE, or more than ``most`` steps.

    Returns None if nothing has to be replaced and no more than ``little`` memory is taken.
    """
    if not 0 <= max_depth <= MOST_LEVELS:
        raise ValueError(f"a depth of {max_depth}, expected from 0 to {MOST_LEVELS}")
    view = memoryview(data)
    end = len(view)
    offset = 0
    steps = spent
    pending = 1  # items that were declared and have not been seen, at all levels
    levels: list[int] = []  # items left in each container around this one
    maps = [False]  # whether that, or what is around all, is a map
    cost = 0  # bytes of memory
    replaced = 0
    while pending:
        if offset >= end:
            raise ValueError("truncated msgpack")
        first = view[offset]
        kind, length, offset = _step(view, offset)
        pending -= 1
        body = view[offset : offset + (1 if kind in {_ARRAY, _MAP} else length)]
        cost += _cost(first, kind, length, body)
        steps += _work(first, kind, length, body, _count_item(levels, maps))
        if kind in {_ARRAY, _MAP}:
            items = length * (2 if kind == _MAP else 1)
            pending += items
            if pending > end - offset:
                raise ValueError("msgpack declares more items than bytes are left")
            if items:
                levels.append(items)
                maps.append(kind == _MAP)
            if len(levels) > max_depth:
                raise ValueError(f"msgpack nested deeper than {max_depth} levels")
        else:
            offset += length
            if offset > end:
                raise ValueError("truncated msgpack")
            replaced |= _replaced(first, kind, body)
        _check_work(steps, most, end)
    if offset != end:
        raise ValueError(f"{end - offset} bytes after the msgpack object")
    _check_cost(cost, end)
    if end > BRIEF or spent:
        steps = _add_steps(view, steps, most)
    return None if not replaced and cost <= little else (steps, cost, replaced)


def _replaced(first: int, kind: int, body: memoryview) -> int:
    """Return SPECIAL for a tag or a timestamp, MARKED for a text that may mark a map."""
    if kind == _EXT or 0xD4 <= first <= 0xD8:
        is_tag = first == 0xC7 and bytes(body) == b"\xbd"
        return SPECIAL if body[0] == 0xFF or is_tag else 0
    if kind == _BYTES and not 0xC4 <= first <= 0xC6 and len(body) in MARKER_LENGTHS:
        return MARKED if bytes(body) in MARKERS else 0
    return 0


def _count_item(levels: list[int], maps: list[bool]) -> bool:
    """Count an item of the container around it, behind those that are complete; is that a map?"""
    while levels and not levels[-1]:
        levels.pop()
        maps.pop()
    if levels:
        levels[-1] -= 1
    return maps[-1]


def _check_work(steps: int, most: int, size: int) -> None:
    if steps > most:
        raise ValueError(
            f"msgpack of {size} bytes with so many items that decoding it may take more than "
            f"{most} steps of 2 ns: only a trusted peer may send as many"
        )


def _check_cost(cost: int, size: int) -> None:
    if cost > MULTIPLE * size + AMPLE:
        raise ValueError(f"msgpack of {size} bytes that would take about {cost} in memory")


def _work(first: int, kind: int, length: int, body: memoryview, in_map: bool) -> int:
    """Return the steps that decoding an item takes, measured, and rounded up."""
    if kind == _ARRAY:
        return LIST + TRACKED * in_map
    if kind == _MAP:
        return DICT + PAIR * length + TRACKED * in_map
    if kind == _EXT or 0xD4 <= first <= 0xD8:
        return EXTRA + length // 8
    if kind == _BYTES and 0xC4 <= first <= 0xC6:
        return BYTES + length // 4
    if kind == _BYTES:
        return ASCII + length // 4 if bytes(body).isascii() else TEXT + length
    return NUMBER if length else READY


def _cost(first: int, kind: int, length: int, body: memoryview) -> int:
    """Return what CPython allocates for an item, measured, and rounded up.

    An array is a list or a tuple. A dict whose keys are all str is smaller, and the first of
    them tells: its first byte is the body. Small integers and the empty str and bytes are there
    already.
    """
    if kind == _ARRAY:
        return 56 + 16 * length
    if kind == _MAP:
        if length > 5:
            return 96 * length
        if not length:
            return 64
        return 184 if body and (0xA0 <= body[0] < 0xC0 or 0xD9 <= body[0] <= 0xDB) else 224
    if kind == _EXT or 0xD4 <= first <= 0xD8:
        return 176 + length
    if kind == _SCALAR:
        return 32 if length or first >= 0xE0 else 0
    if not length:
        return 0
    return 56 + length if 0xC4 <= first <= 0xC6 or bytes(body).isascii() else 56 + 4 * length


class _Level:
    """A container: what it may still hold, and what its hashed items have been."""

    __slots__ = ("first", "keys", "kind", "left", "reach", "times")

    def __init__(self, items: int, kind: int, times: int) -> None:
        self.left = items
        self.kind = kind
        self.times = times  # how often it may be compared, itself in a key or an item of a set
        self.keys = 0
        self.first = 0
        self.reach: int | None = None  # from the first, as long as they are dense integers

    def compare(self, integer: int | None) -> int:
        """Return how often the next key may be compared.

        Rising integers of which never a third is missing have slots of their own in a table,
        of which a third is free.
        """
        self.keys += 1
        if self.keys == 1 and integer is not None:
            self.first, self.reach = integer, 0
        elif self.reach is not None and integer is not None:
            distance = (integer - self.first) % 2**64
            if self.reach < distance < self.keys + self.keys // 2:
                self.reach = distance
                return self.times
            self.reach = None
        else:
            self.reach = None
        return max(self.times, 1) * self.keys

    def tag(self, sort: int) -> int:
        """Take the first byte behind a tag; return the steps of an object, or what may be one."""
        if self.kind != _ARRAY or sort in _PLAIN_TAGS:
            return 0
        self.kind = _SET
        if sort in _SET_TAGS:
            self.keys = -1  # of which this very number is none
            return 0
        return self.times * OBJECT


def _add_steps(view: memoryview, steps: int, most: int) -> int:
    """Return ``steps`` and what hashing the keys and the items of sets may take at worst.

    The hash of str and bytes has a secret in it. Any other can be chosen to collide. An item of
    a set in a key is compared as often as the key, and that with all before it in the set.
    """
    keys = offset = 0
    levels = [_Level(1, _ARRAY, 0)]
    while offset < len(view):
        first = view[offset]
        kind, length, offset = _step(view, offset)
        while not levels[-1].left:
            levels.pop()
        level = levels[-1]
        hashed = level.kind == _SET or (level.kind == _MAP and level.left % 2 == 0)
        level.left -= 1
        times = level.times
        if hashed and kind != _BYTES:
            keys += 1
            times = level.compare(_integer(first, view[offset : offset + length]))
        if kind in {_ARRAY, _MAP}:
            steps += times * (4 if kind == _ARRAY else OBJECT)
            if length:
                levels.append(_Level(length * (2 if kind == _MAP else 1), kind, times))
        else:
            offset += length
            fixed = 0xD4 <= first <= 0xD8
            weight = 4 + length
            if kind == _SCALAR and not fixed and not level.times:
                weight = 1
            if kind == _EXT and length == 1 and view[offset - 1] == 0xBD:
                if level.left:
                    steps += level.tag(view[offset])
            elif kind == _EXT or fixed:
                weight += EXTENSION
            steps += times * weight
        if steps > most:
            raise ValueError(
                f"{keys} keys or items of sets that are neither str nor bytes, which may take more "
                f"than {most} comparisons: only a trusted peer may send as many"
            )
    return steps


def _integer(first: int, body: memoryview) -> int | None:
    """Return an integer modulo 2**64, None for what is none."""
    if first < 0x80:
        return first
    if first >= 0xE0:
        return first - 256 + 2**64
    if 0xCC <= first <= 0xD3:
        return int.from_bytes(body, "big", signed=first >= 0xD0) % 2**64
    return None


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
