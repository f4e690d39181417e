"""What a listener does with a new comm: it calls handle_comm and watches what that started."""

import asyncio
import logging
from collections.abc import Awaitable

from .._loops.loop_state import state_of
from .._loops.tasks import start
from ..core import Comm, HandleComm
from ..errors import CommClosedError

__all__ = ["Handling"]


class Handling:
    """Calls a function or a coroutine function with each comm; its failures are logged."""

    def __init__(self, handle_comm: HandleComm) -> None:
        self._handle_comm = handle_comm
        self._tasks: set[asyncio.Future[None]] = set()

    def begin(self, comm: Comm) -> None:
        """Hand the comm over; it is closed if its handler fails, now or later."""
        try:
            result = self._handle_comm(comm)
        except Exception as exc:
            comm.log.failure("the handler of %s failed", comm, exc=exc)
            comm.dismiss(f"its handler failed: {type(exc).__name__}", logged=True)
            return
        if isinstance(result, Awaitable):
            work = self._watch(result, comm)
            if not comm.trusted:
                work = state_of(asyncio.get_running_loop()).turns.metered(work)
            self.keep(start(work))

    async def _watch(self, handling: Awaitable[None], comm: Comm) -> None:
        try:
            await handling
        except CommClosedError as exc:  # as connections do
            comm.log.line(logging.INFO, "the handler of %s ended: %s", comm, exc)
            comm.abort()
        except Exception as exc:
            comm.log.failure("the handler of %s failed", comm, exc=exc)
            comm.dismiss(f"its handler failed: {type(exc).__name__}", logged=True)
        except BaseException:  # the loop ends
            comm.abort()
            raise

    def keep(self, task: "asyncio.Future[None]") -> None:
        """Hold a task until it is done, because the loop itself does not."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
