"""How a comm ends: close, abort, from elsewhere, forgotten; on tcp and on each loop."""

import asyncio
import gc
import socket
import subprocess
import sys

import pytest
from loops import LOOPS, settle, until
from peers import DASK_HELLO, GOODBYE, OUR_HELLO, pack, pair, raw_pair

import distributed_comm as dc

MIB = 1024 * 1024
HASTY = dc.CommOptions(timeouts=dc.Timeouts(close=0.1))
#: Seconds that may pass where the expected bound is 0.1.
SOON = 1.0


async def leave_queued(comm: dc.Comm, message: object) -> None:
    """Have a message queued that the peer does not read yet: its write was cancelled."""
    writing = asyncio.create_task(comm.write(message))
    await settle()
    assert not writing.done()
    writing.cancel()
    await asyncio.wait([writing])


# close


def test_close_again_and_at_once(run):
    async def main():
        async with pair() as (client, server):
            await asyncio.gather(client.close(), client.close(), server.close())
            await client.close()
            assert client.closed()
            assert server.closed()
            for comm in (client, server):
                with pytest.raises(dc.CommClosedError, match="closed by this side"):
                    await comm.read()
                with pytest.raises(dc.CommClosedError, match="closed by this side"):
                    await comm.write(1)

    run(main())


def test_a_reader_that_closes_behind_its_peer_has_nothing_to_send(run, kernels):
    """The end follows a goodbye at once; a goodbye in between would be a call for nothing."""

    async def main():
        async with raw_pair() as (raw, comm):
            await raw.send(GOODBYE)
            reading = asyncio.create_task(comm.read())
            await until(comm.closed)
            await settle()
            assert not reading.done()
            sent = comm.stats()["bytes_sent"]
            raw.sock.shutdown(socket.SHUT_WR)
            with pytest.raises(dc.CommClosedError, match="closed by the peer") as caught:
                await reading
            assert caught.value.clean
            await comm.close()
            assert comm.stats()["bytes_sent"] == sent

    run(main())


def test_close_sends_what_is_queued_then_says_goodbye(run, kernels):
    message = bytes(range(256)) * (20 * MIB // 256)

    async def main():
        async with raw_pair() as (raw, comm):
            await leave_queued(comm, message)
            closing = asyncio.create_task(comm.close())
            assert await raw.read_message() == message
            assert await raw.read_frames() == [GOODBYE[24:]]
            with pytest.raises(EOFError):  # half closed: the end, and we may still send
                await raw.read_exactly(1)
            assert not closing.done()
            await raw.send(pack("never read"))
            raw.close()
            await closing

    run(main())


def test_a_peer_that_reads_late_gets_all_that_was_sent_before_the_close(run, kernels):
    message = bytes(64 * MIB)  # more than the system keeps, which may be 36 MiB

    async def main():
        async with pair(trusted=(True, True)) as (client, server):
            await leave_queued(client, [message, "end"])
            closing = asyncio.create_task(client.close())
            await settle()
            assert [m async for m in server] == [[message, "end"]]
            await closing

    run(main())


def test_a_dask_peer_is_sent_no_goodbye(run):
    async def main():
        async with raw_pair(DASK_HELLO) as (raw, comm):
            closing = asyncio.create_task(comm.close())
            with pytest.raises(EOFError, match="0 of 1 bytes"):
                await raw.read_exactly(1)
            raw.close()
            await closing

    run(main())


@pytest.mark.parametrize("queued", [False, True], ids=["nothing queued", "8 MiB queued"])
def test_close_to_a_peer_that_never_reads_is_bounded(run, queued):
    async def main():
        async with raw_pair(options=HASTY) as (_, comm):
            if queued:
                await leave_queued(comm, bytes(8 * MIB))
            clock = asyncio.get_running_loop().time
            start = clock()
            async with asyncio.timeout(SOON):
                await asyncio.gather(comm.close(), comm.close())
            assert clock() - start > 0.09  # and it did wait
            assert comm.closed()

    run(main())


def test_a_cancelled_close_closes(run):
    async def main():
        async with raw_pair() as (raw, comm):
            await leave_queued(comm, bytes(8 * MIB))
            closing = asyncio.create_task(comm.close())
            await settle()
            assert not closing.done()
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            assert comm.closed()
            assert await raw.is_cut()

    run(main())


@pytest.mark.parametrize("hello", [DASK_HELLO, OUR_HELLO], ids=["dask", "ours"])
def test_close_does_not_raise_where_the_connection_was_reset_unnoticed(run, hello):
    async def main():
        async with raw_pair(hello) as (raw, comm):
            raw.reset()
            await comm.close()
            assert comm.closed()

    run(main())


def test_writing_to_a_peer_that_has_gone_ends_in_an_error_and_nothing_else(run):
    """The first write brings a reset, the second fails, then the end of stream is read."""

    async def main():
        async with raw_pair() as (raw, comm):
            raw.close()
            with pytest.raises(dc.CommClosedError):
                await write_on(comm)
            with pytest.raises(dc.CommClosedError):
                await comm.read()

    async def write_on(comm):
        for _ in range(1_000):
            await comm.write("x")
            await comm.write("y")
            await settle(1)

    run(main())


@pytest.mark.parametrize("closer", ["this side", "the peer"])
def test_close_wakes_a_reader(run, closer):
    async def main():
        async with pair() as (client, server):
            reading = asyncio.create_task(client.read())
            await settle()
            await (client if closer == "this side" else server).close()
            with pytest.raises(dc.CommClosedError, match=f"closed by {closer}") as caught:
                await reading
            assert caught.value.clean

    run(main())


@pytest.mark.parametrize("closer", ["this side", "the peer"])
def test_close_wakes_a_writer(run, closer):
    async def main():
        async with pair(options=HASTY) as (client, server):
            await server.write("unread")
            writing = asyncio.create_task(fill(client))
            await until(lambda: client.stats()["messages_sent"] > 1)
            await (client if closer == "this side" else server).close()
            with pytest.raises(dc.CommClosedError, match=r"closed|ended"):
                await writing

    async def fill(comm):
        while True:
            await comm.write(bytes(MIB))

    run(main())


# abort


def test_abort_wakes_reader_and_writer(run):
    async def main():
        async with raw_pair() as (raw, comm):
            reading = asyncio.create_task(comm.read())
            writing = asyncio.create_task(comm.write(bytes(8 * MIB)))
            await settle()
            comm.abort()
            comm.abort()
            assert comm.closed()
            for task in (reading, writing):
                with pytest.raises(dc.CommClosedError, match="aborted by this side") as caught:
                    await task
                assert not caught.value.clean
            assert await raw.is_cut()
            await comm.close()
            comm.abort()

    run(main())


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the loops say it too
def test_abort_does_not_raise_after_the_loop_has_ended(run):
    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen("tcp://127.0.0.1:0", served.set_result) as listener:
            return await dc.connect(listener.contact_address), await served

    for comm in run(main()):
        comm.abort()
        comm.abort()
        assert comm.closed()
    del comm
    gc.collect()  # the loops' own complaints come here, where they are ignored


# from elsewhere


def in_thread(function, *args):
    return asyncio.to_thread(function, *args)


@pytest.mark.parametrize("name", ["read", "write", "close"])
def test_use_from_another_thread_is_refused(run, name):
    async def main():
        async with pair() as (client, server):
            call = getattr(client, name)
            with pytest.raises(dc.LocalProtocolError, match="runs in another thread"):
                await in_thread(lambda: asyncio.run(call(1) if name == "write" else call()))
            await server.write("still there")
            assert await client.read() == "still there"

    run(main())


def test_abort_from_another_thread(run):
    async def main():
        async with pair() as (client, server):
            reading = asyncio.create_task(client.read())
            await settle()
            await in_thread(client.abort)
            with pytest.raises(dc.CommClosedError, match="aborted by this side"):
                await reading
            with pytest.raises(dc.CommClosedError):
                await server.read()

    run(main())


FORK = """
import asyncio, os, sys
sys.path.insert(0, {folder!r})
import distributed_comm as dc
from loops import LOOPS
from peers import pair

def refuses(coroutine):
    try:
        coroutine.send(None)
    except dc.LocalProtocolError as exc:
        return "forked" in str(exc)

async def main():
    async with pair() as (client, server):
        reading = asyncio.create_task(server.read())
        await asyncio.sleep(0)
        child = os.fork()
        if not child:
            refused = [refuses(c) for c in (client.read(), client.write(1), client.close())]
            client.abort()
            server.abort()
            os._exit(0 if all(refused) else 1)
        assert os.waitpid(child, 0)[1] == 0
        await client.write("unharmed")
        assert await reading == "unharmed"
        await client.close()

with asyncio.Runner(loop_factory=LOOPS[{loop!r}]) as runner:
    runner.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("loop", LOOPS)
def test_use_after_a_fork_is_refused_and_the_parent_is_unharmed(loop, pytestconfig):
    script = FORK.format(folder=str(pytestconfig.rootpath / "tests"), loop=loop)
    # From Python 3.12 on a fork beside threads is warned of, and a loop may have some.
    allowed = ["-W", "error::ResourceWarning", "-W", "ignore:This process:DeprecationWarning"]
    command = [sys.executable, *allowed, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stderr) == (0, "")


# forgotten


def test_a_forgotten_comm_warns_and_its_connection_closes(run):
    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen("tcp://127.0.0.1:0", served.set_result) as listener:
            client = await dc.connect(listener.contact_address, name="forgotten")
            server = await served
        box = [client]
        del client
        with pytest.warns(
            ResourceWarning, match=r"^unclosed <ChannelComm forgotten tcp://.* open>"
        ):
            box.clear()
        with pytest.raises(dc.CommClosedError):
            await server.read()
        await server.close()

    run(main())
