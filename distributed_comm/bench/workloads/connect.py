"""Connections a second, one after the other: dial, shake hands, one message there and back, close.

The message shows that the other side serves, which the kernel alone would not: it accepts for
a listener that sleeps. What a system does in its handshake is its own: ours proves a key.
"""

from time import perf_counter_ns as clock

from distributed_comm.bench.systems import Comm, System
from distributed_comm.bench.workloads import Batch, Connect, Sample, Spec

SPEC = Spec(kind="small", unit="1/s")

WARM_UP = 5


async def serve(_system: System, comm: Comm, count: int, size: int) -> None:
    await comm.tell(count, size)


async def drive(_system: System, connect: Connect, batch: Batch) -> Sample:
    for number in range(WARM_UP):
        await _visit(connect, number)
    laps = []
    before = clock()
    for number in range(batch.count):
        await _visit(connect, number)
        now = clock()
        laps.append(now - before)
        before = now
    seconds = sum(laps) / 1e9
    laps.sort()
    return Sample(
        figure=batch.count / seconds,
        seconds=seconds,
        p50_us=laps[len(laps) // 2] / 1e3,
        p99_us=laps[len(laps) * 99 // 100] / 1e3,
    )


async def _visit(connect: Connect, number: int) -> None:
    comm = await connect()
    await comm.tell(number, 0)
    told = await comm.told()
    await comm.close()
    if told != (number, 0):
        raise ValueError(f"told {number}, was answered {told}")
