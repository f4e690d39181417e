"""scipy's sparse matrices and arrays: whole, to and from Dask, and from strangers."""

import pickle
from contextlib import suppress

import numpy as np
import pytest
import scipy.sparse as sp
from gates import gate_of
from hypothesis import given, settings
from hypothesis import strategies as st
from typed import carry, damage, from_dask, taken, there_and_back, to_dask
from unpickling import no_unpickling

from distributed_comm._serialize.type_registry import find, find_named
from distributed_comm.errors import UntrustedError

DENSE = np.array([[1, 0, 2, 0], [0, 0, 3, 4], [0, 5, 0, 0], [6, 0, 0, 7]], "f8")
KINDS = ["csr", "csc", "coo", "bsr", "dia"]
CONTAINERS = ["matrix", "array"]


def make(kind, container, dense=DENSE):
    return getattr(sp, f"{kind}_{container}")(dense)


def same(a, b):
    assert type(a) is type(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert (a.toarray() == b.toarray()).all()
    return True


@pytest.mark.parametrize("dense", [DENSE, DENSE.astype("c8"), DENSE > 0, np.zeros((3, 5), "i1")])
@pytest.mark.parametrize("kind", [*KINDS, "dok"])
@pytest.mark.parametrize("way", [there_and_back, to_dask, from_dask])
def test_a_matrix_arrives_as_it_was(way, kind, dense):
    matrix = make(kind, "matrix", dense)
    arrived = way(matrix)
    assert same(arrived, matrix)
    assert same(arrived.tocsr().T @ arrived, matrix.tocsr().T @ matrix)


@pytest.mark.parametrize("dense", [DENSE, np.zeros((3, 5), "i1"), np.zeros((0, 3))])
@pytest.mark.parametrize("kind", KINDS)
def test_an_array_arrives_as_it_was(kind, dense):
    array = make(kind, "array", dense)
    assert same(there_and_back(array), array)
    assert not find(type(array)).known_to_dask


def test_arrays_of_other_dimensions_arrive():
    for array in (sp.coo_array(DENSE[0]), sp.csr_array(DENSE[0]), sp.coo_array(DENSE[None])):
        assert same(there_and_back(array), array)


def test_blocks_stay_blocks():
    matrix = sp.bsr_matrix(DENSE, blocksize=(2, 2))
    assert there_and_back(matrix).blocksize == (2, 2)


def test_the_values_lie_in_their_frame():
    matrix = sp.random(100, 100, 0.1, "csr")
    header, frames = carry(*find(type(matrix)).serialize(matrix))
    arrived = find(type(matrix)).deserialize(header, frames, gate_of(stranger=True))
    frame = np.frombuffer(frames[header["complex"]["data"]["start"]], "u1")
    assert np.shares_memory(arrived.data, frame)


class Mine(sp.csr_matrix):
    pass


@pytest.mark.parametrize(
    "matrix",
    [
        Mine(DENSE),
        sp.lil_matrix(DENSE),
        sp.lil_array(DENSE),
        sp.dok_array(DENSE),
    ],
    ids=["subclass", "lil", "lil array", "dok array"],
)
def test_the_others_are_left_to_pickle(matrix):
    assert not taken(matrix)


def test_coordinates_by_their_old_names_are_read():
    matrix = sp.coo_matrix(DENSE)
    reader = find(sp.coo_matrix)
    header, frames = carry(*reader.serialize(matrix))
    parts = dict(header["complex"])
    coords = parts.pop("coords")
    for index, name in enumerate(("row", "col")):
        start = coords["start"] + index
        inner = coords["header"]["sub-headers"][index]
        parts[name] = {"header": inner, "start": start, "stop": start + 1}
    assert same(
        reader.deserialize(header | {"complex": parts}, frames, gate_of(stranger=True)), matrix
    )


# -- from strangers -------------------------------------------------------------------


def test_no_pickle_is_opened_for_a_stranger():
    for kind in [*KINDS, "dok"]:
        with no_unpickling():
            there_and_back(make(kind, "matrix"))
    reader = find(sp.csr_matrix)
    objects = sp.csr_matrix(DENSE)
    objects.data = objects.data.astype(object)
    assert from_dask(objects, stranger=False).data.tolist() == objects.data.tolist()
    header, frames = carry(*reader.serialize(sp.csr_matrix(DENSE)))
    sound = header["complex"]["data"]["header"]
    for bad in ({"pickle": True}, {"dtype": (1, pickle.dumps(np.dtype("f8")))}):
        wrong = sound | {"sub-header": sound["sub-header"] | bad}
        for part in (wrong, wrong | {"sub-headers": (sound,)}):
            parts = header["complex"] | {"data": {"header": part, "start": 0, "stop": 1}}
            with no_unpickling(), pytest.raises(UntrustedError, match="holds a pickle"):
                reader.deserialize(header | {"complex": parts}, frames, gate_of(stranger=True))


def test_what_repeats_is_written_out_and_no_stranger_may_send_it():
    """scipy widens indices: 2**30 that are one byte would become 8 GiB."""
    matrix = sp.csr_matrix(DENSE)
    matrix.data = np.broadcast_to(matrix.data[:1], matrix.data.shape)
    assert same(there_and_back(matrix), matrix)
    reader = find(sp.csr_matrix)
    header, frames = carry(*reader.serialize(sp.csr_matrix(DENSE)))
    part = header["complex"]["indices"]
    part["header"]["sub-header"] |= {"shape": (1,), "strides": (0,), "broadcast_to": (2**20,)}
    frames[part["start"]] = bytes(4)
    with pytest.raises(UntrustedError, match="repeats 4 bytes until they are 4194304"):
        reader.deserialize(header, frames, gate_of(stranger=True))


def test_a_stranger_may_fill_no_large_dict():
    """The places in a dok_matrix become keys of a dict, whose hashes can be chosen."""
    small, large = (sp.dok_matrix(sp.eye(size)) for size in (2_000, 2_001))
    assert same(there_and_back(small), small)
    with pytest.raises(UntrustedError, match="a dok_matrix of 2001 items, more than 2000"):
        there_and_back(large)
    assert same(there_and_back(large, stranger=False), large)


LIES = {
    "an index beyond": ("csr", "indices", 0, 4),
    "an index before": ("csc", "indices", 0, -1),
    "a pointer beyond": ("csr", "indptr", -1, 99),
    "a pointer before": ("csr", "indptr", 1, -5),
    "pointers that go back": ("bsr", "indptr", 1, 99),
    "a last pointer before": ("csc", "indptr", -1, -1),
    "a diagonal outside": ("dia", "offsets", -1, 2**31 - 1),
    "a block beyond": ("bsr", "indices", 0, 99),
    "a diagonal twice": ("dia", "offsets", 0, 1),
}


@pytest.mark.parametrize("name", LIES)
def test_indices_that_lead_elsewhere_are_a_value_error(name):
    kind, attribute, position, value = LIES[name]
    matrix = make(kind, "matrix")
    reader = find(type(matrix))
    getattr(matrix, attribute)[position] = value
    header, frames = carry(*reader.serialize(matrix))
    with pytest.raises(ValueError, match=r"_matrix of the shape|go back|a diagonal outside"):
        reader.deserialize(header, frames, gate_of(stranger=True))


def test_pointers_that_leave_and_return_are_a_value_error():
    matrix = sp.csr_matrix((4, 4))  # scipy itself does not look where there are no values
    matrix.indptr[2] = 10_000
    with pytest.raises(ValueError, match="go back"):
        there_and_back(matrix)


@pytest.mark.parametrize("value", [-1, 4])
def test_coordinates_outside_are_a_value_error(value):
    for cls, name in ((sp.coo_matrix, "coo_matrix"), (sp.dok_matrix, "coo_matrix")):
        matrix = sp.coo_matrix(DENSE)
        matrix.coords[0][0] = value
        header, frames = carry(*find(sp.coo_matrix).serialize(matrix))
        header = {"coo_header": header} if cls is sp.dok_matrix else header
        with pytest.raises(ValueError, match=f"{name} of the shape"):
            find(cls).deserialize(header, frames, gate_of(stranger=True))


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2**64 - 1),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-3, 9), max_size=3).map(tuple),
    st.dictionaries(st.sampled_from(["header", "start", "stop", "_shape"]), st.integers()),
)


@settings(max_examples=60)
@given(
    path=st.lists(st.integers(0, 20), max_size=7),
    value=values,
    position=st.integers(0, 200),
    byte=st.integers(0, 255),
)
@pytest.mark.parametrize("name", [*(f"{kind}_matrix" for kind in [*KINDS, "dok"]), "coo_array"])
def test_a_damaged_message_gives_a_matrix_or_a_value_error(name, path, value, position, byte):
    kind, _, container = name.partition("_")
    reader = find(type(make(kind, container)))
    header, frames = carry(*reader.serialize(make(kind, container)))
    header = damage(header, path, value)
    frame = frames[position % len(frames)]
    frame[position % len(frame)] = byte
    if type(header) is dict:
        with no_unpickling(), suppress(ValueError, UntrustedError):
            matrix = find_named(reader.name).deserialize(header, frames, gate_of(stranger=True))
            assert matrix.nnz < 100
            if np.prod(matrix.shape, dtype=float) < 10_000:
                matrix.toarray()
