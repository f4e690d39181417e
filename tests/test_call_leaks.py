"""Ten thousand calls that end badly leave nothing behind: no comm, task, descriptor, memory."""

import asyncio
import gc
import logging
import os
import random
import sys

import pytest
from calling import dial, serve
from loops import needs_proc, settle, until

import distributed_comm as dc


@pytest.fixture
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def slowly(x, turns):
    for _ in range(turns):
        await asyncio.sleep(0)
    return x


async def cancelled_calls(remote, count, rng):
    """Make so many calls, fifty at a time, and cancel most of them somewhere."""
    loop = asyncio.get_running_loop()
    for _ in range(count // 50):
        numbers = {
            asyncio.ensure_future(remote.slowly(x=x, turns=rng.randrange(4))): x for x in range(50)
        }
        for call in numbers:
            if rng.random() < 0.8:
                loop.call_later(rng.random() * 0.004, call.cancel)
        await asyncio.wait(numbers)
        for call, x in numbers.items():
            assert call.cancelled() or call.result() == x


@needs_proc
def test_ten_thousand_cancelled_calls(run):
    async def main():
        async with serve({"slowly": slowly}) as (server, remote):
            rng = random.Random(3)
            await cancelled_calls(remote, 500, rng)  # whatever is made once is made
            await quiescent(server, remote)
            files, tasks = open_files(), len(asyncio.all_tasks())
            await cancelled_calls(remote, 10_000, rng)
            await quiescent(server, remote)
            assert open_files() <= files
            assert len(asyncio.all_tasks()) <= tasks
            assert server.stats()["ops"]["slowly"]["errors"] == 0

    async def quiescent(server, remote):
        await asyncio.gather(*remote.close_comms(), return_exceptions=True)
        await until(lambda: not server.incoming_comms_open)
        await settle()
        gc.collect()

    run(main())


@needs_proc
@pytest.mark.parametrize("trusted", [True, False])
def test_ten_thousand_exceptions(run, quiet, trusted):
    def fail(x):
        raise KeyError(x)

    async def fail_later(x):
        await asyncio.sleep(0)
        raise KeyError(x)

    async def fail_often(remote, count):
        for x in range(count // 2):
            for method in remote.fail, remote.fail_later:
                with pytest.raises((KeyError, dc.RemoteError)):
                    await method(x=x)

    async def main():
        handlers = {"fail": fail, "fail_later": fail_later}
        async with serve(handlers, trusted=trusted) as (server, remote):
            await fail_often(remote, 200)
            await settle()  # a reply may be here before its server's task has ended
            gc.collect()
            files, tasks = open_files(), len(asyncio.all_tasks())
            before = sys.getallocatedblocks()
            await fail_often(remote, 10_000)
            await settle()
            gc.collect()
            assert sys.getallocatedblocks() - before < 5_000  # half an object a call
            assert open_files() == files
            assert len(asyncio.all_tasks()) == tasks
            assert server.incoming_comms_open == 1
            async with dial(server) as comm:
                await comm.write({"op": "fail", "x": 1})
                assert (await comm.read())["status"] == "uncaught-error"

    run(main())
