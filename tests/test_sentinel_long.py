"""Long messages of the sentinel framing, which are received into memory of their own."""

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distributed_comm._wire import sentinel_framing as module

from .feeding import FULL, feed, peak_of_memory
from .hostile import MIB, honest, message
from .stuffing import PREFIX, SENTINEL, Receiver, encoded, frames, pieces, wire

pytestmark = pytest.mark.usefixtures("kernels")

LARGE = 64 * 1024

long_frames = st.builds(
    lambda piece, size, end: (piece * (size // max(1, len(piece))))[:size] + end,
    *[pieces, st.sampled_from([LARGE - 1, LARGE, 3 * LARGE]), pieces],
)
long_messages = st.lists(st.one_of(frames, long_frames), max_size=4).map(
    lambda frames: [b"head", *frames]  # so that none is a control message
)


@settings(max_examples=30)
@given(
    st.lists(long_messages, max_size=3),
    st.lists(st.one_of(st.integers(3000, 3 * LARGE), st.just(FULL)), min_size=1, max_size=5),
)
@example([[SENTINEL * 9000, PREFIX * 9000, bytes(300_000)], [bytes(LARGE) + PREFIX]], [FULL])
@example([[bytes(3 * MIB), SENTINEL], [b"b"]], [999_999])
def test_long_messages_come_back_in_every_chunking(sent, sizes):
    receiver = Receiver()
    assert feed(receiver, encoded(*sent), sizes) == sent
    assert receiver.errors == []
    assert not receiver.mid_message


@pytest.mark.parametrize("missing", [1, 31, 32, 33, 99])
def test_a_long_message_that_ends_too_early(missing):
    data = wire(honest([bytes(9), bytes(MIB)])[:-missing])
    receiver = Receiver()
    assert feed(receiver, data + encoded([b"after"]), [50_000]) == []
    (error,) = receiver.errors
    states = 32 + 9 + MIB
    assert str(error) == f"a message of {states - missing} bytes that states {states}"


def test_a_long_message_that_goes_on():
    receiver = Receiver()
    assert feed(receiver, wire(honest([bytes(MIB)]) + b"more"), [50_000]) == []
    (error,) = receiver.errors
    assert re.fullmatch(rf"a message of \d+ bytes or more that states {24 + MIB}", str(error))


def test_the_frame_that_is_most_of_a_message_stays_where_it_was_received():
    """Aligned as malloc aligns; the others have memory of their own."""
    sent = [b"abc", bytes(LARGE), b"de", bytearray(MIB), bytes(LARGE)]
    ((head, small, short, large, last),) = feed(Receiver(), encoded(sent), [5000])
    assert [type(frame) for frame in (head, short)] == [bytes, bytearray]
    address = np.frombuffer(large, "u1").ctypes.data
    assert address % 16 == 0
    assert len(memoryview(large.obj)) < MIB + 2 * LARGE + 200
    assert [len(memoryview(frame.obj)) for frame in (small, last)] == [LARGE, LARGE]
    for frame in (small, short, large, last):
        assert not memoryview(frame).readonly


def test_no_frame_keeps_much_more_than_itself_alive():
    sent = [b"abc", bytes(MIB), bytes(MIB), bytes(MIB)]
    ((_, *arrays),) = feed(Receiver(), encoded(sent), [FULL])
    assert [len(memoryview(frame.obj)) for frame in arrays] == [MIB] * 3


def test_an_announcement_alone_obtains_little_memory():
    receiver = Receiver()
    head = message(16 + 999 * MIB, [999 * MIB], bytes(300 * 1024))
    with peak_of_memory() as peak:
        assert feed(receiver, head) == []
    assert receiver.mid_message
    assert receiver.errors == []
    assert peak[0] < 2 * MIB


def test_lengths_are_taken_from_a_message_once(monkeypatch):
    """Whoever sends many lengths, and then byte by byte, must not have them read each time."""
    read = []
    inspect = module.framing.inspect

    def count(*args):
        lengths = inspect(*args)
        read.append(lengths is not None)
        return lengths

    monkeypatch.setattr(module.framing, "inspect", count)
    sent = [b"ab"] * 999
    assert feed(Receiver(max_frames=1000), encoded(sent, sent), [8100, *[1] * 1000]) == [sent, sent]
    assert 2 <= sum(read) <= 4  # the pure `unpack` looks as well
