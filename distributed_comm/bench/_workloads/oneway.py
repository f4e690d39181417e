"""Small messages one way, and an acknowledgement of the last: messages a second."""

from time import perf_counter
from typing import Any

from distributed_comm.bench._systems import Comm, System
from distributed_comm.bench._workloads import Batch, Connect, Sample, Spec

SPEC = Spec(kind="small", unit="1/s")

WARM_UP = 100


async def serve(_system: System, comm: Comm, count: int, size: int) -> None:
    for _ in range(count):
        await comm.read()
    await comm.tell(count, size)


async def drive(system: System, connect: Connect, batch: Batch) -> Sample:
    comm, item = await connect(), system.item(None)
    await transfer(comm, item, WARM_UP, 0)
    seconds = await transfer(comm, item, batch.count, 0)
    await comm.close()
    return Sample(figure=batch.count / seconds, seconds=seconds)


async def transfer(comm: Comm, item: Any, count: int, size: int) -> float:
    """The seconds until ``count`` items arrived and the other side said so."""
    before = perf_counter()
    await comm.tell(count, size)
    write = comm.write
    for _ in range(count):
        await write(item)
    arrived = await comm.told()
    seconds = perf_counter() - before
    if arrived != (count, size):
        raise ValueError(f"sent {count} items of {size} bytes, {arrived} arrived")
    return seconds
