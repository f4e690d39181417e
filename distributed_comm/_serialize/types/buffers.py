"""The standard library's buffers in Dask's frames: bytes, bytearray, memoryview, array.array.

A frame is the object's memory. What its type keeps apart from that is in the header; the
reader compares it with the frame before it uses it, and raises ValueError.
"""

import math
import sys
from array import array
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from typing import Any

from ..._frames import Buffer
from ..gate import Gate
from ..type_registry import Registered

__all__ = [
    "flat",
    "integers",
    "joined",
    "only_frame",
    "registrations",
    "show",
    "sizes",
    "with_writeable",
]

#: struct's codes of one size everywhere, by kind and size: "<l" has 4 bytes, native "l" 8.
STANDARD = {"b": "b1", "B": "B1", "?": "?1", "c": "c1", "f": "f4", "d": "d8"}
STANDARD |= {code: f"i{size}" for code, size in zip("hilq", (2, 4, 4, 8), strict=True)}
STANDARD |= {code: f"I{size}" for code, size in zip("HILQ", (2, 4, 4, 8), strict=True)}
NATIVE = {kind: code for code, kind in STANDARD.items() if code not in "lL"}
#: More dimensions than memoryview, and nearly as many as numpy, can have.
MAX_DIMENSIONS = 64
INTEGER = {int}  # and no bool
#: Bytes that are copied at once, 2 ms or so: no other thread runs meanwhile.
PIECE = 4 * 1024 * 1024


# -- what the headers of all types share ----------------------------------------------


def only_frame(frames: list[Buffer], what: str) -> memoryview:
    """Return the one frame that there should be."""
    if len(frames) != 1:
        raise ValueError(f"{len(frames)} frames for {what}, expected one")
    return flat(frames[0])


def flat(buffer: Any) -> memoryview:
    """Return the memory of a buffer without gaps as single bytes."""
    view = memoryview(buffer)
    if view.format == "B" and view.ndim == 1:
        return view
    if 0 in (view.shape or ()):  # which memoryview cannot cast
        return memoryview(b"")
    return view.cast("B")


def sizes(value: Any, what: str, limit: int | None = MAX_DIMENSIONS) -> tuple[int, ...]:
    """Check that a value is a tuple of sizes, and return it."""
    if integers(value, what, limit) and min(value) < 0:
        raise ValueError(f"{what} with {min(value)} in it, expected integers from 0 up")
    return value  # type: ignore[no-any-return]


def integers(value: Any, what: str, limit: int | None = MAX_DIMENSIONS) -> tuple[int, ...]:
    """Check that a value is a tuple of integers, and return it."""
    if type(value) is not tuple or (limit is not None and len(value) > limit):
        raise ValueError(f"{what} of {show(value)}, expected at most {limit} integers")
    if not {*map(type, value)} <= INTEGER:
        raise ValueError(f"{what} with other items than integers")
    return value


def with_writeable(header: dict[str, Any], frame: memoryview, gate: Gate) -> memoryview:
    """Return the frame read-only or writable, as ``header["writeable"]`` says for the sender's.

    A frame that cannot be written to is copied; without the entry it stays as it came.
    """
    if "writeable" not in header:
        return frame
    entry = header["writeable"]
    if type(entry) is not tuple or len(entry) != 1 or type(entry[0]) is not bool:
        raise ValueError(f"writeable is {show(entry)}, expected one bool")
    if not entry[0]:
        return frame.toreadonly()
    return memoryview(joined([frame], gate)) if frame.readonly else frame


def joined(frames: list[Buffer], gate: Gate) -> bytearray:
    """Return a copy of the bytes of all frames."""
    if len(frames) == 1 and len(frames[0]) <= PIECE:
        gate.make(len(frames[0]), "a copy of a frame")
        return bytearray(frames[0])
    result = bytearray()
    for piece in _pieces(frames, gate):
        result += piece
    return result


def _pieces(frames: list[Buffer], gate: Gate) -> Iterator[Buffer]:
    """Yield the frames to be copied, a long one in pieces, between which other threads may run."""
    for frame in frames:
        nbytes = len(frame)
        gate.make(nbytes, "a copy of a frame")
        if nbytes <= PIECE:
            yield frame
        else:
            view = memoryview(frame)
            yield from (view[start : start + PIECE] for start in range(0, nbytes, PIECE))


def show(value: Any) -> str:
    """Return an integer, or else only the type, of what may be large or nested."""
    if type(value) is tuple:
        return f"{len(value)} items"
    return str(value) if type(value) is int else f"a {type(value).__name__}"


# -- bytes and bytearray --------------------------------------------------------------


def _serialize_bytes(cls: type, obj: Buffer) -> tuple[dict[str, Any], list[Buffer]]:
    if type(obj) is not cls:
        raise NotImplementedError(f"{type(obj)} is a subclass of {cls}")
    return {}, [obj]


def _deserialize_bytes(cls: type, _header: dict[str, Any], frames: list[Buffer], gate: Gate) -> Any:
    if len(frames) == 1 and type(frames[0]) is cls:
        return frames[0]
    if cls is bytearray:
        return joined(frames, gate)
    content = BytesIO()
    for piece in _pieces(frames, gate):
        content.write(piece)
    return content.getvalue()  # the very object that was written to


# -- memoryview -----------------------------------------------------------------------


def _native_format(view: memoryview) -> str:
    """Return one of the formats that memoryview can be cast to, of the same elements."""
    code = view.format.removeprefix("@")
    if view.format[0] in ("=", "<" if sys.byteorder == "little" else ">"):
        code = NATIVE.get(STANDARD.get(view.format[1:], ""), "")
    if view.itemsize == 1 and view.format[0] in "<>=!":
        code = view.format[1:]  # bytes have no order
    try:
        if code and _cast(memoryview(bytes(view.itemsize)), code).nbytes == view.itemsize:
            return code
    except ValueError:
        pass
    raise NotImplementedError(f"a memoryview of the format {view.format!r}")


def _cast(view: Any, code: str, *shape: tuple[int, ...]) -> memoryview:
    result: memoryview = view.cast(code, *shape)
    return result


def _serialize_memoryview(view: memoryview) -> tuple[dict[str, Any], list[Buffer]]:
    header = {
        "format": _native_format(view),
        "itemsize": view.itemsize,  # a long's is the platform's
        "shape": view.shape,
        "writeable": (not view.readonly,),
    }
    if not view.nbytes and view.ndim > 1:
        raise NotImplementedError("an empty memoryview of several dimensions cannot be made")
    return header, [flat(view if view.c_contiguous else view.tobytes())]


def _deserialize_memoryview(header: dict[str, Any], frames: list[Buffer], gate: Gate) -> memoryview:
    frame = with_writeable(header, only_frame(frames, "a memoryview"), gate)
    code, shape = header.get("format"), sizes(header.get("shape"), "a shape")
    if type(code) is not str or len(code.removeprefix("@")) != 1:
        raise ValueError(f"a memoryview of the format {show(code)}, expected one native code")
    try:
        itemsize = _cast(frame[:0], code).itemsize
    except ValueError as exc:
        raise ValueError(f"a memoryview of the format {code!r}: {exc}") from exc
    _check_itemsize(header, itemsize)
    if math.prod(shape) * itemsize != frame.nbytes:
        raise ValueError(
            f"a memoryview of the shape {shape} with items of {itemsize} bytes in a frame "
            f"of {frame.nbytes}"
        )
    if 0 not in shape:
        return _cast(frame, code, shape)
    if len(shape) > 1:
        raise ValueError(f"an empty memoryview of the shape {shape}, expected one dimension")
    return _cast(frame, code)


def _check_itemsize(header: dict[str, Any], itemsize: int) -> None:
    there = header.get("itemsize", itemsize)
    if type(there) is not int or there != itemsize:
        raise ValueError(f"items of {show(there)} bytes, and of {itemsize} bytes here")


# -- array.array ----------------------------------------------------------------------


def _serialize_array(obj: "array[Any]") -> tuple[dict[str, Any], list[Buffer]]:
    if type(obj) is not array:
        raise NotImplementedError(f"{type(obj)} is a subclass of array.array")
    # "writeable" is of no use to us; Dask's headers have it.
    header = {"typecode": obj.typecode, "itemsize": obj.itemsize, "writeable": (None,)}
    return header, [flat(obj)]


def _deserialize_array(header: dict[str, Any], frames: list[Buffer], gate: Gate) -> "array[Any]":
    code = header.get("typecode")
    if type(code) is not str or len(code) != 1:
        raise ValueError(f"an array of the typecode {show(code)}, expected one letter")
    result = array(code)  # ValueError for what is none
    _check_itemsize(header, result.itemsize)
    for piece in _pieces(frames, gate):
        result.frombytes(piece)
    return result


def registrations() -> Iterator[Registered]:
    for cls in (bytes, bytearray):
        serialize, deserialize = partial(_serialize_bytes, cls), partial(_deserialize_bytes, cls)
        yield Registered(cls.__name__, cls, serialize, deserialize)
    yield Registered("memoryview", memoryview, _serialize_memoryview, _deserialize_memoryview)
    yield Registered("array.array", array, _serialize_array, _deserialize_array)
