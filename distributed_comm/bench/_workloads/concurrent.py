"""64 callers in one client at once: calls a second."""

import asyncio
from time import perf_counter

from distributed_comm.bench._systems import Caller, System
from distributed_comm.bench._workloads import Batch, Connect, Sample, Spec
from distributed_comm.bench._workloads.rpc import call, serve

__all__ = ["SPEC", "drive", "serve", "together"]

SPEC = Spec(kind="call", unit="1/s", concurrency=64, usual=False)

WARM_UP = 5


async def drive(_system: System, connect: Connect, batch: Batch) -> Sample:
    caller = await connect()
    sample = await together([caller] * batch.concurrency, batch.count)
    await caller.close()
    return sample


async def together(callers: list[Caller], count: int) -> Sample:
    """Make ``count`` calls, and a few before, all callers at once."""
    each = max(1, count // len(callers))
    await asyncio.gather(*(call(caller, WARM_UP) for caller in callers))
    before = perf_counter()
    laps = await asyncio.gather(*(call(caller, each) for caller in callers))
    seconds = perf_counter() - before
    sorted_laps = sorted(lap for some in laps for lap in some)
    return Sample(
        figure=each * len(callers) / seconds,
        seconds=seconds,
        p50_us=sorted_laps[len(sorted_laps) // 2] / 1e3,
        p99_us=sorted_laps[len(sorted_laps) * 99 // 100] / 1e3,
    )
