"""A stream ends when its reader goes, whichever comm it is on and whatever came behind it."""

import asyncio

import pytest
from calling import LOOPBACK, dial, everywhere, serve
from loops import until

import distributed_comm as dc
from distributed_comm._comm import ChannelComm
from distributed_comm.core import Comm


class Changes:
    """A handler that streams, and counts how many of its generators live."""

    def __init__(self):
        self.alive = 0

    async def __call__(self):
        self.alive += 1
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            self.alive -= 1


@pytest.fixture(params=["pushed", "read"])
def way(request, monkeypatch):
    """Have tcp's comms push their messages, and not."""
    if request.param == "read":
        monkeypatch.setattr(ChannelComm, "push", Comm.push)


async def settled(server, changes):
    await until(lambda: not changes.alive)
    await until(lambda: not server.incoming_comms_open)


@everywhere
@pytest.mark.usefixtures("way")
def test_the_generator_is_closed_when_its_reader_goes(run, where):
    async def main():
        changes = Changes()
        async with serve({"changes": changes}, where) as (server, remote):
            streams = [remote.changes.stream() for _ in range(10)]
            for stream in streams:
                assert await anext(stream) == "first"
            assert changes.alive == 10
            for stream in streams:
                await stream.aclose()
            await settled(server, changes)

    run(main())


@pytest.mark.parametrize("leave", [dc.Comm.close, dc.Comm.abort], ids=["close", "abort"])
@pytest.mark.parametrize("behind", [1, 3, 20_000])
@everywhere
@pytest.mark.usefixtures("way")
def test_what_comes_behind_the_request_hides_no_end(run, where, behind, leave):
    async def main():
        changes = Changes()
        async with serve({"changes": changes}, where) as (server, _), dial(server) as comm:
            await comm.write({"op": "changes"})
            assert await comm.read() == "first"
            for number in range(behind):
                await comm.write({"op": "echo", "data": [number, "x" * 100]})
            if leave is dc.Comm.abort:
                comm.abort()
            else:
                await comm.close()
            await settled(server, changes)

    run(main())


@everywhere
@pytest.mark.usefixtures("way")
def test_so_does_a_stream_that_had_to_wait_for_its_turn(run, where):
    async def main():
        changes, go = Changes(), asyncio.Event()
        async with serve({"changes": changes, "wait": go.wait}, where) as (server, _):
            for turns in range(8):
                go.clear()
                async with dial(server) as comm:
                    await comm.write({"op": "wait"})
                    await comm.write({"op": "echo"})
                    await comm.write({"op": "changes"})
                    await comm.write({"op": "echo"})
                    await comm.write({"op": "echo"})
                    await until(lambda: server.incoming_comms_active)
                    comm.abort()
                for _ in range(turns):  # the end comes before the stream, or after it
                    await asyncio.sleep(0)
                go.set()
                await settled(server, changes)

    run(main())


@everywhere
@pytest.mark.usefixtures("way")
def test_a_stream_still_sends_everything_and_drops_what_came_behind(run, where):
    async def count(n):
        for number in range(n):
            await asyncio.sleep(0)
            yield number

    async def main():
        async with serve({"count": count}, where) as (server, _), dial(server) as comm:
            await comm.write({"op": "count", "n": 100})
            for _ in range(10):
                await comm.write({"op": "echo", "data": "dropped"})
            assert [item async for item in comm] == list(range(100))

    run(main())


def test_a_reader_of_what_is_no_stream_gets_one_item_and_the_end(run):
    async def later():
        await asyncio.sleep(0)
        return "later"

    async def by_hand(comm):
        for number in range(3):
            await comm.write(number)
        return dc.Status.dont_reply

    async def main():
        handlers = {"now": lambda x: x, "later": later, "by_hand": by_hand}
        for where in LOOPBACK, "inproc://":
            async with serve(handlers, where) as (_, remote), asyncio.timeout(10):
                assert [item async for item in remote.now.stream(x=1)] == [1]
                assert [item async for item in remote.later.stream()] == ["later"]
                assert [item async for item in remote.by_hand.stream()] == [0, 1, 2]

    run(main())


@pytest.mark.parametrize("waiting", [True, False], ids=["waits", "goes on"])
@everywhere
@pytest.mark.usefixtures("way")
def test_what_a_generator_does_at_its_end_is_not_cut(run, where, waiting):
    ends = []

    async def changes():
        try:
            yield "first"
            while not waiting:
                yield "and so on"
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0.001)  # gives back a connection, say
            ends.append("whole")

    async def main():
        async with serve({"changes": changes}, where) as (server, remote):
            for count in range(1, 6):
                stream = remote.changes.stream()
                assert await anext(stream) == "first"
                await stream.aclose()
                await until(lambda: not server.incoming_comms_open)
                assert ends == ["whole"] * count

    run(main())
