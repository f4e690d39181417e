"""Loops whose tasks begin, and often end, inside of `create_task`."""

import asyncio
import sys

import pytest
from calling import dial, serve
from loops import LOOPS, settle, until

import distributed_comm as dc
from distributed_comm._loops.tasks import start


@pytest.fixture(params=LOOPS)
def eagerly(request):
    """Run a coroutine on each loop, with eager tasks."""
    if sys.version_info < (3, 12):
        pytest.skip("eager tasks")
    if request.param == "uvloop" and sys.version_info >= (3, 13):
        pytest.skip("uvloop passes the factory an argument that Python's refuses")

    def run(main):
        async def limited():
            # not before: uvloop passes arguments to a main task that not every factory takes
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            async with asyncio.timeout(20):
                await main
                await settle()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(limited())

    return run


async def quick(x):
    return x


async def written(comm, x):
    await comm.write(x)
    return dc.NO_REPLY


def generator(x):
    yield quick(x)
    return x


async def items(x):
    yield x
    yield x + 1


@pytest.fixture(params=["tcp://127.0.0.1:0", "sentinel://127.0.0.1:0", "unix", "inproc://"])
def where(request, tmp_path_factory):
    if request.param != "unix":
        return request.param
    if sys.platform == "win32":
        pytest.skip("Unix sockets")
    return f"unix://{tmp_path_factory.mktemp('eager')}/socket"


@pytest.mark.parametrize("trusted", [False, True])
def test_handlers_that_end_at_once_are_answered_each_time(eagerly, where, trusted):
    async def main():
        handlers = [quick, written, generator, items]
        async with serve(handlers, where, trusted=trusted) as (server, remote):
            for x in range(20):
                assert await remote.quick(x=x) == await remote.written(x=x) == x
                assert await remote.generator(x=x) == x
                assert [item async for item in remote.items.stream(x=x)] == [x, x + 1]
            assert await asyncio.gather(*map(asyncio.create_task, calls(remote))) == [*range(50)]
            async with dial(server, trusted=trusted) as comm:  # a long queue is no deep recursion
                for x in range(900):
                    await comm.write({"op": ("quick", "written")[x % 2], "x": x})
                assert [await comm.read() for _ in range(900)] == [*range(900)]
            assert not server.incoming_comms_active

    eagerly(main())


def calls(remote):
    return [remote.quick(x=x) for x in range(50)]


def test_a_task_of_ours_begins_once_it_is_stored(eagerly):
    async def main():
        stored = []

        async def work():
            assert asyncio.current_task() in stored
            done.append("work")

        async def never():
            done.append("never")

        done = []
        stored.append(start(work()))
        cancelled = start(never())
        cancelled.cancel()
        await until(lambda: stored[0].done() and cancelled.cancelled())
        stored[0].result()
        assert done == ["work"]

    eagerly(main())


def test_a_task_that_is_cancelled_before_its_wrapper_begins_leaves_nothing(recwarn):
    async def never():
        raise AssertionError

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **k: asyncio.Task(coro, loop=loop, **k))
        work = never()
        task = start(work)
        task.cancel()
        await until(task.cancelled)
        await settle()
        assert work.cr_frame is None  # closed, and not just forgotten

    asyncio.run(main())
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]
