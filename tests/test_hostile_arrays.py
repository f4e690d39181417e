"""numpy's arrays from strangers: what does not fit is a ValueError, and no pickle is opened."""

import pickle

import numpy as np
import pytest
from gates import TRUSTED, gate_of
from hypothesis import given
from hypothesis import strategies as st
from typed import carry, damage, from_dask, there_and_back
from unpickling import no_unpickling

from distributed_comm._serialize.type_registry import find, find_named
from distributed_comm.errors import MessageError, UntrustedError

ARRAYS = [
    np.zeros(3, [("id", "<i4"), ("place", [("x", ">f8"), ("y", "<f4", (2, 3))]), ("s", "<U3")]),
    np.broadcast_to(np.arange(3), (4, 3)),
    np.array(["ab", "größer", ""]),
    np.array(["2024-02-29", "NaT"], "M8[D]"),
    np.array(3.5),
]


def header_of(**changes):
    array = np.arange(6, dtype="<i4").reshape(2, 3)
    return find(np.ndarray).serialize(array)[0] | changes


def nest(levels):
    code = "<i4"
    for _ in range(levels):
        code = {"names": ("a",), "formats": (code,), "offsets": (0,), "itemsize": 4}
    return code


def fields(**changes):
    good = {"names": ("a", "b"), "formats": ("<i2", "<i2"), "offsets": (0, 2), "itemsize": 4}
    return (0, good | changes)


WRONG = {
    "objects": {"dtype": (0, "|O")},
    "objects by fields": {"dtype": (0, "O,O")},
    "a list of fields": {"dtype": (0, (("a", "<i4"),))},
    "objects inside": {"dtype": fields(formats=("<i2", "|O"))},
    "a class": {"dtype": (0, "numpy.int32")},
    "a fraction of a unit": {"dtype": (0, "<m8[3/2s]")},
    "units of nothing": {"dtype": (0, "<m8[0s]")},
    "a dtype too large": {"dtype": (0, "|V9999999999")},
    "half a dtype": {"dtype": (0,)},
    "no dtype": {"dtype": None},
    "deep": {"dtype": (0, nest(40))},
    "a field outside": {"dtype": fields(offsets=(0, 3))},
    "a field before": {"dtype": fields(offsets=(0, -1))},
    "a field twice": {"dtype": fields(names=("a", "a"))},
    "a field too many": {"dtype": fields(names=("a", "b", "c"))},
    "no itemsize": {"dtype": fields(itemsize=0)},
    "a large itemsize": {"dtype": fields(itemsize=2**31)},
    "a title": {"dtype": (0, {**fields()[1], "titles": ("x", "y")})},
    "a subarray": {"dtype": (0, ("<i4", (2,)))},
    "a vast subarray": {"dtype": fields(formats=("<i2", ("<i2", (2**40,))))},
    "a negative subarray": {"dtype": fields(formats=("<i2", ("<i2", (-1,))))},
    "a negative shape": {"shape": (-2, -3)},
    "a vast shape": {"shape": (2**62, 2**62)},
    "a shape of text": {"shape": "ab"},
    "a shape of floats": {"shape": (2.0, 3.0)},
    "a shape of bools": {"shape": (True, True)},
    "a shape too small": {"shape": (1, 3)},
    "strides beyond": {"strides": (16, 4)},
    "strides before": {"strides": (-12, 4)},
    "vast strides": {"strides": (2**63 - 1, 2**63 - 1)},
    "few strides": {"strides": (4,)},
    "no strides": {"strides": None},
    "many dimensions": {"shape": (1,) * 65, "strides": (4,) * 65},
    "a smaller repetition": {"broadcast_to": (1, 1)},
    "a longer repetition": {"broadcast_to": (4, 3)},
    "a vast repetition": {"strides": (0, 0), "broadcast_to": (2**62, 2**62)},
    "dimensions of the repetition": {"broadcast_to": (2, 2, 3)},
    "no bool": {"writeable": (None,)},
    "no tuple": {"writeable": True},
    "another long double": {"longdouble": 112 if np.finfo("g").nmant != 112 else 63},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_header_is_a_value_error(name):
    header, frames = carry(header_of(**WRONG[name]), [bytes(24)])
    with no_unpickling(), pytest.raises(ValueError, match=r".") as info:
        find(np.ndarray).deserialize(header, frames, TRUSTED)
    assert len(str(info.value)) < 300


@pytest.mark.parametrize("frames", [[], [b"a"], [bytes(24), b""], [bytes(25)]])
def test_frames_that_do_not_fit_are_a_value_error(frames):
    with pytest.raises(ValueError, match=r"frames for an array|needs 24 bytes"):
        find(np.ndarray).deserialize(header_of(), frames, gate_of(stranger=True))


@pytest.mark.parametrize("order", "<>")
def test_text_of_what_are_no_code_points_is_a_value_error(order):
    text = np.array([0x10FFFF, 0xD800, 0], order + "u4").view(order + "U1")
    assert np.array_equal(there_and_back(text), text)
    wrong = np.array([0x110000, 65], order + "u4").view(order + "U2")
    inside = np.zeros(2, [("a", "i1"), ("b", [("c", wrong.dtype, (2,))])])
    inside["b"]["c"][1] = wrong
    for array in (wrong, inside, np.broadcast_to(wrong, (3, 1))):
        with pytest.raises(ValueError, match="the code point 1114112"):
            there_and_back(array)


@pytest.mark.parametrize("strides", [(2, 4), (4, 4), (8, 4), (12, 3), (12, 0), (1, 1)])
def test_items_that_overlap_are_a_value_error(strides):
    """What was looked at as text would be other text where items begin elsewhere."""
    with pytest.raises(ValueError, match=r"do not fill the 24 bytes|needs \d+ bytes"):
        find(np.ndarray).deserialize(
            header_of(strides=strides), [bytes(24)], gate_of(stranger=True)
        )


def test_pickles_are_not_for_strangers():
    reader = find_named("numpy.ndarray")
    for header in (
        {"pickle": True},
        {"pickle": 1, "dtype": (0, "<i4")},
        header_of(dtype=(1, pickle.dumps(np.dtype("i4")))),
        header_of(dtype=(True, b"")),
    ):
        with no_unpickling(), pytest.raises(UntrustedError, match="holds a pickle"):
            reader.deserialize(header, [bytes(24)], gate_of(stranger=True))


def test_a_repetition_is_for_strangers_up_to_a_limit():
    reader = find_named("numpy.ndarray")
    array = np.broadcast_to(np.float64(1), (2**16,))
    header, frames = carry(*reader.serialize(array))
    assert reader.deserialize(header, frames, gate_of(stranger=True, nbytes=0)).nbytes == 2**19
    long = header | {"broadcast_to": (2**27 + 1,)}
    wide = header_of(strides=(0, 4), shape=(2**40, 3))
    for of, size in ((long, 8), (wide, 12)):
        gate = gate_of(stranger=True, nbytes=1000)
        with pytest.raises(MessageError, match=r"would take \d{10,} bytes in memory"):
            reader.deserialize(of, [bytes(size)], gate)
        assert reader.deserialize(of, [bytes(size)], TRUSTED).nbytes > 2**30


@pytest.mark.parametrize("data", [np.arange(3), b"", "text"])
def test_dask_pickles_are_opened_where_trusted(data):
    objects = np.array([{1}, None])
    assert np.array_equal(from_dask(objects, stranger=False), objects)
    pickled = pickle.dumps(data)
    header = header_of(dtype=(1, pickled))
    with pytest.raises(ValueError, match="expected a dtype"):
        find(np.ndarray).deserialize(header, [bytes(24)], TRUSTED)


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=5),
        st.sampled_from(["<i4", "|O", "<U1", "|V8", "<M8[s]", "|b1", "<f16", 0, 1, 2**31, -8]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(
            st.sampled_from(["names", "formats", "offsets", "itemsize", "aligned", "titles"]),
            inner,
        ),
    ),
    max_leaves=8,
)
KEYS = ["dtype", "shape", "strides", "writeable", "broadcast_to", "longdouble", "pickle", "matrix"]


@given(
    array=st.sampled_from(ARRAYS),
    path=st.lists(st.integers(0, 20), min_size=1, max_size=5),
    extra=st.dictionaries(st.sampled_from(KEYS), values, max_size=2),
    value=values,
)
def test_a_damaged_header_gives_an_array_or_a_value_error(array, path, extra, value):
    header, frames = carry(*find(np.ndarray).serialize(array))
    header = damage(header, path, value) | extra
    reader = find_named("numpy.ndarray")
    with no_unpickling():
        try:
            gate = gate_of(stranger=True, nbytes=1000)
            arrived = reader.deserialize(header, frames, gate)
        except (ValueError, UntrustedError):
            return
    assert arrived.nbytes <= 2**20
    assert len(arrived.tobytes()) == arrived.nbytes
    repr(arrived)
