"""Who has which comm: a bounded pool as a plan, which opens and awaits nothing itself.

What changes the pool is a plain function, so no lock is needed: it says what may be opened and
hands over what is to be closed, and `pool.ConnectionPool` does that and the waiting. While
anybody waits, no comm is idle; so a comm that comes back always serves somebody.
"""

from collections import deque
from collections.abc import Callable

from ..core import Comm
from .waiters import Waiters

__all__ = ["Plan"]


class Plan:
    """At most ``limit`` comms that are idle, in use or being opened, all of one event loop.

    ``discard`` gets each comm that is to be closed; ``here`` says whether that loop runs here.
    """

    __slots__ = (
        "_lines", "_order", "by_address", "count", "discard", "here", "idle", "limit", "members",
        "waiters",
    )  # fmt: skip

    def __init__(
        self, limit: int, discard: Callable[[Comm], None], here: Callable[[], bool]
    ) -> None:
        self.limit = limit
        self.discard = discard
        self.here = here
        self.count = 0  # the members, and those that are being opened
        self.members: dict[Comm, str] = {}  # idle or in use, with their addresses
        self.by_address: dict[str, set[Comm]] = {}  # the same
        #: An address whose comms are all in use may have an empty list: to delete and make that for
        #: each call would cost more. A plain dict, for which the interpreter is faster.
        self.idle: dict[str, list[Comm]] = {}
        #: The keys of ``idle`` in the order of time, and some that it had before.
        self._order: deque[str] = deque()
        self.waiters = Waiters()
        self._lines = self.waiters.lines  # what is asked for each call

    def take(self, address: str) -> Comm | None:
        """Return an idle comm that is sound, None if there is none, or another loop runs."""
        idle = self.idle.get(address)
        while idle:
            comm = idle.pop()
            if comm.is_fresh():
                return comm
            if not self.here():
                idle.append(comm)
                return None
            if comm.is_sound():
                return comm
            self._give_up(comm)
            self.count -= 1
        return None

    def may_open(self) -> bool:
        """Whether there is room for one more, which is counted then."""
        if self.count < self.limit:
            self.count += 1
            return True
        order = self._order
        while order:
            idle = self.idle.get(order[0])
            if idle:
                self._give_up(idle.pop(0))
                return True
            self.idle.pop(order.popleft(), None)
        return False

    def opened(self, address: str, comm: Comm) -> None:
        """Take note of a comm for which `may_open` was asked."""
        self.members[comm] = address
        self.by_address.setdefault(address, set()).add(comm)

    def vacate(self, comm: Comm) -> None:
        """Give up a comm that was closed when its new user looked; the room stays theirs."""
        self._give_up(comm)

    def make_room(self) -> None:
        """Take note that there is one less: its room goes to who waits longest."""
        waiter = self.waiters.take_oldest()
        if waiter is None:
            self.count -= 1
        else:
            waiter.answer(None)

    def put_back(self, address: str, comm: Comm) -> None:
        """Take back a comm that was in use, to give it to somebody else."""
        if comm not in self.members:
            self.discard(comm)
        elif comm.closed() or comm.unread():
            self._give_up(comm)
            self.make_room()
        elif self._lines:
            self._hand_on(address, comm)
        else:
            self._keep(address, comm)

    def put_back_sound(self, address: str, comm: Comm) -> None:
        """Take back one that has just carried a reply; its state is checked at the next `take`."""
        if comm not in self.members or self._lines:
            self.put_back(address, comm)
            return
        idle = self.idle.get(address)  # `_keep`, without the call
        if idle is None:
            self._keep(address, comm)
        else:
            idle.append(comm)

    def _keep(self, address: str, comm: Comm) -> None:
        idle = self.idle.get(address)
        if idle is not None:
            idle.append(comm)
            return
        self.idle[address] = [comm]
        self._order.append(address)
        if len(self._order) > 2 * len(self.idle) + 16:
            self._order = deque(self.idle)

    def _hand_on(self, address: str, comm: Comm) -> None:
        """Give a comm to who waits for its address, or its room to who waits longest."""
        waiter = self.waiters.take_for(address)
        if waiter is None:
            self._keep(address, comm)
        elif waiter.address == address:
            waiter.answer(comm)
        else:
            self._give_up(comm)
            waiter.answer(None)

    def collect(self, address: str | None = None) -> None:
        """Give up the idle comms, of one address or of all."""
        for key in [address] if address is not None else list(self.idle):
            for comm in self.idle.pop(key, ()):
                self._give_up(comm)
                self.count -= 1

    def disown(self, address: str | None = None) -> list[Comm]:
        """Forget the comms of one address or of all, once none is idle, and return them."""
        comms = list(self.members if address is None else self.by_address.get(address, ()))
        for comm in comms:
            self._forget(comm)
            self.make_room()
        return comms

    def _give_up(self, comm: Comm) -> None:
        self._forget(comm)
        self.discard(comm)

    def _forget(self, comm: Comm) -> None:
        address = self.members.pop(comm)
        comms = self.by_address[address]
        comms.discard(comm)
        if not comms:
            del self.by_address[address]
        if not self.idle.get(address, True):
            del self.idle[address]
