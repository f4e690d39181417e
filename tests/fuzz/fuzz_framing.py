"""The length framing: what bytes become, in any chunks, within any limits."""

from types import ModuleType
from typing import Any

from distributed_comm._kernels import framing as kernel
from distributed_comm._wire.length_framing import LengthFraming

from ..connecting import GOODBYE, OURS, PING, A, B
from ..hostile import honest
from ..twins import outcome
from .comparing import agree, agree_on, exact
from .drawing import Draws, seed, seed_frames
from .receiving import check_stream, draw_stream

#: No limit on a message, 1,000 frames, our hello, no key, a budget of 1 MiB.
OPEN = bytes([3, 2, 0, 0, 2])
#: The same after the hello of a peer with a key, which has to prove it.
DUBIOUS = bytes([3, 2, 2, 1, 2])
#: 1 MiB in a message, no hello yet, 100 KiB in all.
STRANGE = bytes([2, 2, 3, 0, 1])
ANY, DAMAGED, MESSAGES = 0, 1, 2
#: Of a long stream the kernels are compared on its beginning alone.
SHORT = 4096
#: Two chunks in turn, of at most 8 and 64 bytes.
CHUNKS = bytes([1, 0, 3, 1, 60])


def seeds() -> list[bytes]:
    """Return messages and control messages as they come, and what messages are made of."""
    streams = [A + B, A + PING + GOODBYE, GOODBYE + A]
    message, control = seed_frames([b"abc", b"", b"d" * 255]), seed_frames([b"\xc7\1\xbc\2"])
    long = seed(1, 0, 3, b"abc", 15, 200, b"x" * 200)
    return [
        *(seed(OPEN, ANY, CHUNKS, stream) for stream in streams),
        *(seed(STRANGE, ANY, CHUNKS, OURS, stream) for stream in streams),
        seed(DUBIOUS, ANY, CHUNKS, honest([b"\xc7\x21\xbc\4" + bytes(32)]), A),
        seed(STRANGE, ANY, CHUNKS, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        seed(OPEN, MESSAGES, 2, message, control, long, CHUNKS),
        seed(OPEN, DAMAGED, 1, message, long, CHUNKS, 8, 0, 0, 7, b"\xff" * 8, 0),
    ]


def check(data: bytes) -> None:
    stream = draw_stream(Draws(data), LengthFraming)
    check_stream(stream)
    _check_kernel(stream.data, stream.limits.message or 2**63 - 1, stream.limits.frames)
    if stream.sent:
        for message in stream.sent:
            _check_pack([*map(exact, message)])
            _check_pack([bytearray(frame) if i % 2 else frame for i, frame in enumerate(message)])


def _check_pack(frames: list[Any]) -> None:
    def run(twin: ModuleType) -> tuple[object, ...]:
        return outcome(lambda: [*map(bytes, twin.pack(frames))])

    agree_on(run, kernel)


def _check_kernel(data: bytes, max_message: int, max_frames: int) -> None:
    """Have both kernels read what begins at a few places."""
    data = data[:SHORT]
    view, size = exact(data), len(data)
    for start in {0, 1, 8, 24, size} & set(range(size + 1)):
        for count in (1, 1 << 32):
            agree(kernel, "unpack", view, start, size, max_message, max_frames, count)
        agree(kernel, "inspect", view, start, size, max_message, max_frames)
