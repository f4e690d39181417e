"""Strangers at a listener: how many there may be, and which one goes if there are too many.

Strategy: three queues, each in the order of time. Those *arriving* are in their handshake, and
nobody knows yet who they are; they keep the place that they came to, whatever they send. Those
*settled* are known not to be trusted; a message, or a part of one, moves them to the end. Those
*parting* were refused and may go at any time. So the one that has been idle longest is in front.

Whether it really is idle is asked when somebody has to go, and not before: one that is busy then
moves to the end. A handshake has GRACE, so that a trusted peer has the time to prove itself, and
nobody goes whose bytes lie in the system: our loop may have been blocked.

A quarter of the places is kept for those arriving. A crowd of strangers that are all busy can fill
only the others, so a newcomer still gets in until it is known whether to trust it.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Protocol
from weakref import ref

from .._kernels import turns as kernel
from .._logs import Log
from .._loops import descriptors
from .._loops.deadlines import Deadline
from .._wire.framing import Framing
from ..options import CommOptions

__all__ = ["FULL", "GRACE", "SCARCE", "Crowd", "Guest", "Place", "are_too_many", "relieve"]

#: Seconds that a handshake has before it may be ended for another.
GRACE = 0.1
#: Strangers that are looked at to find an idle one; those that are busy go to the end.
LOOKS = 32
#: One place in so many is kept for handshakes.
ARRIVING = 4

#: Why a stranger is closed for another.
FULL = "there are too many strangers (Limits.untrusted_connections)"
SCARCE = "file descriptors are short"


class Guest(Protocol):
    """A connection, as a crowd sees it."""

    peer_address: str
    place: "Place | None"

    def is_idle(self) -> bool:
        """Return whether nothing is under way, as far as the connection knows."""

    def has_news(self) -> bool:
        """Return whether bytes have arrived that were not read."""

    def receive_through(self, place: "Place") -> None:
        """Receive through ``place.receive`` from now on."""

    def evict(self, why: str) -> None:
        """Close at once."""

    @property
    def surplus(self) -> int:
        """How many more messages were sent than received."""


class Place(kernel.Presence):
    """Where a connection stands in a crowd. It does not refer to the connection."""

    __slots__ = ("in_use", "spared", "surplus")

    framing: Framing  # of one that is settled
    queue: "Queue | None"

    def __init__(self) -> None:
        super().__init__()
        self.surplus = 0
        self.spared = False  # it was in front once, and bytes of it were unread
        #: What a server knows of the connection; see `Comm.ask_before_evicting`.
        self.in_use: Callable[[], bool] | None = None


Queue = OrderedDict[Place, Guest]


class Crowd:
    """The strangers of one listener."""

    def __init__(self, options: CommOptions, log: Log) -> None:
        self._log = log
        limits = options.limits
        most = limits.untrusted_connections
        self._most = max(2, limits.connections // 2 if most is None else most)
        self._idle = options.timeouts.idle
        self._arriving: Queue = OrderedDict()
        self._settled: Queue = OrderedDict()
        self._parting: Queue = OrderedDict()
        self._deadline: Deadline | None = None  # when to look for those idle for too long
        #: The loop of the connections, once there is one.
        self.loop: asyncio.AbstractEventLoop | None = None
        #: About how many descriptors were open when the listener was bound.
        self.base = 0

    def begin(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        """Share the descriptors with the other crowds; ``number`` is that of our socket."""
        self.loop, self.base = loop, number
        if self not in _all():  # as behind a fork
            for known in _crowds.copy():
                if known() is None:
                    with suppress(ValueError):  # another thread was quicker
                        _crowds.remove(known)
            _crowds.append(ref(self))

    def forked(self) -> None:
        """Forget all: they are the parent's."""
        for queue in (self._arriving, self._settled, self._parting):
            queue.clear()
        self._deadline = None

    # -- who comes and goes --------------------------------------------------------

    def __len__(self) -> int:
        return len(self._arriving) + len(self._settled) + len(self._parting)

    def join(self, guest: Guest) -> None:
        """Add a connection whose handshake begins."""
        guest.place = Place()
        self._move(guest, self._arriving)

    def settle(self, guest: Guest) -> bool:
        """Let one stay whose handshake is done; False if there is no place."""
        if not self._has_place():
            return False
        place = self._move(guest, self._settled)
        place.surplus = guest.surplus
        place.stir()
        guest.receive_through(place)
        if self._deadline is None and self._idle < inf and self.loop is not None:
            self._deadline = Deadline(self.loop, self._idle, self._expire)
        return True

    def _has_place(self) -> bool:
        """Return whether one more may settle; somebody may have to go for that."""
        if len(self._settled) >= _but_for_handshakes(self._most):
            return self.evict_settled()
        if sum(crowd.settled for crowd in _all()) >= _but_for_handshakes(_share()):
            return _evict_any(self.loop, Crowd.evict_settled)
        return True

    def part(self, guest: Guest) -> None:
        """Move one that was refused to those that go first."""
        if guest.place is not None:
            self._move(guest, self._parting)

    def leave(self, guest: Guest) -> None:
        """Forget one that is gone, or trusted; it may have left already."""
        place, guest.place = guest.place, None
        if place is not None and place.queue is not None:
            place.queue.pop(place, None)
            place.queue = None
        if not self._settled and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _move(self, guest: Guest, queue: Queue) -> Place:
        place = guest.place
        assert place is not None
        if place.queue is not None:
            del place.queue[place]
        place.queue = queue
        queue[place] = guest
        return place

    # -- who has to go -------------------------------------------------------------

    @property
    def settled(self) -> int:
        """How many have done their handshake, and may stay."""
        return len(self._settled)

    @property
    def since(self) -> float:
        """When the one that would be closed next became idle; inf if there is none."""
        fronts = map(_front, (self._arriving, self._settled))
        since = min((place.since for place in fronts if place is not None), default=inf)
        return -inf if self._parting else since

    def patience(self) -> float:
        """Return in how many seconds it is worth asking again for one to evict."""
        place = _front(self._arriving)
        since = monotonic() if place is None else place.since
        return min(max(since + GRACE - monotonic(), GRACE / 10), GRACE)

    def is_full(self) -> bool:
        """Return whether one more would be too many for this listener."""
        return len(self) >= self._most

    def evict(self, why: str) -> bool:
        """Close one that was refused, else the one that has been idle longest; False if none is."""
        now = monotonic()
        place, queue = _front(self._parting), self._parting
        if place is None:
            place, queue = self._oldest_arriving(now), self._arriving
            other = self._longest_idle(now)
            if other is not None and (place is None or other.since < place.since):
                place, queue = other, self._settled
        return place is not None and self._dismiss(queue[place], why)

    def evict_arriving(self, why: str) -> bool:
        """Close the one whose handshake has lasted longest."""
        place = self._oldest_arriving(monotonic())
        return place is not None and self._dismiss(self._arriving[place], why)

    def evict_settled(self) -> bool:
        """Close the one that has been idle longest of those that may stay."""
        place = self._longest_idle(monotonic())
        return place is not None and self._dismiss(self._settled[place], FULL)

    def _oldest_arriving(self, now: float) -> Place | None:
        """Return the one whose handshake takes longest; one with unread bytes is spared once."""
        for _ in range(LOOKS):
            place = _front(self._arriving)
            if place is None or now - place.since < GRACE:
                return None
            if place.spared or not self._arriving[place].has_news():
                return place
            place.spared = True
            place.stir()
        return None

    def _longest_idle(self, now: float, least: float = 0.0) -> Place | None:
        """Return the one that has been idle longest, and for so many seconds at least."""
        for _ in range(LOOKS):
            place = _front(self._settled)
            if place is None or now - place.since < least:
                return None
            guest = self._settled[place]
            before, place.surplus = place.surplus, guest.surplus
            if place.surplus <= before and guest.is_idle() and not _is_in_use(place):
                return place
            place.stir()
        return None

    def _dismiss(self, guest: Guest, why: str) -> bool:
        about = "closed the connection of a stranger, %s: %s"
        self._log.line(logging.INFO, about, guest.peer_address, why)
        self.leave(guest)
        guest.evict(why)
        return True

    def _expire(self) -> None:
        """Close those that are idle for too long."""
        self._deadline = None
        why = f"nothing came for {self._idle:g} s (Timeouts.idle)"
        for _ in range(LOOKS):
            place = self._longest_idle(monotonic(), self._idle)
            if place is None:
                break
            self._dismiss(self._settled[place], why)
        front = _front(self._settled)
        if front is not None and self.loop is not None:
            left = front.since + self._idle - monotonic()
            self._deadline = Deadline(self.loop, max(left, 0), self._expire)


def _front(queue: Queue) -> Place | None:
    return next(iter(queue), None)


def _is_in_use(place: Place) -> bool:
    return place.in_use is not None and place.in_use()


# -- what the crowds of a process share --------------------------------------------

#: Without a lock, which another thread might hold while this one forks. No callback of a reference
#: removes it: that may run in the middle of ``tuple(_crowds)`` in Python 3.11, which then copies
#: memory that was freed.
_crowds: list[ref[Crowd]] = []


def _all() -> list[Crowd]:
    return [crowd for known in _crowds.copy() for crowd in [known()] if crowd is not None]


def _but_for_handshakes(places: float) -> float:
    return places - max(1, places // ARRIVING) if places < inf else inf


def _share() -> float:
    """Return how many strangers the process may have: half of the descriptors there are for us."""
    most = descriptors.ceiling()
    base = min((crowd.base for crowd in _all()), default=0)
    return max(2, (most - base) // 2) if most < inf else inf


def are_too_many() -> bool:
    """Return whether one more stranger would be too many for the descriptors of this process."""
    return sum(map(len, _all())) >= _share()


def relieve(loop: asyncio.AbstractEventLoop, why: str = SCARCE) -> bool:
    """Close the stranger of this process that has been idle longest; False if none was found.

    Those of other loops are only asked to go, which takes a moment.
    """
    return _evict_any(loop, lambda crowd: crowd.evict(why))


def _evict_any(loop: asyncio.AbstractEventLoop | None, evict: Callable[[Crowd], bool]) -> bool:
    """Have the crowd evict whose stranger has been idle longest, or the next; of our loop first."""
    crowds = _all()
    ours = [crowd for crowd in crowds if crowd.loop is loop]
    if any(evict(crowd) for crowd in sorted(ours, key=lambda crowd: crowd.since)):
        return True
    _ask([crowd for crowd in crowds if crowd.loop is not loop and len(crowd)], evict)
    return False


def _ask(crowds: list[Crowd], evict: Callable[[Crowd], bool]) -> None:
    """Have the first of these crowds evict, each in its loop, and the next one if it cannot."""

    def evict_here(crowd: Crowd, others: list[Crowd]) -> None:
        if not evict(crowd):
            _ask(others, evict)

    for number, crowd in enumerate(crowds, 1):
        if crowd.loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                crowd.loop.call_soon_threadsafe(evict_here, crowd, crowds[number:])
                return
