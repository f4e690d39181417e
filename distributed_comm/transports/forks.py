"""Connections that a fork leaves behind.

A connection made before a fork belongs to the parent: in the child its socket and its
loop's selector are still the parent's own, and using them would disturb it.
"""

import os
from functools import cache
from typing import Protocol
from weakref import WeakSet

__all__ = ["ELSEWHERE", "watch"]

#: The thread of a connection that belongs to another process; no thread has this identity.
ELSEWHERE = 0


class Forkable(Protocol):
    """What wants to know, in the child, that it is the parent's."""

    def forked(self) -> None:
        """Note it; nothing may be touched that both processes share."""


_watched: WeakSet[Forkable] = WeakSet()


def _after_in_child() -> None:
    for connection in _watched:
        connection.forked()


@cache
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_in_child)


def watch(connection: Forkable) -> None:
    """Tell the connection, in the child, when this process forks."""
    _register()
    _watched.add(connection)
