"""What a parser takes for its input: CPU time and memory, compared with bounds set by the bytes.

Each input is tried twice: once by the clock, and once with every allocation traced, because
tracing takes longer than most parsers. What exceeds a bound is tried again, so that neither a
collection of garbage nor a busy machine stops anything.

Memory is what Python and numpy allocate, and what Arrow does. OpenSSL's and the codecs' own is
not seen; single allocations of theirs are bounded by LIMITS of `make fuzz`.
"""

import gc
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import process_time
from typing import Any, NamedTuple, TypeVar

from distributed_comm import _kernels

__all__ = ["SANITIZED", "Cost", "bound", "set_slowness", "spend"]

T = TypeVar("T")

MIB = 1024 * 1024
#: Bytes at once, for each byte of input and besides.
GROWTH, AMPLE = 100, MIB
#: Seconds of CPU, besides and for each MiB of input.
BRIEF, PER_MIB = 0.050, 0.2
#: How many times as long our code may take where coverage of Python is traced and the kernels run
#: under sanitizers: rather too many than too few.
SANITIZED = 20.0
#: How often what exceeds a bound is tried; what takes so many times the bound is tried once.
TRIES, BEYOND_DOUBT = 3, 10

#: Nothing is promised of the pure kernels, and to trace their memory would take most of the time.
_slowness = [1.0 if _kernels.kind == "compiled" else inf]


class Cost(NamedTuple):
    """What a call takes at most, or took."""

    seconds: float
    nbytes: int

    def __str__(self) -> str:
        return f"{self.seconds * 1e3:.1f} ms of CPU and {self.nbytes} bytes at once"


def set_slowness(factor: float) -> None:
    """Allow so many times as much CPU from now on; measure nothing if that is infinite."""
    _slowness[0] = factor


def bound(nbytes: int) -> Cost:
    """Return what an input of so many bytes may take."""
    seconds = BRIEF + PER_MIB * nbytes / MIB
    return Cost(seconds * _slowness[0], GROWTH * nbytes + AMPLE)


def spend(nbytes: int, attempt: Callable[[], T]) -> T:
    """Return or raise what an attempt does; AssertionError if it takes more than so many bytes may.

    It is called several times, so it begins with the same each time.
    """
    most = bound(nbytes)
    if most.seconds == inf:
        return attempt()
    outcomes: list[Any] = []
    seconds = _exceeding(lambda: _seconds(attempt, outcomes), most.seconds, pick=1)
    peak = _exceeding(lambda: _peak(attempt), most.nbytes, pick=0)
    if seconds > most.seconds or peak > most.nbytes:
        cost = Cost(seconds, int(peak))
        raise AssertionError(f"{cost} for {nbytes} bytes of input, expected at most {most}")
    result, error = outcomes[-1]
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _exceeding(measure: Callable[[], float], most: float, pick: int) -> float:
    """Measure once, or several times where that exceeds the bound; pick one of the sorted."""
    found = [measure()]
    if most < found[0] < BEYOND_DOUBT * most:
        found += [measure() for _ in range(TRIES - 1)]
    return sorted(found)[min(pick, len(found) - 1)]


def _seconds(attempt: Callable[[], Any], outcomes: list[Any]) -> float:
    """Return the CPU time that it takes; append its result and what it raised."""
    result = error = None
    gc.freeze()  # what else there is in this process is not to be looked through meanwhile
    start = process_time()
    try:
        result = attempt()
    except Exception as exc:
        error = exc
    finally:
        seconds = process_time() - start
        gc.unfreeze()
    outcomes.append((result, error))
    return seconds


def _peak(attempt: Callable[[], Any]) -> int:
    """Return how many bytes are allocated at once meanwhile."""
    with_arrow = _with_arrow if "pyarrow" in sys.modules else _try
    tracemalloc.start()
    try:
        arrow = with_arrow(attempt)
        return tracemalloc.get_traced_memory()[1] + arrow
    finally:
        tracemalloc.stop()


def _try(attempt: Callable[[], Any]) -> int:
    """Call it, whatever it raises."""
    with suppress(Exception):
        attempt()
    return 0


#: Pools of Arrow's with memory in use, which must not be freed before it is.
_in_use: list[Any] = []


def _with_arrow(attempt: Callable[[], Any]) -> int:
    """Call it; return the most bytes that Arrow allocated at once, which nobody else sees."""
    import pyarrow as pa  # noqa: PLC0415 - only where it is loaded anyway

    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    try:
        _try(attempt)
    finally:
        pa.set_memory_pool(usual)
        if pool.bytes_allocated():
            _in_use.append(pool)
    return int(pool.max_memory())
