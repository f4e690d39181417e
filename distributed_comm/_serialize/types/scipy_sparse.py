"""scipy's sparse matrices and arrays in Dask's frames: their attributes, the arrays in frames.

Dask sends ``vars(matrix)``: what msgpack takes under ``simple``, arrays under ``complex`` with
the frames that are theirs, and puts them back into an empty object. We hand the arrays to the
constructor instead, and have every index checked, for scipy's C++ trusts them.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..._frames import Buffer
from .. import pickles
from ..gate import Gate
from ..type_registry import Registered, dask_header, type_name
from .buffers import show, sizes
from .numpy_arrays import unwrap_array, wrap_array

__all__ = ["registrations"]

Header = dict[str, Any]

#: Items of a stranger's matrix that becomes a dict …
MOST_KEYS = 2_000
#: … the steps, see `Gate`, for each of them, and those to compare two whose hashes are the same.
KEY_STEPS, COLLISION_STEPS = 500, 22
#: Where there are fewer places than this, next to none have the same hash: it is one of 2**64.
FEW_PLACES = 2**60
#: Steps that a matrix takes whatever its size, and its array of indices for an axis.
OBJECT_STEPS, AXIS_STEPS = 30_000, 4_000
#: Steps to look at an index: for the largest and the smallest, to widen it, and to compare it.
INDEX_STEPS = 4
#: Bytes of an index in the set by which scipy finds that no diagonal is there twice.
DIAGONAL_BYTES = 64


# -- writing --------------------------------------------------------------------------


def _serialize(registered: Registered, matrix: Any) -> tuple[Header, list[Buffer]]:
    if type(matrix) is not registered.cls:
        raise NotImplementedError(f"{type(matrix)} is a subclass of {registered.cls}")
    simple: Header = {}
    parts: Header = {}
    frames: list[Buffer] = []
    for name, value in vars(matrix).items():
        if type(value) in (np.ndarray, tuple) and name != "_shape":
            header, own = _wrap(value)
            parts[name] = {"header": header, "start": len(frames), "stop": len(frames) + len(own)}
            frames += own
        elif name == "_shape":
            simple[name] = tuple(map(int, value))
        elif type(value) in (bool, int):
            simple[name] = value
        else:
            raise NotImplementedError(f"{type(matrix)} with {name} of {type(value)}")
    pickled = dask_header(registered, {})["type-serialized"]
    header = {"serializer": "dask", "type-serialized": pickled, "simple": simple, "complex": parts}
    return header, frames


def _wrap(value: Any) -> tuple[Header, list[Buffer]]:
    """Return an array's header and frames, or those of a tuple of arrays."""
    if type(value) is np.ndarray:
        return wrap_array(value)
    wrapped = [wrap_array(array) for array in value]
    header = {
        "is-collection": True,
        "type-serialized": "tuple",
        "sub-headers": tuple(header for header, _ in wrapped),
        "frame-lengths": tuple(len(frames) for _, frames in wrapped),
    }
    return header, [frame for _, frames in wrapped for frame in frames]


# -- reading --------------------------------------------------------------------------


class _Parts:
    """The attributes of a matrix that are arrays, read from its header and frames."""

    def __init__(self, header: Header, frames: list[Buffer], gate: Gate) -> None:
        parts = header.get("complex")
        if type(parts) is not dict or not all(type(part) is dict for part in parts.values()):
            raise ValueError(f"attributes of {show(parts)}, expected a map of maps")
        self._parts, self._frames, self._gate = parts, frames, gate

    def array(self, name: str) -> Any:
        return unwrap_array(*self._find(name), self._gate)

    def arrays(self, *names: str) -> tuple[Any, ...]:
        return tuple(map(self.array, names))

    def coordinates(self) -> tuple[Any, ...]:
        """Return an array for each axis; before scipy 1.13 there were two by name."""
        if "coords" not in self._parts:
            return self.arrays("row", "col")
        header, frames = self._find("coords")
        inner = header.get("sub-headers") if type(header) is dict else None
        if type(inner) is not tuple or len(inner) != len(frames):
            raise ValueError(f"coordinates of {show(header)}, expected a tuple of arrays")
        pairs = zip(inner, frames, strict=True)
        return tuple(unwrap_array(header, [frame], self._gate) for header, frame in pairs)

    def _find(self, name: str) -> tuple[Any, list[Buffer]]:
        """Return the header of an attribute and its frames."""
        part, frames = self._parts.get(name), self._frames
        if part is None:
            raise ValueError(f"a sparse matrix without the attribute {name}")
        start, stop = part.get("start"), part.get("stop")
        if type(start) is not int or type(stop) is not int or not 0 <= start <= stop <= len(frames):
            raise ValueError(f"frames {show(start)} to {show(stop)} for {name}, of {len(frames)}")
        return part.get("header"), frames[start:stop]


def _compressed(parts: _Parts) -> tuple[Any, ...]:
    return parts.arrays("data", "indices", "indptr")


def _by_coordinates(parts: _Parts) -> tuple[Any, ...]:
    return parts.array("data"), parts.coordinates()


def _diagonals(parts: _Parts) -> tuple[Any, ...]:
    return parts.arrays("data", "offsets")


def _deserialize(
    cls: Any,
    read: Callable[[_Parts], tuple[Any, ...]],
    header: Header,
    frames: list[Buffer],
    gate: Gate,
) -> Any:
    simple = header.get("simple")
    shape = sizes(simple.get("_shape") if type(simple) is dict else None, "a shape")
    parts = read(_Parts(header, frames, gate))
    for part in parts[1:]:
        for indices in part if type(part) is tuple else (part,):
            if indices.dtype.kind != "i" or indices.ndim != 1:
                raise ValueError(f"indices of {indices.dtype.str} in {indices.ndim} dimensions")
            if not gate.trusted:
                _count_indices(indices, shape, gate)
    if not gate.trusted:
        _count(*parts, gate=gate)
    _check_order(*parts)
    try:
        matrix = cls(parts, shape=shape)
        if hasattr(matrix, "check_format"):
            matrix.check_format(full_check=True)
    except (ValueError, TypeError, IndexError, ArithmeticError, MemoryError) as exc:
        raise ValueError(f"a {cls.__name__} of the shape {shape}: {exc!s:.200}") from exc
    return _check_diagonals(matrix)


def _count_indices(indices: Any, shape: tuple[int, ...], gate: Gate) -> None:
    """Count what scipy makes of a stranger's indices: it has all of 4 bytes, or all of 8."""
    narrow = max(shape, default=0) < 2**31 and len(shape) < 3
    if indices.dtype != (np.int32 if narrow else np.int64):
        gate.make(12 * indices.size, "indices")  # of more than two dimensions first 4, and then 8
    gate.work(AXIS_STEPS + INDEX_STEPS * indices.size, "indices")


def _count(data: Any, indices: Any, pointers: Any = None, *, gate: Gate) -> None:
    """Count what else scipy makes of a stranger's matrix."""
    gate.work(OBJECT_STEPS, "a sparse matrix")
    if data.dtype.kind not in "biufc":
        raise ValueError(f"a sparse matrix of {data.dtype.str}, expected numbers")
    if not data.dtype.isnative:
        gate.make(data.nbytes, "a matrix of another order of bytes")
        gate.work(data.size, "a matrix of another order of bytes")
    if pointers is not None:
        gate.make(9 * pointers.size, "index pointers")  # the steps, and whether they go back
        if pointers.size and pointers[-1] < len(data) / 2:  # scipy copies what is in use
            gate.make(data.nbytes // 2 + 4 * indices.size, "half a sparse matrix")
    elif type(indices) is not tuple:  # in a set, in which strangers can choose what collides
        gate.make(DIAGONAL_BYTES * indices.size, "diagonals")
        gate.work(indices.size**2, "diagonals")


def _check_order(_data: Any, _indices: Any, pointers: Any = None) -> None:
    """Check index pointers, which scipy does not where the last of them is 0 or less."""
    if pointers is not None and not (pointers[1:] >= pointers[:-1]).all():
        raise ValueError("index pointers that go back")


def _check_diagonals(matrix: Any) -> Any:
    """Check the offsets of diagonals, with which scipy counts without a look at overflow."""
    offsets = getattr(matrix, "offsets", None)
    if offsets is not None and offsets.size:
        rows, columns = matrix.shape
        if offsets.min() < -rows or offsets.max() > columns:
            raise ValueError(f"a diagonal outside of the shape {matrix.shape}")
    return matrix


# -- dictionaries of keys, which go by their coordinates ------------------------------


def _serialize_dok(coo: Registered, matrix: Any) -> tuple[Header, list[Buffer]]:
    if type(matrix) is not sp.dok_matrix:
        raise NotImplementedError(f"{type(matrix)} is a subclass of scipy.sparse.dok_matrix")
    header, frames = _serialize(coo, matrix.tocoo())
    return {"coo_header": header}, frames


def _deserialize_dok(coo: Registered, header: Header, frames: list[Buffer], gate: Gate) -> Any:
    inner = header.get("coo_header")
    if type(inner) is not dict:
        raise ValueError(f"coo_header is {show(inner)}, expected a map")
    matrix = coo.deserialize(inner, frames, gate)
    if not gate.trusted:
        _count_keys(matrix, gate)
    return matrix.todok()


def _count_keys(matrix: Any, gate: Gate) -> None:
    """Count the dict of a stranger's matrix: the keys can be chosen so that all of them collide."""
    count = matrix.nnz
    if count > MOST_KEYS:
        pickles.check_trust(
            False, f"the message holds a dok_matrix of {count} items, more than {MOST_KEYS}"
        )
    what = f"a dok_matrix of {count} items"
    gate.make(200 * count, what)
    gate.work(KEY_STEPS * count, what)
    if math.prod(matrix.shape) > FEW_PLACES:
        gate.keep(COLLISION_STEPS * count**2 // 2, what)


def _register(kind: str, read: Any, container: str) -> Registered:
    cls = getattr(sp, f"{kind}_{container}")

    def serialize(matrix: Any) -> tuple[Header, list[Buffer]]:
        return _serialize(registered, matrix)

    # Dask knows the matrices alone, and pickles the arrays.
    known = container == "matrix"
    deserialize = partial(_deserialize, cls, read)
    registered = Registered(type_name(cls), cls, serialize, deserialize, known_to_dask=known)
    return registered


def registrations() -> Iterator[Registered]:
    readers = {
        **dict.fromkeys(("csr", "csc", "bsr"), _compressed),
        "coo": _by_coordinates,
        "dia": _diagonals,
    }
    for kind, read in readers.items():
        for container in ("matrix", "array"):
            yield _register(kind, read, container)
    coo = _register("coo", _by_coordinates, "matrix")
    yield Registered(
        type_name(sp.dok_matrix),
        sp.dok_matrix,
        partial(_serialize_dok, coo),
        partial(_deserialize_dok, coo),
    )
