"""Messages of a stranger to stream handlers: each calls one, or is skipped, or ends the stream."""

from typing import Any

from msgpack import packb

import distributed_comm as dc
from distributed_comm._calls.stream_handlers import Streaming

from .costing import spend
from .drawing import Draws, seed
from .pretending import Pretended, comm_over, loop_runner, short_logs
from .strangers import DOCUMENTED, check_error, size
from .writing import draw_msgpack

OPS: list[Any] = [
    "note",
    "later",
    "guarded",
    "listed",
    "close-stream",
    "nowhere",
    "",
    None,
    1,
    "a\nb",
]


class Taken:
    """What the handlers have been given."""

    def __init__(self) -> None:
        self.notes = 0
        self.guarded = False
        self.handlers = {
            "note": self.note,
            "later": self.later,
            "guarded": dc.handler(require_trust=True)(self.stop),
            "listed": self.stop,
        }

    def note(self, x: Any = None) -> None:
        self.notes += 1

    async def later(self, **_: Any) -> None:
        self.notes += 1

    def stop(self, **_: Any) -> None:
        self.guarded = True


def seeds() -> list[bytes]:
    """Return a message for each op, alone and in a batch, and what is none."""
    alone = [seed(ours, 0, 0, op, 1, 1) for ours in (0, 1) for op in range(len(OPS))]
    batches = [seed(1, 0, 1, 3, 0, 0, 1, 2, op, 0) for op in range(len(OPS))]
    odd = [seed(ours, 2, 2, bytes([kind, *range(1, 40)])) for ours in (0, 1) for kind in range(16)]
    return [*alone, *batches, *odd, seed(1, 1, 0, 0, 0, 3)]


def check(data: bytes) -> None:
    draws = Draws(data)
    ours = bool(draws.number(2))
    messages = [[_draw(draws)] for _ in range(1 + draws.number(3))]
    nbytes = sum(map(size, messages))
    with short_logs():
        taken, error = spend(nbytes, lambda: loop_runner()(_stream(messages, ours)))
    assert not taken.guarded, "a stranger has called what is for trusted peers"
    assert taken.notes <= nbytes
    if isinstance(error, DOCUMENTED):  # any other is Python's, and shortened where it is logged
        check_error(error)


async def _stream(messages: list[list[bytes]], ours: bool) -> tuple[Taken, Exception | None]:
    """Have the messages handled; return what the handlers got, and what ended the stream."""
    taken, channel = Taken(), Pretended(messages, ours=ours)
    error: Exception | None = None
    try:
        await Streaming(comm_over(channel), taken.handlers, {"listed"}, {}).run()
    except (*DOCUMENTED, TypeError) as exc:  # the last: other arguments than a handler takes
        error = exc
    assert channel.closed()
    assert not channel.sent
    return taken, error


def _draw(draws: Draws) -> bytes:
    """Return a message, a batch, or any msgpack."""
    kind = draws.number(3)
    if kind == 0:
        return _call(draws)
    if kind == 1:
        calls = [_call(draws) for _ in range(draws.number(6))]
        return bytes([0x90 + len(calls)]) + b"".join(calls)
    return draw_msgpack(draws)


def _call(draws: Draws) -> bytes:
    fields = [packb("op"), packb(draws.choice(OPS))]
    match draws.number(4):
        case 1:
            fields += [packb("x"), packb(draws.choice([1, None, "x" * 3000, "\x1b[2J\n"]))]
        case 2:
            fields += [packb("x"), draw_msgpack(draws)]
        case 3:
            fields += [packb(draws.choice(["y" * 5000, "\x1b", 5, b"bytes", None])), b"\xc0"]
    return bytes([0x80 + len(fields) // 2]) + b"".join(fields)
