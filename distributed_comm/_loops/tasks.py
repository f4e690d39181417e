"""Tasks of the library: none begins before its caller goes on, whatever the loop's task factory.

An eager factory (`asyncio.eager_task_factory`) runs a task inside of `create_task`, until it waits
or even ends. All that its caller stores afterwards, even the task itself, would come too late.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["start"]

T = TypeVar("T")


def start(
    work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop | None = None
) -> "asyncio.Task[T]":
    """Return the task that does this work, from the next turn of the (running) loop on."""
    loop = loop or asyncio.get_running_loop()
    if loop.get_task_factory() is None:  # nearly always
        return loop.create_task(work)
    returned = asyncio.Event()
    task = loop.create_task(_work_once(returned, work))
    task.add_done_callback(lambda _: work.close())  # never begun, if cancelled before its wrapper
    returned.set()
    return task


async def _work_once(returned: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    try:
        if not returned.is_set():
            await asyncio.sleep(0)
    except BaseException:
        work.close()  # cancelled before its first step, as any task may be
        raise
    return await work
