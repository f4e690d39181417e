"""The memory that strangers may have us hold, all of them together.

A limit for each connection bounds nothing if a peer may open as many as it likes. So the
untrusted connections of a listener share one budget. It holds the received part of incomplete
messages, the memory allocated for their rest, whole messages that nobody has read, what messages
become while they are decoded, and replies that wait to be sent.
"""

from threading import RLock

__all__ = ["ALLOWANCE", "EAGER", "OVERHEAD", "Budget", "Hold"]

#: How much memory the announcement of a stranger obtains: little, and the rest as it comes.
EAGER = 64 * 1024
#: What a message, and each frame of it, takes beside its bytes: objects, and a place in a list.
OVERHEAD = 64
#: Up to so many unread bytes of each connection are not counted, so that nobody is cut for a short
#: message to a slow reader because a crowd has used up the budget.
ALLOWANCE = 8 * 1024


class Budget:
    """Bytes that may be held, and how many are; any thread may change it."""

    __slots__ = ("_limit", "_lock", "used")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = RLock()  # a destructor may come in between
        self.used: int = 0

    @property
    def left(self) -> int:
        """How many bytes more may be held."""
        return self._limit - self.used

    def change(self, by: int) -> None:
        """Hold so many bytes more, or less; ValueError if that is too much."""
        with self._lock:
            if by > 0 and self.used + by > self._limit:
                raise ValueError(
                    f"{by} bytes more exceed the {self._limit} that all untrusted peers together "
                    f"may have held here (Limits.untrusted_memory)"
                )
            self.used += by


class Hold:
    """What one message holds of a budget until somebody else has the message.

    A decoder uses it in place of the budget; nothing is given back before `release`.
    """

    __slots__ = ("_budget", "_held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    def change(self, by: int) -> None:
        """Hold so many bytes more; ValueError if that is too much. Less is for `release`."""
        if by > 0:
            self._budget.change(by)
            self._held += by

    def release(self) -> None:
        """Give back all of it."""
        held, self._held = self._held, 0
        self._budget.change(-held)

    def __del__(self) -> None:
        """Give back what was held for a message that nobody wanted any more."""
        self.release()
