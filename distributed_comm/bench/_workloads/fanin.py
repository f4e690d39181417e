"""50 clients, each with a connection of its own, that call one server: calls a second."""

import asyncio

from distributed_comm.bench._systems import System
from distributed_comm.bench._workloads import Batch, Connect, Sample, Spec
from distributed_comm.bench._workloads.concurrent import together
from distributed_comm.bench._workloads.rpc import serve

__all__ = ["SPEC", "drive", "serve"]

SPEC = Spec(kind="call", unit="1/s", concurrency=50, usual=False)


async def drive(_system: System, connect: Connect, batch: Batch) -> Sample:
    callers = [await connect() for _ in range(batch.concurrency)]
    sample = await together(callers, batch.count)
    await asyncio.gather(*(caller.close() for caller in callers))
    return sample
