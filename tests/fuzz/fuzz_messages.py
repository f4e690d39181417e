"""Whole messages of strangers, of whatever msgpack there is, in both dialects."""

from dataclasses import replace
from itertools import islice, product
from struct import pack
from typing import Any

from msgpack import Timestamp, packb

from distributed_comm._serialize.settings import LoadOptions

from .drawing import Draws, seed
from .samples import dumped
from .strangers import STRANGER, refusal
from .writing import TAG, draw_msgpack

#: The length of what is long: enough for the bounds in proportion to the bytes to count.
SIZE = 256 * 1024
TUPLE, SET, FROZENSET = 1, 2, 3
#: Python's hash of an integer is its value modulo this: what differs by it has the same.
MODULUS = 2**61 - 1

PLAIN: list[Any] = [
    {"op": "add", "x": 1, "y": -2.5, "reply": True, "nothing": None, "bytes": b"\0\xff"},
    [1, (2, {"a": [(), frozenset({3})]}), {(1, "tuple"): "as a key"}, 2**100, {4}],
    [Timestamp(1, 2), 1.5, "größer", [[[[]]]], {}, b""],
]


def _array(items: list[bytes]) -> bytes:
    return b"\xdd" + pack(">I", len(items)) + b"".join(items)


def _map(items: list[bytes]) -> bytes:
    return b"\xdf" + pack(">I", len(items) // 2) + b"".join(items)


def _tagged(kind: int, items: list[bytes]) -> bytes:
    return _array([TAG, bytes([kind]), *items])


def _same_hash(count: int) -> list[bytes]:
    """Return integers that all have one hash, of 64 bits each."""
    return [packb(number) for n in range(8) if (number := n * MODULUS) < 2**64] * (count // 8)


def _numbers(count: int) -> list[bytes]:
    """Return integers of which each is compared with all before it in a table of this size."""
    return [packb(n << 45) for n in range(count)]


def _timestamps(count: int) -> list[bytes]:
    """Return keys whose hashes anybody can compute, each with a value."""
    return [b"\xd6\xff" + pack(">I", n) + b"\xc0" for n in range(count)]


def _many(item: bytes) -> bytes:
    """Return an array of as many of these as make it long."""
    return _array([item] * (SIZE // len(item)))


def _deep(levels: int, items: int) -> bytes:
    """Return arrays in each other, each of which says that it has as many items as could follow."""
    return (b"\xdd" + pack(">I", items)) * levels + b"\xc0" * items


#: Tuples that all have one hash.
COLLIDING = [[*map(packb, key)] for key in islice(product((-1, -2), repeat=14), 6_000)]
#: Frames 0 that take the most of what decodes them, for their size.
DIRECTED = {
    "nothing": b"",
    "empty maps": _many(b"\x80"),
    "maps of an empty map": _many(b"\x81\xa1a\x80"),
    "maps of different keys": _array([_map([packb(n), b"\xc0"]) for n in range(25_000)]),
    "empty arrays": _many(b"\x90"),
    "arrays of an array": _many(b"\x91\x90"),
    "empty extensions": _many(b"\xc7\x00\x05"),
    "extensions of one byte": _many(b"\xd4\x05\x00"),
    "floats": _array([b"\xcb" + pack(">d", n + 0.5) for n in range(SIZE // 9)]),
    "short floats": _array([b"\xca" + pack(">f", n + 0.5) for n in range(SIZE // 5)]),
    "timestamps": _array([b"\xd6\xff" + pack(">I", n) for n in range(SIZE // 6)]),
    "timestamps as keys": b"\xde" + pack(">H", 1_600) + b"".join(_timestamps(1_600)),
    "short texts": _many(b"\xa2\xc3\xa4"),
    "long integers": _many(b"\xcf" + b"\xff" * 8),
    "colliding keys": _map([each for n in _numbers(13_000) for each in (n, b"\xc0")]),
    "colliding items of a set": _tagged(SET, _numbers(13_000)),
    "colliding in many maps": _array(
        [_map([each for n in _numbers(3_000) for each in (n, b"\xc0")])] * 20
    ),
    "the same hash": _tagged(SET, _same_hash(8_000)),
    "colliding tuples": _tagged(SET, [_tagged(TUPLE, key) for key in COLLIDING[:1_700]]),
    "too many colliding tuples": _tagged(SET, [_tagged(TUPLE, key) for key in COLLIDING]),
    "colliding sets": _tagged(SET, [_tagged(FROZENSET, [n]) for n in _numbers(1_500)]),
    "empty tuples": _many(_tagged(TUPLE, [])),
    "empty sets": _many(_tagged(SET, [])),
    "tags": _array([TAG] * 6_000),
    "an integer of many bytes": _tagged(5, [packb(b"\x7f" * SIZE)]),
    "deep": b"\x91" * 500 + b"\x90",
    "deep, of many items": _deep(64, 60_000),
    "many sets of Dask's": _many(packb({"__Set__": True, "as-list": []})),
    "a set of Dask's": packb({"__Set__": True, "as-list": [n << 45 for n in range(13_000)]}),
    "a long text": packb("ä" * (SIZE // 2)),
    "long bytes": packb(bytes(SIZE)),
}
#: What of them a Dask peer's reader is tried with as well: it differs in maps and hooks.
OF_DASK = ["map", "extension", "timestamp", "Dask", "deep"]
#: Where the message comes from.
DRAWN, OURS, SPECIAL, RAW = range(4)
#: Bytes of an input that stands for one of DIRECTED. They take long, so no other does.
WHOLE = 3


def seeds() -> list[bytes]:
    """Return all that is directed in both dialects, plain messages, and beginnings to draw from."""
    special = [
        seed(typed, SPECIAL, number)
        for number, name in enumerate(DIRECTED)
        for typed in (0, 1)
        if typed or any(word in name for word in OF_DASK)
    ]
    plain = [seed(typed, OURS, n, 0) for n in range(len(PLAIN)) for typed in (0, 1)]
    drawn = [seed(1, DRAWN, kind, bytes(range(1, 60))) for kind in range(16)]
    return [*special, *plain, *drawn, seed(1, RAW, b"\x93\xc7\x00\xbd\x01\x02")]


def check(data: bytes) -> None:
    draws = Draws(data)
    flags, source = draws.number(4), draws.number(4)
    options = replace(STRANGER, typed=bool(flags & 1), deserialize=not flags & 2)
    if source == OURS:
        _check_ours(draws, options)
        return
    if source == SPECIAL and len(data) == WHOLE:
        frames = [[*DIRECTED.values()][draws.number(256) % len(DIRECTED)]]
    elif source == RAW:
        frames = [draws.rest()]
    else:
        frames = [draw_msgpack(draws), *(draws.piece() for _ in range(draws.number(3)))]
    refusal(frames, options)


def _check_ours(draws: Draws, options: LoadOptions) -> None:
    """Send what is plain, as it is or with some bytes changed."""
    frames = dumped(PLAIN[draws.number(256) % len(PLAIN)], typed=options.typed)
    changes = draws.number(4)
    for _ in range(changes):
        at = draws.number(1 << 16) % len(frames[0])
        frames[0] = frames[0][:at] + draws.take(1) + frames[0][at + 1 :]
    refused = refusal(frames, options)
    # an integer beyond 64 bits is no plain data for a Dask peer
    assert refused is None or changes or not options.typed, f"refused plain data: {refused}"
