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


def run(
    main: Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]],
    *,
    debug: bool | None = None,
) -> T:
    """Run a coroutine, or a coroutine function, on uvloop where it is installed.

    As `asyncio.run` it ends with every task cancelled and the loop closed.

    >>> run(asyncio.sleep(0, result="done"))
    'done'
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("run() cannot be called from a running event loop")
    factory: Callable[[], asyncio.AbstractEventLoop] | None
    factory = None if uvloop is None else uvloop.new_event_loop
    with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
        return runner.run(main() if callable(main) else main)
