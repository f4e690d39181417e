"""One call over one comm: the request, and what its answer stands for.

Between our peers both are in envelopes (see `envelope`). To a Dask peer a request is a dict:
its ``op`` names the function, ``reply``, ``close`` and ``serializers`` say how it is to be
answered, every other key is an argument; a reply is what the function returned, or an error's
dict (see `calls`). The names are Dask's, whose servers and callers understand all of it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .calls import is_error, unpack_error
from .core import Comm
from .envelope import (
    ERROR,
    NOTHING,
    ONE,
    REPLY,
    RESERVED,
    Request,
    as_dict,
    encode_request,
    kind_of,
)
from .errors import MessageError, RemoteProtocolError, UnserializableError, UntrustedError
from .serialize.settings import check_choice

__all__ = [
    "Answer", "abandon", "choose_families", "for_dask", "open_answer", "send_recv", "wrong_answer",
]  # fmt: skip

#: What `Comm.write` raises where nothing was sent, and `Comm.read` where a message was taken:
#: a comm that raised one of these carries no reply that nobody waits for.
UNSENT: tuple[type[Exception], ...] = (TypeError, ValueError)
TAKEN: tuple[type[Exception], ...] = (MessageError, UnserializableError, UntrustedError)

#: The head of an answer, None for one without an envelope, and the message.
Answer = tuple[bytes | None, Any]


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
    taken for another's.
    """
    op, close = kwargs.pop("op", None), kwargs.pop("close", False)
    families = choose_families(serializers, deserializers)
    written = False
    answer: Answer = None, None
    try:
        if comm.enveloped:
            head = encode_request(Request(op, ONE if reply else NOTHING, bool(close), families))
            rest = comm.send(kwargs, serializers, head)
        else:
            rest = comm.send(for_dask(op, kwargs, reply, close, families), serializers)
        if rest is not None:
            await rest
        written = True
        if reply:
            answer = await comm.read_enveloped(deserializers or serializers)
    except BaseException as exc:
        abandon(comm, exc, written)
        raise
    if close:
        await comm.close()
    return open_answer(answer, comm) if reply else None


def choose_families(
    serializers: Iterable[str] | None, deserializers: Iterable[str] | None
) -> tuple[str, ...] | None:
    """Return the families that a reply may use; TypeError for a str instead of their names."""
    check_choice(serializers, None, deserializers)
    families = deserializers or serializers
    return None if families is None else tuple(families)


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
    if not isinstance(exc, TAKEN if written else UNSENT):
        comm.abort()


def open_answer(answer: Answer, comm: Comm) -> Any:
    """Return the value of a reply, or raise what it stands for.

    What has no envelope, but could have one, was written by the handler itself, whatever it
    looks like. Nobody knows whether it has more to write, which would be taken for the reply of
    the next call: the comm is aborted, and so it is where the peer breaks the protocol.
    """
    head, message = answer
    if head == REPLY:
        return message
    if head == ERROR:
        raise unpack_error(message, comm)
    if head is None and not comm.enveloped:
        if is_error(message):
            raise unpack_error(message, comm)
        return message
    comm.abort()
    if head is None:
        return message
    raise wrong_answer(head, comm)


def wrong_answer(head: bytes, comm: Comm) -> RemoteProtocolError:
    """Return the error for what is no answer to a call."""
    ends = f"{comm.local_address} -> {comm.peer_address}"
    return RemoteProtocolError(f"{kind_of(head)} where a reply was expected: {ends}")
