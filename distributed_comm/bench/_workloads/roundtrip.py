"""A small message and back, one connection, one at a time: round trips a second."""

from time import perf_counter_ns as clock
from typing import Any

from distributed_comm.bench._systems import Comm, System
from distributed_comm.bench._workloads import Batch, Connect, Sample, Spec

SPEC = Spec(kind="small", unit="1/s")

WARM_UP = 100  # constant, so that it cancels out where two counts are compared


async def serve(_system: System, comm: Comm, count: int, _size: int) -> None:
    for _ in range(count):
        await comm.write(await comm.read())


async def drive(system: System, connect: Connect, batch: Batch) -> Sample:
    comm, item = await connect(), system.item(None)
    await _ping(comm, item, WARM_UP)
    laps = await _ping(comm, item, batch.count)
    await comm.close()
    seconds = sum(laps) / 1e9
    laps.sort()
    return Sample(
        figure=batch.count / seconds,
        seconds=seconds,
        p50_us=laps[len(laps) // 2] / 1e3,
        p99_us=laps[len(laps) * 99 // 100] / 1e3,
    )


async def _ping(comm: Comm, item: Any, count: int) -> list[int]:
    """The nanoseconds of each of ``count`` round trips."""
    await comm.tell(count, 0)
    write, read = comm.write, comm.read
    laps = []
    before = clock()
    for _ in range(count):
        await write(item)
        reply = await read()
        now = clock()
        laps.append(now - before)
        before = now
    if reply != item:
        raise ValueError(f"sent {item!r}, got {reply!r}")
    return laps
