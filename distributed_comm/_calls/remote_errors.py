"""Exceptions as messages: packed by the server, unpacked by its caller.

An error is sent twice, as text and, to a trusted peer, as a pickle of the exception and of
each of its causes. One that cannot be pickled here or opened there arrives as its text. The
names are Dask's, whose servers and callers understand all of it. Between our peers the envelope
marks an error; for Dask's peers, the status "uncaught-error" does.
"""

from enum import Enum
from typing import Any

from .._serialize import pickles
from .._serialize.settings import LoadOptions
from .._serialize.unwrap import unwrap
from .._serialize.wrappers import Serialized, Wrapper
from .._text import LONG, LONG_TEXT, SHORT, built_in, describe, printable, sendable, shorten, trace
from ..core import Comm
from ..errors import MessageError, RemoteError, UnserializableError, UntrustedError

__all__ = [
    "FAILED",
    "RemoteTraceback",
    "Status",
    "ends_connection",
    "is_error",
    "pack_error",
    "seems_error",
    "told_briefly",
    "unpack_error",
]

#: The status of a reply that is an error.
FAILED = "uncaught-error"
#: Bytes of a pickled exception, and of all its causes, above which it goes without.
LARGE_PICKLE = 1024 * 1024
#: Causes that are sent, and opened, at most; a chain of exceptions may be circular.
MAX_CAUSES = 16
#: How `seems_error` opens what was left unopened: without trust.
UNTRUSTED = LoadOptions(max_message=16 * 1024 * 1024)
#: What stands for an object that may be an error, and cannot be looked at here.
SUSPECT = {"status": FAILED}


class Status(Enum):
    """Where a server is in its life; a handler that returns `dont_reply` has replied itself."""

    undefined = "undefined"
    created = "created"
    init = "init"
    starting = "starting"
    running = "running"
    paused = "paused"
    stopping = "stopping"
    stopped = "stopped"
    closing = "closing"
    closing_gracefully = "closing_gracefully"
    closed = "closed"
    failed = "failed"
    dont_reply = "dont_reply"


class RemoteTraceback(Exception):  # noqa: N818 - it only shows where another one was raised
    """The text of a traceback at the peer: the first cause of an exception that came from it."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""' if self.args else ""


# -- errors -----------------------------------------------------------------------------


def is_error(reply: Any) -> bool:
    """Whether a reply without an envelope stands for an exception."""
    if not isinstance(reply, dict):
        return False
    status = dict.get(reply, "status")
    return isinstance(status, str) and str.__str__(status) == FAILED


def seems_error(result: Any) -> bool:
    """Whether a Dask peer would take the result of a function for an error.

    Pickles are not opened to find out: anyone who can make a Dask peer open one needs no error.
    """
    result = _as_it_arrives(result)
    if not isinstance(result, dict):
        return False
    return any(
        isinstance(key, str)
        and str.__str__(key) == "status"
        and isinstance(status := _as_it_arrives(value), str)
        and str.__str__(status) == FAILED
        for key, value in dict.items(result)
    )


def _as_it_arrives(obj: Any) -> Any:
    """Return an object without its wrappers."""
    while isinstance(obj, Wrapper):
        obj = obj.data
    if isinstance(obj, Serialized) and obj.header.get("serializer") not in ("pickle", "dask"):
        try:
            return unwrap(obj, UNTRUSTED)
        except MessageError:
            return SUSPECT if _may_be_dict(obj) else obj
        except (UnserializableError, UntrustedError):
            return obj
    return obj


def _may_be_dict(obj: Serialized) -> bool:
    """Whether an object that takes too long to look at, or fails here, may be a dict at its reader.

    Not if it is of a family that only its writer and its reader know, which could be anything.
    """
    header, frames = obj.header, obj.frames
    if header.get("serializer") is None:
        return bool(header.get("type-serialized") == "dict")
    if header.get("serializer") != "msgpack":
        return False
    first = bytes(frames[0][:1]) if frames and not header.get("compression") else b"\x80"
    return b"\x80" <= first < b"\x90" or first in {b"\xde", b"\xdf"}


def pack_error(exc: BaseException, trusted: bool, *, ends: bool = False) -> dict[str, Any]:
    """Return the reply that says that a call raised; ``ends``: the connection ends behind it.

    A peer that is not trusted gets what the exception says, and not where it was raised. Whatever
    the exception is made of, this does not fail, and the reply can be encoded.
    """
    text = _said(exc) if type(exc) is RemoteError else describe(exc)
    reply = _as_reply(text)
    if ends:
        reply["ends"] = True
    if trusted:
        if built_in(exc, "__traceback__") is not None:
            reply["traceback_text"] = trace(exc)
        pickled = _pickle(exc)
        if pickled is not None:
            reply["exception"] = pickled
            reply["causes"] = _pickle_causes(exc)
    return reply


def _said(exc: RemoteError) -> str:
    """Return the text of an error passed on from another peer, or said by the server itself."""
    try:
        return sendable(str(exc))
    except BaseException:  # of its arguments' own methods
        return describe(exc)


def _as_reply(text: str) -> dict[str, Any]:
    return {
        "status": FAILED,
        "exception": text,
        "traceback": None,
        "exception_text": text,
        "traceback_text": "",
    }


def told_briefly(message: Any) -> dict[str, Any]:
    """Return a short error in plain text, to be sent instead of a message that cannot be."""
    if not is_error(message):
        return _as_reply("the reply cannot be sent; the server's log says why")
    reply = _as_reply(printable(message["exception_text"], SHORT))
    if ends_connection(message):
        reply["ends"] = True
    return reply


def ends_connection(reply: Any) -> bool:
    """Whether the peer says that it ends the connection behind an error."""
    return isinstance(reply, dict) and dict.get(reply, "ends") is True


def unpack_error(reply: Any, comm: Comm) -> Exception:
    """Return the exception that a reply stands for; a `RemoteError` if only its text came.

    The reply may be anything, as a peer may send anything. Texts in it are escaped and shortened.
    """
    fields = reply if isinstance(reply, dict) else {}
    exc: BaseException | None = None
    causes: Any = None
    if comm.deserialize:  # else pickles stay closed, and the error is its text
        exc, causes = _unpickle(fields.get("exception"), comm.trusted), fields.get("causes")
    if not isinstance(exc, Exception):  # SystemExit is for the process where it was raised
        exc = RemoteError(
            _text(fields, "exception_text", comm.trusted) or "the peer gave no reason"
        )
    last: BaseException = exc
    for pickled in causes[:MAX_CAUSES] if isinstance(causes, tuple | list) else ():
        cause = _unpickle(pickled, comm.trusted)
        if cause is None:
            break
        _set_cause(last, cause)
        last = cause
    where = _traceback(fields, comm.trusted)
    if where:
        _set_cause(last, RemoteTraceback(where))
    return exc


def _text(fields: dict[Any, Any], name: str, trusted: bool) -> str:
    """Return a text field of an error, in one line; empty if it is not a text."""
    text = fields.get(name)
    limit = LONG_TEXT if trusted else LONG
    return printable(str.__str__(text), limit) if isinstance(text, str) else ""


def _traceback(fields: dict[Any, Any], trusted: bool) -> str:
    """Return the text of the traceback; only that of a trusted peer has lines."""
    text = fields.get("traceback_text")
    if not trusted or not isinstance(text, str):
        return _text(fields, "traceback_text", trusted)
    lines = shorten(str.__str__(text)).split("\n")
    return "\n".join(printable(line, LONG_TEXT) for line in lines)


def _set_cause(exc: BaseException, cause: BaseException) -> None:
    """Set what a frozen dataclass, for one, does not let anybody set as an attribute."""
    vars(BaseException)["__cause__"].__set__(exc, cause)


def _pickle(exc: BaseException, most: int = LARGE_PICKLE) -> bytes | None:
    """Pickle an exception, None where it would not arrive; many do not survive their own."""
    try:
        data, _ = pickles.dumps(exc, True, 4, most)  # a protocol that keeps it in one piece
        if type(pickles.loads(data, [], True)) is type(exc):
            return data
    except BaseException:  # noqa: S110 - its methods may raise anything
        pass
    return None


def _pickle_causes(exc: BaseException) -> list[bytes]:
    """Pickle the chain of causes as far as it goes; pickling an exception leaves them out."""
    pickled: list[bytes] = []
    left = LARGE_PICKLE
    while (cause := built_in(exc, "__cause__")) is not None and len(pickled) < MAX_CAUSES:
        data = _pickle(cause, left)
        if data is None:
            break
        pickled.append(data)
        left -= len(data)
        exc = cause
    return pickled


def _unpickle(data: Any, trusted: bool) -> BaseException | None:
    if not isinstance(data, bytes | bytearray | memoryview):
        return data if isinstance(data, BaseException) else None
    try:
        exc = pickles.loads(data, [], trusted)
    except (UntrustedError, MessageError):
        return None
    return exc if isinstance(exc, BaseException) else None
