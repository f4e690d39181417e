"""Whatever is cancelled, and whenever: nothing is lost, nothing is torn, nothing is left."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from loops import is_eager, needs_proc, settle, until
from peers import LOOPBACK

import distributed_comm as dc

#: Calls that somebody means to cancel, on each loop and transport.
POINTS = 10_000
each_address = pytest.mark.parametrize("address", [LOOPBACK, "inproc://"])


@asynccontextmanager
async def ends(address: str) -> AsyncIterator[tuple[dc.Comm, dc.Comm]]:
    served = asyncio.get_running_loop().create_future()
    async with dc.listen(address, served.set_result) as listener:
        client = await dc.connect(listener.contact_address)
    server = await served
    try:
        yield client, server
    finally:
        client.abort()
        server.abort()


async def cancel_later(task: asyncio.Task, turns: int) -> bool:
    """Cancel a task after so many turns of the loop; return whether it was in time."""
    await settle(turns)
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


@each_address
def test_reads_and_writes_cancelled_at_random_points(run, address):
    chance = random.Random(5)
    payloads = [bytes(size) for size in (0, 10, 1_000, 50_000, 100_000, 1_500_000)]
    weights = [8, 8, 8, 4, 2, 1]
    began, arrived = [], []
    cancelled = {"reads": 0, "writes": 0}

    async def write(comm, number, payload):
        began.append((number, len(payload)))
        await comm.write((number, payload))

    async def write_all(comm):
        for number in range(POINTS):
            (payload,) = chance.choices(payloads, weights)
            writing = asyncio.create_task(write(comm, number, payload))
            cancelled["writes"] += await cancel_later(writing, chance.randrange(4))

    async def read_all(comm, writing):
        while not writing.done() or len(arrived) < len(began):
            reading = asyncio.create_task(comm.read())
            if await cancel_later(reading, chance.randrange(5)):
                cancelled["reads"] += 1
            else:
                number, payload = reading.result()
                arrived.append((number, len(payload)))

    async def main():
        async with ends(address) as (client, server):
            writing = asyncio.create_task(write_all(client))
            await read_all(server, writing)
            await writing
            assert arrived == began
            await client.write("then")
            assert await server.read() == "then"
            assert len(began) > POINTS / 2
            assert cancelled["reads"] > POINTS / 10 or is_eager()
            assert cancelled["writes"] > POINTS / 10 or is_eager()

    run(main())


@needs_proc
@each_address
def test_connects_cancelled_at_random_points(run, address):
    chance = random.Random(6)
    served, ended, cancelled = [0], [0], 0

    async def serve(comm):
        served[0] += 1
        async with comm:
            with pytest.raises((StopAsyncIteration, dc.CommClosedError)):
                await anext(comm)
        ended[0] += 1

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    async def main():
        nonlocal cancelled
        async with dc.listen(address, serve) as listener:
            async with await dc.connect(listener.contact_address):
                before = descriptors()
            await until(lambda: ended[0] == 1)
            for _ in range(POINTS // 5):
                connecting = asyncio.create_task(dc.connect(listener.contact_address))
                if await cancel_later(connecting, chance.randrange(9)):
                    cancelled += 1
                else:
                    await connecting.result().close()
            async with await dc.connect(listener.contact_address):
                await until(lambda: ended[0] == served[0] - 1)
                await until(lambda: descriptors() <= before)
            await until(lambda: ended[0] == served[0])
            assert cancelled > POINTS / 20 or is_eager()

    run(main())


@each_address
def test_closes_cancelled_at_random_points(run, address):
    chance = random.Random(7)

    async def main():
        async with dc.listen(address, read_all) as listener:
            for _ in range(POINTS // 20):
                comm = await dc.connect(listener.contact_address)
                await comm.write(bytes(chance.choice([0, 300_000])))
                await cancel_later(asyncio.create_task(comm.close()), 1 + chance.randrange(4))
                assert comm.closed()
                comm.abort()

    async def read_all(comm):
        async for _ in comm:
            pass

    run(main())
