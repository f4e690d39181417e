"""Packing and unpacking: the chosen kernel against its specification, both against Dask."""

from itertools import chain
from struct import pack as pack_numbers

import numpy as np
import pytest
from distributed.comm.tcp import _add_frames_header
from distributed.protocol.utils import unpack_frames
from hypothesis import example, given
from hypothesis import strategies as st

from distributed_comm._kernels import framing as chosen
from distributed_comm._kernels import framing_py as specification

from .hostile import COUNTS, EDGES, MIB, controls, honest, hostile, message, numbers, streams
from .twins import each_of, outcome

NO_CAP = 2**63 - 1
LARGE = specification.LARGE

each_kernel = each_of(chosen, specification)


def packed(kernel, frames):
    return [(type(buffer), bytes(buffer)) for buffer in kernel.pack(frames)]


# -- packing -------------------------------------------------------------------

sizes = st.one_of(
    st.integers(0, 5000), st.sampled_from([LARGE - 1, LARGE, LARGE + 1, 20 * 2048, 20 * 3000])
)
owners = st.one_of(
    sizes.map(bytes),
    sizes.map(bytearray),
    sizes.map(lambda size: np.zeros(1 + size // 8)),  # of 8 bytes each
)


@st.composite
def views_of_one_owner(draw):
    """Memory as it is, or as one view or two shards of it."""
    owner = draw(owners)
    view = memoryview(owner)
    cut = draw(st.integers(0, len(view)))
    shards = [view] if view.format != "B" else [view[:cut], view[cut:]]
    as_it_is = [] if isinstance(owner, np.ndarray) else [[owner]]
    return draw(st.sampled_from([*as_it_is, [view], shards]))


frame_lists = st.lists(views_of_one_owner(), min_size=1, max_size=4).map(
    lambda lists: list(chain.from_iterable(lists))
)


@given(frame_lists)
def test_packed_as_specified(frames):
    assert packed(chosen, frames) == packed(specification, frames)


@given(frame_lists)
def test_packed_as_dask_packs(frames):
    expected, _, nbytes = _add_frames_header(frames)
    data = b"".join(specification.pack(frames))
    assert data[:8] == bytes(expected[0])[:8]  # F, shown alone since it is what may differ
    assert data == b"".join(expected)
    assert len(data) == nbytes


@given(frame_lists)
def test_dask_reads_what_was_packed(frames):
    data = b"".join(chosen.pack(frames))
    assert [bytes(frame) for frame in unpack_frames(data[8:])] == [bytes(f) for f in frames]


@given(frame_lists)
def test_unpacked_is_what_was_packed(frames):
    data = b"".join(chosen.pack(frames))
    messages, end = chosen.unpack(data, 0, len(data), NO_CAP, 100, 9)
    assert end == len(data)
    assert [[bytes(f) for f in m] for m in messages] == [[bytes(f) for f in frames]]
    first, *others = messages[0]
    assert type(first) is bytes
    assert {type(frame) for frame in others} <= {bytearray}


@each_kernel
def test_a_message_without_frames_cannot_be_packed(kernel):
    with pytest.raises(ValueError, match=r"^a message has at least one frame$"):
        kernel.pack([])


@each_kernel
def test_only_small_frames_are_copied(kernel):
    large = bytearray(LARGE)
    buffers = kernel.pack([b"a", large, b"b", bytearray(LARGE - 1), memoryview(large)])
    assert [len(buffer) for buffer in buffers] == [16 + 5 * 8 + 1, LARGE, LARGE, LARGE]
    large[0] = 7
    assert [buffer[0] for buffer in buffers[1:]] == [7, ord("b"), 7]


def golden(text):
    """Return bytes that are written as a number of 8 bytes a word, or '…' as text."""
    words = text.split()
    return b"".join(
        word[1:-1].encode() if word[0] == "'" else pack_numbers("<Q", int(word)) for word in words
    )


@each_kernel
@pytest.mark.parametrize(
    ("frames", "head"),
    [
        ([b""], "16 1 0"),  # k = 1 = N
        ([b"abc", b"", b"d"], "36 3 3 0 1 'abcd'"),  # k = N
        ([b"ab", bytearray(b"cd"), bytearray(b"e")], "36 3 2 2 1 'abcde'"),  # k = 2
        ([b"ab", bytearray(), bytearray(), b"cd"], "42 4 2 0 0 2 'abcd'"),  # k = 2
        ([b"x" * 2048, bytearray(b"y")], f"2073 2 2048 1 '{'x' * 2048}y'"),  # k = 2
        ([b"x" * 2049, bytearray(b"y")], f"2073 2 2049 1 '{'x' * 2049}y'"),  # k = 1
        ([memoryview(b"ab"), bytearray(b"c")], "27 2 2 1 'abc'"),  # owned by bytes
    ],
)
def test_bytes_on_the_wire(kernel, frames, head):
    assert b"".join(kernel.pack(frames)) == golden(head)


HELLO = (
    b"\x3a\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\x2a\0\0\0\0\0\0\0"
    b"\x83\xabcompression\xc0\xa6python\x93\x03\x0b\x07\xafpickle-protocol\x05"
)


@each_kernel
def test_the_hello_of_a_dask_server(kernel):
    assert kernel.unpack(HELLO, 0, len(HELLO), 4096, 1, 1) == ([[HELLO[24:]]], len(HELLO))
    assert kernel.pack([HELLO[24:]]) == [HELLO]


# -- unpacking ------------------------------------------------------------------

limits = st.tuples(
    st.one_of(st.integers(0, 100), st.just(NO_CAP)), st.sampled_from([1, 3, 65_536, NO_CAP])
)


@given(
    hostile,
    limits,
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 3),
    st.sampled_from([bytes, bytearray, memoryview]),
)
@example(message(0, [], count=2**61 - 1), (NO_CAP, NO_CAP), 0, 0, 3, bytes)
@example(message(8, [], count=2**61 - 1), (NO_CAP, NO_CAP), 0, 0, 3, bytes)
@example(message(2**64 - 8, [], count=2**61 - 2), (NO_CAP, NO_CAP), 0, 0, 3, bytes)
def test_unpacked_as_specified(data, limits, before, after, max_count, kind):
    buffer = kind(bytes(before) + data + bytes(after))
    span = (before, before + len(data))
    checked = outcome(specification.unpack, buffer, *span, *limits, max_count)
    assert checked[0] is tuple
    assert outcome(chosen.unpack, buffer, *span, *limits, max_count) == checked
    checked = outcome(specification.inspect, buffer, *span, *limits)
    assert checked[0] in {list, type(None), ValueError}
    assert outcome(chosen.inspect, buffer, *span, *limits) == checked


@given(numbers, st.lists(numbers, max_size=3), numbers, limits)
def test_any_numbers_are_judged_as_specified(block, lengths, count, limits):
    for data in (message(block, lengths), message(block, lengths, count=count)):
        args = (data, 0, len(data), *limits)
        assert outcome(chosen.inspect, *args) == outcome(specification.inspect, *args)
        assert chosen.unpack(*args, 1) == specification.unpack(*args, 1)


@each_kernel
@given(streams)
def test_a_message_is_unpacked_only_when_it_is_complete(kernel, stream):
    messages, ends, end = [], [0], 0
    for _ in range(9):
        more, end = kernel.unpack(stream, end, len(stream), NO_CAP, 9, 1)
        messages += more
        ends += [end] if more else []
    for size in range(ends[-1] + 1):
        whole = [stop for stop in ends if stop <= size]
        expected = (messages[: len(whole) - 1], whole[-1])
        assert kernel.unpack(stream, 0, size, NO_CAP, 9, 9) == expected


@each_kernel
@pytest.mark.parametrize("k", range(4))
def test_every_first_block_of_whole_frames_is_accepted(kernel, k):
    frames = [b"abc", b"", b"de"]
    lengths = [3, 0, 2]
    block = 8 * 4 + sum(lengths[:k])
    data = message(block, lengths, b"abcde")
    assert kernel.unpack(data, 0, len(data), 5, 3, 1) == ([frames], len(data))
    assert kernel.inspect(data, 0, 16 + 24, 5, 3) == lengths


REFUSED = [
    (message(16, [], count=0), "a message of no frames"),
    (message(8, [], count=101), "a message of 101 frames exceeds the limit of 100"),
    *((message(16, [], count=n), f"of {n} frames exceeds the limit") for n in EDGES[2:] + COUNTS),
    *((message(f, [5]), f"a first block of {f} bytes, expected 16 for 1") for f in (0, 1, 15)),
    (message(17, [5]), "a first block of 17 bytes that ends inside a frame"),
    (message(22, [5]), "a first block of 22 bytes that ends inside a frame"),
    (message(1017, [5]), "a message of at least 1001 bytes exceeds the limit of 1000"),
    (message(24, [1000, 1]), "a message of 1001 bytes exceeds the limit of 1000"),
    *((message(n, [5]), f"of at least {n - 16} bytes exceeds the limit") for n in EDGES[2:]),
    *((message(16, [n]), f"a message of {n} bytes exceeds the limit of 1000") for n in EDGES[2:]),
    (message(24, [2**63, 2**63]), f"a message of {2**64} bytes exceeds the limit of 1000"),
    (message(24, [2**64 - 1, 5]), f"a message of {2**64 + 4} bytes exceeds the limit of 1000"),
]


@each_kernel
@pytest.mark.parametrize(("data", "text"), REFUSED, ids=range(len(REFUSED)))
def test_numbers_that_are_refused(kernel, data, text):
    with pytest.raises(ValueError, match=text):
        kernel.inspect(data, 0, len(data), 1000, 100)
    assert kernel.unpack(data + bytes(MIB), 0, len(data) + MIB, 1000, 100, 9) == ([], 0)


@each_kernel
@given(controls)
def test_unpack_leaves_a_control_message_to_the_caller(kernel, control):
    data = honest([b"a"]) + honest([control]) + honest([b"b"])
    end = 24 + 1
    assert kernel.unpack(data, 0, len(data), NO_CAP, 9, 9) == ([[b"a"]], end)
    assert kernel.inspect(data, end, len(data), NO_CAP, 9) == [len(control)]


@each_kernel
@pytest.mark.parametrize(
    "frames",
    [
        [b"\xc7\x00"],
        [b"\xc7\x01\xbd\x01"],
        [b"\xc8\x01\xbc\x01"],
        [b"\xc7\x01\xbc\x01", b""],  # a control message has one frame
        [b"\xc7\xff\xbc" + bytes(256)],  # and at most 255 bytes behind its type
    ],
)
def test_what_only_resembles_a_control_message(kernel, frames):
    data = honest(frames)
    assert kernel.unpack(data, 0, len(data), NO_CAP, 9, 9) == ([frames], len(data))
