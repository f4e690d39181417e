"""Python's garbage collector, paused while many containers are made that all stay alive.

CPython up to 3.11 runs it once for every 700 new containers, and looks through the whole process
when many have survived: decoding 60,000 short lists of a stranger would take 50 ms instead of 5.
So it is paused until they are made, and runs once afterwards.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

__all__ = ["collecting_later"]

_lock = Lock()
_pauses = [0]  # that are under way, in all threads


@contextmanager
def collecting_later() -> Iterator[None]:
    """Collect no garbage meanwhile, unless the program collects none anyway."""
    with _lock:
        pausing = bool(_pauses[0]) or gc.isenabled()
        if pausing:
            _pauses[0] += 1
            gc.disable()
    try:
        yield
    finally:
        if pausing:
            with _lock:
                _pauses[0] -= 1
                if not _pauses[0]:
                    gc.enable()
