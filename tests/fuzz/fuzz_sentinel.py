"""The sentinel framing: any chunking gives the same, and what was stuffed comes out."""

from types import ModuleType

from distributed_comm._kernels import sentinel as kernel
from distributed_comm._kernels import sentinel_py
from distributed_comm._wire.sentinel_framing import SentinelFraming

from ..twins import outcome
from .comparing import agree_on, exact
from .drawing import Draws, seed, seed_frames
from .fuzz_framing import ANY, CHUNKS, DAMAGED, MESSAGES, OPEN, STRANGE
from .receiving import check_stream, draw_stream, encode

SENTINEL, ESCAPE = sentinel_py.SENTINEL, sentinel_py.ESCAPE
PREFIX = SENTINEL[:-1]
#: Bytes of an input that stand for what no fuzzer comes upon by itself.
WORDS = {
    0xF0: SENTINEL,
    0xF1: PREFIX,
    0xF2: PREFIX + ESCAPE,
    0xF3: SENTINEL[:24],
    0xF4: SENTINEL[7:],
}


def spell(data: bytes) -> bytes:
    """Return the bytes with the words that stand in them."""
    for byte, word in WORDS.items():
        data = data.replace(bytes([byte]), word)
    return data


def seeds() -> list[bytes]:
    """Return messages, whole and damaged, and any bytes, with all words in them."""
    words = bytes(WORDS)
    message, long = seed_frames([b"a" + words, b"", words]), seed(0, 15, 3, b"a\xf1b")
    whole = encode(SentinelFraming, [b"abc", words])
    return [
        seed(OPEN, ANY, CHUNKS, whole),
        seed(STRANGE, ANY, CHUNKS, whole, b"\xf0"),
        seed(OPEN, ANY, CHUNKS, words * 3),
        seed(OPEN, MESSAGES, 1, message, long, CHUNKS),
        seed(OPEN, DAMAGED, 1, message, long, CHUNKS, 40, 0, 0, 1, b"\xf1b", 0),
    ]


def check(data: bytes) -> None:
    stream = draw_stream(Draws(data), SentinelFraming, _frames)
    if stream.sent is None:
        stream.data = spell(stream.data)
    check_stream(stream)
    _check_unstuff(Draws(data), spell(data))
    _check_round_trip(_frames(Draws(data)))


def _frames(draws: Draws) -> list[bytes]:
    return [spell(frame) for frame in draws.frames()]


def _check_unstuff(draws: Draws, data: bytes) -> None:
    """Have both kernels take a span, and compare the memory as well."""
    size = len(data)
    start = min(draws.number(32), size)
    matched = draws.choice([0, 1, 24, 30, 31])

    def run(twin: ModuleType) -> tuple[object, ...]:
        view = exact(data)
        return *outcome(twin.unstuff, view, start, size, matched), view.tobytes()

    agree_on(run, kernel)


def _check_round_trip(frames: list[bytes]) -> None:
    def run(twin: ModuleType) -> tuple[object, ...]:
        return outcome(lambda: [*map(bytes, twin.stuff([*map(exact, frames)]))])

    agree_on(run, kernel)
    sent = b"".join(frames)
    view = exact(b"".join(kernel.stuff([*frames])))
    kept, stop, matched = kernel.unstuff(view, 0, len(view), 0)
    assert (stop, matched) == (len(view), len(SENTINEL))
    assert view[: kept - matched].tobytes() == sent
