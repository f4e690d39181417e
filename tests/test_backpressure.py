"""A peer that is slow, stuck or dead: writing waits, memory is bounded, nothing is lost."""

import asyncio
import signal
import subprocess
import sys
import tracemalloc

import pytest
from loops import settle
from peers import LOOPBACK, pair, raw_pair

import distributed_comm as dc

MIB = 1024 * 1024
HIGH_WATER = dc.Limits().high_water


async def write_all(comm: dc.Comm, size: int, count: int, begun: list[int]) -> None:
    """Write numbered messages; ``begun`` holds the bytes of each one that was begun."""
    payload = bytes(size)
    for number in range(count):
        begun.append(size)
        begun[-1] = await comm.write((number, payload))


async def stall(*comms: dc.Comm) -> None:
    """Wait until nothing moves any more."""
    before = None
    while before != (before := [comm.stats() for comm in comms]):
        await settle(200)


@pytest.mark.parametrize(("size", "count"), [(1_000, 12_000), (100_000, 200), (3 * MIB, 7)])
def test_write_waits_for_a_raw_peer_that_does_not_read(run, kernels, size, count):
    async def main():
        async with raw_pair() as (raw, comm):
            before, begun = comm.stats()["bytes_sent"], []
            writing = asyncio.create_task(write_all(comm, size, count, begun))
            await stall(comm)
            assert not writing.done()
            unsent = sum(begun) - (comm.stats()["bytes_sent"] - before)
            assert unsent <= 2 * HIGH_WATER + begun[0]
            if size < 64 * 1024:  # else write() waits until its memory is free again
                assert unsent > dc.Limits().low_water
            for number in range(count):
                assert (await raw.read_message())[0] == number
            await writing

    run(main())


@pytest.mark.parametrize(("size", "count"), [(1_000, 12_000), (MIB, 40)])
def test_memory_is_bounded_while_the_peer_does_not_read_and_nothing_is_lost(run, size, count):
    async def main():
        async with pair() as (client, server):
            begun = []
            start = tracemalloc.get_traced_memory()[0]
            writing = asyncio.create_task(write_all(client, size, count, begun))
            await stall(client, server)
            grown = tracemalloc.get_traced_memory()[1] - start
            assert not writing.done()
            # high water or undelivered, twice, and one message, on either side; one under way
            assert grown <= 2 * (2 * HIGH_WATER + size) + size
            assert server.stats()["bytes_received"] <= 2 * dc.Limits().undelivered + begun[0]
            assert [(await server.read())[0] for _ in range(count)] == list(range(count))
            await writing

    tracemalloc.start()
    try:
        run(main())
    finally:
        tracemalloc.stop()


def test_the_water_marks_are_options(run):
    limits = dc.Limits(high_water=50_000, low_water=10_000)

    async def main():
        async with raw_pair(options=dc.CommOptions(limits=limits)) as (raw, comm):
            before, begun = comm.stats()["bytes_sent"], []
            writing = asyncio.create_task(write_all(comm, 5_000, 3_000, begun))
            await stall(comm)
            unsent = sum(begun) - (comm.stats()["bytes_sent"] - before)
            # above low water, for it waited at high water and the system took some more
            assert 10_000 < unsent <= 2 * 50_000 + 5_000 + 64 * 1024
            stopped_at = len(begun)
            while len(begun) == stopped_at:
                await raw.read_message()
            writing.cancel()
            await asyncio.wait([writing])

    run(main())


def test_a_message_above_every_limit_is_read_though_others_wait_behind_it(run, kernels):
    async def main():
        async with pair() as (client, server):
            writing = asyncio.create_task(write_all(client, 5 * MIB, 3, []))
            await stall(client, server)
            assert [(await server.read())[0] for _ in range(3)] == [0, 1, 2]
            await writing

    run(main())


# Fairness


class Ticker:
    """Counts the turns that the loop took while it was entered."""

    async def __aenter__(self) -> "Ticker":
        self.ticks = 0
        self._task = asyncio.create_task(self._tick())
        await settle()
        self.ticks = 0
        return self

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.ticks += 1

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


@pytest.mark.parametrize(
    ("size", "count", "turns"), [(0, 10_000, 9), (1_000, 640, 9), (60_000, 15, 6)]
)
def test_a_task_that_only_writes_gives_way(run, size, count, turns):
    async def main():
        async with raw_pair() as (_, comm), Ticker() as ticker:
            await write_all(comm, size, count, [])
            assert ticker.ticks >= turns

    run(main())


@pytest.mark.parametrize(
    ("size", "count", "turns"), [(0, 10_000, 9), (1_000, 640, 9), (60_000, 15, 6)]
)
def test_a_task_that_only_reads_what_is_there_gives_way(run, size, count, turns):
    async def main():
        async with pair() as (client, server):
            await write_all(client, size, count, [])
            await stall(client, server)
            async with Ticker() as ticker:
                for _ in range(count):
                    await server.read()
                assert ticker.ticks >= turns

    run(main())


# A peer that dies


def test_a_writer_that_waits_learns_of_a_reset(run):
    async def main():
        async with raw_pair() as (raw, comm):
            writing = asyncio.create_task(write_all(comm, MIB, 40, []))
            await stall(comm)
            raw.reset()
            async with asyncio.timeout(1):
                with pytest.raises(dc.CommClosedError, match="connection was lost") as caught:
                    await writing
            assert isinstance(caught.value.__cause__, OSError)

    run(main())


DEAF = """
import asyncio, sys, distributed_comm as dc

async def main():
    comm = await dc.connect(sys.argv[1])
    await asyncio.Event().wait()

dc.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_a_writer_learns_that_the_peers_process_was_killed(run):
    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen(LOOPBACK, served.set_result) as listener:
            command = [sys.executable, "-c", DEAF, listener.contact_address]
            with subprocess.Popen(command) as process:  # noqa: ASYNC220
                try:
                    comm = await served
                    writing = asyncio.create_task(write_all(comm, MIB, 40, []))
                    await stall(comm)
                finally:
                    process.send_signal(signal.SIGKILL)
                async with asyncio.timeout(1):
                    with pytest.raises(dc.CommClosedError, match=comm.peer_address) as caught:
                        await writing
                assert not caught.value.clean
                assert comm.closed()

    run(main())
