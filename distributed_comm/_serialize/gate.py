"""What a stranger's message may take, counted before it is taken: memory and time.

A few bytes can stand for many: a compressed frame, an axis that repeats its items, a fill value of
2 GiB, a dictionary that a hundred batches refer to. So code that makes anything of a message asks
the message's gate first. The gate allows what is proportional to the bytes that came, and a little
more. It charges the memory to the budget that all strangers of a listener share.

A trusted peer could have any code run here anyway, so its gate counts nothing.
"""

from .._frames import Buffer
from .._kernels import frame0 as kernel
from ..errors import MessageError
from .offload import Lengthy
from .settings import LoadOptions

__all__ = ["TRUSTED", "Gate", "StrangersGate"]

#: What a message may take besides what is in proportion to its bytes: 0.75 MiB.
AMPLE = 768 * 1024
#: Steps, each of about 2 ns, that a message may take for each of its bytes in another thread.
STEPS_PER_BYTE = 80


class Gate:
    """What a message may take; this one is that of a trusted peer, which may take anything."""

    __slots__ = ()

    trusted = True

    def make(self, nbytes: int, what: str) -> None:
        """Count memory that is about to be allocated, also what is needed for a moment only.

        ``what`` is named in the MessageError, as in "an array of the shape (2, 3)".
        """

    def work(self, steps: int, what: str) -> None:
        """Count work that is about to be done, in steps of about 2 ns.

        Raises Lengthy for work that is too much for the event loop, and a MessageError for what is
        too much for a message of this size anywhere.
        """

    def keep(self, steps: int, what: str) -> None:
        """Count work that no other thread can run beside, because it holds the interpreter's lock.

        A MessageError for too much of it.
        """

    def scan(self, data: Buffer) -> None:
        """Look through msgpack that is about to be decoded; ValueError for what may not be."""

    def release(self) -> None:
        """Give back the memory that was counted, because decoding is done."""


TRUSTED = Gate()


class StrangersGate(Gate):
    """What one message of a stranger may take.

    ``nbytes`` is the size of the message as it came. Of frame 0 the steps and the memory are known
    by then. Memory is taken from the budget, if there is one.
    """

    __slots__ = (
        "_budget", "_depth", "_kept", "_loop", "_memory", "_most", "_nbytes", "_steps", "_work",
    )  # fmt: skip

    trusted = False

    def __init__(
        self,
        nbytes: int,
        options: LoadOptions,
        steps: int = 1,  # not 0, so that `scan` counts brief parts, too
        memory: int = 0,
    ) -> None:
        self._nbytes = nbytes
        self._depth = options.max_depth
        self._budget = options.budget
        self._memory = 0  # bytes made so far …
        self._most = options.max_growth * nbytes + AMPLE  # … and how many may be
        self._loop = options.most is not None  # on the event loop, that is
        self._steps = steps  # of any work …
        self._kept = steps  # … and of such that keeps the interpreter
        self._work = options.max_work
        self.make(memory, "msgpack")

    def make(self, nbytes: int, what: str) -> None:
        if self._memory + nbytes > self._most:
            raise MessageError(
                f"{what} would take {nbytes} bytes in memory; a message of {self._nbytes} bytes "
                f"of an untrusted peer may take {self._most} in all (Limits.untrusted_growth)"
            )
        if self._budget is not None:
            self._budget.change(nbytes)
        self._memory += nbytes

    def work(self, steps: int, what: str) -> None:
        self._steps += steps
        if self._steps <= self._work:
            return
        if self._steps > self._work + STEPS_PER_BYTE * self._nbytes:
            raise MessageError(
                f"{what} would take about {self._steps // 500_000} ms, too many for a message of "
                f"{self._nbytes} bytes of an untrusted peer (Limits.untrusted_work)"
            )
        if self._loop:
            raise Lengthy

    def keep(self, steps: int, what: str) -> None:
        self._kept += steps
        if self._kept > self._work:
            raise MessageError(
                f"{what} would keep the interpreter for about {self._kept // 500_000} ms, and a "
                f"message of an untrusted peer may for {self._work // 500_000} "
                f"(Limits.untrusted_work)"
            )
        self.work(steps, what)

    def scan(self, data: Buffer) -> None:
        kept = self._kept
        scanned = kernel.scan(data, self._depth, kept, self._work)
        self._kept, memory, _ = scanned  # type: ignore[misc] # None is for what is little
        self.make(memory, "msgpack")
        self.work(self._kept - kept, "msgpack")

    def release(self) -> None:
        if self._budget is not None:
            self._budget.change(-self._memory)
            self._memory = 0
