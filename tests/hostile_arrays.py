"""Messages of strangers that would have arrays cost far more than their bytes."""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from msgpack import packb

from distributed_comm._serialize.tags import SERIALIZED, TAG
from distributed_comm._serialize.type_registry import find, type_name

__all__ = ["HOSTILE", "Hostile", "flood", "message", "messages", "plain"]

Header = dict[str, Any]

MASKED, ARRAY = "numpy.ma.core.MaskedArray", "numpy.ndarray"
CSR, COO, BSR, DIA, DOK, CUBE = map(
    type_name,
    (sp.csr_matrix, sp.coo_matrix, sp.bsr_matrix, sp.dia_matrix, sp.dok_matrix, sp.coo_array),
)


class Hostile(NamedTuple):
    """An object of a registered type, as a header and frames that nobody's library writes."""

    name: str
    header: Header
    frames: list[bytes]
    outer: Header | None = None  # what is beside the header, as Dask has it


def message(hostile: Hostile) -> list[bytes]:
    """Return the frames of a message that is this object."""
    name, header, frames, outer = hostile
    whole = {"serializer": "dask", "type": name, "sub-header": header, **(outer or {})}
    return [packb([TAG, SERIALIZED, 1]), packb(whole | {"num-sub-frames": len(frames)}), *frames]


def flood(hostile: Hostile, count: int) -> list[bytes]:
    """Return the frames of a message that is a list of so many of the same object."""
    frames: list[bytes] = []
    places = []
    for _ in range(count):
        places.append([TAG, SERIALIZED, len(frames) + 1])
        frames += message(hostile)[1:]
    return [packb(places), *frames]


def messages() -> list[list[bytes]]:
    """Return all of them as frames."""
    return [message(hostile) for hostile in HOSTILE.values()]


def plain(obj: Any) -> Hostile:
    """Return what is honestly sent of an object."""
    registered = find(type(obj))
    assert registered is not None
    header, frames = registered.serialize(obj)
    return Hostile(registered.name, header, [bytes(frame) for frame in frames])


# -- arrays ---------------------------------------------------------------------------


def structure(itemsize: int, *formats: Any, step: int = 0) -> Header:
    """Return the code of a dtype whose fields begin all in one place, or with a step between."""
    return {
        "names": tuple(f"f{number}" for number in range(len(formats))),
        "formats": formats,
        "offsets": tuple(step * number for number in range(len(formats))),
        "itemsize": itemsize,
    }


def layout(code: Any, *shape: int, strides: Any = None, **more: Any) -> Header:
    itemsize = np.dtype(code).itemsize if type(code) is str else code["itemsize"]
    if strides is None:
        strides = np.cumprod((itemsize, *shape[:0:-1])).tolist()[::-1][: len(shape)]
    return {"dtype": (0, code), "shape": shape, "strides": tuple(strides), **more}


def repeated(code: Any, *shape: int) -> Header:
    return layout(code, *shape, strides=[0] * len(shape), writeable=(False,))


def nested(levels: int, code: Any = "|i1") -> Any:
    """Return a code within so many others, each with a further field where that begins."""
    for _ in range(levels):
        itemsize = code["itemsize"] if isinstance(code, dict) else 1
        code = structure(itemsize, code, "|i1")
    return code


INTERLEAVED = structure(8, *["<U1"] * 2, step=4)
ARRAYS = {
    "a number 2**30 times": Hostile(ARRAY, repeated("<i1", 2**30), [b"1"]),
    "a number 2**62 times": Hostile(ARRAY, repeated("<i1", 2**31, 2**31), [b"1"]),
    "a structure 2**27 times": Hostile(ARRAY, repeated(INTERLEAVED, 2**27), [bytes(8)]),
    "no items of 2 GiB": Hostile(ARRAY, layout("|S2147483647", 0), [b""]),
    "no structures of 2 GiB": Hostile(ARRAY, layout(structure(2**31 - 1, "|i1"), 0), [b""]),
    "text fields in one place": Hostile(
        ARRAY, layout(structure(4, *["<U1"] * 3_000), 100_000), [bytes(400_000)]
    ),
    "many fields": Hostile(ARRAY, layout(structure(60_000, *["|i1"] * 60_000, step=1), 0), [b""]),
    "many subarrays": Hostile(
        ARRAY, layout(structure(60_000, *[("|i1", (1,))] * 60_000, step=1), 0), [b""]
    ),
    "many structures": Hostile(
        ARRAY, layout(structure(60_000, *[nested(30)] * 400, step=1), 0), [b""]
    ),
    "many fields of text": Hostile(
        ARRAY, layout(structure(16_000, *["<U1"] * 4_000, step=4), 10), [bytes(160_000)]
    ),
    "text with gaps": Hostile(ARRAY, layout(structure(5, "<U1"), 1_000_000), [bytes(5_000_000)]),
    "text in subarrays": Hostile(
        ARRAY,
        layout(structure(65, (structure(8, ("<U1", (1, 2))), (2, 2, 2))), 20_000),
        [bytes(1_300_000)],
    ),
    "a long name of a field twice": Hostile(
        ARRAY, layout({**structure(2, "|i1", "|i1"), "names": ("a" * 10**6,) * 2}, 0), [b""]
    ),
    "a large void": Hostile("numpy.void", layout("|V30000000"), [bytes(30_000_000)]),
    "fields in one place on each level": Hostile(
        ARRAY, layout(nested(30, structure(3_000, *["|i1"] * 3_000, step=1)), 1), [bytes(3_000)]
    ),
    "a scalar of many fields": Hostile(
        "numpy.float64", layout(structure(4_000, *["|i1"] * 4_000, step=1)), [bytes(4_000)]
    ),
}


# -- masked arrays --------------------------------------------------------------------


def masked(
    data: Header, frame: bytes, value: Any = None, mask: Header | None = None, of: bytes = b""
) -> Hostile:
    header = {"data-header": data, "nframes": 1, "fill-value": (False, value), "hard-mask": False}
    frames = [frame]
    if mask is not None:
        header["mask-header"] = mask
        frames.append(of)
    return Hostile(MASKED, header, frames)


MASKS = {
    "a fill value of 2 GiB": masked(layout("|S2147483647", 0), b"", "x"),
    "a fill value of 2 GiB in letters": masked(layout("<U536870911", 0), b"", "x"),
    "a fill value of 2 GiB of bytes": masked(layout("|V2147483647", 0), b"", b"x"),
    "a masked structure 2**30 times": masked(repeated(structure(1, "|i1"), 2**30), b"1"),
    "a masked number 2**30 times": masked(repeated("<i1", 2**30), b"1"),
    "a mask 2**30 times": masked(layout("|b1", 1), b"1", None, repeated("|b1", 2**30), b"1"),
    "the default of a subarray": masked(layout(structure(2**30, ("|i1", (2**30,))), 0), b""),
    "the default of a subarray in one item": masked(
        layout(structure(10**6, ("|S1", (10**6,))), 1), bytes(10**6)
    ),
    "the default of many fields": masked(
        layout(structure(3_000, *["|i1"] * 3_000, step=1), 0), b""
    ),
    "a mask of fields in one place": masked(
        layout(structure(1, *["|i1"] * 900), 100_000), bytes(100_000)
    ),
    "a mask of few fields in one place": masked(
        layout(structure(1, *["|i1"] * 4), 400_000), bytes(400_000)
    ),
    "subarrays in one place": masked(
        layout(structure(100_000, *[("|i1", (100_000,))] * 4), 1), bytes(100_000)
    ),
    "a long fill value": masked(layout("<f8", 1), bytes(8), b"1" * 10**6),
    "a long fill value of text": masked(layout("<U1", 1), bytes(4), "1" * 10**6),
    "a large item": masked(layout("|S10000000", 1), bytes(10**7), "x"),
}


# -- sparse matrices ------------------------------------------------------------------


def wrap(array: Any, frames: list[bytes]) -> Header:
    """Return the part of a sparse matrix that an array is, and append its frame."""
    header, own = find(np.ndarray).serialize(array)
    frames += map(bytes, own)
    part = {"type": "numpy.ndarray", "sub-header": header}
    return {"header": part, "start": len(frames) - 1, "stop": len(frames)}


def sparse(name: str, shape: tuple[int, ...], coords: Any = (), **arrays: Any) -> Hostile:
    frames: list[bytes] = []
    parts = {key: wrap(array, frames) for key, array in arrays.items()}
    if coords:
        start = len(frames)
        inner = tuple(wrap(array, frames)["header"] for array in coords)
        header = {"is-collection": True, "sub-headers": inner}
        parts["coords"] = {"header": header, "start": start, "stop": len(frames)}
    return Hostile(name, {"simple": {"_shape": shape}, "complex": parts}, frames)


def compressed(name: str, shape: tuple[int, ...], data: Any, indices: Any, rows: Any) -> Hostile:
    return sparse(name, shape, data=data, indices=indices, indptr=rows)


def colliding(count: int) -> tuple[Any, Any]:
    """Return places with one and the same hash, in Python since 3.8."""
    # acc = rotate(acc + hash(item) * B, 31) * A for each item
    a, b, start, word = 11400714785074694791, 14029467366897019727, 2870177450012600261, 2**64
    inverse, rows, columns = pow(b, -1, word), [], []
    for row in range(2**20):
        acc = (start + row * b) % word
        acc = ((acc << 31) | (acc >> 33)) % word * a % word
        column = (0x123456789ABCDEF0 - acc) * inverse % word
        if column < 2**61 - 1:
            rows.append(row)
            columns.append(column)
        if len(rows) == count:
            break
    return np.array(rows), np.array(columns)


def collisions() -> Hostile:
    coo = sparse(COO, (2**62, 2**62), coords=colliding(2_000), data=np.ones(2_000))
    return Hostile(DOK, {"coo_header": coo.header}, coo.frames)


def small(*shape: int) -> Any:
    return np.zeros(shape, "i1")


FIELDS = np.zeros(0, np.dtype([(f"f{number}", "u1") for number in range(1_500)]))
SPARSE = {
    "small pointers": compressed(CSR, (10**6, 1), small(0), small(0), small(10**6 + 1)),
    "small pointers and wide columns": compressed(
        CSR, (10**6, 2**40), small(0), small(0), small(10**6 + 1)
    ),
    "small indices": compressed(CSR, (1, 2**40), small(10**6), small(10**6), np.array([0, 10**6])),
    "another order": compressed(
        CSR, (1, 1), small(10**6).view(">i2"), small(500_000), np.array([0, 500_000])
    ),
    "a matrix of structures": compressed(CSR, (1, 1), FIELDS, small(0), small(2)),
    "small coordinates": sparse(COO, (2**40,) * 2, coords=(small(10**6),) * 2, data=small(10**6)),
    "many dimensions": sparse(CUBE, (1,) * 60, coords=(small(20_000),) * 60, data=small(20_000)),
    "vast blocks": compressed(BSR, (2**62, 2**62), np.zeros((0, 2**31, 1)), small(0), small(1)),
    "many diagonals": sparse(
        DIA, (2**31, 2**31), data=np.zeros((100_000, 0)), offsets=np.arange(100_000, dtype="i4")
    ),
    "keys that collide": collisions(),
}


# -- buffers, and what Dask does to frames --------------------------------------------

SHARDS = {"split-num-sub-frames": (0,) * 100_000, "split-offsets": (0,) * 100_000}
NEST = ((1,) * 100_000,)
BUFFERS = {
    "many frames of nothing": Hostile("bytes", {}, [], SHARDS),
    "odd numbers of shards": Hostile("bytes", {}, [b"a"], dict.fromkeys(SHARDS, NEST)),
    "shards at an odd place": Hostile("bytes", {}, [b"a"], {**SHARDS, "split-offsets": NEST}),
    "odd compression": Hostile("bytes", {}, [b"a"], {"compression": NEST}),
    "compression of a long name": Hostile("bytes", {}, [b"a"], {"compression": ("a" * 10**6,)}),
    "joined bytes": Hostile("bytes", {}, [bytes(1_000_000)] * 10),
    "joined bytearray": Hostile("bytearray", {}, [bytes(1_000_000)] * 10),
    "an array of many frames": Hostile("array.array", {"typecode": "b"}, [bytes(100)] * 10_000),
}

HOSTILE = {**ARRAYS, **MASKS, **SPARSE, **BUFFERS}
