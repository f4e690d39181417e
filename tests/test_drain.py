"""Closing a server: it stops accepting, calls that run finish, the rest is told why it ended."""

import asyncio
import os
import signal
import sys
from time import perf_counter

import pytest
from calling import LOOPBACK, dial, everywhere, serve
from loops import until

import distributed_comm as dc


@everywhere
def test_calls_that_run_finish_within_the_grace(run, where):
    async def main():
        go = asyncio.Event()

        async def wait(x):
            await go.wait()
            return x

        async with serve({"wait": wait}, where) as (server, remote):
            calls = [asyncio.ensure_future(remote.wait(x=x)) for x in range(100)]
            await until(lambda: server.incoming_comms_active == 100)
            async with dial(server) as idle:
                closing = asyncio.ensure_future(server.close(grace=20))
                assert [message async for message in idle] == []  # told at once
            assert server.status is dc.Status.closing
            with pytest.raises(OSError, match=r"refused|nobody listens|Timed out"):
                await dc.connect(server.address, timeout=0.02)
            go.set()
            assert await asyncio.gather(*calls) == list(range(100))
            await closing
            assert server.status is dc.Status.closed
            await server.finished()

    run(main())


@everywhere
def test_calls_that_take_longer_are_ended_with_an_error_that_says_so(run, where):
    async def main():
        cancelled = []

        async def forever():
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(True)

        async def items():
            yield "first"
            await asyncio.Event().wait()

        async def follow():
            async for _ in remote.items.stream():
                followed.set()

        async with serve({"forever": forever, "items": items}, where, trusted=True) as (
            server,
            remote,
        ):
            followed = asyncio.Event()
            calls = [asyncio.ensure_future(remote.forever()) for _ in range(10)]
            calls.append(asyncio.ensure_future(follow()))
            await followed.wait()
            await until(lambda: server.incoming_comms_active == 11)
            await server.close(grace=0.02, reason="an upgrade")
            for call in calls:
                with pytest.raises(dc.RemoteError, match=r"closed \(an upgrade\).* grace of 0.02"):
                    await call
            assert len(cancelled) == 10

    run(main())


def test_a_handler_that_does_not_end_when_cancelled_holds_nobody_up_for_ever(run, monkeypatch):
    monkeypatch.setattr("distributed_comm.serving.PATIENCE", 0.02)

    async def main():
        go = asyncio.Event()

        async def stubborn():
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    continue

        async with serve({"stubborn": stubborn}) as (server, remote):
            call = asyncio.ensure_future(remote.stubborn())
            await until(lambda: server.incoming_comms_active)
            await server.close(grace=0)
            with pytest.raises(dc.CommClosedError):
                await call
            go.set()
            await until(lambda: not server.incoming_comms_open)

    run(main())


@everywhere
def test_a_handler_may_close_its_server(run, where):
    async def main():
        server = dc.Server()

        async def shut_down():
            await server.close()
            return "bye"

        server.handlers["shut_down"] = shut_down
        async with server, dc.rpc((await server.listen(where)).contact_address) as remote:
            assert await remote.shut_down() == "bye"
            await server.finished()

    run(main())


def test_closing_twice_waits_for_the_same_end(run):
    async def main():
        async with serve() as (server, remote):
            await remote.identity()
            await asyncio.gather(server.close(), server.close(), server.finished())
            with pytest.raises(RuntimeError, match="was closed"):
                await server

    run(main())


def test_a_server_that_never_started_can_be_closed(run):
    async def main():
        server = dc.Server()
        server.listen(LOOPBACK)
        server.listen("inproc://never-started")
        await server.close()
        other = dc.Server()
        await other.listen("inproc://never-started")  # it is free
        await other.close()

    run(main())


# -- a process that is told to end ---------------------------------------------------------------

SERVICE = """
import asyncio, signal, sys
import distributed_comm as dc

async def work(seconds):
    await asyncio.sleep(seconds)
    return "done"

async def main():
    server = dc.Server({"work": work, "busy": lambda: server.incoming_comms_active})
    server.listen("tcp://127.0.0.1:0")
    async with server:
        server.close_on(signal.SIGTERM, grace=float(sys.argv[1]))
        print(server.address, flush=True)
        await server.finished()
    print("ended", flush=True)

dc.run(main())
"""


async def start_service(grace):
    command = [sys.executable, "-W", "error", "-c", SERVICE, str(grace)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    return process, (await process.stdout.readline()).decode().strip()


@pytest.mark.skipif(sys.platform == "win32", reason="a signal")
def test_sigterm_with_a_hundred_calls_in_flight_loses_none(run):
    async def main():
        process, address = await start_service(20)
        async with dc.rpc(address) as remote:
            calls = [asyncio.ensure_future(remote.work(seconds=0.5)) for _ in range(100)]
            while await remote.busy() < 100:
                pass
            os.kill(process.pid, signal.SIGTERM)
            told = perf_counter()
            while True:
                try:
                    comm = await dc.connect(address, timeout=0.02)
                except OSError:
                    break
                comm.abort()
            assert perf_counter() - told < 1  # ten times what is expected
            assert await asyncio.gather(*calls) == ["done"] * 100
        assert await process.wait() == 0
        assert await process.stdout.read() == b"ended\n"

    run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="a signal")
def test_sigterm_ends_what_takes_longer_than_the_grace(run):
    async def main():
        process, address = await start_service(0.1)
        async with dc.rpc(address) as remote:
            call = asyncio.ensure_future(remote.work(seconds=1_000))
            await until(lambda: remote._own.active)
            while await remote.busy() < 1:
                pass
            os.kill(process.pid, signal.SIGTERM)
            with pytest.raises(dc.RemoteError, match=r"took longer than the grace of 0\.1 s"):
                await call
        assert await process.wait() == 0

    run(main())
