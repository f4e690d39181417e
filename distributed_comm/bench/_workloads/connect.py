"""Connections a second, one after the other: dial, shake hands, one message there and back, close.

The message shows that the other side serves, which the kernel alone would not: it accepts for
a listener that sleeps. What a system does in its handshake is its own: ours proves a key. The
work of closing counts, but the next one does not wait for it: ours waits for its peer then, to
know that everything arrived, and others do not.
"""

import asyncio
from time import perf_counter_ns as clock

from distributed_comm.bench._systems import Comm, System
from distributed_comm.bench._workloads import Batch, Connect, Sample, Spec

SPEC = Spec(kind="small", unit="1/s")

WARM_UP = 5


async def serve(_system: System, comm: Comm, count: int, size: int) -> None:
    await comm.tell(count, size)


async def drive(_system: System, connect: Connect, batch: Batch) -> Sample:
    await _visits(connect, WARM_UP)
    start = clock()
    laps = await _visits(connect, batch.count)
    seconds = (clock() - start) / 1e9
    laps.sort()
    return Sample(
        figure=batch.count / seconds,
        seconds=seconds,
        p50_us=laps[len(laps) // 2] / 1e3,
        p99_us=laps[len(laps) * 99 // 100] / 1e3,
    )


async def _visits(connect: Connect, count: int) -> list[int]:
    """Make so many connections, and return the nanoseconds until each was answered."""
    laps = []
    async with asyncio.TaskGroup() as closing:
        for number in range(count):
            before = clock()
            comm = await connect()
            await comm.tell(number, 0)
            told = await comm.told()
            laps.append(clock() - before)
            closing.create_task(_close(comm))
            if told != (number, 0):
                raise ValueError(f"told {number}, was answered {told}")
    return laps


async def _close(comm: Comm) -> None:
    await comm.close()
