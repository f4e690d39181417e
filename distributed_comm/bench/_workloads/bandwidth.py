"""Arrays one way, and an acknowledgement of the last: gigabytes (10^9) a second."""

from distributed_comm.bench._systems import Comm, System
from distributed_comm.bench._workloads import Batch, Connect, Sample, Spec
from distributed_comm.bench._workloads.oneway import transfer

SPEC = Spec(kind="bulk", unit="GB/s", sizes=(64 * 2**10, 2**20, 64 * 2**20))

WARM_UP_BYTES = 8 * 2**20


async def serve(system: System, comm: Comm, count: int, size: int) -> None:
    for _ in range(count):
        item = await comm.read()
        size = system.nbytes(item)
        del item  # else its memory would still be in use while the next one arrives
    await comm.tell(count, size)


async def drive(system: System, connect: Connect, batch: Batch) -> Sample:
    assert batch.size is not None
    comm, item = await connect(), system.item(batch.size)
    await transfer(comm, item, max(1, WARM_UP_BYTES // batch.size), batch.size)
    seconds = await transfer(comm, item, batch.count, batch.size)
    await comm.close()
    return Sample(figure=batch.count * batch.size / seconds / 1e9, seconds=seconds)
