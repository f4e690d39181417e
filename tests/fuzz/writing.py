"""msgpack out of an input: what a peer may write, which a library for msgpack would not."""

from struct import pack

from msgpack import packb

from .drawing import Draws

__all__ = ["draw_msgpack"]

#: What stands for itself: markers, and what surrounds a tag.
TEXTS = ["__Serialized__", "__Pickled__", "__Set__", "__Enum__", "as-list", "op", "reply", "status"]
TEXTS += ["uncaught-error", "exception_text", "traceback_text", "causes", "close", "serializers"]
TEXTS += ["key", "data", "x", "", "\x1b[2J\r\n", "é" * 70, "name", "__module__", "__name__"]
TAG = b"\xc7\x00\xbd"
#: How often the items of a container are repeated.
TIMES = (*[1] * 10, 2, 10, 300, 5000)
DEEPEST = 6
#: A message from here on gets no further containers.
LONGEST = 256 * 1024


def draw_msgpack(draws: Draws, depth: int = 0) -> bytes:
    """Return one object, mostly well-formed."""
    kind = draws.number(16 if depth < DEEPEST else 10)
    match kind:
        case 0:
            return bytes([draws.number(256)])  # a small integer, a constant, or half of something
        case 1:
            return draws.choice(FIXED)
        case 2:
            return packb(draws.choice(TEXTS))
        case 3:
            return packb(draws.piece().decode("utf-8", "replace"))
        case 4:
            return packb(draws.piece())
        case 5:
            number = int.from_bytes(draws.take(8), "little")
            return packb(number) if draws.number(2) else packb(-(number >> 1))
        case 6:
            return b"\xcb" + draws.take(8).rjust(8, b"\0")
        case 7:
            return _extension(draws)
        case 8:
            return draws.choice(TIMESTAMPS)
        case 9:
            return TAG
    return _container(kind, draws, depth)


FIXED = [b"\xc0", b"\xc2", b"\xc3", b"\xff", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7), b"\xc1"]
TIMESTAMPS = [
    b"\xd6\xff" + bytes(4),
    b"\xd7\xff" + b"\xff" * 8,
    b"\xc7\x0c\xff" + pack(">Iq", 999_999_999, 2**62),
    b"\xc7\x0c\xff" + pack(">Iq", 2**32 - 1, -(2**63)),
]


def _extension(draws: Draws) -> bytes:
    """Return an extension of any type, also of one that msgpack reserves."""
    data, number = draws.piece(), draws.number(256)
    if len(data) in {1, 2, 4, 8, 16} and draws.number(2):
        return bytes([0xD4 + len(data).bit_length() - 1, number]) + data
    return b"\xc8" + pack(">HB", len(data) % 2**16, number) + data[: 2**16 - 1]


def _container(kind: int, draws: Draws, depth: int) -> bytes:
    """Return an array or a map, perhaps behind a tag, perhaps of another length than it says."""
    items = [draw_msgpack(draws, depth + 1) for _ in range(draws.number(5))]
    times = draws.choice(TIMES)
    if kind == 15:  # what is different each time
        start = draws.number(1 << 16)
        items = [packb((start + n) << draws.choice([0, 0, 32]) % 2**64) for n in range(times)]
    elif sum(map(len, items)) * times <= LONGEST:
        items = items * times
    if kind in {12, 13}:  # a tagged array
        items = [TAG, bytes([draws.number(12)]), *items]
    lie = draws.choice([0] * 14 + [1, 2**20])
    if kind in {11, 14}:
        count = len(items) // 2
        return b"\xdf" + pack(">I", count + lie) + b"".join(items[: 2 * count])
    return b"\xdd" + pack(">I", len(items) + lie) + b"".join(items)
