"""Stuffing and its undoing: the chosen kernel against its specification, chunk by chunk."""

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distributed_comm._kernels import sentinel as chosen
from distributed_comm._kernels import sentinel_py as specification

from .twins import each_of, outcome

SENTINEL, ESCAPE, LARGE = specification.SENTINEL, specification.ESCAPE, specification.LARGE
PREFIX = SENTINEL[:-1]

each_kernel = each_of(chosen, specification)

#: What a wrong stuffing would stumble over; P[:24] and P[:25] end as P begins.
cuts = st.one_of(st.sampled_from([1, 2, 23, 24, 25, 30, 31]), st.integers(0, 32))
pieces = st.one_of(
    st.sampled_from([SENTINEL, PREFIX, ESCAPE, SENTINEL[-1:], PREFIX + ESCAPE]),
    st.binary(max_size=3),
    cuts.map(lambda n: SENTINEL[:n]),
    cuts.map(lambda n: SENTINEL[n:]),
    st.integers(0, 80).map(bytes),
)
payloads = st.lists(pieces, max_size=8).map(b"".join)
chunk_sizes = st.lists(st.integers(1, 70), min_size=1, max_size=8)


def split(data, sizes):
    """Return the data in pieces of these sizes, and the rest."""
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return [*parts, data]


def stuffed(kernel, payload):
    return b"".join(kernel.stuff([payload]))


def receive(kernel, stream, sizes):
    """Return the payloads in a stream that comes in chunks, the rest, and how it was searched."""
    payloads, message, matched, spans = [], bytearray(), 0, []
    for number, chunk in enumerate(split(stream, sizes)):
        before, after = bytes(number), bytes(3)  # which are not looked at
        memory = bytearray(before + chunk + after)
        offset, end = len(before), len(before + chunk)
        while offset < end:
            kept, stop, matched = kernel.unstuff(memory, offset, end, matched)
            assert offset <= kept <= stop <= end
            spans.append(stop - offset)
            message += memory[offset:kept]
            offset = stop
            if matched == len(SENTINEL):
                assert message.endswith(SENTINEL)
                payloads.append(bytes(message[:-matched]))
                message, matched = bytearray(), 0
            else:
                assert stop == end
                assert message.endswith(SENTINEL[:matched])
        assert memory.startswith(before)
        assert memory.endswith(after)
    return payloads, bytes(message), spans


# -- what makes it unambiguous ------------------------------------------------------


def test_no_prefix_of_the_prefix_is_also_its_suffix():
    assert [n for n in range(1, len(PREFIX)) if PREFIX[:n] == PREFIX[-n:]] == []


def test_the_escape_is_neither_in_the_prefix_nor_the_end_of_the_sentinel():
    assert len(ESCAPE) == 1
    assert ESCAPE not in SENTINEL


def test_the_twins_agree_on_their_constants():
    assert (chosen.SENTINEL, chosen.ESCAPE) == (SENTINEL, ESCAPE)


@each_kernel
@given(payloads, payloads)
def test_the_sentinel_stands_only_at_the_end(kernel, payload, following):
    data = stuffed(kernel, payload)
    assert (data + following).find(SENTINEL) == len(data) - len(SENTINEL)
    assert len(data) == len(payload) + payload.count(PREFIX) + len(SENTINEL)


@each_kernel
@given(payloads, chunk_sizes)
def test_what_is_accepted_is_what_stuffing_makes(kernel, data, sizes):
    data += SENTINEL
    try:
        found, rest, _ = receive(kernel, data, sizes)
    except ValueError:
        return
    assert rest == b""
    assert b"".join(stuffed(kernel, payload) for payload in found) == data


# -- there and back -------------------------------------------------------------------


@each_kernel
@given(st.lists(payloads, max_size=4), chunk_sizes)
@example([SENTINEL, b"", SENTINEL[:-1], SENTINEL[:24] + SENTINEL], [1] * 200)
def test_every_payload_comes_back_in_every_chunking(kernel, sent, sizes):
    stream = b"".join(stuffed(kernel, payload) for payload in sent)
    received, rest, spans = receive(kernel, stream, sizes)
    assert received == sent
    assert rest == b""
    assert sum(spans) == len(stream)  # each byte was searched once


AWKWARD = [
    b"",
    SENTINEL,
    PREFIX,
    PREFIX + SENTINEL,
    SENTINEL[:24] + SENTINEL,
    SENTINEL[:25] + PREFIX + ESCAPE + SENTINEL[-2:],
    SENTINEL[23:] + SENTINEL[:23],
]


@each_kernel
@pytest.mark.parametrize("payload", AWKWARD)
@pytest.mark.parametrize("next_payload", [b"", SENTINEL])
def test_cut_at_every_two_places(kernel, payload, next_payload):
    stream = stuffed(kernel, payload) + stuffed(kernel, next_payload)
    for first in range(len(stream)):
        for second in {0, 1, 2, 30, 31, 32, len(stream) - first}:
            received, rest, _ = receive(kernel, stream, [first, second])
            assert (received, rest) == ([payload, next_payload], b"")


@each_kernel
@given(payloads, chunk_sizes)
def test_where_a_payload_is_cut_makes_no_difference(kernel, payload, sizes):
    assert b"".join(kernel.stuff(split(payload, sizes))) == stuffed(kernel, payload)


@each_kernel
@pytest.mark.parametrize("n", range(len(SENTINEL)))
def test_every_byte_behind_a_prefix_that_is_wrong_is_refused(kernel, n):
    wrong = bytes(set(range(256)) - {ESCAPE[0], SENTINEL[-1]})
    for byte in wrong:
        data = bytearray(b"a" + PREFIX + bytes([byte]))
        with pytest.raises(ValueError, match=f"^byte 0x{byte:02x} behind all but the end"):
            kernel.unstuff(data, 1 + n, len(data), n)


@each_kernel
@pytest.mark.parametrize("n", range(1, len(PREFIX)))
def test_what_began_before_a_chunk_is_not_continued_at_its_end(kernel, n):
    chunk = bytes(40) + PREFIX[n:]
    size = len(chunk)
    assert kernel.unstuff(bytearray(chunk), 0, size, n) == (size, size, 0)
    assert b"".join(kernel.stuff([PREFIX[:n], chunk])) == PREFIX[:n] + chunk + SENTINEL


# -- twins --------------------------------------------------------------------------------


@given(payloads, chunk_sizes)
def test_stuffed_as_specified(payload, sizes):
    for kind in (bytes, lambda part: memoryview(bytearray(part))):
        buffers = [kind(part) for part in split(payload, sizes)]
        expected = specification.stuff(buffers)
        result = chosen.stuff(buffers)
        assert [(type(b), bytes(b)) for b in result] == [(type(b), bytes(b)) for b in expected]


@given(payloads, st.integers(-2, 99), st.integers(-2, 99), st.integers(-2, 34))
def test_unstuffed_as_specified(data, start, end, matched):
    memories = bytearray(data), bytearray(data)
    expected = outcome(specification.unstuff, memories[0], start, end, matched)
    assert expected[0] in {tuple, ValueError}
    assert outcome(chosen.unstuff, memories[1], start, end, matched) == expected
    view = memoryview(bytearray(data))
    assert outcome(chosen.unstuff, view, start, end, matched) == expected
    assert view == memories[1]
    if expected[0] is tuple:  # what stands between is arbitrary
        kept, stop, _ = specification.unstuff(bytearray(data), start, end, matched)
        assert memories[0][:kept] == memories[1][:kept]
        assert memories[0][stop:] == memories[1][stop:] == data[stop:]


@each_kernel
@pytest.mark.parametrize("span", [(-1, 2, 0), (2, 1, 0), (0, 4, 0), (0, 3, -1), (0, 3, 32)])
def test_wrong_numbers_are_refused(kernel, span):
    with pytest.raises(ValueError, match=r"^span -?\d:\d of a buffer of 3 bytes, -?\d+ matched$"):
        kernel.unstuff(bytearray(3), *span)


# -- what it costs ------------------------------------------------------------------------


@each_kernel
def test_the_usual_payload_is_not_copied(kernel):
    head, large = bytes(100), memoryview(bytearray(LARGE))
    first, second, third = kernel.stuff([head, large])
    assert first is head
    assert second is large
    assert third == SENTINEL


@each_kernel
def test_only_the_buffer_that_needs_it_is_copied(kernel):
    large = memoryview(bytearray(LARGE))
    split_over_two = memoryview(SENTINEL[7:] + bytes(LARGE))
    buffers = kernel.stuff([large, SENTINEL[:7], split_over_two, large])
    assert [b is large for b in buffers] == [True, False, False, True, False]
    assert bytes(buffers[2]) == PREFIX[7:] + ESCAPE + SENTINEL[-1:] + bytes(LARGE)


@each_kernel
def test_a_short_last_buffer_leaves_with_the_sentinel(kernel):
    assert kernel.stuff([b"abc"]) == [b"abc" + SENTINEL]
    assert kernel.stuff([]) == [SENTINEL]
    assert kernel.stuff([bytes(LARGE - 1)]) == [bytes(LARGE - 1) + SENTINEL]
    assert kernel.stuff([bytes(LARGE)]) == [bytes(LARGE), SENTINEL]


class Counted(bytearray):
    """Memory that counts how many bytes of it were read."""

    read = 0

    def find(self, needle, start, end):
        found = super().find(needle, start, end)
        self.read += (found + len(needle) if found >= 0 else end) - start
        return found

    def __getitem__(self, key):
        got = super().__getitem__(key)
        self.read += len(got) if isinstance(key, slice) else 1
        return got


@given(st.integers(0, 4000), chunk_sizes)
def test_the_search_is_linear_in_what_has_come(size, sizes):
    memory = Counted((SENTINEL[:25] * 160)[:size] + bytes(99))
    offset = matched = calls = 0
    for chunk in sizes * 99:
        end = min(offset + chunk, len(memory))
        _, offset, matched = specification.unstuff(memory, offset, end, matched)
        calls += 1
    assert memory.read <= offset + 2 * (len(PREFIX) - 1) * calls


@each_kernel
def test_nothing_of_a_callers_memory_is_kept(kernel):
    memory = bytearray(PREFIX + bytes(LARGE))
    held = sys.getrefcount(memory)
    kernel.stuff([memory])
    kernel.unstuff(memory, 0, len(memory), 0)
    assert sys.getrefcount(memory) == held
    memory.clear()  # a BufferError where it is still exported
