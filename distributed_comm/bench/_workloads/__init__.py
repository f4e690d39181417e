"""The workloads, a module each, and what they have in common.

To add a workload, write a module with the names of `Workload` and add it to `NAMES`.
"""

import importlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast

from distributed_comm.bench._systems import Comm, System

NAMES = ("roundtrip", "oneway", "bandwidth", "connect", "memory", "rpc", "concurrent", "fanin")

Connect = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Batch:
    """What one run does: so many messages, of that size, from so many callers at once."""

    count: int
    size: int | None = None
    concurrency: int = 1


@dataclass(frozen=True)
class Sample:
    """What one run measured; `figure` is in the workload's unit."""

    figure: float
    seconds: float
    p50_us: float | None = None
    p99_us: float | None = None


@dataclass(frozen=True)
class Spec:
    """The kind of comm that a workload needs, the unit of its figures, and its variants.

    ``count`` is the number of messages of a run, where it is not to be calibrated. A workload
    that is not ``usual`` runs only when it is asked for.
    """

    kind: str
    unit: str
    sizes: tuple[int | None, ...] = (None,)
    concurrency: int = 1
    count: int | None = None
    usual: bool = True


class Workload(Protocol):
    """What a workload's module provides."""

    SPEC: Spec

    async def serve(self, system: System, comm: Comm, count: int, size: int) -> None:
        """The server's part of one batch, after the client told `count` and `size`."""

    async def drive(self, system: System, connect: Connect, batch: Batch) -> Sample:
        """The client's part of one run, on connections of its own."""


def load(name: str) -> Workload:
    """Import the module of one workload."""
    return cast("Workload", importlib.import_module(f"{__name__}.{name}"))


async def serve(workload: Workload, system: System, comm: Comm) -> None:
    """Serve one connection, batch after batch, until the client closes it."""
    with suppress(OSError):
        while True:
            count, size = await comm.told()
            await workload.serve(system, comm, count, size)
    await comm.close()
