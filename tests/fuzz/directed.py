"""Objects that few bytes make large or slow, which chance does not find, as `Sample`s.

Each was once more than a stranger's message may cost, or stands beside one that was.
"""

import pickle
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from struct import pack
from typing import Any

import numpy as np
from msgpack import packb, unpackb

from distributed_comm._serialize.compression import available, compress

from .samples import Sample

__all__ = ["directed"]

KIB, MIB = 1024, 1024 * 1024


def _array(dtype: Any, shape: tuple[int, ...], **more: Any) -> dict[str, Any]:
    """Return the header of an array of a dtype's code; strides of 0 where it repeats."""
    strides = more.pop("strides", None) or (1,) * len(shape)
    header = {"dtype": (0, dtype), "writeable": (True,), "shape": shape, "strides": strides}
    return header | more


def _fields(
    formats: tuple[Any, ...], offsets: tuple[int, ...], itemsize: int, names: Any = None
) -> dict[str, Any]:
    names = names or tuple(f"f{number}" for number in range(len(formats)))
    return {"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize}


def _masked(data: dict[str, Any], fill: Any, **more: Any) -> dict[str, Any]:
    header = {"data-header": data, "nframes": 1, "fill-value": (False, fill), "hard-mask": False}
    return header | more


# -- numpy -----------------------------------------------------------------------------------


def _of_arrays() -> Iterator[Sample]:
    name = "numpy.ndarray"
    for code in ("|S2147483647", "<U536870911", "|V2147483647"):
        yield Sample(name, _array(code, (0,)), [b""], f"no items of {code}")
    repeated = {"strides": (0, 0), "broadcast_to": (2**13, 2**13)}
    yield Sample(name, _array("<f8", (1, 1), **repeated), [bytes(8)], "one item 2^26 times")
    yield Sample(
        name,
        _array("<U1", (1, 1), **repeated),
        ["x".encode("utf-32-le")],
        "one letter 2^26 times",
    )
    subarray = _fields((("|i1", (2**30,)),), (0,), 2**30)
    yield Sample(name, _array(subarray, (0,)), [b""], "no items of a subarray of 2^30")
    yield Sample(name, _array(("<U1", (2**20,)), (0,)), [b""], "a subarray without a field")
    dtype = {"dtype": (1, pickle.dumps(np.dtype("<i4"), 4))}
    yield Sample(name, _array("", (1,)) | dtype, [bytes(4)], "a dtype as a pickle")
    yield Sample(name, {"pickle": True}, [pickle.dumps(np.arange(3), 4)], "an array as a pickle")


@cache
def _text_fields() -> Sample:
    """Return 60,000 fields of text, all of them at one offset, in a frame that is compressed."""
    count, items = 60_000, 10_000
    code = _fields(("<U1",) * count, (0,) * count, 4)
    frame = bytes(4 * items)
    used, short = compress(available()[0], frame)
    header = _array(code, (items,), strides=(4,))
    about = f"60,000 text fields in the same bytes, {used}"
    return Sample("numpy.ndarray", header, [bytes(short)], about, {"compression": (used,)})


def _of_masked() -> Iterator[Sample]:
    name = "numpy.ma.core.MaskedArray"
    for code, fill in (("|S2147483647", b"x"), ("<U16777216", "x"), ("|V2147483647", None)):
        yield Sample(name, _masked(_array(code, (0,)), fill), [b""], f"no items of {code}, a fill")
    many = {"strides": (0,), "broadcast_to": (2**24,)}
    two, flags = _fields(("<i4", "<i4"), (0, 4), 8), _fields(("|b1", "|b1"), (0, 1), 2)
    structured = {"mask-header": _array(flags, (1,), **many)}
    yield Sample(
        name,
        _masked(_array(two, (1,), **many), None, **structured),
        [bytes(8), bytes(2)],
        "a structure and its mask, repeated",
    )
    plain = {"mask-header": _array("|b1", (1,), **many)}
    yield Sample(
        name,
        _masked(_array("<f8", (1,), **many), 1.5, **plain),
        [bytes(8), b"\1"],
        "a number and its mask, repeated",
    )
    subarray = _fields((("|i1", (2**24,)),), (0,), 2**24)
    yield Sample(name, _masked(_array(subarray, (0,)), None), [b""], "default of a subarray")
    header = _masked(_array("<i4", (1,)), b"") | {"fill-value": (True, pickle.dumps(1, 4))}
    yield Sample(name, header, [bytes(4)], "a fill value as a pickle")


# -- scipy -----------------------------------------------------------------------------------


def _part(array: Any, start: int) -> dict[str, Any]:
    header = _array(array.dtype.str, array.shape, strides=array.strides)
    inner = {"type": "numpy.ndarray", "serializer": "dask", "sub-header": header}
    return {"header": inner, "start": start, "stop": start + 1}


def _matrix(kind: str, shape: tuple[int, ...], about: str, **parts: Any) -> Sample:
    header = {
        "simple": {"_shape": shape},
        "complex": {name: _part(array, n) for n, (name, array) in enumerate(parts.items())},
    }
    frames = [array.tobytes() for array in parts.values()]
    return Sample(f"scipy.sparse._{kind}.{kind}_matrix", header, frames, about)


def _of_scipy() -> Iterator[Sample]:
    short, none = np.zeros(1, "i4"), np.zeros(0, "i4")
    yield _matrix(
        "coo", (2**31 - 1, 2**31 - 1), "one item of 2^62", data=np.ones(1), row=short, col=short
    )
    yield _matrix(
        "csr", (2, 2**62), "huge columns", data=np.ones(0), indices=none, indptr=np.zeros(3, "i4")
    )
    yield _matrix("dia", (2**31, 2**31), "a long diagonal", data=np.ones((1, 8)), offsets=short)
    blocks = np.zeros((0, 2**15, 2**15))
    yield _matrix(
        "bsr", (2**15, 2**15), "no blocks", data=blocks, indices=none, indptr=np.zeros(2, "i4")
    )
    places = np.arange(2_000, dtype="i8") * (2**61 - 1) // 2**20
    inner = _matrix("coo", (2**62, 1), "", data=np.ones(2000), row=places, col=places * 0)
    name = "scipy.sparse._dok.dok_matrix"
    yield Sample(name, {"coo_header": inner.header}, inner.frames, "places that collide")


# -- Arrow -----------------------------------------------------------------------------------


def _stream(pa: Any, batches: list[Any], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    chosen = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, batches[0].schema, options=chosen) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _views(pa: Any, count: int, length: int) -> Any:
    """Return texts that all are views of the same memory."""
    letters = b"\xc3\xa4" * (length // 2)
    view = pack("<i4sii", length, letters[:4], 0, 0)
    buffers = [None, pa.py_buffer(view * count), pa.py_buffer(letters)]
    return pa.Array.from_buffers(pa.string_view(), count, buffers)


def _list_views(pa: Any, count: int) -> Any:
    """Return lists that all are views of the same items."""
    texts = pa.array(["ä" * 20] * count)
    offsets, sizes = pa.array([0] * count, pa.int32()), pa.array([count] * count, pa.int32())
    return pa.ListViewArray.from_arrays(offsets, sizes, texts)


def _codes(pa: Any, texts: Any, code: int) -> Any:
    """Return one row that refers to a dictionary of these texts."""
    return pa.DictionaryArray.from_arrays(pa.array([code], pa.int32()), texts)


def _of_arrow() -> Iterator[Sample]:
    pa = import_module("pyarrow")

    def sample(about: str, batches: list[Any], **options: Any) -> Sample:
        return Sample("pyarrow.lib.Table", {}, [_stream(pa, batches, **options)], about)

    def batch(column: Any) -> Any:
        return pa.record_batch({"x": column})

    yield sample("views of one buffer", [batch(_views(pa, 1_000, MIB))])
    long = batch(_codes(pa, pa.array(["ä" * (MIB // 2)]), 0))
    yield sample("one dictionary in many batches", [long] * 2_000)
    texts = pa.array([f"{number:>100}" for number in range(4_000)])
    deltas = [batch(_codes(pa, texts[: 10 * n], n)) for n in range(1, 401)]
    yield sample("dictionary deltas", deltas, emit_dictionary_deltas=True)
    yield sample("many batches of one row", [batch(pa.array([1]))] * 200)
    yield sample("views of one list", [batch(_list_views(pa, 1_000))])
    yield sample("rows of nothing", [batch(pa.nulls(2**20))])
    ends = pa.array([2**30], pa.int32())
    runs = pa.RunEndEncodedArray.from_arrays(ends, pa.array(["x"]))
    yield sample("a long run", [batch(runs)])
    wide = {f"{number}": pa.array([], pa.int8()) for number in range(2_000)}
    yield sample("many columns of no rows", [pa.record_batch(wide)])
    for about, make in import_module("..hostile_arrow", __package__).STREAMS.items():
        yield Sample("pyarrow.lib.Table", {}, [make()], about)


@cache
def directed() -> list[Sample]:
    """Return all of them, as they arrive."""
    found = [*_of_arrays(), _text_fields(), *_of_masked()]
    if find_spec("scipy"):
        found += _of_scipy()
        hostile = import_module("..hostile_arrays", __package__).HOSTILE
        found += [
            Sample(each.name, each.header, each.frames, about, each.outer or {})
            for about, each in hostile.items()
        ]
    if find_spec("pyarrow"):
        found += _of_arrow()
    return [
        each._replace(header=unpackb(packb(each.header), use_list=False, strict_map_key=False))
        for each in found
    ]
