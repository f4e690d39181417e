"""Headers and frames that were right, changed as an input says: what damages bytes finds less."""

import math
from collections.abc import Sequence
from typing import Any

from .drawing import Draws

__all__ = ["change", "change_all", "change_frames", "draw_value"]

#: Numbers at which something overflows, or changes its sign.
EDGES = [0, 1, -1, *(2**n + d for n in (30, 31, 32, 62) for d in (-1, 0)), 2**63 - 1, -(2**63), -8]
#: What headers have as text: names of types, of families and of codecs, and codes of dtypes.
WORDS = [
    *["<i4", ">f8", "|O", "|V8", "|S2147483647", "<U1", "<U536870911", "<M8[D]", "<m8[s]", "|b1"],
    *["<f16", "<c16", "|V2147483647", "B", "d", "u", "@l", "list", "dict", "set", "tuple"],
    *["dask", "pickle", "msgpack", "error", "lz4", "zstd", "snappy", "zlib", "numpy.ndarray"],
    *["numpy.ma.core.MaskedArray", "scipy.sparse._csr.csr_matrix", "pyarrow.lib.Table", "cpu"],
]
#: Keys of the headers that there are.
KEYS = [
    *["dtype", "shape", "strides", "writeable", "broadcast_to", "longdouble", "pickle", "matrix"],
    *["names", "formats", "offsets", "itemsize", "aligned", "titles", "type", "sub-header"],
    *["data-header", "mask-header", "nframes", "fill-value", "hard-mask", "simple", "complex"],
    *["coo_header", "_shape", "start", "stop", "header", "extensions", "format", "typecode"],
    *["compression", "split-num-sub-frames", "split-offsets", "is-collection", "sub-headers"],
    *["frame-lengths", "type-serialized", "num-sub-frames", "serializer", "key", "lists"],
]
CONSTANTS: list[Any] = [None, True, False, (), {}, "", b"", 0.5, math.nan, -0.0]
#: How often an item is repeated.
TIMES = (*[1] * 6, 2, 3, 65, 1000)
DEEPEST = 4


def draw_value(draws: Draws, depth: int = 0) -> Any:
    """Return something that a header may have anywhere."""
    kind = draws.number(8 if depth < DEEPEST else 6)
    match kind:
        case 0:
            return draws.choice(EDGES)
        case 1:
            return draws.number(1 << 16) - 8
        case 2:
            return draws.choice(WORDS)
        case 3:
            return draws.piece()
        case 4:
            return draws.piece().decode("utf-8", "replace")
        case 5:
            return draws.choice(CONSTANTS)
        case 6:
            items = [draw_value(draws, depth + 1) for _ in range(draws.number(5))]
            times = draws.choice(TIMES)
            return tuple(items * (times if all(map(_is_flat, items)) else 1))
    return {draws.choice(KEYS): draw_value(draws, depth + 1) for _ in range(draws.number(4))}


def _is_flat(obj: Any) -> bool:
    """Return whether an item may be repeated often: within each other such would grow for ever."""
    return not isinstance(obj, tuple | dict)


def change(obj: Any, draws: Draws) -> Any:
    """Return a header with something in it changed, left out or added."""
    if isinstance(obj, dict) and obj:
        key = sorted(obj, key=str)[draws.number(256) % len(obj)]
        how = draws.number(8)
        if how == 0:
            return {name: value for name, value in obj.items() if name != key}
        if how == 1:
            return {**obj, draws.choice(KEYS): draw_value(draws)}
        if how > 2:
            return {**obj, key: change(obj[key], draws)}
    elif isinstance(obj, tuple) and obj:
        index = draws.number(1 << 16) % len(obj)
        before, item, behind = obj[:index], obj[index], obj[index + 1 :]
        how = draws.number(8)
        if how < 3:
            times = (0, 2, 65 if _is_flat(item) else 2)[how]
            return (*before, *[item] * times, *behind)
        if how > 3:
            return (*before, change(item, draws), *behind)
    return draw_value(draws)


def change_all(header: Any, frames: Sequence[bytes], draws: Draws) -> tuple[Any, list[bytes]]:
    """Return a header and its frames after up to three changes of each."""
    for _ in range(draws.number(4)):
        header = change(header, draws)
    return header, change_frames(frames, draws)


def change_frames(frames: Sequence[bytes], draws: Draws) -> list[bytes]:
    """Return frames of which up to three are changed, left out, doubled or moved."""
    changed = [*frames]
    for _ in range(draws.number(4)):
        how = draws.number(8)
        if how == 0 or not changed:
            changed.append(draws.piece())
            continue
        index = draws.number(256) % len(changed)
        if how == 1:
            del changed[index]
        elif how == 2:
            changed.append(changed[index])
        elif how == 3:
            changed[index] = changed[index][: draws.number(1 << 16)]
        else:
            changed[index] = _replace(changed[index], draws)
    return changed


def _replace(frame: bytes, draws: Draws) -> bytes:
    """Return a frame with a number, or any bytes, at some place; near the end as well."""
    at = draws.number(1 << 24) % (len(frame) + 1)
    if draws.number(2):
        filling = draws.take(1 + draws.number(8))
    else:
        width = draws.choice([4, 8])
        filling = (draws.choice(EDGES) % 2 ** (8 * width)).to_bytes(width, "little")
    return frame[:at] + filling + frame[at + len(filling) :]
