"""A call of a function that adds two numbers, one at a time: calls a second."""

from time import perf_counter_ns as clock

from distributed_comm.bench._systems import Caller, Comm, System
from distributed_comm.bench._workloads import Batch, Connect, Sample, Spec

SPEC = Spec(kind="call", unit="1/s", usual=False)

WARM_UP = 100  # constant, so that it cancels out where two counts are compared


async def serve(_system: System, _comm: Comm, _count: int, _size: int) -> None:
    raise NotImplementedError  # a system serves calls itself


async def drive(_system: System, connect: Connect, batch: Batch) -> Sample:
    caller = await connect()
    await call(caller, WARM_UP)
    laps = await call(caller, batch.count)
    await caller.close()
    seconds = sum(laps) / 1e9
    laps.sort()
    return Sample(
        figure=batch.count / seconds,
        seconds=seconds,
        p50_us=laps[len(laps) // 2] / 1e3,
        p99_us=laps[len(laps) * 99 // 100] / 1e3,
    )


async def call(caller: Caller, count: int) -> list[int]:
    """The nanoseconds of each of ``count`` calls, one after the other."""
    add = caller.add
    laps = []
    before = clock()
    for number in range(count):
        total = await add(x=number, y=2)
        now = clock()
        laps.append(now - before)
        before = now
        if total != number + 2:
            raise ValueError(f"{number} + 2 is {total}")
    return laps
