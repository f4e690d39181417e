"""Run a coroutine on the fastest loop there is, for the time it takes."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

try:
    import uvloop
except ImportError:  # Windows
    uvloop = None  # type: ignore[assignment]

__all__ = ["run"]

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run a coroutine as `asyncio.run` does, on uvloop where it is installed.

    >>> run(asyncio.sleep(0, result="done"))
    'done'
    """
    factory: Callable[[], asyncio.AbstractEventLoop] | None
    factory = None if uvloop is None else uvloop.new_event_loop
    with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
        return runner.run(main)
