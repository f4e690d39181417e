"""One call over one comm: sending the request, and opening the answer.

Between our peers both are in envelopes (see `_envelope`). For a Dask peer, a request is a dict:
``op`` names the function; ``reply``, ``close`` and ``serializers`` say how to answer; every
other key is an argument. A reply is the value that the function returned, or the dict of an
error (see `remote_errors`). The names are Dask's, whose servers and callers understand all of it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .._envelope import (
    ERROR,
    EXTRA,
    NOTHING,
    ONE,
    OWN,
    REPLY,
    RESERVED,
    Request,
    as_dict,
    encode_request,
    kind_of,
)
from .._serialize.settings import check_choice
from ..core import Comm, Enveloped
from ..errors import LocalProtocolError, RemoteProtocolError
from .remote_errors import ends_connection, is_error, unpack_error

__all__ = [
    "abandon", "check_op", "choose_families", "for_dask", "open_answer", "send_recv",
]  # fmt: skip

#: Heads of an answer. A tuple, because the head that a peer sends may not be hashable bytes.
ANSWERS = (REPLY, ERROR, OWN)
#: Raised by `Comm.write` if nothing was sent.
UNSENT: tuple[type[Exception], ...] = (TypeError, ValueError, LocalProtocolError)


async def send_recv(
    comm: Comm,
    *,
    reply: bool = True,
    serializers: Iterable[str] | None = None,
    deserializers: Iterable[str] | None = None,
    **kwargs: Any,
) -> Any:
    """Send a request, ``op=`` and its arguments, and return the reply.

    ``close=True`` closes the comm after the call. Raises the handler's exception: the same one
    between peers that trust each other, else a RemoteError. A message that cannot be sent or
    opened raises the errors of `Comm.write` and `Comm.read`, and the comm stays usable. After any
    other failure, or when cancelled, the comm is aborted, because a late reply must not be taken
    for another's. A handler that takes the connection may write its answer itself; its other
    messages are left to `Comm.read`.
    """
    op, close = kwargs.pop("op", None), kwargs.pop("close", False)
    check_op(op)
    families = choose_families(serializers, deserializers)
    written = False
    answer: Enveloped = None, None, None
    try:
        request = Request(str.__str__(op), ONE if reply else NOTHING, bool(close), families)
        if comm.enveloped:
            rest = comm.send(kwargs, serializers, encode_request(request))
        else:
            rest = comm.send(for_dask(request, kwargs), serializers)
        if rest is not None:
            await rest
        written = True
        if reply:
            answer = await comm.read_enveloped(families)
            while answer[0] == EXTRA:
                answer = await comm.read_enveloped(families)
    except BaseException as exc:
        abandon(comm, exc, written)
        raise
    if close:
        await comm.close()
    return open_answer(answer, comm) if reply else None


def check_op(op: Any) -> None:
    """Raise a TypeError for an op that is no str."""
    if not isinstance(op, str):
        raise TypeError(f"op must be a str, not {type(op).__name__}")


def choose_families(
    serializers: Iterable[str] | None, deserializers: Iterable[str] | None
) -> tuple[str, ...] | None:
    """Return the families that a reply may use; TypeError for a str instead of their names."""
    check_choice(serializers, None, deserializers)
    families = deserializers or serializers
    if families is None:
        return None
    names = tuple(families)
    if not all(isinstance(name, str) for name in names):
        raise TypeError("serializers and deserializers must be lists of str")
    return tuple(map(str.__str__, names))


def for_dask(request: Request, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request in Dask's format; TypeError for an argument with a reserved name."""
    wrong = sorted(RESERVED & arguments.keys())
    if wrong:
        raise TypeError(
            f"{request.op}({'=…, '.join(wrong)}=…): a peer that knows no envelopes, such as "
            f"Dask's, takes no argument of this name"
        )
    return as_dict(request, arguments)


def abandon(comm: Comm, exc: BaseException, written: bool) -> None:
    """Abort the comm of a call that failed, unless no reply can be on its way."""
    if written or not isinstance(exc, UNSENT):
        comm.abort()


def open_answer(answer: Enveloped, comm: Comm) -> Any:
    """Return the value of an answer, or raise the exception that it stands for.

    On an enveloped comm, a message without an envelope was written by hand, and is a value
    whatever it looks like. A message that is not an answer aborts the comm, and raises a
    RemoteProtocolError; an error behind which the peer closes aborts it, too.
    """
    head, message, error = answer
    if head is not None and head not in ANSWERS:
        comm.abort()
        raise wrong_answer(head, comm)
    if error is not None:
        raise error
    if head == ERROR or (head is None and not comm.enveloped and is_error(message)):
        if ends_connection(message):
            comm.abort()
        raise unpack_error(message, comm)
    return message


def wrong_answer(head: bytes, comm: Comm) -> RemoteProtocolError:
    """Return the error for a message that is not an answer to a call."""
    ends = f"{comm.local_address} -> {comm.peer_address}"
    return RemoteProtocolError(f"{kind_of(head)} where a reply was expected: {ends}")
