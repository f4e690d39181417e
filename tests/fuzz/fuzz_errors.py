"""Errors that a stranger says happened: an exception of ours, with a text that is bounded."""

import traceback
from functools import cache
from typing import Any

from msgpack import packb

from distributed_comm._calls import remote_errors
from distributed_comm._calls.call import open_answer
from distributed_comm._calls.remote_errors import is_error, pack_error, seems_error
from distributed_comm._envelope import ERROR, REPLY
from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.wrappers import Serialized
from distributed_comm.errors import RemoteError

from ..unpickling import no_unpickling
from .changing import change_all
from .costing import spend
from .drawing import Draws, seed
from .fuzz_shards import COMPRESS, MIB, Part, directed
from .pretending import Pretended, comm_over
from .strangers import DOCUMENTED, STRANGER, size
from .writing import draw_msgpack

FIELDS = ["status", "exception", "exception_text", "traceback", "traceback_text", "causes"]
#: Texts are shortened to 20,000 characters each; an error is sent in twice as much, and a little.
LONGEST, LONGEST_REPLY = 25_000, 300_000
VALUES: list[Any] = [
    *["uncaught-error", "KeyError: 1", "x" * 200_000, "ä\n" * 30_000, "\x1b[2J", "", None, 1],
    *[b"\x80\x04N.", [b"\x80\x04N."] * 100, [None] * 5000, {}, {"a": [{}]}],
]
FIXED, DRAWN, ANY, UNOPENED = range(4)


def seeds() -> list[bytes]:
    """Return errors of each value in each field, any messages, and results like errors."""
    fixed = [
        seed(FIXED, *(n if field == k else 0 for k in range(len(FIELDS))))
        for field in range(len(FIELDS))
        for n in range(len(VALUES) + 1)
    ]
    drawn = [seed(DRAWN, bytes(range(n, n + 50))) for n in range(12)]
    any_of = [seed(ANY, bytes([kind, *range(1, 50)])) for kind in range(16)]
    return [*fixed, *drawn, *any_of, *(seed(UNOPENED, n, 0, 0) for n in range(len(_results())))]


def check(data: bytes) -> None:
    draws = Draws(data)
    kind = draws.number(4)
    if kind == UNOPENED:
        _check_result(draws)
        return
    frame = _draw(kind, draws)
    try:
        message = loads([frame], STRANGER)
    except DOCUMENTED:
        return
    with no_unpickling():
        error = spend(len(frame), lambda: remote_errors.unpack_error(message, COMM))
        _check_answer(message)
    _check_error(error)


COMM = comm_over(Pretended([], ours=True))
COMM.abort()  # nothing is read from it, and it is never closed


def _draw(kind: int, draws: Draws) -> bytes:
    """Return the message of an error, or any."""
    if kind == FIXED:
        numbers = {name: draws.number(len(VALUES) + 1) for name in FIELDS}
        return packb({name: VALUES[n - 1] for name, n in numbers.items() if n})
    if kind == DRAWN:
        fields = [part for name in FIELDS for part in (packb(name), draw_msgpack(draws, depth=3))]
        return bytes([0x80 + len(FIELDS)]) + b"".join(fields)
    return draw_msgpack(draws)


def _check_error(error: Exception) -> None:
    """Check an exception, and what becomes of it where it is passed on."""
    assert isinstance(error, RemoteError)
    assert len(str(error)) < LONGEST
    shown = traceback.format_exception(error)
    assert sum(map(len, shown)) < 4 * LONGEST
    for trusted in (False, True):
        reply = pack_error(error, trusted)
        assert is_error(reply)
        assert len(packb(reply)) < LONGEST_REPLY


def _check_answer(message: Any) -> None:
    """Take a message for an answer: only the head says that it is an error."""
    assert open_answer((REPLY, message, None), COMM) is message
    assert open_answer((None, message, None), COMM) is message
    try:
        open_answer((ERROR, message, None), COMM)
    except RemoteError:
        return
    raise AssertionError("an error that is not raised")


@cache
def _results() -> list[Part]:
    """Return what a stranger may have stored here; Dask takes it for an error if its obj is one."""
    found = []
    for codec in (None, *COMPRESS):
        for padding in (0, 3 * MIB, 17 * MIB):
            obj = {"status": "uncaught-error", "exception": b"a pickle", "pad": bytes(padding)}
            data = packb(obj)
            frame = data if codec is None else bytes(COMPRESS[codec](data))
            header = {"serializer": "msgpack", "compression": (codec,)}
            found.append(Part(header, [frame], obj))
    return [*found, *directed().values()]


def _check_result(draws: Draws) -> None:
    """Ask whether a Dask peer would take a result for an error that it opens pickles in."""
    parts = _results()
    part = parts[draws.number(256) % len(parts)]
    header, frames = change_all(part.header, part.frames, draws)
    if not isinstance(header, dict):
        return
    nbytes = len(packb(header)) + size(frames)
    with no_unpickling():
        seems = spend(nbytes, lambda: seems_error(Serialized(header, frames)))
    changed = (header, frames) != (part.header, part.frames)
    assert seems or changed or not is_error(part.obj), "an error for Dask that passes for a value"
