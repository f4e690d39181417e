"""Requests of a stranger, in envelopes and as dicts: a server answers them or closes."""

from typing import Any

from msgpack import packb

import distributed_comm as dc
from distributed_comm._calls.operations import Operations
from distributed_comm._calls.session import Serving
from distributed_comm._envelope import END, ERROR, ITEM, OWN, REPLY, Request, encode_request

from .costing import spend
from .drawing import Draws, seed
from .pretending import Pretended, comm_over, loop_runner, short_logs
from .strangers import size
from .writing import draw_msgpack

OPS = ["echo", "add", "many", "fail", "guarded", "listed", "nowhere", "close", "", "a\x1b[2Jb\n"]
HEADS = {REPLY, ERROR, ITEM, END, OWN}
#: Items that a stream has, and bytes of an answer besides those of what is echoed.
ITEMS, AMPLE = 3, 64 * 1024


class Owner:
    """A server, as far as its ops and connections are concerned."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {
            "echo": lambda data=None: data,
            "add": lambda x, y: x + y,
            "many": many,
            "fail": fail,
            "guarded": dc.handler(require_trust=True)(self.guarded),
            "listed": self.guarded,
        }
        self.blocked_handlers: list[str] = []
        self.called = False
        self.forgotten = False

    def guarded(self, **_: Any) -> None:
        self.called = True

    def forget(self, _serving: Serving) -> None:
        self.forgotten = True


async def many(data: Any = None) -> Any:
    for _ in range(ITEMS):
        yield data


def fail(**arguments: Any) -> None:
    raise KeyError(*arguments.values())


def seeds() -> list[bytes]:
    """Return requests of both kinds for each op, some of several, and some that are none."""
    usual = [
        seed(ours, 0, kind, op, 1, 0, arguments)
        for ours in (0, 1)
        for op in range(len(OPS))
        for kind, arguments in ((0, b"\0"), (1, b"\2\1\2\3\4"))
    ]
    several = [seed(1, 2, *(0, 0, 1, 0, 0), *(0, 1, 1, 0, 1, 3), *(2, b"\x0b\1\2\3"))]
    odd = [seed(ours, 1, kind, bytes(range(1, 40))) for ours in (0, 1) for kind in range(5)]
    return [*usual, *several, *odd]


def check(data: bytes) -> None:
    draws = Draws(data)
    ours = bool(draws.number(2))
    messages = [_draw(draws, ours) for _ in range(1 + draws.number(3))]
    nbytes = sum(map(size, messages))
    with short_logs():
        owner, sent = spend(nbytes, lambda: loop_runner()(_serve(messages, ours)))
    assert not owner.called, "a stranger has called what is for trusted peers"
    assert len(sent) <= (ITEMS + 1) * len(messages)
    for frames in sent:
        assert sum(map(len, frames)) <= 4 * nbytes + AMPLE
        head = bytes(frames[0][:2]) if len(frames) > 1 else None
        assert head is None or not ours or head in HEADS


async def _serve(messages: list[list[bytes]], ours: bool) -> tuple[Owner, list[Any]]:
    """Have a server answer these messages, until their sender ends the connection."""
    owner, channel = Owner(), Pretended(messages, ours=ours)
    operations = Operations(owner, frozenset({"listed"}))
    serving = Serving(comm_over(channel), operations, owner.forget)
    serving.start()
    await channel.deliver()
    if serving.task is not None:
        await serving.task
    assert owner.forgotten, "the server goes on with a connection that has ended"
    return owner, channel.sent


def _draw(draws: Draws, ours: bool) -> list[bytes]:
    """Return a request, or something that may be taken for one."""
    match draws.number(5):
        case 0:  # as callers write it
            op, wants = draws.choice(OPS), draws.choice([1, 0, 2])
            arguments = _arguments(draws)
            if ours:
                head = encode_request(Request(op, wants, bool(draws.number(2))))  # type: ignore[arg-type]
                return [head, packb(arguments)]
            reply = {} if wants == 2 else {"reply": bool(wants)}
            return [packb({"op": op, **reply, "close": bool(draws.number(2)), **arguments})]
        case 1:  # a dict of other values
            fields = [packb("op"), packb(draws.choice(OPS))]
            for name in ("reply", "close", "serializers", "x", "data")[: draws.number(6)]:
                fields += [packb(name), draw_msgpack(draws)]
            count = len(fields) // 2
            return [bytes([0x80 + count]) + b"".join(fields)]
        case 2:  # any message
            return [draw_msgpack(draws)]
        case 3:  # a head of other values
            fields = [draw_msgpack(draws) for _ in range(draws.number(6))]
            head = b"\xc1\x01" + bytes([0x90 + len(fields)]) + b"".join(fields)
            return [head, draw_msgpack(draws)]
    return [b"\xc1" + draws.piece(), *(draw_msgpack(draws) for _ in range(draws.number(3)))]


def _arguments(draws: Draws) -> dict[str, Any]:
    names = ["data", "x", "y", "serializers", "comm", "\x1b[0m", "n" * 5_000]
    chosen = [draws.choice(names) for _ in range(draws.number(4))]
    values = [None, 1, -1.5, "text", "\x1b[2J" * 200, b"bytes", [1, [2]], {"a": {"b": {}}}, 10**18]
    return {name: draws.choice(values) for name in chosen}
