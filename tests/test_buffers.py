"""bytes, bytearray, memoryview and array.array: whole, to and from Dask, and from strangers."""

import array
import ctypes
import warnings

import numpy as np
import pytest
from gates import gate_of
from hypothesis import given
from hypothesis import strategies as st
from typed import carry, from_dask, taken, there_and_back, to_dask

from distributed_comm._serialize.type_registry import find, find_named

numbers = np.arange(24, dtype="i4").reshape(4, 6)
BUFFERS = {
    "bytes": b"abc",
    "no bytes": b"",
    "bytearray": bytearray(b"abc"),
    "view of bytes": memoryview(b"abc"),
    "empty view": memoryview(b""),
    "view of numbers": memoryview(array.array("d", [1.5, -2])),
    "empty view of numbers": memoryview(array.array("d")),
    "view of two dimensions": memoryview(numbers),
    "view of letters": memoryview(b"abc").cast("c"),
    "view of bools": memoryview(np.array([True, False])),
    "reversed view": memoryview(b"abcdef")[::-2],
    "view of a column": memoryview(numbers[:, 1]),
    "view in Fortran's order": memoryview(numbers.T),
    "view without dimensions": memoryview(np.array(2.5)),
    "view of ctypes": memoryview((ctypes.c_long * 3)(1, 2, -3)),
    "view of shorts of ctypes": memoryview(ctypes.c_uint16(3)),
    "array": array.array("h", [1, -2, 3]),
    "empty array": array.array("f"),
}
with warnings.catch_warnings():  # of text: deprecated since Python 3.13
    warnings.simplefilter("ignore")
    BUFFERS["array of text"] = array.array("u", "größer")


def same(a, b):
    """Whether two buffers hold the same; those of ctypes have another name for their format."""
    assert type(a) is type(b)
    assert a == b
    if isinstance(a, memoryview):
        assert (a.shape, a.itemsize) == (b.shape, b.itemsize)
    return True


def cannot(name, way):
    """Whether Dask itself refuses to send, or sends something that cannot be read."""
    view = BUFFERS[name]
    odd = type(view) is memoryview and (
        not view.c_contiguous or not view.ndim or "<" in view.format
    )
    return way is from_dask and odd


WAYS = [there_and_back, to_dask, from_dask]
CASES = [(name, way) for name in BUFFERS for way in WAYS if not cannot(name, way)]


@pytest.mark.filterwarnings("ignore:The 'u' type code")
@pytest.mark.parametrize(("name", "way"), CASES)
def test_a_buffer_arrives_as_it_was(name, way):
    assert same(way(BUFFERS[name]), BUFFERS[name])


@pytest.mark.parametrize("memory", [bytes, bytearray])
@pytest.mark.parametrize("view", [memoryview(bytearray(b"abcd")).cast("I"), memoryview(b"abcd")])
def test_a_view_can_be_written_to_where_the_sender_could(view, memory):
    arrived = there_and_back(view, memory)
    assert arrived.readonly == view.readonly
    assert arrived == view


@pytest.mark.parametrize("name", ["bytes", "bytearray", "view of two dimensions", "array"])
def test_no_copy_is_sent(name):
    buffer = BUFFERS[name]
    frames = find(type(buffer)).serialize(buffer)[1]
    assert np.shares_memory(np.frombuffer(frames[0], "u1"), np.frombuffer(buffer, "u1"))


def test_no_copy_is_received_where_the_type_allows_it():
    for buffer in (bytearray(b"abc"), memoryview(bytearray(b"abcd")).cast("I")):
        header, frames = carry(*find(type(buffer)).serialize(buffer))
        arrived = find(type(buffer)).deserialize(header, frames, gate_of(stranger=True))
        assert np.shares_memory(np.frombuffer(arrived, "u1"), np.frombuffer(frames[0], "u1"))


@pytest.mark.parametrize("cls", [bytes, bytearray])
def test_bytes_in_several_frames_are_joined(cls):
    arrived = find(cls).deserialize(
        {}, [b"one ", bytearray(b"two"), memoryview(b" three")], gate_of(stranger=True)
    )
    assert type(arrived) is cls
    assert arrived == b"one two three"
    assert type(find(cls).deserialize({}, [], gate_of(stranger=True))) is cls


class MyArray(array.array):
    pass


class MyBytes(bytearray):
    pass


@pytest.mark.parametrize(
    "obj",
    [
        memoryview(np.arange(3, dtype=">i4")),
        memoryview(np.zeros(2, "i4,f8")),
        memoryview(np.zeros(2, "f2,f2")),
        memoryview(np.zeros((0, 3))),
        MyArray("i", [1]),
        MyBytes(b"a"),
        np.bytes_(b"a"),
    ],
)
def test_what_cannot_be_made_again_is_left_to_pickle(obj):
    assert not taken(obj)


WRONG = {
    "memoryview": [
        {"format": "O"},
        {"format": "T{i:a:}"},
        {"format": ">I"},
        {"format": ""},
        {"format": None},
        {"format": ("I",)},
        {"shape": (2, 2)},
        {"shape": (-2, -2)},
        {"shape": (2**40, 2**40)},
        {"shape": (0, 1)},
        {"shape": (1,) * 65},
        {"shape": 4},
        {"shape": (True,)},
        {"itemsize": 8},
        {"writeable": (1,)},
        {"writeable": None},
    ],
    "array.array": [
        {"typecode": "O"},
        {"typecode": "ab"},
        {"typecode": 1},
        {"typecode": "q"},
        {"itemsize": 8},
        {"itemsize": "4"},
    ],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_header_is_a_value_error(name):
    reader = find_named(name)
    obj = memoryview(bytes(4)).cast("I") if name == "memoryview" else array.array("I", [1])
    header, frames = carry(*reader.serialize(obj))
    assert reader.deserialize(header, frames, gate_of(stranger=True)) == obj
    for change in WRONG[name]:
        with pytest.raises(ValueError, match=r"."):
            reader.deserialize(header | change, frames, gate_of(stranger=True))
    with pytest.raises(ValueError, match=r"."):
        reader.deserialize({}, frames, gate_of(stranger=True))
    for wrong in ([bytes(3)], [bytes(5)]):
        with pytest.raises(ValueError, match=r"."):
            reader.deserialize(header, wrong, gate_of(stranger=True))


headers = st.dictionaries(
    st.sampled_from(["format", "shape", "itemsize", "typecode", "writeable"]),
    st.one_of(
        st.sampled_from([*"?cbBhHiIlLqQnNfdPeuO", "@i", "<i"]),
        st.integers(-1, 2**64 - 1),
        st.lists(st.integers(-1, 5), max_size=4).map(tuple),
        st.just((True,)),
        st.text(max_size=2),
    ),
)


@given(header=headers, frame=st.binary(max_size=64))
@pytest.mark.parametrize("name", ["memoryview", "array.array"])
def test_any_header_gives_a_buffer_or_a_value_error(name, header, frame):
    try:
        buffer = find_named(name).deserialize(header, [frame], gate_of(stranger=True))
    except ValueError:
        return
    assert memoryview(buffer).nbytes == len(frame)
