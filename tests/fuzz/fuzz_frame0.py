"""A message of a peer that is not trusted: it can be read, or a documented error says why not."""

from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from distributed_comm._kernels import frame0 as kernel
from distributed_comm._serialize.compression import available
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions
from distributed_comm._serialize.wrappers import Serialize, to_serialize

from .comparing import agree, exact
from .drawing import Draws, seed
from .strangers import DOCUMENTED, open_message

LIMIT = 1024 * 1024
DEPTHS = [0, 1, 5, 512, 1024]

MESSAGES: list[Any] = [
    {"op": "add", "x": 1, "y": -2.5, "reply": True, "nothing": None, "bytes": b"\0\xff"},
    [1, (2, {"a": [(), frozenset({3})]}), {(1, "tuple"): "as a key"}, 2**100, {4}],
    {"op": "put", "data": Serialize(np.arange(30.0).reshape(5, 6).T), "keys": {"x", "y"}},
    [np.float64(1.5), np.arange(3, dtype=">i2"), np.datetime64(1, "s"), np.zeros(2, "i4,U3")],
    [np.ma.masked_array([1, 2], [True, False]), Serialize(bytearray(b"abc")), memoryview(b"ab")],
    [np.broadcast_to(np.arange(3), (1000, 3)), to_serialize("text"), Serialize(b"a" * 5000)],
    {"pickle": range(3), "failed": (i for i in ())},
]
if find_spec("scipy"):
    sparse = import_module("scipy.sparse")
    MESSAGES += [
        [Serialize(getattr(sparse, f"{kind}_matrix")(np.eye(4))) for kind in ("csr", "dok", "dia")],
        [Serialize(getattr(sparse, f"{kind}_array")(np.eye(4))) for kind in ("csc", "coo", "bsr")],
    ]
LONG = [Serialize(np.zeros(3000)), Serialize(bytes(20_000))]


def seeds() -> list[bytes]:
    """Return messages in both dialects, and compressed by each codec."""
    trusting = {"trusted": True, "on_error": "message"}
    found = [
        _seed(message, DumpOptions(typed=typed, **trusting))
        for message in MESSAGES
        for typed in (True, False)
    ]
    return found + [
        _seed(LONG, DumpOptions(typed=True, compression=codec)) for codec in available()
    ]


def _seed(message: Any, options: DumpOptions) -> bytes:
    *frames, last = map(bytes, dumps(message, options))
    parts = (seed(len(frame).to_bytes(2, "little"), frame) for frame in frames)
    return seed(int(options.typed), 3, len(frames), *parts, last)


def check(data: bytes) -> None:
    draws = Draws(data)
    flags, depth = draws.number(8), draws.choice(DEPTHS)
    frames = [draws.take(draws.number(1 << 16)) for _ in range(draws.number(16))]
    frames.append(draws.rest())
    for frame in frames:
        _check_kernel(exact(frame), depth)
    options = LoadOptions(
        typed=bool(flags & 1), deserialize=not flags & 2, max_depth=depth or 512, max_message=LIMIT
    )
    with suppress(*DOCUMENTED):
        open_message(frames, options)


def _check_kernel(frame: memoryview, depth: int) -> None:
    agree(kernel, "marked", frame)
    agree(kernel, "tagged", frame)
    agree(kernel, "scan", frame, depth)
