"""One call over one comm: the request, and what its answer stands for.

Between our peers both are in envelopes (see `envelope`). To a Dask peer a request is a dict:
its ``op`` names the function, ``reply``, ``close`` and ``serializers`` say how it is to be
answered, every other key is an argument; a reply is what the function returned, or an error's
dict (see `calls`). The names are Dask's, whose servers and callers understand all of it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .calls import is_error, unpack_error
from .core import Comm, Enveloped
from .envelope import (
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
from .errors import RemoteProtocolError
from .serialize.settings import check_choice

__all__ = [
    "abandon", "check_op", "choose_families", "for_dask", "open_answer", "send_recv",
]  # fmt: skip

#: Heads of an answer. A tuple, for the head that a peer sends may be no bytes, and have no hash.
ANSWERS = (REPLY, ERROR, OWN)
#: What `Comm.write` raises where nothing was sent.
UNSENT: tuple[type[Exception], ...] = (TypeError, ValueError)


async def send_recv(
    comm: Comm,
    *,
    reply: bool = True,
    serializers: Iterable[str] | None = None,
    deserializers: Iterable[str] | None = None,
    **kwargs: Any,
) -> Any:
    """Send a request, ``op=`` and its arguments, and return the reply.

    ``close=True`` closes the comm behind it. Raises what the handler raised: the same exception
    between peers that trust each other, else a RemoteError. A message that cannot be sent or
    opened raises what `Comm.write` and `Comm.read` say, and the comm goes on. After any other
    failure, or when cancelled, the comm is aborted: a reply may be on its way that must not be
    taken for another's. A handler that takes the connection may write its answer itself; what
    else it writes is for `Comm.read`.
    """
    op, close = kwargs.pop("op", None), kwargs.pop("close", False)
    check_op(op)
    families = choose_families(serializers, deserializers)
    written = False
    answer: Enveloped = None, None, None
    try:
        if comm.enveloped:
            wants = ONE if reply else NOTHING
            head = encode_request(Request(str.__str__(op), wants, bool(close), families))
            rest = comm.send(kwargs, serializers, head)
        else:
            rest = comm.send(for_dask(op, kwargs, reply, close, families), serializers)
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
        raise TypeError(f"an op that is a {type(op).__name__}, expected a str")


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
        raise TypeError("serializers, or deserializers, that are no names: expected a list of str")
    return tuple(map(str.__str__, names))


def for_dask(
    op: str,
    arguments: Mapping[str, Any],
    reply: bool | None,
    close: bool,
    families: tuple[str, ...] | None,
) -> dict[str, Any]:
    """Return a request as Dask reads it; TypeError for an argument that would mean something."""
    wrong = sorted(RESERVED & arguments.keys())
    if wrong:
        raise TypeError(
            f"{op}({'=…, '.join(wrong)}=…): a peer that knows no envelopes, such as Dask's, takes "
            f"no argument of this name"
        )
    return as_dict(op, arguments, reply, close, families)


def abandon(comm: Comm, exc: BaseException, written: bool) -> None:
    """Abort the comm of a call that failed, unless no reply can be on its way."""
    if written or not isinstance(exc, UNSENT):
        comm.abort()


def open_answer(answer: Enveloped, comm: Comm) -> Any:
    """Return the value of an answer, or raise what it stands for.

    What has no envelope, but could have one, was written by hand, and is a value whatever it
    looks like. What is no answer at all is a RemoteProtocolError, and the comm is aborted.
    """
    head, message, error = answer
    if head is not None and head not in ANSWERS:
        comm.abort()
        raise wrong_answer(head, comm)
    if error is not None:
        raise error
    if head == ERROR or (head is None and not comm.enveloped and is_error(message)):
        raise unpack_error(message, comm)
    return message


def wrong_answer(head: bytes, comm: Comm) -> RemoteProtocolError:
    """Return the error for what is no answer to a call."""
    ends = f"{comm.local_address} -> {comm.peer_address}"
    return RemoteProtocolError(f"{kind_of(head)} where a reply was expected: {ends}")
