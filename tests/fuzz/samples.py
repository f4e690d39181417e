"""For each registered type of an installed library, objects as headers and frames."""

from array import array
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from msgpack import packb, unpackb

from distributed_comm._serialize import type_registry
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions
from distributed_comm._serialize.tags import SERIALIZED, TAG

__all__ = ["IN_PLACE", "OURS", "THEIRS", "Sample", "message", "registrations", "samples"]

#: How an object is sent: to a peer of ours in frames or in place, and to a Dask peer.
OURS, IN_PLACE, THEIRS = range(3)


class Sample(NamedTuple):
    """The name of a registered type, and what its ``deserialize`` reads; ``about`` if it is odd."""

    name: str
    header: dict[str, Any]
    frames: list[bytes]
    about: str = ""
    more: Mapping[str, Any] = {}

    def whole_header(self) -> dict[str, Any]:
        """Return the header of the family ``dask``."""
        return {"serializer": "dask", "type": self.name, "sub-header": self.header, **self.more}


def message(header: Any, frames: list[bytes], how: int) -> list[bytes]:
    """Return the frames of a message that holds this one object, whatever its header is."""
    if how == IN_PLACE:
        inner = packb([header, *frames])
        return [packb([TAG, 9, inner])]
    if isinstance(header, dict):
        header = {"num-sub-frames": len(frames), **header}
    if how == OURS:
        return [packb([TAG, SERIALIZED, 1]), packb(header), *frames]
    return [packb([{"__Serialized__": 1}]), packb(header), *frames]


# -- objects ---------------------------------------------------------------------------------


def _of_the_library() -> Iterator[Any]:
    yield from (b"bytes", bytearray(b"bytearray"), array("d", [1.5, 2.5]), array("B", b"abc"))
    yield memoryview(b"abcdefgh").cast("H", (2, 2))
    yield memoryview(bytearray(12))


def _of_numpy() -> Iterator[Any]:
    yield np.arange(30.0).reshape(5, 6).T
    yield np.broadcast_to(np.arange(3), (1000, 3))
    yield np.array(["ab", "größer", ""], "<U8")
    yield np.array(["2024-02-29", "NaT"], "M8[D]")
    yield np.zeros(2, [("id", "<i4"), ("place", [("x", ">f8"), ("y", "<f4", (2, 3))]), ("s", "U3")])
    yield np.array(3.5)
    yield np.zeros((0, 3), ">i2")
    yield np.arange(4).reshape(2, 2).view(np.matrix)
    yield np.zeros((), [("a", "<i4"), ("b", "<U2")])[()]
    for cls in dict.fromkeys(np.sctypeDict.values()):
        dtype = np.dtype(cls)
        if dtype.kind in "biufcmM" and np.dtype(dtype.str).type is cls:
            yield np.zeros((), cls)[()]
    yield np.ma.masked_array([1, 2, 3], [True, False, True], fill_value=7)
    yield np.ma.masked_array(np.array(["a", "b"]), [True, False], fill_value="x")
    yield np.ma.masked_array(np.zeros(2, "i4,f8"), [(True, False), (False, True)])
    yield np.ma.masked_array([1.5])
    yield np.ma.masked


def _of_scipy() -> Iterator[Any]:
    sparse = import_module("scipy.sparse")
    dense = np.eye(6)
    dense[1, 4] = 2.5
    for kind in ("csr", "csc", "bsr", "coo", "dia"):
        yield getattr(sparse, f"{kind}_matrix")(dense)
        yield getattr(sparse, f"{kind}_array")(dense)
    yield sparse.bsr_matrix(np.ones((4, 4)), blocksize=(2, 2))
    yield sparse.coo_array((np.ones(3), (np.arange(3),)), shape=(5,))
    yield sparse.dok_matrix(dense)


def _columns(pa: Any) -> dict[str, Any]:
    """Return columns of all layouts that strangers may send."""
    texts = ["a", "größer", None, "a text of more than twelve bytes"]
    ends = pa.RunEndEncodedArray.from_arrays(pa.array([3, 4], pa.int32()), pa.array([1.5, 2.5]))
    return {
        "numbers": pa.array([1, 2, None, 4]),
        "flags": pa.array([True, False, None, True]),
        "texts": pa.array(texts),
        "large": pa.array(texts, pa.large_string()),
        "views": pa.array(texts, pa.string_view()),
        "codes": pa.array(texts).dictionary_encode(),
        "lists": pa.array([[1], [], None, [2, 3]]),
        "pairs": pa.array([[1, 2]] * 4, pa.list_(pa.int8(), 2)),
        "structures": pa.array([{"a": 1, "b": "x"}, None, {"a": 2}, {}]),
        "maps": pa.array([[("a", 1)], [], None, [("b", 2)]], pa.map_(pa.string(), pa.int32())),
        "nothing": pa.nulls(4),
        "times": pa.array([1, 2, 3, None], pa.timestamp("ns", "UTC")),
        "decimals": pa.array([1, 2, 3, 4], pa.decimal128(10, 2)),
        "fixed": pa.array([b"ab"] * 4, pa.binary(2)),
        "runs": ends,
    }


def _of_arrow() -> Iterator[Any]:
    pa = import_module("pyarrow")
    columns = _columns(pa)
    for name, column in columns.items():
        yield pa.table({name: column})
    yield pa.concat_tables([pa.table({"x": [n], "y": [str(n)]}) for n in range(3)])
    yield pa.table({})
    yield pa.record_batch({name: columns[name] for name in ("numbers", "codes", "lists")})
    yield pa.py_buffer(b"a buffer")


def _of_torch() -> Iterator[Any]:
    torch = import_module("torch")
    yield torch.arange(6.0).reshape(2, 3)
    yield torch.nn.Parameter(torch.ones(2))


MAKERS = {"numpy": _of_numpy, "scipy": _of_scipy, "pyarrow": _of_arrow, "torch": _of_torch}
#: What has the same layout as another type, and is never sent, or only by some versions of numpy.
ALIASES = {
    "numpy.memmap": "numpy.ndarray",
    "numpy.ma.MaskedArray": "numpy.ma.core.MaskedArray",
    "numpy.ma.MaskedConstant": "numpy.ma.core.MaskedConstant",
}


def registrations() -> set[str]:
    """Return the names of all registered types whose libraries are installed."""
    modules = {
        module
        for library, modules in type_registry.BUILT_IN.items()
        if library in type_registry.STANDARD or find_spec(library)
        for module in modules
    }
    home = type_registry.__name__.rpartition(".")[0] + ".types"
    found = (import_module(f"{home}.{module}").registrations() for module in modules)
    return {each.name for some in found for each in some}


@cache
def samples() -> list[Sample]:
    """Return at least one sample of each registered type, as it arrives."""
    makers = [_of_the_library, *(MAKERS[name] for name in MAKERS if find_spec(name))]
    found = [_sample(obj) for maker in makers for obj in maker()]
    for name, other in ALIASES.items():
        found += [each._replace(name=name) for each in found if each.name == other]
    return found


def _sample(obj: Any) -> Sample:
    found = type_registry.find(type(obj))
    assert found is not None
    header, frames = found.serialize(obj)
    header = unpackb(packb(header), use_list=False, strict_map_key=False)
    return Sample(found.name, header, [*map(bytes, frames)])


def dumped(obj: Any, *, typed: bool, **options: Any) -> list[bytes]:
    """Return the frames of an object as a peer that trusts us sends them."""
    chosen = DumpOptions(typed=typed, trusted=True, on_error="message", **options)
    return [*map(bytes, dumps(obj, chosen))]
