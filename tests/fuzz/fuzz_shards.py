"""Objects in several parts: compressed frames, shards, and collections of objects, nested."""

import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from msgpack import packb

from distributed_comm._serialize.compression import available

from .changing import change, change_frames
from .drawing import Draws, seed
from .fuzz_objects import form
from .samples import THEIRS, message
from .strangers import DOCUMENTED, STRANGER, open_message, use

OF_DASK = replace(STRANGER, typed=False)
KIB, MIB = 1024, 1024 * 1024
#: Levels of collections that are drawn.
DEEPEST = 5


class Part(NamedTuple):
    """A header, its frames, and the object that they are; it is None where that is not known."""

    header: dict[str, Any]
    frames: list[bytes]
    obj: Any


# -- drawn -----------------------------------------------------------------------------------


def _leaf(draws: Draws) -> Part:
    """Return an object of one of the families that a stranger's may have."""
    data = draws.piece()
    if draws.number(2):
        obj = draws.choice([1, "text", None, (1, (2.5, "x")), {"a": (b"", True)}])
        return Part({"serializer": "msgpack"}, _cut(packb(obj), draws.number(3)), obj)
    header = {"serializer": "dask", "type": "bytes", "sub-header": {}}
    return Part(header, _cut(data, draws.number(3)), data)


def _cut(data: bytes, times: int) -> list[bytes]:
    """Return pieces that Dask may have made of one frame, one at least."""
    if not times:
        return [data]
    size = len(data) // (times + 1) + 1
    return [data[start : start + size] for start in range(0, len(data), size)] or [b""]


def _collection(draws: Draws, depth: int) -> Part:
    """Return a collection, each of whose items is drawn, and may be one."""
    parts = [_draw(draws, depth + 1) for _ in range(draws.number(4))]
    kind = draws.choice(["list", "tuple", "dict"])
    headers = [part.header for part in parts]
    objs = [part.obj for part in parts]
    if kind == "dict":
        headers = [{**header, "key": f"k{n}"} for n, header in enumerate(headers)]
    header = {
        "is-collection": True,
        "type-serialized": kind,
        "sub-headers": tuple(headers),
        "frame-lengths": tuple(len(part.frames) for part in parts),
    }
    obj = {f"k{n}": each for n, each in enumerate(objs)} if kind == "dict" else objs
    return Part(
        header,
        [frame for part in parts for frame in part.frames],
        tuple(objs) if kind == "tuple" else obj,
    )


def _draw(draws: Draws, depth: int = 0) -> Part:
    if depth < DEEPEST and draws.number(2):
        return _collection(draws, depth)
    return _leaf(draws)


def _split(part: Part, draws: Draws) -> Part:
    """Return the frames in shards, as Dask cuts large ones."""
    shards = [_cut(frame, draws.number(3)) for frame in part.frames]
    counts = [*map(len, shards)]
    header = {
        **part.header,
        "split-num-sub-frames": tuple(counts),
        "split-offsets": tuple(sum(counts[:n]) for n in range(len(counts))),
    }
    return Part(header, [frame for some in shards for frame in some], part.obj)


def _compress(part: Part, draws: Draws) -> Part:
    """Return the frames, some of them compressed by some codec."""
    names = [draws.choice([None, *available()]) for _ in part.frames]
    frames = [
        frame if name is None else bytes(COMPRESS[name](frame))
        for name, frame in zip(names, part.frames, strict=True)
    ]
    return Part({**part.header, "compression": tuple(names)}, frames, part.obj)


COMPRESS: dict[str, Callable[[bytes], Any]] = {"zlib": zlib.compress}
if find_spec("lz4"):
    COMPRESS["lz4"] = import_module("lz4.block").compress
if find_spec("zstandard"):
    COMPRESS["zstd"] = import_module("zstandard").ZstdCompressor().compress
if find_spec("cramjam"):
    COMPRESS["snappy"] = import_module("cramjam").snappy.compress_raw


# -- directed --------------------------------------------------------------------------------


def _bytes(names: tuple[Any, ...], frames: list[bytes], kind: str = "bytes") -> Part:
    header = {"serializer": "dask", "type": kind, "sub-header": {}, "compression": names}
    return Part(header, frames, None)


def _nested(levels: int) -> Part:
    header: Any = {"serializer": "dask", "type": "bytes", "sub-header": {}}
    for _ in range(levels):
        header = _header("list", (header,), (1,))
    return Part(header, [b"x"], None)


def _header(kind: str, headers: tuple[Any, ...], lengths: tuple[int, ...]) -> dict[str, Any]:
    named = {"type-serialized": kind, "sub-headers": headers, "frame-lengths": lengths}
    return {"is-collection": True, **named}


def _shards(counts: list[int], offsets: list[int], frames: list[bytes]) -> Part:
    header = {"split-num-sub-frames": tuple(counts), "split-offsets": tuple(offsets)}
    whole = {"serializer": "dask", "type": "bytes", "sub-header": {}, **header}
    return Part(whole, frames, None)


@cache
def directed() -> dict[str, Part]:
    """Return what few bytes make large or slow."""
    zeros = bytes(16 * MIB)
    found = {}
    for name in available():
        bomb = bytes(COMPRESS[name](zeros))
        found[f"16 MiB, {name}"] = _bytes((name,), [bomb])
        found[f"16 MiB of msgpack, {name}"] = Part(
            {"serializer": "msgpack", "compression": (name,)},
            [bytes(COMPRESS[name](b"\xdd\x00\x10\x00\x00" + bytes(MIB)))],
            None,
        )
        small = bytes(COMPRESS[name](bytes(MIB)))
        found[f"1 MiB 50 times, {name}"] = _bytes((name,) * 50, [small] * 50)
        found[f"twice, {name}"] = _bytes((name,), [bytes(COMPRESS[name](bomb))])
    found["lz4 of 2 GiB"] = _bytes(("lz4",), [b"\xff\xff\xff\x7f" + bytes(20)])
    found["snappy of 4 GiB"] = _bytes(("snappy",), [b"\xff\xff\xff\xff\x0f" + bytes(20)])
    found["zstd of 2^62"] = _bytes(
        ("zstd",), [b"\x28\xb5\x2f\xfd\xe0" + bytes(7) + b"\x40" + b"\x01\x00\x00"]
    )
    found["many shards"] = _shards([2] * 5_000, [*range(0, 10_000, 2)], [b"x"] * 10_000)
    found["one shard again and again"] = _shards([1] * 500, [0] * 500, [bytes(64 * KIB)])
    found["deep"] = _nested(150)
    leaf = {"serializer": "msgpack"}
    found["many items"] = Part(
        _header("list", (leaf,) * 3_000, (1,) * 3_000), [b"\1"] * 3_000, None
    )
    found["items of no frames"] = Part(
        _header("list", ({**leaf, "x": 1},) * 3_000, (0,) * 3_000), [], None
    )
    frames = [packb((-1 - n % 2,) * (n // 2)) for n in range(500)]
    found["a set"] = Part(_header("set", (leaf,) * 500, (1,) * 500), frames, None)
    keys = tuple({**leaf, "key": n << 45} for n in range(3_000))
    found["keys"] = Part(_header("dict", keys, (1,) * 3_000), [b"\1"] * 3_000, None)
    found["a text of an error"] = Part({"serializer": "error"}, [b"\x1b[2J\xff" * 9_000], None)
    return found


# -- the target ------------------------------------------------------------------------------

DRAWN, CHANGED, DIRECTED = 0, 1, 2
#: Bytes of an input that stands for something directed, as it is.
WHOLE = 3


def seeds() -> list[bytes]:
    """Return objects in parts of every kind, and all that is directed."""
    drawn = [seed(n % 3, DRAWN, n % 4, 1, 3, n % 3, *SHAPES[n % len(SHAPES)]) for n in range(36)]
    changed = [seed(n % 3, CHANGED, n % 4, 1, 3, n % 3, *SHAPES[n % 3], 9 * n) for n in range(9)]
    return [*drawn, *changed, *(seed(n % 3, DIRECTED, n) for n in range(len(directed())))]


#: A leaf or two as `_draw` reads them: pieces and cuts.
_BYTES, _PLAIN = (0, 0, 9, b"some text", 0, 2), (0, 0, 0, 1, 4, 1)
SHAPES: list[tuple[int | bytes, ...]] = [
    (*_BYTES, 1, 2, 3),
    (1, 2, *_PLAIN, *_BYTES, 2, 0, 1, 2, 0, 1),
    (1, 3, *_PLAIN, 1, 1, *_BYTES, 0, *_PLAIN, 1, 1, 2, 3, 4),
    (0, 14, 200, bytes(200), 0, 2, 1, 2, 3),
]


def check(data: bytes) -> None:
    draws = Draws(data)
    how, kind = draws.number(3), draws.number(3)
    if kind == DIRECTED and len(data) == WHOLE:
        part = [*directed().values()][draws.number(256) % len(directed())]
    else:
        steps = draws.number(4)
        part = _draw(draws)
        if steps & 1:
            part = _split(part, draws)
        if steps & 2 and part.frames:
            part = _compress(part, draws)
    header, frames = part.header, part.frames
    if kind == CHANGED:
        header, frames = change(header, draws), change_frames(frames, draws)
    _check(message(header, frames, how), how, None if kind else part)


def _check(frames: list[bytes], how: int, expected: Part | None) -> None:
    """Open a message; it holds what was sent, if that was not changed."""
    options = OF_DASK if how == THEIRS else STRANGER
    found = None
    refused = True
    with suppress(*DOCUMENTED):
        found = open_message(frames, options)
        refused = False
    use(found)
    if expected is not None:
        assert not refused, "an honest object"
        assert form(found[0] if how == THEIRS else found) == form(expected.obj)
