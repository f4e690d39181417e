"""No number of a peer is believed: what the length framing refuses, and what it allocates."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_comm._wire.length_framing import LengthFraming

from .feeding import FULL, SCRATCH, feed, peak_of_memory
from .hostile import COUNTS, EDGES, MIB, damage, honest, hostile, message, numbers

pytestmark = pytest.mark.usefixtures("kernels")

GIB = 1024 * MIB
FRAMES = 65_536
KIB = 1024
GOOD = honest([b"a good one"])

chunks = st.lists(st.integers(1, 200), min_size=1)


def make(max_message=GIB, max_frames=FRAMES):
    """Return an open framing and the list of its errors."""
    errors = []
    framing = LengthFraming(SCRATCH, 0, 0, lambda _: None, errors.append)
    framing.open(max_message, max_frames)
    return framing, errors


# -- F1: refused at once, by a text with both numbers ------------------------------

REFUSED = [
    *[(message(f, [5]), f"a first block of {f} bytes, expected 16 for 1 lengths")
      for f in (0, 1, 15)],
    *[(message(f, [5]), f"a message of at least {f - 16} bytes exceeds the limit of {GIB}")
      for f in (16 + GIB + 1, *EDGES[2:])],
    *[(message(f, [5]), f"a first block of {f} bytes that ends inside a frame") for f in (17, 20)],
    *[(message(16, [size]), f"a message of {size} bytes exceeds the limit of {GIB}")
      for size in (GIB + 1, *EDGES[2:])],
    *[(message(24, [size, 7]), f"a message of {size + 7} bytes exceeds the limit of {GIB}")
      for size in (GIB, 2**64 - 7, 2**64 - 8, 2**64 - 1)],
    *[(message(8 + 8 * n & 2**64 - 1, [5], count=n), f"of {n} frames exceeds the limit of {FRAMES}")
      for n in (FRAMES + 1, *EDGES[2:], *COUNTS)],
    (message(8, []), "a message of no frames"),
    (message(8 * 1002, [GIB] + [1] * 1000), f"a message of {GIB + 1000} bytes exceeds the limit"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "text"), REFUSED, ids=range(len(REFUSED)))
@pytest.mark.parametrize("sizes", [[FULL], [1]], ids=["at once", "bytewise"])
def test_hostile_headers_are_refused_and_take_no_memory(header, text, sizes):
    framing, errors = make()
    with peak_of_memory() as peak:
        messages = feed(framing, GOOD + header + bytes(100) + GOOD, sizes)
    assert messages == [[b"a good one"]]
    assert [type(error) for error in errors] == [ValueError]
    assert text in str(errors[0])
    assert not framing.mid_message
    assert peak[0] <= MIB


def test_a_header_is_refused_before_it_is_whole():
    """After 16 bytes, where they say enough: the lengths may never come."""
    framing, errors = make()
    feed(framing, message(8 + 8 * 2**32, [], count=2**32))
    assert len(errors) == 1


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_the_limits_themselves_are_allowed(size):
    framing, errors = make(size, 2)
    frames = [b"x" * size, b""]
    assert feed(framing, honest(frames)) == [frames]
    assert not errors
    feed(framing, honest([b"x" * size, b"y"]))
    assert str(errors[0]).endswith(f"bytes exceeds the limit of {size}")
    framing, errors = make(size, 2)
    feed(framing, honest([b"", b"", b""]))
    assert str(errors[0]) == "a message of 3 frames exceeds the limit of 2"


@pytest.mark.parametrize("wrong", [message(0, [5]), message(24, [GIB, 1])], ids=["F", "sum"])
@given(sizes=chunks)
def test_after_an_error_nothing_comes(wrong, sizes):
    framing, errors = make()
    assert feed(framing, GOOD * 2 + wrong + GOOD, sizes) == [[b"a good one"]] * 2
    assert len(errors) == 1
    assert feed(framing, GOOD + wrong + GOOD, sizes) == []
    assert feed(framing, honest([bytes(3 * MIB)])) == []
    assert len(errors) == 1
    assert not framing.mid_message


@pytest.mark.parametrize("refused", [None, ValueError("no")])
def test_the_owner_may_drop_in_the_midst_of_a_chunk(refused):
    """As a connection does that a control message offends."""
    framing, errors = make()
    framing = LengthFraming(SCRATCH, 0, 0, lambda _: framing.drop(), errors.append)
    framing.open(GIB, 9)
    goodbye = honest([b"\xc7\x01\xbc\x01"])
    assert feed(framing, GOOD + goodbye + GOOD + message(0, [1])) == [[b"a good one"]]
    assert errors == []


# -- what was announced takes memory only as it arrives -----------------------------

ANNOUNCED = [
    message(16, [GIB]),
    message(24, [5, GIB - 5], b"12345"),
    message(16 + GIB, [GIB]),
    message(8 + 8 * FRAMES, [], count=FRAMES),
    message(8 + 8 * FRAMES, [0] * (FRAMES - 1) + [GIB]),
    message(8 + 8 * FRAMES, [GIB] + [0] * (FRAMES - 1)),
]


@pytest.mark.parametrize("announced", ANNOUNCED, ids=range(6))
def test_an_announcement_and_then_silence_takes_little(announced):
    framing, errors = make()
    with peak_of_memory() as peak:
        assert feed(framing, announced) == []
        framing.get_buffer()
    assert framing.mid_message
    assert errors == []
    assert peak[0] <= MIB + 64 * KIB + 100 * len(announced)


def test_memory_grows_with_the_bytes_that_have_come():
    framing, _ = make()
    arrived = [8 * MIB, 16 * MIB, 24 * MIB]
    peaks = []
    with peak_of_memory() as peak:
        feed(framing, message(16, [GIB]))
    peaks.append(peak[0])
    for before, after in pairwise([0, *arrived]):
        with peak_of_memory() as peak:
            feed(framing, bytes(after - before))
        peaks.append(peak[0] - (after - before))  # those were our own
        assert peaks[-1] <= 6 * after
    framing.drop()


# -- F3: anything at all is a message or an error -------------------------------------

REAL = b"".join(
    [
        honest([b"\x83\xa2op\xa3add\xa1x\x01\xa1y\x02"]),
        honest([b"\x81\xa4data\x81\xae__Serialized__\x01", b"\x81\x01\x02", bytes(70_000), b"end"]),
        honest([b"\xc7\x01\xbc\x01"]),
        honest([b"header"] + [b""] * 600 + [b"5" * 5000]),
    ]
)
changes = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 300), st.integers(0, len(REAL))),
        numbers,
        st.sampled_from(["number", "byte", "lost", "more"]),
    ),
    min_size=1,
    max_size=3,
)


def check(data, sizes):
    framing, errors = make(MIB, 1000)
    with peak_of_memory() as peak:
        messages = feed(framing, data, sizes)
    assert all(isinstance(error, ValueError) and len(str(error)) < 200 for error in errors)
    assert len(errors) <= 1
    assert sum(len(frame) for frames in messages for frame in frames) <= len(data)
    assert peak[0] <= 100 * len(data) + MIB + 64 * KIB


@given(hostile, chunks)
def test_hostile_bytes_are_messages_or_an_error(data, sizes):
    check(data, sizes)


@given(changes, st.lists(st.integers(1, 40_000), min_size=1))
def test_damaged_messages_are_messages_or_an_error(changes, sizes):
    data = REAL
    for change in changes:
        data = damage(data, *change)
    check(data, [*sizes, FULL])
