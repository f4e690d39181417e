"""The envelope: the kind of a call's message, kept apart from its data.

Between two peers of this library, each message of a call has one frame in front of its own, the
*head*: the byte MARK, with which no msgpack and thus no object begins, and a kind. So anything
that a user sends is data, and is never taken for a request, an error or an end.

=========  ========================================================================
1 REQUEST  a `Request` in msgpack follows the kind; the message is a dict, the arguments
2 REPLY    the message is the value that the function returned
3 ERROR    the message is what `pack_error` returns for the exception
4 ITEM     the message is one of many that the function yields
5 END      the message is None: there are no more items
6 OWN      the message was written by the handler to its connection, as an answer
7 EXTRA    the message was written likewise, but after the answer, or where none is wanted
=========  ========================================================================

Within one process the same head travels beside the message, in an `Envelope`. A message
without a head belongs to no call of ours: it was written by hand, or by a peer without
envelopes.
"""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder

from ._serialize.tags import MARK
from ._serialize.wrappers import Unsendable
from .errors import MessageError

__all__ = [
    "END", "ERROR", "EXTRA", "ITEM", "ITEMS", "LONGEST", "NOTHING", "NO_REPLY", "ONE", "OWN",
    "REPLY", "RESERVED", "UNSENDABLE", "Envelope", "Request", "Wants", "as_data", "as_dict",
    "decode_request", "encode_request", "is_request", "kind_of", "take_head",
]  # fmt: skip

_REQUEST = MARK + b"\x01"
REPLY, ERROR, ITEM, END, OWN, EXTRA = (MARK + bytes([kind]) for kind in range(2, 8))
NAMES = {
    _REQUEST: "request", REPLY: "reply", ERROR: "error", ITEM: "item", END: "end", OWN: "own",
    EXTRA: "extra",
}  # fmt: skip
#: Heads of the messages that `Comm.read` returns as data.
OWN_MESSAGES = (OWN, EXTRA)

#: Keys of a request without an envelope that are not arguments.
RESERVED = frozenset({"op", "reply", "close", "serializers"})

#: How many messages a caller waits for.
Wants = Literal[0, 1, 2]
NOTHING: Literal[0] = 0
ONE: Literal[1] = 1
ITEMS: Literal[2] = 2

#: The most bytes of a head.
LONGEST = 4096


class Request(Struct, array_like=True, frozen=True):
    """The head of a request: which op is called, and how it is to be answered.

    ``families`` are the only ones that may be used for the answer; None allows any. ``close``
    closes the connection after the answer, as the end of a stream always does.
    """

    op: str
    wants: Wants = ONE
    close: bool = False
    families: tuple[str, ...] | None = None


_encode = Encoder().encode
_decode = Decoder(Request).decode


def encode_request(request: Request) -> bytes:
    """Return the head of a request; ValueError if it is too long, or a str in it cannot be sent.

    >>> encode_request(Request("add")).hex(" ")
    'c1 01 94 a3 61 64 64 01 c2 c0'
    """
    head = _REQUEST + _encode(request)
    if len(head) > LONGEST:
        raise ValueError(
            f"the head of a request for {request.op!r:.60} has {len(head)} bytes, expected at "
            f"most {LONGEST}: use shorter names for the op and its serializers"
        )
    return head


def decode_request(head: bytes) -> Request:
    """Undo `encode_request`; ValueError says what is wrong with the head.

    >>> decode_request(bytes.fromhex("c1 01 92 a3 61 64 64 00"))
    Request(op='add', wants=0, close=False, families=None)
    """
    if len(head) > LONGEST:
        raise ValueError(f"a head of {len(head)} bytes, expected at most {LONGEST}")
    if not is_request(head):
        raise ValueError(f"{kind_of(head)} where a request was expected")
    try:
        return _decode(head[len(_REQUEST) :])
    except (ValueError, RecursionError) as exc:  # msgspec's own are ValueErrors
        raise ValueError(f"the head of a request is malformed: {exc!s:.200}") from exc


def is_request(head: bytes) -> bool:
    """Whether a head is that of a request, malformed or not."""
    return head[: len(_REQUEST)] == _REQUEST


def kind_of(head: bytes) -> str:
    """Return the name of a message's kind, by its head, for an error.

    >>> kind_of(END), kind_of(b"\\xc1\\xff")
    ('an end', 'a message of the kind 255')
    """
    name = NAMES.get(bytes(head[:2]))
    if name is None:
        return f"a message of the kind {head[1] if len(head) > 1 else None}"
    if name in {"own", "extra"}:
        name += " message"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def take_head(frames: list[Any]) -> bytes | None:
    """Remove and return the head of a message's frames, or None; it is never the only frame."""
    if len(frames) > 1 and frames[0][:1] == MARK:
        head: bytes = frames.pop(0)
        return head
    return None


def as_data(head: bytes, message: Any) -> Any:
    """Return what `Comm.read` returns for a message in an envelope.

    That is a handler's own message, or a request as Dask's dict. Raises MessageError for any
    other message of a call, and for arguments whose names are reserved in that dict.
    """
    if head in OWN_MESSAGES:
        return message
    try:
        request = decode_request(head)
    except ValueError as exc:
        raise MessageError(f"a message of a call where data was expected: {exc}") from exc
    if not isinstance(message, dict) or not RESERVED.isdisjoint(message):
        raise MessageError(
            f"a request for the op {request.op!r:.60} whose arguments are not a dict, or use one "
            f"of the names {sorted(RESERVED)}, which only a Server can tell from its own"
        )
    return as_dict(request, message)


def as_dict(request: Request, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request in Dask's format, without ``reply`` if it asks for items."""
    message: dict[str, Any] = {"op": request.op, **arguments}
    if request.wants != ITEMS:
        message["reply"] = request.wants == ONE
    if request.close:
        message["close"] = True
    if request.families is not None:
        message["serializers"] = request.families
    return message


class Envelope(Unsendable, Struct):
    """A message of a call and its head, on their way from one task of a process to another."""

    head: bytes
    message: Any


class NoReply(Unsendable):
    """The class of NO_REPLY."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NO_REPLY"


#: Returned by a handler that takes the connection and has replied itself.
NO_REPLY = NoReply()

#: Classes whose instances are never sent.
UNSENDABLE = frozenset({Envelope, NoReply})
