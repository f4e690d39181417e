"""Bytes in any chunks become the same messages: the length framing over both kernels."""

import gc
import weakref
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_comm._kernels import blocks_py, framing_py
from distributed_comm._wire import length_framing as framing
from distributed_comm._wire.length_framing import LengthFraming

from .feeding import FULL, SCRATCH, feed
from .hostile import MIB, honest, hostile, message

pytestmark = pytest.mark.usefixtures("kernels")

GIB = 1024 * MIB
LARGE = framing_py.LARGE
GOODBYE = honest([b"\xc7\x01\xbc\x01"])


class Receiver(LengthFraming):
    """A framing that is open, and writes down its calls."""

    def __init__(self, max_message=GIB, max_frames=65_536, scratch=SCRATCH):
        self.controls = []
        self.errors = []
        super().__init__(scratch, 0, 0, self.controls.append, self.errors.append)
        assert self.open(max_message, max_frames) == []


def plain(messages):
    return [[bytes(frame) for frame in frames] for frames in messages]


NOISE = bytes(n * n % 251 for n in range(64 * 1024))


def noise(size):
    """Return bytes that are not the same when a part of them is lost or moved."""
    return (NOISE * (size // len(NOISE) + 1))[:size]


SMALL = [
    [b"one small frame"],
    [b"", b"", b"some frames", b"", b"and empty ones", b""],
    [b"more than", b"is carried over: " + noise(5000), b"", b"a" * 300],
]
THREE = [
    [b"a small one"],
    [b"header", b"", noise(LARGE), b"", b"behind it", noise(LARGE + 5)],
    [b"last", b"!"],
]
MANY = [[b"first"], [b"a header of 320 kB"] + [b""] * 39_998 + [b"!"], [b"last"]]
chunks = st.lists(st.one_of(st.integers(1, 40), st.integers(1, len(SCRATCH))), min_size=1)


def check(messages, expected):
    """Check the contents, and who may do what with the memory."""
    assert plain(messages) == expected
    for frames in messages:
        assert all(not memoryview(frame).readonly for frame in frames[1:])


def boundaries(messages):
    """Return where in the stream of these messages something begins or ends."""
    places, offset = {0}, 0
    for frames in messages:
        places |= {offset + 8 * n for n in range(3)}
        offset += 16 + 8 * len(frames)
        for frame in frames:
            places.add(offset)
            offset += len(frame)
    return {*places, offset}


# -- F2: the same messages, however the bytes arrive ----------------------------


def test_every_split_of_small_messages():
    stream = b"".join(map(honest, SMALL))
    for split in range(1, len(stream)):
        receiver = Receiver()
        check(feed(receiver, stream, [split, FULL]), SMALL)
        assert receiver.errors == receiver.controls == []


def test_splits_of_large_messages_around_everything_that_begins_or_ends():
    stream = b"".join(map(honest, THREE))
    near = {place + d for place in boundaries(THREE) for d in range(-9, 10)}
    for split in near & set(range(1, len(stream))):
        check(feed(Receiver(), stream, [split, FULL]), THREE)


@pytest.mark.parametrize("expected", [SMALL, THREE], ids=["small", "large"])
def test_one_byte_at_a_time(expected):
    small_steps = honest([b"x"]) + b"".join(map(honest, expected))
    check(feed(Receiver(), small_steps, [1]), [[b"x"], *expected])


@pytest.mark.parametrize("size", [199, 4096, 65_535, 65_536, 65_537, len(SCRATCH)])
def test_chunks_of_one_size(size):
    expected = [*SMALL, *THREE, *SMALL, [noise(MIB), noise(3 * MIB + 5)], *SMALL]
    check(feed(Receiver(), b"".join(map(honest, expected)), [size]), expected)


@given(chunks)
def test_chunks_of_any_sizes(sizes):
    expected = [*THREE, *SMALL]
    check(feed(Receiver(), b"".join(map(honest, expected)), [*sizes, FULL]), expected)


@given(st.sampled_from([64 * 1024 + 1, 64 * 1024 + 9, 70_000]), chunks)
def test_the_smallest_scratch(size, sizes):
    receiver = Receiver(scratch=SCRATCH[:size])
    expected = [*SMALL, [noise(LARGE - 1), noise(LARGE - 1)], *THREE]
    check(feed(receiver, b"".join(map(honest, expected)), [*sizes, FULL]), expected)


@pytest.mark.parametrize("sizes", [[FULL], [4096], [1, FULL], [16, 3, FULL], [99_999, 1]], ids=str)
def test_more_frames_than_the_scratch_holds_lengths_of(sizes):
    check(feed(Receiver(), b"".join(map(honest, MANY)), sizes), MANY)


@given(hostile, chunks)
def test_hostile_bytes_mean_the_same_in_any_chunks(data, sizes):
    whole, parts = Receiver(200, 3), Receiver(200, 3)
    assert plain(feed(parts, data, sizes)) == plain(feed(whole, data))
    assert parts.controls == whole.controls
    assert list(map(str, parts.errors)) == list(map(str, whole.errors))
    assert parts.mid_message is whole.mid_message


def test_a_scratch_that_is_larger_than_what_an_announcement_obtains():
    receiver = Receiver(scratch=memoryview(bytearray(3 * MIB)))
    expected = [[noise(5 * MIB)], [b"h", noise(4 * MIB)]]
    check(feed(receiver, b"".join(map(honest, expected))), expected)


# -- memory that is handed out ---------------------------------------------------


@pytest.mark.parametrize("size", [10, LARGE - 1, LARGE, 3 * MIB])
def test_frames_never_share_memory(size):
    frames = [b"h", bytes(size), bytes(size), bytes(size)]
    messages = feed(Receiver(), honest(frames) * 2)
    flat = [frame for message in messages for frame in message[1:]]
    for number, frame in enumerate(flat):
        memoryview(frame)[:] = bytes([number]) * size
    assert [bytes(frame) for frame in flat] == [bytes([n]) * size for n in range(6)]


def test_a_frame_outlives_its_framing():
    receiver = Receiver()
    [[_, frame]] = feed(receiver, honest([b"h", noise(2 * MIB)]))
    receiver.drop()
    del receiver
    gc.collect()
    feed(Receiver(), honest([b"h", bytes(2 * MIB)]))
    assert frame == noise(2 * MIB)


def test_the_buffer_stays_until_something_was_received():
    receiver = Receiver()
    stream = honest([b"h", noise(5 * MIB)])
    received = []
    while stream:  # a loop asks again after a read that would have blocked
        views = [receiver.get_buffer(), receiver.get_buffer(100), receiver.get_buffer()]
        assert views[0] is views[1] is views[2]
        size = min(len(stream), len(views[0]))
        views[0][:size] = stream[:size]
        del views
        stream = stream[size:]
        received += receiver.receive(size)
    check(received, [[b"h", noise(5 * MIB)]])


# -- the hello first ---------------------------------------------------------------


@pytest.mark.parametrize("rest", SMALL + THREE, ids=range(6))
def test_what_follows_the_hello_waits_for_open(rest):
    """And is under the new limits, whichever part of it came with the hello."""
    hello, other = honest([b"hello"]), honest(rest) + honest([b"last"])
    for extra in (0, 1, 8, 16, 24, len(other) // 2, len(other) - 1, len(other)):
        receiver = LengthFraming(SCRATCH, 5, 1, pytest.fail, pytest.fail)
        first = hello + other[: min(extra, len(SCRATCH) - len(hello))]
        receiver.get_buffer()[: len(first)] = first
        assert plain(receiver.receive(len(first))) == [[b"hello"]]
        messages = receiver.open(GIB, 99)
        messages += feed(receiver, (hello + other)[len(first) :])
        check(messages, [rest, [b"last"]])


@given(chunks)
def test_a_hello_in_any_chunks(sizes):
    receiver = LengthFraming(SCRATCH, 4096, 1, pytest.fail, pytest.fail)
    hello = noise(4096)
    assert plain(feed(receiver, honest([hello]), sizes)) == [[hello]]
    assert receiver.mid_message is False
    assert receiver.open(GIB, 9) == []
    check(feed(receiver, honest(THREE[1]), [*sizes, FULL]), [THREE[1]])


# -- control messages ----------------------------------------------------------------


@given(st.lists(st.sampled_from([*SMALL[:2], None]), max_size=6), chunks)
def test_control_messages_between_messages(items, sizes):
    stream = b"".join(GOODBYE if frames is None else honest(frames) for frames in items)
    receiver = Receiver()
    check(feed(receiver, stream, sizes), [frames for frames in items if frames is not None])
    assert receiver.controls == [b"\xc7\x01\xbc\x01"] * items.count(None)


def test_a_control_message_split_at_every_byte():
    stream = honest([b"a"]) + GOODBYE + honest([b"b", b"c"]) + GOODBYE
    for split in range(1, len(stream)):
        receiver = Receiver()
        check(feed(receiver, stream, [split, FULL]), [[b"a"], [b"b", b"c"]])
        assert receiver.controls == [b"\xc7\x01\xbc\x01"] * 2


@pytest.mark.parametrize("split", [1, 30, 5000, FULL])
def test_a_frame_too_long_to_be_a_control_message_is_none(split):
    frame = b"\xc7\xff\xbc" + bytes(10_000)
    receiver = Receiver()
    check(feed(receiver, honest([frame]), [split, FULL]), [[frame]])
    assert receiver.controls == []


# -- the end of stream, and of the connection --------------------------------------------


@pytest.mark.parametrize("expected", [SMALL, THREE, MANY], ids=["small", "large", "many"])
def test_mid_message_at_every_byte(expected):
    stream = b"".join(map(honest, expected))
    ends, end = {0}, 0
    for frames in expected:
        end += len(honest(frames))
        ends.add(end)
    receiver, received = Receiver(), 0
    assert receiver.mid_message is False
    edges = {place + d for place in boundaries(expected) for d in (-1, 0, 1)} | ends
    stops = sorted(edges & set(range(1, len(stream) + 1)))
    for stop in stops:
        feed(receiver, stream[received:stop])
        received = stop
        assert receiver.mid_message is (stop not in ends)


LARGE_ONES = honest([b"h", b"x" * 50, b"y" * 3000, bytes(3 * MIB), bytes(3 * MIB), b"tail"])
FIRST_LARGE = 16 + 6 * 8 + 1 + 50 + 3000


@pytest.mark.parametrize("cut", [5, 20, 70, 1000, FIRST_LARGE, 90_000, FIRST_LARGE + 4 * MIB])
def test_after_drop_no_message_comes(cut):
    receiver = Receiver()
    feed(receiver, LARGE_ONES[:cut])
    assert receiver.mid_message
    receiver.drop()
    assert receiver.mid_message is False
    assert feed(receiver, honest([b"another"]) + GOODBYE + message(0, [0])) == []
    assert receiver.controls == receiver.errors == []


@pytest.mark.parametrize("received", [0, 5, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB, 4 * MIB])
def test_drop_gives_memory_back(received, monkeypatch):
    """Also where the block is full and would have to grow next."""

    class Memory(bytearray):
        """A block that can be seen to die."""

    blocks = []

    def allocate(size, eager):
        block = Memory(min(size, eager))
        blocks.append(weakref.ref(block))
        return block

    monkeypatch.setattr(framing, "blocks", SimpleNamespace(allocate=allocate, grow=blocks_py.grow))
    receiver = Receiver()
    feed(receiver, LARGE_ONES[: FIRST_LARGE + received])
    assert blocks[-1]() is not None
    receiver.drop()
    assert [block() for block in blocks] == [None] * len(blocks)
