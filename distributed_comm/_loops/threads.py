"""The threads of this library: a few pools, bounded and named, none of them the event loop's.

Trusted peers and strangers each have a pool of their own, so that strangers who fill theirs keep
nobody else waiting. Looking up names has another, because a resolver may hang. A pool starts
threads when it first gets work, and a forked process starts its own.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from threading import Lock
from typing import Any, TypeVar

from ..errors import MessageError

__all__ = ["NAMES", "STRANGERS", "TRUSTED", "Job", "Pool", "begin", "cancel_again", "in_thread"]

T = TypeVar("T")


class Pool:
    """At most ``size`` threads, whose names begin with ``name``.

    If the system gives no thread, the work is done on the event loop, or, in a pool that
    ``refuses``, not at all.
    """

    def __init__(self, name: str, size: int, *, refuses: bool = False) -> None:
        self.refuses = refuses
        self._name = f"distributed_comm {name}"
        self._size = size
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Have a thread do it. RuntimeError if none more can be had; then it may yet be done."""
        if self._executor is None or self._process != os.getpid():  # a fork leaves threads behind
            self._process = os.getpid()
            self._executor = ThreadPoolExecutor(self._size, self._name)
        self._executor.submit(work)


TRUSTED = Pool("trusted", min(32, (os.cpu_count() or 1) + 4))
STRANGERS = Pool("strangers", 2, refuses=True)
NAMES = Pool("names", 8)


class Job:
    """Work that is done once, in a thread or on the loop, and the future of its result."""

    __slots__ = ("_claim", "_context", "_loop", "_work", "future")

    def __init__(self, work: Callable[[], Any]) -> None:
        self._claim = Lock()  # never released: its holder does the work
        self._context = copy_context()
        self._loop = asyncio.get_running_loop()
        self._work = work
        self.future: asyncio.Future[Any] = self._loop.create_future()

    def claim(self) -> bool:
        """Return whether nobody else has begun, or will."""
        return self._claim.acquire(blocking=False)

    def run(self) -> None:
        """Do the work in this thread."""
        if self.claim() and not self.future.cancelled() and not self._loop.is_closed():
            outcome = self._do()
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self.settle, *outcome)

    def run_here(self) -> None:
        """Do the work on the loop."""
        self.settle(*self._do())

    def _do(self) -> tuple[Any, BaseException | None]:
        work, self._work = self._work, _nothing  # which may refer to a long message
        try:
            return self._context.run(work), None
        except StopIteration as exc:  # which no future takes
            return None, RuntimeError(f"the work raised {exc!r}")
        except BaseException as exc:
            return None, exc

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Give the future the result, or the error; in the loop's thread."""
        self._work = _nothing
        if self.future.done():  # cancelled
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)
            self.future.exception()  # nobody need wait for it

    async def outlast(self) -> bool:
        """Wait until the work is over, whatever happens; return whether we were cancelled.

        Work that has not begun by then is given up: CancelledError.
        """
        cancelled = False
        while not self.future.done():
            try:
                await asyncio.wait([self.future])
            except asyncio.CancelledError:
                if self.claim():
                    self._work = _nothing
                    raise
                cancelled = True
        return cancelled


def _nothing() -> None:
    pass


def in_thread(pool: Pool, work: Callable[..., T], *arguments: Any) -> "asyncio.Future[T]":
    """Begin work in a thread, in this context; nobody need wait for it."""
    return begin(pool, work, *arguments).future


def begin(pool: Pool, work: Callable[..., Any], *arguments: Any) -> Job:
    """Begin work in a thread, in this context.

    Without a thread it is done here and now, unless the pool refuses that: then the future has a
    MessageError.
    """
    job = Job(partial(work, *arguments))
    try:
        pool.submit(job.run)
    except RuntimeError as exc:  # the system has no thread for us, or the interpreter ends
        if job.claim():  # a thread that there is may yet come to it
            if pool.refuses:
                why = f"no thread can be had for a message of an untrusted peer: {exc}"
                job.settle(None, MessageError(why))
            else:
                job.run_here()
    return job


def cancel_again() -> None:
    """Have this task cancelled at its next await, by the same request as before."""
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
    task.cancel()
