"""Whether this process was forked off since a connection was made.

A connection made before a fork belongs to the parent: in the child its socket and its
loop's selector are still the parent's own.
"""

import os
from functools import cache

__all__ = ["generation", "watch"]

#: The forks between the process that first called `watch` and this one.
generation = 0


def _forked() -> None:
    global generation  # noqa: PLW0603 - a process has exactly one such number
    generation += 1


@cache
def watch() -> None:
    """Start counting."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)
