"""What a caller and a server write to each other: requests, replies, errors.

A request is a dict. Its ``op`` names the function, ``reply``, ``close`` and ``serializers``
belong to the envelope, every other key is an argument. A reply is what the function returned,
or a dict with the status "uncaught-error". The names are Dask's, whose servers and callers
understand all of it.

An error is sent twice, as text and, to a trusted peer, as a pickle of the exception and of
each of its causes. Whatever cannot be pickled here or opened there arrives as its text.
"""

import traceback
from collections.abc import Iterable
from enum import Enum
from typing import Any

from .core import Comm
from .errors import MessageError, RemoteError, UnserializableError, UntrustedError
from .serialize import pickles
from .serialize.settings import check_choice

__all__ = [
    "FAILED",
    "RemoteTraceback",
    "Status",
    "abandon",
    "envelop",
    "is_error",
    "pack_error",
    "send_recv",
    "unpack_error",
]

#: The status of a reply that is an error.
FAILED = "uncaught-error"
#: What `Comm.write` raises where nothing was sent, and `Comm.read` where a message was taken:
#: a comm that raised one of these carries no reply that nobody waits for.
UNSENT: tuple[type[Exception], ...] = (TypeError, ValueError)
TAKEN: tuple[type[Exception], ...] = (MessageError, UnserializableError, UntrustedError)
#: Bytes of a pickled exception, and characters of a text, above which it goes without.
LARGE_PICKLE = 1024 * 1024
LONG_TEXT = 20_000
#: Causes of causes that are sent; a chain of exceptions may be a circle.
MAX_CAUSES = 16


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


async def send_recv(
    comm: Comm,
    *,
    reply: bool = True,
    serializers: Iterable[str] | None = None,
    deserializers: Iterable[str] | None = None,
    **kwargs: Any,
) -> Any:
    """Send a request, ``op=`` and its arguments, and return the reply.

    Raises what the handler raised: the same exception between peers that trust each other,
    else a RemoteError. A message that cannot be sent or opened raises what `Comm.write` and
    `Comm.read` say, and the comm goes on. After any other failure, or when cancelled, the
    comm is aborted: a reply may be on its way that must not be taken for another's.
    """
    message = envelop(kwargs, reply, serializers, deserializers)
    written = False
    response: Any = None
    try:
        await comm.write(message, serializers)
        written = True
        if reply:
            response = await comm.read(deserializers or serializers)
    except BaseException as exc:
        abandon(comm, exc, written)
        raise
    if message.get("close"):
        await comm.close()
    if is_error(response):
        raise unpack_error(response, comm)
    return response


def envelop(
    message: dict[str, Any],
    reply: bool,
    serializers: Iterable[str] | None,
    deserializers: Iterable[str] | None,
) -> dict[str, Any]:
    """Return a request that says how it is to be answered; TypeError for a str as families."""
    check_choice(serializers, None, deserializers)
    message["reply"] = reply
    families = deserializers or serializers
    if families is not None:
        message["serializers"] = tuple(families)
    return message


def abandon(comm: Comm, exc: BaseException, written: bool) -> None:
    """Abort the comm of a call that failed, unless no reply can be on its way."""
    if not isinstance(exc, TAKEN if written else UNSENT):
        comm.abort()


def is_error(response: Any) -> bool:
    """Whether a reply stands for an exception."""
    return type(response) is dict and response.get("status") == FAILED


# -- errors -----------------------------------------------------------------------------


def describe(exc: BaseException) -> str:
    """Return what Python prints of an exception below its traceback.

    >>> describe(ValueError("no such key"))
    'ValueError: no such key'
    """
    if type(exc) is RemoteError:  # passed on from another peer, or said by the server itself
        return _shorten(str(exc))
    return _shorten("".join(traceback.format_exception_only(exc)).strip())


def pack_error(exc: BaseException, trusted: bool) -> dict[str, Any]:
    """Return the reply that says that a call raised.

    A peer that is not trusted gets what the exception says, and not where it was raised.
    """
    text = describe(exc)
    reply: dict[str, Any] = {
        "status": FAILED,
        "exception": text,
        "traceback": None,
        "exception_text": text,
        "traceback_text": "",
    }
    if trusted:
        if exc.__traceback__ is not None:
            reply["traceback_text"] = _shorten("".join(traceback.format_exception(exc)))
        pickled = _pickle(exc)
        if pickled is not None:
            reply["exception"] = pickled
            reply["causes"] = _pickle_causes(exc)
    return reply


def unpack_error(reply: dict[str, Any], comm: Comm) -> Exception:
    """Return the exception that a reply stands for, as `RemoteError` where it is but text."""
    exc: BaseException | None = None
    causes = None
    if comm.deserialize:  # else pickles stay closed, and the error is its text
        exc, causes = _unpickle(reply.get("exception"), comm.trusted), reply.get("causes")
    if not isinstance(exc, Exception):  # SystemExit is for the process where it was raised
        exc = RemoteError(str(reply.get("exception_text") or "the peer gave no reason"))
    last: BaseException = exc
    for pickled in causes if isinstance(causes, tuple | list) else ():
        cause = _unpickle(pickled, comm.trusted)
        if cause is None:
            break
        _set_cause(last, cause)
        last = cause
    where = reply.get("traceback_text")
    if where and isinstance(where, str):
        _set_cause(last, RemoteTraceback(where))
    return exc


def _set_cause(exc: BaseException, cause: BaseException) -> None:
    """Set what a frozen dataclass, for one, does not let anybody set as an attribute."""
    vars(BaseException)["__cause__"].__set__(exc, cause)


def _pickle(exc: BaseException) -> bytes | None:
    """Pickle an exception, None where it would not arrive; many do not survive their own."""
    try:
        data, _ = pickles.dumps(exc, True, 4)  # a protocol that keeps it in one piece
        if len(data) <= LARGE_PICKLE and type(pickles.loads(data, [], True)) is type(exc):
            return data
    except (UnserializableError, MessageError, RecursionError):
        pass
    return None


def _pickle_causes(exc: BaseException) -> list[bytes]:
    """Pickle the chain of causes as far as it goes; pickling an exception leaves them out."""
    pickled: list[bytes] = []
    while (cause := exc.__cause__) is not None and len(pickled) < MAX_CAUSES:
        data = _pickle(cause)
        if data is None:
            break
        pickled.append(data)
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


def _shorten(text: str) -> str:
    if len(text) <= LONG_TEXT:
        return text
    return f"{text[: LONG_TEXT // 2]}\n … \n{text[-LONG_TEXT // 2 :]}"
