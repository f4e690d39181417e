"""The command line against a hostile server: it prints what a terminal can show, and ends."""

import io
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any
from unittest import mock

from msgpack import packb

from distributed_comm import _command as command
from distributed_comm import registry
from distributed_comm._envelope import END, ERROR, EXTRA, ITEM, OWN, REPLY
from distributed_comm.core import Comm, Connector, HandleComm, Listener
from distributed_comm.registry import Backend

from .costing import spend
from .drawing import Draws, seed
from .fuzz_errors import FIELDS, VALUES
from .pretending import Pretended, comm_over, short_logs
from .samples import OURS, THEIRS, message, samples
from .strangers import size
from .writing import draw_msgpack

ADDRESS = "hostile://server"
COMMANDS = [
    ["call", ADDRESS, "op", "x=1"],
    ["identity", ADDRESS],
    ["ping", "-c2", "-i0", ADDRESS],
    ["call", "--trusted", ADDRESS, "op"],
]
#: How many of them run without trust; none opens what may run code.
UNTRUSTED = 3
HEADS = [REPLY, REPLY, ERROR, ITEM, END, OWN, EXTRA, b"\xc1\xff"]
#: Characters that are printed for each byte of a value (of which nesting indents each line), and
#: besides; and characters of why there is none.
MULTIPLE, AMPLE, LONGEST = 100, 4096, 25_000


def _nested(levels: int, items: int) -> list[Any]:
    """Return lists in each other, each of which has some other items as well."""
    inner: list[Any] = []
    for _ in range(levels):
        inner = [*[1] * items, inner]
    return inner


VALUE, ODD_VALUE, FAILURE, SAMPLE, ANY = range(5)
ODD: list[Any] = [
    *["\x1b[2J\x1b]0;owned\x07", "a\r\nb", "\u202e\u200b", "\ud800".encode("utf-8", "replace")],
    *[b"\x1b[2J", {"\x1b[31m": "\x9b1m"}, ["ä" * 3000], {"type": "Server", "id": "x" * 5000}],
    *[[[[[[["deep"] * 5] * 5] * 5] * 5]], {n: {n: [n]} for n in range(500)}, [1.5] * 3000],
    *[[None] * 100_000, _nested(200, 100), _nested(400, 0), list(range(60_000))],
]


class Hostile(Backend):
    """A scheme under which every server sends these messages, and then ends the connection."""

    messages: Sequence[list[bytes]] = ()
    ours = True

    def get_connector(self) -> Connector:
        return Dialler()

    def get_listener(
        self, loc: str, handle_comm: HandleComm, deserialize: bool, **connection_args: Any
    ) -> Listener:
        raise NotImplementedError

    def get_address_host(self, loc: str) -> str:
        return loc

    def resolve_address(self, loc: str) -> str:
        return loc

    def get_local_address_for(self, loc: str) -> str:
        return loc


class Dialler(Connector):
    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> Comm:
        return comm_over(Pretended(Hostile.messages, ours=Hostile.ours))


def seeds() -> list[bytes]:
    """Return answers of each kind to each command, with values and errors that look odd."""
    odd = [seed(n % 3, 1, 0, ODD_VALUE, 0, n) for n in range(len(ODD))]
    fields = [
        seed(n % 3, 1, 0, FAILURE, 2, *(n if field == k else 0 for k in range(len(FIELDS))))
        for field in range(len(FIELDS))
        for n in range(1, len(VALUES) + 1)
    ]
    kinds = [
        seed(n % 3, ours, 1, VALUE, n, 9, b"some text", VALUE, 0, 3, b"abc")
        for n in range(len(HEADS))
        for ours in (0, 1)
    ]
    arrays = [seed(n % 3, 1, 0, SAMPLE, 0, n) for n in range(0, len(samples()), 7)]
    drawn = [seed(1, 1, 0, ANY, n % 8, bytes([n, *range(1, 50)])) for n in range(16)]
    return [*odd, *fields, *kinds, *arrays, *drawn]


def check(data: bytes) -> None:
    draws = Draws(data)
    arguments = COMMANDS[draws.number(UNTRUSTED)]
    Hostile.ours = bool(draws.number(2))
    Hostile.messages = [_answer(draws) for _ in range(1 + draws.number(3))]
    nbytes = sum(map(size, Hostile.messages))
    with mock.patch.dict(registry._BUILT_IN, {"hostile": (__name__, "Hostile")}), short_logs():
        status, out, err = spend(nbytes, lambda: _run(arguments))
    assert status in {0, 1}
    assert len(out) < MULTIPLE * nbytes + AMPLE, f"{len(out)} characters for {nbytes} bytes"
    assert len(err) < LONGEST, f"{len(err)} characters: {err[:200]!r}"
    for text in (out, err):
        odd = {letter for letter in text if not letter.isprintable()} - {"\n"}
        assert not odd, f"printed what a terminal may act on, {sorted(odd)}"


def _run(arguments: list[str]) -> tuple[int, str, str]:
    """Return the status and what was printed, to both streams."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = command.main(arguments)
    return status, out.getvalue(), err.getvalue()


def _answer(draws: Draws) -> list[bytes]:
    """Return a message that may be an answer."""
    kind, head = draws.number(5), draws.choice(HEADS)
    frames = _frames(kind, draws)
    return [head, *frames] if Hostile.ours else frames


def _frames(kind: int, draws: Draws) -> list[bytes]:
    match kind:
        case 0:
            return [packb(draws.piece().decode("utf-8", "replace"))]
        case 1:
            return [packb(draws.choice(ODD))]
        case 2:
            numbers = {name: draws.number(len(VALUES) + 1) for name in FIELDS}
            return [packb({name: VALUES[n - 1] for name, n in numbers.items() if n})]
        case 3:
            sample = samples()[draws.number(256) % len(samples())]
            how = OURS if Hostile.ours else THEIRS
            return message(sample.whole_header(), sample.frames, how)
    return [draw_msgpack(draws), *(draws.piece() for _ in range(draws.number(2)))]
