"""What the tests of the sentinel framing share: a receiver, and frames full of sentinels."""

from hypothesis import strategies as st

from distributed_comm._kernels import sentinel_py
from distributed_comm._wire.sentinel_framing import SentinelFraming

from .feeding import SCRATCH

SENTINEL, ESCAPE = sentinel_py.SENTINEL, sentinel_py.ESCAPE
PREFIX = SENTINEL[:-1]
NO_CAP = 2**63 - 1


class Receiver(SentinelFraming):
    """A framing that remembers what it was told."""

    def __init__(self, max_message=NO_CAP, max_frames=100, opened=True):
        self.controls = []
        self.errors = []
        super().__init__(SCRATCH, max_message, max_frames, self.controls.append, self.errors.append)
        if opened:
            assert self.open(max_message, max_frames) == []


def encoded(*messages):
    return b"".join(b"".join(SentinelFraming.encode(list(frames))) for frames in messages)


def wire(data):
    """Return any bytes as a stuffed message."""
    return b"".join(sentinel_py.stuff([data]))


pieces = st.one_of(
    st.sampled_from(
        [SENTINEL, PREFIX, PREFIX + ESCAPE, SENTINEL[:24], SENTINEL[7:], b"\xc7\1\xbc"]
    ),
    st.binary(max_size=20),
)
frames = st.lists(pieces, max_size=4).map(b"".join)
