"""numpy's arrays and scalars: whole, without copies, to and from Dask, and from strangers."""

import math
from unittest import mock

import numpy as np
import pytest
from gates import gate_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from typed import carry, from_dask, taken, there_and_back, to_dask

from distributed_comm._serialize.type_registry import find

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass")  # which Dask calls

WAYS = [there_and_back, to_dask, from_dask]


def same(a, b):
    """Whether two arrays agree in everything that a user sees of them, NaN and padding included."""
    assert type(a) is type(b)
    assert a.dtype == b.dtype
    assert a.dtype.isalignedstruct == b.dtype.isalignedstruct
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes() or np.array_equal(a, b)
    return True


record = np.dtype([("id", "<i4"), ("place", [("x", ">f8"), ("y", "<f4", (2, 3))]), ("s", "<U3")])
sparse_record = np.dtype(
    {"names": ["b", "a"], "formats": ["<f8", "i1"], "offsets": [8, 1], "itemsize": 24}
)

ARRAYS = {
    "0-d": np.array(3.5),
    "empty": np.zeros((0, 3)),
    "empty of text": np.array([], "U5"),
    "bool": np.array([True, False]),
    "int8": np.arange(-3, 3, dtype="i1"),
    "big-endian": np.arange(5, dtype=">i4"),
    "float16": np.arange(5, dtype="f2"),
    "longdouble": np.arange(5, dtype="g") / 3,
    "complex64": np.array([1 + 2j, np.nan], "c8"),
    "complex of long doubles": np.array([1 + 2j], "G"),
    "text": np.array(["ab", "größer", ""]),
    "bytes": np.array([b"ab", b"c\0d"]),
    "void": np.array([b"abc", b"de"], "V3"),
    "dates": np.array(["2024-02-29", "NaT"], "M8[D]"),
    "of 25 s": np.array([1, 2], "M8[25s]"),
    "big-endian dates": np.array([1, 2], ">M8[ns]"),
    "durations": np.array([1, -2], "m8[us]"),
    "without unit": np.array([1, -2], "i8").view("m8"),
    "structured": np.zeros(3, record),
    "structured, with gaps": np.ones(3, sparse_record),
    "aligned": np.ones(2, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "union": np.ones(2, np.dtype({"names": "ab", "formats": ["<u4", "u1"], "offsets": [0, 0]})),
    "Fortran's order": np.arange(12).reshape(3, 4).copy("F"),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    "every second": np.arange(20)[::2],
    "reversed": np.arange(20)[::-1],
    "one reversed": np.arange(20)[::-1][:1],
    "a column": np.arange(12).reshape(3, 4)[:, 1],
    "repeated": np.broadcast_to(np.arange(3), (4, 3)),
    "a number, repeated": np.broadcast_to(np.float32(7), (100, 1000)),
    "a column, repeated": np.broadcast_to(np.arange(12).reshape(3, 4)[:, 1:2], (5, 3, 6)),
    "reversed, repeated": np.broadcast_to(np.arange(12).reshape(3, 4)[::-1, ::2], (5, 3, 2)),
    "nothing, repeated": np.broadcast_to(np.zeros((1, 0)), (5, 0)),
    "matrix": np.array([[1, 2], [3, 4]]).view(np.matrix),
    "matrix with gaps": np.arange(12).reshape(3, 4).view(np.matrix)[:, ::2],
    "unaligned": np.frombuffer(bytes(17), "u1")[1:].view("f8"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_arrives_as_it_was(way, name):
    array = ARRAYS[name]
    pickles_its_dtype = way is from_dask and array.dtype.kind == "V"
    arrived = way(array, stranger=False) if pickles_its_dtype else way(array)
    assert same(arrived, array)


@pytest.mark.parametrize("name", ["structured", "text", "repeated", "matrix", "0-d"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("writeable", [True, False])
@pytest.mark.parametrize("memory", [bytearray, bytes])
def test_what_could_be_written_to_can_be_and_nothing_else(name, way, writeable, memory):
    array = ARRAYS[name].copy() if name != "repeated" else ARRAYS[name]
    if name == "repeated" and writeable:
        array = np.lib.stride_tricks.as_strided(np.arange(3), (4, 3), (0, 8))
    if array.flags.writeable != writeable:
        array.flags.writeable = writeable
    with mock.patch("typed.carry", lambda h, f, _=None: carry(h, f, memory)):
        arrived = way(array) if way is not from_dask else way(array, stranger=False)
    assert arrived.flags.writeable == writeable
    assert same(arrived, array)


scalar_types = npst.scalar_dtypes()
plain_types = st.one_of(
    scalar_types,
    npst.unicode_string_dtypes(max_len=5),
    npst.byte_string_dtypes(max_len=5),
    npst.datetime64_dtypes(),
    npst.timedelta64_dtypes(),
)
dtypes = st.one_of(plain_types, npst.array_dtypes(plain_types), npst.nested_dtypes(plain_types))


def fits(dtype):
    return dtype.itemsize > 0 and dtype.subdtype is None and not titled(dtype)


def titled(dtype):
    if dtype.subdtype is not None:
        return titled(dtype.subdtype[0])
    fields = (dtype.fields or {}).values()
    return any(len(field) > 2 or titled(field[0]) for field in fields)


@st.composite
def arrays(draw):
    """Draw any array: of any dtype, order, with steps, backwards, and repeated."""
    shape = draw(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    dtype = draw(dtypes.filter(fits))
    memory = draw(st.randoms(use_true_random=False)).randbytes(dtype.itemsize * math.prod(shape))
    array = np.zeros(shape, dtype, order=draw(st.sampled_from("CF")))
    if not any(kind in str(dtype) for kind in ("U", "bool", "?")):
        array = np.ndarray(shape, dtype, bytearray(memory), order=draw(st.sampled_from("CF")))
    if array.ndim:
        array = array.transpose(draw(st.permutations(range(array.ndim))))
        array = array[draw(npst.basic_indices(array.shape, allow_newaxis=True))]
    array = np.asarray(array)
    sides = [draw(st.integers(0, 3)) if side == 1 else side for side in array.shape]
    longer = draw(st.lists(st.integers(0, 3), max_size=2))
    return draw(st.sampled_from([array, np.broadcast_to(array, (*longer, *sides))]))


@settings(max_examples=60)
@given(array=arrays())
def test_any_array_arrives(array):
    assert same(there_and_back(array), array)
    assert same(to_dask(array), array)


@settings(max_examples=40)
@given(array=arrays())
def test_any_array_of_dask_arrives(array):
    assert same(from_dask(array, stranger=False), array)


# -- memory ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name in ARRAYS if ARRAYS[name].size and "repeated" not in name]
)
def test_an_array_without_gaps_is_copied_neither_out_nor_in(name):
    array = ARRAYS[name]
    header, frames = find(type(array)).serialize(array)
    assert len(frames) == 1
    assert (frames[0].format, frames[0].ndim) == ("B", 1)
    contiguous = array.flags.c_contiguous or array.flags.f_contiguous
    assert np.shares_memory(np.frombuffer(frames[0], "u1"), array) == contiguous
    header, received = carry(header, frames)
    arrived = find(type(array)).deserialize(header, received, gate_of(stranger=True))
    assert np.shares_memory(np.frombuffer(received[0], "u1"), arrived)


@pytest.mark.parametrize("name", [name for name in ARRAYS if "repeated" in name])
def test_what_is_repeated_is_sent_once(name):
    array = ARRAYS[name]
    header, frames = carry(*find(np.ndarray).serialize(array))
    assert len(frames[0]) == np.unique(array).size * array.itemsize
    arrived = find(np.ndarray).deserialize(header, frames, gate_of(stranger=True))
    assert [s == 0 for s in arrived.strides] == [s == 0 for s in array.strides]


def test_an_array_keeps_the_frame_that_it_lies_in():
    header, frames = carry(*find(np.ndarray).serialize(np.arange(1000)))
    array = find(np.ndarray).deserialize(header, frames, gate_of(stranger=True))
    del frames
    assert np.array_equal(array, np.arange(1000))


# -- what goes as a pickle ------------------------------------------------------------


class Mine(np.ndarray):
    pass


class MyFloat(np.float64):
    pass


bfloat = np.dtype("V2", metadata={"a": 1})
LEFT = {
    "objects": np.array([{1}, None]),
    "objects inside": np.zeros(2, "i4,O"),
    "a subclass": np.arange(3).view(Mine),
    "a record array": np.rec.array([(1, 2.0)], dtype="i4,f8"),
    "records": np.zeros(2, np.dtype((np.record, [("a", "i4")]))),
    "titles": np.zeros(2, [(("title", "a"), "i4")]),
    "metadata": np.zeros(2, np.dtype("i4", metadata={"a": 1})),
    "metadata inside": np.zeros(2, [("a", np.dtype("i4", metadata={"a": 1}))]),
    "variable text": np.array(["a", "b"], np.dtypes.StringDType())
    if hasattr(np.dtypes, "StringDType")
    else np.array([None]),
    "nothing": np.zeros(3, "V0"),
    "no fields": np.zeros(3, []),
    "a subclass of a scalar": MyFloat(3),
    "a subclass of bytes": np.bytes_(b"ab\0"),
    "text": np.str_("ab\0"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_the_header_cannot_say_is_left_to_pickle(name):
    assert not taken(LEFT[name])


def test_a_memory_mapped_file_is_left_to_pickle_and_read_as_dask_sends_it(tmp_path):
    array = np.memmap(tmp_path / "file", "i4", "w+", shape=3)
    array[:] = [1, 2, 3]
    assert not taken(array)
    assert same(from_dask(array), np.arange(1, 4, dtype="i4"))


# -- scalars --------------------------------------------------------------------------

SCALARS = [
    np.float64(1.5),
    np.float32("nan"),
    np.float16(2),
    np.longdouble(1) / 3,
    np.int8(-3),
    np.uint64(2**64 - 1),
    np.bool_(True),
    np.complex64(1 + 2j),
    np.datetime64("2024-02-29T12:00", "ms"),
    np.datetime64("NaT", "s"),
    np.timedelta64(3, "D"),
    np.zeros(1, record)[0],
    np.void(b"abc"),
]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda scalar: type(scalar).__name__)
def test_a_scalar_arrives_as_itself(scalar):
    arrived = there_and_back(scalar)
    assert type(arrived) is type(scalar)
    assert arrived.dtype == scalar.dtype
    assert repr(arrived) == repr(scalar)
    assert np.array_equal(arrived, scalar, equal_nan=scalar.dtype.kind in "fcmM")
    assert not find(type(scalar)).known_to_dask
