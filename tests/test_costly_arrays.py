"""What strangers send as arrays costs no more than is in proportion to its bytes."""

import time
import tracemalloc
from math import inf

import numpy as np
import pytest
import scipy.sparse as sp
from gates import gate_of
from hostile_arrays import (
    DOK,
    HOSTILE,
    Hostile,
    colliding,
    flood,
    layout,
    masked,
    message,
    plain,
    small,
    sparse,
    structure,
)
from hostile_compression import COMPRESSED
from hypothesis import given, settings
from hypothesis import strategies as st
from msgpack import packb
from typed import carry, damage, there_and_back

from distributed_comm import _kernels
from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.offload import Lengthy
from distributed_comm._serialize.settings import LoadOptions
from distributed_comm._serialize.tags import SERIALIZED, SET, TAG
from distributed_comm._serialize.type_registry import find
from distributed_comm.errors import MessageError, UntrustedError

MIB = 1024**2
REFUSALS = (MessageError, UntrustedError)
#: Seconds that a message may keep the loop.
LOOP = 0.05
#: How much longer a machine may take that does other things meanwhile.
BUSY = 2


def open_as_a_comm_does(frames):
    """Open a message on the loop, or in a thread; return the object, and the time of the loop."""
    begin = time.thread_time()
    obj, opened = attempt(frames, LoadOptions(typed=True))
    spent = time.thread_time() - begin
    if opened is not None:
        obj, _ = attempt(frames, LoadOptions(typed=True, most=None), opened)
    return obj, spent


def attempt(frames, options, opened=None):
    """Return an object or the error, and what of it was opened, if it is for a thread."""
    try:
        return loads(frames, options, opened), None
    except Lengthy as lengthy:
        return None, lengthy.opened
    except REFUSALS as exc:
        return exc, None


def check_cost(frames, loop=LOOP):
    """Fail if a message takes too much memory, or seconds of the loop or of any thread.

    The time is promised of the compiled kernels.
    """
    frames = [*map(bytearray, frames)]
    nbytes = size_of(frames)
    assert memory(frames) <= 100 * nbytes + MIB
    if _kernels.kind == "compiled":
        on_loop, whole = map(min, zip(*seconds(frames), strict=True))
        assert whole <= BUSY * (0.05 + 0.2 * nbytes / MIB)
        assert on_loop <= BUSY * loop


def memory(frames):
    """Return the most bytes that it takes at once to open a message."""
    tracemalloc.start()
    try:
        open_as_a_comm_does(frames)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def seconds(frames):
    """Yield, several times, the seconds of the loop and of any thread."""
    for _ in range(5):  # others may have the processor's caches
        begin = time.thread_time()
        _, loop = open_as_a_comm_does(frames)
        yield loop, time.thread_time() - begin


def size_of(frames):
    return sum(map(len, frames))


@pytest.mark.parametrize("name", [*HOSTILE, *COMPRESSED])
def test_a_message_costs_what_is_in_proportion_to_its_bytes(name):
    check_cost(message(HOSTILE.get(name) or COMPRESSED[name]))


FLOODS = {
    "csr": plain(sp.csr_matrix((1, 1))),
    "coo": plain(sp.coo_array((1,) * 20)),
    "dok": plain(sp.dok_matrix((1, 1))),
    "masked": plain(np.ma.masked_array([1], [False])),
    "masked structure": plain(np.ma.masked_array(np.zeros(1, "i1,i1"))),
    "structure": plain(np.zeros(1, "U1,U1")),
    "void": plain(np.zeros(1, "i1,i1")[0]),
    "bytes": plain(bytearray(b"a")),
}


@pytest.mark.parametrize("name", FLOODS)
def test_many_small_objects_cost_what_is_in_proportion_to_their_bytes(name):
    check_cost(flood(FLOODS[name], 1_000), loop=inf)


def test_structures_whose_hashes_are_chosen_are_not_compared():
    """Each comparison of two would take 4 µs a field."""
    frames = flood(plain(np.zeros(1, ",".join(["i8"] * 64))[0]), 64)
    frames[0] = packb([TAG, SET, *([TAG, SERIALIZED, place] for place in range(1, 129, 2))])
    obj, _ = open_as_a_comm_does([*map(bytearray, frames)])
    assert isinstance(obj, REFUSALS)
    assert "unhashable" in str(obj)
    check_cost(frames)


# -- each limit -----------------------------------------------------------------------

REFUSED = {
    "a number 2**30 times": "would take 1073741823 bytes in memory",
    "a number 2**62 times": "bytes in memory",
    "a structure 2**27 times": "would take 1073741816 bytes in memory",
    "no items of 2 GiB": "would take 2147483647 bytes in memory",
    "no structures of 2 GiB": "would take 2147483647 bytes in memory",
    "text fields in one place": "fields of 12000 bytes in an item of 4",
    "many fields": "a dtype of fields would keep the interpreter",
    "many subarrays": "so many items",
    "many structures": "so many items",
    "fields in one place on each level": "a dtype of fields would keep the interpreter",
    "a scalar of many fields": "0 dimensions of |V4000, expected one float64",
    "a fill value of 2 GiB": "would take 2147483647 bytes in memory",
    "a fill value of 2 GiB in letters": "would take 2147483644 bytes in memory",
    "a fill value of 2 GiB of bytes": "would take 2147483647 bytes in memory",
    "a masked structure 2**30 times": "repeats 1 bytes until they are 1073741824",
    "a masked number 2**30 times": "repeats 1 bytes until they are 1073741824",
    "a mask 2**30 times": "repeats 1 bytes until they are 1073741824",
    "the default of a subarray": "would take 1073741824 bytes in memory",
    "the default of a subarray in one item": "a masked array would keep the interpreter",
    "the default of many fields": "a masked array would take about",
    "a mask of fields in one place": "fields of 900 bytes in an item of 1",
    "subarrays in one place": "a masked array would take 10000000 bytes",
    "a matrix of structures": "a sparse matrix of |V1500, expected numbers",
    "vast blocks": "index pointer size",
    "many diagonals": "diagonals would take about",
    "keys that collide": "a dok_matrix of 2000 items would keep the interpreter",
    "many frames of nothing": "shards 0 to 0, expected some from 0 on",
    "odd numbers of shards": "numbers of shards with other items than integers",
    "shards at an odd place": "offsets of shards with other items than integers",
    "odd compression": "compressed by 100000 items",
    "compression of a long name": "compressed by a str",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_cost_more_is_refused_and_the_error_says_why(name):
    obj, _ = open_as_a_comm_does([*map(bytearray, message(HOSTILE[name]))])
    assert isinstance(obj, REFUSALS)
    assert len(str(obj)) < 500
    assert REFUSED[name] in str(obj)


@pytest.mark.parametrize("name", HOSTILE.keys() - REFUSED.keys())
def test_what_costs_no_more_is_opened(name):
    if name != "a long name of a field twice":
        obj, _ = open_as_a_comm_does([*map(bytearray, message(HOSTILE[name]))])
        assert not isinstance(obj, Exception)


def test_a_repetition_counts_as_what_it_looks_like():
    opened, gate = np.broadcast_to(np.float64(1), (2**16,)), gate_of(stranger=True, nbytes=0)
    header, frames = carry(*find(np.ndarray).serialize(opened))
    assert find(np.ndarray).deserialize(header, frames, gate).nbytes == 2**19
    with pytest.raises(MessageError, match=r"shape \(65536,\) and the dtype <f8 would take 524280"):
        find(np.ndarray).deserialize(header, frames, gate)  # together more than 768 KiB


def test_overlapping_fields_may_add_up_to_four_times_the_item():
    union = np.zeros(3, structure(4, "<u4", ("<u2", (2,)), ("|u1", (4,)), "|S4"))
    assert there_and_back(union).tobytes() == union.tobytes()
    assert there_and_back(union).dtype == union.dtype
    longer = np.zeros(3, structure(4, "<u4", ("<u2", (2,)), ("|u1", (4,)), "|S4", "|u1"))
    assert there_and_back(longer, stranger=False).dtype == longer.dtype
    with pytest.raises(ValueError, match="fields of 17 bytes in an item of 4"):
        there_and_back(longer)


def test_a_masked_array_that_repeats_is_written_out():
    shape = (3, 50)
    ones = np.broadcast_to(np.arange(3)[:, None], shape)
    sent = np.ma.masked_array(ones, np.broadcast_to(np.arange(50) % 2 == 0, shape))
    sent._mask = np.broadcast_to(np.arange(50) % 2 == 0, shape)
    arrived = there_and_back(sent)
    assert arrived.tolist() == sent.tolist()
    assert 0 not in arrived.data.strides + arrived.mask.strides


def test_keys_that_cannot_collide_are_counted_once_each():
    rows, columns = np.arange(2_000), np.arange(2_000)
    near = sparse(
        HOSTILE["small coordinates"].name, (2**30,) * 2, coords=(rows, columns), data=np.ones(2_000)
    )
    obj, _ = open_as_a_comm_does(message(Hostile(DOK, {"coo_header": near.header}, near.frames)))
    assert obj.nnz == 2_000
    few = [axis[:900] for axis in colliding(900)]
    coo = sparse(HOSTILE["small coordinates"].name, (2**62,) * 2, coords=few, data=np.ones(900))
    obj, _ = open_as_a_comm_does(message(Hostile(DOK, {"coo_header": coo.header}, coo.frames)))
    assert obj.nnz == 900
    assert len({hash(key) for key in obj.keys()}) == 1  # noqa: SIM118 - a matrix iterates over rows


def test_what_takes_long_is_left_to_a_thread():
    long = {
        "text in fields": Hostile(
            "numpy.ndarray", layout(structure(4, "<U1"), 2_600_000), [bytes(10_400_000)]
        ),
        "a mask": masked(layout(structure(2, "|i1"), 10**6), bytes(2 * 10**6)),
        "a mask of fields": masked(
            layout(structure(2, "|i1", "|i1", step=1), 10**6), bytes(2 * 10**6)
        ),
        "indices": sparse(
            HOSTILE["small pointers"].name,
            (3 * 10**6, 1),
            data=small(0),
            indices=small(0),
            indptr=small(3 * 10**6 + 1),
        ),
    }
    for name, hostile in long.items():
        frames = [*map(bytearray, message(hostile))]
        assert size_of(frames) <= 10_500_000, name
        if name == "a mask":
            loads(frames, LoadOptions(typed=True))
            continue
        with pytest.raises(Lengthy):
            loads(frames, LoadOptions(typed=True))
        loads(frames, LoadOptions(typed=True, most=None))


# -- honest ones ----------------------------------------------------------------------

wide = np.dtype([(f"column {number}", "<f8") for number in range(500)])
HONEST = {
    "500 columns": np.ones(10, wide),
    "500 masked columns": np.ma.masked_array(np.ones(10, wide)),
    "500 columns of text": np.zeros(10, [(f"column {number}", "<U8") for number in range(500)]),
    "pictures": np.zeros(3, [("id", "i8"), ("picture", "u1", (300, 400, 3))]),
    "masked pictures": np.ma.masked_array(np.zeros(3, [("id", "i8"), ("p", "u1", (300, 400))])),
    "long text": np.array(["x" * 100_000, ""]),
    "masked text": np.ma.masked_array(["x" * 1000] * 100, fill_value="-"),
    "no text": np.array([], "U1000"),
    "repeated": np.broadcast_to(np.arange(10), (1000, 10)),
    "a large void": np.void(bytes(10**6)),
    "csr": sp.random(1000, 1000, 0.1, "csr"),
    "dia": sp.diags([1.0, 2.0, 3.0], [-1, 0, 1], shape=(2_000, 2_000)),
    "dok": sp.dok_matrix(sp.eye(2_000)),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_arrays_arrive(name):
    sent = HONEST[name]
    frames = [*map(bytearray, message(plain(sent)))]
    arrived, _ = open_as_a_comm_does(frames)
    assert type(arrived) is type(sent)
    if sp.issparse(sent):
        assert (arrived != sent).nnz == 0
    else:
        assert arrived.tobytes() == sent.tobytes()


# -- whatever else they say -----------------------------------------------------------

numbers = st.one_of(
    st.integers(-2, 5),
    st.sampled_from([2**k + d for k in (8, 16, 20, 30, 31, 62, 63) for d in (-1, 0)]),
)
values = st.one_of(
    numbers,
    st.lists(numbers, max_size=4).map(tuple),
    st.sampled_from(["|S2147483647", "<U100000", "|V2147483647", "<f8", "|b1", "<M8[s]", "|i1"]),
    st.tuples(st.just("|i1"), st.lists(numbers, max_size=3).map(tuple)),
    st.sampled_from([structure(2**20, "|i1", ("<U1", (1000,)), step=1), structure(1, "|i1")]),
    st.booleans(),
    st.none(),
    st.binary(max_size=8),
)
SMALL = sorted(name for name in HOSTILE if size_of(message(HOSTILE[name])) < 20_000)
BASES = [HOSTILE[name] for name in SMALL] + [plain(obj) for obj in HONEST.values() if obj.size < 99]
BASES += list(FLOODS.values())


@settings(max_examples=150, deadline=None)
@given(
    base=st.sampled_from(BASES),
    changes=st.lists(
        st.tuples(st.lists(st.integers(0, 30), min_size=1, max_size=7), values),
        min_size=1,
        max_size=4,
    ),
    filling=st.none() | st.binary(max_size=40),
)
def test_no_header_makes_a_message_cost_more(base, changes, filling):
    header, frames = carry(base.header, base.frames, bytes)
    for path, value in changes:
        header = damage(header, path, value)
    if filling is not None and frames:
        frames[-1] = filling
    if type(header) is dict:
        check_cost(message(Hostile(base.name, header, frames)))
