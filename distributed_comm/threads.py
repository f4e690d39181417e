"""Work in a thread, for a task that may be cancelled meanwhile."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeVar

__all__ = ["cancel_again", "in_thread", "outlast"]

T = TypeVar("T")


def in_thread(work: Callable[..., T], *arguments: Any) -> "asyncio.Future[T]":
    """Begin work in a thread, in this context; nobody need wait for it."""
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, copy_context().run, work, *arguments)
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


async def outlast(work: "asyncio.Future[Any]") -> bool:
    """Wait until work in a thread is over, whatever happens; return whether we were cancelled."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


def cancel_again() -> None:
    """Have this task cancelled at its next await, by the same request as before."""
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
    task.cancel()
