"""What a handler that takes the connection writes to it: an answer to its call, or not."""

from contextvars import ContextVar
from typing import Self

from .core import Comm
from .envelope import EXTRA, ITEMS, NOTHING, ONE, OWN
from .operations import Call

__all__ = ["OwnMessages"]


class OwnMessages:
    """The heads of what the handlers of one connection write themselves.

    The first message is the answer, where the caller waits for one, and each is where it waits
    for items. Whatever else a handler writes answers nothing: so it is not taken for the reply of
    another call, also where a task that the handler has begun writes it later.
    """

    __slots__ = ("_comm", "_connection", "_heads", "marked")

    def __init__(self, comm: Comm) -> None:
        self._comm = comm
        self._connection = object()  # in contexts, which would keep the comm
        self._heads: _Heads | None = None  # those of the call under way, or the last one
        self.marked = False  # what is written gets a head

    def begin(self, call: Call) -> None:
        """Set the heads for what is written from now on."""
        if call.head is None and not self.marked:
            return
        self.marked = call.head is not None
        wants = call.wants if call.operation.takes_comm else NOTHING
        self._heads = _Heads(self._connection, wants)
        self._comm.own_heads = self._heads if self.marked else None
        _heads.set(self._heads)

    def head_for(self, call: Call, head: bytes) -> bytes:
        """Return the head of what a handler returns or raises: EXTRA where it has answered."""
        if not self.marked or call.wants != ONE or not call.operation.takes_comm:
            return head
        assert self._heads is not None
        return self._heads.settle(head)


class _Heads:
    """The heads of one call, of which ``next`` returns one for a message that is written now."""

    __slots__ = ("_connection", "_wants")

    def __init__(self, connection: object, wants: int) -> None:
        self._connection = connection
        self._wants = wants

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        writer = _heads.get()
        if writer is not None and writer is not self and writer._connection is self._connection:
            return EXTRA  # by a task that an earlier call on this connection has begun
        return OWN if self._wants == ITEMS else self.settle(OWN)

    def settle(self, head: bytes) -> bytes:
        """Return this head for the answer, EXTRA where there has been one or none is wanted."""
        if self._wants != ONE:
            return EXTRA
        self._wants = NOTHING
        return head


#: Those of the call in whose handler, or in a task of whose handler, code runs.
_heads: ContextVar[_Heads | None] = ContextVar("distributed_comm_heads", default=None)
