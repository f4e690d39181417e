"""Envelopes: a server answers any head and arguments, or closes; a caller raises."""

from typing import Any

from distributed_comm._calls.call import open_answer
from distributed_comm._calls.operations import Operations
from distributed_comm._calls.remote_errors import unpack_error
from distributed_comm._envelope import (
    END,
    ERROR,
    EXTRA,
    ITEM,
    OWN,
    REPLY,
    Request,
    as_data,
    decode_request,
    encode_request,
    take_head,
)
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions
from distributed_comm.core import Comm
from distributed_comm.errors import MessageError, RemoteError

from .costing import spend
from .drawing import Draws, seed, seed_frames
from .strangers import DOCUMENTED, open_message


class Silent(Comm):
    """The parts of a comm to a stranger that are needed to open an answer."""

    enveloped = True
    local_address = peer_address = "silent://"  # type: ignore[assignment]

    async def read(self, deserializers: Any = None) -> Any:
        raise NotImplementedError

    async def write(self, msg: Any, serializers: Any = None, on_error: Any = None) -> int:
        raise NotImplementedError

    async def close(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def closed(self) -> bool:
        return False


class Owner:
    """A server, as far as its ops are concerned."""

    def __init__(self) -> None:
        self.handlers = dict.fromkeys(["echo", "many", "stop"], print)
        self.blocked_handlers = ["many"]


OPERATIONS = Operations(Owner(), frozenset({"stop"}))
COMM = Silent()


def seeds() -> list[bytes]:
    """Return requests, answers and lookalikes, each with a message behind its head."""
    heads = [encode_request(Request(op)) for op in ("echo", "many", "stop", "nowhere", "")]
    heads += [encode_request(Request("echo", 2, True, ("msgpack", "pickle")))]
    heads += [REPLY, ERROR, ITEM, END, OWN, EXTRA, b"\xc1", b"\xc1\x07", b"\xc1\x01\xc0"]
    error = {"status": "uncaught-error", "exception": b"x", "causes": [b"y", 1]}
    messages = [{}, {"data": [1, {2}]}, {"op": 1, "reply": 2}, None, 1, error]
    messages += [{"exception_text": 10**30, "traceback_text": {}}, {"exception_text": "x" * 200}]
    packed = [dumps(message, DumpOptions(typed=True))[0] for message in messages]
    return [seed(seed_frames([head, frame])) for head in heads for frame in packed]


def check(data: bytes) -> None:
    frames: Any = Draws(data).frames()
    head = take_head(frames)
    if head is None:
        return
    call = spend(len(head), lambda: OPERATIONS.admit[False](head))
    assert call.refusal is not None or call.operation.op == "echo"
    assert call.refusal is None or len(str(call.refusal)) < 2000
    assert OPERATIONS.admit[False](head).wants == call.wants
    try:
        request = decode_request(head)
    except ValueError:
        assert call.refusal is not None
        assert call.close
    else:
        again = encode_request(request)
        assert decode_request(again) == request
        # else a stranger could grow the cache without end
        assert head not in OPERATIONS._calls or (head == again and request.families is None)
    try:
        message = open_message(frames) if frames else None
    except DOCUMENTED:
        return
    _read(head, message)
    _answer(head, message, sum(map(len, frames)))


def _read(head: bytes, message: Any) -> None:
    """Read it as data."""
    try:
        request = as_data(head, message)
    except MessageError:
        return
    assert head in {OWN, EXTRA} or isinstance(request["op"], str)


def _answer(head: bytes, message: Any, nbytes: int) -> None:
    """Take it for an answer."""
    try:
        assert open_answer((head, message, None), COMM) is message
    except RemoteError:
        assert head == ERROR
    except OSError:
        assert head not in {REPLY, ERROR, OWN}
    else:
        assert head in {REPLY, OWN}
    error = spend(nbytes, lambda: unpack_error(message, COMM))
    assert isinstance(error, RemoteError)
    assert len(str(error)) < 25_000
