"""numpy's masked arrays: whole, to and from Dask, and from strangers."""

import pickle

import numpy as np
import pytest
from gates import TRUSTED, gate_of
from typed import carry, from_dask, taken, there_and_back, to_dask
from unpickling import no_unpickling

from distributed_comm._serialize.type_registry import find, find_named
from distributed_comm.errors import UntrustedError

ma = np.ma
MASKED = {
    "plain": ma.masked_array([1, 2, 3], [False, True, False]),
    "without mask": ma.masked_array([1.0, 2.0]),
    "a fill value": ma.masked_array([1, 2], [True, False], fill_value=7),
    "filled with NaN": ma.masked_array([1.0, 2.0], [True, False], fill_value=np.nan),
    "bools": ma.masked_array([True, False], [True, False], fill_value=False),
    "text": ma.masked_array(["ab", "c"], [True, False], fill_value="-"),
    "bytes": ma.masked_array([b"ab", b"c"], [True, False], fill_value=b"-"),
    "dates": ma.masked_array(np.array([1, 2], "M8[s]"), [1, 0], fill_value=np.datetime64(5, "s")),
    "durations": ma.masked_array(np.array([1, 2], "m8[h]"), [True, False]),
    "complex": ma.masked_array([1j, 2], [True, False]),
    "structured": ma.masked_array(np.zeros(2, "i4,U3"), [(True, False), (False, True)]),
    "0-d": ma.masked_array(3, True),
    "empty": ma.masked_array(np.zeros((0, 2))),
    "two dimensions": ma.masked_array(np.arange(6).reshape(2, 3).T, np.eye(3, 2, dtype=bool)),
    "all of it": ma.masked_array(np.ones((2, 3)), True),
    "hard": ma.masked_array([1, 2], [True, False], hard_mask=True),
}


@pytest.mark.parametrize("way", [there_and_back, to_dask, from_dask])
@pytest.mark.parametrize("name", MASKED)
def test_a_masked_array_arrives_as_it_was(way, name):
    array = MASKED[name]
    pickled = way is from_dask and (array.dtype.kind not in "biuf")
    arrived = way(array, stranger=False) if pickled else way(array)
    assert type(arrived) is type(array)
    assert arrived.dtype == array.dtype
    assert np.array_equal(arrived.data, array.data)
    assert np.array_equal(arrived.mask, array.mask)
    assert (arrived.mask is ma.nomask) == (array.mask is ma.nomask)
    assert repr(arrived.fill_value) == repr(array.fill_value)
    if way is there_and_back:
        assert arrived.hardmask == array.hardmask


@pytest.mark.parametrize("way", [there_and_back, to_dask, from_dask])
def test_the_masked_constant_arrives_as_itself(way):
    assert way(ma.masked) is ma.masked


@pytest.mark.parametrize("name", ["numpy.ma.MaskedArray", "numpy.ma.core.MaskedArray"])
def test_both_names_of_the_class_are_known(name):
    assert find_named(name).cls is ma.MaskedArray


def test_data_and_mask_lie_in_their_frames():
    array = ma.masked_array(np.arange(1000), np.zeros(1000, bool))
    header, frames = carry(*find(type(array)).serialize(array))
    arrived = find(type(array)).deserialize(header, frames, gate_of(stranger=True))
    assert np.shares_memory(arrived.data, np.frombuffer(frames[0], "u1"))


class Mine(ma.MaskedArray):
    pass


@pytest.mark.parametrize(
    "array",
    [
        ma.masked_array([1j], fill_value=2j),
        ma.masked_array(np.zeros(2, "i4,i4"), fill_value=(1, 2)),
        ma.masked_array([{1}, None]),
        ma.masked_array([1]).view(Mine),
        ma.masked_array(np.arange(4).reshape(2, 2).view(np.matrix)),
    ],
    ids=["complex fill value", "structured fill value", "objects", "subclass", "of a matrix"],
)
def test_what_the_header_cannot_say_is_left_to_pickle(array):
    assert not taken(array)


def test_pickles_are_not_for_strangers():
    array = MASKED["plain"]
    reader = find(type(array))
    header, frames = carry(*reader.serialize(array))
    bad = {"dtype": (1, pickle.dumps(array.dtype))}
    for change in (
        {"fill-value": (True, pickle.dumps(1))},
        {"fill-value": (1, b"")},
        {"data-header": header["data-header"] | bad},
        {"mask-header": header["mask-header"] | bad},
        {"mask-header": {"pickle": True}},
    ):
        with no_unpickling(), pytest.raises(UntrustedError, match="holds a pickle"):
            reader.deserialize(header | change, frames, gate_of(stranger=True))
    pickled = {"fill-value": (True, pickle.dumps(np.int64(9)))}
    assert reader.deserialize(header | pickled, frames, TRUSTED).fill_value == 9


WRONG = [
    {"fill-value": None},
    {"fill-value": (False,)},
    {"fill-value": (False, (1, 2))},
    {"fill-value": (False, {"a": 1})},
    {"fill-value": (False, "text")},
    {"fill-value": (False, 2**70)},
    {"nframes": None},
    {"nframes": 0},
    {"nframes": 2},
    {"nframes": 3},
    {"nframes": -1},
    {"hard-mask": 1},
    {"data-header": None},
    {"data-header": {}},
    {"mask-header": None},
    {"mask-header": {}},
]


@pytest.mark.parametrize("change", WRONG, ids=repr)
def test_a_wrong_header_is_a_value_error(change):
    reader = find(ma.MaskedArray)
    header, frames = carry(*reader.serialize(MASKED["plain"]))
    with no_unpickling(), pytest.raises(ValueError, match=r"."):
        reader.deserialize(header | change, frames, TRUSTED)


def test_a_mask_of_another_shape_is_a_value_error():
    reader = find(ma.MaskedArray)
    header, frames = carry(*reader.serialize(MASKED["plain"]))
    other, mask = carry(*find(np.ndarray).serialize(np.array([True])))
    with pytest.raises(ValueError, match="a mask of"):
        reader.deserialize(
            header | {"mask-header": other}, [frames[0], *mask], gate_of(stranger=True)
        )
