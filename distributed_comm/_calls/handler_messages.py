"""The messages that a handler with the connection writes to it: answers to its call, or not."""

import sys
from contextvars import ContextVar
from typing import Self

from .._envelope import EXTRA, ITEMS, NOTHING, ONE, OWN
from ..core import Comm
from .operations import Call

__all__ = ["Heads", "OwnMessages"]


class OwnMessages:
    """The heads of the messages that the handlers of one connection write themselves.

    The first message answers the call, if its caller waits for one reply; every message does,
    if it waits for items. All others answer nothing, so that none is taken for the reply of
    another call.
    """

    __slots__ = ("_comm", "_connection", "_heads", "left_open", "marked")

    def __init__(self, comm: Comm) -> None:
        self._comm = comm
        self._connection = object()  # for contexts, which would keep the comm alive
        self._heads: Heads | None = None  # of the call under way, or of the last one
        self.marked = False  # a handler has had the comm, and may write to it at any time
        self.left_open = False  # the last one has returned without an answer

    @property
    def awaited(self) -> bool:
        """Whether a caller still waits for what its handler, which has returned, left open."""
        return self.left_open and (self._heads is None or self._heads.awaited)

    def begin(self, call: Call) -> None:
        """Choose the heads of all messages that are written from now on."""
        self.left_open = False
        if not self._comm.enveloped:
            return
        if call.operation.takes_comm:
            self.marked = True
            heads = Heads(self._connection, call.wants, by_hand=call.head is None)
        else:
            heads = Heads(None, NOTHING)
        self._heads = self._comm.own_heads = heads
        _heads.set(heads)

    def enter(self, call: Call, *, streams: bool) -> "Heads":
        """Return the heads of a call whose handler goes on in this task; it runs until `leave`."""
        heads = self._heads
        if heads is None or not call.operation.takes_comm:
            heads = Heads(None, NOTHING)
            _heads.set(heads)
        heads.runs = True
        heads.streams = streams
        return heads

    def head_for(self, call: Call, head: bytes) -> bytes:
        """Return the head of a handler's result or error: EXTRA if it has answered already."""
        if self._heads is None or call.wants != ONE or not call.operation.takes_comm:
            return head
        return self._heads.settle(head)

    def cut(self) -> None:
        """Take note that the server is about to cancel the handler."""
        if self._heads is not None:
            self._heads.cut = True

    def give_up(self) -> None:
        """Take note that the handler is waited for no more."""
        if self._heads is not None:
            self._heads.leave()


class Heads:
    """The heads of one call: ``next`` returns that of the message that is being written.

    It is empty for what answers a request without an envelope, while its handler runs.
    """

    __slots__ = ("_by_hand", "_connection", "_wants", "closes", "cut", "runs", "streams")

    def __init__(self, connection: object, wants: int, *, by_hand: bool = False) -> None:
        self._connection = connection  # None for a call whose handler does not get it
        self._wants = wants
        self._by_hand = by_hand
        self.runs = False  # its handler waits for something …
        self.streams = False  # … and is an async generator
        self.cut = False  # the server has cancelled it
        self.closes = False  # it has closed the comm, which `holds` has put off

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        writer = _heads.get()
        if writer is not None and writer is not self and self._is_foreign(writer):
            return EXTRA
        head = OWN
        if self._by_hand:  # later a caller may wait for something else, and would take it for that
            head = b"" if self.runs else EXTRA
        return self.settle(head) if self._wants in (NOTHING, ONE) else head

    @property
    def awaited(self) -> bool:
        """Whether the caller waits for a message that has not been written."""
        return self._wants != NOTHING

    def holds(self) -> bool:
        """Whether the comm must not be closed before the handler has ended; note that it was asked.

        A goodbye says that a stream is complete. A handler that closes the comm while an exception
        goes up, or after the server has cancelled it, may have sent only a part. How it ends is
        told first, and then the comm is closed.
        """
        if not self.runs or self._by_hand or self._wants != ITEMS:
            return False
        held = self.cut or (_heads.get() is self and sys.exception() is not None)
        self.closes = self.closes or held
        return held

    def _is_foreign(self, writer: "Heads") -> bool:
        """Whether a message that another call's handler, or its task, writes is no answer to this.

        A task of an earlier call on the same connection writes for that call. The handler of
        another connection may answer, or publish, but not in the place of a handler that has
        yet to return, or yields the items itself.
        """
        if writer._connection is self._connection:
            return True
        return writer.runs and self.runs and (self._wants == ONE or self.streams)

    def settle(self, head: bytes) -> bytes:
        """Return this head for the answer, EXTRA if there has been one or none is wanted."""
        if self._wants != ONE:
            return EXTRA
        self._wants = NOTHING
        return head

    def leave(self) -> None:
        """Take note that the handler has returned; anybody may answer now, if it has not."""
        self.runs = False


#: Those of the call whose handler runs in this context, or has begun the task that does.
_heads: ContextVar[Heads | None] = ContextVar("distributed_comm_heads", default=None)
