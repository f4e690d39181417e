"""Messages as nobody should send them, for hypothesis."""

from struct import pack

from hypothesis import strategies as st

from distributed_comm._kernels import framing_py

#: Where arithmetic of some width overflows, or changes its sign.
EDGES = [0, 1, *(2**n + d for n in (31, 32) for d in (-1, 0, 1)), 2**34, 2**63, 2**64 - 1]
#: Numbers of frames whose header is of about 2**64 bytes, modulo which it is short.
COUNTS = [2**61 + d for d in (-3, -2, -1, 0, 1)]
MIB = 1024 * 1024

numbers = st.one_of(
    st.integers(0, 100),
    st.sampled_from([*EDGES, *COUNTS, 2**64 - 8, 2**64 - 16]),
    st.integers(0, 2**64 - 1),
)


def message(block: int, lengths: list[int], body: bytes = b"", count: int | None = None) -> bytes:
    """Return a message whose numbers say what they like."""
    count = len(lengths) if count is None else count
    return pack(f"<{2 + len(lengths)}Q", block, count, *lengths) + body


def honest(frames: list[bytes]) -> bytes:
    """Return a message as it should be."""
    return b"".join(framing_py.pack(list(frames)))


def damage(data: bytes, position: int, number: int, how: str) -> bytes:
    """Return the bytes with one thing wrong."""
    position %= len(data) + 1
    aligned = position & ~7
    return {
        "number": data[:aligned] + pack("<Q", number) + data[aligned + 8 :],
        "byte": data[:position] + bytes([number & 255]) + data[position + 1 :],
        "cut": data[:position],
        "lost": data[:position] + data[position + 1 + number % 16 :],
        "more": data[:position] + bytes(number % 16) + data[position:],
    }[how]


controls = st.builds(
    lambda size, kind: bytes([0xC7, size, framing_py.CONTROL, kind]) + bytes(size - 1),
    st.integers(1, 255),
    st.integers(0, 255),
)
short_frames = st.one_of(st.just(b""), st.binary(max_size=20), controls)
messages = st.lists(st.lists(short_frames, min_size=1, max_size=4).map(honest), max_size=4)
streams = messages.map(b"".join)
liars = st.builds(
    message,
    numbers,
    st.lists(numbers, max_size=4),
    st.binary(max_size=30),
    st.one_of(st.none(), numbers),
)
damaged = st.builds(
    damage,
    streams,
    st.integers(0, 400),
    numbers,
    st.sampled_from(["number", "byte", "cut", "lost", "more"]),
)
hostile = st.one_of(
    st.binary(max_size=60),
    damaged,
    st.tuples(streams, liars, streams).map(b"".join),
)
