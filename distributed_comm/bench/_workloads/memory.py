"""One array of 1 GiB: by how many MiB the receiver's peak rose above what it held before.

Linux only: the peak is ``VmHWM`` of ``/proc/self/status``.
"""

from contextlib import suppress
from pathlib import Path
from time import perf_counter

from distributed_comm.bench._systems import Comm, System
from distributed_comm.bench._workloads import Batch, Connect, Sample, Spec

SPEC = Spec(kind="bulk", unit="MiB", sizes=(2**30,), count=1, usual=False)

PROCESS = Path("/proc/self")


async def serve(system: System, comm: Comm, _count: int, _size: int) -> None:
    before = _kib("VmRSS")
    with suppress(OSError):  # where it may not be reset, an earlier peak could hide this one
        (PROCESS / "clear_refs").write_text("5")
    await comm.tell(0, 0)  # only now may the array come: none of it is in what was there before
    item = await comm.read()
    await comm.tell(_kib("VmHWM") - before, system.nbytes(item))


async def drive(system: System, connect: Connect, batch: Batch) -> Sample:
    assert batch.size is not None
    comm, item = await connect(), system.item(batch.size)
    started = perf_counter()
    await comm.tell(1, batch.size)
    await comm.told()
    await comm.write(item)
    grown, size = await comm.told()
    seconds = perf_counter() - started
    await comm.close()
    if size != batch.size:
        raise ValueError(f"sent {batch.size} bytes, {size} arrived")
    return Sample(figure=grown / 1024, seconds=seconds)


def _kib(key: str) -> int:
    for line in (PROCESS / "status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise LookupError(f"{PROCESS}/status does not say {key}")
