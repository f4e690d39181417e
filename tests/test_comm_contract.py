"""What every comm promises to its reader and its writer, on tcp and on each loop."""

import asyncio
import random
import re

import pytest
from loops import settle, until
from peers import DASK_HELLO, GOODBYE, LOOPBACK, OUR_HELLO, TERMS, pack, pair, raw_pair

import distributed_comm as dc

MIB = 1024 * 1024


def names_both(comm: dc.Comm) -> str:
    """Return a pattern for the text of an error, which names both ends."""
    return re.escape(f"{comm.local_address} -> {comm.peer_address}")


everywhere = pytest.mark.parametrize(
    "place",
    [LOOPBACK, "unix://", "sentinel://127.0.0.1:0", "certified://127.0.0.1:0", "inproc://"],
    ids=["tcp", "unix", "sentinel", "tls", "inproc"],
)


# Reading


@everywhere
@pytest.mark.usefixtures("certified")
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
def test_what_had_come_before_a_peer_was_dismissed_can_be_read(run, place, kept):
    async def main():
        async with pair(place) as (client, server):
            for number in range(3):
                await client.write(number)
            await until(lambda: server.unread() == 3)
            server.dismiss("enough of it", unread=kept)
            if kept:
                assert [await server.read() for _ in range(3)] == [0, 1, 2]
            with pytest.raises(dc.CommClosedError, match="enough of it"):
                await server.read()
            with pytest.raises(dc.CommClosedError, match="enough of it"):
                await client.read()
            await server.close()
            assert server.unread() == 0

    run(main())


def test_a_second_reader_is_refused_and_the_first_is_unharmed(run):
    async def main():
        async with pair() as (client, server):
            first = asyncio.create_task(server.read())
            await settle()
            with pytest.raises(dc.LocalProtocolError, match="another task is reading from tcp://"):
                await server.read()
            await client.write("for the first")
            assert await first == "for the first"

    run(main())


def test_two_readers_that_compete_get_each_message_once(run, kernels):
    """Where a read yields to the loop, or waits, its place is taken: no message is stolen."""
    total = 300
    arrived, refused = [], []

    async def read(comm):
        while True:
            try:
                arrived.append((await comm.read())[0])
            except dc.LocalProtocolError:
                refused.append(True)
                await asyncio.sleep(0)

    async def main():
        async with pair() as (client, server):
            readers = [asyncio.create_task(read(server)) for _ in range(2)]
            for number in range(total):
                await client.write((number, bytes(number % 2 * 30_000)))
                if number % 10 == 0:
                    await settle()
            await until(lambda: len(arrived) == total)
            for reader in readers:
                reader.cancel()
            await asyncio.wait(readers)
            assert arrived == list(range(total))
            assert refused

    run(main())


def test_a_cancelled_read_loses_nothing(run, kernels):
    chance = random.Random(1)
    total = 1_000

    async def write_all(comm):
        for number in range(total):
            await comm.write((number, bytes(chance.choice([0, 10, 1_000, 100_000]))))
            if number % 3 == 0:
                await settle(chance.randrange(4))

    async def main():
        async with pair() as (client, server):
            writing = asyncio.create_task(write_all(client))
            arrived, cancelled = [], 0
            while len(arrived) < total:
                reading = asyncio.create_task(server.read())
                await settle(chance.randrange(4))
                reading.cancel()
                try:
                    arrived.append((await reading)[0])
                except asyncio.CancelledError:
                    cancelled += 1
            await writing
            assert arrived == list(range(total))
            assert cancelled > 100

    run(main())


def test_what_arrived_before_the_peer_closed_is_still_read(run):
    async def main():
        async with pair() as (client, server):
            for number in range(100):
                await client.write(number)
            await client.close()
            assert server.closed()
            assert [await server.read() for _ in range(100)] == list(range(100))
            for _ in range(2):
                with pytest.raises(dc.CommClosedError, match=names_both(server)) as caught:
                    await server.read()
                assert "closed by the peer" in str(caught.value)
                with pytest.raises(dc.CommClosedError, match=names_both(server)):
                    await server.write("too late")

    run(main())


def test_closed_becomes_true_without_a_read(run):
    async def main():
        async with pair() as (client, server), raw_pair() as (raw, other):
            assert not server.closed()
            assert not other.closed()
            await client.close()
            raw.reset()
            await until(server.closed)
            await until(other.closed)
            assert client.closed()

    run(main())


def test_async_for_ends_when_the_peer_closes(run):
    async def main():
        async with pair() as (client, server):
            await client.write(1)
            await client.write(2)
            await client.close()
            assert [message async for message in server] == [1, 2]
            assert [message async for message in client] == []

    run(main())


def test_async_for_ends_when_a_peer_without_goodbyes_closes(run):
    async def main():
        async with raw_pair(DASK_HELLO) as (raw, comm):
            await raw.send(pack(1))
            raw.close()
            assert [message async for message in comm] == [1]

    run(main())


LOSSES = {
    "reset": (b"", True, "the connection was lost"),
    "inside the lengths": (pack("x" * 100)[:7], False, "ended inside a message"),
    "inside a frame": (pack("x" * 100)[:-1], False, "ended inside a message"),
    "inside a large frame": (pack("x" * 100_000)[:-1], False, "ended inside a message"),
}
LOSSES = {
    f"{peer}, {what}": (hello, *loss)
    for peer, hello in (("dask", DASK_HELLO), ("ours", OUR_HELLO))
    for what, loss in LOSSES.items()
} | {"ours, no goodbye": (OUR_HELLO, b"", False, "ended without a goodbye")}


@pytest.mark.parametrize(("hello", "last", "reset", "reason"), LOSSES.values(), ids=LOSSES)
def test_async_for_raises_when_the_connection_is_lost(run, hello, last, reset, reason):
    async def main():
        async with raw_pair(hello) as (raw, comm):
            await raw.send(pack(1) + last)
            assert await anext(comm) == 1
            if reset:
                raw.reset()
            else:
                raw.close()
            with pytest.raises(dc.CommClosedError, match=reason) as caught:
                await anext(comm)
            assert re.search(names_both(comm), str(caught.value))
            assert not caught.value.clean
            assert reset == isinstance(caught.value.__cause__, ConnectionResetError)

    run(main())


def test_a_goodbye_is_kept_from_the_reader(run, kernels):
    async def main():
        async with raw_pair() as (raw, comm):
            await raw.send(pack(1) + GOODBYE)
            raw.close()
            assert [message async for message in comm] == [1]

    run(main())


# Writing: none of the caller's memory is borrowed once write() is over


@pytest.mark.parametrize("size", [100, 64 * 1024 - 1, 64 * 1024, MIB, 8 * MIB])
@pytest.mark.parametrize("kind", ["array", "bytearray"])
def test_memory_may_be_changed_once_write_returned(run, kernels, size, kind):
    np = pytest.importorskip("numpy")
    data = np.zeros(size, dtype="u1") if kind == "array" else bytearray(size)

    async def write_and_change(comm):
        for number in range(4):
            memoryview(data)[:] = bytes([number]) * size
            await comm.write(data)
        memoryview(data)[:] = b"\xff" * size

    async def main():
        async with pair(trusted=(True, True)) as (client, server):
            writing = asyncio.create_task(write_and_change(client))
            for number in range(4):
                assert bytes(await server.read()) == bytes([number]) * size
            await writing

    run(main())


@pytest.mark.parametrize("taken", [0, 5 * MIB])
@pytest.mark.parametrize("turns", [1, 20])
def test_a_cancelled_write_goes_out_whole_and_borrows_nothing(run, kernels, taken, turns):
    np = pytest.importorskip("numpy")
    array = np.arange(MIB)  # 8 MiB, more than the system's buffers take
    before = array.tobytes()

    async def main():
        async with raw_pair(trusted=True, SO_RCVBUF=256 * 1024) as (raw, comm):
            writing = asyncio.create_task(comm.write([array, array]))
            start = await raw.read_exactly(taken)
            await settle(turns)
            assert not writing.done()
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            array.fill(-1)
            then = asyncio.create_task(comm.write("then"))
            raw.unread(start)
            frames = await raw.read_frames()
            assert [frame for frame in frames if len(frame) > MIB] == [before, before]
            assert await raw.read_message() == "then"
            await then

    run(main())


def test_writes_cancelled_at_random_points_go_out_whole_and_in_order(run, kernels):
    chance = random.Random(2)

    async def main():
        async with pair() as (client, server):
            reading = asyncio.create_task(read_all(server))
            began, cancelled = [], 0
            for number in range(300):
                message = (number, bytes(chance.choice([0, 1_000, 200_000, 2_000_000])))
                writing = asyncio.create_task(client.write(message))
                await settle(1 + chance.randrange(3))  # the first of them begins it
                began.append(number)
                writing.cancel()
                cancelled += isinstance(
                    (await asyncio.gather(writing, return_exceptions=True))[0],
                    asyncio.CancelledError,
                )
            await client.close()
            assert await reading == began
            assert cancelled > 20

    async def read_all(comm):
        return [number async for number, _ in comm]

    run(main())


def test_write_returns_the_bytes_of_the_message(run, kernels):
    async def main():
        async with raw_pair() as (raw, comm):
            for message in ("x", b"y" * 1_000, [1, 2]):
                assert await comm.write(message) == len(pack(message))
                await raw.read_message()

    run(main())


# What a comm tells of itself


def test_statistics_count_bytes_and_messages_both_ways(run, kernels):
    async def main():
        async with pair() as (client, server):
            start = client.stats()
            told = len(TERMS)
            assert (start["messages_sent"], start["messages_received"]) == (0, 0)
            sizes = [len(pack(message)) for message in ("a", b"b" * 100_000)]
            await asyncio.gather(client.write("a"), server.read())
            await asyncio.gather(client.write(b"b" * 100_000), server.read())
            await asyncio.gather(server.write("a"), client.read())
            here, there = client.stats(), server.stats()
            assert (here["messages_sent"], here["messages_received"]) == (2, 1)
            assert (there["messages_sent"], there["messages_received"]) == (1, 2)
            assert (
                here["bytes_sent"]
                == there["bytes_received"]
                == start["bytes_sent"] + told + sum(sizes)
            )
            assert here["bytes_received"] == there["bytes_sent"]
            assert here["bytes_received"] == start["bytes_received"] + told + sizes[0]

    run(main())


@everywhere
@pytest.mark.usefixtures("certified")
def test_statistics_have_the_same_keys_over_every_transport(run, place):
    async def main():
        async with pair(place) as (client, _):
            assert set(client.stats()) == {
                "bytes_received",
                "bytes_sent",
                "messages_received",
                "messages_sent",
            }

    run(main())


@pytest.mark.parametrize("closing", [False, True], ids=["aborted", "closed"])
def test_statistics_count_messages_that_nobody_has_read(run, closing):
    async def main():
        async with pair() as (client, server):
            for number in range(3):
                await client.write(number)
            await until(lambda: server.unread() == 3)
            if closing:
                await asyncio.gather(server.close(), client.close())
            else:
                server.abort()
            assert server.unread() == 0
            assert server.stats()["messages_received"] == 3

    run(main())


def test_statistics_do_not_count_what_was_never_sent(run):
    async def main():
        async with raw_pair() as (_, comm):
            writing = asyncio.create_task(comm.write(bytes(50 * MIB)))
            await settle()
            comm.abort()
            with pytest.raises(dc.CommClosedError):
                await writing
            assert comm.stats()["bytes_sent"] < 25 * MIB

    run(main())


def test_repr_and_names(run):
    async def main():
        async with pair(name="to the scheduler") as (client, server):
            here, there = client.local_address, client.peer_address
            assert (server.peer_address, server.local_address) == (here, there)
            assert re.fullmatch(r"tcp://127\.0\.0\.1:\d+", here)
            assert client.name == "to the scheduler"
            assert repr(client) == f"<ChannelComm to the scheduler {here} -> {there} open>"
            assert repr(server) == f"<ChannelComm {there} -> {here} open>"
            server.name = "mine"
            await server.close()
            assert repr(server) == f"<ChannelComm mine {there} -> {here} closed>"
            assert client.same_host
            assert server.same_host
            assert server.extra_info["peer"].pickle_protocol == 5

    run(main())


def test_async_with_closes(run):
    async def main():
        async with pair() as (client, server):
            async with client as entered:
                assert entered is client
                await client.write("sent")
            assert client.closed()
            assert [message async for message in server] == ["sent"]

    run(main())
