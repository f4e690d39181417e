"""Real messages with some of their bytes changed: a message, or one of the documented errors."""

from contextlib import suppress
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import Point
from msgpack import packb
from unpickling import no_unpickling

from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions
from distributed_comm._serialize.wrappers import Serialize, ToPickle
from distributed_comm.errors import MessageError, UnserializableError, UntrustedError

protocol = pytest.importorskip("distributed.protocol")

DOCUMENTED = (MessageError, UntrustedError, UnserializableError)
LIMIT = 1024 * 1024

MESSAGES = [
    [1, (2, {"a": [(), frozenset({3}), {(4,)}]}), 2**100, {"__Set": [-0.5, None, True]}],
    {"op": "put", "data": Serialize(np.arange(30.0).reshape(5, 6).T), "keys": {"x", "y"}},
    [np.float64(1.5), np.arange(3, dtype=">i2"), np.datetime64(1, "s"), np.zeros(2, "i4,U3")],
    [np.ma.masked_array([1, 2], [True, False]), Serialize(bytearray(b"abc")), memoryview(b"ab")],
    [Serialize(sp.csr_matrix(np.eye(4))), Serialize(sp.coo_array(np.eye(3)))],
    [Serialize(sp.csc_matrix(np.eye(4))), Serialize(sp.dia_matrix(np.eye(3)))],
    [Serialize(pa.table({"x": [1, None, 3], "y": ["a", "b", None]}))],
    {"pickles": [Point(1), ToPickle(Point(np.arange(9))), Serialize(range(3))], "n": [1] * 20},
    [Serialize(np.zeros(3000)), Serialize(np.arange(3000) // 100), {"compressed": True}],
    {"failed": (i for i in ()), "plain": Serialize("text")},
]


def ours(msg, typed, compression=None):
    options = DumpOptions(trusted=True, typed=typed, compression=compression, on_error="message")
    return typed, [bytes(frame) for frame in dumps(msg, options)]


REAL = [ours(msg, typed) for msg in MESSAGES for typed in (True, False)]
REAL += [ours(MESSAGES[-2], True, codec) for codec in ("lz4", "zstd", "snappy", "zlib")]
REAL += [
    (False, [bytes(frame) for frame in protocol.dumps(msg, **options)])
    for msg, options in [
        ({"x": protocol.Serialize({"a": [np.arange(3)], "b": (b"c", {np.float64(1)})})}, {}),
        ([protocol.Serialize(Point(np.arange(500.0)))], {"frame_split_size": 1000}),
        ([protocol.Serialize(np.zeros(4000))], {"context": {"compression": "lz4"}}),
        ([protocol.ToPickle(np.zeros(4000))], {"context": {"compression": "zlib"}}),
        ([protocol.Serialize(i for i in ()), protocol.Serialize(np.ma.masked_array([1], [0]))], {}),
    ]
]


def damage(real, hits):
    """Return the dialect, and the frames with pieces of them replaced."""
    typed, frames = real
    frames = list(frames)
    for which, start, length, filling in hits:
        index = which % len(frames)
        frame = frames[index]
        cut = start % (len(frame) + 1)
        frames[index] = frame[:cut] + filling + frame[cut + length :]
    return typed, frames


fillings = st.one_of(
    st.binary(max_size=4),
    st.integers(0, 255).map(lambda byte: bytes([byte])),
    st.sampled_from([b"\xc7\x00\xbd", b"\x93\xc7\x00\xbd", b"\xdd\xff\xff\xff\xff", b"\x91" * 600]),
    st.sampled_from([None, True, -1, 2**63, "dask", "pickle", "lz4", [], {}, [[1]]]).map(packb),
)
hits = st.tuples(st.integers(0, 9), st.integers(0, 700), st.sampled_from([0, 1, 1, 1, 4]), fillings)
damaged = st.builds(damage, st.sampled_from(REAL), st.lists(hits, min_size=1, max_size=3))
dropped = st.builds(
    lambda real, which: (real[0], real[1][:1] + real[1][1 + which % len(real[1]) :]),
    st.sampled_from(REAL),
    st.integers(0, 9),
)
swapped = st.builds(
    lambda real, order: (real[0], [real[1][0], *order.sample(real[1][1:], len(real[1]) - 1)]),
    st.sampled_from(REAL),
    st.randoms(),
)
mixed = st.builds(
    lambda one, other: (one[0], [one[1][0], *other[1][1:]]),
    st.sampled_from(REAL),
    st.sampled_from(REAL),
)
messages = st.one_of(damaged, damaged, damaged, dropped, swapped, mixed)


def read(message, *, trusted, deserialize):
    typed, frames = message
    frames = [bytes(frames[0]), *map(bytearray, frames[1:])]
    options = LoadOptions(
        trusted=trusted,
        typed=typed,
        deserialize=deserialize,
        max_message=LIMIT,
        deserializers=("dask", "msgpack", "error") if trusted else None,  # and so no pickles
    )
    with suppress(*DOCUMENTED):
        loads(frames, options)


@pytest.mark.parametrize("deserialize", [True, False])
@settings(max_examples=200)
@given(message=messages)
def test_a_stranger_causes_documented_errors_and_opens_no_pickle(kernels, deserialize, message):
    with no_unpickling():
        read(message, trusted=False, deserialize=deserialize)


@pytest.mark.parametrize("deserialize", [True, False])
@settings(max_examples=200)
@given(message=messages)
def test_so_does_a_trusted_peer_whose_pickles_are_left_out(kernels, deserialize, message):
    """Registered types may hold pickles, too, which are made up here."""
    with mock.patch("distributed_comm._serialize.pickles.loads", return_value=3.5):
        read(message, trusted=True, deserialize=deserialize)


@pytest.mark.parametrize(("typed", "frames"), REAL)
def test_they_are_sound_before_they_are_damaged(kernels, typed, frames):
    for deserialize in (True, False):
        options = LoadOptions(trusted=True, typed=typed, deserialize=deserialize)
        try:
            loads(frames, options)
        except UnserializableError as exc:
            assert "generator" in str(exc)  # noqa: PT017 - that message is an error
