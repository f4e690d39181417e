"""numpy's arrays and scalars in Dask's frames: the memory as it is, the layout in the header.

| key | meaning |
|---|---|
| ``dtype`` | ``(0, code)``, see `numpy_dtypes`; from Dask also ``(1, pickle)`` |
| ``shape``, ``strides`` | of what is in the frame, in items and bytes; 0 for a repeated axis |
| ``broadcast_to`` | the shape that the repetition gives, if there is any |
| ``writeable`` | one bool |
| ``matrix`` | true for numpy.matrix |
| ``longdouble`` | the bits of its mantissa, where there is one; ours alone |
| ``pickle`` | true where Dask pickled the whole array; from Dask alone |

What is read is checked with Python's integers before numpy sees it: an axis either repeats
what lies in the frame, or is one of those that fill it, item behind item.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..._frames import Buffer
from .. import pickles
from ..gate import Gate
from ..type_registry import Registered, dask_header, type_name
from .buffers import integers, only_frame, show, sizes, with_writeable
from .numpy_dtypes import check_text, decode_dtype, encode_dtype, leaves

__all__ = [
    "deserialize_ndarray",
    "registrations",
    "serialize_ndarray",
    "unwrap_array",
    "wrap_array",
]

MANTISSA = np.finfo(np.longdouble).nmant


# -- writing --------------------------------------------------------------------------


def serialize_ndarray(array: Any) -> tuple[dict[str, Any], list[Buffer]]:
    """Return an array's header and its memory; only where that has gaps, a copy of it."""
    if type(array) is not np.ndarray:
        raise NotImplementedError(f"{type(array)} is a subclass of numpy.ndarray")
    header: dict[str, Any] = {"dtype": (0, encode_dtype(array.dtype))}
    flags = array.flags
    header["writeable"] = (flags.writeable,)
    if not flags.forc:  # contiguous in Fortran's order or C's
        if 0 in array.strides:
            return _serialize_repeated(array, header)
        array = np.ascontiguousarray(array)
    header["shape"] = array.shape
    header["strides"] = array.strides
    return _with_longdouble(header, array.dtype), [_memory(array)]


def _serialize_repeated(
    array: np.ndarray[Any, Any], header: dict[str, Any]
) -> tuple[dict[str, Any], list[Buffer]]:
    """Send an axis that repeats the same memory once."""
    axes = tuple(slice(None) if stride else slice(1) for stride in array.strides)
    once = array[axes]
    if not once.flags.forc:
        once = np.ascontiguousarray(once)
    steps = zip(array.strides, once.strides, strict=True)
    header |= {
        "shape": once.shape,
        "strides": tuple(own and step for own, step in steps),
        "broadcast_to": array.shape,
    }
    return _with_longdouble(header, array.dtype), [_memory(once)]


def _memory(array: np.ndarray[Any, Any]) -> memoryview:
    """Return the memory of an array without gaps; dates have no buffer, bytes do."""
    return array.ravel("K").view(np.uint8).data


def _with_longdouble(header: dict[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    if dtype.kind in "fcV" and any(leaf.char in "gG" for leaf in leaves(dtype)):
        header["longdouble"] = MANTISSA
    return header


# -- reading --------------------------------------------------------------------------


def deserialize_ndarray(
    header: dict[str, Any], frames: list[Buffer], gate: Gate, repeats: bool = True
) -> np.ndarray[Any, Any]:
    """Return the array, in the frame's memory; ValueError for a header that does not fit it.

    Raises UntrustedError if a stranger's header has a pickle, or an array that repeats its items
    and must not (``repeats=False``). One that may counts as what it looks like.
    """
    if header.get("pickle"):
        return _open(frames, gate)
    dtype = _dtype(header, gate)
    shape, strides = _layout(header)
    frame = only_frame(frames, "an array")
    _check_size(dtype, shape, strides, frame.nbytes)
    if not gate.trusted:
        _check_repetition(dtype, shape, frame.nbytes, repeats, gate)
    if header.get("longdouble", MANTISSA) != MANTISSA:
        raise ValueError(f"a long double that differs from ours, of {MANTISSA} bits")
    memory = with_writeable(header, frame, gate)
    try:
        array = np.ndarray(shape, dtype, memory, strides=strides)
    except (ValueError, TypeError, OverflowError, MemoryError) as exc:
        raise ValueError(f"an array of the shape {shape}: {exc}") from exc
    check_text(dtype, frame, gate)
    return array


def _open(frames: list[Buffer], gate: Gate) -> np.ndarray[Any, Any]:
    if not frames:
        raise ValueError("no frames for a pickle of an array")
    obj = pickles.loads(frames[0], frames[1:], gate.trusted)
    if not isinstance(obj, np.ndarray):
        raise ValueError(f"a pickle of {type(obj)}, expected an array")
    return obj


def _dtype(header: dict[str, Any], gate: Gate) -> np.dtype[Any]:
    entry = header.get("dtype")
    if type(entry) is not tuple or len(entry) != 2 or entry[0] not in (0, 1):
        raise ValueError(f"dtype is {show(entry)}, expected (0, code) or (1, pickle)")
    pickled, code = entry
    if not pickled:
        return decode_dtype(code, gate)
    dtype = pickles.loads(code, [], gate.trusted)
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"a pickle of {type(dtype)}, expected a dtype of what lies in a frame")
    return dtype


def _layout(header: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the whole array's shape and strides."""
    once = shape = sizes(header.get("shape"), "a shape")
    strides = integers(header.get("strides"), "strides")
    if header.get("broadcast_to"):
        shape = sizes(header["broadcast_to"], "a shape to broadcast to")
    if not len(once) == len(shape) == len(strides):
        raise ValueError(f"{len(strides)} strides and the shapes {once} and {shape}")
    return shape, strides


def _check_size(
    dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...], nbytes: int
) -> None:
    """Check that what is not repeated fills the frame, without gaps and overlaps."""
    axes = zip(strides, shape, strict=True)
    needed, dense = dtype.itemsize, True
    for stride, size in sorted(axis for axis in axes if axis[0] and axis[1] != 1):
        dense &= stride == needed
        needed *= size
    if 0 in shape:
        needed, dense = 0, True
    if needed != nbytes:
        raise ValueError(
            f"an array of the shape {shape} and the dtype {dtype.str} needs {needed} bytes, "
            f"and {nbytes} came"
        )
    if not dense:
        raise ValueError(f"the strides {strides} do not fill the {nbytes} bytes of the array")


def _check_repetition(
    dtype: np.dtype[Any], shape: tuple[int, ...], nbytes: int, repeats: bool, gate: Gate
) -> None:
    """Count how large a stranger's array looks, if that is more than its bytes.

    That large it becomes as soon as somebody computes with it. Of an array without items an item
    counts, because an empty one of the same dtype is all that it takes to allocate it.
    """
    items = math.prod(shape)
    size = max(items, 1) * max(dtype.itemsize, 1)
    if size <= nbytes:
        return
    if items and not repeats:
        pickles.check_trust(
            False, f"the message holds an array that repeats {nbytes} bytes until they are {size}"
        )
    gate.make(size - nbytes, f"an array of the shape {shape} and the dtype {dtype.str}")


# -- arrays that are part of something else -------------------------------------------


def wrap_array(array: Any) -> tuple[dict[str, Any], list[Buffer]]:
    """Return an array's frames, and the whole header that Dask has for one inside another.

    What repeats is written out: a library that computes with the parts would do that, to the
    size that a stranger chose.
    """
    header, frames = serialize_ndarray(array if array.flags.forc else np.ascontiguousarray(array))
    return dask_header(NDARRAY, header), frames


def unwrap_array(header: Any, frames: list[Buffer], gate: Gate) -> np.ndarray[Any, Any]:
    inner = header.get("sub-header") if type(header) is dict else None
    if type(inner) is not dict or header.get("type") != "numpy.ndarray":
        raise ValueError("a part that is no array, expected a header of numpy.ndarray")
    return deserialize_ndarray(inner, frames, gate, repeats=False)


# -- matrices and scalars -------------------------------------------------------------


def _serialize_matrix(matrix: Any) -> tuple[dict[str, Any], list[Buffer]]:
    if type(matrix) is not np.matrix:
        raise NotImplementedError(f"{type(matrix)} is a subclass of numpy.matrix")
    header, frames = serialize_ndarray(matrix.view(np.ndarray))
    return {**header, "matrix": True}, frames


def _deserialize_matrix(header: dict[str, Any], frames: list[Buffer], gate: Gate) -> Any:
    array = deserialize_ndarray(header, frames, gate)
    if array.ndim != 2:
        raise ValueError(f"a matrix of {array.ndim} dimensions, expected two")
    return array.view(np.matrix)


def _serialize_scalar(cls: type, scalar: Any) -> tuple[dict[str, Any], list[Buffer]]:
    if type(scalar) is not cls:
        raise NotImplementedError(f"{type(scalar)} is a subclass of {cls}")
    return serialize_ndarray(np.asarray(scalar))


def _deserialize_scalar(cls: type, header: dict[str, Any], frames: list[Buffer], gate: Gate) -> Any:
    array = deserialize_ndarray(header, frames, gate)
    if array.ndim or array.dtype.type is not cls:
        raise ValueError(
            f"{array.ndim} dimensions of {array.dtype.str}, expected one {cls.__name__}"
        )
    if cls is np.void and not gate.trusted:  # whose bytes are copied
        gate.make(array.nbytes, "a numpy.void")
        gate.keep(array.nbytes // 4, "a numpy.void")
        if array.dtype.fields is not None:
            array = array.copy()  # to be written to, so that it has no hash, which could be chosen
    return array[()]


def _scalar_types() -> Iterator[type]:
    """Yield numpy's scalar types that a dtype's text leads back to; not C's other names."""
    for cls in dict.fromkeys(np.sctypeDict.values()):
        dtype = np.dtype(cls)
        if dtype.kind in "biufcmM" and np.dtype(dtype.str).type is cls:
            yield cls
    yield np.void


def _writes_at_once(array: np.ndarray[Any, Any]) -> bool:
    return bool(array.flags.forc)


def _reads_at_once(header: dict[str, Any]) -> bool:
    """Whether no item has to be looked at: those of text are."""
    dtype = header.get("dtype")
    code = dtype[1] if type(dtype) is tuple and len(dtype) == 2 else None
    return isinstance(code, str) and code[1:2] in set("biufcmM")


NDARRAY = Registered(
    "numpy.ndarray",
    np.ndarray,
    serialize_ndarray,
    deserialize_ndarray,
    writes_at_once=_writes_at_once,
    reads_at_once=_reads_at_once,
)


def registrations() -> Iterator[Registered]:
    yield NDARRAY
    yield replace(NDARRAY, name="numpy.memmap", cls=np.memmap)  # an ndarray, as Dask sends it
    yield Registered("numpy.matrix", np.matrix, _serialize_matrix, _deserialize_matrix)
    for cls in _scalar_types():
        serialize, deserialize = partial(_serialize_scalar, cls), partial(_deserialize_scalar, cls)
        yield Registered(type_name(cls), cls, serialize, deserialize, known_to_dask=False)
