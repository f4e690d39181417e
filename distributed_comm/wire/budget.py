"""The memory that strangers may have us hold, all of them together.

A limit for each connection bounds nothing, where a peer may open as many as it likes. So the
untrusted connections of a listener share one budget: what of their messages has come and is
not complete, the room that was made for the rest, and whole messages that nobody reads.
"""

__all__ = ["ALLOWANCE", "EAGER", "OVERHEAD", "Budget"]

#: How much memory the announcement of a stranger obtains: little, and the rest as it comes.
EAGER = 64 * 1024
#: What a message, and each frame of it, takes beside its bytes: objects, and a place in a list.
OVERHEAD = 64
#: What waits unread of one connection is not counted up to this, so that a crowd which has used
#: up the budget does not get everybody cut who sends a short message to a slow reader.
ALLOWANCE = 4 * 1024


class Budget:
    """Bytes that may be held, and how many are."""

    __slots__ = ("_limit", "used")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0

    def change(self, by: int) -> None:
        """Hold so many bytes more, or less; ValueError where that is too much."""
        if by > 0 and self.used + by > self._limit:
            raise ValueError(
                f"{by} bytes more exceed the {self._limit} that all untrusted peers together "
                f"may have held here (Limits.untrusted_memory)"
            )
        self.used += by
