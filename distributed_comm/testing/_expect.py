"""To await and to expect, always within PATIENCE and with a text that says what."""

import asyncio
import reprlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ..core import Comm
from ..errors import CommClosedError

__all__ = [
    "cancel", "expect", "fails", "is_over", "settle", "soon", "stall", "start", "until", "within",
]  # fmt: skip

#: Seconds that anything awaited may take; closing alone may take 5.
PATIENCE = 10.0

T = TypeVar("T")


def start(work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    return asyncio.get_running_loop().create_task(work)


async def settle(turns: int = 10) -> None:
    """Let the loop turn a few times: what needs no news from outside has happened then."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)


async def stall(begun: list[int]) -> None:
    """Wait until no more writes are begun."""
    before = -1
    while before != (before := len(begun)):
        await settle(200)


async def cancel(task: "asyncio.Task[Any]") -> bool:
    """Cancel a task and return whether that ended it; otherwise it must have succeeded."""
    task.cancel()
    await within(asyncio.wait([task]), "what was cancelled to end")
    if not task.cancelled():
        await soon(task, "what was cancelled too late to have succeeded")
    return task.cancelled()


async def within(work: Awaitable[T], what: str) -> T:
    """Await within PATIENCE; what is raised meanwhile passes."""
    try:
        async with asyncio.timeout(PATIENCE) as limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise AssertionError(f"expected {what} within {PATIENCE:g} s") from None


async def soon(work: Awaitable[T], what: str) -> T:
    """Await within PATIENCE what must succeed."""
    try:
        return await within(work, what)
    except Exception as exc:
        if isinstance(exc, AssertionError):
            raise
        raise AssertionError(f"expected {what}, got {exc!r}") from exc


async def fails(work: Awaitable[Any], what: str, kind: type[Exception] = CommClosedError) -> None:
    """Await within PATIENCE what must raise."""
    try:
        result = await within(work, f"{what} to raise {kind.__name__}")
    except kind:
        return
    expect(False, f"{what} to raise {kind.__name__}", result)


async def is_over(comm: Comm, why: str) -> None:
    await fails(comm.read(), f"a read, once {why},")
    await fails(comm.write("too late"), f"write(), once {why},")


def expect(condition: bool, what: str, got: object) -> None:
    if not condition:
        raise AssertionError(f"expected {what}, got {reprlib.repr(got)}")
