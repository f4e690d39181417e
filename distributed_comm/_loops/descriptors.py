"""How many file descriptors there are, and how many of them the program keeps for itself.

The system gives out the lowest number that is free, and its limit is one on these numbers. So the
number that the next socket would get says how many are in use, whoever opened them: nothing has to
be counted, neither across listeners, threads and diallers nor behind a fork. The library never
changes the limit.
"""

import logging
import os
from math import inf
from time import monotonic

from . import forks

try:
    import resource
except ImportError:  # Windows, where sockets are no descriptors
    resource = None  # type: ignore[assignment]

__all__ = ["ceiling", "is_next_reserved", "warn"]

logger = logging.getLogger("distributed_comm")

#: The least that is left to the program itself …
RESERVE = 32
#: … and which part of the limit, if that is more; never more than half.
PART = 8
#: Seconds between two warnings.
SILENCE = 60.0

_warned = -inf  # when the last warning was


def ceiling() -> float:
    """Return the first number of the reserve, asked anew because a program may change it."""
    if resource is None:
        return inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return inf
    return int(soft - min(max(RESERVE, soft // PART), soft // 2))


def is_next_reserved(number: int, most: float) -> bool:
    """Return whether the next descriptor would be one of the reserve, from ``most`` on.

    ``number`` is any open one.
    """
    if most == inf:
        return False
    with forks.making:
        try:
            free = os.dup(number)
        except OSError:  # there is none at all
            return True
        os.close(free)
    return free >= most


def warn(listener: object) -> None:
    """Say, once in a while, that descriptors are short, and what raises their number."""
    global _warned  # noqa: PLW0603 - of the process, as the descriptors are
    now = monotonic()
    if resource is None or now - _warned < SILENCE:
        return
    _warned = now
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    logger.warning(
        "%r is short of file descriptors: this process may have %d, of which %d are kept for the "
        "program itself. Strangers that are idle are disconnected, and accepting waits if there "
        "are none. To have more, call resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)) before "
        "listening, or ulimit -n in the shell; n can be up to %s",
        listener, soft, soft - ceiling(), "any number" if hard == resource.RLIM_INFINITY else hard,
    )  # fmt: skip
