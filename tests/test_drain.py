"""Closing a server: it stops accepting, calls that run finish, the rest is told why it ended."""

import asyncio
import os
import re
import signal
import sys
from time import perf_counter

import pytest
from calling import LOOPBACK, dial, everywhere, serve
from loops import settle, until

import distributed_comm as dc
from distributed_comm._comm import ChannelComm
from distributed_comm.core import Comm


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


def test_a_handler_that_does_not_end_when_cancelled_holds_nobody_up_for_ever(run):
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
            with pytest.raises(dc.RemoteError, match="grace of 0 s"):
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


@everywhere
def test_two_handlers_that_close_their_server_do_not_wait_for_each_other(run, where):
    async def main():
        async def quit_():
            await server.close(grace=60)
            return "bye"

        async with serve({"quit": quit_}, where) as (server, remote), asyncio.timeout(20):
            calls = (remote.quit(), remote.quit())
            assert await asyncio.gather(*calls) == ["bye", "bye"]

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


# -- what was received, and what comes meanwhile ----------------------------------------------


@pytest.fixture(params=["pushed", "read"])
def way(request, monkeypatch):
    """Have tcp's comms push their messages, and not."""
    if request.param == "read":
        monkeypatch.setattr(ChannelComm, "push", Comm.push)


async def replies(comm):
    """Return the replies of a comm until its end, errors as their text."""
    got = [message async for message in comm]
    return [each["exception_text"] if isinstance(each, dict) else each for each in got]


class Slow:
    """A handler that waits until it may go on, and counts its calls."""

    def __init__(self):
        self.go = asyncio.Event()
        self.calls = []

    async def __call__(self, x):
        self.calls.append(x)
        await self.go.wait()
        return x


@everywhere
@pytest.mark.usefixtures("way")
def test_requests_that_were_received_are_answered_and_later_ones_refused(run, where):
    async def main():
        slow = Slow()
        async with serve({"slow": slow, "now": lambda x: x}, where) as (server, _):
            async with dial(server) as comm:
                for x in range(6):
                    await comm.write({"op": ("slow", "now")[x % 2], "x": x})
                (serving,) = server._servings
                await until(lambda: slow.calls and serving.comm.unread() >= 4)
                closing = asyncio.ensure_future(server.close(grace=20))
                await settle()
                for x in range(6, 9):
                    await comm.write({"op": "now", "x": x})
                await comm.write({"op": "now", "x": 9, "reply": False})
                slow.go.set()
                got = await replies(comm)
                assert got[:6] == list(range(6))
                assert len(got) == 9
                for text in got[6:]:
                    assert re.search(r"closing> closed before this call began", text)
                await closing
            assert slow.calls == [0, 2, 4]

    run(main())


@everywhere
@pytest.mark.usefixtures("way")
def test_what_was_received_and_has_not_begun_within_the_grace_is_told_so(run, where):
    async def main():
        slow = Slow()
        async with serve({"slow": slow}, where) as (server, _), dial(server) as comm:
            for x in range(5):
                await comm.write({"op": "slow", "x": x})
            await until(lambda: slow.calls)
            closing = asyncio.ensure_future(server.close(grace=0.02, reason="an upgrade"))
            first, *rest = await replies(comm)
            assert "(an upgrade), and this call took longer than the grace of 0.02 s" in first
            assert len(rest) == 4
            assert all("(an upgrade) before this call began" in text for text in rest)
            assert slow.calls == [0]
            await closing

    run(main())


@everywhere
def test_callers_who_go_on_calling_are_told_that_the_server_closes(run, where):
    async def main():
        errors, calls = [], 0

        async def call(remote):
            nonlocal calls
            while True:
                try:
                    await remote.echo(data=1)
                    calls += 1
                except (OSError, dc.RemoteError) as exc:
                    errors.append(exc)
                    return

        async with serve({}, where) as (server, remote):
            callers = [asyncio.ensure_future(call(remote)) for _ in range(50)]
            await until(lambda: calls > 200)
            await server.close()
            await asyncio.gather(*callers)
            assert len(errors) == 50
            for error in errors:
                assert type(error) is dc.RemoteError
                assert "closed before this call began" in str(error)

    run(main())


@everywhere
def test_the_grace_can_be_shortened_and_not_prolonged(run, where):
    async def main():
        slow = Slow()
        async with serve({"slow": slow}, where) as (server, remote):
            call = asyncio.ensure_future(remote.slow(x=1))
            await until(lambda: slow.calls)
            closing = [asyncio.ensure_future(server.close(grace=1_000))]
            await settle()
            closing.append(asyncio.ensure_future(server.close(grace=0)))
            closing.append(asyncio.ensure_future(server.close(grace=1_000)))
            with pytest.raises(dc.RemoteError, match="longer than the grace of 0 s"):
                await call
            await asyncio.gather(*closing)

    run(main())


@everywhere
def test_a_stream_that_closes_its_server_may_say_something_more_and_ends(run, where):
    async def main():
        server = dc.Server()

        async def last():
            yield "first"
            await server.close(grace=0)
            while True:
                yield "more"
                await asyncio.sleep(0.01)

        server.handlers["last"] = last
        async with server, dc.rpc((await server.listen(where)).contact_address) as remote:
            stream = remote.last.stream()
            assert [await anext(stream), await anext(stream)] == ["first", "more"]
            with pytest.raises(dc.RemoteError, match="closed"):
                assert {item async for item in stream} == {"more"}
            await server.finished()

    run(main())


def test_a_server_that_was_closed_does_not_listen(run):
    async def main():
        server = dc.Server()
        await server.listen(LOOPBACK)
        closing = asyncio.ensure_future(server.close())
        await asyncio.sleep(0)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="was closed"):
                server.listen(LOOPBACK)
            await closing
        assert len(server.listeners) == 1

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
def test_no_task_of_a_server_that_has_finished_is_left(run):
    async def main():
        server = dc.Server()
        await server.listen(LOOPBACK)
        server.close_on(signal.SIGUSR1)
        for _ in range(2):  # each begins a task
            os.kill(os.getpid(), signal.SIGUSR1)
            await until(lambda: server.status is not dc.Status.running)
        await server.finished()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


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
