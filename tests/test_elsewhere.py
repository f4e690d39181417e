"""What belongs to one event loop or process, used in another: it works, or says whose it is."""

import asyncio
import gc
import subprocess
import sys
import warnings
from contextlib import suppress

import pytest
from calling import LOOPBACK, everywhere, serve
from loops import LOOPS, needs_proc, settle, until

import distributed_comm as dc

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(autouse=True)
def collected():
    """Have asyncio complain here of the transports that a closed loop has left, and not later."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def apart(tmp_path):
    """Yield the address of a server in a process of its own."""
    code = (
        "import asyncio, distributed_comm as dc\n"
        "async def main():\n"
        "    s = dc.Server({'add': lambda x, y: x + y}, trusted=True)\n"
        "    await s.listen('tcp://127.0.0.1:0')\n"
        "    print(s.address, flush=True)\n"
        "    await s.finished()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process.stdout.readline().strip()
        process.kill()


@pytest.fixture(params=LOOPS)
def anew(request):
    """Run a coroutine on a new loop each time."""

    def run_anew(work):
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(work)

    return run_anew


def test_an_rpc_works_in_one_loop_after_another(anew, apart):
    remote = dc.rpc(apart, trusted=True, limit=2)

    async def calls():
        results = await asyncio.gather(*(remote.add(x=i, y=1) for i in range(5)))
        assert remote._own.open == remote._own._plan.count <= 2
        return results

    for _ in range(3):
        assert anew(calls()) == [1, 2, 3, 4, 5]
    anew(remote.close_rpc())


def test_two_loops_of_one_thread_use_a_pool_in_turn(apart):
    remote = dc.rpc(apart, trusted=True)
    loops = [asyncio.new_event_loop() for _ in range(2)]
    for i in range(6):
        loop = loops[i % 2]
        assert loop.run_until_complete(remote.add(x=i, y=1)) == i + 1
    loops[1].run_until_complete(remote.close_rpc())
    for loop in loops:
        loop.run_until_complete(settle())
        loop.close()


def test_a_pool_in_use_by_another_thread_says_so(run):
    async def main():
        async with serve({"add": lambda x, y: x + y}) as (_, remote):
            assert await remote.add(x=1, y=2) == 3
            elsewhere = asyncio.to_thread(lambda: asyncio.run(remote.add(x=1, y=2)))
            with pytest.raises(dc.LocalProtocolError, match="runs in another thread"):
                await elsewhere
            assert await remote.add(x=1, y=2) == 3

    run(main())


def test_a_pool_whose_other_loop_has_calls_under_way_says_so(apart):
    remote = dc.rpc(apart, trusted=True)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def begin():
        task = asyncio.ensure_future(remote.add(x=1, y=2))
        await asyncio.sleep(0)
        return task

    task = first.run_until_complete(begin())
    with pytest.raises(dc.LocalProtocolError, match="is not running"):
        second.run_until_complete(remote.add(x=1, y=2))
    assert first.run_until_complete(task) == 3
    assert second.run_until_complete(remote.add(x=1, y=2)) == 3
    second.run_until_complete(remote.close_rpc())
    for loop in first, second:
        loop.run_until_complete(settle())
        loop.close()


def test_what_a_closed_loop_left_waiting_does_not_count(apart):
    """The coroutines of a loop that was closed are collected late, and hand back what they had."""
    remote = dc.rpc(apart, trusted=True, limit=1)

    async def leave():
        tasks = [asyncio.ensure_future(remote.add(x=1, y=2)) for _ in range(3)]
        await until(lambda: remote._own._plan.waiters)
        return tasks

    loop = asyncio.new_event_loop()
    tasks = loop.run_until_complete(leave())
    loop.close()

    async def go_on():
        assert await remote.add(x=1, y=2) == 3
        for task in tasks:
            with suppress(RuntimeError):  # asyncio's own, from a dial that it cannot end
                task.get_coro().close()
        assert await remote.add(x=1, y=2) == 3
        assert remote._own._plan.count == remote._own.open == 1
        await remote.close_rpc()

    asyncio.run(go_on())
    for task in tasks:
        task._log_destroy_pending = False


@everywhere
@pytest.mark.parametrize("use", ["read", "write", "close", "call", "push"])
def test_a_comm_says_that_its_loop_is_closed(anew, where, use):
    received = []

    async def begin():
        listener = dc.listen(where, received.append)
        await listener
        return await dc.connect(listener.contact_address), listener

    comm, listener = anew(begin())
    sent = comm.stats()["messages_sent"]

    async def misuse():
        with pytest.raises(dc.LocalProtocolError, match="loop that is closed"):  # noqa: PT012
            if use == "call":
                await dc.rpc(comm=comm).add()
            elif use == "push":
                comm.push(print) if where == LOOPBACK else await comm.read()
            else:
                await getattr(comm, use)(*["text"] * (use == "write"))
        assert comm.stats()["messages_sent"] == sent

    anew(misuse())
    for end in comm, *received:
        end.abort()
    listener.stop()


@everywhere
def test_a_server_of_another_loop_cannot_be_started_or_closed(anew, where):
    server = dc.Server()

    async def begin():
        server.listen(where)
        await server

    anew(begin())

    async def again():
        for use in server.start, server.close, server.finished:
            with pytest.raises(dc.LocalProtocolError, match="an event loop that is closed"):
                await use()
        with pytest.raises(
            dc.LocalProtocolError, match="started already, in an event loop that is closed"
        ):
            await server.listener
        server.listener.stop()

    anew(again())


def test_a_server_that_is_only_bound_starts_in_any_loop(anew):
    server = dc.Server()
    server.listen(LOOPBACK)

    async def main():
        async with server, dc.rpc(server.address) as remote:
            assert (await remote.identity())["id"] == server.id

    anew(main())


FORK = """
import asyncio, os, sys
import distributed_comm as dc
remote = dc.rpc(sys.argv[1], trusted=True, limit=1)
bound = dc.Server()
bound.listen("tcp://127.0.0.1:0")
started = dc.Server()

async def child():
    assert await remote.add(x=2, y=2) == 4
    try:
        await started
    except RuntimeError as exc:
        assert "forked from" in str(exc), exc
    else:
        raise AssertionError
    async with bound, dc.rpc(bound.address) as other:
        await other.identity()
    try:
        await dc.rpc(comm=comm).identity()
    except dc.LocalProtocolError as exc:
        assert "forked from" in str(exc), exc
    else:
        raise AssertionError
    await remote.close_rpc()

async def main():
    global comm
    await started.listen("tcp://127.0.0.1:0")
    comm = await dc.connect(sys.argv[1], trusted=True)
    assert await remote.add(x=1, y=1) == 2
    waiting = [asyncio.ensure_future(remote.add(x=1, y=1)) for _ in range(3)]
    await asyncio.sleep(0)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            asyncio.run(child())
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert await asyncio.gather(*waiting) == [2, 2, 2]
    assert await remote.add(x=1, y=1) == 2
    await remote.close_rpc()
    await comm.close()
    await started.close()

asyncio.run(main())
"""


@needs_proc
def test_a_forked_child_dials_anew_and_starts_what_was_only_bound(apart):
    command = [sys.executable, "-W", "ignore", "-c", FORK, apart]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
