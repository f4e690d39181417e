"""The memory that strangers may have us hold, all of them together."""

import asyncio
import gc
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from loops import settle, until
from peers import LOOPBACK, OUR_HELLO, dial_raw, pack, pair, raw_pair

import distributed_comm as dc
from distributed_comm._wire import length_framing as wire
from distributed_comm._wire.budget import Budget
from distributed_comm._wire.connection import Connection
from distributed_comm._wire.sentinel_framing import SentinelFraming
from distributed_comm._wire.states import State
from distributed_comm.errors import RemoteProtocolError
from distributed_comm.options import Limits

from .connecting import LOCAL, OURS, PEER
from .feeding import SCRATCH, feed, peak_of_memory
from .hostile import honest, message

KIB, MIB = 1024, 1024 * 1024
TOO_MUCH = "exceed the {} that all untrusted peers together may have held here"


def opened(budget, **kwargs):
    connection = Connection(SCRATCH, Limits(), LOCAL, PEER, **kwargs)
    hello = OURS
    if kwargs:
        hello = b"".join(SentinelFraming.encode([OURS[24:]]))
    feed(connection, hello)
    connection.share(budget)
    return connection


def check_cut(connection, limit):
    assert connection.state in {State.LEAVING, State.CLOSED}
    error = connection.closed_error()
    assert type(error) is RemoteProtocolError
    assert TOO_MUCH.format(limit) in str(error)


def test_what_is_held_is_counted_and_given_back(kernels):
    budget = Budget(64 * MIB)
    connection = opened(budget)
    data = honest([b"x", bytes(30 * KIB), bytes(5 * MIB), bytes(10)])
    feed(connection, data[: 4 * MIB], [50_000])
    assert 4 * MIB <= budget.used <= 8 * MIB + 100 * KIB
    (frames,) = feed(connection, data[4 * MIB :], [50_000])
    assert [len(frame) for frame in frames] == [1, 30 * KIB, 5 * MIB, 10]
    assert budget.used == 0


def test_many_small_frames_are_counted_too(kernels):
    budget = Budget(MIB)
    connection = opened(budget)
    data = honest([bytes(1000)] * 60_000)
    feed(connection, data, [60_000])
    check_cut(connection, MIB)
    assert budget.used == 0


def test_streams_are_counted_too(kernels):
    budget = Budget(MIB)
    connection = opened(budget, framing=SentinelFraming)
    data = b"".join(SentinelFraming.encode([bytes(5 * MIB)]))
    feed(connection, data[: 500 * KIB], [50_000])
    assert 500 * KIB <= budget.used <= MIB
    feed(connection, data[500 * KIB :], [50_000])
    check_cut(connection, MIB)
    assert budget.used == 0


def test_an_announcement_obtains_little(kernels):
    budget = Budget(64 * MIB)
    connection = opened(budget)
    with peak_of_memory() as peak:
        feed(connection, message(0, [2**30]) + b"x" * 4096)
    assert budget.used <= 64 * KIB
    assert peak[0] <= 128 * KIB


@pytest.mark.parametrize("kwargs", [{}, {"framing": SentinelFraming}], ids=["length", "sentinel"])
def test_a_recycled_block_is_not_charged_for_an_announcement(kernels, kwargs):
    budget = Budget(MIB)
    connection = opened(budget, **kwargs)
    data = b"".join(connection.encode([b"x", bytes(5 * MIB)]))
    wire.blocks.allocate(6 * MIB, 6 * MIB)  # and free it again
    feed(connection, data[: 300 * KIB], [50_000])
    assert connection.state is State.OPEN
    assert 300 * KIB <= budget.used <= MIB


def test_who_is_there_first_is_served_and_who_is_too_much_is_cut(kernels):
    budget = Budget(10 * MIB)
    data = honest([bytes(7 * MIB)])
    first, second = opened(budget), opened(budget)
    feed(first, data[: 6 * MIB])
    feed(second, data[: 6 * MIB])
    check_cut(second, 10 * MIB)
    assert len(feed(first, data[6 * MIB :])) == 1
    assert budget.used == 0
    third = opened(budget)
    assert len(feed(third, data)) == 1


def test_a_lost_connection_gives_back_what_it_held(kernels):
    budget = Budget(10 * MIB)
    connection = opened(budget)
    feed(connection, honest([bytes(7 * MIB)])[: 3 * MIB])
    assert budget.used
    connection.lose("lost")
    connection.lose("lost again")
    assert budget.used == 0


# Over sockets

LIMITED = dc.CommOptions(limits=dc.Limits(untrusted_memory=8 * MIB))
WHOLE = pack(bytes(3 * MIB))


def test_strangers_together_stay_within_it_and_a_trusted_peer_is_not_in_it(run):
    """Ten who stop inside a message: most are cut, and who is trusted sends all it likes."""

    async def main():
        served = asyncio.Queue()
        key = {"key": "ours", "options": LIMITED}
        async with dc.listen(LOOPBACK, served.put_nowait, **key) as listener:
            strangers = []
            for _ in range(10):
                raw = dial_raw(listener)
                strangers.append(raw)
                raw = await raw.__aenter__()
                await raw.send(OUR_HELLO)
                await raw.send(WHOLE[: 2 * MIB])
                await settle()
            comms = [await served.get() for _ in strangers]
            await until(lambda: sum(comm.closed() for comm in comms) >= 6)
            open_comms = [comm for comm in comms if not comm.closed()]
            assert 1 <= len(open_comms) <= 4
            with pytest.raises(dc.CommClosedError, match=TOO_MUCH.format(8 * MIB)):
                await next(comm for comm in comms if comm.closed()).read()
            async with await dc.connect(listener.contact_address, **key) as client:
                server = await served.get()
                writing = asyncio.create_task(client.write(bytes(20 * MIB)))
                assert len(await server.read()) == 20 * MIB
                await writing
                server.abort()
            for comm, raw in zip(comms, strangers, strict=True):
                comm.abort()
                await raw.__aexit__(None, None, None)
            assert listener._budget.used == 0

    run(main())


def test_whole_messages_that_nobody_reads_are_in_it(run):
    async def main():
        async with raw_pair(options=LIMITED) as (raw, comm):
            budget = comm.channel.budget
            await raw.send(WHOLE)
            await until(lambda: budget.used >= 3 * MIB)
            assert len(await comm.read()) == 3 * MIB
            assert budget.used == 0
            await raw.send(WHOLE)
            await until(lambda: budget.used >= 3 * MIB)
        await until(lambda: budget.used == 0)

    run(main())


def test_messages_that_are_read_as_they_come_are_not_bounded(run):
    async def main():
        async with pair(options=LIMITED) as (client, server):

            async def write():
                for _ in range(10):
                    await client.write(bytes(3 * MIB))

            writing = asyncio.create_task(write())
            for _ in range(10):
                assert len(await server.read()) == 3 * MIB
            await writing
            assert server.channel.budget.used == 0

    run(main())


def test_pushed_messages_are_not_in_it(run):
    async def main():
        async with raw_pair(options=LIMITED) as (raw, comm):
            got = []
            await raw.send(WHOLE)
            await until(lambda: comm.channel.budget.used >= 3 * MIB)
            comm.channel.push(got.append)
            await raw.send(WHOLE)
            await until(lambda: len(got) == 2)
            assert comm.channel.budget.used == 0

    run(main())


# Whole messages that wait for a slow reader

MESSAGE = "x" * 1000
NUMBER = 500  # of them are less than what reading pauses at
HOARD = pack(MESSAGE) * NUMBER


@asynccontextmanager
async def crowd(listener, number, data):
    """Yield so many strangers that have said hello, and sent as much as was taken of this."""
    async with AsyncExitStack() as stack:
        strangers = []
        for _ in range(number):
            raw = await stack.enter_async_context(dial_raw(listener))
            strangers.append(raw)
            with suppress(ConnectionError):  # it may be cut meanwhile
                await raw.send(OUR_HELLO + data)
            await settle()
        yield strangers


def test_many_strangers_together_leave_no_more_unread_than_the_budget(run):
    """None of them has so much unread that reading would pause."""
    comms = []

    async def main():
        async with dc.listen(LOOPBACK, comms.append, options=LIMITED) as listener:
            budget = listener._budget
            async with crowd(listener, 60, HOARD):
                await until(lambda: sum(comm.closed() for comm in comms) >= 40)
                left = [comm for comm in comms if not comm.closed()]
                unread = sum(comm.stats()["bytes_received"] for comm in left)
                assert 2 * MIB <= unread <= budget.used <= 8 * MIB
                with pytest.raises(dc.CommClosedError, match=TOO_MUCH.format(8 * MIB)):
                    await next(comm for comm in comms if comm.closed()).read()
                for comm in left:
                    assert await comm.read() == MESSAGE  # who was there before is served
                    comm.abort()
                assert budget.used == 0

    run(main())


def test_small_messages_are_counted_with_what_they_take(run):
    """A list and its bytes take some times as much as a message of one byte."""

    async def main():
        async with raw_pair(options=LIMITED) as (raw, comm):
            await raw.send(pack(1) * 5000)
            await until(lambda: comm.stats()["messages_received"] == 5000)
            assert comm.channel.budget.used >= 100 * 5000
            for _ in range(5000):
                assert await comm.read() == 1
            assert comm.channel.budget.used == 0

    run(main())


def test_reading_pauses_by_what_messages_take(run):
    async def main():
        async with raw_pair(options=LIMITED) as (raw, comm):
            sending = asyncio.create_task(raw.send(pack(1) * 100_000))
            await until(lambda: comm.channel.inbox.paused)
            assert comm.stats()["bytes_received"] < 512 * KIB
            assert MIB <= comm.channel.budget.used <= 4 * MIB
            for _ in range(100_000):
                assert await comm.read() == 1
            await sending
            assert comm.channel.budget.used == 0

    run(main())


def test_a_stranger_with_little_unread_is_not_cut_when_others_have_taken_all(run):
    comms = []

    async def main():
        async with dc.listen(LOOPBACK, comms.append, options=LIMITED) as listener:
            listener._budget.change(8 * MIB)
            async with crowd(listener, 50, pack(1) * 10):
                await until(lambda: len(comms) == 50)
                await until(lambda: all(c.stats()["messages_received"] == 10 for c in comms))
                assert not any(comm.closed() for comm in comms)
                for comm in comms:
                    assert [await comm.read() for _ in range(10)] == [1] * 10
                    comm.abort()
            assert listener._budget.used == 8 * MIB

    run(main())


@pytest.mark.parametrize("how", ["read", "closed", "forgotten"])
def test_what_is_unread_behind_the_end_is_counted_until_it_is_gone(run, how):
    async def main():
        comms = []
        async with dc.listen(LOOPBACK, comms.append, options=LIMITED) as listener:
            budget = listener._budget
            async with crowd(listener, 1, HOARD):
                await until(lambda: comms and comms[0].stats()["messages_received"] == NUMBER)
            await until(lambda: comms[0].closed() and not listener._connections)
            assert budget.used > len(HOARD)
            comm = comms.pop()
            if how == "read":
                for _ in range(NUMBER):
                    assert await comm.read() == MESSAGE
            elif how == "closed":
                await comm.close()
            del comm
            gc.collect()
            assert budget.used == 0

    run(main())


def test_the_lengths_of_frames_that_do_not_come_are_counted(kernels):
    budget = Budget(64 * MIB)
    connection = opened(budget)
    feed(connection, honest([bytes(300)] * 60_000)[: 480_016 + 100], [60_000])
    assert budget.used >= 60_000 * 40
    connection.lose("lost")
    assert budget.used == 0
