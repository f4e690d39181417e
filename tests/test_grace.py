"""A process that is told to end does so within its grace, whoever does not read or does not end."""

import asyncio
import os
import pickle
import signal
import sys
from contextlib import asynccontextmanager, suppress
from time import perf_counter

import pytest
from calling import everywhere, serve
from loops import until

import distributed_comm as dc

not_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="a signal")

GRACE = 1.0
#: What a machine that is busy may add.
SLACK = 1.0

SERVICE = """
import asyncio, os, pickle, signal, sys
import distributed_comm as dc

address, loop, security = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3])
GRACE = float(sys.argv[4])

async def idle():
    yield "first"
    await asyncio.Event().wait()

async def flood():
    while True:
        yield bytes(1_000_000)

async def stubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if server.status is dc.Status.closed:  # the loop ends
                raise

async def tidy():
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.05)
        print("tidied up", flush=True)

async def end():
    await server.close(grace=GRACE)
    await asyncio.sleep(60)

async def main():
    global server
    handlers = [idle, flood, stubborn, tidy, end, lambda: bytes(30_000_000)]
    server = dc.Server({each.__name__.strip("<>"): each for each in handlers})
    server.handlers["busy"] = lambda: server.incoming_comms_active
    server.listen(address, **({"security": pickle.loads(security)} if security else {}))
    async with server:
        server.close_on(signal.SIGTERM, grace=GRACE)
        print(server.address, flush=True)
        await server.finished()
    print("ended", flush=True)

asyncio.run(main()) if loop == "asyncio" else dc.run(main())
"""


@asynccontextmanager
async def service(address, loop, grace=GRACE):
    """Yield a process that serves, and an rpc to it."""
    security = dc.Security.temporary() if address.startswith("tls") else None
    secrets = pickle.dumps(security).hex() if security else ""
    command = [sys.executable, "-W", "error", "-c", SERVICE, address, loop, secrets, str(grace)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        address = (await process.stdout.readline()).decode().strip()
        arguments = {"security": security} if security else {}
        async with dc.rpc(address, **arguments) as remote:
            yield process, remote
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture(params=["tcp://127.0.0.1:0", "tls://127.0.0.1:0", "unix"])
def where(request, tmp_path_factory):
    if request.param != "unix":
        return request.param
    return f"unix://{tmp_path_factory.mktemp('grace')}/socket"


@not_on_windows
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("told", ["by a signal", "by a handler"])
def test_a_process_ends_within_the_grace(where, loop, told):
    async def main():
        async with service(where, loop) as (process, remote):
            idle, flood = remote.idle.stream(), remote.flood.stream()
            assert await anext(idle) == "first"
            await anext(flood)
            calls = [asyncio.ensure_future(remote[op]()) for op in ("stubborn", "tidy")]
            async with await dc.connect(remote.address, **arguments(remote)) as slow:
                await slow.write({"op": "lambda"})
                while await remote.busy() < 4:
                    pass
                start = perf_counter()
                if told == "by a signal":
                    os.kill(process.pid, signal.SIGTERM)
                else:
                    calls.append(asyncio.ensure_future(remote.end()))
                with pytest.raises(dc.RemoteError, match=f"closed.* grace of {GRACE:g} s"):
                    await anext(idle)
                assert perf_counter() - start < GRACE + SLACK
                for call in calls:
                    with pytest.raises(dc.RemoteError, match=f"closed.* grace of {GRACE:g} s"):
                        await call
                assert await process.wait() == 0
                assert 0.4 * GRACE < perf_counter() - start < GRACE + SLACK
                assert await process.stdout.read() == b"tidied up\nended\n"
                with pytest.raises((OSError, dc.RemoteError)):  # and not the end of the stream
                    assert {item async for item in flood} == {bytes(1_000_000)}
                slow.abort()

    asyncio.run(main())


def arguments(remote):
    return {"security": remote._own._arguments["security"]} if "tls" in remote.address else {}


@pytest.mark.parametrize("grace", [0, 0.001, 0.3])
@everywhere
def test_any_grace_is_the_total(run, where, grace):
    async def main():
        async def stubborn():
            while not over:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    ended.append("asked")

        async def idle():
            try:
                yield "first"
                await asyncio.sleep(60)
            finally:
                ended.append("idle")

        async def swallowing():
            with suppress(asyncio.CancelledError):
                while True:
                    yield "first"
                    await asyncio.sleep(60)

        async def by_hand(comm):
            with suppress(asyncio.CancelledError):
                await comm.write("first")
                await asyncio.sleep(60)
            return dc.NO_REPLY

        ended, over = [], False
        async with serve([stubborn, idle, swallowing, by_hand], where) as (server, remote):
            call = asyncio.ensure_future(remote.stubborn())
            await until(lambda: server.incoming_comms_active)
            (task,) = [each.task for each in server._servings]
            streams = [remote[op].stream() for op in ("idle", "swallowing", "by_hand")]
            for stream in streams:
                assert await anext(stream) == "first"
            start = perf_counter()
            closing = asyncio.ensure_future(server.close(grace=grace))
            for waiting in (*map(anext, streams), call):
                with pytest.raises(dc.RemoteError, match="longer than the grace"):
                    await waiting
            await closing
            assert perf_counter() - start < grace + SLACK / 2
            assert {"asked", "idle"} == set(ended)
            over = True
            task.cancel()
            await until(lambda: not server.incoming_comms_open)

    run(main())


def test_a_stream_that_returns_by_itself_while_the_server_closes_is_complete(run):
    async def main():
        async def items():
            yield 1
            await go.wait()
            yield 2

        go = asyncio.Event()
        async with serve({"items": items}) as (server, remote):
            stream = remote.items.stream()
            assert await anext(stream) == 1
            closing = asyncio.ensure_future(server.close(grace=20))
            await until(lambda: server.status is dc.Status.closing)
            go.set()
            assert [item async for item in stream] == [2]
            await closing

    run(main())
