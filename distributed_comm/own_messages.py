"""What a handler that takes the connection writes to it: an answer to its call, or not."""

from collections.abc import Iterator
from itertools import chain, repeat

from .core import Comm
from .envelope import EXTRA, ITEMS, NOTHING, ONE, OWN
from .operations import Call

__all__ = ["OwnMessages"]


class OwnMessages:
    """The heads of what the handlers of one connection write themselves.

    The first message is the answer, where the caller waits for one, and each is where it waits
    for items; whatever else a handler writes, also after its call, answers nothing. So no message
    is taken for the reply of another call. A request without an envelope gets messages without.
    """

    __slots__ = ("_answer", "_comm", "marked")

    def __init__(self, comm: Comm) -> None:
        self._comm = comm
        self._answer: Iterator[bytes] = iter(())  # the head of the answer, until it was written
        self.marked = False  # what is written gets a head

    def begin(self, call: Call) -> None:
        """Set the heads for what is written from now on."""
        if call.head is None and not self.marked:
            return
        self.marked = call.head is not None
        wants = call.wants if call.operation.takes_comm else NOTHING
        self._answer = iter((OWN,) if wants == ONE else ())
        if not self.marked:
            self._comm.own_heads = None
        elif wants == ITEMS:
            self._comm.own_heads = repeat(OWN)
        else:
            self._comm.own_heads = chain(self._answer, repeat(EXTRA))

    def head_for(self, call: Call, head: bytes) -> bytes:
        """Return the head of what a handler returns or raises: EXTRA where it has answered."""
        if not self.marked or call.wants != ONE or not call.operation.takes_comm:
            return head
        return EXTRA if next(self._answer, None) is None else head
