"""What one stranger may leave unread of what is sent to it, out of the budget of all strangers.

It is counted before it is queued, and given back as the socket takes it. The first few
kilobytes are not counted, so that a short answer reaches everybody even if others have used up
the budget.
"""

from .._wire.budget import ALLOWANCE, Budget

__all__ = ["SIP", "UNCOUNTED", "Ration"]

#: Bytes that the transport is given, copied, at a time; for a trusted peer it gets more.
SIP = 512
#: Unsent bytes of each connection that are not counted, beside that copy and one message that is
#: no longer than this.
UNCOUNTED = (ALLOWANCE - SIP) // 2

#: A writer waits once its unsent bytes exceed one part in so many of what is left, so that a
#: thousand peers that do not read still leave room for others. By default the first of them
#: have 1 MiB each, as trusted ones do.
SHARE = 256
#: Bytes that are held in advance where much is left, so that not each small message is counted.
ADVANCE = 16 * 1024


class Ration:
    """How much of the budget the unsent bytes of one connection hold."""

    __slots__ = ("_budget", "_seen", "_still", "held", "promised", "stalled")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._seen: object = None  # how far the peer was at the last beat …
        self._still = 0  # … and for how many it has been there
        self.stalled = False  # the peer has taken nothing for too long
        self.held = 0
        self.promised = 0  # bytes of messages that are being encoded

    def take(self, nbytes: int) -> None:
        """Hold so many bytes in all, unless they are few; ValueError if that is too much."""
        if nbytes > self.held + UNCOUNTED:
            held = nbytes + min(ADVANCE, self._budget.left // SHARE)
            self._budget.change(held - self.held)
            self.held = held

    def settle(self, nbytes: int) -> None:
        """Give back what is more than so many bytes in all."""
        if nbytes < self.held:
            self._budget.change(nbytes - self.held)
            self.held = nbytes

    def water(self, high: int) -> int:
        """Return the unsent bytes above which a writer waits: fewer if little is left."""
        return min(high, max(UNCOUNTED // 2, self._budget.left // SHARE))

    def beats_at(self, place: object) -> int:
        """Note at a beat how far the peer is; return for how many beats it has been there."""
        self._still = self._still + 1 if place == self._seen else 0
        self._seen = place
        return self._still
