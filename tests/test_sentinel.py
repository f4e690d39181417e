"""The sentinel framing, fed with bytes: chunks, limits, errors, the end of the hello."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distributed_comm._serialize.tags import MARK
from distributed_comm._wire import control
from distributed_comm._wire import sentinel_framing as module
from distributed_comm._wire.sentinel_framing import SentinelFraming

from .feeding import FULL, SCRATCH, feed, peak_of_memory
from .hostile import MIB, damage, honest, message, numbers
from .stuffing import ESCAPE, PREFIX, SENTINEL, Receiver, encoded, frames, wire

pytestmark = pytest.mark.usefixtures("kernels")

GOODBYE = control.encode(control.Kind.GOODBYE)
LARGE = 64 * 1024

messages = st.lists(st.lists(frames, min_size=1, max_size=4), max_size=5)
chunkings = st.lists(st.one_of(st.integers(1, 300), st.just(FULL)), min_size=1, max_size=9)


# -- there and back -----------------------------------------------------------------


@given(messages, chunkings)
@example([[SENTINEL] * 4, [b""], [PREFIX]], [1])
@example([[MARK, b""]], [FULL])
def test_every_message_comes_back_in_every_chunking(sent, sizes):
    receiver = Receiver()
    received = feed(receiver, encoded(*sent), sizes)
    controls = [[frame] for frame in receiver.controls]
    assert [frames for frames in sent if frames not in controls] == received
    assert [frames for frames in sent if frames in controls] == controls
    assert receiver.errors == []
    assert not receiver.mid_message
    for first, *others in received:
        assert type(first) is bytes
        if first[:1] == MARK:  # the head of an envelope; behind it frame 0 may be of bytes, too
            del others[:1]
        assert {type(frame) for frame in others} <= {bytearray}


@given(messages, chunkings)
@example([[b"a", SENTINEL * 9000], [bytes(LARGE), SENTINEL * 9000]], [5000, FULL])
def test_each_byte_is_searched_once(sent, sizes):
    searched = []
    unstuff = module.kernel.unstuff

    def count(data, start, end, matched):
        kept, stop, matched = unstuff(data, start, end, matched)
        searched.append(stop - start)
        return kept, stop, matched

    stream = encoded(*sent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.kernel, "unstuff", count)
        feed(Receiver(), stream, sizes)
    assert sum(searched) == len(stream)


def test_a_message_on_the_wire():
    data = honest([b"abc"]) + SENTINEL
    assert SentinelFraming.encode([b"abc"]) == [data]
    assert feed(Receiver(), data) == [[b"abc"]]


def test_a_large_frame_is_sent_from_where_it_is():
    large = memoryview(bytearray(MIB))
    head, body, end = SentinelFraming.encode([b"abc", large])
    assert head + SENTINEL == b"".join(SentinelFraming.encode([b"abc", large])).replace(large, b"")
    assert body.obj is large.obj
    assert end == SENTINEL


@given(messages, chunkings)
def test_whether_a_message_is_under_way(sent, sizes):
    receiver = Receiver()
    ends = {0}
    for item in sent:
        ends.add(max(ends) + len(encoded(item)))
    stream, position = encoded(*sent), 0
    for size in sizes * 9:
        feed(receiver, stream[position : position + size])
        position = min(position + size, len(stream))
        assert receiver.mid_message == (position not in ends)


# -- the hello, control messages ------------------------------------------------------


class Greeted(Receiver):
    """A framing that is opened by its first message, as a connection opens it."""

    def receive(self, nbytes):
        messages = super().receive(nbytes)
        if messages and not self._opened:
            assert messages == [[b"hello"]]
            messages += self.open(99, 2)
        return messages


@given(chunkings)
@example([1])
def test_what_follows_the_hello_waits_for_open(sizes):
    receiver = Greeted(10, 1, opened=False)
    sent = [[b"hello"], [b"a" * 98, b"b"], [b"c"]]
    assert feed(receiver, encoded(*sent), sizes) == sent
    assert receiver.errors == []


def test_the_hello_has_a_limit_of_its_own():
    receiver = Greeted(10, 1, opened=False)
    assert feed(receiver, encoded([b"a" * 11])) == []
    assert [str(error) for error in receiver.errors] == [
        "a message of at least 11 bytes exceeds the limit of 10"
    ]


def test_a_control_message_never_reaches_a_reader():
    receiver = Receiver()
    assert feed(receiver, encoded([b"a"], [GOODBYE], [b"b"], [GOODBYE, b""])) == [
        [b"a"],
        [b"b"],
        [GOODBYE, b""],
    ]
    assert receiver.controls == [GOODBYE]
    assert type(receiver.controls[0]) is bytes


@pytest.mark.parametrize("sizes", [[FULL], [1]])
def test_whoever_obeys_may_drop(sizes):
    receiver = Receiver()
    receiver._on_control = lambda frame: receiver.drop()
    assert feed(receiver, encoded([b"a"], [GOODBYE], [b"b"]), sizes) == [[b"a"]]
    assert not receiver.mid_message


def test_after_drop_nothing_comes():
    receiver = Receiver()
    feed(receiver, encoded([b"a" * 99])[:50])
    assert receiver.mid_message
    receiver.drop()
    assert not receiver.mid_message
    assert feed(receiver, encoded([b"a"], [GOODBYE]) + PREFIX + b"x") == []
    assert (receiver.controls, receiver.errors) == ([], [])


# -- limits ---------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[FULL], [1000], [31]])
@pytest.mark.parametrize("piece", [b"a", SENTINEL, PREFIX, PREFIX + ESCAPE])
def test_the_limit_counts_what_the_frames_hold(sizes, piece):
    frame = (piece * 4096)[:4096]
    receiver = Receiver(4096, 3)
    assert feed(receiver, encoded([b"", frame, b""]), sizes) == [[b"", frame, b""]]
    assert feed(receiver, encoded([b"", frame, b"a"]), sizes) == []
    (error,) = receiver.errors
    assert str(error) == "a message of at least 4097 bytes exceeds the limit of 4096"


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (b"a" * 3 * MIB, f"of {0x6161616161616161} frames exceeds the limit of 1"),
        (honest([bytes(3 * MIB)]), f"of at least {3 * MIB} bytes exceeds the limit of {MIB // 8}"),
        (message(16 + 99, [99], bytes(3 * MIB)), "bytes or more that states 123"),
        (message(16 + MIB // 8, [MIB // 8], b"a" * 3 * MIB), f"that states {24 + MIB // 8}"),
        (message(16 + MIB // 8, [MIB // 8], SENTINEL[:25] * (MIB // 8)), f"states {24 + MIB // 8}"),
    ],
    ids=["anything", "honest", "a short one", "a long one", "nearly sentinels"],
)
@pytest.mark.parametrize("sizes", [[FULL], [999]])
def test_a_longer_message_is_refused_before_it_is_buffered(stream, text, sizes):
    receiver = Receiver(MIB // 8, 1)
    with peak_of_memory() as peak:
        assert feed(receiver, stream, sizes) == []
    assert len(receiver.errors) == 1
    assert text in str(receiver.errors[0])
    assert peak[0] < MIB // 4 + len(SCRATCH)
    assert not receiver.mid_message


def test_a_sentinel_may_begin_at_the_limit():
    data = encoded([bytes(99)])
    for size in range(len(data)):
        receiver = Receiver(99, 1)
        assert feed(receiver, data, [size + 1]) == [[bytes(99)]]


# -- what is wrong ----------------------------------------------------------------------

WRONG = [
    (SENTINEL, "a message of 0 bytes that ends before its lengths do"),
    (wire(bytes(15)), "a message of 15 bytes that ends before its lengths do"),
    (wire(message(24, [1, 2])[:-1]), "a message of 31 bytes that ends before its lengths do"),
    (wire(honest([b"abc"])[:-1]), "a message of 26 bytes that states 27"),
    (wire(honest([b"abc"]) + b"d"), r"a message of 28 bytes( or more)? that states 27"),
    (wire(honest([b"a"]) * 2), r"a message of \d\d bytes( or more)? that states 25"),
    (wire(honest([GOODBYE]) + b"d"), r"a message of 29 bytes( or more)? that states 28"),
    (wire(message(16, [], count=0)), "a message of no frames"),
    (wire(message(16, [2**63])), f"a message of {2**63} bytes exceeds the limit of {MIB}"),
    (PREFIX + b"x", "byte 0x78 behind all but the end of a sentinel"),
]


@pytest.mark.parametrize(("data", "text"), WRONG, ids=range(len(WRONG)))
@pytest.mark.parametrize("sizes", [[FULL], [1], [40]])
def test_a_wrong_message_ends_the_stream(data, text, sizes):
    receiver = Receiver(MIB)
    stream = encoded([b"before"]) + data + encoded([b"after"], [GOODBYE]) + data
    assert feed(receiver, stream, sizes) == [[b"before"]]
    assert len(receiver.errors) == 1
    assert re.fullmatch(text, str(receiver.errors[0]))
    assert receiver.controls == []
    assert not receiver.mid_message


@given(
    messages,
    st.integers(0, 400),
    numbers,
    st.sampled_from(["number", "byte", "cut", "lost", "more"]),
    chunkings,
)
def test_damage_is_judged_alike_in_every_chunking(sent, position, number, how, sizes):
    stream = damage(encoded(*sent), position, number, how)
    results = []
    for turn in ([FULL], sizes):
        receiver = Receiver(200, 3)
        received = feed(receiver, stream, turn)
        assert len(receiver.errors) <= 1
        results.append((received, receiver.controls, bool(receiver.errors), receiver.mid_message))
    assert results[0] == results[1]
